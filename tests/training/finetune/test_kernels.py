import copy
import importlib.util

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DebertaConfig,
    DebertaForSequenceClassification,
)

from lib.training import local_deberta
from lib.training.finetune import freezing, heads, kernels

IDS = torch.randint(4, 200, (3, 40), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(40) < torch.tensor([[40], [23], [3]])).long()
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _short_check(monkeypatch):
    monkeypatch.setattr(kernels, "CHECKED_LENGTHS", (40, 23, 9, 3))  # a quarter of the time


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(
        local_deberta.config(200), dtype=torch.float32
    )
    with torch.no_grad():  # fresh weights attend almost evenly, which would hide a wrong score
        for layer in model.deberta.encoder.layer:
            layer.attention.self.query_proj.weight.mul_(8)
    return model.eval()


@pytest.fixture
def package():
    return pytest.importorskip("disentangled_flash")


@pytest.fixture
def fused(model, package):
    """Return a copy of the model with fused attention."""
    fused = copy.deepcopy(model)
    assert "attention: disentangled-flash" in kernels.use_fused_attention(fused, backend="torch")
    return fused


def logits(model):
    return model(input_ids=IDS, attention_mask=MASK).logits


def gradients(model):
    model.zero_grad()
    logits(model).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def refuses(model, words, **kwargs):
    """Assert that the model stays as it is, bit for bit, and that the line says why."""
    before, modes = logits(model), [module.training for module in model.modules()]
    parts, state = list(map(id, model.modules())), torch.get_rng_state()
    line = kernels.use_fused_attention(model, **kwargs)
    assert line.startswith("attention: the model's own code (")
    assert words in line
    assert torch.equal(logits(model), before)
    assert list(map(id, model.modules())) == parts
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())


# --- where it is not used ---


def test_without_a_gpu_the_eager_code_stays(model):
    refuses(model, "needs a GPU, and none is visible")


def test_without_the_package_the_eager_code_stays(model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    refuses(model, "not installed: pip install disentangled-flash==1.1.1", backend="torch")


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (BertForSequenceClassification, BertConfig),
        (DebertaForSequenceClassification, DebertaConfig),
    ],
)
def test_another_architecture_keeps_its_own_attention(kind, config):
    small = config(
        vocab_size=200,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    refuses(kind(small).eval(), f"{kind.__name__} is no DeBERTa-v2 or v3", backend="torch")


@pytest.mark.usefixtures("package")
def test_heads_that_the_kernel_cannot_do_keep_the_eager_code(model):
    refuses(
        model, "needs Triton and heads of 32, 64 or 128; this model's are of 16", backend="triton"
    )


def test_a_kernel_that_throws_is_taken_out_again(model, package, monkeypatch):
    def fails(*_args, **_kwargs):
        raise RuntimeError("no such instruction\nand a long trace")

    model.train().deberta.embeddings.eval()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    monkeypatch.setattr("disentangled_flash._torch._torch_disentangled_attention", fails)
    refuses(model, "(the fused kernel failed: RuntimeError: no such instruction)", backend="torch")
    monkeypatch.setattr(package, "optimize_deberta_training", fails)
    refuses(model, "(the fused kernel failed: RuntimeError: no such instruction)", backend="torch")


def test_a_package_that_fails_halfway_leaves_no_layer_changed(model, package, monkeypatch):
    real, made = package.deberta.TorchTrainingDisentangledSelfAttention, []

    def fails_at_the_second(*args, **kwargs):
        if made:
            raise RuntimeError("out of luck")
        made.append(real(*args, **kwargs))
        return made[0]

    monkeypatch.setattr(
        package.deberta, "TorchTrainingDisentangledSelfAttention", fails_at_the_second
    )
    refuses(model, "(the fused kernel failed: RuntimeError: out of luck)", backend="torch")
    assert made


def broken(kind):
    """Return attention that is wrong in one way: mask passed over, positions shifted, a little off,
    no number..."""
    from disentangled_flash import _torch

    right = _torch._torch_disentangled_attention

    def attention(query, key, value, plan, mask, **kwargs):
        if kind == "mask":
            mask = torch.ones_like(mask)
        if kind == "positions":
            plan = plan._replace(c2p_local=plan.c2p_local.roll(1, -1))
        if kind == "far":
            plan = plan._replace(
                c2p_local=plan.c2p_local.clamp(max=int(plan.c2p_local[0, 0, 0, 0]) + 130)
            )
        output = right(query, key, value, plan, mask, **kwargs)
        if kind == "gradient":
            return output.detach() + 0.9 * (output - output.detach())
        return output * {"scale": 1.01, "nan": float("nan")}.get(kind, 1)

    return attention


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("kind", ["mask", "positions", "gradient", "scale", "nan"])
def test_a_kernel_that_is_wrong_is_found_and_taken_out(model, monkeypatch, kind):
    monkeypatch.setattr("disentangled_flash._torch._torch_disentangled_attention", broken(kind))
    refuses(
        model,
        "is wrong here: its logits and gradients differ by inf in float32"
        if kind == "nan"
        else "is wrong here",
        backend="torch",
    )


def test_a_kernel_that_is_wrong_in_half_precision_alone_is_found(model, package, monkeypatch):
    right = package._torch._torch_disentangled_attention
    monkeypatch.setattr(
        "disentangled_flash._torch._torch_disentangled_attention",
        lambda query, *args, **kwargs: (
            right(query, *args, **kwargs) * (1.1 if query.dtype == torch.bfloat16 else 1)
        ),
    )
    refuses(model, "in half", backend="torch")


@pytest.mark.usefixtures("package")
def test_a_kernel_that_is_wrong_beyond_128_positions_is_found(model, monkeypatch):
    monkeypatch.undo()  # the check at its full length
    monkeypatch.setattr("disentangled_flash._torch._torch_disentangled_attention", broken("far"))
    refuses(model, "is wrong here", backend="torch")


# --- where it is used ---


def test_fused_logits_and_all_gradients_are_the_eager_ones(model, fused):
    assert type(fused.deberta.encoder.layer[0].attention.self) is not type(
        model.deberta.encoder.layer[0].attention.self
    )
    torch.testing.assert_close(logits(fused), logits(model), rtol=1e-5, atol=1e-5)
    expected, found = gradients(model), gradients(fused)
    assert list(expected) == list(found)
    assert len(expected) == len(list(model.parameters()))
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name],
            gradient,
            rtol=1e-3,
            atol=1e-5 * float(gradient.abs().max()) + 1e-7,
            msg=name,
        )


@pytest.mark.usefixtures("package")
def test_weights_stay_the_same_objects_under_the_same_keys(model):
    freezing.freeze(model, 1)
    before, keys, learning = (
        dict(model.named_parameters()),
        list(model.state_dict()),
        [p.requires_grad for p in model.parameters()],
    )
    model.train().deberta.encoder.layer[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    assert "attention: disentangled-flash" in kernels.use_fused_attention(
        model, backend="torch"
    )  # checked in eval mode
    assert list(model.state_dict()) == keys
    assert all(before[name] is p for name, p in model.named_parameters())
    assert [p.requires_grad for p in model.parameters()] == learning
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(p.grad is None for p in model.parameters())


def test_a_checkpoint_loads_in_eager_code_with_the_same_logits(fused, tmp_path):
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    fused.save_pretrained(tmp_path)
    eager = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert (
        type(eager.deberta.encoder.layer[0].attention.self).__name__ == "DisentangledSelfAttention"
    )
    torch.testing.assert_close(logits(eager), logits(fused), rtol=1e-5, atol=1e-5)


def test_a_second_time_changes_nothing(fused):
    refuses(fused, "its attention was replaced before", backend="torch")


def test_evaluating_first_does_not_break_training(model, fused):
    short = {
        "input_ids": IDS[:, :31],
        "attention_mask": MASK[:, :31],
    }  # of a length that was not met before
    with torch.inference_mode():
        fused(**short)
    found, expected = (
        torch.autograd.grad(each(**short).logits.sum(), each.deberta.encoder.rel_embeddings.weight)[
            0
        ]
        for each in (fused, model)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_caching_of_frozen_layers_sees_the_layers(fused):
    with torch.no_grad():
        expected = logits(fused)
        hidden, n_outputs = freezing.lower_layers(fused, IDS, MASK, depth=1)
        with freezing.bypassed(fused, 1, n_outputs=n_outputs):
            assert torch.equal(fused(inputs_embeds=hidden, attention_mask=MASK).logits, expected)


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(model, fused):
    runs = []
    fused.deberta.encoder.layer[0].intermediate.register_forward_hook(lambda *_: runs.append(1))
    for each in (model, fused):
        heads.set_dropout(each, hidden=0.0, attention=0.0)
        each.train()
    fused.gradient_checkpointing_enable()
    expected, found = gradients(model), gradients(fused)
    assert len(runs) == 2
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name],
            gradient,
            rtol=1e-3,
            atol=1e-5 * float(gradient.abs().max()) + 1e-7,
            msg=name,
        )


def test_frozen_layers_stay_and_those_above_learn(model, fused):
    for each in (model, fused):
        freezing.freeze(each, 1)
    expected, found = gradients(model), gradients(fused)
    assert (
        set(found)
        == set(expected)
        == {name for name, p in model.named_parameters() if p.requires_grad}
    )
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name],
            gradient,
            rtol=1e-3,
            atol=1e-5 * float(gradient.abs().max()) + 1e-7,
            msg=name,
        )


def test_the_first_token_alone_can_be_read_of_the_fused_models_top_layer(model, fused):
    expected, wanted = logits(model), gradients(model)
    heads.read_first_token_only(fused)
    torch.testing.assert_close(logits(fused), expected, atol=1e-5, rtol=1e-4)
    for name, gradient in gradients(fused).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-3)


def test_lora_added_afterwards_is_computed(model, fused):
    pytest.importorskip("peft")
    adapted = []
    for each in (model, fused):
        torch.manual_seed(3)
        lora = heads.add_lora(each, rank=2).eval()
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        adapted.append(logits(lora))
    torch.testing.assert_close(adapted[1], adapted[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("package")
def test_lora_that_is_there_before_is_refused(model):
    pytest.importorskip("peft")
    lora = heads.add_lora(model, rank=2)
    line = kernels.use_fused_attention(lora, backend="torch")
    assert "LoRA is in its projections already" in line


def test_a_copy_computes_with_its_own_weights(model, fused):
    copied, before = copy.deepcopy(fused), logits(fused)
    with torch.no_grad():
        for each in (copied, model):
            each.deberta.encoder.layer[0].attention.self.value_proj.weight.neg_()
    torch.testing.assert_close(logits(copied), logits(model), rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(fused), before)
    assert not torch.allclose(logits(copied), before, rtol=1e-3)


def test_attention_dropout_is_the_one_that_was_set(model, package):
    model.deberta.encoder.layer[0].attention.self.dropout.p = 0.3
    kernels.use_fused_attention(model, backend="torch")
    first, second = (layer.attention.self for layer in model.deberta.encoder.layer)
    assert (first.attention_probability_dropout, second.attention_probability_dropout) == (0.3, 0.1)
    assert first.dropout.p == 0.3


# --- torch.compile ---


# --- the distances that occur ---


@pytest.mark.parametrize(
    ("n_tokens", "buckets"), [(1, 32), (9, 32), (16, 32), (40, 32), (200, 32), (40, -1)]
)
def test_the_distances_that_occur_give_the_logits_and_gradients_of_all(n_tokens, buckets):
    config = local_deberta.config(200)
    config.update({"position_buckets": buckets})
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    needed = copy.deepcopy(model)
    kernels.use_needed_positions(needed)
    ids = torch.randint(4, 200, (2, n_tokens), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(n_tokens) < torch.tensor([[n_tokens], [max(1, n_tokens // 2)]])).long()
    found = []
    for each in (model, needed):
        with FlopCounterMode(display=False) as counter:
            logits = each(input_ids=ids, attention_mask=mask).logits
            logits.sum().backward()
        found.append(
            (logits, [parameter.grad for parameter in each.parameters()], counter.get_total_flops())
        )
    (logits, gradients, flops), (found_logits, found_gradients, found_flops) = found
    torch.testing.assert_close(found_logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_gradients, gradients, rtol=1e-4, atol=1e-5)
    assert found_flops < flops or (n_tokens, buckets) == (200, 32)  # of which all distances occur


def test_the_distances_that_occur_survive_recomputing_and_batches_of_unlike_length(model):
    heads.set_dropout(model, hidden=0.0, attention=0.0)
    needed = copy.deepcopy(model).train()
    kernels.use_needed_positions(needed)
    needed.gradient_checkpointing_enable()
    long, short = (
        needed(input_ids=IDS[:, :n], attention_mask=MASK[:, :n]).logits.sum() for n in (40, 5)
    )
    (long + short).backward()
    model.train()
    (
        model(input_ids=IDS, attention_mask=MASK).logits.sum()
        + model(input_ids=IDS[:, :5], attention_mask=MASK[:, :5]).logits.sum()
    ).backward()
    for (name, parameter), expected in zip(needed.named_parameters(), model.parameters()):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_asking_twice_for_the_distances_that_occur_changes_nothing(model):
    expected = logits(model)
    for _ in range(2):
        kernels.use_needed_positions(model)
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_a_model_that_is_not_to_be_compiled_is_left_alone(model):
    found, line = kernels.compile_model(model, wanted=False)
    assert (found, line) == (model, "torch.compile: off")
    assert model._compiled_call_impl is None


def test_compiling_keeps_the_keys(model, monkeypatch):
    monkeypatch.setattr(kernels, "_compiler_problem", lambda _device: None)
    compiled, keys = [], list(model.state_dict())
    monkeypatch.setattr(torch, "compile", lambda call, **kwargs: compiled.append(kwargs) or call)
    with torch._dynamo.config.patch(suppress_errors=False):
        found, line = kernels.compile_model(model, wanted=True)
        assert torch._dynamo.config.suppress_errors
    assert found is model
    assert line.startswith("torch.compile: on")
    assert list(model.state_dict()) == keys
    assert model._compiled_call_impl is not None
    assert compiled == [{"dynamic": True}]


def test_without_a_compiler_the_model_is_left_alone(model, monkeypatch):
    def fails(*_args, **_kwargs):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", lambda _function: fails)
    before = logits(model)
    found, line = kernels.compile_model(model, wanted=True)
    assert found is model
    assert (
        line
        == "torch.compile: off, since nothing compiles for the CPU here (No working C++ compiler "
        "found)"
    )
    assert model._compiled_call_impl is None
    assert torch.equal(logits(model), before)
