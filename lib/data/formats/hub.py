"""Data sets of the `datasets` library: from the hub, or saved in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from lib.data.formats.source_table import SourceTable
from lib.data.splits import SPLIT_NAMES
from lib.errors import WorkbookError, listed, quoted, shown_path

if TYPE_CHECKING:
    from datasets import Dataset

SAVED_SPLITS = "dataset_dict.json"
SAVED_TABLE = "state.json"


def read_hub(source: str) -> SourceTable:
    """Read `hub:<name>[:config][:split]`, split `train` unless given, with all its columns.

    Class labels become their names.

    Raises
    ------
    WorkbookError : the data set could not be loaded; the reason is given in a line.
    """
    import datasets

    name, config, split, *_ = [*source.removeprefix("hub:").split(":"), "", ""]
    split = split or "train"
    try:
        table = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # datasets, huggingface_hub and httpx each raise their own
        reason = first_line(error)
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            reason = "HF_HUB_OFFLINE is set"
        raise WorkbookError(
            f"{source}: the hub's data set {name!r} (config {config or None}, split {split}) could "
            f"not be loaded ({reason}); check the name and the network, or save it as Parquet and "
            "give that file"
        ) from error
    return SourceTable(frame_of(table))


def is_saved(folder: Path) -> bool:
    """Return whether `save_to_disk` of the `datasets` library wrote a folder."""
    return any((folder / name).is_file() for name in (SAVED_SPLITS, SAVED_TABLE))


def read_saved(folder: Path) -> SourceTable:
    """Read what `save_to_disk` wrote: a table, or several, which are the splits.

    Raises
    ------
    WorkbookError : it cannot be read, or no table of several has the name of a split.
    """
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # as above
        raise WorkbookError(
            f"{shown_path(folder)}: not a data set that save_to_disk wrote ({first_line(error)}); "
            "save it again"
        ) from error
    if isinstance(saved, datasets.Dataset):
        return SourceTable(frame_of(saved))
    by_split = {name: saved[name] for name in saved if name.casefold() in SPLIT_NAMES}
    left_out = [name for name in saved if name not in by_split]
    if not by_split:
        raise WorkbookError(
            f"{shown_path(folder)}: its tables are {listed(map(quoted, left_out))}, none of which "
            "is named as a split; give the folder of one of them"
        )
    frames = [frame_of(table).assign(split=name) for name, table in by_split.items()]
    names = listed(map(quoted, left_out))
    notes = [f"Left out, not named as a split: {names}."] if names else []
    frame = pd.concat(frames, ignore_index=True)
    return SourceTable(frame, tuple(notes), has_splits=len(by_split) > 1)


def frame_of(table: Dataset) -> pd.DataFrame:
    """Return a data set's rows; class labels become their names."""
    import datasets

    frame = table.to_pandas()
    for column, feature in table.features.items():
        if isinstance(feature, datasets.ClassLabel):
            # -1, for unlabelled, has no name
            frame[column] = frame[column].map(dict(enumerate(feature.names)))
    return frame


def first_line(error: Exception) -> str:
    """Return the first line of an error, 100 characters of it."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:100]
