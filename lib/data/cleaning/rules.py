"""The rules of cleaning, and their application to one text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import partial

from lib.config import CleaningConfig
from lib.data import EMAIL_TOKEN, URL_TOKEN
from lib.data.cleaning import addresses, characters, markup
from lib.data.words import count_words

Rules = dict[str, Callable[[str], str]]
MAX_ROUNDS = 4


class DataCleaner:
    """The rules, each a function of a text alone. A value that is not a string gives ""."""

    @staticmethod
    def repair_encoding(text: object) -> str:
        """Undo mojibake (UTF-8 read as Latin-1 and the like), and nothing else.

        A character that was split into two surrogates is joined as well.

        Examples
        --------
        >>> DataCleaner.repair_encoding("schÃ¶n")
        'schön'
        """
        return characters.repair_encoding(text) if isinstance(text, str) else ""

    @staticmethod
    def normalize_unicode(text: object) -> str:
        """Bring a text to NFKC: one spelling of each character.

        Examples
        --------
        >>> DataCleaner.normalize_unicode("①②③ ﬁ")
        '123 fi'
        """
        return unicodedata.normalize("NFKC", text) if isinstance(text, str) else ""

    @staticmethod
    def remove_invisible(text: object) -> str:
        """Remove control and format characters.

        White space stays, so do the joiners inside emoji and words, and the tags of a flag.
        Joiners inside words are spelling in scripts such as Arabic and Devanagari: between two
        letters, or after a virama. U+200B becomes a blank next to a letter of a script in which it
        separates words: Thai, Lao, Burmese, Khmer.
        """
        return characters.remove_invisible(text) if isinstance(text, str) else ""

    @staticmethod
    def remove_html_tags(text: object) -> str:
        """Remove tags, comments, and the content of `script`, `style` and `template`.

        Only a tag by HTML's grammar that names an element is removed: `a < b and c > d` and
        `vector<int>` survive, and so does `a <b and c> d`, whose attributes HTML does not have.
        Entities stay. A `script` that is never closed loses its tag alone: to a browser all that
        follows is hidden, here it would be lost silently.

        Examples
        --------
        >>> DataCleaner.remove_html_tags("<p>Hello <b>world</b>, if a < b and c > d</p>")
        'Hello world, if a < b and c > d'
        """
        return markup.remove_tags(text) if isinstance(text, str) else ""

    @staticmethod
    def decode_entities(text: object) -> str:
        """Decode HTML entities that end with a semicolon, doubly escaped ones too.

        `?a=1&section=2` is left alone.

        Examples
        --------
        >>> DataCleaner.decode_entities("AT&amp;T, 5 &lt; 10 &amp;amp; 10 &gt; 5")
        'AT&T, 5 < 10 & 10 > 5'
        """
        return markup.decode_entities(text) if isinstance(text, str) else ""

    @staticmethod
    def drop_entities(text: object) -> str:
        """Delete HTML entities (the older behaviour, `html_entities: drop`); `<` and `>` stay."""
        return markup.drop_entities(text) if isinstance(text, str) else ""

    @staticmethod
    def handle_urls_emails(text: object, replace: bool = True) -> str:
        """Replace URLs by `[URL]` and e-mail addresses by `[EMAIL]`, or remove them.

        Closing punctuation stays. A letter of a script that puts no blank after an address
        (Chinese, Japanese, Thai, and Korean for its endings) belongs to a URL only in a part that
        begins with one: `…/wiki/日本` is a URL whole, `…/abc然后` ends before 然. It never belongs
        to an e-mail address.

        Examples
        --------
        >>> DataCleaner.handle_urls_emails("See https://example.com/a_(b), or ask a+b@example.org.")
        'See [URL], or ask [EMAIL].'
        """
        if not isinstance(text, str):
            return ""
        text = addresses.replace_urls(text, URL_TOKEN if replace else "")
        return addresses.replace_emails(text, EMAIL_TOKEN if replace else "")

    @staticmethod
    def remove_extra_whitespace(text: object) -> str:
        r"""Make every run of white space one space, and strip the ends.

        Examples
        --------
        >>> DataCleaner.remove_extra_whitespace("hello    world\n\ntab\there")
        'hello world tab here'
        """
        return characters.collapse_whitespace(text) if isinstance(text, str) else ""

    @staticmethod
    def clean_text(text: object, settings: CleaningConfig | None = None) -> str:
        r"""Apply every rule that is switched on; a text of fewer than `min_words` words gives "".

        Examples
        --------
        >>> DataCleaner.clean_text("<p>See http://a.com! \n Or me@a.com: ①⓪⓪ USD&nbsp;&nbsp;</p>")
        'See [URL]! Or [EMAIL]: 100 USD'
        """
        settings = settings or CleaningConfig()
        cleaned = apply_rules(text, settings, active_rules(settings))[0]
        return cleaned if has_words(cleaned, settings.min_words) else ""


def active_rules(settings: CleaningConfig) -> Rules:
    """Return the rules that are switched on, in order of application."""
    drops = settings.html_entities == "drop"
    replaces = settings.urls_emails == "replace"
    rules: Rules = {
        "encoding_repair": DataCleaner.repair_encoding,
        "unicode_nfkc": DataCleaner.normalize_unicode,
        "invisible": DataCleaner.remove_invisible,
        "html_tags": DataCleaner.remove_html_tags,
        "html_entities": DataCleaner.drop_entities if drops else DataCleaner.decode_entities,
        "urls_emails": partial(DataCleaner.handle_urls_emails, replace=replaces),
        "whitespace": DataCleaner.remove_extra_whitespace,
    }
    return {rule: rules[rule] for rule in rules if getattr(settings, rule) not in (False, "keep")}


def apply_rules(
    text: object, settings: CleaningConfig, rules: Rules
) -> tuple[str, list[tuple[str, str, str]]]:
    """Return a text after all rules, and each change: the rule, the text before it and after it.

    A decoded entity can uncover a tag, and a removed tag can join a URL: where tags are removed
    and entities decoded, the rules are applied until nothing changes (`MAX_ROUNDS` times at most).
    """
    if not isinstance(text, str):
        return "", []
    rounds = MAX_ROUNDS if settings.html_tags and settings.html_entities == "decode" else 1
    settled: set[str] = set()  # rules that find nothing in the result of a round
    changes = []
    for _ in range(rounds):
        start = text
        for rule, apply in rules.items():
            if rule in settled and text is start:
                continue
            before, text = text, apply(text)
            if text != before:
                changes.append((rule, before, text))
        if text == start:
            break
        # A removed address can join what stood around it, a replaced one cannot.
        settled = {"whitespace"}
        if settings.urls_emails == "replace":
            settled.add("urls_emails")
        # No entity decodes to an ASCII control character.
        if text.isascii():
            settled.add("invisible")
    return text, changes


def has_words(text: str, n: int) -> bool:
    """Return whether a text has at least n words, as `count_words` counts them."""
    return len(text.split(None, n - 1)) >= n or count_words(text) >= n
