"""JSON and JSONL: a list of objects, or the forms in which pandas writes a table."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from lib.errors import WorkbookError, listed, quoted, shown_path

EXAMPLE = '{"text": ..., "label": ...}'


def read_json(text: str, name: str, *, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a list of objects, or an object of columns, of rows by their index, or a single row.

    Parameters
    ----------
    name : of the file, for messages
    columns : that the table has to have, by which columns and rows are told apart

    Raises
    ------
    WorkbookError : it is not JSON (the line is named), or none of these.
    """
    name = shown_path(name)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise WorkbookError(
            f"{name}, line {error.lineno}: {error.msg}; "
            "a table is a list of objects (one object a line goes into .jsonl)"
        ) from None
    if isinstance(value, dict):
        value = _records(value, name, columns)
    records = value if isinstance(value, list) else [value]
    return _table_of({f"record {i}": record for i, record in enumerate(records, 1)}, name)


def read_jsonl(text: str, name: str) -> pd.DataFrame:
    """Read an object a line.

    Raises
    ------
    WorkbookError : a line is not an object; it is named.
    """
    name = shown_path(name)
    records = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            records[f"line {number}"] = json.loads(line)
        except json.JSONDecodeError as error:
            raise WorkbookError(f"{name}, line {number}: {error.msg}; mend the line") from None
    return _table_of(records, name)


def _records(value: dict[str, Any], name: str, columns: tuple[str, ...]) -> list[Any]:
    """Return the rows of an object: of pandas' orientations, or the object itself as one row."""
    if {"columns", "data"} <= set(value) and isinstance(value["data"], list):  # split
        return [dict(zip(value["columns"], row)) for row in value["data"]]
    if "schema" in value and isinstance(value.get("data"), list):  # table
        return value["data"]
    parts = list(value.values())
    if parts and all(isinstance(part, dict) for part in parts):
        is_by_column = bool(set(columns) & set(value)) or len(parts) < len(parts[0])
        return _transposed(value) if is_by_column else parts  # columns, index
    if parts and all(isinstance(part, list) for part in parts):
        sizes = {len(part) for part in parts}
        if len(sizes) > 1:
            raise WorkbookError(
                f"{name}: columns of different lengths, {min(sizes):,} to {max(sizes):,}; "
                f"give a list of objects such as {EXAMPLE}"
            )
        return [dict(zip(value, row)) for row in zip(*parts)]
    if any(isinstance(part, dict | list) for part in parts) and not set(columns) <= set(value):
        raise WorkbookError(
            f"{name}: one object with the keys {listed(map(quoted, value), 100)}; "
            f"a table is a list of objects such as {EXAMPLE}"
        )
    return [value]


def _transposed(columns: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of columns that hold their cells by index."""
    index = dict.fromkeys(key for cells in columns.values() for key in cells)
    return [{column: cells.get(key) for column, cells in columns.items()} for key in index]


def _table_of(records: dict[str, Any], name: str) -> pd.DataFrame:
    """Return a table of JSON objects, which are given with their position in the file."""
    for position, record in records.items():
        if not isinstance(record, dict):
            raise WorkbookError(
                f"{name}, {position}: an object such as {EXAMPLE} is needed, "
                f"found {type(record).__name__} {quoted(record)}"
            )
    if not records:
        raise WorkbookError(f"{name} has no rows; export it again")
    return pd.DataFrame(list(records.values()), dtype=object)
