"""Every run, fold and trial as a nested run of MLflow, on a server or in a local file, and of W&B by a switch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib import provenance, workspace
from lib.config import Config
from lib.data import sources
from lib.errors import WorkbookError
from lib.training.recorders import SERIES, MLflow, Opening, WandB, local_uri, text_of
from lib.workspace import Workspace

_down: set[str] = set()  # servers that did not answer this process


def check(config: Config) -> None:
    """Raise WorkbookError where W&B is asked for and not installed."""
    if config.tracking.wandb and importlib.util.find_spec("wandb") is None:
        raise WorkbookError(
            "tracking.wandb=true needs the package wandb: pip install -c constraints.txt wandb, or set tracking.wandb=false"
        )


class Record:
    """One run in every place where it is recorded. What fails here is said in one line, and never stops or changes a training.

    Attributes
    ----------
    notes : what a reader should know, for instance that the server was down
    """

    def __init__(self, config: Config, opening: Opening):
        self.config, self.opening = config, opening
        self.notes: list[str] = []
        self._places: list[MLflow | WandB] = []
        self._said: list[
            tuple[str, tuple[Any, ...]]
        ] = []  # told again to the local file where a server dies
        self._logged: set[tuple[str, int]] = set()

    def start(self) -> None:
        """Open the run, or go on with the one that is not finished; nothing where that was done."""
        if self._said:
            return
        settings = self.config.tracking
        if settings.backend == "mlflow":
            uri = "" if settings.uri in _down else settings.uri
            self._places.append(
                MLflow(
                    uri, system_metrics=settings.system_metrics and self.opening.parent is not None
                )
            )
        if settings.wandb:
            self._places.append(WandB(system_metrics=settings.system_metrics))
        self._say("open", self.opening)
        for place in self._places:
            self._logged |= place.known

    def metrics(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Record numbers; one that was recorded at this step before is left out."""
        fresh = {
            name: float(value)
            for name, value in values.items()
            if step is None or (name, step) not in self._logged
        }
        self._logged |= {(name, step) for name in fresh if step is not None}
        if fresh:
            self._say("metrics", fresh, step)

    def log_step(self, values: Mapping[str, float], step: int) -> None:
        """Record an entry of the Trainer's log."""
        self.metrics({name: values[name] for name in SERIES if name in values}, step=step)

    def history(self, table: pd.DataFrame) -> None:
        """Record what of a training's history was not recorded live."""
        for entry in table.to_dict("records"):
            self.log_step(
                {name: value for name, value in entry.items() if pd.notna(value)},
                int(entry["step"]),
            )

    def tags(self, values: Mapping[str, Any]) -> None:
        """Record words."""
        self._say("tags", {name: text_of(value) for name, value in values.items()})

    def artifacts(self, folder: Path, place: str = "") -> None:
        """Record the files of a folder."""
        self._say("artifacts", folder, place)

    def close(self, status: str, error: BaseException | None = None) -> None:
        """End the run as FINISHED, FAILED or KILLED, with the error."""
        if error is not None:
            self.tags({"error": f"{type(error).__name__}: {error}"})
        self._say("close", status)

    def next_try(self, error: BaseException) -> None:
        """End the run as failed, and open another for a second try."""
        self.close("FAILED", error)
        self._said, self._places, self._logged = [], [], set()
        self.opening = replace(self.opening, name=f"{self.opening.name}, second try")
        self.start()

    def _say(self, what: str, *words: Any) -> None:
        self._said.append((what, words))
        for place in list(self._places):
            self._tell(place, [(what, words)])

    def _tell(self, place: MLflow | WandB, sentences: list[tuple[str, tuple[Any, ...]]]) -> None:
        drawn = (
            random.getstate(),
            np.random.get_state(),
        )  # names and pauses are drawn in there: a training's numbers stay as they are
        try:
            for what, words in sentences:
                getattr(place, what)(*words)
        except Exception as error:
            self._places.remove(place)
            self._without(place, error)
        finally:
            random.setstate(drawn[0])
            np.random.set_state(drawn[1])

    def _without(self, place: MLflow | WandB, error: Exception) -> None:
        why = reason(error)
        if not isinstance(place, MLflow) or not place.uri:
            self._note(f"tracking: nothing more goes to {place.named}: {why}")
            return
        _down.add(place.uri)
        self._note(
            f"tracking: {place.named} cannot be used, recorded in {local_uri()} instead: {why}"
        )
        local = MLflow("", system_metrics=place.system_metrics)
        self._places.append(local)
        self._logged -= place.known
        self._tell(local, self._said)

    def _note(self, line: str) -> None:
        self.notes.append(line)
        tqdm.write(f"workbook: {line}", file=sys.stderr)


@contextmanager
def workbook_run(config: Config, ws: Workspace) -> Iterator[Record | None]:
    """Give the record of a workbook run, which is opened by its `start`, and end it with the block; None where nothing is recorded."""
    if not _is_on(config):
        yield None
        return
    with _closing(Record(config, _of_run(config, ws))) as record:
        yield record


@contextmanager
def training(
    train: pd.DataFrame, val: pd.DataFrame, *, config: Config, ws: Workspace, name: str = ""
) -> Iterator[Record | None]:
    """Give the record of one training, within that of its workbook run, and end it with the block; None where nothing is recorded.

    Parameters
    ----------
    train, val : with `text` and `label`
    ws : of a series such as "quick/folds" the first part is the workbook run
    name : of a trial of a series
    """
    if not _is_on(config):
        yield None
        return
    with _closing(
        Record(config, _of_training(train, val, config=config, ws=ws, name=name))
    ) as record:
        record.start()
        yield record


def workbook_run_id(ws: Workspace, uri: str = "") -> str:
    """Return MLflow's id of a workbook run, the newest of its name; it is made where runs were not recorded."""
    place = MLflow(uri, system_metrics=False)
    place.connect(ws.dataset)
    run_id = place.parent(Opening(ws.run, ws.dataset, ws.run, "", ""))
    if place.orphaned:
        place.client.set_terminated(run_id)
    return run_id


def _is_on(config: Config) -> bool:
    return config.tracking.backend != "none" or config.tracking.wandb


@contextmanager
def _closing(record: Record) -> Iterator[Record]:
    try:
        yield record
    except BaseException as error:
        stopped = (
            not isinstance(error, Exception) or type(error).__name__ == "TrialPruned"
        )  # by a person, or by a search
        if record._said:
            record.close("KILLED" if stopped else "FAILED", error)
        raise
    if record._said:
        record.close("FINISHED")


def _of_run(config: Config, ws: Workspace) -> Opening:
    settings = {
        key: value for key, value in config.flat().items() if not key.startswith("tracking.")
    }
    data: dict[str, Any] = {}
    with suppress(WorkbookError, OSError):
        data = workspace.read_facts(sources.raw_path(config))
    tags = {
        "data.source": config.data.source,
        "data.fingerprint": data.get("fingerprint"),
        "data.rows": data.get("rows"),
        **_machine(),
    }
    what = {
        key: value for key, value in settings.items() if not key.startswith("compute.")
    }  # the same run, wherever it is done
    key = _digest([ws.dataset, ws.run, config.profile, what])
    return Opening(
        ws.run, ws.dataset, ws.run, "", key, {"profile": config.profile, **settings}, tags
    )


def _of_training(
    train: pd.DataFrame, val: pd.DataFrame, *, config: Config, ws: Workspace, name: str
) -> Opening:
    of_run, series, *deeper = [*ws.run.split("/"), ""]
    tables = {
        f"data.{part}": provenance.table_fingerprint(table[["text", "label"]])
        for part, table in (("train", train), ("val", val))
    }
    settings = {
        key: value
        for key, value in config.flat().items()
        if key == "seed" or key.startswith("training.")
    }
    shown = "/".join(
        part
        for part in (series, name or deeper[0] if series else "training", f"seed {config.seed}")
        if part
    )
    key = _digest(
        [
            ws.dataset,
            ws.run,
            name,
            *tables.values(),
            settings,
            provenance.code_fingerprint("lib.training.finetune"),
        ]
    )
    whole = Workspace(dataset=ws.dataset, run=of_run)
    # a trial's settings are its own: where nobody has opened the workbook run yet, nothing is known of that one's
    parent = (
        _of_run(config, whole)
        if not series
        else Opening(of_run, ws.dataset, of_run, "", "", tags=_machine())
    )
    rows = {"data.train_rows": len(train), "data.val_rows": len(val)}
    return Opening(
        shown, ws.dataset, of_run, series, key, settings, {**tables, **rows, **_machine()}, parent
    )


def reason(error: Exception) -> str:
    """Return in one short line why a place cannot be used; of a chain of network errors the innermost."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    known = re.findall(r"\[Errno -?\d+\] [\w ]+|timed out|Remote end closed[\w ]*", line)
    return known[-1] if known else line[:150]


@lru_cache(maxsize=1)
def _machine() -> dict[str, Any]:
    facts = provenance.machine_facts()
    versions = {
        f"version.{name}": version for name, version in facts.pop("versions").items() if version
    }
    return {
        "mlflow.source.git.commit": facts["commit"],
        "commit": facts.pop("commit"),
        **{f"machine.{name}": fact for name, fact in facts.items()},
        **versions,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
