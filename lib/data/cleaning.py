"""Cleaning rules in a fixed order, each with a receipt of what it did."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import ftfy
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from selectolax.lexbor import LexborHTMLParser

from lib.config import CleaningConfig

URL_TOKEN, EMAIL_TOKEN = "[URL]", "[EMAIL]"  # added to every tokenizer, see training.backbones
ZWJ = "\u200d"  # joins emoji into one picture: kept between two symbols
MIN_WORDS_RULE = "min_words"

_INLINE = "a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd label mark q s samp small span strike strong sub sup time tt u var wbr"
_BLOCK = (
    "address article aside base blockquote body br button canvas caption center col colgroup dd details dialog div dl dt embed fieldset "
    "figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head header hr html iframe input legend li link main map menu meta nav "
    "noscript object ol optgroup option p param picture pre section select source summary svg table tbody td "
    "textarea tfoot th thead title tr ul video audio"
)
_HIDDEN = ["script", "style", "template"]  # their content is no text
_INLINE_NAMES, _BLOCK_NAMES, _HIDDEN_NAMES = frozenset(_INLINE.split()), frozenset(_BLOCK.split()), frozenset(_HIDDEN)
_ELEMENTS = _INLINE_NAMES | _BLOCK_NAMES | _HIDDEN_NAMES
# A tag, by HTML's grammar with bounded attributes, so that a missing quote cannot swallow the rest of the text.
_TAG = re.compile(r"""</?([a-zA-Z][a-zA-Z0-9]{0,15})(?:\s+[^\s"'<>=/]{1,100}(?:\s*=\s*(?:"[^"<]{0,2000}"|'[^'<]{0,2000}'|[^\s"'<>=`]{1,2000}))?){0,50}\s*/?>""")
_COMMENT = re.compile(r"<!--(?:(?!-->|<!--).){0,10000}-->|<!(?:doctype|DOCTYPE)\b[^<>]{0,1000}>", re.DOTALL)
_ENTITY = re.compile(r"&(?:[a-zA-Z]\w{1,31}|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")
_NESTED_AMP = re.compile(r"&(?:amp;)+")
_SPACE = re.compile(r"\s+")
_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@-])")
_TOP_LEVEL = "com|org|net|edu|gov|io|dev|info|co|uk|de|fr|eu|ch|nl|it|es|ca|au|jp|ru"
_URL = re.compile(
    r"(?:\b(?:https?|ftp)://|\bwww\.(?=\w))[^\s<>\"“”«»`{}|\\^]+"
    rf"|(?<![\w@./-])(?:[a-z0-9][a-z0-9-]{{0,62}}\.){{1,6}}(?:{_TOP_LEVEL})/[^\s<>\"“”«»`{{}}|\\^]*",
    re.IGNORECASE,
)
_CLOSING = ".,;:!?…'’*_"
_BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}


class DataCleaner:
    """The rules, each a function of a text alone. A value that is not a string gives ""."""

    @staticmethod
    def repair_encoding(text: object) -> str:
        """Undo mojibake (UTF-8 read as Latin-1 and the like) and nothing else.

        Examples
        --------
        >>> DataCleaner.repair_encoding("schÃ¶n")
        'schön'
        """
        if not isinstance(text, str):
            return ""
        return text if text.isascii() else "".join(map(ftfy.fix_encoding, text.splitlines(keepends=True)))

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
        """Remove control and format characters but white space, and joiners but those inside emoji."""
        if not isinstance(text, str):
            return ""
        if text.isprintable():
            return text
        return "".join(c for i, c in enumerate(text) if c.isspace() or unicodedata.category(c) not in ("Cc", "Cf", "Cs") or _joins_emoji(text, i))

    @staticmethod
    def remove_html_tags(text: object) -> str:
        """Remove tags of HTML elements, comments, and the content of `script` and `style`; entities stay.

        Only what is a tag by HTML's grammar and names an element goes: `a < b and c > d` and `vector<int>` survive.

        Examples
        --------
        >>> DataCleaner.remove_html_tags("Hello <b>world</b>, if a < b and c > d")
        'Hello world, if a < b and c > d'
        """
        if not isinstance(text, str):
            return ""
        if "<" not in text or not (_names_elements(text) or _COMMENT.search(text)):
            return text
        guarded = _COMMENT.sub(" ", text).replace("&", "&amp;")
        pieces, end = [], 0
        for tag in _TAG.finditer(guarded):
            pieces += [guarded[end : tag.start()].replace("<", "&lt;"), _kept_tag(tag)]
            end = tag.end()
        body = LexborHTMLParser("<!doctype html><body>" + "".join(pieces) + guarded[end:].replace("<", "&lt;")).body
        if body is None:
            return text
        body.strip_tags(_HIDDEN, recursive=True)
        return str(body.text(separator=""))

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
        if "/" in text or "www." in text.lower():
            text = _URL.sub(lambda match: _replaced_url(match, url), text)
        return _EMAIL.sub(email, text) if "@" in text else text

    @staticmethod
    def remove_extra_whitespace(text: object) -> str:
        r"""Make every run of white space one space, and strip the ends.

        Examples
        --------
        >>> DataCleaner.remove_extra_whitespace("hello    world\n\ntab\there")
        'hello world tab here'
        """
        return _SPACE.sub(" ", text).strip() if isinstance(text, str) else ""

    @staticmethod
    def clean_text(text: object, settings: CleaningConfig | None = None) -> str:
        r"""Apply every rule that is switched on; a text with fewer words than `min_words` gives "".

        Examples
        --------
        >>> DataCleaner.clean_text("<div>Check out http://example.com! \n Contact: admin@site.com \n Price: ①⓪⓪ USD&nbsp;&nbsp;</div>")
        'Check out [URL]! Contact: [EMAIL] Price: 100 USD'
        """
        return _clean_one(text, settings or CleaningConfig())[0]


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
    rules: dict[str, Callable[[str], str]] = {}
    if settings.encoding_repair:
        rules["encoding_repair"] = DataCleaner.repair_encoding
    if settings.unicode_nfkc:
        rules["unicode_nfkc"] = DataCleaner.normalize_unicode
    if settings.invisible:
        rules["invisible"] = DataCleaner.remove_invisible
    if settings.html_tags:
        rules["html_tags"] = DataCleaner.remove_html_tags
    if settings.html_entities != "keep":
        rules["html_entities"] = DataCleaner.decode_entities if settings.html_entities == "decode" else DataCleaner.drop_entities
    if settings.urls_emails != "keep":
        rules["urls_emails"] = partial(DataCleaner.handle_urls_emails, replace=settings.urls_emails == "replace")
    if settings.whitespace:
        rules["whitespace"] = DataCleaner.remove_extra_whitespace
    return rules


def clean_texts(texts: Sequence[str | None], *, settings: CleaningConfig | None = None, workers: int = 1) -> CleaningResult:
    """Clean texts and keep a receipt for each rule.

    Parameters
    ----------
    texts : anything that is no string counts as ""
    settings : which rules; None takes the defaults
    workers : processes; the result does not depend on it
    """
    settings = settings or CleaningConfig()
    batches = [list(texts[start : start + 500]) for start in range(0, len(texts), 500)]
    results = Parallel(n_jobs=workers)(delayed(_clean_batch)(batch, settings) for batch in batches)
    cleaned = [item for batch in results for item in batch]
    rules = [*active_rules(settings), MIN_WORDS_RULE]
    touched, removed = dict.fromkeys(rules, 0), dict.fromkeys(rules, 0)
    changes = []
    for row, (_, steps) in enumerate(cleaned):
        for rule in {step[0] for step in steps}:
            touched[rule] += 1
        for rule, n_chars, before, after in steps:
            removed[rule] += n_chars
            if before is not None:
                changes.append((row, rule, before, after))
    receipts = pd.DataFrame({"n_texts": touched, "chars_removed": removed}).rename_axis("rule")
    return CleaningResult([text for text, _ in cleaned], receipts, pd.DataFrame(changes, columns=["row", "rule", "before", "after"]))


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


def _clean_batch(texts: list[str | None], settings: CleaningConfig) -> list[tuple[str, list[_Step]]]:
    return [_clean_one(text, settings) for text in texts]


def _clean_one(text: object, settings: CleaningConfig) -> tuple[str, list[_Step]]:
    if not isinstance(text, str):
        return "", []
    rules, steps = active_rules(settings), []
    for _ in range(4):  # decoding an entity can uncover a tag, and a removed tag join a URL: until nothing changes
        start = text
        for rule, apply in rules.items():
            before, text = text, apply(text)
            if text != before:
                steps.append(_step(rule, before, text))
        if text == start or not (settings.html_tags and settings.html_entities == "decode"):
            break
    if len(text.split()) < settings.min_words:
        return "", [*steps, (MIN_WORDS_RULE, len(text), text, "")] if text else steps
    return text, steps


def _step(rule: str, before: str, after: str) -> _Step:
    n_chars = len(before) - len(after)
    if rule == "whitespace":
        return rule, n_chars, None, None
    same = next((i for i, (a, b) in enumerate(zip(before, after)) if a != b), min(len(before), len(after)))
    start = max(0, same - 30)
    return rule, n_chars, _visible(before[start : same + 60]), _visible(after[start : same + 60])


def _visible(text: str) -> str:
    """Show characters that nobody can see as their escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _joins_emoji(text: str, i: int) -> bool:
    return text[i] == ZWJ and 0 < i < len(text) - 1 and all(unicodedata.category(c) in ("So", "Sk", "Mn") for c in (text[i - 1], text[i + 1]))


def _names_elements(text: str) -> bool:
    return any(tag[1].lower() in _ELEMENTS for tag in _TAG.finditer(text))


def _kept_tag(tag: re.Match[str]) -> str:
    """Leave an inline or hidden element's tag to the parser, make a block's white space, escape what is no element's.

    Blocks do not go to the parser because it takes quadratic time over deeply nested ones.
    """
    name = tag[1].lower()
    if name in _HIDDEN_NAMES or name in _INLINE_NAMES:
        return tag[0]
    return "\n" if name in _BLOCK_NAMES else tag[0].replace("<", "&lt;")


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
