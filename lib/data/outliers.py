"""Rows that are unlike all others, and whether the order of the rows matters."""

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

MIN_ROWS = 50  # different ones; of 30 the test took a random order for one that matters
N_NEIGHBOURS = 10  # cleanlab's default
MAX_ROWS = 50_000  # time grows with the square of the rows
SIGNIFICANCE = 0.01
MAX_GAP = 0.95  # of many rows a gap nearer to 1 is significant too, but means nothing


@dataclass(frozen=True)
class Outliers:
    """What Datalab finds in rows without looking at their labels.

    Attributes
    ----------
    rows : `row` (position), `score` (0..1, lower is farther from all others) and `is_outlier`, the
        lowest score first; rows that were not scored are left out
    order_p_value : of rows in random order having neighbours as near in the file, 0..1; nan where
        too few rows differ
    gap : how far away in the file the nearest rows are, as a multiple of what a random order gives:
        1 is random, 0 is sorted; nan where too few rows differ
    n_different : different rows that were scored; copies are scored once
    """

    rows: pd.DataFrame
    order_p_value: float
    gap: float
    n_different: int


def find_outliers(vectors: np.ndarray, *, seed: int = 42, max_rows: int = MAX_ROWS) -> Outliers:
    """Find rows unlike their nearest ones, and test whether near rows are near in the file.

    Parameters
    ----------
    vectors : ndarray of shape (n, features), in the order of the file; directions count, not
        lengths. Rows with a value that is not finite are left out
    max_rows : of more rows a random part is scored

    Source
    ------
    cleanlab's Datalab, issues `outlier` (Kuan, Mueller 2022, "Back to the Basics") and `non_iid`
    (Cummings et al. 2023, "Detecting Dataset Drift and Non-IID Sampling via k-Nearest Neighbors").
    Exact copies are taken out first: they would be each other's neighbours, and in the order of the
    file.
    """
    finite = np.flatnonzero(np.isfinite(vectors).all(axis=1))
    scored = np.sort(np.random.default_rng(seed).permutation(finite)[:max_rows])
    unit = _unit_vectors(vectors[scored])
    _, first, copy_of = np.unique(unit, axis=0, return_index=True, return_inverse=True)
    n_different = len(first)
    rows = pd.DataFrame({"row": scored, "score": 1.0, "is_outlier": False})
    if n_different < MIN_ROWS:
        return Outliers(rows, float("nan"), float("nan"), n_different)
    # np.unique sorts the rows; the test is about the order of the file
    order = np.argsort(first)
    graph = _nearest_rows(unit[first[order]])
    issues, p_value = _datalab(graph, seed=seed)
    issues = issues.iloc[np.argsort(order)[copy_of.ravel()]]
    rows["score"] = issues["outlier_score"].to_numpy()
    rows["is_outlier"] = issues["is_outlier_issue"].to_numpy()
    rows = rows.sort_values("score", kind="stable", ignore_index=True)
    gaps = np.abs(graph.indices.reshape(n_different, -1) - np.arange(n_different)[:, None])
    random_gap = (n_different + 1) / 3
    return Outliers(rows, p_value, float(gaps.mean() / random_gap), n_different)


def describe(outliers: Outliers) -> str:
    """Return a sentence on how many texts are outliers, and one on the order of the rows."""
    if np.isnan(outliers.order_p_value):
        return (
            f"{outliers.n_different:,} different texts are too few to find outliers, "
            "or to say whether their order matters."
        )
    n_outliers = int(outliers.rows["is_outlier"].sum())
    counted = f"{n_outliers:,} of {len(outliers.rows):,} texts are unlike all others."
    evidence = (
        f"(similar texts are {outliers.gap:.0%} as far apart as in random order, "
        f"p = {outliers.order_p_value:.2g})"
    )
    if outliers.order_p_value < SIGNIFICANCE and outliers.gap < MAX_GAP:
        return (
            f"{counted} The order of the rows depends on the texts: "
            f"they came sorted or in batches {evidence}."
        )
    return f"{counted} The order of the rows says nothing that matters {evidence}."


def _unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Return rows of unit length; rows of zeros, which have no direction, get one of their own."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    zeros = np.zeros_like(vectors, dtype=np.float64)
    unit = np.divide(vectors, lengths, out=zeros, where=lengths > 0)
    return np.column_stack([unit, (unit == 0).all(axis=1)]).astype(np.float32)


def _nearest_rows(unit: np.ndarray) -> csr_matrix:
    """Return the graph of nearest rows with cosine distances.

    Euclidean search finds the same rows ten times as fast.
    """
    search = NearestNeighbors(n_neighbors=N_NEIGHBOURS, algorithm="brute").fit(unit)
    distances, neighbours = search.kneighbors()
    cosine = distances**2 / 2
    starts = np.arange(0, neighbours.size + 1, N_NEIGHBOURS)
    shape = (len(unit), len(unit))
    return csr_matrix((cosine.ravel(), neighbours.ravel(), starts), shape=shape)


def _datalab(graph: csr_matrix, *, seed: int) -> tuple[pd.DataFrame, float]:
    """Return Datalab's table of outliers, and the p-value of the order of the rows."""
    from cleanlab.datalab.datalab import Datalab

    with _silent_and_random_alone():
        lab = Datalab({"row": np.arange(graph.shape[0])}, verbosity=0)
        issue_types = {"outlier": {}, "non_iid": {"seed": seed % 2**32}}
        lab.find_issues(knn_graph=graph, issue_types=issue_types)
    scores = lab.get_issue_summary().set_index("issue_type")["score"]
    # Datalab leaves out what it could not compute
    return lab.get_issues("outlier"), float(scores.get("non_iid", float("nan")))


@contextlib.contextmanager
def _silent_and_random_alone() -> Iterator[None]:
    """Swallow prints and warnings, and restore numpy's global random state: Datalab seeds it."""
    state = np.random.get_state()
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
        np.random.set_state(state)
