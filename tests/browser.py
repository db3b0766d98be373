"""Pages in a real browser: what breaks the rules of accessibility, runs or asks for something."""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


@contextmanager
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield chromium
        chromium.close()


def violations(page):
    """Return what axe finds on an open page, of any level."""
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(page).response
    assert len(results["passes"]) > 10
    return [(rule["id"], rule["nodes"][0]["html"]) for rule in results["violations"]]


def requests_of(page):
    """Return a list that fills with what a page asks of the network."""
    asked = []
    page.on(
        "request",
        lambda request: (
            asked.append(request.url) if not request.url.startswith(("file:", "data:")) else None
        ),
    )
    return asked
