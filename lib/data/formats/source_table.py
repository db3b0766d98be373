"""What was read from a source."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class SourceTable:
    """A source as it was read.

    Attributes
    ----------
    frame : all its columns
    notes : sentences on what was told from the source, and what was left out
    has_own_columns : whether the columns are `text` and `label`, whatever the settings name
    has_splits : whether a column `split` was made from names of folders or files
    """

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    has_own_columns: bool = False
    has_splits: bool = False
