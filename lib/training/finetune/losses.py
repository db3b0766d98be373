"""What the loss is made of: class weights, the loss of guessing, divergence, perturbed weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name


def class_weights(y_train: np.ndarray, kind: str, *, n_classes: int) -> torch.Tensor:
    """Return a weight for each class, of mean 1 over the rows.

    Parameters
    ----------
    kind : `balanced` weighs a class by the inverse of its size; anything else weighs all alike
    """
    if kind != "balanced":
        return torch.ones(n_classes)
    counts = np.bincount(y_train, minlength=n_classes)
    return torch.tensor(len(y_train) / (n_classes * counts), dtype=torch.float32)


def guessing_loss(y_train: np.ndarray, weights: np.ndarray, *, label_smoothing: float) -> float:
    """Return the lowest mean loss, weighted and smoothed as in training, of one guess for all rows.

    Parameters
    ----------
    weights : of each class, mean 1 over the rows

    Examples
    --------
    >>> y_train = np.array([0, 0, 0, 1])
    >>> round(guessing_loss(y_train, np.ones(2), label_smoothing=0), 3)  # the shares' entropy
    0.562
    >>> balanced = np.array([2 / 3, 2])  # both classes weigh the same: log 2
    >>> round(guessing_loss(y_train, balanced, label_smoothing=0), 3)
    0.693
    """
    k = len(weights)
    shares = np.bincount(y_train, minlength=k) / len(y_train)
    targets = (1 - label_smoothing) * shares * weights + label_smoothing / k  # the cheapest guess
    targets = targets[targets > 0]
    return float(-(targets * np.log(targets)).sum())


def symmetric_divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the mean of both Kullback-Leibler divergences between two sets of logits, by row.

    Source
    ------
    Liang et al. 2021, "R-Drop"
    """
    one = F.log_softmax(first, -1)
    other = F.log_softmax(second, -1)
    return 0.5 * ((one.exp() - other.exp()) * (one - other)).sum(-1)


@contextlib.contextmanager
def perturbed(model: Any, *, target: str, epsilon: float) -> Iterator[None]:
    """Within the block, weights are moved up their gradients.

    Parameters
    ----------
    target : `embeddings` moves the table of word embeddings, all texts of the batch together
        (FGM; Miyato et al. 2017 move the embeddings of each text by itself), `weights` all
        matrices that learn (AWP, Wu et al. 2020)
    epsilon : norm of each tensor's move, relative to the norm of the tensor (`weights`) or to the
        mean norm of the table's rows (`embeddings`)
    """
    if target == "embeddings":
        chosen = [model.get_input_embeddings().weight]
    else:
        chosen = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:  # memory may run out while they are moved
        with torch.no_grad():
            for weight in chosen:
                norm = torch.zeros(()) if weight.grad is None else weight.grad.norm()
                if not torch.isfinite(norm) or norm == 0:
                    continue
                scale = weight.norm() if target == "weights" else weight.norm(dim=1).mean()
                saved.append((weight, weight.clone()))
                weight.add_(weight.grad * (epsilon * scale / norm))
        yield
    finally:
        with torch.no_grad():
            for weight, before in saved:
                weight.copy_(before)
