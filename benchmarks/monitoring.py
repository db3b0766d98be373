"""Drift of predictions: false alarms, and how often a change is found.

A linear classifier for each topic of `docstrings` and of the newsgroup posts, which it has never
seen. Its fresh texts are split at random, several times, into a reference and a pool, from which
batches of 1,000 texts are drawn: undisturbed; with one class 10 points commoner; with 50 texts of
the topic left out, which is a near one; with 50 texts of the other data set, a far one. What the
method is was chosen on `docstrings` with other seeds.
"""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from newsgroups import FILE, MISSING, posts

from lib.config import CleaningConfig, Config
from lib.data import sources
from lib.data.cleaning import clean_texts
from lib.delivery.monitoring.drift import p_values, signals, threshold
from lib.delivery.monitoring.text_signals import TextSignals
from lib.evaluation.calibration import fit_calibrator
from lib.robustness import ood
from lib.training import baseline
from lib.training.classifier import Classifier
from lib.training.ensembles import Ensemble
from lib.training.member import Member

TRAIN, CALIBRATION, FRESH, FOREIGN = 3_000, 1_500, 5_000, 500
REFERENCE, BATCH = 2_500, 1_000
PARTITIONS, BATCHES = 4, 5  # of each classifier, of each partition
PAGE = 10  # batches on a page
SEED = 2026


def main() -> None:
    tables = {"docstrings": docstrings()}
    if FILE.exists():
        tables["newsgroups"] = posts()
    else:
        print(MISSING)
    for name, table in tables.items():
        others = [other for key, other in tables.items() if key != name]
        topics = sorted(set(table["label"]))
        found = pd.concat([of_topic(table, topic, others) for topic in topics], ignore_index=True)
        report(name, found)


def docstrings() -> pd.DataFrame:
    table = sources.raw_table(Config.load("quick"), progress=False)
    table = table.assign(text=clean_texts(table["text"].tolist()).texts)
    return table[table["text"] != ""]


def of_topic(table: pd.DataFrame, topic: str, others: list[pd.DataFrame]) -> pd.DataFrame:
    """Return what the classifier that does not know a topic reports: a row a batch."""
    inside = table[table["label"] != topic].sample(frac=1, random_state=SEED)
    train, calibration = inside[:TRAIN], inside[TRAIN:][:CALIBRATION]
    fresh = inside[TRAIN + CALIBRATION :][:FRESH]
    foreign = {"near topic": table[table["label"] == topic]}
    if others:
        foreign["far topic"] = others[0]
    with tempfile.TemporaryDirectory() as folder:
        classifier = linear_classifier(train, calibration, Path(folder))
        rows = predictions(classifier, fresh)
        foreign = {
            kind: predictions(classifier, texts.sample(FOREIGN, random_state=SEED))
            for kind, texts in foreign.items()
        }
    found = []
    for partition in range(PARTITIONS):
        order = np.random.default_rng([SEED, partition]).permutation(len(rows))
        reference, pool = rows.iloc[order[:REFERENCE]], rows.iloc[order[REFERENCE:]]
        known = signals(reference)
        limit, _ = threshold(known, size=BATCH, seed=partition)
        for i in range(BATCHES):
            for kind, batch in disturbed(pool, foreign, seed=10 * partition + i):
                found.append({"kind": kind, "topic": topic, "limit": limit})
                found[-1] |= p_values(signals(batch), known)
    return pd.DataFrame(found)


def disturbed(pool: pd.DataFrame, foreign: dict[str, pd.DataFrame], *, seed: int):
    yield "undisturbed", pool.sample(BATCH, random_state=seed)
    yield "class mix", shifted(pool, size=BATCH, seed=seed)
    for kind, rows in foreign.items():
        yield kind, mixed(pool, rows, size=BATCH, seed=seed)


def shifted(rows: pd.DataFrame, *, size: int, seed: int) -> pd.DataFrame:
    """Draw rows, one class 10 points commoner among them than in `rows`."""
    rows = rows.sample(frac=1, random_state=seed)
    belongs = rows["label"] == rows["label"].iloc[0]
    drawn = rows[belongs].head(round(size * (belongs.mean() + 0.1)))
    return pd.concat([drawn, rows[~belongs].head(size - len(drawn))])


def mixed(rows: pd.DataFrame, foreign: pd.DataFrame, *, size: int, seed: int) -> pd.DataFrame:
    """Draw rows, 5 % of them from foreign ones."""
    strange = foreign.sample(round(0.05 * size), random_state=seed)
    return pd.concat([rows.sample(size - len(strange), random_state=seed), strange])


def linear_classifier(train: pd.DataFrame, held_out: pd.DataFrame, folder: Path) -> Classifier:
    texts, labels = train["text"].tolist(), train["label"].tolist()
    model = baseline.fit_baseline(texts, labels)
    baseline.save_baseline(model, folder / "TF-IDF")
    probs = model.predict_proba(held_out["text"])
    codes = np.searchsorted(model.classes_, held_out["label"])
    calibrator = fit_calibrator(probs, codes, method="temperature")
    class_names = list(model.classes_)
    scores = ood.fit_scores(
        texts, labels, held_out["text"].tolist(), held_out_probs=calibrator(probs)
    )
    return Classifier(
        class_names,
        CleaningConfig(),
        [Member("TF-IDF", folder / "TF-IDF")],
        Ensemble("soft", ["TF-IDF"], class_names, np.ones(1), np.zeros(len(class_names))),
        calibrator,
        abstain_below=0.5,
        ood=scores,
    )


def predictions(classifier: Classifier, table: pd.DataFrame) -> pd.DataFrame:
    texts = table["text"].tolist()
    return classifier.predict(texts).join(TextSignals(classifier).table(texts))


def report(name: str, found: pd.DataFrame) -> None:
    for kind, rows in found.groupby("kind", sort=False):
        tests = rows.drop(columns=["kind", "topic", "limit"])
        below = tests.lt(rows["limit"], axis=0)
        reported = below.any(axis=1)
        on_page = tests.lt(rows["limit"] / PAGE, axis=0).any(axis=1)
        by_topic = reported.groupby(rows["topic"]).sum().to_dict()
        signals = below.sum()[below.any()].to_dict()
        aim = "at most 5 %" if kind == "undisturbed" else "at least 90 %"
        print(f"{name}, {kind}: {reported.sum()} of {len(rows)} batches reported, {aim}")
        print(f"    as one of {PAGE} batches on a page: {on_page.sum()}")
        print(f"    by the topic left out: {by_topic}; by signals: {signals}", flush=True)


if __name__ == "__main__":
    main()
