import numpy as np
import pandas as pd
import pytest
from scipy import special

from lib.errors import WorkbookError
from lib.evaluation.metrics import accuracy, macro_f1
from lib.evaluation.significance import Interval
from lib.training import ensembles
from lib.training.ensembles import weights


def drawn(n=1_500, *, k=3, strengths=(1.5, 1.5, 1.5), seed=0, noise=1.0):
    """Members that see the truth through noise of their own: the stronger, the better; their errors
    are independent."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    truth = np.eye(k)[y]
    return {
        f"m{i}": special.softmax(strength * truth + rng.normal(0, noise, (n, k)), axis=1)
        for i, strength in enumerate(strengths)
    }, y


@pytest.fixture
def folds():
    return np.arange(1_500) % 5


@pytest.mark.parametrize("method", ensembles.METHODS)
@pytest.mark.parametrize("k", [2, 3])
def test_members_with_independent_errors_are_better_together(method, k, folds):
    oof, y = drawn(k=k)
    found = ensembles.out_of_fold(oof, y, folds, method=method)
    best = oof[ensembles.best_member(oof, y)]
    assert accuracy(y, found.argmax(axis=1)) > accuracy(y, best.argmax(axis=1)) + 0.05
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("method", ["weighted", "greedy", "stacking"])
def test_a_member_that_guesses_counts_for_little(method, folds):
    oof, y = drawn(strengths=(3.0, 0.0))
    shares = ensembles.fit_ensemble(oof, y, method=method, fold=folds).shares()
    assert shares["m0"] > 0.8
    assert shares.sum() == pytest.approx(1)


def test_stacking_is_left_out_where_it_fits_more_numbers_than_there_are_rows(folds):
    """Of 3 members and k classes 3 * k * k; with 150 classes it took many minutes."""
    few, y = drawn(300, k=10)
    tried = ensembles.compared(ensembles.METHODS, few, y, folds[:300], progress=False)
    assert list(tried) == list(ensembles.METHODS)
    fewer = {name: probs[:299] for name, probs in few.items()}
    options = {"oof_probs": fewer, "y_true": y[:299], "fold": folds[:299], "progress": False}
    assert list(ensembles.compared(ensembles.METHODS, **options)) == ["soft", "weighted", "greedy"]
    assert list(ensembles.compared(["stacking"], **options)) == ["soft"]


def test_soft_is_the_mean_and_a_member_without_weight_is_left_out():
    oof, y = drawn()
    soft = ensembles.fit_ensemble(oof, y, method="soft")
    np.testing.assert_allclose(soft.predict_probs(oof), np.mean(list(oof.values()), axis=0))
    perfect = {
        "right": np.eye(3)[y] * 0.98 + 0.02 / 3,
        "wrong": np.eye(3)[(y + 1) % 3] * 0.98 + 0.02 / 3,
    }
    for method in ("weighted", "greedy"):
        one = ensembles.fit_ensemble(perfect, y, method=method)
        assert (one.members, one.weights.tolist()) == (["right"], [1.0])


def test_weights_are_those_of_least_log_loss():
    oof, y = drawn(strengths=(1.2, 1.0, 0.9))
    found = ensembles.fit_ensemble(oof, y, method="weighted")
    given = np.stack([probs[np.arange(len(y)), y] for probs in oof.values()])
    assert found.members == list(oof)
    loss = -np.log(found.weights @ given).mean()
    grid = [
        np.array([a, b, 1 - a - b])
        for a in np.arange(0, 1.01, 0.02)
        for b in np.arange(0, 1.01 - a, 0.02)
    ]
    assert loss <= min(-np.log(np.clip(w @ given, 1e-12, None)).mean() for w in grid) + 1e-6


def test_greedy_selection_repeats_a_member_that_deserves_it():
    oof, y = drawn(strengths=(2.5, 1.5, 1.0), seed=1)
    found = ensembles.fit_ensemble(oof, y, method="greedy")
    assert found.weights.sum() == pytest.approx(1)
    assert len(set(found.weights.round(6))) > 1
    score = macro_f1(y, found.predict_probs(oof).argmax(axis=1), n_classes=3)
    assert score >= max(macro_f1(y, probs.argmax(axis=1), n_classes=3) for probs in oof.values())


@pytest.mark.parametrize("method", ensembles.METHODS[1:])
def test_a_row_is_predicted_by_what_the_other_folds_taught(method, folds):
    oof, y = drawn(strengths=(2.0, 1.0))
    found = ensembles.out_of_fold(oof, y, folds, method=method)
    other = np.where(folds == 2, (y + 1) % 3, y)
    changed = ensembles.out_of_fold(oof, other, folds, method=method)
    assert np.allclose(found[folds == 2], changed[folds == 2])
    assert not np.allclose(found[folds != 2], changed[folds != 2])


def test_a_stack_of_two_classes_agrees_with_the_regression():
    oof, y = drawn(k=2, strengths=(2.0, 1.0))
    kept = np.flatnonzero((y == 0) | (np.arange(len(y)) % 8 == 0))  # the second class is rare
    oof, y = {name: probs[kept] for name, probs in oof.items()}, y[kept]
    found = ensembles.fit_ensemble(oof, y, method="stacking")
    assert found.weights.shape == (4, 2)
    assert accuracy(y, found.predict_probs(oof).argmax(axis=1)) > 0.9
    assert found.predict_probs(oof)[:, 1].mean() == pytest.approx(y.mean(), abs=0.01)


def test_the_strength_of_a_stack_is_chosen_on_the_same_folds_of_the_rows_left(monkeypatch, folds):
    seen, real = [], weights.PredefinedSplit
    monkeypatch.setattr(
        weights, "PredefinedSplit", lambda fold: seen.append(sorted(set(fold))) or real(fold)
    )
    oof, y = drawn()
    ensembles.out_of_fold(oof, y, folds, method="stacking")
    assert seen == [[fold for fold in range(5) if fold != held_out] for held_out in range(5)]


def test_a_stack_is_fitted_where_a_fold_lacks_a_class():
    oof, y = drawn(300, strengths=(3.0, 2.0))
    rare = np.flatnonzero(y == 2)
    fold = np.arange(300) % 3
    fold[rare] = 0  # all rows of a class in one fold
    assert ensembles.fit_ensemble(oof, y, method="stacking", fold=fold).predict_probs(
        oof
    ).shape == (300, 3)
    unseen = ensembles.out_of_fold(oof, y, fold, method="stacking")
    np.testing.assert_allclose(unseen.sum(axis=1), 1)
    assert unseen[rare, 2].max() < 1e-6  # fitted without that class
    left = fold > 0
    assert (
        macro_f1(y[left], unseen[left].argmax(axis=1), n_classes=3) > 0.6
    )  # the mean over three classes, one of them without rows
    two = fold != 1  # the strength is chosen by what folds without the class say of the others
    found = ensembles.fit_ensemble(
        {name: probs[two] for name, probs in oof.items()}, y[two], method="stacking", fold=fold[two]
    )
    assert np.abs(found.weights).max() > 0.2


def test_greedy_selection_keeps_the_best_draws_and_not_the_last():
    y = np.arange(90) % 2
    unsure = np.arange(90) // 2 % 3  # the member that does not know a row
    oof = {
        f"m{i}": np.where(
            (unsure == i)[:, None], 0.7 - 0.4 * np.eye(2)[y], 0.1 + 0.8 * np.eye(2)[y]
        )
        for i in range(3)
    }
    assert weights.GREEDY_ROUNDS % 3, "the last draws are not in equal shares"
    assert ensembles.fit_ensemble(oof, y, method="greedy").weights.tolist() == [1 / 3] * 3


def test_greedy_selection_is_never_worse_than_the_best_member():
    for seed in range(12):
        oof, y = drawn(60, strengths=(1.2, 1.0, 0.8), seed=seed)
        found = ensembles.fit_ensemble(oof, y, method="greedy").predict_probs(oof)
        assert macro_f1(y, found.argmax(axis=1), n_classes=3) >= max(
            macro_f1(y, probs.argmax(axis=1), n_classes=3) for probs in oof.values()
        )


def test_the_simplest_way_is_chosen_unless_another_is_better():
    oof, y = drawn(strengths=(2.0, 2.0))
    ways = {"soft": oof["m0"], "weighted": oof["m1"]}
    assert ensembles.choose(ways, y, n_train=len(y), n_resamples=200) == "soft"
    better = {"soft": oof["m0"], "weighted": np.eye(3)[y], "greedy": oof["m1"]}
    assert ensembles.choose(better, y, n_train=len(y), n_resamples=200) == "weighted"
    assert (
        ensembles.choose({"stacking": oof["m0"]}, y, n_train=len(y), n_resamples=200) == "stacking"
    )
    assert (
        ensembles.choose(dict(reversed(ways.items())), y, n_train=len(y), n_resamples=200) == "soft"
    )  # whatever the order they are named in


def test_the_simplest_way_is_chosen_where_the_members_learned_a_sample():
    oof, y = drawn(strengths=(2.0, 2.0))
    ways = {"soft": oof["m0"], "weighted": np.eye(3)[y]}
    assert ensembles.choose(ways, y, n_train=len(y) + 1, n_resamples=200) == "soft"
    tests = pd.DataFrame(
        {"macro_f1": 0.8, "gain": 0.02, "low": 0.01, "high": 0.03, "verdict": "better"},
        index=["greedy", "soft"],
    )
    said = ensembles.describe_choice(tests, "soft", best_member="big", n=900, n_train=1_800)
    assert said.endswith(
        "soft is used: the simplest way, since weights of members of 900 rows do not hold for more."
    )


def test_the_gain_curve_starts_with_the_best_and_ends_with_all():
    oof, y = drawn(strengths=(1.0, 2.0, 1.0, 0.0))
    curve = ensembles.gain_curve(oof, y, n_resamples=200)
    assert curve["member"].iloc[0] == "m1"
    assert sorted(curve["member"]) == sorted(oof)
    assert curve["member"].iloc[-1] == "m3"
    assert curve.loc[1, ["gain", "low", "high"]].tolist() == [0, 0, 0]
    assert curve.loc[3, "low"] > 0
    assert curve.loc[4, "macro_f1"] == macro_f1(
        y, np.mean(list(oof.values()), axis=0).argmax(axis=1), n_classes=3
    )


def test_diversity_is_of_the_errors():
    y = np.array([0, 0, 2, 2, 1])
    probs = {
        "a": np.eye(3)[[0, 0, 2, 0, 0]],
        "b": np.eye(3)[[0, 1, 2, 2, 2]],
        "right": np.eye(3)[y],
    }
    found = ensembles.diversity(probs, y)
    assert found.loc[("a", "b"), ["disagreement", "one_right"]].tolist() == [0.6, 0.4]
    assert found.loc[("a", "b"), "error_correlation"] == pytest.approx(1 / 6)
    assert np.isnan(found.loc[("a", "right"), "error_correlation"])
    assert ensembles.diversity({"a": probs["a"]}, y).empty


def test_bad_input_is_named():
    oof, y = drawn(30)
    with pytest.raises(
        WorkbookError,
        match="no way of combining 'hard'; there are soft, weighted, greedy, stacking",
    ):
        ensembles.fit_ensemble(oof, y, method="hard")
    with pytest.raises(
        WorkbookError, match=r"member 'm1': probs rows must sum to 1; row 0 sums to 2"
    ):
        ensembles.fit_ensemble(oof | {"m1": 2 * oof["m1"]}, y, method="soft")
    with pytest.raises(
        WorkbookError, match=r"member 'm2': probs must have shape \(30, n_classes\), got \(29, 3\)"
    ):
        ensembles.fit_ensemble(oof | {"m2": oof["m2"][1:]}, y, method="soft")
    with pytest.raises(
        WorkbookError, match="members have different numbers of classes: 'm0' 3, 'm1' 4, 'm2' 3"
    ):
        ensembles.fit_ensemble(oof | {"m1": np.full((30, 4), 0.25)}, y, method="soft")
    with pytest.raises(WorkbookError, match="an ensemble needs members"):
        ensembles.fit_ensemble({}, y, method="soft")
    with pytest.raises(
        WorkbookError, match="the ensemble needs probabilities of 'm1'; there are those of m0"
    ):
        ensembles.fit_ensemble(oof, y, method="soft").predict_probs({"m0": oof["m0"]})


# --- sentences ---


def test_the_best_member_is_described_with_a_caution_where_rows_are_few():
    interval = Interval(0.81234, 0.78, 0.84, n=400)
    assert ensembles.describe_best_member("big", interval, n_train=500) == (
        "The best member alone is big: macro F1 0.812 [0.780, 0.840], n = 400."
    )
    assert "These are 20% of the training rows" in ensembles.describe_best_member(
        "big", interval, n_train=2_000
    )


def test_the_two_members_that_differ_most_are_described():
    y = np.array([0, 0, 2, 2, 1])
    probs = {"a": np.eye(3)[[0, 0, 2, 0, 0]], "b": np.eye(3)[[0, 1, 2, 2, 2]]}
    assert ensembles.describe_diversity(ensembles.diversity(probs, y)) == (
        "Most different: a and b. On 40.0% of the texts exactly one is right; their errors "
        "correlate 0.17."
    )


def test_the_number_of_members_with_the_highest_score_is_described():
    curve = pd.DataFrame(
        {"member": ["one", "two", "three"], "macro_f1": [0.7, 0.75, 0.74], "gain": [0, 0.05, 0.04]},
        index=[1, 2, 3],
    )
    assert ensembles.describe_gain_curve(curve) == (
        "Macro F1 is highest with 2 of 3 members: +0.050 over one alone."
    )


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("soft", "soft is used: it is the simplest way, and none is better than it."),
        ("greedy", "greedy is used: it gains most of those better than soft."),
    ],
)
def test_the_chosen_way_is_described_with_the_reason(method, reason):
    tests = pd.DataFrame(
        {"macro_f1": 0.8, "gain": 0.02, "low": 0.01, "high": 0.03, "verdict": "better"},
        index=["greedy", "soft"],
    )
    assert ensembles.describe_choice(tests, method, best_member="big", n=900, n_train=900) == (
        f"{method} is better than big: macro F1 0.800, +0.020 [+0.010, +0.030], n = 900. {reason}"
    )
