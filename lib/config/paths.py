"""Paths among the settings, made absolute where settings enter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SOURCES = ("data.source", "robustness.ood_data", "monitoring.log", "monitoring.labels")
MODELS = (
    "training.backbone",
    "labels.encoder",
    "augmentation.masked_model",
    "augmentation.translators",
    "augmentation.paraphraser",
    "robustness.masked_model",
    "robustness.thesaurus",
    "robustness.encoder",
)
# settings of trainings, by the name of a member or by the name of the setting
TRAININGS = ("cross_validation.members", "search.space")
KEYS = (*SOURCES, *MODELS, *TRAININGS)
BUILT_IN = ("minilm", "tiny")  # backbones that are no folders


def absolute(key: str, value: Any) -> Any:
    """Return the value of a setting with its paths absolute; names and other values as they are.

    They are relative to the working folder of this process.

    Parameters
    ----------
    key : one of `KEYS`

    Examples
    --------
    >>> absolute("data.source", "hub:ag_news"), absolute("training.backbone", "minilm")
    ('hub:ag_news', 'minilm')
    >>> absolute("data.source", "my.csv") == str(Path.cwd() / "my.csv")
    True
    """
    if key in SOURCES:
        return _absolute_source(value)
    if key in MODELS:
        return _absolute_models(value)
    if not isinstance(value, Mapping):
        return value
    return {
        name: absolute(key, inner) if isinstance(inner, Mapping) else _of_training(name, inner)
        for name, inner in value.items()
    }


def names_a_path(value: Any) -> bool:
    """Return whether a setting, or a part of it, is an absolute path."""
    if isinstance(value, Mapping):
        return any(map(names_a_path, value.values()))
    if isinstance(value, list | tuple):
        return any(map(names_a_path, value))
    return isinstance(value, str) and Path(value).is_absolute()


def _of_training(name: str, value: Any) -> Any:
    return _absolute_models(value) if name == "backbone" else value


def _absolute_source(source: Any) -> Any:
    is_path = isinstance(source, str) and source not in ("", "docstrings")
    if not is_path or source.startswith("hub:") or "://" in source:
        return source
    return str(Path(source).expanduser().absolute())


def _absolute_models(names: Any) -> Any:
    """Return a model's name, or several; a folder of that name comes before the hub's."""
    if isinstance(names, list | tuple):
        return [_absolute_models(name) for name in names]
    if not isinstance(names, str) or names in ("", *BUILT_IN):
        return names
    folder = Path(names).expanduser().absolute()
    return str(folder) if folder.is_dir() else names
