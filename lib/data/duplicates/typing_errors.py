"""Texts that are one typing error apart: an exact join that bisects where the error can be.

Two texts with one error between them agree outside of any part that holds it. So a text that agrees
with no other outside of its first half, and with none outside of its second half, has no partner:
most texts go at once. Of the others those halves that are left are halved again, until they are
narrow enough to try every error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lib.data.duplicates import edits
from lib.data.duplicates.groups import PairList
from lib.data.duplicates.units import MIXERS, Units, inverse_powers, joined, mixed, units_in_blocks

# characters; in longer texts, of words of usual length, an error leaves 0.95 of the shingles
LONGEST = 2_000
_NARROW = 2  # characters: an exchange takes two


@dataclass(frozen=True)
class _Windows:
    """Parts of texts that may hold the error of a pair.

    Attributes
    ----------
    text : the text of each
    shorter : characters of the shorter text of the pair: as many as of `text`, or one less
    start, width : the part in the shorter text; in a longer one it is a character wider
    """

    text: np.ndarray
    shorter: np.ndarray
    start: np.ndarray
    width: np.ndarray

    def take(self, chosen: np.ndarray) -> _Windows:
        columns = (self.text, self.shorter, self.start, self.width)
        return _Windows(*(column[chosen] for column in columns))

    def halves(self) -> _Windows:
        """Return both halves of each; they share a character, so that no exchange is cut."""
        middle = self.width // 2
        starts = np.concatenate([self.start, self.start + middle])
        widths = np.concatenate([middle + 1, self.width - middle])
        return _Windows(np.tile(self.text, 2), np.tile(self.shorter, 2), starts, widths)

    def keys(self, units: Units) -> np.ndarray:
        """Return a 64-bit number for each; those of two texts agree where all else is equal."""
        size = units.size[self.text]
        end = size - (self.shorter - self.start - self.width)
        before = units.beginning(self.text, self.start)
        after = units.beginning(self.text, size) - units.beginning(self.text, end)
        after *= inverse_powers(units.longest)[end]
        place = (self.shorter * (LONGEST + 1) + self.start) * (LONGEST + 1) + self.width
        return mixed(mixed(before + MIXERS[1] * place.astype(np.uint64)) + after)


class TypingErrors:
    """The search for pairs among texts that come some at a time.

    Parameters
    ----------
    threshold : the least similarity of a pair, 1 - 1/n for n characters of the longer text
    """

    def __init__(self, threshold: float) -> None:
        # 1 takes endless texts
        self._least = np.ceil(1 / (1 - threshold) - 1e-6) if threshold < 1 else np.inf
        self._n_texts = 0
        nothing = np.zeros(0, dtype=np.int64)
        self._texts = [nothing]
        self._spellings = [nothing.astype(np.uint64)]
        self._windows = [_Windows(nothing, nothing, nothing, nothing)]
        self._keys = [nothing.astype(np.uint64)]

    def add(self, units: Units) -> None:
        """Take the next texts."""
        size = units.size
        able = np.flatnonzero((size >= self._least - 1) & (size <= LONGEST))
        longer = able[size[able] >= self._least]
        text = np.concatenate([able, longer])
        shorter = np.concatenate([size[able], size[longer] - 1])
        whole = _Windows(text, shorter, np.zeros_like(shorter), shorter)
        windows = _halved(whole)
        self._keys.append(windows.keys(units))
        self._windows.append(replace(windows, text=windows.text + self._n_texts))
        self._texts.append(able + self._n_texts)
        self._spellings.append(units.spellings[able])
        self._n_texts += len(size)

    def pairs(
        self, texts: Sequence[str], *, max_pairs: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return positions a and b of the pairs, and their similarity.

        Of texts that are spelt alike the first stands for all.

        Parameters
        ----------
        texts : all that were added
        """
        windows = self._candidates()
        chosen, text = np.unique(windows.text, return_inverse=True)
        units = joined(list(units_in_blocks([texts[i] for i in chosen])))
        windows = replace(windows, text=text)
        while (windows.width > _NARROW).any():
            windows = _halved(windows)
            windows = windows.take(_shared(windows.keys(units)))
        found = PairList(len(chosen), max_pairs)
        is_longer = windows.shorter < units.size[windows.text]
        longer, shorter = windows.take(is_longer), windows.take(~is_longer)
        edits.add_omissions(found, units, longer.text, longer.start)
        long_enough = shorter.take(shorter.shorter >= self._least)
        edits.add_exchanges(found, units, long_enough.text, long_enough.start)
        edits.add_replacements(found, units, long_enough.text, long_enough.start)
        a, b, similarity = found.arrays()
        return chosen[a], chosen[b], similarity

    def _candidates(self) -> _Windows:
        """Return the windows that texts share, of the first text of each spelling."""
        texts = np.concatenate(self._texts)
        is_copy = pd.Series(np.concatenate(self._spellings)).duplicated().to_numpy()
        is_first = np.ones(self._n_texts, dtype=bool)
        is_first[texts[is_copy]] = False
        windows = _concatenated(self._windows)
        stays = np.flatnonzero(is_first[windows.text])
        keys = np.concatenate(self._keys)[stays]
        return windows.take(stays[_shared(keys)])


def _halved(windows: _Windows) -> _Windows:
    """Return the halves of windows; narrow ones stay whole."""
    is_narrow = windows.width <= _NARROW
    return _concatenated([windows.take(is_narrow), windows.take(~is_narrow).halves()])


def _shared(keys: np.ndarray) -> np.ndarray:
    """Return which keys occur more than once."""
    return pd.Series(keys).duplicated(keep=False).to_numpy()


def _concatenated(windows: Sequence[_Windows]) -> _Windows:
    columns = ((part.text, part.shorter, part.start, part.width) for part in windows)
    return _Windows(*map(np.concatenate, zip(*columns)))
