import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep

from lib.errors import WorkbookError
from lib.robustness.fairness import (
    column_groups,
    describe_swaps,
    group_gaps,
    mentioned_groups,
    read_terms,
    swap_identities,
)

NAMES = ["fruit", "tool"]


@pytest.fixture
def terms(tmp_path):
    return read_terms(tmp_path / "identity_terms.csv")


def answers(n_wrong, n, *, confidence):
    """Classes and probabilities of n rows whose first `n_wrong` are wrong."""
    probs = np.tile([confidence, 1 - confidence], (n, 1))
    return np.r_[np.ones(n_wrong, dtype=int), np.zeros(n - n_wrong, dtype=int)], probs


def two_groups(n_wrong=(12, 6), n=(60, 90)):
    parts = [answers(w, size, confidence=c) for w, size, c in zip(n_wrong, n, (0.9, 0.8))]
    y_true = np.concatenate([y for y, _ in parts])
    belongs = np.repeat([True, False], n)
    return y_true, np.concatenate([probs for _, probs in parts]), {"a": belongs}


def test_a_gap_is_that_of_the_error_rates_with_newcombes_interval():
    found = group_gaps(*two_groups())
    error = found.table.loc[("a", "error")]
    assert (error["of_group"], error["of_others"], error["n"]) == (12 / 60, 6 / 90, 60)
    low, high = confint_proportions_2indep(12, 60, 6, 90, method="newcomb", compare="diff")
    assert error[["value", "low", "high"]].tolist() == pytest.approx([12 / 60 - 6 / 90, low, high])
    assert error["verdict"] == "higher"
    assert found.describe().startswith("Error rate less that of the others: a +0.133 [+0.0")


def test_overconfidence_is_confidence_above_the_share_of_right_answers():
    found = group_gaps(*two_groups()).table.loc[("a", "overconfidence")]
    assert found["of_group"] == pytest.approx(0.9 - 48 / 60)
    assert found["of_others"] == pytest.approx(0.8 - 84 / 90)
    assert found["value"] == pytest.approx(0.1 - (0.8 - 84 / 90))
    low, high = confint_proportions_2indep(12, 60, 6, 90, method="newcomb", compare="diff")
    assert found[["low", "high"]].tolist() == pytest.approx([low + 0.1, high + 0.1])


def test_the_intervals_of_all_groups_hold_together():
    y_true, probs, belongs = two_groups()
    family = group_gaps(y_true, probs, belongs | {"b": ~belongs["a"]})
    low, high = confint_proportions_2indep(
        12, 60, 6, 90, method="newcomb", compare="diff", alpha=0.025
    )
    error = family.table.loc[("a", "error")]
    assert error[["low", "high"]].tolist() == pytest.approx([low, high])


def test_nothing_is_claimed_of_few_texts():
    found = group_gaps(*two_groups(n_wrong=(10, 0), n=(29, 90)), min_rows=30)
    assert set(found.table["verdict"]) == {"too few texts"}
    assert found.table[["of_group", "value", "low", "high"]].isna().all(axis=None)
    assert found.describe() == "Fewer than 30 texts in it or in the others, nothing claimed: a."
    copies = group_gaps(*two_groups(), groups=np.arange(150) // 3, min_rows=30)
    assert copies.table["value"].isna().all(), "near-copies count once"


def test_missing_values_of_a_column_are_no_group_and_are_counted():
    belongs, known = column_groups(["x", None, " ", "y", "x ", float("nan")])
    assert {name: rows.tolist() for name, rows in belongs.items()} == {
        "x": [True, False, False, False, True, False],
        "y": [False, False, False, True, False, False],
    }
    assert known.tolist() == [True, False, False, True, True, False]
    y_true, probs = answers(2, 6, confidence=0.9)  # of x the first, and one that is not known
    found = group_gaps(y_true, probs, belongs, known=known, min_rows=1)
    assert found.table.loc[("x", "error"), "n"] == 2
    assert found.table.loc[("x", "error"), "of_others"] == 0  # y alone
    assert found.describe().endswith("3 texts of no known group are left out.")


def test_one_group_has_nothing_to_be_compared_with():
    belongs, known = column_groups(["x"] * 60)
    found = group_gaps(*answers(5, 60, confidence=0.9), belongs, known=known)
    assert found.table["value"].isna().all()
    assert found.describe() == "Fewer than 30 texts in it or in the others, nothing claimed: x."


def test_a_column_without_a_value_has_no_group():
    belongs, known = column_groups([None, None])
    found = group_gaps(*answers(0, 2, confidence=0.9), belongs, known=known)
    assert found.describe() == "2 texts of no known group are left out."


def test_texts_name_groups_by_whole_words_in_any_case(terms):
    texts = ["She left.", "the sheep", "HIS house and her car", "a Muslim woman"]
    named = mentioned_groups(texts, terms)
    assert named["gender: female"].tolist() == [True, False, True, True]
    assert named["gender: male"].tolist() == [False, False, True, False]
    assert named["religion: Muslim"].tolist() == [False, False, False, True]


def swapped_by(predict, texts, terms, **options):
    return swap_identities(predict, texts, terms, class_names=NAMES, **options)


def no_women(texts):
    """Everything about women is fruit."""
    fruit = np.array(["woman" in text.lower() or "she" in text.lower().split() for text in texts])
    return np.c_[fruit, ~fruit].astype(float)


def test_a_swap_changes_all_terms_of_a_dimension_and_counts_the_answers(terms):
    texts = ["The woman said she left.", "A man spoke.", "Nobody."] * 10
    rates, flips = swapped_by(no_women, texts, terms, min_rows=20)
    gender = rates.loc["gender"]
    assert (gender["rate"], gender["count"], gender["n"]) == (1, 20, 20)
    assert gender["low"] > 0.8
    first = flips.iloc[0]
    assert (first["row"], first["swapped"]) == (0, "The man said he left.")
    assert (first["answer"], first["new_answer"]) == ("fruit", "tool")
    assert flips.iloc[1]["swapped"] == "A woman spoke."
    assert rates.loc["religion", "n"] == 0 and np.isnan(rates.loc["religion", "rate"])
    said = describe_swaps(rates, min_rows=20)
    assert said.startswith("Answers that change with the group named: gender 100.0% [")
    assert "Fewer than 20 texts, nothing claimed: religion (0), origin (0)" in said


def test_few_swaps_claim_nothing(terms):
    rates, flips = swapped_by(no_women, ["A man spoke."] * 29, terms)
    assert np.isnan(rates.loc["gender", "rate"])
    assert rates.loc["gender", "count"] == len(flips) == 29
    assert describe_swaps(rates, min_rows=30).startswith("Fewer than 30 texts, nothing claimed: ")


def test_texts_that_name_nobody_have_no_swap(terms):
    rates, flips = swapped_by(no_women, ["a pear", "a saw"], terms)
    assert (rates["n"] == 0).all() and flips.empty


def test_all_terms_of_a_group_give_way_to_those_of_one_other(terms):
    swapped = []

    def predict(texts):
        swapped.append(texts)
        return np.tile([1.0, 0.0], (len(texts), 1))

    swapped_by(predict, ["MUSLIMS of Islam met him"], terms)
    assert swapped[1][0] == "MUSLIMS of Islam met her"
    assert swapped[1][1] in {
        f"{people} of {belief} met him"
        for people, belief in [
            ("CHRISTIANS", "Christianity"),
            ("JEWS", "Judaism"),
            ("HINDUS", "Hinduism"),
            ("BUDDHISTS", "Buddhism"),
        ]
    }


def test_a_text_is_swapped_in_the_same_way_whatever_stands_next_to_it(terms):
    texts = [f"A Muslim read book {i}." for i in range(12)]

    def always_other(texts):
        probs = np.array(["Muslim" in text for text in texts], dtype=float)
        return np.c_[probs, 1 - probs]

    _, together = swapped_by(always_other, texts, terms)
    assert together["swapped"].nunique() == 12
    assert len({text.split()[1] for text in together["swapped"]}) > 1
    _, alone = swapped_by(always_other, texts[5:6], terms)
    assert alone["swapped"].tolist() == together["swapped"].tolist()[5:6]


def test_a_lexicon_with_a_wrong_column_is_named(tmp_path):
    path = tmp_path / "identity_terms.csv"
    path.write_text("dimension,slot,groups,term\ngender,subject,female,she\n", encoding="utf-8")
    with pytest.raises(WorkbookError, match=r"unknown column 'groups' \(did you mean 'group'\?\)"):
        read_terms(path)
