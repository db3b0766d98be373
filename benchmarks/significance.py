"""Do the intervals and verdicts keep what they say? `python benchmarks/significance.py`.

1,000 test sets are drawn from models whose true scores are known: how often does a 95 % interval
hold the truth, and how often is one of
two equal models called better? Rows are hard or easy for both models, as real ones are. And: do
prediction sets hold what they promise?
"""

import os
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from joblib import Parallel, delayed
from scipy import special
from tqdm import tqdm

from lib.evaluation import calibration, selective, significance
from lib.evaluation.metrics import class_average_precisions
from lib.evaluation.significance.rare import average_precision_ends

N_DRAWS, N_ROWS, N_CLASSES, N_RESAMPLES = 1_000, 1_000, 5, 1_000
RECALL = np.array(
    [0.95, 0.90, 0.85, 0.80, 0.75]
)  # of each class; an error falls on the next class twice as often as on any other
COVERAGE = (
    "accuracy",
    "macro F1",
    "weighted F1",
    "balanced accuracy",
    "Matthews correlation",
    "F1 of a class",
    "Brier",
    "gain in macro F1",
    "copies in groups",
    "share (Wilson)",
)
SURE = 0.9


def main() -> None:
    found = Parallel(n_jobs=-1, return_as="generator")(
        delayed(draw)(seed) for seed in range(N_DRAWS)
    )
    rows = list(tqdm(found, "draws", N_DRAWS, unit="draw"))
    print(f"{N_DRAWS:,} draws of {N_ROWS:,} rows, {N_CLASSES} classes, {N_RESAMPLES:,} resamples")
    for name in COVERAGE:
        print(
            f"95 % interval of {name:<28} holds the truth in "
            f"{np.mean([row[name] for row in rows]):7.1%}   (93 to 97 %)"
        )
    blind = np.mean([row["copies, groups not told"] for row in rows])
    print(
        f"the same copies without saying which are:         {blind:17.1%}   (what groups are for)"
    )
    for name, bound in (
        ("better", "at most 5 %"),
        ("worse", "at most 5 %"),
        ("any of five better or worse", "at most 5 %"),
    ):
        print(
            f"verdict between equal models: {name:<28} "
            f"{np.mean([row[name] for row in rows]):12.1%}   ({bound})"
        )
    print(
        f"a true gain of {truth_of(0.03)['macro F1'] - truth_of(0)['macro F1']:.3f} is seen in "
        f"{np.mean([row['seen'] for row in rows]):7.1%}"
    )
    average_precision()
    conformal()
    calibration_error()
    speed()


def average_precision() -> None:
    probs, y = unsure(0, sharpen=1, n=1_000_000)
    truth = class_average_precisions(probs, y).mean()
    for n in (300, 1_000, 3_000):
        held = []
        for seed in range(N_DRAWS):
            probs, y = unsure(1 + seed, sharpen=1, n=n)
            areas = class_average_precisions(probs, y)
            low, high = average_precision_ends(y, areas, np.arange(n), confidence=0.95)
            held.append(low <= truth <= high)
        print(
            f"95 % intervals of average precision, n = {n:>5,}, truth {truth:.3f}: hold it in "
            f"{np.mean(held):6.1%}   (at least 95 %: the classes' ends at the same time)"
        )


def calibration_error() -> None:
    for sharpen in (1.0, 1.15, 1.5, 0.7):
        true = (
            0.0
            if sharpen == 1
            else calibration.debiased_calibration_error(
                *unsure(0, sharpen=sharpen, n=1_000_000)
            ).value
        )
        for n in (300, 1_000, 3_000):
            found = [
                calibration.debiased_calibration_error(*unsure(1 + seed, sharpen=sharpen, n=n))
                for seed in range(N_DRAWS)
            ]
            held = np.mean([each.low <= true <= each.high for each in found])
            print(
                f"95 % intervals of the debiased calibration error, n = {n:>5,}, true error "
                f"{true:.3f}: hold it in {held:6.1%}   (93 to 97 %)"
            )


def unsure(seed: int, *, sharpen: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities whose logarithms are `sharpen` times those of the truth, and classes."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, N_CLASSES)) + 1.5 * np.eye(N_CLASSES)[0]
    y = (special.softmax(logits, axis=1).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return special.softmax(logits * sharpen, axis=1), y


def conformal() -> None:
    for by_class in (False, True):
        for coverage in (0.80, 0.90, 0.95):
            held = [
                held_by_sets(seed, coverage=coverage, by_class=by_class) for seed in range(N_DRAWS)
            ]
            kind = "by class" if by_class else "over all texts"
            print(
                f"prediction sets that promise {coverage:.0%} {kind:<15} hold the truth in "
                f"{np.mean(held):7.2%}   (within 1 point)"
            )


def held_by_sets(seed: int, *, coverage: float, by_class: bool) -> float:
    """Return the share of 1,000 rows whose set holds their class, with thresholds from 1,000
    others; the model is too sure of itself."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, N_CLASSES, 2 * N_ROWS)
    odds = np.exp(
        3
        * (rng.normal(0, 1, (2 * N_ROWS, N_CLASSES)) + np.eye(N_CLASSES)[y] * (1 + y[:, None] / 2))
    )  # later classes are easier
    probs, known = odds / odds.sum(axis=1, keepdims=True), np.arange(2 * N_ROWS) < N_ROWS
    thresholds = selective.conformal_thresholds(
        probs[known], y[known], coverage=coverage, by_class=by_class
    )
    return float(
        selective.prediction_sets(probs[~known], thresholds)[np.arange(N_ROWS), y[~known]].mean()
    )


def speed() -> None:
    y, y_pred, _ = sample(np.random.default_rng(0), n=20_000)
    started = time.perf_counter()
    significance.class_f1_intervals(y, y_pred, n_classes=N_CLASSES, n_resamples=10_000)
    middle = time.perf_counter()
    significance.paired_test(y, y_pred, y, n_resamples=10_000)
    print(
        f"10,000 resamples of the classes' F1 on 20,000 rows: {middle - started:.1f} s; of a "
        f"paired test: {time.perf_counter() - middle:.1f} s   (5 s)"
    )


def confusions(lift: float) -> np.ndarray:
    """Return the probability of each prediction for each true class: ndarray of shape (k, k)."""
    recall, table = RECALL + lift, np.full((N_CLASSES, N_CLASSES), 1.0)
    for code in range(N_CLASSES):
        table[code, (code + 1) % N_CLASSES], table[code, code] = 2.0, 0.0
        table[code] *= (1 - recall[code]) / table[code].sum()
        table[code, code] = recall[code]
    return table


def truth_of(lift: float) -> dict[str, float]:
    """Return the scores of a model on endless rows, all classes alike."""
    table = confusions(lift) / N_CLASSES
    f1 = 2 * table.diagonal() / (table.sum(axis=0) + table.sum(axis=1))
    of_rows, of_predicted = table.sum(axis=1), table.sum(axis=0)
    spread = np.sqrt((1 - (of_rows**2).sum()) * (1 - (of_predicted**2).sum()))
    return {
        "accuracy": table.trace(),
        "balanced accuracy": table.trace(),
        "Matthews correlation": (table.trace() - of_rows @ of_predicted) / spread,
        "macro F1": f1.mean(),
        "weighted F1": f1.mean(),
        "F1 of a class": f1[4],
    }


def sample(
    rng: np.random.Generator, *, n: int = N_ROWS, lifts: tuple[float, ...] = (0.0, 0.0)
) -> tuple[np.ndarray, ...]:
    """Return true classes and each model's predictions; half of what makes a row hard is common to
    all models."""
    y, common = rng.integers(0, N_CLASSES, n), rng.random(n)
    predictions = []
    for lift in lifts:
        place = np.where(
            rng.random(n) < 0.5, common, rng.random(n)
        )  # uniform again, and alike between models
        order = (
            np.arange(N_CLASSES)[None] + y[:, None]
        ) % N_CLASSES  # the right class first, then the next
        shares = np.cumsum(confusions(lift)[y[:, None], order], axis=1)
        predictions.append(
            order[np.arange(n), np.minimum((place[:, None] > shares).sum(axis=1), N_CLASSES - 1)]
        )
    return y, *predictions


def draw(seed: int) -> dict[str, bool]:
    """Return for one drawn test set which intervals held the truth, and which verdicts fell."""
    rng, truth = np.random.default_rng(seed), truth_of(0)
    options: dict[str, Any] = {"n_resamples": N_RESAMPLES, "seed": seed}
    y, first, second, lifted, *more = sample(rng, lifts=(0, 0, 0.03, 0, 0, 0, 0))
    metric = significance.metric_intervals(y, as_probs(first), **options)
    class_f1 = significance.class_f1_intervals(y, first, n_classes=N_CLASSES, **options)[4]
    equal, gain = (
        significance.paired_test(y, first, second, **options),
        significance.paired_test(y, first, lifted, **options),
    )
    family = significance.paired_tests(
        y, first, {"second": second, **{str(i): each for i, each in enumerate(more)}}, **options
    )
    thrice, copies, groups = np.repeat(y, 3), np.repeat(first, 3), np.repeat(np.arange(N_ROWS), 3)
    told, blind = (
        significance.class_f1_intervals(
            thrice, copies, n_classes=N_CLASSES, groups=each, **options
        )[4]
        for each in (groups, None)
    )
    right = first == y
    held = {
        "accuracy": holds(metric["accuracy"], truth["accuracy"]),
        "macro F1": holds(metric["macro_f1"], truth["macro F1"]),
        "weighted F1": holds(metric["weighted_f1"], truth["weighted F1"]),
        "balanced accuracy": holds(metric["balanced_accuracy"], truth["balanced accuracy"]),
        "Matthews correlation": holds(
            metric["matthews_correlation"], truth["Matthews correlation"]
        ),
        "Brier": holds(
            metric["brier_loss"],
            truth["accuracy"] * loss(right=True) + (1 - truth["accuracy"]) * loss(right=False),
        ),
        "F1 of a class": holds(class_f1, truth["F1 of a class"]),
        "gain in macro F1": holds(
            gain.macro_f1_gain, truth_of(0.03)["macro F1"] - truth["macro F1"]
        ),
        "copies in groups": holds(told, truth["F1 of a class"]),
        "copies, groups not told": holds(blind, truth["F1 of a class"]),
        "share (Wilson)": holds(
            significance.share_interval(int(right.sum()), N_ROWS), truth["accuracy"]
        ),
    }
    return held | {
        "better": equal.verdict == "better",
        "worse": equal.verdict == "worse",
        "any of five better or worse": (family["verdict"] != "inconclusive").any(),
        "seen": gain.verdict == "better",
    }


def holds(interval: significance.Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def as_probs(y_pred: np.ndarray) -> np.ndarray:
    """Return probabilities that give the predicted class SURE."""
    return np.where(np.eye(N_CLASSES)[y_pred] > 0, SURE, (1 - SURE) / (N_CLASSES - 1))


def loss(*, right: bool) -> float:
    """Return the Brier loss of a row of `as_probs`."""
    return float(((as_probs(np.array([0]))[0] - np.eye(N_CLASSES)[0 if right else 1]) ** 2).sum())


if __name__ == "__main__":
    main()
