import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    PrinterCallback,
    ProgressCallback,
    TrainingArguments,
)

from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training import local_deberta
from lib.training.finetune import devices, freezing, heads, losses, optimizer, tokenization
from lib.training.finetune import trainer as trainer_module

SMALL = {
    "vocab_size": 40,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 20,
}
LENGTHS = [7, 3, 9, 2, 9, 5]
LABELS = np.array([0, 1, 2, 0, 1, 2])
EVEN, UNEVEN = torch.ones(3), torch.tensor([0.5, 1.0, 1.5])
KINDS = pytest.mark.parametrize("kind", ["bert", "deberta"])
OUT_OF_MEMORY = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines"
)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _no_long_collection(monkeypatch):
    monkeypatch.setattr(
        devices.gc, "collect", lambda: None
    )  # a second each, with all the libraries loaded


@pytest.fixture(scope="module")
def pieces():
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, SMALL["vocab_size"], size=n).tolist() for n in LENGTHS]
    made = tokenization.Pieces.of(ids, rows=[0, 1, 1, 2, 3, 4], is_cut=[False] * 6)
    return tokenization.EncodedTexts(made, LABELS[[0, 1, 3, 4, 5]])


@pytest.fixture
def batch(pieces):
    """All six pieces, of which 1 and 2 are windows of one text, in another order."""
    made = tokenization.collate([pieces[i] for i in (3, 0, 1, 5, 4, 2)], pad=0)
    return {**made, "labels": torch.tensor(LABELS)}


def classifier(kind="deberta", **more):
    """A random model whose weights are wide enough for losses that differ."""
    if kind == "deberta":
        config = local_deberta.config(SMALL["vocab_size"])
        config.update({**SMALL, "pooler_hidden_size": SMALL["hidden_size"], "position_buckets": 4})
    else:
        config = BertConfig(**SMALL, pad_token_id=0)
    config.update({"initializer_range": 0.5, "num_labels": 3, **more})
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture
def make(pieces, tmp_path):
    def made(kind="deberta", *, class_weights=EVEN, model=None, dropout=0.0, **settings):
        settings = TrainingConfig(
            **{"dropout": dropout, "attention_dropout": dropout, "unfreeze": (), **settings}
        )
        if model is None:
            model = classifier(kind)
            heads.set_dropout(model, hidden=dropout, attention=dropout)
        arguments = TrainingArguments(
            str(tmp_path),
            use_cpu=True,
            report_to="none",
            remove_unused_columns=False,
            per_device_train_batch_size=2,
            seed=7,
        )
        trainer = trainer_module.RecipeTrainer(
            model=model,
            args=arguments,
            settings=settings,
            train_dataset=pieces,
            eval_dataset=pieces,
            class_weights=class_weights,
            processing_class=SimpleNamespace(pad_token_id=0),
            data_collator=partial(tokenization.collate, pad=0),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        return trainer

    return made


def step(trainer, batch, *, model=None, seed=1):
    """Return loss and gradients of one step from a fixed random state."""
    trainer.model.zero_grad()
    torch.manual_seed(seed)
    loss = trainer.training_step(model or trainer.model, batch)
    return loss, {
        name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None
    }


def by_hand(trainer, batch, *, smoothing=0.0, class_weights=EVEN):
    """Return loss and gradients of the whole batch, written down once more; dropout has to be 0."""
    trainer.model.zero_grad()
    logs = trainer.model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
    ).logits.log_softmax(-1)
    rows = torch.arange(len(logs))
    losses = -(1 - smoothing) * logs[rows, batch["labels"]] - smoothing * logs.mean(1)
    loss = (losses * class_weights[batch["labels"]] * batch["weight"]).sum() / batch["weight"].sum()
    loss.backward()
    return loss.detach(), {
        name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None
    }


def assert_same(first, second):
    torch.testing.assert_close(first[0].double(), second[0].double(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first[1], second[1], rtol=1e-4, atol=1e-5)  # same names, too


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def unchanged(model, before):
    return all(torch.equal(p, before[name]) for name, p in model.named_parameters())


# --- one step ---


@KINDS
@pytest.mark.parametrize("n_parts", [1, 2, 4, 6])
@pytest.mark.parametrize("max_tokens", [None, 10])
def test_micro_batches_add_up_to_the_gradients_of_the_whole_batch(
    make, batch, kind, n_parts, max_tokens
):
    trainer = make(kind, accumulation_steps=n_parts, micro_batch_tokens=max_tokens)
    assert_same(step(trainer, batch), by_hand(trainer, batch))


@pytest.mark.parametrize("shares", [[[0, 1, 2], [3, 4, 5]], [[0, 2], [1, 5], [3, 4]]], ids=str)
def test_a_text_counts_once_whatever_texts_its_windows_are_batched_with(make, batch, shares):
    """So that each of several processes needs no other's rows, too."""
    trainer = make()
    whole = by_hand(trainer, batch)[1]
    steps = []
    for rows in shares:
        steps.append(step(trainer, {name: values[rows] for name, values in batch.items()})[1])
    for name, gradient in whole.items():
        mean = sum(gradients[name] for gradients in steps) / len(steps)
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_parts", [1, 4])
@pytest.mark.parametrize(
    ("smoothing", "class_weights"), [(0.0, UNEVEN), (0.3, EVEN), (0.3, UNEVEN)]
)
def test_smoothing_and_class_weights_are_those_of_the_formula_in_any_parts(
    make, batch, n_parts, smoothing, class_weights
):
    trainer = make(
        accumulation_steps=n_parts, label_smoothing=smoothing, class_weights=class_weights
    )
    assert_same(
        step(trainer, batch),
        by_hand(trainer, batch, smoothing=smoothing, class_weights=class_weights),
    )


def test_on_a_processor_a_micro_batch_stays_in_its_cache(make, monkeypatch):
    for cuda, expected in ((False, 2_048), (True, None)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        assert make().max_tokens == expected
        assert make(micro_batch_tokens=64).max_tokens == 64


@KINDS
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_learning_layers_drop_out_in_a_step_and_frozen_ones_do_not(make, batch, kind, depth):
    trainer = make(kind, dropout=0.3)
    trainer.depth = depth
    freezing.freeze(trainer.model, depth)
    trainer.model.eval()
    step(trainer, batch)
    base = trainer.model.base_model_prefix
    frozen = (
        (f"{base}.embeddings.", *(f"{base}.encoder.layer.{i}." for i in range(depth)))
        if depth
        else ()
    )
    modes = {
        name: module.training
        for name, module in trainer.model.named_modules()
        if isinstance(module, torch.nn.Dropout)
    }
    assert modes == {name: not name.startswith(frozen) for name in modes}
    assert {*modes.values()} == ({True} if depth == 0 else {True, False})


@KINDS
@pytest.mark.parametrize(
    ("depth", "settings"),
    [(1, {}), (2, {}), (1, {"r_drop": 1.0}), (2, {"mixup": 0.5}), (1, {"multisample_dropout": 3})],
    ids=str,
)
def test_a_step_from_kept_states_is_that_from_token_ids(make, batch, kind, depth, settings):
    trainer = make(kind, dropout=0.3, accumulation_steps=2, **settings)
    trainer.depth = depth
    freezing.freeze(trainer.model, depth)
    computed = step(trainer, batch)
    path = Path(trainer.args.output_dir) / "kept.f32"
    trainer.train_cache = freezing.ActivationCache(
        trainer.model, trainer.train_dataset.pieces, depth=depth, path=path, pad=0
    )
    assert_same(step(trainer, batch), computed)


def test_training_goes_through_the_rows_in_the_samplers_order(make, pieces):
    trainer = make()
    loader = trainer.get_train_dataloader()
    for epoch in (0, 1):
        trainer.sampler.epoch = epoch
        expected = tokenization.LengthGroupedSampler(pieces.pieces.lengths, batch_size=2, seed=7)
        expected.epoch = epoch
        assert [row for part in loader for row in part["piece"].tolist()] == list(expected)


def test_no_batch_is_lost_between_two_steps(make):
    trainer, batches = make(), iter("abcde")
    assert [trainer.get_batch_samples(batches, 2, torch.device("cpu")) for _ in range(3)] == [
        (["a", "b"], None),
        (["c", "d"], None),
        (["e"], None),
    ]


# --- the loss ---


def row_losses(trainer, batch, logits):
    return trainer.row_losses(lambda **_: SimpleNamespace(logits=logits), batch)


def test_a_rows_loss_by_hand(make):
    logits = torch.tensor([[0.0, math.log(3), 0.0], [math.log(2), 0.0, 0.0]])
    batch = {"labels": torch.tensor([1, 2]), "input_ids": None, "attention_mask": None}
    one, two = -math.log(3 / 5), -math.log(1 / 4)
    assert row_losses(make(), batch, logits).tolist() == pytest.approx([one, two])
    assert row_losses(make(class_weights=UNEVEN), batch, logits).tolist() == pytest.approx(
        [one, 1.5 * two]
    )
    smooth = [
        0.7 * one + 0.1 * (one - 2 * math.log(1 / 5)),
        0.7 * two + 0.1 * (2 * two - math.log(1 / 2)),
    ]
    assert row_losses(make(label_smoothing=0.3), batch, logits).tolist() == pytest.approx(smooth)


def test_the_divergence_by_hand():
    first, second = (
        torch.tensor([[0.0, 0.0], [5.0, 5.0], [1.0, 2.0]]),
        torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [1.0, 2.0]]),
    )
    forth, back = (
        0.5 * math.log(2) + 0.5 * math.log(2 / 3),
        0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2),
    )
    expected = [(forth + back) / 2, (forth + back) / 2, 0]
    assert losses.symmetric_divergence(first, second).tolist() == pytest.approx(expected, abs=1e-6)
    assert losses.symmetric_divergence(second, first).tolist() == pytest.approx(expected, abs=1e-6)


def test_r_drop_adds_the_divergence_of_two_passes_to_their_mean_loss(make, batch):
    first, second = (
        torch.randn(6, 3, generator=torch.Generator().manual_seed(0)),
        torch.randn(6, 3, generator=torch.Generator().manual_seed(1)),
    )
    found, labels = row_losses(make(r_drop=0.7), batch, torch.cat([first, second])), batch["labels"]
    mean = (
        F.cross_entropy(first, labels, reduction="none")
        + F.cross_entropy(second, labels, reduction="none")
    ) / 2
    torch.testing.assert_close(found, mean + 0.7 * losses.symmetric_divergence(first, second))


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.3, False)])
def test_r_drop_costs_nothing_without_dropout(make, batch, dropout, same):
    model = (trainer := make(dropout=dropout, r_drop=5.0)).model.train()
    torch.manual_seed(1)
    with_divergence = trainer.row_losses(model, batch)
    torch.manual_seed(1)
    trainer.settings = trainer.settings.model_copy(update={"r_drop": 1e-9})
    assert torch.allclose(with_divergence, trainer.row_losses(model, batch), atol=1e-5) is same
    if same:
        trainer.settings = trainer.settings.model_copy(update={"r_drop": 0.0})
        torch.testing.assert_close(with_divergence, trainer.row_losses(model, batch))


@KINDS
@pytest.mark.parametrize("labels", [[1] * 6, LABELS.tolist()], ids=["one class", "three"])
def test_mixup_by_hand(make, batch, monkeypatch, kind, labels):
    labels = torch.tensor(labels)
    monkeypatch.setattr(
        torch.distributions.Beta,
        "sample",
        lambda beta: torch.tensor(0.25) if float(beta.concentration1) == 0.5 else None,
    )
    monkeypatch.setattr(torch, "randperm", lambda n: torch.tensor([5, 3, 4, 0, 2, 1]))
    drawn = trainer_module.draw_pairs(6, 0.5, torch.device("cpu"))
    order = torch.tensor([4, 2, 1, 5, 0, 3])  # 5 with 3, 4 with 0, 2 with 1
    trainer, seen = make(kind, mixup=0.5), []
    trainer.model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = trainer.row_losses(trainer.model.train(), {**batch, **drawn, "labels": labels})
    features = seen[0].detach()
    mixed = trainer.model.classifier(0.25 * features + 0.75 * features[order])
    expected = 0.25 * F.cross_entropy(mixed, labels, reduction="none") + 0.75 * F.cross_entropy(
        mixed, labels[order], reduction="none"
    )
    torch.testing.assert_close(found, expected)
    if labels.unique().numel() == 1:
        torch.testing.assert_close(found, F.cross_entropy(mixed, labels, reduction="none"))


@KINDS
@pytest.mark.parametrize(("n_parts", "max_tokens"), [(2, None), (6, None), (1, 20), (1, 8)])
def test_mixup_is_the_same_in_any_parts(make, batch, kind, n_parts, max_tokens):
    """The parts are of pairs at least."""
    whole = step(make(kind, mixup=0.5), batch)
    split = {"accumulation_steps": n_parts, "micro_batch_tokens": max_tokens}
    parts = step(make(kind, mixup=0.5, **split), batch)
    plain = step(make(kind), batch)
    assert_same(parts, whole)
    assert abs(whole[0] - plain[0]) > 1e-3


def test_mixup_draws_a_share_a_step_and_reaches_the_encoder(make, batch):
    trainer = make(mixup=0.5)
    losses = [step(trainer, batch, seed=seed)[0].item() for seed in (1, 1, 2, 3)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3
    assert step(trainer, batch)[1]["deberta.embeddings.word_embeddings.weight"].abs().sum() > 0


@KINDS
def test_the_loss_is_the_mean_over_the_heads_dropout_masks(make, batch, kind):
    trainer, seen = make(kind, multisample_dropout=3), []
    trainer.settings = trainer.settings.model_copy(update={"dropout": 0.5})
    trainer.model.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model = trainer.model.train()
    torch.manual_seed(1)
    found = trainer.row_losses(model, batch)
    features = seen[0].detach()
    torch.manual_seed(1)
    masked = [F.dropout(features, 0.5) for _ in range(3)]
    assert len(seen) == 4
    expected = torch.stack(
        [
            F.cross_entropy(model.classifier(one), batch["labels"], reduction="none")
            for one in masked
        ]
    ).mean(0)
    torch.testing.assert_close(found, expected)
    assert len({tuple(one.flatten().tolist()) for one in masked}) == 3


# --- perturbed weights ---


def relative_moves(trainer, what, size):
    """Return the gradients, and within `perturbed` each tensor's move."""
    before = snapshot(trainer.model)
    gradients = {
        name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None
    }
    with losses.perturbed(trainer.model, target=what, epsilon=size):
        moves = {name: p.detach() - before[name] for name, p in trainer.model.named_parameters()}
    assert unchanged(trainer.model, before)
    return before, gradients, {name: move for name, move in moves.items() if move.any()}


@KINDS
def test_all_weights_that_learn_move_along_their_gradients_by_a_share_of_their_norm(
    make, batch, kind
):
    trainer = make(kind)
    freezing.freeze(trainer.model, 1)
    step(trainer, batch)
    trainer.model.classifier.weight.grad = None
    before, gradients, moves = relative_moves(trainer, "weights", 0.02)
    learning = {
        name
        for name, p in trainer.model.named_parameters()
        if p.requires_grad and p.dim() > 1 and gradients.get(name, torch.zeros(1)).any()
    }
    assert set(moves) == learning - {"classifier.weight"}
    assert len(moves) > 5
    for name, move in moves.items():
        assert (move.norm() / before[name].norm()).item() == pytest.approx(0.02, rel=1e-3)
        assert F.cosine_similarity(
            move.flatten(), gradients[name].flatten(), dim=0
        ).item() == pytest.approx(1, abs=1e-4)


@KINDS
def test_the_word_embeddings_move_by_a_share_of_their_mean_row(make, batch, kind):
    trainer = make(kind)
    step(trainer, batch)
    before, gradients, moves = relative_moves(trainer, "embeddings", 0.5)
    (name,) = moves
    assert name.endswith("embeddings.word_embeddings.weight")
    assert moves[name].norm().item() == pytest.approx(
        0.5 * before[name].norm(dim=1).mean().item(), rel=1e-4
    )
    assert F.cosine_similarity(
        moves[name].flatten(), gradients[name].flatten(), dim=0
    ).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_a_tensor_whose_gradient_has_no_direction_stays(make, batch, value):
    trainer = make()
    step(trainer, batch)
    trainer.model.classifier.weight.grad.fill_(value)
    _, _, moves = relative_moves(trainer, "weights", 0.02)
    assert "classifier.weight" not in moves
    assert "pooler.dense.weight" in moves


@pytest.mark.parametrize("what", ["weights", "embeddings"])
def test_an_error_within_leaves_the_weights_as_they_were(make, batch, what):
    trainer = make()
    step(trainer, batch)
    before = snapshot(trainer.model)
    with (
        pytest.raises(KeyboardInterrupt),
        losses.perturbed(trainer.model, target=what, epsilon=0.1),
    ):
        assert not unchanged(trainer.model, before)
        raise KeyboardInterrupt
    assert unchanged(trainer.model, before)


def test_memory_that_runs_out_while_weights_are_moved_leaves_them_as_they_were(
    make, batch, monkeypatch
):
    trainer = make()
    step(trainer, batch)
    before, clone, calls = snapshot(trainer.model), torch.Tensor.clone, []

    def short_of_memory(tensor, *args, **options):
        calls.append(tensor)
        if len(calls) == 3:
            raise OUT_OF_MEMORY
        return clone(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "clone", short_of_memory)
    with (
        pytest.raises(torch.OutOfMemoryError),
        losses.perturbed(trainer.model, target="weights", epsilon=0.1),
    ):
        pass
    assert unchanged(trainer.model, before)


@pytest.mark.parametrize("what", ["weights", "embeddings"])
def test_an_adversarial_step_adds_the_gradients_at_the_perturbed_weights(make, batch, what):
    trainer = make(adversarial=what, adversarial_epsilon=0.1, embedding_epsilon=0.1)
    before, plain = snapshot(trainer.model), by_hand(trainer, batch)
    with losses.perturbed(trainer.model, target=what, epsilon=0.1):
        second = by_hand(trainer, batch)
    assert_same(
        step(trainer, batch),
        (plain[0], {name: gradient + second[1][name] for name, gradient in plain[1].items()}),
    )
    assert abs(second[0] - plain[0]) > 1e-3
    assert unchanged(trainer.model, before)


def test_by_default_perturbed_embeddings_raise_the_loss_by_more_than_rounding(make, batch):
    trainer = make(adversarial="embeddings")
    plain = by_hand(trainer, batch)
    with losses.perturbed(trainer.model, target="embeddings", epsilon=1.0):
        moved = by_hand(trainer, batch)
    assert moved[0] > 1.01 * plain[0]
    summed = {name: gradient + moved[1][name] for name, gradient in plain[1].items()}
    assert_same(step(trainer, batch), (plain[0], summed))


def test_embeddings_that_are_frozen_for_now_get_no_second_pass(make, batch):
    trainer = make(adversarial="embeddings")
    trainer.depth = 1
    model = Limited(trainer.model)
    step(trainer, batch, model=model)
    assert model.rows == [6]


# --- memory ---


class Limited(torch.nn.Module):
    """Raises where a pass has more rows than it can take, or at the passes named, after some random
    numbers were drawn."""

    def __init__(self, model, *, max_rows=99, failing=(), error=OUT_OF_MEMORY):
        super().__init__()
        self.model, self.max_rows, self.failing, self.error, self.rows = (
            model,
            max_rows,
            failing,
            error,
            [],
        )

    def forward(self, **inputs):
        self.rows.append(len(inputs["attention_mask"]))
        output = self.model(**inputs)
        if self.rows[-1] > self.max_rows or len(self.rows) in self.failing:
            raise self.error
        return output


CPU_ERROR = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried "
    "to allocate 9 bytes."
)

CUBLAS_ERROR = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")


@pytest.mark.parametrize(
    (
        "limits",
        "failed",
        "parts",
        "tokens",
    ),  # rows of the passes that fail, and of those that make up the step; tokens at most
    [
        ({"max_rows": 3}, [6], [3, 3], 27),
        ({"max_rows": 3, "error": CPU_ERROR}, [6], [3, 3], 27),
        ({"max_rows": 3, "error": CUBLAS_ERROR}, [6], [3, 3], 27),
        ({"max_rows": 2}, [6, 3], [1, 1, 1, 2, 1], 13),
        ({"max_rows": 1}, [6, 3, 1, 1, 1, 2], [1] * 6, 5),
        (
            {"max_rows": 3, "failing": (3,)},
            [6, 3, 3],
            [1, 1, 1, 2, 1],
            13,
        ),  # in the second part: the gradients of the first do not count twice
    ],
    ids=str,
)
def test_a_step_that_ran_out_of_memory_is_that_of_smaller_micro_batches(
    make, batch, limits, failed, parts, tokens
):
    whole, trainer = make(dropout=0.3, micro_batch_tokens=max(8, tokens)), make(dropout=0.3)
    whole.max_tokens = tokens
    model = Limited(trainer.model, **limits)
    assert_same(step(trainer, batch, model=model), step(whole, batch))
    assert model.rows == failed + parts
    assert (
        trainer.messages[-1]
        == f"step 0: memory ran out; {tokens} tokens a micro-batch at most from here on, the same "
        "6 rows a step"
    )
    step(trainer, batch, model=model)
    assert model.rows == failed + 2 * parts  # it stays with them
    short = {name: values[[3, 2]] for name, values in batch.items()}
    short |= {name: short[name][:, :3] for name in ("input_ids", "attention_mask")}
    model.rows.clear()
    step(trainer, short, model=model)
    assert model.rows == ([2] if tokens >= 6 else [1, 1])  # a short batch stays whole


def test_memory_that_runs_out_in_the_adversarial_pass_is_made_up_for(make, batch):
    settings = {"dropout": 0.3, "adversarial": "weights", "adversarial_epsilon": 0.1}
    trainer = make(**settings)
    before = snapshot(trainer.model)
    model = Limited(trainer.model, failing=(2,))
    assert_same(
        step(trainer, batch, model=model), step(make(**settings, micro_batch_tokens=27), batch)
    )
    assert model.rows == [6, 6, 3, 3, 3, 3]
    assert unchanged(trainer.model, before)


class FailsGoingBack(torch.nn.Module):
    """Runs out of memory in the first backward pass; notes before each pass whether the trainer
    still holds the one before."""

    def __init__(self, trainer):
        super().__init__()
        self.model, self.trainer, self.held = trainer.model, trainer, []

    def forward(self, **inputs):
        self.held.append(self.trainer._features.numel() > 0)
        output = self.model(**inputs)
        if len(self.held) == 1:
            output.logits.register_hook(self.fail)
        return output

    def fail(self, gradient):
        raise OUT_OF_MEMORY


def test_a_pass_that_ran_out_of_memory_is_not_kept_in_it(make, batch):
    trainer = make()
    model = FailsGoingBack(trainer)
    assert_same(step(trainer, batch, model=model), by_hand(trainer, batch))
    assert model.held == [False, False, True]


def test_a_single_text_that_does_not_fit_is_an_error_with_advice(make, batch):
    trainer = make(max_length=64)
    found = (
        r"single text of at most training\.max_length=64 tokens a micro-batch \(CUDA out of "
        r"memory\. Tried to allocate 2\.00 GiB\.\)"
    )
    with pytest.raises(WorkbookError, match=found + r"; lower training\.max_length"):
        step(trainer, batch, model=Limited(trainer.model, max_rows=0))
    assert trainer.max_tokens == 5


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")],
    ids=str,
)
def test_another_error_is_passed_on(make, batch, error):
    trainer = make()
    with pytest.raises(type(error), match=str(error)):
        step(trainer, batch, model=Limited(trainer.model, max_rows=0, error=error))
    assert (trainer.max_tokens, trainer.messages) == (2_048, [])


# --- the optimiser ---


def named_groups(trainer):
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    return [
        {**group, "names": [names[id(p)] for p in group["params"]]}
        for group in trainer.create_optimizer().param_groups
    ]


@KINDS
def test_weight_decay_spares_biases_and_every_layer_norm(make, kind):
    trainer = make(kind, weight_decay=0.25)
    norms = {
        f"{name}.{kind}"
        for name, module in trainer.model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for kind in ("weight", "bias")
    }
    assert len(norms) == {"bert": 10, "deberta": 12}[kind]
    decay = {
        name: group["weight_decay"] for group in named_groups(trainer) for name in group["names"]
    }
    assert decay == {
        name: 0.0 if name in norms or name.endswith("bias") else 0.25
        for name, _ in trainer.model.named_parameters()
    }


LEARNING = [
    {},
    {"layer_decay": 0.5},
    {"unfreeze": (0, 1)},
    {"frozen_layers": 1},
    {"frozen_layers": 1, "unfreeze": (0,), "layer_decay": 0.5},
    {"frozen_layers": 2},
]


@KINDS
@pytest.mark.parametrize("settings", LEARNING, ids=str)
@pytest.mark.parametrize("pooling", ["cls", "attention"])
def test_what_ever_learns_is_in_exactly_one_group_with_the_head_first(
    make, kind, settings, pooling
):
    trainer = make(kind, **settings)
    heads.set_pooling(trainer.model, pooling)
    freezing.freeze(
        trainer.model, freezing.frozen_depth(trainer.settings, 0, n_layers=2)
    )  # frozen for now: it counts all the same
    groups = named_groups(trainer)
    base, frozen = trainer.model.base_model_prefix, settings.get("frozen_layers", 0)
    below = (
        "embeddings.",
        "encoder.rel",
        "encoder.LayerNorm.",
        *(f"encoder.layer.{i}." for i in range(frozen)),
    )
    never = tuple(f"{base}.{part}" for part in below) if frozen else ()
    found = [name for group in groups for name in group["names"]]
    assert sorted(found) == sorted(
        name for name, _ in trainer.model.named_parameters() if not name.startswith(never)
    )
    assert "classifier.bias" in groups[0]["names"]
    assert ("attention_pool.weight" in found) is (pooling == "attention")


@KINDS
def test_each_layer_learns_slower_than_the_one_above(make, kind):
    trainer = make(kind, layer_decay=0.5, learning_rate=0.08)
    groups = named_groups(trainer)
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    base = trainer.model.base_model_prefix
    layers = {
        f"{base}.encoder.layer.1.": 0.04,
        f"{base}.encoder.layer.0.": 0.02,
        f"{base}.pooler.": 0.08,
        f"{base}.": 0.01,
        "": 0.08,
    }
    assert rates == {
        name: pytest.approx(
            next(rate for prefix, rate in layers.items() if name.startswith(prefix))
        )
        for name in rates
    }
    assert [group["lr"] for group in groups] == pytest.approx(
        [0.08, 0.08, 0.04, 0.04, 0.02, 0.02, 0.01, 0.01]
    )


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"unfreeze": (0, 1)}, {"classifier": 0, "layer.1": 1, "layer.0": 2, "embeddings": 2}),
        ({"unfreeze": (0, 0, 2)}, {"classifier": 0, "layer.1": 2, "layer.0": 2, "embeddings": 2}),
        ({"unfreeze": (1,)}, {"classifier": 0, "layer.1": 0, "layer.0": 1, "embeddings": 1}),
        ({"unfreeze": (0, 6)}, {"classifier": 0, "layer.1": 1, "layer.0": 1, "embeddings": 1}),
        ({"unfreeze": (0, 1), "frozen_layers": 1}, {"classifier": 0, "layer.1": 1}),
        (
            {"unfreeze": (), "layer_decay": 0.5},
            {"classifier": 0, "layer.1": 0, "layer.0": 0, "embeddings": 0},
        ),
    ],
    ids=str,
)
def test_the_epoch_in_which_a_group_begins_to_learn(make, settings, first):
    found = {}
    for group in named_groups(make(**settings)):
        for name in group["names"]:
            part = next(
                (part for part in ("layer.0", "layer.1", "deberta") if part in name), "classifier"
            ).replace("deberta", "embeddings")
            assert found.setdefault(part, group["first_epoch"]) == group["first_epoch"]
    assert found == first


def test_more_frozen_layers_than_there_are_are_refused(make):
    with pytest.raises(
        WorkbookError, match=r"training\.frozen_layers=3, but the backbone has 2 layers"
    ):
        make(frozen_layers=3).create_optimizer()


@KINDS
def test_of_a_model_with_low_rank_matrices_they_and_the_head_learn(kind):
    model = heads.add_lora(classifier(kind), rank=2)
    groups = optimizer.parameter_groups(
        model, TrainingConfig(lora_rank=2, unfreeze=()), decayed=set()
    )
    learning = [p for p in model.parameters() if p.requires_grad]
    found = [p for group in groups for p in group["params"]]
    assert len(found) == len(learning) > 8
    assert {id(p) for p in found} == {id(p) for p in learning}
    assert {(group["lr"], group["first_epoch"]) for group in groups} == {(3e-5, 0)}


def test_the_optimizer_is_made_once_with_the_settings(make):
    trainer = make(adam_betas=(0.5, 0.75), adam_epsilon=0.125, learning_rate=0.5)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.AdamW
    assert {(*group["betas"], group["eps"], group["lr"]) for group in optimizer.param_groups} == {
        (0.5, 0.75, 0.125, 0.5)
    }
    assert trainer.create_optimizer() is optimizer


COSINE = [
    0.5 * (1 + math.cos(math.pi * share))
    for share in (0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8, 1)
]


@pytest.mark.parametrize(
    ("settings", "start", "rates"),
    [
        (
            {"schedule": "linear"},
            0,
            [0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0],
        ),
        ({"schedule": "cosine"}, 0, [0, 1 / 2, *COSINE, 0]),
        ({"schedule": "constant"}, 0, [0, 1 / 2, *[1] * 10]),
        ({"schedule": "constant", "warmup_share": 0}, 0, [1] * 12),
        (
            {"schedule": "linear", "warmup_share": 0},
            0,
            [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0, 0],
        ),
        (
            {"schedule": "linear"},
            4,
            [0, 0, 0, 0, 0, 1 / 2 * 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0],
        ),
        ({"schedule": "constant"}, 4, [0, 0, 0, 0, 0, 1 / 2, *[1] * 6]),
        ({"schedule": "constant", "warmup_share": 0}, 4, [0, 0, 0, 0, *[1] * 8]),
        ({"schedule": "constant", "warmup_share": 0.01}, 0, [0, *[1] * 11]),  # one step at least
        (
            {"schedule": "linear", "averaging": "swa", "averaging_start": 0.6},
            0,
            [0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, *[4 / 8] * 6],
        ),
        (
            {"schedule": "cosine", "averaging": "swa", "averaging_start": 0.6},
            0,
            [0, 1 / 2, *COSINE[:4], *[0.5] * 6],
        ),
        (
            {"schedule": "linear", "averaging": "swa", "averaging_start": 0.1},
            0,
            [0, 1 / 2, *[1] * 10],
        ),
        (
            {"schedule": "linear", "averaging": "swa", "averaging_start": 0.6},
            7,
            [*[0] * 8, 1 / 4, *[1 / 2] * 3],
        ),
        (
            {"schedule": "linear", "averaging": "ema", "averaging_start": 0.6},
            0,
            [0, 1 / 2, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0],
        ),
    ],
    ids=str,
)
def test_the_rate_of_ten_steps_by_hand(settings, start, rates):
    rate = optimizer.rate_schedule(
        TrainingConfig(**{"warmup_share": 0.2, **settings}), 10, start=start
    )
    assert [rate(at) for at in range(12)] == pytest.approx(rates, abs=1e-12)


def test_each_group_warms_up_when_it_begins_to_learn(make):
    trainer = make(
        unfreeze=(0, 1), epochs=4, warmup_share=0.1, schedule="constant", learning_rate=1.0
    )
    optimizer = trainer.create_optimizer()
    schedule, rates = trainer.create_scheduler(40), []
    for _ in range(40):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert trainer.lr_scheduler is schedule
    by_group = dict(zip([group["first_epoch"] for group in optimizer.param_groups], zip(*rates)))
    rise = [0, 0.25, 0.5, 0.75]
    assert {epoch: list(found) for epoch, found in by_group.items()} == {
        epoch: [0] * 10 * epoch + rise + [1] * (36 - 10 * epoch) for epoch in (0, 1, 2)
    }


def test_the_head_has_a_rate_of_its_own_while_it_learns_alone(make):
    settings = {"unfreeze": (0, 1), "epochs": 4, "schedule": "constant", "warmup_share": 0.1}
    trainer = make(**settings, learning_rate=1.0, head_learning_rate=8.0)
    optimizer = trainer.create_optimizer()
    schedule, rates = trainer.create_scheduler(40), []
    for _ in range(40):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    first_epochs = [group["first_epoch"] for group in optimizer.param_groups]
    by_group = dict(zip(first_epochs, zip(*rates)))
    assert list(by_group[0]) == [0, 2, 4, 6] + [8] * 6 + [1] * 30
    assert list(by_group[1]) == [0] * 10 + [0, 0.25, 0.5, 0.75] + [1] * 26


def test_without_a_stage_of_the_head_alone_its_own_rate_is_not_used(make):
    rates = []
    for settings in ({"unfreeze": ()}, {"unfreeze": (1,)}, {"unfreeze": (0,), "lora_rank": 0}):
        trainer = make(**settings, learning_rate=1.0, head_learning_rate=8.0, warmup_share=0)
        trainer.create_optimizer()
        rates.append(trainer.create_scheduler(40).get_last_lr()[0])
    assert rates == [1, 1, 8]


# --- evaluation ---


def test_the_score_by_hand(make, monkeypatch):
    trainer = make()
    probs = np.array([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.1, 0.8, 0.1], [1.0, 0.0, 0.0]])
    with np.errstate(divide="ignore"):
        logits = np.log(probs)
    monkeypatch.setattr(trainer_module.prediction, "predict_logits", lambda *_, **__: logits)
    trainer.eval_labels = np.array([0, 0, 1, 2])
    f1 = [2 / (2 + 1 + 1), 2 / (2 + 1), 0]
    loss = -(math.log(0.5) + math.log(0.25) + math.log(0.8) + math.log(1e-12)) / 4
    expected = {
        "eval_loss": pytest.approx(loss),
        "eval_macro_f1": pytest.approx(sum(f1) / 3),
        "eval_accuracy": 0.5,
    }
    assert trainer.score() == expected
    assert {name: trainer.evaluate()[name] for name in expected} == expected
    assert {name: trainer.state.log_history[-1][name] for name in expected} == expected


@KINDS
@pytest.mark.parametrize("depth", [1, 2])
def test_kept_states_score_as_token_ids_do(make, tmp_path, kind, depth):
    trainer = make(kind, dropout=0.3)
    trainer.model.train()
    plain = trainer.score()
    trainer.eval_cache = freezing.ActivationCache(
        trainer.model, trainer.train_dataset.pieces, depth=depth, path=tmp_path / "kept.f32", pad=0
    )
    assert trainer.score() == {
        name: pytest.approx(value, abs=1e-5) for name, value in plain.items()
    }
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.zero_()
    assert trainer.score() == {
        name: pytest.approx(value, abs=1e-5) for name, value in plain.items()
    }  # they are not computed anew
