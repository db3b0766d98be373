import numpy as np
import pytest
from five_topics import SCRIPTS, topic_table
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from lib.data.terms import character_ngrams, fit_tfidf, restored_tfidf, terms

LATIN = ["The cat's 2 toys, THE cat", "a größe of 10% x", "déjà-vu is not a_b", "O_o ½ x² naïve"]


def test_terms_of_latin_texts_are_words_of_two_letters_and_their_pairs():
    analyze = TfidfVectorizer(ngram_range=(1, 2)).build_analyzer()
    assert [sorted(terms(text)) for text in LATIN] == [sorted(analyze(text)) for text in LATIN]


def test_tfidf_of_latin_texts_is_what_it_is_without_other_scripts():
    plain = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    vectorizer, matrix = fit_tfidf(LATIN)
    assert (matrix != plain.fit_transform(LATIN)).nnz == 0
    assert vectorizer.vocabulary_ == plain.vocabulary_


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("很好看", ["很", "好", "看", "很好", "好看", "很好看"]),
        ("我用 Python 写，好", ["python", "我", "用", "我用", "写", "好"]),
        ("데이터 분석", ["데이터", "분석", "데이터 분석"]),
        ("अच्छी बात", ["अच्छी", "बात", "अच्छी बात"]),
        ("ดีที่", ["ดี", "ที่", "ดีที่"]),
        ("😀😡", ["😀", "😡", "😀😡"]),
        ("A b", ["a", " ", "b", "a ", " b", "a b"]),
        ("  ", [""]),
    ],
)
def test_terms_are_ngrams_of_characters_where_there_are_no_words(text, found):
    assert terms(text) == found


@pytest.mark.parametrize("script", SCRIPTS)
def test_terms_tell_topics_in_any_script(script):
    table = topic_table(script, 300)
    texts, labels = table["text"].tolist(), table["label"]
    vectorizer, matrix = fit_tfidf(texts[:200])
    model = LogisticRegression(C=10).fit(matrix, labels[:200])
    assert (model.predict(vectorizer.transform(texts[200:])) == labels[200:]).mean() > 0.95


@pytest.mark.parametrize(
    "texts",
    [
        ["😀", "😡", "😀😀", "😡!"],
        list("abcabc"),
        ["x y z", "z z", "y"],
        ["", "  ", "\n"],
        ["..."],
        [f"{i:08x}" for i in range(600)],  # no two have a word in common
        [f"{i}a {i}b {i}c {i}d" for i in range(600)],
        ["Müller", "Meier", "Rossi", "Bianchi"],
    ],
    ids=str,
)
def test_no_texts_are_without_terms(texts):
    vectorizer, matrix = fit_tfidf(texts)
    assert matrix.shape == (len(texts), len(vectorizer.vocabulary_))
    assert matrix.getnnz(axis=1).min() > 0


def test_characters_join_the_vocabulary_where_most_texts_have_few_words():
    names = ["Anna Rossi", "Paul Müller"]
    vectorizer, _ = fit_tfidf(names)
    assert {"rossi", "anna rossi", "oss", "ül"} <= set(vectorizer.vocabulary_)
    vectorizer, _ = fit_tfidf([f"{name} is here" for name in names])
    assert "oss" not in vectorizer.vocabulary_


def test_rare_terms_are_left_out_of_many_texts_and_the_commonest_kept():
    texts = [f"common words here alone{i}" for i in range(500)]
    assert set(fit_tfidf(texts)[0].vocabulary_) == {"common", "words", "here", "common words"} | {
        "words here"
    }
    assert "here alone7" in fit_tfidf(texts[:499])[0].vocabulary_
    assert set(fit_tfidf(texts, max_terms=1)[0].vocabulary_) <= {"common", "words", "here"}


@pytest.mark.parametrize("texts", [LATIN, ["😀", "😡"], ["很好看", "真不错"]], ids=str)
def test_a_restored_tfidf_gives_the_same_matrix(texts):
    vectorizer, matrix = fit_tfidf(texts)
    names = vectorizer.get_feature_names_out().tolist()
    restored = restored_tfidf(vectorizer.analyzer.__name__, terms=names, idf=vectorizer.idf_)
    assert (restored.transform(texts) != matrix).nnz == 0


def test_marks_and_joiners_stay_with_their_character():
    assert character_ngrams("👩\u200d👧e\u0301") == ["👩\u200d👧", "e\u0301", "👩\u200d👧e\u0301"]
