import numpy as np
import pytest

from lib.errors import WorkbookError
from lib.robustness.attacks import by_word, kept_words, misspellings, nearest_words, thesaurus

LICENCE = "  1 This software and database is being provided to you\n"
FILES = {
    "data.noun": "00001740 03 n 02 film 0 motion_picture 0 001 @ 00001930 n 0000 | a film\n"
    "00001930 03 n 03 movie 0 film 1 picture 0 000 | a movie\n",
    "data.verb": "00002000 29 v 02 film 0 shoot 3 000 | record\n",
    "data.adj": "00003000 00 s 02 ready(p) 0 prepared 0 000 | about to\n",
    "data.adv": "00004000 02 r 01 very 0 000 | much\n",
}


@pytest.fixture
def wordnet(tmp_path):
    for name, lines in FILES.items():
        (tmp_path / name).write_text(LICENCE + lines)
    return tmp_path


def test_synonyms_share_a_sense(wordnet):
    found = by_word(thesaurus(wordnet))(["Film, ready? very"], [[(0, 4), (6, 11), (13, 17)]])
    assert found == [[["movie", "picture", "shoot"], ["prepared"], []]]


def test_a_folder_that_is_not_wordnets_is_named(wordnet):
    (wordnet / "data.adv").write_text("good: better\n")
    with pytest.raises(WorkbookError, match=r"line 1 of .*data\.adv is not WordNet's"):
        thesaurus(wordnet)
    (wordnet / "data.adv").unlink()
    with pytest.raises(WorkbookError, match=r"robustness\.thesaurus: .*data\.adv cannot be read"):
        thesaurus(wordnet)


def test_neighbours_are_ordered_by_cosine():
    words = ["good", "Good", "great", "bad", "table"]
    vectors = np.array([[2, 0], [0, 5], [3, 1], [1, 1], [-1, 0]], dtype=float)
    neighbours = nearest_words(words, vectors, n=2)
    assert (neighbours("good"), neighbours("oil")) == (["great", "bad"], [])
    assert nearest_words(words, vectors, n=9)("good") == ["great", "bad", "table"]


def test_class_names_and_stop_words_are_kept():
    kept = kept_words(["Deep-Learning", "数学"])
    assert {"deep", "learning", "数", "the"} <= kept
    assert "film" not in kept


def distance(a, b):
    """Levenshtein's, where two neighbours that change places count as two."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@pytest.mark.parametrize("word", ["ab", "abc", "movie", "aaaa", "東京都庁", "naïve"])
def test_misspellings_are_near(word):
    for seed in range(20):
        edits = [edit for edit in misspellings(seed=seed)(word) if edit != word]
        assert 1 <= len(edits) <= 4
        assert all(1 <= distance(word, edit) <= 2 for edit in edits)
