"""The pairs of texts that one edit makes equal, from the places where it can be.

An edit leaves a character out, exchanges it with the next, or replaces it. No edit touches a digit
or a sign. The similarity of a pair is 1 - 1/n for n characters of the longer text.
"""

from __future__ import annotations

import unicodedata

import numpy as np

from lib.data.duplicates import arrays
from lib.data.duplicates.arrays import ranges
from lib.data.duplicates.groups import PairList
from lib.data.duplicates.units import Units, inverse_powers, mixed, powers, spelling


def add_omissions(pairs: PairList, units: Units, text: np.ndarray, at: np.ndarray) -> None:
    """Add pairs of a text and one that lacks its character at `at`, or one of the next two."""
    text, at = _typable_places(units, text, at, 3)
    size = units.size[text]
    after = units.beginning(text, size) - units.beginning(text, at + 1)
    left = units.beginning(text, at) + after * inverse_powers(units.longest)[1]
    a, b = _spelt(units, text, spelling(left, size - 1))
    _add(pairs, units, a, b)


def add_exchanges(pairs: PairList, units: Units, text: np.ndarray, at: np.ndarray) -> None:
    """Add pairs of texts that differ in the order of the character at `at` and the next."""
    place = units.begin[text] + at
    letters, following = units.letters[place], units.letters[place + 1]
    is_able = _is_typable(letters) & _is_typable(following)
    text, at = text[is_able], at[is_able]
    gain = following[is_able].astype(np.uint64) - letters[is_able].astype(np.uint64)
    power = powers(units.longest)
    size = units.size[text]
    exchanged = units.beginning(text, size) + gain * (power[at] - power[at + 1])
    a, b = _spelt(units, text, spelling(exchanged, size))
    once = a < b  # each finds the other
    _add(pairs, units, a[once], b[once])


def add_replacements(pairs: PairList, units: Units, text: np.ndarray, at: np.ndarray) -> None:
    """Add pairs of texts that differ in the character at `at`, or in the one after it."""
    text, at = _typable_places(units, text, at, 2)
    letters = units.letters[units.begin[text] + at].astype(np.uint64)
    others = units.beginning(text, units.size[text]) - letters * powers(units.longest)[at]
    keys = mixed(spelling(others, units.size[text]) + at.astype(np.uint64))
    order = np.argsort(keys, kind="stable")
    keys, text = keys[order], text[order]
    n_partners = np.searchsorted(keys, keys, side="right") - np.arange(1, len(keys) + 1)
    start = 0
    while start < len(keys):
        if pairs.only_groups:
            n_partners = np.minimum(n_partners, 1)
        n_pairs = np.cumsum(n_partners[start:])
        stop = start + max(1, int(np.searchsorted(n_pairs, arrays.CELLS, side="right")))
        of_block = n_partners[start:stop]
        a = np.repeat(text[start:stop], of_block)
        b = text[ranges(np.arange(start + 1, stop + 1), of_block)]
        _add(pairs, units, a, b)
        start = stop


def _typable_places(
    units: Units, text: np.ndarray, at: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places, and the n - 1 after each, that an edit may touch, each once."""
    places = np.unique(np.add.outer(units.begin[text] + at, np.arange(n)))
    places = places[_is_typable(units.letters[places])]
    text = np.searchsorted(units.begin, places, side="right") - 1
    return text, places - units.begin[text]


def _is_typable(letters: np.ndarray) -> np.ndarray:
    """Return which letters are neither digits nor signs."""
    codes, of_letter = np.unique(letters, return_inverse=True)
    categories = [unicodedata.category(chr(code))[0] for code in codes]
    return np.isin(categories, list("NSP"), invert=True)[of_letter]


def _spelt(units: Units, text: np.ndarray, spellings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a text text[k] and the text that is spelt spellings[k], each once."""
    order = np.argsort(units.spellings)
    sorted_spellings = units.spellings[order]
    position = np.searchsorted(sorted_spellings, spellings)
    position = np.minimum(position, len(order) - 1)
    exists = sorted_spellings[position] == spellings
    n = len(order)
    numbers = np.unique(text[exists] * n + order[position[exists]])
    a, b = np.divmod(numbers, max(1, n))
    return a, b


def _add(pairs: PairList, units: Units, a: np.ndarray, b: np.ndarray) -> None:
    longest = np.maximum(units.size[a], units.size[b])
    pairs.add(a, b, 1 - 1 / longest)
