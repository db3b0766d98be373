import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY

from lib import provenance, workspace
from lib.config import ComputeConfig, Config, SearchConfig, TrainingConfig
from lib.errors import WorkbookError
from lib.evaluation.significance import Interval, cross_validation_interval
from lib.training import cached_training, finetune, search
from lib.training.search import study as studies
from lib.training.search.study import EVALUATIONS_PER_EPOCH
from lib.workspace import Workspace

RUN = Workspace(dataset="data", run="run")
WORDS = {
    "birds": "crow finch heron owl",
    "fruit": "plum pear quince fig",
    "tools": "saw drill plane nail",
}
TINY = {
    "backbone": "tiny",
    "max_length": 32,
    "epochs": 2,
    "learning_rate": 1e-2,
    "batch_size": 8,
    "precision": "fp32",
    "threads": 1,
    "unfreeze": (),
    "averaging": "none",
}
SPACE = {"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}, "batch_size": [8, 16]}


def table(n=90, seed=0):
    """Texts of three classes, in pairs of near-copies."""
    rng = np.random.default_rng(seed)
    labels = [sorted(WORDS)[i // 2 % 3] for i in range(n)]
    texts = [" ".join(rng.choice(WORDS[label].split(), size=6)) + "." for label in labels]
    return pd.DataFrame(
        {"row_id": np.arange(n) + 100, "text": texts, "label": labels, "group": np.arange(n) // 2}
    )


def config(training=(), workers=1, **settings):
    return Config(
        profile="test",
        training=TrainingConfig(**{**TINY, **dict(training)}),
        search=SearchConfig(**{"space": SPACE, "trials": 6, "rows": None, **settings}),
        compute=ComputeConfig(workers=workers),
    )


def peaked(task, settings, watch):
    """Best at a learning rate of 1e-3; two looks on the way."""
    value = 1 - abs(np.log10(settings["learning_rate"]) + 3) / 4
    watch(pd.DataFrame({"eval_macro_f1": [value / 2]}))
    watch(pd.DataFrame({"eval_macro_f1": [value / 2, value]}))
    return value


def slow(task, settings, watch):
    time.sleep(0.25)
    return peaked(task, settings, watch)


def never_pruned(task, settings, watch):
    return peaked(task, settings, lambda _: None)


def found(settings, objective=peaked, rows=None, ws=RUN):
    return search.search(
        table() if rows is None else rows,
        config=settings,
        ws=ws,
        objective=objective,
        progress=False,
    )


def proposed(result):
    return result.trials.loc[
        result.trials["state"] != "FAIL", ["learning_rate", "batch_size", "state", "value"]
    ].reset_index(drop=True)


def states(result):
    return result.trials["state"].value_counts().to_dict()


# --- the budget ---


def test_the_budget_is_of_the_whole_study(home):
    calls = []

    def counted(*words):
        calls.append(words[1])
        return never_pruned(*words)

    assert len(found(config(trials=4), counted).trials) == 4
    assert len(found(config(trials=4), counted).trials) == 4
    assert len(calls) == 4
    more = found(config(trials=7), counted)
    assert (len(more.trials), len(calls)) == (7, 7)
    assert more.trials["number"].tolist() == list(range(7))


def test_a_budget_of_nothing_is_an_error_with_the_remedy(home):
    with pytest.raises(WorkbookError, match=r"search\.trials is 0, .*set search\.trials=20"):
        found(config(trials=0))


def test_pruned_trials_count_and_failed_ones_do_not(home):
    n_calls = 0

    def moody(task, settings, watch):
        nonlocal n_calls
        n_calls += 1
        if n_calls in (2, 3):
            raise MemoryError("too large")
        if n_calls == 4:
            raise optuna.TrialPruned
        return 0.5

    result = found(config(trials=4), moody)
    assert states(result) == {"COMPLETE": 3, "FAIL": 2, "PRUNED": 1}
    assert result.trials["error"].tolist() == [
        "",
        "MemoryError: too large",
        "MemoryError: too large",
        "",
        "",
        "",
    ]
    assert result.trials["learning_rate"].nunique() == 6  # what fails is not proposed again


def test_five_failures_in_a_row_end_the_search_with_their_error(home):
    calls = []

    def broken(task, settings, watch):
        calls.append(settings)
        raise WorkbookError("no such backbone")

    with pytest.raises(WorkbookError, match="no such backbone"):
        found(config(trials=4), broken)
    assert len(calls) == 5
    assert states(found(config(trials=4), never_pruned)) == {"FAIL": 5, "COMPLETE": 4}


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import test_hyperparameter_search as tests
tests.found(tests.config(trials=6), tests.slow)
"""


def test_a_study_killed_in_the_middle_goes_on_to_exactly_its_budget_as_if_uninterrupted(home):
    script = KILLED.format(tests=str(Path(__file__).parent))
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, "WORKBOOK_HOME": str(home)},
    )
    journal, deadline = home / "models/run/search/journal.jsonl", time.monotonic() + 90
    while not (
        journal.exists() and journal.read_text().count('"op_code":6') >= 2
    ):  # two trials have ended
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    n_before = journal.read_text().count('"op_code":4')
    assert 2 <= n_before < 6
    resumed = found(config(trials=6))
    assert len(proposed(resumed)) == 6
    assert states(resumed).get("FAIL", 0) <= 1
    whole = found(config(trials=6), ws=Workspace(dataset="data", run="whole"))
    pd.testing.assert_frame_equal(proposed(resumed), proposed(whole), check_exact=True)


def test_workers_share_the_budget_and_the_journal(home):
    result = found(config(trials=5, workers=2), slow)
    assert states(result).get("FAIL", 0) == 0
    assert len(result.trials) == 5
    assert (result.trials["seconds"] >= 0.25).all()
    assert (home / "models/run/search/journal.jsonl").read_text().count(
        '"op_code":4'
    ) == 5  # nor was a sixth begun


def test_a_worker_that_is_killed_is_reported_and_its_trial_done_again(home):
    with pytest.raises(WorkbookError, match=r"a worker was killed, .*compute\.workers lower"):
        found(config(trials=4, workers=2), suicidal)
    result = found(config(trials=4), never_pruned)
    assert len(proposed(result)) == 4
    assert set(result.trials.loc[result.trials["state"] == "FAIL", "error"]) == {"interrupted"}


def test_workers_are_at_work_at_the_same_time(home):
    settings = config(trials=4, workers=2, pruner="none")
    result = found(settings, crowd)
    assert result.value == 2


def crowd(task, settings, watch):
    """Return how many trials are at work, in the end."""
    mark = task.folder / f"at-work-{os.getpid()}"
    mark.touch()
    time.sleep(1)
    value = len(list(task.folder.glob("at-work-*")))
    time.sleep(0.5)
    mark.unlink()
    return value


def suicidal(task, settings, watch):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_second_search_of_the_same_run_is_refused(home):
    def twice(task, settings, watch):
        with pytest.raises(WorkbookError, match=r"another process is searching in .*search"):
            found(config())
        return 0.5

    found(config(trials=1), twice)


# --- the same study ---


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_the_same_seed_gives_the_same_study_and_another_seed_another(home, sampler):
    def study(name, seed):
        settings = config(trials=12, sampler=sampler, pruner="none").model_copy(
            update={"seed": seed}
        )
        return proposed(found(settings, ws=Workspace(dataset="data", run=name)))

    first = study("a", 1)
    pd.testing.assert_frame_equal(first, study("b", 1), check_exact=True)
    assert (first["learning_rate"] != study("c", 2)["learning_rate"]).all()
    assert first["learning_rate"].nunique() > 6


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_what_is_proposed_follows_what_was_found(home, sampler):
    def last_values(kind):
        settings = [
            config(trials=24, sampler=kind, pruner="none").model_copy(update={"seed": seed})
            for seed in range(3)
        ]
        found_by = [
            found(each, ws=Workspace(dataset="data", run=f"{kind}-{each.seed}")).trials["value"]
            for each in settings
        ]
        return np.mean([values.tail(10).mean() for values in found_by])

    assert last_values(sampler) > last_values("random") + 0.08


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"space": {**SPACE, "batch_size": [8, 32]}},
            r"search\.space\.batch_size = \[8, 16\], now \[8, 32\]",
        ),
        (
            {"space": {"learning_rate": SPACE["learning_rate"]}},
            r"search\.space\.batch_size = \[8, 16\], now nothing",
        ),
        ({"training": {"dropout": 0.3}}, r"training\.dropout = 0\.1, now 0\.3"),
        ({"rows": 60}, r"rows = 90, now 60; the rows' fingerprint"),
    ],
)
def test_a_study_of_other_settings_is_refused_with_what_differs_and_the_remedy(
    home, changed, message
):
    found(config(trials=2))
    journal = home / "models/run/search/journal.jsonl"
    before = journal.read_bytes()
    with pytest.raises(
        WorkbookError,
        match=rf"the study in .*models/run/search was made with {message}.*take another run "
        r"name, delete that folder, or set search\.restart=true",
    ):
        found(config(**{"trials": 2, **changed}))
    assert journal.read_bytes() == before
    anew = found(config(**{"trials": 2, **changed, "restart": True}))
    assert len(anew.trials) == 2
    assert journal.read_bytes() != before


def test_another_sampler_pruner_budget_or_base_of_what_is_searched_goes_on_with_the_study(
    home,
):
    found(config(trials=2))
    goes_on = found(
        config(
            trials=3,
            sampler="random",
            pruner="none",
            workers=1,
            training={"learning_rate": 0.5, "eval_steps": 3},
        )
    )
    assert len(goes_on.trials) == 3


# --- the journal ---


def test_a_last_line_torn_by_a_kill_is_cut_off_and_its_trial_done_again(home):
    whole = found(config(trials=3))
    journal = home / "models/run/search/journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])  # the record that ended the last trial
    resumed = found(config(trials=3))
    assert states(resumed)["FAIL"] == 1
    pd.testing.assert_frame_equal(proposed(whole), proposed(resumed), check_exact=True)
    assert all(
        line.startswith("{") and line.endswith("}") for line in journal.read_text().splitlines()
    )
    assert len(found(config(trials=5)).trials) == 6


@pytest.mark.parametrize(
    "damage", [b'{"op_code":4,\x00\x00\n', b"[]\n", b"7\n", b"\n", b"\xff\xfe\n"]
)
def test_a_damaged_line_is_named_and_nothing_is_changed(home, damage):
    found(config(trials=2))
    journal = home / "models/run/search/journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    damaged = b"".join([*lines[:4], damage, *lines[5:]])
    journal.write_bytes(damaged)
    with pytest.raises(
        WorkbookError,
        match=r"journal\.jsonl, line 5 is not a record of a study: .*fix it, or delete the folder",
    ):
        found(config(trials=2))
    assert journal.read_bytes() == damaged


# --- what is trained on what ---


@pytest.fixture
def trained(monkeypatch, home):
    """In place of training: a model that guesses, and a note of the rows it was given."""
    calls = []

    def train_and_predict(train, stop, scored, **words):
        calls.append({"train": train, "stop": stop, "scored": scored, **words})
        return np.eye(3)[np.arange(len(scored)) % 3], 1.0

    monkeypatch.setattr(cached_training, "train_and_predict", train_and_predict)
    return calls


def test_a_trial_sees_training_rows_alone_in_three_parts_that_share_no_copy(trained):
    rows = table(120)
    result = search.search(rows, config=config(trials=3, rows=60), ws=RUN, progress=False)
    for call in trained:
        parts = [call[name] for name in ("train", "stop", "scored")]
        ids = pd.concat([part["row_id"] for part in parts])
        assert ids.is_unique and len(ids) == 60 and set(ids) <= set(rows["row_id"])
        groups = [set(part["group"]) for part in parts]
        assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
        assert [round(len(part) / 60, 1) for part in parts] == [0.6, 0.2, 0.2]
        assert [set(part["label"]) for part in parts] == [set(WORDS)] * 3
        assert (
            ids.tolist()
            == pd.concat(
                [trained[0][name]["row_id"] for name in ("train", "stop", "scored")]
            ).tolist()
        )
    assert len({call["ws"].run for call in trained}) == 3
    assert all(call["config"].seed == 42 for call in trained)
    settings = [
        (call["config"].training.learning_rate, call["config"].training.batch_size)
        for call in trained
    ]
    assert settings == list(
        result.trials[["learning_rate", "batch_size"]].itertuples(index=False, name=None)
    )
    steps = [-(-len(call["train"]) // call["config"].training.batch_size) for call in trained]
    assert [call["config"].training.eval_steps for call in trained] == [
        -(-n // EVALUATIONS_PER_EPOCH) for n in steps
    ]


def test_the_value_is_macro_f1_on_the_scored_rows(trained):
    from sklearn.metrics import f1_score

    result = search.search(table(120), config=config(trials=1), ws=RUN, progress=False)
    y = np.searchsorted(sorted(WORDS), trained[0]["scored"]["label"])
    assert result.value == pytest.approx(f1_score(y, np.arange(len(y)) % 3, average="macro"))


def test_a_class_of_too_few_texts_is_named(home):
    rows = table()
    few = rows.drop(index=rows.index[rows["label"] == "birds"][8:])
    with pytest.raises(
        WorkbookError,
        match=r"the search needs 5 texts of each class, and 'birds' has 4 different texts of 68: "
        r"set search\.rows higher",
    ):
        found(config(), rows=few)


@pytest.fixture
def as_it_is(monkeypatch):
    """Changes to lib do not count: others may be writing it."""
    monkeypatch.setattr(provenance, "code_fingerprint", lambda *_: "as it is")


def test_real_trainings_are_searched_pruned_and_kept(home, as_it_is, monkeypatch):
    trainings, train, rates = [], finetune.train, iter([1e-2, 1e-2, 1e-7, 1e-7])

    def noted(*rows, **words):
        trainings.append(words["config"].training.learning_rate)
        return train(*rows, **words)

    def propose(study, config):
        study.enqueue_trial({"learning_rate": next(rates)})
        return study.ask(
            {"learning_rate": optuna.distributions.CategoricalDistribution([1e-2, 1e-7])}
        )

    monkeypatch.setattr(finetune, "train", noted)
    monkeypatch.setattr(studies, "propose", propose)
    result = search.search(
        table(),
        config=config(space={"learning_rate": [1e-2, 1e-7]}, trials=4, training={"epochs": 4}),
        ws=RUN,
        progress=False,
    )
    assert result.trials["state"].tolist() == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    assert trainings == [
        1e-2,
        1e-7,
        1e-7,
    ]  # the second reads what the first predicted; of a pruned one nothing is kept
    assert result.best == {"learning_rate": 1e-2}
    assert result.cli_options == "--set training.learning_rate=0.01"
    assert result.value > 0.9
    assert result.trials["value"].isna().tolist() == [False, False, True, True]
    assert result.trials["stop_macro_f1"].tail(2).between(0.1, 0.3).all()
    folder = home / "models/run/search"
    assert len(list(folder.glob("trial-*/*.parquet"))) == len(list(folder.glob("trial-*"))) == 1
    assert not [
        path for path in folder.glob("trial-*/*") if path.is_dir()
    ]  # predictions are kept, models are not


# --- what comes out ---


def test_what_matters_is_told_from_what_does_not(home):
    result = found(config(trials=20, pruner="none", sampler="random"))
    assert list(result.importances) == ["learning_rate", "batch_size"]
    assert result.importances["learning_rate"] > 0.9
    assert sum(result.importances.values()) == pytest.approx(1)
    assert result.value == result.trials["value"].max()
    best = result.trials.loc[result.trials["value"].idxmax()]
    assert result.best == {"learning_rate": best["learning_rate"], "batch_size": best["batch_size"]}


def test_few_trials_or_equal_ones_say_nothing_of_importance(home):
    assert found(config(trials=4), never_pruned).importances == {}
    assert (
        found(
            config(trials=7), lambda *_: 0.5, ws=Workspace(dataset="data", run="flat")
        ).importances
        == {}
    )


def test_choices_may_be_lists_and_words_and_nothing(home):
    seen = []

    def noted(task, settings, watch):
        seen.append(TrainingConfig.model_validate(task.config.training.model_dump() | settings))
        return 0.5 + 0.1 * len(settings["unfreeze"])

    space = {
        "unfreeze": [[], [0, 6]],
        "averaging": ["none", "swa"],
        "eval_rows": [None, 20],
        "gradient_checkpointing": [False, True],
        "max_length": {"low": 16, "high": 64, "step": 16},
    }
    result = found(config(trials=12, space=space), noted)
    assert {each.unfreeze for each in seen} == {(), (0, 6)}
    assert {each.eval_rows for each in seen} == {None, 20}
    assert {each.max_length for each in seen} <= {16, 32, 48, 64}
    assert tuple(result.best["unfreeze"]) == (0, 6)
    workspace.write_table(result.trials, home / "trials.parquet")
    assert len(workspace.read_table(home / "trials.parquet")) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"space": {"epoch": [2]}},
            r"search\.space: 'epoch' is not a training setting \(did you mean 'epochs'\?\)",
        ),
        (
            {"space": {"eval_steps": [2]}},
            r"search\.space: 'eval_steps' is set by the search itself",
        ),
        (
            {"space": {"epochs": [2, -1]}},
            r"search\.space\.epochs: .*greater than 0 \(found \[2, -1\]\)",
        ),
        (
            {"space": {"epochs": []}},
            r"search\.space\.epochs: give a list of choices, or \{low: \.\., high: \.\.\}; found "
            r"\[\]",
        ),
        ({"space": {"epochs": 3}}, r"search\.space\.epochs: give a list of choices"),
        (
            {"space": {"lora_rank": [0, 4]}},
            r"search\.space\.lora_rank: .*lora_rank trains small matrices",
        ),
        (
            {"space": {"learning_rate": {"low": 1e-3}}},
            r"search\.space\.learning_rate: high: Field required",
        ),
        (
            {"space": {"learning_rate": {"low": 1e-3, "high": 1e-4}}},
            r"search\.space\.learning_rate: .*low is 0\.001 and high 0\.0001",
        ),
        (
            {"space": {"learning_rate": {"low": 1e-4, "high": 1e-3, "logs": True}}},
            r"search\.space\.learning_rate: logs: Extra inputs",
        ),
        (
            {"space": {"dropout": {"low": 0, "high": 0.5, "log": True}}},
            r"search\.space\.dropout: .*log needs a low above 0",
        ),
        (
            {"space": {"max_length": {"low": 16, "high": 64.5}}},
            r"search\.space\.max_length: .*integer",
        ),
        ({"space": {"pooling": {"low": 1, "high": 2}}}, r"search\.space\.pooling: "),
        (
            {"space": {"compile": {"low": 0, "high": 1}}},
            r"search\.space\.compile: a range is for numbers, and it takes False",
        ),
        ({"space": {}}, r"search: space is empty: name a training setting"),
        ({"nested_folds": 1}, r"search: nested_folds is 1, .*set it to 0, or to 2 or more"),
        ({"sampler": "tpee"}, r"search\.sampler: Input should be 'tpe', 'gp' or 'random'"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_before_anything_runs(settings, message):
    with pytest.raises(WorkbookError, match=message):
        Config.load("smoke", {f"search.{key}": value for key, value in settings.items()})


def test_numbers_in_words_are_numbers():
    space = Config.load(
        "smoke",
        {"search.space": {"learning_rate": ["2e-5"], "max_length": {"low": 16, "high": 64}}},
    ).search_space()
    assert space["learning_rate"] == (2e-5,)
    assert (type(space["max_length"].low), space["max_length"].high) == (int, 64)


# --- nested ---


def test_optimism_is_what_the_rows_that_chose_say_more_than_rows_that_did_not(home):
    calls = []

    def flattered(task, settings, watch):
        """0.7 in truth; the rows of a search add up to 0.1 by luck."""
        calls.append(
            (
                set(task.fit["row_id"]) | set(task.stop["row_id"]),
                set(task.scored["row_id"]),
                watch,
                settings,
            )
        )
        return (
            0.7
            + (0.1 * settings["batch_size"] / 16 if watch else 0.0)
            + 0.01 * task.scored["row_id"].isin(range(100, 102)).any()
        )

    rows = table(150)
    settings = config(trials=6, nested_folds=3, pruner="none")
    nested = search.nested(rows, config=settings, ws=RUN, objective=flattered, progress=False)
    found, optimism = nested.table, nested.optimism
    assert found["fold"].tolist() == [0, 1, 2]
    assert found["optimism"].to_numpy() == pytest.approx(
        (found["inner"] - found["outer"]).to_numpy()
    )
    assert found["optimism"].mean() == pytest.approx(0.1, abs=0.011)
    expected = cross_validation_interval(found["optimism"].to_numpy(), n_train=100, n_test=50)
    assert (optimism.value, optimism.low, optimism.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    outer = [call for call in calls if call[2] is None]
    assert (
        sorted(row for call in outer for row in call[1]) == rows["row_id"].tolist()
    )  # each row is left out once
    for i, (seen, left_out, _, best) in enumerate(outer):
        inner = calls[7 * i : 7 * i + 6]
        assert all(not left_out & (fit | scored) for fit, scored, *_ in inner)
        assert not left_out & seen
        assert best["batch_size"] == 16
    again = search.nested(rows, config=settings, ws=RUN, objective=flattered, progress=False)
    assert len(calls) == 21 + 3
    pd.testing.assert_frame_equal(found, again.table)


@pytest.mark.parametrize("record", ['{"op_code": 99, "worker_id": "x"}', '{"op_code": 4}'])
def test_records_that_are_no_studys_are_named_and_nothing_is_changed(home, record):
    folder = RUN.folder("models/{run}") / "search"
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").write_text(record + "\n")
    with pytest.raises(
        WorkbookError,
        match=r"journal\.jsonl is not a journal of a study .* delete the folder to search again",
    ):
        found(config(trials=1))
    assert (folder / "journal.jsonl").read_text() == record + "\n"


def test_a_study_goes_on_with_other_threads(home):
    first = config(trials=1)
    more = config(trials=2)
    more = more.model_copy(
        update={
            "training": more.training.model_copy(update={"threads": 3, "activation_cache_gb": 1.0})
        }
    )
    assert [len(found(settings).trials) for settings in (first, more)] == [1, 2]


def test_settings_that_never_go_together_are_one_line(home):
    settings = config(trials=2, space={"lora_rank": [4, 8], "frozen_layers": [1, 2]})
    with pytest.raises(
        WorkbookError,
        match=r"settings \{'lora_rank': .*\} of search\.space do not go together: lora_rank "
        r"trains small matrices",
    ):
        search.search(table(), config=settings, ws=RUN, progress=False)


def test_a_rare_class_is_in_every_part_of_the_sample(home):
    rows = pd.DataFrame(
        {"label": ["a"] * 1_000 + ["b"] * 900 + ["rare"] * 12, "group": np.arange(1_912)}
    ).assign(text=lambda t: "text " + t["group"].astype(str))
    seen = []

    def look(task, settings, watch):
        seen.extend(set(part["label"]) for part in (task.fit, task.stop, task.scored))
        return 0.5

    found(config(trials=1, rows=100), look, rows)
    assert seen == [{"a", "b", "rare"}] * 3


# --- sentences ---


def finished(importances):
    trials = pd.DataFrame(
        {"state": ["COMPLETE", "PRUNED", "COMPLETE"], "value": [0.8, np.nan, 0.7]}
    )
    rows = table()
    task = search.Task(rows[:60], rows[60:70], rows[70:], config(), RUN)
    best = {"learning_rate": 0.001, "averaging": "swa", "unfreeze": [0, 6]}
    return search.SearchResult(trials, best, 0.8, importances, task)


def test_a_search_is_a_sentence_with_the_options_to_use_it():
    result = finished({})
    options = (
        "--set training.learning_rate=0.001 --set training.averaging=swa "
        "--set 'training.unfreeze=[0, 6]'"
    )
    assert (result.cli_options, result.n_complete) == (options, 2)
    assert result.log_settings == ["learning_rate"]
    assert search.describe_search(result, n_train=1_500) == (
        "Best of 2 complete, 1 pruned: macro F1 0.800 on 20 texts, trained on 60 of 1,500. These "
        f"settings were chosen on few rows; more rows may need others. To use them: {options}"
    )
    assert search.describe_search(None, n_train=9) == "No search: search.trials is 0."


def test_importances_and_optimism_are_sentences():
    shares = finished({"learning_rate": 0.9, "batch_size": 0.1})
    assert search.describe_importances(shares) == (
        "Of the variance between 2 complete trials: learning_rate 90%, batch_size 10%."
    )
    assert search.describe_importances(finished({})) == (
        "2 complete trials do not show what matters: at least 5 with different values are needed."
    )
    assert search.describe_importances(None) == "No search: search.trials is 0."
    folds = pd.DataFrame({"fold": [0, 1], "inner": [0.8, 0.9], "outer": [0.7, 0.8]})
    nested = search.NestedSearch(folds, Interval(0.1, 0.05, 0.15, 100))
    assert search.describe_optimism(nested) == (
        "The search's value is too high by +0.100 [+0.050, +0.150], in 2 folds: 0.750 on rows that "
        "chose nothing, 0.850 on those that did."
    )
    assert search.describe_optimism(None) == (
        "Not measured: search.nested_folds or search.trials is 0."
    )


def test_the_trials_and_the_best_settings_are_written_also_without_a_search(home):
    search.save_search(finished({}), RUN)
    assert workspace.read_table(RUN.path("search_trials.parquet"))["state"].tolist() == [
        "COMPLETE",
        "PRUNED",
        "COMPLETE",
    ]
    path = RUN.path("best_settings.yaml")
    assert yaml.safe_load(path.read_text())["training"]["averaging"] == "swa"
    search.save_search(None, RUN)
    assert workspace.read_table(RUN.path("search_trials.parquet")).empty
    assert path.read_text() == "training: {}\n"
