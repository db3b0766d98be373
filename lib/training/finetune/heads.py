"""What is changed on a loaded model before it learns: dropout, pooling, fresh top layers, low-rank adapters."""

from __future__ import annotations

import re
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from lib.errors import WorkbookError
from lib.training.backbones import encoder_layers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

POOLINGS = ("cls", "mean", "attention")
LORA_DROPOUT = 0.05  # of the input of the low-rank matrices, as in Dettmers et al. 2023, "QLoRA"
QUERY_AND_VALUE = (
    ("query_proj", "value_proj"),
    ("query", "value"),
)  # DeBERTa's names, BERT's and RoBERTa's
_ATTENTION_DROPOUT = re.compile(
    r"(^|\.)attention\.self\.dropout$"
)  # beside it, DeBERTa's `pos_dropout` is of embeddings
_HIDDEN_FIELDS = (
    "hidden_dropout_prob",
    "classifier_dropout",
    "cls_dropout",
    "pooler_dropout",
)  # a config has some of them
_POOL_WEIGHT = "attention_pool.weight"


def set_dropout(model: PreTrainedModel, *, hidden: float, attention: float) -> None:
    """Set every dropout of a classifier of BERT's family, and its config with them.

    BERT and RoBERTa give the probability of their `attention.self.dropout` to whichever attention kernel runs, so that
    setting the module is enough for all kernels.

    Parameters
    ----------
    hidden : probability in [0, 1) of dropping a value of the embeddings, of a layer's output, or of the pooled text
    attention : probability in [0, 1) of dropping an attention weight

    Raises
    ------
    WorkbookError : a probability is not in [0, 1).
    """
    for setting, share in (("dropout", hidden), ("attention_dropout", attention)):
        if not 0 <= share < 1:
            raise WorkbookError(f"training.{setting} must be at least 0 and below 1, found {share}")
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = attention if _ATTENTION_DROPOUT.search(name) else hidden
    model.config.attention_probs_dropout_prob = attention
    for field in _HIDDEN_FIELDS:
        if hasattr(model.config, field):
            setattr(model.config, field, hidden)


def set_pooling(model: PreTrainedModel, pooling: str) -> None:
    """Make the head read another summary of the tokens than the first one's vector; write the choice into the config.

    Architecture and checkpoint stay as they are: a hook puts the summary where the head looks for the first token.

    Parameters
    ----------
    pooling : `cls` is the first token's vector, as the architecture has it; `mean` that of all tokens of the text, [CLS]
        and [SEP] counted; `attention` their mean weighted by the softmax of a learned projection, which starts at zero
        and so as the mean. Its weight is `model.attention_pool`, in the state dict with the others.

    Raises
    ------
    WorkbookError : no such pooling.

    Source
    ------
    Mean: Reimers & Gurevych 2019, "Sentence-BERT". Attention: after Yang et al. 2016, "Hierarchical Attention Networks".
    """
    if pooling not in POOLINGS:
        raise WorkbookError(
            f"training.pooling must be one of {', '.join(POOLINGS)}, found {pooling!r}"
        )
    if hasattr(model, "pooling_hook"):
        model.pooling_hook.handle.remove()
        del model.pooling_hook
    if hasattr(model, "attention_pool"):
        del model.attention_pool
    if pooling == "attention":
        projection = torch.nn.Linear(
            model.config.hidden_size, 1, bias=False, device=model.device, dtype=model.dtype
        )
        torch.nn.init.zeros_(projection.weight)
        model.attention_pool = projection
    if pooling != "cls":
        model.pooling_hook = _Pooling(model)
    model.config.pooling = pooling


class _Pooling:
    """A forward hook on the base model that puts the pooled vector in place of the first token's.

    An object and not a closure: a copy of the model (a moving average keeps one) then has a hook of its own, which reads
    the copy's weights. It looks `attention_pool` up at every call, since peft puts a wrapper there.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.handle = model.base_model.register_forward_hook(self, with_kwargs=True)

    def __call__(
        self, base: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        hidden = output[0]  # (batch, tokens, hidden)
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        scorer = getattr(self.model, "attention_pool", None)
        scores = (
            scorer(hidden).squeeze(-1) if scorer else hidden.new_zeros(hidden.shape[:2])
        )  # (batch, tokens)
        replaced = torch.cat(
            [pooled_vector(hidden, scores, mask).unsqueeze(1), hidden[:, 1:]], dim=1
        )
        pooler = getattr(
            base, "pooler", None
        )  # BERT's has read the first token already: once more, then
        if isinstance(output, tuple):
            return (replaced, pooler(replaced), *output[2:]) if pooler else (replaced, *output[1:])
        output.last_hidden_state = replaced
        if pooler:
            output.pooler_output = pooler(replaced)
        return output


def pooled_vector(
    hidden: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Return the mean of the real tokens' vectors, weighted by the softmax of their scores.

    Parameters
    ----------
    hidden : of shape (batch, tokens, hidden)
    scores : of shape (batch, tokens)
    mask : of shape (batch, tokens), 0 where there is padding; None where there is none

    Returns
    -------
    tensor of shape (batch, hidden)
    """
    if mask is not None:
        scores = scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=1)  # (batch, tokens), 0 for padding
    return (weights.unsqueeze(-1) * hidden).sum(dim=1)


def read_first_token_only(model: PreTrainedModel) -> None:
    """Let the top layer compute, after its attention, the first token's vector alone: with `cls` pooling nothing else is read.

    Logits and gradients stay as they are; three quarters of the top layer's work are saved. Models whose layers are not
    built like BERT's are left alone.
    """
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    output = getattr(getattr(layers[-1], "attention", None), "output", None) if layers else None
    if output is not None and not hasattr(model, "first_token_hook"):
        model.first_token_hook = output.register_forward_pre_hook(
            lambda _, inputs: tuple(hidden[:, :1] for hidden in inputs)
        )


def compute_logits_in_float32(model: PreTrainedModel) -> None:
    """Let the last layer of the head compute in float32 under mixed precision too: logits of bf16 have three digits, and tie.

    Raises
    ------
    WorkbookError : the architecture keeps its head elsewhere than BERT's family does.
    """
    linear = [
        module
        for module in getattr(model, "classifier", torch.nn.Identity()).modules()
        if isinstance(module, torch.nn.Linear)
    ]
    if not linear:
        raise WorkbookError(
            f"training.backbone must be of BERT's family; {type(model).__name__} has no head named classifier: take another backbone"
        )
    linear[-1].forward = MethodType(_in_float32, linear[-1])  # type: ignore[method-assign]  # bound: a copy has its own weights


def _in_float32(layer: torch.nn.Linear, features: torch.Tensor) -> torch.Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return torch.nn.functional.linear(features.float(), layer.weight, layer.bias)


def restore_head(model: PreTrainedModel, folder: Path) -> None:
    """Give a model, just loaded from a folder that training saved, its head: logits in float32, the pooling that its config names and its weight.

    Raises
    ------
    WorkbookError : the config names no pooling known here, or the weight is missing or of another shape.
    """
    pooling = getattr(model.config, "pooling", "cls")
    compute_logits_in_float32(model)
    set_pooling(model, pooling)
    if pooling == "cls":
        read_first_token_only(model)
    if pooling != "attention":
        return
    file = Path(folder) / "model.safetensors"
    try:
        with safe_open(file, framework="pt") as weights:
            found = weights.get_tensor(_POOL_WEIGHT) if _POOL_WEIGHT in weights.keys() else None  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise WorkbookError(
            f"{file} cannot be read ({error}), and the model's pooling is `attention`: train it again"
        ) from error
    if found is None or found.shape != model.attention_pool.weight.shape:
        what = "has no" if found is None else f"has shape {tuple(found.shape)} for"
        raise WorkbookError(
            f"{file} {what} {_POOL_WEIGHT}, and the model's pooling is `attention`: train it again"
        )
    with torch.no_grad():
        model.attention_pool.weight.copy_(found)


def reinit_top_layers(model: PreTrainedModel, n: int, *, seed: int) -> None:
    """Let the `n` top layers start anew, with weights as the architecture draws them; the pooler stays as it is.

    Parameters
    ----------
    n : 0 to the number of layers
    seed : of the new weights; the state of torch's CPU generator is left as it was

    Raises
    ------
    WorkbookError : fewer than `n` layers, or the architecture keeps them elsewhere than BERT's family does.

    Source
    ------
    Zhang et al. 2021, "Revisiting Few-sample BERT Fine-tuning"
    """
    if n == 0:
        return
    layers = encoder_layers(model, setting="training.reinit_layers")
    if not 0 < n <= len(layers):
        raise WorkbookError(
            f"training.reinit_layers={n}, but the backbone has {len(layers)} layers"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in layers[-n:]:
            for parameter in layer.parameters():
                parameter._is_hf_initialized = (
                    False  # loading sets it, and transformers' initialisers skip what has it
                )
            layer.apply(model._init_weights)


def add_lora(model: PreTrainedModel, *, rank: int, seed: int | None = None) -> PeftModel:
    """Freeze a model and add low-rank matrices to its query and value projections; the head learns in full.

    Parameters
    ----------
    model : changed in place, after `set_pooling`
    rank : of the matrices; they are scaled by 2 (alpha is twice the rank)
    seed : of the matrices; None draws them from torch's generator as it stands

    Returns
    -------
    the model in peft's wrapping; `merge_lora` takes it off again

    Raises
    ------
    WorkbookError : peft is not installed, `rank` is below 1, or the architecture has no such projections.

    Source
    ------
    Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models"
    """
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise WorkbookError(
            "training.lora_rank needs the package peft: pip install peft, or set it to 0"
        ) from error
    if rank < 1:
        raise WorkbookError(
            f"training.lora_rank must be at least 1 for low-rank matrices, found {rank}"
        )
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    targets = next((pair for pair in QUERY_AND_VALUE if names.issuperset(pair)), None)
    if targets is None:
        raise WorkbookError(
            f"training.lora_rank is for models of BERT's family; {type(model).__name__} has no query and value projections, set it to 0"
        )
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=LORA_DROPOUT,
        target_modules=list(targets),
        modules_to_save=[
            name for name in ("pooler", "attention_pool") if name in names
        ],  # peft adds the classifier
    )
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return get_peft_model(model, lora)


def merge_lora(model: PeftModel) -> PreTrainedModel:
    """Add the low-rank matrices to the weights they go with, and return the plain model, all of whose weights may learn."""
    return model.merge_and_unload().requires_grad_(True)
