"""The attacks of three papers as settings of one search, and what departs from the papers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lib.data.words import Span, run_spans, word_spans
from lib.errors import WorkbookError, quoted
from lib.robustness.attacks.candidates import Candidates, by_word, misspellings

Encode = Callable[[list[str]], np.ndarray]  # n texts -> (n, d)
Tagger = Callable[[list[str], list[Span]], Sequence[str]]  # the part of speech of a span of each


@dataclass(frozen=True)
class Recipe:
    """Settings of the search.

    All recipes rank words by how much the probability of the true class falls without them (as
    TextFooler does; BERT-Attack masks them, and a mask is no word to a `predict` of raw texts;
    DeepWordBug scores both halves of a text at each word). Then they replace one word after the
    other, by the candidate that lowers that probability most, until the answer is another one.

    Departures from the papers, all for the sake of queries: 10 candidates a word (TextFooler has
    50, BERT-Attack 48); words without which the probability does not fall stay; sentence similarity
    and part of speech are checked on candidates that would be taken, not on all; similarity is that
    of whole texts by the encoder that is handed in (the papers: the Universal Sentence Encoder on a
    window of words).

    Attributes
    ----------
    name : of the paper's attack
    n_candidates : of a word, that are tried
    min_similarity : cosine of the changed text with the original; 0 checks nothing
    max_changed : share of the words, 0..1
    max_words : of a text, whatever its length
    most_similar : among candidates that change the answer the most similar text is taken, else the
        one with the lowest probability
    edits_characters : candidates are misspellings; words of the same script without blanks are one
    """

    name: str
    n_candidates: int = 10
    min_similarity: float = 0.0
    max_changed: float = 1.0
    max_words: int = 1_000
    most_similar: bool = False
    edits_characters: bool = False

    def spans(self, text: str) -> list[Span]:
        """Return the words of a text as the recipe takes them."""
        return run_spans(text) if self.edits_characters else word_spans(text)


RECIPES = {
    # Jin et al. 2020, "Is BERT Really Robust?": synonyms, part of speech kept, similarity 0.7
    "textfooler": Recipe("TextFooler", min_similarity=0.7, most_similar=True),
    # Li et al. 2020, "BERT-ATTACK": a masked language model's words, similarity 0.2, 40 % of words
    "bert-attack": Recipe("BERT-Attack", min_similarity=0.2, max_changed=0.4),
    # Gao et al. 2018: edit distance 30, so that 15 words may have two letters swapped
    "deepwordbug": Recipe("DeepWordBug", n_candidates=4, max_words=15, edits_characters=True),
}


@dataclass(frozen=True, eq=False)
class Tools:
    """What is handed in about the language of the texts.

    Attributes
    ----------
    candidates : what a word may be replaced by; DeepWordBug has its own
    source : where they come from, for the reader
    encode : texts -> vectors whose cosine says how similar sentences are; None checks no similarity
    tagger : the part of speech of a word; a replacement has to have the same. None checks none
    kept : words that stay and that are not put in, in lower case (`candidates.kept_words`)
    """

    candidates: Candidates | None = None
    source: str = ""
    encode: Encode | None = None
    tagger: Tagger | None = None
    kept: frozenset[str] = frozenset()


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises
    ------
    WorkbookError : there is no such recipe.
    """
    if name not in RECIPES:
        raise WorkbookError(f"recipe is one of {', '.join(RECIPES)}, found {quoted(name)}")
    return RECIPES[name]


def candidates_of(recipe: Recipe, tools: Tools, *, seed: int) -> tuple[Candidates, str]:
    """Return the candidates of a recipe, and where they come from.

    Raises
    ------
    WorkbookError : the recipe needs candidates, and none were handed in.
    """
    if recipe.edits_characters:
        return by_word(misspellings(seed=seed)), "misspellings"
    if tools.candidates is None:
        raise WorkbookError(
            f"tools.candidates is None, and {recipe.name} replaces words: hand in a masked "
            "language model's, a thesaurus's or the neighbours of an encoder's embeddings"
        )
    return tools.candidates, tools.source or "candidates that were handed in"
