import math
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_runs import (
    TRAIN,
    VAL,
    configured,
    differences,
    home_of_its_own,
    let_average_score,
    place,
    rows,
    run,
    score,
    weights_file,
)
from transformers.models.deberta_v2.modeling_deberta_v2 import DebertaV2Attention

from lib import workspace
from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training import finetune
from lib.training.finetune import (
    building,
    callbacks,
    fine_tuning,
    launching,
    losses,
    pretraining,
    trainer,
)
from lib.training.finetune.arguments import logging_steps, training_arguments


@pytest.fixture(autouse=True, scope="module")
def _home(tmp_path_factory):
    with home_of_its_own(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def trained():
    return run("first")


@pytest.fixture(scope="module")
def reloaded(trained):
    return finetune.load_model(trained.model_dir)


def predicted(reloaded, texts):
    tokenizer, model, _ = reloaded
    return finetune.predict_probs(
        tokenizer, model, texts, settings=configured().training, progress=False
    )


# --- what a run leaves ---


def test_it_learns_what_can_be_learned(trained):
    assert trained.class_names == ["bird", "fruit", "tool"]
    assert score(trained) >= 0.8
    np.testing.assert_allclose(trained.val_probs.sum(axis=1), 1, atol=1e-12)


def test_history_and_facts_tell_what_was_done(trained):
    history, facts = trained.history, trained.facts
    assert history["step"].tolist() == list(range(1, 17))
    looks = history.dropna(subset="eval_macro_f1").set_index("step")["eval_macro_f1"]
    assert looks.index.tolist() == [8, 16]
    assert facts["best_step"] == looks.idxmax()
    assert looks.max() == score(trained)
    assert history["loss"].iloc[-1] < 0.75 * history["loss"].iloc[0]
    assert (
        facts["steps"],
        facts["train_rows"],
        facts["precision"],
        facts["device"],
        facts["truncated_share"],
    ) == (16, 60, "fp32", "cpu", 0)
    assert (
        facts["weights"]
        == facts["weights_learning"]
        == sum(
            value.numel() for value in load_file(trained.model_dir / "model.safetensors").values()
        )
    )
    assert (facts["processes"], facts["kept"], facts["messages"]) == (1, "best checkpoint", [])
    assert 0 < facts["training_seconds"] <= facts["seconds"] + 0.1
    assert facts["texts_per_second"] == pytest.approx(16 * 8 / facts["training_seconds"], rel=0.01)


def test_a_result_is_described_with_its_figures_and_notes():
    facts = {
        "steps": 1_200,
        "train_rows": 4_000,
        "training_seconds": 61.4,
        "texts_per_second": 625.6,
        "device": "cpu",
        "precision": "fp32",
        "weights": 22_700_000,
        "weights_learning": 21_250_000,
        "truncated_share": 0.125,
        "max_length": 128,
        "truncation": "head",
        "kept": "average",
        "messages": ["a second try", "an odd thing"],
    }
    result = fine_tuning.TrainingResult(None, np.zeros((0, 2)), ["a", "b"], pd.DataFrame(), facts)
    assert result.describe() == (
        "1,200 steps on 4,000 rows took 61 s, 626 texts a second (cpu, fp32). "
        "21.2 of 22.7 million weights learned. "
        "12% of the texts are longer than 128 tokens (head is read). "
        "The average was kept. Note: a second try. Note: an odd thing."
    )


def test_same_data_settings_and_seed_give_the_same_result_bit_for_bit(trained):
    assert differences(run("again"), trained) == []


def test_another_seed_gives_another_result(trained):
    found = differences(run("again", seed=43), trained)
    assert {"weights file", "val_probs", "history"} <= set(found)


def test_the_seed_decides_the_new_head_of_a_backbone_that_is_there_already(trained):
    folder = str(trained.model_dir.parent / "tiny-deberta")
    first, again, other = (
        run("folder", backbone=folder, seed=seed, epochs=0.1, learning_rate=1e-9).val_probs
        for seed in (42, 42, 43)
    )
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-3)


def test_the_saved_model_gives_the_probabilities_that_training_gave(trained, reloaded):
    assert {value.dtype for value in reloaded[1].state_dict().values()} == {torch.float32}
    assert reloaded[2] == trained.class_names
    assert np.array_equal(predicted(reloaded, VAL["text"].tolist()), trained.val_probs)


def test_the_model_folders_hold_no_pickle_and_the_checkpoints_are_gone(trained):
    last_model_dir = trained.model_dir.parent / "last_checkpoint"
    for folder in (trained.model_dir, last_model_dir):
        assert {path.suffix for path in folder.rglob("*")} == {".json", ".safetensors"}
    assert sorted(path.name for path in trained.model_dir.parent.iterdir()) == [
        "last_checkpoint",
        "tiny-deberta",
        "transformer",
    ]


def test_the_last_model_is_kept_next_to_the_best(monkeypatch):
    steps = []
    scored = trainer.RecipeTrainer.score

    def falling(self):
        steps.append(self.state.global_step)
        return {**scored(self), "eval_macro_f1": 1 / len(steps)}

    monkeypatch.setattr(trainer.RecipeTrainer, "score", falling)
    result = run("best and last", averaging="none", patience=9, eval_steps=5)
    assert (result.facts["best_step"], result.facts["steps"]) == (steps[0], steps[-1])
    last = finetune.load_model(result.model_dir.parent / "last_checkpoint")
    probs = predicted(last, VAL["text"].tolist())
    assert np.abs(probs - result.val_probs).max() > 0.01
    assert (probs.argmax(1) == VAL["label"].astype("category").cat.codes).mean() > 0.9


def test_training_prints_nothing(capsys):
    run("silent", epochs=0.25)
    assert capsys.readouterr().out == ""


def test_a_label_that_training_has_not_is_named():
    with pytest.raises(
        WorkbookError, match="label 'fish' is in the validation rows but not in the training rows"
    ):
        run("fish", val=pd.DataFrame({"text": ["cod hake"], "label": ["fish"]}))


def test_few_rows_are_watched_and_every_validation_row_is_predicted(trained):
    result = run("few", eval_rows=10, frozen_layers=1)
    assert result.val_probs.shape == (21, 3)
    accuracies = result.history["eval_accuracy"].dropna() * 10
    assert (accuracies % 1 < 1e-9).all()
    assert result.facts["weights_learning"] < result.facts["weights"] == trained.facts["weights"]


def test_training_stops_early_where_nothing_improves():
    result = run("still", learning_rate=1e-12, eval_steps=1, patience=1)
    assert (result.facts["steps"], result.facts["best_step"]) == (2, 1)


def test_evaluations_while_few_layers_learn_do_not_stop_a_training():
    settings = {"unfreeze": (0, 1), "epochs": 4, "warmup_share": 0.25, "eval_steps": 1}
    result = run("still frozen", learning_rate=1e-12, patience=2, **settings)
    starts = 2 * 8 + 8  # two epochs of stages, and the warm-up
    assert result.facts["steps"] == starts + 1
    assert result.facts["weights_learning"] == result.facts["weights"]


@pytest.mark.parametrize(("best", "noted"), [(1 / 6, True), (0.17, False)])
def test_a_result_no_better_than_the_largest_class_is_a_loud_note(best, noted):
    state = SimpleNamespace(best_metric=best)
    trainer = SimpleNamespace(
        eval_labels=np.repeat([0, 1, 2], 5), class_weights=torch.ones(3), state=state
    )
    expected = (
        "NOTHING WAS LEARNED: the best macro F1 on the validation rows is 0.167, and the largest "
        "class for every text has 0.167; look at the labels, or change training.learning_rate or "
        "training.epochs"
    )
    assert fine_tuning.nothing_learned(trainer) == [expected] * noted


def test_the_note_reaches_the_reader(monkeypatch):
    monkeypatch.setattr(fine_tuning, "nothing_learned", lambda trainer: ["nothing"])
    assert run("told", epochs=0.5).facts["messages"] == ["nothing"]


def test_a_model_that_cannot_be_written_leaves_the_earlier_one_and_is_written_by_the_next_run(
    monkeypatch, trained
):
    settings, after_train = (
        {"backbone": str(trained.model_dir.parent / "tiny-deberta"), "epochs": 0.5},
        [],
    )
    earlier = run("full", seed=1, **settings)
    before = weights_file(earlier)

    def no_space(*_, **__):
        after_train.append(place("full").path("transformer").exists())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            "transformers.PreTrainedTokenizerBase.save_pretrained",
            lambda self, folder, *a, **k: no_space() if "transformer" in str(folder) else None,
        )
        with pytest.raises(WorkbookError, match="the disk is full"):
            run("full", **settings)
    assert after_train == [True]
    assert weights_file(earlier) == before
    assert sorted(path.name for path in earlier.model_dir.parent.iterdir()) == [
        "checkpoints",
        "last_checkpoint",
        "transformer",
    ]
    assert weights_file(run("full", **settings)) != before


# --- every technique ---

TECHNIQUES = {
    "mean pooling": {"pooling": "mean"},
    "attention pooling": {"pooling": "attention"},
    "a fresh top layer": {"reinit_layers": 1},
    "low-rank matrices": {"lora_rank": 8, "learning_rate": 0.1},
    "a rate that falls with depth": {"layer_decay": 0.7},
    "R-Drop": {"r_drop": 1.0},
    "mixup": {"mixup": 0.4},
    "several dropout masks": {"multisample_dropout": 4},
    "adversarial embeddings": {"adversarial": "embeddings", "embedding_epsilon": 0.1},
    "adversarial weights": {"adversarial": "weights"},
    "head and tail": {"truncation": "head_tail", "max_length": 12},
    "windows": {"truncation": "windows", "max_length": 12},
    "cosine": {"schedule": "cosine"},
    "constant rate": {"schedule": "constant"},
    "label smoothing": {"label_smoothing": 0.1},
    "gradual unfreezing": {"unfreeze": (1,)},
    "frozen layers": {"frozen_layers": 1},
    "no dropout": {"dropout": 0, "attention_dropout": 0},
    "micro-batches": {"accumulation_steps": 2},
    "bf16": {"precision": "bf16"},
}


@pytest.fixture(scope="module")
def cut():
    return run("cut", eval_steps=100, max_length=12)


@pytest.mark.parametrize("settings", TECHNIQUES.values(), ids=TECHNIQUES)
def test_a_technique_learns_the_task_and_changes_the_result(trained, cut, settings):
    result = run("technique", eval_steps=100, **settings)
    assert score(result) >= 0.8
    assert np.abs(result.val_probs - trained.val_probs).max() > 1e-5
    if "max_length" in settings:
        assert np.abs(result.val_probs - cut.val_probs).max() > 1e-5
        assert (result.facts["truncated_share"] == 0) == (settings["truncation"] == "windows")
    saved = finetune.load_model(result.model_dir)
    how = configured(**settings).training
    assert np.array_equal(
        finetune.predict_probs(
            saved[0], saved[1], VAL["text"].tolist(), settings=how, progress=False
        ),
        result.val_probs,
    )


def test_kept_activations_are_those_of_the_precision_that_it_trains_in():
    settings = {"precision": "bf16", "frozen_layers": 1, "dropout": 0, "attention_dropout": 0}
    kept = run("kept", **settings)
    computed = run("computed", **settings, activation_cache_gb=0)
    np.testing.assert_allclose(kept.val_probs, computed.val_probs, atol=1e-6)
    losses_kept, losses_computed = (result.history["loss"] for result in (kept, computed))
    np.testing.assert_allclose(losses_kept, losses_computed, atol=1e-6)


def test_gradient_checkpointing_recomputes_and_changes_nothing(monkeypatch, trained):
    passes, forward = [], DebertaV2Attention.forward

    def counted(*words, **more):
        passes.append(torch.is_grad_enabled())
        return forward(*words, **more)

    monkeypatch.setattr(DebertaV2Attention, "forward", counted)
    plain = run("plain", max_length=16, epochs=0.5)
    n_plain = sum(passes)
    passes.clear()
    assert (
        differences(
            run("recomputed", gradient_checkpointing=True, max_length=16, epochs=0.5), plain
        )
        == []
    )
    assert sum(passes) == 2 * n_plain == 2 * 2 * 4  # two layers, four steps


@pytest.mark.parametrize("kind", ["ema", "swa"])
@pytest.mark.parametrize("gap", [0.01, 0.0, -0.01])
def test_averaged_weights_are_kept_where_they_score_better_alone(monkeypatch, trained, kind, gap):
    averages, best, put_in = [], [], fine_tuning.keep_better_average

    def seen(trainer, average):
        averages.append({name: value.clone() for name, value in average.weights.items()})
        best.append(
            {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
        )
        return put_in(trainer, average)

    monkeypatch.setattr(fine_tuning, "keep_better_average", seen)
    let_average_score(monkeypatch, gap)
    result = run("averaged", averaging=kind, averaging_start=0.5, ema_decay=0.9)
    saved = load_file(result.model_dir / "model.safetensors")
    expected = averages[0] if gap > 0 else best[0]
    assert averages[0].keys() == best[0].keys()
    assert all(torch.equal(value, expected[name]) for name, value in saved.items())
    assert result.facts["kept"] == ("average" if gap > 0 else "best checkpoint")
    assert score(result) >= 0.8
    assert not torch.equal(averages[0]["classifier.weight"], best[0]["classifier.weight"])


# --- classes ---


def test_two_classes_of_very_unequal_size_are_learned_with_balanced_weights():
    train, val = rows(960, seed=3), rows(60, seed=4)
    train = pd.concat([train[train["label"] == "tool"][:300], train[train["label"] == "bird"][:30]])
    val = val[val["label"] != "fruit"]
    settings = {
        "batch_size": 3,
        "epochs": 1,
        "learning_rate": 5e-4,
        "warmup_share": 0.05,
        "eval_steps": 55,
    }
    result = run("unequal", train, val, class_weights="balanced", **settings)
    assert result.val_probs.shape == (40, 2)
    assert score(result, val) >= 0.8
    logged = result.history.set_index("step")["loss"].loc[7:106]
    assert (
        0.305 < logged.mean() < math.log(2)
    )  # above the entropy of the shares, which for weighted classes is not what guessing costs
    assert (result.facts["steps"], result.facts["messages"]) == (110, [])
    few = {**settings, "epochs": 0.2, "warmup_share": 0}
    weighted, plain = (
        run("weighted", train, val, class_weights="balanced", **few),
        run("plain", train, val, class_weights="none", **few),
    )
    assert np.abs(weighted.val_probs - plain.val_probs).max() > 1e-4


def test_two_hundred_classes_begin_to_be_learned():
    words = [f"{a}{b}{c}" for a in "bdfglmnp" for b in "aeiou" for c in "krstvxz"][:200]
    train = pd.DataFrame(
        {"text": [f"{word} {word}." for word in words], "label": [f"c{i:03d}" for i in range(200)]}
    )
    result = run("many", train, train[::-1].iloc[:50], batch_size=50, epochs=4, pooling="mean")
    assert result.class_names == sorted(train["label"])
    assert result.val_probs.shape == (50, 200)
    assert result.history["eval_loss"].dropna().iloc[-1] < 0.96 * math.log(200)


@pytest.mark.parametrize("counts", [[3, 1], [970, 30], [1, 2, 3, 94], [1] * 200])
def test_balanced_weights_go_by_the_inverse_of_the_size_and_have_mean_1_over_the_rows(counts):
    y_train = np.repeat(np.arange(len(counts)), counts)
    weights = losses.class_weights(y_train, "balanced", n_classes=len(counts))
    assert weights.dtype == torch.float32
    assert weights[y_train].mean().item() == pytest.approx(1, abs=1e-6)
    products = weights * torch.tensor(counts)
    assert torch.allclose(products, products[0].expand(len(counts)))
    assert losses.class_weights(y_train, "none", n_classes=len(counts)).tolist() == [1] * len(
        counts
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["none", "balanced"])
def test_the_loss_of_guessing_is_the_least_that_one_guess_for_all_can_have(kind, smoothing):
    y_train = np.repeat([0, 1, 2], [1, 4, 15])
    weights = losses.class_weights(y_train, kind, n_classes=3)
    labels, logits = torch.tensor(y_train), torch.zeros(3, requires_grad=True)
    descent = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9)

    def loss():
        descent.zero_grad()
        row_losses = (
            torch.nn.functional.cross_entropy(
                logits.expand(20, 3), labels, reduction="none", label_smoothing=smoothing
            )
            * weights[labels]
        )
        row_losses.mean().backward()
        return row_losses.mean()

    descent.step(loss)
    assert losses.guessing_loss(
        y_train, weights.numpy(), label_smoothing=smoothing
    ) == pytest.approx(loss().item(), abs=1e-5)


# --- divergence ---


def test_training_that_diverges_twice_says_what_was_tried_and_leaves_the_earlier_model():
    earlier = place("nan").path("transformer") / "earlier"
    workspace.write_text("a model", earlier)
    number = r"(loss|grad_norm|eval_loss) is (nan|inf) at step \d"
    with pytest.raises(WorkbookError) as caught:
        run("nan", learning_rate=1e30, warmup_share=0, epochs=1)
    assert caught.match(
        rf"^training diverged twice; at a learning rate of 1e\+30 with a warm-up of 0%: {number}; "
        rf"at a learning rate of 2\.5e\+29 with a warm-up of 10%: {number}\. "
        r"What is left to try: look at the labels, lower training\.learning_rate, or take "
        r"another backbone$"
    )
    assert [path.name for path in earlier.parent.iterdir()] == ["earlier"]
    assert sorted(path.name for path in earlier.parent.parent.iterdir()) == [
        "tiny-deberta",
        "transformer",
    ]


def test_weights_that_are_no_numbers_after_the_last_step_are_not_kept():
    result = run("last", learning_rate=1e30, warmup_share=0, epochs=0.1, schedule="constant")
    assert [message[:60] for message in result.facts["messages"]] == [
        "a second try, after one at a learning rate of 1e+30 with a w",
        "NOTHING WAS LEARNED: the best macro F1 on the validation row",
    ]
    assert result.facts["messages"][0].endswith("eval_loss is nan at step 1")
    assert np.isfinite(result.val_probs).all()


@pytest.mark.parametrize(
    ("rate", "warmup", "second"),
    [
        (3e-5, 0.1, (7.5e-6, 0.3)),
        (4.0, 0.0, (1.0, 0.1)),
        (4.0, 0.02, (1.0, 0.1)),
        (4.0, 0.3, (1.0, 0.5)),
    ],
)
def test_a_second_try_has_a_quarter_of_the_rate_and_a_longer_warm_up(rate, warmup, second):
    lower = fine_tuning.lower_rate(
        TrainingConfig(learning_rate=rate, warmup_share=warmup, epochs=7)
    )
    assert (lower.learning_rate, lower.warmup_share) == pytest.approx(second)
    assert lower == TrainingConfig(
        learning_rate=lower.learning_rate, warmup_share=lower.warmup_share, epochs=7
    )


PLATEAU = {
    "batch_size": 4,
    "epochs": 1,
    "warmup_share": 0.05,
    "eval_steps": 60,
}  # 120 steps, of which 6 warm up


def test_labels_that_say_nothing_are_noticed_within_a_hundred_steps_after_the_warm_up():
    train = rows(480, seed=5)
    train["label"] = np.random.default_rng(0).permutation(train["label"])
    with pytest.raises(WorkbookError) as caught:
        run("shuffled", train, learning_rate=1e-4, frozen_layers=2, **PLATEAU)
    assert caught.match(
        "twice; at a learning rate of 0.0001 with a warm-up of 5%: .*; at a learning rate of "
        "2.5e-05 with a warm-up of 15%: "
    )
    steps = [
        int(step)
        for step in re.findall(
            r"the loss is 1\.\d+ up to step (\d+), and guessing gives 1\.099", str(caught.value)
        )
    ]
    assert 106 <= steps[0] < 109
    assert 118 <= steps[1] <= 120


def test_a_run_that_learns_is_not_taken_for_one_that_does_not():
    result = run("learns", rows(480, seed=5), learning_rate=3e-3, **PLATEAU)
    assert (result.facts["steps"], result.facts["messages"]) == (120, [])
    assert score(result) >= 0.8


def test_the_guard_is_told_what_the_loss_of_guessing_is_and_when_the_last_layers_have_warmed_up(
    monkeypatch,
):
    guards, guard = [], callbacks.DivergenceGuard
    monkeypatch.setattr(
        callbacks, "DivergenceGuard", lambda **words: guards.append(words) or guard(**words)
    )
    run(
        "guarded",
        TRAIN[:45],
        epochs=3,
        unfreeze=(0, 1),
        warmup_share=0.25,
        class_weights="balanced",
    )
    assert guards == [
        {"chance_loss": pytest.approx(math.log(3)), "starts": 2 * 6 + round(0.25 * 18)}
    ]


# --- pretraining ---


def test_pretraining_on_the_same_texts_is_done_once(monkeypatch, tmp_path):
    calls = []

    def pretrain(texts, *, source, folder, epochs, precision, seed, progress):
        calls.append((list(texts), source, epochs, precision, seed))
        folder.mkdir(exist_ok=True)
        return {"eval_loss_before": 2.0, "eval_loss_after": len(calls)}

    def once(texts=("a", "b"), seed=42, **settings):
        found = configured(seed, **{"pretraining_epochs": 2, **settings})
        return building.pretrain_once(
            list(texts),
            source="somewhere",
            folder=tmp_path / "pretrained",
            config=found,
            progress=False,
        )["eval_loss_after"]

    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    assert [once(), once()] == [1, 1]
    assert calls == [(["a", "b"], "somewhere", 2.0, "fp32", 42)]
    assert [once(["a", "c"]), once(["a", "c"]), once(["ab"]), once(["ab"], seed=1)] == [2, 2, 3, 4]
    assert [
        once(["ab"], **other)
        for other in ({"backbone": "minilm"}, {"pretraining_epochs": 3}, {"precision": "bf16"})
    ] == [5, 6, 7]
    (tmp_path / "pretrained").rmdir()
    assert once(["ab"], pretraining_epochs=3) == 8


def test_pretraining_cut_short_does_not_leave_the_record_of_other_weights(monkeypatch, tmp_path):
    def pretrain(texts, *, folder, fails=False, **_):
        folder.mkdir(exist_ok=True)
        (folder / "weights").write_text(texts[0])
        if texts == ["other"]:
            raise KeyboardInterrupt  # the folder is replaced, the record not yet written
        return {}

    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    words = {
        "source": "somewhere",
        "folder": tmp_path / "pretrained",
        "config": configured(pretraining_epochs=1),
        "progress": False,
    }
    building.pretrain_once(["texts"], **words)
    with pytest.raises(KeyboardInterrupt):
        building.pretrain_once(["other"], **words)
    building.pretrain_once(["texts"], **words)
    assert (tmp_path / "pretrained" / "weights").read_text() == "texts"


def test_a_run_starts_from_the_pretrained_weights_and_says_so(trained):
    result = run("pretrained", pretraining_epochs=1)
    assert len(result.facts["messages"]) == 1
    assert result.facts["messages"][0].startswith("pretrained on the training texts: masked loss ")
    assert np.abs(result.val_probs - trained.val_probs).max() > 1e-3
    assert score(result) >= 0.8


# --- arguments ---


def arguments(tmp_path, n_train=64, seed=42, **settings):
    config = configured(seed, **settings)
    return training_arguments(config, tmp_path, n_train=n_train)


def test_the_guard_is_told_a_loss_as_it_is(tmp_path):
    assert arguments(tmp_path).logging_nan_inf_filter is False


@pytest.mark.parametrize(
    ("settings", "every"),
    [
        ({"epochs": 1, "eval_steps": 100}, 4),
        ({"epochs": 1, "eval_steps": 3}, 3),
        ({"epochs": 0.01, "eval_steps": 100}, 1),
        ({"epochs": 2, "eval_steps": 100, "accumulation_steps": 4}, 8),
    ],
)
def test_there_are_two_looks_at_least(tmp_path, settings, every):
    found = arguments(tmp_path, **settings)
    assert (found.eval_steps, found.save_steps) == (every, every)


def test_settings_become_the_trainers(tmp_path):
    found = arguments(
        tmp_path,
        seed=7,
        max_grad_norm=2,
        accumulation_steps=2,
        gradient_checkpointing=True,
        epochs=3,
    )
    assert (
        found.seed,
        found.max_grad_norm,
        found.num_train_epochs,
        found.activation_checkpointing,
    ) == (7, 2, 3, True)
    assert (found.per_device_train_batch_size, found.gradient_accumulation_steps) == (
        8,
        1,
    )  # micro-batches are the trainer's
    assert (found.bf16, found.fp16, found.metric_for_best_model, found.greater_is_better) == (
        False,
        False,
        "eval_macro_f1",
        True,
    )
    assert arguments(tmp_path, precision="bf16").bf16 is True


@pytest.mark.parametrize(
    ("settings", "unused"),
    [({}, False), ({"frozen_layers": 1}, True), ({"unfreeze": (0,)}, True), ({"mixup": 0.4}, True)],
)
def test_each_process_takes_its_share_of_a_batch_and_waits_for_no_gradient_that_does_not_come(
    tmp_path, monkeypatch, settings, unused
):
    assert arguments(tmp_path, **settings).ddp_find_unused_parameters is None
    monkeypatch.setattr(launching, "n_processes", lambda: 4)
    found = arguments(tmp_path, **settings)
    assert (found.per_device_train_batch_size, found.ddp_find_unused_parameters) == (2, unused)


class TwoGpus(transformers.TrainingArguments):
    """As transformers makes them on a machine with two cards, but for the device."""

    @property
    def _setup_devices(self):
        if "_n_gpu" not in vars(self):
            self._n_gpu = torch.cuda.device_count()
        return torch.device("cpu")


def test_a_process_that_sees_several_gpus_takes_one(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers, "TrainingArguments", TwoGpus)
    monkeypatch.setattr(pretraining, "TrainingArguments", TwoGpus)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert TwoGpus(str(tmp_path)).n_gpu == 2
    fine_tuned = arguments(tmp_path)
    pretrained = pretraining._arguments(
        str(tmp_path), pretraining.Recipe(), epochs=1, precision="fp32", seed=0
    )
    # 0 where nothing has made a GPU known to Accelerate before
    assert fine_tuned.n_gpu < 2 and pretrained.n_gpu < 2
    assert [found.train_batch_size for found in (fine_tuned, pretrained)] == [8, 32]


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        WorkbookError, match=r"training\.batch_size=8 rows cannot be shared evenly by 3 processes"
    ):
        arguments(tmp_path)


@pytest.mark.parametrize(
    ("every", "n_steps", "expected"),
    [(8, 16, 1), (100, 4_000, 100), (100, 2_190, 50), (7, 280, 7), (7, 240, 1)],
)
def test_some_forty_losses_are_logged_and_one_at_each_checkpoint(every, n_steps, expected):
    assert logging_steps(every, n_steps) == expected


def test_fp16_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(WorkbookError, match=r"training\.precision=fp16 needs a GPU"):
        finetune.precision(TrainingConfig(precision="fp16"))


@pytest.mark.parametrize(
    ("cuda", "bf16_gpu", "processor", "expected"),
    [
        (True, True, {}, "bf16"),
        (True, False, {"amx_bf16": True}, "fp16"),
        (False, True, {"cpu_name": "Intel Xeon", "amx_bf16": True, "avx512_bf16": True}, "bf16"),
        (
            False,
            True,
            {"cpu_name": "Intel Xeon", "amx_bf16": False, "avx512_bf16": True},
            "fp32",
        ),  # as fast as half of float32
        (False, False, {"cpu_name": "AMD EPYC", "amx_bf16": False, "avx512_bf16": True}, "bf16"),
        (False, True, {"cpu_name": "AMD EPYC", "avx512_bf16": False}, "fp32"),
        (False, True, {"architecture": "aarch64"}, "fp32"),
    ],
)
def test_auto_takes_what_is_fastest_on_the_machine(
    monkeypatch, cuda, bf16_gpu, processor, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16_gpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    assert finetune.precision(TrainingConfig(precision="auto")) == expected
    assert [finetune.precision(TrainingConfig(precision=kind)) for kind in ("fp32", "bf16")] == [
        "fp32",
        "bf16",
    ]


def test_the_device_line_says_that_no_gpu_is_visible(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert (
        finetune.device_line()
        == f"CPU with 3 threads (no GPU is visible to torch {torch.__version__})"
    )
