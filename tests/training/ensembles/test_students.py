import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "finetune"))
from tiny_runs import TRAIN, VAL, configured, home_of_its_own, place, rows, run, weights_file

from lib import workspace
from lib.config import Config, EnsembleConfig
from lib.errors import WorkbookError
from lib.training.ensembles import students
from lib.training.finetune import tokenization

ONE_HOT = np.eye(3)[pd.Categorical(TRAIN["label"]).codes]


@pytest.fixture(autouse=True, scope="module")
def _home(tmp_path_factory):
    with home_of_its_own(tmp_path_factory.mktemp("home")):
        yield


def soft(probs, *, share=1.0, temperature=1.0, y=None):
    y = pd.Categorical(TRAIN["label"]).codes.astype(int) if y is None else y
    return students.with_soft_labels(TRAIN, probs, y, share=share, temperature=temperature)


def test_soft_labels_are_the_flattened_teacher_and_the_label_in_their_shares():
    teacher = np.tile([0.64, 0.32, 0.04], (60, 1))
    flat = np.sqrt(teacher) / np.sqrt(teacher).sum(axis=1, keepdims=True)
    found = tokenization.soft_labels(soft(teacher, share=0.75, temperature=2.0))
    np.testing.assert_allclose(found, 0.75 * flat + 0.25 * ONE_HOT, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert tokenization.soft_labels(TRAIN) is None
    assert tokenization.learnable(soft(teacher).assign(row_id=1)).columns.tolist() == [
        "text",
        "label",
        "soft label 0",
        "soft label 1",
        "soft label 2",
    ]


def test_soft_labels_that_are_the_labels_train_the_same_model():
    plain, student = run("plain"), run("same", train=soft(ONE_HOT))
    np.testing.assert_allclose(student.val_probs, plain.val_probs, atol=2e-3)


@pytest.mark.parametrize(
    "technique",
    [
        {"r_drop": 0.5},
        {"mixup": 0.3},
        {"multisample_dropout": 3},
        {"class_weights": "balanced"},
        {"truncation": "windows"},
    ],
)
def test_a_student_learns_what_the_teacher_says_not_the_label(technique):
    shifted = np.roll(ONE_HOT, 1, axis=1) * 0.98 + 0.02 / 3
    found = run(
        "shifted", train=soft(shifted), epochs=4, eval_steps=32, **technique
    )  # one look: an early one, at the labels, would keep an early model
    y_val = pd.Categorical(VAL["label"]).codes
    assert np.mean(found.val_probs.argmax(axis=1) == (y_val + 1) % 3) > 0.8


def test_a_training_of_other_soft_labels_is_another_training():
    assert weights_file(run("one", train=soft(ONE_HOT * 0.7 + 0.1))) != weights_file(
        run("two", train=soft(ONE_HOT * 0.4 + 0.2))
    )


def model(folder, value, *, shape=(2, 2), classes=("a", "b")):
    folder.mkdir()
    save_file(
        {"weight": torch.full(shape, value), "steps": torch.full((1,), value)},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    workspace.write_json({"id2label": dict(enumerate(classes))}, folder / "config.json")
    return folder


def test_a_soup_is_the_mean_of_the_weights(tmp_path):
    mixed = students.soup(
        [model(tmp_path / "a", 1.0), model(tmp_path / "b", 4.0), model(tmp_path / "c", 4.0)],
        tmp_path / "soup",
    )
    assert load_file(mixed / "model.safetensors")["weight"].tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert load_file(tmp_path / "a" / "model.safetensors")["weight"][0, 0] == 1, (
        "what it is made of stays as it was"
    )


@pytest.mark.parametrize("other", [{"shape": (3, 2)}, {"classes": ("a", "c")}])
def test_models_that_do_not_mix_are_named(tmp_path, other):
    with pytest.raises(
        WorkbookError,
        match=r"no soup of .*a and .*b: they differ in their classes or in the shapes of their weights",
    ):
        students.soup(
            [model(tmp_path / "a", 1.0), model(tmp_path / "b", 1.0, **other)], tmp_path / "soup"
        )
    assert not (tmp_path / "soup").exists()


def test_one_head_seed_gives_two_seeds_the_same_head_to_begin_with():
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "dropout": 0.0}
    heads = [
        load_file(
            run(f"head{seed}", seed=seed, head_seed=head, **still).model_dir / "model.safetensors"
        )
        for seed, head in ((1, 5), (2, 5), (2, None))
    ]
    same, other = (
        torch.allclose(heads[0]["classifier.weight"], one["classifier.weight"], atol=1e-6)
        for one in heads[1:]
    )
    assert same and not other


@pytest.fixture(scope="module")
def compared():
    learnt = rows(72, seed=3).assign(row_id=range(72), group=range(72))
    config = Config.model_validate(
        {
            **configured(epochs=4, eval_steps=100).model_dump(),
            "ensemble": EnsembleConfig(teacher_share=1.0, teacher_temperature=1.0).model_dump(),
        }
    )
    y = pd.Categorical(learnt["label"]).codes.astype(int)
    teacher = np.roll(np.eye(3)[y], 1, axis=1) * 0.97 + 0.01
    return students.compare_students(
        learnt, teacher, y, VAL, config=config, ws=place("compared"), progress=False
    )


def test_students_are_one_training_another_seed_their_soup_their_vote_and_the_pupil(compared):
    probs, seconds = compared
    y_val = pd.Categorical(VAL["label"]).codes
    right = {name: np.mean(found.argmax(axis=1) == y_val) for name, found in probs.items()}
    assert right["one training"] > 0.8 and right["another seed"] > 0.8
    assert right["student"] < 0.2, "it learnt from the teacher, which was wrong throughout"
    np.testing.assert_allclose(
        probs["vote of both"], (probs["one training"] + probs["another seed"]) / 2
    )
    assert not np.allclose(probs["one training"], probs["another seed"])
    assert sorted(probs) == [
        "another seed",
        "one training",
        "soup of both",
        "student",
        "vote of both",
    ]
    assert set(seconds.index) == {"one training", "another seed", "student"}
    folder = place("compared").folder(workspace.MODELS) / "students"
    weights = [
        load_file(folder / name / "model.safetensors")["classifier.weight"]
        for name in ("one-training/transformer", "another-seed/transformer", "soup")
    ]
    torch.testing.assert_close(weights[2], (weights[0] + weights[1]) / 2)
