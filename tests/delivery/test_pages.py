"""What the page of an executed notebook leaves out, and how it behaves in a browser."""

import base64
import io

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from browser import browser, needs_browser, requests_of, violations

from lib import checks
from lib.delivery import pages

PAYLOADS = [
    "<script>document.title = 'broken into'</script>",
    "<img src=x onerror=\"document.title = 'broken into'\">",
    '"><svg onload="document.title = \'broken into\'">',
]
FRUIT = pd.DataFrame(
    {"name": ["pear", "apple", "fig", *"abcdefg"], "n": ["1,200", "30", "4", *"1234567"]}
)


def output(**data):
    kinds = {"html": "text/html", "plain": "text/plain", "png": "image/png"}
    content = {kinds[name]: value for name, value in data.items()}
    return nbformat.v4.new_output("display_data", content)


def picture():
    buffer = io.BytesIO()
    plt.figure(figsize=(1, 1)).savefig(buffer, format="png")
    plt.close("all")
    figure = output(png=base64.b64encode(buffer.getvalue()).decode())
    figure["metadata"] = {"image/png": {"alt": "Figure: nothing", "width": 50}}
    return figure


def exported(folder, *outputs, source="work()"):
    cells = [
        nbformat.v4.new_markdown_cell("# 01 · A page\n\nIt says little."),
        nbformat.v4.new_markdown_cell("## Is it true?\n\nWe shall see."),
        nbformat.v4.new_code_cell(source, outputs=list(outputs)),
        nbformat.v4.new_markdown_cell("## And this?\n\n" + "A paragraph.\n\n" * 80),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "note.ipynb")
    pages.export_notebook(folder / "note.ipynb", folder / "note.html", run="a <run>")
    return folder / "note.html"


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


def test_progress_bars_do_not_reach_the_page(tmp_path):
    widget = nbformat.v4.new_output(
        "display_data",
        {
            "application/vnd.jupyter.widget-view+json": {"model_id": "m"},
            "text/plain": "Loading weights: 0%|",
        },
    )
    stream = nbformat.v4.new_output("stream", name="stderr", text="training: 7%|")
    page = exported(tmp_path, widget, stream, output(plain="the result"))
    shown = page.read_text(encoding="utf-8")
    assert "the result" in shown
    assert "Loading weights" not in shown and "training: 7%" not in shown


def test_a_table_without_rows_does_not_reach_the_page(tmp_path):
    tables = [output(html=rows.to_html(), plain=repr(rows)) for rows in (FRUIT.head(0), FRUIT[:1])]
    shown = exported(tmp_path, *tables).read_text(encoding="utf-8")
    assert shown.count("<table") == 1 and "pear" in shown


def test_the_heading_of_a_tables_index_is_no_empty_heading(tmp_path):
    styled = output(html=FRUIT.style.to_html())
    shown = exported(tmp_path, output(html=FRUIT.to_html()), styled).read_text(encoding="utf-8")
    assert "<th></th>" not in shown and "<td></td>" in shown
    assert "&nbsp;</th>" not in shown and '<td class="blank level0"></td>' in shown


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_breaks_no_rule_of_accessibility_and_asks_for_nothing(tmp_path, chromium, scheme):
    takeaway = checks.takeaway("It holds.", {"Do more.": 1.0})._repr_html_()
    outputs = [output(html=FRUIT.to_html()), output(html=takeaway), output(plain="7"), picture()]
    source = "import os  # why\nname = 'a string'\nfor i in range(3):\n    print(name, None)"
    note = exported(tmp_path, *outputs, source=source)
    page = chromium.new_page(color_scheme=scheme)
    asked = requests_of(page)
    page.goto(note.as_uri())
    assert violations(page) == []
    page.check("#show-code")
    assert page.is_visible(".input") and violations(page) == []
    assert asked == []


@needs_browser
@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_script_of_a_text_runs_even_where_it_were_not_escaped(tmp_path, chromium, payload):
    page = chromium.new_page()
    page.goto(exported(tmp_path, output(html=payload)).as_uri())
    page.wait_for_timeout(200)
    assert page.title() == "01 · A page – a <run>"


@needs_browser
def test_tables_sort_by_number_and_by_word_and_filter(tmp_path, chromium):
    page = chromium.new_page()
    page.goto(exported(tmp_path, output(html=FRUIT.to_html())).as_uri())
    names = "() => [...document.querySelectorAll('tbody tr')].map(r => r.cells[1].textContent)"
    page.get_by_role("button", name="n", exact=True).click()
    assert page.evaluate(names)[-2:] == ["apple", "pear"]
    assert page.get_attribute("thead th:last-child", "aria-sort") == "ascending"
    page.get_by_role("button", name="n", exact=True).click()
    assert page.evaluate(names)[:2] == ["pear", "apple"]
    page.get_by_role("button", name="name").press("Enter")
    assert page.evaluate(names)[:2] == ["a", "apple"]
    page.get_by_label("Rows with").fill("APP")
    assert page.locator("tbody tr:visible").all_inner_texts() == ["1\tapple\t30"]


@needs_browser
def test_the_contents_show_the_place_and_a_phone_needs_no_scrolling_sideways(tmp_path, chromium):
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    wide = pd.DataFrame({f"column number {i}": ["some words " * 5] * 3 for i in range(9)})
    page.goto(exported(tmp_path, output(html=wide.to_html())).as_uri())
    here = "nav a[aria-current]"
    assert page.inner_text(here) == "01 · A page"
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("document.querySelector('nav a[aria-current]').textContent[0] === 'A'")
    width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(width) == 0


@needs_browser
def test_without_scripts_all_can_be_read(tmp_path, chromium):
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.goto(exported(tmp_path, output(html=FRUIT.to_html())).as_uri())
    assert page.locator("tbody tr").count() == 10
    page.check("#show-code")
    assert page.is_visible(".input")
