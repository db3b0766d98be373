"""HTML: tags of known elements, comments and entities."""

from __future__ import annotations

import html
import re

_INLINE_NAMES = """
a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd label mark q s samp small
span strike strong sub sup time tt u var wbr
"""
_BLOCK_NAMES = """
address article aside base blockquote body br button canvas caption center col colgroup dd details
dialog div dl dt embed fieldset figcaption figure footer form frame frameset h1 h2 h3 h4 h5 h6 head
header hr html iframe input legend li link main map menu meta nav noscript object ol optgroup option
p param picture pre section select source summary svg table tbody td textarea tfoot th thead title
tr ul video audio
"""
_BLOCK = frozenset(_BLOCK_NAMES.split())
_HIDDEN = frozenset({"script", "style", "template"})  # their content is not text
_ELEMENTS = _BLOCK | _HIDDEN | frozenset(_INLINE_NAMES.split())
# Attributes without a value; others take one, so that `a <b and c> d` is no tag.
_FLAG_NAMES = """
allowfullscreen async autofocus autoplay checked compact controls declare default defer disabled
download draggable formnovalidate hidden inert ismap itemscope loop multiple muted nohref nomodule
noresize noshade novalidate nowrap open playsinline readonly required reversed selected
"""
_FLAGS = frozenset(_FLAG_NAMES.split())
_VALUE = r"""(?:"[^"<]{0,2000}"|'[^'<]{0,2000}'|[^\s"'<>=`]{1,2000})"""
_ATTRIBUTE = rf"""\s+[^\s"'<>=/&|]{{1,100}}(?:\s*=\s*{_VALUE})?"""
# By HTML's grammar. Attributes are bounded: a missing quote cannot swallow the rest of the text.
_TAG = re.compile(rf"</?([a-zA-Z][a-zA-Z0-9]{{0,15}})((?:{_ATTRIBUTE}){{0,50}})\s*/?>")
_MARKUP_START = re.compile(r"<(?:!|/?[a-zA-Z][a-zA-Z0-9]{0,15}[\s/>])")  # of a tag or a comment
_COMMENT = re.compile(
    r"<!--(?:(?!-->|<!--).){0,10000}-->|<!(?:doctype|DOCTYPE)\b[^<>]{0,1000}>", re.DOTALL
)
_ENTITY = re.compile(r"&(?:[a-zA-Z]\w{1,31}|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")
_NESTED_AMP = re.compile(r"&(?:amp;)+")


def remove_tags(text: str) -> str:
    """Remove tags and comments; a block's tag leaves a line break, a hidden element no content.

    There is no line break at the ends of what is left.
    """
    if "<" not in text or not _MARKUP_START.search(text):
        return text
    text = _COMMENT.sub(" ", text)
    tags = [tag for tag in _TAG.finditer(text) if _is_tag(tag)]
    last_closing = {tag[1].lower(): tag.start() for tag in tags if _closes(tag)}
    pieces = []
    end = 0
    has_block = False
    hidden = ""  # the element whose content is being left out
    for tag in tags:
        name = tag[1].lower()
        if not hidden:
            pieces.append(text[end : tag.start()])
            opens_hidden = name in _HIDDEN and not _closes(tag)
            if opens_hidden and last_closing.get(name, -1) > tag.start():
                hidden = name
            elif opens_hidden or name in _BLOCK:
                pieces.append("\n")
                has_block = True
        elif _closes(tag) and name == hidden:
            hidden = ""
        end = tag.end()
    left = "".join([*pieces, text[end:]])
    return left.strip("\n") if has_block else left


def _is_tag(tag: re.Match[str]) -> bool:
    """Return whether a tag names an element, and its attributes are flags or one has a value."""
    attributes = tag[2].lower()
    if "=" not in attributes and not all(map(_is_flag, attributes.split())):
        return False
    return tag[1].lower() in _ELEMENTS


def _is_flag(attribute: str) -> bool:
    is_elision = not attribute.strip(".")  # as documentation writes it: `<td ...>`
    return attribute in _FLAGS or "-" in attribute or is_elision


def _closes(tag: re.Match[str]) -> bool:
    return tag[0][1] == "/"


def decode_entities(text: str) -> str:
    """Decode entities that end with a semicolon, doubly escaped ones too."""
    if "&" not in text:
        return text
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), _NESTED_AMP.sub("&", text))


def drop_entities(text: str) -> str:
    """Delete entities that end with a semicolon."""
    return _ENTITY.sub("", text)
