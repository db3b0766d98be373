"""The one exception for mistakes that a user can put right, and how it shows names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

MAX_CHARS = 300  # of a message that a person is to read to its end


class WorkbookError(ValueError):
    """Input that cannot be used: the message names it, says what was found and what to do.

    The command line and notebooks show it in one line, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def quoted(name: object, width: int = 40) -> str:
    r"""Return a name as an error shows it: in quotes, in one line, cut to about `width` characters.

    Examples
    --------
    >>> quoted("two\nlines"), quoted("a very long name", 12)
    ("'two\\nlines'", "'a very lon…'")
    """
    text = str(name)
    return repr(text if len(text) <= width else f"{text[: width - 2]}…")


def listed(items: Iterable[str], width: int = 120) -> str:
    """Join the first items, one at least, as fit in `width` characters, and count the others.

    Examples
    --------
    >>> listed(["'red' (1)", "'green' (2)", "'blue' (2)"], width=33)
    "'red' (1), 'green' (2) and 1 more"
    """
    items = list(items)
    line = ""
    for n_shown in range(min(len(items), width), 0, -1):
        n_more = len(items) - n_shown
        more = f" and {n_more:,} more" if n_more else ""
        line = f"{', '.join(items[:n_shown])}{more}"
        if len(line) <= width:
            break
    return line


def shown_path(path: Path | str, width: int = 80) -> str:
    """Return a path as an error shows it: of a long one both ends, of odd bytes their escapes.

    Examples
    --------
    >>> shown_path("a/b.csv"), len(shown_path("folder/" * 50 + "b.csv"))
    ('a/b.csv', 80)
    """
    text = str(path).encode("utf-8", "backslashreplace").decode()
    if len(text) <= width:
        return text
    start = width // 4
    return f"{text[:start]}…{text[start + 1 - width :]}"
