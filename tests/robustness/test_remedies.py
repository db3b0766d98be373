import numpy as np
import pandas as pd
import pytest

from lib.errors import WorkbookError
from lib.robustness import remedies
from lib.robustness.attacks import AttackResult
from lib.robustness.attacks.search import FAILED, SUCCEEDED, UNFINISHED, WRONG_BEFORE
from lib.robustness.curves import severity_curves
from lib.robustness.perturbations import KINDS, perturb

NAMES = ["fruit", "tool"]
# the last word says the class: truncation takes it away
TEXTS = [f"saw pear number {i} is of a {'saw' if i % 2 else 'pear'}" for i in range(40)]
Y_TRUE = np.arange(40) % 2
OPTIONS = {"n_resamples": 200, "seed": 42}


def by_last_word(texts):
    is_tool = np.array([text.endswith("saw") for text in texts], dtype=float)
    return np.c_[1 - is_tool, is_tool]


def by_number(texts):
    """It knows a text by its number, which truncation leaves."""
    words = [text.split() for text in texts]
    is_tool = np.array([int(text[3]) % 2 for text in words], dtype=float)
    return np.c_[1 - is_tool, is_tool]


def curves(predict, **changed):
    options = {"class_names": NAMES, "kinds": ["truncation", "case"], "severities": (1, 2)}
    return severity_curves(predict, TEXTS, Y_TRUE, **options | OPTIONS | changed)


def test_a_copy_is_its_text_spoiled_in_one_of_the_ways():
    kinds = ["keyboard", "word_drop", "case"]
    copies = remedies.perturbed_copies(TEXTS, kinds=kinds, severities=[2, 5], seed=7)
    ways = [
        {
            (kind, severity)
            for kind in kinds
            for severity in (2, 5)
            if perturb([text], kind=kind, severity=severity, seed=7) == [copy]
        }
        for text, copy in zip(TEXTS, copies)
    ]
    assert all(ways) and len(set().union(*ways)) == 6
    assert copies == remedies.perturbed_copies(TEXTS, kinds=kinds, severities=[2, 5], seed=7)
    assert set(kinds) <= set(KINDS)


def test_a_remedy_is_told_by_what_it_gains_in_each_way_and_costs():
    gains = remedies.curve_gains(curves(by_last_word), curves(by_number), **OPTIONS)
    assert gains.index.tolist() == ["texts as they are", "truncation", "case"]
    assert gains.loc["texts as they are", ["before", "after", "gain"]].tolist() == [1, 1, 0]
    cut = gains.loc["truncation"]
    # all are fruit without their last word: F1 2/3 and 0
    assert (cut["before"], cut["after"]) == (pytest.approx(1 / 3), 1)
    assert cut["gain"] == pytest.approx(2 / 3)
    assert cut["low"] < cut["gain"] < cut["high"]
    assert cut["verdict"] == "better" and cut["n"] == 40
    said = remedies.describe(gains, remedy="perturbed copies", score="macro F1")
    assert (
        said.startswith("With perturbed copies, macro F1 is significantly better in ")
        and "truncation gains most (+0.667 [" in said
    )
    assert "they are: +0.000 [" in said and "(inconclusive, n = 40)" in said


def test_curves_of_other_texts_or_kinds_are_not_compared():
    with pytest.raises(WorkbookError, match="other texts, kinds or severities"):
        remedies.curve_gains(curves(by_number), curves(by_number, severities=(1, 3)), **OPTIONS)


def attacked(outcomes):
    """Results on texts of class `a`: a success turns the answer into `b`."""
    table = pd.DataFrame({"text": [f"text {i}" for i in range(len(outcomes))], "label": "a"})
    table["outcome"] = outcomes
    is_wrong = table["outcome"].isin([SUCCEEDED, WRONG_BEFORE])
    table["predicted"] = np.where(is_wrong, "b", "a")
    return AttackResult("DeepWordBug", "misspellings", table)


def test_accuracy_under_attack_counts_what_no_change_makes_wrong():
    before = attacked([*[SUCCEEDED] * 20, *[FAILED] * 5, *[WRONG_BEFORE] * 5, UNFINISHED, FAILED])
    after = attacked([*[SUCCEEDED] * 5, *[FAILED] * 20, *[WRONG_BEFORE] * 5, FAILED, UNFINISHED])
    gains = remedies.attack_gains(before, after, groups=np.arange(32), **OPTIONS)
    assert gains["n"].tolist() == [30, 30], "those that had their turn in both"
    assert gains.loc["texts as they are", "before"] == pytest.approx(25 / 30)
    under = gains.loc["under attack"]
    assert (under["before"], under["after"]) == (pytest.approx(5 / 30), pytest.approx(20 / 30))
    assert under["verdict"] == "better" and under["gain"] == pytest.approx(0.5)
    said = remedies.describe(gains, remedy="copies", score="accuracy")
    assert said.startswith("With copies, accuracy under attack changes by +0.500 [")


def test_attacks_without_texts_in_common_are_named():
    with pytest.raises(WorkbookError, match="other texts"):
        remedies.attack_gains(
            attacked([FAILED] * 3), attacked([FAILED] * 4), groups=np.arange(3), **OPTIONS
        )
    with pytest.raises(WorkbookError, match=r"1 texts got their turn .* robustness.attack_seconds"):
        remedies.attack_gains(
            attacked([FAILED, UNFINISHED]), attacked([FAILED, FAILED]), groups=np.arange(2)
        )
