"""Faster ways through the same model: a fused attention kernel, torch.compile, and what share of a GPU's peak they reach."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

PACKAGE = (
    "disentangled-flash==1.1.1"  # the version whose source was read for what `_install` puts right
)
CHECKED_LENGTHS = (
    256,
    97,
    33,
    4,
)  # tokens: twice the 128 where DeBERTa's distances begin to share embeddings; ends within a kernel's tile; padding
FLOAT32_GAP = 1e-3  # on a CPU rounding was 1e-6, and the mildest fault tried, one term wrong beyond 130 positions, 4e-3
HALF_RATIO = 3.0  # the fused kernel's rounding in half precision, in units of the eager code's; FlashAttention's own tests allow 2 to 3
HALF_FLOOR = 1e-3  # a rounding error of that size passes whatever the eager code's is
PEAK_FLOPS = (  # dense, in bfloat16 (T4: float16, it has no other); NVIDIA's data sheets, which for most print twice that, "with sparsity"
    (r"H[12]00 (NVL|.*NVL)", 835e12),  # H100 NVL and H200 NVL data sheets: 1,671 with sparsity
    (r"H100 PCIe", 756e12),  # H100 data sheet, PCIe column: 1,513 with sparsity
    (r"H[12]00", 989e12),  # H100 and H200 data sheets, SXM column: 1,979 with sparsity
    (r"A100", 312e12),  # A100 data sheet: 312
    (r"L4", 121e12),  # L4 data sheet: 242 with sparsity
    (r"T4", 65e12),  # T4 data sheet: 65
    (
        r"RTX 4090(?! D)",
        165e12,
    ),  # Ada architecture white paper, appendix A: 165.2 with float32 accumulation
)


def use_fused_attention(model: PreTrainedModel, *, backend: str | None = None) -> str:
    """Let a DeBERTa-v2 or v3 classifier compute its attention with the package disentangled-flash, if it passes a check.

    The check: on four padded texts, in eval mode, the logits and the gradients of the embeddings, of a query projection
    and of the relative positions must be the eager code's, in float32 and in half precision. Weights stay the same
    objects under the same keys, so that optimizer, freezing and checkpoints are the eager model's. Attention dropout is the
    one set when this is called. Nothing is unpadded: among length-grouped batches of the documentation texts 2 to 4 % of the
    tokens are padding.

    Parameters
    ----------
    model : in float32, without LoRA yet; changed in place, and moved to the GPU where there is one, to be checked there
    backend : `triton` (needs a GPU), `torch` (any device, for tests), or None: triton where the model is on a GPU

    Returns
    -------
    a line that says what is used; where that is the eager code, why, and the model is as it was
    """
    eager, device = "attention: the model's own code", _training_device(model)
    if (
        reason := _obstacle(model, needs_gpu=backend is None and device.type != "cuda")
    ) is not None:
        return f"{eager} ({reason})"
    try:
        model.to(device)
        passed, findings = _install_checked(model, backend=backend or "triton")
    except Exception as error:  # whatever a kernel throws, training goes on without it
        return f"{eager} (the fused kernel failed: {type(error).__name__}: {_first_line(error)})"
    if not passed:
        return f"{eager} (the fused kernel {findings})"
    return f"attention: disentangled-flash {importlib.metadata.version('disentangled-flash')}, {backend or 'triton'} ({findings})"


def use_needed_positions(model: PreTrainedModel) -> None:
    """Let a DeBERTa-v2 or v3's own attention look at the distances that occur in a batch, not at all it has embeddings for.

    A text of n tokens has the distances 1 - n to n - 1, yet every layer projects 512 embeddings of distances for each batch
    and multiplies every token with all of them. Logits and gradients stay as they are. Does nothing to other models.
    """
    for layer in getattr(getattr(model.base_model, "encoder", None), "layer", ()):
        attention = layer.attention.self
        is_eager = (
            type(attention).__name__ == "DisentangledSelfAttention" and attention.relative_attention
        )
        if is_eager and not hasattr(
            attention, "positions_hook"
        ):  # a second one would cut what the first has cut
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
    attention.pos_ebd_size = needed  # where its index of distance 0 lies; it is set at each call, so a recomputed pass agrees
    return args, {
        **kwargs,
        "rel_embeddings": kwargs["rel_embeddings"][n_embedded - needed : n_embedded + needed],
    }


def compile_model(model: torch.nn.Module, *, wanted: bool) -> tuple[torch.nn.Module, str]:
    """Compile a model in place with torch.compile, for batches of any shape; its keys stay as they are.

    Compiling happens in the first forward passes, out of reach of this function. It compiles a function of one line to see
    that the machine can, and tells torch to run whatever part of the model does not compile as it is.

    Returns
    -------
    the same model, and a line that says whether it is compiled
    """
    import torch

    if not wanted:
        return model, "torch.compile: off"
    device = _training_device(model)
    if (problem := _compiler_problem(device)) is not None:
        return (
            model,
            f"torch.compile: off, since nothing compiles for the {device.type.upper()} here ({problem})",
        )
    torch._dynamo.config.suppress_errors = True
    model.compile(dynamic=True)
    return model, "torch.compile: on, for any shape; a part that does not compile runs as it is"


def flops_per_token(config: PreTrainedConfig, *, n_tokens: float) -> float:
    """Return the floating-point operations that one token of a training step needs, forward and backward.

    With hidden size H, feed-forward size I, n tokens in the text and r relative positions, one layer's forward pass takes
    `8 H^2` (query, key, value and output projections), `4 H I` (feed-forward), `4 n H` (scores, and values weighted by
    them) and, in DeBERTa, `2 r H` for each of c2p and p2c, r being the distances that occur: at most `2 n - 1`, and no more
    than there are embeddings. A multiplication and its addition count as two; the backward pass takes twice the forward.
    Left out: what is no product of matrices, the head, the convolution of deberta-v2-xlarge, and the projection of the r
    positions, which a batch does once a layer (2 % of a batch of 4,000 tokens).

    Parameters
    ----------
    config : of BERT's family or of DeBERTa-v2 and v3
    n_tokens : in the text; for texts of unlike length their mean weighted by tokens, sum of squares over sum

    Source
    ------
    Chowdhery et al. 2022, "PaLM", appendix B (model FLOPs utilisation); c2p and p2c from He et al. 2021, "DeBERTa", eq. 4.

    Examples
    --------
    >>> from transformers import BertConfig
    >>> flops_per_token(BertConfig(hidden_size=2, intermediate_size=3, num_hidden_layers=1, num_attention_heads=1), n_tokens=5)
    288.0
    """
    hidden = config.hidden_size
    forward = 8.0 * hidden**2 + 4 * hidden * config.intermediate_size + 4 * n_tokens * hidden
    if getattr(config, "relative_attention", False):
        span = (
            config.position_buckets
            if config.position_buckets > 0
            else config.max_relative_positions
        )
        span = span if span > 0 else config.max_position_embeddings
        n_terms = sum(term in config.pos_att_type for term in ("c2p", "p2c"))
        forward += n_terms * 2 * min(2 * n_tokens - 1, 2 * span) * hidden
    return 3 * config.num_hidden_layers * forward


def peak_flops(device: torch.device | str) -> float | None:
    """Return the floating-point operations a second that a GPU's tensor cores do at most in half precision; None if unknown."""
    import torch

    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next(
        (
            flops
            for pattern, flops in PEAK_FLOPS
            if re.search(rf"(?<![A-Z0-9]){pattern}(?![A-Z0-9])", name)
        ),
        None,
    )


def _training_device(model: Any) -> torch.device:
    """Return where a model is, or for one still on the CPU of a machine with GPUs, the GPU of this process."""
    import torch

    device = next(model.parameters()).device
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.type == "cpu" and torch.cuda.is_available()
        else device
    )


def _obstacle(model: Any, *, needs_gpu: bool) -> str | None:
    import torch

    if getattr(model.config, "model_type", "") != "deberta-v2" or not hasattr(model, "deberta"):
        return f"{type(model).__name__} is no DeBERTa-v2 or v3, which the fused kernel is for"
    if needs_gpu:
        return "the fused kernel needs a GPU, and none is visible"
    if importlib.util.find_spec("disentangled_flash") is None:
        return f"the fused kernel is in a package that is not installed: pip install {PACKAGE}"
    attentions = [layer.attention.self for layer in model.deberta.encoder.layer]
    if any(type(attention).__name__ != "DisentangledSelfAttention" for attention in attentions):
        return "its attention was replaced before"
    if any(
        type(linear) is not torch.nn.Linear
        for attention in attentions
        for linear in (attention.query_proj, attention.key_proj, attention.value_proj)
    ):
        return "LoRA is in its projections already: it has to be added after the fused kernel"
    return None


def _install_checked(model: Any, *, backend: str) -> tuple[bool, str]:
    """Return whether the fused attention is in, and what was found; where it is not in, the model is as it was."""
    with _evaluating(model):
        exact = _outputs(model)
        half_gap = _gap(_outputs(model, half=_half(model.device)), exact)
        undo = _install(model.deberta, backend=backend)
        if undo is None:
            return (
                False,
                f"needs Triton and heads of 32, 64 or 128; this model's are of {model.deberta.encoder.layer[0].attention.self.attention_head_size}",
            )
        passed = False
        try:
            gap, fused_half_gap = (
                _gap(_outputs(model), exact),
                _gap(_outputs(model, half=_half(model.device)), exact),
            )
            half_limit = max(HALF_RATIO * half_gap, HALF_FLOOR)
            passed = gap <= FLOAT32_GAP and fused_half_gap <= half_limit
        finally:
            if not passed:
                undo()
    found = f"by {gap:.1e} in float32, {FLOAT32_GAP:.0e} allowed; by {fused_half_gap:.1e} in half, {half_limit:.1e} allowed"
    return passed, f"{'' if passed else 'is wrong here: its '}logits and gradients differ {found}"


def _install(base: Any, *, backend: str) -> Callable[[], None] | None:
    """Put the package's attention into the model's own encoder; return what takes it out again, or None where it declined.

    Of what the package makes (1.1.1) the attention alone is kept: its encoder never calls the layers, so that what hooks
    onto a layer or replaces it (caching of frozen layers) would be passed over; its attention has copies of the weights,
    all of them trainable, and reads weights without calling their modules, which would pass over LoRA; its index tables
    break a later backward pass where they were first made in inference mode, and have torch.compile begin anew for each length.
    """
    import torch
    from disentangled_flash import optimize_deberta_training

    encoder = base.encoder
    originals = [layer.attention.self for layer in encoder.layer]

    def undo() -> None:
        base.encoder = encoder
        for layer, original in zip(encoder.layer, originals):
            layer.attention.self = original
        for name in ("get_attention_mask", "get_rel_pos"):
            vars(encoder).pop(name, None)

    try:
        with torch.random.fork_rng(devices=[]):  # it draws weights, to be overwritten
            optimize_deberta_training(base, backend=backend)
    except BaseException:
        undo()
        raise
    fused, base.encoder = base.encoder, encoder
    if fused is encoder:
        return None
    for layer, original in zip(encoder.layer, originals):
        attention = layer.attention.self
        for name, child in original.named_children():
            setattr(attention, name, child)
        attention.attention_probability_dropout = original.dropout.p
        attention._project_qkv = MethodType(_projections, attention)
    tables = fused.position_plan_cache
    for name in ("compact", "dense"):
        setattr(
            tables, name, torch.compiler.disable(torch.inference_mode(False)(getattr(tables, name)))
        )
    encoder.get_attention_mask, encoder.get_rel_pos = fused.get_attention_mask, fused.get_rel_pos
    return undo


def _projections(
    attention: Any, hidden: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return attention.query_proj(hidden), attention.key_proj(hidden), attention.value_proj(hidden)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Within the block: eval mode, and float32 products in full precision; each module's mode is put back after it."""
    import torch

    modes, precision = (
        {name: module.training for name, module in model.named_modules()},
        torch.get_float32_matmul_precision(),
    )
    torch.set_float32_matmul_precision("highest")
    model.eval()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for name, module in model.named_modules():
            module.training = modes[name]


def _half(device: torch.device) -> torch.dtype:
    import torch

    return (
        torch.float16
        if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
        else torch.bfloat16
    )


def _outputs(model: Any, *, half: torch.dtype | None = None) -> list[torch.Tensor]:
    """Return the logits of a small padded batch, and the gradients that tell whether everything below them is right."""
    import torch

    draw, longest = (
        torch.Generator().manual_seed(0),
        min(CHECKED_LENGTHS[0], model.config.max_position_embeddings),
    )
    ids = torch.randint(
        model.config.vocab_size, (len(CHECKED_LENGTHS), longest), generator=draw
    ).to(model.device)
    mask = (torch.arange(longest) < torch.tensor(CHECKED_LENGTHS)[:, None]).long().to(model.device)
    words = model.get_input_embeddings().weight
    probes = [words, model.deberta.encoder.layer[0].attention.self.query_proj.weight]
    if getattr(model.config, "relative_attention", False):
        probes.append(model.deberta.encoder.rel_embeddings.weight)
    learning = [probe.requires_grad for probe in probes]
    try:
        for probe in probes:
            probe.requires_grad_(True)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(model.device.type, dtype=half, enabled=half is not None),
        ):
            logits = model(input_ids=ids, attention_mask=mask).logits.float()
            gradients = torch.autograd.grad(
                1024 * logits.sum(), probes
            )  # scaled: float16 has no small numbers
    finally:
        for probe, learns in zip(probes, learning):
            probe.requires_grad_(learns)
    return [logits.detach(), gradients[0][ids.unique()], *gradients[1:]]


def _gap(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Return the largest distance of a row (a text's logits, a position's gradient) from the exact one, relative to its norm.

    By rows, since a fault of a few positions drowns in the whole. To each norm a hundredth of the largest is added, since
    small rows are all rounding. Infinity where a number is none.
    """
    gaps = [
        float(
            (
                (a - b).norm(dim=-1)
                / (b.norm(dim=-1) + 0.01 * b.norm(dim=-1).max()).clamp_min(1e-30)
            ).max()
        )
        for a, b in zip(found, exact)
    ]
    return max(math.inf if math.isnan(gap) else gap for gap in gaps)


def _compiler_problem(device: torch.device) -> str | None:
    import torch

    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=device))
    except Exception as error:  # no C++ compiler, no Triton, no headers of Python: each has its own
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "no message")
