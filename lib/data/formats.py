"""Labelled texts in files, folders and on the hub, each read as it is into a table."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from lib.config import closest
from lib.errors import WorkbookError

FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
MAX_FIELD_CHARS = 2**31 - 1  # csv's own limit of 128 kB a cell is too small for long texts
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_file(path: Path, encoding: str | None) -> pd.DataFrame:
    """Read a CSV, TSV, JSON, JSONL or Parquet file, `.gz` too, with all its columns.

    Parameters
    ----------
    encoding : of a text file; None detects it (see `decode`)

    Raises
    ------
    WorkbookError : there is no such file, its type is not supported, it is empty, or it cannot be
        parsed (the line is named).
    """
    suffix = path.suffix.lower()
    gzipped = suffix == ".gz"
    if gzipped:
        suffix = Path(path.stem).suffix.lower()
    content = existing(path).read_bytes()
    if suffix not in FORMATS:
        raise WorkbookError(
            f"{path}: unsupported file type {suffix or '(none)'!r}; "
            f"use {', '.join(FORMATS)}, also with .gz"
        )
    if gzipped:
        content = _decompressed(content, path)
    if not content.strip():
        raise WorkbookError(f"{path} is empty")
    if suffix == ".parquet":
        return _read_parquet(content, path)
    text = decode(content, name=str(path), encoding=encoding)
    if suffix == ".json":
        return _read_json(text, path)
    if suffix == ".jsonl":
        return _read_jsonl(text, path)
    return _read_delimited(text, path, "," if suffix == ".csv" else "\t")


def read_folder(folder: Path, encoding: str | None) -> pd.DataFrame:
    """Read a folder with one sub-folder a class and one text a file.

    Returns
    -------
    DataFrame with `text` and `label`, in the order of the paths; hidden files are left out

    Raises
    ------
    WorkbookError : it has no files, or one is not text.
    """
    rows = []
    for class_folder in sorted(folder.iterdir()):
        if not class_folder.is_dir() or class_folder.name.startswith("."):
            continue
        for file in sorted(class_folder.rglob("*")):
            if file.is_file() and not file.name.startswith("."):
                text = decode(file.read_bytes(), name=str(file), encoding=encoding)
                rows.append((text, class_folder.name))
    if not rows:
        raise WorkbookError(
            f"{folder}: no files; a folder source has one sub-folder a class, with one text a file"
        )
    return pd.DataFrame(rows, columns=["text", "label"], dtype=object)


def read_hub(source: str) -> pd.DataFrame:
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
        lines = str(error).splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]}"
        if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
            reason = "HF_HUB_OFFLINE is set"
        raise WorkbookError(
            f"{source}: the hub's data set {name!r} (config {config or None}, split {split}) could "
            f"not be loaded ({reason}); check the name and the network, or save it as Parquet and "
            "give that file"
        ) from error
    frame = table.to_pandas()
    for column, feature in table.features.items():
        if isinstance(feature, datasets.ClassLabel):
            # -1, for unlabelled, has no name
            frame[column] = frame[column].map(dict(enumerate(feature.names)))
    return frame


def existing(path: Path) -> Path:
    """Return the path of a file or folder that is there.

    Raises
    ------
    WorkbookError : it is not (the nearest name next to it is given), or may not be read.
    """
    try:
        path.stat()
    except PermissionError as error:
        raise WorkbookError(f"no permission to read {error.filename}") from None
    except OSError:
        siblings = path.parent.iterdir() if path.parent.is_dir() else []
        near = closest(path.name, [sibling.name for sibling in siblings])
        raise WorkbookError(
            f"no such file or folder: {path}{near}; "
            "--data takes a table, a folder, hub:<name> or docstrings"
        ) from None
    if path.is_file() and not os.access(path, os.R_OK):
        raise WorkbookError(f"no permission to read {path}")
    return path


def decode(content: bytes, *, name: str, encoding: str | None = None) -> str:
    """Decode bytes by their byte-order mark, else as UTF-8, as UTF-16 without a mark, or as cp1252.

    Raises
    ------
    WorkbookError : none fits; a few bytes are invalid in what is UTF-8 otherwise (as cp1252 all of
        it would be garbled); or the text has NUL characters, which no text file has. The line is
        named where there is one.
    """
    encodings = [encoding] if encoding else _likely_encodings(content)
    for candidate in encodings:
        try:
            text = content.decode(candidate)
        except UnicodeDecodeError as error:
            position = error.start
        except LookupError:
            raise WorkbookError(
                f"data.encoding={candidate!r} is not an encoding that Python knows; "
                "for instance cp1252 or utf-16"
            ) from None
        else:
            _refuse_nul(text, name=name, encoding=candidate)
            return text.removeprefix("\ufeff")
        problem = f"byte {position} is 0x{content[position]:02x}"
        if len(encodings) > 1 and _is_mostly_utf8(content):
            line = content.count(b"\n", 0, position) + 1
            raise WorkbookError(
                f"{name}, line {line}: {problem}, which is invalid UTF-8; the rest of the file "
                "decodes. Fix it, or name an encoding with --set data.encoding=..."
            )
    raise WorkbookError(
        f"{name}: cannot be read as {' or '.join(encodings)} ({problem}); "
        "name its encoding with --set data.encoding=..."
    )


def _refuse_nul(text: str, *, name: str, encoding: str) -> None:
    before, nul, _ = text.partition("\0")
    if nul:
        line = before.count("\n") + 1
        raise WorkbookError(
            f"{name}, line {line}: a NUL byte; the file is damaged or not text "
            f"(read as {encoding}; name another with --set data.encoding=...)"
        )


def _likely_encodings(content: bytes) -> list[str]:
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return [encoding]
    start = content[:2_000]
    # Latin text in UTF-16 has a zero in every second byte
    if start[1::2].count(0) > 0.4 * len(start) / 2:
        return ["utf-16-le"]
    if start[::2].count(0) > 0.4 * len(start) / 2:
        return ["utf-16-be"]
    return ["utf-8", "cp1252"]


def _is_mostly_utf8(content: bytes) -> bool:
    """Return whether more characters beyond ASCII are valid UTF-8 than not.

    In other encodings hardly any is.
    """
    text = content.decode("utf-8", "replace")
    n_beyond_ascii = sum(character > "\x7f" for character in text)
    return n_beyond_ascii > 2 * text.count("\ufffd")


def _decompressed(content: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise WorkbookError(f"{path}: not a whole gzip file ({error})") from None


def _read_delimited(text: str, path: Path, delimiter: str) -> pd.DataFrame:
    csv.field_size_limit(MAX_FIELD_CHARS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    line = 1
    try:
        for row in reader:
            if row:  # not a blank line
                rows.append(row)
            if row and len(row) != len(rows[0]):
                raise WorkbookError(
                    f"{path}, line {line}: {len(row)} cells where the header has {len(rows[0])}; "
                    f"quote cells that hold a {delimiter!r}"
                )
            line = reader.line_num + 1
    except csv.Error as error:
        raise WorkbookError(f"{path}, line {line}: {error}; is a quote left open?") from None
    if not rows:
        raise WorkbookError(f"{path} is empty")
    return pd.DataFrame(rows[1:], columns=rows[0], dtype=object)


def _read_json(text: str, path: Path) -> pd.DataFrame:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise WorkbookError(
            f"{path}, line {error.lineno}: {error.msg}; "
            "a table is a list of objects (one object a line goes into .jsonl)"
        ) from None
    records = value if isinstance(value, list) else [value]
    return _table_of({f"record {i}": record for i, record in enumerate(records, 1)}, path)


def _read_jsonl(text: str, path: Path) -> pd.DataFrame:
    records = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            records[f"line {number}"] = json.loads(line)
        except json.JSONDecodeError as error:
            raise WorkbookError(f"{path}, line {number}: {error.msg}") from None
    return _table_of(records, path)


def _table_of(records: dict[str, Any], path: Path) -> pd.DataFrame:
    """Return a table of JSON objects, which are given with their position in the file."""
    for position, record in records.items():
        if not isinstance(record, dict):
            raise WorkbookError(
                f'{path}, {position}: an object such as {{"text": ..., "label": ...}} is needed, '
                f"found {type(record).__name__}"
            )
    if not records:
        raise WorkbookError(f"{path} has no rows")
    return pd.DataFrame(list(records.values()), dtype=object)


def _read_parquet(content: bytes, path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(pa.BufferReader(content)).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise WorkbookError(f"{path}: not a Parquet file that can be read ({error})") from None
