"""URLs and e-mail addresses.

In scripts that put no blank around them an address is told from its neighbours by its letters. A
letter of such a script belongs to a URL only in a part that begins with one, after `://`, `www.`,
`/`, `?`, `=`, `&` or `#`; it never belongs to an e-mail address.
"""

from __future__ import annotations

import regex

_TOP_LEVEL = "com|org|net|edu|gov|io|dev|info|co|uk|de|fr|eu|ch|nl|it|es|ca|au|jp|ru"
# Scripts whose words stand next to an address without a blank; LB=SA are Thai and its like
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{WB=Katakana}\p{Bopomofo}\p{Hangul}\p{LB=SA}"
_WORD = rf"[[\p{{L}}\p{{N}}_]--[{_UNSPACED}]]"  # a letter, digit or `_` of any other script
# Quotation marks, and the punctuation of East Asia, wide or not
_IN_URL = r"[^\s<>\"“”«»`{}|\\\^\u3001-\u3003\u3008-\u3020\uff01-\uff0f\uff1a-\uff20\uff3b-\uff65]"
_PART = rf"[{_UNSPACED}][\w()~+%\-]*"
_URL_BODY = (
    rf"(?:[{_IN_URL}--[{_UNSPACED}]]|(?<=://|www\.)[{_UNSPACED}][\w.\-]*|(?<=[/?=&#]){_PART})"
)
_NOT_IN_URL = regex.compile(_IN_URL.replace("^", "", 1), regex.V1)
_URL = regex.compile(
    rf"(?<![a-z0-9_])(?:(?:https?|ftp)://|www\.(?=\w)){_URL_BODY}+"
    rf"|(?<![{_WORD}@./\-])(?:[a-z0-9][a-z0-9\-]{{0,62}}\.){{1,6}}(?:{_TOP_LEVEL})/{_URL_BODY}*",
    regex.IGNORECASE | regex.V1,
)
_HOST_SLASH = r"/(?:(?<=\.[a-z]{2}/)|(?<=\.[a-z]{3}/)|(?<=\.[a-z]{4}/))"
# Every URL has a sign, which is searched first: it is found much faster than where a URL begins.
_URL_SIGN = regex.compile(rf"://|www\.|{_HOST_SLASH}", regex.IGNORECASE)
_HOST_SIGN = regex.compile(_HOST_SLASH, regex.IGNORECASE)
_CLOSING = ".,;:!?…'’*_،؛؟।"
# An e-mail address is searched from its @, which is rare, backwards: its name could begin anywhere.
_LETTER_OR_DIGIT = rf"[{_WORD}--_]"
_AT_DOMAIN = regex.compile(
    rf"@(?:{_LETTER_OR_DIGIT}(?:[{_WORD}\-]{{0,61}}{_LETTER_OR_DIGIT})?\.){{1,8}}"
    rf"[{_WORD}--[\d_]]{{2,24}}(?![{_WORD}@\-])",
    regex.V1,
)
_NAME_BACKWARDS = regex.compile(rf"[{_WORD}.+%\-]{{1,64}}(?![{_WORD}.+%\-])", regex.V1)


def replace_urls(text: str, token: str) -> str:
    """Replace each URL by a token; the closing punctuation that is not the URL's own stays."""
    if not _has_url_sign(text):
        return text
    pieces = []
    end = 0
    for sign in _URL_SIGN.finditer(text):
        if sign.start() < end:
            continue
        # The run between blanks or quotes that the sign is in.
        backwards = text[end : sign.start()][::-1]
        start = sign.start() - _run_end(backwards, 0)
        stop = _run_end(text, sign.start())
        replaced = _URL.sub(lambda match: _replaced_url(match[0], token), text[start:stop])
        pieces += [text[end:start], replaced]
        end = stop
    return "".join([*pieces, text[end:]])


def _run_end(text: str, start: int) -> int:
    boundary = _NOT_IN_URL.search(text, start)
    return boundary.start() if boundary else len(text)


def _has_url_sign(text: str) -> bool:
    if "/" in text and ("://" in text or _HOST_SIGN.search(text)):
        return True
    return "www." in text.lower()


def _replaced_url(url: str, token: str) -> str:
    unmatched = {
        ")": url.count(")") - url.count("("),
        "]": url.count("]") - url.count("["),
    }
    end = len(url)
    while end and (url[end - 1] in _CLOSING or unmatched.get(url[end - 1], 0) > 0):
        end -= 1
        if url[end] in unmatched:
            unmatched[url[end]] -= 1
    return token + url[end:] if end else url


def replace_emails(text: str, token: str) -> str:
    """Replace each e-mail address by a token."""
    if "@" not in text:
        return text
    pieces = []
    end = 0
    for domain in _AT_DOMAIN.finditer(text):
        backwards = text[max(end, domain.start() - 65) : domain.start()][::-1]
        name = _NAME_BACKWARDS.match(backwards)
        if name:
            pieces += [text[end : domain.start() - name.end()], token]
            end = domain.end()
    return "".join([*pieces, text[end:]])
