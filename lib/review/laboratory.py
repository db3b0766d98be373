"""The label-error laboratory: which detector finds errors injected in the user's own labels.

It also measures what it is worth to remove, relabel or review what a detector flags.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.metrics import average_precision_score
from tqdm import tqdm

from lib.config import LabelsConfig
from lib.errors import WorkbookError
from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance import (
    Interval,
    gain_over_seeds,
    share_interval,
    student_interval,
)
from lib.review.detectors import (
    TFIDF,
    detector_probs,
    label_error_score,
    linear_model,
    out_of_bag_probs,
)
from lib.review.issues import inject_label_noise

_DETECTION_TYPES = {
    "kind": str,
    "rate": float,
    "seed": int,
    "detector": str,
    "n_planted": int,
    "auprc": float,
    "precision": float,
    "recall": float,
}
# `Findings.detection` of a laboratory that is off
NOT_MEASURED = pd.DataFrame(
    {column: pd.Series(dtype=dtype) for column, dtype in _DETECTION_TYPES.items()}
)
AMBIGUOUS = "ambiguous"
UNTREATED = "flagged rows left as they are"


@dataclass(frozen=True)
class LaboratorySettings:
    """What the laboratory does.

    Attributes
    ----------
    rates : shares of labels that are made wrong, 0..1; `Findings.effect` is measured at the largest
    n_seeds : repetitions of each kind and rate
    depth : share of the rows that a person would review, 0..1
    folds : of the detectors
    """

    rates: tuple[float, ...]
    n_seeds: int
    depth: float
    folds: int = 5
    seed: int = 42


@dataclass(frozen=True)
class Findings:
    """What the laboratory measured.

    Attributes
    ----------
    detection : one row for each kind of noise, rate, seed and detector: `n_planted` (wrong labels),
        `auprc` (area under precision against recall, 0..1), and `precision` and `recall` of the
        first `depth` of the rows
    effect : what is done with the flagged rows (index): `macro_f1` of the baseline on clean rows,
        `gain` over leaving them with `low`, `high` and `verdict`
    depth : share of the rows that are flagged in `detection`, 0..1
    effect_rate : rate of the noise behind `effect`; as many rows are flagged
    n_rows : rows that noise was injected in
    n_held_out : clean rows that `effect` is measured on
    """

    detection: pd.DataFrame
    effect: pd.DataFrame
    depth: float
    effect_rate: float
    n_rows: int
    n_held_out: int

    @property
    def n_seeds(self) -> int:
        """The number of repetitions."""
        return self.detection["seed"].nunique()


def run_laboratory(
    rows: pd.DataFrame,
    views: dict[str, Any],
    *,
    class_names: list[str],
    settings: LabelsConfig,
    seed: int,
) -> Findings | None:
    """Run the laboratory on a sample of the rows, as the settings say; None where they say no.

    Parameters
    ----------
    rows : with `label`, `group` and `split`: models are trained on `train`, others are held out
    views : from `detectors.text_views`, of these rows
    """
    if settings.lab_rows == 0:
        return None
    drawn = draw_sample(rows, settings.lab_rows, folds=settings.folds, seed=seed)
    sample = rows.iloc[drawn]
    depth = min(1.0, settings.queue_rows / len(rows))
    return label_laboratory(
        {name: matrix[drawn] for name, matrix in views.items()},
        pd.Categorical(sample["label"], categories=class_names).codes.astype(int),
        sample["group"].to_numpy(),
        sample["split"].ne("train").to_numpy(),
        n_classes=len(class_names),
        settings=LaboratorySettings(
            settings.lab_rates, settings.lab_seeds, depth, folds=settings.folds, seed=seed
        ),
    )


def draw_sample(rows: pd.DataFrame, n_rows: int, *, folds: int = 5, seed: int = 42) -> np.ndarray:
    """Draw the rows that the laboratory works on: each label in each split keeps its share.

    No label is lost.

    Parameters
    ----------
    rows : with `label` and `split`: models are trained on `train`, all others are held out
    n_rows : of the sample, which is larger where the labels need it; all are taken where there are
        fewer
    folds : rows of each label that training needs; validation needs one

    Returns
    -------
    ndarray of int, positions in `rows`, rising

    Raises
    ------
    WorkbookError : the data has no validation row, or training rows of one label alone.
    """
    in_train = rows["split"].eq("train").to_numpy()
    _check_splits(rows["label"], in_train)
    n_rows = max(n_rows, (folds + 1) * rows["label"].nunique())
    shuffled = rows[["label", "split"]].assign(position=np.arange(len(rows)), in_train=in_train)
    shuffled = shuffled.sample(frac=1, random_state=seed)
    strata = shuffled.groupby(["label", "split"], sort=False)["position"]
    rank = strata.cumcount().to_numpy()
    size = strata.transform("size").to_numpy()
    # The first rows of each stratum come soonest, in proportion to its size ...
    priority = (rank + np.random.default_rng(seed).random(len(rows))) / size
    # ... and those that training and validation need come before all others.
    priority[rank < np.where(shuffled["in_train"], folds, 1)] -= 1
    first = np.argsort(priority, kind="stable")[:n_rows]
    return np.sort(shuffled["position"].to_numpy()[first])


def _check_splits(labels: pd.Series, in_train: np.ndarray) -> None:
    n_train_classes = labels[in_train].nunique()
    if in_train.all() or n_train_classes < 2:
        raise WorkbookError(
            "labels.lab_rows: the laboratory needs validation rows, and training rows of at least "
            f"two labels; there are {(~in_train).sum()} validation rows, and "
            f"{in_train.sum()} training rows with {n_train_classes} labels; "
            "0 turns the laboratory off"
        )


def label_laboratory(
    views: dict[str, Any],
    labels: np.ndarray,
    groups: np.ndarray,
    held_out: np.ndarray,
    *,
    n_classes: int,
    settings: LaboratorySettings,
) -> Findings:
    """Inject noise in labels, let each detector search for it, and train on what is left.

    Two kinds of noise: `ambiguous` goes to texts between classes, as a random forest sees them,
    which is none of the detectors; `uniform` goes to any text. Errors that the labels had before
    count as false alarms, so that precision is a lower bound.

    Parameters
    ----------
    views : from `detectors.text_views`, of n rows
    labels : ndarray of int of shape (n,)
    groups : ndarray of shape (n,); rows with one number are near-copies
    held_out : ndarray of bool of shape (n,): rows whose labels stay clean, for measuring what
        reviewing is worth
    """
    views = {name: _without_rare_terms(matrix) for name, matrix in views.items()}
    rows = np.flatnonzero(~held_out)
    predict = partial(
        detector_probs, groups=groups, n_classes=n_classes, fitted=~held_out, folds=settings.folds
    )
    tfidf = views[TFIDF]
    teacher = out_of_bag_probs(
        views["topics"][rows], labels[rows], n_classes=n_classes, seed=settings.seed
    )
    teachers = {AMBIGUOUS: teacher, "uniform": None}
    cases = list(product(teachers, settings.rates, range(settings.n_seeds)))
    effect_rate = max(settings.rates)
    detection = []
    noisy_runs = {}
    for kind, rate, i in tqdm(cases, "label laboratory", unit="case"):
        seed = settings.seed + i
        noisy = labels.copy()
        noisy[rows], is_wrong = inject_label_noise(
            labels[rows], rate=rate, n_classes=n_classes, probs=teachers[kind], seed=seed
        )
        probs = predict(views, noisy, seed=seed)
        for detector in probs:
            case = {"kind": kind, "rate": rate, "seed": seed, "detector": detector}
            scores = label_error_score(probs[detector][rows], noisy[rows])
            detection.append(case | _detection_metrics(scores, is_wrong, depth=settings.depth))
        if kind == AMBIGUOUS and rate == effect_rate:
            noisy_runs[seed] = (noisy, probs)
    table = pd.DataFrame(detection)
    best = best_detector(table)
    effect = _treatment_gains(
        tfidf, labels, held_out, noisy_runs, detector=best, rate=effect_rate, seed=settings.seed
    )
    return Findings(
        detection=table,
        effect=effect,
        depth=settings.depth,
        effect_rate=effect_rate,
        n_rows=len(rows),
        n_held_out=int(held_out.sum()),
    )


def best_detector(detection: pd.DataFrame) -> str:
    """Return the detector with the highest mean AUPRC over all kinds, rates and seeds.

    Plain TF-IDF is preferred unless the other's gain is significant: Student's 95 % interval over
    the cases excludes 0.
    """
    auprc = detection.pivot(index=["kind", "rate", "seed"], columns="detector", values="auprc")
    best = str(auprc.mean().idxmax())
    gains = auprc[best] - auprc[TFIDF]
    interval = student_interval(gains.mean(), gains.sem(), n_values=len(gains), n=len(gains))
    return best if interval.low > 0 else TFIDF


def with_intervals(detection: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the mean of a measure over seeds with Student's 95 % interval.

    Returns
    -------
    DataFrame with `kind`, `rate`, `detector`, `value`, `low`, `high` (clipped to 0..1)
    """
    table = []
    for case, values in detection.groupby(["kind", "rate", "detector"], sort=False)[measure]:
        interval = _mean_over_seeds(values)
        table.append((*case, interval.value, interval.low, interval.high))
    return pd.DataFrame(table, columns=["kind", "rate", "detector", "value", "low", "high"])


def _mean_over_seeds(shares: pd.Series) -> Interval:
    """Return the mean of shares with Student's interval."""
    n = len(shares)
    return student_interval(shares.mean(), shares.sem(), n_values=n, n=n, bounds=(0, 1))


def flagged_share(precision: pd.Series, *, n_flags: int) -> Interval:
    """Return the mean share of errors among the flags of each seed, with a 95 % interval.

    It is Student's over seeds, at least as wide as Wilson's of all their flags: seeds that agree by
    chance do not make it certain.
    """
    over_seeds = _mean_over_seeds(precision)
    n = n_flags * len(precision)
    over_flags = share_interval(round(precision.sum() * n_flags), n)
    low = min(over_seeds.low, over_flags.low)
    return replace(over_seeds, low=low, high=max(over_seeds.high, over_flags.high))


def n_flagged(n_rows: int, depth: float) -> int:
    """Return how many rows are flagged if the first `depth` (0..1) of them are."""
    return max(1, round(depth * n_rows))


def describe(findings: Findings | None) -> str:
    """Say which detector is best and what it finds of injected errors."""
    if findings is None:
        return "The laboratory is off (labels.lab_rows is 0)."
    detection = findings.detection
    best = best_detector(detection)
    auprc = detection.groupby("detector")["auprc"].mean()
    of_best = detection[detection["kind"].eq(AMBIGUOUS) & detection["detector"].eq(best)]
    shares = []
    for rate, precision in of_best.groupby("rate")["precision"]:
        share = flagged_share(precision, n_flags=n_flagged(findings.n_rows, findings.depth))
        shares.append(f"{share.percent()} if {rate:.0%} of the labels are wrong")
    return (
        f"The best detector here is {best!r}: mean AUPRC {auprc[best]:.3f}, "
        f"plain TF-IDF {auprc[TFIDF]:.3f}. "
        f"Of the first {findings.depth:.1%} of the rows injected errors are: {'; '.join(shares)}. "
        f"Measured on {findings.n_rows:,} rows with injected errors in texts between classes, "
        f"{findings.n_seeds} seeds."
    )


def gains_title(findings: Findings) -> str:
    """Return the title of a figure of the gains, with the rate of noise, rows and seeds."""
    return (
        f"What is done with flagged rows ({findings.effect_rate:.0%} of the labels wrong; "
        f"n = {findings.n_held_out:,} rows, {findings.n_seeds} seeds)"
    )


def describe_gains(findings: Findings | None) -> str:
    """Say what each treatment of flagged rows gains over leaving them as they are."""
    if findings is None:
        return "Not measured."
    gains = []
    for row in findings.effect.drop(UNTREATED).itertuples():
        interval = f"{row.gain:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
        gains.append(f"{row.Index}: {interval}, {row.verdict}")
    return f"Macro F1 against leaving the flagged rows: {'; '.join(gains)}."


def _without_rare_terms(matrix: Any) -> Any:
    """Drop terms of one text alone: they carry no information, and cost the regression time.

    Where no other term is left, all stay.
    """
    if not issparse(matrix):
        return matrix
    is_shared = matrix.getnnz(axis=0) > 1
    return matrix[:, is_shared] if is_shared.any() else matrix


def _detection_metrics(
    scores: np.ndarray, is_wrong: np.ndarray, *, depth: float
) -> dict[str, float]:
    first = np.argsort(-scores, kind="stable")[: n_flagged(len(scores), depth)]
    n_wrong = int(is_wrong.sum())
    n_hits = is_wrong[first].sum()
    return {
        "n_planted": n_wrong,
        "auprc": float(average_precision_score(is_wrong, scores)),
        "precision": float(n_hits / len(first)),
        "recall": float(n_hits / n_wrong),
    }


def _treatment_gains(
    tfidf: Any,
    labels: np.ndarray,
    held_out: np.ndarray,
    noisy_runs: dict[int, Any],
    *,
    detector: str,
    rate: float,
    seed: int,
) -> pd.DataFrame:
    """Train on noisy labels after each treatment of the flagged rows; measure on clean rows."""
    predictions: dict[str, list[np.ndarray]] = {}
    for run_seed, (noisy, probs) in noisy_runs.items():
        treated = _treatments(labels, noisy, probs[detector], np.flatnonzero(~held_out), rate=rate)
        for treatment, (train, targets) in treated.items():
            y_pred = _predicted(tfidf, train, targets, held_out, seed=run_seed)
            predictions.setdefault(treatment, []).append(y_pred)
    y_true = labels[held_out]
    n_classes = int(labels.max()) + 1
    untreated = np.stack(predictions[UNTREATED])
    table = {}
    for treatment, y_preds in predictions.items():
        gain = gain_over_seeds(y_true, untreated, np.stack(y_preds), seed=seed)
        f1 = np.mean([macro_f1(y_true, y_pred, n_classes=n_classes) for y_pred in y_preds])
        table[treatment] = (f1, gain.value, gain.low, gain.high, gain.verdict)
    columns = ["macro_f1", "gain", "low", "high", "verdict"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).rename_axis("treatment")


def _predicted(
    tfidf: Any, train: np.ndarray, targets: np.ndarray, held_out: np.ndarray, *, seed: int
) -> np.ndarray:
    """Return what the model of these rows predicts; where a treatment left one class, that one."""
    classes = np.unique(targets[train])
    if len(classes) == 1:
        return np.full(held_out.sum(), classes[0])
    return linear_model(seed).fit(tfidf[train], targets[train]).predict(tfidf[held_out])


def _treatments(
    labels: np.ndarray, noisy: np.ndarray, probs: np.ndarray, rows: np.ndarray, *, rate: float
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return training rows and labels after each treatment; as many are flagged as are wrong."""
    scores = label_error_score(probs[rows], noisy[rows])
    first = np.argsort(-scores, kind="stable")[: n_flagged(len(rows), rate)]
    flagged = np.zeros(len(labels), dtype=bool)
    flagged[rows[first]] = True
    relabelled = np.where(flagged, probs.argmax(axis=1), noisy)
    reviewed = np.where(flagged, labels, noisy)
    return {
        UNTREATED: (rows, noisy),
        "flagged rows removed": (rows[~flagged[rows]], noisy),
        "flagged rows relabelled by the detector": (rows, relabelled),
        "flagged rows reviewed by a person who is always right": (rows, reviewed),
        "no noise at all": (rows, labels),
    }
