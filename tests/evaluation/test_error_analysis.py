import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.proportion import proportion_confint

from lib.data.terms import fit_tfidf
from lib.evaluation import error_analysis
from lib.evaluation.significance import Interval

ROWS = pd.DataFrame({"row_id": [10, 11, 12, 13], "text": ["p", "q", "r", "s"]}, index=[7, 5, 3, 1])
PROBS = np.array([[0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.05, 0.05, 0.9], [0.1, 0.7, 0.2]])


def test_mistakes_are_listed_most_confident_first():
    found = error_analysis.mistakes_table(
        ROWS, np.array([0, 0, 1, 2]), PROBS, class_names=["a", "b", "c"]
    )
    expected = pd.DataFrame(
        {
            "row_id": [12, 10, 13],
            "label": ["b", "a", "c"],
            "predicted": ["c", "b", "b"],
            "confidence": [0.9, 0.7, 0.7],
            "label_prob": [0.05, 0.2, 0.2],
            "text": ["r", "p", "s"],
        }
    )
    pd.testing.assert_frame_equal(found, expected)


def test_mistakes_are_those_of_the_labels_that_were_given():
    y_pred = np.array([0, 1, 1, 2])  # the second is wrong, where the most probable class is right
    found = error_analysis.mistakes_table(
        ROWS, np.array([0, 0, 1, 2]), PROBS, y_pred=y_pred, class_names=["a", "b", "c"]
    )
    assert found["text"].tolist() == [ROWS["text"].iloc[1]]
    assert found["confidence"].tolist() == [PROBS[1, 1]]
    assert found["label_prob"].tolist() == [PROBS[1, 0]]


def test_no_mistake_gives_an_empty_table_with_its_columns():
    found = error_analysis.mistakes_table(
        ROWS, PROBS.argmax(axis=1), PROBS, class_names=["a", "b", "c"]
    )
    assert found.empty
    assert list(found) == ["row_id", "label", "predicted", "confidence", "label_prob", "text"]


def test_confusions_have_true_classes_down_and_predicted_across():
    found = error_analysis.confusion_counts(
        np.array([0, 0, 0, 1, 1]), np.array([0, 1, 1, 1, 0]), class_names=["a", "b", "c"]
    )
    assert found.to_numpy().tolist() == [[1, 2, 0], [1, 1, 0], [0, 0, 0]]
    assert (found.index.name, found.columns.name) == ("label", "predicted")
    assert found.loc["a", "b"] == 2


def test_accuracy_by_length_counts_words_and_gives_wilson_intervals():
    texts = ["one"] * 4 + ["one two  three"] * 4
    found = error_analysis.accuracy_by_length(
        texts, np.array([True, True, True, False, False, False, False, True]), n_bins=2
    )
    assert found.index.tolist() == ["1-1", "3-3"]
    assert found["n"].tolist() == [4, 4]
    assert found["accuracy"].tolist() == [0.75, 0.25]
    np.testing.assert_allclose(
        found[["low", "high"]], [proportion_confint(k, 4, method="wilson") for k in (3, 1)]
    )


def test_lengths_of_texts_without_blanks_are_characters():
    found = error_analysis.accuracy_by_length(
        ["很好"] * 4 + ["真的很好看"] * 4, np.ones(8), n_bins=2
    )
    assert found.index.tolist() == ["2-2", "5-5"]


def test_bins_are_filled_equally_and_hold_every_row():
    texts = [" ".join(["w"] * n) for n in range(1, 21)]
    found = error_analysis.accuracy_by_length(texts, np.arange(20) % 2 == 0, n_bins=4)
    assert found["n"].tolist() == [5, 5, 5, 5]
    assert found.index.tolist() == ["1-5", "6-10", "11-15", "16-20"]


def test_a_bin_that_is_all_right_still_has_an_interval():
    found = error_analysis.accuracy_by_length(["a", "a b"] * 10, np.ones(20, dtype=bool), n_bins=2)
    assert found["accuracy"].tolist() == [1, 1]
    assert found["low"].tolist() == pytest.approx([0.7225, 0.7225], abs=1e-3)
    assert found["high"].tolist() == pytest.approx([1, 1])


def test_texts_of_one_length_are_one_bin():
    found = error_analysis.accuracy_by_length(["a b c"] * 8, np.array([True] * 6 + [False] * 2))
    assert found[["accuracy", "n"]].to_numpy().tolist() == [[0.75, 8]]


def test_the_weakest_class_is_named_with_its_interval():
    class_f1 = [Interval(0.9, 0.8, 1.0, n=9), Interval(0.5, 0.4, 0.6, n=9)]
    assert error_analysis.describe_weakest_class(class_f1, ["a", "b"], model="ensemble") == (
        "The weakest class of the ensemble is b: F1 0.500 [0.400, 0.600]."
    )


def test_the_commonest_confusion_is_named_with_the_rows_of_its_class():
    counts = error_analysis.confusion_counts(
        np.array([0, 0, 0, 1, 1]), np.array([0, 1, 1, 1, 0]), class_names=["a", "b"]
    )
    assert error_analysis.describe_commonest_confusion(counts) == (
        "The commonest confusion: a taken for b, 2 of 3 rows."
    )


def test_confused_pairs_are_listed_the_most_frequent_first(odd_names):
    names = odd_names[:3]
    counts = pd.DataFrame([[5, 2, 3], [0, 9, 1], [4, 0, 0]], index=names, columns=names)
    pairs = error_analysis.confused_pairs(counts)
    a, b, c = names
    assert pairs.to_numpy().tolist() == [
        [c, a, 4, 1.0],
        [a, c, 3, 0.3],
        [a, b, 2, 0.2],
        [b, c, 1, 0.1],
    ]
    assert pairs.columns.tolist() == ["label", "predicted", "n", "share"]
    assert len(error_analysis.confused_pairs(counts, n_pairs=2)) == 2


def test_any_string_is_a_class_of_the_confusions_and_mistakes(odd_names):
    k = len(odd_names)
    y_true = np.arange(k)
    y_pred = (y_true + 1) % k
    counts = error_analysis.confusion_counts(y_true, y_pred, class_names=odd_names)
    assert counts.index.tolist() == counts.columns.tolist() == odd_names
    pairs = error_analysis.confused_pairs(counts, n_pairs=k)
    assert dict(zip(pairs["label"], pairs["predicted"])) == dict(
        zip(odd_names, [*odd_names[1:], odd_names[0]])
    )
    rows = pd.DataFrame({"row_id": range(k), "text": "x"})
    mistakes = error_analysis.mistakes_table(rows, y_true, np.eye(k)[y_pred], class_names=odd_names)
    assert mistakes["label"].tolist() == odd_names


def test_without_mistakes_there_is_no_confusion():
    counts = error_analysis.confusion_counts(
        np.array([0, 1]), np.array([0, 1]), class_names=["a", "b"]
    )
    assert error_analysis.describe_commonest_confusion(counts) == (
        "No row is taken for another class."
    )


def test_the_lengths_of_best_and_worst_accuracy_are_named():
    by_length = pd.DataFrame({"accuracy": [0.7, 0.9, 0.8]}, index=["1-5", "6-9", "10-20"])
    assert error_analysis.describe_lengths(by_length, model="ensemble") == (
        "The ensemble is best on texts of 6-9 words (accuracy 0.900) "
        "and worst on texts of 1-5 words (0.700)."
    )


def test_the_terms_of_a_confused_pair_set_its_texts_apart_from_the_class():
    right = [f"ripe apple {i}" for i in range(30)]
    confused = [f"saw an apple {i}" for i in range(30)]
    confused[0] += " once"  # chance
    texts = [*right, *confused, "a saw"]
    y_true = np.array([0] * 60 + [1])
    y_pred = np.array([0] * 30 + [1] * 31)
    names = ["fruit", "tool"]
    pairs = error_analysis.confused_pairs(
        error_analysis.confusion_counts(y_true, y_pred, class_names=names)
    )
    terms = error_analysis.confusing_terms(texts, y_true, y_pred, pairs, class_names=names)
    assert len(terms) == len(pairs) == 1
    assert set(terms[0].split(", ")) == {"saw", "an"}


def test_the_nearest_training_text_is_shown_with_its_label():
    train = pd.DataFrame(
        {"text": ["ripe apple tree", "old rusty saw", "green pear"], "label": ["a", "b", "c"]}
    )
    tfidf, _ = fit_tfidf(train["text"].tolist())
    near = error_analysis.nearest_neighbours(
        ["rusty saw", "ripe apple tree", "nothing known"], train, tfidf=tfidf
    )
    assert near["nearest_label"].tolist()[:2] == ["b", "a"]
    assert near["nearest_text"].tolist()[:2] == ["old rusty saw", "ripe apple tree"]
    assert near["similarity"].round(6).tolist()[1:] == [1, 0]
    assert 0 < near["similarity"][0] < 1
    assert error_analysis.nearest_neighbours([], train, tfidf=tfidf).shape == (0, 3)
