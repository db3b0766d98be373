import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedTokenizerFast

from lib.config import TrainingConfig
from lib.training import local_deberta, token_ids
from lib.training.finetune import heads, prediction, tokenization

PAD, CLS, SEP, UNK = range(4)
SMALL = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 64,
}
CLASSES = ["fish", "bird", "cow"]
LENGTHS = [7, 3, 19, 2, 19, 5, 11, 4]
KINDS = pytest.mark.parametrize("kind", ["bert", "deberta"])
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(token_ids, "CPU_TOKENS", 24)


def tokenizer():
    """The word "17" is token 17; [CLS] before a text, [SEP] behind it."""
    raw = Tokenizer(
        models.WordLevel(
            {
                "[PAD]": PAD,
                "[CLS]": CLS,
                "[SEP]": SEP,
                "[UNK]": UNK,
                **{str(i): i for i in range(4, 40)},
            },
            unk_token="[UNK]",
        )
    )
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def classifier(kind, pooling="cls", first_only=False):
    """A random model whose weights are wide enough for logits that differ; dropout is on."""
    if kind == "deberta":
        config = local_deberta.config(SMALL["vocab_size"])
        config.update({**SMALL, "pooler_hidden_size": SMALL["hidden_size"], "position_buckets": 4})
    else:
        config = BertConfig(**SMALL, pad_token_id=PAD)
    config.update(
        {
            "initializer_range": 0.5,
            "id2label": dict(enumerate(CLASSES)),
            "label2id": {name: i for i, name in enumerate(CLASSES)},
        }
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    heads.set_dropout(model, hidden=0.2, attention=0.2)
    heads.set_pooling(model, pooling)
    if pooling == "attention":
        torch.nn.init.normal_(model.attention_pool.weight)
    if first_only:
        heads.read_first_token_only(model)
    return model


def texts():
    rng = np.random.default_rng(0)
    return [" ".join(map(str, rng.integers(4, 40, size=n - 2))) for n in LENGTHS]


def pieces(rows=None, **options):
    return tokenization.encode(
        [texts()[row] for row in rows] if rows else texts(),
        tokenizer(),
        **{"max_length": 64, **options},
    )


def logits(model, encoded, n_rows):
    return prediction.predict_logits(model, encoded, n_rows=n_rows, pad=PAD)


@KINDS
@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
@pytest.mark.parametrize("first_only", [False, True], ids=["all tokens", "first token"])
def test_a_text_gets_the_same_logits_in_any_company_and_its_own_place(kind, pooling, first_only):
    model = classifier(kind, pooling, first_only and pooling == "cls").train()
    together = logits(model, pieces(), len(LENGTHS))
    alone = np.concatenate([logits(model, pieces([row]), 1) for row in range(len(LENGTHS))])
    assert together.shape == (8, 3)
    assert together.dtype == np.float64
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert (
        np.abs(alone[:, None] - alone[None]).max(axis=2)[~np.eye(8, dtype=bool)].min() > 1e-3
    )  # no two texts alike: places count
    reversed_rows = [*range(len(LENGTHS))][::-1]
    np.testing.assert_allclose(logits(model, pieces(reversed_rows), 8)[::-1], alone, atol=1e-4)


@KINDS
def test_the_logits_are_those_of_the_model(kind):
    model = classifier(kind).eval()
    with torch.no_grad():
        expected = [
            model(input_ids=torch.tensor([ids.tolist()])).logits[0].tolist() for ids in pieces()
        ]
    np.testing.assert_allclose(logits(model, pieces(), 8), expected, atol=1e-4)


def test_what_several_processes_give_adds_up_to_the_whole_and_none_does_anothers_work():
    model = classifier("bert")
    shares = [
        prediction.predict_logits(model, pieces(), n_rows=8, pad=PAD, share=(i, 3))
        for i in range(3)
    ]
    np.testing.assert_array_equal(sum(shares), logits(model, pieces(), 8))
    done = np.array([np.abs(share).sum(axis=1) > 0 for share in shares])
    assert (done.sum(axis=0) == 1).all() and (done.sum(axis=1) > 0).all()


@KINDS
def test_the_logits_of_windows_are_averaged_text_by_text(kind):
    model, encoded = classifier(kind), pieces(max_length=8, truncation="windows")
    rows = encoded.rows
    assert np.bincount(rows).tolist() == [1, 1, 4, 1, 4, 1, 2, 1]
    each = replace(encoded, rows=np.arange(len(rows)))
    single = logits(model, each, len(rows))
    expected = [single[rows == row].mean(axis=0) for row in range(8)]
    np.testing.assert_allclose(logits(model, encoded, 8), expected, atol=1e-4)
    assert np.abs(single[rows == 2] - expected[2]).max() > 1e-2


@KINDS
def test_states_of_frozen_layers_stand_in_for_token_ids(kind):
    model, asked = classifier(kind).eval(), []
    table = model.get_input_embeddings().weight.detach()

    def hidden(numbers, n_tokens):
        asked.extend(numbers.tolist())
        ids = tokenization.padded([pieces()[number] for number in numbers], pad=PAD)[0]
        assert ids.shape[1] == n_tokens
        return table[ids]

    found = prediction.predict_logits(model, pieces(), n_rows=8, pad=PAD, hidden=hidden)
    np.testing.assert_allclose(found, logits(model, pieces(), 8), atol=1e-4)
    assert sorted(asked) == [*range(8)]


@KINDS
def test_reading_the_first_token_only_saves_work_and_changes_nothing(kind):
    ids, mask = tokenization.padded([*pieces()], pad=PAD)
    found = []
    for first_only in (False, True):
        model, seen = classifier(kind, first_only=first_only).train(), []
        heads.set_dropout(model, hidden=0, attention=0)
        for layer in model.base_model.encoder.layer:
            layer.intermediate.register_forward_pre_hook(
                lambda _, inputs, seen=seen: seen.append(inputs[0].shape[1])
            )
        output = model(input_ids=ids, attention_mask=mask).logits
        torch.nn.functional.cross_entropy(output, torch.arange(8) % 3).backward()
        found.append(
            (
                output.detach(),
                {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
            )
        )
        assert seen == [19, 1 if first_only else 19]
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


def probs(by, model, given, *, progress=False, **options):
    settings = TrainingConfig(**{"max_length": 64, "precision": "fp32", **options})
    return prediction.predict_probs(by, model, given, settings=settings, progress=progress)


@pytest.mark.parametrize("truncation", ["head", "head_tail", "windows"])
def test_probabilities_are_the_softmax_of_the_logits_under_the_settings_of_training(truncation):
    model = classifier("bert")
    found = probs(tokenizer(), model, texts(), max_length=8, truncation=truncation)
    expected = np.exp(logits(model, pieces(max_length=8, truncation=truncation), 8))
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)


@KINDS
def test_probabilities_are_computed_in_the_precision_of_training(kind):
    by, model = tokenizer(), classifier(kind)
    heads.compute_logits_in_float32(model)
    full, half = (probs(by, model, texts(), precision=precision) for precision in ("fp32", "bf16"))
    assert 1e-5 < np.abs(half - full).max() < 0.05
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = logits(model, pieces(), 8)
    np.testing.assert_allclose(half, prediction.softmax(expected), atol=1e-12)


@pytest.mark.parametrize("truncation", ["head", "windows"])
def test_no_text_has_no_row_of_probabilities(truncation):
    found = probs(tokenizer(), classifier("bert"), [], truncation=truncation)
    assert (found.shape, found.dtype) == ((0, 3), np.float64)


def test_an_empty_text_has_probabilities_too():
    by, model = tokenizer(), classifier("bert")
    expected = [probs(by, model, [text])[0] for text in ("", texts()[0])]
    np.testing.assert_allclose(probs(by, model, ["", texts()[0]]), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([[0, 0]], [[0.5, 0.5]]),
        ([[0, np.log(3)], [np.log(4), 0]], [[0.25, 0.75], [0.8, 0.2]]),
        ([[1_000, 1_000 + np.log(3)], [-1_000, 0]], [[0.25, 0.75], [0, 1]]),
    ],
)
def test_softmax_by_hand(given, expected):
    np.testing.assert_allclose(
        prediction.softmax(np.array(given, dtype=float)), expected, atol=1e-12
    )


@KINDS
@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
def test_a_saved_model_gives_the_same_probabilities(tmp_path, kind, pooling):
    by, model = tokenizer(), classifier(kind, pooling)
    before = probs(by, model, texts())
    model.save_pretrained(tmp_path)
    by.save_pretrained(tmp_path)
    loaded_by, loaded, class_names = prediction.load_model(tmp_path)
    assert class_names == CLASSES
    assert loaded.config.pooling == pooling
    assert hasattr(loaded, "first_token_hook") is (pooling == "cls")
    np.testing.assert_allclose(probs(loaded_by, loaded, texts()), before, atol=1e-5)
    other = classifier(
        kind, "mean" if pooling == "cls" else "cls"
    )  # the same weights: the pooling counts
    assert np.abs(probs(by, other, texts()) - before).max() > 1e-3


def test_a_model_is_loaded_in_float32_whatever_it_was_saved_in(tmp_path):
    model = classifier("bert")
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    halves = {
        name: value.half() for name, value in load_file(tmp_path / "model.safetensors").items()
    }
    save_file(halves, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    _, loaded, _ = prediction.load_model(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.classifier.weight, halves["classifier.weight"].float())


def test_the_bar_counts_pieces(capsys):
    probs(
        tokenizer(), classifier("bert"), texts(), max_length=8, truncation="windows", progress=True
    )
    captured = capsys.readouterr()
    assert "15/15" in captured.err
    assert captured.out == ""
    probs(tokenizer(), classifier("bert"), texts())
    assert capsys.readouterr().err == ""


@KINDS
def test_a_texts_vector_is_the_mean_of_its_own_tokens_whatever_texts_are_beside_it(kind):
    model, texts = (
        classifier(kind),
        [
            " ".join(str(4 + (i * 7 + j) % 36) for j in range(length))
            for i, length in enumerate(LENGTHS)
        ],
    )
    settings = TrainingConfig(max_length=12, precision="fp32")
    vectors = prediction.embed(tokenizer(), model.train(), texts, settings=settings, progress=False)
    assert vectors.shape == (len(texts), 8) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for text, vector in zip(texts, vectors):
        ids = torch.tensor([[*[CLS, *map(int, text.split())][:11], SEP]])
        with torch.no_grad():
            mean = (
                model.eval()
                .base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
                .last_hidden_state.mean(dim=1)[0]
            )
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_a_model_of_the_first_token_alone_has_no_mean():
    with pytest.raises(ValueError, match="first token alone"):
        prediction.embed(
            tokenizer(),
            classifier("bert", first_only=True),
            ["5 6 7"],
            settings=TrainingConfig(max_length=12),
            progress=False,
        )


def test_vectors_are_computed_in_the_precision_of_the_run():
    model = classifier("bert")
    given = texts()[:1]
    settings = TrainingConfig(max_length=12, precision="bf16")
    half = prediction.embed(tokenizer(), model, given, settings=settings, progress=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        full = settings.model_copy(update={"precision": "fp32"})
        disabled = prediction.embed(tokenizer(), model, given, settings=full, progress=False)
    difference = np.abs(half - disabled).max()
    assert 1e-5 < difference < 0.05


def test_batches_hold_all_pieces_once_in_like_lengths_with_their_masks():
    encoded = pieces()
    seen = []
    batches = prediction.padded_batches(
        encoded, pad=PAD, device=torch.device("cpu"), desc="", progress=False
    )
    for batch, ids, mask in batches:
        longest = max(LENGTHS[piece] for piece in batch)
        assert ids.shape == mask.shape == (len(batch), longest)
        assert mask.sum(dim=1).tolist() == [LENGTHS[piece] for piece in batch]
        seen.extend(batch.tolist())
    assert sorted(seen) == [*range(len(LENGTHS))]
    assert [LENGTHS[piece] for piece in seen] == sorted(LENGTHS, reverse=True)


def test_a_batch_that_does_not_fit_into_memory_is_predicted_in_halves(monkeypatch):
    rows = []

    def model(input_ids, attention_mask):
        rows.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return SimpleNamespace(logits=input_ids[:, :1] * attention_mask[:, :1].float())

    monkeypatch.setattr(prediction.devices.gc, "collect", lambda: None)
    ids = torch.arange(10).view(5, 2)
    logits = prediction._logits(model, {"input_ids": ids, "attention_mask": torch.ones(5, 2)})
    assert logits.flatten().tolist() == [0, 2, 4, 6, 8]
    assert rows == [5, 3, 2, 1, 2]
    with pytest.raises(RuntimeError, match="shapes"):
        prediction._logits(_raises, {"input_ids": ids, "attention_mask": ids})


def _raises(**_inputs):
    raise RuntimeError("shapes differ")
