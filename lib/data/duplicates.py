"""Exact and near duplicates, contradicting labels, and the groups that must stay together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix, csr_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

# below similarity 1, from which on a list of pairs serves groups alone; some 100 MB
MAX_PAIRS = 1_000_000
# of the rolling hash of words; odd, so that it has an inverse modulo 2^64
_BASE = 0x9E3779B97F4A7C15
# odd constants (splitmix64, xxHash)
_MIXERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
_HASH_BITS = 58  # of a shingle's code; the five above say how common it is, the sign stays free
_NO_CODE = np.iinfo(np.int64).max  # larger than any code
_BLOCK = 1 << 17  # characters or shingles at a time: arrays that stay in the processor's cache
_CELLS = 1 << 22  # shingles compared at a time: some 200 MB
_SLACK = 1e-6  # of bounds that filter: what rounding lets through is computed exactly afterwards


@dataclass(frozen=True)
class _Sets:
    """Sets of shingles: `codes[begin[k] : begin[k] + size[k]]` is set k, rarest code first."""

    codes: np.ndarray
    begin: np.ndarray
    size: np.ndarray

    def take(self, chosen: np.ndarray) -> _Sets:
        size = self.size[chosen]
        return _Sets(self.codes[_ranges(self.begin[chosen], size)], np.cumsum(size) - size, size)

    def matrix(self) -> csr_array:
        """Return a row for each set, with ones in the columns of its codes.

        There is a column for each possible code; empty ones are not stored.
        """
        rows = np.append(self.begin, len(self.codes))
        ones = np.ones(len(self.codes), dtype=np.int8)
        return csr_array((ones, self.codes, rows), shape=(len(self.size), _NO_CODE))

    @cached_property
    def parity(self) -> np.ndarray:
        """64 bits for each set, each the parity of its shingles of one kind.

        Two sets differ by at least as many shingles as their parities by bits.
        """
        if not len(self.codes):
            return self.codes
        bits = np.left_shift(1, self.codes & 63)
        return np.bitwise_xor.reduceat(bits, self.begin)


@dataclass(frozen=True)
class _Prefixes:
    """The rarest shingles of each set, ascending by `owner`.

    Attributes
    ----------
    owner : the set of each entry
    room : shingles of the set from this one on: two sets share at most as many if this is the
        rarest that they share
    order : entries sorted by shingle, then by owner
    start, stop : `order[start:stop]` are an entry's partners, of later owners with the same shingle
    """

    owner: np.ndarray
    room: np.ndarray
    order: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def without_partners_of(self, group: np.ndarray) -> _Prefixes:
        """Return prefixes in which an entry has no partners if they all are of its own group."""
        groups = group[self.owner[self.order]]
        changes = np.flatnonzero(np.diff(groups)) + 1
        ends = np.append(changes, len(groups))
        run = np.searchsorted(ends, self.start - 1, side="right")
        joined = ends[run] >= self.stop
        return replace(self, stop=np.where(joined, self.start, self.stop))


def exact_duplicates(texts: Sequence[str | bytes]) -> np.ndarray:
    """Return the position of the first text equal to each: ndarray of int of shape (n,)."""
    first: dict[str | bytes, int] = {}
    return np.array([first.setdefault(text, i) for i, text in enumerate(texts)], dtype=np.int64)


def near_duplicate_pairs(
    texts: Sequence[str],
    *,
    threshold: float = 0.95,
    shingle_words: int = 3,
    max_pairs: int = MAX_PAIRS,
) -> pd.DataFrame:
    """Find all pairs of texts whose word shingles have a Jaccard similarity of `threshold` or more.

    Words are runs of letters, digits and `_`, in lower case. A shingle is `shingle_words` of them
    in a row. A text with fewer words is one shingle of them all. Texts without a word are never
    paired.

    The join is exact, by prefix filtering: no pair is missed and none is estimated. Of texts with
    the same shingles only the pairs (first, other) are listed, with similarity 1. The first stands
    for the rest in pairs with other texts.

    Pairs of n near-copies of one another are n (n - 1) / 2. Once `max_pairs` pairs below similarity
    1 are found, only those are added that join what no chain of pairs joined before: the groups of
    `group_ids` are exact all the same. A list with fewer pairs below 1 than `max_pairs` is
    complete.

    Parameters
    ----------
    texts : n texts
    threshold : in (0.5, 1]
    max_pairs : pairs below similarity 1 from which on the list serves groups alone

    Returns
    -------
    DataFrame with `i` < `j` (positions) and `similarity`, sorted by position

    Source
    ------
    Prefix, length and positional filters: Chaudhuri et al. 2006, "A Primitive Operator for
    Similarity Joins"; Bayardo et al. 2007; Xiao et al. 2008, "Efficient Similarity Joins for Near
    Duplicate Detection". The fallback is ours.
    """
    if not 0.5 < threshold <= 1:
        raise ValueError(f"threshold must be in (0.5, 1], got {threshold}")
    if shingle_words < 1:
        raise ValueError(f"shingle_words must be at least 1, got {shingle_words}")
    hashes, counts = _shingles(texts, shingle_words)
    sets, signature = _shingle_sets(hashes, counts)
    codes, _ = pd.factorize(signature)
    is_first = ~pd.Series(signature).duplicated().to_numpy()
    first = np.flatnonzero(is_first)[codes]
    same = np.flatnonzero(~is_first & (sets.size > 0))
    # one shingle more is the most similar that a set can find
    best = sets.size / (sets.size + 1)
    able = np.flatnonzero(is_first & (best >= threshold - _SLACK))
    able = able[np.argsort(sets.size[able], kind="stable")]
    a, b, similarity = _prefix_join(sets.take(able), threshold, max_pairs)
    i = np.concatenate([first[same], able[a]])
    j = np.concatenate([same, able[b]])
    table = pd.DataFrame({"i": np.minimum(i, j), "j": np.maximum(i, j)})
    table["similarity"] = np.concatenate([np.ones(len(same)), similarity])
    return table.sort_values(["i", "j"], ignore_index=True)


def group_ids(n: int, pairs: pd.DataFrame) -> np.ndarray:
    """Return a group number for each of `n` rows; rows joined by a chain of pairs share one.

    Examples
    --------
    >>> group_ids(4, pd.DataFrame({"i": [0], "j": [2]})).tolist()
    [0, 1, 0, 2]
    """
    return _components(pairs["i"].to_numpy(), pairs["j"].to_numpy(), n)


def without_rows(
    rows: pd.DataFrame, pairs: pd.DataFrame, gone: Sequence[bool]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that stay, renumbered, and the pairs (`i`, `j`: positions) between them."""
    stays = ~np.asarray(gone, dtype=bool)
    position = np.cumsum(stays) - 1
    left = pairs[stays[pairs["i"]] & stays[pairs["j"]]]
    renumbered = left.assign(i=position[left["i"]], j=position[left["j"]])
    return rows[stays].reset_index(drop=True), renumbered.reset_index(drop=True)


def conflicting_rows(labels: Sequence[str], groups: np.ndarray) -> np.ndarray:
    """Return the positions of all rows in groups that carry more than one label, ndarray of int."""
    table = pd.DataFrame({"label": list(labels), "group": groups})
    n_labels = table.groupby("group")["label"].transform("nunique")
    return np.flatnonzero(n_labels > 1)


def _shingles(texts: Sequence[str], shingle_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the 64-bit hashes of all shingles, text after text, and each text's number of them."""
    hashes = [np.zeros(0, dtype=np.uint64)]
    counts = [np.zeros(0, dtype=np.int64)]
    for start, stop in _blocks(_lengths(texts), _BLOCK):
        words, n_words = _words([text.lower() for text in texts[start:stop]])
        n_shingles = np.where(n_words > 0, np.maximum(n_words - shingle_words, 0) + 1, 0)
        rolled = _rolled(words, n_words, min(shingle_words, n_words.max()))
        first_word = np.cumsum(n_words) - n_words
        hashes.append(_mixed(rolled[_ranges(first_word, n_shingles)]))
        counts.append(n_shingles)
    return np.concatenate(hashes), np.concatenate(counts)


def _rolled(words: np.ndarray, n_words: np.ndarray, n_rolled: int) -> np.ndarray:
    """Return each word's hash rolled with those of the next ones of its text, `n_rolled` in all."""
    ends = np.repeat(np.cumsum(n_words), n_words)
    left = ends - np.arange(len(words))  # words from here to the end of the text
    rolled = words.copy()
    for offset in range(1, n_rolled):
        ahead = words[offset:]
        head = rolled[: len(ahead)]
        is_inside = left[: len(ahead)] > offset
        rolled[: len(ahead)] = np.where(is_inside, head * _MIXERS[1] + ahead, head)
    return rolled


def _lengths(texts: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))


def _words(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    r"""Return a 64-bit hash of each word (what `\w+` finds), and each text's number of words.

    Source: Karp & Rabin 1987. Prefix sums of letters times powers give every word's hash at once.
    """
    letters = _letters("\n".join(["", *texts, ""]))
    is_in_word = _word_letters(letters)[letters]
    # the last letter before each word and the last one of it, in turn
    edges = np.flatnonzero(np.diff(is_in_word))
    before, last = edges[::2], edges[1::2]
    powers, inverses = _powers(max(2 * _BLOCK, 1 << len(letters).bit_length()))
    sums = np.cumsum(letters * powers[: len(letters)])
    words = (sums[last] - sums[before]) * inverses[before]
    text_ends = np.cumsum(_lengths(texts) + 1)
    return words, np.diff(np.searchsorted(before, text_ends), prepend=0)


def _letters(text: str) -> np.ndarray:
    """Return the code points of a text."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _word_letters(letters: np.ndarray) -> np.ndarray:
    """Return for each code point that occurs whether words are made of it."""
    rare = np.flatnonzero(np.bincount(letters[letters > 127]))
    present = np.append(np.arange(128), rare)
    is_word_letter = np.zeros(present[-1] + 1, dtype=bool)
    characters = map(chr, present.tolist())
    is_word_letter[present] = [letter.isalnum() or letter == "_" for letter in characters]
    return is_word_letter


@lru_cache(maxsize=1)
def _powers(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first powers of the rolling hash's base and their inverses, modulo 2^64."""
    inverse = pow(_BASE, -1, 1 << 64)
    powers = np.cumprod(np.full(n, _BASE, dtype=np.uint64))
    inverses = np.cumprod(np.full(n, inverse, dtype=np.uint64))
    return powers, inverses


def _mixed(values: np.ndarray) -> np.ndarray:
    """Scatter 64-bit numbers (the finaliser of splitmix64)."""
    values = (values + _MIXERS[0]) * _MIXERS[1]
    values ^= values >> np.uint64(29)
    values *= _MIXERS[2]
    values ^= values >> np.uint64(32)
    return values


def _shingle_sets(hashes: np.ndarray, counts: np.ndarray) -> tuple[_Sets, np.ndarray]:
    """Return each text's set of shingles, and a number for each that equal sets have in common.

    A code leads with the logarithm of the number of shingles whose hashes end alike, so that a
    common one is never taken for rare. Two shingles share a code once in 3e17 pairs: for a million
    texts of one shingle each, the worst case, that is a false pair in one of 500,000 runs.
    """
    codes = _codes(hashes)
    order = np.argsort(counts, kind="stable")
    starts = np.cumsum(counts) - counts
    size = np.zeros_like(counts)
    signature = np.zeros_like(counts)
    kept = [codes[:0]]
    for rows in _rows(counts[order]):
        texts = order[rows]
        columns = np.arange(counts[texts[-1]])
        inside = columns < counts[texts, None]
        cells = codes.take(starts[texts, None] + columns, mode="clip")
        cells = np.where(inside, cells, _NO_CODE)
        cells.sort(axis=1)
        inside[:, 1:] &= cells[:, 1:] != cells[:, :-1]
        size[texts] = inside.sum(axis=1)
        signature[texts] = np.add.reduce(cells, axis=1, where=inside)
        kept.append(cells[inside])
    begin = np.zeros_like(counts)
    begin[order] = np.cumsum(size[order]) - size[order]
    return _Sets(np.concatenate(kept), begin, size), signature


def _codes(hashes: np.ndarray) -> np.ndarray:
    """Return each shingle's code: how common its slot is, then the leading bits of its hash."""
    slot_bits = min(24, len(hashes).bit_length())
    slots = (hashes & np.uint64((1 << slot_bits) - 1)).view(np.int64)
    n_in_slot = np.maximum(np.bincount(slots), 1)
    commonness = np.log2(n_in_slot).astype(np.uint8)[slots]
    leading = (hashes >> np.uint64(64 - _HASH_BITS)).view(np.int64)
    return commonness.astype(np.int64) << _HASH_BITS | leading


def _prefix_join(
    sets: _Sets, threshold: float, max_pairs: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a, b and similarity of the pairs of `sets` at or above `threshold`.

    The sets are in order of size.
    """
    prefixes = _prefixes(sets, threshold)
    n = len(sets.size)
    group = np.arange(n)
    nobody = np.zeros(0, dtype=np.int64)
    found = [(nobody, nobody, np.zeros(0))]
    n_found = at = 0
    while at < len(prefixes.owner):
        only_groups = n_found >= max_pairs
        if only_groups:
            prefixes = prefixes.without_partners_of(group)
        a, b, at = _candidates(sets, prefixes, at, threshold / (1 + threshold))
        if only_groups:
            apart = group[a] != group[b]
            a, b = a[apart], b[apart]
        similarity = _similarities(sets, a, b)
        kept = np.flatnonzero(similarity >= threshold - 1e-12)
        if only_groups:
            kept = kept[_forest(group[a[kept]], group[b[kept]], n)]
        found.append((a[kept], b[kept], similarity[kept]))
        n_found += len(kept)
        group = _components(group[a[kept]], group[b[kept]], n)[group]
    a, b, similarity = (np.concatenate(column) for column in zip(*found))
    return a, b, similarity


def _prefixes(sets: _Sets, threshold: float) -> _Prefixes:
    """Return the rarest shingles of each set, one of which any similar set has too.

    Their partners are those that the length and positional filters leave.
    """
    least_shared = np.ceil(threshold * sets.size - _SLACK).astype(np.int64)
    length = sets.size - least_shared + 1
    owner = np.repeat(np.arange(len(length)), length)
    position = _ranges(np.zeros_like(length), length)
    codes = sets.codes[sets.begin[owner] + position]
    common = codes >> _HASH_BITS > 0  # a shingle that came once in all texts has no partners
    owner, position, codes = owner[common], position[common], codes[common]
    size = sets.size[owner]
    room = size - position
    # the largest set with which all of this room would be enough
    most = sets.size.max(initial=0)
    largest = room * (1 + threshold) / threshold - size + _SLACK
    largest = np.minimum(largest, most).astype(np.int64)
    # sets come in order of size, and stay so within a code
    order = np.argsort(codes, kind="stable")
    is_new_code = np.diff(codes[order], prepend=codes[order][:1]) != 0
    key = np.cumsum(is_new_code) * (most + 1)
    start = np.empty_like(order)
    stop = np.empty_like(order)
    start[order] = np.arange(1, len(order) + 1)
    stop[order] = np.searchsorted(key + size[order], key + largest[order], side="right")
    return _Prefixes(owner, room, order, start, np.maximum(start, stop))


def _candidates(
    sets: _Sets, prefixes: _Prefixes, at: int, share: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return pairs a, b of owners that may have `share` of their sizes in common.

    Only some owners' prefixes are read, from entry `at` on; the third value is where to go on.
    """
    owner = prefixes.owner
    n_partners = prefixes.stop[at:] - prefixes.start[at:]
    cells = np.cumsum(n_partners * sets.size[owner[at:]])
    last = min(at + int(np.searchsorted(cells, _CELLS)), len(owner) - 1)
    # all of an owner's entries at once, so that no pair comes twice
    till = int(np.searchsorted(owner, owner[last], side="right"))
    n_partners = n_partners[: till - at]
    other = prefixes.order[_ranges(prefixes.start[at:till], n_partners)]
    a = np.repeat(owner[at:till], n_partners)
    b = owner[other]
    total = sets.size[a] + sets.size[b]
    has_room = prefixes.room[other] >= share * total - _SLACK
    spare = total - 2 * share * total + _SLACK  # shingles that only one of them may have
    near = has_room & (_n_bits(sets.parity[a] ^ sets.parity[b]) <= spare)
    n = len(sets.size)
    a, b = np.divmod(np.unique(a[near] * n + b[near]), max(1, n))
    return a, b, till


def _similarities(sets: _Sets, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the Jaccard similarity of the sets a[k] and b[k]."""
    total = sets.size[a] + sets.size[b]
    shared = [total[:0]]
    for start, stop in _blocks(total, _CELLS):
        first = sets.take(a[start:stop]).matrix()
        second = sets.take(b[start:stop]).matrix()
        shared.append(np.diff((first * second).indptr))
    both = np.concatenate(shared)
    return both / (total - both)


def _n_bits(values: np.ndarray) -> np.ndarray:
    """Count the bits that are set."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    of_byte = bits.sum(axis=1, dtype=np.uint8)
    return of_byte[values.view(np.uint8).reshape(-1, 8)].sum(axis=1)


def _forest(x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    """Return the positions of edges x[k], y[k] between `n` nodes that join all that they join."""
    keys = np.minimum(x, y).astype(np.int64) * n + np.maximum(x, y)
    edges, first = np.unique(keys, return_index=True)
    ends = np.divmod(edges, max(1, n))
    tree = minimum_spanning_tree(coo_matrix((first + 1.0, ends), shape=(n, n)))
    return np.sort(tree.data.astype(np.int64)) - 1


def _components(x: np.ndarray, y: np.ndarray, n: int) -> np.ndarray:
    """Return a number for each of `n` nodes: those joined by edges x[k], y[k] share one."""
    edges = coo_matrix((np.ones(len(x)), (x, y)), shape=(n, n))
    _, component = connected_components(edges, directed=False)
    return component


def _ranges(begin: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return begin[0], begin[0] + 1, ... length[0] numbers; then those of begin[1], and so on."""
    return np.repeat(begin - np.cumsum(length) + length, length) + np.arange(length.sum())


def _blocks(sizes: np.ndarray, limit: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of runs whose sizes add up to at most `limit`, or of a single item."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        end = ends[start] - sizes[start] + limit
        stop = max(start + 1, int(np.searchsorted(ends, end, side="right")))
        yield start, stop
        start = stop


def _rows(widths: np.ndarray) -> Iterator[slice]:
    """Yield slices of the ascending widths above 0, each a table of at most about `_BLOCK` cells.

    A table is as wide as its last row.
    """
    start = int(np.searchsorted(widths, 0, side="right"))
    while start < len(widths):
        some = widths[start : start + _BLOCK]
        cells = some * np.arange(1, len(some) + 1)
        n_rows = int(np.searchsorted(cells, _BLOCK, side="right"))
        stop = start + max(1, n_rows)
        yield slice(start, stop)
        start = stop
