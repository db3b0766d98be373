"""An Optuna study in a journal: what it may go on with, what it proposes next, and what a kill leaves of it."""

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

JOURNAL, NAME = "journal.jsonl", "search"
LOOKS = 2  # evaluations an epoch, at which trials are compared
MIN_COMPLETE = 5  # trials, for importances to be more than noise
DONE = (TrialState.COMPLETE, TrialState.PRUNED)  # what counts against the budget
MACHINE = {
    "threads",
    "processes",
    "launch_options",
    "activation_cache_gb",
}  # training settings that are the same task on another machine


def open_study(folder: Path, *, config: Config, data: Mapping[str, Any]) -> optuna.Study:
    """Open the study in a folder, or begin it; trials that a killed process left running are failed.

    Nobody else may be at it.

    Parameters
    ----------
    data : what tells these rows from others, by name

    Raises
    ------
    WorkbookError : the study was made with another space, other training settings, another seed or other rows, and `search.restart` is
        not set; or its journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _mend(folder / JOURNAL)
    try:
        storage = _storage(folder)
        known_names = [each.study_name for each in storage.get_all_studies()]
    except Exception as error:  # records that are no study's: what Optuna then throws has no name
        raise WorkbookError(
            f"{folder / JOURNAL} is no journal of a study ({type(error).__name__}: {error}). Nothing was changed: delete the folder to search anew"
        ) from error
    if NAME in known_names:
        study = optuna.load_study(study_name=NAME, storage=storage)
    else:
        study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize")
    made_with = _made_with(config, data)
    known = study.user_attrs.get("made_with", made_with)
    changed = [
        f"{key} = {known.get(key, 'nothing')}, now {made_with.get(key, 'nothing')}"
        for key in {**known, **made_with}
        if known.get(key) != made_with.get(key)
    ]
    if changed and config.search.restart:
        shutil.rmtree(folder)
        return open_study(folder, config=config, data=data)
    if changed:
        what = "; ".join(changed[:3]) + (
            f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        )
        raise WorkbookError(
            f"the study in {folder} was made with {what}: take another run name, delete that folder, or set search.restart=true"
        )
    if "made_with" not in study.user_attrs:
        study.set_user_attr("made_with", made_with)
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)
    return study


def propose(study: optuna.Study, config: Config) -> optuna.Trial:
    """Return the next trial.

    Its random numbers come from the seed and from how many trials came before it, those aside that were killed: so a study that was
    stopped proposes what it would have proposed.
    """
    before = [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL or "error" in trial.user_attrs
    ]
    study.sampler = _sampler(
        config.search.sampler,
        seed=int(
            np.random.SeedSequence(config.seed, spawn_key=(len(before),)).generate_state(1)[0]
        ),
    )
    return study.ask({key: _distribution(values) for key, values in config.search_space().items()})


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
    lists = {
        key: {_plain(choice): list(choice) for choice in values if isinstance(choice, list | tuple)}
        for key, values in config.search_space().items()
        if isinstance(values, tuple)
    }
    return {key: lists.get(key, {}).get(value, value) for key, value in params.items()}


def n_done(study: optuna.Study) -> int:
    """Return how many trials count against the budget."""
    return len(study.get_trials(deepcopy=False, states=DONE))


def importances(study: optuna.Study, *, seed: int) -> dict[str, float]:
    """Return the share of the variance of the values that each setting explains, largest first; {} below `MIN_COMPLETE` complete trials.

    Source
    ------
    Hutter et al. 2014, "An Efficient Approach for Assessing Hyperparameter Importance" (fANOVA), as in Optuna.
    """
    values = {
        trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    }
    if (
        len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < MIN_COMPLETE
        or len(values) == 1
    ):
        return {}
    return optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed)
    )


def _mend(journal: Path) -> None:
    """Cut off what a kill left of the last line: Optuna would write its next record behind it, and lose both.

    Raises
    ------
    WorkbookError : any other line is no record.
    """
    journal.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{journal}.lock").unlink(missing_ok=True)  # a killed process's
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n") and number == len(lines):
            os.truncate(journal, sum(map(len, lines[:-1])))
        elif not _is_record(line):
            found = line[:60].decode(errors="replace").strip()
            raise WorkbookError(
                f"{journal}, line {number} is no record of a study: {found!r}. Nothing was changed: mend it, or delete the folder to search anew"
            )


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


def _storage(folder: Path) -> JournalStorage:
    path = str(folder / JOURNAL)
    return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))


def _made_with(config: Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must not change while a study goes on, by dotted name."""
    searched = {*config.search.space, "eval_steps", *MACHINE}
    space = {
        f"search.space.{key}": values.model_dump() if isinstance(values, Range) else values
        for key, values in config.search_space().items()
    }
    training = {
        f"training.{key}": value
        for key, value in config.training.model_dump(mode="json").items()
        if key not in searched
    }
    return json.loads(json.dumps({**space, **training, "seed": config.seed, **data}))


def _distribution(values: tuple[Any, ...] | Range) -> BaseDistribution:
    if isinstance(values, tuple):
        return CategoricalDistribution([_plain(choice) for choice in values])
    if isinstance(values.low, int) and isinstance(values.high, int):
        return IntDistribution(values.low, values.high, log=values.log, step=int(values.step or 1))
    return FloatDistribution(values.low, values.high, log=values.log, step=values.step)


def _plain(choice: Any) -> Any:
    return json.dumps(choice) if isinstance(choice, list | tuple) else choice


def _sampler(kind: str, *, seed: int) -> optuna.samplers.BaseSampler:
    if kind == "tpe":
        return optuna.samplers.TPESampler(multivariate=True, seed=seed)
    return (
        optuna.samplers.GPSampler(seed=seed)
        if kind == "gp"
        else optuna.samplers.RandomSampler(seed=seed)
    )


def _pruner(config: Config) -> optuna.pruners.BasePruner:
    if config.search.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=max(1, min(5, config.search.trials // 4))
        )
    if config.search.pruner == "none":
        return optuna.pruners.NopPruner()
    epochs = config.search_space().get("epochs", (config.training.epochs,))
    return optuna.pruners.HyperbandPruner(
        min_resource=1,
        max_resource=max(
            2, round(LOOKS * (epochs.high if isinstance(epochs, Range) else max(epochs)))
        ),
    )
