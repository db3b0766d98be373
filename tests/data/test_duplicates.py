import random
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

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
    return frozenset(tuple(words[i : i + width]) for i in range(len(words) - width + 1)) if words else frozenset()


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
            texts.append(" ".join(rng.choices(words, k=rng.choice([0, 1, 2, 20, 80, 100, 120, 150]))))
    return texts


def listed(texts, **options):
    return list(near_duplicate_pairs(texts, **options).itertuples(index=False, name=None))


def grams(n):
    return " ".join(f"w{i}" for i in range(n))


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
    texts = [f"{a} {b} {c}" for a in ("x", "x x", "y") for b in ("y", "x y x", "") for c in ("x", "z", "z z z z")]
    for width in (1, 2, 3):
        assert listed(texts, threshold=threshold, shingle_words=width) == brute_force(texts, threshold, width)


def test_a_pair_on_the_threshold_counts_and_one_below_does_not():
    for n, threshold in ((20, 0.95), (5, 0.8), (10, 0.9), (4, 0.75)):
        texts = [grams(n), grams(n - 1)]
        assert listed(texts, threshold=threshold, shingle_words=1) == [(0, 1, (n - 1) / n)]
        assert listed(texts, threshold=threshold + 1e-6, shingle_words=1) == []


def test_similarity_is_the_jaccard_index_of_the_shingles():
    texts = ["one two three four five", "one two three four six"]
    assert listed(texts, threshold=0.51, shingle_words=1) == [(0, 1, 4 / 6)]
    assert listed(texts, threshold=0.51, shingle_words=2) == [(0, 1, 3 / 5)]
    assert listed(texts, threshold=0.51, shingle_words=3) == []


def test_case_and_punctuation_do_not_tell_texts_apart():
    assert listed(["Hello, World! Again?", "hello world   again", "(HELLO) world: again..."]) == [(0, 1, 1.0), (0, 2, 1.0)]


def test_the_order_of_words_does():
    assert listed(["one two three four", "four three two one"], threshold=0.51) == []


def test_a_text_with_fewer_words_than_a_shingle_is_one_shingle():
    assert listed(["hello world", "Hello world!", "hello", "hello world again", "world hello"]) == [(0, 1, 1.0)]


def test_a_text_without_words_is_never_paired():
    assert listed(["", "", "...", "!!!", "a b c", "a b c"]) == [(4, 5, 1.0)]


def test_identical_texts_form_a_star_about_the_first():
    same, near = grams(40), grams(39)
    texts = [near, same, "something else entirely", same, same]
    assert listed(texts, threshold=0.95, shingle_words=1) == [(0, 1, 39 / 40), (1, 3, 1.0), (1, 4, 1.0)]


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


def test_the_pairs_do_not_depend_on_the_order_of_the_texts():
    texts = edited_texts(80, seed=3)
    groups = Counter(frozenset(np.flatnonzero(g == k)) for g in [group_ids(80, near_duplicate_pairs(texts, threshold=0.8))] for k in set(g))
    order = np.random.default_rng(0).permutation(80)
    shuffled = group_ids(80, near_duplicate_pairs([texts[i] for i in order], threshold=0.8))
    assert Counter(frozenset(order[shuffled == k]) for k in set(shuffled)) == groups


def test_rows_joined_by_a_chain_share_a_group():
    pairs = pd.DataFrame({"i": [0, 2, 5], "j": [2, 4, 6]})
    groups = group_ids(8, pairs)
    assert [set(np.flatnonzero(groups == groups[i])) for i in range(8)] == [{0, 2, 4}, {1}, {0, 2, 4}, {3}, {0, 2, 4}, {5, 6}, {5, 6}, {7}]


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
