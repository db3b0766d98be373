"""A whole table predicted part by part; what is finished is kept until the whole is written."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from joblib import Parallel, delayed
from tqdm import tqdm

from lib import provenance
from lib.config import DataConfig
from lib.delivery.batch.rows import Row, Table, errors_of, opened
from lib.delivery.monitoring.prediction_log import PredictionLog
from lib.errors import WorkbookError, quoted, shown_path
from lib.training import classifier_folder
from lib.training.classifier import Classifier
from lib.training.engine import exit_with_parent
from lib.training.ensembles.combining import OF_CLASS, class_columns

ROWS_PER_PART = 5_000
MAX_PART_CHARS = 20_000_000  # a part of long texts has fewer rows
ANSWERS = ("row", "label", "confidence", "abstained", "reason", "ood_score", "is_ood")


@dataclass(frozen=True)
class Job:
    """What each process knows.

    Attributes
    ----------
    fs : file system of the output
    prefix : how the paths of parts begin: folder, and fingerprint of all that they depend on
    model : folder of the classifier
    keep : columns of the input that are carried over
    log : folder of the log of predictions; None for none
    log_texts : whether the log holds the texts
    parent : number of the process that hands out the parts
    """

    fs: Any
    prefix: str
    model: Path
    keep: tuple[str, ...]
    log: Path | None
    log_texts: bool
    parent: int


def predict_table(  # noqa: PLR0913 (each has a default that most callers keep)
    source: str,
    out: str,
    *,
    model: Path,
    settings: DataConfig | None = None,
    keep: Sequence[str] = (),
    rows_per_part: int = ROWS_PER_PART,
    workers: int = 1,
    log: Path | None = None,
    log_texts: bool = False,
    overwrite: bool = False,
) -> tuple[int, int]:
    """Predict each row of a table, and write one row for it, in order.

    Finished parts are kept in the folder `.<name>.parts` next to `out`. Stopped at any moment, the
    same call goes on from them and writes the same bytes.

    Parameters
    ----------
    source : a CSV, TSV, JSONL or Parquet file, or a folder of them, here or in a store (s3://)
    out : a Parquet file, here or in a store
    model : folder of the classifier
    settings : how the table is read: `text_column`, `encoding`, `delimiter`, `quoting`
    keep : columns of the input that are carried over, as texts
    rows_per_part : fewer where their texts are long
    workers : processes; each loads the classifier and has a share of the cores
    log : folder of a log of predictions
    log_texts : whether the log holds the texts
    overwrite : replaces `out`, and drops parts of another prediction

    Returns
    -------
    n_rows : of the input, and of the output
    n_abstained : rows of which the label should not be used

    The file has `row` (position in the input, from 0), the columns `keep`, those of
    `Classifier.predict` and `p: <class>` for each class. A row that cannot be read has no label,
    and a `reason`.

    Raises
    ------
    WorkbookError : `source` cannot be read, has no rows or changes meanwhile; `out` is there, is no
        Parquet file or cannot be written; there are parts of another prediction; a worker was
        killed.
    """
    settings = settings or DataConfig()
    table = Table.find(source)
    with errors_of(out):
        fs, path = opened(out)
        is_free = not fs.exists(path) or (overwrite and fs.isfile(path))
    _check_names(path, keep, table)
    if not is_free:
        raise WorkbookError(f"{shown_path(out)} is there: give another name, or --overwrite")
    classifier_folder.read(model)  # checks each of its files
    rows = table.rows(settings, keep)
    first = next(rows, None)
    if first is None:
        raise WorkbookError(f"{shown_path(source)} has no rows; export it again")
    options = [settings.model_dump(mode="json"), keep, rows_per_part]
    versions = [provenance.package_version(name) for name in provenance.VERSIONED]
    code = provenance.code_fingerprint(__name__)
    fingerprint = classifier_folder.fingerprint(model)
    key = provenance.fingerprint(table.files, fingerprint, options, code, versions)
    folder, name = posixpath.split(path)
    scratch = f"{folder}/.{name}.parts"
    prefix = f"{scratch}/{key[:16]}-"
    job = Job(fs, prefix, model, tuple(keep), log, log_texts, os.getpid())
    with errors_of(out, OSError):
        finished = _finished(job, scratch, overwrite=overwrite)
        n_bytes = sum(size for size, _ in table.files.values())
        parts = _parts(chain([first], rows), rows_per_part)
        paths = _run(job, parts, finished, workers=workers, n_bytes=n_bytes)
        if Table.find(source) != table:
            raise WorkbookError(f"{shown_path(source)} changed while it was read; run it again")
        _write(job, path, (_read(job, part) for part in paths))
        abstained = _read(job, path, columns=["abstained"]).to_pandas()["abstained"]
        fs.rm(scratch, recursive=True)
    return len(abstained), int(abstained.sum())


def _check_names(path: str, keep: Sequence[str], table: Table) -> None:
    if not path.endswith(".parquet"):
        raise WorkbookError(f"{shown_path(path)}: what is written is Parquet; end it in .parquet")
    if path in table.files:
        raise WorkbookError(f"{shown_path(path)} is a part of the input; give another name")
    for name in keep:
        if name in ANSWERS or name.startswith(OF_CLASS):
            raise WorkbookError(
                f"--keep {quoted(name)}: the answers have a column of that name; leave it out"
            )


def _finished(job: Job, scratch: str, *, overwrite: bool) -> set[str]:
    """Return the paths of finished parts.

    Raises
    ------
    WorkbookError : there are parts of another prediction.
    """
    job.fs.invalidate_cache()
    paths = {path for path in job.fs.find(scratch) if path.endswith(".parquet")}
    others = [path for path in paths if not path.startswith(job.prefix)]
    if others and not overwrite:
        raise WorkbookError(
            f"{shown_path(scratch)} holds finished parts of another input, model, option or "
            "version; --overwrite drops them"
        )
    for path in others:
        job.fs.rm(path)
    return paths


def _parts(rows: Iterator[Row], rows_per_part: int) -> Iterator[tuple[int, list[Row]]]:
    """Give rows that follow one another, each time with the position of their first."""
    part: list[Row] = []
    n_chars = 0
    position = 0
    for position, row in enumerate(rows, 1):
        part.append(row)
        n_chars += len(row.text) if isinstance(row.text, str) else 0
        if len(part) == rows_per_part or n_chars >= MAX_PART_CHARS:
            yield position - len(part), part
            part = []
            n_chars = 0
    if part:
        yield position - len(part), part


def _run(
    job: Job,
    parts: Iterable[tuple[int, list[Row]]],
    finished: set[str],
    *,
    workers: int,
    n_bytes: int,
) -> list[str]:
    """Let the workers predict the parts that are not finished; return the paths of all."""
    paths = []

    def tasks() -> Iterator[Any]:
        for number, part in enumerate(parts):
            path = f"{job.prefix}{number:06}.parquet"
            paths.append(path)
            if path not in finished:
                yield delayed(_predict)(job, path, *part)

    # parts are read only as far as workers need them
    calls = Parallel(workers, return_as="generator", pre_dispatch="2 * n_jobs", batch_size=1)
    try:
        with tqdm(total=n_bytes, desc="predict", unit="B", unit_scale=True) as bar:
            for n_read in calls(tasks()):
                bar.update(n_read - bar.n)
    except BrokenExecutor as error:
        raise WorkbookError(
            "a worker was killed, most often for want of memory: set --workers or --rows-per-part "
            "lower; the same command goes on"
        ) from error
    return paths


def _predict(job: Job, path: str, first: int, rows: list[Row]) -> int:
    """Write the answers of a part; return how many bytes of the input have been read by then."""
    classifier, log = _tools(job)
    texts = [row.text for row in rows]
    answers = classifier.predict(texts, with_probs=True)
    reasons = zip(rows, answers["reason"])
    answers["reason"] = [row.problem or reason for row, reason in reasons]
    if log:
        log.append(texts, answers, source="predict")
    columns: dict[str, Any] = {"row": np.arange(first, first + len(rows))}
    for name, values in zip(job.keep, zip(*(row.kept for row in rows))):
        columns[name] = pd.Series(map(_as_text, values), dtype=object)
    probs = np.stack(answers.pop("probabilities"))
    columns |= {**answers, **class_columns(probs, classifier.class_names)}
    _write(job, path, iter([_table(pd.DataFrame(columns))]))
    return rows[-1].n_bytes


@lru_cache(maxsize=1)
def _tools(job: Job) -> tuple[Classifier, PredictionLog | None]:
    """Return the classifier and the log of this process, which ends with the one that began it."""
    if os.getpid() != job.parent:
        exit_with_parent(job.parent)
    classifier = Classifier.load(job.model)
    log = PredictionLog(job.log, classifier, with_texts=job.log_texts) if job.log else None
    return classifier, log


def _as_text(value: Any) -> str | None:
    return None if value is None else str(value).encode("utf-8", "replace").decode()


def _table(frame: pd.DataFrame) -> pa.Table:
    """Return a table whose types do not depend on what is missing."""
    types = {
        name: pa.string() if dtype.hasobject else pa.from_numpy_dtype(dtype)
        for name, dtype in frame.dtypes.items()
    }
    return pa.Table.from_pandas(frame, pa.schema(types), preserve_index=False)


def _write(job: Job, path: str, tables: Iterator[pa.Table]) -> None:
    """Write tables as one file, whole or not at all."""
    first = next(tables)
    scratch = f"{job.prefix}{os.getpid()}"
    with (
        job.fs.open(scratch, "wb") as file,
        pq.ParquetWriter(file, first.schema, compression="zstd") as writer,
    ):
        for table in chain([first], tables):
            writer.write_table(table)
    job.fs.mv(scratch, path)


def _read(job: Job, path: str, **options: Any) -> pa.Table:
    with job.fs.open(path) as file:
        return pq.read_table(file, **options)
