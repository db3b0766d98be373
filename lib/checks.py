"""Claims that a notebook makes: computed, asserted, and shown as its takeaway."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral


@dataclass(frozen=True, repr=False)
class Takeaway:
    """A sentence that a notebook shows: plain in a terminal, set apart in HTML, always escaped.

    Attributes
    ----------
    kind : note, or held: a claim that was asserted
    next_steps : what to do about it; by step, as a sentence, the points of a score that it wins at
        least (NaN: not known). The report's index shows those that are worth most.
    """

    text: str
    kind: str = "note"
    next_steps: Mapping[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return " ".join([self.text, *self.next_steps])

    def _repr_html_(self) -> str:
        sentence = f'<p class="takeaway {self.kind}">{html.escape(self.text)}</p>'
        items = [
            f'<li data-points="{points:.2f}">{html.escape(step)}</li>'
            for step, points in self.next_steps.items()
        ]
        return f'{sentence}<ul class="next-steps">{"".join(items)}</ul>' if items else sentence


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


def takeaway(text: str, next_steps: Mapping[str, float] | None = None) -> Takeaway:
    """Return a sentence, whose numbers the caller has computed, as a takeaway."""
    return Takeaway(text, next_steps=next_steps or {})


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, Integral) else f"{value:.4g}"
