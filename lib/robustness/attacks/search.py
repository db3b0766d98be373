"""The search of an attack on one text: it asks, and goes on when it is answered."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lib.data.words import Span, is_unspaced
from lib.robustness.attacks.recipes import Recipe, Tools
from lib.robustness.attributions import grouped, without
from lib.robustness.substitution import edited, match_case

# outcomes
SUCCEEDED = "succeeded"
FAILED = "failed"  # no word is left to change
BUDGET = "out of queries"
UNCHANGEABLE = "no word to change"
WRONG_BEFORE = "wrong before"
UNFINISHED = "out of time"
OUTCOMES = (SUCCEEDED, FAILED, BUDGET, UNCHANGEABLE, WRONG_BEFORE, UNFINISHED)
COLUMNS = ["outcome", "attacked", "predicted", "edits", "n_words", "n_queries"]
COLUMNS += ["before", "after", "similarity"]
# candidates that lower the probability and are checked for their meaning, where none is enough
_CHECKED = 2
MAX_PARTS = 60  # of a text, that are left out in turn
_NO_LETTER = re.compile(r"[\d_]")
_DIGITS = 6  # of a probability: beyond them a text's company in a batch shows

Edits = dict[Span, str]


@dataclass(frozen=True)
class Ask:
    """What a search wants to know: items of a kind, "predict", "candidates", "encode", "tags"."""

    kind: str
    items: list[Any]


Search = Generator[Ask, Any, dict[str, Any]]


def changeable_spans(text: str, recipe: Recipe, kept: frozenset[str]) -> list[Span]:
    """Return the words that may be changed: of letters alone, two or more, and none to be kept.

    In scripts without blanks, where a character is a word, one is enough.
    """
    return [
        (start, stop)
        for start, stop in recipe.spans(text)
        if (stop - start > 1 or is_unspaced(text[start:stop]))
        and not _NO_LETTER.search(text[start:stop])
        and text[start:stop].casefold() not in kept
    ]


def search(text: str, code: int, *, recipe: Recipe, tools: Tools, budget: int) -> Search:
    """Search for a change of the text after which the answer is another one than its class.

    It yields what it asks, gets the answers in order, and returns a row of `AttackResult.table` as
    a dict fit for JSON; `predicted` is a code.

    Parameters
    ----------
    code : the text's class, a column of the probabilities
    budget : texts that may be predicted, at least 1
    """
    return (yield from _Search(text, code, recipe, tools, budget).run())


class _Search:
    def __init__(self, text: str, code: int, recipe: Recipe, tools: Tools, budget: int):
        self.text = text
        self.code = code
        self.recipe = recipe
        self.tools = tools
        self.budget = budget
        self.n_queries = 0
        self.edits: Edits = {}
        self.original: np.ndarray | None = None  # its vector
        self.similarity = float("nan")
        self.before = self.prob = float("nan")
        self.predicted = code

    def run(self) -> Search:
        (probs,) = yield from self._predict([self.text])
        self.before = self.prob = float(probs[self.code])
        self.predicted = int(probs.argmax())
        if self.predicted != self.code:
            return self._result(WRONG_BEFORE)
        spans = changeable_spans(self.text, self.recipe, self.tools.kept)
        if not spans:
            return self._result(UNCHANGEABLE)
        outcome = yield from self._replace(spans)
        if outcome == SUCCEEDED and self.tools.encode:
            (self.similarity,) = yield from self._similarities([self.edits])
        return self._result(outcome)

    def _replace(self, spans: list[Span]) -> Generator[Ask, Any, str]:
        """Replace words, the most important first; return the outcome."""
        n_most = min(self.recipe.max_words, max(1, int(self.recipe.max_changed * len(spans))))
        if self.n_queries < self.budget:
            spans = yield from self._by_importance(spans)
        spans = spans[: self.budget - self.n_queries]  # each takes a query at least
        if not spans:
            return BUDGET
        ((*options,),) = yield Ask("candidates", [(self.text, spans)])
        for span, words in zip(spans, options):
            trials = [{**self.edits, span: word} for word in self._allowed(span, words)]
            if len(self.edits) == n_most or self.n_queries == self.budget:
                break
            if trials:
                yield from self._take_best(trials, span)
            if self.predicted != self.code:
                return SUCCEEDED
        return BUDGET if self.n_queries == self.budget else FAILED

    def _by_importance(self, spans: list[Span]) -> Generator[Ask, Any, list[Span]]:
        """Return the spans by how much the probability of the class falls without them.

        Those without which it does not fall are left out, unless that leaves none. Half of the
        budget goes into it at most; where there are more words, neighbours are left out together.
        """
        parts = grouped(spans, max(1, min(MAX_PARTS, self.budget // 2)))
        probs = yield from self._predict([without(self.text, part) for part in parts])
        falls = np.zeros(len(parts))
        falls[: len(probs)] = self.prob - probs[:, self.code]
        order = [i for i in np.argsort(-falls, kind="stable") if falls[i] > 0 or falls.max() <= 0]
        return [span for part in order for span in parts[part]]

    def _allowed(self, span: Span, words: Sequence[str]) -> list[str]:
        """Return the first candidates that are other words, in the case of the word."""
        word = self.text[slice(*span)]
        kept = {word.casefold(), *self.tools.kept}
        others = [match_case(other, word) for other in words if other.casefold() not in kept]
        return list(dict.fromkeys(others))[: self.recipe.n_candidates]

    def _take_best(self, trials: list[Edits], span: Span) -> Generator[Ask, Any, None]:
        """Take the best candidate that is acceptable, if one lowers the probability."""
        probs = yield from self._predict([edited(self.text, trial) for trial in trials])
        of_class = probs[:, self.code]
        is_flipped = probs.argmax(axis=1) != self.code
        order = np.argsort(of_class, kind="stable")
        lowering = [i for i in order if of_class[i] < self.prob and not is_flipped[i]]
        for tried in ([i for i in order if is_flipped[i]], lowering[:_CHECKED]):
            similarity = yield from self._check([trials[i] for i in tried], span)
            accepted = np.flatnonzero(similarity >= self.recipe.min_similarity)
            if not len(accepted):
                continue
            best = accepted[0]
            if self.recipe.most_similar and is_flipped[tried[0]]:
                best = similarity.argmax()
            chosen = tried[best]
            self.edits = trials[chosen]
            self.prob = float(of_class[chosen])
            self.predicted = int(probs[chosen].argmax())
            return

    def _check(self, trials: list[Edits], span: Span) -> Generator[Ask, Any, np.ndarray]:
        """Return the similarity of changed texts, 1 if unchecked; -2 for another part of speech."""
        similarity = np.ones(len(trials))
        if self.tools.encode and self.recipe.min_similarity and trials:
            similarity = yield from self._similarities(trials)
        if self.tools.tagger and not self.recipe.edits_characters and trials:
            items = [(self.text, span)]
            items += [(edited(self.text, trial), _moved(span, trial)) for trial in trials]
            tag, *tags = yield Ask("tags", items)
            similarity[[other != tag for other in tags]] = -2
        return similarity

    def _similarities(self, trials: list[Edits]) -> Generator[Ask, Any, np.ndarray]:
        """Return the cosine of each changed text with the original."""
        texts = [edited(self.text, trial) for trial in trials]
        if self.original is None:
            (self.original,) = yield Ask("encode", [self.text])
        vectors = yield Ask("encode", texts)
        return np.array([_cosine(vector, self.original) for vector in vectors])

    def _predict(self, texts: list[str]) -> Generator[Ask, Any, np.ndarray]:
        """Return the probabilities of the first texts, as many as the budget allows."""
        texts = texts[: self.budget - self.n_queries]
        self.n_queries += len(texts)
        probs = yield Ask("predict", texts)
        return np.round(np.stack(probs), _DIGITS)

    def _result(self, outcome: str) -> dict[str, Any]:
        return {
            "outcome": outcome,
            "attacked": edited(self.text, self.edits),
            "predicted": self.predicted,
            "edits": [[*span, word] for span, word in sorted(self.edits.items())],
            "n_words": len(self.recipe.spans(self.text)),
            "n_queries": self.n_queries,
            "before": self.before,
            "after": self.prob,
            "similarity": self.similarity,
        }


def _moved(span: Span, edits: Edits) -> Span:
    """Return where the word of an edited span stands in the edited text."""
    start = span[0]
    for (other, stop), word in edits.items():
        if other < span[0]:
            start += len(word) - (stop - other)
    return start, start + len(edits[span])


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(float(a @ b) / norms, _DIGITS) if norms else 0.0
