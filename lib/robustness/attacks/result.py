"""What an attack found: how often it succeeds, with the meaning kept, and how the texts changed."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from lib.evaluation.significance import Interval, share_interval, student_interval
from lib.robustness.attacks import search
from lib.robustness.marking import MarkedTexts, titled, with_marks

SUCCESS, WORDS, QUERIES = "success", "words changed", "queries a text"
LEVELS = (0.8, 0.9)  # of similarity, at which a meaning counts as kept: ours, for MiniLM's cosines


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What an attack did to n texts.

    Attributes
    ----------
    recipe : name of the attack
    source : where its candidates come from
    table : a row a text: `text`, `label`, `outcome` (see `search.OUTCOMES`), and unless that is
        "out of time" `attacked` (the text that it became), `predicted` (of that text), `edits`
        (start, stop, new word), `n_words`, `n_queries`, `before` and `after` (probability of the
        label), `similarity` (NaN where it is not known)
    """

    recipe: str
    source: str
    table: pd.DataFrame

    @property
    def attacked(self) -> pd.DataFrame:
        """Return the rows that were right before, and whose attack came to an end."""
        left_out = [search.WRONG_BEFORE, search.UNFINISHED]
        return self.table[~self.table["outcome"].isin(left_out)]

    @property
    def succeeded(self) -> pd.DataFrame:
        """Return the rows whose answer the attack changed."""
        return self.table[self.table["outcome"] == search.SUCCEEDED]

    def intervals(
        self, *, levels: Sequence[float] = LEVELS, confidence: float = 0.95
    ) -> dict[str, Interval]:
        """Return what is reported, each with its interval; what is undefined is left out.

        - `success`: share of the attacked texts whose answer was changed (Wilson)
        - `success, similarity 0.80 or more`: so that the text is still as similar; left out where
          similarity was not measured
        - `words changed`: of successful attacks, the mean share of a text's words (Student)
        - `queries a text`: the mean over attacked texts (Student)
        """
        found = {}
        succeeded = self.succeeded
        n = len(self.attacked)
        if n:
            found[SUCCESS] = share_interval(len(succeeded), n, confidence=confidence)
        if n and succeeded["similarity"].notna().all():
            for level in levels:
                n_kept = int((succeeded["similarity"] >= level).sum())
                found[_kept(level)] = share_interval(n_kept, n, confidence=confidence)
        changed = succeeded["edits"].str.len() / succeeded["n_words"]
        for name, values in {WORDS: changed, QUERIES: self.attacked["n_queries"]}.items():
            if len(values) > 1:
                found[name] = student_interval(
                    values.mean(),
                    values.sem(),
                    n_values=len(values),
                    n=len(values),
                    confidence=confidence,
                    bounds=(0, 1) if name == WORDS else (1, np.inf),
                )
        return found

    def describe(self, *, levels: Sequence[float] = LEVELS, confidence: float = 0.95) -> str:
        """Return in sentences how often it succeeds, at what cost, and what was left out."""
        found = self.intervals(levels=levels, confidence=confidence)
        if SUCCESS in found:
            sentences = self._of_success(found, [_kept(level) for level in levels])
        else:
            sentences = [f"{self.recipe} had no text to attack: no rate is defined."]
        outcomes = self.table["outcome"].value_counts()
        counts = [f"{outcomes[name]:,} {name}" for name in search.OUTCOMES if name in outcomes]
        sentences.append(f"Of {len(self.table):,} texts: {', '.join(counts) or 'none'}.")
        sentences.append(f"Candidates: {self.source}.")
        return " ".join(sentences)

    def _of_success(self, found: Mapping[str, Interval], kept: Sequence[str]) -> list[str]:
        success = found[SUCCESS]
        sentences = [
            f"{self.recipe} changes the answer to {success.percent()} of {success.n:,} texts that "
            "were classified correctly."
        ]
        shares = [f"{name} in {found[name].percent()}" for name in kept if name in found]
        unknown = "whether the meaning is kept was not measured, for want of an encoder"
        sentences.append(f"The meaning: {'; '.join(shares) or unknown}.")
        if WORDS in found:
            words = found[WORDS].percent()
            sentences.append(f"A successful attack changes {words} of the words.")
        if QUERIES in found:
            queries = [f"{number:,.0f}" for number in found[QUERIES].with_ends]
            sentences.append(f"It takes {queries[0]} [{queries[1]}, {queries[2]}] queries a text.")
        return sentences

    def diffs(self, n: int = 5) -> MarkedTexts:
        """Return successful attacks, the most similar texts first, with what was replaced by what.

        Everything that a text says is escaped.
        """
        rows = self.succeeded.sort_values("similarity", ascending=False, kind="stable")
        paragraphs = []
        lines = []
        for row in rows.head(n).itertuples():
            title = f"{row.label} → {row.predicted} (similarity {row.similarity:.2f})"
            changes = []
            marks = []
            for start, stop, new in row.edits:
                old = row.text[start:stop]
                changes.append(f"{old} → {new}")
                diff = f"<del>{html.escape(old)}</del><ins>{html.escape(new)}</ins>"
                marks.append((start, stop, diff))
            paragraphs.append(titled(title, with_marks(row.text, marks)))
            lines.append(f"{title}: {', '.join(changes)}")
        nothing = f"{self.recipe} changed no answer."
        page = "\n".join(paragraphs) or titled(nothing, "")
        return MarkedTexts(page, "\n".join(lines) or nothing)


def compare(results: Sequence[AttackResult], **options: Any) -> pd.DataFrame:
    """Return the shares of several attacks, for `plots.scores_with_intervals`.

    Parameters
    ----------
    options : of `AttackResult.intervals`

    Returns
    -------
    DataFrame of `value`, `low`, `high`, `n`, `confidence`, indexed by what is measured and attack,
    empty where no text got its turn; `queries a text` is no share and is left out
    """
    found = {result.recipe: result.intervals(**options) for result in results}
    names = dict.fromkeys(name for intervals in found.values() for name in intervals)
    rows = {}
    for name in names:
        for recipe, intervals in found.items():
            if name in intervals and name != QUERIES:
                rows[name, recipe] = vars(intervals[name])
    index = pd.MultiIndex.from_tuples(list(rows), names=["measure", "attack"])
    columns = [field.name for field in fields(Interval)]
    return pd.DataFrame(list(rows.values()), index=index, columns=columns)


def _kept(level: float) -> str:
    return f"success, similarity {level:.2f} or more"
