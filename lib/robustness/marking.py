"""Texts with parts of them marked, as escaped HTML for a notebook and as plain text."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

MAX_CHARS = 2_000  # of a text that is shown
Mark = tuple[int, int, str]  # from, to, and the HTML that stands there


@dataclass(frozen=True, repr=False)
class MarkedTexts:
    """Texts for a notebook: `html`, in which all that a text says is escaped, and `plain`."""

    html: str
    plain: str

    def __repr__(self) -> str:
        return self.plain

    def _repr_html_(self) -> str:
        return self.html


def with_marks(text: str, marks: Sequence[Mark], *, max_chars: int = MAX_CHARS) -> str:
    """Return a text as HTML: what no mark covers is escaped, a mark's own HTML is taken as it is.

    Parameters
    ----------
    marks : in order, without overlap
    max_chars : the text ends there; marks that reach beyond are left out

    Examples
    --------
    >>> with_marks("a < b & c", [(4, 5, "<b>b</b>")])
    'a &lt; <b>b</b> &amp; c'
    """
    parts = []
    done = 0
    for start, stop, markup in marks:
        if stop > max_chars:
            break
        parts += [html.escape(text[done:start]), markup]
        done = stop
    rest = html.escape(text[done:max_chars])
    cut = "…" if len(text) > max_chars else ""
    return "".join([*parts, rest, cut])


def titled(title: str, markup: str) -> str:
    """Return a paragraph of HTML: a title, which is escaped, and marked text below it."""
    style = "white-space: pre-wrap; overflow-wrap: anywhere"
    return f'<p style="{style}"><strong>{html.escape(title)}</strong><br>{markup}</p>'
