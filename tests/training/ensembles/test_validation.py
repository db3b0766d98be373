from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from lib.config import Config
from lib.training.ensembles import Ensemble, members, validation
from lib.workspace import Workspace

CLASSES = ["a", "b"]
RUN = Workspace(dataset="data", run="run")


def rows(n):
    return pd.DataFrame(
        {
            "row_id": range(n),
            "text": [f"text {i}" for i in range(n)],
            "label": [CLASSES[i % 2] for i in range(n)],
            "group": range(n),
        }
    )


def full(n=80, *, are_untouched=True):
    """The member "right" is right throughout, "half" on every other pair of rows."""
    y = np.arange(n) % 2
    right = np.eye(2)[y] * 0.8 + 0.1
    half = np.where((np.arange(n) // 2 % 2 == 0)[:, None], right, 1 - right)
    cost = pd.Series({"half": 1.0, "right": 3.0})
    probs = {"half": half, "right": right}
    mean = (right + half) / 2
    return validation.FullMembers(rows(n), y, probs, mean, cost, are_untouched)


def oof():
    n = 10
    probs = np.full((n, 2), 0.5)
    y = np.zeros(n, dtype=int)
    return validation.CalibrationRows("out-of-fold", rows(n), y, probs, y, {"m": probs})


def test_validation_rows_calibrate_where_each_class_has_twenty_different_texts():
    given = full(40)
    used = validation.calibration_rows(given, oof(), class_names=CLASSES, seed=1)
    assert (used.kind, used.rows is given.rows, used.probs is given.ensemble_probs) == (
        "validation",
        True,
        True,
    )
    assert sorted(set(used.fold)) == [0, 1, 2, 3, 4]
    assert (pd.crosstab(used.y_true, used.fold) == 4).all().all()
    assert list(used.best_member) == ["right"]
    assert used.groups.tolist() == list(range(40))


@pytest.mark.parametrize(
    "given",
    [
        full(39),
        full(are_untouched=False),
        replace(full(), rows=rows(80).assign(group=np.arange(80) // 5)),
    ],
    ids=["too few", "stopped a training", "near-copies"],
)
def test_else_the_out_of_fold_rows_calibrate(given):
    expected = oof()
    names = {"class_names": CLASSES, "seed": 1}
    assert validation.calibration_rows(given, expected, **names) is expected


def test_a_class_without_a_row_leaves_the_out_of_fold_rows():
    expected = oof()
    names = {"class_names": [*CLASSES, "c"], "seed": 1}
    assert validation.calibration_rows(full(), expected, **names) is expected


def test_the_ensemble_is_compared_with_the_best_full_member_and_costs_all_of_them():
    given = full()
    assert given.best == "right"
    tests = given.compare(n_resamples=200)
    assert tests.index.tolist() == ["ensemble", "half"]
    assert tests["ms_per_text"].tolist() == [4.0, 1.0]
    assert given.describe(tests).startswith(
        "Members trained on all rows: the ensemble's macro F1 is "
    )
    assert given.describe(tests).endswith(
        "n = 80 validation rows). It takes 4.0 ms a text, right alone 3.0 ms."
    )
    touched = full(are_untouched=False)
    assert "80 validation rows that stopped the training of a member)" in touched.describe(tests)


@pytest.mark.parametrize(("n_untouched", "n_predicted"), [(6, 6), (1, 10)])
def test_rows_that_stopped_a_training_are_predicted_only_where_others_are_too_few(
    monkeypatch, n_untouched, n_predicted
):
    def predict_all(names, texts, **_):
        probs = np.tile([0.75, 0.25], (len(texts), 1))
        return dict.fromkeys(names, probs), pd.Series(1.0, index=names)

    monkeypatch.setattr(members, "untouched_rows", lambda names, val, config: val[:n_untouched])
    monkeypatch.setattr(members, "predict_all", predict_all)
    monkeypatch.setattr(members, "saved_probs", lambda *_, **__: {})
    ensemble = Ensemble("soft", ["m"], CLASSES, np.ones(1), np.zeros(2))
    found = validation.predict_validation(ensemble, rows(10), config=Config(profile=""), ws=RUN)
    assert len(found.rows) == len(found.ensemble_probs) == n_predicted
    assert found.are_untouched == (n_predicted == 6)
    assert found.y_true.tolist() == [i % 2 for i in range(n_predicted)]
