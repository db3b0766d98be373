import copy

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    ElectraConfig,
    MPNetConfig,
    RemBertConfig,
)

from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training import local_deberta, token_ids
from lib.training.finetune import freezing, heads, tokenization

SMALL = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 20,
}
CONFIGS = {
    "bert": BertConfig,
    "mpnet": MPNetConfig,  # its layers return a tuple of one
    "electra": ElectraConfig,  # has a projection between embeddings and layers
    "rembert": RemBertConfig,  # has one within the encoder
}
LENGTHS = [7, 3, 9, 2, 9, 5]
KINDS = pytest.mark.parametrize("kind", ["bert", "deberta"])
DEPTHS = pytest.mark.parametrize("depth", [1, 2, 3])
pytestmark = pytest.mark.usefixtures("one_thread")


def classifier(kind, pooling="cls", first_only=False, **more):
    """A random model whose weights are wide enough for logits that differ; dropout is on."""
    if kind == "deberta":
        config = local_deberta.config(SMALL["vocab_size"])
        config.update({**SMALL, "pooler_hidden_size": SMALL["hidden_size"], "position_buckets": 4})
    else:
        config = CONFIGS[kind](**SMALL, pad_token_id=0)
        config.update({"embedding_size": 4} if kind == "electra" else {})
    config.update({"initializer_range": 0.5, "num_labels": 3, **more})
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    heads.set_dropout(model, hidden=0.2, attention=0.2)
    heads.set_pooling(model, pooling)
    if first_only:
        heads.read_first_token_only(model)
    return model


@pytest.fixture(scope="module")
def pieces():
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, SMALL["vocab_size"], size=n).tolist() for n in LENGTHS]
    return tokenization.Pieces.of(ids, rows=range(len(ids)), is_cut=[False] * len(ids))


def batch(pieces, rows):
    return tokenization.padded([pieces[row] for row in rows], pad=0)


def checkpointed(model):
    model.activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False}
    )  # as the Trainer does it
    return model


def learn(model, depth, **inputs):
    """Return logits and gradients of a step as training takes it, from a fixed random state."""
    freezing.freeze(model, depth)
    model.train()
    for part in freezing.frozen_parts(model, depth):
        part.eval()
    model.zero_grad()
    torch.manual_seed(1)
    logits = model(**inputs).logits
    torch.nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 3).backward()
    return logits.detach(), {
        name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
    }


def assert_same(first, second):
    torch.testing.assert_close(first[0], second[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first[1], second[1], rtol=1e-4, atol=1e-5)  # same names, too


@pytest.mark.parametrize(
    ("settings", "n_layers", "depths"),
    [
        ({"unfreeze": (0, 6)}, 12, [12, 6, 0, 0]),
        ({"unfreeze": (0, 1)}, 2, [2, 1, 0, 0]),
        ({"unfreeze": (0, 6)}, 6, [6, 0, 0]),
        ({"unfreeze": (0, 6)}, 2, [2, 0, 0]),
        ({"unfreeze": (20,)}, 12, [0, 0]),
        ({"unfreeze": ()}, 12, [0, 0]),
        ({"unfreeze": (), "frozen_layers": 4}, 12, [4, 4]),
        ({"unfreeze": (0, 6, 11), "frozen_layers": 3}, 12, [12, 6, 3, 3]),
        ({"unfreeze": (2, 2), "frozen_layers": 12}, 12, [12, 12, 12]),
    ],
)
def test_what_is_frozen_in_an_epoch(settings, n_layers, depths):
    assert [
        freezing.frozen_depth(TrainingConfig(**settings), epoch, n_layers=n_layers)
        for epoch in range(len(depths))
    ] == depths


@KINDS
def test_more_layers_than_there_are_cannot_be_frozen(kind):
    with pytest.raises(
        WorkbookError, match=r"training\.frozen_layers=4, but the backbone has 3 layers"
    ):
        freezing.freeze(classifier(kind), 4)


@pytest.mark.parametrize(
    ("kind", "below"),
    [
        ("bert", ["embeddings."]),
        ("deberta", ["embeddings.", "encoder.rel_embeddings.", "encoder.LayerNorm."]),
        ("electra", ["embeddings.", "embeddings_project."]),
        ("mpnet", ["embeddings.", "encoder.relative_attention_bias."]),
    ],
)
def test_the_embeddings_the_lowest_layers_and_what_they_read_are_frozen(kind, below):
    model = classifier(kind)
    for depth in (2, 0, 3, 1):
        freezing.freeze(model, depth)
        frozen = (*below, *(f"encoder.layer.{i}." for i in range(depth))) if depth else ()
        expected = {
            f"{model.base_model_prefix}.{name}"
            for name, _ in model.base_model.named_parameters()
            if name.startswith(frozen)
        }
        assert {name for name, p in model.named_parameters() if not p.requires_grad} == expected
        assert {
            id(p) for part in freezing.frozen_parts(model, depth) for p in part.parameters()
        } == {id(p) for p in model.parameters() if not p.requires_grad}
        assert len(expected) > 0 or depth == 0


def test_the_convolution_between_layers_is_frozen_with_them():
    model = classifier("deberta", conv_kernel_size=3)
    freezing.freeze(model, 1)
    assert not any(p.requires_grad for p in model.deberta.encoder.conv.parameters())


# --- what frozen layers give ---


@KINDS
@pytest.mark.parametrize("first_only", [False, True], ids=["all tokens", "first token"])
def test_lower_layers_give_the_hidden_states_of_the_model_and_leave_no_hook(
    pieces, kind, first_only
):
    model = classifier(kind, first_only=first_only)
    ids, mask = batch(pieces, range(6))
    with torch.no_grad():
        states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        before = hooks(model)
        for depth in (1, 2, 3):
            hidden, _ = freezing.lower_layers(model, ids, mask, depth=depth)
            assert torch.equal(hidden, states[depth])
        with pytest.raises(IndexError):
            freezing.lower_layers(model, ids + 1_000, mask, depth=1)
    assert hooks(model) == before


def hooks(model):
    return {
        name: [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize(
    "built",  # kind, pooling, whether the top layer computes the first token alone
    [
        ("bert", "cls", False),
        ("bert", "cls", True),
        ("bert", "mean", False),
        ("deberta", "cls", False),
        ("deberta", "cls", True),
        ("deberta", "attention", False),
        ("electra", "cls", True),
        ("mpnet", "cls", False),
    ],
    ids=str,
)
@DEPTHS
def test_what_was_kept_gives_the_same_logits_and_gradients_as_computing_it(
    pieces, tmp_path, monkeypatch, built, depth
):
    monkeypatch.setattr(token_ids, "CPU_TOKENS", 16)  # several batches of padded texts
    model = classifier(*built)
    freezing.freeze(model, depth)
    cache = freezing.ActivationCache(
        model, pieces, depth=depth, path=tmp_path / "new" / "kept.f32", pad=0
    )
    for rows in ([4, 0, 3], [1, 5], [2]):
        ids, mask = batch(pieces, rows)
        computed = learn(model, depth, input_ids=ids, attention_mask=mask)
        with cache.bypass(model):
            kept = learn(
                model,
                depth,
                inputs_embeds=cache(np.array(rows), mask.shape[1]),
                attention_mask=mask,
            )
        assert_same(kept, computed)
    assert len(computed[1]) > 0
    n_kept = len(LENGTHS) if built[1] == "cls" and depth == 3 else sum(LENGTHS)
    assert (tmp_path / "new" / "kept.f32").stat().st_size == n_kept * 8 * 4


@KINDS
def test_the_kept_states_do_not_come_from_dropout_or_padding(pieces, tmp_path, kind):
    model = classifier(kind).train()
    cache = freezing.ActivationCache(model, pieces, depth=2, path=tmp_path / "kept.f32", pad=0)
    found = cache(np.array([3, 2]), 9)
    assert found.dtype == torch.float32
    assert found.shape == (2, 9, 8)
    assert not found[0, 2:].any()
    model.eval()
    for row, piece in zip(found, (3, 2)):
        alone = freezing.lower_layers(model, *batch(pieces, [piece]), depth=2)[0][0].detach()
        torch.testing.assert_close(row[: LENGTHS[piece]], alone, rtol=1e-4, atol=1e-5)


@KINDS
@DEPTHS
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_after_the_block_the_model_is_as_it_was(pieces, kind, depth, error):
    model = classifier(kind)
    ids, mask = batch(pieces, range(6))
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
        hidden, n_outputs = freezing.lower_layers(model, ids, mask, depth=depth)
        try:
            with freezing.bypassed(model, depth, n_outputs=n_outputs):
                changed = model(inputs_embeds=hidden + 1, attention_mask=mask).logits
                if error:
                    raise error
        except (ValueError, KeyboardInterrupt):
            pass
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, before)
    assert (changed - before).abs().max() > 1e-3
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == []


@KINDS
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("first_only", [False, True], ids=["all tokens", "first token"])
def test_gradient_checkpointing_changes_no_gradient(pieces, tmp_path, kind, depth, first_only):
    model = classifier(kind, first_only=first_only)
    ids, mask = batch(pieces, [4, 0, 3])
    plain = learn(model, depth, input_ids=ids, attention_mask=mask)
    model = checkpointed(model)
    passes = [0] * 3
    for i, layer in enumerate(model.base_model.encoder.layer):
        layer.intermediate.register_forward_pre_hook(
            lambda _, __, i=i: passes.__setitem__(i, passes[i] + 1)
        )
    assert_same(learn(model, depth, input_ids=ids, attention_mask=mask), plain)
    assert passes == [1] * depth + [2] * (
        3 - depth
    )  # once more where gradients are needed, and only there
    if depth:
        cache = freezing.ActivationCache(
            model, pieces, depth=depth, path=tmp_path / "kept.f32", pad=0
        )
        with cache.bypass(model):
            assert_same(
                learn(
                    model, depth, inputs_embeds=cache(np.array([4, 0, 3]), 9), attention_mask=mask
                ),
                plain,
            )


@KINDS
@DEPTHS
def test_no_gradient_goes_through_frozen_layers_with_checkpointing_either(pieces, kind, depth):
    model = checkpointed(classifier(kind))
    needed = []
    for layer in model.base_model.encoder.layer:
        layer.output.register_forward_hook(
            lambda _, __, output: needed.append(output.requires_grad)
        )
    ids, mask = batch(pieces, [4, 0, 3])
    freezing.freeze(model, depth)
    model(input_ids=ids, attention_mask=mask)
    assert needed == [False] * depth + [True] * (3 - depth)


def test_the_size_on_disk_is_that_of_a_float32_for_each_token_and_hidden_unit(pieces):
    assert freezing.cache_gb(pieces, 1_000) == pytest.approx(35 * 1_000 * 4 / 1e9)


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        ("bert", {}, True),
        ("deberta", {}, True),
        ("electra", {}, True),
        ("mpnet", {}, True),
        ("deberta", {"conv_kernel_size": 3}, False),
        ("rembert", {"input_embedding_size": 8}, False),
        ("rembert", {"input_embedding_size": 4}, False),
    ],
)
def test_states_are_kept_only_where_putting_them_in_gives_what_the_model_gives(
    kind, more, expected
):
    model = classifier(kind, **more)
    weights = copy.deepcopy(model.state_dict())
    assert freezing.can_cache(model) is expected
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [name for name, module in model.named_modules() if "forward" in vars(module)] == []
