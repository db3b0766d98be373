"""A DeBERTa-v3 of random weights, with a tokenizer trained on given texts: no network needed."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]


def build(
    texts: Sequence[str], folder: Path, *, seed: int = 42, n_tokens: int = 2_000, **shape: int
) -> Path:
    """Write a small DeBERTa-v3 and a tokenizer trained on `texts` into a folder; return it.

    For tests, benchmarks and the smoke profile: random weights, two layers of 64 unless `shape`
    says otherwise, every switch of DeBERTa-v3 on.

    Parameters
    ----------
    n_tokens : of the tokenizer, at most
    shape : as `config` takes it; a `vocab_size` makes a table of embeddings longer than
        the tokenizer, as v3's is
    """
    import torch
    from transformers import AutoModel, set_seed

    set_seed(seed)
    tokenizer = train_tokenizer(texts, n_tokens)
    settings = config(**{"vocab_size": len(tokenizer), **shape})
    model = AutoModel.from_config(settings, dtype=torch.float32)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def config(vocab_size: int, **shape: int) -> Any:
    """Return the configuration of a DeBERTa-v3, of two layers unless `shape` has more.

    Attention is disentangled, keys are shared, and there are 256 position buckets.

    Parameters
    ----------
    shape : for instance hidden_size, num_hidden_layers, num_attention_heads, intermediate_size
    """
    from transformers import DebertaV2Config

    small = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    return DebertaV2Config(
        vocab_size=vocab_size,
        **{**small, **shape},
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


def train_tokenizer(texts: Sequence[str], n_tokens: int = 2_000) -> Any:
    """Return a tokenizer of DeBERTa-v3's kind, of at most `n_tokens`, the same in every run."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import DebertaV2Tokenizer

    raw = Tokenizer(models.Unigram())
    raw.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
            normalizers.NFC(),
            normalizers.Strip(left=False, right=True),
        ]
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=n_tokens,
        special_tokens=SPECIAL_TOKENS,
        unk_token="[UNK]",
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    vocab = _reproducible_vocab(json.loads(raw.to_str())["model"]["vocab"], texts)
    unknown = SPECIAL_TOKENS.index("[UNK]")
    return DebertaV2Tokenizer(vocab=vocab, unk_id=unknown, model_max_length=512)


def _reproducible_vocab(
    trained: Sequence[tuple[str, float]], texts: Sequence[str]
) -> list[tuple[str, float]]:
    """Return the pieces and their log probabilities, the same in every run.

    The trainer sums in parallel and ranks rare characters by the order of a hash table.
    """
    counts = Counter("".join(texts).replace(" ", "▁"))
    n_special = len(SPECIAL_TOKENS)
    scores = dict(trained[n_special:])
    for character in filter(lambda piece: len(piece) == 1, scores):
        scores[character] = math.log(max(1, counts[character]) / counts.total())
    learned = [(piece, round(score, 6)) for piece, score in scores.items()]
    learned.sort(key=lambda entry: (-entry[1], entry[0]))
    special = [(piece, score) for piece, score in trained[:n_special]]
    return special + learned
