"""Words of a text that give way to others, in their case and by chance that can be repeated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from random import Random

import regex

from lib.data.words import Span, has_unspaced


def match_case(new: str, old: str) -> str:
    """Return a word in the case of the one that it replaces.

    Examples
    --------
    >>> match_case("she", "He"), match_case("she", "HE"), match_case("iPhone", "phone")
    ('She', 'SHE', 'iPhone')
    """
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() else new


def word_pattern(words: Iterable[str]) -> regex.Pattern:
    """Return a pattern that finds whole words, or several in a row, in any case, longest first.

    In scripts without blanks a word is found wherever its characters are.
    """
    alternatives = []
    for word in sorted(words, key=len, reverse=True):
        escaped = regex.escape(word)
        alternatives.append(escaped if has_unspaced(word) else rf"(?<!\w){escaped}(?!\w)")
    return regex.compile("|".join(alternatives) or "(?!)", regex.IGNORECASE)


def replace_words(text: str, substitutes: Mapping[str, str]) -> str:
    """Return a text with words replaced, all at once, in the case of the replaced ones.

    Parameters
    ----------
    substitutes : word in lower case -> what takes its place

    Examples
    --------
    >>> replace_words("He saw her; the hero left.", {"he": "she", "her": "him"})
    'She saw him; the hero left.'
    """

    def substitute(found: regex.Match) -> str:
        old = found[0]
        return match_case(substitutes.get(old.lower(), old), old)

    return word_pattern(substitutes).sub(substitute, text)


def edited(text: str, edits: Mapping[Span, str]) -> str:
    """Return a text with spans of it replaced.

    Examples
    --------
    >>> edited("a good film", {(7, 11): "movie", (2, 6): "fine"})
    'a fine movie'
    """
    parts = []
    done = 0
    for start, stop in sorted(edits):
        parts += [text[done:start], edits[start, stop]]
        done = stop
    return "".join([*parts, text[done:]])


def seeded(*parts: object) -> Random:
    """Return a source of randomness that depends on the given values alone."""
    return Random("/".join(map(str, parts)).encode("utf-8", "surrogatepass"))
