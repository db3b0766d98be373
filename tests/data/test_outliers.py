import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from lib.data.outliers import describe, find_outliers

WORDS = {
    "bird": "crow finch owl wren robin gull",
    "fruit": "apple pear plum grape lemon fig",
    "tool": "saw drill nail screw hammer axe",
}


def clusters(n=300, *, seed=0):
    """Three clusters of vectors, one after the other, and which of them each row is of."""
    random = np.random.default_rng(seed)
    codes = np.sort(np.arange(n) % 3)
    return np.eye(3)[codes] @ random.normal(size=(3, 20)) + random.normal(0, 0.3, (n, 20)), codes


def shuffled(n=300, *, seed=0):
    return clusters(n, seed=seed)[0][np.random.default_rng(seed).permutation(n)]


def test_sorted_rows_are_told_from_shuffled_ones():
    of_order, of_none = find_outliers(clusters()[0]), find_outliers(shuffled())
    assert of_order.order_p_value < 1e-6 and of_order.gap < 0.5
    assert of_none.order_p_value > 0.01 and of_none.gap == pytest.approx(1, abs=0.1)
    assert "they came sorted or in batches (similar texts are 3" in describe(of_order)
    assert "says nothing that matters" in describe(of_none)


@pytest.mark.parametrize("seed", range(5))
def test_random_orders_are_not_held_for_sorted_ones(seed):
    assert "says nothing that matters" in describe(find_outliers(shuffled(150, seed=seed)))


def test_texts_from_elsewhere_are_the_farthest_outliers():
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS[sorted(WORDS)[i % 3]].split(), 4)) for i in range(240)]
    planted = {
        17: "interest rates rose apple",
        90: "parliament voted on a budget with an owl",
        201: "goalkeeper saved penalty hammer minute",
    }
    for row, text in planted.items():
        texts[row] = text
    result = find_outliers(
        TruncatedSVD(30, random_state=0).fit_transform(TfidfVectorizer().fit_transform(texts))
    )
    assert (
        set(result.rows["row"].head(3)) == set(planted) and result.rows["is_outlier"].head(3).all()
    )
    assert result.rows["score"].is_monotonic_increasing and result.rows["score"].between(0, 1).all()


def test_copies_are_judged_once_and_have_one_score():
    vectors = np.vstack([np.eye(20)[0] * 5, shuffled()])
    vectors[0] += np.random.default_rng(1).normal(0, 0.01, 20)
    once, copied = (
        find_outliers(vectors),
        find_outliers(np.vstack([vectors, np.tile(vectors[:1] * 2, (30, 1))])),
    )
    assert copied.n_different == once.n_different == 301
    scores = copied.rows.set_index("row")["score"]
    assert (scores[[0, *range(301, 331)]] == once.rows.set_index("row").loc[0, "score"]).all()
    assert set(copied.rows["row"].head(31)) == {0, *range(301, 331)}


def test_copies_side_by_side_are_no_order():
    beside = find_outliers(np.repeat(shuffled(), 3, axis=0))
    assert "says nothing that matters" in describe(beside) and len(beside.rows) == 900


def test_rows_of_zeros_are_like_no_other():
    spread = np.random.default_rng(0).normal(
        size=(300, 100)
    )  # unlike each other, but less than a row that points nowhere
    result = find_outliers(np.insert(np.abs(spread), [5, 100], 0, axis=0))
    assert (
        sorted(result.rows["row"].head(2)) == [5, 101]
        and result.rows["score"].iloc[1] < result.rows["score"].iloc[2] / 2
    )


def test_rows_with_a_value_that_is_no_number_are_left_out():
    vectors = shuffled()
    vectors[3, 2], vectors[7, 0] = np.nan, np.inf
    result = find_outliers(vectors)
    assert sorted(result.rows["row"]) == [i for i in range(300) if i not in (3, 7)]


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros((0, 4)),
        np.ones((1, 4)),
        np.ones((80, 4)),
        np.zeros((80, 4)),
        np.full((80, 4), np.nan),
        shuffled(30),
    ],
)
def test_too_few_different_rows_have_no_verdict(vectors):
    result = find_outliers(vectors)
    assert not result.rows["is_outlier"].any() and np.isnan(result.order_p_value)
    assert describe(result).endswith(
        "too few to find outliers, or to say whether their order matters."
    )


def test_of_too_many_rows_a_part_is_judged_in_the_order_of_the_file():
    result = find_outliers(clusters(600)[0], max_rows=200)
    assert (
        len(result.rows) == 200 and result.rows["row"].max() > 550 and result.rows["row"].min() < 50
    )
    assert result.order_p_value < 1e-6
    assert result.rows.equals(find_outliers(clusters(600)[0], max_rows=200).rows)


def test_nothing_is_printed_and_the_global_random_state_stays(capsys):
    np.random.seed(7)
    expected = np.random.RandomState(7).random(3).tolist()
    find_outliers(shuffled())
    assert np.random.random(3).tolist() == expected
    assert capsys.readouterr() == ("", "")
