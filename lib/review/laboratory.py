"""The label-error laboratory: noise planted in the user's own labels, what each detector finds of it, what that is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.base import ClassifierMixin, clone
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize
from tqdm import tqdm

from lib.errors import WorkbookError
from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance import gain_over_seeds, student_interval
from lib.review.labels import confusion_rates, inject_label_noise, rank_label_issues
from lib.review.review_budget import hits_by_depth
from lib.training.baseline import SMOOTHING

PLAIN, BAYES, COMBINED = "TF-IDF", "TF-IDF: naive Bayes", "combined"
MAX_TERMS, N_TOPICS, N_NEIGHBOURS = 50_000, 100, 15
MAX_REFERENCES = (
    20_000  # neighbours are looked for among that many rows, so that time grows with the rows alone
)
_GROUP_SLACK = 10  # near-copies of a row that may be among its nearest rows, and do not count
_DETECTION = {
    "kind": str,
    "rate": float,
    "seed": int,
    "detector": str,
    "n_planted": int,
    "auprc": float,
    "precision": float,
    "recall": float,
}
NOT_MEASURED = pd.DataFrame(
    {column: pd.Series(dtype=kind) for column, kind in _DETECTION.items()}
)  # `Findings.detection` of a laboratory that is off


@dataclass(frozen=True)
class Findings:
    """What the laboratory found.

    Attributes
    ----------
    detection : one row a kind of noise, rate, seed and detector: `n_planted`, `auprc` (area under precision against recall,
        0..1), and `precision` and `recall` of the first `depth` of the rows
    effect : what is done with the flagged rows (index): `macro_f1` of the baseline on clean rows, `gain` over leaving them
        with `low`, `high` and `verdict`
    depth : share of the rows that are flagged in `detection`, 0..1
    effect_rate : rate of the noise behind `effect`; as many rows are flagged
    n_rows, n_held_out : rows that noise was planted in, and clean rows that `effect` is measured on
    depths : of the confusable noise, one row a rate, seed, detector and `depth` (share of the rows): `precision` and `recall` of
        the rows down to there
    """

    detection: pd.DataFrame
    effect: pd.DataFrame
    depth: float
    effect_rate: float
    n_rows: int
    n_held_out: int
    depths: pd.DataFrame = field(default_factory=pd.DataFrame)


def encoder_vectors(
    name: str, texts: Sequence[str], *, max_length: int, progress: bool = True
) -> np.ndarray:
    """Return a backbone's vector for each text, from its first `max_length` tokens: ndarray of shape (n, hidden), rows of unit length."""
    from lib.training import (  # torch takes seconds to load, and not every run asks for an encoder
        backbones,
        finetune,
    )

    tokenizer, model = backbones.load_backbone(name, class_names=["0", "1"])  # the head is not used
    return finetune.embed(tokenizer, model, texts, max_length=max_length, progress=progress)


def views(
    texts: Sequence[str], *, vectors: np.ndarray | None = None, seed: int = 42
) -> dict[str, Any]:
    """Return the texts as matrices that no label has shaped: TF-IDF, its leading topics, and an encoder's vectors where given.

    Parameters
    ----------
    vectors : ndarray of shape (n, hidden), for instance of `encoder_vectors`

    Returns
    -------
    name -> matrix of shape (n, features): `TF-IDF` (sparse), `topics` (latent semantic analysis), `encoder`
    """
    min_df = 2 if len(texts) >= 500 else 1
    words = TfidfVectorizer(
        ngram_range=(1, 2),
        min_df=min_df,
        max_features=MAX_TERMS,
        sublinear_tf=True,
        dtype=np.float32,
    ).fit_transform(texts)
    n_topics = min(N_TOPICS, min(words.shape) - 1)
    found = {
        PLAIN: words,
        "topics": normalize(TruncatedSVD(n_topics, random_state=seed).fit_transform(words)),
    }
    return found if vectors is None else {**found, "encoder": normalize(vectors)}


def judge(
    views: dict[str, Any],
    labels: np.ndarray,
    groups: np.ndarray,
    *,
    n_classes: int,
    fitted: np.ndarray | None = None,
    folds: int = 5,
    seed: int = 42,
) -> dict[str, np.ndarray]:
    """Return what each detector thinks of each row: probabilities of the classes, from models that did not see the row or a near-copy.

    A logistic regression on each view, out of fold; on TF-IDF also naive Bayes, which errs differently; on dense views also the
    labels of the nearest rows; and the mean of all but the neighbours among topics.

    Parameters
    ----------
    views : name -> matrix of shape (n, features); no value of TF-IDF is below 0
    labels : ndarray of int of shape (n,), 0..n_classes - 1
    groups : ndarray of shape (n,); rows with one number are near-copies
    fitted : ndarray of bool of shape (n,): rows that teach; the others are judged by models of all that teach. None: all teach

    Returns
    -------
    detector -> ndarray of float64 of shape (n, n_classes), rows summing to 1

    Source
    ------
    Northcutt, Jiang, Chuang 2021, "Confident Learning"; Zhu, Dong, Liu 2022, "Detecting Corrupted Labels Without Training a Model to
    Predict" (neighbours).
    """
    teaches = np.ones(len(labels), dtype=bool) if fitted is None else fitted
    regression = LogisticRegression(C=10, max_iter=200, random_state=seed)
    probs: dict[str, np.ndarray] = {}
    for name, matrix in views.items():
        probs[name] = _out_of_fold(
            regression, matrix, labels, groups, teaches, n_classes=n_classes, folds=folds, seed=seed
        )
        if name == PLAIN:
            bayes = MultinomialNB(alpha=SMOOTHING)
            probs[BAYES] = _out_of_fold(
                bayes, matrix, labels, groups, teaches, n_classes=n_classes, folds=folds, seed=seed
            )
        else:
            probs[f"{name}: neighbours"] = _neighbours(
                matrix, labels, groups, teaches, n_classes=n_classes, seed=seed
            )
    members = [
        each for name, each in probs.items() if name != "topics: neighbours"
    ]  # which made the mean worse on newsgroups
    return {**probs, COMBINED: np.mean(members, axis=0)}


def doubt(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return 1 minus the probability of the given label, ndarray of shape (n,), 0..1: higher is more doubtful."""
    return 1 - probs[np.arange(len(labels)), labels]


def draw_sample(known: pd.DataFrame, n_rows: int, *, folds: int = 5, seed: int = 42) -> np.ndarray:
    """Draw the rows that the laboratory works on: each label in each split keeps its share, and none is lost.

    Parameters
    ----------
    known : with `label` and `split`: `train` teaches, all others are held out
    n_rows : of the sample; of fewer rows all are taken
    folds : rows of each label that training needs

    Returns
    -------
    ndarray of int, positions in `known`, rising

    Raises
    ------
    WorkbookError : the sample is too small for a training row of each label in each fold and one validation row of each label, or
        the data has no validation row, or training rows of one label alone.
    """
    teaches = known["split"].eq("train").to_numpy()
    n_classes = known["label"].nunique()
    least = min((folds + 1) * n_classes, len(known))
    if n_rows < least:
        raise WorkbookError(
            f"labels.lab_rows={n_rows} is too few for {n_classes} labels in {folds} folds: {least} is the least, 0 leaves the laboratory out"
        )
    if teaches.all() or known.loc[teaches, "label"].nunique() < 2:
        there = f"there are {(~teaches).sum()} and {teaches.sum()} of {known.loc[teaches, 'label'].nunique()}"
        raise WorkbookError(
            f"labels.lab_rows={n_rows}: it takes validation rows, and training rows of two labels; {there}; 0 leaves the laboratory out"
        )
    drawn = (
        known[["label", "split"]]
        .assign(place=np.arange(len(known)), teaches=teaches)
        .sample(frac=1, random_state=seed)
    )
    strata = drawn.groupby(["label", "split"], sort=False)["place"]
    rank, size = strata.cumcount().to_numpy(), strata.transform("size").to_numpy()
    due = (
        rank + np.random.default_rng(seed).random(len(drawn))
    ) / size  # the first of each stratum come soonest, in step with its size
    due[rank < np.where(drawn["teaches"], folds, 1)] -= 1  # before all others
    return np.sort(drawn["place"].to_numpy()[np.argsort(due, kind="stable")[:n_rows]])


def label_laboratory(
    views: dict[str, Any],
    labels: np.ndarray,
    groups: np.ndarray,
    held_out: np.ndarray,
    *,
    n_classes: int,
    rates: Sequence[float],
    n_seeds: int,
    depth: float,
    folds: int = 5,
    seed: int = 42,
    progress: bool = True,
) -> Findings:
    """Plant noise in labels, let each detector look for it, and train on what is left.

    Two kinds of noise: `confusable` goes to classes in proportion to how the TF-IDF model confuses them, `uniform` to any other
    class. Errors that the labels had before count as false alarms, so that precision is a lower bound.

    Parameters
    ----------
    views : from `views`, of n rows
    labels : ndarray of int of shape (n,)
    groups : ndarray of shape (n,); rows with one number are near-copies
    held_out : ndarray of bool of shape (n,): rows whose labels stay clean, for measuring what reviewing is worth
    rates : shares of labels that are made wrong; `effect` is measured at the largest
    depth : share of the rows that a person would look at
    """
    # a word of one text tells nothing, and every column costs the regression time
    views = {
        name: matrix[:, matrix.getnnz(axis=0) > 1] if issparse(matrix) else matrix
        for name, matrix in views.items()
    }
    plain = {PLAIN: views[PLAIN]}
    own = judge(
        plain, labels, groups, n_classes=n_classes, fitted=~held_out, folds=folds, seed=seed
    )[PLAIN]
    rows = np.flatnonzero(~held_out)
    confusion = {"confusable": confusion_rates(labels[rows], own[rows]), "uniform": None}
    cases = [(kind, rate, seed + i) for kind in confusion for rate in rates for i in range(n_seeds)]
    detection, depths, noisy_runs = [], [], {}
    for kind, rate, case_seed in tqdm(cases, "label laboratory", unit="case", disable=not progress):
        noisy, planted = labels.copy(), np.zeros(len(labels), dtype=bool)
        noisy[rows], planted[rows] = inject_label_noise(
            labels[rows], rate=rate, n_classes=n_classes, confusion=confusion[kind], seed=case_seed
        )
        probs = judge(
            views, noisy, groups, n_classes=n_classes, fitted=~held_out, folds=folds, seed=case_seed
        )
        for detector, each in probs.items():
            doubts = doubt(each[rows], noisy[rows])
            detection.append(
                (kind, rate, case_seed, detector, *_found(doubts, planted[rows], depth=depth))
            )
            if kind == "confusable":
                depths.append(
                    hits_by_depth(doubts, planted[rows]).assign(
                        kind=kind, rate=rate, seed=case_seed, detector=detector
                    )
                )
        if (kind, rate) == ("confusable", max(rates)):
            noisy_runs[case_seed] = (noisy, probs)
    table = pd.DataFrame(detection, columns=list(_DETECTION))
    effect = _effect(
        views[PLAIN],
        labels,
        held_out,
        noisy_runs,
        detector=best_detector(table),
        rate=max(rates),
        seed=seed,
    )
    return Findings(
        table,
        effect,
        depth,
        max(rates),
        len(rows),
        int(held_out.sum()),
        pd.concat(depths, ignore_index=True),
    )


def nearest_rows(
    matrix: Any, wanted: Sequence[int], groups: np.ndarray, *, n: int = 3
) -> dict[int, list[int]]:
    """Return for each wanted row the `n` rows nearest to it that are no near-copies, nearest first (all are numbers of rows of `matrix`)."""
    if not len(wanted):
        return {}
    search = NearestNeighbors(
        n_neighbors=min(n + 1 + _GROUP_SLACK, matrix.shape[0]), metric="cosine"
    ).fit(matrix)
    nearest = search.kneighbors(matrix[list(wanted)], return_distance=False)
    return {
        row: [int(i) for i in near if groups[i] != groups[row]][:n]
        for row, near in zip(wanted, nearest)
    }


def neighbours_of(
    queue: pd.DataFrame,
    known: pd.DataFrame,
    views: dict[str, Any],
    groups: np.ndarray,
    *,
    n: int = 3,
) -> dict[int, list[tuple[str, str]]]:
    """Return the texts and labels that are nearest to each queued row by TF-IDF, nearest first, near-copies left out.

    Parameters
    ----------
    queue : with `row_id`; rows that are not in `known` are left out
    known : with `row_id`, `text` and `label`, rows as in `views` and `groups`
    """
    places = pd.Series(np.arange(len(known)), index=known["row_id"])
    near = nearest_rows(
        views[PLAIN], places[places.index.intersection(queue["row_id"])].tolist(), groups, n=n
    )
    texts, labels, ids = known["text"].tolist(), known["label"].tolist(), known["row_id"].tolist()
    return {int(ids[row]): [(texts[i], labels[i]) for i in found] for row, found in near.items()}


def rank_rows(
    known: pd.DataFrame, probs: np.ndarray, *, class_names: Sequence[str]
) -> pd.DataFrame:
    """Rank rows by how wrong their label looks; each split has thresholds of its own, for other models have judged it.

    Parameters
    ----------
    known : with `row_id`, `label` and `split`
    probs : ndarray of shape (n, k), of `judge`

    Returns
    -------
    DataFrame with `row_id`, `score`, `suggestion` and `is_issue` as of `labels.rank_label_issues`, worst first
    """
    ranked = []
    for split in known["split"].unique():
        place = np.flatnonzero(known["split"] == split)
        found = rank_label_issues(
            known["label"].iloc[place].tolist(), probs[place], class_names=class_names
        )
        ranked.append(found.assign(row_id=known["row_id"].to_numpy()[place][found["row"]]))
    columns = ["row_id", "score", "suggestion", "is_issue"]
    return pd.concat(ranked)[columns].sort_values(
        "score", ascending=False, kind="stable", ignore_index=True
    )


def best_detector(detection: pd.DataFrame) -> str:
    """Return the detector with the highest mean AUPRC over all kinds, rates and seeds."""
    return str(detection.groupby("detector", sort=False)["auprc"].mean().idxmax())


def with_intervals(
    detection: pd.DataFrame, measure: str, *, confidence: float = 0.95
) -> pd.DataFrame:
    """Return the mean of a measure over seeds with Student's interval, one row a kind, rate and detector.

    Returns
    -------
    DataFrame with `kind`, `rate`, `detector`, `value`, `low`, `high` (clipped to 0..1)
    """
    by_case = (
        detection.groupby(["kind", "rate", "detector"], sort=False)[measure]
        .agg(["mean", "std", "count"])
        .reset_index()
    )
    by_case["error"] = by_case["std"] / np.sqrt(by_case["count"])
    intervals = [
        student_interval(mean, error, n_values=n, n=n, confidence=confidence, bounds=(0, 1))
        for mean, error, n in zip(by_case["mean"], by_case["error"], by_case["count"])
    ]
    return by_case[["kind", "rate", "detector"]].assign(
        value=by_case["mean"],
        low=[interval.low for interval in intervals],
        high=[interval.high for interval in intervals],
    )


def summary(findings: Findings) -> str:
    """Say in words which detector is best, and what it finds; `depth.summary` says what that means for a queue."""
    detector = best_detector(findings.detection)
    confusable = findings.detection[
        (findings.detection["kind"] == "confusable") & (findings.detection["detector"] == detector)
    ]
    precision = with_intervals(confusable, "precision").set_index("rate")
    told = [
        f"{row.value:.0%} [{row.low:.0%}, {row.high:.0%}] if {rate:.0%} of the labels are wrong"
        for rate, row in precision.iterrows()
    ]
    found, n_seeds = (
        findings.detection.groupby("detector")["auprc"].mean(),
        findings.detection["seed"].nunique(),
    )
    return (
        f"The best detector here is {detector!r}: mean AUPRC {found[detector]:.3f}, plain TF-IDF {found[PLAIN]:.3f}. "
        f"Of the first {findings.depth:.1%} of the rows real errors are: {'; '.join(told)}. "
        f"Measured on {findings.n_rows:,} rows with planted errors that are easily confused, {n_seeds} seeds."
    )


def _out_of_fold(
    untrained: ClassifierMixin,
    matrix: Any,
    labels: np.ndarray,
    groups: np.ndarray,
    teaches: np.ndarray,
    *,
    n_classes: int,
    folds: int,
    seed: int,
) -> np.ndarray:
    probs, rows = np.zeros((len(labels), n_classes)), np.flatnonzero(teaches)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    parts = [
        (rows[train], rows[judged])
        for train, judged in splitter.split(rows, labels[rows], groups[rows])
    ]
    if not teaches.all():
        parts.append((rows, np.flatnonzero(~teaches)))
    for train, judged in parts:
        model = clone(untrained).fit(matrix[train], labels[train])
        probs[np.ix_(judged, model.classes_)] = model.predict_proba(matrix[judged])
    return probs / probs.sum(
        axis=1, keepdims=True
    )  # of float32 features they sum to 1 in float32 alone


def _neighbours(
    matrix: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    teaches: np.ndarray,
    *,
    n_classes: int,
    seed: int,
) -> np.ndarray:
    rows = np.flatnonzero(teaches)
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MAX_REFERENCES])
    wanted = min(N_NEIGHBOURS + 1 + _GROUP_SLACK, len(rows))
    nearest = rows[
        NearestNeighbors(n_neighbors=wanted)
        .fit(matrix[rows])
        .kneighbors(matrix, return_distance=False)
    ]
    counts = groups[nearest] != groups[:, None]  # neither the row itself nor a near-copy
    counts &= counts.cumsum(axis=1) <= N_NEIGHBOURS
    prior = np.bincount(labels[rows], minlength=n_classes) / len(rows)
    votes = (
        np.stack([((labels[nearest] == c) & counts).sum(axis=1) for c in range(n_classes)], axis=1)
        + prior
    )
    return votes / votes.sum(axis=1, keepdims=True)


def _found(
    doubts: np.ndarray, planted: np.ndarray, *, depth: float
) -> tuple[int, float, float, float]:
    n_flags = max(1, round(depth * len(doubts)))
    hits = planted[np.argsort(-doubts, kind="stable")[:n_flags]].sum()
    return (
        int(planted.sum()),
        float(average_precision_score(planted, doubts)),
        float(hits / n_flags),
        float(hits / planted.sum()),
    )


def _effect(
    words: Any,
    labels: np.ndarray,
    held_out: np.ndarray,
    runs: dict[int, Any],
    *,
    detector: str,
    rate: float,
    seed: int,
) -> pd.DataFrame:
    """Train on noisy labels, and on them without, or with other labels in, the flagged rows; as many are flagged as were planted."""
    rows, y = np.flatnonzero(~held_out), labels[held_out]
    predicted: dict[str, list[np.ndarray]] = {}
    for case_seed, (noisy, probs) in runs.items():
        order = rows[np.argsort(-doubt(probs[detector][rows], noisy[rows]), kind="stable")]
        flagged = np.isin(np.arange(len(labels)), order[: max(1, round(rate * len(rows)))])
        suggested = np.where(flagged, probs[detector].argmax(axis=1), noisy)
        ways = {
            "flagged rows left as they are": (rows, noisy),
            "flagged rows removed": (rows[~flagged[rows]], noisy),
            "flagged rows relabelled by the detector": (rows, suggested),
            "flagged rows reviewed by a person who is always right": (
                rows,
                np.where(flagged, labels, noisy),
            ),
            "no noise at all": (rows, labels),
        }
        for way, (train, given) in ways.items():
            model = LogisticRegression(C=10, max_iter=200, random_state=case_seed).fit(
                words[train], given[train]
            )
            predicted.setdefault(way, []).append(model.predict(words[held_out]))
    k, table = int(labels.max()) + 1, []
    left = np.stack(predicted["flagged rows left as they are"])
    for way, each in predicted.items():
        gain = gain_over_seeds(y, left, np.stack(each), seed=seed)
        table.append(
            (
                way,
                float(np.mean([macro_f1(y, one, n_classes=k) for one in each])),
                gain.value,
                gain.low,
                gain.high,
                gain.verdict,
            )
        )
    return pd.DataFrame(
        table, columns=["way", "macro_f1", "gain", "low", "high", "verdict"]
    ).set_index("way")
