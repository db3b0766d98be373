"""CSV, TSV and their kin: the delimiter and the quoting are told from the file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lib.config import DELIMITERS, DataConfig
from lib.data.formats.source_table import SourceTable
from lib.errors import WorkbookError, shown_path

MAX_FIELD_CHARS = 2**31 - 1  # csv's own limit of 128 kB a cell is too small for long texts
HEAD_CHARS = 1_000_000  # of a file, by which a delimiter is told
HEAD_ROWS = 20
QUOTINGS: dict[str, dict[str, Any]] = {
    "double": {},
    "backslash": {"escapechar": "\\"},
    "none": {"quoting": csv.QUOTE_NONE},
}
QUOTE_REMEDY = "--set data.quoting=double (quotes enclose cells) or none (quotes are text)"


@dataclass(frozen=True)
class Rows:
    """The rows of a file, the header first.

    Attributes
    ----------
    long_row : line on which the first row begins that goes over several lines, None for none
    """

    cells: list[list[str]]
    long_row: int | None


@dataclass(frozen=True)
class DelimitedText:
    """A text of rows and cells.

    Attributes
    ----------
    name : of the file, for messages
    first_line : number of the text's first line in the file
    """

    text: str
    name: str
    delimiter: str
    first_line: int = 1

    def rows(self, quoting: str) -> Rows:
        """Return the rows under one of QUOTINGS; blank lines are left out.

        Raises
        ------
        WorkbookError : a quote is left open, or a row has more or fewer cells than the header; the
            line is named.
        """
        cells: list[list[str]] = []
        long_row = None
        lines = io.StringIO(self.text, newline="")
        reader = csv_reader(lines, self.delimiter, quoting)
        line = self.first_line
        for row in self._read(reader):
            end = self.first_line + reader.line_num
            if row:  # not a blank line
                cells.append(row)
                self._check_width(row, cells[0], line)
            if end - line > 1 and long_row is None:
                long_row = line
            line = end
        return Rows(cells, long_row)

    def rows_or_error(self, quoting: str) -> Rows | WorkbookError:
        """Return the rows under one of QUOTINGS, or why they cannot be read."""
        try:
            return self.rows(quoting)
        except WorkbookError as error:
            return error

    def _read(self, reader: Any) -> Iterator[list[str]]:
        line = self.first_line
        try:
            for row in reader:
                yield row
                line = self.first_line + reader.line_num
        except csv.Error as error:
            remedy = " (--set data.quoting=none takes quotes as text)"
            raise WorkbookError(
                f"{self.name}, line {line}: {error}; is a quote left open?{remedy}"
            ) from None

    def _check_width(self, row: list[str], header: list[str], line: int) -> None:
        if len(row) != len(header):
            raise WorkbookError(
                f"{self.name}, line {line}: {len(row)} cells where the header has {len(header)}; "
                f"quote cells that hold a {self.delimiter!r}"
            )


def read_delimited(text: str, name: str, *, default: str, settings: DataConfig) -> SourceTable:
    """Read a table of delimited cells, the header first.

    Parameters
    ----------
    name : of the file, for messages
    default : the delimiter that the file's ending stands for
    settings : `delimiter` and `quoting`, where they are named; else the columns' names tell them

    Raises
    ------
    WorkbookError : it is empty; a row has more or fewer cells than the header; a quote is left
        open; or quotes can be read in two ways.
    """
    csv.field_size_limit(MAX_FIELD_CHARS)
    # the first line that Excel reads the delimiter from
    excel = re.match(r'"?sep=(.)"?[ \t]*(\r\n|\r|\n)', text, re.IGNORECASE)
    if excel:
        text = text[excel.end() :]
    delimiter = settings.delimiter or (excel and excel[1])
    delimiter = delimiter or tell_delimiter(
        text, default=default, columns=settings.columns.values()
    )
    first_line = 2 if excel else 1
    table = DelimitedText(text, shown_path(name), delimiter, first_line)
    notes = [f"Cells are separated by {delimiter!r}."] if delimiter != default else []
    if settings.quoting:
        rows = table.rows(settings.quoting)
    else:
        rows, note = _rows_as_told(table, settings.label_column)
        notes += [note] if note else []
    if not rows.cells:
        raise WorkbookError(f"{table.name} is empty; export it again")
    frame = pd.DataFrame(rows.cells[1:], columns=rows.cells[0], dtype=object)
    return SourceTable(frame, tuple(notes))


def tell_delimiter(text: str, *, default: str, columns: Iterable[str]) -> str:
    """Return the delimiter under which the header has the columns asked for.

    Where there is none, it is the one under which the first rows have one number of cells, two or
    more; else the default.
    """
    head = text[:HEAD_CHARS]
    candidates = [default, *(d for d in DELIMITERS.values() if d != default)]
    heads = {delimiter: _first_rows(head, delimiter) for delimiter in candidates}
    for delimiter, rows in heads.items():
        if rows and set(columns) <= set(rows[0]):
            return delimiter
    for delimiter, rows in heads.items():
        widths = set(map(len, rows))
        if len(widths) == 1 and max(widths) > 1:
            return delimiter
    return default


def _first_rows(head: str, delimiter: str) -> list[list[str]]:
    """Return the first rows, as far as they can be read."""
    rows: list[list[str]] = []
    try:
        for row in csv_reader(io.StringIO(head, newline=""), delimiter, "double"):
            rows += [row] if row else []
            if len(rows) == HEAD_ROWS:
                break
    except csv.Error:
        pass
    return rows


def csv_reader(lines: Iterable[str], delimiter: str, quoting: str) -> Any:
    """Return a reader of the rows in a text's lines."""
    if quoting == "backslash":
        lines = map(_escaped, lines)
    return csv.reader(lines, delimiter=delimiter, strict=True, **QUOTINGS[quoting])


def _escaped(line: str) -> str:
    # a backslash escapes a quote or a backslash; before anything else it is one
    return re.sub(r"\\(?:([\\\"])|)", lambda match: match[0] if match[1] else "\\\\", line)


def _rows_as_told(table: DelimitedText, label_column: str) -> tuple[Rows, str]:
    """Return the rows under the quoting that fits, and a note where that is not the usual one.

    Quotes enclose cells, and are doubled within them. Where that cannot be, a backslash may escape
    them; between tabs they may be text.

    Raises
    ------
    WorkbookError : none fits, or two that differ in their rows.
    """
    usual = table.rows_or_error("double")
    escaped = table.rows_or_error("backslash") if '\\"' in table.text else usual
    if isinstance(usual, WorkbookError):
        if isinstance(escaped, Rows):
            return escaped, "Quotes are escaped by a backslash."
        plain = table.rows_or_error("none") if table.delimiter == "\t" else usual
        if isinstance(plain, Rows):
            return plain, "Quotes are read as text."
        raise usual
    if isinstance(escaped, Rows) and len(escaped.cells) != len(usual.cells):
        raise WorkbookError(
            f"{table.name}: quotes that follow a backslash can be read in two ways; say which with "
            "--set data.quoting=backslash (it escapes them) or double (it is text)"
        )
    if usual.long_row and _may_be_text(usual, table, label_column):
        raise WorkbookError(
            f"{table.name}, line {usual.long_row}: a quotation over several lines, which may be "
            f"one cell or several rows; say which with {QUOTE_REMEDY}"
        )
    return usual, ""


def _may_be_text(usual: Rows, table: DelimitedText, label_column: str) -> bool:
    """Return whether quotes that enclose cells may as well be text.

    Then every line has as many cells as the header. Commas make that happen by chance, so that
    labels have to be known ones too.
    """
    plain = table.rows_or_error("none")
    if isinstance(plain, WorkbookError) or label_column not in usual.cells[0]:
        return False
    if table.delimiter == "\t":
        return True
    place = usual.cells[0].index(label_column)
    labels = [{row[place] for row in rows.cells} for rows in (usual, plain)]
    return labels[1] <= labels[0]
