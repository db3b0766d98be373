"""Texts as typists, scanners and web pages spoil them, each kind at five severities."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import regex

from lib.config import closest
from lib.data.words import Span, words, written_spans
from lib.errors import WorkbookError, quoted
from lib.robustness.confusions import (
    ADDRESSES,
    CONTRACTIONS,
    DISTRACTORS,
    EMOJI,
    HOMOGLYPHS,
    KEYS,
    MARKUP,
    OCR,
)
from lib.robustness.substitution import edited, match_case, seeded, word_pattern

SEVERITIES = (1, 2, 3, 4, 5)
Spans = list[Span]
Synonyms = Callable[[str], Sequence[str]]
Change = Callable[[str, Random], str]
Edit = Callable[[str, int, Random], str]
# shares of the places where a kind can change something, by severity
CHARACTER_SHARES = (0.01, 0.03, 0.06, 0.1, 0.15)
WORD_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
ADDED_SHARES = (0.03, 0.07, 0.12, 0.2, 0.3)
RARE_SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
CUT_SHARES = (0.1, 0.25, 0.4, 0.6, 0.8)
LETTER = r"\p{L}\p{M}*"


def perturb(
    texts: Sequence[str],
    *,
    kind: str,
    severity: int,
    seed: int,
    synonyms: Synonyms | None = None,
) -> list[str]:
    """Spoil texts in one way.

    Parameters
    ----------
    texts : n texts; a blank one comes back as it is, and so does one without a place for the kind
        (no contraction, no letter of a keyboard)
    kind : one of KINDS, or "synonyms"
    severity : 1 to 5; what a severity changes is changed by the higher ones too
    synonyms : for "synonyms": takes a word in lower case and returns others for it, maybe none

    Returns
    -------
    n texts. What becomes of a text depends on the text, the kind, the severity and the seed alone

    Raises
    ------
    WorkbookError : no such kind or severity, no function for synonyms, or a value that is no text.

    Source
    ------
    Ours; five severities after Hendrycks and Dietterich 2019, "Benchmarking Neural Network
    Robustness to Common Corruptions and Perturbations".

    Examples
    --------
    >>> perturb(["the cat sat on the mat"], kind="truncation", severity=3, seed=1)
    ['the cat sat on']
    """
    edit = _edit_of(kind, synonyms)
    if severity not in SEVERITIES:
        raise WorkbookError(f"severity is a whole number from 1 to 5, found {severity!r}")
    perturbed = []
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise WorkbookError(
                f"texts[{row}] is not a text: {quoted(text)} ({type(text).__name__}); leave it out"
            )
        random = seeded(seed, kind, text)
        perturbed.append(edit(text, severity, random) if text.strip() else text)
    return perturbed


def _edit_of(kind: str, synonyms: Synonyms | None) -> Edit:
    if kind in KINDS:
        return KINDS[kind]
    if kind != "synonyms":
        names = ", ".join([*KINDS, "synonyms"])
        raise WorkbookError(f"no kind {quoted(kind)}{closest(kind, KINDS)}; there are {names}")
    if synonyms is None:
        raise WorkbookError(
            "kind='synonyms' needs synonyms, a function from a word to a list of others: "
            "hand in a thesaurus, or leave the kind out"
        )
    return partial(_replace_synonyms, synonyms=synonyms)


def _edit(
    text: str,
    severity: int,
    random: Random,
    *,
    places: Callable[[str], Spans],
    change: Change,
    shares: Sequence[float] = CHARACTER_SHARES,
    keep_one: bool = False,
) -> str:
    """Change a share of the places of a text, one at least; `keep_one` leaves one as it is."""
    spans = places(text)
    wanted = max(1, round(shares[severity - 1] * len(spans)))
    n = min(wanted, len(spans) - keep_one)
    changed: dict[Span, str] = {}
    # places are drawn one by one, so that a lower severity draws the first of the same ones
    while len(changed) < n:
        span = spans[int(random.random() * len(spans))]
        if span not in changed:
            changed[span] = change(text[slice(*span)], random)
    return edited(text, changed)


def _matches(text: str, *, pattern: regex.Pattern | re.Pattern) -> Spans:
    return [match.span() for match in pattern.finditer(text)]


def _edits(pattern: str | regex.Pattern | re.Pattern, change: Change, **options: Any) -> Edit:
    compiled = regex.compile(pattern) if isinstance(pattern, str) else pattern
    places = partial(_matches, pattern=compiled)
    return partial(_edit, places=places, change=change, **options)


def _words_with_blanks(text: str) -> Spans:
    """Return the spans of words, each as far as the next one begins."""
    starts = [start for start, _ in written_spans(text)]
    return list(zip(starts, [*starts[1:], len(text)]))


def _drop(piece: str, random: Random) -> str:
    return ""


def _mistype(letter: str, random: Random) -> str:
    return match_case(random.choice(KEYS[letter.lower()]), letter)


def _insert(letter: str, random: Random) -> str:
    """Return a letter and a key next to it, or the letter twice."""
    base = letter[0]
    options = KEYS.get(base.lower(), "") + base
    return letter + match_case(random.choice(options), base)


def _swap(pair: str, random: Random) -> str:
    return "".join(reversed(regex.findall(LETTER, pair)))


def _space(blank: str, random: Random) -> str:
    return random.choice(["", "  ", "\n", "\t", "\u00a0"]) if blank else " "


def _contract(words: str, random: Random) -> str:
    key = words.lower().replace("’", "'")
    return match_case(CONTRACTIONS[key], words)


def _add_address(word: str, random: Random) -> str:
    number = int(random.random() * 10_000)
    return f"{word} {random.choice(ADDRESSES).format(number)}"


def _truncate(text: str, severity: int, random: Random) -> str:
    """Return the first words of a text, one at least."""
    spans = written_spans(text)
    n_kept = max(1, round((1 - CUT_SHARES[severity - 1]) * len(spans)))
    return text[: spans[n_kept - 1][1]]


def _distract(text: str, severity: int, random: Random) -> str:
    """Return a text with as many sentences before and after it as the severity says."""
    for sentence in random.sample(DISTRACTORS, len(DISTRACTORS))[:severity]:
        goes_first = random.random() < 0.5
        text = f"{sentence} {text}" if goes_first else f"{text} {sentence}"
    return text


def _replace_synonyms(text: str, severity: int, random: Random, *, synonyms: Synonyms) -> str:
    others: dict[str, list[str]] = {}
    for word in {word.lower() for word in words(text)}:
        found = [other for other in synonyms(word) if other.lower() != word]
        if found:
            others[word] = found

    def replace(word: str, random: Random) -> str:
        return match_case(random.choice(others[word.lower()]), word)

    edit = _edits(word_pattern(others), replace, shares=WORD_SHARES)
    return edit(text, severity, random)


# `re` is twice as fast as `regex`
_BLANK_OR_NONE = re.compile(r"\s+|(?<=\w)(?=[^\W_])")
_OCR_PIECE = "|".join(sorted(OCR, key=len, reverse=True))
_CONTRACTED = word_pattern([*CONTRACTIONS, *(key.replace("'", "’") for key in CONTRACTIONS)])
KINDS: dict[str, Edit] = {
    "keyboard": _edits("(?i)[a-z]", _mistype),
    "swap": _edits(rf"({LETTER})(?!\1){LETTER}", _swap),
    "drop": _edits(LETTER, _drop, keep_one=True),
    "insert": _edits(LETTER, _insert),
    "case": _edits(r"\p{Lu}|\p{Ll}", lambda letter, _: letter.swapcase(), shares=WORD_SHARES),
    "punctuation": _edits(
        r"\p{P}|(?<=\w)(?![\w\p{P}])",
        lambda mark, random: "" if mark else random.choice(",.;:!?-"),
        shares=WORD_SHARES,
    ),
    "white_space": _edits(_BLANK_OR_NONE, _space),
    "ocr": _edits(_OCR_PIECE, lambda piece, _: OCR[piece]),
    "homoglyphs": _edits(
        f"[{''.join(HOMOGLYPHS)}]", lambda letter, _: HOMOGLYPHS[letter], shares=WORD_SHARES
    ),
    "contractions": _edits(_CONTRACTED, _contract, shares=RARE_SHARES),
    "word_drop": partial(
        _edit, places=_words_with_blanks, change=_drop, shares=WORD_SHARES, keep_one=True
    ),
    "truncation": _truncate,
    "distractor": _distract,
    "html": partial(
        _edit,
        places=written_spans,
        change=lambda word, random: random.choice(MARKUP).format(word),
        shares=WORD_SHARES,
    ),
    "url": partial(_edit, places=written_spans, change=_add_address, shares=ADDED_SHARES),
    "emoji": partial(
        _edit,
        places=written_spans,
        change=lambda word, random: f"{word} {random.choice(EMOJI)}",
        shares=ADDED_SHARES,
    ),
}
