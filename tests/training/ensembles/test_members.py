import numpy as np
import pandas as pd
import pytest

from lib import workspace
from lib.config import Config, CrossValidationConfig, TrainingConfig
from lib.errors import WorkbookError
from lib.training import baseline, finetune
from lib.training.ensembles import members
from lib.training.search import CrossValidation
from lib.workspace import Workspace

RUN = Workspace(dataset="data", run="run")
CLASSES = ["birds", "fold", "tools"]
ROWS = pd.DataFrame(
    {
        "row_id": [7, 3, 5, 9],
        "text": ["crow", "saw", "bend", "owl"],
        "label": ["birds", "tools", "fold", "birds"],
        "group": [0, 1, 2, 3],
    }
)
PROBS = np.array([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6], [0.3, 0.4, 0.3], [0.5, 0.25, 0.25]])


def table(repeats=1):
    probs = {"TF-IDF": np.stack([PROBS] * repeats), "a: b": np.stack([PROBS[::-1]] * repeats)}
    fold = np.stack([[0, 1, 0, 1]] * repeats)
    return members.oof_table(
        CrossValidation(ROWS, fold, probs, pd.DataFrame()), class_names=CLASSES
    )


def config(**of_members):
    return Config(
        profile="test",
        training=TrainingConfig(backbone="minilm"),
        cross_validation=CrossValidationConfig(members=of_members),
    )


def test_members_are_read_as_they_were_written():
    more = pd.concat([ROWS.assign(row_id=ROWS["row_id"] + 100), ROWS], ignore_index=True)
    probs, rows, fold = members.read_members(table(repeats=2), more)
    assert list(probs) == ["TF-IDF", "a: b"]
    np.testing.assert_array_equal(probs["TF-IDF"], PROBS)
    np.testing.assert_array_equal(probs["a: b"], PROBS[::-1])
    assert rows["row_id"].tolist() == [7, 3, 5, 9]
    assert fold.tolist() == [0, 1, 0, 1]


def test_any_string_is_a_class_of_the_members(tmp_path, odd_names):
    names = sorted(odd_names)
    k = len(names)
    rows = pd.DataFrame({"row_id": range(k), "text": "x", "label": names, "group": range(k)})
    cross_validation = CrossValidation(
        rows, np.zeros((1, k), dtype=int), {"a": np.eye(k)[None]}, pd.DataFrame()
    )
    path = tmp_path / "oof.parquet"
    workspace.write_table(members.oof_table(cross_validation, class_names=names), path)
    probs, kept, _ = members.read_members(workspace.read_table(path), rows[::-1])
    assert kept["label"].tolist() == names[::-1]
    assert probs["a"].tolist() == np.eye(k)[::-1].tolist()
    assert members.class_codes(kept, names).tolist() == list(range(k))[::-1]


def test_any_string_is_a_class_of_a_saved_baseline(tmp_path, odd_names):
    names = sorted(odd_names)
    texts = [f"word{i} word{i}x" for i in range(len(names)) for _ in range(2)]
    for place, fit in enumerate(baseline.LINEAR.values()):
        baseline.save_baseline(fit(texts, np.repeat(names, 2)), tmp_path / str(place))
        model = baseline.load_baseline(tmp_path / str(place))
        assert list(model.classes_) == names
        assert model.predict(texts[::2]).tolist() == names


def test_rows_and_classes_in_another_order_are_lined_up_by_name():
    mixed = table().sample(frac=1, random_state=1)[[*reversed(table().columns)]]
    probs, rows, fold = members.read_members(mixed, ROWS)
    np.testing.assert_array_equal(probs["TF-IDF"], PROBS)
    np.testing.assert_array_equal(probs["a: b"], PROBS[::-1])
    assert rows["row_id"].tolist() == [7, 3, 5, 9] and fold.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.drop(index=5),
            r"member 'a: b' has no probabilities of 1 rows that others have, the first is row 3: "
            r"run notebook 05 again",
        ),
        (lambda t: pd.concat([t, t.iloc[[0]]]), "member 'TF-IDF' has row 7 twice"),
        (
            lambda t: t.rename(columns={"p: fold": "p: creases"}),
            "column 'p: creases' is in one of the table and the labels, not in both",
        ),
        (
            lambda t: t.drop(columns="p: fold"),
            "column 'p: fold' is in one of the table and the labels, not in both",
        ),
        (
            lambda t: t.assign(**{"p: fold": t["p: fold"] + 0.1}),
            r"member 'TF-IDF': the probabilities of row 7 must be 0 to 1 and sum to 1, found "
            r"\[0.8, 0.2, 0.1\]",
        ),
        (
            lambda t: t.assign(**{"p: fold": np.nan}),
            r"member 'TF-IDF': the probabilities of row 7 must be 0 to 1 and sum to 1",
        ),
        (
            lambda t: t.assign(**{"p: fold": -0.1, "p: birds": 0.8, "p: tools": 0.3}),
            r"found \[0.8, -0.1, 0.3\]",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_name(change, message):
    with pytest.raises(WorkbookError, match=message):
        members.read_members(change(table()), ROWS)


def test_a_linear_member_is_fitted_once_and_predicts_as_fitted(home):
    texts = [
        f"{word} {i % 7}" for word in ("crow finch", "saw drill", "plum pear") for i in range(30)
    ]
    train = pd.DataFrame(
        {
            "row_id": range(90),
            "text": texts,
            "label": np.repeat(["birds", "tools", "fruit"], 30),
            "group": range(90),
        }
    )
    name, place = "TF-IDF: naive Bayes", RUN
    [folder] = members.fit_all([name], train, train, config=config(), ws=place, progress=False)
    predict = members.predictor(name, config=config(), ws=place)
    fitted = baseline.fit_naive_bayes(train["text"], train["label"])
    np.testing.assert_allclose(predict(texts), fitted.predict_proba(texts), atol=1e-6)
    before = (folder / "weights.safetensors").stat().st_mtime_ns
    members.fit_all([name], train, train, config=config(), ws=place, progress=False)
    assert (folder / "weights.safetensors").stat().st_mtime_ns == before
    members.fit_all([name], train[:80], train, config=config(), ws=place, progress=False)
    assert (folder / "weights.safetensors").stat().st_mtime_ns > before


@pytest.mark.parametrize("k", [2, 3])
def test_both_baselines_are_read_as_they_were_saved(k, tmp_path):
    texts = [f"{word} number {i % 5}" for word in ("crow", "saw", "plum")[:k] for i in range(20)]
    labels = np.repeat(["a", "b", "c"][:k], 20)
    for place, fit in enumerate(baseline.LINEAR.values()):
        model = fit(texts, labels)
        baseline.save_baseline(model, tmp_path / str(place))
        again = baseline.load_baseline(tmp_path / str(place))
        assert again.predict(texts).tolist() == model.predict(texts).tolist()
        np.testing.assert_allclose(
            again.predict_proba(texts), model.predict_proba(texts), atol=1e-6
        )


def test_the_member_with_the_runs_settings_is_the_runs_transformer(home, monkeypatch):
    settings = config(plain={}, other={"seed": 7}, longer={"epochs": 2})
    calls = []

    def train(train, stop, *, config, ws, progress):
        calls.append((config.seed, config.training.epochs, ws.run))
        folder = ws.path("transformer")
        folder.mkdir(parents=True, exist_ok=True)
        return type("Result", (), {"facts": {"training_seconds": 1.0}})

    monkeypatch.setattr(finetune, "train", train)
    rows = ROWS[["row_id", "text", "label"]]
    assert members.member_of_run(settings) == "plain"
    assert members.member_of_run(config(other={"seed": 7})) is None
    for _ in range(2):
        folders = members.fit_all(
            ["plain", "other", "longer"], rows, rows, config=settings, ws=RUN, progress=False
        )
    assert folders[0] == RUN.path("transformer")
    assert calls == [(7, 5.0, "run/members/other"), (42, 2.0, "run/members/longer")]


def test_rows_that_stopped_any_member_are_left_out():
    val = pd.DataFrame({"row_id": range(40), "text": "t", "label": ["a", "b"] * 20})
    settings = config(one={"eval_rows": 10}, two={"eval_rows": 10, "seed": 7})
    of_one = finetune.early_stopping_rows(val, settings.member_config("one"))["row_id"]
    of_two = finetune.early_stopping_rows(val, settings.member_config("two"))["row_id"]
    assert set(of_one) != set(of_two)
    left = members.untouched_rows(["TF-IDF", "one", "two"], val, config=settings)["row_id"]
    assert set(left) == set(val["row_id"]) - set(of_one) - set(of_two)
    assert len(members.untouched_rows(["TF-IDF"], val, config=settings)) == 40
    assert members.untouched_rows(["whole"], val, config=config(whole={})).empty


def test_what_notebook_04_predicted_is_read_by_row_and_class_and_not_predicted_again(
    home, monkeypatch
):
    settings = config(plain={}, other={"seed": 7})
    columns = {"row_id": [5, 3, 4]}
    for model, of_birds in {
        "TF-IDF baseline": [0.1, 0.2, 0.3],
        "transformer": [0.6, 0.7, 0.8],
    }.items():
        columns[f"{model}: tools"] = [1 - prob for prob in of_birds]
        columns[f"{model}: birds"] = of_birds
    workspace.write_table(pd.DataFrame(columns), RUN.path("val_probs.parquet"))
    names, class_names = ["plain", "other", "TF-IDF"], ["birds", "tools"]
    place = {"config": settings, "ws": RUN}

    def saved(row_ids):
        rows = pd.DataFrame({"row_id": row_ids})
        return members.saved_probs(names, rows, class_names=class_names, **place)

    known = saved([3, 5])
    assert {name: probs[:, 0].tolist() for name, probs in known.items()} == {
        "plain": [0.7, 0.6],
        "TF-IDF": [0.2, 0.1],
    }
    with pytest.raises(WorkbookError, match=r"of validation row 9: run 04_train_model again"):
        saved([3, 9])

    asked = {}

    def predictor(name, **_):
        def predict(texts):
            asked[name] = len(texts)
            return np.full((len(texts), 2), 0.5)

        return predict

    monkeypatch.setattr(members, "predictor", predictor)
    many = {name: np.repeat(probs, 200, axis=0) for name, probs in known.items()}
    probs, ms_per_text = members.predict_all(
        names, ["text"] * 400, known=many, progress=False, **place
    )
    assert asked == {"plain": members.TIMED, "other": 400, "TF-IDF": members.TIMED}
    assert list(probs) == list(ms_per_text.index) == names
    assert probs["plain"] is many["plain"] and (probs["other"] == 0.5).all()


def test_a_member_that_was_not_trained_is_named(home):
    with pytest.raises(
        WorkbookError, match=r"member 'TF-IDF' is not in .*baseline: run 06_build_ensemble again"
    ):
        members.predictor("TF-IDF", config=config(), ws=RUN)


def test_probabilities_and_labels_are_in_the_order_of_the_class_names():
    columns = members.class_columns(PROBS, CLASSES)
    assert list(columns) == ["p: birds", "p: fold", "p: tools"]
    assert columns["p: tools"].tolist() == [0.1, 0.6, 0.3, 0.25]
    assert members.class_codes(ROWS, CLASSES).tolist() == [0, 2, 1, 0]
