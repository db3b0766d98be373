"""A labelled table from a file, a folder, the hub or the embedded data set."""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import workspace
from lib.config import Config, closest
from lib.data import docstrings
from lib.errors import WorkbookError

FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test", "testing": "test"}
MAX_FIELD_CHARS = 2**31 - 1  # csv's own limit of 128 kB a cell is less than a long text has


def load_table(
    source: str,
    *,
    text_column: str = "text",
    label_column: str = "label",
    split_column: str | None = None,
    time_column: str | None = None,
    encoding: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Read a labelled table.

    Parameters
    ----------
    source : path of a CSV, TSV, JSON, JSONL or Parquet file (`.gz` too), or of a folder with one sub-folder a
        class; `hub:<name>[:config][:split]` (split `train` unless given); or `docstrings`
    text_column, label_column : names of columns; not used for folders and `docstrings`
    split_column : says for each row in which split it is: a name in SPLIT_NAMES
    time_column : of dates, times (UTC where they name no zone) or numbers
    encoding : of a text file; None takes a byte-order mark, else UTF-8, UTF-16 or cp1252, whichever fits first

    Returns
    -------
    DataFrame with `row_id` (int, the position in the source), `text` (str or None) and `label` (str or None);
    a blank label counts as none

    Raises
    ------
    WorkbookError : there is no such source, it cannot be parsed (the line is named), it has no rows or no such column.
    """
    if source == "docstrings":
        frame, text_column, label_column = docstrings.harvest(progress=progress), "text", "label"
    elif source.startswith("hub:"):
        frame = _read_hub(source)
    elif Path(source).is_dir():
        frame, text_column, label_column = _read_folder(Path(source), encoding), "text", "label"
    else:
        frame = _read_file(Path(source), encoding)
    named = [
        ("--text-column", text_column),
        ("--label-column", label_column),
        ("--set data.split_column=...", split_column),
        ("--set data.time_column=...", time_column),
    ]
    for option, column in named:
        if column is None:
            continue
        if column not in frame.columns:
            there = ", ".join(map(repr, frame.columns))
            raise WorkbookError(f"{source} has no column {column!r}{closest(column, map(str, frame.columns))}; it has {there}: name it with {option}")
        if (frame.columns == column).sum() > 1:
            raise WorkbookError(f"{source} has two columns {column!r}; rename one")
    if frame.empty:
        raise WorkbookError(f"{source} has a header but no rows")
    texts = [_as_text(value) for value in frame[text_column].tolist()]
    labels = [_as_label(value) for value in frame[label_column].tolist()]
    table = pd.DataFrame({"row_id": np.arange(len(frame)), "text": pd.Series(texts, dtype=object), "label": pd.Series(labels, dtype=object)})
    if split_column:
        table["split"] = _splits(frame[split_column].tolist(), where=f"{source}, column {split_column!r}")
    if time_column:
        table["time"] = _times(frame[time_column], where=f"{source}, column {time_column!r}")
    return table


def raw_path(config: Config) -> Path:
    """Return where the imported copy of the configured source lives.

    The name carries a digest of the source's content (of a hub source: of its name) and of how it is read, so a
    raw file is never overwritten and two sources of one name never meet.

    Raises
    ------
    WorkbookError : the source is a file or folder that does not exist.
    """
    data = config.data
    name = workspace.dataset_name(data.source)
    if data.source != "docstrings":
        content = data.source if data.source.startswith("hub:") else workspace.path_fingerprint(_existing(Path(data.source)))
        extra = [column for column in (data.split_column, data.time_column) if column]
        reading = json.dumps([content, data.text_column, data.label_column, data.encoding, *extra])
        name += "-" + hashlib.sha256(reading.encode()).hexdigest()[:8]
    return workspace.home() / "data" / "raw" / f"{name}.parquet"


def raw_table(config: Config, *, progress: bool = True) -> pd.DataFrame:
    """Return the configured table, imported into data/raw on the first call, checked, and sampled to `data.rows`.

    Raises
    ------
    WorkbookError : what `load_table` raises; labels that cannot be learned (see `check_labels`); a damaged raw file.
    """
    path, data = raw_path(config), config.data
    if not path.exists():
        columns = {name: getattr(data, name) for name in ("text_column", "label_column", "split_column", "time_column")}
        table = load_table(data.source, **columns, encoding=data.encoding, progress=progress)
        check_labels(table, config)
        facts: dict[str, Any] = {"source": data.source, "rows": len(table), "fingerprint": workspace.table_fingerprint(table)}
        if data.source == "docstrings":
            facts["packages"] = docstrings.package_versions()
        workspace.write_table(table, path, facts=facts)
    table = _read_raw(path)
    if data.merge_labels:
        table["label"] = merged_labels(table["label"])
    if data.rows and data.rows < len(table):
        table = sample_rows(table, data.rows, seed=config.seed)
    check_labels(table, config)
    return table


def check_labels(table: pd.DataFrame, config: Config) -> None:
    """Raise WorkbookError where the labels cannot be learned from.

    No label at all; one class alone; labels that differ in case or blanks alone (unless they are to be merged); a
    class with too few rows for every split and fold.
    """
    source, labels = config.data.source, table["label"].dropna()
    labels = labels[table.loc[labels.index, "text"].notna()]
    if labels.empty:
        raise WorkbookError(f"{source}: no row has both a text and a label; check --text-column and --label-column")
    spellings = labels.drop_duplicates().groupby(_folded(labels.drop_duplicates())).agg(sorted)
    clashes = spellings[spellings.map(len) > 1].tolist()
    if clashes and not config.data.merge_labels:
        listed = "; ".join(", ".join(map(repr, names)) for names in clashes)
        raise WorkbookError(f"{source}: labels that differ in case or blanks alone: {listed}. Merge them with --set data.merge_labels=true, or mend the data")
    counts = (merged_labels(labels) if config.data.merge_labels else labels).value_counts()
    if len(counts) < 2:
        raise WorkbookError(f"{source}: all rows have the label {counts.index[0]!r}; two classes are the least to tell apart")
    check_class_sizes(counts, config, where=source)


def check_class_sizes(counts: pd.Series, config: Config, *, where: str) -> None:
    """Raise WorkbookError where a class has too few rows for a row in every split and every fold of the training set."""
    train, val, test = config.split.shares
    needed = int(np.ceil(max(config.labels.folds / train, 1 / val, 1 / test) + 1))
    small = counts[counts < needed].sort_values()
    if len(small):
        listed = ", ".join(f"{name!r} ({n})" for name, n in small.head(10).items())
        raise WorkbookError(
            f"{where}: classes with fewer than the {needed} rows that three splits and {config.labels.folds} folds need: {listed}; "
            "add rows, drop the class, or take fewer folds with --set labels.folds=2"
        )


def merged_labels(labels: pd.Series) -> pd.Series:
    """Give labels that differ in case or blanks alone the commonest of their spellings."""
    commonest = labels.groupby(_folded(labels)).agg(lambda group: group.value_counts().sort_index().idxmax())
    return _folded(labels).map(commonest)


def sample_rows(table: pd.DataFrame, rows: int, *, seed: int) -> pd.DataFrame:
    """Return a stratified sample of `rows` labelled rows, in the order of the table.

    Raises
    ------
    WorkbookError : fewer rows than classes.
    """
    from sklearn.model_selection import train_test_split

    labelled = table[table["label"].notna() & table["text"].notna()]
    if rows < 2 * labelled["label"].nunique():
        raise WorkbookError(f"data.rows={rows} is too small a sample of {labelled['label'].nunique()} classes")
    if rows >= len(labelled) - labelled["label"].nunique():
        return labelled.head(rows).reset_index(drop=True)
    kept, _ = train_test_split(labelled, train_size=rows, stratify=labelled["label"], random_state=seed)
    return kept.sort_index().reset_index(drop=True)


def decode(content: bytes, *, name: str, encoding: str | None = None) -> str:
    """Decode bytes by their byte-order mark, else as UTF-8, as UTF-16 without a mark, or as cp1252.

    Raises
    ------
    WorkbookError : none fits, or the text has NUL characters, which no text file has.
    """
    guesses = [encoding] if encoding else _encodings(content)
    for guess in guesses:
        try:
            text = content.decode(guess)
        except UnicodeDecodeError as error:
            problem = f"byte {error.start} is 0x{content[error.start]:02x}"
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


def _read_file(path: Path, encoding: str | None) -> pd.DataFrame:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    gzipped = suffixes[-1:] == [".gz"]
    kind = (suffixes[-2:-1] if gzipped else suffixes[-1:]) or [""]
    content = _existing(path).read_bytes()
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


def _read_folder(folder: Path, encoding: str | None) -> pd.DataFrame:
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [(kind.name, file) for kind in classes for file in sorted(kind.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    if not files:
        raise WorkbookError(f"{folder}: no files; a folder source has one sub-folder a class, with one text a file")
    rows = [(decode(file.read_bytes(), name=str(file), encoding=encoding), kind) for kind, file in files]
    return pd.DataFrame(rows, columns=["text", "label"], dtype=object)


def _read_hub(source: str) -> pd.DataFrame:
    import datasets

    name, *rest = source.removeprefix("hub:").split(":")
    config, split = (rest + [None])[0] or None, (rest + [None, None])[1] or "train"
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


def _existing(path: Path) -> Path:
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


def _read_raw(path: Path) -> pd.DataFrame:
    try:
        table, facts = workspace.read_table(path), workspace.read_facts(path)
    except (OSError, ValueError) as error:
        raise WorkbookError(f"{path} is damaged ({error}); delete it, and it is imported again") from None
    if workspace.table_fingerprint(table) != facts.get("fingerprint"):
        raise WorkbookError(f"{path} was changed since it was imported; delete it, and it is imported again")
    return table


def _splits(values: list[Any], *, where: str) -> list[str]:
    names = ["" if _missing(value) else str(value).strip().casefold() for value in values]
    for row, name in enumerate(names):
        if name not in SPLIT_NAMES:
            found = f"says {values[row]!r}{closest(name, SPLIT_NAMES)}" if name else "says nothing"
            raise WorkbookError(f"{where}: row {row + 1} {found}; each row is {', '.join(SPLIT_NAMES)}")
    splits = [SPLIT_NAMES[name] for name in names]
    if "train" not in splits:
        raise WorkbookError(f"{where}: no row is for training, all are {' or '.join(sorted(set(splits)))}")
    return splits


def _times(values: pd.Series, *, where: str) -> np.ndarray:
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all() and not pd.api.types.is_datetime64_any_dtype(values):
        return numbers.to_numpy(np.float64)
    moments = pd.to_datetime(values, errors="coerce", utc=True, format="mixed")
    if moments.isna().any():
        row = int(np.argmax(moments.isna().to_numpy()))
        raise WorkbookError(f"{where}: row {row + 1} has {values.iloc[row]!r}, which is no date or number; write dates as 2026-01-31, or drop the row")
    return (moments - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(np.float64)


def _folded(labels: pd.Series) -> pd.Series:
    return labels.map(lambda label: " ".join(label.split()).casefold(), na_action="ignore")


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value))


def _as_text(value: Any) -> str | None:
    return None if _missing(value) else str(value).encode("utf-8", "replace").decode()  # a lone surrogate fits no file


def _as_label(value: Any) -> str | None:
    if _missing(value) or not str(value).strip():
        return None
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))  # integers beside a missing value arrive as floats
    return str(value)
