"""Claims that a notebook makes: computed, asserted, and shown as its takeaway."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from numbers import Integral


@dataclass(frozen=True, repr=False)
class Takeaway:
    """A sentence that a notebook shows: plain in a terminal, set apart in HTML, always escaped."""

    text: str
    kind: str = "note"

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
    AssertionError : the number is out of bounds (or NaN); the message says so in words.

    Examples
    --------
    >>> verdict("Rows crossing splits", 0, at_most=0)
    Rows crossing splits: 0
    """
    holds = not math.isnan(value)
    bounds = []
    if at_least is not None:
        bounds.append(f"at least {_plain(at_least)}")
        holds = holds and value >= at_least
    if at_most is not None:
        bounds.append(f"at most {_plain(at_most)}")
        holds = holds and value <= at_most
    rows = "" if n is None else f" (n = {n:,})"
    if not holds:
        expected = " and ".join(bounds) or "a number"
        raise AssertionError(f"{claim}: {_plain(value)}, expected {expected}{rows}")
    return Takeaway(f"{claim}: {_plain(value)}{rows}", "held")


def takeaway(text: str) -> Takeaway:
    """Return a sentence, whose numbers the caller has computed, as a takeaway."""
    return Takeaway(text)


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, Integral) else f"{value:.4g}"
