"""What an executed notebook's page leaves out."""

import nbformat

from lib import provenance, workspace
from lib.delivery import site
from lib.workspace import Workspace


def test_progress_bars_do_not_reach_the_page(tmp_path):
    widget = nbformat.v4.new_output(
        "display_data",
        {
            "application/vnd.jupyter.widget-view+json": {"model_id": "m"},
            "text/plain": "Loading weights: 0%|",
        },
    )
    stream, table = (
        nbformat.v4.new_output("stream", name="stderr", text="training: 7%|"),
        nbformat.v4.new_output("display_data", {"text/plain": "the result"}),
    )
    cell = nbformat.v4.new_code_cell("work()", outputs=[widget, stream, table])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "note.ipynb")
    site.export_notebook(tmp_path / "note.ipynb", tmp_path / "note.html", run="r")
    page = (tmp_path / "note.html").read_text(encoding="utf-8")
    assert "the result" in page
    assert "Loading weights" not in page and "training: 7%" not in page


def test_a_score_that_an_earlier_version_did_not_measure_is_a_dash(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    ws, interval = (
        Workspace("d", "r"),
        {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40, "confidence": 0.95},
    )
    scores = {"intervals": {"accuracy": interval, "macro_f1": interval, "ece": interval}}
    workspace.write_json(
        {"n_test": 40, "models": {"transformer": scores}, "verdict": "v"}, ws.path("metrics.json")
    )
    record = {
        "profile": "quick",
        "data": {},
        "overrides": {},
        "settings": {"seed": 1, "training.backbone": "b"},
        "machine": provenance.machine_facts(),
        "steps": {},
        "finished": None,
    }
    page = site.write_index(ws, record).read_text(encoding="utf-8")
    assert page.count("0.900 <span") == 2 and '<td class="number">–</td>' in page
