"""Cleaning rules in a fixed order, each with a receipt of what it did."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser

import ftfy
import numpy as np
import pandas as pd
from ftfy.badness import is_bad
from joblib import Parallel, delayed

from lib.config import CleaningConfig
from lib.data import EMAIL_TOKEN, URL_TOKEN

ZWJ, ZWNJ = "\u200d", "\u200c"  # what joins emoji into one picture, and parts of a word in Persian or Hindi
MIN_WORDS_RULE = "min_words"

_INLINE = "a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd label mark q s samp small span strike strong sub sup time tt u var wbr"
_BLOCK = (
    "address article aside base blockquote body br button canvas caption center col colgroup dd details dialog div dl dt embed fieldset "
    "figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hr html iframe input legend li link main map menu meta nav "
    "noscript object ol optgroup option p param picture pre section select source summary svg table tbody td "
    "textarea tfoot th thead title tr ul video audio"
)
_HIDDEN_NAMES = frozenset({"script", "style", "template"})  # their content is no text
_INLINE_NAMES = frozenset(_INLINE.split())
_ELEMENTS = _INLINE_NAMES | _HIDDEN_NAMES | frozenset(_BLOCK.split())
# A tag, by HTML's grammar with bounded attributes, so that a missing quote cannot swallow the rest of the text.
_TAG = re.compile(r"""</?([a-zA-Z][a-zA-Z0-9]{0,15})(?:\s+[^\s"'<>=/]{1,100}(?:\s*=\s*(?:"[^"<]{0,2000}"|'[^'<]{0,2000}'|[^\s"'<>=`]{1,2000}))?){0,50}\s*/?>""")
_MARKUP_START = re.compile(r"<(?:!|/?[a-zA-Z][a-zA-Z0-9]{0,15}[\s/>])")  # of a tag or comment: what has none is not looked at twice
_JOINERS = re.compile(f"[{ZWJ}{ZWNJ}]+")
_JOINING_SCRIPTS = re.compile(r"[\u0600-\u0dff\u1000-\u109f\u1780-\u18af]")  # Arabic to Sinhala, Myanmar, Khmer, Mongolian
_FLAG = re.compile("(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)")  # of England and the like: spelt in format characters
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f](?:[\x00-\x7f]{0,8}[^\x00-\x7f])*")
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_COMMENT = re.compile(r"<!--(?:(?!-->|<!--).){0,10000}-->|<!(?:doctype|DOCTYPE)\b[^<>]{0,1000}>", re.DOTALL)
_ENTITY = re.compile(r"&(?:[a-zA-Z]\w{1,31}|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")
_NESTED_AMP = re.compile(r"&(?:amp;)+")
# Bytes are translated several times as fast as characters.
_ASCII_CONTROLS = bytes(c for c in range(128) if unicodedata.category(chr(c)) == "Cc" and not chr(c).isspace())
_TO_BLANK = bytes(0x20 if c < 128 and chr(c).isspace() else c for c in range(256))
_BLANKS = re.compile("   *")  # not "  +": a pattern that begins with two letters is looked for as a whole
# An address is looked for from its @, which is rare, backwards: a name could begin at every letter.
_AT_DOMAIN = re.compile(r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@-])")
_NAME_BACKWARDS = re.compile(r"[\w.+%-]{1,64}(?![\w.+%-])")
_TOP_LEVEL = "com|org|net|edu|gov|io|dev|info|co|uk|de|fr|eu|ch|nl|it|es|ca|au|jp|ru"
_URL = re.compile(
    r"(?:\b(?:https?|ftp)://|\bwww\.(?=\w))[^\s<>\"“”«»`{}|\\^]+"
    rf"|(?<![\w@./-])(?:[a-z0-9][a-z0-9-]{{0,62}}\.){{1,6}}(?:{_TOP_LEVEL})/[^\s<>\"“”«»`{{}}|\\^]*",
    re.IGNORECASE,
)
_NO_URL = re.compile(r"[\s<>\"“”«»`{}|\\^]")  # what no URL has in it
_HOST_PATH = r"/(?:(?<=\.[a-z]{2}/)|(?<=\.[a-z]{3}/)|(?<=\.[a-z]{4}/))"
_URL_SIGN = re.compile(rf"://|www\.|{_HOST_PATH}", re.IGNORECASE)  # every URL has one
_HOST_PATH_ALONE = re.compile(_HOST_PATH, re.IGNORECASE)
_CLOSING = ".,;:!?…'’*_"
_BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}


class DataCleaner:
    """The rules, each a function of a text alone. A value that is not a string gives ""."""

    @staticmethod
    def repair_encoding(text: object) -> str:
        """Undo mojibake (UTF-8 read as Latin-1 and the like) and characters split into two surrogates, and nothing else.

        Examples
        --------
        >>> DataCleaner.repair_encoding("schÃ¶n")
        'schön'
        """
        if not isinstance(text, str):
            return ""
        if text.isascii():
            return text
        text = _SURROGATES.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
        return "".join(ftfy.fix_encoding(line) if _may_be_mojibake(line) else line for line in text.splitlines(keepends=True))

    @staticmethod
    def normalize_unicode(text: object) -> str:
        """Bring a text to NFKC: one spelling of each character.

        Examples
        --------
        >>> DataCleaner.normalize_unicode("①②③ ﬁ")
        '123 fi'
        """
        if not isinstance(text, str):
            return ""
        return text if text.isascii() else unicodedata.normalize("NFKC", text)

    @staticmethod
    def remove_invisible(text: object) -> str:
        """Remove control and format characters but white space, the joiners inside emoji and words, and the tags of a flag.

        Joiners inside words are spelling in scripts such as Arabic and Devanagari: between two letters, or after a virama.
        """
        if not isinstance(text, str):
            return ""
        if text.isascii() and len(text.encode().translate(None, _ASCII_CONTROLS)) == len(text):
            return text
        unseen = {c for c in set(text) if unicodedata.category(c) in ("Cc", "Cf", "Cs") and not c.isspace()}
        if not unseen:
            return text
        gone = dict.fromkeys(map(ord, unseen - {ZWJ, ZWNJ}))
        parts = _FLAG.split(text)
        parts[::2] = [_JOINERS.sub(_kept_joiner, part).translate(gone) for part in parts[::2]]
        return "".join(parts)

    @staticmethod
    def remove_html_tags(text: object) -> str:
        """Remove tags of HTML elements, comments, and the content of `script`, `style` and `template`; entities stay.

        Only what is a tag by HTML's grammar and names an element goes: `a < b and c > d` and `vector<int>` survive.
        A `script` that is never closed loses its tag alone: to a browser all that follows is hidden, here it would be lost silently.

        Examples
        --------
        >>> DataCleaner.remove_html_tags("Hello <b>world</b>, if a < b and c > d")
        'Hello world, if a < b and c > d'
        """
        if not isinstance(text, str):
            return ""
        if "<" not in text or not _MARKUP_START.search(text):
            return text
        text = _COMMENT.sub(" ", text)
        tags = [tag for tag in _TAG.finditer(text) if tag[1].lower() in _ELEMENTS]
        if not tags:
            return text
        parser = _TextParser()
        for piece in _for_parser(tags, text):
            parser.feed(piece)
        parser.close()
        return "".join(parser.pieces)

    @staticmethod
    def decode_entities(text: object) -> str:
        """Decode HTML entities that end with a semicolon, also doubly escaped ones; `?a=1&section=2` is left alone.

        Examples
        --------
        >>> DataCleaner.decode_entities("AT&amp;T, 5 &lt; 10 &amp;amp; 10 &gt; 5")
        'AT&T, 5 < 10 & 10 > 5'
        """
        if not isinstance(text, str):
            return ""
        return _ENTITY.sub(lambda entity: html.unescape(entity[0]), _NESTED_AMP.sub("&", text)) if "&" in text else text

    @staticmethod
    def drop_entities(text: object) -> str:
        """Delete HTML entities (the older behaviour, `html_entities: drop`), and the `<` and `>` of a decoded text stay."""
        return _ENTITY.sub("", text) if isinstance(text, str) else ""

    @staticmethod
    def handle_urls_emails(text: object, replace: bool = True) -> str:
        """Replace URLs by `[URL]` and e-mail addresses by `[EMAIL]`, or remove them; closing punctuation stays.

        Examples
        --------
        >>> DataCleaner.handle_urls_emails("See https://example.com/a_(b), or write to jo+x@mail.example.org.")
        'See [URL], or write to [EMAIL].'
        """
        if not isinstance(text, str):
            return ""
        url, email = (URL_TOKEN, EMAIL_TOKEN) if replace else ("", "")
        if ("/" in text and ("://" in text or _HOST_PATH_ALONE.search(text))) or "www." in text.lower():
            text = _without_urls(text, url)
        return _without_emails(text, email) if "@" in text else text

    @staticmethod
    def remove_extra_whitespace(text: object) -> str:
        r"""Make every run of white space one space, and strip the ends.

        Examples
        --------
        >>> DataCleaner.remove_extra_whitespace("hello    world\n\ntab\there")
        'hello world tab here'
        """
        text = text if isinstance(text, str) else ""
        if text.isascii():  # the same as below, without a string for each word
            return _BLANKS.sub(" ", text.encode().translate(_TO_BLANK).decode()).strip(" ")
        return " ".join(text.split())

    @staticmethod
    def clean_text(text: object, settings: CleaningConfig | None = None) -> str:
        r"""Apply every rule that is switched on; a text with fewer words than `min_words` gives "".

        Examples
        --------
        >>> DataCleaner.clean_text("<div>Check out http://example.com! \n Contact: admin@site.com \n Price: ①⓪⓪ USD&nbsp;&nbsp;</div>")
        'Check out [URL]! Contact: [EMAIL] Price: 100 USD'
        """
        settings = settings or CleaningConfig()
        return _clean_one(text, settings, active_rules(settings))[0]


@dataclass(frozen=True)
class CleaningResult:
    """Cleaned texts and what each rule did.

    Attributes
    ----------
    texts : list of str, one for each text that was given
    receipts : DataFrame indexed by rule, in the order of application: `n_texts` that the rule changed,
        `chars_removed` (negative where it added some)
    changes : DataFrame of every change but those of white space alone: `row` (position), `rule`, `before`, `after`
        (the words around the first place that differs)
    """

    texts: list[str]
    receipts: pd.DataFrame
    changes: pd.DataFrame


def active_rules(settings: CleaningConfig) -> dict[str, Callable[[str], str]]:
    """Return the rules that are switched on, in order of application."""
    rules: dict[str, Callable[[str], str]] = {
        "encoding_repair": DataCleaner.repair_encoding,
        "unicode_nfkc": DataCleaner.normalize_unicode,
        "invisible": DataCleaner.remove_invisible,
        "html_tags": DataCleaner.remove_html_tags,
        "html_entities": DataCleaner.drop_entities if settings.html_entities == "drop" else DataCleaner.decode_entities,
        "urls_emails": partial(DataCleaner.handle_urls_emails, replace=settings.urls_emails == "replace"),
        "whitespace": DataCleaner.remove_extra_whitespace,
    }
    return {rule: apply for rule, apply in rules.items() if getattr(settings, rule) not in (False, "keep")}


def clean_texts(texts: Sequence[str | None], *, settings: CleaningConfig | None = None, workers: int = 1) -> CleaningResult:
    """Clean texts and keep a receipt for each rule.

    Parameters
    ----------
    texts : anything that is no string counts as ""
    settings : which rules; None takes the defaults
    workers : processes; the result does not depend on it
    """
    settings = settings or CleaningConfig()
    starts = range(0, len(texts), _BATCH)
    batches = Parallel(n_jobs=workers)(delayed(_clean_batch)(list(texts[start : start + _BATCH]), settings) for start in starts)
    cleaned = [text for batch, _, _ in batches for text in batch]
    changes = [(start + row, *change) for start, (_, _, found) in zip(starts, batches) for row, *change in found]
    rules = pd.Index([*active_rules(settings), MIN_WORDS_RULE], name="rule")
    receipts = pd.DataFrame(sum(counts for _, counts, _ in batches), columns=["n_texts", "chars_removed"], index=rules)
    return CleaningResult(cleaned, receipts, pd.DataFrame(changes, columns=["row", "rule", "before", "after"]))


def without_each_rule(texts: Sequence[str | None], *, settings: CleaningConfig | None = None) -> dict[str, list[str]]:
    """Return the texts cleaned by all rules but one, for each rule that is on; no text is emptied for its length."""
    settings = (settings or CleaningConfig()).model_copy(update={"min_words": 1})
    off = {"html_entities": "keep", "urls_emails": "keep"}
    return {rule: clean_texts(texts, settings=settings.model_copy(update={rule: off.get(rule, False)})).texts for rule in active_rules(settings)}


def sample_changes(changes: pd.DataFrame, *, per_rule: int = 2, seed: int = 42) -> pd.DataFrame:
    """Return a seeded sample of changes of each rule, in the order of the rules."""
    order = {rule: place for place, rule in enumerate(dict.fromkeys(changes["rule"]))}
    shuffled = changes.iloc[np.random.default_rng(seed).permutation(len(changes))]
    return shuffled.groupby("rule").head(per_rule).sort_values("rule", key=lambda rule: rule.map(order), kind="stable").reset_index(drop=True)


_Step = tuple[str, int, str | None, str | None]
_Change = tuple[int, str, str, str | None]
_BATCH = 500  # texts that a process is sent at once


def _clean_batch(texts: list[str | None], settings: CleaningConfig) -> tuple[list[str], np.ndarray, list[_Change]]:
    rules = active_rules(settings)
    counts = {rule: [0, 0] for rule in [*rules, MIN_WORDS_RULE]}
    cleaned: list[str] = []
    changes: list[_Change] = []
    for row, text in enumerate(texts):
        kept, steps = _clean_one(text, settings, rules)
        cleaned.append(kept)
        for rule in {step[0] for step in steps}:
            counts[rule][0] += 1
        for rule, n_chars, before, after in steps:
            counts[rule][1] += n_chars
            if before is not None:
                changes.append((row, rule, before, after))
    return cleaned, np.array(list(counts.values())), changes


def _clean_one(text: object, settings: CleaningConfig, rules: dict[str, Callable[[str], str]]) -> tuple[str, list[_Step]]:
    if not isinstance(text, str):
        return "", []
    steps: list[_Step] = []
    settled: set[str] = set()  # rules that find nothing new in what a round has made, until another rule has
    for _ in range(4):  # decoding an entity can uncover a tag, and a removed tag join a URL: until nothing changes
        start = text
        for rule, apply in rules.items():
            if rule in settled and text is start:
                continue
            before, text = text, apply(text)
            if text is not before and text != before:
                steps.append(_step(rule, before, text))
        if text == start or not (settings.html_tags and settings.html_entities == "decode"):
            break
        settled = {"whitespace"} | ({"urls_emails"} if settings.urls_emails == "replace" else set())  # a removed address can join what stood around it
        settled |= {"invisible"} if text.isascii() else set()  # no entity decodes to an ASCII control character
    if len(text.split(None, settings.min_words - 1)) < settings.min_words:
        return "", [*steps, (MIN_WORDS_RULE, len(text), text, "")] if text else steps
    return text, steps


def _step(rule: str, before: str, after: str) -> _Step:
    n_chars = len(before) - len(after)
    if rule == "whitespace":
        return rule, n_chars, None, None
    end = min(len(before), len(after))
    part = next((i for i in range(0, end, 256) if before[i : i + 256] != after[i : i + 256]), end)  # before it all is the same
    same = next((i for i in range(part, end) if before[i] != after[i]), end)
    start = max(0, same - 30)
    return rule, n_chars, _visible(before[start : same + 60]), _visible(after[start : same + 60])


def _visible(text: str) -> str:
    """Show characters that nobody can see as their escapes."""
    if text.isascii() and "\\" not in text:
        return text.encode("unicode_escape").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _kept_joiner(joiners: re.Match[str]) -> str:
    text, (start, end) = joiners.string, joiners.span()
    before, after = text[max(0, start - 1) : start] or " ", text[end : end + 1] or " "
    if all(unicodedata.category(c) in ("So", "Sk", "Mn") or c == "\u2194" for c in (before, after)):  # the arrow is in a shaken head
        return ZWJ if ZWJ in joiners[0] else ""
    in_word, in_word_after = (_JOINING_SCRIPTS.match(c) and unicodedata.category(c)[0] in "LM" for c in (before, after))
    return joiners[0][0] if in_word and (in_word_after or unicodedata.combining(before) == 9) else ""  # 9: a virama


def _may_be_mojibake(line: str) -> bool:
    """Return whether ftfy would look closer; it judges by a few neighbouring characters, one of them beyond ASCII, but takes long over the rest."""
    return not line.isascii() and any(is_bad(line[max(0, spot.start() - 8) : spot.end() + 8]) for spot in _BEYOND_ASCII.finditer(line))


class _TextParser(HTMLParser):
    """Collects the text between tags."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)


def _for_parser(tags: list[re.Match[str]], text: str) -> Iterator[str]:
    """Yield what the parser is to read: tags of inline elements as they are, line breaks for those of blocks, all else escaped.

    Hidden elements are left out here: one that is never closed hides nothing, where a parser would swallow all that follows.
    """
    last_closing = {tag[1].lower(): i for i, tag in enumerate(tags) if tag[0][1] == "/"}
    end, hidden = 0, None
    for i, tag in enumerate(tags):
        name, closes = tag[1].lower(), tag[0][1] == "/"
        if hidden is None:
            yield _escaped(text[end : tag.start()])
            opens = name in _HIDDEN_NAMES and not closes
            hidden = name if opens and last_closing.get(name, -1) > i else None
            yield tag[0] if name in _INLINE_NAMES else "" if hidden or (closes and name in _HIDDEN_NAMES) else "\n"
        elif closes and name == hidden:
            hidden = None
        end = tag.end()
    yield _escaped(text[end:])


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _without_urls(text: str, token: str) -> str:
    """Replace URLs; only the runs between blanks and quotes that hold a URL's sign are searched, which are few."""
    pieces, end = [], 0
    for sign in _URL_SIGN.finditer(text):
        if sign.start() >= end:
            start = sign.start() - len(_NO_URL.split(text[end : sign.start()])[-1])
            blank = _NO_URL.search(text, start)
            stop = blank.start() if blank else len(text)
            pieces += [text[end:start], _URL.sub(lambda match: _replaced_url(match, token), text[start:stop])]
            end = stop
    return "".join([*pieces, text[end:]])


def _without_emails(text: str, token: str) -> str:
    pieces, end = [], 0
    for at in _AT_DOMAIN.finditer(text):
        sign, stop = at.span()
        name = _NAME_BACKWARDS.match(text[max(end, sign - 65) : sign][::-1])
        if name:
            pieces += [text[end : sign - name.end()], token]
            end = stop
    return "".join([*pieces, text[end:]]) if pieces else text


def _replaced_url(match: re.Match[str], token: str) -> str:
    """Return the token, and behind it the closing punctuation that is none of the URL's."""
    url = match[0]
    end = len(url)
    counts = {bracket: url.count(bracket) for pair in _BRACKETS.items() for bracket in pair}
    while end and (url[end - 1] in _CLOSING or (url[end - 1] in _BRACKETS and counts[url[end - 1]] > counts[_BRACKETS[url[end - 1]]])):
        end -= 1
        if url[end] in _BRACKETS:
            counts[url[end]] -= 1
    return token + url[end:] if end else url
