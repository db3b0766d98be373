import numpy as np
import pytest

from lib.errors import WorkbookError
from lib.robustness.perturbations import KINDS, SEVERITIES, perturb

TEXTS = [
    f"I don't know, but it is not the turn of screw {i}; he will calculate a singular value: "
    f"decomposition of {word} matrices in (nearly) {i + 3} minutes, as we are told by the author. "
    * (1 + i % 3)
    for i, word in enumerate("large small dense sparse square banded random unitary".split())
]
ODD = ["", " \n", "a", "one", "the of and", "😀👍", "这部电影很好看", "किताब अच्छी है", "...", "12"]


def spoiled(text, kind, severity=1, seed=1, **options):
    return perturb([text], kind=kind, severity=severity, seed=seed, **options)[0]


def edit_distance(one, other):
    """Levenshtein's."""
    distances = np.arange(len(other) + 1)
    letters = np.array(list(other))
    for row, letter in enumerate(one, 1):
        substituted = distances[:-1] + (letters != letter)
        best = np.r_[row, np.minimum(substituted, distances[1:] + 1)]
        steps = np.arange(len(best))
        distances = np.minimum.accumulate(best - steps) + steps
    return distances[-1]


def test_the_distance_of_this_file_is_levenshteins():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance("", "abc") == edit_distance("abc", "") == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_edit_distance_rises_with_severity(kind):
    means = [
        np.mean(
            [
                edit_distance(text, changed)
                for text, changed in zip(TEXTS, perturb(TEXTS, kind=kind, severity=s, seed=3))
            ]
        )
        for s in SEVERITIES
    ]
    assert means[0] > 0
    assert (np.diff(means) > 0).all(), means


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_perturbed_in_the_same_way_whatever_stands_next_to_it(kind):
    together = perturb(TEXTS, kind=kind, severity=3, seed=5)
    assert [spoiled(text, kind, 3, 5) for text in reversed(TEXTS)] == together[::-1]
    if kind != "truncation":
        assert perturb(TEXTS, kind=kind, severity=3, seed=6) != together or kind == "contractions"


@pytest.mark.parametrize("kind", ["keyboard", "case", "homoglyphs", "emoji", "word_drop"])
def test_what_a_severity_changes_the_higher_ones_change_too(kind):
    mild, harsh = spoiled(TEXTS[0], kind, 2), spoiled(TEXTS[0], kind, 5)
    if kind == "word_drop":
        assert set(harsh.split()) < set(mild.split())
    elif kind == "emoji":
        added = [[word for word in text.split() if not word.isascii()] for text in (mild, harsh)]
        assert 0 < len(added[0]) < len(added[1])
        assert set(added[0]) <= set(added[1])
    else:
        changed = [{i for i, c in enumerate(text) if c != TEXTS[0][i]} for text in (mild, harsh)]
        assert changed[0] < changed[1]
        assert all(mild[i] == harsh[i] for i in changed[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ODD, ids=ascii)
def test_odd_texts_are_perturbed_or_left_and_never_emptied(kind, text):
    for severity in SEVERITIES:
        changed = spoiled(text, kind, severity)
        assert isinstance(changed, str)
        assert bool(changed.strip()) == bool(text.strip())
        if not text.strip():
            assert changed == text


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_words_are_perturbed(kind):
    text = "it is not seen in words " * 1_700
    assert spoiled(text, kind, 5) != text


@pytest.mark.parametrize(
    ("kind", "text", "severity", "changed"),
    [
        ("swap", "ab", 1, "ba"),
        ("swap", "aa", 5, "aa"),
        ("case", "É", 1, "é"),
        ("ocr", "rn", 1, "m"),
        ("homoglyphs", "p", 1, "р"),
        ("contractions", "I’m sure it is not, CANNOT be.", 5, "I am sure it's not, CAN'T be."),
        ("contractions", "no such form", 5, "no such form"),
        ("truncation", "one two three four five", 1, "one two three four"),
        ("truncation", "one two three four five", 5, "one"),
        ("truncation", "这部电影很", 4, "这部"),
        ("punctuation", "wait!", 1, "wait"),
    ],
)
def test_an_edit_without_a_choice(kind, text, severity, changed):
    assert spoiled(text, kind, severity) == changed


def test_typing_errors_are_keys_next_to_the_right_ones_in_its_case():
    assert spoiled("P", "keyboard") in ("O", "L")
    assert spoiled("p", "keyboard") in ("o", "l")
    assert spoiled("Жж", "keyboard", 5) == "Жж"  # there is no such key


def test_a_letter_keeps_its_marks():
    letters = spoiled("नमस्ते", "drop", 5)
    assert letters != "नमस्ते"
    assert all("\u0900" <= letter <= "\u097f" for letter in letters)
    assert not letters.startswith(("\u0938\u094d\u0947", "\u094d", "\u0947"))


def test_the_share_of_places_is_that_of_the_severity():
    text = "abcdefghij" * 20
    counts = [
        sum(a != b for a, b in zip(text, spoiled(text, "keyboard", severity)))
        for severity in SEVERITIES
    ]
    assert counts == [2, 6, 12, 20, 30]


def test_a_distractor_leaves_the_text_whole():
    changed = spoiled("the text", "distractor", 3)
    assert changed.count(".") == 3
    assert "the text" in changed


def test_synonyms_keep_the_case_and_are_asked_for_in_lower_case():
    asked = []

    def synonyms(word):
        asked.append(word)
        return {"big": ["large"], "dog": ["dog", "hound"]}.get(word, [])

    assert spoiled("Big DOG runs", "synonyms", 5, synonyms=synonyms) in (
        "Large DOG runs",
        "Big HOUND runs",
    )
    assert sorted(asked) == ["big", "dog", "runs"]
    assert spoiled("nothing known", "synonyms", 5, synonyms=synonyms) == "nothing known"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "keybord"}, r"no kind 'keybord' \(did you mean 'keyboard'\?\); there are "),
        ({"severity": 0}, "severity is a whole number from 1 to 5, found 0"),
        ({"severity": 2.5}, "found 2.5"),
        ({"kind": "synonyms"}, "needs synonyms, a function .*hand in a thesaurus"),
        ({"texts": ["a", None]}, r"texts\[1\] is not a text: 'None' \(NoneType\); leave it out"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(options, message):
    given = {"texts": ["a b"], "kind": "case", "severity": 1, "seed": 1} | options
    with pytest.raises(WorkbookError, match=message):
        perturb(given.pop("texts"), **given)
