import numpy as np
import pandas as pd
import pytest
from five_topics import topic_table
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score

from lib.config import LabelsConfig
from lib.errors import WorkbookError
from lib.evaluation.significance import share_interval
from lib.review import laboratory
from lib.review.detectors import COMBINED, TFIDF, text_views
from lib.review.laboratory import LaboratorySettings

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


def run(views, codes, held_out, *, rates):
    """Run the laboratory twice at each rate, in 3 folds, with every tenth row flagged."""
    return laboratory.label_laboratory(
        views,
        codes,
        np.arange(len(codes)),
        held_out,
        n_classes=3,
        settings=LaboratorySettings(rates=rates, n_seeds=2, depth=0.1, folds=3),
    )


@pytest.fixture(scope="module")
def findings():
    texts, codes = texts_of(300)
    held_out = np.arange(300) % 4 == 0
    views = text_views(texts)
    return run(views, codes, held_out, rates=(0.05, 0.2))


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


def test_the_laboratory_works_on_texts_without_a_common_term():
    codes = np.arange(60) % 3
    views = {TFIDF: csr_matrix(np.eye(60, dtype=np.float32)), "topics": np.eye(60)}
    found = run(views, codes, np.arange(60) % 4 == 0, rates=(0.1,))
    assert found.detection["n_planted"].eq(4).all()


@pytest.mark.parametrize("script", ["chinese", "thai"])
def test_the_laboratory_finds_what_it_planted_in_scripts_without_blanks(script):
    table = topic_table(script, 150)
    codes = table["label"].factorize()[0]
    rows = codes < 3
    views = {name: view[rows] for name, view in text_views(table["text"].tolist()).items()}
    found = run(views, codes[rows], np.arange(rows.sum()) % 4 == 0, rates=(0.1,))
    combined = found.detection[found.detection["detector"] == COMBINED]
    assert (combined["auprc"] > 0.7).all()


def test_detectors_are_taught_the_noise_and_held_out_labels_stay_clean(monkeypatch):
    texts, codes = texts_of(90)
    taught, real = [], laboratory.detector_probs

    def recorded(views, labels, groups, **settings):
        taught.append(labels)
        return real(views, labels, groups, **settings)

    monkeypatch.setattr(laboratory, "detector_probs", recorded)
    held_out = np.arange(90) >= 60
    run(text_views(texts), codes, held_out, rates=(0.1,))
    assert [int((labels != codes).sum()) for labels in taught] == [6, 6, 6, 6]
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
    good = laboratory._treatment_gains(
        words, codes, held_out, runs, detector="good", rate=30 / 80, seed=0
    )["macro_f1"]
    assert good.iloc[0] < 0.5 and good.iloc[1:].tolist() == [1, 1, 1, 1]
    none = laboratory._treatment_gains(
        words, codes, held_out, runs, detector="blind", rate=1 / 80, seed=0
    )["macro_f1"]
    assert none.iloc[:4].max() < 0.5 and none.iloc[4] == 1


def test_a_treatment_may_leave_a_single_class():
    codes = np.r_[np.zeros(90, dtype=int), np.ones(6, dtype=int)]
    held_out = np.arange(96) % 3 == 0
    doubts_the_rare = np.tile([0.9, 0.1], (96, 1))
    runs = {seed: (codes, {"one": doubts_the_rare}) for seed in (1, 2)}
    gains = laboratory._treatment_gains(
        np.eye(2)[codes], codes, held_out, runs, detector="one", rate=0.1, seed=0
    )
    assert gains.loc["flagged rows relabelled by the detector", "macro_f1"] == pytest.approx(
        (2 * 30 / (30 + 32)) / 2
    )


def test_precision_and_recall_count_the_first_flags():
    doubts, planted = (
        np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0]),
        np.array([1, 0, 1, 0, 0, 0, 0, 0, 0, 1], dtype=bool),
    )
    metrics = laboratory._detection_metrics(doubts, planted, depth=0.3)
    assert metrics["n_planted"] == 3
    assert metrics["precision"] == metrics["recall"] == pytest.approx(2 / 3)
    assert (
        metrics["auprc"]
        == pytest.approx(average_precision_score(planted, doubts))
        == pytest.approx((1 + 2 / 3 + 3 / 10) / 3)
    )
    # at least one row is flagged
    assert laboratory._detection_metrics(doubts, planted, depth=0.001)["precision"] == 1.0


def detection(*rows):
    return pd.DataFrame(
        rows,
        columns=["kind", "rate", "seed", "detector", "n_planted", "auprc", "precision", "recall"],
    )


def test_the_best_detector_has_the_highest_mean_auprc():
    table = detection(
        *[
            ("ambiguous", 0.1, seed, name, 10, value + seed / 100, 0.5, 0.5)
            for seed in (1, 2)
            for name, value in ((TFIDF, 0.5), ("topics", 0.6), (COMBINED, 0.55))
        ]
    )
    assert laboratory.best_detector(table) == "topics"


def test_intervals_over_seeds_are_students():
    table = detection(
        *[
            ("ambiguous", 0.1, seed, TFIDF, 10, 0.5, value, 0.5)
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
            ("ambiguous", 0.1, seed, TFIDF, 10, 0.5, value, 0.5)
            for seed, value in enumerate((0.1, 0.9))
        ]
    )
    assert laboratory.with_intervals(wide, "precision")[["low", "high"]].iloc[0].tolist() == [0, 1]


def test_seeds_that_agree_do_not_make_a_share_certain():
    same = laboratory.flagged_share(pd.Series([0.9, 0.9, 0.9]), n_flags=20)
    assert (same.value, same.low, same.high) == pytest.approx(
        (0.9, *share_interval(54, 60).with_ends[1:])
    )
    apart = laboratory.flagged_share(pd.Series([0.2, 0.9, 0.7]), n_flags=20)
    assert (apart.low, apart.high) == (0, 1)  # Student's


def test_the_summary_says_how_many_of_the_flags_are_errors():
    rows = [
        ("ambiguous", rate, seed, TFIDF, 10, 0.7, precision, 0.5)
        for rate, precision in ((0.05, 0.4), (0.1, 0.6))
        for seed in (1, 2)
    ]
    rows += [("uniform", 0.05, seed, TFIDF, 10, 0.9, 1.0, 0.5) for seed in (1, 2)]
    description = laboratory.describe(
        laboratory.Findings(detection(*rows), pd.DataFrame(), 0.02, 0.1, 1_000, 200)
    )
    assert (
        "Of the first 2.0% of the rows injected errors are: 40.0% [26.3%, 55.4%] if 5% of the "
        "labels are wrong; 60.0% [44.6%, 73.7%] if 10% of" in description
    )
    assert "1,000 rows" in description and "2 seeds" in description


def test_the_gains_are_listed_without_the_rows_that_are_left_as_they_are():
    effect = pd.DataFrame(
        {
            "gain": [0.0, 0.0213, -0.01],
            "low": [0.0, 0.011, -0.02],
            "high": [0.0, 0.0316, -0.001],
            "verdict": ["inconclusive", "better", "worse"],
        },
        index=[laboratory.UNTREATED, "removed", "relabelled"],
    )
    findings = laboratory.Findings(detection(), effect, 0.02, 0.1, 1_000, 200)
    assert laboratory.describe_gains(findings) == (
        "Macro F1 against leaving the flagged rows: removed: +0.021 [+0.011, +0.032], better; "
        "relabelled: -0.010 [-0.020, -0.001], worse."
    )


def test_the_title_of_the_gains_has_their_rate_rows_and_seeds(findings):
    assert laboratory.gains_title(findings) == (
        "What is done with flagged rows (20% of the labels wrong; n = 75 rows, 2 seeds)"
    )


def test_a_laboratory_that_is_off_says_so():
    settings = LabelsConfig(lab_rows=0)
    rows = known(a=(6, 2), b=(6, 2))
    assert laboratory.run_laboratory(rows, {}, class_names=["a"], settings=settings, seed=1) is None
    assert laboratory.describe(None) == "The laboratory is off (labels.lab_rows is 0)."
    assert laboratory.describe_gains(None) == "Not measured."


def test_the_laboratory_takes_its_sample_and_its_depth_from_the_settings():
    texts, codes = texts_of(120)
    names = sorted(WORDS)
    split = np.where(np.arange(120) % 4 == 0, "val", "train")
    labels = [names[code] for code in codes]
    rows = pd.DataFrame({"label": labels, "split": split, "group": np.arange(120)})
    settings = LabelsConfig(lab_rows=60, lab_rates=(0.1,), lab_seeds=2, folds=3, queue_rows=30)
    findings = laboratory.run_laboratory(
        rows, text_views(texts), class_names=names, settings=settings, seed=7
    )
    assert (findings.n_rows + findings.n_held_out, findings.depth) == (60, 0.25)
    assert (findings.effect_rate, findings.n_seeds) == (0.1, 2)
    assert set(findings.detection["seed"]) == {7, 8}


def test_plain_tfidf_is_preferred_unless_another_detector_is_significantly_better(findings):
    cases = findings.detection.drop_duplicates(["kind", "rate", "seed"])

    def detection(gains):
        plain = cases.assign(detector=TFIDF, auprc=0.5)
        return pd.concat([plain, cases.assign(detector="topics", auprc=0.5 + gains)])

    n = len(cases)
    assert laboratory.best_detector(detection(np.linspace(0.01, 0.03, n))) == "topics"
    assert laboratory.best_detector(detection(np.linspace(-0.03, 0.04, n))) == TFIDF


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
    fewer = laboratory.draw_sample(table, 2, folds=3)
    assert fewer.tolist() == laboratory.draw_sample(table, 12, folds=3).tolist()


def test_a_sample_of_more_rows_than_there_are_is_all_of_them():
    table = known(a=(2, 1), b=(2, 0))
    assert laboratory.draw_sample(table, 5_000).tolist() == [0, 1, 2, 3, 4]
    assert laboratory.draw_sample(table, 5).tolist() == [0, 1, 2, 3, 4]
    assert laboratory.draw_sample(table, 4).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("rows_of", "there"),
    [
        ({"a": (20, 0), "b": (20, 0)}, "0 validation rows, and 40 training rows with 2 labels"),
        ({"a": (20, 1), "b": (0, 9)}, "10 validation rows, and 20 training rows with 1 labels"),
    ],
)
def test_a_laboratory_needs_validation_rows_and_two_labels_to_train_on(rows_of, there):
    with pytest.raises(
        WorkbookError,
        match="labels.lab_rows: the laboratory needs validation rows, and training rows of at "
        f"least two labels; there are {there}",
    ):
        laboratory.draw_sample(known(**rows_of), 30)


def test_the_smallest_sample_goes_through_the_laboratory():
    texts, codes = texts_of(90)
    table = pd.DataFrame(
        {"label": codes, "split": np.where(np.arange(90) % 4 == 0, "val", "train")}
    )
    place = laboratory.draw_sample(table, 12, folds=3)
    views = {name: matrix[place] for name, matrix in text_views(texts).items()}
    held_out = table["split"].eq("val").to_numpy()[place]
    found = run(views, codes[place], held_out, rates=(0.2,))
    assert (found.n_rows, found.n_held_out, set(found.detection["n_planted"])) == (9, 3, {2})
