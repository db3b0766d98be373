"""The one exception for mistakes that a user can put right, and how it shows names."""

from __future__ import annotations

from collections.abc import Iterable

MAX_CHARS = 300  # of a message that a person is to read to its end


class WorkbookError(ValueError):
    """Input that cannot be used: the message names it, says what was found and what to do.

    The command line prints it in one line, without a traceback.
    """


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
    line = ", ".join(items)
    n_shown = len(items)
    while len(line) > width and n_shown > 1:
        n_shown -= 1
        line = f"{', '.join(items[:n_shown])} and {len(items) - n_shown:,} more"
    return line
