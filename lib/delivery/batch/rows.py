"""Rows of tables, read as they stream by; what cannot be read is a row with a problem."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lib.config import DataConfig
from lib.data import sources
from lib.data.formats.delimited import QUOTINGS, csv_reader, tell_delimiter
from lib.data.formats.encodings import detect_encoding, unicode_encoding
from lib.data.formats.hub import first_line
from lib.errors import WorkbookError, quoted, shown_path

COMPRESSIONS: dict[str, Callable[[Any], Any]] = {
    "": lambda file: file,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file: pa.CompressedInputStream(file, "zstd"),
}
KINDS = ".csv, .tsv or .jsonl (also with .gz, .bz2, .xz or .zst), or .parquet"
_NAME = re.compile(r"\.(?:(csv|tsv|jsonl)(\.gz|\.bz2|\.xz|\.zst)?|parquet)$", re.IGNORECASE)
HEAD_BYTES = 1_000_000  # of a file, by which its encoding, delimiter and quoting are told
HEAD_RECORDS = 20  # of JSON lines, one of which has to have the columns
MAX_TEXT_CHARS = 1_000_000  # a longer text is not classified
MAX_CELL_CHARS = 20_000_000  # after which a quote counts as left open

Values = Iterator[tuple[Sequence[Any], str]]  # of the columns in a row; the problem with it, or ""


class Row(NamedTuple):
    """A row of the input.

    Attributes
    ----------
    text : what the column of texts holds; None where there is a problem
    kept : what the columns hold that are carried over
    problem : why there is no text to classify, or ""
    n_bytes : of the input that have been read after it
    """

    text: Any
    kept: Sequence[Any]
    problem: str
    n_bytes: int


@contextmanager
def errors_of(place: str, kinds: type[Exception] = Exception) -> Iterator[None]:
    """Turn what goes wrong in the block into one line that names the place."""
    try:
        yield
    except WorkbookError:
        raise
    except kinds as error:  # stores, compressions and Arrow each raise their own
        reason = f"{first_line(error)}; once that is mended, the same command goes on"
        raise WorkbookError(f"{shown_path(place)}: {reason}") from error


def opened(location: str) -> tuple[Any, str]:
    """Return the file system of a path or an address, and the path in it."""
    from fsspec.core import url_to_fs
    from fsspec.implementations.local import LocalFileSystem

    if "://" in location:
        return url_to_fs(location)
    return LocalFileSystem(auto_mkdir=True), str(Path(location).resolve())


@dataclass(frozen=True)
class Table:
    """A table in a file, or in the files of a folder.

    Attributes
    ----------
    fs : its file system
    files : path -> size in bytes, and what differs where the content does; in the order of names
    """

    fs: Any
    files: Mapping[str, tuple[int, str]]

    @classmethod
    def find(cls, source: str) -> Table:
        """Find the files, but for hidden ones and those whose name begins with "_".

        Raises
        ------
        WorkbookError : there is none, or the place cannot be read.
        """
        with errors_of(source):
            fs, root = opened(source)
            fs.invalidate_cache()
            found = [path for path in sorted(fs.find(root)) if _NAME.search(path)]
            hidden = re.compile(r"/[._]")
            paths = [path for path in found if not hidden.search(path.removeprefix(root))]
            files = {path: _state(fs.info(path)) for path in paths}
        if not files:
            raise WorkbookError(f"{shown_path(source)}: no such file, or no table: {KINDS}")
        return cls(fs, files)

    def rows(self, settings: DataConfig, keep: Sequence[str]) -> Iterator[Row]:
        """Give each row in order; blank lines are no rows.

        Parameters
        ----------
        settings : `text_column`, `encoding`, `delimiter` and `quoting`; what is None is told from
            the first `HEAD_BYTES` of each file
        keep : columns that are carried over

        Raises
        ------
        WorkbookError : a file cannot be read, or is without one of the columns.
        """
        csv.field_size_limit(MAX_CELL_CHARS)
        n_before = 0
        for path, (size, _) in self.files.items():
            name = PurePosixPath(path).name
            with errors_of(path), self.fs.open(path) as raw:
                for (text, *kept), problem in _values(raw, name, settings, keep):
                    reason = f"{name}, {problem}" if problem else _unfit(text)
                    n_bytes = n_before + raw.tell()
                    yield Row(None if reason else text, kept, reason, n_bytes)
            n_before += size


def _state(info: Mapping[str, Any]) -> tuple[int, str]:
    return info["size"], str(info.get("mtime") or info["ETag"])


def _unfit(text: Any) -> str:
    """Return why a text is not given to the classifier, which tells other values itself."""
    if not isinstance(text, str):
        return ""
    if len(text) > MAX_TEXT_CHARS:
        return f"longer than {MAX_TEXT_CHARS:,} characters"
    is_unicode = text.isascii() or text.encode("utf-8", "ignore").decode() == text
    return "" if is_unicode else "has bytes or characters that are not Unicode"


def _values(raw: IO[bytes], name: str, settings: DataConfig, keep: Sequence[str]) -> Values:
    columns = [settings.text_column, *keep]
    match = _NAME.search(name.lower())
    kind, compression = match.groups("") if match else ("", "")
    if not kind:
        yield from _parquet_values(raw, name, columns)
        return
    unpack = COMPRESSIONS[compression]
    packed = unpack(raw)  # is kept until the end: some close the file when they go
    head = packed.read(HEAD_BYTES)
    if len(head) == HEAD_BYTES:
        head = head[: head.rfind(b"\n") + 1] or head
    raw.seek(0)
    encoding = settings.encoding or _tell_encoding(head, name)
    newline = "\n" if kind == "jsonl" else ""
    lines = io.TextIOWrapper(unpack(raw), encoding, "surrogateescape", newline)
    text = head.decode(encoding, "replace")
    if kind == "jsonl":
        yield from _json_values(lines, text, name, columns)
        return
    default = "," if kind == "csv" else "\t"
    delimiter = settings.delimiter or tell_delimiter(text, default=default, columns=columns)
    quoting = settings.quoting or _tell_quoting(text, delimiter)
    yield from _delimited_values(_cells(lines, delimiter, quoting), name, columns)


def _parquet_values(raw: IO[bytes], name: str, columns: list[str]) -> Values:
    table = pq.ParquetFile(raw)
    _check(columns, table.schema_arrow.names, name)
    for batch in table.iter_batches(1_000, columns=list(set(columns))):
        for values in zip(*(batch[column].to_pylist() for column in columns)):
            yield values, ""


def _delimited_values(rows: Values, name: str, columns: list[str]) -> Values:
    header, problem = next(rows, ([], ""))
    if problem:
        raise WorkbookError(f"{name}, {problem}: the header cannot be read")
    if header:
        _check(columns, header, name)
    places = [header.index(column) for column in columns if header]
    for cells, problem in rows:
        yield [None if problem else cells[place] for place in places], problem


def _json_values(lines: Iterable[str], head: str, name: str, columns: list[str]) -> Values:
    records = [_record(line)[0] for line in head.split("\n")[:HEAD_RECORDS]]
    keys = dict.fromkeys(key for record in records for key in record)
    if keys:
        _check(columns, list(keys), name)
    for number, line in enumerate(lines, 1):
        record, problem = _record(line)
        if not problem and columns[0] not in record:
            problem = f"no {quoted(columns[0])}"
        if line.strip():
            values = [record.get(column) for column in columns]
            yield values, f"line {number}: {problem}" if problem else ""


def _record(line: str) -> tuple[dict[str, Any], str]:
    """Return a line's object, and why there is none, or ""."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {}, getattr(error, "msg", str(error))
    if isinstance(record, dict):
        return record, ""
    return {}, f"an object is needed, found {type(record).__name__}"


def _check(columns: Sequence[str], names: Sequence[str], where: str) -> None:
    for column in columns:
        option = "--text-column" if column == columns[0] else "--keep"
        sources.check_column(names, column, source=where, option=option)


def _tell_encoding(head: bytes, name: str) -> str:
    try:
        encoding = unicode_encoding(head, name=name)
    except WorkbookError:
        return "utf-8"  # but for a few bytes, whose rows are marked
    return encoding or detect_encoding(head, name=name).name


def _tell_quoting(head: str, delimiter: str) -> str:
    """Return the quoting under which the fewest rows cannot be read."""

    def n_problems(quoting: str) -> int:
        rows = _cells(io.StringIO(head, newline=""), delimiter, quoting)
        return sum(bool(problem) for _, problem in rows)

    candidates = list(QUOTINGS) if delimiter == "\t" else ["double", "backslash"]
    return min(candidates, key=n_problems)


def _cells(lines: Iterable[str], delimiter: str, quoting: str) -> Values:
    """Give the cells of each row that is not blank.

    Of a row that cannot be read the first line is one, and the next ones are read again: a quote
    that is left open takes no other row with it.
    """
    lines = iter(lines)
    taken: list[str] = []
    again: deque[str] = deque()

    def take() -> str:
        taken.append(again.popleft() if again else next(lines, ""))
        return taken[-1]

    reader = csv_reader(iter(take, ""), delimiter, quoting)
    line = 1
    width = 0
    while True:
        cells: list[str] = []
        problem = ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = str(error)
        width = width or len(cells)
        if cells and len(cells) != width:
            problem = f"{len(cells)} cells where the header has {width}"
        if problem:
            again.extendleft(reversed(taken[1:]))
            del taken[1:]
            reader = csv_reader(iter(take, ""), delimiter, quoting)
        if cells or problem:
            yield cells, f"line {line}: {problem}" if problem else ""
        line += len(taken)
        taken.clear()
