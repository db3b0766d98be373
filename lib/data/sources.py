"""A labelled table from a file, a folder, the hub or the embedded data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import provenance, remote, workspace
from lib.config import Config, DataConfig, closest
from lib.data import classes, docstrings, splits, times
from lib.data.formats import SourceTable, existing, read_file, read_folder, read_hub
from lib.data.splits import SPLIT_NAMES
from lib.errors import MAX_CHARS, WorkbookError, listed, quoted, shown_path

MIN_CLASS_ROWS = 4  # that a sample takes of each class


@dataclass(frozen=True)
class LoadedTable:
    """A labelled table, and sentences on how its source was read.

    Attributes
    ----------
    table : as `load_table` returns it
    notes : on what was told from the source, and what was left out of it
    """

    table: pd.DataFrame
    notes: list[str]


def load_table(source: str, *, progress: bool = True, **settings: Any) -> pd.DataFrame:
    """Read a labelled table.

    Parameters
    ----------
    source : path of a CSV, TSV, JSON, JSONL or Parquet file (`.gz` too), or of a folder with one
        sub-folder a class, or with such files; `hub:<name>[:config][:split]` (split `train` unless
        given); or `docstrings`
    settings : others of `DataConfig`, for instance `text_column`

    Returns
    -------
    DataFrame with `row_id` (int, the position in the source), `text` (str or None) and `label`
    (str or None); a blank label counts as none. Where the source gives them, also `split`, `time`,
    `group_key` (str, or None for a row on its own) and `fairness_group` (str or None)

    Raises
    ------
    WorkbookError : there is no such source, it cannot be parsed (the line is named), it has no rows
        or no such column, or a text or label is a list, an object or bytes.
    """
    return load_source(DataConfig(source=source, **settings), progress=progress).table


def load_source(data: DataConfig, *, progress: bool = True) -> LoadedTable:
    """Read a labelled table as `load_table` does, with notes on how."""
    read = read_source(data, progress=progress)
    if read.has_own_columns:
        data = data.model_copy(update={"text_column": "text", "label_column": "label"})
    if read.has_splits and not (data.split_column or data.time_column):
        data = data.model_copy(update={"split_column": "split"})
    frame = read.frame
    where = shown_path(data.source)
    for option, column in data.columns.items():
        check_column(list(frame.columns), column, source=where, option=option)
    if frame.empty:
        raise WorkbookError(f"{where} has a header but no rows; export it again")
    _check_cells(frame, data, where=where)
    loaded = _load_columns(frame, data, where=where)
    return LoadedTable(loaded.table, [*read.notes, *loaded.notes])


def _load_columns(frame: pd.DataFrame, data: DataConfig, *, where: str) -> LoadedTable:
    """Return the columns that `data` names, under names of their own."""
    table = pd.DataFrame({"row_id": np.arange(len(frame))})
    table["text"] = pd.Series(map(_as_text, frame[data.text_column].tolist()), dtype=object)
    table["label"] = pd.Series(map(_as_label, frame[data.label_column].tolist()), dtype=object)
    notes = []
    if data.split_column:
        name = f"{where}, column {quoted(data.split_column)}"
        table["split"] = _as_splits(frame[data.split_column].tolist(), where=name)
    if data.time_column:
        name = f"{where}, column {quoted(data.time_column)}"
        table["time"], note = times.as_seconds(frame[data.time_column], where=name)
        notes += [note] if note else []
    if data.group_column:
        keys = map(_as_label, frame[data.group_column].tolist())
        table["group_key"] = pd.Series(keys, dtype=object)
    if data.fairness_column:
        values = map(_as_label, frame[data.fairness_column].tolist())
        table["fairness_group"] = pd.Series(values, dtype=object)
    if data.group_column and data.split_column:
        splits.check_given_groups(table["split"], table["group_key"])
    return LoadedTable(table, notes)


def read_source(data: DataConfig, *, progress: bool = True) -> SourceTable:
    """Read a source with all its columns."""
    source = data.source
    if source == "docstrings":
        return SourceTable(docstrings.harvest(progress=progress), has_own_columns=True)
    if source.startswith("hub:"):
        return read_hub(source)
    path = local_path(source)
    return read_folder(path, data) if path.is_dir() else read_file(path, data)


def local_path(source: str) -> Path:
    """Return the path of a file or folder that is there, of a remote one that of its copy."""
    return remote.fetch(source) if remote.is_remote(source) else existing(Path(source))


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
        how = [data.columns, data.encoding, data.delimiter, data.quoting]
        hub = data.source.startswith("hub:")
        content = data.source if hub else local_path(data.source)
        name += f"-{provenance.fingerprint(content, how)[:8]}"
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
        table["label"] = classes.merged_labels(table["label"])
    if data.rows and data.rows < len(table):
        at_least = max(MIN_CLASS_ROWS, classes.min_rows(config, folds=config.n_folds))
        table = sample_rows(table, data.rows, seed=config.seed, at_least=at_least)
    classes.check_labels(table, config)
    return table


def reading_notes(config: Config) -> list[str]:
    """Return sentences on how the imported source was read: what was told from it, or left out."""
    return workspace.read_facts(raw_path(config)).get("notes", [])


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


def check_column(names: Sequence[str], column: str, *, source: str, option: str) -> None:
    """Raise WorkbookError where a table's columns are without one, or have it twice.

    Parameters
    ----------
    source : what the table is, for the message
    option : of the command line, that names the column
    """
    if column not in names:
        near = closest(column, map(str, names))
        start = f"{source} has no column {quoted(column)}{near}; it has "
        end = f": name it with {option}"
        columns = listed(map(quoted, names), MAX_CHARS - len(start + end))
        raise WorkbookError(start + columns + end)
    if list(names).count(column) > 1:
        raise WorkbookError(f"{source} has two columns {quoted(column)}; rename one")


def _check_cells(frame: pd.DataFrame, data: DataConfig, *, where: str) -> None:
    """Raise WorkbookError where a text, a label or a group is not a single value."""
    remedies = {
        data.text_column: "give one text a row",
        data.label_column: "give one label a row; several are not this workbook's task",
    }
    for column in filter(None, [data.group_column, data.fairness_column]):
        remedies.setdefault(column, "give one group a row")
    for column, remedy in remedies.items():
        values = frame[column].tolist() if frame[column].dtype == object else []
        for row, value in enumerate(values, 1):
            if not pd.api.types.is_scalar(value) or isinstance(value, bytes):
                kind = type(value).__name__
                raise WorkbookError(
                    f"{where}, column {quoted(column)}: row {row} has {quoted(value)} ({kind}); "
                    f"{remedy}"
                )


def _import_source(config: Config, path: Path, *, progress: bool) -> None:
    """Read the configured source and write it to `path`, with facts about it."""
    data = config.data
    loaded = load_source(data, progress=progress)
    table = loaded.table
    classes.check_labels(table, config)
    facts: dict[str, Any] = {"source": data.source, "rows": len(table)}
    facts["fingerprint"] = provenance.table_fingerprint(table)
    if data.source == "docstrings":
        facts["packages"] = docstrings.package_versions()
    if loaded.notes:
        facts["notes"] = loaded.notes
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
        raise WorkbookError(
            f"{where}: no row is for training, all are {names}; unset data.split_column"
        )
    return splits


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
    return _raw_values(config, row_ids, column="text")


def fairness_groups(config: Config, row_ids: Iterable[int]) -> list[str | None]:
    """Return the groups of rows in the column `data.fairness_column`."""
    return _raw_values(config, row_ids, column="fairness_group")


def _raw_values(config: Config, row_ids: Iterable[int], *, column: str) -> list[str | None]:
    raw = workspace.read_table(raw_path(config))[["row_id", column]]
    return raw.set_index("row_id")[column].loc[list(row_ids)].tolist()
