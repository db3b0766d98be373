"""Files of every kind that hold labelled texts, a folder, and the hub: each read as it is into a table."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lib.config import closest
from lib.errors import WorkbookError

FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
MAX_FIELD_CHARS = 2**31 - 1  # csv's own limit of 128 kB a cell is less than a long text has


def read_file(path: Path, encoding: str | None) -> pd.DataFrame:
    """Read a CSV, TSV, JSON, JSONL or Parquet file, `.gz` too, with all its columns.

    Parameters
    ----------
    encoding : of a text file; None tells it from the bytes (see `decode`)

    Raises
    ------
    WorkbookError : there is no such file, it is of another kind, empty, or cannot be parsed (the line is named).
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = suffixes[-1:] == [".gz"]
    kind = (suffixes[-2:-1] if gzipped else suffixes[-1:]) or [""]
    content = existing(path).read_bytes()
    if kind[0] not in FORMATS:
        raise WorkbookError(f"{path}: of kind {kind[0] or '(none)'!r}; a table is {', '.join(FORMATS)}, also with .gz")
    if gzipped:
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise WorkbookError(f"{path}: not a whole gzip file ({error})") from None
    if not content.strip():
        raise WorkbookError(f"{path} is empty")
    if kind[0] == ".parquet":
        return _read_parquet(content, path)
    readers: dict[str, Callable[[str, Path], pd.DataFrame]] = {
        ".csv": lambda text, path: _read_delimited(text, path, ","),
        ".tsv": lambda text, path: _read_delimited(text, path, "\t"),
        ".json": _read_json,
        ".jsonl": _read_jsonl,
    }
    return readers[kind[0]](decode(content, name=str(path), encoding=encoding), path)


def read_folder(folder: Path, encoding: str | None) -> pd.DataFrame:
    """Read a folder with one sub-folder a class and one text a file: columns `text` and `label`, in the order of the paths.

    Raises
    ------
    WorkbookError : it has no files, or one is no text.
    """
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [(kind.name, file) for kind in classes for file in sorted(kind.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise WorkbookError(f"{folder}: no files; a folder source has one sub-folder a class, with one text a file")
    rows = [(decode(file.read_bytes(), name=str(file), encoding=encoding), kind) for kind, file in files]
    return pd.DataFrame(rows, columns=["text", "label"], dtype=object)


def read_hub(source: str) -> pd.DataFrame:
    """Read `hub:<name>[:config][:split]`, split `train` unless given, with all its columns; class labels by their names.

    Raises
    ------
    WorkbookError : the data set could not be loaded; the reason is given in a line.
    """
    import datasets

    name, *rest = source.removeprefix("hub:").split(":")
    config, split = (part or default for part, default in zip([*rest, "", ""], (None, "train")))
    try:
        table = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # datasets, huggingface_hub and httpx each raise their own
        offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
        reason = "HF_HUB_OFFLINE is set" if offline else f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise WorkbookError(
            f"{source}: the hub's data set {name!r} (config {config}, split {split}) could not be loaded ({reason}); "
            "check the name and the network, or save it as Parquet and give that file"
        ) from error
    frame = table.to_pandas()
    for column, feature in table.features.items():
        if isinstance(feature, datasets.ClassLabel):
            frame[column] = [feature.int2str(int(code)) if code >= 0 else None for code in frame[column]]  # -1: unlabelled
    return frame


def existing(path: Path) -> Path:
    """Return the path of a file or folder that is there.

    Raises
    ------
    WorkbookError : it is not (the nearest name beside it is given), or may not be read.
    """
    try:
        path.stat()
    except PermissionError as error:
        raise WorkbookError(f"no permission to read {error.filename}") from None
    except OSError:
        near = closest(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise WorkbookError(f"no such file or folder: {path}{near}; --data takes a table, a folder, hub:<name> or docstrings") from None
    if path.is_file() and not os.access(path, os.R_OK):
        raise WorkbookError(f"no permission to read {path}")
    return path


def decode(content: bytes, *, name: str, encoding: str | None = None) -> str:
    """Decode bytes by their byte-order mark, else as UTF-8, as UTF-16 without a mark, or as cp1252.

    Raises
    ------
    WorkbookError : none fits, a few bytes break what is UTF-8 otherwise (as cp1252 all of it would be garbled), or the text has
        NUL characters, which no text file has; the line is named where there is one.
    """
    guesses = [encoding] if encoding else _encodings(content)
    for guess in guesses:
        try:
            text = content.decode(guess)
        except UnicodeDecodeError as error:
            problem = f"byte {error.start} is 0x{content[error.start]:02x}"
            if len(guesses) > 1 and _is_utf8_but_for_a_few(content):
                line = content.count(b"\n", 0, error.start) + 1
                raise WorkbookError(
                    f"{name}, line {line}: {problem}, which breaks UTF-8, as which the rest is read; mend it, or name an encoding with --set data.encoding=..."
                ) from None
            continue
        except LookupError:
            raise WorkbookError(f"data.encoding={guess!r} is no encoding that Python knows; for instance cp1252 or utf-16") from None
        if "\0" in text:
            line = text.count("\n", 0, text.index("\0")) + 1
            raise WorkbookError(
                f"{name}, line {line}: a NUL byte; the file is damaged or not text (read as {guess}; name another with --set data.encoding=...)"
            )
        return text.removeprefix("\ufeff")
    raise WorkbookError(f"{name}: cannot be read as {' or '.join(guesses)} ({problem}); name its encoding with --set data.encoding=...")


def _encodings(content: bytes) -> list[str]:
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    for mark, encoding in marks.items():
        if content.startswith(mark):
            return [encoding]
    start = content[:2_000]
    if start[1::2].count(0) > 0.4 * len(start) / 2:  # Latin text in UTF-16 has a zero in every second byte
        return ["utf-16-le"]
    if start[::2].count(0) > 0.4 * len(start) / 2:
        return ["utf-16-be"]
    return ["utf-8", "cp1252"]


def _is_utf8_but_for_a_few(content: bytes) -> bool:
    """Return whether more characters beyond ASCII are good UTF-8 than bad; in other encodings hardly any is."""
    text = content.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return len(text) - len(text.encode("ascii", "ignore")) > 2 * bad


def _read_delimited(text: str, path: Path, delimiter: str) -> pd.DataFrame:
    csv.field_size_limit(MAX_FIELD_CHARS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    start = 1
    try:
        for row in reader:
            if row and rows and len(row) != len(rows[0]):
                raise WorkbookError(f"{path}, line {start}: {len(row)} cells where the header has {len(rows[0])}; quote cells that hold a {delimiter!r}")
            rows += [row] if row else []  # a blank line is no row
            start = reader.line_num + 1
    except csv.Error as error:
        raise WorkbookError(f"{path}, line {start}: {error}; is a quote left open?") from None
    if not rows:
        raise WorkbookError(f"{path} is empty")
    return pd.DataFrame(rows[1:], columns=rows[0], dtype=object)


def _read_json(text: str, path: Path) -> pd.DataFrame:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise WorkbookError(f"{path}, line {error.lineno}: {error.msg}; a table is a list of objects (one object a line goes into .jsonl)") from None
    records = value if isinstance(value, list) else [value]
    return _records(records, [f"record {i + 1}" for i in range(len(records))], path)


def _read_jsonl(text: str, path: Path) -> pd.DataFrame:
    records, places = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise WorkbookError(f"{path}, line {number}: {error.msg}") from None
            places.append(f"line {number}")
    return _records(records, places, path)


def _records(records: list[Any], places: list[str], path: Path) -> pd.DataFrame:
    for record, place in zip(records, places):
        if not isinstance(record, dict):
            raise WorkbookError(f'{path}, {place}: an object such as {{"text": ..., "label": ...}} is needed, found {type(record).__name__}')
    if not records:
        raise WorkbookError(f"{path} has no rows")
    return pd.DataFrame(records, dtype=object)


def _read_parquet(content: bytes, path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(pa.BufferReader(content)).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise WorkbookError(f"{path}: not a Parquet file that can be read ({error})") from None
