"""All settings of a run: a profile's YAML file with dotted overrides laid over it."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from lib.config import paths
from lib.config.data import (
    AugmentationConfig,
    CleaningConfig,
    DataConfig,
    LabelsConfig,
    ProfilingConfig,
    SplitConfig,
)
from lib.config.delivery import ExportConfig
from lib.config.evaluation import EvaluationConfig
from lib.config.monitoring import MonitoringConfig
from lib.config.robustness import RobustnessConfig
from lib.config.section import Section
from lib.config.training import (
    ComputeConfig,
    CrossValidationConfig,
    EnsembleConfig,
    LedgerConfig,
    Range,
    SearchConfig,
    TrackingConfig,
    TrainingConfig,
)
from lib.errors import WorkbookError, quoted

PROFILES = Path(__file__).resolve().parents[2] / "notebooks" / "profiles"
FIXED_FOLDS = 5  # of a search and of the learning curve
RENAMED = {  # a former name gets the present one in its error
    "training.head_dropouts": "training.multisample_dropout",
    "training.adversarial_size": "training.adversarial_epsilon",
    "cross_validation.stop_share": "cross_validation.early_stopping_share",
}


class Config(Section):
    """All settings of a run.

    Examples
    --------
    >>> Config.load("smoke", {"training.epochs": 2}).training.epochs
    2.0
    """

    profile: str
    seed: int = Field(42, ge=0, lt=2**32)
    data: DataConfig = DataConfig()
    profiling: ProfilingConfig = ProfilingConfig()
    cleaning: CleaningConfig = CleaningConfig()
    split: SplitConfig = SplitConfig()
    labels: LabelsConfig = LabelsConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig = TrainingConfig()
    ledger: LedgerConfig = LedgerConfig()
    search: SearchConfig = SearchConfig()
    cross_validation: CrossValidationConfig = CrossValidationConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    export: ExportConfig = ExportConfig()
    monitoring: MonitoringConfig = MonitoringConfig()
    compute: ComputeConfig = ComputeConfig()
    tracking: TrackingConfig = TrackingConfig()

    @classmethod
    def load(cls, profile: str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
        """Read a profile and lay dotted overrides over it; paths become absolute.

        Parameters
        ----------
        profile : name of a file in notebooks/profiles; None or "" takes the environment variable
            WORKBOOK_PROFILE, else `quick`
        overrides : {"training.epochs": 3, ...}

        Raises
        ------
        WorkbookError : no such profile, no such key (the closest one is named), or a value out of
            range.
        """
        profile = profile or os.environ.get("WORKBOOK_PROFILE") or "quick"
        names = profile_names()
        if profile not in names:
            raise WorkbookError(
                f"no profile {profile!r}{closest(profile, names)}; there are {', '.join(names)}"
            )
        settings = yaml.safe_load((PROFILES / f"{profile}.yaml").read_text(encoding="utf-8")) or {}
        for key, value in (overrides or {}).items():
            _set_dotted(settings, key, value)
        for key in paths.KEYS:
            section, _, name = key.partition(".")
            if name in (settings.get(section) or {}):
                settings[section][name] = paths.absolute(key, settings[section][name])
        try:
            return cls.model_validate({**settings, "profile": profile})
        except ValidationError as error:
            messages = [error_message(detail) for detail in error.errors()]
            raise WorkbookError("; ".join(messages)) from None

    def flat(self) -> dict[str, Any]:
        """Return every setting under its dotted key."""
        return {key: self.value(key) for key in setting_keys()}

    def local_paths(self) -> dict[str, Any]:
        """Return the settings that name a file or folder, under their dotted keys, as for JSON."""
        values = self.model_dump(mode="json")
        found = {}
        for key in paths.KEYS:
            section, _, name = key.partition(".")
            if paths.names_a_path(values[section][name]):
                found[key] = values[section][name]
        return found

    def value(self, key: str) -> Any:
        """Return the setting under a dotted key."""
        value: Any = self
        for part in key.split("."):
            value = getattr(value, part)
        return value

    @property
    def n_folds(self) -> int:
        """Return how many different training texts of a class all folds need."""
        curve_folds = FIXED_FOLDS if self.cross_validation.curve_draws else 0
        search_folds = self.search_folds if self.search.trials else 0
        return max(self.labels.folds, self.cross_validation.folds, curve_folds, search_folds)

    @property
    def search_folds(self) -> int:
        """Return how many different texts of a class a search needs."""
        nested = self.search.nested_folds
        if not nested:
            return FIXED_FOLDS
        # each of its searches has all folds but one
        return max(nested, math.ceil(FIXED_FOLDS * nested / (nested - 1)))

    @property
    def fewer_folds(self) -> list[str]:
        """Return the settings, with their values, that need the fewest folds."""
        fewest = {
            "labels.folds": 2,
            "cross_validation.folds": 2,
            "search.trials": 0,
            "cross_validation.curve_draws": 0,
        }
        return [f"{key}={value}" for key, value in fewest.items() if self.value(key) != value]

    def member_config(self, name: str) -> Config:
        """Return the settings of a run that trains a member: its training settings and its seed."""
        seed = self.cross_validation.members[name].get("seed", self.seed)
        return self.model_copy(update={"training": self.member(name), "seed": seed})

    def member(self, name: str) -> TrainingConfig:
        """Return the training settings of a member of the cross-validation."""
        where = f"cross_validation.members: {name!r}"
        changed = dict(self.cross_validation.members[name])
        changed.pop("seed", None)
        for key in changed:
            if key not in TrainingConfig.model_fields:
                near = closest(key, TrainingConfig.model_fields)
                keys = ", ".join(TrainingConfig.model_fields)
                raise ValueError(f"{where} sets {key!r}{near}; a member sets seed, {keys}")
        try:
            return TrainingConfig.model_validate(self.training.model_dump() | changed)
        except ValidationError as error:
            raise ValueError(f"{where}: {error_message(error.errors()[0])}") from None

    def search_space(self) -> dict[str, tuple[Any, ...] | Range]:
        """Return the choices or the range of each searched setting, as training reads them."""
        return {key: self._searched(key, values) for key, values in self.search.space.items()}

    @model_validator(mode="after")
    def _members_can_be_trained(self) -> Config:
        for name, settings in self.cross_validation.members.items():
            seed = settings.get("seed", 0)
            if not isinstance(seed, int) or not 0 <= seed < 2**32:
                raise ValueError(
                    f"cross_validation.members: {name!r}: seed is a whole number from 0 on, "
                    f"found {seed!r}"
                )
            self.member(name)
        return self

    @model_validator(mode="after")
    def _space_can_be_trained(self) -> Config:
        self.search_space()
        return self

    def _searched(self, key: str, values: Any) -> tuple[Any, ...] | Range:
        if key == "eval_steps":
            raise ValueError(f"search.space: {key!r} is set by the search itself")
        if key not in TrainingConfig.model_fields:
            near = closest(key, TrainingConfig.model_fields)
            raise ValueError(f"search.space: {key!r} is not a training setting{near}")
        try:
            if isinstance(values, dict):
                return self._searched_range(key, values)
            if not isinstance(values, list | tuple) or not values:
                raise ValueError(
                    f"give a list of choices, or {{low: .., high: ..}}; found {values!r}"
                )
            return tuple(self._as_setting(key, value) for value in values)
        except ValidationError as error:
            parts = [
                ": ".join([*map(str, detail["loc"]), _message(detail)]) for detail in error.errors()
            ]
            raise ValueError(f"search.space.{key}: {'; '.join(parts)} (found {values!r})") from None
        except ValueError as error:
            raise ValueError(f"search.space.{key}: {error}") from None

    def _searched_range(self, key: str, values: dict[str, Any]) -> Range:
        given = Range.model_validate(values)
        low, high = self._as_setting(key, given.low), self._as_setting(key, given.high)
        for end in (low, high):
            if isinstance(end, bool) or not isinstance(end, int | float):
                raise ValueError(
                    f"a range is for numbers, and it takes {low!r}: give a list of choices"
                )
        return Range.model_validate(values | {"low": low, "high": high})

    def _as_setting(self, key: str, value: Any) -> Any:
        """Return a value as TrainingConfig reads it."""
        settings = TrainingConfig.model_validate(self.training.model_dump() | {key: value})
        return getattr(settings, key)


def profile_names() -> list[str]:
    """Return the names of the profiles there are, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def setting_keys() -> list[str]:
    """Return the dotted keys that an override may name."""
    keys = []
    for name, field in Config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += [f"{name}.{inner}" for inner in kind.model_fields]
        elif name != "profile":
            keys.append(name)
    return keys


def closest(name: str, names: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the one of `names` nearest to `name`, or ""."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" (did you mean {quoted(near[0])}?)" if near else ""


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn the `key=value` words of a command line into overrides.

    Values are read as YAML; nothing is the empty text where that is the setting's default.

    Examples
    --------
    >>> parse_overrides(["training.epochs=3", "data.merge_labels=true"])
    {'training.epochs': 3, 'data.merge_labels': True}
    """
    overrides: dict[str, Any] = {}
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals:
            raise WorkbookError(
                f"--set takes key=value, found {word!r}; for instance --set training.epochs=3"
            )
        _check_key(key)
        if not value and Config(profile="").value(key) == "":
            overrides[key] = ""
            continue
        try:
            overrides[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise WorkbookError(
                f"--set {key}: {value!r} is not a YAML value; quote it, for instance "
                f"--set {key}='\"{value}\"'"
            ) from None
    return overrides


def error_message(detail: Any) -> str:
    """Return one of pydantic's errors as a line; of a check over several settings its own words."""
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return _unknown(key)
    if isinstance(detail["input"], Mapping | BaseModel):  # the whole section
        return f"{key}: {_message(detail)}" if key else _message(detail)
    return f"{key}: {_message(detail)} (found {detail['input']!r})"


def _set_dotted(settings: dict[str, Any], key: str, value: Any) -> None:
    _check_key(key)
    *sections, last = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[last] = value


def _check_key(key: str) -> None:
    if key not in setting_keys():
        raise WorkbookError(_unknown(key))


def _unknown(key: str) -> str:
    if key in RENAMED:
        return f"no setting {key!r}: it is {RENAMED[key]!r} now"
    return f"no setting {key!r}{closest(key, setting_keys())}"


def _message(detail: Any) -> str:
    return detail["msg"].removeprefix("Value error, ")
