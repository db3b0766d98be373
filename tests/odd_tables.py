"""Some fifty odd files and folders of labelled texts, each with what is expected of it.

`write_all` writes them below a folder. The tests import each; `benchmarks/odd_tables.py` takes each
through the whole chain.
"""

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
from five_topics import topic_table

KINDS = ("red", "blue")


@dataclass(frozen=True)
class OddTable:
    """A source, and what is expected of it.

    Attributes
    ----------
    n_rows, n_classes : of the imported table, where it is read
    first_text : of that table, where it is known
    refused : pattern of the line that refuses it; "" where it is read
    settings : dotted settings that it is read with
    may_stop : whether the chain may refuse it later, in a line, since cleaning empties it
    """

    name: str
    path: Path
    n_rows: int = 0
    n_classes: int = 0
    first_text: str = ""
    refused: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    may_stop: bool = False


CASES: list[Callable[[Path], OddTable]] = []


def case(write: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    """Register a function that writes a source into a folder and returns what is expected of it."""

    def make(folder: Path) -> OddTable:
        place = folder / write.__name__
        place.mkdir(parents=True)
        return OddTable(write.__name__, **write(place))

    make.__name__ = write.__name__
    CASES.append(make)
    return write


def write_all(folder: Path) -> list[OddTable]:
    """Write all sources below a folder, each in one of its own."""
    return [make(folder) for make in CASES]


def rows(n: int = 60, kinds: Iterable[str] = KINDS) -> list[tuple[str, str]]:
    """Return n texts in English, whose classes take turns."""
    kinds = list(kinds)
    rng = np.random.default_rng(0)
    words = [
        [f"{chr(97 + i % 26)}{'aeiou'[j]}{chr(98 + i % 20)}" for j in range(5)]
        for i in range(len(kinds))
    ]
    table = []
    for i in range(n):
        kind = i % len(kinds)
        drawn = " ".join(rng.choice(words[kind], 4))
        table.append(
            (f"text number {i * 7} is about {drawn} and about the number {i}", kinds[kind])
        )
    return table


def as_csv(
    table: Iterable[Iterable[str]], *, delimiter: str = ",", header=("text", "label")
) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, lineterminator="\n").writerows([header, *table])
    return buffer.getvalue()


def as_records(table: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"text": text, "label": label} for text, label in table]


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(path: Path, n_rows: int = 60, n_classes: int = 2, **more: Any) -> dict[str, Any]:
    return {"path": path, "n_rows": n_rows, "n_classes": n_classes, **more}


def refused(path: Path, pattern: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "refused": pattern, **more}


# --- delimiters and quotes ---

QUOTATION = '"I will go now\tred\nand not come back"\tblue\n'


@case
def tsv_quotation_over_two_lines(folder):
    path = put(folder / "t.tsv", as_csv(rows(), delimiter="\t") + QUOTATION)
    return refused(path, r"line 62: a quotation over several lines.*data\.quoting=double.*none")


@case
def tsv_quotation_as_text(folder):
    path = put(folder / "t.tsv", as_csv(rows(), delimiter="\t") + QUOTATION)
    return read(path, 62, settings={"data.quoting": "none"})


@case
def tsv_with_loose_quotes(folder):
    loose = [f'"{text.upper()}" they said and left\t{kind}\n' for text, kind in rows()]
    path = put(folder / "t.tsv", "text\tlabel\n" + "".join(loose))
    return read(path, first_text=f'"{rows()[0][0].upper()}" they said and left')


@case
def tsv_by_excel(folder):
    table = [(f'{text}\nwith a\ttab and a "quote"', kind) for text, kind in rows()]
    path = put(folder / "t.tsv", as_csv(table, delimiter="\t"))
    return read(path, first_text=table[0][0])


@case
def csv_with_semicolons(folder):
    table = [(f"{text}, with a comma", kind) for text, kind in rows()]
    path = put(folder / "t.csv", as_csv(table, delimiter=";"))
    return read(path, first_text=table[0][0])


@case
def csv_with_tabs(folder):
    return read(put(folder / "t.csv", as_csv(rows(), delimiter="\t")))


@case
def csv_with_pipes(folder):
    return read(put(folder / "t.csv", as_csv(rows(), delimiter="|")))


@case
def csv_with_the_line_of_excel(folder):
    text = "sep=;\r\n" + as_csv(rows(), delimiter=";").replace("\n", "\r\n")
    return read(put(folder / "t.csv", text.encode("utf-8-sig")), first_text=rows()[0][0])


@case
def csv_with_backslashes(folder):
    lines = [f'"{text}, \\"quoted\\" so",{kind}\n' for text, kind in rows()]
    path = put(folder / "t.csv", "text,label\n" + "".join(lines))
    return read(path, first_text=f'{rows()[0][0]}, "quoted" so')


@case
def csv_with_an_open_quote(folder):
    path = put(folder / "t.csv", as_csv(rows()) + '"left open,red\n')
    return refused(path, r"line 62: .*is a quote left open\? \(--set data\.quoting=none")


@case
def csv_with_a_ragged_row(folder):
    path = put(folder / "t.csv", as_csv(rows()) + "one, two, three,red\n")
    return refused(path, r"line 62: 4 cells where the header has 2; quote cells")


@case
def csv_with_a_thousand_columns(folder):
    header = [f"a column with a rather long name and the number {i}" for i in range(1_000)]
    path = put(folder / "t.csv", as_csv([["x"] * 1_000] * 60, header=header))
    return refused(path, r"no column 'text'; it has .* more: name it with --text-column")


# --- encodings ---

WORDS = {
    "ru": "матч гол тренер игрок закон выборы министр бюджет",
    "el": "αγώνας γκολ προπονητής παίκτης νόμος εκλογές υπουργός βουλή",
    "zh": "比赛 进球 教练 球员 法律 选举 部长 预算",
    "ja": "試合 ゴール 監督 選手 法律 選挙 大臣 予算",
    "hi": "मैच गोल कोच खिलाड़ी कानून चुनाव मंत्री बजट",
    "fr": "été côté arrêt équipe élection préfet député budget",
}
FRAMES = {
    "ru": "Сегодня вечером {} и ещё {} были в центре внимания номер {}",
    "el": "Σήμερα το βράδυ {} και επίσης {} ήταν στο επίκεντρο αριθμός {}",
    "zh": "今天晚上{}和{}成为了大家关注的焦点第{}号",
    "ja": "今夜は{}と{}が大きな話題になりました第{}号",
    "hi": "आज शाम {} और {} चर्चा के केंद्र में रहे संख्या {}",
    "fr": "Hier soir {} et {} étaient au cœur du débat numéro {}",
}


def rows_in(language: str, n: int = 60) -> list[tuple[str, str]]:
    """Return n texts of two topics in a language, whose labels are in English."""
    words = WORDS[language].split()
    rng = np.random.default_rng(0)
    table = []
    for i in range(n):
        topic = i % 2
        drawn = rng.choice(words[topic * 4 : topic * 4 + 4], 2, replace=False)
        table.append((FRAMES[language].format(*drawn, i), ("sport", "politics")[topic]))
    return table


def in_encoding(folder: Path, language: str, encoding: str) -> dict[str, Any]:
    table = rows_in(language)
    path = put(folder / "t.csv", as_csv(table).encode(encoding))
    return read(path, first_text=table[0][0])


@case
def russian_in_cp1251(folder):
    return in_encoding(folder, "ru", "cp1251")


@case
def chinese_in_gb18030(folder):
    return in_encoding(folder, "zh", "gb18030")


@case
def japanese_in_shift_jis(folder):
    return in_encoding(folder, "ja", "cp932")


@case
def greek_in_iso8859_7(folder):
    return in_encoding(folder, "el", "iso8859-7")


@case
def french_in_cp1252(folder):
    return in_encoding(folder, "fr", "cp1252")


@case
def hindi_in_utf16(folder):
    return in_encoding(folder, "hi", "utf-16")


@case
def utf8_with_a_broken_line(folder):
    content = as_csv(rows_in("fr")).encode() + b"un caf\xe9,sport\n"
    return refused(put(folder / "t.csv", content), r"line 62: byte \d+ is 0xe9, which is invalid")


@case
def bytes_that_are_no_text(folder):
    return refused(put(folder / "t.csv", as_csv(rows()) + "a\0b,red\n"), r"line 62: a NUL byte")


# --- times ---


def with_days(folder: Path, days: Iterable[str]) -> Path:
    table = [(*row, day) for row, day in zip(rows(), days)]
    return put(folder / "t.csv", as_csv(table, header=("text", "label", "day")))


BY_DAY = {"data.time_column": "day"}


@case
def days_before_months(folder):
    days = [f"{i % 28 + 1:02}/{i // 28 + 3:02}/2023" for i in range(60)]
    return read(with_days(folder, days), settings=BY_DAY)


@case
def days_that_disagree(folder):
    path = with_days(folder, ["13/03/2023", *["03/14/2023"] * 59])
    return refused(path, r"row 1 has '13/03/2023'.*row 2 has '03/14/2023'", settings=BY_DAY)


@case
def days_that_may_be_months(folder):
    path = with_days(folder, ["05/03/2023"] * 60)
    return refused(path, r"no row shows whether the day or the month is first", settings=BY_DAY)


# --- cells that are no text ---


@case
def json_with_several_labels(folder):
    records = [{"text": text, "label": [kind, "both"]} for text, kind in rows()]
    path = put(folder / "t.json", json.dumps(records))
    return refused(path, r"column 'label': row 1 has .*several are not this workbook's task")


@case
def jsonl_with_texts_in_two_languages(folder):
    lines = [json.dumps({"text": {"en": text}, "label": kind}) for text, kind in rows()]
    path = put(folder / "t.jsonl", "\n".join(lines))
    return refused(path, r"column 'text': row 1 has .* \(dict\); give one text a row")


@case
def parquet_with_bytes(folder):
    frame = pd.DataFrame(rows(), columns=["text", "label"])
    frame["text"] = frame["text"].str.encode("utf-8")
    frame.to_parquet(folder / "t.parquet")
    return refused(folder / "t.parquet", r"column 'text': row 1 has .* \(bytes\); give one text")


# --- forms of JSON ---


@case
def json_by_column(folder):
    frame = pd.DataFrame(rows(), columns=["text", "label"])
    return read(put(folder / "t.json", frame.to_json()))


@case
def json_by_index(folder):
    frame = pd.DataFrame(rows(), columns=["text", "label"])
    return read(put(folder / "t.json", frame.to_json(orient="index")))


@case
def json_of_ten_thousand_keys(folder):
    value = {f"a key with the number {i}": i for i in range(10_000)}
    path = put(folder / "t.json", json.dumps(value | {"more": []}))
    return refused(path, r"one object with the keys .* more; a table is a list of objects")


# --- folders ---


def in_class_folders(folder: Path, table: Iterable[tuple[str, str]], ending: str = "") -> None:
    for i, (text, kind) in enumerate(table):
        put(folder / kind / f"{i}{ending}.txt", text)


@case
def folder_of_splits(folder):
    in_class_folders(folder / "train", rows(80))
    in_class_folders(folder / "test", rows(100)[80:])
    put(folder / "train" / "unsup" / "0.txt", "a text without a label")
    put(folder / "imdb.vocab", "the and a of")
    return read(folder, 100)


@case
def folder_of_splits_without_classes(folder):
    for split in ("train", "test"):
        in_class_folders(folder, [(text, split) for text, _ in rows()])
    return refused(folder, r"'test', 'train' are names of splits, and hold texts, but no class")


@case
def folder_with_files_of_the_system(folder):
    in_class_folders(folder, rows(), ending="x" * 114)
    put(folder / "red" / "Thumbs.db", b"\0\1" * 3_000)
    put(folder / "blue" / "picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    return read(folder)


@case
def folder_of_parquet(folder):
    for part in range(2):
        frame = pd.DataFrame(rows()[30 * part : 30 * part + 30], columns=["text", "label"])
        frame.to_parquet(folder / f"part-{part:05}.parquet")
    put(folder / "_SUCCESS", "")
    return read(folder)


@case
def folder_that_was_saved(folder):
    names = datasets.ClassLabel(names=list(KINDS))
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    columns = {"text": [text for text, _ in rows()], "label": [i % 2 for i in range(60)]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(folder / "saved")
    return read(folder / "saved")


@case
def folder_of_splits_that_were_saved(folder):
    parts = {"train": rows(80), "test": rows(100)[80:]}
    tables = {name: datasets.Dataset.from_list(as_records(part)) for name, part in parts.items()}
    datasets.DatasetDict(tables).save_to_disk(folder / "saved")
    return read(folder / "saved", 100)


# --- groups ---


@case
def authors(folder):
    table = [(*row, f"author {i // 4}") for i, row in enumerate(rows(120))]
    path = put(folder / "t.csv", as_csv(table, header=("text", "label", "author")))
    return read(path, 120, settings={"data.group_column": "author"})


@case
def authors_in_two_splits(folder):
    table = [(*row, ("train", "test")[i % 2], f"author {i // 4}") for i, row in enumerate(rows())]
    path = put(folder / "t.csv", as_csv(table, header=("text", "label", "part", "author")))
    settings = {"data.group_column": "author", "data.split_column": "part"}
    return refused(path, r"15 of 15 groups .* have rows in two of the splits", settings=settings)


# --- places ---


@case
def link_without_an_ending(folder):
    put(folder / "table.csv.gz", gzip.compress(as_csv(rows()).encode()))
    (folder / "data").symlink_to(folder / "table.csv.gz")
    return read(folder / "data")


@case
def link_to_a_blob(folder):
    put(folder / "blobs" / "0a1b2c", as_csv(rows()))
    (folder / "table.csv").symlink_to(folder / "blobs" / "0a1b2c")
    return read(folder / "table.csv")


@case
def blob_of_parquet(folder):
    pd.DataFrame(rows(), columns=["text", "label"]).to_parquet(folder / "0a1b2c")
    return read(folder / "0a1b2c")


@case
def name_that_is_not_utf8(folder):
    path = folder / os.fsdecode(b"caf\xe9.csv")
    return refused(put(path, as_csv(rows())), "the name is not UTF-8; rename it")


# --- scripts and odd texts ---


def of_five_topics(folder: Path, script: str) -> dict[str, Any]:
    table = topic_table(script, 150)
    pairs = zip(table["text"], table["label"])
    return read(put(folder / "t.csv", as_csv(pairs)), 150, 5)


@case
def chinese(folder):
    return of_five_topics(folder, "chinese")


@case
def japanese(folder):
    return of_five_topics(folder, "japanese")


@case
def thai(folder):
    return of_five_topics(folder, "thai")


@case
def hindi(folder):
    return of_five_topics(folder, "hindi")


@case
def arabic(folder):
    return of_five_topics(folder, "arabic")


@case
def emoji_alone(folder):
    faces = [chr(0x1F600 + i) for i in range(60)]
    table = [(f"{faces[i]} {faces[59 - i]} 😀", KINDS[i % 2]) for i in range(60)]
    return read(put(folder / "t.csv", as_csv(table)), may_stop=True)


@case
def single_letters(folder):
    table = [(chr(97 + i % 26), KINDS[i % 2]) for i in range(60)]
    return read(put(folder / "t.csv", as_csv(table)), may_stop=True)


@case
def code_and_addresses(folder):
    pieces = (
        "if (a <b && c> d) return C++;",
        "请看 https://example.com/abc。然后",
        "x@foo.example C#",
    )
    table = [(f"{text} {pieces[i % 3]}", kind) for i, (text, kind) in enumerate(rows())]
    return read(put(folder / "t.csv", as_csv(table)))


# --- labels and sizes ---


@case
def class_that_is_called_all(folder):
    return read(put(folder / "t.csv", as_csv(rows(kinds=("All", "neg ")))))


@case
def classes_of_any_name(folder):
    names = [
        "index",
        "count",
        "text",
        "label",
        "p: x",
        "nan",
        "_x",
        "x" * 200,
        "two\nlines",
        "数学",
    ]
    return read(put(folder / "t.csv", as_csv(rows(200, names))), 200, 10)


@case
def classes_that_differ_in_blanks(folder):
    path = put(folder / "t.csv", as_csv(rows(kinds=("neg", "neg "))))
    return refused(path, r"differ in case or blanks alone: .*data\.merge_labels=true")


def of_sizes(folder: Path, *sizes: int) -> dict[str, Any]:
    names = [f"kind {i}" for i in range(len(sizes))]
    table: list[tuple[str, str]] = []
    for row in rows(max(sizes) * len(sizes), names):
        place = names.index(row[1])
        if sum(kind == row[1] for _, kind in table) < sizes[place]:
            table.append(row)
    return read(put(folder / "t.csv", as_csv(table)), sum(sizes), len(sizes))


@case
def two_classes_of_9(folder):
    return of_sizes(folder, 9, 9)


@case
def six_classes_of_10(folder):
    return of_sizes(folder, *[10] * 6)


@case
def fourteen_classes_of_24(folder):
    return of_sizes(folder, *[24] * 14)


@case
def classes_of_1500_and_9(folder):
    return of_sizes(folder, 1_500, 9)


@case
def classes_of_30_and_5(folder):
    answer = of_sizes(folder, 30, 5)
    return refused(answer["path"], r"fewer than the \d rows that three splits .*'kind 1' \(5\)")


@case
def one_hundred_and_fifty_classes(folder):
    return of_sizes(folder, *[12] * 150)
