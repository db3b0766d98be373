"""Which weights learn, from which epoch on, and at which rate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lib.config import TrainingConfig
from lib.training.backbones import encoder_layers, layers_path
from lib.training.finetune import freezing

ABOVE_LAYERS = ("pooler.", "final_norm.")  # of a base model: BERT's; ModernBERT's


def parameter_groups(
    model: Any, settings: TrainingConfig, *, decayed: set[str]
) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups, the head's first.

    The head learns at `learning_rate`, the top layer at `layer_decay` times that, each layer below
    at `layer_decay` times the one above. Parameters that never learn are left out.

    Parameters
    ----------
    decayed : names of the parameters that weight decay applies to

    Returns
    -------
    dicts of `params`, `lr`, `weight_decay` and `first_epoch`, the epoch a group begins to learn in
    """
    by_layer = settings.frozen_layers or settings.unfreeze or settings.layer_decay < 1
    n_layers = len(encoder_layers(model)) if by_layer else 0
    members: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in _ever_learning(model, settings):
        depth = n_layers + 1 - _height(name, model, n_layers)  # 0 is the head's
        members.setdefault((depth, name in decayed), []).append(parameter)
    groups = []
    for depth, decay in sorted(members):
        group = {
            "params": members[depth, decay],
            "lr": settings.learning_rate * settings.layer_decay**depth,
            "weight_decay": settings.weight_decay if decay else 0.0,
            "first_epoch": _first_epoch(settings, n_layers + 1 - depth, n_layers),
        }
        groups.append(group)
    return groups


def _ever_learning(model: Any, settings: TrainingConfig) -> list[tuple[str, torch.nn.Parameter]]:
    frozen = torch.nn.ModuleList(freezing.frozen_parts(model, settings.frozen_layers))
    never = {id(parameter) for parameter in frozen.parameters()}
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if id(parameter) not in never and (parameter.requires_grad or not settings.lora_rank)
    ]


def _height(name: str, model: Any, n_layers: int) -> int:
    """Return 0 for the embeddings and what layers share, 1 to n for layers, n + 1 for the head.

    A pooler and a norm above all layers count as the head's.
    """
    prefix, _, rest = name.partition(".")
    if not n_layers or prefix != model.base_model_prefix or rest.startswith(ABOVE_LAYERS):
        return n_layers + 1
    path = f"{layers_path(model)}."
    return int(rest.removeprefix(path).split(".")[0]) + 1 if rest.startswith(path) else 0


def _first_epoch(settings: TrainingConfig, height: int, n_layers: int) -> int:
    """Return the first epoch in which the layer at a height learns."""
    epoch = 0
    depth = freezing.frozen_depth(settings, epoch, n_layers=n_layers)
    while depth and height <= depth:
        epoch += 1
        depth = freezing.frozen_depth(settings, epoch, n_layers=n_layers)
    return epoch


def head_alone_epochs(settings: TrainingConfig, *, n_layers: int) -> int:
    """Return how many epochs from the first on the head learns alone."""
    epochs = itertools.takewhile(
        lambda epoch: freezing.frozen_depth(settings, epoch, n_layers=n_layers) == n_layers,
        range(len(settings.unfreeze)),
    )
    return len(list(epochs))


def with_head_rate(
    rate: Callable[[int], float], settings: TrainingConfig, *, ends: int
) -> Callable[[int], float]:
    """Return a head's schedule, at `head_learning_rate` before the step `ends`."""
    factor = (settings.head_learning_rate or settings.learning_rate) / settings.learning_rate
    return lambda step: rate(step) * (factor if step < ends else 1.0)


def rate_schedule(settings: TrainingConfig, n_steps: int, *, start: int) -> Callable[[int], float]:
    """Return the multiple of a group's learning rate by step.

    It is the group's own warm-up from `start` on, times the decay that all groups share. SWA holds
    the rate from its start on: averaging over a decayed tail averages points that hardly differ.
    """
    warmup = max(1, round(settings.warmup_share * n_steps)) if settings.warmup_share else 0
    last = settings.averaging_start * n_steps if settings.averaging == "swa" else n_steps

    def rate(step: int) -> float:
        rise = min(1.0, max(0.0, (step - start) / warmup)) if warmup else float(step >= start)
        done = min(1.0, max(0.0, (min(step, last) - warmup) / max(1, n_steps - warmup)))
        if settings.schedule == "linear":
            return rise * (1 - done)
        if settings.schedule == "cosine":
            return float(rise * 0.5 * (1 + np.cos(np.pi * done)))
        return rise

    return rate
