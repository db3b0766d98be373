import random
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lib import workspace
from lib.config import Config, TrainingConfig
from lib.errors import WorkbookError
from lib.training import finetune
from lib.workspace import Workspace

WORDS = {"bird": "crow finch owl wren", "fruit": "apple pear plum grape", "tool": "saw drill nail screw"}
TINY = {"backbone": "tiny", "max_length": 32, "epochs": 4, "learning_rate": 3e-3, "batch_size": 8, "eval_steps": 8, "precision": "fp32", "threads": 1}


@pytest.fixture(autouse=True, scope="module")
def _one_thread_in_a_folder_of_its_own(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(tmp_path_factory.mktemp("home")))
        yield
    torch.set_num_threads(before)


def rows(n, seed):
    rng = random.Random(seed)
    labels = [sorted(WORDS, reverse=True)[i % 3] for i in range(n)]
    return pd.DataFrame({"text": [" ".join(rng.choices(WORDS[label].split(), k=rng.randint(3, 12))) + "." for label in labels], "label": labels})


TRAIN, VAL = rows(60, seed=0), rows(21, seed=1)


def run(name, train=TRAIN, val=VAL, seed=42, **settings):
    config = Config(profile="test", seed=seed, training=TrainingConfig(**{**TINY, **settings}))
    return finetune.train(train, val, config=config, run=Workspace(dataset="data", run=name), progress=False)


@pytest.fixture(scope="module")
def trained():
    return run("first")


@pytest.fixture(scope="module")
def reloaded(trained):
    return finetune.load_model(trained.model_dir)


def predicted(reloaded, texts, **options):
    tokenizer, model, _ = reloaded
    return finetune.predict_probs(tokenizer, model, texts, max_length=32, progress=False, **options)


def test_it_learns_what_can_be_learned(trained):
    assert trained.class_names == sorted(WORDS)
    right = np.array(trained.class_names)[trained.val_probs.argmax(axis=1)] == VAL["label"]
    assert right.mean() >= 0.8
    np.testing.assert_allclose(trained.val_probs.sum(axis=1), 1, atol=1e-12)


def test_history_and_facts_tell_what_was_done(trained):
    history, facts = trained.history, trained.facts
    assert history["step"].tolist() == list(range(1, 33))
    looks = history.dropna(subset="eval_macro_f1").set_index("step")["eval_macro_f1"]
    assert looks.index.tolist() == [8, 16, 24, 32]
    assert facts["best_step"] == looks.idxmax()
    assert history["loss"].iloc[-1] < 0.75 * history["loss"].iloc[0]
    assert (facts["steps"], facts["train_rows"], facts["precision"], facts["device"], facts["truncated_share"]) == (32, 60, "fp32", "cpu", 0)
    assert facts["weights"] == facts["weights_learning"] == sum(value.numel() for value in load_file(trained.model_dir / "model.safetensors").values())


def test_same_data_settings_and_seed_give_the_same_model(trained):
    again = run("again")
    assert np.array_equal(again.val_probs, trained.val_probs)
    assert (again.model_dir / "model.safetensors").read_bytes() == (trained.model_dir / "model.safetensors").read_bytes()


def test_the_seed_decides_the_new_head_of_a_backbone_that_is_there_already(trained):
    folder = str(trained.model_dir.parent / "tiny-deberta")
    first, again, other = (run("folder", backbone=folder, seed=seed, epochs=0.25).val_probs for seed in (42, 42, 43))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-3)


def test_the_saved_model_gives_the_probabilities_that_training_gave(trained, reloaded):
    assert {value.dtype for value in reloaded[1].state_dict().values()} == {torch.float32}
    assert reloaded[2] == trained.class_names
    np.testing.assert_allclose(predicted(reloaded, VAL["text"].tolist()), trained.val_probs, atol=1e-5)


def test_that_also_holds_where_training_computes_in_bf16():
    result = run("bf16", precision="bf16", epochs=1, learning_rate=1e-2)
    np.testing.assert_allclose(predicted(finetune.load_model(result.model_dir), VAL["text"].tolist()), result.val_probs, atol=1e-5)


def test_probabilities_do_not_depend_on_the_batch(reloaded):
    texts = ["owl", "saw drill " * 14, "apple pear plum", "", "wren. " * 9]
    together = predicted(reloaded, texts)
    np.testing.assert_allclose(together, np.concatenate([predicted(reloaded, [text]) for text in texts]), atol=1e-4)
    np.testing.assert_allclose(together, predicted(reloaded, texts, batch_size=2), atol=1e-4)


def test_probabilities_follow_the_order_of_the_texts(reloaded):
    texts = VAL["text"].tolist()
    np.testing.assert_allclose(predicted(reloaded, texts[::-1], batch_size=4)[::-1], predicted(reloaded, texts), atol=1e-4)
    assert np.ptp(predicted(reloaded, texts), axis=0).min() > 0.1, "all alike: any order would pass"


def test_what_lies_beyond_max_length_is_not_read(reloaded):
    tokenizer, model, _ = reloaded
    first, second = "owl " * 40 + "saw " * 40, "owl " * 80
    assert np.array_equal(*finetune.predict_probs(tokenizer, model, [first, second], max_length=16, progress=False))
    longer = finetune.predict_probs(tokenizer, model, [first, second], max_length=200, progress=False)
    assert np.abs(longer[0] - longer[1]).max() > 1e-3


def test_the_model_folder_holds_no_pickle_and_the_checkpoints_are_gone(trained):
    assert {path.suffix for path in trained.model_dir.rglob("*")} == {".json", ".safetensors"}
    assert sorted(path.name for path in trained.model_dir.parent.iterdir()) == ["tiny-deberta", "transformer"]


def test_frozen_layers_stay_and_every_validation_row_is_predicted_though_few_are_watched():
    result = run("frozen", frozen_layers=1, eval_rows=10, epochs=1)
    before = load_file(result.model_dir.parent / "tiny-deberta" / "model.safetensors")
    after = load_file(result.model_dir / "model.safetensors")
    moved = {key for key, value in before.items() if not torch.equal(value, after[f"deberta.{key}"][: len(value)])}
    assert not [key for key in moved if key.startswith(("embeddings.", "encoder.layer.0."))]
    assert any(key.startswith("encoder.layer.1.") for key in moved)
    assert result.val_probs.shape == (21, 3)
    assert result.facts["weights_learning"] < result.facts["weights"]


def test_training_stops_early_where_nothing_improves():
    result = run("still", learning_rate=1e-12, eval_steps=1, patience=1)
    assert (result.facts["steps"], result.facts["best_step"]) == (2, 1)


def test_training_prints_nothing(capsys):
    run("silent", epochs=0.25)
    assert capsys.readouterr().out == ""


def test_a_label_that_training_has_not_is_named():
    with pytest.raises(WorkbookError, match="label 'fish' is in the validation rows but not in the training rows"):
        run("fish", val=pd.DataFrame({"text": ["cod hake"], "label": ["fish"]}))


def test_a_loss_that_is_no_number_ends_training_and_leaves_the_earlier_model():
    earlier = Workspace(dataset="data", run="nan").path("transformer") / "earlier"
    workspace.write_text("a model", earlier)
    with pytest.raises(WorkbookError, match=r"training diverged: (loss|grad_norm) is nan at step \d+; lower training\.learning_rate"):
        run("nan", learning_rate=1e30, warmup_share=0)
    assert [path.name for path in earlier.parent.iterdir()] == ["earlier"]


@pytest.mark.parametrize(
    ("fp16", "logs", "stops"),
    [
        (False, {"loss": 0.5, "grad_norm": 1.0}, False),
        (False, {"loss": 0.5, "grad_norm": float("inf")}, True),
        (False, {"loss": float("nan"), "grad_norm": float("nan")}, True),
        (True, {"loss": 0.5, "grad_norm": float("inf")}, False),
        (True, {"loss": float("nan"), "grad_norm": float("nan")}, True),
    ],
    ids=["fine", "gradient overflows", "both are nan", "fp16: a skipped step", "fp16: both are nan"],
)
def test_the_watcher_stops_at_what_is_no_number(fp16, logs, stops):
    *_, watcher = finetune._watchers(progress=False)
    args, state = SimpleNamespace(fp16=fp16), SimpleNamespace(global_step=3)
    if stops:
        with pytest.raises(WorkbookError, match="at step 3"):
            watcher.on_log(args, state, None, logs)
    else:
        watcher.on_log(args, state, None, logs)


def arguments(tmp_path, n_train=64, seed=42, **settings):
    config = Config(profile="test", seed=seed, training=TrainingConfig(**{**TINY, **settings}))
    return finetune.training_arguments(config, tmp_path, n_train=n_train)


def test_the_watcher_is_told_a_loss_as_it_is(tmp_path):
    assert arguments(tmp_path).logging_nan_inf_filter is False


@pytest.mark.parametrize(
    ("settings", "every"),
    [
        ({"epochs": 1, "eval_steps": 100}, 4),
        ({"epochs": 1, "eval_steps": 3}, 3),
        ({"epochs": 0.01, "eval_steps": 100}, 1),
        ({"epochs": 2, "eval_steps": 100, "accumulation_steps": 4}, 2),
    ],
)
def test_there_are_two_looks_at_least(tmp_path, settings, every):
    found = arguments(tmp_path, **settings)
    assert (found.eval_steps, found.save_steps) == (every, every)


def test_settings_become_the_trainers(tmp_path):
    found = arguments(tmp_path, seed=7, warmup_share=0.25, weight_decay=0.5, max_grad_norm=2, accumulation_steps=2)
    assert (found.seed, found.get_warmup_steps(100), found.weight_decay, found.max_grad_norm, found.gradient_accumulation_steps) == (7, 25, 0.5, 2, 2)
    assert (found.bf16, found.fp16, found.metric_for_best_model, found.greater_is_better) == (False, False, "eval_macro_f1", True)


def test_fp16_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(WorkbookError, match=r"training\.precision=fp16 needs a GPU"):
        finetune.precision(TrainingConfig(precision="fp16"))


@pytest.mark.parametrize(
    ("cuda", "bf16_gpu", "bf16_cpu", "expected"),
    [(True, True, False, "bf16"), (True, False, True, "fp16"), (False, True, True, "bf16"), (False, True, False, "fp32")],
)
def test_auto_takes_what_the_machine_has(monkeypatch, cuda, bf16_gpu, bf16_cpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16_gpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16_cpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert finetune.precision(TrainingConfig(precision="auto")) == expected
    assert finetune.precision(TrainingConfig(precision="fp32")) == "fp32"


def test_the_device_line_says_that_no_gpu_is_visible(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert finetune.device_line() == f"CPU with 3 threads (no GPU is visible to torch {torch.__version__})"
