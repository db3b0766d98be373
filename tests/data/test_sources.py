import codecs
import csv
import gzip
import io
import json

import datasets
import huggingface_hub.constants
import pandas as pd
import pytest
from labelled_tables import settings, table_of

from lib import provenance, workspace
from lib.config import Config
from lib.data import sources
from lib.data.formats import decode
from lib.data.sources import load_table, raw_path, raw_table, sample_rows
from lib.errors import WorkbookError

ROWS = [
    ('Rain, wind and "sleet"\nby noon', "weather"),
    ("Größe 😀 naïve", "words"),
    ("  blanks stay  ", "words"),
    ("tab\there; semicolon", "weather"),
]
LOADED = [(i, text, label) for i, (text, label) in enumerate(ROWS)]


def as_csv(rows, delimiter=",", header=("text", "label"), end="\n"):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, lineterminator=end).writerows([header, *rows])
    return buffer.getvalue()


def as_records(rows):
    return [{"text": text, "label": label} for text, label in rows]


def as_bytes(kind, rows):
    if kind == "parquet":
        buffer = io.BytesIO()
        pd.DataFrame(rows, columns=["text", "label"]).to_parquet(buffer)
        return buffer.getvalue()
    text = {
        "csv": lambda: as_csv(rows),
        "tsv": lambda: as_csv(rows, delimiter="\t"),
        "json": lambda: json.dumps(as_records(rows), ensure_ascii=False, indent=1),
        "jsonl": lambda: "\n".join(
            json.dumps(record, ensure_ascii=False) for record in as_records(rows)
        ),
    }[kind]()
    return text.encode()


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The hub library caches below the test's folder and takes no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def load(source, **options):
    return list(load_table(source, **options).itertuples(index=False, name=None))


def many(n, labels=("news", "sport")):
    return [(f"text number {i}", labels[i % len(labels)]) for i in range(n)]


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_each_format_gives_the_same_table_with_or_without_gz(write, kind, gz):
    content = as_bytes(kind, ROWS)
    source = write(f"t.{kind}.gz", gzip.compress(content)) if gz else write(f"t.{kind}", content)
    table = load_table(source)
    assert list(table.columns) == ["row_id", "text", "label"]
    assert list(table.itertuples(index=False, name=None)) == LOADED


def test_endings_are_read_in_any_case_and_after_other_dots(write):
    assert load(write("t.v1.CSV", as_csv(ROWS))) == LOADED
    assert load(write("u.v1.Csv.GZ", gzip.compress(as_csv(ROWS).encode()))) == LOADED


def test_a_folder_gives_its_subfolders_as_labels_in_order(write, tmp_path):
    write("f/sport/b.txt", "a goal\nin the last minute")
    write("f/sport/a.txt", "a match")
    write("f/art/deep/c.md", "ein Gemälde")
    write("f/art/.hidden", "no text")
    write("f/.git/x.txt", "no text")
    write("f/readme.txt", "no text")
    assert load(str(tmp_path / "f")) == [
        (0, "ein Gemälde", "art"),
        (1, "a match", "sport"),
        (2, "a goal\nin the last minute", "sport"),
    ]


def test_a_folder_without_files_says_how_one_is_laid_out(write, tmp_path):
    write("f/readme.txt", "no text")
    with pytest.raises(
        WorkbookError,
        match="f: no files; a folder source has one sub-folder a class, with one text a file",
    ):
        load_table(str(tmp_path / "f"))


def test_a_folder_without_texts_names_the_files_that_are_none(write, tmp_path):
    write("f/art/picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(
        WorkbookError, match=r"f: no files; .* Skipped, not text: 'art/picture.png'\."
    ):
        load_table(str(tmp_path / "f"))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_data_set_of_the_hub_is_read_by_split(write, tmp_path, own_cache, kind):
    write(f"ds/train.{kind}", as_bytes(kind, ROWS))
    write(f"ds/test.{kind}", as_bytes(kind, ROWS[:1]))
    assert load(f"hub:{tmp_path}/ds") == LOADED
    assert load(f"hub:{tmp_path}/ds::test") == LOADED[:1]


def test_class_labels_of_the_hub_become_their_names(tmp_path, own_cache):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["art", "sport"])}
    )
    (tmp_path / "ds").mkdir()
    rows = {"text": ["a", "b", "c", "d"], "label": [1, 0, -1, None]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(
        tmp_path / "ds" / "train.parquet"
    )
    assert load(f"hub:{tmp_path}/ds") == [
        (0, "a", "sport"),
        (1, "b", "art"),
        (2, "c", None),
        (3, "d", None),
    ]


def test_a_split_that_the_hub_does_not_have_is_named(write, tmp_path, own_cache):
    write("ds/train.jsonl", as_bytes("jsonl", ROWS))
    with pytest.raises(WorkbookError, match=r"\(config None, split dev\) could not be loaded"):
        load_table(f"hub:{tmp_path}/ds::dev")


def test_a_hub_name_while_offline_says_why_and_what_to_do(own_cache):
    with pytest.raises(
        WorkbookError,
        match=r"'no-such/set' \(config small, split test\) .*\(HF_HUB_OFFLINE is set\); check "
        r"the name and the network, or save it as Parquet",
    ):
        load_table("hub:no-such/set:small:test")


def test_a_hub_that_fails_online_passes_the_first_line_of_its_reason_on(monkeypatch):
    def fail(*args, **options):
        raise ConnectionError("no route\ntraceback and more")

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        WorkbookError, match=r"\(ConnectionError: no route\); check the name"
    ) as caught:
        load_table("hub:ag_news")
    assert "traceback" not in str(caught.value)


def test_the_word_docstrings_is_the_embedded_set_whatever_the_columns(monkeypatch):
    monkeypatch.setattr(
        sources.docstrings,
        "harvest",
        lambda progress: pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]}),
    )
    assert load("docstrings", text_column="body", label_column="topic") == [
        (0, "a", "x"),
        (1, "b", "y"),
    ]


GERMAN = [("Größe, „ähnlich“ – naïve", "maß"), ("zweite Zeile", "übung")]


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-8", b""),
        ("cp1252", b""),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl"])
def test_each_encoding_is_told_from_the_bytes(write, kind, encoding, mark):
    content = mark + as_bytes(kind, GERMAN).decode().encode(encoding)
    assert load(write(f"t.{kind}", content)) == [(0, *GERMAN[0]), (1, *GERMAN[1])]


def test_an_encoding_that_is_named_is_taken(write):
    rows = [("Привет, мир", "да"), ("ещё раз", "нет")]
    source = write("t.csv", as_csv(rows).encode("koi8-r"))
    assert load(source, encoding="koi8-r") == [(0, *rows[0]), (1, *rows[1])]


def test_bytes_of_no_encoding_name_the_byte_and_the_setting(write):
    with pytest.raises(
        WorkbookError,
        match=r"t.csv: not UTF-8, and its encoding cannot be told for sure \(.*\?\); name it with "
        r"--set data.encoding=",
    ):
        load_table(write("t.csv", b"text,label\n\x81,b\n"))


@pytest.mark.parametrize(
    ("bad", "found"),
    [(b"\xed\xa0\xbd", "0xed"), (b"caf\xe9", "0xe9")],
    ids=["a lone surrogate", "a letter in cp1252"],
)
def test_a_line_that_breaks_the_utf8_of_all_others_is_named(write, bad, found):
    content = "text,label\nGröße,maß\nübrig wäre,maß\n".encode() + bad + b",x\n"
    with pytest.raises(
        WorkbookError,
        match=rf"t.csv, line 4: byte \d+ is {found}, which is invalid UTF-8; the rest of the "
        r"file decodes. Fix it, or name",
    ):
        load_table(write("t.csv", content))
    assert load(write("u.csv", content), encoding="cp1252")[2][1].startswith(
        bad[:1].decode("cp1252")
    )


def test_an_encoding_that_does_not_fit_is_named(write):
    with pytest.raises(WorkbookError, match=r"cannot be read as ascii \(byte 11 is 0xc3\)"):
        load_table(write("t.csv", "text,label\nä,b\n"), encoding="ascii")


def test_an_encoding_that_python_does_not_know_is_named(write):
    with pytest.raises(
        WorkbookError,
        match=r"data.encoding='utf-9' is not an encoding that Python knows; for instance cp1252",
    ):
        load_table(write("t.csv", as_csv(ROWS)), encoding="utf-9")


def test_decode_takes_a_mark_off_that_a_named_encoding_leaves():
    assert decode("\ufeffä".encode("utf-16-le"), name="x", encoding="utf-16-le") == "ä"


@pytest.mark.parametrize(
    "content", [b"text,label\na,b\nq\0q,b\n", b"text,label\na,b\ncaf\xe9 \0,b\n"]
)
def test_a_nul_byte_names_its_line(write, content):
    with pytest.raises(
        WorkbookError, match=r"t.csv, line 3: a NUL byte; the file is damaged or not text"
    ):
        load_table(write("t.csv", content))


def test_a_csv_cell_keeps_quotes_newlines_delimiters_and_blanks(write):
    content = 'text,label\n"a ""b"", c\n\nd",x\n  e , y \n"",z\n'
    assert load(write("t.csv", content)) == [
        (0, 'a "b", c\n\nd', "x"),
        (1, "  e ", " y "),
        (2, "", "z"),
    ]


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_csv_lines_may_end_as_windows_or_old_macs_do(write, end):
    assert load(write("t.csv", as_csv(ROWS[1:], end=end))) == [
        (0, *ROWS[1]),
        (1, *ROWS[2]),
        (2, *ROWS[3]),
    ]


def test_blank_csv_lines_are_no_rows(write):
    assert load(write("t.csv", "\ntext,label\n\na,x\n\n\nb,y\n\n")) == [
        (0, "a", "x"),
        (1, "b", "y"),
    ]


def test_a_text_of_ten_megabytes_in_a_csv_cell_loads(write):
    text = "long text " * 1_000_000
    assert load(write("t.csv", f'text,label\n"{text}",x\nshort,y\n')) == [
        (0, text, "x"),
        (1, "short", "y"),
    ]


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        ("text,label\na,x\nb\nc,x\n", 3, 1),
        ("text,label\na,x\nb,c,x\n", 3, 3),
        ('text,label\n"two\nlines",x\nb,c,x\n', 4, 3),
        ('text,label\n"two\nlines",x\n"three\nmore\nlines"\n', 4, 1),
        ("text,label\n\n\na,x\nb,c,x\n", 5, 3),
        ('text,label\r\n"two\r\nlines",x\r\nb,c,x\r\n', 4, 3),
    ],
)
def test_a_ragged_csv_row_names_the_line_it_begins_on(write, content, line, found):
    with pytest.raises(
        WorkbookError,
        match=rf"t.csv, line {line}: {found} cells where the header has 2; quote cells that hold "
        r"a ','",
    ):
        load_table(write("t.csv", content))


def test_a_ragged_tsv_row_names_its_delimiter(write):
    with pytest.raises(
        WorkbookError,
        match=r"t.tsv, line 2: 3 cells where the header has 2; quote cells that hold a '\\t'",
    ):
        load_table(write("t.tsv", "text\tlabel\na\tb\tc\n"))


@pytest.mark.parametrize(
    ("content", "line"),
    [('text,label\na,x\n"b,x\nc,x\n', 3), ('text,label\n"a\nb",x\n"c"d,x\n', 4)],
)
def test_a_broken_quote_names_the_line_of_its_row(write, content, line):
    with pytest.raises(WorkbookError, match=rf"t.csv, line {line}: .*is a quote left open\?"):
        load_table(write("t.csv", content))


@pytest.mark.parametrize("header", ["text,text,label", "text,label,label"])
def test_a_column_named_twice_is_an_error(write, header):
    with pytest.raises(WorkbookError, match=r"t.csv"):
        load_table(write("t.csv", f"{header}\na,b,c\n"))


def test_a_broken_json_line_is_named(write):
    with pytest.raises(WorkbookError, match=r"t.jsonl, line 3: Expecting value"):
        load_table(write("t.jsonl", '{"text": "a", "label": "x"}\n\n{"text": \n'))


def test_broken_json_names_its_line_and_the_form_it_must_have(write):
    with pytest.raises(
        WorkbookError,
        match=r"t.json, line 2: .*; a table is a list of objects \(one object a line goes into "
        r".jsonl\)",
    ):
        load_table(write("t.json", '[{"text": "a", "label": "x"},\n{"text"]'))


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("t.jsonl", '{"text": "a", "label": "x"}\n\n["b", "y"]', "line 3: .*found list"),
        ("t.json", '[{"text": "a", "label": "x"}, "b"]', "record 2: .*found str"),
        ("t.json", "5", "found int"),
        ("t.json", "null", "found NoneType"),
        ("t.json", '"text"', "found str"),
    ],
)
def test_json_that_is_no_object_says_what_was_found(write, name, content, place):
    with pytest.raises(
        WorkbookError, match=rf"{name}, .*an object such as .*{place.split('.*')[-1]}"
    ) as caught:
        load_table(write(name, content))
    assert place.split(":", maxsplit=1)[0] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("t.json", "[]"), ("t.csv", "text,label\n"), ("t.tsv", "text\tlabel")]
)
def test_a_table_without_rows_is_an_error(write, name, content):
    with pytest.raises(WorkbookError, match=rf"{name} has (no rows|a header but no rows)"):
        load_table(write(name, content))


@pytest.mark.parametrize("content", [b"", b"  \n\n", codecs.BOM_UTF8 + b"\n"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_empty_file_is_an_error(write, kind, content):
    with pytest.raises(WorkbookError, match=rf"t.{kind} (is empty|has no rows)"):
        load_table(write(f"t.{kind}", content))


def test_a_missing_file_names_the_nearest_and_what_a_source_is(write, tmp_path):
    write("reviews.csv", as_csv(ROWS))
    with pytest.raises(
        WorkbookError,
        match=r"no such file or folder: .*review.csv \(did you mean 'reviews.csv'\?\); --data "
        r"takes a table, a folder, hub:<name> or docstrings",
    ):
        load_table(str(tmp_path / "review.csv"))
    with pytest.raises(WorkbookError, match="no such file or folder"):
        load_table(str(tmp_path / "no" / "such" / "t.csv"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("t.xlsx", "'.xlsx'"), ("t", r"'\(none\)'"), ("t.gz", r"'\(none\)'"), ("t.zip.gz", "'.zip'")],
)
def test_a_file_of_another_kind_lists_the_kinds_there_are(write, name, kind):
    with pytest.raises(
        WorkbookError,
        match=rf"unsupported file type {kind}; use .csv, .tsv, .json, .jsonl, .parquet, also "
        r"with .gz",
    ):
        load_table(write(name, b"PK"))


PACKED = gzip.compress(as_csv(many(300)).encode())
DEFLATE_ERROR = PACKED[:40] + b"\xff" * 40 + PACKED[80:]


@pytest.mark.parametrize(
    "content",
    [
        as_csv(ROWS).encode(),
        PACKED[:-50],
        PACKED[:-6] + bytes([PACKED[-6] ^ 1]) + PACKED[-5:],
        DEFLATE_ERROR,
    ],
    ids=["plain text", "cut short", "checksum", "damaged within"],
)
def test_a_broken_gzip_file_is_named(write, content):
    with pytest.raises(WorkbookError, match=r"t.csv.gz: not a whole gzip file"):
        load_table(write("t.csv.gz", content))


@pytest.mark.parametrize(
    "content",
    [b"text,label\na,b\n", as_bytes("parquet", ROWS)[:-20]],
    ids=["plain text", "cut short"],
)
def test_a_broken_parquet_file_is_named(write, content):
    with pytest.raises(WorkbookError, match=r"t.parquet: not a Parquet file that can be read"):
        load_table(write("t.parquet", content))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"t.csv has no column 'text' \(did you mean 'texts'\?\); it has 'texts', 'topic', "
            r"'n': name it with --text-column",
        ),
        (
            {"text_column": "texts"},
            r"t.csv has no column 'label'; it has 'texts', 'topic', 'n': name it with "
            r"--label-column",
        ),
        (
            {"text_column": "texts", "label_column": "Topic"},
            r"no column 'Topic' \(did you mean 'topic'\?\); .*--label-column",
        ),
    ],
)
def test_a_column_that_is_not_there_lists_those_that_are(write, options, message):
    with pytest.raises(WorkbookError, match=message):
        load_table(write("t.csv", "texts,topic,n\na,b,1\n"), **options)


def test_named_columns_are_taken_and_others_left(write):
    source = write("t.csv", "label,body,text,topic\n1,a,b,x\n2,c,d,y\n")
    assert load(source, text_column="body", label_column="topic") == [(0, "a", "x"), (1, "c", "y")]


def test_a_column_of_groups_to_compare_is_kept_and_found_by_row(write, home):
    rows = [f"text {i},{'xy'[i % 2]},{('Ann', '', ' ')[i % 3]}" for i in range(40)]
    source = write("t.csv", "\n".join(["text,label,person", *rows]))
    config = settings(source, data__fairness_column="person")
    table = raw_table(config)
    assert table["fairness_group"].tolist()[:4] == ["Ann", None, None, "Ann"]
    assert sources.fairness_groups(config, [3, 1, 0]) == ["Ann", None, "Ann"]
    assert raw_path(config) != raw_path(settings(source))
    with pytest.raises(WorkbookError, match=r"no column 'persn' \(did you mean 'person'\?\)"):
        load_table(source, fairness_column="persn")


def test_null_texts_and_labels_load_as_none(write):
    records = [
        {"text": None, "label": "x"},
        {"label": "y"},
        {"text": "a", "label": None},
        {"text": "b"},
        {"text": "c", "label": "  "},
    ]
    expected = [(0, None, "x"), (1, None, "y"), (2, "a", None), (3, "b", None), (4, "c", None)]
    assert load(write("t.jsonl", "\n".join(map(json.dumps, records)))) == expected
    assert load(write("t.json", json.dumps(records))) == expected
    assert (
        load(
            write(
                "t.parquet", as_bytes("parquet", [(r.get("text"), r.get("label")) for r in records])
            )
        )
        == expected
    )


def test_a_blank_label_of_a_csv_counts_as_none_and_a_blank_text_stays(write):
    assert load(write("t.csv", "text,label\n,x\na,\nb,  \n")) == [
        (0, "", "x"),
        (1, "a", None),
        (2, "b", None),
    ]


def test_the_words_of_missing_values_are_texts_and_labels(write):
    assert load(write("t.csv", "text,label\nNA,null\nNone,nan\n")) == [
        (0, "NA", "null"),
        (1, "None", "nan"),
    ]


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float64", "object"])
def test_integer_labels_lose_no_digit_beside_missing_ones(write, dtype):
    numbers = [3, 0, 12] if dtype == "int64" else [3, None, 12]
    buffer = io.BytesIO()
    pd.DataFrame({"text": ["a", "b", "c"], "label": pd.Series(numbers, dtype=dtype)}).to_parquet(
        buffer
    )
    middle = "0" if dtype == "int64" else None
    assert load(write("t.parquet", buffer.getvalue())) == [
        (0, "a", "3"),
        (1, "b", middle),
        (2, "c", "12"),
    ]


def test_numbers_of_json_become_words(write):
    records = [
        {"text": 5, "label": 1},
        {"text": "a", "label": 2.0},
        {"text": "b", "label": 0.5},
        {"text": "c", "label": -1},
    ]
    assert load(write("t.json", json.dumps(records))) == [
        (0, "5", "1"),
        (1, "a", "2"),
        (2, "b", "0.5"),
        (3, "c", "-1"),
    ]


def test_zeros_that_lead_a_csv_label_stay(write):
    assert load(write("t.csv", "text,label\na,007\nb,7.0\n")) == [(0, "a", "007"), (1, "b", "7.0")]


def test_categories_of_parquet_become_words(write):
    buffer = io.BytesIO()
    pd.DataFrame({"text": ["a", "b"], "label": pd.Categorical(["x", None])}).to_parquet(buffer)
    assert load(write("t.parquet", buffer.getvalue())) == [(0, "a", "x"), (1, "b", None)]


def test_half_a_surrogate_pair_becomes_a_question_mark(write):
    assert load(
        write(
            "t.jsonl",
            '{"text": "a\\ud83d b", "label": "x"}\n{"text": "\\ud83d\\ude00", "label": "y"}',
        )
    ) == [(0, "a? b", "x"), (1, "😀", "y")]


def test_a_sample_keeps_the_shares_of_the_classes_and_the_order():
    table = table_of(*["a"] * 60, *["b"] * 30, *["c"] * 10, *[None] * 20).sample(
        frac=1, random_state=0, ignore_index=True
    )
    table["row_id"] = range(len(table))
    sample = sample_rows(table, 20, seed=1, at_least=2)
    assert sample["label"].value_counts().to_dict() == {"a": 12, "b": 6, "c": 2}
    assert sample["row_id"].is_monotonic_increasing
    assert sample["row_id"].is_unique
    assert (
        table.set_index("row_id")["label"].loc[sample["row_id"]].tolist()
        == sample["label"].tolist()
    )


def test_a_sample_is_the_same_for_a_seed_and_another_for_another():
    table = table_of(*["a", "b"] * 50)
    assert sample_rows(table, 20, seed=1).equals(sample_rows(table, 20, seed=1))
    assert not sample_rows(table, 20, seed=1).equals(sample_rows(table, 20, seed=2))


def test_a_sample_of_nearly_all_rows_is_drawn_too():
    assert len(sample_rows(table_of(*["a", "b"] * 10), 19, seed=1)) == 19


def test_a_sample_grows_with_the_number_of_classes():
    table = table_of(*[f"{i:03d}" for i in range(150) for _ in range(20)])
    for at_least in (2, 4, 10, 20):
        sample = sample_rows(table, 11, seed=1, at_least=at_least)
        assert sample["label"].value_counts().value_counts().to_dict() == {at_least: 150}
    few = table_of(*["a"] * 50, *["b"] * 3, "c")
    assert sample_rows(few, 2, seed=1)["label"].value_counts().to_dict() == {"a": 4, "b": 3, "c": 1}


def test_a_sample_has_every_class_however_rare():
    table = table_of(*["a"] * 900, *["b"] * 800, *["rare"] * 6, "one")
    sample = sample_rows(table, 60, seed=1)
    assert len(sample) == 60
    assert sample["label"].value_counts().to_dict() == {"a": 28, "b": 27, "rare": 4, "one": 1}
    assert sample["row_id"].is_monotonic_increasing


def test_a_sample_of_nearly_all_rows_has_every_class_too():
    table = table_of(*[f"{i:03d}" for i in range(50) for _ in range(3)])
    sample = sample_rows(table, 120, seed=1, at_least=2)
    assert sample["label"].value_counts().value_counts().to_dict() == {2: 30, 3: 20}


def test_a_table_is_imported_once(write, home, monkeypatch):
    config = settings(write("t.csv", as_csv(many(40))))
    first = raw_table(config)
    assert first.shape == (40, 3)
    monkeypatch.setattr(
        sources, "load_table", lambda *args, **options: pytest.fail("imported again")
    )
    assert raw_table(config).equals(first)
    assert [path.name for path in (home / "data" / "raw").iterdir()] == [raw_path(config).name]


def test_the_raw_file_tells_where_it_comes_from(write, home):
    config = settings(write("t.csv", as_csv(many(40))))
    table = raw_table(config)
    assert workspace.read_facts(raw_path(config)) == {
        "source": config.data.source,
        "rows": 40,
        "fingerprint": provenance.table_fingerprint(table),
    }


def test_another_content_gets_another_raw_file_and_the_old_one_stays(write, home):
    config = settings(write("t.csv", as_csv(many(40))))
    raw_table(config)
    old = raw_path(config)
    kept = old.read_bytes()
    write("t.csv", as_csv(many(50)))
    assert len(raw_table(config)) == 50
    assert raw_path(config) != old
    assert old.read_bytes() == kept


def test_the_raw_file_depends_on_how_the_source_is_read(write, home):
    source = write("t.csv", as_csv(many(40)))
    paths = {
        raw_path(settings(source)),
        raw_path(settings(source, data__text_column="body")),
        raw_path(settings(source, data__label_column="topic")),
        raw_path(settings(source, data__encoding="cp1252")),
        raw_path(settings("hub:t")),
        raw_path(settings("docstrings")),
    }
    assert len(paths) == 6
    assert raw_path(settings(source, data__rows=20, data__merge_labels=True)) == raw_path(
        settings(source)
    )
    assert raw_path(settings("docstrings")) == home / "data" / "raw" / "docstrings.parquet"


def test_two_files_of_one_name_have_two_raw_files(write, home):
    one, other = (
        settings(write("one/t.csv", as_csv(many(40)))),
        settings(write("other/t.csv", as_csv(many(60)))),
    )
    assert (len(raw_table(one)), len(raw_table(other)), len(raw_table(one))) == (40, 60, 40)


def test_a_raw_file_that_was_changed_is_detected(write, home):
    config = settings(write("t.csv", as_csv(many(40))))
    table, path = raw_table(config), raw_path(config)
    workspace.write_table(
        table.assign(label=table["label"].to_numpy()[::-1]), path, facts=workspace.read_facts(path)
    )
    with pytest.raises(
        WorkbookError,
        match=rf"{path.name} was changed since it was imported; delete it, and it is imported "
        r"again",
    ):
        raw_table(config)
    path.unlink()
    assert raw_table(config).equals(table)


@pytest.mark.parametrize("keep", [0, 100])
def test_a_raw_file_that_is_damaged_is_detected(write, home, keep):
    config = settings(write("t.csv", as_csv(many(40))))
    raw_table(config)
    path = raw_path(config)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        WorkbookError, match=rf"{path.name} is damaged .*; delete it, and it is imported again"
    ):
        raw_table(config)


def test_a_source_whose_labels_cannot_be_learned_is_not_imported(write, home):
    config = settings(write("t.csv", as_csv([*many(40), ("a text", "rare")])))
    with pytest.raises(WorkbookError, match=r"'rare' \(1\)"):
        raw_table(config)
    assert not raw_path(config).exists()


def test_a_raw_table_of_a_source_that_is_gone_says_so(write, home, tmp_path):
    with pytest.raises(WorkbookError, match="no such file or folder"):
        raw_table(settings(str(tmp_path / "t.csv")))


def test_a_raw_table_merges_labels_where_that_is_asked_for(write, home):
    source = write("t.csv", as_csv(many(60, labels=("Sport", "Sport", "sport ", "news"))))
    with pytest.raises(
        WorkbookError, match=r"'Sport' and 'sport '. Merge them with --set data.merge_labels=true"
    ):
        raw_table(settings(source))
    table = raw_table(settings(source, data__merge_labels=True))
    assert table["label"].value_counts().to_dict() == {"Sport": 45, "news": 15}
    assert workspace.read_table(raw_path(settings(source)))["label"].nunique() == 3
    with pytest.raises(WorkbookError, match="differ in case or blanks alone"):
        raw_table(settings(source))


def test_a_raw_table_is_sampled_and_the_whole_stays_on_disk(write, home):
    config = settings(write("t.csv", as_csv(many(100))), data__rows=30)
    assert raw_table(config)["label"].value_counts().to_dict() == {"news": 15, "sport": 15}
    assert raw_table(config).equals(raw_table(config))
    assert len(workspace.read_table(raw_path(config))) == 100


def test_a_sampled_table_has_the_rows_of_each_class_that_splits_and_folds_need(write, home):
    config = settings(write("t.csv", as_csv(many(100))), data__rows=12)
    assert raw_table(config)["label"].value_counts().to_dict() == {"news": 9, "sport": 9}


def test_a_class_whose_only_row_has_no_text_does_not_break_the_sample(write, home):
    rows = [*as_records(many(100)), {"text": None, "label": "empty"}]
    config = settings(write("t.json", json.dumps(rows)), data__rows=40)
    assert raw_table(config)["label"].isin(["news", "sport"]).sum() >= 39


def test_the_embedded_set_notes_the_versions_of_its_packages(home, monkeypatch):
    monkeypatch.setattr(
        sources.docstrings,
        "harvest",
        lambda progress: pd.DataFrame(many(40), columns=["text", "label"]),
    )
    monkeypatch.setattr(sources.docstrings, "package_versions", lambda: {"sympy": "1.0"})
    raw_table(settings("docstrings"))
    assert workspace.read_facts(home / "data" / "raw" / "docstrings.parquet")["packages"] == {
        "sympy": "1.0"
    }


# --- splits and times ---

SPLIT_ROWS = (
    "text,label,part,day\na b c,x,Training,2026-01-05\nd e "
    "f,y,dev,2026-01-03T10:00:00+02:00\ng h i,x, TEST ,05 Feb 2026\n"
)


def test_a_split_column_is_read_by_its_usual_names(write):
    table = load_table(write("t.csv", SPLIT_ROWS), split_column="part")
    assert table["split"].tolist() == ["train", "val", "test"]
    assert list(load_table(write("t.csv", SPLIT_ROWS))) == ["row_id", "text", "label"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "tset",
            r"column 'part': row 2 says 'tset' \(did you mean 'test'\?\); each row is train, "
            r"training, val",
        ),
        ("", "column 'part': row 2 says nothing"),
    ],
)
def test_a_row_whose_split_is_unknown_is_named(write, cell, message):
    with pytest.raises(WorkbookError, match=message):
        load_table(write("t.csv", SPLIT_ROWS.replace("dev", cell)), split_column="part")


def test_splits_without_a_training_row_are_refused(write):
    with pytest.raises(WorkbookError, match="no row is for training, all are test or val"):
        load_table(write("t.csv", SPLIT_ROWS.replace("Training", "val")), split_column="part")


def test_times_are_dates_or_numbers(write):
    times = load_table(write("t.csv", SPLIT_ROWS), time_column="day")["time"]
    assert times.tolist() == [
        pd.Timestamp(day).timestamp() for day in ("2026-01-05", "2026-01-03T08:00:00", "2026-02-05")
    ]
    numbered = (
        SPLIT_ROWS.replace("2026-01-05", "3")
        .replace("2026-01-03T10:00:00+02:00", "1.5")
        .replace("05 Feb 2026", "2")
    )
    assert load_table(write("n.csv", numbered), time_column="day")["time"].tolist() == [
        3.0,
        1.5,
        2.0,
    ]


def test_a_row_without_a_time_is_named(write):
    with pytest.raises(
        WorkbookError, match="column 'day': row 3 has 'soon', which is not a date or number"
    ):
        load_table(write("t.csv", SPLIT_ROWS.replace("05 Feb 2026", "soon")), time_column="day")


def test_a_split_column_that_is_not_there_is_named(write):
    with pytest.raises(
        WorkbookError,
        match=r"no column 'prt' \(did you mean 'part'\?\).*name it with --set "
        r"data.split_column=...",
    ):
        load_table(write("t.csv", SPLIT_ROWS), split_column="prt")


def test_the_same_file_read_with_another_split_is_another_raw_table(write, home):
    source = write("t.csv", SPLIT_ROWS)
    paths = {
        raw_path(Config.load("smoke", {"data.source": str(source), **extra})).name
        for extra in ({}, {"data.split_column": "part"}, {"data.time_column": "day"})
    }
    assert len(paths) == 3
    how = [{"data.group_column": "part"}, {"data.delimiter": ","}, {"data.quoting": "double"}]
    paths |= {
        raw_path(Config.load("smoke", {"data.source": str(source), **extra})).name for extra in how
    }
    assert len(paths) == 6


# --- groups, cells, notes ---


def test_a_group_column_is_read_as_words_and_blanks_are_none(write):
    source = write("t.csv", "text,label,author\na,x,Ann\nb,y, \nc,x,7\n")
    table = load_table(source, group_column="author")
    assert table["group_key"].tolist() == ["Ann", None, "7"]
    assert "group_key" not in load_table(source)
    with pytest.raises(WorkbookError, match=r"no column 'autor' \(did you mean 'author'\?\)"):
        load_table(source, group_column="autor")


def test_groups_that_the_splits_tear_are_refused_at_import(write):
    source = write("t.csv", "text,label,part,author\na,x,train,Ann\nb,y,test,Ann\n")
    with pytest.raises(WorkbookError, match=r"1 of 1 groups \('Ann'\) have rows in two of the"):
        load_table(source, split_column="part", group_column="author")


LABELS = "column 'label': row 2 has .*; give one label a row; several are not this workbook's task"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "b", "label": ["x", "y"]}, rf"{LABELS}$"),
        ({"text": "b", "label": {"x": 1}}, rf"{LABELS}$"),
        ({"text": ["b", "c"], "label": "x"}, r"column 'text': row 2 has \"\['b', 'c'\]\" \(list\)"),
        (
            {"text": {"en": "b"}, "label": "x"},
            r"column 'text': row 2 has .* \(dict\); give one text",
        ),
        ({"text": "b", "label": ["x"] * 9_999}, rf"{LABELS}$"),
    ],
)
def test_a_cell_of_json_that_is_no_single_value_is_refused(write, row, message):
    content = json.dumps([{"text": "a", "label": "x"}, row])
    with pytest.raises(WorkbookError, match=message) as caught:
        load_table(write("t.json", content))
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    ("cell", "kind"), [(["x", "y"], "ndarray"), (b"x", "bytes"), ({"a": 1}, "dict")]
)
@pytest.mark.parametrize("column", ["text", "label"])
def test_a_cell_of_parquet_that_is_no_single_value_is_refused(write, cell, kind, column):
    buffer = io.BytesIO()
    frame = pd.DataFrame({"text": ["a", "b"], "label": ["x", "y"]})
    frame[column] = [cell, cell]
    frame.to_parquet(buffer)
    with pytest.raises(
        WorkbookError, match=rf"t.parquet, column '{column}': row 1 has .* \({kind}\); give one"
    ):
        load_table(write("t.parquet", buffer.getvalue()))


def test_a_list_in_another_column_does_not_matter(write):
    assert load(write("t.json", '[{"text": "a", "label": "x", "tags": ["b"]}]')) == [(0, "a", "x")]


def test_what_was_told_from_a_source_is_kept_with_the_raw_table(write, home):
    rows = as_csv([(f"{text} größer", label) for text, label in many(40)], delimiter=";")
    config = settings(write("t.csv", rows.encode("cp1252")))
    raw_table(config)
    encoding, delimiter = sources.reading_notes(config)
    assert encoding.startswith("Read as cp1252, as its bytes suggest")
    assert delimiter == "Cells are separated by ';'."
    plain = settings(write("u.csv", as_csv(many(40))))
    raw_table(plain)
    assert sources.reading_notes(plain) == []
