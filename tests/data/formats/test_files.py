"""The type of a file is told from its name, its target's, or its content."""

import gzip
import io
import os

import pandas as pd
import pytest

from lib.data.formats import existing
from lib.data.sources import load_table
from lib.errors import WorkbookError

ROWS = [["a", "x"], ["b", "y"]]


def parquet():
    buffer = io.BytesIO()
    pd.DataFrame(ROWS, columns=["text", "label"]).to_parquet(buffer)
    return buffer.getvalue()


JSON = b' [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]'
JSONL = b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'
INDENTED = b'{\n "text": ["a", "b"],\n "label": ["x", "y"]\n}'


def load(source):
    return load_table(str(source))[["text", "label"]].to_numpy().tolist()


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("content", [parquet(), JSON, JSONL, INDENTED])
def test_a_file_without_an_ending_is_told_from_its_content(write, content, gz):
    assert load(write("blob", gzip.compress(content) if gz else content)) == ROWS


def test_a_link_has_its_own_ending_whatever_its_target_has(write, tmp_path):
    write("blobs/0a1b2c", b"text,label\na,x\nb,y\n")
    link = tmp_path / "reviews.csv"
    link.symlink_to(tmp_path / "blobs" / "0a1b2c")
    assert load(link) == ROWS


def test_a_link_without_an_ending_has_its_targets(write, tmp_path):
    write("reviews.csv.gz", gzip.compress(b"text,label\na,x\nb,y\n"))
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "reviews.csv.gz")
    assert load(link) == ROWS


def test_a_content_that_says_nothing_is_refused(write):
    with pytest.raises(WorkbookError, match=r"blob: unsupported file type '\(none\)'; use .csv"):
        load(write("blob", b"text,label\na,x\n"))


def test_a_name_that_is_not_utf8_is_refused_in_a_line_that_can_be_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.csv"
    with open(path, "wb") as file:  # noqa: PTH123 (a Path would need the name decoded)
        file.write(b"text,label\na,x\n")
    with pytest.raises(WorkbookError, match=r"caf\\udce9.csv: the name is not UTF-8; rename it"):
        existing(tmp_path / os.fsdecode(b"caf\xe9.csv"))


def test_a_long_path_is_cut_in_the_middle(tmp_path):
    with pytest.raises(WorkbookError, match=r"no such file or folder: .*….*x\.csv") as caught:
        existing(tmp_path / ("folder" * 30) / ("x" * 120 + ".csv"))
    assert len(str(caught.value)) < 300


def test_a_parquet_file_that_is_broken_has_a_short_reason(write):
    with pytest.raises(WorkbookError, match="not a Parquet file that can be read") as caught:
        load(write("t.parquet", parquet()[:-9] + b"\n" * 400))
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
