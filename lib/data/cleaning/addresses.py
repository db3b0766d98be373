"""URLs and e-mail addresses."""

from __future__ import annotations

import re

_TOP_LEVEL = "com|org|net|edu|gov|io|dev|info|co|uk|de|fr|eu|ch|nl|it|es|ca|au|jp|ru"
_IN_URL = r"[^\s<>\"“”«»`{}|\\^]"
_NOT_IN_URL = re.compile(_IN_URL.replace("^", "", 1))
_URL = re.compile(
    rf"(?:\b(?:https?|ftp)://|\bwww\.(?=\w)){_IN_URL}+"
    rf"|(?<![\w@./-])(?:[a-z0-9][a-z0-9-]{{0,62}}\.){{1,6}}(?:{_TOP_LEVEL})/{_IN_URL}*",
    re.IGNORECASE,
)
_HOST_SLASH = r"/(?:(?<=\.[a-z]{2}/)|(?<=\.[a-z]{3}/)|(?<=\.[a-z]{4}/))"
# Every URL has a sign, which is searched first: it is found much faster than where a URL begins.
_URL_SIGN = re.compile(rf"://|www\.|{_HOST_SLASH}", re.IGNORECASE)
_HOST_SIGN = re.compile(_HOST_SLASH, re.IGNORECASE)
_CLOSING = ".,;:!?…'’*_"
# An e-mail address is searched from its @, which is rare, backwards: its name could begin anywhere.
_AT_DOMAIN = re.compile(r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@-])")
_NAME_BACKWARDS = re.compile(r"[\w.+%-]{1,64}(?![\w.+%-])")


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
