"""The first rows of a large table, in a file of their own."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

from lib.data.formats.files import type_by_name
from lib.errors import WorkbookError, shown_path

HEAD_BYTES = 20_000_000
HEAD_ROWS = 20_000  # of Parquet


@dataclass(frozen=True)
class Head:
    """A file or folder, and the share of the whole that is in it, 0..1."""

    path: Path
    share: float = 1.0


def head_of(path: Path, folder: Path, *, max_bytes: int = HEAD_BYTES) -> Head:
    """Return the table itself where it is small, else its first rows, written to `folder`.

    Raises
    ------
    WorkbookError : a large folder or JSON file, of which no part is a table.
    """
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    n_bytes = sum(file.stat().st_size for file in files)
    suffix, is_gzipped = type_by_name(path)
    if path.is_dir() or (suffix == ".json" and not is_gzipped):
        if n_bytes > 10 * max_bytes:
            raise WorkbookError(
                f"{shown_path(path)} has {n_bytes / 1e9:.1f} GB, and no part of it is a table: "
                "look at a CSV or JSONL"
            )
        return Head(path)
    target = folder / path.name
    if n_bytes > max_bytes and suffix == ".parquet":
        return _head_of_parquet(path, target)
    try:
        content, share = _first_bytes(path, max_bytes, is_gzipped=is_gzipped)
    except (OSError, EOFError, zlib.error):
        return Head(path)  # the reader says what is wrong
    if share == 1:
        return Head(path)
    content = _whole_rows(content)
    target.write_bytes(gzip.compress(content, 1) if is_gzipped else content)
    return Head(target, share)


def _head_of_parquet(path: Path, target: Path) -> Head:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
        rows = next(table.iter_batches(batch_size=HEAD_ROWS))
    except (pa.ArrowInvalid, OSError, StopIteration):
        return Head(path)
    pq.write_table(pa.Table.from_batches([rows]), target)
    return Head(target, rows.num_rows / table.metadata.num_rows)


def _first_bytes(path: Path, max_bytes: int, *, is_gzipped: bool) -> tuple[bytes, float]:
    """Return the first bytes of a file, unpacked, and about which share of it they are."""
    with path.open("rb") as raw:
        file = gzip.GzipFile(fileobj=raw) if is_gzipped else raw
        content = file.read(max_bytes)
        share = min(0.99, raw.tell() / max(1, path.stat().st_size))
        return content, share if file.read(1) else 1.0


def _whole_rows(content: bytes) -> bytes:
    """Cut the beginning of a table after the last end of a line that is not within quotes."""
    end = content.rfind(b"\n")
    last = end
    n_quotes = content.count(b'"', 0, max(end, 0))
    while end > 0 and n_quotes % 2:
        line = content.rfind(b"\n", 0, end)
        n_quotes -= content.count(b'"', max(line, 0), end)
        end = line
    end = end if end > 0 else last
    # in UTF-16 that begins with the low byte, an end of line is \n\0
    end += 1 + (end % 2 == 0 and content[end + 1 : end + 2] == b"\0")
    return content[:end] if end > 0 else content
