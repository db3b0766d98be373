"""Texts that belong to no class: built-in sets, and a user's own."""

from __future__ import annotations

import csv
import string
from collections.abc import Collection, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from random import Random

import regex

from lib.config import DataConfig
from lib.data.formats import read_file
from lib.errors import WorkbookError, listed, quoted, shown_path
from lib.robustness.substitution import seeded

RANDOM, SHUFFLED = "random strings", "shuffled words"
_WORD_CHARACTER = regex.compile(r"[\p{L}\p{N}]")


def far_sets(
    texts: Sequence[str], *, left_out: Collection[str] = (), seed: int = 42
) -> dict[str, list[str]]:
    """Return sets of texts unlike these.

    Parameters
    ----------
    texts : of the data; two sets are made from them
    left_out : languages or topics of the built-in texts (`far_texts.csv`) that the data has

    Returns
    -------
    name -> texts:

    - `random strings`: each letter and digit of a text replaced by a random letter
    - `shuffled words`: the words of a text in random order; what counts words cannot see it
    - `another language`: sentences in 22 languages
    - `another topic`: sentences on cooking, football, gardening, weather, travel and pets
    """
    rows = resources.files("lib.robustness").joinpath("far_texts.csv").read_text(encoding="utf-8")
    sets: dict[str, list[str]] = {RANDOM: [], SHUFFLED: []}
    for i, text in enumerate(texts):
        random = seeded(seed, i, text)
        words = text.split()
        random.shuffle(words)
        sets[SHUFFLED].append(" ".join(words))
        sets[RANDOM].append(_WORD_CHARACTER.sub(partial(_random_letter, random), text))
    for row in csv.DictReader(rows.splitlines()):
        if row["name"] not in left_out:
            sets.setdefault(row["kind"], []).append(row["text"])
    return sets


def own_set(source: str | None, *, text_column: str) -> dict[str, list[str]]:
    """Return a user's own texts that belong to no class, as a set like those of `far_sets`.

    Parameters
    ----------
    source : the setting `robustness.ood_data`, a table; None gives no set
    text_column : its column of texts; blank ones are left out

    Raises
    ------
    WorkbookError : it cannot be read, or has no such column or no text.
    """
    if source is None:
        return {}
    frame = read_file(Path(source), DataConfig(text_column=text_column)).frame
    column = frame.get(text_column, [])
    texts = [text for text in column if isinstance(text, str) and text.strip()]
    if not texts:
        raise WorkbookError(
            f"robustness.ood_data: {shown_path(source)} has no text in a column "
            f"{quoted(text_column)} (data.text_column); its columns are "
            f"{listed(map(quoted, frame.columns))}"
        )
    return {"robustness.ood_data": texts}


def _random_letter(random: Random, _: regex.Match[str]) -> str:
    return random.choice(string.ascii_lowercase)
