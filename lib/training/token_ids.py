"""Texts as token ids, without torch: cut as configured, and batched by length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

# Of the tokens kept by head_tail: 128 of 510 in Sun et al. 2019, "How to Fine-Tune BERT for Text
# Classification?"
HEAD_SHARE = 0.25
WINDOW_OVERLAP = 0.25  # of a window, shared with the next
MAX_WINDOWS = 32  # of one text; what lies beyond is cut
# Padded tokens a pass: on a processor fewer are slower, more no faster (LOG.md, 2026-11-29).
CPU_TOKENS = 2_048
GPU_TOKENS = 32_768


def cut_to_pieces(ids: list[int], room: int, truncation: str) -> list[list[int]]:
    """Cut a text's token ids to pieces of at most `room` tokens, special tokens not counted.

    Parameters
    ----------
    truncation : `head` keeps the first tokens; `head_tail` the first quarter and the last three
        quarters of what fits; `windows` makes overlapping pieces of a longer text, 32 at most
    """
    if len(ids) <= room or truncation == "head":
        return [ids[:room]]
    if truncation == "head_tail":
        head = round(room * HEAD_SHARE)
        return [ids[:head] + ids[len(ids) - (room - head) :]]
    step = window_step(room)
    starts = range(0, len(ids) - room + step, step)
    return [ids[start : start + room] for start in starts[:MAX_WINDOWS]]


def window_step(room: int) -> int:
    """Return how many tokens lie between the starts of two windows."""
    return max(1, room - round(room * WINDOW_OVERLAP))


def pass_tokens(device: str) -> int:
    """Return how many padded tokens a forward pass has on a device, "cpu" or "cuda"."""
    return GPU_TOKENS if device == "cuda" else CPU_TOKENS


def sorted_batches(lengths: np.ndarray, *, max_tokens: int) -> Iterator[np.ndarray]:
    """Yield all rows in batches of like length, the longest first.

    Parameters
    ----------
    max_tokens : of a batch, padding included; one row may have more
    """
    order = np.argsort(-lengths, kind="stable")
    for part in token_batches(lengths[order].tolist(), max_tokens=max_tokens, max_rows=1_024):
        yield order[part]


def token_batches(
    lengths: Sequence[int], *, max_tokens: int | None, max_rows: int
) -> Iterator[slice]:
    """Cut rows sorted by falling length into slices.

    A slice has `max_rows` rows and `max_tokens` padded tokens at most, and one row at least.
    """
    start = 0
    while start < len(lengths):
        n_rows = max_rows
        if max_tokens is not None:
            n_fitting = max_tokens // max(1, lengths[start])
            n_rows = max(1, min(max_rows, n_fitting))
        yield slice(start, min(start + n_rows, len(lengths)))
        start += n_rows
