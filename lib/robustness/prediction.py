"""The check of what a model answers, before anything is concluded from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lib.errors import WorkbookError, quoted

Predict = Callable[[list[str]], np.ndarray]
TOLERANCE = 1e-4  # of a row's sum; a softmax in float32 stays within 1e-6


def checked(predict: Predict, *, n_classes: int) -> Predict:
    """Return `predict` with every answer checked.

    Parameters
    ----------
    predict : takes n raw texts, returns probabilities of shape (n, k)
    n_classes : k, how many columns it must return

    Returns
    -------
    function that answers n texts with an ndarray of float64 of shape (n, k), rows summing to 1. It
    raises WorkbookError where `predict` raises, or answers with another shape, NaN, a negative
    probability or a row that does not sum to 1 within 1e-4. The message names the text by its
    number in the list. Errors that `predict` raises as WorkbookError are left as they are.

    Examples
    --------
    >>> wrapped = checked(lambda texts: np.full((len(texts), 2), 0.4), n_classes=2)
    >>> wrapped(["good", "bad"])
    Traceback (most recent call last):
    lib.errors.WorkbookError: predict must return rows that sum to 1; texts[0] 'good' sums to 0.8
    """

    def checked_predict(texts: list[str]) -> np.ndarray:
        texts = list(texts)
        if not texts:
            return np.empty((0, n_classes))
        answer = _answer(predict, texts)
        probs = _as_floats(answer, shape=(len(texts), n_classes))
        return _checked_rows(probs, texts)

    return checked_predict


def _answer(predict: Predict, texts: list[str]) -> np.ndarray:
    try:
        return predict(texts)
    except WorkbookError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {str(error)[:100]}"
        raise WorkbookError(
            f"predict raised {found!r} on {_culprit(predict, texts)}; it must answer any text"
        ) from error


def _culprit(predict: Predict, texts: list[str]) -> str:
    """Return which text `predict` raises on, by halving; all of them where neither half raises."""
    start = 0
    stop = len(texts)
    while stop - start > 1:
        middle = (start + stop) // 2
        if _raises(predict, texts[start:middle]):
            stop = middle
        elif _raises(predict, texts[middle:stop]):
            start = middle
        else:
            return f"texts[{start}:{stop}] together, and on neither half of them"
    return _named(texts, start)


def _raises(predict: Predict, texts: list[str]) -> bool:
    try:
        predict(texts)
    except Exception:
        return True
    return False


def _as_floats(answer: np.ndarray, *, shape: tuple[int, int]) -> np.ndarray:
    try:
        probs = np.asarray(answer, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise WorkbookError(
            f"predict must return numbers of shape {shape}, a row a text, "
            f"found {type(answer).__name__}: {str(error)[:100]}"
        ) from error
    if probs.shape != shape:
        raise WorkbookError(
            f"predict must return shape {shape}, a row a text and a column a class, "
            f"found {probs.shape}; texts[0:{shape[0]}] were asked"
        )
    return probs


def _checked_rows(probs: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Return rows that sum to 1 exactly, or name the first that does not, or is no probability."""
    finite = np.isfinite(probs).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        value = probs[row][~np.isfinite(probs[row])][0]
        raise WorkbookError(f"predict must return numbers; {_named(texts, row)} has {value}")
    lowest = probs.min(axis=1)
    if lowest.min() < 0:
        row = int(np.argmax(lowest < 0))
        raise WorkbookError(
            f"predict must return probabilities; {_named(texts, row)} has {lowest[row]:.6g}"
        )
    sums = probs.sum(axis=1)
    sums_to_1 = np.abs(sums - 1) <= TOLERANCE
    if not sums_to_1.all():
        row = int(np.argmin(sums_to_1))
        raise WorkbookError(
            f"predict must return rows that sum to 1; {_named(texts, row)} sums to {sums[row]:.6g}"
        )
    return probs / sums[:, None]


def _named(texts: Sequence[str], row: int) -> str:
    return f"texts[{row}] {quoted(texts[row])}"
