import json
import math
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
)

from lib.errors import WorkbookError
from lib.training import backbones, local_deberta
from lib.training.finetune import pretraining

CLASSES = ["a", "b"]
SENTENCES = [
    "the cat sat on the mat today",
    "a dog ran in the park",
    "see [URL] for the sun",
]  # each word tells its neighbours
pytestmark = pytest.mark.usefixtures("one_thread")


def texts(n=120):
    rng = random.Random(0)
    return [rng.choice(SENTENCES) for _ in range(n)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return local_deberta.build(texts(), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_bert(tiny, tmp_path_factory):
    """A BERT that has pooler and masked-language head, with the tiny DeBERTa's tokenizer and no row
    for [URL] or [EMAIL]."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer, _ = backbones.load_backbone(str(tiny), class_names=CLASSES)
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer) - 2,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    )
    torch.nn.init.normal_(model.cls.predictions.bias)
    model.save_pretrained(folder)
    weights = {
        **load_file(folder / "model.safetensors"),
        "bert.pooler.dense.weight": torch.zeros(16, 16),
        "bert.pooler.dense.bias": torch.zeros(16),
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / file, folder)
    return folder


def pretrain(folder, source, rows=None, *, learning_rate=3e-3, **settings):
    return pretraining.pretrain(
        rows or texts(),
        source=str(source),
        folder=folder,
        recipe=pretraining.Recipe(batch_size=16, learning_rate=learning_rate),
        **{"epochs": 1, "seed": 1, "progress": False, **settings},
    )


@pytest.fixture(scope="module")
def pretrained(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "pretrained"
    return folder, pretrain(folder, tiny, epochs=6)


def test_the_masked_loss_falls_from_that_of_guessing(pretrained, tiny):
    _, facts = pretrained
    n_tokens = len(load_file(tiny / "model.safetensors")["embeddings.word_embeddings.weight"]) + 2
    assert facts["eval_loss_before"] == pytest.approx(math.log(n_tokens), abs=0.3)
    assert facts["eval_loss_after"] < facts["eval_loss_before"] - 0.5


def test_what_was_done_is_counted(pretrained):
    _, facts = pretrained
    assert (facts["train_rows"], facts["held_out_rows"]) == (114, 6)  # 5 % of 120
    assert facts["steps"] == 6 * math.ceil(114 / 16)
    assert json.loads(json.dumps(facts)) == facts
    assert 0 < facts["seconds"] < 600


def test_the_encoder_is_loaded_with_every_weight_but_the_heads(pretrained, monkeypatch):
    folder, _ = pretrained
    infos, check = [], backbones.check_keys
    monkeypatch.setattr(
        backbones, "check_keys", lambda info, **known: infos.append(info) or check(info, **known)
    )
    _, model = backbones.load_backbone(str(folder), class_names=CLASSES)
    assert set(infos[0]["missing_keys"]) == {
        "classifier.weight",
        "classifier.bias",
        "pooler.dense.weight",
        "pooler.dense.bias",
    }
    assert not infos[0]["unexpected_keys"]
    saved, loaded = load_file(folder / "model.safetensors"), model.state_dict()
    assert [
        key for key, value in saved.items() if not torch.equal(loaded[f"deberta.{key}"], value)
    ] == []


def test_every_weight_of_the_encoder_has_learned(pretrained, tiny):
    before, after = (
        load_file(tiny / "model.safetensors"),
        load_file(pretrained[0] / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    grown = "embeddings.word_embeddings.weight"
    assert len(after[grown]) == len(before[grown]) + 2
    assert [key for key in before if key != grown and torch.equal(before[key], after[key])] == []
    assert not torch.equal(before[grown], after[grown][:-2])


def test_the_folder_holds_no_more_than_the_hubs_layout(pretrained):
    assert sorted(file.name for file in pretrained[0].iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_placeholders_are_one_token_each_after_it(pretrained, tiny):
    tokenizer, model = backbones.load_backbone(str(pretrained[0]), class_names=CLASSES)
    table = load_file(tiny / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert tokenizer.convert_tokens_to_ids(["[URL]", "[EMAIL]"]) == [len(table), len(table) + 1]
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == len(table) + 2


def test_the_seed_decides_the_weights(tiny, tmp_path):
    facts = [
        pretrain(tmp_path / name, tiny, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    losses = [(entry["eval_loss_before"], entry["eval_loss_after"]) for entry in facts]
    assert losses[0] == losses[1] != losses[2]


def test_with_no_learning_rate_nothing_changes_and_the_same_tokens_are_scored(tiny, tmp_path):
    facts = pretrain(tmp_path / "out", tiny, learning_rate=0.0)
    before, after = (
        load_file(tiny / "model.safetensors"),
        load_file(tmp_path / "out" / "model.safetensors"),
    )
    assert facts["eval_loss_before"] == facts["eval_loss_after"]
    assert all(torch.equal(value, after[key][: len(value)]) for key, value in before.items())


def test_bert_keeps_its_head_and_loses_its_pooler(tiny_bert, tmp_path):
    _, model = pretraining.load_masked(str(tiny_bert))
    saved = load_file(tiny_bert / "model.safetensors")
    bias = model.cls.predictions.decoder.bias
    assert torch.equal(bias[:-2], saved["cls.predictions.bias"])
    assert model.cls.predictions.decoder.weight is model.get_input_embeddings().weight
    pretrain(tmp_path / "out", tiny_bert)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == {
        key.removeprefix("bert.")
        for key in saved
        if key.startswith("bert.") and "pooler" not in key
    }
    _, classifier = backbones.load_backbone(str(tmp_path / "out"), class_names=CLASSES)
    assert torch.equal(
        classifier.bert.embeddings.word_embeddings.weight,
        written["embeddings.word_embeddings.weight"],
    )


def test_a_classifier_that_was_trained_before_can_be_pretrained(tiny, tmp_path):
    tokenizer, model = backbones.load_backbone(str(tiny), class_names=CLASSES)
    model.attention_pool = torch.nn.Linear(64, 1, bias=False)
    for part in (tokenizer, model):
        part.save_pretrained(tmp_path / "classifier")
    _, masked = pretraining.load_masked(str(tmp_path / "classifier"))
    assert torch.equal(
        masked.deberta.encoder.rel_embeddings.weight, model.deberta.encoder.rel_embeddings.weight
    )


def test_minilm_is_the_offline_encoder(tiny, monkeypatch):
    monkeypatch.setattr(backbones, "offline_encoder", lambda: tiny)
    _, model = pretraining.load_masked("minilm")
    assert torch.equal(
        model.deberta.encoder.rel_embeddings.weight,
        load_file(tiny / "model.safetensors")["encoder.rel_embeddings.weight"],
    )


def test_a_half_precision_checkpoint_is_trained_in_float32(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "half")
    AutoModel.from_pretrained(tiny).half().save_pretrained(tmp_path / "half")
    _, model = pretraining.load_masked(str(tmp_path / "half"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_it_computes_in_the_precision_asked_for_and_keeps_its_weights_in_float32(
    pretrained, tiny, tmp_path
):
    _, plain = pretrained
    mixed = pretrain(tmp_path / "mixed", tiny, epochs=6, precision="bf16")
    assert 0 < abs(mixed["eval_loss_after"] - plain["eval_loss_after"]) < 0.5
    assert {
        value.dtype for value in load_file(tmp_path / "mixed" / "model.safetensors").values()
    } == {torch.float32}


def test_deberta_looks_at_the_distances_that_occur_here_too(tiny):
    _, model = pretraining.load_masked(str(tiny))
    seen = []
    model.deberta.encoder.layer[0].attention.self.key_proj.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[-2])
    )
    model(input_ids=torch.arange(5, 13)[None], attention_mask=torch.ones(1, 8, dtype=torch.long))
    assert (
        max(seen) == 16
    )  # of 8 tokens: twice as many distances, not twice the 256 that it has embeddings for


def test_a_missing_weight_of_the_encoder_stops_it(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "holed")
    weights = load_file(tmp_path / "holed" / "model.safetensors")
    del weights["encoder.layer.1.output.LayerNorm.weight"]
    save_file(weights, tmp_path / "holed" / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        WorkbookError, match=r"lacks deberta\.encoder\.layer\.1\.output\.LayerNorm\.weight"
    ):
        pretrain(tmp_path / "out", tmp_path / "holed")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_a_mask_token_is_refused(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "unmasked")
    settings = json.loads((tmp_path / "unmasked" / "tokenizer_config.json").read_text())
    (tmp_path / "unmasked" / "tokenizer_config.json").write_text(
        json.dumps({**settings, "mask_token": None})
    )
    with pytest.raises(
        WorkbookError, match=r"unmasked' has no mask token.*set training\.pretraining_epochs to 0"
    ):
        pretrain(tmp_path / "out", tmp_path / "unmasked")


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (
            ["one text", "", "  "],
            {},
            r"training\.pretraining_epochs needs at least two texts with a token, found 1",
        ),
        (
            SENTENCES,
            {"epochs": 0},
            r"training\.pretraining_epochs must be above 0 to pretrain, found 0",
        ),
        (
            SENTENCES,
            {"learning_rate": math.inf},
            r"pretraining diverged: the masked loss is nan after 1 steps",
        ),
    ],
)
def test_what_cannot_be_pretrained_is_refused_and_leaves_the_folder(
    tiny, tmp_path, rows, settings, message
):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "former").write_text("kept")
    with pytest.raises(WorkbookError, match=message):
        pretrain(tmp_path / "out", tiny, rows=rows, **settings)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["former"]


def test_no_texts_at_all_are_refused(tiny, tmp_path):
    with pytest.raises(WorkbookError, match="at least two texts with a token, found 0"):
        pretraining.pretrain([], source=str(tiny), folder=tmp_path / "out", epochs=1, seed=1)


def test_the_bar_is_shown_where_it_is_wanted(tiny, tmp_path, capsys):
    pretrain(tmp_path / "out", tiny, rows=SENTENCES)
    assert "pretraining" not in capsys.readouterr().err
    pretrain(tmp_path / "out", tiny, rows=SENTENCES, progress=True)
    printed = capsys.readouterr()
    assert "pretraining: 100%" in printed.err
    assert "1/1" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(("n", "held_out"), [(2, 1), (29, 1), (31, 2), (100, 5), (20_000, 500)])
def test_one_row_in_twenty_is_held_out(n, held_out):
    rows = [[i] for i in range(n)]
    train, kept = pretraining.split_rows(rows, seed=1)
    assert len(kept) == held_out
    assert sorted(train + kept) == rows
    assert (train, kept) == pretraining.split_rows(rows, seed=1)
    if n > 2:
        assert kept != pretraining.split_rows(rows, seed=2)[1]
        assert kept != rows[:held_out]


@pytest.fixture
def masked(tiny):
    tokenizer, _ = backbones.load_backbone(str(tiny), class_names=CLASSES)
    return tokenizer, AutoModelForMaskedLM.from_config(local_deberta.config(len(tokenizer)))


def test_the_masked_loss_counts_every_masked_token_alike(masked):
    tokenizer, model = masked
    rows = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    labels = torch.full_like(rows["input_ids"], -100)
    labels[0, 1], labels[1, 2], labels[1, 3] = 6, 7, 8
    whole = {**rows, "labels": labels}
    batches = [
        {key: value[part] for key, value in whole.items()} for part in (slice(0, 1), slice(1, 3))
    ]
    model.eval()
    with torch.no_grad():
        odds = model(
            input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]
        ).logits.log_softmax(-1)
    expected = -(odds[0, 1, 6] + odds[1, 2, 7] + odds[1, 3, 8]).item() / 3
    model.train()
    assert pretraining.masked_loss(model, batches) == pytest.approx(expected, abs=1e-5)
    assert model.training


def test_a_batch_in_which_chance_masks_nothing_masks_a_token_that_is_not_special(masked):
    tokenizer, _ = masked
    row = tokenizer("the cat")["input_ids"]
    batch = pretraining.masking_collator(tokenizer, 0.0, 1)(
        [{"input_ids": [1, 2]}, {"input_ids": row}]
    )
    labels, ids = batch["labels"], batch["input_ids"]
    assert (labels != -100).nonzero().tolist() == [[1, 1]]
    assert labels[1, 1] == row[1]
    assert ids[1].tolist() == [row[0], tokenizer.mask_token_id, *row[2:]]


def test_the_share_of_masked_tokens_is_as_asked(masked):
    tokenizer, _ = masked
    words = tokenizer(" ".join(["cat"] * 4_000), add_special_tokens=False)["input_ids"]
    rows = [{"input_ids": [1, *words[start : start + 100], 2]} for start in range(0, 4_000, 100)]
    batch = pretraining.masking_collator(tokenizer, 0.3, 1)(rows)
    chosen = batch["labels"] != -100
    assert chosen.float().sum().item() / 4_000 == pytest.approx(
        0.3, abs=0.03
    )  # four standard errors
    assert (
        batch["input_ids"][chosen] == tokenizer.mask_token_id
    ).float().mean().item() == pytest.approx(0.8, abs=0.05)
    assert not chosen[:, 0].any()
    plain = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3, seed=1)(rows)
    assert [key for key, value in plain.items() if not torch.equal(value, batch[key])] == []


def test_texts_are_cut_and_those_without_a_token_left_out(masked):
    tokenizer, _ = masked
    full = tokenizer(SENTENCES[0])["input_ids"]
    found = pretraining.token_ids([SENTENCES[0], "", "the"], tokenizer, 8)
    assert len(full) > 8
    assert found == [[*full[:7], full[-1]], tokenizer("the")["input_ids"]]
