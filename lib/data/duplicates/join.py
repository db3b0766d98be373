"""The pairs of sets with a Jaccard similarity from a threshold on: an exact join by prefixes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lib.data.duplicates import arrays
from lib.data.duplicates.arrays import blocks, ranges
from lib.data.duplicates.groups import PairList
from lib.data.duplicates.shingles import HASH_BITS, ShingleSets

SLACK = 1e-6  # of bounds that filter: what rounding lets through is computed exactly afterwards


@dataclass(frozen=True)
class _Prefixes:
    """The rarest shingles of each set, ascending by `owner`.

    Attributes
    ----------
    owner : the set of each entry
    room : shingles of the set from this one on: two sets share at most as many if this is the
        rarest that they share
    order : entries sorted by shingle, then by owner
    start, stop : `order[start:stop]` are an entry's partners, of later owners with the same shingle
    """

    owner: np.ndarray
    room: np.ndarray
    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def without_partners_of(self, group: np.ndarray) -> _Prefixes:
        """Return prefixes in which an entry has no partners if they all are of its own group."""
        groups = group[self.owner[self.order]]
        changes = np.flatnonzero(np.diff(groups)) + 1
        ends = np.append(changes, len(groups))
        run = np.searchsorted(ends, self.start - 1, side="right")
        joined = ends[run] >= self.stop
        return replace(self, stop=np.where(joined, self.start, self.stop))


def prefix_join(
    sets: ShingleSets, threshold: float, max_pairs: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a, b and similarity of the pairs of `sets` at or above `threshold`.

    The sets are in order of size.
    """
    prefixes = _prefixes(sets, threshold)
    pairs = PairList(len(sets.size), max_pairs)
    at = 0
    while at < len(prefixes.owner):
        if pairs.only_groups:
            prefixes = prefixes.without_partners_of(pairs.group)
        a, b, at = _candidates(sets, prefixes, at, threshold / (1 + threshold))
        if pairs.only_groups:
            apart = pairs.group[a] != pairs.group[b]
            a, b = a[apart], b[apart]
        similarity = _similarities(sets, a, b)
        kept = np.flatnonzero(similarity >= threshold - 1e-12)
        pairs.add(a[kept], b[kept], similarity[kept])
    return pairs.arrays()


def _prefixes(sets: ShingleSets, threshold: float) -> _Prefixes:
    """Return the rarest shingles of each set, one of which any similar set has too.

    Their partners are those that the length and positional filters leave.
    """
    least_shared = np.ceil(threshold * sets.size - SLACK).astype(np.int64)
    length = sets.size - least_shared + 1
    owner = np.repeat(np.arange(len(length)), length)
    position = ranges(np.zeros_like(length), length)
    codes = sets.codes[sets.begin[owner] + position]
    common = codes >> HASH_BITS > 0  # a shingle that came once in all texts has no partners
    owner, position, codes = owner[common], position[common], codes[common]
    size = sets.size[owner]
    room = size - position
    # the largest set with which all of this room would be enough
    most = sets.size.max(initial=0)
    largest = room * (1 + threshold) / threshold - size + SLACK
    largest = np.minimum(largest, most).astype(np.int64)
    # sets come in order of size, and stay so within a code
    order = np.argsort(codes, kind="stable")
    is_new_code = np.diff(codes[order], prepend=codes[order][:1]) != 0
    key = np.cumsum(is_new_code) * (most + 1)
    start = np.empty_like(order)
    stop = np.empty_like(order)
    start[order] = np.arange(1, len(order) + 1)
    stop[order] = np.searchsorted(key + size[order], key + largest[order], side="right")
    return _Prefixes(owner, room, order, start, np.maximum(start, stop))


def _candidates(
    sets: ShingleSets, prefixes: _Prefixes, at: int, share: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return pairs a, b of owners that may have `share` of their sizes in common.

    Only some owners' prefixes are read, from entry `at` on; the third value is where to go on.
    """
    owner = prefixes.owner
    n_partners = prefixes.stop[at:] - prefixes.start[at:]
    cells = np.cumsum(n_partners * sets.size[owner[at:]])
    last = min(at + int(np.searchsorted(cells, arrays.CELLS)), len(owner) - 1)
    # all of an owner's entries at once, so that no pair comes twice
    till = int(np.searchsorted(owner, owner[last], side="right"))
    n_partners = n_partners[: till - at]
    other = prefixes.order[ranges(prefixes.start[at:till], n_partners)]
    a = np.repeat(owner[at:till], n_partners)
    b = owner[other]
    total = sets.size[a] + sets.size[b]
    has_room = prefixes.room[other] >= share * total - SLACK
    spare = total - 2 * share * total + SLACK  # shingles that only one of them may have
    near = has_room & (_n_bits(sets.parity[a] ^ sets.parity[b]) <= spare)
    n = len(sets.size)
    a, b = np.divmod(np.unique(a[near] * n + b[near]), max(1, n))
    return a, b, till


def _similarities(sets: ShingleSets, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Jaccard similarity of the sets a[k] and b[k]."""
    total = sets.size[a] + sets.size[b]
    shared = [total[:0]]
    for start, stop in blocks(total, arrays.CELLS):
        first = sets.take(a[start:stop]).matrix()
        second = sets.take(b[start:stop]).matrix()
        shared.append(np.diff((first * second).indptr))
    both = np.concatenate(shared)
    return both / (total - both)


def _n_bits(values: np.ndarray) -> np.ndarray:
    """Count the bits that are set."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    of_byte = bits.sum(axis=1, dtype=np.uint8)
    return of_byte[values.view(np.uint8).reshape(-1, 8)].sum(axis=1)
