"""Dates and times of a column, all read in one order of day and month."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lib.errors import WorkbookError, quoted

# day, month and year in numbers, the year last
NUMERIC_DATE = r"(?<![\d/.-])(\d{1,2})([/.-])(\d{1,2})\2(?:\d{4}|\d{2})(?!\d)"


def as_seconds(values: pd.Series, *, where: str) -> tuple[np.ndarray, str]:
    """Return numbers as they are, and dates and times as seconds since 1970 (UTC).

    Of dates such as 05/03/2023 the whole column says whether the day is first: one of them has a
    number above 12.

    Parameters
    ----------
    where : names the column, for messages

    Returns
    -------
    seconds : ndarray of float of shape (n,)
    note : a sentence on the order of day and month, "" where it does not matter

    Raises
    ------
    WorkbookError : a row has no date or number; rows disagree in the order of day and month; or
        none shows it.
    """
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all() and not pd.api.types.is_datetime64_any_dtype(values):
        return numbers.to_numpy(np.float64), ""
    values = values.reset_index(drop=True)
    moments = pd.to_datetime(values, errors="coerce", utc=True, format="mixed")
    if moments.isna().any():
        row = int(np.argmax(moments.isna()))
        raise WorkbookError(
            f"{where}: row {row + 1} has {quoted(values.iloc[row])}, which is not a date or "
            "number; write dates as 2026-01-31, or drop the row"
        )
    dates = values.astype(str).str.extract(NUMERIC_DATE).dropna()
    note = ""
    if len(dates):
        has_day_first = _has_day_first(dates, values, where=where)
        order = "day/month" if has_day_first else "month/day"
        note = f"Dates in numbers are read as {order}/year."
        moments[dates.index] = pd.to_datetime(
            values[dates.index], utc=True, format="mixed", dayfirst=has_day_first
        )
    seconds = (moments - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    return seconds.to_numpy(np.float64), note


def _has_day_first(dates: pd.DataFrame, values: pd.Series, *, where: str) -> bool:
    """Return whether numeric dates (their first and third part) have the day before the month."""
    first = dates[0].astype(int)
    second = dates[2].astype(int)
    days_first = dates.index[first > 12]
    months_first = dates.index[second > 12]
    if len(days_first) and len(months_first):
        firsts = (days_first[0], months_first[0])
        rows = [f"row {row + 1} has {quoted(values[row])}" for row in firsts]
        raise WorkbookError(
            f"{where}: {rows[0]}, which has the day first, and {rows[1]}, which has the month "
            "first; write dates as 2026-01-31"
        )
    is_open = not len(days_first) and not len(months_first) and (first != second)
    if np.any(is_open):
        row = dates.index[is_open][0]
        raise WorkbookError(
            f"{where}: row {row + 1} has {quoted(values[row])}, and no row shows whether the day "
            "or the month is first; write dates as 2026-01-31"
        )
    return bool(len(days_first))
