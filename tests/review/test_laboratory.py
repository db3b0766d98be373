import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from lib.errors import WorkbookError
from lib.review import laboratory
from lib.review.laboratory import BAYES, COMBINED, PLAIN

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
        monkeypatch.setattr(laboratory, name, recorded(getattr(laboratory, name)))
    return calls


def numbered(codes):
    """Return a dense view whose first column is the number of the row, and whose others tell the classes."""
    return np.column_stack(
        [
            np.arange(len(codes)),
            np.eye(3)[codes] + np.random.default_rng(0).uniform(0, 0.01, (len(codes), 3)),
        ]
    )


def test_no_model_judges_a_group_that_it_was_taught(fits):
    _, codes = texts_of()
    groups = np.random.default_rng(1).integers(0, 60, len(codes))
    laboratory.judge({PLAIN: numbered(codes)}, codes, groups, n_classes=3, folds=4)
    assert [name for name, _, _ in fits] == ["LogisticRegression"] * 4 + ["MultinomialNB"] * 4
    for _, taught, judged in fits:
        assert {groups[row] for row in taught}.isdisjoint(groups[row] for row in judged)
    for of_one in (fits[:4], fits[4:]):
        assert sorted(row for _, _, judged in of_one for row in judged) == list(range(len(codes)))


def test_rows_that_do_not_teach_are_judged_by_a_model_of_all_that_do(fits):
    _, codes = texts_of()
    teaches = np.arange(len(codes)) % 5 != 0
    probs = laboratory.judge(
        {PLAIN: numbered(codes)}, codes, np.arange(len(codes)), n_classes=3, fitted=teaches, folds=3
    )[PLAIN]
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
    views = laboratory.views(texts, vectors=np.eye(3)[codes] + 0.1)
    probs = laboratory.judge(views, codes, np.arange(len(codes)), n_classes=4, folds=3)
    assert list(probs) == [
        PLAIN,
        BAYES,
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
        [probs[name] for name in (PLAIN, BAYES, "topics", "encoder", "encoder: neighbours")], axis=0
    )
    np.testing.assert_allclose(probs[COMBINED], expected)


def test_neighbours_are_neither_the_row_nor_its_near_copies():
    angles = np.radians([0, 1, 2, 3, 90, 91, 92, 93])
    matrix = np.column_stack([np.cos(angles), np.sin(angles)])
    labels, groups = np.array([1, 1, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 2, 3, 4, 5, 6])
    prior = np.array([2, 6]) / 8
    probs = laboratory._neighbours(
        matrix, labels, groups, np.ones(8, dtype=bool), n_classes=2, seed=0
    )
    votes = np.array([2, 4]) + prior  # row 0: all but itself and row 1
    np.testing.assert_allclose(probs[0], votes / votes.sum())
    alone = laboratory._neighbours(
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
        laboratory._neighbours(matrix, labels, np.arange(30), teaches, n_classes=2, seed=0)[:, 1]
        == 0
    ).all()
    monkeypatch.setattr(laboratory, "MAX_REFERENCES", 3)
    few = laboratory._neighbours(
        matrix, labels, np.arange(30), np.ones(30, dtype=bool), n_classes=2, seed=0
    )
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
    settings = {
        "n_classes": 3,
        "rates": (0.05, 0.2),
        "n_seeds": 2,
        "depth": 0.1,
        "folds": 3,
        "progress": False,
    }
    return laboratory.label_laboratory(views, codes, np.arange(300), held_out, **settings)


def test_the_laboratory_finds_what_it_planted_in_texts_that_are_easily_told(findings):
    table = findings.detection
    assert (findings.n_rows, findings.n_held_out, findings.effect_rate) == (225, 75, 0.2)
    assert len(table) == 2 * 2 * 2 * 5 and set(table["n_planted"]) == {11, 45}
    combined = table[table["detector"] == COMBINED]
    assert (combined["auprc"] > 0.9).all()
    at_5, at_20 = (
        combined[combined["rate"] == rate] for rate in (0.05, 0.2)
    )  # 22 rows are flagged
    assert (at_5["recall"] > 0.9).all() and np.allclose(at_5["precision"], at_5["recall"] * 11 / 22)
    assert (at_20["precision"] > 0.9).all() and np.allclose(
        at_20["recall"], at_20["precision"] * 22 / 45
    )


def test_what_is_done_with_flagged_rows_is_measured_on_clean_ones(findings):
    effect = findings.effect
    assert effect.index[0] == "flagged rows left as they are" and effect.iloc[0][
        ["gain", "low", "high"]
    ].tolist() == [0, 0, 0]
    assert effect.loc["no noise at all", "macro_f1"] == 1
    assert (
        effect.loc["flagged rows reviewed by a person who is always right", "macro_f1"]
        >= effect["macro_f1"].iloc[0]
    )
    assert (effect["low"] <= effect["gain"]).all() and (effect["gain"] <= effect["high"]).all()


def test_detectors_are_taught_the_noise_and_held_out_labels_stay_clean(monkeypatch):
    texts, codes = texts_of(90)
    taught, real = [], laboratory.judge

    def recorded(views, labels, groups, **settings):
        taught.append(labels)
        return real(views, labels, groups, **settings)

    monkeypatch.setattr(laboratory, "judge", recorded)
    held_out = np.arange(90) >= 60
    settings = {
        "n_classes": 3,
        "rates": (0.1,),
        "n_seeds": 2,
        "depth": 0.1,
        "folds": 3,
        "progress": False,
    }
    laboratory.label_laboratory(laboratory.views(texts), codes, np.arange(90), held_out, **settings)
    assert [int((labels != codes).sum()) for labels in taught] == [0, 6, 6, 6, 6]
    assert all((labels[held_out] == codes[held_out]).all() for labels in taught)


def test_each_thing_that_can_be_done_with_flagged_rows_is_done_to_them_alone():
    codes, held_out = np.arange(120) % 2, np.arange(120) >= 80
    words = np.eye(2)[codes]
    noisy = np.where(
        (codes == 0) & (np.arange(120) < 60), 1, codes
    )  # 30 of the 40 rows of class 0: it is forgotten
    seen_through = np.eye(2)[codes] * 0.8 + 0.1
    blind = np.eye(2)[noisy] * 0.8 + 0.1
    runs = {seed: (noisy, {"good": seen_through, "blind": blind}) for seed in (1, 2)}
    good = laboratory._effect(words, codes, held_out, runs, detector="good", rate=30 / 80, seed=0)[
        "macro_f1"
    ]
    assert good.iloc[0] < 0.5 and good.iloc[1:].tolist() == [1, 1, 1, 1]
    none = laboratory._effect(words, codes, held_out, runs, detector="blind", rate=1 / 80, seed=0)[
        "macro_f1"
    ]
    assert none.iloc[:4].max() < 0.5 and none.iloc[4] == 1


def test_precision_and_recall_count_the_first_flags():
    doubts, planted = (
        np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]),
        np.array([1, 0, 1, 0, 0, 0, 0, 0, 0, 1], dtype=bool),
    )
    n, auprc, precision, recall = laboratory._found(doubts, planted, depth=0.3)
    assert (n, precision, recall) == (3, pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (
        auprc
        == pytest.approx(average_precision_score(planted, doubts))
        == pytest.approx((1 + 2 / 3 + 3 / 10) / 3)
    )
    assert laboratory._found(doubts, planted, depth=0.001)[2] == 1.0  # one flag at least


def detection(*rows):
    return pd.DataFrame(
        rows,
        columns=["kind", "rate", "seed", "detector", "n_planted", "auprc", "precision", "recall"],
    )


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
    table = detection(
        *[
            ("confusable", 0.1, seed, PLAIN, 10, 0.5, value, 0.5)
            for seed, value in enumerate((0.4, 0.5, 0.6))
        ]
    )
    row = laboratory.with_intervals(table, "precision").iloc[0]
    assert row["value"] == pytest.approx(0.5)
    assert row["low"] == pytest.approx(0.5 - 4.302653 * 0.1 / np.sqrt(3)) and row[
        "high"
    ] == pytest.approx(0.5 + 4.302653 * 0.1 / np.sqrt(3))
    wide = detection(
        *[
            ("confusable", 0.1, seed, PLAIN, 10, 0.5, value, 0.5)
            for seed, value in enumerate((0.1, 0.9))
        ]
    )
    assert laboratory.with_intervals(wide, "precision")[["low", "high"]].iloc[0].tolist() == [0, 1]


def test_the_summary_says_how_many_of_the_flags_are_errors():
    rows = [
        ("confusable", rate, seed, PLAIN, 10, 0.7, precision, 0.5)
        for rate, precision in ((0.05, 0.4), (0.1, 0.6))
        for seed in (1, 2)
    ]
    rows += [("uniform", 0.05, seed, PLAIN, 10, 0.9, 1.0, 0.5) for seed in (1, 2)]
    told = laboratory.summary(
        laboratory.Findings(detection(*rows), pd.DataFrame(), 0.02, 0.1, 1_000, 200)
    )
    assert (
        "Of the first 2.0% of the rows real errors are: 40% [40%, 40%] if 5% of the labels are wrong; 60% [60%, 60%] if 10% of"
        in told
    )
    assert "1,000 rows" in told and "2 seeds" in told


def test_the_laboratory_counts_confusable_hits_by_depth(findings):
    depths, table = findings.depths, findings.detection
    assert set(depths["kind"]) == {"confusable"} and set(depths["detector"]) == set(
        table["detector"]
    )
    at_all = depths[depths["depth"] == 1]
    assert len(at_all) == 2 * 2 * 5 and (at_all["recall"] == 1).all()
    assert np.allclose(at_all["precision"], np.where(at_all["rate"] == 0.05, 11, 45) / 225)
    good = depths[
        (depths["detector"] == COMBINED) & (depths["rate"] == 0.2) & (depths["depth"] < 0.1)
    ]
    assert (good["precision"] > 0.9).all() and len(good) > 10


def test_a_laboratory_that_is_off_has_a_table_without_rows(findings):
    assert laboratory.NOT_MEASURED.empty
    assert laboratory.NOT_MEASURED.dtypes.to_dict() == findings.detection.dtypes.to_dict()


def known(**rows_of):
    """Rows by label: a=(training rows, validation rows)."""
    labels = [
        (label, split)
        for label, counts in rows_of.items()
        for split, n in zip(("train", "val"), counts)
        for _ in range(n)
    ]
    table = pd.DataFrame(labels, columns=["label", "split"]).sample(
        frac=1, random_state=0, ignore_index=True
    )
    return table.assign(row_id=100 + table.index, text="text " + table.index.astype(str))


def test_the_sample_keeps_the_share_of_each_label_and_split():
    table = known(a=(600, 120), b=(200, 40), c=(30, 10))
    drawn = laboratory.draw_sample(table, 500, seed=1)
    counts = table.iloc[drawn].groupby(["label", "split"]).size()
    assert len(drawn) == len(set(drawn)) == 500 and drawn.tolist() == sorted(drawn)
    assert counts.tolist() == pytest.approx([300, 60, 100, 20, 15, 5], abs=6)
    assert not np.array_equal(drawn, laboratory.draw_sample(table, 500, seed=2))
    assert np.array_equal(drawn, laboratory.draw_sample(table, 500, seed=1))


def test_the_smallest_sample_has_what_training_and_validation_need():
    table = known(a=(6_000, 10), b=(200, 40), c=(30, 300))
    counts = (
        table.iloc[laboratory.draw_sample(table, 12, folds=3)].groupby(["label", "split"]).size()
    )
    assert counts.tolist() == [3, 1] * 3
    with pytest.raises(
        WorkbookError,
        match=r"labels\.lab_rows=11 is too few for 3 labels in 3 folds: 12 is the least",
    ):
        laboratory.draw_sample(table, 11, folds=3)


def test_a_sample_of_more_rows_than_there_are_is_all_of_them():
    table = known(a=(2, 1), b=(2, 0))
    assert laboratory.draw_sample(table, 5_000).tolist() == [0, 1, 2, 3, 4]
    assert laboratory.draw_sample(table, 5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(WorkbookError, match="5 is the least, 0 leaves"):
        laboratory.draw_sample(table, 4)


@pytest.mark.parametrize(
    ("rows_of", "there"),
    [
        ({"a": (20, 0), "b": (20, 0)}, "0 and 40 of 2"),
        ({"a": (20, 1), "b": (0, 9)}, "10 and 20 of 1"),
    ],
)
def test_a_laboratory_needs_validation_rows_and_two_labels_to_train_on(rows_of, there):
    with pytest.raises(
        WorkbookError,
        match=f"labels.lab_rows=30: it takes validation rows, and training rows of two labels; there are {there}",
    ):
        laboratory.draw_sample(known(**rows_of), 30)


def test_the_smallest_sample_goes_through_the_laboratory():
    texts, codes = texts_of(90)
    table = pd.DataFrame(
        {"label": codes, "split": np.where(np.arange(90) % 4 == 0, "val", "train")}
    )
    place = laboratory.draw_sample(table, 12, folds=3)
    views = {name: matrix[place] for name, matrix in laboratory.views(texts).items()}
    held_out = table["split"].eq("val").to_numpy()[place]
    settings = {
        "n_classes": 3,
        "rates": (0.2,),
        "n_seeds": 2,
        "depth": 0.1,
        "folds": 3,
        "progress": False,
    }
    found = laboratory.label_laboratory(views, codes[place], np.arange(12), held_out, **settings)
    assert (found.n_rows, found.n_held_out, set(found.detection["n_planted"])) == (9, 3, {2})


def test_rows_are_ranked_over_all_splits_with_thresholds_of_their_own():
    table = known(a=(20, 20), b=(20, 20))
    given = (table["label"] == "b").to_numpy().astype(int)
    sure = np.where(
        table["split"] == "train", 0.95, 0.6
    )  # validation rows are judged by a less certain model
    trained, held_out = (
        int(np.flatnonzero(table["split"] == split)[7]) for split in ("train", "val")
    )
    right = np.where(np.isin(np.arange(80), (trained, held_out)), 0.3, sure)
    probs = np.where(np.arange(2) == given[:, None], right[:, None], 1 - right[:, None])
    issues = laboratory.rank_rows(table, probs, class_names=["a", "b"])
    assert issues.columns.tolist() == ["row_id", "score", "suggestion", "is_issue"]
    assert (
        sorted(issues["row_id"]) == table["row_id"].tolist()
        and issues["score"].is_monotonic_decreasing
    )
    assert issues["row_id"].head(2).tolist() == [100 + trained, 100 + held_out]
    assert issues.loc[issues["is_issue"], "row_id"].tolist() == [
        100 + held_out
    ]  # 0.7 for the other label is much among validation rows alone
    first = issues.iloc[0]
    assert first["score"] == pytest.approx(0.7) and first["suggestion"] == (
        "a" if given[trained] else "b"
    )


def test_neighbours_of_queued_rows_are_texts_and_labels():
    table = pd.DataFrame(
        {"row_id": [7, 8, 9, 4], "text": ["w", "x", "y", "z"], "label": ["a", "b", "a", "b"]}
    )
    views = {PLAIN: np.array([[1, 0], [1, 0.1], [1, 0.01], [0, 1]]), "topics": np.eye(4)}
    queue = pd.DataFrame({"row_id": [4, 99, 7]})  # 99 is a test row
    near = laboratory.neighbours_of(queue, table, views, np.array([0, 1, 0, 2]), n=2)
    assert near == {4: [("x", "b"), ("y", "a")], 7: [("x", "b"), ("z", "b")]}
    assert laboratory.neighbours_of(queue.iloc[1:2], table, views, np.arange(4)) == {}


def test_vectors_of_the_offline_encoder_bring_like_texts_together():
    vectors = laboratory.encoder_vectors(
        "minilm",
        ["a cat sits on the mat", "the dog lies on a rug", "interest rates rose again"],
        max_length=16,
        progress=False,
    )
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
