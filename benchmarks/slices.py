"""Are slices that are found weak? `python benchmarks/slices.py`

The texts are of invented words in 10 topics, half of them with one of three languages in a column.
A model's errors are drawn: on 10 % of the texts, or on 10 % everywhere and on 25 % of a planted
slice of a tenth of the rows (the shortest texts, those with a term, a topic, a language). No model
is trained. Prints in how many simulations a slice is called weak that is not, and in how many the
planted one is found: a slice is that has mostly its rows. Slices are suspected on as many rows as
they are tested on: on 3,000 others, as in notebook 07, or on half of 3,000. Takes a minute or two.
"""

import argparse

import numpy as np

from lib.evaluation.significance import share_interval
from lib.evaluation.slices import candidate_slices, weak_slices

N_TOPICS = 10
ERROR, MORE = 0.10, 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--simulations", type=int, default=200)
    options = parser.parse_args()
    for n_rows in (6_000, 3_000):
        texts, planted, languages = drawn_texts(n_rows)
        slices = candidate_slices(texts, columns={"language": languages})
        print(f"{slices.shape[1]} candidates; suspected on {n_rows // 2:,} rows, tested on as many")
        for name, rows in {"none planted": None, **planted}.items():
            found = [is_found(slices, rows, seed=seed) for seed in range(options.simulations)]
            share = share_interval(sum(found), len(found)).percent()
            bound = "at most 5 %" if rows is None else "at least 90 %"
            print(f"  {name:<20} {share:>24} of {len(found)} simulations   ({bound})")


def drawn_texts(n_rows: int) -> tuple[list[str], dict[str, np.ndarray], list[str]]:
    """Return texts, the slices of a tenth of them by name, and the texts' languages."""
    rng = np.random.default_rng(0)
    common = 1 / np.arange(1, 2_001)
    topic = rng.integers(0, N_TOPICS, n_rows)
    n_words = rng.lognormal(3.4, 0.7, n_rows).astype(int) + 2
    has_term = rng.random(n_rows) < 0.1
    texts = []
    for row in range(n_rows):
        share = common.copy()
        share[100 + 50 * topic[row] : 150 + 50 * topic[row]] *= 15
        words = [f"w{word}x" for word in rng.choice(2_000, n_words[row], p=share / share.sum())]
        texts.append(" ".join([*words, "planted"] if has_term[row] else words))
    languages = rng.choice(["one", "two", "three"], n_rows, p=[0.8, 0.1, 0.1])
    planted = {
        "the shortest": n_words <= np.quantile(n_words, 0.1),
        "those with a term": has_term,
        "a topic": topic == 0,
        "a language": languages == "two",
    }
    return texts, planted, languages.tolist()


def is_found(slices, planted: np.ndarray | None, *, seed: int) -> bool:
    """Return whether the planted slice is called weak; where none is planted, whether any is."""
    rng = np.random.default_rng(seed)
    n_rows = len(slices)
    risk = np.full(n_rows, ERROR) if planted is None else ERROR + MORE * planted
    right = rng.random(n_rows) >= risk
    suspecting = rng.permutation(n_rows) < n_rows // 2
    weak = weak_slices(slices, right, suspecting).weak.index
    if planted is None:
        return len(weak) > 0
    return any(planted[slices[name]].mean() > 0.5 for name in weak)


if __name__ == "__main__":
    main()
