import numpy as np
import pandas as pd
import pytest
from five_topics import SCRIPTS, topic_table

from lib import workspace
from lib.config import CleaningConfig
from lib.evaluation import resampling
from lib.evaluation.significance import Interval
from lib.training import baseline

WORDS = {
    "bird": "crow finch owl wren",
    "fruit": "apple pear plum grape",
    "tool": "saw drill nail screw",
}


def rows(n=90):
    rng = np.random.default_rng(0)
    labels = [sorted(WORDS, reverse=True)[i % 3] for i in range(n)]
    return [
        f"{' '.join(rng.choice(WORDS[label].split(), 3))} number{i}"
        for i, label in enumerate(labels)
    ], labels


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_saved_baseline_predicts_as_before(tmp_path, n_classes):
    texts, labels = (
        list(column)
        for column in zip(
            *[(text, label) for text, label in zip(*rows()) if label in sorted(WORDS)[:n_classes]]
        )
    )
    fitted = baseline.fit_baseline(texts, labels)
    baseline.save_baseline(fitted, tmp_path / "baseline")
    loaded = baseline.load_baseline(tmp_path / "baseline")
    unseen = ["owl apple saw", "nothing known here", "", "Crow CROW crow finch, drill nail"]
    assert np.array_equal(
        loaded.predict_proba(texts + unseen), fitted.predict_proba(texts + unseen)
    )
    assert loaded.predict(["owl wren", "plum"]).tolist() == ["bird", "fruit"]
    assert list(loaded.classes_) == sorted(WORDS)[:n_classes]


def test_a_baseline_of_many_rows_round_trips_without_the_terms_it_dropped(tmp_path):
    texts, labels = rows(600)
    fitted = baseline.fit_baseline(texts, labels)
    assert not any(term.startswith("number") for term in fitted["tfidf"].vocabulary_)
    baseline.save_baseline(fitted, tmp_path / "baseline")
    assert np.array_equal(
        baseline.load_baseline(tmp_path / "baseline").predict_proba(texts),
        fitted.predict_proba(texts),
    )


@pytest.mark.parametrize("fit", baseline.LINEAR.values())
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_baseline_tells_five_topics_in_any_script(script, fit):
    table = topic_table(script, 300)
    train, test = table[:200], table[200:]
    fitted = fit(train["text"].tolist(), train["label"].tolist())
    assert (fitted.predict(test["text"].tolist()) == test["label"]).mean() > 0.95


@pytest.mark.parametrize("signs", ["😀😡", "ab", "❤x"])
def test_a_baseline_of_emoji_or_single_letters_learns_and_predicts_as_before(tmp_path, signs):
    good, bad = signs
    texts, labels = [good, f"{good} {good}", bad, f"{bad}{bad}"] * 10, ["+", "+", "-", "-"] * 10
    fitted = baseline.fit_baseline(texts, labels)
    assert fitted.predict([f"{good}!", bad]).tolist() == ["+", "-"]
    baseline.save_baseline(fitted, tmp_path / "baseline")
    loaded = baseline.load_baseline(tmp_path / "baseline")
    assert np.array_equal(loaded.predict_proba(texts), fitted.predict_proba(texts))


def test_a_baseline_that_was_saved_before_there_were_two_analyzers_is_read(tmp_path):
    texts, labels = rows()
    fitted = baseline.fit_baseline(texts, labels)
    baseline.save_baseline(fitted, tmp_path / "baseline")
    facts = workspace.read_json(tmp_path / "baseline" / "baseline.json")
    del facts["analyzer"]
    workspace.write_json({**facts, "min_df": 1}, tmp_path / "baseline" / "baseline.json")
    loaded = baseline.load_baseline(tmp_path / "baseline")
    assert np.array_equal(loaded.predict_proba(texts), fitted.predict_proba(texts))


def test_nothing_saved_is_a_pickle(tmp_path):
    baseline.save_baseline(baseline.fit_baseline(*rows()), tmp_path / "baseline")
    assert sorted(path.name for path in (tmp_path / "baseline").iterdir()) == [
        "baseline.json",
        "weights.safetensors",
    ]
    assert (tmp_path / "baseline" / "baseline.json").read_bytes()[:1] == b"{"
    assert (tmp_path / "baseline" / "weights.safetensors").read_bytes()[8:9] == b"{"


def test_a_baseline_replaces_an_earlier_one(tmp_path):
    texts, labels = rows()
    baseline.save_baseline(baseline.fit_baseline(texts[::2], labels[::2]), tmp_path / "baseline")
    second = baseline.fit_baseline(texts, labels)
    baseline.save_baseline(second, tmp_path / "baseline")
    assert np.array_equal(
        baseline.load_baseline(tmp_path / "baseline").predict_proba(texts),
        second.predict_proba(texts),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["baseline"]


# --- texts prepared in several ways ---


def test_ways_to_prepare_texts_are_compared_on_the_same_held_out_rows():
    texts, labels = rows(300)
    held_out = np.arange(300) >= 150
    ways = {
        "as they are": texts,
        "same again": list(texts),
        "emptied": [f"same words number{i}" for i in range(300)],
        "told": [f"{text} {label}" for text, label in zip(texts, labels)],
    }
    table = baseline.compare_preparations(
        ways, labels, held_out, against="emptied", n_resamples=200, progress=False
    )
    assert list(table.index) == ["as they are", "same again", "told"]
    assert (table["n_texts"] == 300).all() and (table["verdict"] == "better").all()
    assert (
        table.loc["told", "macro_f1"] == 1
        and 0 < table.loc["told", "low"] <= table.loc["told", "gain"] <= table.loc["told", "high"]
    )


def test_a_way_that_changes_no_text_gains_nothing_and_is_not_trained(monkeypatch):
    texts, labels = rows(120)
    trained, real = [], baseline.fit_baseline
    monkeypatch.setattr(
        baseline, "fit_baseline", lambda *args, **kwargs: trained.append(1) or real(*args, **kwargs)
    )
    held_out = np.arange(120) >= 60
    table = baseline.compare_preparations(
        {"all": texts, "same": list(texts)},
        labels,
        held_out,
        against="all",
        n_resamples=100,
        progress=False,
    )
    assert len(trained) == 1
    assert table.loc["same", ["n_texts", "gain", "low", "high", "verdict"]].tolist() == [
        0,
        0.0,
        0.0,
        0.0,
        "inconclusive",
    ]


def test_predicted_rows_are_no_training_rows(monkeypatch):
    texts, labels = rows(90)
    seen, real = [], baseline.fit_baseline
    monkeypatch.setattr(
        baseline,
        "fit_baseline",
        lambda texts, labels, *, seed: seen.append(set(texts)) or real(texts, labels, seed=seed),
    )
    held_out = np.arange(90) % 3 == 0
    baseline.compare_preparations(
        {"all": texts, "upper": [t.upper() for t in texts]},
        labels,
        held_out,
        against="all",
        n_resamples=100,
        progress=False,
    )
    assert [len(texts) for texts in seen] == [60, 60]
    assert seen[0].isdisjoint(np.asarray(texts)[held_out])


def test_leaks_inflate_the_accuracy_by_what_copies_are_easier():
    random = np.random.default_rng(0)
    noise = [f"noise{a} noise{b} noise{c}" for a, b, c in random.integers(0, 40, (400, 3))]
    labels = random.choice(["a", "b"], 400)
    texts, given, split = (
        [*noise, *noise[:50]],
        [*labels, *labels[:50]],
        ["train"] * 300 + ["test"] * 150,
    )
    leaked = (
        np.arange(450) >= 400
    )  # exact copies of training rows; the labels mean nothing, so other rows are guessed
    leakage = baseline.leakage_inflation(texts, given, split, leaked, n_resamples=200)
    assert (leakage.n_leaked, leakage.n_test) == (50, 150)
    assert leakage.right_leaked > 0.9 and leakage.right_others < 0.65
    accuracy = (50 * leakage.right_leaked + 100 * leakage.right_others) / 150
    assert leakage.inflation.value == pytest.approx(accuracy - leakage.right_others)
    assert 0.05 < leakage.inflation.low < leakage.inflation.value < leakage.inflation.high


def test_without_leaks_nothing_is_inflated_and_with_leaks_alone_nothing_can_be_compared():
    texts, labels = rows(90)
    split = ["train"] * 60 + ["test"] * 30
    none = baseline.leakage_inflation(
        texts, labels, split, np.zeros(90, dtype=bool), n_resamples=100
    )
    assert none.n_leaked == 0
    assert np.isnan(none.right_leaked)
    assert none.inflation.value == none.inflation.high == 0
    every = baseline.leakage_inflation(texts, labels, split, np.ones(90, dtype=bool))
    assert every.n_leaked == 30
    assert np.isnan(every.right_others)
    assert every.inflation is None


def test_leakage_is_described_in_a_sentence():
    interval = Interval(0.02, 0.01, 0.035, 200)
    assert baseline.LeakageInflation(50, 200, 0.96, 0.88, interval).describe() == (
        "50 of 200 test rows of the random split have a near-copy in training. The baseline is "
        "right on 96.0% of these and 88.0% of the others: the leaks add 0.020 [0.010, 0.035] to "
        "accuracy."
    )
    nothing = (
        "test rows of the random split have a near-copy in training: there is nothing to compare."
    )
    nan = float("nan")
    for n_leaked, inflation in ((0, Interval(0, 0, 0, 200)), (200, None)):
        leakage = baseline.LeakageInflation(n_leaked, 200, nan, nan, inflation)
        assert leakage.describe() == f"{n_leaked} of 200 {nothing}"


def test_a_rule_that_the_baseline_needs_is_found_by_leaving_it_out():
    """Words are written as entities that differ between training and validation rows."""
    texts, labels = rows(300)
    split = np.array(["train"] * 150 + ["val"] * 100 + ["test"] * 50)
    escaped = ["".join(f"&#{ord(c)};" for c in text) for text in texts]
    raw = np.where(split == "val", escaped, texts)
    frame = pd.DataFrame({"raw": raw, "text": texts, "label": labels, "split": split})
    frame["group"] = range(300)
    frame.loc[split == "test", "raw"] = None  # never read
    settings = CleaningConfig(ablation_rows=1_000)
    ablation = baseline.ablate_rules(frame, settings=settings, progress=False)
    assert ablation.n_held_out == 100
    assert ablation.table.index.tolist()[:2] == ["without encoding_repair", "without unicode_nfkc"]
    assert ablation.table["n_texts"].to_dict()["without html_entities"] == 100
    assert ablation.table["verdict"].tolist().count("worse") == 1
    gain = ablation.table.loc["without html_entities", "gain"]
    assert ablation.describe() == (
        "Leaving a rule out made a significant difference for 1 of 7 rules, on 100 validation rows."
        f" Without html_entities it is worse by {-gain:.3f}."
    )


def test_a_sample_of_the_rows_that_measure_a_rule_has_every_class():
    labels = ["common"] * 400 + ["rare"] * 6
    split = np.array(["train"] * 300 + ["val"] * 100 + ["train"] * 4 + ["val"] * 2)
    texts = [f"{label} text &amp; number {i}" for i, label in enumerate(labels)]
    frame = pd.DataFrame({"raw": texts, "text": texts, "label": labels, "split": split})
    frame["group"] = np.arange(len(frame))
    settings = CleaningConfig(ablation_rows=20)
    drawn = frame.sample(20, random_state=42)
    assert "rare" not in drawn["label"].tolist()
    ablation = baseline.ablate_rules(frame, settings=settings, progress=False)
    assert ablation.n_held_out == (drawn["split"] == "val").sum() + 1


def test_rows_of_a_group_are_drawn_together_wherever_the_baseline_has_an_interval(monkeypatch):
    """Each held-out row is there twice: by groups, that says no more than once."""
    drawn = []
    real = resampling.draws
    monkeypatch.setattr(
        resampling, "draws", lambda n, **how: drawn.append(real(n, **how)) or drawn[-1]
    )
    monkeypatch.setattr(baseline, "draws", resampling.draws)
    texts, labels = rows(60)
    part = ["train"] * 30 + ["val"] * 30
    frame = pd.DataFrame({"raw": texts, "text": texts, "label": labels, "split": part})
    frame["raw"] += "<br>"
    frame["group"] = np.arange(60) // 2
    baseline.ablate_rules(frame, settings=CleaningConfig(ablation_rows=60), progress=False)
    parents, held_out = frame[:30].assign(row_id=range(30)), frame[30:]
    copies = parents.assign(method="insert", text=parents["text"].str.upper())
    groups = held_out["group"].to_numpy()
    baseline.augmentation_gain(parents, copies, held_out, groups=groups, progress=False)
    split = np.array(["train"] * 30 + ["test"] * 30)
    leaked = np.arange(60) >= 50
    baseline.leakage_inflation(texts, labels, split, leaked, groups=frame["group"].to_numpy())
    assert {plan.n_units for plan in drawn} == {15}
    assert len(drawn) >= 3


def test_no_rows_to_measure_on_measure_nothing():
    frame = pd.DataFrame({"raw": ["a"], "text": ["a"], "label": ["x"], "split": ["train"]})
    ablation = baseline.ablate_rules(frame, settings=CleaningConfig(ablation_rows=0))
    assert ablation.describe() == "Not measured (cleaning.ablation_rows is 0)."


def table(texts, labels, groups=None):
    n = len(texts)
    return pd.DataFrame(
        {
            "row_id": np.arange(n),
            "text": texts,
            "label": labels,
            "group": np.arange(n) if groups is None else groups,
        }
    )


def test_a_copy_keeps_its_label_where_a_model_that_did_not_see_its_parent_says_so():
    parents = table(*rows(60))
    odd = parents["row_id"].to_numpy()[:4]
    copies = pd.DataFrame({"parent_id": odd, "label": parents["label"][:4]})
    copies["text"] = [" ".join(WORDS[label].split()[:2]) for label in copies["label"]]
    assert baseline.keeps_label(parents, copies).tolist() == [True] * 4
    copies["text"] = [
        " ".join(WORDS["tool" if label != "tool" else "bird"].split()[:2])
        for label in copies["label"]
    ]
    assert baseline.keeps_label(parents, copies).tolist() == [False] * 4


def test_no_copy_is_kept_where_the_model_saw_one_class_alone():
    texts = [f"crow text {i}" for i in range(9)] + ["saw text 9", "saw text 9!"]
    parents = table(texts, ["bird"] * 9 + ["tool"] * 2, groups=[*range(9), 9, 9])
    copies = pd.DataFrame({"parent_id": range(11), "label": parents["label"], "text": texts})
    kept = baseline.keeps_label(parents, copies)
    assert not kept[9:].any() and kept[:9].sum() == 6  # the other three are in the fold of "tool"


def test_a_copy_of_a_text_that_the_model_takes_for_something_else_may_be_taken_so_too():
    texts, labels = rows(60)
    texts[0] = "apple pear plum"  # labelled tool
    parents = table(texts, labels)
    copies = pd.DataFrame(
        {
            "parent_id": [0, 0, 0],
            "label": ["tool"] * 3,
            "text": ["plum pear", "saw drill nail", "crow owl"],
        }
    )
    assert baseline.keeps_label(parents, copies).tolist() == [True, True, False]


def test_the_judge_of_a_copy_has_not_seen_a_near_copy_of_its_parent():
    texts, labels = rows(60)
    texts[0] = texts[3] = texts[6] = (
        "zebra saw"  # one group, one label: only its own rows teach the word
    )
    groups = np.arange(60)
    groups[[0, 3, 6]] = 0
    parents = table(texts, labels, groups)
    copies = pd.DataFrame({"parent_id": [0], "label": [labels[0]], "text": ["zebra zebra crow"]})
    assert labels[0] == "tool"
    assert baseline.keeps_label(parents, copies).tolist() == [False]
    assert baseline.keeps_label(parents.assign(group=np.arange(60)), copies).tolist() == [True]


def test_copies_that_teach_new_words_are_better_and_those_under_wrong_labels_worse():
    random = np.random.default_rng(0)
    parents = table(*rows(30))
    labels = parents["label"].tolist()
    unseen = {label: [f"{label}{i}" for i in range(4)] for label in WORDS}

    def of(words, n):
        return [" ".join(random.choice(words[label], 3)) for label in (labels * n)]

    held_out = table(of(unseen, 10), labels * 10)
    turned = dict(zip(WORDS, [unseen[label] for label in [*list(WORDS)[1:], next(iter(WORDS))]]))
    copies = pd.DataFrame(
        {
            "method": ["good"] * 120 + ["bad"] * 120,
            "label": labels * 8,
            "text": of(unseen, 4) + of(turned, 4),
        }
    )
    gains = baseline.augmentation_gain(parents, copies, held_out, n_resamples=200, progress=False)
    assert gains.index.tolist() == ["good", "bad", "all together"]
    assert gains["n_texts"].tolist() == [120, 120, 240]
    assert gains.loc["good", "macro_f1"] == 1.0
    assert gains.loc["bad", "macro_f1"] == 0.0
    assert gains.loc[["good", "bad"], "verdict"].tolist() == ["better", "worse"]
    plain = gains.loc["good", "macro_f1"] - gains.loc["good", "gain"]
    assert gains["gain"].tolist() == pytest.approx((gains["macro_f1"] - plain).tolist())


def test_the_intervals_of_several_methods_hold_together():
    parents, held_out = table(*rows(60)), table(*rows(90))
    held_out["text"] = held_out["text"].str.split().str[0]
    one = pd.DataFrame(
        {
            "method": "a",
            "label": np.random.default_rng(0).permutation(parents["label"]),
            "text": parents["text"],
        }
    )
    alone = baseline.augmentation_gain(
        parents, one, held_out, n_resamples=1_000, progress=False
    ).loc["a"]
    among = baseline.augmentation_gain(
        parents,
        pd.concat([one, one.assign(method="b")]),
        held_out,
        n_resamples=1_000,
        progress=False,
    ).loc["a"]
    assert alone["gain"] == among["gain"]
    assert among["high"] - among["low"] > alone["high"] - alone["low"] > 0
