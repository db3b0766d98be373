"""Gradual unfreezing, and the activations of frozen layers computed once instead of in every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from tqdm import tqdm

from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training.backbones import encoder_layers
from lib.training.finetune import encoding


def frozen_depth(settings: TrainingConfig, epoch: int, *, n_layers: int) -> int:
    """Return how many of the lowest layers are frozen (with the embeddings) in an epoch, counted from 0; 0 freezes nothing.

    Raises
    ------
    WorkbookError : more layers are to be frozen than there are.
    """
    if settings.frozen_layers > n_layers:
        raise WorkbookError(f"training.frozen_layers={settings.frozen_layers}, but the backbone has {n_layers} layers")
    if epoch >= len(settings.unfreeze):
        return settings.frozen_layers
    return max(settings.frozen_layers, n_layers - settings.unfreeze[epoch], 0)


def freeze(model: torch.nn.Module, depth: int) -> None:
    """Freeze the embeddings and the `depth` lowest layers, and let everything else learn; 0 lets all learn.

    What the encoder shares between layers (DeBERTa's relative positions) is frozen with them: frozen layers read it.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for part in frozen_parts(model, depth):
        part.requires_grad_(False)


def frozen_parts(model: torch.nn.Module, depth: int) -> list[torch.nn.Module]:
    """Return the modules that are frozen at a depth: they neither learn nor drop out."""
    if not depth:
        return []
    encoder = model.base_model.encoder
    shared = [module for name, module in encoder.named_children() if name != "layer" and module is not None]
    return [model.base_model.embeddings, *encoder_layers(model)[:depth], *shared]


class ActivationCache:
    """What the embeddings and the `depth` lowest layers give for every piece, on disk, memory-mapped.

    Frozen layers never drop out, so that what they give for a piece is the same in every epoch.

    Parameters
    ----------
    path : file of float32 of shape (tokens kept of all pieces, hidden size)
    """

    def __init__(self, model: torch.nn.Module, pieces: datasets.Dataset, *, depth: int, path: Path, pad: int, progress: bool = False):
        self.depth, self.path = depth, path
        lengths = np.asarray(pieces["length"])
        first_only = depth == len(encoder_layers(model)) and hasattr(model, "first_token_hook")  # all that is read of the top layer
        self.kept = np.ones_like(lengths) if first_only else lengths
        self.starts = np.concatenate([[0], np.cumsum(self.kept)])
        path.parent.mkdir(parents=True, exist_ok=True)
        self.values = np.memmap(path, np.float32, mode="w+", shape=(int(self.starts[-1]), model.config.hidden_size))
        self._fill(model, pieces.with_format("numpy"), lengths, pad=pad, progress=progress)

    def _fill(self, model: torch.nn.Module, ids: datasets.Dataset, lengths: np.ndarray, *, pad: int, progress: bool) -> None:
        device = next(model.parameters()).device
        model.eval()
        with tqdm(total=len(lengths), desc="frozen layers", unit="piece", disable=not progress) as bar, torch.inference_mode():
            for batch in encoding.sorted_batches(lengths, device=device):
                tokens, mask = encoding.padded(ids[batch]["input_ids"], pad=pad)
                given = lower_layers(model, tokens.to(device), mask.to(device), depth=self.depth).float().cpu().numpy()
                for piece, value in zip(batch, given):
                    self.values[self.starts[piece] : self.starts[piece + 1]] = value[: self.kept[piece]]
                bar.update(len(batch))

    def __call__(self, pieces: np.ndarray, n_tokens: int) -> torch.Tensor:
        """Return the hidden states of pieces, padded with zeros to shape (pieces, n_tokens, hidden)."""
        found = np.zeros((len(pieces), n_tokens, self.values.shape[1]), np.float32)
        for row, piece in zip(found, pieces):
            row[: self.kept[piece]] = self.values[self.starts[piece] : self.starts[piece + 1]]
        return torch.from_numpy(found)

    @staticmethod
    def size_gb(pieces: datasets.Dataset, hidden_size: int) -> float:
        """Return the disk a cache of these pieces takes, in GB."""
        return int(np.sum(pieces["length"])) * hidden_size * 4 / 1e9


def can_cache(model: torch.nn.Module) -> bool:
    """Return whether hidden states can be put in after a layer: not where a convolution mixes layers (deberta-v2-xlarge)."""
    return getattr(model.base_model.encoder, "conv", None) is None


class _Captured(Exception):  # noqa: N818 - no error: it ends a forward pass early
    pass


def lower_layers(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, *, depth: int) -> torch.Tensor:
    """Return the hidden states after the `depth` lowest layers, of shape (batch, tokens, hidden)."""
    found: list[torch.Tensor] = []

    def capture(_module: Any, _inputs: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        raise _Captured

    hook = encoder_layers(model)[depth - 1].register_forward_hook(capture)
    try:
        model.base_model(input_ids=ids, attention_mask=mask)
    except _Captured:
        pass
    finally:
        hook.remove()
    return found[0]


@contextmanager
def bypassed(model: torch.nn.Module, depth: int) -> Iterator[None]:
    """Within the block, the model takes what the `depth` lowest layers give as `inputs_embeds`, and goes on from there."""
    layers = encoder_layers(model)[:depth]
    gives_tuple = type(model.base_model).__name__.startswith("Deberta")  # its layers return (hidden states, attention)

    def passed_on(hidden_states: torch.Tensor, *_args: Any, **_kwargs: Any) -> Any:
        return (hidden_states, None) if gives_tuple else hidden_states

    def given(*_args: Any, inputs_embeds: torch.Tensor, **_kwargs: Any) -> torch.Tensor:
        return inputs_embeds

    stand_ins: list[tuple[torch.nn.Module, Callable]] = [(model.base_model.embeddings, given), *((layer, passed_on) for layer in layers)]
    for module, stand_in in stand_ins:
        module.forward = stand_in  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, _ in stand_ins:
            del module.forward
