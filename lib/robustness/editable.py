"""Tables that come with the workbook and that people extend: tests of behaviour, identity terms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lib import workspace
from lib.config import DataConfig, closest
from lib.data.formats import read_file
from lib.errors import WorkbookError, listed, quoted, shown_path

SHIPPED = Path(__file__).parent


def read_own(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a person's copy of a table, which is made of the shipped one of its name at first.

    Parameters
    ----------
    path : of the copy, a CSV file
    columns : that it must have

    Returns
    -------
    DataFrame of str with these columns; blanks around cells and blank rows are left out

    Raises
    ------
    WorkbookError : it cannot be read or has no row, or a column is missing or unknown.
    """
    if not path.exists():
        workspace.write_text((SHIPPED / path.name).read_text(encoding="utf-8"), path)
    settings = DataConfig(text_column=columns[0], label_column=columns[-1])
    table = read_file(path, settings).frame
    unknown = [name for name in table.columns if name not in columns]
    missing = [name for name in columns if name not in table.columns]
    where = shown_path(path)
    if unknown:
        near = closest(str(unknown[0]), missing)
        raise WorkbookError(
            f"{where}: unknown column {quoted(unknown[0])}{near}; the columns are "
            f"{', '.join(columns)}"
        )
    if missing:
        raise WorkbookError(f"{where}: no column {quoted(missing[0])}; add it to the header")
    table = table[list(columns)].map(str.strip)
    table = table[(table != "").any(axis=1)].reset_index(drop=True)
    if table.empty:
        raise WorkbookError(f"{where}: no row; delete the file to start from the shipped one again")
    return table


def check_choices(table: pd.DataFrame, column: str, choices: Sequence[str], *, where: Path) -> None:
    """Raise WorkbookError where a cell is none of the choices; its row is named.

    The first row below the header is row 1.
    """
    wrong = table.index[~table[column].isin(choices)]
    if len(wrong):
        value = table[column][wrong[0]]
        raise WorkbookError(
            f"{shown_path(where)}, row {wrong[0] + 1}: {column} {quoted(value)}"
            f"{closest(value, choices)}; it is one of {listed(map(quoted, choices))}"
        )
