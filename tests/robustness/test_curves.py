import numpy as np
import pytest

from lib.errors import WorkbookError
from lib.robustness.curves import cleaning_gains, describe_cleaning, severity_curves

NAMES = ["fruit", "tool"]
# the last word says the class: truncation takes it away
TEXTS = [f"text number {i} is of a {'saw' if i % 2 else 'pear'}" for i in range(40)]
Y_TRUE = np.arange(40) % 2


def by_last_word(texts):
    is_tool = np.array([text.endswith("saw") for text in texts], dtype=float)
    return np.c_[1 - is_tool, is_tool]


def measured(predict=by_last_word, kinds=("truncation",), **options):
    given = {"class_names": NAMES, "severities": (1, 3), "n_resamples": 200} | options
    return severity_curves(predict, TEXTS, Y_TRUE, kinds=kinds, **given)


def test_a_curve_has_the_scores_the_falls_and_the_answers_that_change():
    found = measured(kinds=("truncation", "contractions"))
    assert found.clean.value == 1
    cut = found.table.loc[("truncation", 1)]
    assert cut["macro_f1"] == pytest.approx(1 / 3)  # all are fruit: F1 2/3 and 0
    assert cut["gain"] == pytest.approx(-2 / 3)
    assert cut["gain_low"] < -2 / 3 < cut["gain_high"] < 0
    assert cut["verdict"] == "worse"
    assert (cut["flip_rate"], cut["changed"]) == (0.5, 1.0)
    untouched = found.table.loc[("contractions", 3)]
    assert (untouched["macro_f1"], untouched["gain"], untouched["changed"]) == (1, 0, 0)
    assert untouched["verdict"] == "inconclusive"
    assert untouched["low"] < 0.95, "no wrong text among 40 does not prove that there is none"
    said = found.describe()
    assert "truncation costs most (-0.667 [" in said
    assert "1 of 2 perturbations lower it significantly" in said
    assert "50% of the answers change" in said
    assert "Fewer than half of the texts have a place for contractions." in said


def test_the_mildest_perturbation_that_costs_most_is_what_to_guard_against():
    found = measured(kinds=("truncation", "contractions"))
    [(step, points)] = found.next_steps().items()
    assert step.startswith("Guard against truncation: severity 1 alone changes macro F1 by -0.667")
    assert np.isnan(points)
    assert measured(kinds=("contractions",)).next_steps() == {}


def test_the_intervals_of_falls_hold_for_all_kinds_together():
    alone = measured(kinds=("truncation",), n_resamples=2_000).table.loc[("truncation", 1)]
    family = measured(kinds=("truncation", "case", "emoji", "url"), n_resamples=2_000)
    together = family.table.loc[("truncation", 1)]
    assert together["gain_low"] < alone["gain_low"]
    assert together["gain_high"] > alone["gain_high"]
    assert (together["low"], together["high"]) == (alone["low"], alone["high"])


def test_a_class_without_texts_is_left_out_of_macro_f1_and_not_0():
    def confused(texts):
        probs = np.c_[by_last_word(texts), np.zeros(len(texts))]
        probs[0] = [0, 0, 1]  # one fruit is taken for the class that has no text
        return probs

    found = measured(confused, class_names=[*NAMES, "bird"])
    assert found.clean.value == pytest.approx((1 + 2 * 19 / 39) / 2)


def test_a_class_that_is_never_predicted_has_an_f1_of_0():
    found = measured(lambda texts: np.tile([1.0, 0.0], (len(texts), 1)))
    assert found.clean.value == pytest.approx(1 / 3)
    assert (found.table["flip_rate"] == 0).all()
    assert found.most_flipped().empty


def test_each_different_text_of_a_kind_is_asked_once():
    asked = []

    def predict(texts):
        asked.append(list(texts))
        return by_last_word(texts)

    measured(predict, kinds=("truncation", "contractions"))
    assert asked[0] == TEXTS
    assert len(asked[1]) == len(set(asked[1]))
    assert not set(asked[1]) & set(TEXTS)
    assert len(asked) == 2, "no text has a contraction: there is nothing to ask"


def test_the_texts_that_flip_most_come_with_the_mildest_that_does_it():
    found = measured(severities=(3, 1))
    assert found.highest == 3
    flips = found.flips()
    assert len(flips) == 40  # twenty texts at two severities
    flipped = found.most_flipped(n_texts=3)
    assert flipped.index.tolist() == [1, 3, 5]
    first = flipped.iloc[0]
    assert (first["n_flips"], first["severity"]) == (2, 1)
    assert (first["label"], first["answer"], first["new_answer"]) == ("tool", "tool", "fruit")
    assert first["perturbed"] == "text number 1 is of a"


def test_near_copies_are_drawn_together():
    pairs = np.arange(40) // 4 * 2 + Y_TRUE  # of one class, so right or wrong together
    copies, alone = measured(groups=pairs).table.iloc[0], measured().table.iloc[0]
    for low, high in (("low", "high"), ("gain_low", "gain_high"), ("flip_low", "flip_high")):
        assert copies[high] - copies[low] > 1.2 * (alone[high] - alone[low])


def test_cleaning_gets_what_it_prevents():
    options = {"kinds": ("html", "truncation"), "severities": (5,)}
    with_it = measured(lambda texts: by_last_word(list(map(without_tags, texts))), **options)
    without = measured(**options)
    gains = cleaning_gains(with_it, without, n_resamples=200)
    lost = without.table.loc[("html", 5), "macro_f1"]
    assert lost < 1
    assert gains.loc["html", "fall"] == 0
    assert gains.loc["html", "raw_fall"] == gains.loc["html", "gain"] == pytest.approx(1 - lost)
    assert gains.loc["html", "verdict"] == "better"
    assert gains.loc["truncation", "gain"] == 0
    said = describe_cleaning(gains, clean=with_it.clean, raw=without.clean)
    assert said.startswith(
        "Cleaning prevents most under html: macro F1 falls by 0.000 with it, by "
    )
    assert "significant under html. Of texts as they are, macro F1 is 1.000" in said


def without_tags(text):
    for mark in ("<b>", "</b>", '<span class="c">', "</span>", "<br/>", "&nbsp;", "</a>"):
        text = text.replace(mark, "")
    return text.replace('<a href="/page">', "")


def test_cleaning_is_compared_on_the_same_texts_and_kinds_alone():
    one = measured()
    with pytest.raises(WorkbookError, match="other texts, kinds or severities; measure both"):
        cleaning_gains(one, measured(kinds=("case",)))


@pytest.mark.parametrize(("texts", "kinds"), [(TEXTS[:1], ("case",)), (TEXTS, ())])
def test_curves_need_two_texts_and_a_kind(texts, kinds):
    with pytest.raises(WorkbookError, match="need two texts and a kind, found"):
        severity_curves(by_last_word, texts, Y_TRUE[: len(texts)], class_names=NAMES, kinds=kinds)


def test_a_wrong_answer_names_the_text():
    def predict(texts):
        probs = by_last_word(texts)
        probs[3] = np.nan
        return probs

    with pytest.raises(WorkbookError, match=r"texts\[3\] 'text number 3 is of a saw' has nan"):
        measured(predict)
