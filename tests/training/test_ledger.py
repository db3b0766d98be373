from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.config import AugmentationConfig, Config, LedgerConfig, TrainingConfig
from lib.errors import WorkbookError
from lib.training import finetune, ledger
from lib.workspace import Workspace

LABELS = ["a", "b"] * 30
TEXTS = [
    f"{'crow finch' if label == 'a' else 'saw drill'} text number {i}"
    for i, label in enumerate(LABELS)
]
TRAIN = pd.DataFrame({"row_id": range(60), "text": TEXTS, "label": LABELS, "group": range(60)})
VAL = pd.DataFrame({"text": [f"row {i}" for i in range(500)], "label": ["a", "b"] * 250})
VAL["group"] = range(500)
RUN = Workspace(dataset="data", run="run")


def config(*techniques, seeds=3, **training):
    settings = TrainingConfig(backbone="minilm", frozen_layers=2, **training)
    return Config(
        profile="test",
        training=settings,
        ledger=LedgerConfig(
            techniques=techniques, seeds=seeds, train_rows=40, val_rows=400, epochs=1.5
        ),
    )


@pytest.fixture
def trained(monkeypatch, home):
    """In place of training: label smoothing is right on all rows, mixup on 40 of 400 and twice as
    slow, everything else on 200 or so."""
    calls = []

    def train(train, val, *, config, ws, progress, watch, name):
        calls.append((config.seed, config.training, len(train), ws.run))
        settings = config.training
        n_right = (
            len(val)
            if settings.label_smoothing
            else 40
            if settings.mixup
            else 200 + config.seed % 2
        )
        y = np.array([["a", "b"].index(label) for label in val["label"]])
        y_pred = np.where(np.arange(len(val)) < n_right, y, 1 - y)
        folder = ws.path("transformer")
        folder.mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(
            val_probs=np.eye(2)[y_pred], facts={"training_seconds": 2.0 if settings.mixup else 1.0}
        )

    monkeypatch.setattr(finetune, "train", train)
    return calls


def test_the_rows_of_a_ledger_grow_with_the_number_of_classes():
    many = pd.DataFrame({"text": "x", "label": [f"class {i % 150}" for i in range(1_500)]})
    rows = ledger.sample(many, 240, seed=1)
    assert rows["label"].value_counts().value_counts().to_dict() == {4: 150}
    assert len(ledger.sample(many, 900, seed=1)) == 900
    assert ledger.sample(many, 1_500, seed=1) is many


def test_each_technique_is_compared_over_the_same_seeds(trained):
    table = ledger.trick_ledger(
        TRAIN,
        VAL,
        config=config("label smoothing", "mixup", "EMA of weights"),
        ws=RUN,
        progress=False,
    )
    assert table.index.tolist() == ["plain recipe", "EMA of weights", "label smoothing", "mixup"]
    assert table["verdict"].tolist() == ["", "inconclusive", "better", "worse"]
    assert table["cost"].tolist() == [1, 1, 1, 2]
    assert table.loc["label smoothing", "macro_f1"] == 1
    assert table.loc["label smoothing", "gain"] == pytest.approx(
        1 - table.loc["plain recipe", "macro_f1"]
    )
    assert table.loc["EMA of weights", ["gain", "low", "high"]].tolist() == [0, 0, 0]
    assert sorted({seed for seed, *_ in trained}) == [42, 43, 44]
    assert {(rows, ws.rpartition("/")[0]) for _, _, rows, ws in trained} == {(40, "run/ledger")}


def test_the_plain_recipe_has_every_technique_off_and_keeps_the_profiles_rate_and_frozen_layers(
    trained,
):
    ledger.trick_ledger(
        TRAIN,
        VAL,
        config=config("mixup", r_drop=1.0, averaging="swa", learning_rate=1e-3),
        ws=RUN,
        progress=False,
    )
    plain, mixed = trained[0][1], trained[1][1]
    assert (plain.r_drop, plain.averaging, plain.unfreeze, plain.mixup) == (0, "none", (), 0)
    assert (plain.learning_rate, plain.frozen_layers, plain.epochs, plain.backbone) == (
        1e-3,
        2,
        1.5,
        "minilm",
    )
    assert mixed == plain.model_copy(update={"mixup": 0.4})


def test_every_technique_changes_something_and_off_is_off():
    plain = ledger.plain_settings(config())
    for name, on in ledger.TECHNIQUES.items():
        assert plain.model_copy(update=on) != plain or name == ledger.AUGMENTED, name


def test_augmented_copies_are_taught_beside_the_same_rows_at_the_plain_settings(trained):
    table = ledger.trick_ledger(
        TRAIN, VAL, config=config("augmented copies"), ws=RUN, progress=False
    )
    assert table.index.tolist() == ["plain recipe", "augmented copies"]
    plain, copied = trained[0], trained[1]
    assert plain[:2] == copied[:2]
    assert plain[2] == 40
    assert 2 * 40 < copied[2] <= 4 * 40  # three methods, but for copies that were rejected
    without = config("augmented copies").model_copy(
        update={"augmentation": AugmentationConfig(methods=())}
    )
    assert (
        ledger.trick_ledger(TRAIN, VAL, config=without, ws=RUN, progress=False)
        .loc["augmented copies", "note"]
        .startswith("left out: augmentation.methods")
    )


def test_what_does_not_go_with_the_profile_is_left_out_with_the_reason(trained):
    table = ledger.trick_ledger(
        TRAIN, VAL, config=config("embedding perturbation"), ws=RUN, progress=False
    )
    assert (
        "left out: adversarial=embeddings needs embeddings that learn"
        in table.loc["embedding perturbation", "note"]
    )
    assert ledger.describe(table, n_rows=400, n_seeds=3, train_rows=40).startswith("No technique")


def test_finished_trainings_are_not_repeated_and_models_are_not_kept(trained):
    first = ledger.trick_ledger(TRAIN, VAL, config=config("mixup"), ws=RUN, progress=False)
    n = len(trained)
    again = ledger.trick_ledger(
        TRAIN, VAL, config=config("mixup", "label smoothing"), ws=RUN, progress=False
    )
    assert len(trained) == n + 3
    assert again.loc["mixup", "macro_f1"] == first.loc["mixup", "macro_f1"]
    ledger.trick_ledger(TRAIN.head(50), VAL, config=config("mixup"), ws=RUN, progress=False)
    assert len(trained) == n + 3 + 6
    folder = RUN.path("transformer").parent / "ledger"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".parquet"}


def test_rows_of_a_group_are_drawn_together(trained, monkeypatch):
    drawn = []
    real = ledger.gain_over_seeds
    monkeypatch.setattr(
        ledger,
        "gain_over_seeds",
        lambda *args, **how: drawn.append(how["groups"].tolist()) or real(*args, **how),
    )
    val = VAL.assign(group=VAL.index // 2).head(300)
    ledger.trick_ledger(TRAIN, val, config=config("mixup"), ws=RUN, progress=False)
    assert drawn == [[i // 2 for i in range(300)]]


def test_intervals_hold_together(trained):
    alone = ledger.trick_ledger(
        TRAIN, VAL, config=config("label smoothing"), ws=RUN, progress=False
    )
    many = ledger.trick_ledger(
        TRAIN,
        VAL,
        config=config("label smoothing", "mixup", "SWA of weights", "R-Drop"),
        ws=RUN,
        progress=False,
    )
    assert many.loc["label smoothing", "low"] < alone.loc["label smoothing", "low"]


def test_no_techniques_give_an_empty_ledger(trained):
    table = ledger.trick_ledger(TRAIN, VAL, config=config(), ws=RUN, progress=False)
    assert (len(table), trained) == (0, [])
    assert (
        ledger.describe(table, n_rows=1, n_seeds=2, train_rows=1)
        == "No technique is compared in this profile: name some in ledger.techniques."
    )


def test_all_takes_every_technique_and_a_misspelt_one_is_refused():
    assert ledger.chosen_techniques(("all",)) == list(ledger.TECHNIQUES)
    assert ledger.chosen_techniques(("R-Drop", "label smoothing")) == ["label smoothing", "R-Drop"]
    with pytest.raises(
        WorkbookError,
        match=r"ledger\.techniques has no 'R-drop' \(did you mean 'R-Drop'\?\); there are "
        r"gradual unfreezing",
    ):
        ledger.chosen_techniques(("R-drop",))


def test_the_description_names_what_was_found(trained):
    table = ledger.trick_ledger(
        TRAIN,
        VAL,
        config=config("label smoothing", "mixup", "EMA of weights"),
        ws=RUN,
        progress=False,
    )
    assert ledger.describe(table, n_rows=400, n_seeds=3, train_rows=40) == (
        "On 40 training texts, 400 validation texts and 3 seeds: label smoothing: better; mixup: "
        "worse; EMA of weights: not significantly different from the plain recipe."
    )
