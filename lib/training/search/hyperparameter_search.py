"""The search for training settings: trials on a sample of the training rows, which is best, and how much that flatters."""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from filelock import FileLock, Timeout
from optuna.trial import TrialState
from pydantic import ValidationError
from tqdm import tqdm

from lib import provenance, workspace
from lib.config import FIXED_FOLDS, Config, TrainingConfig, error_message
from lib.data.sources import sample_rows
from lib.errors import WorkbookError
from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance import Interval, cross_validation_interval
from lib.training import cached_training, engine
from lib.training.search import study as studies
from lib.training.search.cross_validation import assign_folds
from lib.workspace import Workspace

MAX_FAILURES = 5  # trials in a row that end in an error, before it is raised

Watch = Callable[[pd.DataFrame], None]  # is given a training's history after every evaluation


@dataclass(frozen=True)
class Task:
    """What every trial of a study shares.

    Attributes
    ----------
    fit, stop, scored : rows that are trained on, that stop the training, and that give a trial its value
    place : where the journal and the trials' predictions are kept
    """

    fit: pd.DataFrame
    stop: pd.DataFrame
    scored: pd.DataFrame
    config: Config
    place: Workspace

    @property
    def folder(self) -> Path:
        """Return the folder of the journal."""
        return self.place.folder(workspace.MODELS)


Objective = Callable[[Task, dict[str, Any], Watch | None], float]


@dataclass(frozen=True)
class SearchResult:
    """A finished study.

    Attributes
    ----------
    trials : DataFrame of `number`, `state` ("COMPLETE", "PRUNED", "FAIL"), `value` (macro F1 on the scored rows; NaN where the trial was
        not finished), `stop_macro_f1` (the last on the rows that stop the training; NaN where the same settings had been trained before),
        `seconds`, `error` ("" where there is none), and a column for each searched setting
    best : searched setting -> its value in the best trial
    value : macro F1 of the best trial: the highest of many, and therefore flattering
    importances : searched setting -> share of the variance of the values, 0..1; {} where complete trials are few
    task : the rows and settings of the study
    """

    trials: pd.DataFrame
    best: dict[str, Any]
    value: float
    importances: dict[str, float]
    task: Task

    @property
    def words(self) -> str:
        """Return the words of a command line that train with the best settings."""
        values = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in self.best.items()
        }
        return " ".join(
            f"--set {shlex.quote(f'training.{key}={value}')}" for key, value in values.items()
        )


def fine_tune(task: Task, settings: dict[str, Any], watch: Watch | None) -> float:
    """Train with these settings and return macro F1 on the scored rows, 0..1; the predictions are kept."""
    try:
        training = TrainingConfig.model_validate(task.config.training.model_dump() | settings)
    except ValidationError as error:
        raise WorkbookError(
            f"settings {settings} of search.space do not go together: {error_message(error.errors()[0])}"
        ) from None
    training = training.model_copy(
        update={
            "eval_steps": math.ceil(math.ceil(len(task.fit) / training.batch_size) / studies.LOOKS)
        }
    )
    name = f"trial-{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]}"
    place = Workspace(dataset=task.place.dataset, run=f"{task.place.run}/{name}")
    folder = place.folder(workspace.MODELS)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(
        folder / ".lock"
    ):  # of two workers with the same settings the second reads what the first predicted
        try:
            config = task.config.model_copy(update={"training": training})
            probs, _ = cached_training.train_and_predict(
                task.fit, task.stop, task.scored, config=config, ws=place, name=name, watch=watch
            )
        except optuna.TrialPruned:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    classes = np.unique(task.fit["label"].to_numpy().astype(str))
    y = np.searchsorted(classes, task.scored["label"].to_numpy().astype(str))
    return macro_f1(y, probs.argmax(axis=1), n_classes=len(classes))


def search(
    train: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    objective: Objective = fine_tune,
    progress: bool = True,
) -> SearchResult:
    """Try settings of `search.space` until the study has `search.trials` trials, complete or pruned.

    Every finished trial is kept: a search that was stopped goes on with the next. A trial that a killed process left running is failed
    and proposed again. With one worker the same seed gives the same study, also when it was stopped in between (a pruner of hyperbands
    counts failed trials, and may then differ).

    Parameters
    ----------
    train : training rows with `text`, `label`, `group`; a stratified sample of `search.rows` is used
    ws : the study is kept in its folder `search`
    objective : gives the value of settings; what it is handed to watch with stops hopeless trials

    Raises
    ------
    WorkbookError : `search.trials` is 0; a class has too few texts; the study that is there was made with other settings or rows, or its
        journal is damaged, or another process is at it; several trials in a row end in an error (then that error).
    """
    task = _task(
        _sample(train, config), config, Workspace(dataset=ws.dataset, run=f"{ws.run}/search")
    )
    return _search(task, objective, desc="search" if progress else "")


def nested(
    train: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    objective: Objective = fine_tune,
    progress: bool = True,
) -> tuple[pd.DataFrame, Interval]:
    """Search anew in each of `search.nested_folds` folds, and score the best trial's training on the rows left out.

    The same training is scored on the rows that chose it and on rows that did not: what lies between is the search's optimism alone.

    Returns
    -------
    table : DataFrame of `fold`, `inner` (macro F1 that the search reports), `outer` (on the rows left out), `optimism` (inner - outer)
    optimism : its mean with an interval

    Source
    ------
    Varma and Simon 2006, "Bias in error estimation when using cross-validation for model selection".
    """
    rows, n_folds = _sample(train, config), config.search.nested_folds
    fold, found = (
        assign_folds(
            rows,
            n_folds=n_folds,
            seed=config.seed,
            remedy="set search.nested_folds lower or search.rows higher",
        ),
        [],
    )
    for number in range(n_folds):
        place = Workspace(dataset=ws.dataset, run=f"{ws.run}/nested/fold-{number}")
        result = _search(
            _task(rows[fold != number], config, place),
            objective,
            desc=f"search {number + 1} of {n_folds}" if progress else "",
        )
        outer = replace(
            result.task,
            scored=rows[fold == number],
            place=Workspace(dataset=ws.dataset, run=f"{place.run}/outer"),
        )
        found.append((number, result.value, objective(outer, result.best, None)))
    table = pd.DataFrame(found, columns=["fold", "inner", "outer"]).assign(
        optimism=lambda t: t["inner"] - t["outer"]
    )
    n_test = len(rows) // n_folds
    sizes = {"n_train": len(rows) - n_test, "n_test": n_test}
    return table, cross_validation_interval(
        table["optimism"].to_numpy(), confidence=config.evaluation.confidence, **sizes
    )


def _sample(train: pd.DataFrame, config: Config) -> pd.DataFrame:
    if not config.search.trials:
        raise WorkbookError(
            "search.trials is 0, and a search tries settings at least once: set search.trials=20, or do not search"
        )
    rows = config.search.rows
    if rows and rows < len(train):  # a rare class is in every part
        return sample_rows(
            train, rows, seed=config.seed, at_least=2 * FIXED_FOLDS, setting="search.rows"
        )
    return train.reset_index(drop=True)


def _task(rows: pd.DataFrame, config: Config, place: Workspace) -> Task:
    n_groups = rows.groupby("label")["group"].nunique()
    if n_groups.min() < FIXED_FOLDS:
        few = f"{n_groups.idxmin()!r} has {n_groups.min()} different texts of {len(rows):,}"
        raise WorkbookError(
            f"the search needs {FIXED_FOLDS} texts of each class, and {few}: set search.rows higher, or search.trials=0"
        )
    part = assign_folds(
        rows, n_folds=FIXED_FOLDS, seed=config.seed
    )  # one is scored, one stops the training, the others are trained on
    return Task(rows[part > 1], rows[part == 1], rows[part == 0], config, place)


def _search(task: Task, objective: Objective, *, desc: str) -> SearchResult:
    task.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{task.folder}.lock", timeout=0):
            study = studies.open_study(task.folder, config=task.config, data=_data_facts(task))
            _run_trials(study, task, objective, desc=desc)
            return _result(study, task)
    except Timeout:
        raise WorkbookError(
            f"another process is searching in {task.folder}: wait for it, or take another run name"
        ) from None


def _data_facts(task: Task) -> dict[str, Any]:
    tables = [
        provenance.table_fingerprint(table[["text", "label"]])
        for table in (task.fit, task.stop, task.scored)
    ]
    return {
        "rows": sum(map(len, (task.fit, task.stop, task.scored))),
        "the rows' fingerprint": hashlib.sha256("".join(tables).encode()).hexdigest()[:12],
    }


def _run_trials(study: optuna.Study, task: Task, objective: Objective, *, desc: str) -> None:
    """Fill the study up to its budget: this process proposes and records, so that workers share the budget exactly."""
    budget, at_once, failures = task.config.search.trials, task.config.compute.workers, 0
    tables = {"fit": task.fit, "stop": task.stop, "scored": task.scored}
    running: dict[Future, optuna.Trial] = {}
    with (
        engine.submitter(tables, config=task.config, ws=task.place) as start,
        tqdm(total=budget, desc=desc, unit="trial", disable=not desc) as bar,
    ):
        while (n_missing := budget - studies.n_done(study)) > 0:
            while len(running) < min(at_once, n_missing):
                trial = studies.propose(study, task.config)
                running[start(run_trial, objective=objective, trial_id=trial._trial_id)] = trial
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = _record(study, running.pop(future), future)
                failures = failures + 1 if error else 0
                if error and failures == MAX_FAILURES:
                    raise error
            _show(bar, study)
        _show(bar, study)


def _record(study: optuna.Study, trial: optuna.Trial, future: Future) -> Exception | None:
    """Tell the study how a trial ended; return the error, where it was one."""
    try:
        study.tell(trial, future.result())
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except BrokenExecutor:
        raise
    except Exception as error:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        study.tell(trial, state=TrialState.FAIL)
        return error
    return None


def _show(bar: tqdm, study: optuna.Study) -> None:
    values = [
        trial.value
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if trial.value is not None
    ]
    bar.set_postfix_str(f"best {max(values):.3f}" if values else "", refresh=False)
    bar.update(studies.n_done(study) - bar.n)


def run_trial(
    tables: Mapping[str, pd.DataFrame],
    *,
    config: Config,
    ws: Workspace,
    objective: Objective,
    trial_id: int,
) -> float:
    """Run one proposed trial, in whichever process."""
    task = Task(tables["fit"], tables["stop"], tables["scored"], config, ws)
    trial, n_seen = studies.attach(task.folder, trial_id, config), 0

    def watch(history: pd.DataFrame) -> None:
        nonlocal n_seen
        looks = history["eval_macro_f1"].dropna().tolist()
        for number, value in enumerate(looks[n_seen:], start=n_seen + 1):
            trial.report(value, number)
        n_seen = max(n_seen, len(looks))
        if trial.should_prune():
            raise optuna.TrialPruned

    return objective(task, studies.settings_of(trial.params, config), watch)


def _result(study: optuna.Study, task: Task) -> SearchResult:
    table = pd.DataFrame(
        [_row(trial) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    )
    if not (table["state"] == "COMPLETE").any():
        raise WorkbookError(
            f"all {len(table)} trials were pruned: set search.pruner=none, or search.trials higher"
        )
    best = study.best_trial
    importances = studies.importances(study, seed=task.config.seed)
    return SearchResult(
        table,
        studies.settings_of(best.params, task.config),
        float(study.best_value),
        importances,
        task,
    )


def _row(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    done = trial.state in studies.DONE
    return {
        "number": trial.number,
        "state": trial.state.name,
        "value": trial.value if trial.state == TrialState.COMPLETE else np.nan,
        "stop_macro_f1": trial.intermediate_values.get(trial.last_step, np.nan)
        if trial.last_step is not None
        else np.nan,
        "seconds": trial.duration.total_seconds() if done and trial.duration else np.nan,
        "error": "" if done else trial.user_attrs.get("error", "interrupted"),
        **trial.params,
    }
