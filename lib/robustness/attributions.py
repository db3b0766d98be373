"""Which words an answer rests on: what becomes of its probability when they are left out."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from tqdm import tqdm

from lib.data.words import Span, word_spans
from lib.robustness.marking import Mark, MarkedTexts, titled, with_marks
from lib.robustness.prediction import Predict, checked
from lib.robustness.substitution import edited

FOR, AGAINST = "0, 114, 178", "213, 94, 0"  # blue and vermilion of Okabe and Ito 2008
_SHOWN_EFFECT = 0.005  # of the probability; smaller ones have no colour


@dataclass(frozen=True, eq=False)
class Attribution:
    """What the words of a text add to the probability of the class that it is given.

    Attributes
    ----------
    text : as it was
    predicted : the class
    confidence : its probability, 0..1
    parts : spans of words that were left out together; of a text with few words each is by itself
    effects : ndarray of shape (n_parts,), probability with the words minus without them, -1..1
    """

    text: str
    predicted: str
    confidence: float
    parts: list[list[Span]]
    effects: np.ndarray

    @property
    def answer(self) -> str:
        """Return the class and its probability as text."""
        return f"{self.predicted} ({self.confidence:.2f})"

    def describe(self) -> str:
        """Return in a line the answer and the parts that count most.

        Examples
        --------
        >>> Attribution("so bad", "neg", 0.9, [[(0, 2)], [(3, 6)]], np.array([0.0, 0.4])).describe()
        'neg (0.90): bad +0.40'
        """
        words = []
        for part in np.argsort(-np.abs(self.effects), kind="stable")[:5]:
            start, stop = self.parts[part][0][0], self.parts[part][-1][1]
            if abs(self.effects[part]) >= _SHOWN_EFFECT:
                words.append(f"{self.text[start:stop][:40]} {self.effects[part]:+.2f}")
        return f"{self.answer}: {', '.join(words) or 'no word by itself changes it'}"

    def marks(self) -> list[Mark]:
        """Return each word that counts, coloured by what it adds: blue for the class, else red."""
        largest = float(np.abs(self.effects).max(initial=_SHOWN_EFFECT))
        marks = []
        for spans, effect in zip(self.parts, self.effects):
            if abs(effect) < _SHOWN_EFFECT:
                continue
            colour = f"rgba({FOR if effect > 0 else AGAINST}, {0.6 * abs(effect) / largest:.2f})"
            tag = f'<span style="background: {colour}" title="{effect:+.3f}">'
            for start, stop in spans:
                marks.append((start, stop, f"{tag}{html.escape(self.text[start:stop])}</span>"))
        return marks


def leave_one_out(
    predict: Predict,
    texts: Sequence[str],
    *,
    class_names: Sequence[str],
    max_parts: int = 200,
    progress: bool = False,
) -> list[Attribution]:
    """Return for each text what each word adds to the probability of the class it is given.

    Words that say the same thing twice hide each other: without one of them the other is still
    there.

    Parameters
    ----------
    predict : of raw texts; it is asked once for each part of a text, and once for the whole
    max_parts : of a text with more words, as many runs of neighbouring words are left out

    Source
    ------
    Li et al. 2016, "Understanding Neural Networks through Representation Erasure" (probabilities
    here, log-likelihoods there).
    """
    ask = checked(predict, n_classes=len(class_names))
    found = []
    for text in tqdm(texts, "attributions", unit="text", disable=not progress):
        parts = grouped(word_spans(text), max_parts)
        probs = ask([text, *(without(text, spans) for spans in parts)])
        code = int(probs[0].argmax())
        effects = probs[0, code] - probs[1:, code]
        confidence = float(probs[0, code])
        found.append(Attribution(text, class_names[code], confidence, parts, effects))
    return found


def shown(attributions: Sequence[Attribution]) -> MarkedTexts:
    """Return texts with their words coloured: blue adds to the class that is named, red takes away.

    The colours are full where the largest effect of a text is.
    """
    paragraphs = [titled(a.answer, with_marks(a.text, a.marks())) for a in attributions]
    lines = [attribution.describe() for attribution in attributions]
    return MarkedTexts("\n".join(paragraphs), "\n".join(lines))


def grouped(spans: Sequence[Span], n_groups: int) -> list[list[Span]]:
    """Return neighbouring spans in at most as many groups, of like size.

    Examples
    --------
    >>> grouped([(0, 1), (2, 3), (4, 5)], 2)
    [[(0, 1), (2, 3)], [(4, 5)]]
    """
    n = min(len(spans), n_groups)
    ends = np.linspace(0, len(spans), n + 1).round().astype(int)
    return [list(spans[start:stop]) for start, stop in pairwise(ends)]


def without(text: str, spans: Sequence[Span]) -> str:
    """Return a text without these parts of it.

    Examples
    --------
    >>> without("one two three", [(4, 8)])
    'one three'
    """
    return edited(text, dict.fromkeys(spans, ""))
