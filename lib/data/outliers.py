"""Rows that are unlike all others, and whether their order says something about them."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from sklearn.neighbors import NearestNeighbors

MIN_ROWS = 50  # different ones; of 30 the test held a random order for one that matters
N_NEIGHBOURS = 10  # cleanlab's default
MAX_ROWS = 50_000  # time grows with the square of the rows
SIGNIFICANCE, MAX_GAP = 0.01, 0.95  # a gap nearer to 1 is found in many rows, and means nothing


@dataclass(frozen=True)
class Outliers:
    """What Datalab says of rows without looking at their labels.

    Attributes
    ----------
    rows : the oddest first: `row` (position), `score` (0..1, lower is odder) and `is_outlier`; rows that were not judged are left out
    order_p_value : of rows in random order having neighbours as near in the file, 0..1; nan where too few rows differ
    gap : how far away in the file the nearest rows are, as a multiple of what a random order gives: 1 is random, 0 is sorted
    n_different : different rows that were judged; copies are judged once
    """

    rows: pd.DataFrame
    order_p_value: float
    gap: float
    n_different: int


def find_outliers(vectors: np.ndarray, *, seed: int = 42, max_rows: int = MAX_ROWS) -> Outliers:
    """Find rows that are unlike their nearest ones, and test whether near rows are near in the file too.

    Parameters
    ----------
    vectors : ndarray of shape (n, features), in the order of the file; directions count, not lengths. Rows with a value that is
        no number are left out
    max_rows : of more rows a random part is judged

    Source
    ------
    cleanlab's Datalab, issues `outlier` (Kuan, Mueller 2022, "Back to the Basics") and `non_iid` (Cummings et al. 2023,
    "Detecting Dataset Drift and Non-IID Sampling via k-Nearest Neighbors"). Exact copies are taken out first: they would be
    each other's neighbours, and in the order of the file.
    """
    judged = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    judged = np.sort(np.random.default_rng(seed).permutation(judged)[:max_rows])
    unit = _directions(vectors[judged])
    _, first, copy_of = np.unique(unit, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # np.unique sorts the rows; the test is about the order of the file
    if len(first) < MIN_ROWS:
        return Outliers(pd.DataFrame({"row": judged, "score": 1.0, "is_outlier": False}), float("nan"), float("nan"), len(first))
    graph = _nearest(unit[first[order]])
    table, p_value = _datalab(graph, seed=seed)
    of_row = np.argsort(order)[copy_of.ravel()]
    rows = pd.DataFrame({"row": judged, "score": table["outlier_score"].to_numpy()[of_row], "is_outlier": table["is_outlier_issue"].to_numpy()[of_row]})
    gaps = np.abs(graph.indices.reshape(len(first), -1) - np.arange(len(first))[:, None])
    return Outliers(rows.sort_values("score", kind="stable", ignore_index=True), p_value, float(gaps.mean() / ((len(first) + 1) / 3)), len(first))


def reading(oddities: Outliers) -> str:
    """Say in words what the order of the rows tells, and how many are odd."""
    odd = f"{int(oddities.rows['is_outlier'].sum()):,} of {len(oddities.rows):,} texts are unlike all others."
    if np.isnan(oddities.order_p_value):
        return f"{oddities.n_different:,} different texts are too few to say which are odd, or whether their order matters."
    how = f"(like texts are {oddities.gap:.0%} as far apart as in random order, p = {oddities.order_p_value:.2g})"
    if oddities.order_p_value < SIGNIFICANCE and oddities.gap < MAX_GAP:
        return f"{odd} The order of the rows says something about the texts: they came sorted or in batches {how}."
    return f"{odd} The order of the rows says nothing that matters about the texts {how}."


def _directions(vectors: np.ndarray) -> np.ndarray:
    """Return rows of unit length; those of zeros, which have no direction, get one that no other has."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors, dtype=np.float64), where=lengths > 0)
    return np.column_stack([unit, (unit == 0).all(axis=1)]).astype(np.float32)


def _nearest(unit: np.ndarray) -> csr_matrix:
    """Return the graph of nearest rows with cosine distances; Euclidean search finds the same ones ten times as fast."""
    distances, rows = NearestNeighbors(n_neighbors=N_NEIGHBOURS, algorithm="brute").fit(unit).kneighbors()
    n = len(unit)
    return csr_matrix(((distances**2 / 2).ravel(), rows.ravel(), np.arange(0, n * N_NEIGHBOURS + 1, N_NEIGHBOURS)), shape=(n, n))


def _datalab(graph: csr_matrix, *, seed: int) -> tuple[pd.DataFrame, float]:
    """Return Datalab's table of outliers, and the p-value of the order of the rows."""
    from cleanlab.datalab.datalab import Datalab

    with _silent_and_random_alone():
        lab = Datalab({"row": np.arange(graph.shape[0])}, verbosity=0)
        lab.find_issues(knn_graph=graph, issue_types={"outlier": {}, "non_iid": {"seed": seed % 2**32}})
    summary = lab.get_issue_summary().set_index("issue_type")["score"]
    return lab.get_issues("outlier"), float(summary.get("non_iid", float("nan")))  # Datalab leaves out what it could not compute


@contextlib.contextmanager
def _silent_and_random_alone() -> Iterator[None]:
    """Swallow prints and warnings, and give numpy's global random state back as it was: Datalab seeds it."""
    state = np.random.get_state()
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
        np.random.set_state(state)
