"""Detectors of label errors: models of the texts that say how probable each given label is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from tqdm import tqdm

from lib.data.terms import fit_tfidf

TFIDF = "TF-IDF"
NAIVE_BAYES = "TF-IDF: naive Bayes"
COMBINED = "combined"
MAX_TERMS = 50_000
N_TOPICS = 100
N_NEIGHBOURS = 15
N_TREES = 200  # each row is left out by a third of them
# Neighbours are searched among at most that many rows, so that time grows linearly with the rows.
MAX_REFERENCES = 20_000
# Of naive Bayes. On newsgroups 0.1 finds slightly fewer label errors, 0.3 no more than regression.
SMOOTHING = 0.03
# Near-copies of a row that may be among its nearest rows, and do not count.
_GROUP_SLACK = 10


def text_views(
    texts: Sequence[str],
    *,
    vectors: np.ndarray | None = None,
    seed: int = 42,
    progress: bool = True,
) -> dict[str, Any]:
    """Return the texts as feature matrices; no label is used.

    Parameters
    ----------
    vectors : ndarray of shape (n, hidden), for instance from `finetune.embed`

    Returns
    -------
    name -> matrix of shape (n, features): `TF-IDF` (sparse), `topics` (latent semantic analysis),
    and `encoder` where vectors are given
    """
    _, tfidf = fit_tfidf(texts, max_terms=MAX_TERMS, progress=progress)
    n_topics = max(1, min(N_TOPICS, min(tfidf.shape) - 1))
    topics = TruncatedSVD(n_topics, random_state=seed).fit_transform(tfidf)
    views = {TFIDF: tfidf, "topics": normalize(topics)}
    if vectors is not None:
        views["encoder"] = normalize(vectors)
    return views


def detector_probs(
    views: dict[str, Any],
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    n_classes: int,
    fitted: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 42,
) -> dict[str, np.ndarray]:
    """Return each detector's class probabilities, from models that saw no row of the same group.

    The detectors are logistic regression on each view, out of fold; naive Bayes on TF-IDF, which
    makes other errors; the labels of the nearest rows on each dense view; and the mean of all but
    the neighbours among topics.

    Parameters
    ----------
    views : name -> matrix of shape (n, features); no value of TF-IDF is below 0
    labels : ndarray of int of shape (n,), 0..n_classes - 1
    groups : ndarray of shape (n,); rows with one number are near-copies
    fitted : ndarray of bool of shape (n,): rows that models are trained on; the others are
        predicted by models of all of these. None: all rows

    Returns
    -------
    detector -> ndarray of float64 of shape (n, n_classes), rows summing to 1

    Source
    ------
    Northcutt, Jiang, Chuang 2021, "Confident Learning"; Zhu, Dong, Liu 2022, "Detecting Corrupted
    Labels Without Training a Model to Predict" (neighbours).
    """
    fitted = np.ones(len(labels), dtype=bool) if fitted is None else fitted
    parts = _train_and_predicted_rows(labels, groups, fitted, folds=folds, seed=seed)
    probs: dict[str, np.ndarray] = {}
    options: dict[str, Any] = {"parts": parts, "n_classes": n_classes}
    for name, matrix in views.items():
        probs[name] = _out_of_fold(linear_model(seed), matrix, labels, **options, desc=name)
        if name == TFIDF:
            bayes = MultinomialNB(alpha=SMOOTHING)
            probs[NAIVE_BAYES] = _out_of_fold(bayes, matrix, labels, **options, desc=NAIVE_BAYES)
        else:
            probs[f"{name}: neighbours"] = _neighbour_votes(
                matrix, labels, groups, fitted, n_classes=n_classes, seed=seed
            )
    # On newsgroups the neighbours among topics made the mean worse.
    members = [probs[name] for name in probs if name != "topics: neighbours"]
    return {**probs, COMBINED: np.mean(members, axis=0)}


def out_of_bag_probs(
    features: np.ndarray, labels: np.ndarray, *, n_classes: int, seed: int
) -> np.ndarray:
    """Return probabilities by the trees of a random forest that were not trained on the row.

    Parameters
    ----------
    features : ndarray of shape (n, d)

    Returns
    -------
    ndarray of shape (n, n_classes), rows summing to 1, zeros for classes that `labels` has not
    """
    forest = RandomForestClassifier(N_TREES, oob_score=True, random_state=seed)
    forest.fit(features, labels)
    probs = np.zeros((len(labels), n_classes))
    probs[:, forest.classes_] = forest.oob_decision_function_
    return probs


def linear_model(seed: int) -> LogisticRegression:
    """Return the untrained regression of the detectors, the same as the baseline's."""
    return LogisticRegression(C=10, max_iter=200, random_state=seed)


def label_error_score(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 1 minus the probability of the given label: ndarray of shape (n,), 0..1.

    Higher is more likely wrong.

    Examples
    --------
    >>> label_error_score(np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([1, 0])).tolist()
    [0.75, 0.5]
    """
    return 1 - probs[np.arange(len(labels)), labels]


def label_agreement(
    probs: dict[str, np.ndarray], labels: np.ndarray, fitted: np.ndarray
) -> pd.Series:
    """Return the share of given labels that each detector predicts too, over the fitted rows.

    Parameters
    ----------
    probs : from `detector_probs`
    labels : ndarray of int of shape (n,)
    fitted : ndarray of bool of shape (n,)
    """
    shares = {
        detector: np.mean(detector_probs.argmax(axis=1)[fitted] == labels[fitted])
        for detector, detector_probs in probs.items()
    }
    return pd.Series(shares, name="share of given labels that it predicts")


def describe_agreement(agreement: pd.Series, *, n: int) -> str:
    """Say how far the detectors agree with the labels of `n` rows, from `label_agreement`."""
    return (
        f"The detectors agree with {agreement.min():.1%} to {agreement.max():.1%} of the labels of "
        f"held-out training rows (n = {n:,}). Where they disagree, many flags will be their own "
        "errors."
    )


def nearest_rows(
    matrix: Any, wanted: Sequence[int], groups: np.ndarray, *, n: int = 3
) -> dict[int, list[int]]:
    """Return for each wanted row the `n` nearest rows that are not near-copies, nearest first.

    All are row numbers of `matrix`; distances are cosine.
    """
    if not len(wanted):
        return {}
    n_candidates = min(n + 1 + _GROUP_SLACK, matrix.shape[0])
    search = NearestNeighbors(n_neighbors=n_candidates, metric="cosine").fit(matrix)
    candidates = search.kneighbors(matrix[list(wanted)], return_distance=False)
    nearest = {}
    for row, near in zip(wanted, candidates):
        nearest[row] = near[groups[near] != groups[row]][:n].tolist()
    return nearest


def neighbours_of(
    queue: pd.DataFrame,
    rows: pd.DataFrame,
    views: dict[str, Any],
    groups: np.ndarray,
    *,
    n: int = 3,
) -> dict[int, list[tuple[str, str]]]:
    """Return texts and labels of the nearest rows of each queued row by TF-IDF, nearest first.

    Near-copies are left out.

    Parameters
    ----------
    queue : with `row_id`; those that are not in `rows` are left out
    rows : with `row_id`, `text` and `label`, in the order of `views` and `groups`
    """
    positions = pd.Series(np.arange(len(rows)), index=rows["row_id"])
    wanted = positions[positions.index.intersection(queue["row_id"])]
    nearest = nearest_rows(views[TFIDF], wanted.tolist(), groups, n=n)
    texts_and_labels = list(zip(rows["text"], rows["label"]))
    return {
        int(row_id): [texts_and_labels[i] for i in nearest[position]]
        for row_id, position in wanted.items()
    }


def _train_and_predicted_rows(
    labels: np.ndarray, groups: np.ndarray, fitted: np.ndarray, *, folds: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    rows = np.flatnonzero(fitted)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    parts = []
    for train, predicted in splitter.split(rows, labels[rows], groups[rows]):
        parts.append((rows[train], rows[predicted]))
    if not fitted.all():
        parts.append((rows, np.flatnonzero(~fitted)))
    return parts


def _out_of_fold(
    untrained: ClassifierMixin,
    matrix: Any,
    labels: np.ndarray,
    *,
    parts: list[tuple[np.ndarray, np.ndarray]],
    n_classes: int,
    desc: str,
) -> np.ndarray:
    probs = np.zeros((len(labels), n_classes))
    for train, predicted in tqdm(parts, desc, unit="fold"):
        model = clone(untrained).fit(matrix[train], labels[train])
        probs[np.ix_(predicted, model.classes_)] = model.predict_proba(matrix[predicted])
    # With float32 features they sum to 1 only within float32's precision.
    return probs / probs.sum(axis=1, keepdims=True)


def _neighbour_votes(
    matrix: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    fitted: np.ndarray,
    *,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    """Return the shares of labels among the nearest fitted rows, and the prior as one more vote."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(fitted))
    rows = np.sort(rows[:MAX_REFERENCES])
    n_candidates = min(N_NEIGHBOURS + 1 + _GROUP_SLACK, len(rows))
    search = NearestNeighbors(n_neighbors=n_candidates).fit(matrix[rows])
    nearest = rows[search.kneighbors(matrix, return_distance=False)]
    # Neither the row itself nor a near-copy votes.
    counts = groups[nearest] != groups[:, None]
    counts &= counts.cumsum(axis=1) <= N_NEIGHBOURS
    votes = np.tile(np.bincount(labels[rows], minlength=n_classes) / len(rows), (len(labels), 1))
    for label in range(n_classes):
        votes[:, label] += ((labels[nearest] == label) & counts).sum(axis=1)
    return votes / votes.sum(axis=1, keepdims=True)
