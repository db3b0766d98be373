"""Characters: damaged encodings, invisible characters, white space."""

from __future__ import annotations

import re
import unicodedata

import ftfy
import regex
from ftfy.badness import is_bad

# They join emoji into one picture, and parts of a word in Persian or Hindi.
ZWJ, ZWNJ = "\u200d", "\u200c"
_JOINERS = re.compile(f"[{ZWJ}{ZWNJ}]+")
# Arabic to Sinhala, Myanmar, Khmer, Mongolian.
_JOINING_SCRIPTS = re.compile(r"[\u0600-\u0dff\u1000-\u109f\u1780-\u18af]")
# An invisible separator of words in Thai, Lao, Burmese, Khmer; elsewhere a place to break a line.
_WORD_BREAK = regex.compile(r"(?<=\p{LB=SA})\u200b+|\u200b+(?=\p{LB=SA})")
_VIRAMA = 9  # Unicode's combining class
# The flags of England and the like are spelt in format characters.
_FLAG = re.compile("(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)")
_INVISIBLE = ("Cc", "Cf", "Cs")  # Unicode's categories: control, format, surrogate
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f](?:[\x00-\x7f]{0,8}[^\x00-\x7f])*")
_ASCII = [chr(code) for code in range(128)]
# Bytes are translated several times as fast as characters.
_ASCII_CONTROLS = "".join(c for c in _ASCII if c < " " or c == "\x7f" if not c.isspace()).encode()
_TO_BLANK = bytes.maketrans(b"\t\n\v\f\r\x1c\x1d\x1e\x1f", b" " * 9)
_BLANKS = re.compile("   *")  # not "  +": a pattern that begins with two letters is searched faster


def repair_encoding(text: str) -> str:
    """Undo mojibake, and join characters that were split into two surrogates."""
    if text.isascii():
        return text
    text = _SURROGATE_PAIR.sub(_joined_surrogates, text)
    return "".join(_repaired_line(line) for line in text.splitlines(keepends=True))


def _joined_surrogates(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


def _repaired_line(line: str) -> str:
    """Let ftfy repair a line that may be damaged.

    ftfy takes long over a whole line, but judges by few neighbouring characters: one of them is
    beyond ASCII, so only its surroundings are asked about.
    """
    if line.isascii():
        return line
    for match in _BEYOND_ASCII.finditer(line):
        if is_bad(line[max(0, match.start() - 8) : match.end() + 8]):
            return ftfy.fix_encoding(line)
    return line


def remove_invisible(text: str) -> str:
    """Remove control and format characters, except white space, flags and joiners in use.

    U+200B, where it separates words, becomes a blank.
    """
    if text.isascii() and len(text.encode().translate(None, _ASCII_CONTROLS)) == len(text):
        return text
    invisible = {c for c in set(text) if unicodedata.category(c) in _INVISIBLE and not c.isspace()}
    if not invisible:
        return text
    if "\u200b" in invisible:
        text = _WORD_BREAK.sub(" ", text)
    deleted = dict.fromkeys(map(ord, invisible - {ZWJ, ZWNJ}))
    parts = _FLAG.split(text)
    for i in range(0, len(parts), 2):  # every other part is a flag
        parts[i] = _JOINERS.sub(_kept_joiner, parts[i]).translate(deleted)
    return "".join(parts)


def _kept_joiner(joiners: re.Match[str]) -> str:
    """Return the one joiner that is left of a run of them, "" where it joins nothing."""
    text = joiners.string
    before = text[joiners.start() - 1 : joiners.start()] or " "
    after = text[joiners.end() : joiners.end() + 1] or " "
    if _is_emoji_part(before) and _is_emoji_part(after):
        return ZWJ if ZWJ in joiners[0] else ""
    ends_part = _joins_letters(after) or unicodedata.combining(before) == _VIRAMA
    return joiners[0][0] if _joins_letters(before) and ends_part else ""


def _is_emoji_part(char: str) -> bool:
    is_arrow = char == "\u2194"  # in a shaken head
    return is_arrow or unicodedata.category(char) in ("So", "Sk", "Mn")


def _joins_letters(char: str) -> bool:
    return bool(_JOINING_SCRIPTS.match(char)) and unicodedata.category(char)[0] in "LM"


def collapse_whitespace(text: str) -> str:
    """Make every run of white space one blank, and strip the ends."""
    if not text.isascii():
        return " ".join(text.split())
    # The same, without a string for each word.
    blanks = text.encode().translate(_TO_BLANK).decode()
    return _BLANKS.sub(" ", blanks).strip(" ")
