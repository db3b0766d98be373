"""CSV files that people fill in, in a spreadsheet or by hand: no cell can be a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from lib import workspace
from lib.data.formats import decode
from lib.errors import WorkbookError

# A spreadsheet takes a cell that begins with one of these for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def save_sheet(table: pd.DataFrame, path: Path) -> None:
    """Write a table that a spreadsheet opens as it is."""
    # The byte order mark tells spreadsheets that the file is UTF-8.
    workspace.write_text("\ufeff" + to_csv(table), path)


def read_sheet(path: Path, *, required: list[str]) -> list[tuple[int, dict[str, str]]]:
    """Return each row with the number of the line where it ends."""
    csv.field_size_limit(2**31 - 1)
    content = decode(path.read_bytes(), name=str(path))
    reader = csv.DictReader(io.StringIO(content, newline=""))
    header = reader.fieldnames or []
    missing = [column for column in required if column not in header]
    if missing:
        raise WorkbookError(f"{path}: no column {missing[0]!r}; it needs {', '.join(required)}")
    rows = []
    for row in reader:
        # DictReader puts surplus cells under the key None, and None into missing ones.
        if None in row or None in row.values():
            where = f"{path}, line {reader.line_num}"
            raise WorkbookError(f"{where}: not {len(header)} cells as in the header")
        rows.append((reader.line_num, row))
    return rows


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file that several people may add to.

    The system releases it however the process ends.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=10)
    except Timeout:
        raise WorkbookError(
            f"cannot write {path}: another process has held {lock.lock_file} for 10 seconds"
        ) from None
    except OSError as error:
        raise WorkbookError(f"cannot write {path}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV, an apostrophe before what a spreadsheet takes for a formula."""
    quoted = table.map(_quote)
    return quoted.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def _quote(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell


def unquote(cell: str) -> str:
    """Return a cell as it was before `to_csv`."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(cell: str) -> bool:
    """Return whether a spreadsheet takes a cell for a formula, apostrophes before it aside."""
    return cell.lstrip("'").startswith(_FORMULA)
