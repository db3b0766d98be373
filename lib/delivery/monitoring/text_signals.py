"""What a log keeps of a text instead of the text: a few numbers, computed when it is predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import regex
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD

from lib.data.cleaning import clean_texts
from lib.data.terms import single_terms
from lib.data.words import count_words, words
from lib.robustness.ood import SPARSE, OodScores
from lib.training.classifier import Classifier

DIMENSIONS = 16  # of the embedding
SCRIPT_CHARACTERS = 200  # of a text that tell its script
NO_LETTERS = "no letters"
# Common words that hardly any other of these languages has. A detector (lingua) takes 1 to 2 ms a
# text, which is more than a linear classifier does, and all this 0.02 ms.
COMMON_WORDS = {
    "English": "the of and is that with for this",
    "German": "der und das ist nicht mit ein von",
    "French": "le les est et des une dans pour",
    "Spanish": "el los y por con las una para",
    "Italian": "il che di della per non sono gli",
}
_LANGUAGE_OF = {word: name for name, common in COMMON_WORDS.items() for word in common.split()}
_SCRIPTS = ["Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Thai", "Hangul"]
_SCRIPTS += ["Hiragana", "Han"]
_PATTERNS = {script: regex.compile(rf"\p{{sc={script}}}") for script in _SCRIPTS}


class TextSignals:
    """Computes the signals of texts for a classifier.

    Without its `ood` there is neither `unknown_share` nor `embedding`.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._cleaning = classifier.cleaning
        self._ood = classifier.ood
        self._axes = None if classifier.ood is None else _axes(classifier.ood)

    def columns(self, texts: Sequence[Any]) -> dict[str, list[Any]]:
        """Return the signals of n raw texts, a list of n values each.

        - `n_characters`: of the text as it came; 0 where it is no text
        - `n_words`: of the cleaned text
        - `language`: by common words where the script is Latin, else the script
        - `unknown_share`: of the cleaned text's different terms, those that the training texts
          lack, 0..1; None where there are no words
        - `embedding`: TF-IDF on the main axes of the training texts (latent semantic analysis), a
          list of at most 16 numbers; None where there are no words
        """
        cleaned = clean_texts(texts, settings=self._cleaning).texts
        signals: dict[str, list[Any]] = {
            "n_characters": [len(text) if isinstance(text, str) else 0 for text in texts],
            "n_words": [count_words(text) for text in cleaned],
            "language": [language(text) for text in cleaned],
        }
        if self._ood is not None and self._axes is not None:
            vocabulary = self._ood.tfidf.vocabulary_
            signals["unknown_share"] = [_unknown_share(text, vocabulary) for text in cleaned]
            vectors = self._ood.tfidf.transform(cleaned) @ self._axes
            rounded = np.round(vectors.astype(float), 4).tolist()
            signals["embedding"] = [row if text else None for row, text in zip(rounded, cleaned)]
        return signals

    def table(self, texts: Sequence[Any]) -> pd.DataFrame:
        """Return the signals of n raw texts as a table of n rows."""
        return pd.DataFrame(self.columns(texts))


def language(text: str) -> str:
    """Return a guess at the language of a text, or its script where that is all that is told.

    Examples
    --------
    >>> [language(text) for text in ("the end of it", "das Ende ist nah", "до свидания", "42")]
    ['English', 'German', 'Cyrillic', 'no letters']
    """
    head = text[:SCRIPT_CHARACTERS]
    n_letters = {script: len(pattern.findall(head)) for script, pattern in _PATTERNS.items()}
    script, n = max(n_letters.items(), key=itemgetter(1))
    if script != "Latin" or n == 0:
        return script if n else NO_LETTERS
    found = Counter(_LANGUAGE_OF[word] for word in words(text.lower()) if word in _LANGUAGE_OF)
    return found.most_common(1)[0][0] if found else script


def _axes(ood: OodScores) -> np.ndarray | None:
    """Return the main axes of the training texts: ndarray of shape (n_terms, k)."""
    shape = (len(ood.arrays["indptr"]) - 1, len(ood.arrays["idf"]))
    matrix = csr_matrix(tuple(ood.arrays[name] for name in SPARSE), shape)
    k = min(DIMENSIONS, min(shape) - 1)
    if k < 1:
        return None
    # exact, so that the same classifier has the same axes on every machine
    return TruncatedSVD(k, algorithm="arpack", random_state=0).fit(matrix).components_.T


def _unknown_share(text: str, vocabulary: dict[str, int]) -> float | None:
    if not text:
        return None
    terms = set(single_terms(text))
    return round(sum(term not in vocabulary for term in terms) / len(terms), 4)
