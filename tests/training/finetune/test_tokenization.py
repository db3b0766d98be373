import os
import random
from functools import partial

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lib.training import backbones, local_deberta, token_ids
from lib.training.finetune import tokenization

PAD, CLS, SEP, UNK, URL, EMAIL = range(6)
TRUNCATIONS = pytest.mark.parametrize("truncation", ["head", "head_tail", "windows"])
LENGTHS = [2, 5, 3, 5, 1, 4]
BATCH = {
    "input_ids": torch.tensor(
        [[10 * row + 1] * n + [PAD] * (5 - n) for row, n in enumerate(LENGTHS)]
    ),
    "attention_mask": torch.tensor([[1] * n + [0] * (5 - n) for n in LENGTHS]),
    "labels": torch.arange(6) % 3,
    "piece": torch.arange(6),
}


class Counted(PreTrainedTokenizerFast):
    """Counts its calls."""

    n_calls = 0

    def __call__(self, *args, **options):
        self.n_calls += 1
        return super().__call__(*args, **options)


def tokenizer(n_words=200):
    """The word "17" is token 17; [CLS] before a text, [SEP] behind it."""
    special = {
        "[PAD]": PAD,
        "[CLS]": CLS,
        "[SEP]": SEP,
        "[UNK]": UNK,
        "[URL]": URL,
        "[EMAIL]": EMAIL,
    }
    raw = Tokenizer(
        models.WordLevel({**special, **{str(i): i for i in range(6, n_words)}}, unk_token="[UNK]")
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return Counted(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def words(n, start=10):
    return " ".join(str(i) for i in range(start, start + n))


def encoded(texts, max_length=10, truncation="head", **options):
    return tokenization.encode(
        texts,
        options.pop("by", None) or tokenizer(),
        max_length=max_length,
        truncation=truncation,
        **options,
    )


def ids_of(pieces):
    return [pieces[piece].tolist() for piece in range(len(pieces))]


def contents(pieces):
    return ids_of(pieces), pieces.lengths.tolist(), pieces.rows.tolist(), pieces.is_cut.tolist()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    rng = random.Random(0)
    texts = [
        " ".join(rng.choices("see saw the cat sat mail at or now".split(), k=8)) + "."
        for _ in range(50)
    ]
    return backbones.load_backbone(
        str(local_deberta.build(texts, tmp_path_factory.mktemp("tiny"))), class_names=["a", "b"]
    )


@pytest.mark.parametrize(
    ("truncation", "pieces"),
    [
        ("head", [[*range(10, 18)]]),
        ("head_tail", [[10, 11, 24, 25, 26, 27, 28, 29]]),
        ("windows", [[*range(10, 18)], [*range(16, 24)], [*range(22, 30)]]),
    ],
)
def test_a_longer_text_is_cut_as_configured_between_its_special_tokens(truncation, pieces):
    found = encoded(["12 13", words(20), "7"], truncation=truncation)
    assert ids_of(found) == [
        [CLS, 12, 13, SEP],
        *([CLS, *piece, SEP] for piece in pieces),
        [CLS, 7, SEP],
    ]
    assert found.rows.tolist() == [0, *[1] * len(pieces), 2]
    assert found.lengths.tolist() == [len(ids) for ids in ids_of(found)]


@pytest.mark.parametrize(
    ("truncation", "max_length", "n_words", "n_pieces", "cut"),
    [
        ("head", 10, 8, 1, False),
        ("head", 10, 9, 1, True),
        ("head_tail", 10, 8, 1, False),
        ("head_tail", 10, 9, 1, True),
        ("windows", 10, 8, 1, False),
        ("windows", 10, 9, 2, False),
        ("windows", 10, 14, 2, False),
        ("windows", 10, 15, 3, False),
        ("windows", 8, 126, 31, False),
        ("windows", 8, 127, 32, False),
        (
            "windows",
            8,
            130,
            32,
            False,
        ),  # 31 steps of 4, and 6 more tokens: the last window ends with the text
        ("windows", 8, 131, 32, True),
        ("windows", 8, 180, 32, True),
    ],
)
def test_cut_tells_whether_tokens_are_lost(truncation, max_length, n_words, n_pieces, cut):
    found = encoded([words(n_words)], max_length, truncation)
    assert found.is_cut.tolist() == [cut] * n_pieces
    assert found.lengths.max() <= max_length
    kept = {*found.tokens.tolist()}
    assert ({*range(10, 10 + n_words)} <= kept) is not cut


@TRUNCATIONS
def test_an_empty_text_is_one_piece_of_special_tokens(truncation):
    found = encoded(["7", "", " "], truncation=truncation)
    ids = [[CLS, 7, SEP], [CLS, SEP], [CLS, SEP]]
    assert contents(found) == (ids, [3, 2, 2], [0, 1, 2], [False] * 3)


@TRUNCATIONS
def test_no_text_is_no_piece(truncation):
    assert len(encoded([], truncation=truncation)) == 0


def test_every_text_of_many_keeps_its_row():
    found = encoded([f"{6 + i % 100}" for i in range(2_001)])
    assert found.rows.tolist() == [*range(2_001)]
    assert [ids[1] - 6 for ids in ids_of(found)] == [i % 100 for i in range(2_001)]


def test_a_token_of_a_million_characters_is_one_token():
    found = encoded(["x" * 1_000_000, "7"])
    assert ids_of(found) == [[CLS, UNK, SEP], [CLS, 7, SEP]]
    assert found.is_cut.tolist() == [False, False]


def test_a_million_characters_without_a_space_are_cut_like_any_text(tiny):
    found = encoded(["s" * 1_000_000], 8, "windows", by=tiny[0])
    assert found.lengths.tolist() == [8] * 32
    assert found.is_cut.tolist() == [True] * 32


@pytest.mark.parametrize("text", ["see the cat.", "[URL] or mail [EMAIL] now", "the [URL]", ""])
def test_what_is_not_cut_can_be_read_back(tiny, text):
    ids = encoded([text], 64, by=tiny[0])[0].tolist()
    assert tiny[0].decode(ids, skip_special_tokens=True).split() == text.split()
    placeholders = tiny[0].convert_tokens_to_ids(["[URL]", "[EMAIL]"])
    assert [ids.count(token) for token in placeholders] == [
        text.count("[URL]"),
        text.count("[EMAIL]"),
    ]
    assert (ids[0], ids[-1]) == (tiny[0].cls_token_id, tiny[0].sep_token_id)
    assert tiny[0].unk_token_id not in ids


# --- the cache ---


def test_the_same_texts_are_tokenised_once_and_read_from_the_disk(tmp_path):
    by = tokenizer()
    first = encoded(["12 13", words(20)], truncation="windows", by=by, cache=tmp_path)
    calls, again = (
        by.n_calls,
        encoded(["12 13", words(20)], truncation="windows", by=by, cache=tmp_path),
    )
    assert by.n_calls == calls > 0
    plain = encoded(["12 13", words(20)], truncation="windows")
    assert contents(first) == contents(again) == contents(plain)
    assert isinstance(again.tokens, np.memmap) and not isinstance(plain.tokens, np.memmap)
    assert [file.parent for file in tmp_path.rglob("tokens.npy")] == [*tmp_path.iterdir()]


def longer_vocabulary():
    return tokenizer(n_words=201)


def one_more_token():
    made = tokenizer()
    made.add_tokens(["new"])
    return made


@pytest.mark.parametrize(
    "other",
    [
        {"texts": ["12 1", "314"]},
        {"texts": ["14", "12 13"]},
        {"texts": ["12 13", "14", ""]},
        {"max_length": 11},
        {"truncation": "windows"},
        {"by": longer_vocabulary},
        {"by": one_more_token},
    ],
    ids=lambda other: " ".join(getattr(value, "__name__", str(value)) for value in other.values()),
)
def test_what_differs_is_tokenised_anew(tmp_path, other):
    encoded(["12 13", "14"], cache=tmp_path)
    second = {"texts": ["12 13", "14"], **other, "by": other.get("by", tokenizer)()}
    found = encoded(**second, cache=tmp_path)
    assert second["by"].n_calls > 0
    assert len([*tmp_path.iterdir()]) == 2
    assert contents(found) == contents(encoded(**second))


@pytest.mark.parametrize("constant", ["HEAD_SHARE", "WINDOW_OVERLAP", "MAX_WINDOWS"])
def test_another_rule_is_tokenised_anew(tmp_path, monkeypatch, constant):
    encoded(["12"], cache=tmp_path)
    monkeypatch.setattr(token_ids, constant, getattr(token_ids, constant) / 2)
    encoded(["12"], cache=tmp_path)
    assert len([*tmp_path.iterdir()]) == 2


def test_truncation_and_padding_that_come_with_a_tokenizer_neither_cut_nor_count(tmp_path):
    by = tokenizer()
    for _ in range(2):  # MiniLM's file has both; the first call of a tokenizer takes them off
        by.backend_tokenizer.enable_truncation(3)
        by.backend_tokenizer.enable_padding(length=5)
        found = encoded(["12 13 14", "7"], by=by, cache=tmp_path)
        assert ids_of(found) == [[CLS, 12, 13, 14, SEP], [CLS, 7, SEP]]
        calls = by.n_calls
        encoded(["12 13 14", "7"], by=by, cache=tmp_path)
        assert by.n_calls == calls
    assert len([*tmp_path.iterdir()]) == 1


def test_the_24_most_recently_used_are_kept(tmp_path):
    texts = [[str(6 + i)] for i in range(25)]
    folders = []
    for i, text in enumerate(texts[:24]):
        encoded(text, cache=tmp_path)
        folders += [folder for folder in tmp_path.iterdir() if folder not in folders]
        os.utime(folders[-1], (i, i))
    assert len(folders) == 24
    encoded(texts[0], cache=tmp_path)
    encoded(texts[24], cache=tmp_path)
    assert [folder.exists() for folder in folders] == [True, False, *[True] * 22]
    assert len([*tmp_path.iterdir()]) == 24


# --- batches ---


def test_every_text_counts_once_however_many_windows_it_has():
    pieces = tokenization.EncodedTexts(
        encoded([words(20), "7", words(9), "8"], truncation="windows"), np.array([2, 0, 1, 0])
    )
    assert len(pieces) == 7
    shares = [1 / 3] * 3 + [1] + [1 / 2] * 2 + [1]  # of a text; 7 pieces, 4 texts
    assert pieces.weights.tolist() == pytest.approx([share * 7 / 4 for share in shares])
    assert pieces.weights.mean() == pytest.approx(1)
    assert pieces.labels.tolist() == [2, 2, 2, 0, 1, 1, 0]
    assert pieces.pieces.lengths.tolist() == [10, 10, 10, 3, 10, 5, 3]
    one = pieces[np.int64(5)]
    assert (list(one["input_ids"]), one["labels"], one["weight"], one["piece"]) == (
        [CLS, 16, 17, 18, SEP],
        1,
        pytest.approx(0.5 * 7 / 4),
        5,
    )


def test_pieces_are_padded_to_the_longest_of_them():
    pieces = tokenization.EncodedTexts(encoded(["7", words(20), "12 13"]), np.array([2, 0, 1]))
    batch = tokenization.collate([pieces[2], pieces[0]], pad=99)
    assert {name: values.tolist() for name, values in batch.items()} == {
        "input_ids": [[CLS, 12, 13, SEP], [CLS, 7, SEP, 99]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 0]],
        "labels": [1, 2],
        "weight": [1, 1],
        "piece": [2, 0],
    }
    assert {batch[name].dtype for name in ("input_ids", "attention_mask", "labels", "piece")} == {
        torch.int64
    }


def test_for_a_gpu_the_padded_length_is_a_multiple_of_eight():
    pieces = tokenization.EncodedTexts(encoded(["7", words(8)]), np.array([2, 0]))
    batch = tokenization.collate([pieces[0], pieces[1]], pad=99, multiple=8)
    plain = tokenization.collate([pieces[0], pieces[1]], pad=99)
    assert plain["input_ids"].shape == (2, 10)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 16)
    assert (batch["input_ids"][:, :10].tolist(), batch["attention_mask"][:, :10].tolist()) == (
        plain["input_ids"].tolist(),
        plain["attention_mask"].tolist(),
    )
    assert (batch["input_ids"][:, 10:] == 99).all() and not batch["attention_mask"][:, 10:].any()


def test_a_batch_that_need_not_be_split_stays_as_it_is():
    (part,) = tokenization.micro_batches(BATCH, n_parts=1, max_tokens=None)
    assert part is BATCH


@pytest.mark.parametrize(
    ("n_parts", "max_tokens", "parts"),
    [
        (2, None, [[1, 3, 5], [2, 0, 4]]),
        (4, None, [[1, 3], [5, 2], [0], [4]]),
        (9, None, [[1], [3], [5], [2], [0], [4]]),
        (1, 10, [[1, 3], [5, 2], [0, 4]]),
        (1, 16, [[1, 3, 5], [2, 0, 4]]),
        (1, 3, [[1], [3], [5], [2], [0], [4]]),
        (2, 16, [[1, 3, 5], [2, 0, 4]]),
        (3, 8, [[1], [3], [5, 2], [0, 4]]),
    ],
)
def test_a_batch_is_split_into_parts_of_like_length(n_parts, max_tokens, parts):
    found = list(tokenization.micro_batches(BATCH, n_parts=n_parts, max_tokens=max_tokens))
    assert [part["piece"].tolist() for part in found] == parts
    for part, rows in zip(found, parts):
        longest = max(LENGTHS[row] for row in rows)
        for name, values in BATCH.items():
            assert (
                part[name].tolist()
                == (values[rows, :longest] if values.dim() > 1 else values[rows]).tolist()
            )


@pytest.mark.parametrize(
    ("n_parts", "max_tokens", "parts"),
    [
        (1, 20, [[0, 1, 3, 5], [2, 4]]),
        (2, None, [[0, 1, 3, 5], [2, 4]]),
        (1, 10, [[1, 3], [0, 5], [2, 4]]),
        (1, 3, [[1, 3], [0, 5], [2, 4]]),
        (9, None, [[1, 3], [0, 5], [2, 4]]),
    ],
)
def test_rows_in_pairs_stay_together(n_parts, max_tokens, parts):
    paired = {**BATCH, "pair": torch.tensor([7, 3, 5, 3, 5, 7])}
    found = tokenization.micro_batches(paired, n_parts=n_parts, max_tokens=max_tokens)
    assert [sorted(part["piece"].tolist()) for part in found] == parts


def test_of_an_odd_number_of_rows_in_pairs_one_is_alone():
    odd = {name: values[:5] for name, values in BATCH.items()}
    odd["pair"] = torch.tensor([1, 0, 2, 0, 1])
    found = tokenization.micro_batches(odd, n_parts=9, max_tokens=None)
    assert sorted(sorted(part["piece"].tolist()) for part in found) == [[0, 4], [1, 3], [2]]


@pytest.mark.parametrize(
    ("lengths", "max_tokens", "max_rows", "ends"),
    [
        ([5, 4, 3, 3, 1], 9, 3, [1, 3, 5]),
        ([3, 3, 3, 1, 1, 1], 9, 3, [3, 6]),
        ([5, 4, 3, 3, 1], None, 2, [2, 4, 5]),
        ([20, 9, 1], 9, 3, [1, 2, 3]),
        ([0, 0], 9, 8, [2]),
        ([], 9, 3, []),
    ],
)
def test_rows_are_cut_where_tokens_or_rows_are_enough(lengths, max_tokens, max_rows, ends):
    found = list(token_ids.token_batches(lengths, max_tokens=max_tokens, max_rows=max_rows))
    assert found == [slice(start, end) for start, end in zip([0, *ends], ends)]


@pytest.mark.parametrize(("device", "limit"), [("cpu", 2_048), ("cuda", 32_768)])
def test_all_rows_are_predicted_from_the_longest_to_the_shortest(device, limit):
    lengths = np.random.default_rng(0).integers(2, 512, size=3_000)
    lengths[:1_100] = 1
    batches = list(token_ids.sorted_batches(lengths, max_tokens=token_ids.pass_tokens(device)))
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == [*range(3_000)]
    assert (np.diff(lengths[order]) <= 0).all()
    assert max(len(batch) * lengths[batch].max() for batch in batches) <= limit
    assert all(
        len(batch) == 1_024 or (len(batch) + 1) * lengths[batch].max() > limit
        for batch in batches[:-1]
    )  # full: not one row more


def sampled(lengths, seed=0, epoch=0, batch_size=4):
    sampler = tokenization.LengthGroupedSampler(
        np.asarray(lengths), batch_size=batch_size, seed=seed
    )
    sampler.epoch = epoch
    assert len(sampler) == len(lengths)
    return list(sampler)


def shuffled(n):
    return np.random.default_rng(9).permutation(n)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 7, 27, 200, 201, 203, 403])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_epoch_has_every_row_once_in_batches_of_like_length(n, seed):
    lengths = shuffled(n)
    order = sampled(lengths, seed)
    assert sorted(order) == [*range(n)]
    assert all(isinstance(row, int) for row in order)
    batches = [lengths[order[i : i + 4]] for i in range(0, n, 4)]
    if n <= 200:  # one block: a batch is of consecutive lengths, and what is left over comes last
        assert [np.ptp(batch) for batch in batches] == [3] * (n // 4) + [n % 4 - 1] * (n % 4 > 0)
        assert all((np.diff(batch) == -1).all() for batch in batches)
    else:
        assert np.mean([np.ptp(batch) for batch in batches]) < 15
    firsts = [batch[0] for batch in batches[: n // 4]]
    assert n < 200 or firsts != sorted(firsts, reverse=True)


def test_the_order_depends_on_seed_and_epoch_alone():
    draw = partial(sampled, shuffled(40))
    first = draw()
    torch.manual_seed(5)
    np.random.seed(5)
    assert draw() == first
    assert (
        len({tuple(order) for order in (first, draw(epoch=1), draw(seed=1), draw(seed=1, epoch=1))})
        == 4
    )


def test_a_sampler_can_be_gone_through_again():
    sampler = tokenization.LengthGroupedSampler(shuffled(40), batch_size=4, seed=0)
    first = list(sampler)
    assert list(sampler) == first
    sampler.epoch = 1
    assert list(sampler) == sampled(shuffled(40), epoch=1)


@pytest.mark.parametrize(
    "lengths", [[5] * 40, shuffled(403)], ids=["all alike", "more than one block"]
)
def test_rows_meet_others_in_the_next_epoch(lengths):
    first, second = (
        {frozenset(order[i : i + 4]) for i in range(0, len(order), 4)}
        for order in (sampled(lengths), sampled(lengths, epoch=1))
    )
    assert len(first & second) < len(first) / 4
