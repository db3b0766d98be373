"""Near-duplicate pairs: texts with similar sets of shingles, or one typing error apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.data.duplicates.join import SLACK, prefix_join
from lib.data.duplicates.shingles import shingle_sets, shingles
from lib.data.duplicates.typing_errors import TypingErrors
from lib.data.duplicates.units import units_in_blocks

# below similarity 1, from which on a list of pairs serves groups alone; some 100 MB
MAX_PAIRS = 1_000_000


def near_duplicate_pairs(
    texts: Sequence[str],
    *,
    threshold: float = 0.95,
    shingle_words: int = 3,
    max_pairs: int = MAX_PAIRS,
) -> pd.DataFrame:
    """Find all pairs of texts with a similarity of `threshold` or more, by either of two rules.

    Shingles: the Jaccard similarity of the texts' sets of shingles, of `shingle_words` units in a
    row. A unit is a word in lower case; in scripts without blanks, a character; or a sign that
    changes the meaning (`units.units_of`). A text with fewer units is one shingle of them all.

    One typing error: two texts of `typing_errors.LONGEST` characters at most that become equal when
    one character is put in, left out, replaced, or changes places with the next have similarity 1 -
    1/n, where n is the number of characters of the longer: from 0.95 on, texts of 20 characters.
    Case does not count, and what is between units counts as one blank. Digits and signs are never
    a typing error: another number or emoji is another statement.

    The join is exact: no pair is missed and none is estimated. Texts without a unit are never
    paired. Of texts with the same shingles only the pairs (first, other) are listed, with
    similarity 1. The first stands for the rest in pairs with other texts, and of texts with the
    same units in the same order, the first in typing errors.

    Pairs of n near-copies of one another are n (n - 1) / 2. Once one of the rules has found
    `max_pairs` pairs below similarity 1, it adds only those that join what no chain of pairs joined
    before: the groups of `group_ids` are exact all the same. A list with fewer pairs below 1 than
    `max_pairs` is complete.

    Parameters
    ----------
    texts : n texts
    threshold : in (0.5, 1]
    max_pairs : pairs below similarity 1 from which on the list serves groups alone

    Returns
    -------
    DataFrame with `i` < `j` (positions) and `similarity` (the larger, where both rules found the
    pair), sorted by position

    Source
    ------
    Prefix, length and positional filters: Chaudhuri et al. 2006, "A Primitive Operator for
    Similarity Joins"; Bayardo et al. 2007; Xiao et al. 2008, "Efficient Similarity Joins for Near
    Duplicate Detection". The fallback and the search for typing errors are ours.
    """
    if not 0.5 < threshold <= 1:
        raise ValueError(f"threshold must be in (0.5, 1], got {threshold}")
    if shingle_words < 1:
        raise ValueError(f"shingle_words must be at least 1, got {shingle_words}")
    hashes = [np.zeros(0, dtype=np.uint64)]
    counts = [np.zeros(0, dtype=np.int64)]
    typing_errors = TypingErrors(threshold)
    for units in units_in_blocks(texts):
        hashes_of_block, counts_of_block = shingles(units, shingle_words)
        hashes.append(hashes_of_block)
        counts.append(counts_of_block)
        typing_errors.add(units)
    sets, signature = shingle_sets(np.concatenate(hashes), np.concatenate(counts))
    codes, _ = pd.factorize(signature)
    is_first = ~pd.Series(signature).duplicated().to_numpy()
    first = np.flatnonzero(is_first)[codes]
    same = np.flatnonzero(~is_first & (sets.size > 0))
    # one shingle more is the most similar that a set can find
    best = sets.size / (sets.size + 1)
    able = np.flatnonzero(is_first & (best >= threshold - SLACK))
    able = able[np.argsort(sets.size[able], kind="stable")]
    a, b, similarity = prefix_join(sets.take(able), threshold, max_pairs)
    c, d, typed = typing_errors.pairs(texts, max_pairs=max_pairs)
    differ = first[c] != first[d]
    i = np.concatenate([first[same], able[a], c[differ]])
    j = np.concatenate([same, able[b], d[differ]])
    table = pd.DataFrame({"i": np.minimum(i, j), "j": np.maximum(i, j)})
    table["similarity"] = np.concatenate([np.ones(len(same)), similarity, typed[differ]])
    table = table.sort_values(["i", "j", "similarity"])
    return table.drop_duplicates(["i", "j"], keep="last", ignore_index=True)
