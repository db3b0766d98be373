import copy
import json
import math
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    RobertaConfig,
)

from lib.errors import WorkbookError
from lib.training import local_deberta
from lib.training.finetune import heads

SMALL = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 20,
}
IDS = torch.tensor([[1, 7, 8, 9, 2], [1, 10, 2, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
KINDS = pytest.mark.parametrize("kind", ["bert", "roberta", "deberta"])
pytestmark = pytest.mark.usefixtures("one_thread")


def config(kind, **more):
    if kind == "deberta":
        made = local_deberta.config(SMALL["vocab_size"])
        made.update({**SMALL, "pooler_hidden_size": SMALL["hidden_size"]})
    else:
        made = {"bert": BertConfig, "roberta": RobertaConfig}[kind](**SMALL, pad_token_id=0)
    made.update(
        {"initializer_range": 0.5, "num_labels": 3, **more}
    )  # weights wide enough for logits that differ
    return made


def classifier(kind, pooling="cls", **more):
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config(kind, **more)).eval()
    heads.set_pooling(model, pooling)
    if pooling == "attention":
        torch.nn.init.normal_(model.attention_pool.weight)
    return model


def albert():
    sizes = {"hidden_size": 8, "embedding_size": 8, "intermediate_size": 8}
    small = AlbertConfig(vocab_size=9, num_attention_heads=1, **sizes)
    return AutoModelForSequenceClassification.from_config(small)


def distilbert():
    small = DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=1, hidden_dim=8)
    return AutoModelForSequenceClassification.from_config(small)


def logits(model, ids=IDS, mask=MASK, **more):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, **more).logits


def reloaded(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    heads.restore_head(model, folder)
    return model


def changed(before, after):
    return {key for key, value in after.items() if not torch.equal(value, before[key])}


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def dropouts(model):
    return {
        name: module.p
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Dropout)
    }


@KINDS
def test_attention_dropout_is_set_apart_from_all_others(kind):
    model = classifier(kind)
    heads.set_dropout(model, hidden=0.2, attention=0.3)
    found = dropouts(model)
    assert {name for name, p in found.items() if p == 0.3} == {
        f"{kind}.encoder.layer.{i}.attention.self.dropout" for i in range(3)
    }
    assert set(found.values()) == {0.2, 0.3}


@KINDS
def test_a_saved_model_has_the_dropout_that_it_was_trained_with(kind, tmp_path):
    model = classifier(kind, **{"cls_dropout" if kind == "deberta" else "classifier_dropout": 0.5})
    heads.set_dropout(model, hidden=0.2, attention=0.3)
    model.save_pretrained(tmp_path)
    assert dropouts(AutoModelForSequenceClassification.from_pretrained(tmp_path)) == dropouts(model)


@pytest.mark.parametrize(
    ("kind", "kernel"),
    [("bert", "sdpa"), ("bert", "eager"), ("roberta", "sdpa"), ("deberta", "eager")],
)
def test_every_attention_kernel_drops_as_it_was_set(kind, kernel):
    model = classifier(kind)
    model.set_attn_implementation(kernel)
    model.train()
    heads.set_dropout(model, hidden=0, attention=0)
    assert torch.equal(logits(model), logits(model))
    for share in ({"hidden": 0, "attention": 0.5}, {"hidden": 0.5, "attention": 0}):
        heads.set_dropout(model, **share)
        assert not torch.equal(logits(model), logits(model))


@pytest.mark.parametrize(
    ("hidden", "attention", "message"),
    [
        (1.0, 0.1, r"training\.dropout .* found 1\.0"),
        (0.1, -0.1, r"training\.attention_dropout .* found -0\.1"),
    ],
)
def test_a_dropout_that_is_no_probability_is_refused(hidden, attention, message):
    model = classifier("bert")
    before = dropouts(model)
    with pytest.raises(WorkbookError, match=message):
        heads.set_dropout(model, hidden=hidden, attention=attention)
    assert dropouts(model) == before


def test_the_pooled_vector_is_the_weighted_mean_of_the_real_tokens():
    hidden = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert heads.pooled_vector(hidden, torch.zeros(1, 3), mask).tolist() == [[2.0, 2.0]]
    scores = torch.tensor([[math.log(3), 0.0, 50.0]])
    assert heads.pooled_vector(hidden, scores, mask)[0].tolist() == pytest.approx([1.5, 1.0])
    assert heads.pooled_vector(hidden[:, :2], torch.zeros(1, 2), None).tolist() == [[2.0, 2.0]]


def head(model, vector):
    """What the architecture makes of the vector of the first token, written down once more."""
    if model.config.model_type == "bert":
        return model.classifier(torch.tanh(model.bert.pooler.dense(vector)))
    if model.config.model_type == "roberta":
        return model.classifier.out_proj(torch.tanh(model.classifier.dense(vector)))
    return model.classifier(torch.nn.functional.gelu(model.pooler.dense(vector)))


@KINDS
def test_the_head_reads_the_pooled_vector(kind):
    model = classifier(kind)
    with torch.no_grad():
        hidden = model.base_model(input_ids=IDS, attention_mask=MASK).last_hidden_state
    first, mean = hidden[:, 0], torch.stack([hidden[0].mean(dim=0), hidden[1, :3].mean(dim=0)])
    projection = torch.linspace(-2, 2, 8)
    attention = torch.stack(
        [(row @ projection).softmax(0) @ row for row in (hidden[0], hidden[1, :3])]
    )
    with torch.no_grad():
        assert torch.allclose(logits(model), head(model, first), atol=1e-6)
        heads.set_pooling(model, "mean")
        assert torch.allclose(logits(model), head(model, mean), atol=1e-6)
        heads.set_pooling(model, "attention")
        assert torch.allclose(logits(model), head(model, mean), atol=1e-6)
        model.attention_pool.weight.copy_(projection[None])
        assert torch.allclose(logits(model), head(model, attention), atol=1e-6)
        assert (head(model, first) - head(model, mean)).abs().max() > 1e-3
        assert (head(model, attention) - head(model, mean)).abs().max() > 1e-3


@KINDS
def test_pooling_set_once_more_takes_the_place_of_the_former(kind):
    model = classifier(kind)
    plain, keys = logits(model), set(model.state_dict())
    for pooling in ("mean", "attention", "mean"):
        heads.set_pooling(model, pooling)
        heads.set_pooling(model, pooling)
        assert torch.allclose(logits(model), logits(classifier(kind, "mean")), atol=1e-6)
        assert set(model.state_dict()) - keys == (
            {"attention_pool.weight"} if pooling == "attention" else set()
        )
        assert model.config.pooling == pooling
    heads.set_pooling(model, "cls")
    assert torch.equal(logits(model), plain)


@KINDS
@pytest.mark.parametrize("pooling", heads.POOLINGS)
def test_however_it_is_called_the_logits_are_the_same(kind, pooling):
    model = classifier(kind, pooling)
    expected = logits(model)
    embeds = model.get_input_embeddings()(IDS)
    with torch.no_grad():
        assert torch.allclose(
            model(inputs_embeds=embeds, attention_mask=MASK).logits, expected, atol=1e-6
        )
        assert torch.equal(model(IDS, MASK, return_dict=False)[0], expected)
        assert torch.equal(
            model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True).logits, expected
        )
        alone = model(input_ids=IDS[1:, :3]).logits
    assert torch.allclose(alone, expected[1:], atol=1e-6)


@KINDS
def test_the_base_model_pools_a_tuple_and_an_output_alike(kind):
    base = classifier(kind, "attention").base_model
    with torch.no_grad():
        named, plain = base(input_ids=IDS, attention_mask=MASK), base(IDS, MASK, return_dict=False)
    assert type(plain) is tuple
    assert [torch.equal(a, b) for a, b in zip(named.to_tuple(), plain)] == [True] * (
        2 if kind == "bert" else 1
    )


@KINDS
def test_the_attention_pool_learns_with_and_without_gradient_checkpointing(kind):
    gradients = []
    for checkpointing in (False, True):
        model = classifier(kind, "attention").train()
        heads.set_dropout(model, hidden=0, attention=0)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(input_ids=IDS, attention_mask=MASK, labels=torch.tensor([0, 2])).loss.backward()
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        )
    plain, checkpointed = gradients
    assert plain["attention_pool.weight"].abs().max() > 1e-4
    assert plain.keys() == checkpointed.keys()
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-6) for name in plain)


def test_a_copy_of_a_model_pools_with_its_own_weights():
    model = classifier("deberta", "attention")
    duplicate, before = copy.deepcopy(model), logits(model)
    torch.nn.init.ones_(model.attention_pool.weight)
    assert torch.equal(logits(duplicate), before)
    assert not torch.allclose(logits(model), before)
    heads.set_pooling(duplicate, "cls")
    assert torch.equal(logits(duplicate), logits(classifier("deberta")))
    assert not torch.equal(logits(model), logits(duplicate))


def test_pooling_outlives_an_encoder_put_in_place_of_the_models():
    model = classifier("deberta", "mean")
    expected = logits(model)
    other = type(model.deberta.encoder)(model.config).eval()  # as the fused kernels put theirs in
    other.load_state_dict(model.deberta.encoder.state_dict())
    model.deberta.encoder = other
    assert torch.equal(logits(model), expected)


def test_an_unknown_pooling_is_refused():
    model = classifier("bert", "mean")
    before = logits(model)
    with pytest.raises(
        WorkbookError, match=r"training\.pooling must be one of cls, mean, attention, found 'max'"
    ):
        heads.set_pooling(model, "max")
    assert torch.equal(logits(model), before)


@KINDS
@pytest.mark.parametrize("pooling", heads.POOLINGS)
def test_saved_and_reloaded_a_model_gives_the_same_logits(kind, pooling, tmp_path):
    model = classifier(kind, pooling)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pooling"] == pooling
    torch.testing.assert_close(logits(reloaded(tmp_path)), logits(model), atol=1e-6, rtol=1e-5)


def test_a_model_saved_without_a_choice_of_pooling_has_the_architectures(tmp_path):
    model = classifier("bert")
    del model.config.pooling
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(logits(reloaded(tmp_path)), logits(model), atol=1e-6, rtol=1e-5)


@KINDS
def test_logits_are_float32_under_mixed_precision_and_learn_as_before(kind):
    model = classifier(kind)
    plain = logits(model)
    heads.compute_logits_in_float32(model)
    torch.testing.assert_close(logits(model), plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(IDS, MASK).logits
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, mixed.bfloat16().float())  # more digits than bf16 has
    torch.testing.assert_close(mixed, plain, atol=0.05, rtol=0.05)
    mixed.sum().backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.abs().sum() > 0
        for p in model.classifier.parameters()
    )


def test_a_copy_of_such_a_head_has_its_own_weights():
    model = classifier("bert")
    heads.compute_logits_in_float32(model)
    before, duplicate = logits(model), copy.deepcopy(model)
    torch.nn.init.zeros_(duplicate.classifier.weight)
    torch.testing.assert_close(logits(model), before)
    torch.testing.assert_close(logits(duplicate), duplicate.classifier.bias.expand(2, 3))


def test_a_head_that_is_kept_elsewhere_is_refused():
    gpt = AutoModelForSequenceClassification.from_config(
        GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, pad_token_id=0)
    )
    with pytest.raises(
        WorkbookError,
        match="GPT2ForSequenceClassification has no head named classifier: take another backbone",
    ):
        heads.compute_logits_in_float32(gpt)


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def without_the_pool(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["attention_pool.weight"]
    save_file(weights, folder / "model.safetensors")


def with_a_pool_of_another_shape(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "attention_pool.weight": torch.zeros(1, 5)}, folder / "model.safetensors")


def with_weights_that_are_none(folder):
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_weights, r"model\.safetensors cannot be read .*train it again"),
        (with_weights_that_are_none, r"model\.safetensors cannot be read .*train it again"),
        (without_the_pool, r"model\.safetensors has no attention_pool\.weight"),
        (
            with_a_pool_of_another_shape,
            r"model\.safetensors has shape \(1, 5\) for attention_pool\.weight",
        ),
    ],
)
def test_an_attention_pool_that_cannot_be_restored_is_an_error(tmp_path, damage, message):
    model = classifier("bert", "attention")
    model.save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(WorkbookError, match=message):
        heads.restore_head(model, tmp_path)


def test_a_config_that_names_an_unknown_pooling_is_refused(tmp_path):
    model = classifier("bert")
    model.config.pooling = "max"
    with pytest.raises(WorkbookError, match=r"found 'max'"):
        heads.restore_head(model, tmp_path)


@pytest.fixture
def loaded(tmp_path, request):
    """A model as `from_pretrained` gives it, which marks every weight as initialised; none is what
    an initialiser gives."""
    model = classifier(request.param)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.save_pretrained(tmp_path)
    return AutoModelForSequenceClassification.from_pretrained(tmp_path)


EVERY_KIND_LOADED = pytest.mark.parametrize("loaded", ["bert", "roberta", "deberta"], indirect=True)


@EVERY_KIND_LOADED
def test_the_top_layers_start_anew_as_the_architecture_draws_them(loaded):
    before, prefix = snapshot(loaded), f"{loaded.base_model_prefix}.encoder.layer."
    heads.reinit_top_layers(loaded, 2, seed=1)
    after = loaded.state_dict()
    assert changed(before, after) == {
        key for key in before if key.startswith((f"{prefix}1.", f"{prefix}2."))
    }
    fresh = {key: after[key] for key in changed(before, after)}
    assert all(
        torch.equal(value, torch.zeros_like(value))
        for key, value in fresh.items()
        if key.endswith("bias")
    )
    assert all(
        torch.equal(value, torch.ones_like(value))
        for key, value in fresh.items()
        if key.endswith("LayerNorm.weight")
    )
    drawn = torch.cat([value.flatten() for key, value in fresh.items() if value.dim() == 2])
    assert drawn.std().item() == pytest.approx(
        0.5, abs=0.04
    )  # the config's initializer_range; 768 values, four standard errors
    assert len({*drawn.tolist()}) == len(drawn)


@pytest.mark.parametrize("loaded", ["bert"], indirect=True)
def test_the_seed_decides_the_fresh_layers_and_nothing_else(loaded):
    states, generators = [], []
    for seed in (1, 1, 2):
        before = torch.get_rng_state()
        heads.reinit_top_layers(loaded, 1, seed=seed)
        states.append(snapshot(loaded))
        generators.append(torch.equal(torch.get_rng_state(), before))
    assert changed(states[0], states[1]) == set()
    assert "bert.encoder.layer.2.output.dense.weight" in changed(states[1], states[2])
    assert generators == [True, True, True]


@pytest.mark.parametrize("loaded", ["bert"], indirect=True)
@pytest.mark.parametrize(("n", "ok"), [(0, True), (4, False), (-1, False)])
def test_layers_that_are_not_there_cannot_start_anew(loaded, n, ok):
    before = snapshot(loaded)
    if ok:
        heads.reinit_top_layers(loaded, n, seed=1)
    else:
        with pytest.raises(
            WorkbookError, match=rf"training\.reinit_layers={n}, but the backbone has 3 layers"
        ):
            heads.reinit_top_layers(loaded, n, seed=1)
    assert changed(before, loaded.state_dict()) == set()


def test_an_architecture_without_such_layers_is_refused():
    with pytest.raises(
        WorkbookError,
        match=r"training\.reinit_layers needs layers at encoder\.layer, .*; "
        r"Albert.*training\.reinit_layers=0 do without",
    ):
        heads.reinit_top_layers(albert(), 1, seed=1)


HEADS = {
    "bert": {
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
        "attention_pool.weight",
    },
    "roberta": {
        *(
            f"classifier.{part}.{which}"
            for part in ("dense", "out_proj")
            for which in ("weight", "bias")
        ),
        "attention_pool.weight",
    },
    "deberta": {
        "pooler.dense.weight",
        "pooler.dense.bias",
        "classifier.weight",
        "classifier.bias",
        "attention_pool.weight",
    },
}
PROJECTIONS = {
    "bert": ("query", "value"),
    "roberta": ("query", "value"),
    "deberta": ("query_proj", "value_proj"),
}


def plain_name(name):
    return name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")


def move(model, by=0.3):
    """Change whatever learns, as training would."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn_like(parameter))


@KINDS
def test_low_rank_matrices_and_the_head_learn_and_nothing_else(kind):
    wrapped = heads.add_lora(classifier(kind, "attention"), rank=2)
    learning = {plain_name(name) for name, p in wrapped.named_parameters() if p.requires_grad}
    matrices = {
        f"{kind}.encoder.layer.{i}.attention.self.{projection}.lora_{side}.default.weight"
        for i in range(3)
        for projection in PROJECTIONS[kind]
        for side in "AB"
    }
    assert learning == matrices | HEADS[kind]
    a = wrapped.get_parameter(
        f"base_model.model.{kind}.encoder.layer.0.attention.self.{PROJECTIONS[kind][0]}.lora_A.default.weight"
    )
    assert a.shape == (2, 8)
    layer = wrapped.get_submodule(
        f"base_model.model.{kind}.encoder.layer.2.attention.self.{PROJECTIONS[kind][1]}"
    )
    assert (layer.scaling, layer.lora_dropout["default"].p) == ({"default": 2.0}, 0.05)


@KINDS
@pytest.mark.parametrize("pooling", heads.POOLINGS)
def test_merged_a_model_gives_the_logits_it_gave_before(kind, pooling, tmp_path):
    model = classifier(kind, pooling)
    start, keys = logits(model), set(model.state_dict())
    wrapped = heads.add_lora(model, rank=2).eval()
    assert torch.allclose(logits(wrapped), start, atol=1e-6)
    move(wrapped)
    trained = logits(wrapped)
    assert (trained - start).abs().max() > 1e-2
    assert torch.equal(logits(copy.deepcopy(wrapped)), trained)
    merged = heads.merge_lora(wrapped)
    assert set(merged.state_dict()) == keys
    assert torch.allclose(logits(merged), trained, atol=1e-5)
    assert all(p.requires_grad for p in merged.parameters())
    merged.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == keys
    torch.testing.assert_close(
        logits(reloaded(tmp_path)), logits(merged), atol=1e-6, rtol=1e-5
    )  # read of the first token alone: other shapes round otherwise


def test_merging_changes_the_projections_and_the_head_alone():
    model = classifier("bert", "mean")
    before = snapshot(model)
    wrapped = heads.add_lora(model, rank=2)
    move(wrapped)
    projections = {
        f"bert.encoder.layer.{i}.attention.self.{projection}.weight"
        for i in range(3)
        for projection in ("query", "value")
    }
    assert changed(before, heads.merge_lora(wrapped).state_dict()) == projections | HEADS[
        "bert"
    ] - {"attention_pool.weight"}


def test_torchs_generator_draws_the_low_rank_matrices():
    drawn = []
    for seed in (1, 1, 2):
        model = classifier("bert")
        torch.manual_seed(seed)
        drawn.append(
            heads.add_lora(model, rank=2).get_parameter(
                "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.default.weight"
            )
        )
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_without_peft_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        WorkbookError, match=r"training\.lora_rank needs the package peft: pip install peft"
    ):
        heads.add_lora(classifier("bert"), rank=2)


def test_a_rank_of_zero_is_refused():
    with pytest.raises(WorkbookError, match=r"training\.lora_rank must be at least 1 .*found 0"):
        heads.add_lora(classifier("bert"), rank=0)


def test_an_architecture_without_known_projections_is_refused():
    with pytest.raises(
        WorkbookError,
        match=r"training\.lora_rank is for models of BERT's family; DistilBert.*set it to 0",
    ):
        heads.add_lora(distilbert(), rank=2)
