"""Exact and near duplicates, labels that contradict one another, and the groups that must stay together."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_WORD = re.compile(r"\w+")
_MIXERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)  # odd constants (splitmix64, xxHash)


def exact_duplicates(texts: Sequence[str | bytes]) -> np.ndarray:
    """Return for each text the position of the first text equal to it: ndarray of int of shape (n,)."""
    first: dict[str | bytes, int] = {}
    return np.array([first.setdefault(text, i) for i, text in enumerate(texts)], dtype=np.int64)


def near_duplicate_pairs(texts: Sequence[str], *, threshold: float = 0.95, shingle_words: int = 3) -> pd.DataFrame:
    """Find all pairs of texts whose word shingles have a Jaccard similarity of at least `threshold`.

    Words are runs of letters, digits and `_`, in lower case; a shingle is `shingle_words` of them in a row, and a
    text with fewer words is one shingle of them all (texts without a word are never paired). The join is exact, by
    prefix filtering: no pair is missed and none is estimated. Of texts with the same shingles only the pairs
    (first, other) are listed, with similarity 1, and the first stands for the rest in pairs with other texts.

    Parameters
    ----------
    texts : n texts
    threshold : in (0.5, 1]

    Returns
    -------
    DataFrame with `i` < `j` (positions) and `similarity`, sorted by position

    Source
    ------
    Prefix and length filters: Chaudhuri et al. 2006, "A Primitive Operator for Similarity Joins"; Bayardo et al. 2007.
    """
    if not 0.5 < threshold <= 1:
        raise ValueError(f"threshold must be in (0.5, 1], got {threshold}")
    sets = _shingle_sets(texts, shingle_words)
    first = exact_duplicates([shingles.tobytes() for shingles in sets])
    same = [(first[i], i, 1.0) for i in np.flatnonzero(first != np.arange(len(sets))) if len(sets[i])]
    distinct = np.array([i for i in np.flatnonzero(first == np.arange(len(sets))) if len(sets[i])], dtype=np.int64)
    similar = _prefix_join([sets[i] for i in distinct], threshold)
    pairs = same + [(distinct[i], distinct[j], similarity) for i, j, similarity in similar]
    table = pd.DataFrame(pairs, columns=["i", "j", "similarity"]).astype({"i": "int64", "j": "int64", "similarity": "float64"})
    return table.sort_values(["i", "j"], ignore_index=True)


def group_ids(n: int, pairs: pd.DataFrame) -> np.ndarray:
    """Return a group number for each of `n` rows: rows joined by a chain of pairs (`i`, `j`) share one.

    Examples
    --------
    >>> group_ids(4, pd.DataFrame({"i": [0], "j": [2]})).tolist()
    [0, 1, 0, 2]
    """
    edges = coo_matrix((np.ones(len(pairs)), (pairs["i"], pairs["j"])), shape=(n, n))
    return connected_components(edges, directed=False)[1]


def without_rows(rows: pd.DataFrame, pairs: pd.DataFrame, gone: Sequence[bool]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that stay, numbered anew, and the pairs (`i`, `j`: positions) between them."""
    stays = ~np.asarray(gone, dtype=bool)
    position = np.cumsum(stays) - 1
    left = pairs[stays[pairs["i"]] & stays[pairs["j"]]]
    return rows[stays].reset_index(drop=True), left.assign(i=position[left["i"]], j=position[left["j"]]).reset_index(drop=True)


def conflicting_rows(labels: Sequence[str], groups: np.ndarray) -> np.ndarray:
    """Return the positions of all rows in groups that carry more than one label, ndarray of int."""
    table = pd.DataFrame({"label": list(labels), "group": groups})
    return np.flatnonzero(table.groupby("group")["label"].transform("nunique").to_numpy() > 1)


def _shingle_sets(texts: Sequence[str], shingle_words: int) -> list[np.ndarray]:
    """Return each text's shingles as sorted distinct 64-bit hashes."""
    ids: dict[str, int] = {}
    sets = []
    for text in texts:
        words = np.array([ids.setdefault(word, len(ids) + 1) for word in _WORD.findall(text.lower())], dtype=np.uint64)
        width = min(shingle_words, len(words))
        hashes = np.zeros(max(0, len(words) - width + 1) if width else 0, dtype=np.uint64)
        for offset in range(width):
            hashes = _mixed(hashes + words[offset : offset + len(hashes)])
        sets.append(np.unique(hashes))
    return sets


def _mixed(values: np.ndarray) -> np.ndarray:
    """Scatter 64-bit numbers (the finaliser of splitmix64): a collision among a million shingles is a 1 in 10^7 event."""
    values = (values + _MIXERS[0]) * _MIXERS[1]
    values ^= values >> np.uint64(29)
    values = values * _MIXERS[2]
    return values ^ (values >> np.uint64(32))


def _prefix_join(sets: list[np.ndarray], threshold: float) -> list[tuple[int, int, float]]:
    """Return (i, j, similarity) of all pairs of distinct, non-empty sets at or above `threshold`."""
    if not sets:
        return []
    sizes = np.array([len(s) for s in sets])
    owners = np.repeat(np.arange(len(sets)), sizes)
    values, codes, counts = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    order = np.lexsort((codes, counts[codes], owners))  # within a set: rarest shingle first
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    in_prefix = place < np.repeat(sizes - np.ceil(threshold * sizes - 1e-9).astype(int) + 1, sizes)
    prefix = pd.DataFrame({"set": owners[order][in_prefix], "shingle": codes[order][in_prefix]})
    candidates: set[tuple[int, int]] = set()
    shared = prefix[prefix.duplicated("shingle", keep=False)].sort_values(["shingle", "set"])
    for members in np.split(shared["set"].to_numpy(), np.flatnonzero(np.diff(shared["shingle"].to_numpy())) + 1):
        members = members[np.argsort(sizes[members], kind="stable")]
        reach = np.searchsorted(sizes[members], sizes[members] / threshold + 1e-9, side="right")
        candidates.update((min(a, b), max(a, b)) for at, a in enumerate(members.tolist()) for b in members[at + 1 : reach[at]].tolist())
    verified = ((i, j, _jaccard(sets[i], sets[j])) for i, j in sorted(candidates))
    return [(i, j, similarity) for i, j, similarity in verified if similarity >= threshold - 1e-12]


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.intersect1d(a, b, assume_unique=True).size
    return shared / (a.size + b.size - shared)
