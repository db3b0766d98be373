"""What an executed notebook's page leaves out."""

import nbformat

from lib.delivery import site


def test_progress_bars_do_not_reach_the_page(tmp_path):
    widget = nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "m"}, "text/plain": "Loading weights: 0%|"})
    stream, table = nbformat.v4.new_output("stream", name="stderr", text="training: 7%|"), nbformat.v4.new_output("display_data", {"text/plain": "the result"})
    cell = nbformat.v4.new_code_cell("work()", outputs=[widget, stream, table])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "note.ipynb")
    site.export_notebook(tmp_path / "note.ipynb", tmp_path / "note.html", run="r")
    page = (tmp_path / "note.html").read_text(encoding="utf-8")
    assert "the result" in page
    assert "Loading weights" not in page and "training: 7%" not in page
