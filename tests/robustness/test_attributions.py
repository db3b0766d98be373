import numpy as np
import pytest

from lib.errors import WorkbookError
from lib.robustness.attributions import leave_one_out, shown

WEIGHTS = {"great": 0.3, "dull": -0.2}


def predict(texts):
    scores = [0.6 + sum(WEIGHTS.get(word, 0) for word in text.lower().split()) for text in texts]
    return np.array([[score, 1 - score] for score in scores])


def attributions(texts, **options):
    return leave_one_out(predict, texts, class_names=["good", "bad"], **options)


def test_effects_are_what_the_probability_loses_without_the_word():
    (found,) = attributions(["A great but dull film"])
    assert found.predicted == "good"
    assert found.confidence == pytest.approx(0.7)
    np.testing.assert_allclose(found.effects, [0, 0.3, 0, -0.2, 0], atol=1e-12)
    assert found.describe() == "good (0.70): great +0.30, dull -0.20"


def test_effects_are_of_the_class_that_is_predicted():
    (found,) = attributions(["dull"])
    assert found.predicted == "bad"
    assert found.effects.tolist() == pytest.approx([0.2])


def test_the_page_is_coloured_and_escaped():
    page = shown(attributions(["<i> great & dull </i>"]))
    assert (
        '&lt;i&gt; <span style="background: rgba(0, 114, 178, 0.60)" title="+0.300">great</span> '
        '&amp; <span style="background: rgba(213, 94, 0, 0.40)" title="-0.200">dull</span> '
        "&lt;/i&gt;" in page.html
    )
    assert "<i>" not in page.html
    assert repr(page) == "good (0.70): great +0.30, dull -0.20"


def test_of_a_long_text_runs_of_words_are_left_out():
    text = " ".join(["word"] * 9_000 + ["great"] + ["word"] * 999)
    (found,) = attributions([text], max_parts=10)
    assert [len(part) for part in found.parts] == [1_000] * 10
    np.testing.assert_allclose(found.effects, [0] * 9 + [0.3], atol=1e-12)
    assert len(shown([found]).html) < 3_000


@pytest.mark.parametrize("text", ["", "  ", "😀🎉", "<>"])
def test_a_text_without_words_has_no_parts(text):
    (found,) = attributions([text])
    assert found.parts == []
    assert found.describe() == "good (0.60): no word by itself changes it"
    assert repr(shown([found])) == "good (0.60): no word by itself changes it"


def test_in_a_script_without_blanks_each_character_is_a_part():
    assert len(attributions(["很好的电影"])[0].parts) == 5


def test_a_wrong_answer_is_named():
    with pytest.raises(WorkbookError, match=r"texts\[0\] 'a' has nan"):
        leave_one_out(
            lambda texts: np.full((len(texts), 2), np.nan), ["a"], class_names=["good", "bad"]
        )
