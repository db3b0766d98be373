"""Claims that a notebook makes: computed, asserted, and shown as its takeaway."""

from __future__ import annotations

import html
import math
from numbers import Integral
from typing import Any


class Takeaway:
    """A sentence that a notebook shows: plain in a terminal, set apart in HTML, always escaped."""

    def __init__(self, text: str, kind: str = "note") -> None:
        self.text, self.kind = text, kind

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f'<p class="takeaway {self.kind}">{html.escape(self.text)}</p>'


def verdict(
    claim: str,
    value: float,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    n: int | None = None,
) -> Takeaway:
    """Assert a claim about a number and return it as a takeaway.

    Parameters
    ----------
    claim : what the number is, as "Rows crossing splits"
    value : the number
    at_least, at_most : bounds, each optional
    n : rows behind it; shown where given

    Raises
    ------
    AssertionError : the number is out of bounds (or is no number); the message says so in words.

    Examples
    --------
    >>> verdict("Rows crossing splits", 0, at_most=0)
    Rows crossing splits: 0
    """
    bounds = [
        f"{words} {_plain(bound)}"
        for words, bound in (("at least", at_least), ("at most", at_most))
        if bound is not None
    ]
    kept = (
        (at_least is None or value >= at_least)
        and (at_most is None or value <= at_most)
        and not math.isnan(value)
    )
    if not kept:
        raise AssertionError(
            f"{claim}: {_plain(value)}, expected {' and '.join(bounds) or 'a number'}"
            + (f" (n = {n:,})" if n is not None else "")
        )
    return Takeaway(
        f"{claim}: {_plain(value)}" + (f" (n = {n:,})" if n is not None else ""), "held"
    )


def takeaway(text: str) -> Takeaway:
    """Return a sentence, whose numbers the caller has computed, as a takeaway."""
    return Takeaway(text)


def _plain(value: Any) -> str:
    return (
        f"{value:,}"
        if isinstance(value, Integral)
        else f"{value:.4g}"
        if isinstance(value, float)
        else f"{value:g}"
    )
