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
from lib.training.finetune import tokenization


def frozen_depth(settings: TrainingConfig, epoch: int, *, n_layers: int) -> int:
    """Return how many of the lowest layers are frozen (with the embeddings) in an epoch, counted from 0; 0 freezes nothing."""
    if epoch >= len(settings.unfreeze):
        return settings.frozen_layers
    return max(settings.frozen_layers, n_layers - settings.unfreeze[epoch], 0)


def freeze(model: torch.nn.Module, depth: int) -> None:
    """Freeze the embeddings and the `depth` lowest layers, and let everything else learn; 0 lets all learn.

    What the encoder shares between layers (DeBERTa's relative positions) is frozen with them: frozen layers read it.
    """
    model.disable_input_require_grads()  # gradient checkpointing sets it, and the backward pass would go through frozen layers
    for parameter in model.parameters():
        parameter.requires_grad_(True)
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
    layers, encoder = encoder_layers(model), model.base_model.encoder
    if depth > len(layers):
        raise WorkbookError(
            f"training.frozen_layers={depth}, but the backbone has {len(layers)} layers"
        )
    shared = [
        module
        for name, module in encoder.named_children()
        if name != "layer" and module is not None
    ]
    return [*_below_layers(model), *layers[:depth], *shared]


def _below_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the embeddings, and ELECTRA's projection of them."""
    projection = getattr(model.base_model, "embeddings_project", None)
    return [model.base_model.embeddings] + ([projection] if projection is not None else [])


class ActivationCache:
    """What the embeddings and the `depth` lowest layers give for every piece, on disk, memory-mapped.

    Frozen layers never drop out, so that what they give for a piece is the same in every epoch.

    Parameters
    ----------
    path : file of float32 of shape (tokens kept of all pieces, hidden size)
    """

    def __init__(
        self,
        model: torch.nn.Module,
        pieces: datasets.Dataset,
        *,
        depth: int,
        path: Path,
        pad: int,
        progress: bool = False,
    ):
        self.depth, self.path = depth, path
        lengths = np.asarray(pieces["length"])
        first_only = depth == len(encoder_layers(model)) and hasattr(
            model, "first_token_hook"
        )  # all that is read of the top layer
        self.kept = np.ones_like(lengths) if first_only else lengths
        self.starts = np.concatenate([[0], np.cumsum(self.kept)])
        path.parent.mkdir(parents=True, exist_ok=True)
        self.values = np.memmap(
            path, np.float32, mode="w+", shape=(int(self.starts[-1]), model.config.hidden_size)
        )
        self._fill(model, pieces.with_format("numpy"), lengths, pad=pad, progress=progress)

    def _fill(
        self,
        model: torch.nn.Module,
        ids: datasets.Dataset,
        lengths: np.ndarray,
        *,
        pad: int,
        progress: bool,
    ) -> None:
        device = next(model.parameters()).device
        model.eval()
        with (
            tqdm(
                total=len(lengths), desc="frozen layers", unit="piece", disable=not progress
            ) as bar,
            torch.inference_mode(),
        ):
            for batch in tokenization.sorted_batches(lengths, device=device):
                tokens, mask = tokenization.padded(ids[batch]["input_ids"], pad=pad, device=device)
                given = lower_layers(model, tokens, mask, depth=self.depth).float().cpu().numpy()
                for piece, value in zip(batch, given):
                    self.values[self.starts[piece] : self.starts[piece + 1]] = value[
                        : self.kept[piece]
                    ]
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
    """Return whether hidden states put in after the lowest layer give what the model gives, tried on two short texts.

    Not where the encoder does more than call its layers in turn: a convolution (deberta-v2-xlarge), a projection (RemBERT).
    """
    device = next(model.parameters()).device
    ids, mask = (
        torch.arange(2, 10, device=device).view(2, 4),
        torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], device=device),
    )
    model.eval()
    try:
        with torch.inference_mode():
            whole, hidden = (
                model.base_model(input_ids=ids, attention_mask=mask)[0],
                lower_layers(model, ids, mask, depth=1),
            )
            with bypassed(model, 1):
                return torch.allclose(
                    whole, model.base_model(inputs_embeds=hidden, attention_mask=mask)[0], atol=1e-4
                )
    except (
        RuntimeError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
    ):  # its parts have other shapes or names
        return False


class _Captured(Exception):  # noqa: N818 - no error: it ends a forward pass early
    pass


def lower_layers(
    model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, *, depth: int
) -> torch.Tensor:
    """Return the hidden states after the `depth` lowest layers, of shape (batch, tokens, hidden)."""
    found: list[Any] = []

    def capture(_module: Any, _inputs: Any, output: Any) -> None:
        found.append(output)
        raise _Captured

    hook = encoder_layers(model)[depth - 1].register_forward_hook(capture)
    try:
        model.base_model(input_ids=ids, attention_mask=mask)
    except _Captured:
        pass
    finally:
        hook.remove()
    model.n_layer_outputs = (
        len(found[0]) if isinstance(found[0], tuple) else None
    )  # `bypassed` has to give as many
    return found[0] if model.n_layer_outputs is None else found[0][0]


@contextmanager
def bypassed(model: torch.nn.Module, depth: int) -> Iterator[None]:
    """Within the block, the model takes what `lower_layers` gave as `inputs_embeds`, and goes on from there."""
    embeddings, *projection = _below_layers(model)

    def unchanged(hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states

    def passed_on(hidden_states: torch.Tensor, *_args: Any, **_kwargs: Any) -> Any:
        n = model.n_layer_outputs
        return hidden_states if n is None else (hidden_states, *[None] * (n - 1))

    def given(*_args: Any, inputs_embeds: torch.Tensor, **_kwargs: Any) -> torch.Tensor:
        return inputs_embeds

    stand_ins: list[tuple[torch.nn.Module, Callable]] = [
        (embeddings, given),
        *((module, unchanged) for module in projection),
    ]
    stand_ins += [(layer, passed_on) for layer in encoder_layers(model)[:depth]]
    for module, stand_in in stand_ins:
        module.forward = stand_in  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, _ in stand_ins:
            del module.forward
