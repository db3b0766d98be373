"""A labelled table from a file, a folder, the hub or the embedded data set."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import provenance
from lib import workspace
from lib.config import Config, closest
from lib.data import docstrings
from lib.data.formats import (
    existing,
    read_file,
    read_folder,
    read_hub,
)
from lib.errors import WorkbookError

SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test", "testing": "test"}


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
        frame = read_hub(source)
    elif Path(source).is_dir():
        frame, text_column, label_column = read_folder(Path(source), encoding), "text", "label"
    else:
        frame = read_file(Path(source), encoding)
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
        content = data.source if data.source.startswith("hub:") else provenance.path_fingerprint(existing(Path(data.source)))
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
        facts: dict[str, Any] = {"source": data.source, "rows": len(table), "fingerprint": provenance.table_fingerprint(table)}
        if data.source == "docstrings":
            facts["packages"] = docstrings.package_versions()
        workspace.write_table(table, path, facts=facts)
    table = _read_raw(path)
    if data.merge_labels:
        table["label"] = merged_labels(table["label"])
    if data.rows and data.rows < len(table):
        table = sample_rows(table, data.rows, seed=config.seed, at_least=_needed_rows(config, folds=config.n_folds))
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
        textless = sorted({*table["label"].dropna()} - {*labels})
        rows = (
            f"rows that have a text have the label {counts.index[0]!r} ({', '.join(map(repr, textless[:5]))} has none)"
            if textless
            else f"rows have the label {counts.index[0]!r}"
        )
        raise WorkbookError(f"{source}: all {rows}; two classes are the least to tell apart")
    check_class_sizes(counts, config, where=source)


def check_class_sizes(counts: pd.Series, config: Config, *, where: str, dropped: pd.DataFrame | None = None) -> None:
    """Raise WorkbookError where a class has too few rows for a row in every split and every fold of the training set.

    Parameters
    ----------
    counts : rows a class, 0 for one that has none any more
    where : what the rows are, for the message
    dropped : rows that went before, with `label` and `rule` (a rule's name, or a person's decision): the message says which took a class's rows
    """
    needed = _needed_rows(config, folds=config.n_folds)
    small = counts[counts < needed].sort_values(kind="stable")
    if small.empty:
        return
    lost = {} if dropped is None else {name: rules.value_counts() for name, rules in dropped.groupby("label")["rule"]}
    listed = ", ".join(_few_rows(name, n, lost.get(name)) for name, n in small.head(10).items())
    more = f" and {len(small) - 10} more" if len(small) > 10 else ""
    remedies = ["add rows", "drop the class"]
    if any("min_words" in lost.get(name, ()) for name in small.index):
        remedies.append("keep more of its rows with other settings of cleaning")
    if dropped is not None and dropped["rule"].isin(["drop", "relabel"]).any():
        remedies.append("change decisions")
    if (small >= _needed_rows(config, folds=2)).any():
        remedies.append("take fewer folds with " + " ".join(f"--set {setting}" for setting in config.fewer_folds))
    raise WorkbookError(
        f"{where}: classes with fewer than the {needed} rows that three splits and {config.n_folds} folds need: {listed}{more}; "
        f"{', '.join(remedies[:-1])}, or {remedies[-1]}"
    )


def merged_labels(labels: pd.Series) -> pd.Series:
    """Give labels that differ in case or blanks alone the commonest of their spellings."""
    commonest = labels.groupby(_folded(labels)).agg(lambda group: group.value_counts().sort_index().idxmax())
    return _folded(labels).map(commonest)


def sample_rows(table: pd.DataFrame, rows: int, *, seed: int, at_least: int = 1, setting: str = "data.rows") -> pd.DataFrame:
    """Return a stratified sample of `rows` labelled rows, in the order of the table.

    Parameters
    ----------
    at_least : rows of a rare class that are taken, as far as it has them, at the cost of the largest
    setting : the one that says how many rows, for the error

    Raises
    ------
    WorkbookError : fewer rows than two of each class.
    """
    from sklearn.model_selection import train_test_split

    labelled = table[table["label"].notna() & table["text"].notna()]
    if rows < 2 * labelled["label"].nunique():
        raise WorkbookError(f"{setting}={rows} is too small a sample of {labelled['label'].nunique()} classes")
    if rows >= len(labelled) - labelled["label"].nunique():
        return _without_the_most(labelled, rows, seed=seed)
    single = labelled["label"].map(labelled["label"].value_counts()) == 1  # a class of one row cannot be split
    kept, left = train_test_split(labelled[~single], train_size=rows - int(single.sum()), stratify=labelled["label"][~single], random_state=seed)
    missing = (at_least - kept["label"].value_counts().reindex(left["label"].unique(), fill_value=0)).clip(lower=0)
    spare = left.sample(frac=1, random_state=seed)
    added = spare[spare.groupby("label").cumcount() < spare["label"].map(missing)]
    return _without_the_most(pd.concat([kept, labelled[single], added]), rows, seed=seed)


def _without_the_most(table: pd.DataFrame, rows: int, *, seed: int) -> pd.DataFrame:
    """Drop rows, each of the class that is largest then, until as many as asked for are left."""
    shuffled = table.sample(frac=1, random_state=seed)
    place = shuffled.groupby("label").cumcount().sort_values(kind="stable")
    return table.loc[place.index[:rows]].sort_index().reset_index(drop=True)


def _needed_rows(config: Config, *, folds: int) -> int:
    train, val, test = config.split.shares
    return int(np.ceil(max(folds / train, 1 / val, 1 / test) + 1))


def _few_rows(name: Any, n: int, lost: pd.Series | None) -> str:
    """Return a class with the number of its rows, and, where rows went before, of how many and by which rules."""
    if lost is None:
        return f"{name!r} ({n})"
    return f"{name!r} ({n} of {n + lost.sum()} left: {', '.join(f'{rule} took {took}' for rule, took in lost.items())})"


def _read_raw(path: Path) -> pd.DataFrame:
    try:
        table, facts = workspace.read_table(path), workspace.read_facts(path)
    except (OSError, ValueError) as error:
        raise WorkbookError(f"{path} is damaged ({error}); delete it, and it is imported again") from None
    if provenance.table_fingerprint(table) != facts.get("fingerprint"):
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
