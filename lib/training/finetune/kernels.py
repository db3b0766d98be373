"""Faster ways through the same model: fused attention, fewer relative positions, torch.compile."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# The version whose source was read for what `_install` puts right.
PACKAGE = "disentangled-flash==1.1.1"
# Tokens: twice the 128 where DeBERTa's distances begin to share embeddings; ends within a
# kernel's tile; padding.
CHECKED_LENGTHS = (256, 97, 33, 4)
# On a CPU rounding was 1e-6; the mildest fault tried, one term wrong beyond 130 positions, was
# 4e-3.
FLOAT32_GAP = 1e-3
# The fused kernel's rounding in half precision, in units of the eager code's; FlashAttention's own
# tests allow 2 to 3.
HALF_RATIO = 3.0
# A rounding error of that size passes whatever the eager code's is.
HALF_FLOOR = 1e-3
DEBERTA = "deberta-v2"  # the model type of version 3 too
EAGER = "attention: the model's own code"


def use_fused_attention(model: PreTrainedModel, *, backend: str | None = None) -> str:
    """Compute a DeBERTa-v2 or v3's attention with disentangled-flash, if that passes a check.

    The check takes four padded texts in eval mode. The logits and the gradients of the
    embeddings, of a query projection and of the relative positions must be the eager code's,
    in float32 and in half precision. Weights stay the same objects under the same keys, so that
    optimizer, freezing and checkpoints are the eager model's. Attention dropout is the one set
    when this is called. Nothing is unpadded: in length-grouped batches of the documentation
    texts 2 to 4 % of the tokens are padding.

    Parameters
    ----------
    model : in float32, without LoRA yet; changed in place, and moved to the GPU where there is
        one, to be checked there
    backend : `triton` (needs a GPU), `torch` (any device, for tests), or None: triton where the
        model is on a GPU

    Returns
    -------
    a line that says what is used; where that is the eager code, why, and the model is as it was
    """
    device = _training_device(model)
    obstacle = _obstacle(model, needs_gpu=backend is None and device.type != "cuda")
    if obstacle:
        return f"{EAGER} ({obstacle})"
    backend = backend or "triton"
    try:
        model.to(device)
        passed, findings = _install_checked(model, backend=backend)
    except Exception as error:  # whatever a kernel throws, training goes on without it
        failure = f"{type(error).__name__}: {_first_line(error)}"
        return f"{EAGER} (the fused kernel failed: {failure})"
    if not passed:
        return f"{EAGER} (the fused kernel {findings})"
    version = importlib.metadata.version("disentangled-flash")
    return f"attention: disentangled-flash {version}, {backend} ({findings})"


def use_needed_positions(model: PreTrainedModel) -> None:
    """Restrict a DeBERTa-v2 or v3's own attention to the distances that occur in a batch.

    A text of n tokens has the distances 1 - n to n - 1, yet every layer projects 512 embeddings
    of distances for each batch and multiplies every token with all of them. Logits and gradients
    stay as they are. Does nothing to other models.
    """
    if model.config.model_type != DEBERTA:  # DeBERTa-v1 has an attention of the same name
        return
    for layer in model.base_model.encoder.layer:
        attention = layer.attention.self
        if not _is_eager(attention) or not attention.relative_attention:
            continue
        if not hasattr(attention, "positions_hook"):  # a second would cut what the first has cut
            hook = partial(_only_needed_positions, attention.pos_ebd_size)
            attention.positions_hook = attention.register_forward_pre_hook(hook, with_kwargs=True)


def _only_needed_positions(
    n_embedded: int, attention: Any, args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    import torch
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    farthest = torch.tensor(args[0].shape[1] - 1)
    if attention.position_buckets > 0:
        farthest = make_log_bucket_position(
            farthest, attention.position_buckets, attention.max_relative_positions
        )
    needed = min(int(farthest) + 1, n_embedded)
    # Where the attention's index of distance 0 lies. Set at each call, so a recomputed pass agrees.
    attention.pos_ebd_size = needed
    embeddings = kwargs["rel_embeddings"][n_embedded - needed : n_embedded + needed]
    return args, {**kwargs, "rel_embeddings": embeddings}


def compile_model(model: torch.nn.Module, *, wanted: bool) -> tuple[torch.nn.Module, str]:
    """Compile a model in place with torch.compile, for batches of any shape, under the same keys.

    Compiling happens in the first forward passes, out of reach of this function. It compiles a
    function of one line to see that the machine can, and tells torch to run whatever part of the
    model does not compile as it is.

    Returns
    -------
    the same model, and a line that says whether it is compiled
    """
    import torch

    if not wanted:
        return model, "torch.compile: off"
    device = _training_device(model)
    problem = _compiler_problem(device)
    if problem:
        reason = f"nothing compiles for the {device.type.upper()} here ({problem})"
        return model, f"torch.compile: off, since {reason}"
    torch._dynamo.config.suppress_errors = True
    model.compile(dynamic=True)
    return model, "torch.compile: on, for any shape; a part that does not compile runs as it is"


def _training_device(model: Any) -> torch.device:
    """Return where a model is; on a machine with GPUs this process's GPU in place of the CPU."""
    import torch

    device = next(model.parameters()).device
    if device.type == "cpu" and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def _is_eager(attention: Any) -> bool:
    return type(attention).__name__ == "DisentangledSelfAttention"


def _obstacle(model: Any, *, needs_gpu: bool) -> str | None:
    if getattr(model.config, "model_type", "") != DEBERTA or not hasattr(model, "deberta"):
        return f"{type(model).__name__} is no DeBERTa-v2 or v3, which the fused kernel is for"
    if needs_gpu:
        return "the fused kernel needs a GPU, and none is visible"
    if importlib.util.find_spec("disentangled_flash") is None:
        return f"the fused kernel is in a package that is not installed: pip install {PACKAGE}"
    attentions = [layer.attention.self for layer in model.deberta.encoder.layer]
    if not all(map(_is_eager, attentions)):
        return "its attention was replaced before"
    if not all(map(_has_plain_projections, attentions)):
        return "LoRA is in its projections already: it has to be added after the fused kernel"
    return None


def _has_plain_projections(attention: Any) -> bool:
    import torch

    projections = (attention.query_proj, attention.key_proj, attention.value_proj)
    return all(type(projection) is torch.nn.Linear for projection in projections)


def _install_checked(model: Any, *, backend: str) -> tuple[bool, str]:
    """Return whether fused attention is in, and the findings; if not, the model is as it was."""
    undo = _undo_of(model.deberta)
    head_size = model.deberta.encoder.layer[0].attention.self.attention_head_size
    needs = f"needs Triton and heads of 32, 64 or 128; this model's are of {head_size}"
    passed = False
    with _evaluating(model):
        exact = _outputs(model)
        eager_half_gap = _gap(_outputs(model, half=True), exact)
        half_limit = max(HALF_RATIO * eager_half_gap, HALF_FLOOR)
        try:
            if not _install(model.deberta, backend=backend):
                return False, needs
            gap = _gap(_outputs(model), exact)
            half_gap = _gap(_outputs(model, half=True), exact)
            passed = gap <= FLOAT32_GAP and half_gap <= half_limit
        finally:
            if not passed:
                undo()
    gaps = f"{gap:.1e} in float32, {FLOAT32_GAP:.0e} allowed"
    half_gaps = f"{half_gap:.1e} in half, {half_limit:.1e} allowed"
    findings = f"logits and gradients differ by {gaps}; by {half_gaps}"
    return passed, findings if passed else f"is wrong here: its {findings}"


def _undo_of(base: Any) -> Callable[[], None]:
    """Return a function that puts back the encoder and the attention that a model has now."""
    encoder = base.encoder
    originals = [layer.attention.self for layer in encoder.layer]

    def undo() -> None:
        base.encoder = encoder
        for layer, original in zip(encoder.layer, originals):
            layer.attention.self = original
        for name in ("get_attention_mask", "get_rel_pos"):
            vars(encoder).pop(name, None)

    return undo


def _install(base: Any, *, backend: str) -> bool:
    """Put the package's attention into the model's own encoder; return False where it declined.

    Of what the package makes (1.1.1) the attention alone is kept:

    - its encoder never calls the layers, so that what hooks onto a layer or replaces it (caching
      of frozen layers) would be passed over;
    - its attention has copies of the weights, all of them trainable, and reads weights without
      calling their modules, which would pass over LoRA;
    - its index tables break a later backward pass where they were first made in inference mode,
      and make torch.compile begin again for each length.
    """
    import torch
    from disentangled_flash import optimize_deberta_training

    encoder = base.encoder
    originals = [layer.attention.self for layer in encoder.layer]
    with torch.random.fork_rng(devices=[]):  # it draws weights, to be overwritten
        optimize_deberta_training(base, backend=backend)
    fused = base.encoder
    if fused is encoder:
        return False
    base.encoder = encoder
    for layer, original in zip(encoder.layer, originals):
        attention = layer.attention.self
        for name, child in original.named_children():
            setattr(attention, name, child)
        attention.attention_probability_dropout = original.dropout.p
        attention._project_qkv = MethodType(_projections, attention)
    tables = fused.position_plan_cache
    for name in ("compact", "dense"):
        plan = torch.inference_mode(False)(getattr(tables, name))
        setattr(tables, name, torch.compiler.disable(plan))
    encoder.get_attention_mask = fused.get_attention_mask
    encoder.get_rel_pos = fused.get_rel_pos
    return True


def _projections(attention: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return attention.query_proj(hidden), attention.key_proj(hidden), attention.value_proj(hidden)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Within the block: eval mode, and float32 products in full precision; both are put back."""
    import torch

    modes = {name: module.training for name, module in model.named_modules()}
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    model.eval()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for name, module in model.named_modules():
            module.training = modes[name]


def _outputs(model: Any, *, half: bool = False) -> list[torch.Tensor]:
    """Return the logits of a small padded batch, and gradients that all that lies below affects."""
    import torch

    encoder = model.deberta.encoder
    probes = [
        model.get_input_embeddings().weight,
        encoder.layer[0].attention.self.query_proj.weight,
    ]
    if model.config.relative_attention:
        probes.append(encoder.rel_embeddings.weight)
    ids, mask = _checked_batch(model)
    precision = torch.autocast(model.device.type, dtype=_half(model.device), enabled=half)
    learning = [probe.requires_grad for probe in probes]
    try:
        for probe in probes:
            probe.requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad(), precision:
            logits = model(input_ids=ids, attention_mask=mask).logits.float()
            scaled = 1024 * logits.sum()  # float16 has no small numbers
            of_words, *gradients = torch.autograd.grad(scaled, probes)
    finally:
        for probe, learns in zip(probes, learning):
            probe.requires_grad_(learns)
    return [logits.detach(), of_words[ids.unique()], *gradients]


def _checked_batch(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random token ids of CHECKED_LENGTHS and their mask, (texts, tokens)."""
    import torch

    longest = min(CHECKED_LENGTHS[0], model.config.max_position_embeddings)
    shape = (len(CHECKED_LENGTHS), longest)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, shape, generator=draw)
    mask = torch.arange(longest) < torch.tensor(CHECKED_LENGTHS)[:, None]
    return ids.to(model.device), mask.long().to(model.device)


def _half(device: torch.device) -> torch.dtype:
    import torch

    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def _gap(outputs: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Return the largest distance of a row from the exact one, relative to its norm.

    A row is a text's logits or a position's gradient: a fault of a few positions drowns in the
    whole. To each norm a hundredth of the largest is added, since small rows are all rounding.
    Infinity where a number is none.
    """
    largest = 0.0
    for output, reference in zip(outputs, exact):
        norms = reference.norm(dim=-1)
        scale = (norms + 0.01 * norms.max()).clamp_min(1e-30)
        gap = float(((output - reference).norm(dim=-1) / scale).max())
        largest = max(largest, math.inf if math.isnan(gap) else gap)
    return largest


def _compiler_problem(device: torch.device) -> str | None:
    import torch

    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=device))
    except Exception as error:  # no C++ compiler, no Triton, no headers of Python: each has its own
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
