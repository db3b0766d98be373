"""Labels that look wrong: their ranking, the queue that a person reviews, and injected errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

QUEUE_COLUMNS = [
    *("fingerprint", "row_id", "split", "label", "suggestion", "score", "reason", "text"),
    *("decision", "new_label", "why"),
]
CONFLICT = "same text, several labels"
FLAGGED = "the detectors contradict the label"
DRAWN = "the detectors contradict the label; drawn at random"


def rank_label_issues(
    labels: Sequence[str],
    probs: np.ndarray,
    *,
    class_names: Sequence[str],
    method: str = "self_confidence",
) -> pd.DataFrame:
    """Rank rows by how wrong their label looks.

    Parameters
    ----------
    labels : n labels, each one of `class_names`
    probs : ndarray of shape (n, k), out of fold: no model was trained on the row that it predicts
    class_names : names of the k columns
    method : cleanlab's label quality score: "self_confidence", "normalized_margin" or
        "confidence_weighted_entropy"

    Returns
    -------
    DataFrame, worst first: `row` (position), `score` (0..1, higher is worse), `suggestion` (the
    most probable class), `is_issue` (confident learning says that the label is wrong)

    Raises
    ------
    ValueError : a label is not in `class_names`; the first such row is named.

    Source
    ------
    Northcutt, Jiang, Chuang 2021, "Confident Learning".
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    codes = pd.Categorical(labels, categories=list(class_names)).codes.astype(int)
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise ValueError(f"labels must be in class_names; row {row} has {labels[row]!r}")
    names = np.asarray(class_names, dtype=object)
    table = pd.DataFrame(
        {
            "row": np.arange(len(codes)),
            "score": 1 - get_label_quality_scores(codes, probs, method=method),
            "suggestion": names[probs.argmax(axis=1)],
            "is_issue": find_label_issues(codes, probs, n_jobs=1),
        }
    )
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def rank_by_split(
    rows: pd.DataFrame, probs: np.ndarray, *, class_names: Sequence[str]
) -> pd.DataFrame:
    """Rank rows by how wrong their label looks, with confident learning's thresholds by split.

    Other models predict the validation rows than the training rows, so that each split has
    thresholds of its own.

    Parameters
    ----------
    rows : with `row_id`, `label` and `split`
    probs : ndarray of shape (n, k), from `detectors.detector_probs`

    Returns
    -------
    DataFrame with `row_id`, and `score`, `suggestion` and `is_issue` as in `rank_label_issues`,
    worst first
    """
    rankings = []
    for split in rows["split"].unique():
        in_split = (rows["split"] == split).to_numpy()
        members = rows[in_split]
        ranking = rank_label_issues(
            members["label"].tolist(), probs[in_split], class_names=class_names
        )
        row_ids = members["row_id"].to_numpy()[ranking["row"]]
        rankings.append(ranking.assign(row_id=row_ids))
    issues = pd.concat(rankings)[["row_id", "score", "suggestion", "is_issue"]]
    return issues.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def describe(issues: pd.DataFrame, *, detector: str) -> str:
    """Say how many labels are flagged, of a table from `rank_by_split`.

    Examples
    --------
    >>> describe(pd.DataFrame({"is_issue": [True, False, False]}), detector="combined")
    "1 of 3 labels look wrong (confident learning on the detector 'combined')."
    """
    n_flagged = int(issues["is_issue"].sum())
    return (
        f"{n_flagged:,} of {len(issues):,} labels look wrong "
        f"(confident learning on the detector {detector!r})."
    )


def inject_label_noise(
    labels: np.ndarray,
    *,
    rate: float,
    n_classes: int,
    probs: np.ndarray | None = None,
    seed: int = 42,
) -> tuple[np.ndarray, np.ndarray]:
    """Make a share of the labels wrong.

    Parameters
    ----------
    labels : ndarray of int of shape (n,), 0..n_classes - 1
    rate : share of the labels, 0..1; at least one is made wrong
    probs : ndarray of shape (n, n_classes): a model's probabilities. Among the rows of a class one
        is drawn in proportion to what it gives the others, and its wrong label likewise; classes
        are drawn by their sizes. None: each row and each other class alike

    Returns
    -------
    the labels with the noise, and ndarray of bool of shape (n,): which ones are wrong now
    """
    random = np.random.default_rng(seed)
    n = len(labels)
    others = np.ones((n, n_classes)) if probs is None else probs + 1e-9
    others[np.arange(n), labels] = 0
    doubt = others.sum(axis=1)
    n_wrong = max(1, round(rate * n))
    class_size = np.bincount(labels, minlength=n_classes)
    share = (
        doubt * (class_size / np.bincount(labels, doubt, minlength=n_classes).clip(1e-9))[labels]
    )
    wrong = random.choice(n, n_wrong, replace=False, p=share / share.sum())
    cumulative = others[wrong].cumsum(axis=1)
    draws = random.random(n_wrong)[:, None] * cumulative[:, -1:]
    noisy = labels.copy()
    noisy[wrong] = np.minimum((draws >= cumulative).sum(axis=1), n_classes - 1)
    is_wrong = np.zeros(n, dtype=bool)
    is_wrong[wrong] = True
    return noisy, is_wrong


def review_queue(
    rows: pd.DataFrame,
    issues: pd.DataFrame,
    conflicts: Sequence[int],
    *,
    n_rows: int,
    n_drawn: int = 0,
) -> pd.DataFrame:
    """Order rows for a person: label conflicts, flagged rows at random, the others worst first.

    At most one of the labels in a conflict is right. The default score of `rank_label_issues` is
    the detector's probability that the label is wrong, so that "worst first" finds the most wrong
    labels in any number of reviewed rows.

    Parameters
    ----------
    rows : with `fingerprint`, `row_id`, `split`, `label`, `text` and `decided`; rows with a
        decision are left out
    issues : from `rank_by_split`
    conflicts : row_ids of duplicates that carry several labels
    n_rows : length of the queue; conflicts are queued even beyond it
    n_drawn : flagged rows of the queue that are drawn at random (by their fingerprints) and come
        before the others

    Returns
    -------
    DataFrame with QUEUE_COLUMNS; `decision`, `new_label` and `why` are blank, for the person
    """
    undecided = rows[~rows["decided"]].merge(issues, on="row_id", how="left")
    in_conflict = undecided["row_id"].isin(list(conflicts))
    flagged = undecided[undecided["is_issue"].eq(True) & ~in_conflict]
    flagged = flagged.sort_values("score", ascending=False, kind="stable")
    flagged = flagged.head(max(0, n_rows - in_conflict.sum()))
    drawn = flagged.sort_values("fingerprint").head(n_drawn)
    parts = [
        undecided[in_conflict].assign(reason=CONFLICT),
        drawn.assign(reason=DRAWN),
        flagged.drop(drawn.index).assign(reason=FLAGGED),
    ]
    queue = pd.concat(parts, ignore_index=True)
    return queue.assign(decision="", new_label="", why="")[QUEUE_COLUMNS]


def describe_queue(queue: pd.DataFrame) -> str:
    """Say how many rows are queued, and why, of a table from `review_queue`."""
    n_conflicts = int(queue["reason"].eq(CONFLICT).sum())
    return (
        f"{len(queue):,} rows are queued in review_queue.csv next to this page: {n_conflicts:,} "
        f"in label conflicts and {len(queue) - n_conflicts:,} with a flagged label."
    )
