import random
import unicodedata
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data.duplicates import (
    arrays,
    conflicting_rows,
    exact_duplicates,
    group_ids,
    join,
    near_duplicate_pairs,
    without_rows,
)

MARK = r"[\p{M}\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}]"
ALONE = rf"[[\p{{Han}}\p{{Ideographic}}\p{{Hiragana}}\p{{LB=SA}}]&&[\p{{L}}\p{{N}}]--{MARK}]"
KATAKANA = rf"[\p{{WB=Katakana}}--{MARK}]"
LETTER = rf"[[\p{{L}}\p{{N}}_]--{ALONE}--{KATAKANA}--{MARK}]"
SYMBOL = r"[\p{Sm}\p{Sc}\p{So}%‰]"
ANY = f"[{LETTER}{KATAKANA}{ALONE}{SYMBOL}{MARK}]"
SIGN = f"{SYMBOL}|(?<={ANY})#|(?<![{ANY}--{SYMBOL}])-(?=[0-9])|(?<=[:;]|[:;]-)[()](?!{ANY})"
UNIT = regex.compile(
    rf"(?:{SIGN}|{ALONE}){MARK}*|{LETTER}[{LETTER}{MARK}]*|{KATAKANA}[{KATAKANA}{MARK}]*", regex.V1
)


def units(text):
    return UNIT.findall(text.lower())


def spelling(text):
    """The units of a text, with a blank where they do not touch."""
    spelt, end = "", None
    for unit in UNIT.finditer(text.lower()):
        spelt += " " * (end is not None and unit.start() > end) + unit[0]
        end = unit.end()
    return spelt


def differ_by_one_error(a, b):
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    a, b = a[start:], b[start:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    is_one = {len(a), len(b)} in ({0, 1}, {1}) or (len(a) == 2 and a == b[::-1])
    return is_one and not any(unicodedata.category(c)[0] in "NSP" for c in a + b)


def shingles(text, width):
    words = units(text)
    width = min(width, len(words))
    return (
        frozenset(tuple(words[i : i + width]) for i in range(len(words) - width + 1))
        if words
        else frozenset()
    )


def brute_force(texts, threshold, width):
    """All pairs, one by one, in the form that `near_duplicate_pairs` promises."""
    sets = [shingles(text, width) for text in texts]
    first = [sets.index(s) for s in sets]
    pairs = {(first[i], i): 1.0 for i in range(len(sets)) if first[i] != i and sets[i]}
    for i, j in combinations([i for i in range(len(sets)) if first[i] == i and sets[i]], 2):
        similarity = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
        if similarity >= threshold - 1e-12:
            pairs[i, j] = similarity
    spelt = [spelling(text) for text in texts]
    for i, j in combinations([i for i in range(len(spelt)) if spelt.index(spelt[i]) == i], 2):
        similarity = 1 - 1 / max(len(spelt[i]), len(spelt[j]), 1)
        is_similar = similarity >= threshold - 1e-12 and sets[i] != sets[j]
        if is_similar and differ_by_one_error(spelt[i], spelt[j]):
            pairs[i, j] = max(pairs.get((i, j), 0), similarity)
    return [(i, j, pairs[i, j]) for i, j in sorted(pairs)]


def edited_texts(n, seed):
    """Texts of 0 to 150 words, most of them a slightly edited copy of an earlier one."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(400)]
    texts = []
    for _ in range(n):
        if texts and rng.random() < 0.8:
            copy = rng.choice(texts).split()
            for _ in range(rng.choice([0, 1, 1, 1, 3])):
                place = rng.choice([0, len(copy), rng.randrange(len(copy) + 1)])
                copy[place : place + rng.randrange(2)] = rng.sample(words, rng.randrange(2))
            texts.append(" ".join(copy))
        else:
            texts.append(
                " ".join(rng.choices(words, k=rng.choice([0, 1, 2, 20, 80, 100, 120, 150])))
            )
    return texts


def listed(texts, **options):
    return list(near_duplicate_pairs(texts, **options).itertuples(index=False, name=None))


def grams(n):
    return " ".join(f"w{i}" for i in range(n))


def parts(groups):
    return {frozenset(np.flatnonzero(groups == group).tolist()) for group in groups}


TEMPLATE = [
    f"{grams(59)} own{i}" for i in range(300)
]  # each shares 57 of its 58 shingles with every other


@st.composite
def small_texts(draw):
    """Some texts over four words, and copies of them with a few words put in, taken out or
    replaced."""
    word = st.sampled_from(["a", "B", "c.", "é"])
    texts = draw(st.lists(st.lists(word, max_size=30), min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 6))):
        copy = list(draw(st.sampled_from(texts)))
        for _ in range(draw(st.integers(0, 2))):
            place, width = draw(st.integers(0, len(copy))), draw(st.integers(0, 1))
            copy[place : place + width] = draw(st.lists(word, max_size=1))
        texts.append(copy)
    return [" ".join(words) for words in texts]


def test_the_first_of_equal_texts_stands_for_all():
    assert exact_duplicates(["a", "b", "a", "A", "b", "a", ""]).tolist() == [0, 1, 0, 3, 1, 0, 6]
    assert exact_duplicates([]).tolist() == []


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("threshold", [0.8, 0.95])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_join_finds_what_brute_force_finds(threshold, width, seed):
    texts = edited_texts(200, seed)
    expected = brute_force(texts, threshold, width)
    below_one = [pair for pair in expected if pair[2] < 1]
    assert len(below_one) >= 10, "too few pairs to tell"
    assert len(expected) >= len(below_one) + 10
    found = listed(texts, threshold=threshold, shingle_words=width)
    assert [pair[:2] for pair in found] == [pair[:2] for pair in expected]
    assert [pair[2] for pair in found] == pytest.approx([pair[2] for pair in expected], abs=0)


@pytest.mark.parametrize("threshold", [0.8, 0.95])
def test_the_join_misses_no_pair_of_texts_with_few_words(threshold):
    texts = [
        f"{a} {b} {c}"
        for a in ("x", "x x", "y")
        for b in ("y", "x y x", "")
        for c in ("x", "z", "z z z z")
    ]
    for width in (1, 2, 3):
        assert listed(texts, threshold=threshold, shingle_words=width) == brute_force(
            texts, threshold, width
        )


@given(
    small_texts(), st.sampled_from([0.51, 0.6, 2 / 3, 0.75, 0.8, 0.9, 0.95, 1]), st.integers(1, 4)
)
@settings(max_examples=200, deadline=None)
def test_the_join_finds_what_brute_force_finds_in_texts_of_few_words(texts, threshold, width):
    assert listed(texts, threshold=threshold, shingle_words=width) == brute_force(
        texts, threshold, width
    )


@pytest.mark.parametrize("size", [1, 40, 1000])
def test_texts_are_the_same_in_blocks_of_any_size(monkeypatch, size):
    texts = edited_texts(60, seed=4)
    expected = brute_force(texts, 0.8, 2)
    monkeypatch.setattr(arrays, "BLOCK", size)
    monkeypatch.setattr(arrays, "CELLS", size)
    assert listed(texts, threshold=0.8, shingle_words=2) == expected


def test_units_are_what_the_pattern_for_units_finds():
    """Letters of all alphabets up to Chinese, digits, marks, signs, emoji, blanks; some become two
    letters in lower case."""
    codes = [
        *range(0x3200),
        *range(0x4E00, 0x4E10),
        *range(0xFF00, 0x10000),
        *range(0x1F300, 0x1FB00),
    ]
    for around in ("one{}two", "one {} two", "{}{}", ":{})", "(:-{}(", "{}#{}-1 -2"):
        texts = [around.replace("{}", chr(code)) for code in codes]
        first = {}
        copies = [(first.setdefault(shingles(text, 3), i), i) for i, text in enumerate(texts)]
        copies = [(i, j) for i, j in copies if i != j and units(texts[i])]
        assert [pair[:2] for pair in listed(texts)] == sorted(copies)


@given(st.lists(st.text(st.characters(), max_size=8), max_size=8))
@settings(max_examples=200, deadline=None)
def test_texts_may_hold_any_character(texts):
    assert listed(texts, threshold=0.6, shingle_words=1) == brute_force(texts, 0.6, 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("राम ने दाल खाई", "राम ने दिल खाई"),
        ("I love this film so much 😀", "I love this film so much 😡"),
        ("the whole family 👩\u200d👧", "the whole family 👨\u200d👧"),
        ("I like C#", "I like C++"),
        ("I like C", "I like C#"),
        ("axis=-1", "axis=1"),
        ("it is 5% of all", "it is 5 of all"),
        ("it costs $5", "it costs €5"),
        ("a fine day :)", "a fine day :("),
        ("a fine day :-(", "a fine day"),
        ("a < b", "a > b"),
        ("می\u200cخواهم", "می خواهم"),
        ("他喜欢吃苹果", "他喜欢吃香蕉"),
        ("ฉันไม่ชอบ", "ฉันชอบ"),
        ("version 3.1 of it is out", "version 3.2 of it is out"),
        ("order number 1234567 came", "order number 1234568 came"),
    ],
)
def test_texts_of_different_meaning_are_no_copies(one, other):
    assert listed([one, other]) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello, WORLD! (again)", "hello world again"),
        ("**bold** `code` - text", "bold code text"),
        ("“well-known” facts…", "well known facts"),
        ("你好，世界！", "「你好」世界"),
        ("नमस्ते दुनिया।", "नमस्ते, दुनिया"),
    ],
)
def test_punctuation_and_case_alone_make_no_difference_in_any_script(one, other):
    assert listed([one, other]) == [(0, 1, 1.0)]


CHINESE = "我们今天一起去看了一部非常好看的电影然后在附近的餐厅吃了晚饭大家都"
CHINESE += "觉得很开心最后坐地铁回家休息准备明天继续上班努力学习呢"


def test_a_chinese_copy_with_one_other_character_is_found():
    assert len(CHINESE) == 60
    for place in range(60):
        copy = CHINESE[:place] + "错" + CHINESE[place + 1 :]
        assert listed([CHINESE, copy]) == [(0, 1, 59 / 60)]


@pytest.mark.parametrize(
    "copy",
    [
        "the quick brown fox jumpt",  # replaced
        "thee quick brown fox jumps",  # put in
        "the quick brown fx jumps",  # left out
        "the quick borwn fox jumps",  # exchanged with the next
        "the quickbrown fox jumps",
        "the quick bro wn fox jumps",
        "The qick, brown FOX; jumps!",
        "theq uick brown fox jumps",
    ],
)
def test_one_typing_error_makes_a_copy(copy):
    text = "the quick brown fox jumps"
    longest = max(len(text), len(spelling(copy)))
    assert listed([text, copy]) == [(0, 1, 1 - 1 / longest)]


def test_a_typing_error_makes_a_copy_of_twenty_characters_or_more():
    assert listed(["x" * 20, "x" * 19 + "y", "x" * 18 + "z"]) == [(0, 1, 0.95)]
    assert listed(["x" * 20, "x" * 19]) == [(0, 1, 0.95)]
    assert listed(["x" * 19, "x" * 18 + "y"]) == []
    assert listed(["xyz", "xyy"], threshold=0.6) == [(0, 1, 1 - 1 / 3)]
    assert listed(["x" * 20, "x" * 19 + "y"], threshold=1) == []


def test_a_typing_error_makes_a_copy_of_up_to_two_thousand_characters():
    texts = [f"{'a' * n} {'b' * 999}" for n in (1_000, 1_001)]
    copies = [text.replace("ba", "bc").replace("a b", "a c") for text in texts]
    assert [len(text) for text in texts] == [2_000, 2_001]
    assert listed([texts[0], copies[0]]) == [(0, 1, 1 - 1 / 2_000)]
    assert listed([texts[1], copies[1]]) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a word that is typed well", "a word that it typed wel"),  # two errors
        ("a word that is typed well", "a word taht is typde well"),
        ("a word that is typed well", "a word that typed is well"),
        ("room 17 is on this floor", "room 71 is on this floor"),
        ("room 1 is on this floor", "room is on this floor"),
        ("I love this film so much 😀", "I love this film so much"),
    ],
)
def test_more_than_an_error_is_no_copy_nor_is_another_number_or_sign(one, other):
    assert listed([one, other]) == []


@st.composite
def mistyped_texts(draw):
    """Texts over few characters, and copies of them with characters put in, left out, replaced or
    exchanged."""
    letters = draw(
        st.sampled_from(["ab ", "abc d", "a1😀#+-", "天地人 a", "กเ่า ", "e\u0301\u0300a"])
    )
    texts = draw(st.lists(st.text(letters, min_size=1, max_size=25), min_size=1, max_size=4))
    for _ in range(draw(st.integers(0, 8))):
        copy = list(draw(st.sampled_from(texts)))
        for _ in range(draw(st.integers(0, 2))):
            place, width = draw(st.integers(0, len(copy))), draw(st.integers(0, 2))
            if width == 2:
                copy[place : place + 2] = copy[place : place + 2][::-1]
            else:
                copy[place : place + width] = draw(st.text(letters, max_size=1))
        texts.append("".join(copy))
    return texts


@given(mistyped_texts(), st.sampled_from([0.51, 0.6, 0.8, 0.9, 0.95]), st.integers(1, 3))
@settings(max_examples=150, deadline=None)
def test_the_search_for_typing_errors_finds_what_brute_force_finds(texts, threshold, width):
    found = listed(texts, threshold=threshold, shingle_words=width)
    assert found == brute_force(texts, threshold, width)


CODES = [f"the parcel with the code {a}{b} has come" for a in "abcdefghij" for b in "klmnopqrst"]


def test_all_texts_that_are_a_typing_error_apart_are_listed_up_to_a_cap(monkeypatch):
    """Ten with each first letter of the code, ten with each second: 2 * 10 * 45 pairs."""
    assert len(listed(CODES)) == 900 == len(brute_force(CODES, 0.95, 3))
    assert len(listed(CODES, max_pairs=900)) == 900
    monkeypatch.setattr(arrays, "CELLS", 1)
    assert 99 <= len(listed(CODES, max_pairs=0)) <= 110
    for max_pairs in (0, 1, 50):
        pairs = near_duplicate_pairs(CODES, max_pairs=max_pairs)
        assert len(parts(group_ids(100, pairs))) == 1
        assert set(pairs.itertuples(index=False, name=None)) <= set(listed(CODES))


def test_half_a_surrogate_pair_parts_words_like_any_sign():
    assert listed(["one \ud800 two", "one two", "one\udfff two"]) == [(0, 1, 1.0), (0, 2, 1.0)]


def test_a_pair_on_the_threshold_counts_and_one_below_does_not():
    for n, threshold in ((20, 0.95), (5, 0.8), (10, 0.9), (4, 0.75)):
        texts = [grams(n), grams(n - 1)]
        assert listed(texts, threshold=threshold, shingle_words=1) == [(0, 1, (n - 1) / n)]
        assert listed(texts, threshold=threshold + 1e-6, shingle_words=1) == []


@pytest.mark.parametrize("n", range(3, 200, 7))
def test_rounding_loses_no_pair_on_the_threshold(n):
    """One word put in at the end, and one replaced there: similarities of (n - 1) / n and (n - 1) /
    (n + 1)."""
    shorter, replaced = grams(n - 1), f"{grams(n - 1)} other"
    assert (0, 1, (n - 1) / n) in listed(
        [shorter, grams(n)], threshold=(n - 1) / n, shingle_words=1
    )
    if (n - 1) / (n + 1) > 0.5:
        assert listed([replaced, grams(n)], threshold=(n - 1) / (n + 1), shingle_words=1) == [
            (0, 1, (n - 1) / (n + 1))
        ]
        assert (
            listed([replaced, grams(n)], threshold=(n - 1) / (n + 1) + 1e-6, shingle_words=1) == []
        )


def test_similarity_is_the_jaccard_index_of_the_shingles():
    texts = ["one two three four five", "one two three four six"]
    assert listed(texts, threshold=0.51, shingle_words=1) == [(0, 1, 4 / 6)]
    assert listed(texts, threshold=0.51, shingle_words=2) == [(0, 1, 3 / 5)]
    assert listed(texts, threshold=0.51, shingle_words=3) == []


def test_case_and_punctuation_do_not_tell_texts_apart():
    assert listed(["Hello, World! Again?", "hello world   again", "(HELLO) world: again..."]) == [
        (0, 1, 1.0),
        (0, 2, 1.0),
    ]


def test_the_order_of_words_does():
    assert listed(["one two three four", "four three two one"], threshold=0.51) == []


def test_a_text_with_fewer_words_than_a_shingle_is_one_shingle():
    assert listed(["hello world", "Hello world!", "hello", "hello world again", "world hello"]) == [
        (0, 1, 1.0)
    ]


def test_a_text_without_words_is_never_paired():
    assert listed(["", "", "...", "!!!", "a b c", "a b c"]) == [(4, 5, 1.0)]


def test_identical_texts_form_a_star_about_the_first():
    same, near = grams(40), grams(39)
    texts = [near, same, "something else entirely", same, same]
    assert listed(texts, threshold=0.95, shingle_words=1) == [
        (0, 1, 39 / 40),
        (1, 3, 1.0),
        (1, 4, 1.0),
    ]


def test_many_identical_texts_are_one_star():
    assert listed(["a text", *["One, two; THREE."] * 20_000]) == [
        (1, i, 1.0) for i in range(2, 20_001)
    ]


def test_all_pairs_of_texts_that_are_near_copies_of_one_another_are_listed_up_to_a_cap():
    assert listed(TEMPLATE) == [(i, j, 57 / 59) for i, j in combinations(range(300), 2)]
    assert len(listed(TEMPLATE, max_pairs=300 * 299 // 2)) == 300 * 299 // 2
    assert listed(TEMPLATE, threshold=0.97) == []


def test_past_the_cap_only_pairs_that_join_groups_are_added(monkeypatch):
    monkeypatch.setattr(
        arrays, "CELLS", 1
    )  # one text at a time: the first is paired with all others
    assert listed(TEMPLATE, max_pairs=299) == [(0, j, 57 / 59) for j in range(1, 300)]
    others = [text.replace("w", "v") for text in TEMPLATE]
    mixed = [text for pair in zip(TEMPLATE, others) for text in pair]
    assert parts(group_ids(600, near_duplicate_pairs(mixed, max_pairs=10))) == {
        frozenset(range(0, 600, 2)),
        frozenset(range(1, 600, 2)),
    }


def test_texts_of_one_template_are_not_all_compared(monkeypatch):
    compared = []
    exact = join._similarities
    monkeypatch.setattr(
        join, "_similarities", lambda sets, a, b: compared.append(len(a)) or exact(sets, a, b)
    )
    monkeypatch.setattr(arrays, "CELLS", 1)
    assert listed([f"{grams(50)} own{i} {grams(49).replace('w', 'v')}" for i in range(300)]) == []
    assert sum(compared) == 0, "the rarest shingles, their own, rule all pairs out"
    near_duplicate_pairs(TEMPLATE, max_pairs=1)
    assert sum(compared) == 299, "the first text joins all; no pair is left that would join more"


@pytest.mark.parametrize("cells", [1, 2_000, 1 << 22])
@pytest.mark.parametrize("max_pairs", [0, 1, 40])
def test_groups_do_not_depend_on_the_cap(monkeypatch, max_pairs, cells):
    texts = edited_texts(200, seed=5)
    everything = listed(texts, threshold=0.7)
    groups = group_ids(200, near_duplicate_pairs(texts, threshold=0.7))
    n_same = sum(similarity == 1 for _, _, similarity in everything)
    assert len(everything) - n_same > 300, "too few pairs to tell"
    monkeypatch.setattr(arrays, "CELLS", cells)
    pairs = near_duplicate_pairs(texts, threshold=0.7, max_pairs=max_pairs)
    assert set(pairs.itertuples(index=False, name=None)) <= set(everything)
    assert parts(group_ids(200, pairs)) == parts(groups)
    if max_pairs == 0:
        assert len(pairs) == 200 - len(parts(groups)), "a pair too many for a forest"


def test_repeated_words_count_once():
    assert listed(["a b c a b c a b c", "a b c a b c"]) == [(0, 1, 1.0)]


def test_nothing_has_no_pairs():
    for texts in ([], ["a text alone"], [""]):
        pairs = near_duplicate_pairs(texts)
        assert pairs.to_dict("list") == {"i": [], "j": [], "similarity": []}
        assert pairs.dtypes.astype(str).tolist() == ["int64", "int64", "float64"]


@pytest.mark.parametrize("threshold", [0.5, 0, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"threshold must be in \(0.5, 1\], got {threshold}"):
        near_duplicate_pairs(["a", "b"], threshold=threshold)


def test_a_shingle_of_no_words_is_refused():
    with pytest.raises(ValueError, match="shingle_words must be at least 1, got 0"):
        near_duplicate_pairs(["a", "b"], shingle_words=0)


def test_the_pairs_do_not_depend_on_the_order_of_the_texts():
    texts = edited_texts(80, seed=3)
    groups = Counter(
        frozenset(np.flatnonzero(g == k))
        for g in [group_ids(80, near_duplicate_pairs(texts, threshold=0.8))]
        for k in set(g)
    )
    order = np.random.default_rng(0).permutation(80)
    shuffled = group_ids(80, near_duplicate_pairs([texts[i] for i in order], threshold=0.8))
    assert Counter(frozenset(order[shuffled == k]) for k in set(shuffled)) == groups


def test_rows_joined_by_a_chain_share_a_group():
    pairs = pd.DataFrame({"i": [0, 2, 5], "j": [2, 4, 6]})
    groups = group_ids(8, pairs)
    assert [set(np.flatnonzero(groups == groups[i])) for i in range(8)] == [
        {0, 2, 4},
        {1},
        {0, 2, 4},
        {3},
        {0, 2, 4},
        {5, 6},
        {5, 6},
        {7},
    ]


def test_without_pairs_every_row_is_its_own_group():
    assert sorted(group_ids(4, near_duplicate_pairs([]))) == [0, 1, 2, 3]


def test_rows_of_groups_with_several_labels_conflict():
    labels = ["a", "a", "b", "b", "c", "c", "a"]
    groups = np.array([0, 1, 0, 2, 3, 3, 1])
    assert conflicting_rows(labels, groups).tolist() == [0, 2]
    assert conflicting_rows(labels, np.zeros(7, dtype=int)).tolist() == list(range(7))
    assert conflicting_rows(labels, np.arange(7)).tolist() == []


def test_rows_that_go_take_their_pairs_with_them_and_the_others_are_numbered_anew():
    rows = pd.DataFrame({"row_id": [10, 11, 12, 13, 14]})
    pairs = pd.DataFrame({"i": [0, 1, 2], "j": [1, 4, 4], "similarity": [1.0, 0.97, 0.96]})
    left, between = without_rows(rows, pairs, [True, False, False, True, False])
    assert left["row_id"].tolist() == [11, 12, 14]
    assert between.values.tolist() == [[0, 2, 0.97], [1, 2, 0.96]]
    assert between["i"].dtype == "int64"
    assert without_rows(rows, pairs, [False] * 5)[1].equals(pairs)
