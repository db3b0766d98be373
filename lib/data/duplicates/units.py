"""Texts as arrays of characters, and the units of meaning in them, each with its hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from lib.data.duplicates import arrays
from lib.data.duplicates.arrays import blocks
from lib.data.words import EXTENDING, SEPARATOR, SYMBOL, UNSPACED, character_kinds

# of the rolling hash of characters; odd, so that it has an inverse modulo 2^64
_BASE = 0x9E3779B97F4A7C15
# odd constants (splitmix64, xxHash)
MIXERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


@dataclass(frozen=True)
class Units:
    """Texts in lower case with one blank between units that anything parts, and their units.

    Attributes
    ----------
    letters : code points of all texts, one text after another with a blank between
    begin, size : text k is `letters[begin[k] : begin[k] + size[k]]`
    sums : the sum of all letters before each, each times the power of the base for its position in
        its text: the rolling hash of any part of a text is a difference of two
    first, stop : unit after unit, where in `letters` each begins and where it has ended

    Source: Karp & Rabin 1987.
    """

    letters: np.ndarray
    begin: np.ndarray
    size: np.ndarray
    sums: np.ndarray
    first: np.ndarray
    stop: np.ndarray

    @property
    def n_units(self) -> np.ndarray:
        """The number of units of each text."""
        return np.diff(np.searchsorted(self.first, self.begin + self.size), prepend=0)

    @property
    def hashes(self) -> np.ndarray:
        """A 64-bit hash of each unit."""
        place = self.first - np.repeat(self.begin, self.n_units)
        sums = self.sums[self.stop] - self.sums[self.first]
        return sums * inverse_powers(self.longest)[place]

    @property
    def longest(self) -> int:
        """The number of letters of the longest text."""
        return int(self.size.max(initial=0))

    @property
    def spellings(self) -> np.ndarray:
        """A 64-bit number for each text; those of texts that are spelt alike agree."""
        texts = np.arange(len(self.size))
        return spelling(self.beginning(texts, self.size), self.size)

    def beginning(self, texts: np.ndarray, n: np.ndarray) -> np.ndarray:
        """Return the rolling hash of the first n[k] letters of each text texts[k]."""
        begin = self.begin[texts]
        return self.sums[begin + n] - self.sums[begin]


def units_in_blocks(texts: Sequence[str]) -> Iterator[Units]:
    """Yield the units of some texts at a time."""
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    for start, stop in blocks(lengths, arrays.BLOCK):
        yield units_of(texts[start:stop])


def units_of(texts: Sequence[str]) -> Units:
    """Return the units of texts.

    A unit is a word (`words.words`) or a sign that changes the meaning: a symbol, an emoji, `%`,
    the # of C#, the minus of -5, the mouth of :).
    """
    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    lowered = "\n".join(["", *texts, ""]).lower()
    if len(lowered) != lengths.sum() + len(texts) + 1:  # İ becomes two characters
        return units_of([text.lower() for text in texts])
    letters = _code_points(lowered)
    kinds, is_start = _kinds_and_starts(letters)
    is_kept = kinds != SEPARATOR
    is_kept[1:] |= is_kept[:-1]  # and the blank after a unit
    kept = np.flatnonzero(is_kept)
    text_ends = np.cumsum(lengths + 1)
    n_kept = np.diff(np.searchsorted(kept, text_ends, side="right"), prepend=0)
    begin = np.cumsum(n_kept) - n_kept
    letters, kinds, is_start = letters.take(kept), kinds.take(kept), is_start.take(kept)
    is_blank = kinds == SEPARATOR
    np.putmask(letters, is_blank, ord(" "))
    sums = _sums(letters, begin, n_kept)
    # a unit ends where the next one or a blank is
    edges = np.flatnonzero(is_start | is_blank)
    units = np.flatnonzero(is_start[edges])
    size = np.maximum(n_kept - 1, 0)
    return Units(letters, begin, size, sums, edges[units], edges[units + 1])


def _sums(letters: np.ndarray, begin: np.ndarray, size: np.ndarray) -> np.ndarray:
    place = np.arange(len(letters)) - np.repeat(begin, size)
    terms = letters * powers(int(size.max(initial=0))).take(place)
    sums = np.zeros(len(letters) + 1, dtype=np.uint64)
    np.cumsum(terms, out=sums[1:])
    return sums


def joined(parts: Sequence[Units]) -> Units:
    """Return the letters and sums of several parts as one, without the units; no text is empty."""
    n_letters = np.array([len(part.letters) for part in parts])
    shifts = np.cumsum(n_letters) - n_letters
    no_letters = np.zeros(0, dtype=np.uint8)
    no_numbers = np.zeros(0, dtype=np.int64)
    no_sums = no_numbers.astype(np.uint64)
    return Units(
        letters=np.concatenate([no_letters, *(part.letters for part in parts)]),
        begin=np.concatenate([no_numbers, *(part.begin + n for part, n in zip(parts, shifts))]),
        size=np.concatenate([no_numbers, *(part.size for part in parts)]),
        sums=np.concatenate([no_sums, *(part.sums[:-1] for part in parts)]),
        first=no_numbers,
        stop=no_numbers,
    )


def _code_points(text: str) -> np.ndarray:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _kinds_and_starts(letters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind of each letter, that of the unit it is in, and whether a unit starts there.

    The first letter and the last are line breaks.
    """
    kinds = character_kinds().take(letters)
    kinds[_signs(letters, kinds)] = SYMBOL
    is_extending = kinds == EXTENDING
    if is_extending.any():
        positions = np.where(is_extending, 0, np.arange(len(kinds)))
        kinds = kinds[np.maximum.accumulate(positions)]
    is_start = (kinds == UNSPACED) | (kinds == SYMBOL)
    is_start[1:] |= kinds[1:] != kinds[:-1]
    return kinds, is_start & (kinds != SEPARATOR) & ~is_extending


def _signs(letters: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    """Return the positions of punctuation that changes the meaning where it stands."""
    hashes = np.flatnonzero(letters == ord("#"))
    hashes = hashes[kinds[hashes - 1] != SEPARATOR]
    minuses = np.flatnonzero(letters == ord("-"))
    digits = letters[minuses + 1] - ord("0")
    is_first = np.isin(kinds[minuses - 1], (SEPARATOR, SYMBOL))
    minuses = minuses[is_first & (digits < 10)]
    mouths = np.flatnonzero((letters == ord("(")) | (letters == ord(")")))
    eyes = letters[mouths - 1]
    eyes = np.where(eyes == ord("-"), letters[mouths - 2], eyes)
    is_mouth = (eyes == ord(":")) | (eyes == ord(";"))
    mouths = mouths[is_mouth & (kinds[mouths + 1] == SEPARATOR)]
    return np.concatenate([hashes, minuses, mouths])


def powers(n: int) -> np.ndarray:
    """Return at least the first n + 2 powers of the rolling hash's base, modulo 2^64."""
    return _powers(_BASE, n.bit_length() + 1)


def inverse_powers(n: int) -> np.ndarray:
    """Return at least the first n + 2 powers of the inverse of the base, modulo 2^64."""
    return _powers(pow(_BASE, -1, 1 << 64), n.bit_length() + 1)


@cache
def _powers(base: int, n_bits: int) -> np.ndarray:
    values = np.full(1 << max(n_bits, 17), base, dtype=np.uint64)
    values[0] = 1
    return np.cumprod(values)


def spelling(hashes: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return a 64-bit number for each text of a rolling hash and a number of letters."""
    return mixed(hashes + MIXERS[1] * size.astype(np.uint64))


def mixed(values: np.ndarray) -> np.ndarray:
    """Scatter 64-bit numbers (the finaliser of splitmix64)."""
    values = (values + MIXERS[0]) * MIXERS[1]
    values ^= values >> np.uint64(29)
    values *= MIXERS[2]
    values ^= values >> np.uint64(32)
    return values
