import html
import re

import nbformat
import pandas as pd
import pytest
from browser import browser, needs_browser, violations
from click.testing import CliRunner
from finished_runs import CLASSES, NOTEBOOK, answers, finished_run, sealed_rows

from lib import provenance, workspace
from lib.delivery import comparison
from lib.delivery.cli import main
from lib.errors import WorkbookError
from lib.evaluation import sealed
from lib.training import classifier_folder

ROWS = sealed_rows()


@pytest.fixture
def two(home):
    """A run, and one with 40 fewer mistakes of 240."""
    finished_run("one", answers(ROWS, 60)), finished_run("two", answers(ROWS, 20))


def test_a_clear_gain_is_better_and_the_other_way_round_worse(two):
    found, mirrored = comparison.compare("one", "two"), comparison.compare("two", "one")
    assert (found.paired.verdict, mirrored.paired.verdict) == ("better", "worse")
    assert (
        found.paired.accuracy_gain.value
        == pytest.approx(40 / 240)
        == -mirrored.paired.accuracy_gain.value
    )
    assert found.verdict.startswith(
        "The ensemble of two is better than the ensemble of one: macro F1 +0.16"
    )
    assert "is worse than the ensemble of two: macro F1 -0.16" in mirrored.verdict
    assert found.verdict.endswith("n = 240.")


def test_equal_models_are_not_significantly_different(home):
    finished_run("one", answers(ROWS, 40)), finished_run("two", answers(ROWS, 41))
    found = comparison.compare("one", "two")
    assert found.paired.verdict == "inconclusive"
    assert (
        "The ensemble of two is not significantly different from the ensemble of one"
        in found.verdict
    )
    assert f"a gain in accuracy of {found.paired.detectable:.4f} would show" in found.verdict


def test_each_runs_best_model_is_compared(home):
    (
        finished_run("one", answers(ROWS, 60), baseline=answers(ROWS, 10)),
        finished_run("two", answers(ROWS, 20)),
    )
    found = comparison.compare("one", "two")
    assert found.verdict.startswith("The ensemble of two ")
    assert " the TF-IDF baseline of one: " in found.verdict
    assert found.paired.accuracy_gain.value == pytest.approx(-10 / 240)


def test_labels_are_compared_as_they_were_given():
    probs = pd.DataFrame({"row_id": [4, 9], "m: a": [0.8, 0.3], "m: b": [0.2, 0.7]})
    test = pd.DataFrame({"row_id": [4, 9]})

    def codes(table):
        return comparison.Predictions("a run", "m", ["a", "b"], table, "t").classes(test).tolist()

    assert codes(probs.assign(m=["b", "b"])) == [1, 1]
    assert codes(probs) == [0, 1]  # of an earlier version, whose labels are the most probable


def test_near_copies_are_drawn_together(home):
    rows = ROWS.assign(group=ROWS.index // 80)  # three groups: the gain is far less sure
    (
        finished_run("one", answers(rows, 60), rows=rows),
        finished_run("two", answers(rows, 20), rows=rows),
    )
    alone = (
        finished_run("three", answers(ROWS, 60)),
        finished_run("four", answers(ROWS, 20)),
    ) and comparison.compare("three", "four")
    grouped = comparison.compare("one", "two")
    assert grouped.paired.macro_f1_gain.value == alone.paired.macro_f1_gain.value
    assert grouped.paired.macro_f1_gain.low != alone.paired.macro_f1_gain.low


def test_the_command_prints_every_model_with_intervals_and_the_verdict(two):
    said = CliRunner().invoke(main, ["compare", "one", "two"])
    assert said.exit_code == 0
    head, *rows, blank, verdict, warning = said.output.splitlines()
    assert head.split() == ["run", "model", "macro", "F1", "accuracy"] and blank == ""
    found = workspace.read_json(workspace.home() / "reports" / "two" / "metrics.json")["models"][
        "ensemble"
    ]["intervals"]["accuracy"]
    assert re.split("  +", rows[3])[:2] == ["two", "ensemble"]
    assert (
        re.split("  +", rows[3])[3]
        == f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
    )
    assert len({row.index("[") for row in rows}) == 1
    assert [row.split()[0] for row in rows] == ["one", "one", "two", "two"]
    assert verdict.startswith("The ensemble of two is better than")
    assert warning.startswith("2 different models have been evaluated on this test set")


def test_a_comparison_is_written_down_and_is_no_new_look(two):
    ws = comparison.evaluated_run("two").ws
    before = sealed.ledger(ws)
    compared = comparison.compare("one", "two")
    assert compared.paired.macro_f1_gain.confidence == 1 - 0.05 / 2  # two models are measured
    after = sealed.ledger(ws)
    assert (
        len(after) == len(before) + 1
        and sealed.n_evaluations(after) == sealed.n_evaluations(before) == 2
    )
    assert (
        after["why"].iloc[-1] == "comparison with run 'one'"
        and after["model"].iloc[-1] == before["model"].iloc[-1]
    )


def refused(*words):
    with pytest.raises(WorkbookError) as caught:
        comparison.compare(*words)
    return str(caught.value)


def test_an_unknown_run_names_the_closest(two):
    assert (
        refused("one", "tow")
        == f"no run 'tow' in {workspace.home() / 'reports'} (did you mean 'two'?); there are "
        "one, two"
    )


def test_where_there_is_no_run_a_command_makes_one(home):
    assert refused("one", "two").endswith("reports; `workbook run` makes one")


def test_other_classes_are_refused_by_name(two):
    classes = ("bird", "fruit", "vehicle")
    finished_run(
        "three", answers(sealed_rows(classes=classes), 20, classes=classes), classes=classes
    )
    words = "run 'one' and run 'three' have other classes and cannot be compared"
    assert (
        refused("one", "three")
        == f"{words}: 'tool' is a class of run 'one' alone; 'vehicle' is a class of run 'three' "
        "alone; compare runs of the same classes"
    )


def test_another_test_set_is_refused(two):
    finished_run("three", answers(ROWS, 20), rows=sealed_rows(seed=1000))
    assert refused("one", "three").startswith(
        "run 'one' and run 'three' were measured on other test sets (seals "
    )


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"finished": None}, "done"),
        ({"steps": {}}, "not run"),
        ({"steps": {NOTEBOOK: {"state": "failed"}}}, "failed"),
    ],
)
def test_an_unfinished_run_is_refused(two, change, state):
    path = workspace.home() / "reports" / "two" / "run.json"
    workspace.write_json(workspace.read_json(path) | change, path)
    assert (
        refused("one", "two")
        == f"run 'two' is not finished: {NOTEBOOK} is {state}; `workbook run --run two` goes on "
        "with it"
    )


def test_scores_that_the_evaluation_did_not_write_are_refused(two):
    ws = comparison.evaluated_run("two").ws
    workspace.write_table(
        workspace.read_table(ws.path("test_probs.parquet")).iloc[::-1],
        ws.path("test_probs.parquet"),
    )
    assert "test_probs.parquet is not what 07_evaluate_and_analyse_errors wrote" in refused(
        "one", "two"
    )


def test_a_test_set_that_was_sealed_again_is_refused(two):
    ws = comparison.evaluated_run("two").ws
    workspace.write_table(sealed_rows(seed=7), ws.path("test.parquet"))
    sealed.seal(ws)
    assert (
        refused("one", "two")
        == "the test set of run 'two' has changed since its evaluation: `workbook run --run two` "
        "evaluates again"
    )


def test_predictions_of_other_rows_are_refused():
    probs = ROWS[["row_id"]].iloc[::-1]
    predictions = comparison.Predictions("run 'x'", "ensemble", list(CLASSES), probs, "seal")
    with pytest.raises(WorkbookError, match="the probabilities of run 'x' are of other rows"):
        predictions.classes(ROWS)


def test_a_run_is_known_by_the_model_that_it_evaluated_itself(two):
    ws = comparison.evaluated_run("one").ws
    own = f"all models of {classifier_folder.fingerprint(ws.path('classifier'))}"
    sealed.open_test(ws, model="another", why="comparison of others")
    comparison.compare("one", "two")
    assert (
        comparison.evaluated_run("one").model_id == own != comparison.evaluated_run("two").model_id
    )


def test_a_damaged_record_of_a_run_is_named(two):
    path = workspace.home() / "reports" / "two" / "run.json"
    for damaged in ("{", "[]", '{"data": 1}'):
        path.write_text(damaged)
        with pytest.raises(
            WorkbookError,
            match=r"run\.json is damaged .*: `workbook run --run two` writes it again",
        ):
            comparison.compare("one", "two")


def test_the_page_of_a_comparison_says_who_is_better_where_and_what_was_set_otherwise(two, home):
    found = comparison.compare("one", "two")
    texts = found.answers.set_index("right")["texts"].astype(int)
    assert texts["both"] + texts["one alone"] == 180 and texts["both"] + texts["two alone"] == 220
    assert texts.sum() == 240
    f1 = found.classes.set_index("class").map(lambda text: float(text.split()[0]))
    assert sorted(f1.index) == sorted(CLASSES)
    assert (f1["run two"] - f1["run one"]).is_monotonic_increasing
    result = CliRunner().invoke(main, ["report", "--compare", "one", "two"])
    page = home / "reports" / "two" / "against_one.html"
    assert result.output == f"report: {page}\n"
    shown = html.unescape(page.read_text(encoding="utf-8"))
    assert f'<p class="verdict">{found.verdict}</p>' in shown
    assert 'href="../one/index.html"' in shown and "No setting differs." in shown


def test_settings_that_differ_are_named_with_both_values(home):
    finished_run("one", answers(ROWS, 60)), finished_run("two", answers(ROWS, 20))
    path = home / "reports" / "two" / "run.json"
    record = workspace.read_json(path)
    record["steps"]["04_train_model"]["settings"]["training.epochs"] = 7
    workspace.write_json(record, path)
    before = comparison.evaluated_run("one").trained_with.get("training.epochs", "not there")
    table = comparison.compare("one", "two").settings
    assert table.to_numpy().tolist() == [["training.epochs", str(before), "7"]]


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_a_comparison_breaks_no_rule_of_accessibility(two, scheme):
    page = comparison.write_comparison("one", "two")
    with browser() as chromium:
        tab = chromium.new_page(color_scheme=scheme)
        tab.goto(page.as_uri())
        assert violations(tab) == []


@pytest.mark.parametrize("words", [["report"], ["report", "one", "--compare", "one", "two"]])
def test_report_takes_one_run_or_two_to_compare(two, words):
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "report takes one run, or --compare and two" in result.output


def test_the_pages_of_a_run_are_built_again(two, home):
    folder = home / "reports" / "one"
    nbformat.write(nbformat.v4.new_notebook(), folder / "01_profile_data.ipynb")
    facts = {"profile": "smoke", "overrides": {}, "machine": provenance.machine_facts()}
    workspace.write_json(workspace.read_json(folder / "run.json") | facts, folder / "run.json")
    result = CliRunner().invoke(main, ["report", "one"])
    assert result.output == f"report: {folder / 'index.html'}\n"
    assert (folder / "01_profile_data.html").exists()
