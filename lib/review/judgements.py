"""What people say of a model's mistakes: wrong label, ambiguous text, or the model's own error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lib.config import closest
from lib.errors import WorkbookError, quoted, shown_path
from lib.evaluation.metrics import EPSILON
from lib.evaluation.significance import Interval, share_interval
from lib.review.sheets import read_sheet, save_sheet, unquote, write_lock

JUDGEMENTS = ("label error", "ambiguous", "model")
COLUMNS = ["row_id", "label", "predicted", "confidence", "loss", "judgement", "why", "text"]
_MAX_CHARS = 2_000  # of a text; spreadsheets cut cells of 32,767


def read_judgements(path: Path) -> pd.DataFrame:
    """Read the mistakes that people were asked about; an empty table where there is no file.

    Returns
    -------
    DataFrame of str with COLUMNS, and those that people added; `judgement` is one of JUDGEMENTS, or
    "" before a person fills it in

    Raises
    ------
    WorkbookError : a column is missing, or a judgement unknown; its line and row are named.
    """
    lines = read_sheet(path, required=COLUMNS) if path.exists() else []
    rows = []
    for line, row in lines:
        cells = {column: unquote(cell) for column, cell in row.items()}
        judgement = " ".join(cells["judgement"].lower().split())
        if judgement and judgement not in JUDGEMENTS:
            raise WorkbookError(
                f"{shown_path(path)}, line {line}, row_id {quoted(cells['row_id'])}: judgement "
                f"{quoted(cells['judgement'])}{closest(judgement, JUDGEMENTS)}; it is one of "
                f"{', '.join(JUDGEMENTS)}, or blank"
            )
        rows.append(cells | {"judgement": judgement})
    return pd.DataFrame(rows, dtype=object) if rows else pd.DataFrame(columns=COLUMNS, dtype=object)


def ask(path: Path, mistakes: pd.DataFrame, *, n_rows: int) -> pd.DataFrame:
    """Add the worst mistakes to the file, where they are not in it; change nothing that is.

    Parameters
    ----------
    mistakes : from `error_analysis.mistakes_table`, the most confident first
    n_rows : of the most confident, and as many of those with the highest loss

    Returns
    -------
    DataFrame as of `read_judgements`, all that is in the file now

    Raises
    ------
    WorkbookError : as `read_judgements`, or the file cannot be written; nothing changes.
    """
    loss = -np.log(np.maximum(mistakes["label_prob"], EPSILON))
    worst = mistakes.index.isin({*mistakes.index[:n_rows], *loss.nlargest(n_rows).index})
    asked = mistakes.assign(
        row_id=mistakes["row_id"].astype(str),
        confidence=mistakes["confidence"].map("{:.3f}".format),
        loss=loss.map("{:.2f}".format),
        judgement="",
        why="",
        text=mistakes["text"].str.slice(0, _MAX_CHARS),
    )
    with write_lock(path):
        before = read_judgements(path)
        new = asked.loc[worst & ~_subjects(asked).isin(_subjects(before)), COLUMNS]
        table = pd.concat([before, new], ignore_index=True).fillna("")
        if len(new):
            save_sheet(table, path)
    return table


def judged_rows(judgements: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the judgements that are filled in and about these rows, the last one on each.

    Parameters
    ----------
    rows : with `row_id`, `label` and `text`; where one of them has changed, a judgement is about
        another row
    """
    filled = judgements[judgements["judgement"] != ""]
    subjects = _subjects(filled)
    return filled[subjects.isin(_subjects(rows)) & ~subjects.duplicated(keep="last")]


def _subjects(table: pd.DataFrame) -> pd.Series:
    """Return what tells rows apart: number, label and text, whatever the white space."""
    texts = table["text"].str.slice(0, _MAX_CHARS).map(lambda text: " ".join(text.split()))
    return table["row_id"].astype(str) + "\x1f" + table["label"] + "\x1f" + texts


def shares(judged: pd.DataFrame) -> dict[str, Interval]:
    """Return the share of each judgement with its interval; nothing of none.

    The interval (Wilson's) is of mistakes like those that were judged.
    """
    n = len(judged)
    counts = {name: int((judged["judgement"] == name).sum()) for name in JUDGEMENTS}
    return {name: share_interval(count, n) for name, count in counts.items()} if n else {}


def describe(asked: pd.DataFrame, judged: pd.DataFrame) -> str:
    """Return the shares as sentences, or what a person is to do.

    Parameters
    ----------
    asked, judged : from `ask` and `judged_rows`
    """
    unchanged = "No label of a test row is changed by a judgement."
    n_elsewhere = int((asked["judgement"] != "").sum()) - len(judged)
    elsewhere = f"{n_elsewhere:,} more are about other rows. " if n_elsewhere else ""
    if judged.empty:
        return (
            f"None of the {len(asked):,} mistakes in judgements.csv is judged: fill in its column "
            f"judgement ({', '.join(JUDGEMENTS)}) and run again. {elsewhere}{unchanged}"
        )
    found = [f"{name} {share.percent()}" for name, share in shares(judged).items()]
    return f"Of {len(judged):,} mistakes judged: {', '.join(found)}. {elsewhere}{unchanged}"
