"""A labelled table from a file, a folder, the hub or the embedded data set."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import provenance, workspace
from lib.config import Config, closest
from lib.data import docstrings
from lib.data.formats import existing, read_file, read_folder, read_hub
from lib.errors import MAX_CHARS, WorkbookError, listed, quoted

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
MIN_CLASS_ROWS = 4  # that a sample takes of each class


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
    source : path of a CSV, TSV, JSON, JSONL or Parquet file (`.gz` too), or of a folder with one
        sub-folder a class; `hub:<name>[:config][:split]` (split `train` unless given); or
        `docstrings`
    text_column, label_column : names of columns; not used for folders and `docstrings`
    split_column : says for each row in which split it is: a name in SPLIT_NAMES
    time_column : of dates, times (UTC where they name no zone) or numbers
    encoding : of a text file; None takes a byte-order mark, else UTF-8, UTF-16 or cp1252,
        whichever fits first

    Returns
    -------
    DataFrame with `row_id` (int, the position in the source), `text` (str or None) and `label`
    (str or None); a blank label counts as none

    Raises
    ------
    WorkbookError : there is no such source, it cannot be parsed (the line is named), it has no rows
        or no such column.
    """
    has_own_columns = source == "docstrings" or Path(source).is_dir()
    if source == "docstrings":
        frame = docstrings.harvest(progress=progress)
    elif source.startswith("hub:"):
        frame = read_hub(source)
    elif has_own_columns:
        frame = read_folder(Path(source), encoding)
    else:
        frame = read_file(Path(source), encoding)
    if has_own_columns:
        text_column = "text"
        label_column = "label"
    columns = {
        "--text-column": text_column,
        "--label-column": label_column,
        "--set data.split_column=...": split_column,
        "--set data.time_column=...": time_column,
    }
    for option, column in columns.items():
        if column is not None:
            _check_column(frame, column, source=source, option=option)
    if frame.empty:
        raise WorkbookError(f"{source} has a header but no rows")
    table = pd.DataFrame({"row_id": np.arange(len(frame))})
    table["text"] = pd.Series(map(_as_text, frame[text_column].tolist()), dtype=object)
    table["label"] = pd.Series(map(_as_label, frame[label_column].tolist()), dtype=object)
    if split_column:
        where = f"{source}, column {split_column!r}"
        table["split"] = _as_splits(frame[split_column].tolist(), where=where)
    if time_column:
        where = f"{source}, column {time_column!r}"
        table["time"] = _as_times(frame[time_column], where=where)
    return table


def raw_path(config: Config) -> Path:
    """Return where the imported copy of the configured source lives.

    The name carries a digest of the source's content (of a hub source: of its name) and of how it
    is read, so a raw file is never overwritten and two sources of one name never meet.

    Raises
    ------
    WorkbookError : the source is a file or folder that does not exist.
    """
    data = config.data
    name = workspace.dataset_name(data.source)
    if data.source != "docstrings":
        columns = [data.text_column, data.label_column, data.split_column, data.time_column]
        hub = data.source.startswith("hub:")
        content = data.source if hub else existing(Path(data.source))
        name += f"-{provenance.fingerprint(content, data.encoding, columns)[:8]}"
    return workspace.home() / "data" / "raw" / f"{name}.parquet"


def raw_table(config: Config, *, progress: bool = True) -> pd.DataFrame:
    """Return the configured table, checked, and sampled to `data.rows`.

    A sample is larger than that where every split and fold of a class needs it. The first call
    imports the table into data/raw.

    Raises
    ------
    WorkbookError : what `load_table` raises; labels that cannot be learned (see `check_labels`); a
        damaged raw file.
    """
    path = raw_path(config)
    if not path.exists():
        _import_source(config, path, progress=progress)
    table = _read_raw(path)
    data = config.data
    if data.merge_labels:
        table["label"] = merged_labels(table["label"])
    if data.rows and data.rows < len(table):
        at_least = max(MIN_CLASS_ROWS, _min_rows(config, folds=config.n_folds))
        table = sample_rows(table, data.rows, seed=config.seed, at_least=at_least)
    check_labels(table, config)
    return table


def check_labels(table: pd.DataFrame, config: Config) -> None:
    """Raise WorkbookError where the labels cannot be learned from.

    No label at all; one class alone; labels that differ in case or blanks alone (unless they are to
    be merged); a class with too few rows for every split and fold.
    """
    source = config.data.source
    labels = table.dropna(subset=["text", "label"])["label"]
    textless = sorted(set(table["label"].dropna()) - set(labels))
    if labels.empty:
        raise WorkbookError(
            f"{source}: no row has both a text and a label; check --text-column and --label-column"
        )
    if config.data.merge_labels:
        labels = merged_labels(labels)
    names = pd.Series(sorted(labels.unique()), dtype=object)
    clashes = [group for _, group in names.groupby(_folded(names)) if len(group) > 1]
    if clashes:
        spellings = listed((" and ".join(map(quoted, group)) for group in clashes), 100)
        raise WorkbookError(
            f"{source}: labels that differ in case or blanks alone: {spellings}. "
            "Merge them with --set data.merge_labels=true, or fix the data"
        )
    if len(names) == 1:
        rows = f"rows have the label {quoted(names[0])}"
        if textless:
            rows = f"rows that have a text have the label {quoted(names[0])}"
            rows += f" ({listed(map(quoted, textless), 60)} has none)"
        raise WorkbookError(f"{source}: all {rows}; at least two classes are needed")
    check_class_sizes(labels.value_counts(), config, where=source)


def check_class_sizes(
    counts: pd.Series, config: Config, *, where: str, dropped: pd.DataFrame | None = None
) -> None:
    """Raise WorkbookError where a class has too few rows for every split and every training fold.

    Parameters
    ----------
    counts : rows a class, 0 for one that has none left
    where : what the rows are, for the message
    dropped : rows that went before, with `label` and `rule` (a rule's name, or a person's
        decision): the message says which took a class's rows
    """
    needed = _min_rows(config, folds=config.n_folds)
    small = counts[counts < needed].sort_values(kind="stable")
    if small.empty:
        return
    if dropped is None:
        dropped = pd.DataFrame(columns=["label", "rule"])
    remedies = ["add rows", "drop the class"]
    lost = dropped[dropped["label"].isin(small.index)]
    is_sample = bool(config.data.rows) and config.data.rows <= counts.sum() + len(dropped)
    if is_sample and len(lost):
        remedies.insert(0, f"raise data.rows={config.data.rows}")
    if (lost["rule"] == "min_words").any():
        remedies.append("keep more of its rows with other settings of cleaning")
    if dropped["rule"].isin(["drop", "relabel"]).any():
        remedies.append("change decisions")
    if small.max() >= _min_rows(config, folds=2):
        remedies += _fewer_folds(config)
    start = f"{where}: classes with fewer than the {needed} rows that three splits and "
    start += f"{config.n_folds} folds need: "
    end = f"; {_alternatives(remedies)}"
    classes = [_class_size(name, n, dropped) for name, n in small.items()]
    raise WorkbookError(start + listed(classes, MAX_CHARS - len(start + end)) + end)


def check_training_texts(train: pd.DataFrame, config: Config, *, where: str) -> None:
    """Raise WorkbookError where a class has fewer different training texts than there are folds.

    Parameters
    ----------
    train : training rows with `label` and `group`; near-copies are one text
    where : what the rows are, for the message
    """
    n_texts = train.groupby("label")["group"].nunique().sort_values(kind="stable")
    small = n_texts[n_texts < config.n_folds]
    if small.empty:
        return
    start = f"{where}: {config.n_folds} folds need as many different training texts of each class "
    start += "(near-copies are one): "
    remedies = ["add texts", "drop the class", *_fewer_folds(config)]
    end = f"; {_alternatives(remedies)}"
    classes = [f"{quoted(name)} ({n})" for name, n in small.items()]
    raise WorkbookError(start + listed(classes, MAX_CHARS - len(start + end)) + end)


def merged_labels(labels: pd.Series) -> pd.Series:
    """Give labels that differ in case or blanks alone the commonest of their spellings."""
    folded = _folded(labels)
    commonest = labels.groupby(folded).agg(lambda group: group.mode()[0])
    return folded.map(commonest)


def sample_rows(
    table: pd.DataFrame, rows: int, *, seed: int, at_least: int = MIN_CLASS_ROWS
) -> pd.DataFrame:
    """Return a stratified sample of labelled rows, in the order of the table.

    Parameters
    ----------
    rows : of the sample, which is larger where the classes need it
    at_least : rows of each class that are taken, as far as it has them; 2 or more
    """
    from sklearn.model_selection import train_test_split

    labelled = table[table["label"].notna() & table["text"].notna()]
    sizes = labelled["label"].value_counts()
    rows = max(rows, int(sizes.clip(upper=at_least).sum()))
    if rows >= len(labelled) - len(sizes):
        return _cut_largest_classes(labelled, rows, seed=seed)
    # a class of one row cannot be split
    is_single = labelled["label"].map(sizes) == 1
    single = labelled[is_single]
    several = labelled[~is_single]
    kept, left = train_test_split(
        several, train_size=rows - len(single), stratify=several["label"], random_state=seed
    )
    n_kept = kept["label"].value_counts().reindex(left["label"].unique(), fill_value=0)
    shuffled = left.sample(frac=1, random_state=seed)
    n_missing = shuffled["label"].map(at_least - n_kept)
    added = shuffled[shuffled.groupby("label").cumcount() < n_missing]
    return _cut_largest_classes(pd.concat([kept, single, added]), rows, seed=seed)


def _cut_largest_classes(table: pd.DataFrame, rows: int, *, seed: int) -> pd.DataFrame:
    """Drop rows, each of the class that is largest then, until `rows` are left."""
    shuffled = table.sample(frac=1, random_state=seed)
    rank = shuffled.groupby("label").cumcount().sort_values(kind="stable")
    return table.loc[rank.index[:rows]].sort_index().reset_index(drop=True)


def _min_rows(config: Config, *, folds: int) -> int:
    train, val, test = config.split.shares
    return int(np.ceil(max(folds / train, 1 / val, 1 / test) + 1))


def _fewer_folds(config: Config) -> list[str]:
    """Return the remedy that takes the fewest folds; none where these are taken."""
    return [f"set {', '.join(config.fewer_folds)}"] if config.fewer_folds else []


def _alternatives(remedies: list[str]) -> str:
    return f"{', '.join(remedies[:-1])}, or {remedies[-1]}"


def _class_size(name: Any, n: int, dropped: pd.DataFrame) -> str:
    """Return a class with its number of rows, and what took those that went before."""
    lost = dropped.loc[dropped["label"] == name, "rule"].value_counts()
    if lost.empty:
        return f"{quoted(name)} ({n})"
    rules = ", ".join(f"{rule} took {count}" for rule, count in lost.items())
    return f"{quoted(name)} ({n} of {n + lost.sum()} left: {rules})"


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))


def _check_column(frame: pd.DataFrame, column: str, *, source: str, option: str) -> None:
    if column not in frame.columns:
        near = closest(column, map(str, frame.columns))
        raise WorkbookError(
            f"{source} has no column {column!r}{near}; "
            f"it has {_listed(frame.columns)}: name it with {option}"
        )
    if (frame.columns == column).sum() > 1:
        raise WorkbookError(f"{source} has two columns {column!r}; rename one")


def _import_source(config: Config, path: Path, *, progress: bool) -> None:
    """Read the configured source and write it to `path`, with facts about it."""
    data = config.data
    table = load_table(
        data.source,
        text_column=data.text_column,
        label_column=data.label_column,
        split_column=data.split_column,
        time_column=data.time_column,
        encoding=data.encoding,
        progress=progress,
    )
    check_labels(table, config)
    facts: dict[str, Any] = {"source": data.source, "rows": len(table)}
    facts["fingerprint"] = provenance.table_fingerprint(table)
    if data.source == "docstrings":
        facts["packages"] = docstrings.package_versions()
    workspace.write_table(table, path, facts=facts)


def _read_raw(path: Path) -> pd.DataFrame:
    try:
        table = workspace.read_table(path)
        facts = workspace.read_facts(path)
    except (OSError, ValueError) as error:
        raise WorkbookError(
            f"{path} is damaged ({error}); delete it, and it is imported again"
        ) from None
    if provenance.table_fingerprint(table) != facts.get("fingerprint"):
        raise WorkbookError(
            f"{path} was changed since it was imported; delete it, and it is imported again"
        )
    return table


def _as_splits(values: list[Any], *, where: str) -> list[str]:
    splits = []
    for row, value in enumerate(values, 1):
        name = "" if _missing(value) else str(value).strip().casefold()
        if name not in SPLIT_NAMES:
            cell = f"says {value!r}{closest(name, SPLIT_NAMES)}" if name else "says nothing"
            raise WorkbookError(f"{where}: row {row} {cell}; each row is {', '.join(SPLIT_NAMES)}")
        splits.append(SPLIT_NAMES[name])
    if "train" not in splits:
        names = " or ".join(sorted(set(splits)))
        raise WorkbookError(f"{where}: no row is for training, all are {names}")
    return splits


def _as_times(values: pd.Series, *, where: str) -> np.ndarray:
    """Return numbers as they are, and dates and times as seconds since 1970 (UTC)."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all() and not pd.api.types.is_datetime64_any_dtype(values):
        return numbers.to_numpy(np.float64)
    moments = pd.to_datetime(values, errors="coerce", utc=True, format="mixed")
    if moments.isna().any():
        row = int(np.argmax(moments.isna()))
        raise WorkbookError(
            f"{where}: row {row + 1} has {values.iloc[row]!r}, which is not a date or number; "
            "write dates as 2026-01-31, or drop the row"
        )
    return (moments - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(np.float64)


def _folded(labels: pd.Series) -> pd.Series:
    return labels.map(lambda label: " ".join(label.split()).casefold(), na_action="ignore")


def _missing(value: Any) -> bool:
    return pd.api.types.is_scalar(value) and pd.isna(value)


def _as_text(value: Any) -> str | None:
    # a lone surrogate fits no file
    return None if _missing(value) else str(value).encode("utf-8", "replace").decode()


def _as_label(value: Any) -> str | None:
    if _missing(value) or not str(value).strip():
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))  # integers next to a missing value arrive as floats
    return _as_text(value)


def raw_texts(config: Config, row_ids: Iterable[int]) -> list[str | None]:
    """Return the texts of rows as they came, before cleaning."""
    raw = workspace.read_table(raw_path(config))[["row_id", "text"]]
    return raw.set_index("row_id")["text"].loc[list(row_ids)].tolist()
