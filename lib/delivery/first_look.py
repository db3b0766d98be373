"""A first look at a table: what is in it, how long a run takes, and a file of settings for it."""

from __future__ import annotations

import os
import tempfile
import timeit
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from lib.config import Config, DataConfig, paths
from lib.data import classes, duplicates, profiling, sources
from lib.data.columns import Guess, guess_columns
from lib.data.formats import Head, head_of
from lib.errors import WorkbookError, listed, quoted

LANGUAGE_ROWS = 300
TOKENS_PER_WORD = 1.3  # of English, about
# Seconds on two idle cores (LOG.md). Of quick, 01, 02, 03, 04 and 07 grow with the rows, 918 s for
# 20,000; the other notebooks read samples.
SMOKE_SECONDS = 300
QUICK_SECONDS = 483
ROW_SECONDS = 918 / 20_000
# Of base and large: six a weight (86 and 304 million without embeddings) and token, 256 tokens, 0.7
# training rows, learned from 45 times: five epochs each of 04, of five folds, and of the search.
ROW_OPERATIONS = {"base": 4.2e12, "large": 1.5e13}
TWO_CORES_FLOPS = 125e9  # operations of those two cores a second, in products of matrices
SETTINGS = """\
# Run it: workbook run with the name of this file. Paths count from its folder.
profile: quick  # smoke proves that all runs; base and large want a GPU
{data}
{remarks}
# What to change first: take away the # of these lines.
# training:
#   max_length: {max_length}  # tokens that are read; 95 % of the texts have some {longest} or fewer
#   epochs: 3
"""


@dataclass(frozen=True)
class FirstLook:
    """What was seen of a source.

    Attributes
    ----------
    settings : of `data`, by their keys, `source` among them
    columns : guesses, by what they hold: text, label and perhaps group
    table : as `sources.load_table` returns it, of the rows that were read
    share : of the source that was read, 0..1
    notes : sentences on how it was read
    """

    settings: dict[str, Any]
    columns: dict[str, Guess]
    table: pd.DataFrame
    share: float
    notes: list[str]

    @property
    def n_rows(self) -> int:
        """Return about how many rows the whole source has."""
        return round(len(self.table) / self.share)


def look(
    source: str, *, text_column: str = "", label_column: str = "", **reading: Any
) -> FirstLook:
    """Read a source, of a large one its head, and guess which columns hold what.

    Parameters
    ----------
    reading : others of `DataConfig`, for instance `encoding`

    Raises
    ------
    WorkbookError : it cannot be read, or no column looks like texts or like labels.
    """
    with tempfile.TemporaryDirectory() as folder:
        head = _head(source, Path(folder))
        try:
            read = sources.read_source(DataConfig(source=str(head.path), **reading))
            if read.has_own_columns:
                text_column, label_column = "text", "label"
            columns = guess_columns(read.frame, text=text_column, label=label_column, where=source)
            settings = _settings_of(columns) | reading
            loaded = sources.load_source(DataConfig(source=str(head.path), **settings))
        except WorkbookError as error:
            raise WorkbookError(str(error).replace(str(head.path), source)) from None
    settings["source"] = source
    return FirstLook(settings, columns, loaded.table, head.share, loaded.notes)


def _settings_of(columns: dict[str, Guess]) -> dict[str, str]:
    """Return the settings of `data` that name the columns, without a group that is a guess."""
    return {
        f"{use}_column": guess.column
        for use, guess in columns.items()
        if use != "group" or guess.sure != "a guess"
    }


def _head(source: str, folder: Path) -> Head:
    if source == "docstrings" or source.startswith("hub:"):
        return Head(Path(source))
    return head_of(sources.local_path(source), folder)


def describe(seen: FirstLook) -> Iterator[str]:
    """Give what was seen, a line at a time."""
    table = seen.table.dropna(subset=["text", "label"])
    texts = table["text"].tolist()
    yield f"{seen.settings['source']}: {profiling.describe_table(seen.table)}"
    if seen.share < 1:
        yield f"These are its head, some {seen.share:.1%} of about {seen.n_rows:,} rows."
    yield from seen.notes
    for use, guess in seen.columns.items():
        yield f"{use} column: {guess.describe()}"
    counts = table["label"].value_counts()
    yield f"classes: {listed(f'{quoted(name)} {n:,}' for name, n in counts.items())}"
    n_copies = int((duplicates.exact_duplicates(texts) != range(len(texts))).sum())
    yield f"copies: {n_copies:,} texts equal an earlier one."
    if texts:
        yield f"lengths: {profiling.describe_lengths(profiling.text_features(texts)['n_words'])}"
        languages = profiling.language_mix(texts, max_rows=LANGUAGE_ROWS, seed=0)
        yield f"languages: {profiling.describe_languages(languages)}"
    damage = profiling.encoding_damage(texts)
    yield f"encoding: {profiling.describe_damage(damage, n=len(texts))}"
    settings = {f"data.{name}": value for name, value in seen.settings.items()}
    try:
        classes.check_labels(seen.table, Config.load("quick", settings))
    except WorkbookError as error:
        yield f"To mend before a run: {error}"


def estimated_seconds(seen: FirstLook, *, flops: float) -> dict[str, float]:
    """Return about how long a run takes in each profile on a processor of `flops` a second."""
    slowness = TWO_CORES_FLOPS / flops
    seconds = {"smoke": SMOKE_SECONDS * slowness}
    seconds["quick"] = (QUICK_SECONDS + ROW_SECONDS * seen.n_rows) * slowness
    return seconds | {name: n * seen.n_rows / flops for name, n in ROW_OPERATIONS.items()}


def describe_times(seconds: dict[str, float]) -> str:
    """Return the estimates in words."""
    hours = {profile: value / 3600 for profile, value in seconds.items()}
    times = [
        f"{name} {60 * n:,.0f} min" if n < 2 else f"{name} {n:,.0f} h" for name, n in hours.items()
    ]
    return f"time on this processor: {', '.join(times)}: an estimate, half or twice is likely."


def measured_flops(*, size: int = 1_024) -> float:
    """Return the float32 operations a second of this processor, by multiplying matrices."""
    matrix = np.ones((size, size), dtype=np.float32)
    return 2 * size**3 / min(timeit.repeat(lambda: matrix @ matrix, number=1))


def settings_text(seen: FirstLook, folder: Path) -> str:
    """Return a file of settings for a run, with remarks on what to change first.

    Parameters
    ----------
    folder : of the file; a path below it is written relative to it
    """
    data = seen.settings | {"source": _relative(seen.settings["source"], folder)}
    remarks = "  # rows: 5000  # a sample, for a first try"
    if "group" in seen.columns and "group_column" not in data:
        name = _yaml({"group_column": seen.columns["group"].column})
        remarks += f"\n  # {name}  # its rows stay in one split"
    n_words = profiling.text_features(seen.table["text"].head(2_000))["n_words"]
    longest = round(np.percentile(n_words, 95) * TOKENS_PER_WORD)
    max_length = min(512, 32 * (longest // 32 + 1))
    sizes = {"longest": longest, "max_length": max_length}
    return SETTINGS.format(data=_yaml({"data": data}), remarks=remarks, **sizes)


def _relative(source: str, folder: Path) -> str:
    path = paths.absolute("data.source", source)
    return os.path.relpath(path, folder.absolute()) if paths.names_a_path(path) else source


def _yaml(value: dict[str, object]) -> str:
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=10_000).strip()
