"""What all figures share: colours, style, axes, names that fit, and how one is shown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import ArrayLike

from lib.plots.fonts import drawable, use_fonts

# Okabe and Ito 2008: safe for the colour-blind
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000"]
MARKERS = "os^D"
THOUSANDS = StrMethodFormatter("{x:,.0f}")
STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}


def show(axes: Axes) -> None:
    """Display an Axes' figure with its title as alternative text, and close it."""
    from IPython.display import display

    picture, metadata = _picture(axes)
    display(picture, metadata=metadata, raw=True)


def live(draw: Callable[..., Axes]) -> Callable[..., None]:
    """Return a function that draws with `draw`; each call replaces the last figure."""
    from IPython.display import display

    handle: Any = None

    def redraw(*args: Any, **options: Any) -> None:
        nonlocal handle
        picture, metadata = _picture(draw(*args, **options))
        if handle is None:
            handle = display(picture, display_id=True, metadata=metadata, raw=True)
        else:
            handle.update(picture, metadata=metadata, raw=True)

    return redraw


def _picture(axes: Axes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an Axes' figure at twice its resolution, and its size and text; close it."""
    from IPython.core.pylabtools import retina_figure

    figure = axes.figure
    use_fonts(figure)
    titles = [figure.get_suptitle(), *(ax.get_title(loc="left") for ax in figure.axes)]
    text = "; ".join(title.replace("\n", " ") for title in titles if title)
    png, size = retina_figure(figure, base64=True)
    plt.close(figure)  # type: ignore[arg-type]
    alt = f"Figure: {text}"
    return {"image/png": png, "text/plain": alt}, {"image/png": {"alt": alt, **size}}


def new_axes(*, width: float = 8.0, height: float, grid: bool = True) -> Axes:
    """Return the Axes of a new figure; sizes in inches."""
    with plt.rc_context({**STYLE, "axes.grid": grid}):
        return plt.subplots(figsize=(width, height))[1]


def new_panels(
    rows: int, columns: int, *, size: tuple[float, float], grid: bool = True, **options: Any
) -> tuple[Figure, np.ndarray]:
    """Return a new figure, and its panels as an array of shape (rows, columns)."""
    with plt.rc_context({**STYLE, "axes.grid": grid}):
        return plt.subplots(rows, columns, figsize=size, squeeze=False, **options)


def set_labels(ax: Axes, *, title: str, **properties: Any) -> None:
    """Set the title, on the left, and other properties of an Axes."""
    ax.set(**properties)
    ax.set_title(title, loc="left")


def set_rows(ax: Axes, positions: Sequence[float], names: Sequence[str], **options: Any) -> None:
    """Name the rows of a figure that is read across, and hide their grid lines."""
    ax.set_yticks(positions, names, **options)
    ax.grid(axis="y", visible=False)


def set_figure_title(ax: Axes, title: str) -> None:
    """Set the title above all panels of the figure."""
    ax.figure.suptitle(title, x=0.01, ha="left", fontsize=11)


def legend_outside(ax: Axes, **options: Any) -> None:
    """Put the legend to the right of an Axes."""
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), **options)


def hide_spines(ax: Axes) -> None:
    """Draw no frame around an Axes."""
    for spine in ax.spines.values():
        spine.set_visible(False)


def horizontal_bars(
    ax: Axes, values: Sequence[float], names: Sequence[str], texts: Sequence[str], **options: Any
) -> None:
    """Draw a bar for each value, the first on top, with a text at its end."""
    bars = ax.barh(range(len(values)), values[::-1], color=COLOURS[0])
    ax.bar_label(bars, texts[::-1], padding=3, **options)
    set_rows(ax, range(len(values)), names[::-1])


def distances(table: pd.DataFrame, column: str) -> np.ndarray:
    """Return how far `low` and `high` are from a column's values, shape (2, rows), for errorbar.

    A corrected interval may lie next to its value; that end has a distance of 0.
    """
    low = table[column] - table["low"]
    high = table["high"] - table[column]
    return np.maximum(0, np.stack([low, high]))


def error_bars(ax: Axes, table: pd.DataFrame, column: str, **options: Any) -> None:
    """Draw a column's values over the index of the table, with bars from `low` to `high`."""
    bars = {"color": COLOURS[0], "capsize": 3, **options}
    ax.errorbar(table.index, table[column], yerr=distances(table, column), **bars)


def error_bars_across(
    ax: Axes, table: pd.DataFrame, column: str, positions: ArrayLike, **options: Any
) -> None:
    """Draw a column's values in rows at `positions`, with bars from `low` to `high`."""
    ax.errorbar(table[column], positions, xerr=distances(table, column), **options)


def heat_map(
    ax: Axes, counts: pd.DataFrame, *, shares: bool = False, top: float | None = None
) -> None:
    """Draw counts as shades, darkest at `top`; with `shares`, the shade is the share of the row."""
    values = counts.to_numpy(dtype=float)
    shade = values / np.maximum(1, values.sum(axis=1, keepdims=True)) if shares else values
    top = top or max(1e-9, shade.max())
    ax.imshow(shade, cmap="Blues", vmin=0, vmax=top)
    for i, j in np.ndindex(*values.shape):
        text = f"{values[i, j]:,.0f}"
        if shares:
            text += f"\n{shade[i, j]:.0%}"
        colour = "white" if shade[i, j] > 0.6 * top else "black"
        ax.text(j, i, text, ha="center", va="center", fontsize=9, color=colour)
    ax.set_xticks(range(values.shape[1]), [wrapped(name) for name in counts.columns])
    ax.set_yticks(range(values.shape[0]), [wrapped(name) for name in counts.index])
    ax.tick_params(length=0)
    hide_spines(ax)


def line_styles() -> list[dict[str, Any]]:
    """Return 256 styles of lines, the first 32 of them different."""
    lines = ("-", "--", ":", "-.")
    return [{"color": colour, "linestyle": line} for line in lines for colour in COLOURS] * 8


def short(name: object, width: int = 34) -> str:
    """Return a name cut to `width` characters, ready to be drawn.

    It is in characters that have a font. Dollars do not open mathematics, and a blank goes before a
    leading `_`, which would take its line out of a legend.
    """
    text = " ".join(str(name).split()) or "(blank)"
    text = drawable(text[: width + 1])
    if len(text) > width:
        text = text[: width - 1] + "…"
    if text.startswith("_"):
        text = f" {text}"
    return text.replace("$", r"\$")


def wrapped(name: object) -> str:
    """Return a name in lines of 13 characters, cut to 30."""
    return "\n".join(textwrap.wrap(short(name, 30), 13))
