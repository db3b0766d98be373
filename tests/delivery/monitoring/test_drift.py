import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib.delivery.monitoring import drift
from lib.delivery.monitoring.drift import Drift, batches_of, p_values, signals, threshold, watch


def rows(n, *, seed, **changed):
    """Predictions as a log has them, each signal at random."""
    rng = np.random.default_rng(seed)
    table = {
        "time": pd.date_range("2026-01-01", periods=n, freq="min", tz="UTC"),
        "n_words": rng.poisson(30, n).astype(float),
        "language": rng.choice(["English", "German"], n, p=[0.9, 0.1]),
        "unknown_share": rng.beta(2, 20, n),
        "ood_score": rng.uniform(size=n),
        "label": rng.choice(["a", "b", "c"], n),
        "confidence": rng.beta(8, 2, n),
        "abstained": rng.uniform(size=n) < 0.1,
        "embedding": list(rng.normal(size=(n, 4))),
    }
    return pd.DataFrame(table | changed)


REFERENCE = rows(600, seed=0)
N = 300


def found(**changed):
    return p_values(signals(rows(N, seed=1, **changed)), signals(REFERENCE))


def test_each_signal_has_the_p_value_of_its_test():
    batch = rows(N, seed=1)
    p = found()
    ks = stats.ks_2samp(batch["n_words"], REFERENCE["n_words"], method="asymp").pvalue
    assert p["length in words"] == pytest.approx(ks)
    counts = [table["label"].value_counts().sort_index() for table in (batch, REFERENCE)]
    assert p["class mix"] == pytest.approx(stats.chi2_contingency(counts).pvalue)
    logs = [-np.log(1 - table["ood_score"]) for table in (batch, REFERENCE)]
    rise = stats.ttest_ind(*logs, equal_var=False, alternative="greater").pvalue
    assert p["unusual texts"] == pytest.approx(rise)
    assert "length in characters" not in p  # neither has it


def test_the_embeddings_test_is_hotellings():
    """In one dimension it is Student's two-sided test."""
    x, y = np.random.default_rng(1).normal(size=(2, 50))
    p = drift._means(x[:, None], y[:, None])
    assert p == pytest.approx(stats.ttest_ind(x, y).pvalue)
    # it does not depend on the units of the axes
    one, other = np.random.default_rng(2).normal(size=(2, 50, 3))
    axes = np.array([[2.0, 1, 0], [0, 1, 5], [0, 0, 9]])
    assert drift._means(one @ axes, other @ axes) == pytest.approx(drift._means(one, other))


def test_rare_categories_count_together():
    common = np.repeat([1.0, 2.0], [60, 40])[:, None]
    rare = np.arange(10, 14.0)[:, None]
    p = drift._mix(np.concatenate([common, rare]), np.concatenate([common, common]))
    expected = stats.chi2_contingency([[60, 40, 4], [120, 80, 0]], correction=False).pvalue
    assert p == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("length in words", {"n_words": np.full(N, 50.0)}),
        ("language", {"language": ["Cyrillic"] * N}),
        ("unknown words", {"unknown_share": np.full(N, 0.3) + np.linspace(0, 0.1, N)}),
        ("unusual texts", {"ood_score": np.linspace(0.5, 1, N)}),
        ("class mix", {"label": ["a"] * N}),
        ("confidence", {"confidence": np.linspace(0.1, 0.5, N)}),
        ("abstentions", {"abstained": [True] * N}),
        ("embedding", {"embedding": list(np.random.default_rng(3).normal(1, 1, (N, 4)))}),
    ],
)
def test_a_signal_that_changes_is_the_one_that_is_told(name, changed):
    p = found(**changed)
    assert p[name] < 1e-6
    assert min(value for other, value in p.items() if other != name) > 1e-3


def test_fewer_unusual_texts_are_no_alarm():
    assert found(ood_score=np.linspace(0, 0.5, N))["unusual texts"] > 0.99


def test_what_is_missing_is_left_out_of_its_signal_alone():
    batch = rows(N, seed=1)
    batch.loc[::2, ["confidence", "ood_score"]] = np.nan
    batch.loc[::2, "label"] = None
    batch["embedding"] = batch["embedding"].where(batch["ood_score"].notna(), None)
    p = p_values(signals(batch), signals(REFERENCE))
    kept = p_values(signals(batch[1::2]), signals(REFERENCE))
    for name in ("confidence", "class mix", "unusual texts", "embedding"):
        assert p[name] == pytest.approx(kept[name])
    assert p["length in words"] == found()["length in words"]
    assert "confidence" not in p_values(signals(batch[:19]), signals(REFERENCE))


def test_a_signal_with_one_value_says_nothing():
    same = REFERENCE.assign(abstained=False)
    assert "abstentions" not in p_values(signals(same[:50]), signals(same))


def test_the_threshold_lets_the_named_share_of_undisturbed_batches_pass():
    known = signals(REFERENCE[["n_words", "unknown_share", "label"]])
    options = {"size": 200, "n_splits": 200, "seed": 0}
    limit, rate = threshold(known, false_alarms=0.2, **options)
    assert 0.1 < rate < 0.3
    # three signals share what one alone would have
    assert 1 - (1 - limit) ** 3 == pytest.approx(0.2, abs=0.06)
    assert threshold(known, false_alarms=0.2, **options) == (limit, rate)


def test_a_batch_larger_than_half_of_the_reference_is_split_in_halves():
    known = signals(REFERENCE[["unknown_share"]])
    large = threshold(known, size=5_000, n_splits=20, seed=0)
    assert large == threshold(known, size=300, n_splits=20, seed=0)


def test_batches_are_the_newest_rows_in_order():
    table = pd.DataFrame({"x": range(25)})
    batches = batches_of(table, size=10, most=5)
    assert [batch["x"].tolist() for batch in batches] == [[*range(12)], [*range(12, 25)]]
    assert [len(batch) for batch in batches_of(table, size=3, most=4)] == [3] * 4
    assert batches_of(table, size=3, most=4)[-1]["x"].tolist() == [22, 23, 24]
    assert [len(batch) for batch in batches_of(table, size=1_000, most=4)] == [25]


def drift_of(*alarms):
    times = pd.date_range("2026-01-01", periods=len(alarms), tz="UTC")
    batches = pd.DataFrame({"first": times, "last": times, "n": 10})
    p = np.where(alarms, 0.001, 0.5)
    return Drift(batches, pd.DataFrame({"confidence": p, "language": 0.9}), limit=0.01)


@pytest.mark.parametrize(
    ("alarms", "since", "said"),
    [
        ([0, 0, 0], None, "Nothing is wrong as far as the signals tell: 0 of 3 batches differ."),
        (
            [0, 1, 0, 1, 1],
            1,
            "Something is wrong since 2026-01-02 00:00 UTC: 3 of 5 batches differ, by "
            "confidence (3).",
        ),
        ([1, 0, 0, 0, 1], 4, "Something is wrong since 2026-01-05 00:00 UTC: 2 of 5"),
        ([1, 0], None, "Something was wrong, and passed, from 2026-01-01 00:00 UTC: 1 of 2"),
        ([0, 1, 0, 0], None, "Something was wrong, and passed, from 2026-01-02 00:00 UTC: 1 of 4"),
    ],
)
def test_since_when(alarms, since, said):
    result = drift_of(*alarms)
    assert result.since == since
    assert result.describe().startswith(said)


def test_the_limit_is_shared_among_the_batches():
    batches = batches_of(rows(N, seed=1, label=["a"] * N), size=100, most=3)
    result = watch(batches, REFERENCE, limit=0.03)
    assert result.limit == pytest.approx(0.01)
    assert result.alarms.tolist() == [True] * 3
    assert result.batches["n"].tolist() == [100] * 3
    assert result.batches["first"][1] == pd.Timestamp("2026-01-01 01:40", tz="UTC")
    order = list(result.p_values)
    assert order == [name for name in drift.SIGNALS if name in order]
