"""Class folders, folders of splits, shards of a table, and data sets that were saved."""

import io

import datasets
import pandas as pd
import pytest

from lib.config import DataConfig
from lib.data.formats import read_folder
from lib.data.sources import load_source
from lib.errors import WorkbookError

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.fixture
def loaded(tmp_path):
    """Read the folder `f` below the test's folder: its rows but for their numbers, and notes."""

    def load(**settings):
        found = load_source(DataConfig(source=str(tmp_path / "f"), **settings))
        return found.table.drop(columns="row_id").to_numpy().tolist(), found.notes

    return load


def parquet(*rows):
    buffer = io.BytesIO()
    pd.DataFrame(rows, columns=["text", "label"]).to_parquet(buffer)
    return buffer.getvalue()


def test_folders_of_splits_are_splits_and_their_folders_classes(write, loaded):
    for name in ("train/pos/1.txt", "train/neg/1.txt", "test/pos/7.txt", "test/neg/7.txt"):
        write(f"f/{name}", name)
    write("f/train/unsup/3.txt", "no label")
    write("f/train/urls_pos.txt", "no text")
    write("f/README", "no text")
    write("f/extra/more/1.txt", "no split")
    rows, notes = loaded()
    assert rows == [
        ["test/neg/7.txt", "neg", "test"],
        ["test/pos/7.txt", "pos", "test"],
        ["train/neg/1.txt", "neg", "train"],
        ["train/pos/1.txt", "pos", "train"],
    ]
    assert notes == [
        "Skipped, in no class folder: 'README', 'train/urls_pos.txt'.",
        "Skipped, in a folder that is not named as a split: 'extra/more/1.txt'.",
        "Skipped, in a folder without labels: 'train/unsup/3.txt'.",
    ]


def test_one_folder_of_a_split_has_classes_and_gives_no_splits(write, loaded):
    write("f/train/pos/1.txt", "a")
    write("f/train/neg/1.txt", "b")
    assert loaded() == ([["b", "neg"], ["a", "pos"]], [])


def test_a_class_may_be_called_test(write, loaded):
    write("f/test/1.txt", "a")
    write("f/bench/1.txt", "b")
    assert loaded() == ([["b", "bench"], ["a", "test"]], [])


def test_folders_of_splits_without_classes_are_refused(write, loaded):
    write("f/train/1.txt", "a")
    write("f/test/1.txt", "b")
    with pytest.raises(
        WorkbookError,
        match="f: 'test', 'train' are names of splits, and hold texts, but no class folders; lay",
    ):
        loaded()


def test_what_is_not_text_is_skipped_with_a_line(write, loaded):
    write("f/art/Thumbs.db", b"\0\1\0\2" * 2_000)
    write("f/art/desktop.ini", "[.ShellClassInfo]")
    write("f/art/picture.png", PNG)
    write("f/art/zeros.bin", bytes(3_000))
    write("f/art/paper.pdf", b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    write("f/art/a.txt", "ein Gemälde".encode("utf-16"))
    write("f/sport/a.txt", "a match")
    assert loaded() == (
        [["ein Gemälde", "art"], ["a match", "sport"]],
        [
            "Skipped, made by the system: 'art/Thumbs.db', 'art/desktop.ini'.",
            "Skipped, not text: 'art/paper.pdf', 'art/picture.png', 'art/zeros.bin'.",
        ],
    )


def test_a_name_of_120_characters_is_read_and_shown_short(write, loaded):
    write(f"f/art/{'x' * 116}.txt", "a")
    write("f/sport/a.txt", "b")
    write(f"f/sport/{'y' * 116}.png", PNG)
    rows, notes = loaded()
    assert rows == [["a", "art"], ["b", "sport"]]
    assert len(notes[0]) < 100


def test_texts_of_a_folder_share_the_encoding_that_all_of_them_tell(write, loaded):
    texts = ["Сегодня", "дети", "играли", "в парке", "утром"]
    for i, text in enumerate(texts):
        write(f"f/a/{i}.txt", text.encode("cp1251"))
    write("f/b/0.txt", "plain")
    rows, notes = loaded()
    assert rows == [*([text, "a"] for text in texts), ["plain", "b"]]
    assert notes[0].startswith("5 files: Read as cp1251, as its bytes suggest")


def test_shards_of_parquet_are_one_table(write, loaded):
    write("f/part-00000.parquet", parquet(("a", "x")))
    write("f/part-00001.parquet", parquet(("b", "y")))
    write("f/_SUCCESS", "")
    write("f/.part-00000.parquet.crc", "crc")
    assert loaded() == (
        [["a", "x"], ["b", "y"]],
        ["2 files were read as one table.", "Skipped, not tables: '_SUCCESS'."],
    )


@pytest.mark.parametrize(
    "names",
    [
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("train.csv", "test.csv"),
    ],
)
def test_shards_named_as_splits_give_them(write, loaded, names):
    for name, row in zip(names, ("a,x", "b,y")):
        content = f"text,label\n{row}\n"
        write(f"f/{name}", content if name.endswith("csv") else parquet(tuple(row.split(","))))
    rows, _ = loaded()
    assert sorted(rows) == [["a", "x", "train"], ["b", "y", "test"]]


def test_a_time_column_splits_whatever_the_names_of_shards_say(write, loaded):
    write("f/train.csv", "text,label,day\na,x,2026-01-01\n")
    write("f/test.csv", "text,label,day\nb,y,2026-01-02\n")
    rows, _ = loaded(time_column="day")
    assert rows == [["b", "y", 1767312000.0], ["a", "x", 1767225600.0]]


FEATURES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["art", "sport"])}
)


def saved(*labels):
    rows = {"text": [f"text {i}" for i in labels], "label": list(labels)}
    return datasets.Dataset.from_dict(rows, features=FEATURES)


def test_a_data_set_that_was_saved_is_read_with_the_names_of_its_classes(tmp_path, loaded):
    saved(1, 0).save_to_disk(tmp_path / "f")
    assert loaded() == ([["text 1", "sport"], ["text 0", "art"]], [])


def test_tables_that_were_saved_together_are_the_splits(tmp_path, loaded):
    tables = {"train": saved(1), "unsupervised": saved(-1), "test": saved(0)}
    datasets.DatasetDict(tables).save_to_disk(tmp_path / "f")
    assert loaded() == (
        [["text 1", "sport", "train"], ["text 0", "art", "test"]],
        ["Left out, not named as a split: 'unsupervised'."],
    )
    datasets.DatasetDict({"one": saved(1)}).save_to_disk(tmp_path / "g")
    with pytest.raises(WorkbookError, match=r"its tables are 'one', none of which is named as"):
        read_folder(tmp_path / "g", DataConfig())


def test_a_saved_data_set_that_is_damaged_is_refused_in_a_line(tmp_path, loaded):
    saved(1, 0).save_to_disk(tmp_path / "f")
    (tmp_path / "f" / "state.json").write_text("{}")
    with pytest.raises(WorkbookError, match=r"f: not a data set that save_to_disk wrote \("):
        loaded()
