import bz2
import gzip
import lzma
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY
from linear_classifiers import CLASSES, WORDS, linear_classifier

from lib.config import DataConfig
from lib.delivery import cli
from lib.delivery.batch import predict_table, prediction
from lib.delivery.monitoring.prediction_log import read_log
from lib.errors import WorkbookError
from lib.training.classifier import Classifier

WORD_LIST = [word for words in WORDS.values() for word in words.split()[:2]]
TEXTS = [f"the {WORD_LIST[i % 6]} and\nthe {WORD_LIST[i * i % 6]}, {i}" for i in range(40)]
TABLE = pd.DataFrame({"id": [f"n{i}" for i in range(40)], "text": TEXTS, "note": "a, b"})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    linear_classifier(folder / "member", abstain_below=0.5).save(folder / "classifier")
    return folder / "classifier"


@pytest.fixture
def predict(model, tmp_path):
    """Predict a file with parts of 7 rows; return what was written."""

    def predict_one(source, out=None, **options):
        out = out or str(tmp_path / "out.parquet")
        options = {"model": model, "rows_per_part": 7, **options}
        n_rows, n_abstained = predict_table(str(source), str(out), **options)
        table = pq.read_table(out).to_pandas()
        assert (n_rows, n_abstained) == (len(table), table["abstained"].sum())
        return table

    return predict_one


def jsonl(table):
    return table.to_json(orient="records", lines=True)


def parquet(table):
    return table.to_parquet(row_group_size=16)


FILES = {
    "a.csv": TABLE.to_csv(index=False),
    "A.CSV": TABLE.to_csv(index=False, sep=";"),
    "a.tsv": TABLE.to_csv(index=False, sep="\t", encoding="utf-16"),
    "a.jsonl": jsonl(TABLE),
    "a.parquet": parquet(TABLE),
    "a.csv.gz": gzip.compress(TABLE.to_csv(index=False).encode()),
    "a.jsonl.bz2": bz2.compress(jsonl(TABLE).encode()),
    "a.tsv.xz": lzma.compress(TABLE.to_csv(index=False, sep="\t").encode()),
    "a.csv.zst": pa.compress(TABLE.to_csv(index=False).encode("utf-16"), "zstd", asbytes=True),
}


@pytest.mark.parametrize("name", FILES)
def test_each_row_of_each_kind_of_file_has_its_row_in_order(name, write, predict, model):
    table = predict(write(name, FILES[name]), keep=["id"])
    expected = Classifier.load(model).predict(TEXTS, with_probs=True)
    probs = np.stack(expected.pop("probabilities"))
    for code, label in enumerate(CLASSES):
        expected[f"p: {label}"] = probs[:, code]
    expected.insert(0, "id", TABLE["id"])
    expected.insert(0, "row", range(40))
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert set(table["label"]) == set(CLASSES)
    assert 0 < table["abstained"].sum() < 40


def test_a_folder_is_one_table_in_the_order_of_its_names(write, predict, tmp_path):
    write("in/1.csv", TABLE[:3].to_csv(index=False))
    write("in/2/b.jsonl", jsonl(TABLE[3:20]))
    write("in/3.parquet", parquet(TABLE[20:]))
    for name in ("in/0_empty.csv", "in/_SUCCESS", "in/.hidden.csv", "in/readme.txt"):
        write(name, "" if "empty" in name else "text\nnot a row of the table\n")
    table = predict(tmp_path / "in", keep=["id"])
    assert table["id"].tolist() == TABLE["id"].tolist()
    assert table["row"].tolist() == list(range(40))


CSV = """text,id
"a crow, and
an ""owl"" here",1
"a stray "quote" here",2

three,cells,3
"one quote is left open,4
the apple and the pear,5
"",6
one cell
the nail and the saw,8
"and another,9
"""


def test_csv_rows_that_cannot_be_read_are_marked_with_their_line(write, predict):
    table = predict(write("a.csv", CSV), keep=["id"])
    assert table["id"].tolist() == ["1", None, None, None, "5", "6", None, "8", None]
    assert table["reason"].tolist() == [
        "",
        "a.csv, line 4: ',' expected after '\"'",
        "a.csv, line 6: 3 cells where the header has 2",
        "a.csv, line 7: ',' expected after '\"'",
        "",
        "no words left",
        "a.csv, line 10: 1 cells where the header has 2",
        "",
        "a.csv, line 12: unexpected end of data",
    ]
    unread = table["reason"] != ""
    assert table["label"].isna().tolist() == unread.tolist() == table["abstained"].tolist()
    assert table["confidence"].isna().tolist() == unread.tolist()


def test_json_lines_that_cannot_be_read_are_marked_with_their_line(write, predict):
    lines = [
        '{"text": "the apple and the plum", "id": true}',
        *(
            "{",
            "",
            "[1]",
            '{"texts": "a"}',
            '{"text": null}',
            '{"text": 7}',
            '{"text": {"a": [1]}}',
        ),
        *('{"text": "a \\ud800 b c"}', "[" * 100_000, "1", '{"text": "' + "a b " * 250_001 + '"}'),
        '{"text": "the saw and the drill", "id": 3}',
    ]
    table = predict(write("a.jsonl", "\r\n".join(lines)), keep=["id"])
    assert table["reason"].tolist() == [
        "",
        "a.jsonl, line 2: Expecting property name enclosed in double quotes",
        "a.jsonl, line 4: an object is needed, found list",
        "a.jsonl, line 5: no 'text'",
        "null",
        "not a text: int",
        "not a text: dict",
        "has bytes or characters that are not Unicode",
        "a.jsonl, line 10: maximum recursion depth exceeded while decoding a JSON array from a "
        "unicode string",
        "a.jsonl, line 11: an object is needed, found int",
        "longer than 1,000,000 characters",
        "",
    ]
    assert table["id"].tolist() == ["True", *[None] * 10, "3"]


def test_other_values_in_parquet_are_marked(predict, tmp_path):
    texts = pa.array(["the crow and the owl", None, b"\xff of the saw".decode("latin-1")])
    pq.write_table(pa.table({"text": texts, "id": [1, None, 3]}), tmp_path / "a.parquet")
    table = predict(tmp_path / "a.parquet", keep=["id"])
    assert table["reason"].tolist() == ["", "null", ""]
    assert table["id"].tolist() == ["1", None, "3"]
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "b.parquet")
    table = predict(tmp_path / "b.parquet", tmp_path / "b-out.parquet")
    assert table["reason"].tolist() == ["not a text: int"] * 2
    assert pq.read_schema(tmp_path / "b-out.parquet").field("label").type == pa.string()


def test_encodings_and_quotings_are_told_or_named(write, predict, tmp_path):
    utf8 = b"text\n" + "the apple – and the pear\n".encode() * 3 + b"the \xe9 and the saw\n"
    reasons = predict(write("a.csv", utf8))["reason"].tolist()
    assert reasons == ["", "", "", "has bytes or characters that are not Unicode"]
    named = {"settings": DataConfig(encoding="cp1252"), "overwrite": True}
    assert predict(write("a.csv", utf8), **named)["reason"].tolist() == [""] * 4
    tabs = 'text\tid\n5" and the "saw" x\t1\n"the nail, and the saw\t2\n'
    assert predict(write("a.tsv", tabs), overwrite=True)["reason"].tolist() == ["", ""]
    escaped = 'id,text\n1,"the ""saw"" \\"and\\", the nail"\n2,"the \\"owl\\" and, the crow"\n'
    assert predict(write("b.csv", escaped), overwrite=True)["reason"].tolist() == ["", ""]
    double = {"settings": DataConfig(quoting="double"), "overwrite": True}
    assert all(predict(write("b.csv", escaped), **double)["reason"])


def test_two_workers_write_the_bytes_of_one(write, predict, tmp_path):
    source = write("a.csv", FILES["a.csv"])
    predict(source, tmp_path / "1.parquet")
    predict(source, tmp_path / "2.parquet", workers=2)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    assert pq.ParquetFile(tmp_path / "1.parquet").num_row_groups == 6


def test_parts_of_long_texts_have_fewer_rows(write, predict, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "MAX_PART_CHARS", 3 * len(TEXTS[0]))
    predict(write("a.csv", FILES["a.csv"]))
    sizes = pq.read_metadata(tmp_path / "out.parquet")
    assert [sizes.row_group(i).num_rows for i in (0, 1, 13)] == [3, 3, 1]


def killed(model, source, out, n_parts):
    """Predict in a process of its own, kill it when some parts are finished, and count them."""
    scratch = out.with_name(f".{out.name}.parts")
    words = ["predict", source, out, "--model", model, "--rows-per-part", "50"]
    command = [sys.executable, "-m", "lib.delivery.cli", *words]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
        while len(list(scratch.glob("*.parquet"))) < n_parts:
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    return len(list(scratch.glob("*.parquet")))


def test_what_was_killed_goes_on_and_ends_with_the_same_bytes(
    write, predict, model, tmp_path, monkeypatch
):
    source = write("a.csv", pd.concat([TABLE] * 75).to_csv(index=False))
    predict(source, tmp_path / "whole.parquet", rows_per_part=50)
    out = tmp_path / "out.parquet"
    for n_parts in (2, 30):
        n_finished = killed(model, source, out, n_parts)
    calls = []
    monkeypatch.setattr(
        prediction, "_write", lambda *words, write=prediction._write: calls.append(write(*words))
    )
    predict(source, out, rows_per_part=50)
    assert len(calls) == 60 - n_finished + 1
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.csv",
        "out.parquet",
        "whole.parquet",
    ]


@pytest.fixture
def unfinished(write, predict, tmp_path, monkeypatch):
    """A prediction that stopped after two of six parts, and how to go on."""
    source = write("a.csv", FILES["a.csv"])
    write_part = prediction._write

    def full(job, path, tables):
        if path.endswith("2.parquet"):
            raise OSError(28, "No space left on device")
        write_part(job, path, tables)

    with monkeypatch.context() as patch:
        patch.setattr(prediction, "_write", full)
        with pytest.raises(WorkbookError, match=r"out\.parquet: OSError: .*No space left") as found:
            predict(source)
    assert "the same command goes on" in str(found.value)
    parts = list((tmp_path / ".out.parquet.parts").iterdir())
    assert len(parts) == 2
    return lambda **options: predict(source, **options), parts


def test_a_full_disk_keeps_what_was_finished(unfinished, predict, tmp_path):
    go_on, parts = unfinished
    times = [part.stat().st_mtime_ns for part in parts]
    assert [part.stat().st_mtime_ns for part in parts] == times
    go_on()
    predict(tmp_path / "a.csv", tmp_path / "2.parquet")
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()


def test_parts_of_another_prediction_are_not_mixed_in(unfinished, write, tmp_path, model):
    go_on, parts = unfinished
    os.utime(tmp_path / "a.csv", (1, 1))
    other = tmp_path / "other"
    linear_classifier(tmp_path / "member", scale=2.0).save(other)
    for options in ({}, {"keep": ["id"]}, {"rows_per_part": 8}, {"model": other}):
        with pytest.raises(WorkbookError, match="parts of another input, model, option"):
            go_on(**options)
        assert all(part.exists() for part in parts)
    assert go_on(model=other, overwrite=True)["confidence"].max() > 0.9
    assert not parts[0].parent.exists()


def test_an_input_that_changes_while_it_is_read_is_refused(write, predict, tmp_path, monkeypatch):
    source = write("a.csv", FILES["a.csv"])
    write_part = prediction._write

    def write_and_change(*words):
        write_part(*words)
        os.utime(source, (1, 1))

    monkeypatch.setattr(prediction, "_write", write_and_change)
    with pytest.raises(WorkbookError, match=r"a\.csv changed while it was read"):
        predict(source)
    assert not (tmp_path / "out.parquet").exists()


def test_a_part_that_is_gone_is_no_shorter_output(write, predict, tmp_path, monkeypatch):
    write_part = prediction._write

    def write_and_lose(job, path, tables):
        write_part(job, path, tables)
        if path.endswith("3.parquet"):
            job.fs.rm(path.replace("3.parquet", "1.parquet"))

    monkeypatch.setattr(prediction, "_write", write_and_lose)
    with pytest.raises(WorkbookError, match=r"out\.parquet: FileNotFoundError: .*No such file"):
        predict(write("a.csv", FILES["a.csv"]))
    assert not (tmp_path / "out.parquet").exists()


def test_an_output_that_is_there_stays_unless_it_is_to_be_replaced(write, predict, tmp_path):
    source = write("a.csv", FILES["a.csv"])
    out = tmp_path / "out.parquet"
    out.write_text("mine")
    with pytest.raises(WorkbookError, match=r"out\.parquet is there: .*--overwrite"):
        predict(source)
    assert out.read_text() == "mine"
    assert len(predict(source, overwrite=True)) == 40
    with pytest.raises(WorkbookError, match="is a part of the input"):
        predict(out, overwrite=True)
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(WorkbookError, match=r"folder\.parquet is there"):
        predict(source, tmp_path / "folder.parquet", overwrite=True)


WRONG = {
    "a.csv": ("texts,b\nx,1\n", {}, r"a\.csv has no column 'text' \(did you mean 'texts'\?\)"),
    "b.jsonl": ('{"txt": 1}\n', {}, r"b\.jsonl has no column 'text' \(did you mean 'txt'\?\)"),
    "c.parquet": (parquet(TABLE), {"keep": ["ids"]}, r"did you mean 'id'.*--keep"),
    "d.csv": (FILES["a.csv"], {"keep": ["label"]}, "--keep 'label': the answers have a column"),
    "e.csv": (FILES["a.csv"], {"keep": ["p: x"]}, "--keep 'p: x': the answers have a column"),
    "f.csv": ("", {}, r"f\.csv has no rows"),
    "g.csv": ("text\n\n", {}, r"g\.csv has no rows"),
    "h.json": ("[]", {}, r"no table: \.csv, "),
    "i.csv.gz": (gzip.compress(FILES["a.csv"].encode())[:-20], {}, r"i\.csv\.gz: EOFError: "),
    "j.csv.zst": (FILES["a.csv.zst"][:-20], {}, r"j\.csv\.zst: "),
    "k.csv.xz": (b"text", {}, r"k\.csv\.xz: LZMAError: "),
    "l.parquet": (parquet(TABLE)[:-9], {}, r"l\.parquet: ArrowInvalid: "),
    "m.csv": ('"text\nx', {}, r"m\.csv, line 1: unexpected end of data: the header"),
    "n.csv": ("text,text\na,b\n", {}, r"n\.csv has two columns 'text'"),
    "o.parquet.gz": (b"", {}, "no table"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_one_clear_error(name, write, predict, tmp_path):
    content, options, message = WRONG[name]
    with pytest.raises(WorkbookError, match=message) as found:
        predict(write(name, content), **options)
    assert len(str(found.value)) <= 300
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_places_that_cannot_be_used_are_named(write, predict, tmp_path):
    source = write("a.csv", FILES["a.csv"])
    with pytest.raises(WorkbookError, match=r"gone\.csv: no such file"):
        predict(tmp_path / "gone.csv")
    with pytest.raises(WorkbookError, match=r"out\.csv: what is written is Parquet"):
        predict(source, tmp_path / "out.csv")
    with pytest.raises(WorkbookError, match=r"nothing://b/c\.csv: ValueError: Protocol not known"):
        predict("nothing://b/c.csv")
    with pytest.raises(WorkbookError, match=r"a\.csv/out\.parquet: NotADirectoryError"):
        predict(source, f"{source}/out.parquet")


def test_the_log_has_each_row_and_no_text_unless_asked_for(write, predict, tmp_path):
    source = write("a.csv", FILES["a.csv"])
    table = predict(source, log=tmp_path / "log")
    logged = read_log(tmp_path / "log")
    assert logged["label"].tolist() == table["label"].tolist()
    assert set(logged["source"]) == {"predict"}
    assert "text" not in logged
    predict(source, log=tmp_path / "log2", log_texts=True, overwrite=True)
    assert read_log(tmp_path / "log2")["text"].tolist() == TEXTS


@pytest.fixture(scope="module")
def store():
    """An S3 server on loopback, and a client of it."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "a")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        s3fs.S3FileSystem.clear_instance_cache()
        fs = s3fs.S3FileSystem()
        fs.mkdir("bucket")
        yield fs
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_tables_in_a_store_are_read_and_written_like_files(
    store, write, predict, tmp_path, monkeypatch, model
):
    store.pipe_file("bucket/in/1.csv.gz", FILES["a.csv.gz"])
    store.pipe_file("bucket/in/2.parquet", FILES["a.parquet"])
    write("in/1.csv.gz", FILES["a.csv.gz"])
    write("in/2.parquet", FILES["a.parquet"])
    predict(tmp_path / "in")
    out = "s3://bucket/new/out.parquet"
    options = {"model": model, "rows_per_part": 7}
    with monkeypatch.context() as patch:
        write_part = prediction._write

        def stop(job, path, tables):
            if path.endswith("3.parquet"):
                raise KeyboardInterrupt
            write_part(job, path, tables)

        patch.setattr(prediction, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            predict_table("s3://bucket/in", out, **options)
    assert len(store.find("bucket/new")) == 3
    assert predict_table("s3://bucket/in", out, **options)[0] == 80
    store.invalidate_cache()
    assert store.find("bucket/new") == ["bucket/new/out.parquet"]
    assert store.cat_file("bucket/new/out.parquet") == (tmp_path / "out.parquet").read_bytes()
    with pytest.raises(WorkbookError, match=r"s3://bucket/new/out\.parquet is there"):
        predict_table("s3://bucket/in", out, **options)
    with pytest.raises(WorkbookError, match="gone: no such file"):
        predict_table("s3://bucket/gone", out, **options, overwrite=True)
    with pytest.raises(WorkbookError, match=r"none/out\.parquet: FileNotFoundError: .*bucket"):
        predict_table("s3://bucket/in", "s3://none/out.parquet", **options)


def workbook(*words):
    return CliRunner().invoke(cli.main, list(map(str, words)))


def test_the_command_says_what_it_wrote(write, home, model, tmp_path, monkeypatch):
    source = write("a.csv", TABLE.rename(columns={"text": "words"}).to_csv(index=False))
    out = tmp_path / "out.parquet"
    words = ["predict", source, out, "--model", model, "--text-column", "words", "--keep", "id"]
    words += ["--keep", "note", "--set", "data.delimiter=comma", "--rows-per-part", 30]
    done = workbook(*words)
    table = pd.read_parquet(out)
    assert done.stdout == f"40 rows in {out}, of which {table['abstained'].sum()} abstain\n"
    assert list(table.columns[:3]) == ["row", "id", "note"]
    assert pq.ParquetFile(out).num_row_groups == 2
    again = workbook(*words)
    assert (again.exit_code, len(again.stderr.splitlines())) == (1, 1)
    monkeypatch.setattr(prediction, "_predict", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    stopped = workbook(*words, "--overwrite")
    assert stopped.exit_code == 130
    assert stopped.stderr.endswith(
        "workbook: stopped; the same command goes on from the last finished notebook or part\n"
    )
