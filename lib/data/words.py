"""What a word is in any script: a run of letters, or a character where a script has no blanks."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import regex

Span = tuple[int, int]  # of a text: from, to

# Kinds of characters, the values of `character_kinds`
SEPARATOR, LETTER, KATAKANA, UNSPACED, SYMBOL, EXTENDING = range(6)
# vowel signs, accents, joiners: they belong to the character before them
_EXTENDING = r"[\p{M}\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}]"
# scripts written without blanks; LB=SA are Thai, Lao, Khmer, Myanmar and their like
_UNSPACED = (
    rf"[[\p{{Han}}\p{{Ideographic}}\p{{Hiragana}}\p{{LB=SA}}]&&[\p{{L}}\p{{N}}]--{_EXTENDING}]"
)
_KATAKANA = rf"[\p{{WB=Katakana}}--{_EXTENDING}]"
_LETTER = rf"[[\p{{L}}\p{{N}}_]--{_UNSPACED}--{_KATAKANA}--{_EXTENDING}]"
_PATTERNS = {
    LETTER: _LETTER,
    KATAKANA: _KATAKANA,
    UNSPACED: _UNSPACED,
    SYMBOL: r"[\p{Sm}\p{Sc}\p{So}%‰]",
}
_PATTERNS[EXTENDING] = _EXTENDING
_RUNS = [f"{run}[{run}{_EXTENDING}]*" for run in (_LETTER, _KATAKANA)]
_WORD = regex.compile("|".join([*_RUNS, f"{_UNSPACED}{_EXTENDING}*"]), regex.V1)
_RUN = regex.compile("|".join([*_RUNS, f"(?:{_UNSPACED}{_EXTENDING}*)+"]), regex.V1)
_UNSPACED_CHARACTER = regex.compile(_UNSPACED, regex.V1)
_WRITTEN = regex.compile(rf"{_UNSPACED}{_EXTENDING}*|(?:(?!{_UNSPACED})\S)+", regex.V1)
# Latin, Greek, Cyrillic, Armenian, signs: no mark, no script without blanks. `re` is much faster.
_PLAIN = re.compile(
    "[\x00-\u02ff\u0370-\u0482\u048a-\u0590\u1e00-\u200b\u2010-\u20cf\u2100-\u2bff]*"
)
_PLAIN_WORD = re.compile(r"\w+")
_PLAIN_WRITTEN = re.compile(r"\S+")


def words(text: str) -> list[str]:
    """Return the words of a text in order.

    A word is a run of letters, digits and `_` with the marks and joiners among them; a run of
    katakana; or, in scripts written without blanks (Chinese, hiragana, Thai, Lao, Khmer, Burmese),
    one character with its marks.

    Source: Unicode Standard Annex 29, but a sign always ends a word, so that `don't` is two.

    Examples
    --------
    >>> words("C3PO's किताब, 东京タワー")
    ['C3PO', 's', 'किताब', '东', '京', 'タワー']
    """
    return _PLAIN_WORD.findall(text) if _is_plain(text) else _WORD.findall(text)


def word_spans(text: str) -> list[Span]:
    """Return where each word of `words` begins and ends.

    Examples
    --------
    >>> word_spans("it's 东京")
    [(0, 2), (3, 4), (5, 6), (6, 7)]
    """
    pattern = _PLAIN_WORD if _is_plain(text) else _WORD
    return [match.span() for match in pattern.finditer(text)]


def run_spans(text: str) -> list[Span]:
    """Return where each run of `runs` begins and ends.

    Examples
    --------
    >>> run_spans("it's 东京")
    [(0, 2), (3, 4), (5, 7)]
    """
    pattern = _PLAIN_WORD if _is_plain(text) else _RUN
    return [match.span() for match in pattern.finditer(text)]


def count_words(text: str) -> int:
    """Return the number of runs without white space; one in a script without blanks counts more.

    In such a run each word of `words` counts.

    Examples
    --------
    >>> count_words("well-known facts"), count_words("这部电影 is good")
    (2, 6)
    """
    runs = text.split()
    if not has_unspaced(text):
        return len(runs)
    return sum(len(words(run)) if has_unspaced(run) else 1 for run in runs)


def runs(text: str) -> list[str]:
    """Return the words of a text; neighbours in a script without blanks stay together.

    Examples
    --------
    >>> runs("I love 东京タワー")
    ['I', 'love', '东京', 'タワー']
    """
    return _PLAIN_WORD.findall(text) if _is_plain(text) else _RUN.findall(text)


def written_spans(text: str) -> list[Span]:
    """Return where the words of a text begin and end, with the signs that are written to them.

    A word is a run without white space; in scripts without blanks, a character with its marks.

    Examples
    --------
    >>> written_spans("don't go!"), written_spans("我去 OK")
    ([(0, 5), (6, 9)], [(0, 1), (1, 2), (3, 5)])
    """
    pattern = _PLAIN_WRITTEN if _is_plain(text) else _WRITTEN
    return [match.span() for match in pattern.finditer(text)]


def is_unspaced(word: str) -> bool:
    """Return whether a word of `words` or `runs` is of a script written without blanks."""
    return _UNSPACED_CHARACTER.match(word) is not None


def has_unspaced(text: str) -> bool:
    """Return whether a text has a character of a script that is written without blanks."""
    return not _is_plain(text) and _UNSPACED_CHARACTER.search(text) is not None


def _is_plain(text: str) -> bool:
    return text.isascii() or _PLAIN.fullmatch(text) is not None


@cache
def character_kinds() -> np.ndarray:
    """Return the kind of each of Unicode's code points: ndarray of uint8 of shape (0x110000,).

    `words` follows from them: LETTER and KATAKANA make runs, an UNSPACED one is a word, and an
    EXTENDING one belongs to the character before it, if that is not a SEPARATOR.
    """
    characters = "".join(map(chr, range(0x110000)))
    kinds = np.full(len(characters), SEPARATOR, dtype=np.uint8)
    for kind, pattern in _PATTERNS.items():
        for run in regex.finditer(f"{pattern}+", characters, regex.V1):
            kinds[run.start() : run.end()] = kind
    return kinds
