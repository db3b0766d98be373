"""Searches side by side: what all of them ask for is answered in one call a round."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lib.robustness.attacks.search import Ask, Search

Answer = Callable[[list[Any]], Sequence[Any]]


class OutOfTimeError(Exception):
    """The time is over; what is under way has no result."""


def until(deadline: float, answer: Answer, *, batch: int) -> Answer:
    """Return `answer` in calls of at most `batch` items, none of which begins after the deadline.

    Parameters
    ----------
    deadline : of `time.monotonic()`
    """

    def answer_in_time(items: list[Any]) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(items), batch):
            if time.monotonic() >= deadline:
                raise OutOfTimeError
            answers.extend(answer(items[start : start + batch]))
        return answers

    return answer_in_time


def run_together(
    searches: Mapping[Any, Search], answers: Mapping[str, Answer], *, width: int
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Run searches, `width` of them at a time, and yield the name and result of each as it ends.

    Parameters
    ----------
    searches : name -> search that has not begun
    answers : kind of an `Ask` -> what answers its items, one answer an item

    Raises
    ------
    OutOfTimeError : an answer raised it; results that were not yielded are lost.
    """
    waiting = iter(searches.items())
    asked: dict[Any, Ask] = {}
    while True:
        while len(asked) < width and (begun := next(waiting, None)):
            name, search = begun
            asked[name] = next(search)
        if not asked:
            return
        given = _answered(asked, answers)
        for name, answer in given.items():
            try:
                asked[name] = searches[name].send(answer)
            except StopIteration as end:
                del asked[name]
                yield name, end.value


def _answered(asked: Mapping[Any, Ask], answers: Mapping[str, Answer]) -> dict[Any, list[Any]]:
    """Return the answers to what each search asks; one call for each kind."""
    items: dict[str, list[Any]] = defaultdict(list)
    for ask in asked.values():
        items[ask.kind] += ask.items
    found = {kind: iter(answers[kind](of_kind)) for kind, of_kind in items.items()}
    return {name: [next(found[ask.kind]) for _ in ask.items] for name, ask in asked.items()}
