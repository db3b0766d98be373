"""What `near_duplicate_pairs` promises, measured: `python benchmarks/duplicates.py`, two minutes of
one core.

Truth is the exact similarity of all pairs, from a product of sparse matrices; pairs beyond it must
be one typing error apart, and all planted errors found. datasketch (a
development dependency) is used as
its documentation advises: sketches from `MinHash.generator`, 128 permutations, the index set for
the threshold, every candidate
verified exactly; with its own SHA-1 and with CRC-32, the faster kind of hash that it advises. All
times are seconds of the
processor, the least of three where programs are compared, from texts to verified pairs. Printed are
ratios and counts.

Texts of the growth rows are synthetic: 10 to 20 words of a Zipf vocabulary of 50,000; of every ten
one is an earlier text with
its last word replaced, and one an earlier text in capitals. At the threshold 0.95 texts as short as
these match only whole, so
growth is shown at 0.8 as well.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from itertools import islice, product

import numpy as np
import pandas as pd
from datasketch import MinHash, MinHashLSH
from scipy.sparse import csr_array

from lib.config import Config
from lib.data.cleaning import clean_texts
from lib.data.duplicates import group_ids, near_duplicate_pairs
from lib.data.duplicates.units import units_of
from lib.data.sources import raw_table

SIZES, MEMORY_GB, HOSTILE = (20_000, 200_000, 1_000_000), 6, 20_000
LETTERS = "abcdefghijklmnopqrst"
Pairs = set[tuple[int, int]]


def main() -> None:
    planted = planted_texts(5_000, seed=1)
    rows = accuracy_rows("planted pairs", planted) + typing_error_rows(seed=3)
    with tempfile.TemporaryDirectory(prefix="workbook-bench-") as folder:
        os.environ["WORKBOOK_HOME"] = folder
        config = Config.load("quick")
        texts = clean_texts(
            raw_table(config)["text"].tolist(), settings=config.cleaning, workers=2
        ).texts
    seconds, against = against_datasketch(texts)
    rows += accuracy_rows("embedded data", texts) + against
    for threshold in (0.95, 0.8):
        rows += growth_rows(threshold)
    rows += hostile_rows(seconds)
    for name, value, bound in rows:
        print(f"{name:<100} {value:10.4g}   ({bound})")


def accuracy_rows(name: str, texts: list[str]) -> list[tuple[str, float, str]]:
    sets = [shingles(units(text)) for text in texts]
    truth = true_pairs(sets, 0.95)
    near_misses = len(true_pairs(sets, 0.90)) - len(truth)
    pairs = near_duplicate_pairs(texts)
    found = pairs_of(pairs)
    typed = {(i, j) for i, j in found - set(truth) if differ_by_an_error(texts[i], texts[j])}
    error = max(
        (
            truth[i, j] - similarity  # a typing error may be more similar
            for i, j, similarity in pairs.itertuples(index=False)
            if (i, j) in truth
        ),
        default=0.0,
    )
    name = (
        f"{name} ({len(texts):,} texts; {len(truth):,} pairs from 0.95 on, {near_misses:,} "
        "from 0.90 to 0.95)"
    )
    return [
        (f"{name}: recall", len(found & set(truth)) / len(truth), "1"),
        ("  precision", len(found & set(truth) | typed) / len(found), "1"),
        (
            f"  pairs that one typing error makes ({len(typed)}): share of those found",
            len(typed) / len(found),
            "-",
        ),
        ("  largest error of a similarity", error, "0"),
    ]


def against_datasketch(texts: list[str]) -> tuple[float, list[tuple[str, float, str]]]:
    """Return the seconds that the join took, and the rows of the comparison."""
    truth = set(true_pairs([shingles(words(text)) for text in texts], 0.95))
    ours = theirs = quick = np.inf
    for _ in range(3):
        ours = min(ours, timed(near_duplicate_pairs, texts)[0])
        seconds, by_sha1 = timed(datasketch_pairs, texts, None)
        theirs = min(theirs, seconds)
        seconds, by_crc = timed(datasketch_pairs, texts, zlib.crc32)
        quick = min(quick, seconds)
    return ours, [
        ("seconds of datasketch / ours, its hash SHA-1", theirs / ours, ">= 10"),
        (
            "seconds of datasketch / ours, its hash CRC-32 in place of SHA-1",
            quick / ours,
            "no bound: not its own hash",
        ),
        ("recall of datasketch, its hash SHA-1", len(by_sha1 & truth) / len(truth), "<= ours"),
        ("recall of datasketch, its hash CRC-32", len(by_crc & truth) / len(truth), "<= ours"),
    ]


def growth_rows(threshold: float) -> list[tuple[str, float, str]]:
    (few, some, many), peaks = zip(*[in_process("growth", n, threshold) for n in SIZES])
    bits = f"threshold {threshold}: exponent of growth"
    return [
        (
            f"{bits}, {SIZES[0]:,} to {SIZES[1]:,} short texts",
            np.log(some / few) / np.log(SIZES[1] / SIZES[0]),
            "<= 1.25",
        ),
        (
            f"{bits}, {SIZES[1]:,} to {SIZES[2]:,} short texts",
            np.log(many / some) / np.log(SIZES[2] / SIZES[1]),
            "<= 1.25",
        ),
        (f"  peak memory at {SIZES[2]:,} / {MEMORY_GB} GB", peaks[-1] / MEMORY_GB / 1e9, "<= 1"),
    ]


def hostile_rows(ordinary: float) -> list[tuple[str, float, str]]:
    rows = []
    for shape, (n, _) in SHAPES.items():
        seconds, peak = in_process(shape, n, 0.95)
        rows.append(
            (
                f"{n:,} texts, {shape}: seconds a text / of the embedded data",
                seconds / n / (ordinary / 20_000),
                "<= 10",
            )
        )
        rows.append((f"  peak memory / {MEMORY_GB} GB", peak / MEMORY_GB / 1e9, "<= 1"))
    return rows


def in_process(shape: str, n: int, threshold: float) -> tuple[float, int]:
    """Return seconds and the peak of memory in bytes of the join of `n` texts in a process of its
    own (Linux counts its parent's peak as the least)."""
    done = subprocess.run(
        [sys.executable, __file__, shape, str(n), str(threshold)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)


def join_alone(shape: str, n: int, threshold: float) -> None:
    """Print what `in_process` reads, and check that the groups are those that the shape must
    have."""
    texts = short_texts(n, seed=2) if shape == "growth" else SHAPES[shape][1](n)
    seconds, pairs = timed(lambda: near_duplicate_pairs(texts, threshold=threshold))
    if shape != "growth":
        n_groups = group_ids(n, pairs).max() + 1
        assert n_groups == (1 if shape in ONE_GROUP else n), f"{shape}: {n_groups} groups"
    print(
        seconds,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024),
    )


def numbered(name: str, n: int) -> str:
    return " ".join(f"{name}{k}" for k in range(n))


ONE_GROUP = (
    "all identical",
    "equal but for the last of 60 words",
    "equal but for a code of 4 letters",
)
SHAPES: dict[str, tuple[int, Callable[[int], list[str]]]] = {
    "all identical": (
        1_000_000,
        lambda n: ["The same twelve words in each of a great many identical texts."] * n,
    ),
    "equal but for the last of 60 words": (
        HOSTILE,
        lambda n: [f"{numbered('w', 59)} own{i}" for i in range(n)],
    ),
    "equal but for a code of 4 letters": (
        HOSTILE,
        lambda n: [
            f"the parcel with the code {''.join(code)} has come"
            for code in islice(product(LETTERS, repeat=4), n)
        ],
    ),
    "equal but for a word amid 100": (
        HOSTILE,
        lambda n: [f"{numbered('w', 50)} own{i} {numbered('v', 49)}" for i in range(n)],
    ),
    "a header of 3 words before 20": (
        HOSTILE,
        lambda n: [f"all rights reserved {numbered(f'own{i}x', 20)}" for i in range(n)],
    ),
    "50 words of boilerplate before 5": (
        HOSTILE,
        lambda n: [f"{numbered('w', 50)} {numbered(f'own{i}x', 5)}" for i in range(n)],
    ),
}


def timed(function: Callable, *values: object) -> tuple[float, pd.DataFrame]:
    started = time.process_time()
    result = function(*values)
    return time.process_time() - started, result


def pairs_of(pairs: pd.DataFrame) -> Pairs:
    return set(zip(pairs["i"].tolist(), pairs["j"].tolist()))


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def spelling(text: str) -> str:
    found = units_of([text])
    return "".join(map(chr, found.letters[: found.size[0]].tolist()))


def units(text: str) -> list[str]:
    found = units_of([text])
    spelt = "".join(map(chr, found.letters.tolist()))
    return [spelt[start:stop] for start, stop in zip(found.first, found.stop)]


def shingles(units: list[str]) -> frozenset[bytes]:
    rows = zip(units, units[1:], units[2:]) if len(units) > 2 else [units] if units else []
    return frozenset(" ".join(row).encode() for row in rows)


def differ_by_an_error(one: str, other: str) -> bool:
    a, b = spelling(one), spelling(other)
    start = shared_start(a, b)
    end = shared_start(a[start:][::-1], b[start:][::-1])
    a, b = a[start : len(a) - end], b[start : len(b) - end]
    return {len(a), len(b)} in ({0, 1}, {1}) or (len(a) == 2 and a == b[::-1])


def shared_start(a: str, b: str) -> int:
    differing = (i for i, (c, d) in enumerate(zip(a, b)) if c != d)
    return next(differing, min(len(a), len(b)))


def typing_error_rows(*, seed: int) -> list[tuple[str, float, str]]:
    """20,000 texts of 30 to 100 letters and blanks; to each a copy with one error at a random
    place."""
    rng = np.random.default_rng(seed)
    texts, copies = [], []
    for n in rng.integers(30, 101, 20_000).tolist():
        letters = rng.choice(list("etaoin shrdlu"), n).tolist()
        place, kind = int(rng.integers(n - 1)), rng.integers(4)
        new = [[], [letters[place], "q"], ["q"], letters[place : place + 2][::-1]][kind]
        copy = [*letters[:place], *new, *letters[place + 1 + (kind == 3) :]]
        texts.append(f"x{''.join(letters)}x")
        copies.append(f"x{''.join(copy)}x")
    found = pairs_of(near_duplicate_pairs([*texts, *copies]))
    spelt = [spelling(text) for text in [*texts, *copies]]
    planted = {
        (k, k + 20_000) for k in range(20_000) if differ_by_an_error(spelt[k], spelt[k + 20_000])
    }
    return [
        (
            f"planted typing errors ({len(planted):,} copies of 20,000 texts): recall",
            len(planted & found) / len(planted),
            "1",
        ),
        (
            "  precision",
            sum(spelt[i] == spelt[j] or differ_by_an_error(spelt[i], spelt[j]) for i, j in found)
            / len(found),
            "1",
        ),
    ]


def true_pairs(sets: list[frozenset[bytes]], threshold: float) -> dict[tuple[int, int], float]:
    """Return the similarity of each pair at or above `threshold`, by brute force; of equal sets the
    first stands for the rest."""
    first: dict[frozenset[bytes], int] = {}
    pairs = {(first.setdefault(s, i), i): 1.0 for i, s in enumerate(sets) if s}
    pairs = {pair: 1.0 for pair in pairs if pair[0] != pair[1]}
    columns: dict[bytes, int] = {}
    codes = [[columns.setdefault(shingle, len(columns)) for shingle in s] for s in first]
    sizes, positions = np.array([len(s) for s in first]), np.array(list(first.values()))
    matrix = csr_array(
        (
            np.ones(sizes.sum(), dtype=np.int32),
            np.concatenate(codes),
            np.append(0, np.cumsum(sizes)),
        ),
        shape=(len(sizes), len(columns)),
    )
    for start in range(0, len(sizes), 500):
        shared = (matrix[start : start + 500] @ matrix.T).tocoo()
        a, b = shared.row + start, shared.col
        similarity = shared.data / (sizes[a] + sizes[b] - shared.data)
        kept = (a < b) & (similarity >= threshold - 1e-12)
        pairs |= dict(
            zip(
                zip(positions[a[kept]].tolist(), positions[b[kept]].tolist()),
                similarity[kept].tolist(),
            )
        )
    return pairs


def datasketch_pairs(texts: list[str], hashfunc: Callable | None) -> Pairs:
    sets = [shingles(words(text)) for text in texts]
    index = MinHashLSH(threshold=0.95, num_perm=128)
    pairs: Pairs = set()
    for i, sketch in enumerate(MinHash.generator(sets, num_perm=128, hashfunc=hashfunc)):
        pairs.update((j, i) for j in index.query(sketch))
        index.insert(i, sketch, check_duplication=False)
    return {
        (i, j)
        for i, j in pairs
        if sets[i] and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.95 - 1e-12
    }


def zipf_words(n: int, seed: int) -> list[str]:
    ranks = np.arange(1, 50_001)
    return [
        f"w{k}"
        for k in np.random.default_rng(seed)
        .choice(ranks, size=n, p=1 / ranks / (1 / ranks).sum())
        .tolist()
    ]


def planted_texts(n: int, *, seed: int) -> list[str]:
    """Half of the texts have 20 to 200 words; each of the rest is one of them with up to 10 % of
    its words cut off, replaced or added at the end."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 201, n // 2)
    words, ends = zipf_words(int(lengths.sum()) + 20 * n, seed), np.cumsum(lengths)
    texts = [words[end - length : end] for end, length in zip(ends, lengths)]
    for k in rng.integers(0, n // 2, n - n // 2):
        text, edited = texts[k], int(rng.integers(0, len(texts[k]) // 10 + 1))
        fresh = [words[ends[-1] + i] for i in rng.integers(0, 20 * n, edited)]
        texts.append(
            [text[: len(text) - edited], text[: len(text) - edited] + fresh, text + fresh][
                rng.integers(3)
            ]
        )
    return [" ".join(text) for text in texts]


def short_texts(n: int, *, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(10, 21, n)
    words, ends = zipf_words(int(lengths.sum()), seed), np.cumsum(lengths)
    texts = [" ".join(words[end - length : end]) for end, length in zip(ends, lengths)]
    for i in range(10, n, 10):
        texts[i] = texts[rng.integers(i)].rsplit(" ", 1)[0] + f" new{i}"
        texts[i + 1] = texts[rng.integers(i)].upper()
    return texts


if __name__ == "__main__":
    if sys.argv[1:]:
        join_alone(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
