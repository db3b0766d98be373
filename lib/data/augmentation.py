"""Changed copies of training texts: words inserted, deleted and swapped.

Each copy knows its parent and stays on its side of the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from lib.data.duplicates import group_ids, near_duplicate_pairs
from lib.data.words import is_unspaced, written_spans

COPY_COLUMNS = ["parent_id", "method", "text", "label", "group"]
WORD_EDITS = ("insert", "delete", "swap")


def edit_words(
    texts: Sequence[str], *, operation: str, share: float = 0.1, seed: int = 42
) -> list[str]:
    """Change a share of each text's words at random places; a text of one word comes back as it is.

    Parameters
    ----------
    operation : "insert" puts words of the text in once more, "delete" leaves words out, "swap"
        exchanges pairs of words
    share : of the words, in (0, 1]; at least one word (or pair) changes, and one is always left

    Returns
    -------
    n texts, words (of `words.written_spans`) joined by one blank, or by none next to characters of
    scripts without blanks. Which words change depends on `seed` and a text's position alone

    Source
    ------
    Wei and Zou 2019, "EDA: Easy Data Augmentation"; words are inserted from the text itself, as no
    thesaurus is needed for it.

    Examples
    --------
    >>> edit_words(["one two three"], operation="delete", share=0.3, seed=1)
    ['one three']
    """
    if operation not in WORD_EDITS:
        raise ValueError(f"operation must be one of {', '.join(WORD_EDITS)}, got {operation!r}")
    edited = []
    for row, text in enumerate(texts):
        random = np.random.default_rng([seed, row])
        edited.append(_edited(text, operation, share, random))
    return edited


def copies_of(parents: pd.DataFrame, texts: Sequence[str], *, method: str) -> pd.DataFrame:
    """Return changed texts as rows with their parents' label and group.

    Parameters
    ----------
    parents : with `row_id`, `text`, `label`, `group`
    texts : the changed text of each parent; "" where there is none

    Returns
    -------
    DataFrame with COPY_COLUMNS, without copies that are blank, equal to their parent, or equal to
    an earlier copy
    """
    table = parents[["row_id", "label", "group"]].rename(columns={"row_id": "parent_id"})
    table = table.assign(method=method, text=list(texts))
    is_changed = [
        bool(copy.split()) and copy.split() != text.split()
        for copy, text in zip(texts, parents["text"])
    ]
    return table.loc[is_changed, COPY_COLUMNS].drop_duplicates("text", ignore_index=True)


def near_held_out(
    copies: pd.DataFrame,
    held_out: Sequence[str],
    *,
    threshold: float = 0.95,
    shingle_words: int = 3,
) -> np.ndarray:
    """Return which copies became near-copies of a held-out text, by a chain of pairs too.

    Parameters
    ----------
    held_out : texts of validation and test rows; no label is needed
    threshold, shingle_words : as for `near_duplicate_pairs`

    Returns
    -------
    ndarray of bool of shape (n_copies,)
    """
    texts = [*held_out, *copies["text"]]
    pairs = near_duplicate_pairs(texts, threshold=threshold, shingle_words=shingle_words)
    groups = group_ids(len(texts), pairs)
    return np.isin(groups[len(held_out) :], groups[: len(held_out)])


def with_copies(train: pd.DataFrame, copies: pd.DataFrame) -> pd.DataFrame:
    """Return the training rows followed by the copies, whose `row_id` is their parent's.

    Raises
    ------
    ValueError : the parent of a copy is not among the training rows, or has another label or group:
        the copy would cross the split.
    """
    parents = train.set_index("row_id")[["label", "group"]].reindex(copies["parent_id"])
    is_stray = (parents.to_numpy() != copies[["label", "group"]].to_numpy()).any(axis=1)
    if is_stray.any():
        copy = copies.iloc[int(np.argmax(is_stray))]
        raise ValueError(
            f"the copy of row {copy['parent_id']} (label {copy['label']!r}) has no such parent "
            f"among the {len(train):,} training rows"
        )
    columns = ["row_id", "text", "label", "group"]
    added = copies.rename(columns={"parent_id": "row_id"})
    return pd.concat([train[columns], added[columns]], ignore_index=True)


def _edited(text: str, operation: str, share: float, random: np.random.Generator) -> str:
    words = [text[start:stop] for start, stop in written_spans(text)]
    if len(words) < 2:
        return text
    n = max(1, round(share * len(words)))
    if operation == "delete":
        deleted = set(random.choice(len(words), min(n, len(words) - 1), replace=False).tolist())
        return _joined([word for i, word in enumerate(words) if i not in deleted])
    for _ in range(n):
        if operation == "insert":
            position = int(random.integers(len(words) + 1))
            words.insert(position, words[int(random.integers(len(words)))])
        else:
            i, j = random.choice(len(words), 2, replace=False)
            words[i], words[j] = words[j], words[i]
    return _joined(words)


def _joined(words: Sequence[str]) -> str:
    if not any(map(is_unspaced, words)):
        return " ".join(words)
    text = words[0]
    for before, word in pairwise(words):
        blank = "" if is_unspaced(before) or is_unspaced(word) else " "
        text += blank + word
    return text
