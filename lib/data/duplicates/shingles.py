"""The sets of shingles of texts: some units in a row, each as a 64-bit code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from lib.data.duplicates import arrays
from lib.data.duplicates.arrays import ranges
from lib.data.duplicates.units import MIXERS, Units, mixed

HASH_BITS = 58  # of a shingle's code; the five above say how common it is, the sign stays free
_NO_CODE = np.iinfo(np.int64).max  # larger than any code


@dataclass(frozen=True)
class ShingleSets:
    """Sets of shingles: `codes[begin[k] : begin[k] + size[k]]` is set k, rarest code first."""

    codes: np.ndarray
    begin: np.ndarray
    size: np.ndarray

    def take(self, chosen: np.ndarray) -> ShingleSets:
        """Return the chosen sets, one after another."""
        size = self.size[chosen]
        return ShingleSets(
            self.codes[ranges(self.begin[chosen], size)], np.cumsum(size) - size, size
        )

    def matrix(self) -> csr_array:
        """Return a row for each set, with ones in the columns of its codes.

        There is a column for each possible code; empty ones are not stored.
        """
        rows = np.append(self.begin, len(self.codes))
        ones = np.ones(len(self.codes), dtype=np.int8)
        return csr_array((ones, self.codes, rows), shape=(len(self.size), _NO_CODE))

    @cached_property
    def parity(self) -> np.ndarray:
        """64 bits for each set, each the parity of its shingles of one kind.

        Two sets differ by at least as many shingles as their parities by bits.
        """
        if not len(self.codes):
            return self.codes
        bits = np.left_shift(1, self.codes & 63)
        return np.bitwise_xor.reduceat(bits, self.begin)


def shingles(units: Units, shingle_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the 64-bit hashes of all shingles, text after text, and each text's number of them."""
    n_words = units.n_units
    n_shingles = np.where(n_words > 0, np.maximum(n_words - shingle_words, 0) + 1, 0)
    rolled = _rolled(units.hashes, n_words, min(shingle_words, n_words.max()))
    first_word = np.cumsum(n_words) - n_words
    return mixed(rolled[ranges(first_word, n_shingles)]), n_shingles


def _rolled(words: np.ndarray, n_words: np.ndarray, n_rolled: int) -> np.ndarray:
    """Return each word's hash rolled with those of the next ones of its text, `n_rolled` in all."""
    ends = np.repeat(np.cumsum(n_words), n_words)
    left = ends - np.arange(len(words))  # words from here to the end of the text
    rolled = words.copy()
    for offset in range(1, n_rolled):
        ahead = words[offset:]
        head = rolled[: len(ahead)]
        is_inside = left[: len(ahead)] > offset
        rolled[: len(ahead)] = np.where(is_inside, head * MIXERS[1] + ahead, head)
    return rolled


def shingle_sets(hashes: np.ndarray, counts: np.ndarray) -> tuple[ShingleSets, np.ndarray]:
    """Return each text's set of shingles, and a number for each that equal sets have in common.

    A code leads with the logarithm of the number of shingles whose hashes end alike, so that a
    common one is never taken for rare. Two shingles share a code once in 3e17 pairs: for a million
    texts of one shingle each, the worst case, that is a false pair in one of 500,000 runs.
    """
    codes = _codes(hashes)
    order = np.argsort(counts, kind="stable")
    starts = np.cumsum(counts) - counts
    size = np.zeros_like(counts)
    signature = np.zeros_like(counts)
    kept = [codes[:0]]
    for rows in _rows(counts[order]):
        texts = order[rows]
        columns = np.arange(counts[texts[-1]])
        inside = columns < counts[texts, None]
        cells = codes.take(starts[texts, None] + columns, mode="clip")
        cells = np.where(inside, cells, _NO_CODE)
        cells.sort(axis=1)
        inside[:, 1:] &= cells[:, 1:] != cells[:, :-1]
        size[texts] = inside.sum(axis=1)
        signature[texts] = np.add.reduce(cells, axis=1, where=inside)
        kept.append(cells[inside])
    begin = np.zeros_like(counts)
    begin[order] = np.cumsum(size[order]) - size[order]
    return ShingleSets(np.concatenate(kept), begin, size), signature


def _codes(hashes: np.ndarray) -> np.ndarray:
    """Return each shingle's code: how common its slot is, then the leading bits of its hash."""
    slot_bits = min(24, len(hashes).bit_length())
    slots = (hashes & np.uint64((1 << slot_bits) - 1)).view(np.int64)
    n_in_slot = np.maximum(np.bincount(slots), 1)
    commonness = np.log2(n_in_slot).astype(np.uint8)[slots]
    leading = (hashes >> np.uint64(64 - HASH_BITS)).view(np.int64)
    return commonness.astype(np.int64) << HASH_BITS | leading


def _rows(widths: np.ndarray) -> Iterator[slice]:
    """Yield slices of the ascending widths above 0, each a table of at most about `arrays.BLOCK`
    cells. A table is as wide as its last row.
    """
    start = int(np.searchsorted(widths, 0, side="right"))
    while start < len(widths):
        some = widths[start : start + arrays.BLOCK]
        cells = some * np.arange(1, len(some) + 1)
        n_rows = int(np.searchsorted(cells, arrays.BLOCK, side="right"))
        stop = start + max(1, n_rows)
        yield slice(start, stop)
        start = stop
