"""Arrays of runs: texts one after another, sets one after another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1 << 17  # characters or shingles at a time: arrays that stay in the processor's cache
CELLS = 1 << 22  # shingles or pairs compared at a time: some 200 MB


def ranges(begin: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return begin[0], begin[0] + 1, ... length[0] numbers; then those of begin[1], and so on."""
    return np.repeat(begin - np.cumsum(length) + length, length) + np.arange(length.sum())


def blocks(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of runs whose sizes add up to at most `limit`, or of a single item."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        end = ends[start] - sizes[start] + limit
        stop = max(start + 1, int(np.searchsorted(ends, end, side="right")))
        yield start, stop
        start = stop
