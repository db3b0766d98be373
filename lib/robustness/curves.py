"""How far a classifier's score falls, and its answers change, as texts get worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.errors import WorkbookError
from lib.evaluation.resampling import ResamplingPlan, draws, weighted_class_f1
from lib.evaluation.significance import Interval, grouped_share, intervals_of, rare
from lib.robustness.perturbations import SEVERITIES, Synonyms, perturb
from lib.robustness.prediction import Predict, checked

MIN_CHANGED = 0.5  # of the texts: a kind that changes fewer says little of the others


@dataclass(frozen=True, eq=False)
class Answers:
    """What a classifier answers of n texts as they are, and of the same texts perturbed in m ways.

    Attributes
    ----------
    texts, y_true : the texts, and their classes, ndarray of int of shape (n,)
    index : (kind, severity) of each way
    perturbed : ndarray of str of shape (m, n)
    y_pred : predicted classes, ndarray of int of shape (1 + m, n), first of the texts as they are
    class_names : of the classes
    plan : which texts are drawn together in resampling
    """

    texts: list[str]
    y_true: np.ndarray
    index: pd.MultiIndex
    perturbed: np.ndarray
    y_pred: np.ndarray
    class_names: list[str]
    plan: ResamplingPlan

    @property
    def has_rows(self) -> np.ndarray:
        """Return which classes have a text: ndarray of bool of shape (k,)."""
        return np.bincount(self.y_true, minlength=len(self.class_names)) > 0

    def macro_f1(self, weights: np.ndarray) -> np.ndarray:
        """Return macro F1, over the classes that have texts, under each of the weights (b, n).

        Returns
        -------
        ndarray of shape (b, 1 + m)
        """
        columns = []
        k = len(self.class_names)
        for y_pred in self.y_pred:
            f1, support = weighted_class_f1(weights, self.y_true, y_pred, n_classes=k)
            counts = (support > 0) & self.has_rows
            columns.append((f1 * counts).sum(axis=1) / np.maximum(1, counts.sum(axis=1)))
        return np.stack(columns, axis=1)

    def gains(self, weights: np.ndarray) -> np.ndarray:
        """Return macro F1 of each way over that of the texts as they are: ndarray (b, m)."""
        f1 = self.macro_f1(weights)
        return f1[:, 1:] - f1[:, :1]


@dataclass(frozen=True, eq=False)
class SeverityCurves:
    """How a classifier's score and answers change with the severity of perturbations.

    Attributes
    ----------
    clean : macro F1 of the texts as they are
    table : DataFrame by (kind, severity): `macro_f1` with `low` and `high`; `gain` in it over the
        texts as they are (a fall is negative) with `gain_low`, `gain_high`, which hold for all
        kinds together, and `verdict`; `flip_rate`, the share of texts whose class changes, with
        `flip_low` and `flip_high`; `changed`, the share of texts that the perturbation changed
    answers : what was predicted
    """

    clean: Interval
    table: pd.DataFrame
    answers: Answers

    def worst(self) -> pd.DataFrame:
        """Return `gain`, `low`, `high`, `verdict`, `flip_rate`, `changed` by kind, lowest first.

        They are those of the highest severity.
        """
        table = self.table.xs(self.highest, level="severity").drop(columns=["low", "high"])
        table = table.rename(columns={"gain_low": "low", "gain_high": "high"})
        columns = ["gain", "low", "high", "verdict", "flip_rate", "changed"]
        return table[columns].sort_values("gain", kind="stable")

    @property
    def highest(self) -> int:
        """Return the highest severity."""
        return int(self.table.index.get_level_values("severity").max())

    def flips(self) -> pd.DataFrame:
        """Return each change of an answer: `row` (position of the text), `kind`, `severity`,
        `label`, `answer` (of the text as it is), `new_answer`, and the `perturbed` text.
        """
        answers = self.answers
        names = np.asarray(answers.class_names, dtype=object)
        way, row = np.nonzero(answers.y_pred[1:] != answers.y_pred[0])
        flips = answers.index[way].to_frame(index=False)
        flips.insert(0, "row", row)
        flips["label"] = names[answers.y_true[row]]
        flips["answer"] = names[answers.y_pred[0, row]]
        flips["new_answer"] = names[answers.y_pred[1 + way, row]]
        flips["perturbed"] = answers.perturbed[way, row]
        return flips

    def most_flipped(self, *, n_texts: int = 10) -> pd.DataFrame:
        """Return the texts whose answer changes most often: `n_flips`, and the mildest of `flips`.

        Texts whose answer never changes are left out.
        """
        flips = self.flips().sort_values("severity", kind="stable")
        mildest = flips.drop_duplicates("row").set_index("row")
        mildest.insert(0, "n_flips", flips["row"].value_counts())
        return mildest.sort_values("n_flips", ascending=False, kind="stable").head(n_texts)

    def describe(self) -> str:
        """Return in a sentence or two what costs most, and what least."""
        worst = self.worst()
        kinds = [words_of(kind) for kind in worst.index]
        first = worst.iloc[0]
        gain = Interval(first["gain"], first["low"], first["high"], n=self.clean.n)
        n_worse = (worst["verdict"] == "worse").sum()
        seldom = [kind for kind, share in zip(kinds, worst["changed"]) if share < MIN_CHANGED]
        caution = f" Fewer than half of the texts have a place for {', '.join(seldom)}."
        return (
            f"Macro F1 is {self.clean} on {self.clean.n:,} texts as they are. At severity "
            f"{self.highest}, {n_worse} of {len(worst)} perturbations lower it significantly; "
            f"{kinds[0]} costs most ({gain.signed()}, {first['flip_rate']:.0%} of the "
            f"answers change), {kinds[-1]} least.{caution if seldom else ''}"
        )

    def next_steps(self) -> dict[str, float]:
        """Return the mildest perturbation that lowers macro F1 most.

        What guarding against it wins depends on how many such texts come, so that it is NaN.
        """
        table = self.table.reset_index()
        lowered = table[table["verdict"] == "worse"]
        mildest = lowered[lowered["severity"] == lowered["severity"].min()]
        if mildest.empty:
            return {}
        row = mildest.loc[mildest["gain"].idxmin()]
        gain = Interval(row["gain"], row["gain_low"], row["gain_high"], n=self.clean.n)
        step = f"Guard against {words_of(row['kind'])}: severity {row['severity']} alone changes"
        return {f"{step} macro F1 by {gain.signed()}, if such texts come.": np.nan}


def severity_curves(
    predict: Predict,
    texts: Sequence[str],
    y_true: np.ndarray,
    *,
    class_names: Sequence[str],
    kinds: Sequence[str],
    severities: Sequence[int] = SEVERITIES,
    groups: np.ndarray | None = None,
    synonyms: Synonyms | None = None,
    **options: Any,
) -> SeverityCurves:
    """Measure a classifier on texts as they are and under perturbations of each severity.

    Parameters
    ----------
    predict : takes raw texts, returns probabilities of shape (n, k); of the perturbed texts of a
        kind it is asked each different one once
    y_true : ndarray of int of shape (n,), columns of the probabilities
    kinds, severities, synonyms : as `perturb` takes them
    groups : (n,) of anything; the bootstrap draws rows of a group (near-copies) together
    options : of `significance.intervals_of`: `n_resamples`, `confidence`, and `seed`, which is that
        of the perturbations too

    Returns
    -------
    SeverityCurves; a class of which `y_true` has no row does not count in macro F1

    Raises
    ------
    WorkbookError : fewer than two texts or no kind, or what `perturb` and `checked` raise.
    """
    texts = list(texts)
    if len(texts) < 2 or not kinds:
        raise WorkbookError(
            f"severity curves need two texts and a kind, found {len(texts)} and {len(kinds)}"
        )
    predict = checked(predict, n_classes=len(class_names))
    y_pred = [predict(texts).argmax(axis=1)]
    perturbed = []
    seed = options.get("seed", 42)
    for kind in tqdm(kinds, "perturbations", unit="kind"):
        versions = [
            perturb(texts, kind=kind, severity=severity, seed=seed, synonyms=synonyms)
            for severity in severities
        ]
        perturbed += versions
        y_pred += _predicted(predict, versions, dict(zip(texts, y_pred[0].tolist())))
    answers = Answers(
        texts,
        y_true,
        pd.MultiIndex.from_product([kinds, severities], names=["kind", "severity"]),
        np.array(perturbed, dtype=object),
        np.stack(y_pred),
        list(class_names),
        draws(len(texts), groups=groups),
    )
    return _measured(answers, n_kinds=len(kinds), **options)


def cleaning_gains(cleaned: SeverityCurves, raw: SeverityCurves, **options: Any) -> pd.DataFrame:
    """Return how much of each fall in macro F1 cleaning prevents, the mean over severities.

    Parameters
    ----------
    cleaned : of the classifier as it is
    raw : of the classifier without cleaning, on the same texts; its kinds and severities, which
        those of `cleaned` hold, are compared
    options : of `significance.intervals_of`

    Returns
    -------
    DataFrame by kind: `fall` with cleaning, `raw_fall` without it (from the macro F1 of the texts
        as they are), and their difference as `gain` with `low`, `high` (which hold for all kinds
        together) and `verdict`

    Raises
    ------
    WorkbookError : the texts are not the same, or a condition was not measured with cleaning.
    """
    places = cleaned.table.index.get_indexer(raw.table.index)
    if cleaned.answers.texts != raw.answers.texts or places.min() < 0:
        raise WorkbookError(
            "curves with and without cleaning are of other texts, kinds or severities; measure "
            "both on the same ones"
        )
    kinds = raw.table.index.unique("kind")
    of_kind = raw.table.index.get_level_values("kind").to_numpy()[:, None] == kinds.to_numpy()
    mean = of_kind / of_kind.sum(axis=0)

    def falls_and_gains(weights: np.ndarray) -> np.ndarray:
        fall = -cleaned.answers.gains(weights)[:, places] @ mean
        raw_fall = -raw.answers.gains(weights) @ mean
        return np.hstack([fall, raw_fall, raw_fall - fall])

    options["confidence"] = _of_each(len(kinds), **options)
    intervals = intervals_of(falls_and_gains, raw.answers.plan, **options)
    falls, raw_falls, gains = np.array(intervals, dtype=object).reshape(3, len(kinds))
    table = _table(list(gains), ["gain", "low", "high"], kinds)
    table.insert(0, "fall", [interval.value for interval in falls])
    table.insert(1, "raw_fall", [interval.value for interval in raw_falls])
    table["verdict"] = [gain.verdict for gain in gains]
    return table


def describe_cleaning(gains: pd.DataFrame, *, clean: Interval, raw: Interval) -> str:
    """Return in words what cleaning prevents, from `cleaning_gains`.

    Parameters
    ----------
    clean, raw : macro F1 of the texts as they are, with cleaning and without
    """
    best = gains["gain"].idxmax()
    row = gains.loc[best]
    gain = Interval(row["gain"], row["low"], row["high"], n=clean.n)
    helped = [words_of(kind) for kind in gains.index[gains["verdict"] == "better"]]
    return (
        f"Cleaning prevents most under {words_of(best)}: macro F1 falls by {row['fall']:.3f} with "
        f"it, by {row['raw_fall']:.3f} without ({gain.signed()}, n = {gain.n:,}). The difference "
        f"is significant under {', '.join(helped) or 'no kind'}. Of texts as they are, macro F1 "
        f"is {clean} with it and {raw} without."
    )


def words_of(kind: Any) -> str:
    """Return the name of a kind as it is read."""
    return str(kind).replace("_", " ")


def _predicted(
    predict: Predict, versions: list[list[str]], known: dict[str, int]
) -> list[np.ndarray]:
    """Return the classes of several versions of texts, each unknown text predicted once."""
    new = [text for text in dict.fromkeys(chain(*versions)) if text not in known]
    known |= zip(new, predict(new).argmax(axis=1).tolist())
    return [np.array([known[text] for text in version]) for version in versions]


def _measured(answers: Answers, *, n_kinds: int, **options: Any) -> SeverityCurves:
    clean, *scores = _scores(answers, **options)
    table = _table(scores, ["macro_f1", "low", "high"], answers.index)
    of_each = options | {"confidence": _of_each(n_kinds, **options)}
    gains = intervals_of(answers.gains, answers.plan, **of_each)
    table = table.join(_table(gains, ["gain", "gain_low", "gain_high"], answers.index))
    table["verdict"] = [gain.verdict for gain in gains]
    flips = [
        grouped_share(flipped, groups=answers.plan.unit, confidence=clean.confidence)
        for flipped in answers.y_pred[1:] != answers.y_pred[0]
    ]
    table = table.join(_table(flips, ["flip_rate", "flip_low", "flip_high"], answers.index))
    changed = answers.perturbed != np.array(answers.texts, dtype=object)
    table["changed"] = changed.mean(axis=1)
    return SeverityCurves(clean, table, answers)


def _scores(answers: Answers, **options: Any) -> list[Interval]:
    """Return macro F1s, with conservative ends where few rows are wrong, or few are right."""
    scores = intervals_of(answers.macro_f1, answers.plan, **options)
    weights = answers.has_rows / answers.has_rows.sum()
    find_ends = partial(rare.f1_ends, answers.y_true, unit=answers.plan.unit, class_weights=weights)
    for place, score in enumerate(scores):
        ends = find_ends(y_pred=answers.y_pred[place], confidence=score.confidence)
        if ends:
            scores[place] = replace(score, low=ends[0], high=ends[1])
    return scores


def _of_each(n: int, *, confidence: float = 0.95, **_: Any) -> float:
    """Return the confidence of each of n intervals that hold together (Bonferroni)."""
    return 1 - (1 - confidence) / n


def _table(intervals: Sequence[Interval], columns: list[str], index: pd.Index) -> pd.DataFrame:
    return pd.DataFrame([interval.with_ends for interval in intervals], index, columns)
