"""What is changed on a loaded model before it learns: dropout, pooling, fresh layers, adapters."""

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
# Of the input of the low-rank matrices, as in Dettmers et al. 2023, "QLoRA".
LORA_DROPOUT = 0.05
# DeBERTa's names; BERT's and RoBERTa's.
QUERY_AND_VALUE = (("query_proj", "value_proj"), ("query", "value"))
# DeBERTa's `pos_dropout`, next to it, is of embeddings. Then MPNet's, and DistilBERT's.
_ATTENTION_DROPOUT = re.compile(
    r"(^|\.)attention\.(self|attn)\.dropout$|^distilbert\..*\.attention\.dropout$"
)
# A config has some of them.
_HIDDEN_FIELDS = ("hidden_dropout_prob", "classifier_dropout", "cls_dropout", "pooler_dropout")
_POOL_WEIGHT = "attention_pool.weight"


def set_dropout(model: PreTrainedModel, *, hidden: float, attention: float) -> None:
    """Set every dropout of a classifier of BERT's family, and its config with them.

    BERT and RoBERTa give the probability of their `attention.self.dropout` to whichever
    attention kernel runs, so that setting the module is enough for all kernels.

    Parameters
    ----------
    hidden : probability in [0, 1) of dropping a value of the embeddings, of a layer's output, or
        of the pooled text
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


def turn_off_last_dropout(model: PreTrainedModel) -> None:
    """Pass on what the head's classifier reads as it is; ModernBERT calls this dropout `drop`."""
    for name in ("dropout", "drop"):
        if hasattr(model, name):
            getattr(model, name).p = 0.0


def set_pooling(model: PreTrainedModel, pooling: str) -> None:
    """Make the head read another summary of the tokens than the first one's vector.

    The choice is written into the config. Architecture and checkpoint stay as they are: a hook
    puts the summary where the head looks for the first token.

    Parameters
    ----------
    pooling : one of

        - `cls`: the first token's vector, as the architecture has it;
        - `mean`: the mean of all tokens of the text, [CLS] and [SEP] counted;
        - `attention`: their mean weighted by the softmax of a learned projection, which starts
          at zero and so as the mean. Its weight is `model.attention_pool`, in the state dict
          with the others.

    Raises
    ------
    WorkbookError : no such pooling.

    Source
    ------
    Mean: Reimers & Gurevych 2019, "Sentence-BERT". Attention: after Yang et al. 2016,
    "Hierarchical Attention Networks".
    """
    if pooling not in POOLINGS:
        choices = ", ".join(POOLINGS)
        raise WorkbookError(f"training.pooling must be one of {choices}, found {pooling!r}")
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
    if hasattr(model.config, "classifier_pooling"):
        model.config.classifier_pooling = "cls"  # ModernBERT's head would take another mean of it
    if pooling != "cls":
        model.pooling_hook = _Pooling(model)
    model.config.pooling = pooling


class _Pooling:
    """A forward hook on the base model that puts the pooled vector in the first token's place.

    An object and not a closure: a copy of the model (a moving average keeps one) then has a hook
    of its own, which reads the copy's weights. It looks `attention_pool` up at every call, since
    peft puts a wrapper there.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.handle = model.base_model.register_forward_hook(self, with_kwargs=True)

    def __call__(
        self, base: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        hidden = output[0]  # (batch, tokens, hidden)
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        scores = hidden.new_zeros(hidden.shape[:2])  # (batch, tokens)
        if hasattr(self.model, "attention_pool"):
            scores = self.model.attention_pool(hidden).squeeze(-1)
        pooled = pooled_vector(hidden, scores, mask).unsqueeze(1)
        hidden = torch.cat([pooled, hidden[:, 1:]], dim=1)
        # BERT's pooler has read the first token already: once more, then
        pooler = getattr(base, "pooler", None)
        if isinstance(output, tuple):
            return (hidden, pooler(hidden), *output[2:]) if pooler else (hidden, *output[1:])
        output.last_hidden_state = hidden
        if pooler:
            output.pooler_output = pooler(hidden)
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
    """Compute in the top layer, after its attention, the first token's vector alone.

    With `cls` pooling nothing else is read. Logits and gradients stay as they are; three quarters
    of the top layer's work are saved. Models whose layers are not built like BERT's are left
    alone.
    """
    layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
    if not layers or hasattr(model, "first_token_hook"):
        return
    output = getattr(getattr(layers[-1], "attention", None), "output", None)
    if output is not None:
        model.first_token_hook = output.register_forward_pre_hook(_first_tokens)


def _first_tokens(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(hidden[:, :1] for hidden in inputs)


def compute_logits_in_float32(model: PreTrainedModel) -> None:
    """Compute the last layer of the head in float32, under mixed precision too.

    Logits of bf16 have three digits, and tie.

    Raises
    ------
    WorkbookError : the architecture keeps its head elsewhere than BERT's family does.
    """
    head = getattr(model, "classifier", torch.nn.Identity())
    linear = [module for module in head.modules() if isinstance(module, torch.nn.Linear)]
    if not linear:
        raise WorkbookError(
            f"training.backbone must be of BERT's family; {type(model).__name__} has no head "
            "named classifier: take another backbone"
        )
    last = linear[-1]
    # A bound method: a copy of the model has its own weights.
    last.forward = MethodType(_in_float32, last)  # type: ignore[method-assign]


def _in_float32(layer: torch.nn.Linear, features: torch.Tensor) -> torch.Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return torch.nn.functional.linear(features.float(), layer.weight, layer.bias)


def restore_head(model: PreTrainedModel, folder: Path) -> None:
    """Give a model, just loaded from a folder that training saved, its head.

    That is logits in float32, the pooling that its config names, and the pooling's weight.

    Raises
    ------
    WorkbookError : the config names no pooling known here, or the weight is missing or of another
        shape.
    """
    pooling = getattr(model.config, "pooling", "cls")
    compute_logits_in_float32(model)
    set_pooling(model, pooling)
    if pooling == "cls":
        read_first_token_only(model)
    elif pooling == "attention":
        weight = _saved_pool_weight(folder / "model.safetensors", model.attention_pool.weight.shape)
        with torch.no_grad():
            model.attention_pool.weight.copy_(weight)


def _saved_pool_weight(file: Path, shape: torch.Size) -> torch.Tensor:
    remedy = "and the model's pooling is `attention`: train it again"
    try:
        with safe_open(file, framework="pt") as weights:
            if _POOL_WEIGHT not in weights.keys():  # noqa: SIM118 - no mapping
                raise WorkbookError(f"{file} has no {_POOL_WEIGHT}, {remedy}")
            weight = weights.get_tensor(_POOL_WEIGHT)
    except (OSError, SafetensorError) as error:
        raise WorkbookError(f"{file} cannot be read ({error}), {remedy}") from error
    if weight.shape != shape:
        raise WorkbookError(f"{file} has shape {tuple(weight.shape)} for {_POOL_WEIGHT}, {remedy}")
    return weight


def reinit_top_layers(model: PreTrainedModel, n: int, *, seed: int) -> None:
    """Let the `n` top layers start again, with weights as the architecture draws them.

    The pooler stays as it is.

    Parameters
    ----------
    n : 0 to the number of layers
    seed : of the new weights; the state of torch's CPU generator is left as it was

    Raises
    ------
    WorkbookError : fewer than `n` layers, or the architecture keeps them elsewhere than BERT's
        family does.

    Source
    ------
    Zhang et al. 2021, "Revisiting Few-sample BERT Fine-tuning"
    """
    if n == 0:
        return
    layers = encoder_layers(model, setting="training.reinit_layers")
    n_layers = len(layers)
    if not 0 < n <= n_layers:
        raise WorkbookError(f"training.reinit_layers={n}, but the backbone has {n_layers} layers")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for layer in layers[-n:]:
            for parameter in layer.parameters():
                # loading sets it, and transformers' initialisers skip what has it
                parameter._is_hf_initialized = False
            layer.apply(model._init_weights)


def add_lora(model: PreTrainedModel, *, rank: int) -> PeftModel:
    """Freeze a model and add low-rank matrices to its query and value projections.

    The head learns in full. The matrices are drawn from torch's generator.

    Parameters
    ----------
    model : changed in place, after `set_pooling`
    rank : of the matrices; they are scaled by 2 (alpha is twice the rank)

    Returns
    -------
    the model in peft's wrapping; `merge_lora` takes it off again

    Raises
    ------
    WorkbookError : peft is not installed, `rank` is below 1, or the architecture has no such
        projections.

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
            f"training.lora_rank is for models of BERT's family; {type(model).__name__} has no "
            "query and value projections, set it to 0"
        )
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=LORA_DROPOUT,
        target_modules=list(targets),
        # peft adds the classifier
        modules_to_save=[name for name in ("pooler", "attention_pool") if name in names],
    )
    return get_peft_model(model, lora)


def merge_lora(model: PeftModel) -> PreTrainedModel:
    """Add the low-rank matrices to their weights; return the plain model, all of it to learn."""
    return model.merge_and_unload().requires_grad_(True)
