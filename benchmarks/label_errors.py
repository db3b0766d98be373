"""Label errors in newsgroup posts, planted where they are hard to see: who finds how many? `python benchmarks/label_errors.py`

5,000 message bodies, 5 % and 10 % of the labels made wrong towards classes that TF-IDF confuses them with, three seeds. Plain
cleanlab is 1 minus the out-of-fold probability of the given label by TF-IDF and logistic regression. Prints the area under
precision against recall (AUPRC) of each detector and gains in points, with 95 % intervals over seeds; errors that the posts had
before count as false alarms. Takes some ten minutes on two cores, a third of it the encoder's.
"""

import argparse
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import newsgroups
import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import average_precision_score

from lib.config import LabelsConfig
from lib.data import duplicates, sources
from lib.review import laboratory
from lib.review.labels import confusion_rates, inject_label_noise
from lib.review.laboratory import COMBINED, PLAIN

RATES, PROMISED_GAIN = (0.05, 0.10), 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if not newsgroups.FILE.exists():
        print(newsgroups.MISSING)
        return
    started = time.perf_counter()
    posts = sources.sample_rows(newsgroups.posts(), options.rows, seed=42)
    scores = pd.concat(
        [scores_of(*case) for case in cases(posts, n_seeds=options.seeds)], ignore_index=True
    )
    print(
        f"\n{len(posts):,} posts, {posts['label'].nunique()} classes, {options.seeds} seeds, {time.perf_counter() - started:.0f} s"
    )
    report(scores)


def cases(posts: pd.DataFrame, *, n_seeds: int):
    """Yield the rate, the seed, noisy labels, which of them are wrong, and what each detector thinks."""
    texts, classes, settings = (
        posts["text"].tolist(),
        sorted(posts["label"].unique()),
        LabelsConfig(),
    )
    codes = pd.Categorical(posts["label"], categories=classes).codes.astype(int)
    groups = duplicates.group_ids(len(texts), duplicates.near_duplicate_pairs(texts))
    vectors = laboratory.encoder_vectors(
        "minilm", texts, max_length=settings.encoder_tokens, progress=False
    )
    views = laboratory.views(texts, vectors=vectors)
    own = laboratory.judge({PLAIN: views[PLAIN]}, codes, groups, n_classes=len(classes))[PLAIN]
    print(
        f"{len(texts):,} posts; TF-IDF gives {(own.argmax(axis=1) == codes).mean():.1%} of the labels as they came"
    )
    for rate in RATES:
        for seed in range(42, 42 + n_seeds):
            noisy, planted = inject_label_noise(
                codes,
                rate=rate,
                n_classes=len(classes),
                confusion=confusion_rates(codes, own),
                seed=seed,
            )
            yield (
                rate,
                seed,
                noisy,
                planted,
                laboratory.judge(views, noisy, groups, n_classes=len(classes), seed=seed),
            )


def scores_of(
    rate: float, seed: int, noisy: np.ndarray, planted: np.ndarray, probs: dict[str, np.ndarray]
) -> pd.DataFrame:
    found = {
        name: average_precision_score(planted, laboratory.doubt(each, noisy))
        for name, each in probs.items()
    }
    return pd.DataFrame(
        {"rate": rate, "seed": seed, "detector": list(found), "auprc": list(found.values())}
    )


def report(scores: pd.DataFrame) -> None:
    best = laboratory.best_detector(scores)
    for rate, rows in scores.groupby("rate"):
        by_seed = rows.pivot(index="seed", columns="detector", values="auprc")[
            list(dict.fromkeys(rows["detector"]))
        ]
        for detector in by_seed:
            line(f"{rate:.0%} wrong: AUPRC of {detector}", by_seed[detector])
        for detector in dict.fromkeys((COMBINED, best)):
            line(
                f"{rate:.0%} wrong: points {detector} gains over plain {PLAIN}",
                100 * (by_seed[detector] - by_seed[PLAIN]),
                f">= {PROMISED_GAIN}",
            )


def line(name: str, values: pd.Series, bound: str = "") -> None:
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std() / np.sqrt(len(values))
    print(
        f"{name:<70} {values.mean():8.4g}   [{values.mean() - reach:.4g}, {values.mean() + reach:.4g}]"
        + (f"   ({bound})" if bound else "")
    )


if __name__ == "__main__":
    main()
