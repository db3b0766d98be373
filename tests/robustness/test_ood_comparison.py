import warnings

import numpy as np
import pandas as pd
import pytest
from word_classes import WORDS, fitted, made, probs_of

from lib.errors import WorkbookError
from lib.evaluation.significance import share_interval
from lib.robustness import ood_comparison
from lib.robustness.far_sets import far_sets, own_set


def table_of(near, far):
    """A table of AUROCs: score -> values of near sets, and of far sets."""
    rows = []
    for kind, of_kind in (("near", near), ("far", far)):
        for score, values in of_kind.items():
            for i, value in enumerate(values):
                rows.append((kind, f"{kind} {i}", score, "auroc", value, 0, 1, 50))
                rows.append((kind, f"{kind} {i}", score, "fpr95", 1 - value, 0, 1, 50))
    return pd.DataFrame(rows, columns=ood_comparison.COLUMNS)


NEAR = {"max_probability": [0.6, 0.7, 0.8], "energy": [0.7, 0.75, 0.95], "novelty": [0.6] * 3}
FAR = {"max_probability": [0.9], "energy": [0.9], "novelty": [1.0]}


def test_near_and_far_sets_count_alike_however_many_there_are():
    assert ood_comparison.choose(table_of(NEAR, FAR)) == "energy"  # 0.80 and 0.90 against 0.60, 1
    assert ood_comparison.choose(table_of({}, FAR)) == "novelty"


def test_the_gain_over_maximum_probability_is_of_near_sets():
    gain = ood_comparison.near_gain(table_of(NEAR, FAR), "energy")
    assert gain.value == pytest.approx(0.1)  # of 0.1, 0.05, 0.15
    reach = 4.3027 * 0.05 / np.sqrt(3)
    assert gain.high == pytest.approx(0.1 + reach, abs=1e-4)
    assert ood_comparison.near_gain(table_of({}, FAR), "energy") is None


def test_the_description_says_what_the_choice_gains():
    assert ood_comparison.describe(table_of(NEAR, FAR), "energy") == (
        "1 far sets: the mean AUROC of energy is 0.900, that of max_probability 0.900. "
        "3 near sets: the mean AUROC of energy is 0.800, that of max_probability 0.700. "
        "The gain over 3 near sets is +0.100 [-0.024, +0.224]."
    )


@pytest.mark.parametrize(
    ("n", "verdict"), [(60, "which this does not contradict"), (80, "and it is more")]
)
def test_false_alarms_are_compared_with_the_promise(n, verdict):
    flagged = share_interval(n, 1_000)
    assert ood_comparison.describe_false_alarms(flagged, promised=0.05) == (
        f"{flagged.percent()} of 1,000 test texts are flagged; 5% at most were promised, {verdict}."
    )


def test_classes_held_out_are_told_by_their_words():
    rows = []
    for seed in (1, 2):
        texts, labels = made(90, seed)
        rows.append(pd.DataFrame({"text": texts, "label": labels}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        table = ood_comparison.near_table(*rows, n_resamples=50, progress=False)
    assert set(table["set"]) == set(WORDS)
    assert set(table["kind"]) == {"near"}
    auroc = ood_comparison.mean_auroc(table)["near"]
    # its words are in no other class: all scores see it, and would not had they seen the class
    assert auroc.drop("combined").tolist() == [1, 1, 1, 1]
    counts = rows[1]["label"].value_counts()
    assert table["n"].eq(90).all() and counts.sum() == 90


def test_of_two_classes_none_is_held_out():
    texts, labels = made(60, 1, ("bird", "tool"))
    rows = pd.DataFrame({"text": texts, "label": labels})
    table = ood_comparison.near_table(rows, rows, progress=False)
    assert table.empty
    assert list(table) == ood_comparison.COLUMNS


def test_far_sets_are_measured_one_by_one():
    scores, *_, held_out = fitted()
    sets = far_sets(held_out) | {"mine": ["owl crow"], "none": []}
    table = ood_comparison.far_table(scores, sets, predict=probs_of, n_resamples=50)
    assert list(table["set"].unique()) == [
        *("random strings", "shuffled words", "another language", "another topic", "mine")
    ]
    auroc = table[table["measure"] == "auroc"].set_index(["set", "score"])["value"]
    assert auroc["random strings", "novelty"] == 1
    assert auroc["shuffled words", "max_probability"] == 0.5
    assert auroc["another topic", "novelty"] > 0.95


def test_a_users_own_texts_are_a_set(write):
    assert own_set(None, text_column="text") == {}
    path = write("own.csv", "body,who\n a text ,x\n,y\n")
    assert own_set(path, text_column="body") == {"robustness.ood_data": [" a text "]}
    with pytest.raises(WorkbookError, match=r"no text in a column 'text' .*are 'body', 'who'"):
        own_set(path, text_column="text")


def test_built_in_sets_follow_the_seed_and_what_is_left_out():
    texts = ["A text, of 5 words!", "zwei"]
    sets = far_sets(texts, seed=1)
    assert sets == far_sets(texts, seed=1) != far_sets(texts, seed=2)
    random, _ = sets["random strings"]
    assert [len(word) for word in random.split()] == [1, 5, 2, 1, 6]
    assert random.endswith("!") and "5" not in random
    assert sorted(sets["shuffled words"][0].split()) == sorted(texts[0].split())
    assert (len(sets["another language"]), len(sets["another topic"])) == (46, 36)
    fewer = far_sets(texts, left_out=["English", "cooking"])
    assert (len(fewer["another language"]), len(fewer["another topic"])) == (43, 30)
    assert far_sets(["", "😀"])["random strings"] == ["", "😀"]
