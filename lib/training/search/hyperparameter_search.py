"""The search for training settings: trials on a sample of the training rows, and its optimism."""

from __future__ import annotations

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
import yaml
from filelock import FileLock, Timeout
from optuna.trial import TrialState
from pydantic import ValidationError
from tqdm import tqdm

from lib import provenance, workspace
from lib.config import FIXED_FOLDS, Config, Range, TrainingConfig, error_message
from lib.data.sources import sample_rows
from lib.errors import WorkbookError
from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance import Interval, cross_validation_interval
from lib.training import cached_training, engine
from lib.training.search import study as studies
from lib.training.search.cross_validation import assign_folds
from lib.workspace import Workspace

MAX_FAILURES = 5  # trials in a row that end in an error, before it is raised

Watch = Callable[[pd.DataFrame], None]  # takes a training's history after every evaluation


@dataclass(frozen=True)
class Task:
    """What every trial of a study shares.

    Attributes
    ----------
    fit, stop, scored : rows that are trained on, that stop the training, and that give a trial its
        value
    ws : where the journal and the trials' predictions are kept
    """

    fit: pd.DataFrame
    stop: pd.DataFrame
    scored: pd.DataFrame
    config: Config
    ws: Workspace

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the three tables by name."""
        return {"fit": self.fit, "stop": self.stop, "scored": self.scored}

    @property
    def folder(self) -> Path:
        """Return the folder of the journal."""
        return self.ws.folder(workspace.MODELS)


Objective = Callable[[Task, dict[str, Any], Watch | None], float]


@dataclass(frozen=True)
class SearchResult:
    """A finished study.

    Attributes
    ----------
    trials : DataFrame of `number`, `state` ("COMPLETE", "PRUNED", "FAIL"), `value` (macro F1 on the
        scored rows; NaN where the trial was not finished), `stop_macro_f1` (the last on the rows
        that stop the training; NaN where the same settings had been trained before), `seconds`,
        `error` ("" where there is none), and a column for each searched setting
    best : searched setting -> its value in the best trial
    value : macro F1 of the best trial: the highest of many, and therefore optimistic
    importances : searched setting -> share of the variance of the values, 0..1; {} where complete
        trials are few
    task : the rows and settings of the study
    """

    trials: pd.DataFrame
    best: dict[str, Any]
    value: float
    importances: dict[str, float]
    task: Task

    @property
    def n_complete(self) -> int:
        """Return how many trials were neither pruned nor failed."""
        return int((self.trials["state"] == "COMPLETE").sum())

    @property
    def log_settings(self) -> list[str]:
        """Return the settings that were searched on a logarithmic scale."""
        space = self.task.config.search_space()
        return [key for key, values in space.items() if isinstance(values, Range) and values.log]

    @property
    def cli_options(self) -> str:
        """Return the command line's options that train with the best settings."""
        options = []
        for key, value in self.best.items():
            text = value if isinstance(value, str) else json.dumps(value)
            options.append(f"--set {shlex.quote(f'training.{key}={text}')}")
        return " ".join(options)


@dataclass(frozen=True)
class NestedSearch:
    """How optimistic a search is.

    Attributes
    ----------
    table : DataFrame of `fold`, `inner` (macro F1 that the search reports), `outer` (on the rows
        left out), `optimism` (inner - outer)
    optimism : its mean over the folds
    """

    table: pd.DataFrame
    optimism: Interval


def fine_tune(task: Task, settings: dict[str, Any], watch: Watch | None) -> float:
    """Train with these settings and return macro F1 on the scored rows, 0..1.

    The predictions are kept.
    """
    name = f"trial-{provenance.fingerprint(settings)[:12]}"
    ws = _subfolder(task.ws, name)
    folder = ws.folder(workspace.MODELS)
    folder.mkdir(parents=True, exist_ok=True)
    training = _training_config(task, settings)
    config = task.config.model_copy(update={"training": training})
    # of two workers with the same settings, the second reads what the first predicted
    with FileLock(folder / ".lock"):
        try:
            probs, _ = cached_training.train_and_predict(
                task.fit, task.stop, task.scored, config=config, ws=ws, name=name, watch=watch
            )
        except optuna.TrialPruned:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    classes = np.unique(task.fit["label"].to_numpy().astype(str))
    y_true = np.searchsorted(classes, task.scored["label"].to_numpy().astype(str))
    return macro_f1(y_true, probs.argmax(axis=1), n_classes=len(classes))


def search(
    train: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    objective: Objective = fine_tune,
    progress: bool = True,
) -> SearchResult:
    """Try settings of `search.space` until `search.trials` trials are complete or pruned.

    Every finished trial is kept: a search that was stopped continues with the next. A trial that a
    killed process left running fails, and is proposed again. With one worker the same seed gives
    the same study, also when it was stopped in between (a pruner of hyperbands counts failed
    trials, and may then differ).

    Parameters
    ----------
    train : training rows with `text`, `label`, `group`; a stratified sample of `search.rows` is
        used
    ws : the study is kept in its folder `search`
    objective : gives the value of settings; its argument `watch` stops hopeless trials

    Raises
    ------
    WorkbookError : `search.trials` is 0; a class has too few texts; the study that is there was
        made with other settings or rows, or its journal is damaged, or another process uses it;
        several trials in a row end in an error (then that error).
    """
    task = _task(_sample(train, config), config, _subfolder(ws, "search"))
    return _search(task, objective, desc="search" if progress else "")


def nested(
    train: pd.DataFrame,
    *,
    config: Config,
    ws: Workspace,
    objective: Objective = fine_tune,
    progress: bool = True,
) -> NestedSearch:
    """Search once for each of `search.nested_folds` folds, and score the best training on the fold.

    The same training is scored on the rows that chose it and on rows that did not: the difference
    is the search's optimism alone.

    Source
    ------
    Varma and Simon 2006, "Bias in error estimation when using cross-validation for model
    selection".
    """
    rows = _sample(train, config)
    n_folds = config.search.nested_folds
    remedy = "set search.nested_folds lower or search.rows higher"
    fold = assign_folds(rows, n_folds=n_folds, seed=config.seed, remedy=remedy)
    scores = []
    for number in range(n_folds):
        task = _task(rows[fold != number], config, _subfolder(ws, f"nested/fold-{number}"))
        desc = f"search {number + 1} of {n_folds}" if progress else ""
        result = _search(task, objective, desc=desc)
        outer = replace(task, scored=rows[fold == number], ws=_subfolder(task.ws, "outer"))
        scores.append((number, result.value, objective(outer, result.best, None)))
    table = pd.DataFrame(scores, columns=["fold", "inner", "outer"])
    table["optimism"] = table["inner"] - table["outer"]
    n_test = len(rows) // n_folds
    optimism = cross_validation_interval(
        table["optimism"].to_numpy(),
        n_train=len(rows) - n_test,
        n_test=n_test,
        confidence=config.evaluation.confidence,
    )
    return NestedSearch(table, optimism)


def save_search(result: SearchResult | None, ws: Workspace) -> None:
    """Write the trials, and the best settings as a profile has them; None: empty ones."""
    trials = result.trials if result else pd.DataFrame({"number": []})
    workspace.write_table(trials, ws.path("search_trials.parquet"))
    settings = {"training": result.best if result else {}}
    path = ws.path("best_settings.yaml")
    workspace.write_text(yaml.safe_dump(settings, sort_keys=False), path)


def describe_search(result: SearchResult | None, *, n_train: int) -> str:
    """Return the best trial in words; `n_train` rows were there to sample from."""
    if result is None:
        return "No search: search.trials is 0."
    counts = result.trials["state"].str.lower().value_counts()
    states = ", ".join(f"{n} {state}" for state, n in counts.items())
    return (
        f"Best of {states}: macro F1 {result.value:.3f} on {len(result.task.scored):,} texts, "
        f"trained on {len(result.task.fit):,} of {n_train:,}. These settings were chosen on few "
        f"rows; more rows may need others. To use them: {result.cli_options}"
    )


def describe_importances(result: SearchResult | None) -> str:
    """Return in words which searched settings explain the differences between trials."""
    if result is None:
        return "No search: search.trials is 0."
    if not result.importances:
        return (
            f"{result.n_complete} complete trials do not show what matters: "
            f"at least {studies.MIN_COMPLETE} with different values are needed."
        )
    shares = ", ".join(f"{key} {share:.0%}" for key, share in result.importances.items())
    return f"Of the variance between {result.n_complete} complete trials: {shares}."


def describe_optimism(result: NestedSearch | None) -> str:
    """Return the optimism of a search in words."""
    if result is None:
        return "Not measured: search.nested_folds or search.trials is 0."
    means = result.table.mean()
    return (
        f"The search's value is too high by {result.optimism.signed()}, in {len(result.table)} "
        f"folds: {means['outer']:.3f} on rows that chose nothing, {means['inner']:.3f} on those "
        "that did."
    )


def run_trial(
    tables: Mapping[str, pd.DataFrame],
    *,
    config: Config,
    ws: Workspace,
    objective: Objective,
    trial_id: int,
) -> float:
    """Run one proposed trial, in whichever process."""
    task = Task(**tables, config=config, ws=ws)
    trial = studies.attach(task.folder, trial_id, config)
    n_reported = 0

    def watch(history: pd.DataFrame) -> None:
        nonlocal n_reported
        values = history["eval_macro_f1"].dropna().tolist()
        for value in values[n_reported:]:
            n_reported += 1
            trial.report(value, n_reported)
        if trial.should_prune():
            raise optuna.TrialPruned

    return objective(task, studies.settings_of(trial.params, config), watch)


def _sample(train: pd.DataFrame, config: Config) -> pd.DataFrame:
    if not config.search.trials:
        raise WorkbookError(
            "search.trials is 0, and a search tries settings at least once: "
            "set search.trials=20, or do not search"
        )
    rows = config.search.rows
    if not rows or rows >= len(train):
        return train.reset_index(drop=True)
    # a rare class is in every part
    return sample_rows(train, rows, seed=config.seed, at_least=2 * config.search_folds)


def _task(rows: pd.DataFrame, config: Config, ws: Workspace) -> Task:
    """Return the rows in fifths: one is scored, one stops trainings, three are trained on."""
    n_groups = rows.groupby("label")["group"].nunique()
    if n_groups.min() < FIXED_FOLDS:
        raise WorkbookError(
            f"the search needs {FIXED_FOLDS} texts of each class, and {n_groups.idxmin()!r} has "
            f"{n_groups.min()} different texts of {len(rows):,}: set search.rows higher, or "
            "search.trials=0"
        )
    part = assign_folds(rows, n_folds=FIXED_FOLDS, seed=config.seed)
    return Task(rows[part > 1], rows[part == 1], rows[part == 0], config, ws)


def _subfolder(ws: Workspace, name: str) -> Workspace:
    return ws.child(name)


def _training_config(task: Task, settings: dict[str, Any]) -> TrainingConfig:
    try:
        training = TrainingConfig.model_validate(task.config.training.model_dump() | settings)
    except ValidationError as error:
        raise WorkbookError(
            f"settings {settings} of search.space do not go together: "
            f"{error_message(error.errors()[0])}"
        ) from None
    steps_per_epoch = math.ceil(len(task.fit) / training.batch_size)
    eval_steps = math.ceil(steps_per_epoch / studies.EVALUATIONS_PER_EPOCH)
    return training.model_copy(update={"eval_steps": eval_steps})


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
    tables = [table[["text", "label"]] for table in task.tables.values()]
    digest = provenance.fingerprint(*tables)[:12]
    return {"rows": sum(map(len, tables)), "the rows' fingerprint": digest}


def _run_trials(study: optuna.Study, task: Task, objective: Objective, *, desc: str) -> None:
    """Fill the study up to its budget.

    This process proposes and records, so that workers share the budget exactly.
    """
    budget = task.config.search.trials
    n_failures = 0
    running: dict[Future, optuna.Trial] = {}
    with (
        engine.submitter(task.tables, config=task.config, ws=task.ws) as submit,
        tqdm(total=budget, desc=desc, unit="trial", disable=not desc) as bar,
    ):
        while (n_missing := budget - studies.n_done(study)) > 0:
            while len(running) < min(task.config.compute.workers, n_missing):
                trial = studies.propose(study, task.config)
                future = submit(run_trial, objective=objective, trial_id=trial._trial_id)
                running[future] = trial
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                error = _record(study, running.pop(future), future)
                n_failures = n_failures + 1 if error else 0
                if error and n_failures == MAX_FAILURES:
                    raise error
            _update(bar, study)
        _update(bar, study)


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


def _update(bar: tqdm, study: optuna.Study) -> None:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if complete:
        bar.set_postfix_str(f"best {study.best_value:.3f}", refresh=False)
    bar.update(studies.n_done(study) - bar.n)


def _result(study: optuna.Study, task: Task) -> SearchResult:
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    table = pd.DataFrame([_row(trial) for trial in finished])
    if not (table["state"] == "COMPLETE").any():
        raise WorkbookError(
            f"all {len(table)} trials were pruned: set search.pruner=none, or search.trials higher"
        )
    best = studies.settings_of(study.best_params, task.config)
    importances = studies.importances(study, seed=task.config.seed)
    return SearchResult(table, best, float(study.best_value), importances, task)


def _row(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": trial.number,
        "state": trial.state.name,
        "value": np.nan,
        "stop_macro_f1": np.nan,
        "seconds": np.nan,
        "error": "",
        **trial.params,
    }
    values = trial.intermediate_values  # evaluation -> macro F1
    if values:
        row["stop_macro_f1"] = values[max(values)]
    if trial.state == TrialState.COMPLETE:
        row["value"] = trial.value
    if trial.state not in studies.DONE:
        row["error"] = trial.user_attrs.get("error", "interrupted")
    elif trial.duration:
        row["seconds"] = trial.duration.total_seconds()
    return row
