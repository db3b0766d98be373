"""The TF-IDF baseline that every model is measured against, and its out-of-fold probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from lib import workspace


def fit_baseline(texts: Sequence[str], labels: Sequence[str], *, seed: int = 42) -> Pipeline:
    """Fit logistic regression on TF-IDF of words and word pairs; `predict_proba` columns follow `classes_` (sorted)."""
    min_df = 2 if len(texts) >= 500 else 1
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=min_df, sublinear_tf=True, dtype=np.float32)
    return Pipeline([("tfidf", vectors), ("linear", LogisticRegression(C=10, max_iter=200, random_state=seed))]).fit(texts, labels)


def out_of_fold_probs(texts: Sequence[str], labels: Sequence[str], groups: np.ndarray, *, folds: int = 5, seed: int = 42, progress: bool = True) -> np.ndarray:
    """Return baseline probabilities for each row from models that saw neither it nor its near-duplicates.

    Parameters
    ----------
    texts, labels : n rows
    groups : ndarray of shape (n,); rows with one number are in one fold
    folds : number of models

    Returns
    -------
    ndarray of float64 of shape (n, k), rows summing to 1, columns in sorted order of the labels
    """
    rows, given = np.asarray(texts, dtype=object), np.asarray(labels, dtype=object)
    classes = np.unique(given.astype(str))
    probs = np.zeros((len(rows), len(classes)))
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for train, held_out in tqdm(splitter.split(rows, given, groups), "out-of-fold baseline", folds, unit="fold", disable=not progress):
        model = fit_baseline(rows[train], given[train], seed=seed)
        columns = np.searchsorted(classes, model.classes_.astype(str))  # a class that is one group is unknown to the model that leaves it out
        probs[np.ix_(held_out, columns)] = model.predict_proba(rows[held_out])
    return probs / probs.sum(axis=1, keepdims=True)


def save_baseline(model: Pipeline, folder: Path) -> None:
    """Write a fitted baseline as JSON and safetensors: nothing that could run code when read."""
    from safetensors.numpy import save_file

    tfidf, linear = model["tfidf"], model["linear"]
    terms = sorted(tfidf.vocabulary_, key=tfidf.vocabulary_.__getitem__)
    facts = {"classes": list(linear.classes_), "seed": linear.random_state, "min_df": tfidf.min_df, "terms": terms}
    with workspace.atomic_path(folder) as scratch:
        scratch.mkdir()
        workspace.write_json(facts, scratch / "baseline.json")
        weights = {"idf": tfidf.idf_, "coef": linear.coef_, "intercept": linear.intercept_}
        save_file({name: np.ascontiguousarray(values) for name, values in weights.items()}, scratch / "weights.safetensors")  # coef_ is in column order


def load_baseline(folder: Path) -> Pipeline:
    """Read a baseline that `save_baseline` wrote; it predicts as the fitted one did."""
    from safetensors.numpy import load_file

    facts, weights = workspace.read_json(folder / "baseline.json"), load_file(folder / "weights.safetensors")
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=facts["min_df"], sublinear_tf=True, dtype=np.float32, vocabulary=facts["terms"])
    vectors.idf_ = weights["idf"]
    linear = LogisticRegression(C=10, max_iter=200, random_state=facts["seed"])
    linear.classes_, linear.coef_, linear.intercept_ = np.array(facts["classes"], dtype=object), weights["coef"], weights["intercept"]
    return Pipeline([("tfidf", vectors), ("linear", linear)])
