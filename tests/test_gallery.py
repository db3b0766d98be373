"""Every figure on plain and on awkward data, compared loosely with a stored picture of it.

After a change that is meant: RENEW_GALLERY=1 make test ARGS=tests/test_gallery.py, and look.
"""

import io
import os

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from PIL import Image
from test_plots import FIGURES, balance, features, only_own_fonts, scores, square

from lib import plots
from lib.plots.fonts import use_fonts

__all__ = ["only_own_fonts"]  # its fonts are those of every machine, so that pictures are alike
GALLERY = REPOSITORY / "tests" / "gallery"
SIZE = (120, 90)
MAX_DIFFERENCE = 0.04  # mean over the pixels, 0..1; a bar or a legend that goes is more
MANY = [f"class number {i:03}" for i in range(150)]
LONG = [
    f"{i} a class whose name goes on for more than eighty characters, as some do" for i in "abc"
]
SCRIPTS = ["数学と物理", "علوم الحاسوب", "ὀπτική", "emoji 😀 and <b>", "भौतिकी"]


def awkward(names):
    sizes = [len(names) * 3 - 2 * i for i in range(len(names))]
    lengths = pd.Series(np.arange(4 * len(names)) % 57)
    labels = pd.Series(names * 4)
    title = f"F1 by class (n = {len(names)})"
    return {
        "class_balance": lambda: plots.class_balance(balance(names, sizes)),
        "lengths": lambda: plots.lengths(lengths, labels),
        "features_by_class": lambda: plots.features_by_class(*features(names), titles={"a": "A"}),
        "confusion_matrix": lambda: plots.confusion_matrix(square(names), title="Confusions"),
        "scores_with_intervals": lambda: plots.scores_with_intervals(
            scores(names[:30]), title=title
        ),
    }


DRAWN = {name.replace(", ", "_"): draw for name, (draw, _) in FIGURES.items()}
for kind, class_names in {
    "many": MANY,
    "long": LONG,
    "scripts": SCRIPTS,
    "two": ["a", "b"],
}.items():
    DRAWN |= {f"{name}_{kind}": draw for name, draw in awkward(class_names).items()}


def picture(axes):
    """A figure as grey values, 0..1, of a size at which a font's details do not show."""
    use_fonts(axes.figure)
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="png", dpi=60)
    plt.close("all")
    return Image.open(buffer).convert("L").resize(SIZE, Image.Resampling.BOX)


@pytest.mark.filterwarnings("ignore:Glyph", "ignore:no installed font")
@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_looks_as_it_did(name):
    drawn = picture(DRAWN[name]())
    stored = GALLERY / f"{name}.png"
    if os.environ.get("RENEW_GALLERY"):
        GALLERY.mkdir(exist_ok=True)
        drawn.save(stored, optimize=True)
    before, now = (np.asarray(image, dtype=float) / 255 for image in (Image.open(stored), drawn))
    assert np.abs(before - now).mean() < MAX_DIFFERENCE


def test_a_figure_without_its_bars_would_be_seen():
    axes = DRAWN["class_balance"]()
    for bar in list(axes.patches):
        bar.remove()
    before = np.asarray(Image.open(GALLERY / "class_balance.png"), dtype=float) / 255
    now = np.asarray(picture(axes), dtype=float) / 255
    assert np.abs(before - now).mean() > MAX_DIFFERENCE


def test_no_picture_is_left_of_a_figure_that_is_gone():
    assert {path.stem for path in GALLERY.glob("*.png")} == set(DRAWN)
