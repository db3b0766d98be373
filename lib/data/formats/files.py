"""A table in one file: its type is told from its name, else from its content."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from pathlib import Path

import pandas as pd

from lib.config import DataConfig, closest
from lib.data.formats.delimited import read_delimited
from lib.data.formats.encodings import Encoding, decode, tell_encoding
from lib.data.formats.records import read_json, read_jsonl
from lib.data.formats.source_table import SourceTable
from lib.errors import WorkbookError, quoted, shown_path

FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"


def read_file(path: Path, settings: DataConfig) -> SourceTable:
    """Read a CSV, TSV, JSON, JSONL or Parquet file, `.gz` too, with all its columns.

    Raises
    ------
    WorkbookError : there is no such file, its type is not supported, it is empty, or it cannot be
        parsed (the line is named).
    """
    content = existing(path).read_bytes()
    suffix, is_gzipped = type_by_name(path)
    if (suffix in FORMATS and is_gzipped) or (not suffix and content.startswith(GZIP_MAGIC)):
        content = _decompressed(content, path)
    suffix = suffix or _type_by_content(content)
    if suffix not in FORMATS:
        raise WorkbookError(
            f"{shown_path(path)}: unsupported file type {quoted(suffix or '(none)')}; "
            f"use {', '.join(FORMATS)}, also with .gz"
        )
    if not content.strip():
        raise WorkbookError(f"{shown_path(path)} is empty; export it again")
    if suffix == ".parquet":
        return SourceTable(_read_parquet(content, path))
    name = str(path)
    encoding = (
        Encoding(settings.encoding) if settings.encoding else tell_encoding(content, name=name)
    )
    text = decode(content, name=name, encoding=encoding.name)
    table = _read_text(text, name, suffix, settings)
    notes = (encoding.note, *table.notes) if encoding.note else table.notes
    return SourceTable(table.frame, notes)


def _read_text(text: str, name: str, suffix: str, settings: DataConfig) -> SourceTable:
    if suffix == ".json":
        return SourceTable(read_json(text, name, columns=tuple(settings.columns.values())))
    if suffix == ".jsonl":
        return SourceTable(read_jsonl(text, name))
    return read_delimited(text, name, default="," if suffix == ".csv" else "\t", settings=settings)


def existing(path: Path) -> Path:
    """Return the path of a file or folder that is there.

    Raises
    ------
    WorkbookError : it is not (the nearest name next to it is given), may not be read, or has a name
        that no report could hold.
    """
    try:
        path.stat()
    except PermissionError as error:
        raise WorkbookError(
            f"no permission to read {shown_path(error.filename)}; chmod +r it"
        ) from None
    except OSError:
        siblings = path.parent.iterdir() if path.parent.is_dir() else []
        near = closest(path.name, [sibling.name for sibling in siblings])
        raise WorkbookError(
            f"no such file or folder: {shown_path(path)}{near}; "
            "--data takes a table, a folder, hub:<name> or docstrings"
        ) from None
    if path.is_file() and not os.access(path, os.R_OK):
        raise WorkbookError(f"no permission to read {shown_path(path)}; chmod +r it")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise WorkbookError(f"{shown_path(path)}: the name is not UTF-8; rename it") from None
    return path


def type_by_name(path: Path) -> tuple[str, bool]:
    """Return a file's ending without `.gz`, and whether it has that one too.

    A link without an ending has its target's.
    """
    is_gzipped = False
    for name in (path.name, path.resolve().name):
        ending = Path(name).suffix.lower()
        is_gzipped = ending == ".gz"
        suffix = Path(Path(name).stem).suffix.lower() if is_gzipped else ending
        if suffix:
            return suffix, is_gzipped
    return "", is_gzipped


def _type_by_content(content: bytes) -> str:
    """Return the ending that a content ought to have, "" where it does not say so."""
    if content.startswith(PARQUET_MAGIC):
        return ".parquet"
    first, _, rest = content.strip().partition(b"\n")
    if first.startswith(b"["):
        return ".json"
    if not first.startswith(b"{"):
        return ""
    try:
        json.loads(first)
    except ValueError:
        return ".json"
    return ".jsonl" if rest else ".json"


def _decompressed(content: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise WorkbookError(
            f"{shown_path(path)}: not a whole gzip file ({error}); fetch it again"
        ) from None


def _read_parquet(content: bytes, path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(pa.BufferReader(content)).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        reason = " ".join(str(error).split())[:100]
        raise WorkbookError(
            f"{shown_path(path)}: not a Parquet file that can be read ({reason}); write it again"
        ) from None
