"""What one fine-tuning is: its rows, its settings, where it goes and who follows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from lib import workspace
from lib.config import Config, TrainingConfig
from lib.training import tracking
from lib.workspace import Workspace


@dataclass(frozen=True)
class TrainingJob:
    """One fine-tuning.

    Attributes
    ----------
    train, val : with `text` and `label`
    ws : where the model goes
    watch : is given the history after every evaluation; what it raises ends the training
    record : where the training is tracked, None where it is not
    """

    train: pd.DataFrame
    val: pd.DataFrame
    config: Config
    ws: Workspace
    progress: bool = False
    watch: Callable[[pd.DataFrame], None] | None = None
    record: tracking.Record | None = None

    @property
    def settings(self) -> TrainingConfig:
        """Return the settings of the training."""
        return self.config.training

    @property
    def folder(self) -> Path:
        """Return the folder of all that this training writes."""
        return self.ws.folder(workspace.MODELS)

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints, which are deleted when the model is saved."""
        return self.folder / "checkpoints"

    @property
    def model_dir(self) -> Path:
        """Return the folder of the model that is kept."""
        return self.ws.path("transformer")

    @property
    def last_model_dir(self) -> Path:
        """Return the folder of the model that training ended with, the best one or not."""
        return self.folder / "last_checkpoint"

    def with_settings(self, settings: TrainingConfig) -> TrainingJob:
        """Return the same job with other settings."""
        return replace(self, config=self.config.model_copy(update={"training": settings}))
