"""Encodings are told from the bytes, with a word on how sure that is."""

import pytest

from lib.data.formats import encodings
from lib.data.formats.encodings import decode, tell_encoding
from lib.errors import WorkbookError

# what a table of one label and one sentence a row has, in the language of each encoding
SENTENCES = {
    "cp1251": ["Сегодня утром в парке играли дети", "Новый закон был принят вчера вечером"],
    "koi8-r": ["Сегодня утром в парке играли дети", "Новый закон был принят вчера вечером"],
    "gb18030": ["这部电影真的非常好看推荐给大家", "今天的股票市场下跌了很多"],
    "cp932": ["この映画はとても面白かったです", "今日の株式市場は大きく下落しました"],
    "euc_kr": ["이 영화는 정말 재미있었습니다", "오늘 주식 시장이 크게 하락했습니다"],
    "iso8859-7": ["Η ταινία αυτή ήταν πολύ καλή", "Η κυβέρνηση ψήφισε χθες τον νόμο"],
    "cp1250": ["Zażółć gęślą jaźń, powiedział łoś", "Wczoraj przyjęto nową ustawę, która łączy"],
    "cp1252": ["Der Käufer fällt über die Größe", "Un café très agréable à l'été"],
}


def table_of(sentences, encoding, *, n=20):
    rows = [f"{sentences[i % len(sentences)]},{'news' if i % 2 else 'sport'}\n" for i in range(n)]
    return "".join(["text,label\n", *rows]).encode(encoding)


@pytest.mark.parametrize("encoding", SENTENCES)
def test_the_encoding_of_twenty_rows_is_told_and_said(encoding):
    content = table_of(SENTENCES[encoding], encoding)
    told = tell_encoding(content, name="t.csv")
    assert decode(content, name="t.csv") == content.decode(encoding)
    assert told.note.startswith(f"Read as {told.name}, as its bytes suggest")
    assert told.note.endswith("Another is named with data.encoding.")


@pytest.mark.parametrize("encoding", ["cp1251", "gb18030", "cp932", "iso8859-7"])
def test_one_row_among_a_thousand_in_english_is_enough_for_another_script(encoding):
    english = b"a plain text about nothing at all,news\n" * 1_000
    content = english + SENTENCES[encoding][0].encode(encoding) + b",news\n" + english
    assert decode(content, name="t.csv") == content.decode(encoding)


@pytest.mark.parametrize("odd", ["don’t", "café", "“quoted”", "€ 5 – £ 6", "naïve São Paulo"])
def test_a_few_characters_among_english_are_read_as_cp1252(odd):
    content = f"text,label\nsome words,x\nhere is {odd} to read,y\n".encode("cp1252")
    told = tell_encoding(content, name="t.csv")
    assert told.name == "cp1252"
    assert told.note == "Read as cp1252: too few characters beyond ASCII to be sure."


def test_an_encoding_that_is_not_sure_is_asked_for_with_the_candidates(monkeypatch):
    content = table_of(SENTENCES["cp1250"], "cp1250")
    monkeypatch.setattr(encodings, "_scores", lambda sample: {"cp1250": 0.4, "iso8859-2": 0.399})
    with pytest.raises(
        WorkbookError,
        match=r"^t.csv: not UTF-8, and its encoding cannot be told for sure \(cp1250 or "
        r"iso8859-2\?\); name it with --set data.encoding=...$",
    ):
        tell_encoding(content, name="t.csv")


def test_utf8_needs_no_word():
    assert tell_encoding("Größe".encode(), name="t").note == ""


def test_lines_late_in_a_large_file_count():
    content = b"plain,x\n" * 100_000 + table_of(SENTENCES["cp1251"], "cp1251")
    assert tell_encoding(content, name="t").name == "cp1251"
