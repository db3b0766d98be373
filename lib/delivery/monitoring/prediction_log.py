"""The log of predictions: JSON lines, a file for each process and day, texts left out."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

from lib import provenance
from lib.delivery.monitoring.text_signals import TextSignals
from lib.errors import WorkbookError, shown_path
from lib.training.classifier import Classifier

_TYPES = {
    "time": pa.string(),
    "source": pa.string(),
    "model": pa.string(),
    "text_fingerprint": pa.string(),
    "label": pa.string(),
    "confidence": pa.float64(),
    "abstained": pa.bool_(),
    "reason": pa.string(),
    "ood_score": pa.float64(),
    "n_characters": pa.int64(),
    "n_words": pa.int64(),
    "language": pa.string(),
    "unknown_share": pa.float64(),
    "embedding": pa.list_(pa.float64()),
    "text": pa.string(),
}
_OF_ANSWER = ("label", "confidence", "abstained", "reason", "ood_score")
_OPTIONAL = ("ood_score", "unknown_share", "embedding", "text")
_SCHEMA = pa.schema(list(_TYPES.items()))


class PredictionLog:
    """Appends predictions to a folder; several threads and processes may at the same time.

    A row is when, by what and what was answered, and the signals of the text
    (`TextSignals.columns`). A process that is killed leaves whole lines, but for its last one.

    Parameters
    ----------
    folder : is made where it is not there
    classifier : what predicts
    with_texts : log the texts too
    """

    def __init__(self, folder: Path, classifier: Classifier, *, with_texts: bool = False) -> None:
        self.folder = folder
        self.with_texts = with_texts
        self.model = model_fingerprint(classifier)
        self._signals = TextSignals(classifier)
        self._lock = threading.Lock()
        self._token = uuid.uuid4().hex[:8]

    def append(self, texts: Sequence[Any], answers: pd.DataFrame, *, source: str) -> None:
        """Add n predictions.

        Parameters
        ----------
        texts : n values, as they came
        answers : of n rows, as `Classifier.predict` returns them
        source : what predicted, for instance "serve"

        Raises
        ------
        WorkbookError : there are more texts than answers or fewer, or the log cannot be written; it
            is then as it was.
        """
        if len(texts) != len(answers):
            raise WorkbookError(f"the log has {len(texts):,} texts and {len(answers):,} answers")
        now = datetime.now(UTC)
        rows = self._rows(texts, answers, {"time": now.isoformat(), "source": source})
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        # one file a process, also after a fork: no two ever write to the same
        path = self.folder / f"{now:%Y-%m-%d}-{os.getpid()}-{self._token}.jsonl"
        with self._lock:
            _append(lines.encode("utf-8", "replace"), path)

    def _rows(
        self, texts: Sequence[Any], answers: pd.DataFrame, facts: dict[str, str]
    ) -> list[dict[str, Any]]:
        columns = self._signals.columns(texts)
        for name in _OF_ANSWER:
            if name in answers:
                columns[name] = answers[name].tolist()
        columns["text_fingerprint"] = [_fingerprint(text) for text in texts]
        if self.with_texts:
            columns["text"] = [text if isinstance(text, str) else None for text in texts]
        facts = facts | {"model": self.model}
        names = columns.keys()
        return [
            facts | {name: _plain(value) for name, value in zip(names, row)}
            for row in zip(*columns.values())
        ]


def model_fingerprint(classifier: Classifier) -> str:
    """Return what tells a classifier's rows from another's: 16 hex digits.

    Exports that are added to its folder, or the place where it lies, do not change it.
    """
    described = (
        classifier.class_names,
        classifier.ensemble.weights.tolist(),
        classifier.calibrator.scale.tolist(),
        classifier.calibrator.shift.tolist(),
        classifier.abstain_below,
        dict(classifier.origin),
    )
    folders = [member.folder for member in classifier.members]
    return provenance.fingerprint(*described, *folders)[:16]


def read_log(folder: Path) -> pd.DataFrame:
    """Read a folder that `PredictionLog` writes, also while it does.

    Returns
    -------
    DataFrame, oldest row first: `time` (UTC), the other columns of a row; `ood_score`,
    `unknown_share`, `embedding` and `text` are there where a row has them.
    `attrs["n_damaged"]` counts files whose last line was not whole and is left out

    Raises
    ------
    WorkbookError : there is no log, or a file holds something else (its line is named).
    """
    paths = sorted(folder.glob("*.jsonl"))
    if not paths:
        raise WorkbookError(
            f"{shown_path(folder)} has no log of predictions (*.jsonl); name the folder that "
            "`workbook serve` or `workbook predict` logs to"
        )
    tables, n_damaged = [], 0
    for path in paths:
        content = path.read_bytes()
        n_whole = content.rfind(b"\n") + 1
        n_damaged += n_whole < len(content)
        if n_whole:
            tables.append(_parsed(content[:n_whole], path))
    rows = pa.concat_tables([_SCHEMA.empty_table(), *tables]).to_pandas()
    rows["time"] = pd.to_datetime(rows["time"], format="ISO8601", utc=True)
    rows = rows.sort_values("time", kind="stable", ignore_index=True)
    rows = rows.drop(columns=[name for name in _OPTIONAL if rows[name].isna().all()])
    rows.attrs["n_damaged"] = n_damaged
    return rows


def _parsed(content: bytes, path: Path) -> pa.Table:
    options = arrow_json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore")
    # a line is never longer than a block
    longest = max(map(len, content.split(b"\n")))
    blocks = arrow_json.ReadOptions(block_size=max(2**20, 2 * longest))
    try:
        table = arrow_json.read_json(pa.BufferReader(content), blocks, options)
    except pa.ArrowInvalid as error:
        raise WorkbookError(_what_is_wrong(content, path)) from error
    missing = [name for name in ("time", "model", "abstained") if table[name].null_count]
    if missing:
        raise WorkbookError(
            f"{shown_path(path)} is no log of predictions: a row has no {missing[0]!r}; move the "
            "file out of the folder"
        )
    return table


def _what_is_wrong(content: bytes, path: Path) -> str:
    remedy = "delete the line, or move the file out of the folder"
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            json.loads(line)
        except ValueError:
            return f"{shown_path(path)}, line {number:,} is no JSON; {remedy}"
    return f"{shown_path(path)} is no log of predictions: a value has another type; {remedy}"


def _append(content: bytes, path: Path) -> None:
    """Add bytes to a file, all of them or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                n_written = file.write(content)
                if n_written != len(content):
                    raise OSError(28, "No space left on device")
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise WorkbookError(
            f"cannot write the log of predictions {shown_path(path)}: {reason}; make room or name "
            "another folder"
        ) from error


def _fingerprint(text: Any) -> str | None:
    return provenance.text_fingerprint(text) if isinstance(text, str) else None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 6)
    return value
