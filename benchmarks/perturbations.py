"""Every perturbation on 20,000 short texts: `python benchmarks/perturbations.py`.

The texts are the beginnings of newsgroup posts. A kind is timed by its own processor time, at its
highest severity.
"""

import itertools
import time

import newsgroups
import pandas as pd

from lib.robustness.perturbations import KINDS, perturb

N_TEXTS = 20_000
N_CHARS = 300


def main() -> None:
    if not newsgroups.FILE.exists():
        print(newsgroups.MISSING)
        return
    posts = pd.read_parquet(newsgroups.FILE, columns=["text"])["text"].str.slice(0, N_CHARS)
    beginnings = itertools.islice(itertools.cycle(posts.tolist()), N_TEXTS)
    texts = [f"{number} {beginning}" for number, beginning in enumerate(beginnings)]
    seconds = {kind: seconds_of(kind, texts) for kind in KINDS}
    slowest = max(seconds, key=seconds.__getitem__)
    print(f"{len(texts):,} texts of {sum(map(len, texts)) / len(texts):.0f} characters, severity 5")
    for kind, value in seconds.items():
        print(f"{kind:<70} {value:8.2f} s")
    print(f"{f'slowest: {slowest}':<70} {seconds[slowest]:8.2f} s (<= 10)")


def seconds_of(kind: str, texts: list[str]) -> float:
    started = time.process_time()
    perturb(texts, kind=kind, severity=5, seed=42)
    return time.process_time() - started


if __name__ == "__main__":
    main()
