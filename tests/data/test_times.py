"""Dates of a column are read in one order of day and month, or refused."""

import pandas as pd
import pytest

from lib.data.times import as_seconds
from lib.errors import WorkbookError


def days(*cells):
    seconds, note = as_seconds(pd.Series(cells, dtype=object), where="t.csv, column 'day'")
    return [str(pd.Timestamp(second, unit="s").date()) for second in seconds], note


def test_one_day_above_twelve_says_that_the_day_is_first_everywhere():
    assert days("05/03/2023", "13/03/2023") == (
        ["2023-03-05", "2023-03-13"],
        "Dates in numbers are read as day/month/year.",
    )


@pytest.mark.parametrize("cells", [("03/05/2023", "03/13/2023"), ("3-5-23 10:00", "3-13-23")])
def test_one_day_above_twelve_says_that_the_month_is_first_everywhere(cells):
    assert days(*cells) == (
        ["2023-03-05", "2023-03-13"],
        "Dates in numbers are read as month/day/year.",
    )


def test_the_order_of_one_row_holds_for_those_before_it():
    cells = ["01.02.2023"] * 50 + ["31.01.2023 08:30:00"]
    assert days(*cells)[0] == ["2023-02-01"] * 50 + ["2023-01-31"]


def test_rows_that_disagree_are_named():
    with pytest.raises(
        WorkbookError,
        match=r"^t.csv, column 'day': row 2 has '13/03/2023', which has the day first, and row 3 "
        r"has '03/14/2023', which has the month first; write dates as 2026-01-31$",
    ):
        days("05/03/2023", "13/03/2023", "03/14/2023")


def test_a_column_that_never_says_is_asked_for():
    with pytest.raises(
        WorkbookError,
        match=r"row 2 has '05/03/2023', and no row shows whether the day or the month is first; "
        r"write dates as 2026-01-31",
    ):
        days("04/04/2023", "05/03/2023")
    assert days("04/04/2023", "05/05/2023")[0] == ["2023-04-04", "2023-05-05"]


def test_dates_that_put_the_year_first_or_name_the_month_need_no_order():
    cells = ["2023-03-05", "2023/03/06", "7 Mar 2023", "March 8, 2023", "2023-03-09T23:00:00-03:00"]
    assert days(*cells) == (
        ["2023-03-05", "2023-03-06", "2023-03-07", "2023-03-08", "2023-03-10"],
        "",
    )


def test_moments_of_parquet_and_numbers_stay():
    moments = pd.Series(pd.to_datetime(["2023-03-05", "2023-03-13"]))
    assert as_seconds(moments, where="t")[0].tolist() == [1677974400.0, 1678665600.0]
    assert as_seconds(pd.Series(["3", "1.5"]), where="t")[0].tolist() == [3.0, 1.5]
