"""A member of a classifier: one model, which takes cleaned texts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lib import workspace
from lib.config import TrainingConfig
from lib.training import baseline, exported_models
from lib.training.classifier_folder import Export, MemberEntry
from lib.training.exported_models import ExportedModel


@dataclass(frozen=True, eq=False)
class Member:
    """One model of a classifier, which takes cleaned texts.

    Attributes
    ----------
    name : shown in reports
    folder : where its files are
    settings : how a transformer reads texts (`max_length`, `truncation`, `precision`); None for a
        linear model on TF-IDF
    exported : what runs a transformer outside torch; None is torch
    """

    name: str
    folder: Path
    settings: TrainingConfig | None = None
    exported: ExportedModel | None = None

    def predict_probs(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Return the probabilities of n cleaned texts: ndarray of shape (n, k)."""
        if self.settings is None:
            return np.asarray(self._model.predict_proba(texts), dtype=float)
        if self.exported is not None:
            return self.exported.predict_probs(texts, progress=progress)
        from lib.training import finetune

        tokenizer, model, _ = self._model
        return finetune.predict_probs(
            tokenizer, model, texts, settings=self.settings, progress=progress
        )

    def load(self) -> None:
        """Load the model now, not with the first texts."""
        if self.exported is None:
            _ = self._model

    @property
    def class_names(self) -> list[str]:
        """Return the classes in the order of its columns."""
        if self.settings is None:
            return list(self._model.classes_)
        names = workspace.read_json(self.folder / "config.json")["id2label"]
        return [names[str(code)] for code in range(len(names))]

    @cached_property
    def _model(self) -> Any:
        if self.settings is None:
            return baseline.load_baseline(self.folder)
        from lib.training import finetune

        return finetune.load_model(self.folder)


def member_entry(member: Member) -> MemberEntry:
    """Return what a classifier's description says of a member."""
    folder = f"members/{workspace.file_name(member.name)}"
    if member.settings is None:
        return MemberEntry(name=member.name, folder=folder)
    from lib.training import finetune

    return MemberEntry(
        name=member.name,
        folder=folder,
        max_length=member.settings.max_length,
        truncation=member.settings.truncation,
        precision=finetune.precision(member.settings),
    )


def load_member(folder: Path, entry: MemberEntry, export: Export | None) -> Member:
    """Return a member of the classifier in a folder, run by an export; None: by torch."""
    if entry.max_length is None:
        return Member(entry.name, folder / entry.folder)
    settings = TrainingConfig(max_length=entry.max_length, truncation=entry.truncation)
    if export is None:
        settings = settings.model_copy(update={"precision": _precision(entry)})
        return Member(entry.name, folder / entry.folder, settings)
    exported = exported_models.load(
        folder / export.models[entry.name],
        engine=export.engine,
        precision=export.precision,
        settings=settings,
    )
    return Member(entry.name, folder / entry.folder, settings, exported)


def _precision(entry: MemberEntry) -> Literal["fp32", "bf16", "fp16"]:
    """Return the precision a member was measured in; float32 where that is slow or absent."""
    from lib.training import finetune

    measured = entry.precision or "fp32"
    if measured == "fp32" or finetune.precision(TrainingConfig()) != "fp32":
        return measured
    warnings.warn(
        f"{entry.name} was measured in {measured}, which this machine lacks or is slow in: "
        "it computes in float32 here",
        stacklevel=2,
    )
    return "fp32"
