"""The log of predictions: JSON lines, a file for each process and day, texts left out."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

from lib.delivery.monitoring.text_signals import TextSignals
from lib.errors import WorkbookError, listed, quoted, shown_path
from lib.provenance import fingerprint, text_fingerprint
from lib.training.classifier import Classifier

_STRINGS = ["time", "source", "model", "text_fingerprint", "label", "reason", "language", "text"]
_NUMBERS = ["confidence", "ood_score", "n_characters", "n_words", "unknown_share"]
_SCHEMA = pa.schema(
    {
        **dict.fromkeys(_STRINGS, pa.string()),
        **dict.fromkeys(_NUMBERS, pa.float64()),
        "abstained": pa.bool_(),
        "embedding": pa.list_(pa.float64()),
    }
)
_OPTIONAL = ["ood_score", "unknown_share", "embedding", "text"]
_OF_ANSWER = ["label", "confidence", "abstained", "reason", "ood_score"]


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
        with self._lock:  # a failed write is cut off, and must not take another thread's rows along
            _append(lines.encode("utf-8", "replace"), path)

    def _rows(
        self, texts: Sequence[Any], answers: pd.DataFrame, facts: dict[str, str]
    ) -> list[dict[str, Any]]:
        of_answer = answers[answers.columns.intersection(_OF_ANSWER)]
        columns = self._signals.columns(texts) | of_answer.to_dict("list")
        columns["text_fingerprint"] = [_text_or_none(text, text_fingerprint) for text in texts]
        if self.with_texts:
            columns["text"] = [_text_or_none(text, str) for text in texts]
        facts["model"] = self.model
        return [
            facts | dict(zip(columns, map(_plain, values))) for values in zip(*columns.values())
        ]


def model_fingerprint(classifier: Classifier) -> str:
    """Return what tells a classifier's rows from another's: 16 hex digits.

    Exports that are added to its folder, or the place where it lies, do not change it.
    """
    parts: list[Any] = [classifier.class_names, classifier.abstain_below, dict(classifier.origin)]
    for part in (classifier.ensemble, classifier.calibrator):
        parts += [str(value) for value in vars(part).values()]
    folders = [member.folder for member in classifier.members]
    return fingerprint(*parts, *folders)[:16]


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
    without = [name for name in _OPTIONAL if rows[name].isna().all()]
    rows = rows.drop(columns=without)
    rows.attrs["n_damaged"] = n_damaged
    return rows


def rows_of(log: pd.DataFrame, classifier: Classifier) -> pd.DataFrame:
    """Return the rows of a log that a classifier predicted.

    Raises
    ------
    WorkbookError : there are none.
    """
    model = model_fingerprint(classifier)
    rows = log[log["model"] == model]
    if len(rows):
        return rows
    others = listed(quoted(name) for name in log["model"].unique())
    raise WorkbookError(
        f"the log has {len(log):,} predictions, and none by this classifier ({model}): they are by "
        f"{others}; name another log (monitoring.log), or the run whose classifier predicts"
    )


def _parsed(content: bytes, path: Path) -> pa.Table:
    longest = max(map(len, content.split(b"\n")))  # a block holds a line at least
    reading = arrow_json.ReadOptions(block_size=max(2**20, 2 * longest))
    parsing = arrow_json.ParseOptions(explicit_schema=_SCHEMA, unexpected_field_behavior="ignore")
    try:
        table = arrow_json.read_json(pa.BufferReader(content), reading, parsing)
        if not any(table[name].null_count for name in ("time", "model", "abstained")):
            return table
        reason = "a row lacks time, model or abstained"
    except pa.ArrowInvalid as error:
        reason = str(error)[:100]
    raise WorkbookError(
        f"{shown_path(path)} is no log of predictions: {reason}; move it out of the folder"
    )


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


def _text_or_none(text: Any, make: Callable[[str], str]) -> str | None:
    return make(text) if isinstance(text, str) else None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 6)
    return value
