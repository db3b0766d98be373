"""An Optuna study in a journal: opened or continued, its next trials, and its importances."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.trial import TrialState

from lib.config import Config, Range
from lib.errors import WorkbookError

JOURNAL = "journal.jsonl"
NAME = "search"
EVALUATIONS_PER_EPOCH = 2  # at which trials are compared
MIN_COMPLETE = 5  # trials, for importances to be more than noise
DONE = (TrialState.COMPLETE, TrialState.PRUNED)  # what counts against the budget
# training settings that may change while a study goes on: another machine, the same task
MACHINE_SETTINGS = {"threads", "processes", "launch_options", "activation_cache_gb"}


def open_study(folder: Path, *, config: Config, data: Mapping[str, Any]) -> optuna.Study:
    """Open the study in a folder, or create it; trials that a killed process left running fail.

    No other process may use it.

    Parameters
    ----------
    data : what distinguishes these rows from others, by name

    Raises
    ------
    WorkbookError : the study was made with another space, other training settings, another seed or
        other rows, and `search.restart` is not set; or its journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _drop_torn_line(folder / JOURNAL)
    study = _load_or_create(folder)
    made_with = _made_with(config, data)
    if "made_with" not in study.user_attrs:
        study.set_user_attr("made_with", made_with)
    changed = _changes(study.user_attrs["made_with"], made_with)
    if changed and config.search.restart:
        shutil.rmtree(folder)
        return open_study(folder, config=config, data=data)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise WorkbookError(
            f"the study in {folder} was made with {'; '.join(changed[:3])}{more}: "
            "take another run name, delete that folder, or set search.restart=true"
        )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def propose(study: optuna.Study, config: Config) -> optuna.Trial:
    """Return the next trial.

    Its random numbers come from the seed and the number of trials before it. Killed trials are not
    counted, so that a study which was stopped proposes what it would have proposed.
    """
    n_before = sum(
        trial.state != TrialState.FAIL or "error" in trial.user_attrs
        for trial in study.get_trials(deepcopy=False)
    )
    sequence = np.random.SeedSequence(config.seed, spawn_key=(n_before,))
    seed = int(sequence.generate_state(1)[0])
    study.sampler = _sampler(config.search.sampler, seed=seed)
    space = config.search_space()
    return study.ask({key: _distribution(values) for key, values in space.items()})


def attach(folder: Path, trial_id: int, config: Config) -> optuna.Trial:
    """Return a proposed trial in a process that did not propose it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        study_name=NAME,
        storage=_storage(folder),
        sampler=optuna.samplers.RandomSampler(),
        pruner=_pruner(config),
    )
    return optuna.Trial(study, trial_id)


def settings_of(params: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return training settings from Optuna's parameters, in which a list is JSON."""
    settings = dict(params)
    for key, values in config.search_space().items():
        if key in params and isinstance(values, tuple):
            choices = {_plain(value): value for value in values if isinstance(value, list | tuple)}
            if params[key] in choices:
                settings[key] = list(choices[params[key]])
    return settings


def n_done(study: optuna.Study) -> int:
    """Return how many trials count against the budget."""
    return len(study.get_trials(deepcopy=False, states=DONE))


def importances(study: optuna.Study, *, seed: int) -> dict[str, float]:
    """Return the share of the variance of the values that each setting explains, largest first.

    Returns
    -------
    searched setting -> share, 0..1; {} below `MIN_COMPLETE` complete trials or where all are equal

    Source
    ------
    Hutter et al. 2014, "An Efficient Approach for Assessing Hyperparameter Importance" (fANOVA), as
    in Optuna.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < MIN_COMPLETE or len({trial.value for trial in complete}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _drop_torn_line(journal: Path) -> None:
    """Cut off what a kill left of the last line.

    Optuna would write its next record behind it, and lose both.

    Raises
    ------
    WorkbookError : any other line is not a record.
    """
    journal.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{journal}.lock").unlink(missing_ok=True)  # a killed process's
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    torn = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    for number, line in enumerate(lines, start=1):
        if not _is_record(line):
            start = line[:60].decode(errors="replace").strip()
            raise WorkbookError(
                f"{journal}, line {number} is not a record of a study: {start!r}. "
                "Nothing was changed: fix it, or delete the folder to search again"
            )
    if torn:
        os.truncate(journal, journal.stat().st_size - len(torn))


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


def _load_or_create(folder: Path) -> optuna.Study:
    try:
        storage = _storage(folder)
        names = [study.study_name for study in storage.get_all_studies()]
    except Exception as error:  # what Optuna raises for another program's records has no one type
        raise WorkbookError(
            f"{folder / JOURNAL} is not a journal of a study ({type(error).__name__}: {error}). "
            "Nothing was changed: delete the folder to search again"
        ) from error
    if NAME in names:
        return optuna.load_study(study_name=NAME, storage=storage)
    return optuna.create_study(study_name=NAME, storage=storage, direction="maximize")


def _storage(folder: Path) -> JournalStorage:
    path = str(folder / JOURNAL)
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def _made_with(config: Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must not change while a study goes on, by dotted name."""
    made_with: dict[str, Any] = {}
    for key, values in config.search_space().items():
        choices = values.model_dump() if isinstance(values, Range) else values
        made_with[f"search.space.{key}"] = choices
    free = {*config.search.space, "eval_steps", *MACHINE_SETTINGS}
    for key, value in config.training.model_dump(mode="json", exclude=free).items():
        made_with[f"training.{key}"] = value
    made_with["seed"] = config.seed
    return json.loads(json.dumps(made_with | dict(data)))  # as the journal gives it back


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} = {before.get(key, 'nothing')}, now {now.get(key, 'nothing')}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]


def _distribution(values: tuple[Any, ...] | Range) -> BaseDistribution:
    if isinstance(values, tuple):
        return CategoricalDistribution([_plain(choice) for choice in values])
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def _plain(choice: Any) -> Any:
    return json.dumps(choice) if isinstance(choice, list | tuple) else choice


def _sampler(name: str, *, seed: int) -> optuna.samplers.BaseSampler:
    if name == "tpe":
        return optuna.samplers.TPESampler(multivariate=True, seed=seed)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(config: Config) -> optuna.pruners.BasePruner:
    if config.search.pruner == "none":
        return optuna.pruners.NopPruner()
    if config.search.pruner == "median":
        n_startup = max(1, min(5, config.search.trials // 4))
        return optuna.pruners.MedianPruner(n_startup_trials=n_startup)
    epochs = config.search_space().get("epochs", (config.training.epochs,))
    most_epochs = epochs.high if isinstance(epochs, Range) else max(epochs)
    n_evaluations = max(2, round(EVALUATIONS_PER_EPOCH * most_epochs))
    return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=n_evaluations)
