"""Groups of rows that pairs join, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree


class PairList:
    """Pairs of `n` nodes, and the groups that they join.

    Once there are `max_pairs`, only those are added that join what no chain of pairs joined before.
    """

    def __init__(self, n: int, max_pairs: int) -> None:
        self.n = n
        self.max_pairs = max_pairs
        self.n_found = 0
        self.group = np.arange(n)
        nobody = np.zeros(0, dtype=np.int64)
        self._found = [(nobody, nobody, np.zeros(0))]

    @property
    def only_groups(self) -> bool:
        """Whether pairs of one group are of no more interest."""
        return self.n_found >= self.max_pairs

    def add(self, a: np.ndarray, b: np.ndarray, similarity: np.ndarray) -> None:
        """Add pairs a[k], b[k], all different from one another and from those before."""
        x, y = self.group[a], self.group[b]
        if self.only_groups:
            apart = np.flatnonzero(x != y)
            kept = apart[_forest(x[apart], y[apart], self.n)]
            a, b, similarity, x, y = (values[kept] for values in (a, b, similarity, x, y))
        self._found.append((a, b, similarity))
        self.n_found += len(a)
        self.group = _components(x, y, self.n)[self.group]

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the pairs: a, b and similarity."""
        a, b, similarity = (np.concatenate(column) for column in zip(*self._found))
        return a, b, similarity


def exact_duplicates(texts: Sequence[str | bytes]) -> np.ndarray:
    """Return the position of the first text equal to each: ndarray of int of shape (n,)."""
    first: dict[str | bytes, int] = {}
    return np.array([first.setdefault(text, i) for i, text in enumerate(texts)], dtype=np.int64)


def group_ids(n: int, pairs: pd.DataFrame) -> np.ndarray:
    """Return a group number for each of `n` rows; rows joined by a chain of pairs share one.

    Examples
    --------
    >>> group_ids(4, pd.DataFrame({"i": [0], "j": [2]})).tolist()
    [0, 1, 0, 2]
    """
    return _components(pairs["i"].to_numpy(), pairs["j"].to_numpy(), n)


def without_rows(
    rows: pd.DataFrame, pairs: pd.DataFrame, gone: Sequence[bool]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that stay, renumbered, and the pairs (`i`, `j`: positions) between them."""
    stays = ~np.asarray(gone, dtype=bool)
    position = np.cumsum(stays) - 1
    left = pairs[stays[pairs["i"]] & stays[pairs["j"]]]
    renumbered = left.assign(i=position[left["i"]], j=position[left["j"]])
    return rows[stays].reset_index(drop=True), renumbered.reset_index(drop=True)


def conflicting_rows(labels: Sequence[str], groups: np.ndarray) -> np.ndarray:
    """Return the positions of all rows in groups that carry more than one label, ndarray of int."""
    table = pd.DataFrame({"label": list(labels), "group": groups})
    n_labels = table.groupby("group")["label"].transform("nunique")
    return np.flatnonzero(n_labels > 1)


def _forest(x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    """Return the positions of edges x[k], y[k] between `n` nodes that join all that they join."""
    keys = np.minimum(x, y).astype(np.int64) * n + np.maximum(x, y)
    edges, first = np.unique(keys, return_index=True)
    ends = np.divmod(edges, max(1, n))
    tree = minimum_spanning_tree(coo_matrix((first + 1.0, ends), shape=(n, n)))
    return np.sort(tree.data.astype(np.int64)) - 1


def _components(x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    """Return a number for each of `n` nodes: those joined by edges x[k], y[k] share one."""
    edges = coo_matrix((np.ones(len(x)), (x, y)), shape=(n, n))
    _, component = connected_components(edges, directed=False)
    return component
