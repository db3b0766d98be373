import math

import pytest

from lib.checks import takeaway, verdict


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        (0, {"at_most": 0}),
        (0.9, {"at_least": 0.9}),
        (3, {"at_least": 1, "at_most": 5}),
        (-2.5, {}),
        (math.inf, {"at_least": 1.0}),
    ],
)
def test_a_value_on_or_within_its_bounds_holds(value, bounds):
    assert verdict("Score", value, **bounds).kind == "held"


@pytest.mark.parametrize(
    ("value", "bounds", "words"),
    [
        (1, {"at_most": 0}, "expected at most 0"),
        (0.8999, {"at_least": 0.9}, "0.8999, expected at least 0.9"),
        (6, {"at_least": 1, "at_most": 5}, "expected at least 1 and at most 5"),
        (0, {"at_least": 1, "at_most": 5}, "expected at least 1 and at most 5"),
    ],
)
def test_a_value_out_of_bounds_is_an_error_in_words(value, bounds, words):
    with pytest.raises(AssertionError, match=f"^Score: .*{words}$"):
        verdict("Score", value, **bounds)


@pytest.mark.parametrize(
    "bounds", [{}, {"at_most": 1.0}, {"at_least": 0.0}, {"at_least": 0.0, "at_most": 1.0}]
)
def test_nan_fails_whatever_the_bounds(bounds):
    with pytest.raises(AssertionError, match="Score: nan"):
        verdict("Score", math.nan, **bounds)


def test_the_words_carry_value_and_n():
    assert repr(verdict("Rows", 12_345, at_least=1, n=1_234_567)) == "Rows: 12,345 (n = 1,234,567)"
    assert repr(verdict("Score", 0.123456, at_most=1)) == "Score: 0.1235"
    with pytest.raises(AssertionError, match=r"\(n = 1,200\)$"):
        verdict("Rows", 1, at_most=0, n=1_200)


def test_n_of_zero_is_shown():
    assert repr(verdict("Rows", 0, at_most=0, n=0)) == "Rows: 0 (n = 0)"


def test_html_is_escaped_and_plain_text_is_not():
    said = takeaway('<b>5 < 6</b> & "more"')
    assert (
        said._repr_html_()
        == '<p class="takeaway note">&lt;b&gt;5 &lt; 6&lt;/b&gt; &amp; &quot;more&quot;</p>'
    )
    assert repr(said) == '<b>5 < 6</b> & "more"'


def test_a_claim_is_escaped_in_html():
    assert verdict("<script>", 1)._repr_html_() == '<p class="takeaway held">&lt;script&gt;: 1</p>'


def test_next_steps_are_a_list_with_the_points_they_win_and_escaped():
    said = takeaway("It falls.", {"Mend <it>.": 1.5, "Look.": math.nan})
    assert said._repr_html_() == (
        '<p class="takeaway note">It falls.</p><ul class="next-steps">'
        '<li data-points="1.50">Mend &lt;it&gt;.</li><li data-points="nan">Look.</li></ul>'
    )
    assert repr(said) == "It falls. Mend <it>. Look."
