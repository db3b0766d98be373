"""The TF-IDF baseline that every model is measured against, and what it says about texts prepared in other ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from lib import workspace
from lib.evaluation.resampling import draws, weighted_mean
from lib.evaluation.significance import Interval, intervals_of, paired_tests

SMOOTHING = 0.03  # of naive Bayes; on newsgroups 0.1 finds a little fewer label errors, 0.3 no more than the regression


def fit_baseline(texts: Sequence[str], labels: Sequence[str], *, seed: int = 42) -> Pipeline:
    """Fit logistic regression on TF-IDF of words and word pairs; `predict_proba` columns follow `classes_` (sorted)."""
    return Pipeline(
        [
            ("tfidf", _tfidf(len(texts))),
            ("linear", LogisticRegression(C=10, max_iter=200, random_state=seed)),
        ]
    ).fit(texts, labels)


def fit_naive_bayes(texts: Sequence[str], labels: Sequence[str], *, seed: int = 42) -> Pipeline:
    """Fit naive Bayes on the same TF-IDF, which errs on other texts than the regression; `seed` is not needed."""
    return Pipeline([("tfidf", _tfidf(len(texts))), ("bayes", MultinomialNB(alpha=SMOOTHING))]).fit(
        texts, labels
    )


LINEAR = {
    "TF-IDF": fit_baseline,
    "TF-IDF: naive Bayes": fit_naive_bayes,
}  # members of every cross-validation and ensemble


def _tfidf(n_texts: int) -> TfidfVectorizer:
    return TfidfVectorizer(
        ngram_range=(1, 2), min_df=2 if n_texts >= 500 else 1, sublinear_tf=True, dtype=np.float32
    )


def compare_preparations(
    prepared: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    held_out: np.ndarray,
    *,
    against: str,
    n_resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 42,
    progress: bool = True,
) -> pd.DataFrame:
    """Train the baseline on texts prepared in several ways; compare macro F1 on the same held-out rows.

    Parameters
    ----------
    prepared : name of each way -> the n texts
    labels : n labels
    held_out : ndarray of bool of shape (n,), the rows that are predicted; the others are trained on
    against : the way that the others are compared with
    confidence : of the intervals together

    Returns
    -------
    DataFrame indexed by way, without `against`: `n_texts` (that differ from those of `against`) and the columns of
    `significance.paired_tests` (macro F1 minus that of `against`). A way that changes no text gains 0 and is not trained.
    """
    given, test = np.asarray(labels, dtype=object), np.asarray(held_out, dtype=bool)
    classes, y = np.unique(given.astype(str), return_inverse=True)
    n_changed = {
        name: sum(a != b for a, b in zip(texts, prepared[against]))
        for name, texts in prepared.items()
    }

    def predicted(texts: Sequence[str]) -> np.ndarray:
        rows = np.asarray(texts, dtype=object)
        named = fit_baseline(rows[~test].tolist(), given[~test].tolist(), seed=seed).predict(
            rows[test]
        )
        return np.asarray(np.searchsorted(classes, named.astype(str)))

    ways = [name for name in prepared if n_changed[name]]
    found = {
        name: predicted(prepared[name])
        for name in tqdm(
            [against, *ways], "baseline on each preparation", unit="fit", disable=not progress
        )
    }
    others = {name: found.get(name, found[against]) for name in prepared if name != against}
    table = paired_tests(
        y[test], found[against], others, n_resamples=n_resamples, confidence=confidence, seed=seed
    )
    table.insert(0, "n_texts", [n_changed[name] for name in others])
    return table.rename_axis("way")


def keeps_label(
    parents: pd.DataFrame, copies: pd.DataFrame, *, folds: int = 3, seed: int = 42
) -> np.ndarray:
    """Return which copies a baseline that did not see their parents takes for their label, or for what it took their parent for.

    Parameters
    ----------
    parents : with `row_id`, `text`, `label`, `group`; near-copies share a group
    copies : with `parent_id`, `text`, `label`

    Returns
    -------
    ndarray of bool of shape (n_copies,)
    """
    kept, rows_of = np.zeros(len(copies), dtype=bool), copies["parent_id"].to_numpy()
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for train, judged in splitter.split(parents, parents["label"], parents["group"]):
        own = np.isin(rows_of, parents["row_id"].to_numpy()[judged])
        if not own.any():
            continue
        model = fit_baseline(
            parents["text"].iloc[train].tolist(), parents["label"].iloc[train].tolist(), seed=seed
        )
        of_parents = pd.Series(
            model.predict(parents["text"].iloc[judged].tolist()),
            index=parents["row_id"].iloc[judged],
        )
        predicted = model.predict(copies["text"][own].tolist())
        kept[own] = (predicted == copies["label"][own].to_numpy()) | (
            predicted == of_parents[rows_of[own]].to_numpy()
        )
    return kept


def augmentation_gain(
    parents: pd.DataFrame,
    copies: pd.DataFrame,
    held_out: pd.DataFrame,
    *,
    n_resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 42,
    progress: bool = True,
) -> pd.DataFrame:
    """Train the baseline on rows with and without changed copies of them; compare macro F1 on the same held-out rows.

    Parameters
    ----------
    parents, held_out : with `text` and `label`
    copies : with `method`, `text` and `label`

    Returns
    -------
    DataFrame indexed by method, and `all together` where there are several: `n_texts` (copies) and the columns of
    `significance.paired_tests`, gains over the parents alone. They vary over the held-out rows, not over the draw of copies
    """
    methods = list(dict.fromkeys(copies["method"]))
    sets = {method: copies[copies["method"] == method] for method in methods} | (
        {"all together": copies} if len(methods) > 1 else {}
    )
    classes = np.unique([*parents["label"], *held_out["label"]])

    def predicted(added: pd.DataFrame) -> np.ndarray:
        learnt = pd.concat([parents[["text", "label"]], added[["text", "label"]]])
        named = fit_baseline(learnt["text"].tolist(), learnt["label"].tolist(), seed=seed).predict(
            held_out["text"].tolist()
        )
        return np.searchsorted(classes, named.astype(str))

    plain, *others = [
        predicted(added)
        for added in tqdm(
            [copies.head(0), *sets.values()],
            "baseline with copies",
            unit="fit",
            disable=not progress,
        )
    ]
    y = np.searchsorted(classes, held_out["label"].to_numpy().astype(str))
    table = paired_tests(
        y, plain, dict(zip(sets, others)), n_resamples=n_resamples, confidence=confidence, seed=seed
    )
    table.insert(0, "n_texts", [len(added) for added in sets.values()])
    return table.rename_axis("method")


def leakage_inflation(
    texts: Sequence[str],
    labels: Sequence[str],
    split: Sequence[str],
    leaked: np.ndarray,
    *,
    n_resamples: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> dict[str, float | int | Interval]:
    """Measure by how much test rows with a near-copy in training flatter the baseline's accuracy.

    Parameters
    ----------
    texts, labels, split : n rows, split into "train" and "test" (others are left out)
    leaked : ndarray of bool of shape (n,), the test rows with a near-copy in training

    Returns
    -------
    `n_leaked`, `right_leaked` and `right_others` (shares of test rows predicted rightly, 0..1; NaN where there are none) and
    `inflation` (Interval: accuracy on all test rows minus that on those without a copy)
    """
    rows, given, part = (np.asarray(values, dtype=object) for values in (texts, labels, split))
    train, test = part == "train", part == "test"
    right = (
        fit_baseline(rows[train].tolist(), given[train].tolist(), seed=seed).predict(rows[test])
        == given[test]
    ).astype(float)
    seen = leaked[test]
    if seen.all():
        raise ValueError(
            "every test row has a near-copy in training: nothing is left to compare with"
        )

    def inflation(weights: np.ndarray) -> np.ndarray:
        others = weighted_mean(weights[:, ~seen], right[~seen])
        return (weighted_mean(weights, right) - others)[:, None]

    (interval,) = intervals_of(
        inflation, draws(len(right)), n_resamples=n_resamples, confidence=confidence, seed=seed
    )
    right_leaked = float(right[seen].mean()) if seen.any() else float("nan")
    return {
        "n_leaked": int(seen.sum()),
        "right_leaked": right_leaked,
        "right_others": float(right[~seen].mean()),
        "inflation": interval,
    }


def save_baseline(model: Pipeline, folder: Path, *, key: str = "") -> None:
    """Write a fitted baseline, of either kind, as JSON and safetensors: nothing that could run code when read; `key` says what of."""
    from safetensors.numpy import save_file

    tfidf, linear = model[0], model[-1]
    coef, intercept = _linear_form(linear)
    terms = sorted(tfidf.vocabulary_, key=tfidf.vocabulary_.__getitem__)
    facts = {"classes": list(linear.classes_), "min_df": tfidf.min_df, "key": key, "terms": terms}
    with workspace.atomic_path(folder) as scratch:
        scratch.mkdir()
        workspace.write_json(facts, scratch / "baseline.json")
        weights = {"idf": tfidf.idf_, "coef": coef, "intercept": intercept}
        save_file(
            {name: np.ascontiguousarray(values) for name, values in weights.items()},
            scratch / "weights.safetensors",
        )  # coef_ is in column order


def _linear_form(model: LogisticRegression | MultinomialNB) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients and intercept as a regression has them: naive Bayes is linear in the log-odds too."""
    if isinstance(model, LogisticRegression):
        return model.coef_, model.intercept_
    coef, intercept = model.feature_log_prob_, model.class_log_prior_
    return (coef, intercept) if len(coef) > 2 else (np.diff(coef, axis=0), np.diff(intercept))


def load_baseline(folder: Path) -> Pipeline:
    """Read a baseline that `save_baseline` wrote; it predicts as the fitted one did."""
    from safetensors.numpy import load_file

    facts, weights = (
        workspace.read_json(folder / "baseline.json"),
        load_file(folder / "weights.safetensors"),
    )
    vectors = TfidfVectorizer(
        ngram_range=(1, 2),
        min_df=facts["min_df"],
        sublinear_tf=True,
        dtype=np.float32,
        vocabulary=facts["terms"],
    )
    vectors.idf_ = weights["idf"]
    linear = LogisticRegression()
    linear.classes_, linear.coef_, linear.intercept_ = (
        np.array(facts["classes"], dtype=object),
        weights["coef"],
        weights["intercept"],
    )
    return Pipeline([("tfidf", vectors), ("linear", linear)])
