"""`workbook lab` and the label reviewer as a person meets them: JupyterLab in a real browser."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import httpx
import nbformat
import pytest
from conftest import REPOSITORY

from lib.review.decisions import read_decisions
from lib.review.issues import QUEUE_COLUMNS

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed"),
    pytest.mark.xdist_group("jupyterlab"),
]
SECONDS = 60  # that anything may take on a loaded machine
REVIEW = f"""
from pathlib import Path
import pandas as pd
from lib.review import widget
texts = ["the first text", "a second <b>text</b>", "the third", "the fourth"]
rows = [
    [f"f{{i}}", i, "train", "art", "news", 0.9, "r", text, "", "", ""]
    for i, text in enumerate(texts)
]
queue = pd.DataFrame(rows, columns={QUEUE_COLUMNS!r})
widget.review(queue, decisions_path=Path("decisions.csv"), class_names=["art", "news"])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the workbook, as JupyterLab writes next to what it opens."""
    folder = tmp_path_factory.mktemp("workbook")
    for name in ("lib", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    cell = nbformat.v4.new_code_cell(REVIEW)
    kernel = {"name": "python3", "display_name": "Python 3"}
    document = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(document, folder / "review.ipynb")
    return folder


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """The address of `workbook lab`."""
    own = tmp_path_factory.mktemp("jupyter")
    places = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    environment = {**os.environ, **dict.fromkeys(places, str(own)), "PYTHONPATH": str(folder)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (
        f"--no-browser --allow-root --ServerApp.port={port} --ServerApp.port_retries=0 "
        "--IdentityProvider.token=t --LabApp.expose_app_in_browser=True"
    )
    command = [sys.executable, "-m", "lib.delivery.cli", "lab", "--", *options.split()]
    address = f"http://127.0.0.1:{port}"
    with (own / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(lambda: is_up(address), f"{own / 'log'}: the server does not answer")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(SECONDS)


def is_up(address):
    try:
        return httpx.get(f"{address}/api?token=t").is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    """A page that has asked nobody but the server."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(SECONDS * 1000)
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    context.close()
    assert [url for url in asked if not url.startswith((server, "data:", "blob:"))] == []


def wait_for(condition, message):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, message
        time.sleep(0.1)


def execute(page, command):
    # not awaited in the page: it would wait for the cells
    page.evaluate(f"() => {{ window.jupyterapp.commands.execute('{command}') }}")


def press(page, key):
    page.wait_for_timeout(200)  # a key counts for the row that was there when it was pressed
    page.keyboard.press(key)


def kernel_of(server):
    """The kernel of the reviewer's notebook, once the page talks to it and it waits for work."""
    sessions = httpx.get(f"{server}/api/sessions?token=t").json()
    kernels = [session["kernel"] for session in sessions if session["path"] == "review.ipynb"]
    ready = [
        kernel
        for kernel in kernels
        if kernel["execution_state"] == "idle" and kernel["connections"]
    ]
    return ready[0]["id"] if ready else None


def test_the_lab_opens_on_the_map_of_the_notebooks(page, server):
    page.goto(f"{server}/?token=t")
    preview = page.locator(".jp-MarkdownViewer")
    preview.get_by_role("heading", name="The notebooks").wait_for()
    links = preview.locator("td a").all_inner_texts()
    assert links == sorted(path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb"))
    preview.get_by_role("link", name="03_review_labels").click()
    page.locator(".jp-Notebook h1", has_text="Which labels are wrong?").wait_for()


def test_what_is_decided_by_keys_and_mouse_outlives_the_kernel(page, server, folder):
    path = folder / "decisions.csv"
    page.goto(f"{server}/lab/tree/review.ipynb?token=t&reset")
    wait_for(lambda: kernel_of(server), "the notebook has no kernel")
    execute(page, "notebook:run-all-cells")
    frame = page.locator(".label-reviewer")
    frame.get_by_text("1 of 4, 0 decided").wait_for()
    assert frame.locator(".text").inner_text() == "the first text"
    frame.locator(".text").click()
    press(page, "k")
    frame.get_by_text("2 of 4, 1 decided").wait_for()
    assert frame.locator(".text").inner_text() == "a second <b>text</b>"
    frame.get_by_role("button", name="Relabel").click()
    frame.get_by_text("3 of 4, 2 decided").wait_for()
    frame.get_by_placeholder("optional").fill("dull")  # in a field a key is a letter
    frame.get_by_placeholder("optional").press("d")
    frame.get_by_placeholder("optional").press("Enter")
    press(page, "d")
    frame.get_by_text("4 of 4, 3 decided").wait_for()
    decided = [["f0", "keep", "", ""], ["f1", "relabel", "news", ""], ["f2", "drop", "", "dulld"]]
    assert on_disk(path) == decided

    # by the server, as where it died: the page must not ask threads (subshells) of the old one
    httpx.post(f"{server}/api/kernels/{kernel_of(server)}/restart?token=t", timeout=SECONDS)
    execute(page, "notebook:clear-all-cell-outputs")
    frame.wait_for(state="detached")
    wait_for(lambda: kernel_of(server), "the kernel does not come back")
    execute(page, "notebook:run-all-cells")
    frame.get_by_text("4 of 4, 3 decided").wait_for()
    assert frame.locator(".text").inner_text() == "the fourth"
    frame.locator(".text").click()
    press(page, "ArrowLeft")
    frame.get_by_text("decided: drop").wait_for()
    press(page, "ArrowRight")
    frame.get_by_text("4 of 4").wait_for()
    press(page, "u")
    frame.get_by_text("That was the last row").wait_for()
    assert on_disk(path) == [*decided, ["f3", "unsure", "", ""]]


def on_disk(path):
    return read_decisions(path)[["fingerprint", "decision", "new_label", "why"]].to_numpy().tolist()
