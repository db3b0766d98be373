from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from three_classes import linear_classifier

from lib.delivery.monitoring.text_signals import DIMENSIONS, TextSignals, language


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return linear_classifier(tmp_path_factory.mktemp("linear"))


def test_signals_are_those_of_the_text_as_it_is_read(classifier):
    columns = TextSignals(classifier).columns(["<p>the  crow &amp; a wombat </p>", None, "😀"])
    assert columns["n_characters"] == [32, 0, 1]
    assert columns["n_words"] == [5, 0, 0]  # the crow & a wombat
    assert columns["language"] == ["English", "no letters", "no letters"]
    assert columns["unknown_share"] == [pytest.approx(1 / 3, abs=1e-4), None, None]  # wombat
    assert columns["embedding"][1:] == [None, None]
    assert len(columns["embedding"][0]) == DIMENSIONS


def test_the_embedding_is_the_projection_on_the_training_texts_singular_vectors(classifier):
    ood = classifier.ood
    arrays = [ood.arrays[name] for name in ("data", "indices", "indptr")]
    matrix = csr_matrix(tuple(arrays), (120, len(ood.arrays["idf"]))).toarray()
    right = np.linalg.svd(matrix, full_matrices=False)[2][:DIMENSIONS]
    text = "the owl and the saw"
    expected = np.abs(ood.tfidf.transform([text]).toarray() @ right.T)[0]
    found = np.abs(TextSignals(classifier).columns([text])["embedding"][0])
    np.testing.assert_allclose(found[:4], expected[:4], atol=1e-3)
    assert expected[0] > 0.1


def test_the_same_texts_have_the_same_signals_alone_and_in_company(classifier):
    texts = ["the owl and the saw", "the plum of it", "a drill"]
    together = TextSignals(classifier).columns(texts)
    alone = [TextSignals(classifier).columns([text]) for text in texts]
    assert together == {name: [each[name][0] for each in alone] for name in together}


def test_a_classifier_without_ood_has_the_other_signals(classifier):
    columns = TextSignals(replace(classifier, ood=None)).columns(["the owl flew"])
    assert columns == {"n_characters": [12], "n_words": [3], "language": ["English"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("El perro come por la mañana y los gatos duermen", "Spanish"),
        ("Der Hund ist nicht von hier", "German"),
        ("これは日本語の文章です", "Hiragana"),
        ("这部电影很好", "Han"),
        ("Собака", "Cyrillic"),
        ("zzgl rtfm", "Latin"),
        ("", "no letters"),
    ],
)
def test_language_by_common_words_or_script(text, expected):
    assert language(text) == expected
