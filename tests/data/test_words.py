import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.data import words as module
from lib.data.words import (
    EXTENDING,
    KATAKANA,
    LETTER,
    SEPARATOR,
    SYMBOL,
    UNSPACED,
    character_kinds,
    count_words,
    has_unspaced,
    runs,
    words,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Don't stop, C3PO_x!", ["Don", "t", "stop", "C3PO_x"]),
        ("Größe naïve ½ x²", ["Größe", "naïve", "½", "x²"]),
        ("राम ने दाल खाई।", ["राम", "ने", "दाल", "खाई"]),
        ("cafe\u0301 cre\u0300me", ["cafe\u0301", "cre\u0300me"]),
        ("می\u200cخواهم بروم", ["می\u200cخواهم", "بروم"]),
        ("这部电影，好看", ["这", "部", "电", "影", "好", "看"]),
        ("すごい東京タワー々", ["す", "ご", "い", "東", "京", "タワー", "々"]),
        ("AKB48グループ", ["AKB48", "グループ"]),
        ("ที่นี่ดี", ["ที่", "นี่", "ดี"]),
        ("ក្រុង", ["ក្", "រុ", "ង"]),
        ("데이터 분석을", ["데이터", "분석을"]),
        ("\u0301 😀 + -- ₹", []),
    ],
)
def test_words_are_runs_of_letters_with_their_marks_or_characters_without_blanks(text, found):
    assert words(text) == found


@given(st.text(st.characters(max_codepoint=0x2FF)))
def test_words_of_latin_texts_are_what_the_plain_pattern_finds(text):
    assert words(text) == runs(text) == re.findall(r"\w+", text)


@given(st.text(st.sampled_from("a_1É中あアーกิ่\u0301\u200d😀+- 한")))
def test_runs_are_words_that_only_scripts_without_blanks_join(text):
    assert [word for run in runs(text) for word in words(run)] == words(text)


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("well-known - facts", 3),
        ("", 0),
        ("😀 😀😀", 2),
        ("राम ने", 2),
        ("这部电影真的非常好看推荐", 12),
        ("这个 app 很好，good!", 6),
        ("データ分析", 3),
    ],
)
def test_a_run_without_blanks_counts_its_characters_where_its_script_has_none(text, n):
    assert count_words(text) == n


def test_kinds_of_characters():
    kinds = dict(zip("a1_é한ア中あก", [LETTER] * 5 + [KATAKANA] + [UNSPACED] * 3))
    kinds |= dict(zip(" .,-#`^", [SEPARATOR] * 7)) | dict(zip("+<€😀%", [SYMBOL] * 5))
    kinds |= dict(zip("\u0301\u093f\u0e31\u200d🏽", [EXTENDING] * 5))
    assert {letter: character_kinds()[ord(letter)] for letter in kinds} == kinds


def test_what_counts_as_plain_has_no_character_that_needs_more_than_the_plain_pattern():
    special = np.flatnonzero(np.isin(character_kinds(), (KATAKANA, UNSPACED, EXTENDING)))
    assert len(special) > 100_000
    assert not any(map(module._PLAIN.fullmatch, map(chr, special.tolist())))
    assert not has_unspaced("Größe 한국어 हिन्दी カタカナ") and has_unspaced("a中")
