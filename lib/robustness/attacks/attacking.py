"""An attack on many texts: batched, bounded in queries and time, and taken up where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib import provenance, workspace
from lib.errors import WorkbookError, listed, quoted
from lib.robustness.attacks import rounds
from lib.robustness.attacks.candidates import Candidates
from lib.robustness.attacks.recipes import Tools, candidates_of, recipe_of
from lib.robustness.attacks.result import AttackResult
from lib.robustness.attacks.search import COLUMNS, UNFINISHED, search
from lib.robustness.prediction import Predict, checked

WIDTH = 32  # texts that are attacked side by side


class AttackOptions(TypedDict, total=False):
    """How an attack runs; no result depends on it, but for what does not get its turn.

    seconds : time limit of all texts together; a call of `predict` that has begun ends
    store : JSON Lines file that keeps each text's result as it is found; the same attack goes on
        from there
    key : of what `predict` and the tools are, for instance the classifier's fingerprint and the
        names of models: a stored result of another key is not used
    batch : texts in a call of `predict`; 1 asks for one at a time
    progress : whether to show a bar
    """

    seconds: float
    store: Path | None
    key: str
    batch: int
    progress: bool


def attack(
    predict: Predict,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    class_names: Sequence[str],
    recipe: str,
    tools: Tools,
    budget: int = 400,
    seed: int = 42,
    **options: Unpack[AttackOptions],
) -> AttackResult:
    """Attack each text that is classified correctly: change words until the answer is another one.

    Parameters
    ----------
    predict : n raw texts -> ndarray of shape (n, k)
    texts, labels : n of each; a label is one of `class_names`
    class_names : of the k columns
    recipe : `textfooler`, `bert-attack` or `deepwordbug` (see `recipes.Recipe`, which says what
        departs from the papers too)
    tools : candidates and constraints
    budget : texts that are predicted for one text at most, the text itself among them
    seed : of misspellings; the same seed gives the same attacks, but for the rounding of
        probabilities that depends on a text's company in a batch

    Returns
    -------
    AttackResult with a row for each text; equal texts with equal labels are attacked once

    Raises
    ------
    WorkbookError : texts and labels differ in number, a label is not a class, `budget` is below 1,
        the recipe is unknown or lacks candidates, or `predict` answers wrongly (see `checked`).
        What was found before is in the store.
    """
    settings = recipe_of(recipe)
    _check(texts, labels, class_names, budget)
    candidates, source = candidates_of(settings, tools, seed=seed)
    code = provenance.code_fingerprint(search.__module__)
    parts = [code, asdict(settings), sorted(tools.kept), source, budget, seed]
    parts += [tools.encode is not None, tools.tagger is not None, list(class_names)]
    key = provenance.fingerprint(*parts, options.get("key", ""))
    keys = [provenance.fingerprint(key, *pair) for pair in zip(texts, labels)]
    records = _Records(options.get("store"))
    searches = {}
    for name, text, label in zip(keys, texts, labels):
        if name not in records.found:
            column = list(class_names).index(label)
            searches[name] = search(text, column, recipe=settings, tools=tools, budget=budget)
    predict = checked(predict, n_classes=len(class_names))
    answers = _answers(predict, candidates, tools, options)
    results = rounds.run_together(searches, answers, width=WIDTH)
    bar = tqdm(
        results,
        total=len(searches),
        desc=settings.name,
        unit="text",
        disable=not options.get("progress", True),
    )
    with suppress(rounds.OutOfTimeError):
        for name, result in bar:
            records.add(name, result)
    rows = [records.found.get(name, {"outcome": UNFINISHED}) for name in keys]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["predicted"] = table["predicted"].map(dict(enumerate(class_names)))
    table.insert(0, "text", list(texts))
    table.insert(1, "label", list(labels))
    return AttackResult(settings.name, source, table)


def _check(
    texts: Sequence[str], labels: Sequence[str], class_names: Sequence[str], budget: int
) -> None:
    if budget < 1:
        raise WorkbookError(f"budget is the number of queries a text, at least 1; found {budget}")
    if len(texts) != len(labels):
        raise WorkbookError(f"{len(texts):,} texts and {len(labels):,} labels: give one a text")
    for row, (text, label) in enumerate(zip(texts, labels)):
        if not isinstance(text, str):
            raise WorkbookError(f"texts[{row}] is {type(text).__name__}, not a text: leave it out")
        if label not in class_names:
            raise WorkbookError(
                f"labels[{row}] is {quoted(label)}, none of class_names "
                f"({listed(map(quoted, class_names))})"
            )


def _answers(
    predict: Predict, candidates: Candidates, tools: Tools, options: AttackOptions
) -> dict[str, rounds.Answer]:
    """Return what answers each kind of question, within the time."""
    deadline = time.monotonic() + options.get("seconds", float("inf"))
    plain: dict[str, Callable[..., Any]] = {
        "predict": predict,
        "candidates": lambda items: candidates(*map(list, zip(*items))),
        "encode": lambda texts: np.asarray(tools.encode(texts), float),  # type: ignore[misc]
        "tags": lambda items: tools.tagger(*map(list, zip(*items))),  # type: ignore[misc]
    }
    return {
        kind: rounds.until(deadline, answer, batch=options.get("batch", 512))
        for kind, answer in plain.items()
    }


class _Records:
    """Results by key, kept in a file of JSON Lines, where there is one."""

    def __init__(self, path: Path | None):
        self.path = path
        self.found: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            with suppress(ValueError, KeyError):  # the last line of a run that was killed
                record = json.loads(line)
                self.found[record["key"]] = record["result"]
        # whole lines alone, so that the next one begins on its own
        workspace.write_text("".join(map(_line, self.found, self.found.values())), path)

    def add(self, key: str, result: dict[str, Any]) -> None:
        self.found[key] = result
        if self.path:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(key, result))


def _line(key: str, result: dict[str, Any]) -> str:
    return f"{json.dumps({'key': key, 'result': result})}\n"
