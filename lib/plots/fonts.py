"""Fonts for the characters of names: installed ones, and Latin letters where there is none."""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import FigureBase
from matplotlib.text import Text

_UNREADABLE = (OSError, RuntimeError)  # what FreeType raises on a file that it cannot read
_without_font: set[str] = set()  # scripts that a warning has named


def drawable(text: str) -> str:
    """Return a text in characters that figures can draw.

    Where an installed font has what is missing, its family joins matplotlib's list (rcParams) and
    the text stays as it is. What no font has is written in Latin letters, and a warning names each
    script once.
    """
    missing = _missing(text)
    if missing:
        _add_families(missing)
        missing = _missing(text)
    if missing:
        from anyascii import anyascii

        _warn(missing)
        text = "".join(anyascii(c) if c in missing else c for c in text)
    return text


def use_fonts(figure: FigureBase) -> None:
    """Let all texts of a figure use the families of matplotlib's list, those added later too."""
    families = plt.rcParams["font.family"]
    if len(families) > 1:
        for text in figure.findobj(Text):
            text.set_fontfamily(families)


def _missing(text: str) -> set[str]:
    """Return the characters that no font in matplotlib's list has."""
    characters = set() if text.isascii() else {c for c in text if not c.isspace()}
    for family in plt.rcParams["font.family"]:
        if characters:
            font = _font(family)
            characters = {c for c in characters if not font.get_char_index(ord(c))}
    return characters


def _add_families(characters: set[str]) -> None:
    """Add installed families, first that which has most of the characters."""
    left = np.array(sorted(map(ord, characters)))
    families = _installed_families()
    while len(left):
        has = {family: np.isin(left, codes) for family, codes in families.items()}
        best = max(has, key=lambda family: (has[family].sum(), _legibility(family)))
        if not has[best].any():
            return
        plt.rcParams["font.family"] = [*plt.rcParams["font.family"], best]
        left = left[~has[best]]


@cache
def _installed_families() -> dict[str, np.ndarray]:
    """Return the code points of each installed family, those that matplotlib has not listed too."""
    listed = {entry.fname for entry in font_manager.fontManager.ttflist}
    for path in set(font_manager.findSystemFonts()) - listed:
        with contextlib.suppress(*_UNREADABLE):
            font_manager.fontManager.addfont(path)
    # of each family the upright face that is nearest to regular
    entries = sorted(font_manager.fontManager.ttflist, key=_plainness, reverse=True)
    files = {entry.name: entry.fname for entry in entries}
    files.pop("Last Resort High-Efficiency", None)  # matplotlib's own: a box for any character
    families = {}
    for family, path in sorted(files.items()):
        with contextlib.suppress(*_UNREADABLE):
            font = font_manager.get_font(path)
            if font.scalable:  # emoji in colour are pictures of one size, which cannot be drawn
                families[family] = np.array(list(font.get_charmap()))
    return families


def _plainness(entry: Any) -> tuple[bool, int]:
    weight = entry.weight if isinstance(entry.weight, int) else 400
    return entry.style != "normal", abs(weight - 400)


def _legibility(family: str) -> tuple[bool, ...]:
    """Rank families that have the same characters."""
    return "Sans" in family, "Mono" not in family, family.endswith("SC")


def _font(family: str) -> Any:
    properties = font_manager.FontProperties(family=[family])
    return font_manager.get_font(font_manager.findfont(properties))


def _warn(missing: set[str]) -> None:
    """Name the scripts that have no font, each once in a process."""
    examples = {_script(c): c for c in sorted(missing)[::-1] if unicodedata.category(c)[0] in "LNS"}
    new = {script: c for script, c in examples.items() if script not in _without_font}
    if new:
        _without_font.update(new)
        scripts = ", ".join(f"{script} ({c})" for script, c in new.items())
        warnings.warn(
            f"no installed font has characters of {scripts}: figures show them in Latin letters; "
            "install one, for instance Noto Sans or Noto Sans CJK, and run the notebook again",
            stacklevel=2,
        )


def _script(character: str) -> str:
    """Return the first word of a character's name: its script, or what kind of sign it is."""
    return unicodedata.name(character, "UNKNOWN").split()[0].split("-")[0]
