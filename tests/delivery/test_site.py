"""The index of a run: finished, halfway, and of an earlier version."""

import html

import nbformat
import pandas as pd
import pytest
from browser import browser, needs_browser, requests_of, violations

from lib import checks, provenance, workspace
from lib.delivery import findings, site
from lib.workspace import Workspace

INTERVAL = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40, "confidence": 0.95}


@pytest.fixture
def ws(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    return Workspace("d", "r")


def record(**steps):
    return {
        "profile": "quick",
        "data": {"source": "my data.csv", "rows": 100, "classes": 2},
        "overrides": {"training.epochs": 2},
        "settings": {"seed": 1, "training.backbone": "b"},
        "machine": provenance.machine_facts(),
        "steps": steps,
        "finished": None,
    }


def execute(ws, notebook, *takeaways, figure=False):
    """Write an executed notebook whose headline is the first takeaway."""
    cells = []
    for i, takeaway in enumerate(takeaways):
        output = nbformat.v4.new_output("execute_result", {"text/html": takeaway._repr_html_()})
        metadata = {"tags": ["headline"]} if i == 0 else {}
        cells.append(nbformat.v4.new_code_cell("say()", outputs=[output], metadata=metadata))
    if figure:
        output = nbformat.v4.new_output(
            "display_data",
            {"image/png": "iVBORw0KGgo="},
            metadata={"image/png": {"alt": "Figure: scores"}},
        )
        metadata = {"tags": ["headline"]}
        cells.append(nbformat.v4.new_code_cell("draw()", outputs=[output], metadata=metadata))
    folder = ws.folder(workspace.REPORTS)
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{notebook}.ipynb")
    (folder / f"{notebook}.html").touch()


def index(ws, content):
    return html.unescape(site.write_index(ws, content).read_text(encoding="utf-8"))


def test_a_score_that_an_earlier_version_did_not_measure_is_a_dash(ws):
    scores = {"intervals": {"accuracy": INTERVAL, "macro_f1": INTERVAL, "ece": INTERVAL}}
    workspace.write_json(
        {"n_test": 40, "models": {"transformer": scores}, "verdict": "v"}, ws.path("metrics.json")
    )
    page = index(ws, record())
    assert page.count("0.900 <span") == 2 and '<td class="number">–</td>' in page
    assert "Not evaluated yet" not in page


def test_the_verdict_is_notebook_07s_headline_and_before_it_nothing_is_claimed(ws):
    assert '<p class="verdict">Not evaluated yet' in index(ws, record())
    ready = checks.takeaway("Ready, above the bar <accept>.")
    execute(ws, "07_evaluate_and_analyse_errors", ready, checks.takeaway("Not this."))
    page = index(ws, record())
    assert '<p class="verdict">Ready, above the bar <accept>.</p>' in page
    assert "Not this" not in page


def test_the_three_steps_that_win_most_are_shown_unknown_ones_last(ws):
    execute(ws, "03_review_labels", checks.takeaway("Look.", {"Review.": float("nan")}))
    execute(ws, "05_search_and_cross_validate", checks.takeaway("Grow.", {"Label more.": 1.5}))
    both = checks.takeaway("Two.", {"Collect.": 2.5, "Lengthen.": 0.4})
    execute(ws, "07_evaluate_and_analyse_errors", both)
    found = findings.read_findings(sorted(ws.folder(workspace.REPORTS).glob("*.ipynb")))
    steps = [step.text for step in found.next_steps]
    assert steps == ["Collect.", "Label more.", "Lengthen.", "Review."]
    page = index(ws, record())
    assert "Lengthen." in page and "Review." not in page


def test_rows_are_followed_from_the_source_to_the_splits(ws):
    assert findings.row_flow(ws, 100) == [findings.Stage("loaded", 100)]
    dropped = pd.DataFrame({"row_id": range(7), "rule": ["too short"] * 5 + ["duplicate"] * 2})
    workspace.write_table(dropped, ws.path("dropped.parquet"))
    sizes = {"clean": 93, "train": 63, "val": 15, "test": 15}
    for name, n in sizes.items():
        workspace.write_table(pd.DataFrame({"row_id": range(n)}), ws.path(f"{name}.parquet"))
    assert findings.row_flow(ws, 100) == [
        findings.Stage("loaded", 100),
        findings.Stage("dropped", 7, "lost", "too short 5, duplicate 2"),
        findings.Stage("clean", 93),
        findings.Stage("labels decided by people", 0, "lost"),
        findings.Stage("training", 63, "share"),
        findings.Stage("validation", 15, "share"),
        findings.Stage("test, sealed", 15, "share"),
    ]


def test_a_run_that_failed_says_what_succeeded_what_went_wrong_and_how_to_go_on(ws):
    execute(ws, "01_profile_data", checks.takeaway("100 rows in 2 classes."))
    (ws.folder(workspace.REPORTS) / "02_clean_and_split.failed.html").touch()
    failed = {"state": "failed", "error": "it stopped: <b>no</b> rows", "seconds": None}
    page = index(ws, record(**{"02_clean_and_split": failed}))
    assert "100 rows in 2 classes." in page
    assert "<h2>02_clean_and_split failed</h2>" in page and "it stopped: <b>no</b> rows" in page
    assert 'href="02_clean_and_split.failed.html"' in page
    command = "workbook run --profile quick --run r --data 'my data.csv' --set training.epochs=2"
    assert page.count(command) == 2  # to go on, and to make it again


def test_another_machine_is_named_at_its_notebook_alone(ws):
    here = site.machine_line(provenance.machine_facts())
    done = {"state": "done", "seconds": 3.0}
    steps = {
        "01_profile_data": done | {"machine": here},
        "04_train_model": done | {"machine": "A GPU, 16 cores"},
    }
    page = index(ws, record(**steps))
    assert page.count("A GPU, 16 cores") == 1 and page.count(here) == 1


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_index_breaks_no_rule_of_accessibility(ws, scheme):
    name = "<img src=x onerror=\"document.title='broken into'\">"
    scores = {"intervals": dict.fromkeys(("accuracy", "macro_f1", "calibration_error"), INTERVAL)}
    content = {"n_test": 40, "models": {name: scores}, "verdict": name, "warning": "Twice."}
    workspace.write_json(content, ws.path("metrics.json"))
    takeaway = checks.takeaway(name, {name: 1.0})
    execute(ws, "07_evaluate_and_analyse_errors", takeaway, figure=True)
    failed = {"state": "failed", "error": name, "seconds": None}
    page = site.write_index(ws, record(**{"08_test_robustness": failed}))
    with browser() as chromium:
        tab = chromium.new_page(color_scheme=scheme)
        asked = requests_of(tab)
        tab.goto(page.as_uri())
        assert tab.title() == "r – workbook report"
        assert tab.get_by_text(name).count() >= 4
        assert violations(tab) == []
        assert asked == []
