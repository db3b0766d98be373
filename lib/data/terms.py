"""Terms of texts in any script, and TF-IDF of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import regex
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm import tqdm

from lib.data.words import has_unspaced, is_unspaced, runs, words

NGRAM_CHARACTERS = 3  # in the longest n-gram
FEW_TERMS = 3  # of half of the texts; where they have fewer, their characters say more
MANY_TEXTS = 500  # from which on a term of one text alone is left out
_SAMPLE = 1_000  # texts that show whether words carry
_CHARACTER = regex.compile(r"\X")  # with its marks and joiners


def single_terms(text: str) -> list[str]:
    """Return the terms of a text in lower case, each as often as it occurs.

    They are words of two letters or more and, in scripts without blanks, n-grams of characters. A
    text with neither gives n-grams of the characters that it has.

    Examples
    --------
    >>> single_terms("A good 东京!"), single_terms("😀!")
    (['good', '东', '京', '东京'], ['😀', '!', '😀!'])
    """
    long_words, ngrams = _words_and_ngrams(text)
    return [*long_words, *ngrams] or character_ngrams(text)


def terms(text: str) -> list[str]:
    """Return the single terms of a text, and pairs of neighbouring words of two letters or more.

    Examples
    --------
    >>> terms("A very good film")
    ['very', 'good', 'film', 'very good', 'good film']
    """
    long_words, ngrams = _words_and_ngrams(text)
    pairs = map(" ".join, pairwise(long_words))
    return [*long_words, *pairs, *ngrams] or character_ngrams(text)


def terms_and_characters(text: str) -> list[str]:
    """Return the terms of a text and the n-grams of all its characters."""
    return [*terms(text), *character_ngrams(text)]


def character_ngrams(text: str) -> list[str]:
    """Return the n-grams of a text's characters in lower case; that of an empty text is ""."""
    characters = _CHARACTER.findall(" ".join(text.lower().split()))
    return _ngrams(characters) or [""]


def _words_and_ngrams(text: str) -> tuple[list[str], list[str]]:
    text = text.lower()
    if not has_unspaced(text):
        return [word for word in words(text) if len(word) > 1], []
    long_words = []
    ngrams = []
    for run in runs(text):
        if is_unspaced(run):
            ngrams += _ngrams(words(run))
        elif len(run) > 1:
            long_words.append(run)
    return long_words, ngrams


def _ngrams(units: Sequence[str]) -> list[str]:
    ngrams = list(units)
    for n in range(2, NGRAM_CHARACTERS + 1):
        shifted = [units[start:] for start in range(n)]
        ngrams += map("".join, zip(*shifted))
    return ngrams


ANALYZERS: dict[str, Callable[[str], list[str]]] = {
    "terms": terms,
    "terms_and_characters": terms_and_characters,
}


def fit_tfidf(
    texts: Sequence[str], *, max_terms: int | None = None, progress: bool = False
) -> tuple[TfidfVectorizer, csr_matrix]:
    """Fit TF-IDF of the texts' terms, and return it with the texts' matrix.

    Where words do not carry (half of the texts have fewer than `FEW_TERMS` terms: emoji, single
    letters, names), n-grams of all characters join the vocabulary.

    Parameters
    ----------
    texts : at least one
    max_terms : commonest terms that are kept; None keeps all
    """
    options = {"max_features": max_terms, "min_df": 2 if len(texts) >= MANY_TEXTS else 1}
    analyzer = "terms" if _words_carry(texts) else "terms_and_characters"
    vectorizer = _tfidf(analyzer, **options)
    bar = partial(tqdm, texts, "TF-IDF", unit="text", disable=not progress)
    try:
        return vectorizer, vectorizer.fit_transform(bar())
    except ValueError:  # no two texts have a term in common
        vectorizer = _tfidf("terms_and_characters", max_features=max_terms)
        return vectorizer, vectorizer.fit_transform(bar())


def restored_tfidf(analyzer: str, *, terms: Sequence[str], idf: np.ndarray) -> TfidfVectorizer:
    """Return a TF-IDF as `fit_tfidf` returned it.

    Parameters
    ----------
    analyzer : one of `ANALYZERS`
    terms : the vocabulary, in the order of the columns
    idf : the weight of each
    """
    vectorizer = _tfidf(analyzer, vocabulary=terms)
    vectorizer.idf_ = idf
    return vectorizer


def _words_carry(texts: Sequence[str]) -> bool:
    step = -(-len(texts) // _SAMPLE)
    n_terms = [sum(map(len, _words_and_ngrams(text))) for text in texts[::step]]
    return bool(np.median(n_terms) >= FEW_TERMS)


def _tfidf(analyzer: str, **options: Any) -> TfidfVectorizer:
    return TfidfVectorizer(
        analyzer=ANALYZERS[analyzer],
        token_pattern=None,
        sublinear_tf=True,
        dtype=np.float32,
        **options,
    )
