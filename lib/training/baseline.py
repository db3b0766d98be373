"""The TF-IDF baseline that every model is measured against, and what it says of other texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from lib import workspace
from lib.config import CleaningConfig
from lib.data import cleaning
from lib.data.terms import fit_tfidf, restored_tfidf
from lib.evaluation.resampling import draws, weighted_mean
from lib.evaluation.significance import Interval, intervals_of, paired_tests
from lib.review.detectors import SMOOTHING
from lib.training.iteration_bar import IterationBar


def fit_baseline(
    texts: Sequence[str], labels: Sequence[str], *, seed: int = 42, progress: bool = False
) -> Pipeline:
    """Fit logistic regression on TF-IDF of words and word pairs (`terms.fit_tfidf`).

    The columns of `predict_proba` follow `classes_`, which is sorted.
    """
    tfidf, matrix = fit_tfidf(texts, progress=progress)
    linear = LogisticRegression(C=10, max_iter=200, random_state=seed)
    if progress:
        linear.set_callbacks(IterationBar("logistic regression, at most"))
    return Pipeline([("tfidf", tfidf), ("linear", linear.fit(matrix, labels))])


def fit_naive_bayes(texts: Sequence[str], labels: Sequence[str], *, seed: int = 42) -> Pipeline:
    """Fit naive Bayes on the same TF-IDF: it errs on other texts. `seed` is not needed."""
    tfidf, matrix = fit_tfidf(texts)
    bayes = MultinomialNB(alpha=SMOOTHING).fit(matrix, labels)
    return Pipeline([("tfidf", tfidf), ("bayes", bayes)])


# Members of every cross-validation and ensemble.
LINEAR = {"TF-IDF": fit_baseline, "TF-IDF: naive Bayes": fit_naive_bayes}


def compare_preparations(
    prepared: Mapping[str, Sequence[str]],
    labels: Sequence[str],
    held_out: np.ndarray,
    *,
    against: str,
    seed: int = 42,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Train the baseline on texts prepared in several ways; compare macro F1 on held-out rows.

    Parameters
    ----------
    prepared : name of each way -> the n texts
    labels : n labels
    held_out : ndarray of bool of shape (n,), the rows that are predicted; the others are trained on
    against : the way that the others are compared with
    options : of `significance.paired_tests` on the held-out rows: `groups`, `n_resamples` (500
        unless given), `confidence`

    Returns
    -------
    DataFrame indexed by way, without `against`: `n_texts` (that differ from those of `against`) and
    the columns of `significance.paired_tests` (macro F1 minus that of `against`). A way that
    changes no text gains 0 and is not trained.
    """
    test = np.asarray(held_out, dtype=bool)
    given = np.asarray(labels, dtype=object)
    classes, y = np.unique(given.astype(str), return_inverse=True)
    n_changed = {
        way: sum(a != b for a, b in zip(texts, prepared[against]))
        for way, texts in prepared.items()
    }
    trained = [against, *(way for way in prepared if n_changed[way])]
    predicted = {}
    for way in tqdm(trained, "baseline on each preparation", unit="fit", disable=not progress):
        texts = np.asarray(prepared[way], dtype=object)
        model = fit_baseline(texts[~test].tolist(), given[~test].tolist(), seed=seed)
        predicted[way] = _predicted_codes(model, texts[test], classes)
    plain = predicted[against]
    others = {way: predicted.get(way, plain) for way in prepared if way != against}
    options = {"n_resamples": 500} | options
    table = paired_tests(y[test], plain, others, seed=seed, **options)
    table.insert(0, "n_texts", [n_changed[way] for way in others])
    return table.rename_axis("way")


def _predicted_codes(model: Pipeline, texts: Sequence[str], classes: np.ndarray) -> np.ndarray:
    """Return the predicted labels as positions in `classes`, which are sorted."""
    return np.searchsorted(classes, model.predict(texts).astype(str))


@dataclass(frozen=True)
class RuleAblation:
    """What each cleaning rule adds to the baseline.

    Attributes
    ----------
    table : as `compare_preparations` returns it, a way for each rule that is left out; empty where
        nothing was measured
    n_held_out : validation rows that were scored
    """

    table: pd.DataFrame
    n_held_out: int

    def describe(self) -> str:
        """Return in sentences which rules made a significant difference."""
        if self.table.empty:
            return "Not measured (cleaning.ablation_rows is 0)."
        differing = self.table[self.table["verdict"].isin(["better", "worse"])]
        sentences = [
            f"Leaving a rule out made a significant difference for {len(differing)} of "
            f"{len(self.table)} rules, on {self.n_held_out:,} validation rows."
        ]
        for way, row in differing.iterrows():
            sentences.append(
                f"{way.capitalize()} it is {row['verdict']} by {abs(row['gain']):.3f}."
            )
        return " ".join(sentences)


def ablate_rules(
    rows: pd.DataFrame,
    *,
    settings: CleaningConfig,
    confidence: float = 0.95,
    seed: int = 42,
    progress: bool = True,
) -> RuleAblation:
    """Measure what each cleaning rule is worth: the baseline on texts cleaned by all rules but one.

    Parameters
    ----------
    rows : with `raw` (the text before cleaning), `text`, `label`, `group`, `split`; test rows are
        not used
    settings : the rules, and `ablation_rows`: how many rows to measure on, 0 for none; a few more
        where a class would have none
    """
    rows = rows[rows["split"] != "test"]
    n_rows = min(settings.ablation_rows, len(rows))
    if not n_rows:
        return RuleAblation(pd.DataFrame(), 0)
    sample = _with_every_class(rows.sample(n_rows, random_state=seed), rows)
    prepared = {"all rules": sample["text"].tolist()}
    without = cleaning.without_each_rule(sample["raw"].tolist(), settings=settings)
    prepared |= {f"without {rule}": texts for rule, texts in without.items()}
    held_out = sample["split"].eq("val").to_numpy()
    table = compare_preparations(
        prepared,
        sample["label"].tolist(),
        held_out,
        against="all rules",
        groups=sample["group"].to_numpy()[held_out],
        confidence=confidence,
        seed=seed,
        progress=progress,
    )
    return RuleAblation(table, int(held_out.sum()))


def _with_every_class(sample: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Add a row of each class and split that the sample lacks."""
    strata = ["label", "split"]
    first = rows.drop_duplicates(strata)
    present = pd.MultiIndex.from_frame(sample[strata])
    is_missing = ~pd.MultiIndex.from_frame(first[strata]).isin(present)
    return pd.concat([sample, first[is_missing]])


def keeps_label(
    parents: pd.DataFrame, copies: pd.DataFrame, *, folds: int = 3, seed: int = 42
) -> np.ndarray:
    """Return which copies the baseline takes for their label, or for what it took their parent for.

    The baseline that judges a copy has seen neither its parent nor a row of the parent's group.
    Where it has seen one class alone, no copy is kept.

    Parameters
    ----------
    parents : with `row_id`, `text`, `label`, `group`; near-copies share a group
    copies : with `parent_id`, `text`, `label`

    Returns
    -------
    ndarray of bool of shape (n_copies,)
    """
    kept = np.zeros(len(copies), dtype=bool)
    parent_ids = copies["parent_id"].to_numpy()
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(parents, parents["label"], parents["group"]):
        learned = parents.iloc[train]
        unseen = parents.iloc[test]
        judged = np.isin(parent_ids, unseen["row_id"])
        if not judged.any() or learned["label"].nunique() == 1:
            continue
        model = fit_baseline(learned["text"].tolist(), learned["label"].tolist(), seed=seed)
        of_parents = pd.Series(model.predict(unseen["text"].tolist()), index=unseen["row_id"])
        predicted = model.predict(copies["text"][judged].tolist())
        is_label = predicted == copies["label"][judged].to_numpy()
        is_as_parent = predicted == of_parents[parent_ids[judged]].to_numpy()
        kept[judged] = is_label | is_as_parent
    return kept


def augmentation_gain(
    parents: pd.DataFrame,
    copies: pd.DataFrame,
    held_out: pd.DataFrame,
    *,
    groups: np.ndarray | None = None,
    n_resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 42,
    progress: bool = True,
) -> pd.DataFrame:
    """Train the baseline on rows with and without changed copies of them; compare macro F1.

    Parameters
    ----------
    parents : the training rows, with `text` and `label`
    held_out : the rows that all are scored on, with `text` and `label`
    copies : with `method`, `text` and `label`
    groups : of the held-out rows; the bootstrap draws rows of a group together

    Returns
    -------
    DataFrame indexed by method, and `all together` where there are several: `n_texts` (copies) and
    the columns of `significance.paired_tests`, gains over the parents alone. They vary over the
    held-out rows, not over the draw of copies.
    """
    added = {method: copies[copies["method"] == method] for method in copies["method"].unique()}
    if len(added) > 1:
        added["all together"] = copies
    classes = np.unique([*parents["label"], *held_out["label"]])
    predicted = []
    fits = tqdm(
        [copies.head(0), *added.values()], "baseline with copies", unit="fit", disable=not progress
    )
    for extra in fits:
        texts = [*parents["text"], *extra["text"]]
        model = fit_baseline(texts, [*parents["label"], *extra["label"]], seed=seed)
        predicted.append(_predicted_codes(model, held_out["text"].tolist(), classes))
    table = paired_tests(
        np.searchsorted(classes, held_out["label"].to_numpy().astype(str)),
        predicted[0],
        dict(zip(added, predicted[1:])),
        groups=groups,
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )
    table.insert(0, "n_texts", [len(extra) for extra in added.values()])
    return table.rename_axis("method")


@dataclass(frozen=True)
class LeakageInflation:
    """By how much near-copies of training rows in the test set raise the baseline's accuracy.

    Attributes
    ----------
    n_leaked, n_test : test rows with a near-copy in training, and all test rows
    right_leaked, right_others : shares of them and of the others that are predicted correctly,
        0..1; NaN where there are none
    inflation : accuracy on all test rows minus that on those without a copy; None where all have
        one
    """

    n_leaked: int
    n_test: int
    right_leaked: float
    right_others: float
    inflation: Interval | None

    def describe(self) -> str:
        """Return in sentences how many test rows are leaked and what they add to the accuracy."""
        leaked = (
            f"{self.n_leaked:,} of {self.n_test:,} test rows of the random split have a near-copy "
            "in training"
        )
        if self.inflation is None or not self.n_leaked:
            return f"{leaked}: there is nothing to compare."
        return (
            f"{leaked}. The baseline is right on {self.right_leaked:.1%} of these and "
            f"{self.right_others:.1%} of the others: the leaks add {self.inflation} to accuracy."
        )


def leakage_inflation(
    texts: Sequence[str],
    labels: Sequence[str],
    split: Sequence[str],
    leaked: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 42,
    progress: bool = True,
    **options: Any,
) -> LeakageInflation:
    """Measure by how much test rows with a near-copy in training inflate the baseline's accuracy.

    Parameters
    ----------
    texts, labels, split : n rows, split into "train" and "test" (others are left out)
    leaked : ndarray of bool of shape (n,), the test rows with a near-copy in training
    groups : ndarray of shape (n,); the bootstrap draws rows of a group together
    options : of `significance.intervals_of`: `n_resamples`, `confidence`
    """
    rows = pd.DataFrame({"text": list(texts), "label": list(labels), "leaked": leaked})
    part = np.asarray(split, dtype=object)
    train = rows[part == "train"]
    test = rows[part == "test"]
    model = fit_baseline(
        train["text"].tolist(), train["label"].tolist(), seed=seed, progress=progress
    )
    right = (model.predict(test["text"].tolist()) == test["label"].to_numpy()).astype(float)
    seen = test["leaked"].to_numpy()
    plan = draws(len(right), groups=None if groups is None else groups[part == "test"])

    def inflation(weights: np.ndarray) -> np.ndarray:
        others = weighted_mean(weights[:, ~seen], right[~seen])
        return (weighted_mean(weights, right) - others)[:, None]

    interval = None
    if not seen.all():
        (interval,) = intervals_of(inflation, plan, seed=seed, **options)
    return LeakageInflation(
        n_leaked=int(seen.sum()),
        n_test=len(test),
        right_leaked=_share(right[seen]),
        right_others=_share(right[~seen]),
        inflation=interval,
    )


def _share(right: np.ndarray) -> float:
    return float(right.mean()) if len(right) else float("nan")


def save_baseline(model: Pipeline, folder: Path, *, key: str = "") -> None:
    """Write a fitted baseline, of either kind, as JSON and safetensors: no pickle that runs code.

    Parameters
    ----------
    key : of what the baseline was fitted on; written with it
    """
    from safetensors.numpy import save_file

    tfidf = model[0]
    linear = model[-1]
    coef, intercept = _linear_form(linear)
    terms = sorted(tfidf.vocabulary_, key=tfidf.vocabulary_.__getitem__)
    facts = {"classes": list(linear.classes_), "key": key, "terms": terms}
    facts["analyzer"] = tfidf.analyzer.__name__
    weights = {
        "idf": tfidf.idf_,
        "coef": np.ascontiguousarray(coef),  # in column order as fitted
        "intercept": np.ascontiguousarray(intercept),
    }
    with workspace.atomic_path(folder) as scratch:
        scratch.mkdir()
        workspace.write_json(facts, scratch / "baseline.json")
        save_file(weights, scratch / "weights.safetensors")


def _linear_form(model: LogisticRegression | MultinomialNB) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients and intercept as a regression has them.

    Naive Bayes is linear in the log-odds too.
    """
    if isinstance(model, LogisticRegression):
        return model.coef_, model.intercept_
    coef, intercept = model.feature_log_prob_, model.class_log_prior_
    return (coef, intercept) if len(coef) > 2 else (np.diff(coef, axis=0), np.diff(intercept))


def load_baseline(folder: Path) -> Pipeline:
    """Read a baseline that `save_baseline` wrote; it predicts as the fitted one did."""
    from safetensors.numpy import load_file

    facts = workspace.read_json(folder / "baseline.json")
    weights = load_file(folder / "weights.safetensors")
    # a baseline that was saved before there were two analyzers has "terms"
    analyzer = facts.get("analyzer", "terms")
    tfidf = restored_tfidf(analyzer, terms=facts["terms"], idf=weights["idf"])
    linear = LogisticRegression()
    linear.classes_ = np.array(facts["classes"], dtype=object)
    linear.coef_ = weights["coef"]
    linear.intercept_ = weights["intercept"]
    return Pipeline([("tfidf", tfidf), ("linear", linear)])
