"""Which score tells texts of no class best: classes held out, and texts of other kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from tqdm import tqdm

from lib.evaluation.significance import Interval, student_interval
from lib.robustness.ood import MAX_PROBABILITY, Encode, OodScores, fit_scores
from lib.robustness.prediction import Predict
from lib.robustness.separation import separation

MAX_HELD_OUT = 10
NEAR, FAR = "near", "far"
COLUMNS = ["kind", "set", "score", "measure", "value", "low", "high", "n"]


def near_table(
    train: pd.DataFrame,
    val: pd.DataFrame,
    *,
    encode: Encode | None = None,
    rows: int = 4_000,
    seed: int = 42,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Hold out each class in turn, and measure how well each score tells its texts from the others.

    A linear model on TF-IDF that never saw the class stands in for the classifier, which did. Of
    more than ten classes the most frequent ones are held out, of two none.

    Parameters
    ----------
    train, val : with `text` and `label`; what is fitted sees training rows of the other classes,
        and validation rows are told apart
    encode : as of `fit_scores`
    rows : training rows that are used, drawn at random
    options : of `separation`: `n_resamples`, `confidence`

    Returns
    -------
    DataFrame of `kind` ("near"), `set` (the class), `score`, `measure` (see `separation`), `value`,
    `low`, `high`, `n`
    """
    train = train.sample(min(rows, len(train)), random_state=seed)
    names = train["label"].value_counts().index
    names = names[:MAX_HELD_OUT] if len(names) > 2 else []
    tables = []
    for name in tqdm(names, "classes held out", unit="class", disable=not progress):
        known = train[train["label"] != name]
        texts, labels = known["text"].tolist(), known["label"].tolist()
        is_outside = val["label"] == name
        inside = val["text"][~is_outside].tolist()
        scores = fit_scores(
            texts, labels, inside, held_out_probs=None, encode=encode, rows=rows, seed=seed
        )
        outside = {name: val["text"][is_outside].tolist()}
        options |= {"seed": seed, "progress": False}
        table = far_table(scores, outside, predict=None, **options)
        tables.append(table.assign(kind=NEAR))
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(tables, ignore_index=True)


def far_table(
    scores: OodScores,
    sets: Mapping[str, list[str]],
    *,
    predict: Predict | None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Measure how well each score tells sets of texts from those that the scores were fitted with.

    Parameters
    ----------
    sets : name -> texts; an empty one is left out
    predict : of the classifier; None where the scores were fitted without its probabilities
    options : of `separation`: `n_resamples`, `confidence`, `seed`

    Returns
    -------
    DataFrame as of `near_table`; `kind` is "far"
    """
    inside = scores.arrays["held_out"]
    rows = []
    for name, texts in tqdm(sets.items(), "far sets", unit="set", disable=not progress):
        if not texts:
            continue
        values = scores.all_scores(texts, predict and predict(texts))
        for code, score in enumerate(values):
            measured = separation(inside[:, code], values[score].to_numpy(), **options)
            for measure, interval in measured.items():
                rows.append((FAR, name, score, measure, *interval.with_ends, interval.n))
    return pd.DataFrame(rows, columns=COLUMNS)


def mean_auroc(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean AUROC over the sets of each kind: a row a score, a column a kind."""
    auroc = table[table["measure"] == "auroc"].astype({"value": float})
    return auroc.pivot_table(index="score", columns="kind", values="value", aggfunc="mean")


def choose(table: pd.DataFrame) -> str:
    """Return the score with the highest AUROC: the mean of near and far sets, which count alike.

    Parameters
    ----------
    table : the rows of `near_table` and `far_table`
    """
    return str(mean_auroc(table).mean(axis=1).idxmax())


def near_gain(table: pd.DataFrame, score: str, *, confidence: float = 0.95) -> Interval | None:
    """Return by how much a score's AUROC is above maximum probability's, over near sets.

    Returns
    -------
    Interval of the mean (Student's, over sets); None where there are fewer than two
    """
    is_near = (table["kind"] == NEAR) & (table["measure"] == "auroc")
    by_set = table[is_near].pivot(index="set", columns="score", values="value").astype(float)
    if len(by_set) < 2:
        return None
    gains = by_set[score] - by_set[MAX_PROBABILITY]
    n = len(gains)
    return student_interval(
        gains.mean(), gains.sem(), n_values=n, n=n, confidence=confidence, bounds=(-1, 1)
    )


def describe(table: pd.DataFrame, score: str) -> str:
    """Return in sentences what the chosen score is worth.

    Parameters
    ----------
    table : the rows of `near_table` and `far_table`
    """
    sentences = []
    for kind, auroc in mean_auroc(table).items():
        n_sets = table.loc[table["kind"] == kind, "set"].nunique()
        sentences.append(
            f"{n_sets} {kind} sets: the mean AUROC of {score} is {auroc[score]:.3f}, that of "
            f"{MAX_PROBABILITY} {auroc[MAX_PROBABILITY]:.3f}."
        )
    gain = near_gain(table, score)
    if gain is not None:
        sentences.append(f"The gain over {gain.n} near sets is {gain.signed()}.")
    return " ".join(sentences)


def describe_false_alarms(flagged: Interval, *, promised: float) -> str:
    """Return as a sentence how many texts like those of the training are flagged.

    Parameters
    ----------
    flagged : share of test texts that are
    promised : share that may be
    """
    kept = "which this does not contradict" if flagged.low <= promised else "and it is more"
    return (
        f"{flagged.percent()} of {flagged.n:,} test texts are flagged; {promised:.0%} at most were "
        f"promised, {kept}."
    )
