"""Changed copies of training texts: words inserted, deleted and swapped; each copy knows its parent and stays on its side of the split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.data.duplicates import group_ids, near_duplicate_pairs

COPY_COLUMNS = ["parent_id", "method", "text", "label", "group"]
WORD_EDITS = ("insert", "delete", "swap")


def edit_words(texts: Sequence[str], *, how: str, share: float = 0.1, seed: int = 42) -> list[str]:
    """Change a share of each text's words at random places; a text of one word comes back as it is.

    Parameters
    ----------
    how : "insert" puts words of the text in once more, "delete" leaves words out, "swap" exchanges pairs of words
    share : of the words, in (0, 1]; at least one word (or pair) changes, and one is always left

    Returns
    -------
    n texts, words (split at white space) joined by one blank. Which words change depends on `seed` and a text's position alone

    Source
    ------
    Wei and Zou 2019, "EDA: Easy Data Augmentation"; words are inserted from the text itself, as no thesaurus is asked for.

    Examples
    --------
    >>> edit_words(["one two three"], how="delete", share=0.3, seed=1)
    ['one three']
    """
    if how not in WORD_EDITS:
        raise ValueError(f"how must be one of {', '.join(WORD_EDITS)}, got {how!r}")
    return [_edited(text, how, share, np.random.default_rng([seed, place])) for place, text in enumerate(texts)]


def copies_of(parents: pd.DataFrame, texts: Sequence[str], *, method: str) -> pd.DataFrame:
    """Return changed texts as rows with their parents' label and group.

    Parameters
    ----------
    parents : with `row_id`, `text`, `label`, `group`
    texts : the changed text of each parent; "" where there is none

    Returns
    -------
    DataFrame with COPY_COLUMNS, without copies that are blank, equal to their parent, or equal to an earlier copy
    """
    table = parents[["row_id", "label", "group"]].rename(columns={"row_id": "parent_id"}).assign(method=method, text=list(texts))
    changed = [bool(new.strip()) and new.split() != old.split() for new, old in zip(texts, parents["text"])]
    return table.loc[changed, COPY_COLUMNS].drop_duplicates("text", ignore_index=True)


def near_held_out(copies: pd.DataFrame, held_out: Sequence[str], *, threshold: float = 0.95, shingle_words: int = 3) -> np.ndarray:
    """Return which copies became near-copies of a held-out text, by a chain of pairs too: ndarray of bool of shape (n_copies,).

    Parameters
    ----------
    held_out : texts of validation and test rows; no label is needed
    threshold, shingle_words : as for `near_duplicate_pairs`
    """
    texts = [*held_out, *copies["text"]]
    groups = group_ids(len(texts), near_duplicate_pairs(texts, threshold=threshold, shingle_words=shingle_words))
    return np.isin(groups[len(held_out) :], groups[: len(held_out)])


def with_copies(train: pd.DataFrame, copies: pd.DataFrame) -> pd.DataFrame:
    """Return the training rows and behind them the copies, whose `row_id` is their parent's.

    Raises
    ------
    ValueError : a copy whose parent is not among the training rows, or has another label or group: it would cross the split.
    """
    parents = train.set_index("row_id")[["label", "group"]].reindex(copies["parent_id"])
    stray = (parents["label"].to_numpy() != copies["label"].to_numpy()) | (parents["group"].to_numpy() != copies["group"].to_numpy())
    if stray.any():
        row = copies.iloc[int(np.argmax(stray))]
        raise ValueError(f"the copy of row {row['parent_id']} (label {row['label']!r}) has no such parent among the {len(train):,} training rows")
    added = copies.rename(columns={"parent_id": "row_id"})[["row_id", "text", "label", "group"]]
    return pd.concat([train[["row_id", "text", "label", "group"]], added], ignore_index=True)


def _edited(text: str, how: str, share: float, random: np.random.Generator) -> str:
    words = text.split()
    if len(words) < 2:
        return text
    n = max(1, round(share * len(words)))
    if how == "delete":
        gone = set(random.choice(len(words), min(n, len(words) - 1), replace=False).tolist())
        return " ".join(word for place, word in enumerate(words) if place not in gone)
    for _ in range(n):
        if how == "insert":
            words.insert(int(random.integers(len(words) + 1)), words[int(random.integers(len(words)))])
        else:
            one, other = random.choice(len(words), 2, replace=False)
            words[one], words[other] = words[other], words[one]
    return " ".join(words)
