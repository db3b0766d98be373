"""Each of some fifty odd files is imported, or refused in one short line with a remedy."""

import re

import odd_tables
import pytest

from lib import workspace
from lib.config import Config
from lib.data import sources
from lib.errors import MAX_CHARS, WorkbookError


@pytest.mark.parametrize("make", odd_tables.CASES, ids=lambda make: make.__name__)
def test_an_odd_table_is_imported_or_refused_in_a_line(make, tmp_path, home):
    odd = make(tmp_path)
    settings = {"data.source": str(odd.path), "data.rows": None, **odd.settings}
    config = Config.load("smoke", settings)
    if odd.refused:
        with pytest.raises(WorkbookError) as caught:
            sources.raw_table(config)
        line = str(caught.value)
        assert re.search(odd.refused, line)
        assert "\n" not in line
        assert len(line) <= MAX_CHARS
    else:
        sources.raw_table(config)
        table = workspace.read_table(sources.raw_path(config))
        assert (len(table), table["label"].nunique()) == (odd.n_rows, odd.n_classes)
        assert table["text"][0] == (odd.first_text or table["text"][0])


def test_forty_tables_are_tried():
    assert len(odd_tables.CASES) >= 40
