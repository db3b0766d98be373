"""README and docs: their size, their links, the settings they name, the code they show."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from lib.config import Config, setting_keys

README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").glob("*.md"))]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
CODE = re.compile(r"```.*?```", re.DOTALL)


def prose(page):
    return CODE.sub("", page.read_text(encoding="utf-8"))


def paragraphs(text):
    blocks = re.split(r"\n\s*\n|\n(?=[-*] )", text)
    return [block for block in blocks if not block.lstrip().startswith(("|", "#"))]


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            broken.append(target)
    return broken


def unknown_settings(text):
    """Settings named in prose or commands that do not exist."""
    sections = [name for name in Config.model_fields if name not in {"profile", "seed"}]
    named = re.findall(rf"(?<![\w./-])((?:{'|'.join(sections)})\.[a-z_]+)(?![\w(/])", text)
    modules = {
        f"{folder.name}.{path.stem}"
        for folder in (REPOSITORY / "lib").iterdir()
        if folder.is_dir()
        for path in folder.iterdir()
    }
    endings = (".csv", ".json", ".parquet", ".yaml")
    return [
        name
        for name in named
        if name not in setting_keys() and name not in modules and not name.endswith(endings)
    ]


def test_the_readme_is_short():
    assert len(prose(README).split()) <= 1_000


@EACH_PAGE
def test_no_paragraph_is_long(page):
    assert [block for block in paragraphs(prose(page)) if len(block.split()) > 60] == []


@EACH_PAGE
def test_links_and_anchors_resolve(page):
    assert broken_links(page) == []


@EACH_PAGE
def test_every_setting_that_is_named_exists(page):
    assert unknown_settings(page.read_text(encoding="utf-8")) == []


def test_these_checks_see_what_is_broken(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A head, of words\n\n[a](no.md) [b](page.md#a-head-of-words) [c](#none) "
        "[d](https://x.org)\n\nSet `training.epochs`, `training.epoch` and `search.csv`.\n"
    )
    assert broken_links(page) == ["no.md", "#none"]
    assert unknown_settings(page.read_text()) == ["training.epoch"]
    assert [len(block.split()) for block in paragraphs("a b\n\n- c\n- d e f\n\n| x | y |")] == [
        *(2, 2, 4)
    ]


@pytest.mark.xdist_group("smoke")
def test_the_readmes_classifier_runs(smoke_home, tmp_path):
    """The third block of code, on the classifier of a real run, in a folder of its own."""
    block = CODE.findall(README.read_text(encoding="utf-8"))[1]
    assert block.startswith("```python\n") and "models/quick/classifier" in block
    folder = tmp_path / "models" / "quick" / "classifier"
    shutil.copytree(smoke_home / "models" / "smoke" / "classifier", folder)
    code = block.removeprefix("```python\n").removesuffix("```")
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"label\s+confidence\s+abstained\s+reason", done.stdout)
    rows = re.findall(r"^[012] .*", done.stdout, re.MULTILINE)
    assert ["no words left" in row for row in rows] == [False, False, True]
