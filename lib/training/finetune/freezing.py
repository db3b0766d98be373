"""Gradual unfreezing, and what frozen layers return: computed once instead of in every epoch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training.backbones import encoder_layers, layers_path
from lib.training.finetune import prediction, tokenization

# --- which layers are frozen ---


def frozen_depth(settings: TrainingConfig, epoch: int, *, n_layers: int) -> int:
    """Return how many of the lowest layers are frozen, with the embeddings, in an epoch from 0 on.

    0 freezes nothing.
    """
    if epoch >= len(settings.unfreeze):
        return settings.frozen_layers
    return max(settings.frozen_layers, n_layers - settings.unfreeze[epoch], 0)


def last_stage(settings: TrainingConfig, *, n_layers: int) -> int:
    """Return the epoch from which on all layers learn that ever do."""
    stages = range(len(settings.unfreeze))
    depths = [frozen_depth(settings, epoch, n_layers=n_layers) for epoch in stages]
    early = [epoch for epoch in stages if depths[epoch] > settings.frozen_layers]
    return max(early, default=-1) + 1


def cached_depth(settings: TrainingConfig, epoch: int, *, n_layers: int) -> int:
    """Return how many of the lowest layers are read from a cache in an epoch; 0: there is no cache.

    It follows from the settings alone: a run that is resumed in this epoch must read the same
    numbers from the cache.
    """
    n_epochs = math.ceil(settings.epochs)
    depths = [frozen_depth(settings, number, n_layers=n_layers) for number in range(n_epochs)]
    cached = 0
    for number in range(epoch + 1):
        if 0 < cached <= depths[number]:
            continue
        frozen = list(itertools.takewhile(bool, depths[number:]))
        cached = min(frozen) if len(frozen) > 1 else 0  # one epoch does not pay for a cache
    return cached


def freeze(model: torch.nn.Module, depth: int) -> None:
    """Freeze the embeddings and the `depth` lowest layers, and let everything else learn.

    What the encoder shares between layers (DeBERTa's relative positions) is frozen with them:
    frozen layers read it. 0 lets all learn.
    """
    # gradient checkpointing sets it, and the backward pass would go through frozen layers
    model.disable_input_require_grads()
    model.requires_grad_(True)
    for part in frozen_parts(model, depth):
        part.requires_grad_(False)


def frozen_parts(model: torch.nn.Module, depth: int) -> list[torch.nn.Module]:
    """Return the modules that are frozen at a depth: they neither learn nor drop out.

    Raises
    ------
    WorkbookError : there are fewer layers.
    """
    if not depth:
        return []
    layers = encoder_layers(model)
    if depth > len(layers):
        raise WorkbookError(
            f"training.frozen_layers={depth}, but the backbone has {len(layers)} layers"
        )
    holder, _, name = str(layers_path(model)).rpartition(".")
    children = dict(model.base_model.get_submodule(holder).named_children()) if holder else {}
    shared = [module for child, module in children.items() if child != name]
    return [*_below_layers(model), *layers[:depth], *shared]


def _below_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the embeddings, and ELECTRA's projection of them."""
    base = model.base_model
    projection = getattr(base, "embeddings_project", None)
    return [base.embeddings] if projection is None else [base.embeddings, projection]


# --- what frozen layers return, kept ---


class ActivationCache:
    """What the `depth` lowest layers return for every piece, on disk, memory-mapped.

    Frozen layers never drop out, so that what they return for a piece is the same in every epoch.

    Parameters
    ----------
    pieces : from `tokenization.encode`
    path : file of float32 of shape (tokens kept of all pieces, hidden size)
    pad : token id of padding
    """

    def __init__(
        self,
        model: torch.nn.Module,
        pieces: tokenization.Pieces,
        *,
        depth: int,
        path: Path,
        pad: int,
        progress: bool = False,
    ):
        self.depth = depth
        lengths = pieces.lengths
        is_top = depth == len(encoder_layers(model))
        if is_top and getattr(model.config, "pooling", None) == "cls":
            lengths = np.ones_like(lengths)  # the head reads nothing else
        self.n_kept = lengths
        self.starts = np.concatenate([[0], np.cumsum(lengths)])
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (int(self.starts[-1]), model.config.hidden_size)
        self.values = np.memmap(path, np.float32, mode="w+", shape=shape)
        model.eval()
        batches = prediction.padded_batches(
            pieces, pad=pad, device=model.device, desc="frozen layers", progress=progress
        )
        with torch.inference_mode():
            for batch, ids, mask in batches:
                hidden, self.n_outputs = lower_layers(model, ids, mask, depth=depth)
                for piece, states in zip(batch, hidden.float().cpu().numpy()):
                    kept = states[: self.n_kept[piece]]
                    self.values[self.starts[piece] : self.starts[piece + 1]] = kept

    def __call__(self, pieces: np.ndarray, n_tokens: int) -> torch.Tensor:
        """Return hidden states of pieces, padded with zeros to shape (pieces, n_tokens, hidden)."""
        hidden = np.zeros((len(pieces), n_tokens, self.values.shape[1]), np.float32)
        for row, piece in zip(hidden, pieces):
            row[: self.n_kept[piece]] = self.values[self.starts[piece] : self.starts[piece + 1]]
        return torch.from_numpy(hidden)

    def bypass(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Within the block, the model goes on from what this cache returns (`inputs_embeds`)."""
        return bypassed(model, self.depth, n_outputs=self.n_outputs)


def cache_gb(pieces: tokenization.Pieces, hidden_size: int) -> float:
    """Return the disk that a cache of these pieces takes, in GB."""
    return len(pieces.tokens) * hidden_size * 4 / 1e9


def can_cache(model: torch.nn.Module) -> bool:
    """Return whether the model can go on from kept hidden states, tried on two short texts.

    It cannot where the encoder does more than call its layers in turn: a convolution
    (deberta-v2-xlarge), a projection (RemBERT).
    """
    ids = torch.arange(2, 10, device=model.device).view(2, 4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], device=model.device)
    model.eval()
    try:
        with torch.inference_mode():
            whole = model.base_model(input_ids=ids, attention_mask=mask)[0]
            hidden, n_outputs = lower_layers(model, ids, mask, depth=1)
            with bypassed(model, 1, n_outputs=n_outputs):
                resumed = model.base_model(inputs_embeds=hidden, attention_mask=mask)[0]
            return torch.allclose(whole, resumed, atol=1e-4)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError):
        return False  # its parts have other shapes or names


class _Captured(Exception):  # noqa: N818 - no error: it ends a forward pass early
    pass


def lower_layers(
    model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, *, depth: int
) -> tuple[torch.Tensor, int | None]:
    """Run the `depth` lowest layers.

    Returns
    -------
    hidden : their hidden states, of shape (batch, tokens, hidden)
    n_outputs : length of the tuple that a layer returns, None where it returns a tensor
    """
    outputs: list[Any] = []

    def capture(_module: Any, _inputs: Any, output: Any) -> None:
        outputs.append(output)
        raise _Captured

    hook = encoder_layers(model)[depth - 1].register_forward_hook(capture)
    try:
        model.base_model(input_ids=ids, attention_mask=mask)
    except _Captured:
        pass
    finally:
        hook.remove()
    output = outputs[0]
    return (output[0], len(output)) if isinstance(output, tuple) else (output, None)


@contextmanager
def bypassed(model: torch.nn.Module, depth: int, *, n_outputs: int | None) -> Iterator[None]:
    """Within the block, the model takes hidden states as `inputs_embeds` and goes on from there.

    Parameters
    ----------
    n_outputs : as `lower_layers` returns it
    """
    embeddings, *projection = _below_layers(model)

    def given(*_args: Any, inputs_embeds: torch.Tensor, **_kwargs: Any) -> torch.Tensor:
        return inputs_embeds

    def unchanged(hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states

    def passed_on(hidden_states: torch.Tensor, *_args: Any, **_kwargs: Any) -> Any:
        return hidden_states if n_outputs is None else (hidden_states, *[None] * (n_outputs - 1))

    layers = encoder_layers(model)[:depth]
    stand_ins = {embeddings: given, **dict.fromkeys(projection, unchanged)}
    stand_ins |= dict.fromkeys(layers, passed_on)
    for module, stand_in in stand_ins.items():
        module.forward = stand_in  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in stand_ins:
            del module.forward
