"""The encoding of text files: told from the bytes, with a word on how sure that is."""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass

from lib.errors import WorkbookError, shown_path

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
MAX_SAMPLE_BYTES = 200_000  # of lines beyond ASCII, from which an encoding is detected
# The scores are chardet's, the bounds ours: see benchmarks/text_encodings.py. Where cp1252 is right
# it scores 0.9 of the best or more, but for a handful of characters.
NEARLY_BEST = 0.9
UNDECIDED = 0.995
FEW_BYTES = 15
FEW_BYTES_IN_RUNS = 6
LATIN = "cp1252"
# names of characters that may stand between small letters
WITHIN_WORDS = ("LATIN SMALL", "RIGHT SINGLE QUOTATION", "EN DASH", "EM DASH", "NO-BREAK", "SOFT")
MAX_MISFITS = 0.2
SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "shift_jis": "cp932", "euc_kr": "cp949"}


@dataclass(frozen=True)
class Encoding:
    """An encoding, and a sentence on how it was told ("" where that is beyond doubt)."""

    name: str
    note: str = ""


def decode(content: bytes, *, name: str, encoding: str | None = None) -> str:
    """Decode bytes by `encoding`, else by the one that is told from them (`tell_encoding`).

    Raises
    ------
    WorkbookError : the encoding does not fit, or cannot be told; or the text has NUL characters,
        which no text file has. The line is named where there is one.
    """
    encoding = encoding or tell_encoding(content, name=name).name
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is 0x{content[error.start]:02x}"
        raise WorkbookError(
            f"{shown_path(name)}: cannot be read as {encoding} ({byte}); "
            "name its encoding with --set data.encoding=..."
        ) from None
    except LookupError:
        raise WorkbookError(
            f"data.encoding={encoding!r} is not an encoding that Python knows; "
            "for instance cp1252 or utf-16"
        ) from None
    _refuse_nul(text, name=name, encoding=encoding)
    return text.removeprefix("\ufeff")


def tell_encoding(content: bytes, *, name: str) -> Encoding:
    """Return the encoding of a text: by its byte-order mark, UTF-8, UTF-16, else detected.

    Raises
    ------
    WorkbookError : none fits for sure (those that may are named); or a few bytes are invalid in
        what is UTF-8 otherwise: in any other encoding all of it would be garbled.
    """
    unicode = unicode_encoding(content, name=name)
    return Encoding(unicode) if unicode else detect_encoding(content, name=name)


def unicode_encoding(content: bytes, *, name: str) -> str | None:
    """Return UTF-8, UTF-16 or UTF-32 where a text is in one of them, else None.

    Raises
    ------
    WorkbookError : a few bytes are invalid in what is UTF-8 otherwise.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return encoding
    start = content[:2_000]
    # Latin text in UTF-16 has a zero in every second byte
    if start[1::2].count(0) > 0.4 * len(start) / 2:
        return "utf-16-le"
    if start[::2].count(0) > 0.4 * len(start) / 2:
        return "utf-16-be"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        if _is_mostly_utf8(_lines_beyond_ascii(content)):
            line = content.count(b"\n", 0, error.start) + 1
            raise WorkbookError(
                f"{shown_path(name)}, line {line}: byte {error.start} is "
                f"0x{content[error.start]:02x}, which is invalid UTF-8; the rest of the file "
                "decodes. Fix it, or name an encoding with --set data.encoding=..."
            ) from None
        return None
    return "utf-8"


def detect_encoding(content: bytes, *, name: str) -> Encoding:
    """Return the likeliest encoding of a text that is not Unicode, by the lines beyond ASCII.

    Western European text is cp1252 where nothing speaks clearly against it.

    Raises
    ------
    WorkbookError : two encodings that read it differently are equally likely.
    """
    _refuse_nul(content.decode(LATIN, "replace"), name=name, encoding=LATIN)
    sample = _lines_beyond_ascii(content)
    scores = _scores(sample)
    ranking = sorted(scores, key=lambda encoding: -scores[encoding])
    best = ranking[0] if ranking else ""
    runner_up = ranking[1] if len(ranking) > 1 else ""
    latin_score = scores.get(LATIN, 0.0)
    n_bytes = len(re.findall(rb"[\x80-\xff]", sample))
    are_few = n_bytes < (FEW_BYTES_IN_RUNS if _come_in_runs(sample) else FEW_BYTES)
    if latin_score and are_few:
        return Encoding(LATIN, f"Read as {LATIN}: too few characters beyond ASCII to be sure.")
    if latin_score and latin_score >= NEARLY_BEST * scores[best]:
        rival = runner_up if best == LATIN else best
        return Encoding(LATIN, _note(LATIN, rival, scores))
    is_close = scores.get(runner_up, 0.0) > UNDECIDED * scores.get(best, 0.0)
    if are_few or is_close or not ranking:
        candidates = " or ".join(ranking[:3]) or "no encoding that is known"
        raise WorkbookError(
            f"{shown_path(name)}: not UTF-8, and its encoding cannot be told for sure "
            f"({candidates}?); name it with --set data.encoding=..."
        )
    return Encoding(best, _note(best, runner_up, scores))


def _note(encoding: str, rival: str, scores: dict[str, float]) -> str:
    note = f"Read as {encoding}, as its bytes suggest"
    if rival in scores:
        note += f"; {rival} scores {scores[rival] / scores[encoding]:.0%} of that"
    return f"{note}. Another is named with data.encoding."


def _lines_beyond_ascii(content: bytes) -> bytes:
    """Return the first lines that are not ASCII; the others say nothing about an encoding."""
    lines: list[bytes] = []
    n_bytes = 0
    beyond_ascii = re.compile(rb"[\x80-\xff]")
    match = beyond_ascii.search(content)
    while match and n_bytes < MAX_SAMPLE_BYTES:
        start = content.rfind(b"\n", 0, match.start()) + 1
        end = content.find(b"\n", match.start()) % (len(content) + 1)  # -1: the last line
        lines.append(content[start:end])
        n_bytes += end - start
        match = beyond_ascii.search(content, end)
    return b"\n".join(lines)[:MAX_SAMPLE_BYTES]


def _scores(sample: bytes) -> dict[str, float]:
    """Return how well encodings fit, by name, the best of each group that reads the sample alike.

    cp1252 stands for its group.
    """
    import chardet
    from chardet.enums import EncodingEra

    guesses = chardet.detect_all(
        sample,
        ignore_threshold=True,
        max_bytes=len(sample),
        encoding_era=EncodingEra.ALL & ~EncodingEra.MAINFRAME,
    )
    groups = {_decoded(sample, LATIN): LATIN}
    in_runs = _come_in_runs(sample)
    scores: dict[str, float] = {}
    for guess in guesses:
        name = guess["encoding"] or ""
        text = _decoded(sample, name)
        if text is not None and (in_runs or _has_latin_words(text)):
            name = codecs.lookup(name).name
            group = groups.setdefault(text, SUPERSETS.get(name, name))
            scores[group] = max(scores.get(group, 0.0), guess["confidence"])
    return scores


def _decoded(sample: bytes, encoding: str) -> str | None:
    """Return a sample as an encoding reads it, None where it cannot; its last character may be cut
    off.
    """
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except (UnicodeDecodeError, LookupError):
        return None


def _come_in_runs(sample: bytes) -> bool:
    """Return whether most bytes beyond ASCII stand three or more in a row.

    They do in scripts other than Latin.
    """
    lengths = list(map(len, re.findall(rb"[\x80-\xff]+", sample)))
    return 2 * sum(length for length in lengths if length > 2) > sum(lengths)


def _has_latin_words(text: str) -> bool:
    """Return whether most characters beyond ASCII within words are small Latin letters.

    In a wrong encoding they are capitals, symbols or letters of other scripts.
    """
    within = "".join(re.findall(r"(?<=[a-z])[^\x00-\x7f]+(?=[a-z])", text))
    names = [unicodedata.name(character, "") for character in within]
    n_misfits = sum(not name.startswith(WITHIN_WORDS) for name in names)
    return n_misfits <= MAX_MISFITS * len(within)


def _is_mostly_utf8(content: bytes) -> bool:
    """Return whether more characters beyond ASCII are valid UTF-8 than not.

    In other encodings hardly any is.
    """
    text = content.decode("utf-8", "replace")
    n_beyond_ascii = sum(character > "\x7f" for character in text)
    return n_beyond_ascii > 2 * text.count("\ufffd")


def _refuse_nul(text: str, *, name: str, encoding: str) -> None:
    before, nul, _ = text.partition("\0")
    if nul:
        line = before.count("\n") + 1
        raise WorkbookError(
            f"{shown_path(name)}, line {line}: a NUL byte; the file is damaged or not text "
            f"(read as {encoding}; name another with --set data.encoding=...)"
        )
