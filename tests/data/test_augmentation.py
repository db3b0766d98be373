"""Copies keep their words, know their parent, and never cross a split."""

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.data import augmentation
from lib.data.words import has_unspaced

WORDS = "zero one two three four five six seven eight nine".split()
TEXT = " ".join(WORDS)


def rows(texts: list[str], labels: list[str] | None = None) -> pd.DataFrame:
    n = len(texts)
    return pd.DataFrame(
        {
            "row_id": np.arange(10, 10 + n),
            "text": texts,
            "label": labels or ["a"] * n,
            "group": np.arange(n),
        }
    )


def test_deleting_leaves_a_share_of_the_words_out_and_the_rest_in_order():
    (changed,) = augmentation.edit_words([TEXT], operation="delete", share=0.3)
    left = changed.split()
    assert len(left) == 7
    assert left == [word for word in WORDS if word in left]


def test_inserting_adds_words_of_the_text_and_keeps_the_others_in_order():
    (changed,) = augmentation.edit_words([TEXT], operation="insert", share=0.2)
    added = Counter(changed.split()) - Counter(WORDS)
    assert added.total() == 2
    assert set(added) <= set(WORDS)
    rest = iter(changed.split())
    assert all(word in rest for word in WORDS)  # a subsequence


def test_in_scripts_without_blanks_a_character_is_a_word():
    text = "这部电影真的非常好看"
    (deleted,) = augmentation.edit_words([text], operation="delete", share=0.3)
    assert len(deleted) == 7
    assert list(deleted) == [sign for sign in text if sign in deleted]
    (swapped,) = augmentation.edit_words([text], operation="swap", share=0.1)
    assert sorted(swapped) == sorted(text) and swapped != text
    (inserted,) = augmentation.edit_words(["我去 OK bar"], operation="insert", share=0.1)
    assert len(inserted.replace(" ", "")) > len("我去OKbar")
    assert not re.search("(OK|bar)(OK|bar)|[我去] | [我去]", inserted)


def test_swapping_moves_two_words_and_loses_none():
    (changed,) = augmentation.edit_words([TEXT], operation="swap", share=0.1)
    assert Counter(changed.split()) == Counter(WORDS)
    assert sum(a != b for a, b in zip(changed.split(), WORDS)) == 2


@given(
    st.lists(st.text(max_size=30), max_size=5),
    st.sampled_from(augmentation.WORD_EDITS),
    st.floats(0.01, 1),
)
def test_a_text_is_never_emptied_and_never_gets_a_foreign_word(
    texts: list[str], operation: str, share: float
):
    for old, new in zip(
        texts, augmentation.edit_words(texts, operation=operation, share=share), strict=True
    ):
        assert bool(new.split()) == bool(old.split())
        if has_unspaced(old):  # blanks are no borders of words there
            assert {*new} - {" "} <= {*old}
        else:
            assert {*new.split()} <= {*old.split()}


def test_a_text_of_one_word_stays_as_it_is():
    assert [
        augmentation.edit_words(["[URL]", ""], operation=operation)
        for operation in augmentation.WORD_EDITS
    ] == [["[URL]", ""]] * 3


def test_the_same_seed_gives_the_same_copies_and_another_seed_others():
    texts = [TEXT] * 3
    first = augmentation.edit_words(texts, operation="swap", seed=1)
    assert first == augmentation.edit_words(texts, operation="swap", seed=1)
    assert first != augmentation.edit_words(texts, operation="swap", seed=2)
    assert len(set(first)) > 1  # equal texts at other places are changed elsewhere


def test_at_least_one_word_changes_and_at_least_one_is_left():
    for operation in augmentation.WORD_EDITS:
        assert all(
            new != TEXT
            for new in augmentation.edit_words([TEXT] * 50, operation=operation, share=0.01)
        )
    assert all(
        new in WORDS for new in augmentation.edit_words([TEXT] * 5, operation="delete", share=1)
    )


def test_an_unknown_edit_is_named():
    with pytest.raises(ValueError, match="insert, delete, swap, got 'rotate'"):
        augmentation.edit_words([TEXT], operation="rotate")


def test_copies_carry_their_parents_id_label_and_group():
    copies = augmentation.copies_of(
        rows(["a b c", "d e f"], ["x", "y"]), ["a c", "f e d"], method="m"
    )
    assert copies.to_dict("list") == {
        "parent_id": [10, 11],
        "method": ["m", "m"],
        "text": ["a c", "f e d"],
        "label": ["x", "y"],
        "group": [0, 1],
    }


def test_copies_that_are_none_are_left_out():
    copies = augmentation.copies_of(
        rows(["a b c"] * 5), ["a  b c", "", " ", "c b a", "c b a"], method="m"
    )
    assert copies[["parent_id", "text"]].to_dict("list") == {"parent_id": [13], "text": ["c b a"]}


def test_a_copy_that_came_near_a_held_out_text_is_found():
    held_out = [TEXT, "something else altogether"]
    copies = augmentation.copies_of(
        rows(["x y z w", "p q r s", "t u v w"]), [TEXT, "q p s r", TEXT.upper()], method="m"
    )
    assert augmentation.near_held_out(copies, held_out).tolist() == [True, False, True]
    assert augmentation.near_held_out(copies, []).tolist() == [False, False, False]


def test_training_rows_come_first_and_copies_count_as_rows_of_their_parent():
    train = rows(["a b c", "d e f"], ["x", "y"])
    both = augmentation.with_copies(
        train, augmentation.copies_of(train.tail(1), ["f e d"], method="m")
    )
    assert both.to_dict("list") == {
        "row_id": [10, 11, 11],
        "text": ["a b c", "d e f", "f e d"],
        "label": ["x", "y", "y"],
        "group": [0, 1, 1],
    }


@pytest.mark.parametrize("change", [{"parent_id": 99}, {"label": "z"}, {"group": 7}])
def test_a_copy_of_a_row_that_is_not_in_training_is_refused(change: dict):
    train = rows(["a b c", "d e f"])
    copies = augmentation.copies_of(train, ["c b a", "f e d"], method="m").assign(**change)
    with pytest.raises(
        ValueError,
        match=f"the copy of row {change.get('parent_id', 10)} .* no such parent among the 2 "
        "training rows",
    ):
        augmentation.with_copies(train, copies)
