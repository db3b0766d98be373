"""Texts of three classes, each with six words of its own, and scores that are fitted to them."""

import numpy as np

from lib.robustness.ood import fit_scores

WORDS = {
    "bird": "crow finch owl wren robin gull".split(),
    "fruit": "apple pear plum grape fig lime".split(),
    "tool": "saw drill nail screw plane file".split(),
}


def made(n, seed, classes=tuple(WORDS)):
    """Texts of four words of their class, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n).tolist()
    return [" ".join(rng.choice(WORDS[label], 4)) for label in labels], labels


def probs_of(texts):
    """A classifier that is as sure of a text as it has known words."""
    known = {word for words in WORDS.values() for word in words}
    share = [sum(word in known for word in text.split()) / len(text.split()) for text in texts]
    top = 1 / 3 + 0.6 * np.array(share)
    return np.stack([top, (1 - top) / 2, (1 - top) / 2], axis=1)


def fitted(classes=tuple(WORDS), **options):
    texts, labels = made(90, 1, classes)
    held_out, _ = made(60, 2, classes)
    options = {"held_out_probs": probs_of(held_out), **options}
    return fit_scores(texts, labels, held_out, **options), texts, labels, held_out
