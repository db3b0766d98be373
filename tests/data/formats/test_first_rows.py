"""The first rows of large tables, cut where a row ends."""

import gzip
import json

import pandas as pd
import pytest

from lib.config import DataConfig
from lib.data.formats import head_of, read_file
from lib.errors import WorkbookError

CSV = "text,label\n" + "".join(f'"number {i}\nof ""two"" lines",x\n' for i in range(200))


def head(path, folder, max_bytes=1_000):
    folder.mkdir(exist_ok=True)
    found = head_of(path, folder, max_bytes=max_bytes)
    return read_file(found.path, DataConfig()).frame, found


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("max_bytes", range(1_000, 1_030, 3))
def test_a_head_ends_with_a_whole_row_wherever_it_is_cut(encoding, max_bytes, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(CSV.encode(encoding))
    frame, found = head(path, tmp_path / "head", max_bytes)
    assert found.path == tmp_path / "head" / "t.csv"
    assert frame["text"].tolist() == [f'number {i}\nof "two" lines' for i in range(len(frame))]
    assert 10 <= len(frame) <= 35
    assert found.share == max_bytes / path.stat().st_size


def test_a_small_table_is_its_own_head(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(CSV)
    assert head_of(path, tmp_path / "none", max_bytes=len(CSV)).path == path
    assert head_of(path, tmp_path / "none").share == 1


def test_packed_rows_are_unpacked_as_far_as_they_are_read(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    lines = "".join(json.dumps({"text": f'a "b" {i}', "label": "x"}) + "\n" for i in range(9_000))
    path.write_bytes(gzip.compress(lines.encode()))
    frame, found = head(path, tmp_path / "head")
    assert frame["text"].tolist() == [f'a "b" {i}' for i in range(len(frame))]
    assert 20 <= len(frame) <= 30
    assert 0 < found.share < 1


def test_of_parquet_whole_rows_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.data.formats.first_rows.HEAD_ROWS", 50)
    path = tmp_path / "t.parquet"
    pd.DataFrame({"text": [f"number {i}" for i in range(200)]}).to_parquet(path)
    frame, found = head(path, tmp_path / "head")
    assert (len(frame), frame["text"].iloc[-1], found.share) == (50, "number 49", 0.25)


def test_what_is_damaged_is_left_to_its_reader(tmp_path):
    for name, content in {
        "a.csv.gz": gzip.compress(CSV.encode())[:-9],
        "b.parquet": b"PAR1",
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        assert head_of(path, tmp_path, max_bytes=2).path == path


def test_large_json_and_folders_have_no_head(tmp_path):
    path = tmp_path / "t.json"
    path.write_text("[" + " " * 2_000 + "]")
    for source in (path, tmp_path):
        with pytest.raises(WorkbookError, match=r"no part of it is a table: look at a CSV or J"):
            head_of(source, tmp_path, max_bytes=100)
        assert head_of(source, tmp_path, max_bytes=1_000).path == source
