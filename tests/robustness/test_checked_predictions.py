import numpy as np
import pytest

from lib.errors import WorkbookError
from lib.robustness.prediction import checked

TEXTS = ["one", "two", "bad\ntext", "four", "five"]


def answering(row):
    """A predict that answers 0.25, 0.75, and one text with `row`."""

    def predict(texts):
        return np.array([row if text == TEXTS[2] else [0.25, 0.75] for text in texts])

    return checked(predict, n_classes=2)


def test_a_right_answer_is_passed_on_and_sums_to_1_exactly():
    single = checked(lambda texts: np.tile(np.float32([0.1, 0.9]), (len(texts), 1)), n_classes=2)
    probs = single(TEXTS)
    assert probs.shape == (5, 2)
    assert probs.dtype == np.float64
    assert (probs.sum(axis=1) == 1).all()
    assert single([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([np.nan, 0.5], r"predict must return numbers; texts\[2\] 'bad\\ntext' has nan"),
        ([np.inf, 0.0], r"predict must return numbers; texts\[2\] .* has inf"),
        ([-0.5, 1.5], r"predict must return probabilities; texts\[2\] .* has -0.5"),
        ([0.5, 0.4], r"predict must return rows that sum to 1; texts\[2\] .* sums to 0.9"),
    ],
)
def test_the_text_of_a_wrong_row_is_named(row, message):
    with pytest.raises(WorkbookError, match=message):
        answering(row)(TEXTS)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.ones((4, 2)), r"shape \(5, 2\).*found \(4, 2\)"),
        (np.ones(5), r"shape \(5, 2\).*found \(5,\)"),
        (np.ones((5, 3)), r"found \(5, 3\)"),
        ([["a", "b"]] * 5, r"numbers of shape \(5, 2\), a row a text, found list"),
        (None, r"found \(\)"),
    ],
)
def test_a_wrong_shape_is_named(answer, message):
    with pytest.raises(WorkbookError, match=message):
        checked(lambda texts: answer, n_classes=2)(TEXTS)


def test_the_text_on_which_predict_raises_is_found():
    def predict(texts):
        if TEXTS[2] in texts:
            raise KeyError("no such token")
        return np.full((len(texts), 2), 0.5)

    with pytest.raises(WorkbookError, match=r"KeyError.*no such token.* on texts\[2\] 'bad"):
        checked(predict, n_classes=2)(TEXTS)


def test_texts_on_which_predict_raises_only_together_are_named():
    def predict(texts):
        if len(texts) > 3:
            raise MemoryError("too many")
        return np.full((len(texts), 2), 0.5)

    with pytest.raises(WorkbookError, match=r"on texts\[0:5\] together, and on neither half"):
        checked(predict, n_classes=2)(TEXTS)


def test_a_message_for_people_is_left_as_it_is():
    def predict(texts):
        raise WorkbookError("the folder is gone; save it again")

    with pytest.raises(WorkbookError, match=r"^the folder is gone; save it again$"):
        checked(predict, n_classes=2)(TEXTS)
