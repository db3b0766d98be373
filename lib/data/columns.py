"""Which columns of a table hold its texts, its labels and its groups: a guess, and how sure."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import pandas as pd

from lib.data.splits import SPLIT_NAMES
from lib.data.words import count_words
from lib.errors import WorkbookError, listed, quoted

# Words that name such a column, the likeliest first. Like the bounds below they are ours, tried on
# tables made for the tests and not measured.
TEXT_NAMES = (
    "text body content message review comment sentence document description abstract tweet post "
    "question summary title"
)
LABEL_NAMES = "label class category topic target intent sentiment y genre tag type rating stars"
GROUP_NAMES = (
    "group author user customer patient client speaker person account thread session case document"
)
MIN_TEXT_WORDS = 3
MAX_LABEL_WORDS = 6
MIN_LABEL_ROWS = 4  # of a label, on average
WANTED = {
    "text": f"texts: values of {MIN_TEXT_WORDS} words or more",
    "label": "labels: short values that repeat",
}
MIN_GROUPS = 20  # none with more than a tenth of the rows
MEASURED_ROWS = 2_000  # of a column, whose words are counted


@dataclass(frozen=True)
class Guess:
    """A column, how sure it is that it is the one, why, and others that it may be."""

    column: str
    sure: str
    why: str
    rivals: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return the guess in words."""
        others = listed(map(quoted, self.rivals), 80)
        return f"{quoted(self.column)} ({self.sure}: {self.why}{others and f'; or {others}'})"


@dataclass(frozen=True)
class _Column:
    """What tells the use of a column: of its values, without blanks around them."""

    name: str
    n: int  # rows that have a value
    words: float  # of a value, on average
    counts: pd.Series  # of each distinct value

    @property
    def text_likeness(self) -> float:
        distinct_share = len(self.counts) / self.n
        return self.words * distinct_share if self.words >= MIN_TEXT_WORDS else 0.0

    @property
    def may_be_label(self) -> bool:
        is_split = all(value.casefold() in SPLIT_NAMES for value in self.counts.index)
        is_short = self.words <= MAX_LABEL_WORDS and not is_split
        return is_short and 2 <= len(self.counts) <= self.n / MIN_LABEL_ROWS

    @property
    def may_be_group(self) -> bool:
        """Whether values repeat, and are named like a group's or are codes such as `u17`."""
        repeats = MIN_GROUPS <= len(self.counts) < self.n and self.counts.iloc[0] <= self.n / 10
        code = re.compile(r"(?=.*\d)(?=.*[^\W\d])[\w-]+")
        is_named = self.rank(GROUP_NAMES) < math.inf
        is_known = is_named or all(map(code.fullmatch, self.counts.index))
        return repeats and is_known and self.words <= MIN_TEXT_WORDS

    @property
    def is_number(self) -> bool:
        return bool(pd.to_numeric(self.counts.index.to_series(), errors="coerce").notna().all())

    def rank(self, names: str) -> float:
        """Return the place of the first of `names` that its name holds, infinity for none."""
        parts = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name).lower())
        known = names.split()
        return min([known.index(part) for part in parts if part in known], default=math.inf)


def guess_columns(
    frame: pd.DataFrame, *, text: str = "", label: str = "", where: str = "the table"
) -> dict[str, Guess]:
    """Return the likeliest column of `text`, `label` and, where one looks like it, `group`.

    Parameters
    ----------
    text, label : columns that are known; "" for those to guess
    where : what the table is, for the message

    Raises
    ------
    WorkbookError : no column looks like texts, or none like labels.
    """
    columns = [column for column in _measured(frame) if column.name not in (text, label)]
    uses = {
        "text": (text, _texts, TEXT_NAMES),
        "label": (label, _labels, LABEL_NAMES),
        "group": ("", _groups, GROUP_NAMES),
    }
    guesses = {}
    for use, (known, candidates, names) in uses.items():
        found = candidates(columns)
        if known:
            guesses[use] = Guess(known, "given", "not guessed")
        elif found:
            guesses[use] = _guess(found, names)
            columns.remove(found[0])
        elif use in WANTED:
            there = listed((quoted(column.name) for column in columns), 100)
            raise WorkbookError(
                f"{where}: no column looks like {WANTED[use]}; there are {there or 'none filled'}: "
                f"name it with --{use}-column"
            )
    return guesses


def _measured(frame: pd.DataFrame) -> list[_Column]:
    """Return the columns of single values that have one; a name that is there twice is left out."""
    columns = []
    for name in frame.columns[~frame.columns.duplicated(keep=False)]:
        values = frame[name].dropna()
        if not values.map(pd.api.types.is_scalar).all():
            continue
        values = values.astype(str).str.strip()
        values = values[values != ""]
        if len(values):
            drawn = values.sample(min(len(values), MEASURED_ROWS), random_state=0)
            n_words = drawn.map(_n_words).mean()
            columns.append(_Column(str(name), len(values), n_words, values.value_counts()))
    return columns


def _n_words(value: str) -> int:
    """Return how many words with a letter a value has; an address or a date is one at most."""
    if value.isascii():
        return len(re.findall(r"\S*[A-Za-z]\S*", value))
    return count_words(value)


def _texts(columns: list[_Column]) -> list[_Column]:
    found = sorted(
        columns, key=lambda c: -c.text_likeness * (3 if c.rank(TEXT_NAMES) < math.inf else 1)
    )
    return [c for c in found if 2 * c.text_likeness > found[0].text_likeness]


def _labels(columns: list[_Column]) -> list[_Column]:
    found = [column for column in columns if column.may_be_label]
    return sorted(found, key=lambda c: (c.rank(LABEL_NAMES), c.is_number, len(c.counts)))


def _groups(columns: list[_Column]) -> list[_Column]:
    found = [column for column in columns if column.may_be_group]
    return sorted(found, key=lambda c: (c.rank(GROUP_NAMES), len(c.counts)))


def _guess(found: list[_Column], names: str) -> Guess:
    """Return the first candidate as a guess; others count that are named like it, or as little."""
    best = found[0]
    is_named = best.rank(names) < math.inf
    rivals = [c.name for c in found[1:] if not is_named or c.rank(names) < math.inf]
    sure = ("a guess", "likely", "sure")[is_named + (not rivals)]
    facts = f"{best.words:.0f} words on average, {len(best.counts):,} values in {best.n:,} rows"
    return Guess(best.name, sure, "named like one, " * is_named + facts, tuple(rivals))
