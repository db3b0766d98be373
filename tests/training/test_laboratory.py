import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from lib.training import laboratory
from lib.training.laboratory import COMBINED, PLAIN

WORDS = {"bird": "crow finch owl wren robin", "fruit": "apple pear plum grape lemon", "tool": "saw drill nail screw hammer"}


def texts_of(n=180, seed=0):
    random = np.random.default_rng(seed)
    codes = np.arange(n) % 3
    names = sorted(WORDS)
    return [f"{' '.join(random.choice(WORDS[names[code]].split(), 3))} number{i}" for i, code in enumerate(codes)], codes


@pytest.fixture
def fits(monkeypatch):
    """Record the rows of every model that is fitted, and of every call for its probabilities."""
    real, calls = laboratory.LogisticRegression, []

    class Recorded(real):
        def fit(self, matrix, labels):
            self.seen = rows_in(matrix)
            return super().fit(matrix, labels)

        def predict_proba(self, matrix):
            calls.append((self.seen, rows_in(matrix)))
            return super().predict_proba(matrix)

    def rows_in(matrix):
        return set(np.asarray(matrix[:, 0]).ravel().astype(int).tolist())

    monkeypatch.setattr(laboratory, "LogisticRegression", Recorded)
    return calls


def numbered(codes):
    """Return a dense view whose first column is the number of the row, and whose others tell the classes."""
    return np.column_stack([np.arange(len(codes)), np.eye(3)[codes] + np.random.default_rng(0).normal(0, 0.01, (len(codes), 3))])


def test_no_model_judges_a_group_that_it_was_taught(fits):
    _, codes = texts_of()
    groups = np.random.default_rng(1).integers(0, 60, len(codes))
    laboratory.judge({PLAIN: numbered(codes)}, codes, groups, n_classes=3, folds=4)
    assert len(fits) == 4
    for taught, judged in fits:
        assert {groups[row] for row in taught}.isdisjoint(groups[row] for row in judged)
    assert sorted(row for _, judged in fits for row in judged) == list(range(len(codes)))


def test_rows_that_do_not_teach_are_judged_by_a_model_of_all_that_do(fits):
    _, codes = texts_of()
    teaches = np.arange(len(codes)) % 5 != 0
    probs = laboratory.judge({PLAIN: numbered(codes)}, codes, np.arange(len(codes)), n_classes=3, fitted=teaches, folds=3)[PLAIN]
    assert fits[-1] == (set(np.flatnonzero(teaches).tolist()), set(np.flatnonzero(~teaches).tolist()))
    assert all(taught <= set(np.flatnonzero(teaches).tolist()) for taught, _ in fits)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-9)


def test_every_detector_gives_probabilities_in_its_rows_and_columns():
    texts, codes = texts_of()
    views = laboratory.views(texts, vectors=np.eye(3)[codes] + 0.1)
    probs = laboratory.judge(views, codes, np.arange(len(codes)), n_classes=4, folds=3)
    assert list(probs) == [PLAIN, "topics", "topics: neighbours", "encoder", "encoder: neighbours", COMBINED]
    for detector, each in probs.items():
        np.testing.assert_allclose(each.sum(axis=1), 1, atol=1e-9, err_msg=detector)
        assert (each[:, :3].argmax(axis=1) == codes).mean() > 0.95, detector
        assert (each[:, 3] == 0).all(), detector  # a class without a row
    expected = np.mean([probs[name] for name in (PLAIN, "topics", "encoder", "encoder: neighbours")], axis=0)
    np.testing.assert_allclose(probs[COMBINED], expected)


def test_neighbours_are_neither_the_row_nor_its_near_copies():
    angles = np.radians([0, 1, 2, 3, 90, 91, 92, 93])
    matrix = np.column_stack([np.cos(angles), np.sin(angles)])
    labels, groups = np.array([1, 1, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 2, 3, 4, 5, 6])
    prior = np.array([2, 6]) / 8
    probs = laboratory._neighbours(matrix, labels, groups, np.ones(8, dtype=bool), n_classes=2, seed=0)
    votes = np.array([2, 4]) + prior  # row 0: all but itself and row 1
    np.testing.assert_allclose(probs[0], votes / votes.sum())
    alone = laboratory._neighbours(matrix, labels, np.zeros(8, dtype=int), np.ones(8, dtype=bool), n_classes=2, seed=0)
    np.testing.assert_allclose(alone, np.tile(prior, (8, 1)))


def test_only_rows_that_teach_are_neighbours(monkeypatch):
    matrix, labels = np.column_stack([np.ones(30), np.linspace(0, 0.1, 30)]), np.r_[np.zeros(15, dtype=int), np.ones(15, dtype=int)]
    teaches = labels == 0
    assert (laboratory._neighbours(matrix, labels, np.arange(30), teaches, n_classes=2, seed=0)[:, 1] == 0).all()
    monkeypatch.setattr(laboratory, "MAX_REFERENCES", 3)
    few = laboratory._neighbours(matrix, labels, np.arange(30), np.ones(30, dtype=bool), n_classes=2, seed=0)
    assert few.shape == (30, 2) and len(np.unique(few.round(6), axis=0)) <= 4


def test_the_nearest_rows_leave_out_near_copies():
    matrix = np.array([[1, 0], [1, 0.01], [1, 0.1], [1, 0.3], [0, 1]])
    groups = np.array([0, 0, 1, 2, 3])
    assert laboratory.nearest_rows(matrix, [0, 4], groups, n=2) == {0: [2, 3], 4: [3, 2]}
    assert laboratory.nearest_rows(matrix, [], groups) == {}


@pytest.fixture(scope="module")
def findings():
    texts, codes = texts_of(300)
    held_out = np.arange(300) % 4 == 0
    views = laboratory.views(texts)
    settings = {"n_classes": 3, "rates": (0.05, 0.2), "n_seeds": 2, "depth": 0.1, "folds": 3, "progress": False}
    return laboratory.label_laboratory(views, codes, np.arange(300), held_out, **settings)


def test_the_laboratory_finds_what_it_planted_in_texts_that_are_easily_told(findings):
    table = findings.detection
    assert (findings.n_rows, findings.n_held_out, findings.effect_rate) == (225, 75, 0.2)
    assert len(table) == 2 * 2 * 2 * 4 and set(table["n_planted"]) == {11, 45}
    combined = table[table["detector"] == COMBINED]
    assert (combined["auprc"] > 0.9).all()
    at_5, at_20 = (combined[combined["rate"] == rate] for rate in (0.05, 0.2))  # 22 rows are flagged
    assert (at_5["recall"] > 0.9).all() and np.allclose(at_5["precision"], at_5["recall"] * 11 / 22)
    assert (at_20["precision"] > 0.9).all() and np.allclose(at_20["recall"], at_20["precision"] * 22 / 45)


def test_what_is_done_with_flagged_rows_is_measured_on_clean_ones(findings):
    effect = findings.effect
    assert effect.index[0] == "flagged rows left as they are" and effect.iloc[0][["gain", "low", "high"]].tolist() == [0, 0, 0]
    assert effect.loc["no noise at all", "macro_f1"] == 1
    assert effect.loc["flagged rows reviewed by a person who is always right", "macro_f1"] >= effect["macro_f1"].iloc[0]
    assert (effect["low"] <= effect["gain"]).all() and (effect["gain"] <= effect["high"]).all()


def test_detectors_are_taught_the_noise_and_held_out_labels_stay_clean(monkeypatch):
    texts, codes = texts_of(90)
    taught, real = [], laboratory.judge

    def recorded(views, labels, groups, **settings):
        taught.append(labels)
        return real(views, labels, groups, **settings)

    monkeypatch.setattr(laboratory, "judge", recorded)
    held_out = np.arange(90) >= 60
    settings = {"n_classes": 3, "rates": (0.1,), "n_seeds": 2, "depth": 0.1, "folds": 3, "progress": False}
    laboratory.label_laboratory(laboratory.views(texts), codes, np.arange(90), held_out, **settings)
    assert [int((labels != codes).sum()) for labels in taught] == [0, 6, 6, 6, 6]
    assert all((labels[held_out] == codes[held_out]).all() for labels in taught)


def test_each_thing_that_can_be_done_with_flagged_rows_is_done_to_them_alone():
    codes, held_out = np.arange(120) % 2, np.arange(120) >= 80
    words = np.eye(2)[codes]
    noisy = np.where((codes == 0) & (np.arange(120) < 60), 1, codes)  # 30 of the 40 rows of class 0: it is forgotten
    seen_through = np.eye(2)[codes] * 0.8 + 0.1
    blind = np.eye(2)[noisy] * 0.8 + 0.1
    runs = {seed: (noisy, {"good": seen_through, "blind": blind}) for seed in (1, 2)}
    good = laboratory._effect(words, codes, held_out, runs, detector="good", rate=30 / 80, seed=0)["macro_f1"]
    assert good.iloc[0] < 0.5 and good.iloc[1:].tolist() == [1, 1, 1, 1]
    none = laboratory._effect(words, codes, held_out, runs, detector="blind", rate=1 / 80, seed=0)["macro_f1"]
    assert none.iloc[:4].max() < 0.5 and none.iloc[4] == 1


def test_precision_and_recall_count_the_first_flags():
    doubts, planted = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]), np.array([1, 0, 1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)
    n, auprc, precision, recall = laboratory._found(doubts, planted, depth=0.3)
    assert (n, precision, recall) == (3, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert auprc == pytest.approx(average_precision_score(planted, doubts)) == pytest.approx((1 + 2 / 3 + 3 / 10) / 3)
    assert laboratory._found(doubts, planted, depth=0.001)[2] == 1.0  # one flag at least


def detection(*rows):
    return pd.DataFrame(rows, columns=["kind", "rate", "seed", "detector", "n_planted", "auprc", "precision", "recall"])


def test_the_best_detector_has_the_highest_mean_auprc():
    table = detection(
        *[
            ("confusable", 0.1, seed, name, 10, value + seed / 100, 0.5, 0.5)
            for seed in (1, 2)
            for name, value in ((PLAIN, 0.5), ("topics", 0.6), (COMBINED, 0.55))
        ]
    )
    assert laboratory.best_detector(table) == "topics"


def test_intervals_over_seeds_are_students():
    table = detection(*[("confusable", 0.1, seed, PLAIN, 10, 0.5, value, 0.5) for seed, value in enumerate((0.4, 0.5, 0.6))])
    row = laboratory.with_intervals(table, "precision").iloc[0]
    assert row["value"] == pytest.approx(0.5)
    assert row["low"] == pytest.approx(0.5 - 4.302653 * 0.1 / np.sqrt(3)) and row["high"] == pytest.approx(0.5 + 4.302653 * 0.1 / np.sqrt(3))
    wide = detection(*[("confusable", 0.1, seed, PLAIN, 10, 0.5, value, 0.5) for seed, value in enumerate((0.1, 0.9))])
    assert laboratory.with_intervals(wide, "precision")[["low", "high"]].iloc[0].tolist() == [0, 1]


def test_the_summary_says_how_many_flags_are_errors_and_what_reviewing_costs():
    rows = [("confusable", rate, seed, PLAIN, 10, 0.7, precision, 0.5) for rate, precision in ((0.05, 0.4), (0.1, 0.6)) for seed in (1, 2)]
    rows += [("uniform", 0.05, seed, PLAIN, 10, 0.9, 1.0, 0.5) for seed in (1, 2)]
    told = laboratory.summary(laboratory.Findings(detection(*rows), pd.DataFrame(), 0.02, 0.1, 1_000, 200), n_flags=200)
    assert "about 80 [80, 80] if 5% of the labels are wrong; about 120 [120, 120] if 10% of the labels are wrong" in told
    assert "about 50 minutes at 15 s a row" in told and "1,000 rows" in told and "2 seeds" in told and "the first 2.0% flagged" in told


def test_vectors_of_the_offline_encoder_bring_like_texts_together():
    vectors = laboratory.encoder_vectors(
        "minilm", ["a cat sits on the mat", "the dog lies on a rug", "interest rates rose again"], max_length=16, progress=False
    )
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
