import numpy as np
import pandas as pd
import pytest
from five_topics import SCRIPTS, topic_table

from lib.data.distinctive import describe_terms, distinctive_terms


def test_a_telling_term_has_the_log_odds_of_the_formula():
    texts, labels = ["cat cat x", "cat y", "dog x", "dog dog dog y", "dog cat"], list("aabbb")
    terms = distinctive_terms([text + " zz zz" for text in texts], labels)
    assert terms[["label", "term"]].to_numpy().tolist() == [["b", "dog"], ["a", "cat"], ["a", "zz"]]
    # cat: 2 of a's 4 words (cat cat zz zz), 1 of b's 7 (dog dog dog cat zz zz zz); the prior is a
    # tenth of 3 and of 11
    log_odds = np.log(2.3 / (4 + 1.1 - 2.3)) - np.log(1.3 / (7 + 1.1 - 1.3))
    half = 1.959964 * np.sqrt(1 / 2.3 + 1 / 1.3)
    cat = terms.iloc[1]
    assert cat[["log_odds", "low", "high"]].tolist() == pytest.approx(
        [log_odds, log_odds - half, log_odds + half], abs=1e-5
    )
    assert terms["n_texts"].tolist() == [3, 2, 2]


def test_a_word_repeated_in_one_text_does_not_outdo_one_that_many_texts_have():
    texts = ["spam " * 1000 + "common", *["common word"] * 9, *["plain word"] * 10]
    terms = distinctive_terms(texts, ["a"] * 10 + ["b"] * 10)
    assert terms[terms["label"] == "a"]["term"].tolist()[0] == "common"
    assert terms.set_index("term")["n_texts"]["spam"] == 1


def test_the_most_telling_word_comes_first_and_a_rare_one_last():
    texts = ["often rare", *["often"] * 50, *["other"] * 51]
    terms = distinctive_terms(texts, ["a"] * 51 + ["b"] * 51)
    assert terms[terms["label"] == "a"]["term"].tolist() == ["often", "rare"]
    assert terms.iloc[0]["low"] > 0 > terms.set_index("term")["low"]["rare"]
    assert distinctive_terms(texts, ["a"] * 51 + ["b"] * 51, n=1)["term"].tolist() == [
        "often",
        "other",
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_distinctive_terms_are_words_of_the_topic_in_any_script(script):
    table = topic_table(script, 200)
    topics = SCRIPTS[script][2]
    terms = distinctive_terms(table["text"].tolist(), table["label"].tolist(), n=5)
    for label, term in terms[["label", "term"]].itertuples(index=False):
        assert len(term) > 1
        assert any(term in word or word in term for word in topics[label].lower().split())


def test_distinctive_terms_of_emoji_are_emoji():
    terms = distinctive_terms(["😀", "😀 😀", "😡", "😡"], list("aabb"), n=1)
    assert terms["term"].tolist() == ["😀", "😡"]


def test_a_rare_word_with_high_odds_comes_behind_a_common_one_that_is_sure():
    terms = distinctive_terms(
        ["often rare", *["often plain"] * 80, *["plain"] * 41], ["a"] * 61 + ["b"] * 61
    )
    assert terms[terms["label"] == "a"]["term"].tolist() == ["often", "rare"]
    assert terms["log_odds"][0] < terms["log_odds"][1]


def test_the_largest_class_comes_first_and_rows_without_a_label_are_left_out():
    texts, labels = ["apple", "pear", "pear", "plum plum"], ["a", "b", "b", None]
    assert distinctive_terms(texts, labels)[["label", "term"]].to_numpy().tolist() == [
        ["b", "pear"],
        ["a", "apple"],
    ]


def test_the_interval_follows_the_confidence_and_the_commonest_words_are_kept():
    texts, labels = ["apple fig", "apple", "pear", "pear"], list("aabb")
    wide, narrow = (
        distinctive_terms(texts, labels, confidence=c).set_index("term") for c in (0.99, 0.5)
    )
    assert (
        (wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"])
    ).tolist() == pytest.approx([2.575829 / 0.674490] * 3, abs=1e-4)
    assert set(distinctive_terms(texts, labels, max_terms=2)["term"]) == {"apple", "pear"}


@pytest.mark.parametrize("texts", [["", "?!"], ["x" * 51, "y"], ["same same", "same"]])
def test_texts_without_a_telling_word_give_an_empty_table_with_columns(texts):
    terms = distinctive_terms(texts, ["a", "b"])
    assert (len(terms), terms.columns.tolist()) == (
        0,
        ["label", "term", "log_odds", "low", "high", "n_texts"],
    )


def test_a_lone_class_has_no_telling_word():
    assert len(distinctive_terms(["apple pear", "apple"], ["a", "a"])) == 0


def test_terms_are_described_by_how_many_intervals_are_above_zero():
    terms = pd.DataFrame({"low": [0.1, 0.0, -1.0]})
    assert describe_terms(terms).startswith("1 of the 3 words found have an interval above zero;")
