"""How many answers are right: estimated without labels, measured where they came later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm

from lib.errors import WorkbookError, shown_path
from lib.evaluation.significance import Interval, share_interval
from lib.provenance import text_fingerprint
from lib.review.sheets import read_sheet


def accuracy_table(
    batches: list[pd.DataFrame], labels: pd.Series, *, confidence: float = 0.95
) -> pd.DataFrame:
    """Return `value`, `low`, `high`, `n` for each (batch, "estimated" or "measured").

    The estimate is the mean calibrated confidence, and its interval what chance makes of so many
    answers. It holds where confidence is right on average, as it was on the validation rows; it is
    too high where texts come in that belong to no class.

    Parameters
    ----------
    batches : rows of a log
    labels : from `read_labels`; batches without any have no measured accuracy
    """
    found = {}
    for number, batch in enumerate(batches, start=1):
        found[number, "estimated"] = _estimated(batch["confidence"].dropna(), confidence)
        truth = batch["text_fingerprint"].map(labels)
        right = (batch["label"] == truth)[truth.notna()]
        if len(right):
            measured = share_interval(right.sum(), len(right), confidence=confidence)
            found[number, "measured"] = measured
    table = pd.DataFrame({key: vars(interval) for key, interval in found.items()})
    return table.T.rename_axis(["batch", "accuracy"])


def _estimated(probs: pd.Series, confidence: float) -> Interval:
    mean, n = probs.mean(), len(probs)
    half = norm.ppf((1 + confidence) / 2) * np.sqrt((probs * (1 - probs)).sum()) / max(1, n)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), n, confidence)


def read_labels(path: str | None) -> pd.Series:
    """Read labels that came later: a CSV file with `label`, and `text_fingerprint` or `text`.

    Parameters
    ----------
    path : None gives no labels

    Returns
    -------
    Series of labels by the text's fingerprint

    Raises
    ------
    WorkbookError : a column is missing, or a text has two labels (the line is named).
    """
    labels: dict[str, str] = {}
    rows = read_sheet(Path(path), required=["label"]) if path else []
    for line, row in rows:
        where = f"{shown_path(path or '')}, line {line}"
        key = row.get("text_fingerprint") or text_fingerprint(row.get("text", ""))
        if "text_fingerprint" not in row and "text" not in row:
            raise WorkbookError(
                f"{where}: there is no column text_fingerprint, and none text; add one"
            )
        if labels.setdefault(key, row["label"]) != row["label"]:
            raise WorkbookError(f"{where}: the text has another label above; keep one of them")
    return pd.Series(labels, dtype=object)
