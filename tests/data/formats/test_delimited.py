"""The delimiter and the quoting of a file are told from it, or asked for."""

import pytest

from lib.config import Config, DataConfig
from lib.data.formats.delimited import read_delimited
from lib.data.sources import load_table
from lib.errors import WorkbookError

ROWS = [["a, b", "x"], ["c; d", "y"]]


def read(text, *, default=",", **settings):
    table = read_delimited(text, "t.csv", default=default, settings=DataConfig(**settings))
    return table.frame.to_numpy().tolist(), table.notes


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_the_one_under_which_the_header_has_the_columns(delimiter):
    text = f'text{delimiter}label\n"a, b"{delimiter}x\n"c; d"{delimiter}y\n'
    assert read(text) == (ROWS, (f"Cells are separated by {delimiter!r}.",))


def test_commas_in_a_header_between_semicolons_are_no_delimiter():
    text = 'text;label;a,b,c\n"a, b";x;1\n"c; d";y;2\n'
    rows, notes = read(text)
    assert rows == [["a, b", "x", "1"], ["c; d", "y", "2"]]
    assert notes == ("Cells are separated by ';'.",)


def test_where_the_columns_are_not_there_the_first_rows_tell_the_delimiter(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("body;topic\na, b;x\nc;y\n")
    with pytest.raises(WorkbookError, match=r"no column 'text'.*; it has 'body', 'topic': name it"):
        load_table(str(path))


def test_the_first_line_that_excel_reads_the_delimiter_from_is_no_row():
    text = "sep=;\r\ntext;label\r\na, b;x\r\n"
    assert read(text) == ([["a, b", "x"]], ("Cells are separated by ';'.",))
    with pytest.raises(WorkbookError, match=r"t.csv, line 4: 1 cells where the header has 2"):
        read("sep=|\ntext|label\na|x\nb\n")


@pytest.mark.parametrize("name", ["semicolon", ";"])
def test_a_delimiter_that_is_named_is_taken(name):
    assert read("text,label;text\na;b\n", delimiter=name, text_column="text,label")[0] == [
        ["a", "b"]
    ]
    assert Config.load("smoke", {"data.delimiter": name}).data.delimiter == ";"


@pytest.mark.parametrize("name", ["", "::", "\n", '"', "colon"])
def test_a_delimiter_that_is_none_is_refused(name):
    with pytest.raises(
        WorkbookError,
        match=r"data.delimiter: a delimiter is comma, semicolon, tab, pipe, or a single character",
    ):
        Config.load("smoke", {"data.delimiter": name})


ESCAPED = 'text,label\n"He said \\"hi, you\\" and left C:\\\\new\\dir",x\nsay \\"no\\",y\n'


def test_quotes_that_a_backslash_escapes_are_read():
    assert read(ESCAPED) == (
        [['He said "hi, you" and left C:\\new\\dir', "x"], ['say "no"', "y"]],
        ("Quotes are escaped by a backslash.",),
    )


def test_a_backslash_before_a_doubled_quote_is_text():
    text = 'text,label\n"print(\\""hi\\"")",x\n"C:\\",y\n'
    assert read(text) == ([['print(\\"hi\\")', "x"], ["C:\\", "y"]], ())


def test_backslashes_that_can_be_read_in_two_ways_are_asked_for():
    text = 'text,label\n"a\\",x\nb\\"y",z\n'
    with pytest.raises(
        WorkbookError,
        match=r"t.csv: quotes that follow a backslash can be read in two ways; say which with "
        r"--set data.quoting=backslash .* or double",
    ):
        read(text)
    assert read(text, quoting="double")[0] == [["a\\", "x"], ['b\\"y"', "z"]]
    assert read(text, quoting="backslash")[0] == [['a",x\nb"y', "z"]]


QUOTATION = '"I will go now\tpos\nand not come back"\tneg\n'


def test_a_quotation_over_two_lines_of_a_tsv_is_asked_for():
    text = f"text\tlabel\na\tneg\n{QUOTATION}"
    with pytest.raises(
        WorkbookError,
        match=r"t.csv, line 3: a quotation over several lines, which may be one cell or several "
        r"rows; say which with --set data.quoting=double .* or none",
    ):
        read(text, default="\t")
    assert read(text, default="\t", quoting="none")[0] == [
        ["a", "neg"],
        ['"I will go now', "pos"],
        ['and not come back"', "neg"],
    ]
    assert read(text, default="\t", quoting="double")[0] == [
        ["a", "neg"],
        ["I will go now\tpos\nand not come back", "neg"],
    ]


def test_quotes_of_a_tsv_that_cannot_enclose_cells_are_text():
    text = 'text\tlabel\n"Yes" he said\tx\n"open\ty\nan "inner" one\tx\n'
    assert read(text, default="\t") == (
        [['"Yes" he said', "x"], ['"open', "y"], ['an "inner" one', "x"]],
        ("Quotes are read as text.",),
    )


def test_quotes_of_a_tsv_by_excel_enclose_cells():
    text = 'text\tlabel\n"two\nlines"\tx\n"a ""b"" c"\ty\n"tab\there"\tx\n'
    assert read(text, default="\t") == (
        [["two\nlines", "x"], ['a "b" c', "y"], ["tab\there", "x"]],
        (),
    )


def test_a_quotation_over_two_lines_of_a_csv_is_asked_for_where_both_lines_end_in_a_label():
    text = 'text,label\na,pos\nb,neg\n"I will go now,pos\nand not come back",neg\n'
    with pytest.raises(WorkbookError, match=r"t.csv, line 4: a quotation over several lines"):
        read(text)
    accident = 'text,label\na,pos\nb,neg\n"Hello, world\nand all",neg\n'
    assert read(accident)[0][-1] == ["Hello, world\nand all", "neg"]


def test_an_open_quote_of_a_csv_names_the_setting_that_takes_quotes_as_text():
    text = 'text,label\n"Yes" he said,x\n'
    with pytest.raises(
        WorkbookError, match=r"line 2: .*is a quote left open\? \(--set data.quoting=none takes"
    ):
        read(text)
    assert read(text, quoting="none")[0] == [['"Yes" he said', "x"]]
