import random
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import duplicates
from lib.data.duplicates import (
    conflicting_rows,
    exact_duplicates,
    group_ids,
    near_duplicate_pairs,
    without_rows,
)


def shingles(text, width):
    words = re.findall(r"\w+", text.lower())
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
    monkeypatch.setattr(duplicates, "_BLOCK", size)
    monkeypatch.setattr(duplicates, "_CELLS", size)
    assert listed(texts, threshold=0.8, shingle_words=2) == expected


def test_words_are_what_the_pattern_for_words_finds():
    """Letters of all alphabets up to Japanese, digits, marks, spaces; some become two letters in
    lower case."""
    texts = ["one two", *(f"one{chr(code)}two" for code in range(0x3100))]
    first = {}
    copies = [(first.setdefault(shingles(text, 3), i), i) for i, text in enumerate(texts)]
    assert [pair[:2] for pair in listed(texts)] == sorted(
        pair for pair in copies if pair[0] != pair[1]
    )


@given(st.lists(st.text(st.characters(), max_size=8), max_size=8))
@settings(max_examples=200, deadline=None)
def test_texts_may_hold_any_character(texts):
    assert listed(texts, threshold=0.6, shingle_words=1) == brute_force(texts, 0.6, 1)


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
        duplicates, "_CELLS", 1
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
    exact = duplicates._similarities
    monkeypatch.setattr(
        duplicates, "_similarities", lambda sets, a, b: compared.append(len(a)) or exact(sets, a, b)
    )
    monkeypatch.setattr(duplicates, "_CELLS", 1)
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
    monkeypatch.setattr(duplicates, "_CELLS", cells)
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
