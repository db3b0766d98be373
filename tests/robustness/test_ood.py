import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from word_classes import WORDS, fitted, made, probs_of

from lib.errors import WorkbookError
from lib.robustness import ood
from lib.robustness.ood import OodScores, fit_scores


@pytest.fixture(scope="module")
def scores():
    return fitted()[0]


SCORES = ["max_probability", "energy", "neighbours", "novelty", "combined"]
STRANGE = ["qqq zzz xxx vvv", "crow apple saw qqq", "crow owl finch wren"]


def encode(texts):
    """Counts of a few letters, as an encoder of three numbers."""
    return np.array([[text.count(letter) for letter in "aeo"] for text in texts], dtype=float)


def test_each_score_is_what_its_paper_says():
    found, texts, labels, _ = fitted(encode=encode)
    labels = np.array(labels)
    table = found.all_scores(STRANGE, probs_of(STRANGE))
    matrix = found.tfidf.transform(texts)
    asked = found.tfidf.transform(STRANGE)
    np.testing.assert_allclose(table["max_probability"], 1 - probs_of(STRANGE).max(axis=1))
    linear = LogisticRegression(C=10, max_iter=200).fit(matrix, labels)
    energy = -logsumexp(linear.decision_function(asked), axis=1)
    np.testing.assert_allclose(table["energy"], energy, rtol=1e-3)
    nearest = (asked @ matrix.T).toarray().max(axis=1)
    np.testing.assert_allclose(table["neighbours"], 1 - nearest, atol=1e-6)
    assert table["neighbours"][0] == 1
    assert table["novelty"].tolist() == [1, pytest.approx(4 / 7), 0]  # four words, three pairs
    vectors = encode(texts)
    means = {name: vectors[labels == name].mean(axis=0) for name in WORDS}
    residuals = vectors - np.stack([means[label] for label in labels])
    covariance = LedoitWolf(assume_centered=True).fit(residuals)
    distances = [covariance.mahalanobis(encode(STRANGE) - mean) for mean in means.values()]
    np.testing.assert_allclose(table["mahalanobis"], np.min(distances, axis=0), rtol=1e-6)
    assert list(table) == [*SCORES[:-1], "mahalanobis", "combined"]


def test_without_a_classifier_the_linear_model_gives_the_probabilities():
    found, texts, labels, held_out = fitted(held_out_probs=None)
    linear = LogisticRegression(C=10, max_iter=200).fit(found.tfidf.transform(texts), labels)
    expected = 1 - linear.predict_proba(found.tfidf.transform(STRANGE)).max(axis=1)
    table = found.all_scores(STRANGE, None)
    np.testing.assert_allclose(table["max_probability"], expected, atol=1e-3)
    two = fitted(classes=("bird", "tool"), held_out_probs=None)[0].all_scores(["crow saw"], None)
    assert two["max_probability"][0] > 0.4
    assert len(held_out) == len(found.arrays["held_out"])


def test_the_combination_is_the_mean_in_standard_deviations_of_held_out_texts():
    found, *_, held_out = fitted()
    usual = found.all_scores(held_out, probs_of(held_out))
    np.testing.assert_allclose(usual, found.arrays["held_out"], atol=1e-6)
    strange = found.all_scores(STRANGE, probs_of(STRANGE))
    parts = list(SCORES[:-1])
    spread = usual[parts].std(ddof=0)
    spread["max_probability"] = 1  # it is the same for all held-out texts
    expected = ((strange[parts] - usual[parts].mean()) / spread).mean(axis=1)
    np.testing.assert_allclose(strange["combined"], expected, rtol=1e-5)


@pytest.mark.parametrize("chosen", SCORES)
def test_a_score_is_the_share_of_held_out_texts_that_are_less_unusual(chosen):
    found, *_, held_out = fitted()
    found = replace(found, chosen=chosen)
    values = found.all_scores(held_out, probs_of(held_out))[chosen].to_numpy()
    given = found.score(held_out, probs=probs_of(held_out))
    np.testing.assert_allclose(given, [(values < v).sum() / 61 for v in values], atol=1e-12)
    assert (given >= found.threshold).sum() <= 0.05 * 61
    assert found.score(STRANGE, probs=probs_of(STRANGE))[0] == pytest.approx(60 / 61)
    assert found.score([], probs=np.zeros((0, 3))).shape == (0,)


def test_few_held_out_texts_flag_nothing_rather_than_too_much():
    texts, labels = made(90, 1)
    few, _ = made(10, 2)
    found = fit_scores(texts, labels, few, held_out_probs=probs_of(few))
    assert found.score(STRANGE, probs=probs_of(STRANGE)).max() == pytest.approx(10 / 11)
    assert found.threshold == 0.95


def test_two_classes_and_odd_texts_have_finite_scores():
    found, *_ = fitted(classes=("bird", "tool"))
    odd = ["x", "😀🎉", "很好的电影", "the of and", "crow " * 10_000]
    table = found.all_scores(odd, probs_of(odd))
    assert np.isfinite(table.to_numpy()).all()
    linear = found.tfidf.transform(["crow owl", "saw drill"]) @ found.arrays["coef"].T
    logits = linear + found.arrays["intercept"]
    np.testing.assert_allclose(logits.sum(axis=1), 0, atol=1e-5)
    assert (logits.argmax(axis=1) == [0, 1]).all()


def test_texts_in_several_batches_have_the_scores_they_have_in_one(scores, monkeypatch):
    texts, _ = made(7, 3)
    whole = scores.all_scores(texts, probs_of(texts))
    monkeypatch.setattr(ood, "BATCH", 3)
    np.testing.assert_allclose(scores.all_scores(texts, probs_of(texts)), whole, rtol=1e-6)


def test_saved_scores_are_the_same(scores, tmp_path):
    chosen = replace(scores, chosen="energy", false_alarms=0.1)
    chosen.save(tmp_path / "ood")
    loaded = OodScores.load(tmp_path / "ood")
    assert (loaded.chosen, loaded.threshold) == ("energy", 0.9)
    probs = probs_of(STRANGE)
    np.testing.assert_array_equal(
        loaded.score(STRANGE, probs=probs), chosen.score(STRANGE, probs=probs)
    )
    pd.testing.assert_frame_equal(
        loaded.all_scores(STRANGE, probs), chosen.all_scores(STRANGE, probs), check_exact=True
    )


def test_what_cannot_be_saved_or_read_is_named(scores, tmp_path):
    with pytest.raises(WorkbookError, match="scores with an encoder cannot be saved"):
        replace(scores, encode=lambda texts: np.zeros((len(texts), 2))).save(tmp_path / "ood")
    scores.save(tmp_path / "ood")
    facts = json.loads((tmp_path / "ood" / "ood.json").read_text())
    (tmp_path / "ood" / "ood.json").write_text(json.dumps({**facts, "analyzer": "none"}))
    with pytest.raises(WorkbookError, match="cannot be read: KeyError"):
        OodScores.load(tmp_path / "ood")
    (tmp_path / "ood" / "ood.safetensors").unlink()
    with pytest.raises(WorkbookError, match="cannot be read: FileNotFoundError"):
        OodScores.load(tmp_path / "ood")
