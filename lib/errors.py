"""The one exception for mistakes that a user can put right, and what its messages are made of."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from pathlib import Path

_SHORT = reprlib.Repr()
_SHORT.maxstring = 60
_SHORT.maxother = 60
_SHORT.maxlong = 60


class WorkbookError(ValueError):
    """Input that cannot be used: the message names it, says what was found and what to do.

    The command line prints it in one line, without a traceback.
    """


def shown(value: object) -> str:
    """Return a value as a message shows it: a long one is cut in the middle.

    Examples
    --------
    >>> shown("news"), len(shown("news" * 1000))
    ("'news'", 60)
    """
    return " ".join(_SHORT.repr(value).split())


def listed(values: Iterable[object], *, at_most: int = 5) -> str:
    """Return values as a message lists them: the first few, and how many more there are.

    Examples
    --------
    >>> listed("abc"), listed("abcd", at_most=2)
    ("'a', 'b', 'c'", "'a', 'b' and 2 more")
    """
    values = list(values)
    names = ", ".join(map(shown, values[:at_most]))
    n_more = len(values) - at_most
    return f"{names} and {n_more:,} more" if n_more > 0 else names


def shown_path(path: Path | str, *, at_most: int = 100) -> str:
    """Return a path as a message shows it: of a long one both ends, of odd bytes their escapes.

    Examples
    --------
    >>> shown_path("a/b.csv"), len(shown_path("folder/" * 50 + "b.csv"))
    ('a/b.csv', 100)
    """
    text = str(path).encode("utf-8", "backslashreplace").decode()
    if len(text) <= at_most:
        return text
    start = at_most // 4
    return f"{text[:start]}…{text[start + 1 - at_most:]}"
