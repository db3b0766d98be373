"""Many texts cleaned, with a receipt of what each rule did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from lib.config import CleaningConfig
from lib.data.cleaning.rules import active_rules, apply_rules, has_words

MIN_WORDS_RULE = "min_words"
_BATCH = 500  # texts that a process is sent at once
_STEP = 256  # characters compared at once, much faster than one by one
# Row, rule, characters removed, and what is shown of the text before and after.
_Change = tuple[int, str, int, str | None, str | None]


@dataclass(frozen=True)
class CleaningResult:
    """Cleaned texts and what each rule did.

    Attributes
    ----------
    texts : list of str, one for each text that was given
    receipts : DataFrame indexed by rule, in the order of application: `n_texts` that the rule
        changed, `chars_removed` (negative where it added some)
    changes : DataFrame of every change but those of white space alone: `row` (position), `rule`,
        `before`, `after` (the words around the first difference)
    """

    texts: list[str]
    receipts: pd.DataFrame
    changes: pd.DataFrame

    def describe(self) -> str:
        """Return in a sentence how many characters cleaning removed."""
        n_after = sum(map(len, self.texts))
        n_removed = int(self.receipts["chars_removed"].sum())
        n_before = n_after + n_removed
        return (
            f"{n_before:,} characters became {n_after:,}: {n_removed / max(1, n_before):.1%} were "
            "white space, markup, addresses, or texts too short to say anything."
        )


def clean_texts(
    texts: Sequence[str | None], *, settings: CleaningConfig | None = None, workers: int = 1
) -> CleaningResult:
    """Clean texts and keep a receipt for each rule.

    Parameters
    ----------
    texts : anything that is not a string counts as ""
    settings : which rules; None takes the defaults
    workers : processes; the result does not depend on it
    """
    settings = settings or CleaningConfig()
    batches = Parallel(n_jobs=workers)(
        delayed(_clean_batch)(list(texts[start : start + _BATCH]), start, settings)
        for start in range(0, len(texts), _BATCH)
    )
    cleaned = [text for batch_texts, _ in batches for text in batch_texts]
    changes = [change for _, batch_changes in batches for change in batch_changes]
    shown = [(row, rule, *pair) for row, rule, _, *pair in changes if rule != "whitespace"]
    return CleaningResult(
        cleaned,
        receipts=_count_by_rule(changes, [*active_rules(settings), MIN_WORDS_RULE]),
        changes=pd.DataFrame(shown, columns=["row", "rule", "before", "after"]),
    )


def _count_by_rule(changes: list[_Change], rules: list[str]) -> pd.DataFrame:
    rows: dict[str, set[int]] = {rule: set() for rule in rules}
    n_removed = dict.fromkeys(rules, 0)
    for row, rule, n_chars, _, _ in changes:
        rows[rule].add(row)
        n_removed[rule] += n_chars
    n_texts = {rule: len(rows[rule]) for rule in rules}
    index = pd.Index(rules, name="rule")
    return pd.DataFrame({"n_texts": n_texts, "chars_removed": n_removed}, index=index)


def without_each_rule(
    texts: Sequence[str | None], *, settings: CleaningConfig | None = None
) -> dict[str, list[str]]:
    """Return the texts cleaned by all rules but one, for each rule that is on.

    No text is emptied for its length.
    """
    settings = (settings or CleaningConfig()).model_copy(update={"min_words": 1})
    cleaned = {}
    for rule in active_rules(settings):
        off = "keep" if rule in ("html_entities", "urls_emails") else False
        without = settings.model_copy(update={rule: off})
        cleaned[rule] = clean_texts(texts, settings=without).texts
    return cleaned


def sample_changes(changes: pd.DataFrame, *, per_rule: int = 2, seed: int = 42) -> pd.DataFrame:
    """Return a seeded sample of changes of each rule, in the order of the rules."""
    order = changes["rule"].unique().tolist()
    shuffled = changes.iloc[np.random.default_rng(seed).permutation(len(changes))]
    sample = shuffled.groupby("rule").head(per_rule)
    positions = sample["rule"].map(order.index)
    return sample.iloc[np.argsort(positions, kind="stable")].reset_index(drop=True)


def _clean_batch(
    texts: list[str | None], first_row: int, settings: CleaningConfig
) -> tuple[list[str], list[_Change]]:
    rules = active_rules(settings)
    cleaned = []
    changes = []
    for row, text in enumerate(texts, first_row):
        kept, steps = apply_rules(text, settings, rules)
        changes += [_change(row, *step) for step in steps]
        if kept and not has_words(kept, settings.min_words):
            changes.append((row, MIN_WORDS_RULE, len(kept), kept, ""))
            kept = ""
        cleaned.append(kept)
    return cleaned, changes


def _change(row: int, rule: str, before: str, after: str) -> _Change:
    n_removed = len(before) - len(after)
    if rule == "whitespace":
        return row, rule, n_removed, None, None
    n_same = _shared_start(before, after)
    window = slice(max(0, n_same - 30), n_same + 60)
    return row, rule, n_removed, _visible(before[window]), _visible(after[window])


def _shared_start(first: str, second: str) -> int:
    """Return how many characters two texts have in common before they differ."""
    shorter = min(len(first), len(second))
    start = 0
    while start < shorter and first[start : start + _STEP] == second[start : start + _STEP]:
        start += _STEP
    for i in range(start, shorter):
        if first[i] != second[i]:
            return i
    return shorter


def _visible(text: str) -> str:
    """Write characters that nobody can see as their escapes."""
    if text.isascii() and "\\" not in text:
        return text.encode("unicode_escape").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
