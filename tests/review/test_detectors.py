import numpy as np
import pandas as pd
import pytest

from lib.config import TrainingConfig
from lib.review import detectors
from lib.review.detectors import (
    COMBINED,
    NAIVE_BAYES,
    TFIDF,
    label_error_score,
    out_of_bag_probs,
)
from lib.training import backbones, finetune

WORDS = {
    "bird": "crow finch owl wren robin",
    "fruit": "apple pear plum grape lemon",
    "tool": "saw drill nail screw hammer",
}


def texts_of(n=180, seed=0):
    random = np.random.default_rng(seed)
    codes = np.arange(n) % 3
    names = sorted(WORDS)
    return [
        f"{' '.join(random.choice(WORDS[names[code]].split(), 3))} number{i}"
        for i, code in enumerate(codes)
    ], codes


@pytest.fixture
def fits(monkeypatch):
    """Record the rows of every model that is fitted, and of every call for its probabilities."""
    calls = []

    def rows_in(matrix):
        return set(np.asarray(matrix[:, 0]).ravel().astype(int).tolist())

    def recorded(real):
        def fit(self, matrix, labels):
            self.seen = rows_in(matrix)
            return real.fit(self, matrix, labels)

        def predict_proba(self, matrix):
            calls.append((real.__name__, self.seen, rows_in(matrix)))
            return real.predict_proba(self, matrix)

        return type(real.__name__, (real,), {"fit": fit, "predict_proba": predict_proba})

    for name in ("LogisticRegression", "MultinomialNB"):
        monkeypatch.setattr(detectors, name, recorded(getattr(detectors, name)))
    return calls


def numbered(codes):
    """Return a dense view whose first column is the number of the row, and whose others tell the
    classes."""
    return np.column_stack(
        [
            np.arange(len(codes)),
            np.eye(3)[codes] + np.random.default_rng(0).uniform(0, 0.01, (len(codes), 3)),
        ]
    )


def test_no_model_judges_a_group_that_it_was_taught(fits):
    _, codes = texts_of()
    groups = np.random.default_rng(1).integers(0, 60, len(codes))
    detectors.detector_probs({TFIDF: numbered(codes)}, codes, groups, n_classes=3, folds=4)
    assert [name for name, _, _ in fits] == ["LogisticRegression"] * 4 + ["MultinomialNB"] * 4
    for _, taught, judged in fits:
        assert {groups[row] for row in taught}.isdisjoint(groups[row] for row in judged)
    for of_one in (fits[:4], fits[4:]):
        assert sorted(row for _, _, judged in of_one for row in judged) == list(range(len(codes)))


def test_rows_that_do_not_teach_are_judged_by_a_model_of_all_that_do(fits):
    _, codes = texts_of()
    teaches = np.arange(len(codes)) % 5 != 0
    probs = detectors.detector_probs(
        {TFIDF: numbered(codes)}, codes, np.arange(len(codes)), n_classes=3, fitted=teaches, folds=3
    )[TFIDF]
    for name, last in (("LogisticRegression", fits[3]), ("MultinomialNB", fits[7])):
        assert last == (
            name,
            set(np.flatnonzero(teaches).tolist()),
            set(np.flatnonzero(~teaches).tolist()),
        )
    assert all(taught <= set(np.flatnonzero(teaches).tolist()) for _, taught, _ in fits)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-9)


def test_every_detector_gives_probabilities_in_its_rows_and_columns():
    texts, codes = texts_of()
    views = detectors.text_views(texts, vectors=np.eye(3)[codes] + 0.1)
    probs = detectors.detector_probs(views, codes, np.arange(len(codes)), n_classes=4, folds=3)
    assert list(probs) == [
        TFIDF,
        NAIVE_BAYES,
        "topics",
        "topics: neighbours",
        "encoder",
        "encoder: neighbours",
        COMBINED,
    ]
    for detector, each in probs.items():
        np.testing.assert_allclose(each.sum(axis=1), 1, atol=1e-9, err_msg=detector)
        assert (each[:, :3].argmax(axis=1) == codes).mean() > 0.95, detector
        assert (each[:, 3] == 0).all(), detector  # a class without a row
    expected = np.mean(
        [probs[name] for name in (TFIDF, NAIVE_BAYES, "topics", "encoder", "encoder: neighbours")],
        axis=0,
    )
    np.testing.assert_allclose(probs[COMBINED], expected)


@pytest.mark.parametrize(
    "texts", [["😀", "😡"] * 5, list("aabb") * 3, ["好", "坏", "好坏"] * 3, ["same"] * 9], ids=str
)
def test_texts_without_words_have_views(texts):
    views = detectors.text_views(texts)
    assert views[TFIDF].shape[0] == views["topics"].shape[0] == len(texts)
    assert np.isfinite(views["topics"]).all()


def test_neighbours_are_neither_the_row_nor_its_near_copies():
    angles = np.radians([0, 1, 2, 3, 90, 91, 92, 93])
    matrix = np.column_stack([np.cos(angles), np.sin(angles)])
    labels, groups = np.array([1, 1, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 2, 3, 4, 5, 6])
    prior = np.array([2, 6]) / 8
    probs = detectors._neighbour_votes(
        matrix, labels, groups, np.ones(8, dtype=bool), n_classes=2, seed=0
    )
    votes = np.array([2, 4]) + prior  # row 0: all but itself and row 1
    np.testing.assert_allclose(probs[0], votes / votes.sum())
    alone = detectors._neighbour_votes(
        matrix, labels, np.zeros(8, dtype=int), np.ones(8, dtype=bool), n_classes=2, seed=0
    )
    np.testing.assert_allclose(alone, np.tile(prior, (8, 1)))


def test_only_rows_that_teach_are_neighbours(monkeypatch):
    matrix, labels = (
        np.column_stack([np.ones(30), np.linspace(0, 0.1, 30)]),
        np.r_[np.zeros(15, dtype=int), np.ones(15, dtype=int)],
    )
    teaches = labels == 0
    assert (
        detectors._neighbour_votes(matrix, labels, np.arange(30), teaches, n_classes=2, seed=0)[
            :, 1
        ]
        == 0
    ).all()
    monkeypatch.setattr(detectors, "MAX_REFERENCES", 3)
    few = detectors._neighbour_votes(
        matrix, labels, np.arange(30), np.ones(30, dtype=bool), n_classes=2, seed=0
    )
    assert few.shape == (30, 2) and len(np.unique(few.round(6), axis=0)) <= 4


def test_the_nearest_rows_leave_out_near_copies():
    matrix = np.array([[1, 0], [1, 0.01], [1, 0.1], [1, 0.3], [0, 1]])
    groups = np.array([0, 0, 1, 2, 3])
    assert detectors.nearest_rows(matrix, [0, 4], groups, n=2) == {0: [2, 3], 4: [3, 2]}
    assert detectors.nearest_rows(matrix, [], groups) == {}


def test_neighbours_of_queued_rows_are_texts_and_labels():
    table = pd.DataFrame(
        {"row_id": [7, 8, 9, 4], "text": ["w", "x", "y", "z"], "label": ["a", "b", "a", "b"]}
    )
    views = {TFIDF: np.array([[1, 0], [1, 0.1], [1, 0.01], [0, 1]]), "topics": np.eye(4)}
    queue = pd.DataFrame({"row_id": [4, 99, 7]})  # 99 is a test row
    near = detectors.neighbours_of(queue, table, views, np.array([0, 1, 0, 2]), n=2)
    assert near == {4: [("x", "b"), ("y", "a")], 7: [("x", "b"), ("z", "b")]}
    assert detectors.neighbours_of(queue.iloc[1:2], table, views, np.arange(4)) == {}


def test_agreement_is_the_share_of_labels_of_fitted_rows_that_a_detector_predicts():
    labels, fitted = np.array([0, 1, 1, 0]), np.array([True, True, True, False])
    probs = {"one": np.eye(2)[[0, 1, 0, 1]], "two": np.eye(2)[[0, 1, 1, 1]]}
    agreement = detectors.label_agreement(probs, labels, fitted)
    assert agreement.to_dict() == {"one": pytest.approx(2 / 3), "two": 1}
    assert detectors.describe_agreement(agreement, n=3).startswith(
        "The detectors agree with 66.7% to 100.0% of the labels of held-out training rows (n = 3)."
    )


def test_vectors_of_the_offline_encoder_bring_like_texts_together():
    texts = ["a cat sits on the mat", "the dog lies on a rug", "interest rates rose again"]
    tokenizer, model = backbones.load_backbone("minilm", class_names=["0", "1"])
    settings = TrainingConfig(max_length=16)
    vectors = finetune.embed(tokenizer, model, texts, settings=settings, progress=False)
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_a_forest_doubts_the_texts_between_classes():
    random = np.random.default_rng(0)
    codes = np.arange(200) % 2
    features = codes[:, None] * 3.0 + random.normal(size=(200, 5))
    features[:20] = 1.5 + random.normal(size=(20, 5)) / 10  # halfway
    probs = out_of_bag_probs(features, codes, n_classes=3, seed=0)
    assert np.allclose(probs.sum(axis=1), 1) and (probs[:, 2] == 0).all()
    doubt = label_error_score(probs, codes)
    assert doubt[:20].mean() > 0.3
    assert doubt[20:].mean() < 0.1
