"""Cleaning against the plain recipe, and on two processes: `python benchmarks/cleaning.py`.

The plain recipe is regexes through `DataFrame.apply`, row by row. "A pass a rule" is how such
scripts have it: a pass over the table
for each of the six steps (the bound is about this one). "One pass" puts all six into one function.
Ours does more: mojibake, invisible
characters, tags by HTML's grammar, decoded entities, a second round where the first uncovered
something, and a receipt of every change.
Both sides of a ratio are timed in turn and the median of the pairs' ratios is printed. One process
is timed by its own processor time,
which holds on a busy machine; two by the clock, which says something only where both cores are
free: see the load it prints.
"""

import gc
import os
import re
import time
import unicodedata
from collections.abc import Callable
from statistics import median

import newsgroups
import pandas as pd

from lib.data.cleaning import clean_texts

ROUNDS = 5


def main() -> None:
    if not newsgroups.FILE.exists():
        print(newsgroups.MISSING)
        return
    table = pd.read_parquet(newsgroups.FILE, columns=["text"])
    texts = table["text"].tolist()
    rows = [
        (
            "one worker: texts/s over the plain recipe's, a pass a rule",
            ratio(lambda: a_pass_a_rule(table), lambda: clean_texts(texts), time.process_time),
            ">= 3",
        ),
        (
            "one worker: texts/s over the plain recipe's, one pass",
            ratio(lambda: one_pass(table), lambda: clean_texts(texts), time.process_time),
            "no bound",
        ),
    ]
    if cores() >= 2:
        clean_texts(texts, workers=2)  # starts the processes, which joblib keeps
        gain = ratio(
            lambda: clean_texts(texts), lambda: clean_texts(texts, workers=2), time.perf_counter
        )
        rows.append((f"two workers: texts/s over one worker's, load {load():.1f}", gain, ">= 1.6"))
    print(
        f"{cores()} cores, {len(texts):,} texts, {sum(map(len, texts)) / 1e6:.1f} million "
        f"characters, {ROUNDS} rounds"
    )
    for name, value, bound in rows:
        print(f"{name:<70} {value:8.4g}   ({bound})")
    if cores() < 2:
        print("two workers: not measured on one core")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def ratio(
    slower: Callable[[], object], faster: Callable[[], object], clock: Callable[[], float]
) -> float:
    return median(seconds(slower, clock) / seconds(faster, clock) for _ in range(ROUNDS))


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    gc.collect()
    started = clock()
    work()
    return clock() - started


# --- the plain recipe ---

STEPS: list[Callable[[str], str]] = [
    lambda text: unicodedata.normalize("NFKC", text),
    lambda text: re.sub(r"<[^>]+>", " ", text),
    lambda text: re.sub(r"&\w+;", " ", text),
    lambda text: re.sub(r"http\S+|www\.\S+", "[URL]", text),
    lambda text: re.sub(r"\S+@\S+", "[EMAIL]", text),
    lambda text: long_enough(re.sub(r"\s+", " ", text).strip()),
]


def long_enough(text: str) -> str:
    return text if len(text.split()) >= 3 else ""


def plain(text: str) -> str:
    for step in STEPS:
        text = step(text)
    return text


def one_pass(table: pd.DataFrame) -> pd.Series:
    return table.apply(lambda row: plain(row["text"]), axis=1)


def a_pass_a_rule(table: pd.DataFrame) -> pd.Series:
    table = table[["text"]].copy()
    for step in STEPS:
        table["text"] = table.apply(lambda row, step=step: step(row["text"]), axis=1)
    return table["text"]


if __name__ == "__main__":
    main()
