"""Every setting of a run, typed and validated; one YAML file a profile."""

from lib.config.config import (
    FIXED_FOLDS,
    PROFILES,
    Config,
    closest,
    error_message,
    parse_overrides,
    profile_names,
    setting_keys,
)
from lib.config.data import (
    DELIMITERS,
    AugmentationConfig,
    CleaningConfig,
    DataConfig,
    LabelsConfig,
    ProfilingConfig,
    SplitConfig,
)
from lib.config.delivery import ExportConfig
from lib.config.evaluation import EvaluationConfig
from lib.config.files import read_settings
from lib.config.monitoring import MonitoringConfig
from lib.config.robustness import RobustnessConfig
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

__all__ = [
    "DELIMITERS",
    "FIXED_FOLDS",
    "PROFILES",
    "AugmentationConfig",
    "CleaningConfig",
    "ComputeConfig",
    "Config",
    "CrossValidationConfig",
    "DataConfig",
    "EnsembleConfig",
    "EvaluationConfig",
    "ExportConfig",
    "LabelsConfig",
    "LedgerConfig",
    "MonitoringConfig",
    "ProfilingConfig",
    "Range",
    "RobustnessConfig",
    "SearchConfig",
    "SplitConfig",
    "TrackingConfig",
    "TrainingConfig",
    "closest",
    "error_message",
    "parse_overrides",
    "profile_names",
    "read_settings",
    "setting_keys",
]
