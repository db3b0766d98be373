"""Faster ways through the same model: a fused attention kernel, torch.compile, and what share of a GPU's peak they reach."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

PACKAGE = "disentangled-flash==1.1.1"  # the version whose source was read for what `_install` puts right
CHECKED_LENGTHS = (160, 97, 33, 4)  # tokens: beyond 128, where DeBERTa's position buckets begin; across the kernels' tiles of 16 to 64; padded
FLOAT32_GAP = 1e-3  # rounding stays a hundred times below it, a wrong index or mask goes ten times beyond
HALF_RATIO = 3.0  # the fused kernel's rounding in half precision, in units of the eager code's; FlashAttention's own tests allow 2 to 3
HALF_FLOOR = 1e-3  # a rounding error of that size passes whatever the eager code's is
PEAK_FLOPS = (  # dense, in bfloat16 (T4: float16, it has no other); NVIDIA's data sheets, which for most print twice that, "with sparsity"
    (r"H[12]00 (NVL|.*NVL)", 835e12),  # H100 NVL and H200 NVL data sheets: 1,671 with sparsity
    (r"H100 PCIe", 756e12),  # H100 data sheet, PCIe column: 1,513 with sparsity
    (r"H[12]00", 989e12),  # H100 and H200 data sheets, SXM column: 1,979 with sparsity
    (r"A100", 312e12),  # A100 data sheet: 312
    (r"L4", 121e12),  # L4 data sheet: 242 with sparsity
    (r"T4", 65e12),  # T4 data sheet: 65
    (r"RTX 4090(?! D)", 165e12),  # Ada architecture white paper, appendix A: 165.2 with float32 accumulation
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
    model : on the device that it will train on, in float32; changed in place
    backend : `triton` (needs a GPU), `torch` (any device, for tests), or None: triton where the model is on a GPU

    Returns
    -------
    a line that says what is used; where that is the eager code, why, and the model is as it was
    """
    base, eager = getattr(model, "deberta", None), "attention: the model's own code"
    if getattr(model.config, "model_type", "") != "deberta-v2" or base is None:
        return f"{eager} ({type(model).__name__} is no DeBERTa-v2 or v3, which the fused kernel is for)"
    if backend is None and model.device.type != "cuda":
        return f"{eager} (the fused kernel needs the model on a GPU, it is on the {model.device.type.upper()})"
    if importlib.util.find_spec("disentangled_flash") is None:
        return f"{eager} (the fused kernel is in a package that is not installed: pip install {PACKAGE})"
    if (reason := _unsupported(base)) is not None:
        return f"{eager} ({reason})"
    undo: Callable[[], None] | None = None
    try:
        with _evaluating(model):
            references = _references(model)
            undo = _install(base, backend=backend or "triton")
            if undo is None:
                return f"{eager} (the fused kernel needs Triton and heads of 32, 64 or 128; this model's are of {_head_size(base)})"
            passed, findings = _compare(model, references)
            if not passed:
                undo()
    except Exception as error:  # whatever a kernel throws, training goes on without it
        if undo is not None:
            undo()
        return f"{eager} (the fused kernel failed: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'})"
    if not passed:
        return f"{eager} (the fused kernel is wrong here: {findings})"
    return f"attention: disentangled-flash {importlib.metadata.version('disentangled-flash')}, {backend or 'triton'} ({findings})"


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
    device = next(model.parameters()).device
    if (problem := _compiler_problem(device)) is not None:
        return model, f"torch.compile: off, since nothing compiles for the {device.type.upper()} here ({problem})"
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
        span = config.position_buckets if config.position_buckets > 0 else config.max_relative_positions
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
    return next((flops for pattern, flops in PEAK_FLOPS if re.search(rf"(?<![A-Z0-9]){pattern}(?![A-Z0-9])", name)), None)


def _unsupported(base: Any) -> str | None:
    import torch

    attentions = [layer.attention.self for layer in base.encoder.layer]
    if any(type(attention).__name__ != "DisentangledSelfAttention" for attention in attentions):
        return "its attention was replaced before"
    if any(type(linear) is not torch.nn.Linear for attention in attentions for linear in (attention.query_proj, attention.key_proj, attention.value_proj)):
        return "the fused kernel reads the weights of the projections and would pass over LoRA's"
    return None


def _head_size(base: Any) -> int:
    return base.encoder.layer[0].attention.self.attention_head_size


def _install(base: Any, *, backend: str) -> Callable[[], None] | None:
    """Put the package's attention into the model's own encoder; return what takes it out again, or None where it declined.

    Of what the package makes (1.1.1) the attention alone is kept: its encoder never calls the layers, so that what hooks
    onto a layer or replaces it (caching of frozen layers) would be passed over; its attention has copies of the weights,
    all of them trainable; and index tables first made in inference mode break a later backward pass.
    """
    import torch
    from disentangled_flash import optimize_deberta_training

    encoder = base.encoder
    originals = [layer.attention.self for layer in encoder.layer]
    with torch.random.fork_rng(devices=[]):  # it draws weights, to be overwritten
        optimize_deberta_training(base, backend=backend)
    fused, base.encoder = base.encoder, encoder
    if fused is encoder:
        return None
    for layer, original in zip(encoder.layer, originals):
        for name, child in original.named_children():
            setattr(layer.attention.self, name, child)
        layer.attention.self.attention_probability_dropout = original.dropout.p
    tables = fused.position_plan_cache
    for name in ("compact", "dense"):
        setattr(tables, name, torch.inference_mode(False)(getattr(tables, name)))
    encoder.get_attention_mask, encoder.get_rel_pos = fused.get_attention_mask, fused.get_rel_pos

    def undo() -> None:
        for layer, original in zip(encoder.layer, originals):
            layer.attention.self = original
        del encoder.get_attention_mask, encoder.get_rel_pos

    return undo


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Within the block: eval mode, and float32 products in full precision; each module's mode is put back after it."""
    import torch

    modes, precision = {name: module.training for name, module in model.named_modules()}, torch.get_float32_matmul_precision()
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

    return torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False) else torch.bfloat16


def _references(model: Any) -> tuple[list[torch.Tensor], float]:
    """Return what the eager code gives in float32, and how far it is from that in half precision."""
    exact = _outputs(model)
    return exact, _gap(_outputs(model, half=_half(model.device)), exact)


def _compare(model: Any, references: tuple[list[torch.Tensor], float]) -> tuple[bool, str]:
    exact, half_gap = references
    gap, fused_half_gap = _gap(_outputs(model), exact), _gap(_outputs(model, half=_half(model.device)), exact)
    half_limit = max(HALF_RATIO * half_gap, HALF_FLOOR)
    findings = f"logits and gradients differ by {gap:.1e} in float32, {FLOAT32_GAP:.0e} allowed; by {fused_half_gap:.1e} in half, {half_limit:.1e} allowed"
    return gap <= FLOAT32_GAP and fused_half_gap <= half_limit, findings


def _outputs(model: Any, *, half: torch.dtype | None = None) -> list[torch.Tensor]:
    """Return the logits of a small padded batch, and the gradients that tell whether everything below them is right."""
    import torch

    draw, longest = torch.Generator().manual_seed(0), min(CHECKED_LENGTHS[0], model.config.max_position_embeddings)
    ids = torch.randint(model.config.vocab_size, (len(CHECKED_LENGTHS), longest), generator=draw).to(model.device)
    mask = (torch.arange(longest) < torch.tensor(CHECKED_LENGTHS)[:, None]).long().to(model.device)
    words = model.get_input_embeddings().weight
    probes = [words, model.deberta.encoder.layer[0].attention.self.query_proj.weight]
    if getattr(model.config, "relative_attention", False):
        probes.append(model.deberta.encoder.rel_embeddings.weight)
    learning = [probe.requires_grad for probe in probes]
    try:
        for probe in probes:
            probe.requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(model.device.type, dtype=half, enabled=half is not None):
            logits = model(input_ids=ids, attention_mask=mask).logits.float()
            gradients = torch.autograd.grad(1024 * logits.sum(), probes)  # scaled: float16 has no small numbers
    finally:
        for probe, learns in zip(probes, learning):
            probe.requires_grad_(learns)
    return [logits.detach(), gradients[0][ids.unique()], *gradients[1:]]


def _gap(found: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """Return the largest distance of a tensor from the exact one, relative to that one's norm; infinity where a number is none."""
    gaps = [float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in zip(found, exact)]
    return max(gap if gap == gap else float("inf") for gap in gaps)


def _compiler_problem(device: torch.device) -> str | None:
    import torch

    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(2, device=device))
    except Exception as error:  # no C++ compiler, no Triton, no headers of Python: each has its own
        return str(error).strip().splitlines()[0]
    return None
