"""README and docs: their size, their links, the settings they name, the code they show."""

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys

import click
import pytest
from conftest import REPOSITORY

from lib.config import Config, setting_keys
from lib.delivery.cli import main

README = REPOSITORY / "README.md"
MAP = REPOSITORY / "notebooks" / "README.md"
PAGES = [README, MAP, *sorted((REPOSITORY / "docs").glob("*.md"))]
EACH_PAGE = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}"
)
NOT_SOURCES: set[str] = set()  # words before a number that is no year
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
    endings = (".csv", ".json", ".md", ".parquet", ".yaml")
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


def commands(page):
    """The command lines of `workbook` that a page shows."""
    blocks = "".join(CODE.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in blocks.splitlines()]
    return [line for line in lines if re.match(r"(\.venv/bin/)?workbook ", line)]


@EACH_PAGE
def test_the_command_line_takes_every_command_that_is_shown(page):
    for line in commands(page):
        _, name, *words = shlex.split(line, comments=True)
        command = main.commands[name]
        command.make_context(name, words, resilient_parsing=False)


def test_a_command_with_an_unknown_option_would_be_seen():
    with pytest.raises(click.NoSuchOption):
        main.commands["run"].make_context("run", ["--profil", "quick"])


@EACH_PAGE
def test_every_target_of_make_that_is_shown_exists(page):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    assert [name for name in shown if not re.search(rf"^{name}:", makefile, re.MULTILINE)] == []


def test_make_bench_measures_every_figure_of_the_page_of_results():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    results = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    (measured,) = re.findall(r"^BENCHMARKS := (.*)$", makefile, re.MULTILINE)
    named = set(re.findall(r"benchmarks/(\w+)\.py", results))
    assert named <= set(measured.split())


# of the errors that a reader meets in the first days, each is in docs/troubleshooting.md
COMMON = [
    *(
        "config/config.py",
        "config/files.py",
        "data/classes.py",
        "data/columns.py",
        "data/formats",
        "data/sources.py",
        "workspace.py",
        "delivery/runner.py",
    ),
    *("delivery/execution.py", "delivery/comparison.py", "delivery/serving/server.py"),
    *("delivery/batch/prediction.py", "training/classifier_folder.py"),
]


def template(node):
    """A text of the source, with … for what is only known when it runs."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    return "…"


def errors(path):
    """The texts of the errors that a module raises, without those that are made elsewhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    calls = [
        call
        for call in raised
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "WorkbookError"
    ]
    texts = [template(call.args[0]) for call in calls]
    return [text for text in texts if len(text.replace("…", "")) > 12]


def symptoms():
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"^\| `([^|]+)` \|", page, re.MULTILINE)
    return [re.compile(".*?".join(map(re.escape, cell.split("…")))) for cell in first_cells]


def test_each_common_error_is_explained():
    lib = REPOSITORY / "lib"
    common = [
        path
        for name in COMMON
        for path in ([lib / name] if name.endswith(".py") else sorted((lib / name).glob("*.py")))
    ]
    texts = [text for path in common for text in errors(path)]
    assert len(texts) > 60
    known = symptoms()
    assert [text for text in texts if not any(symptom.search(text) for symptom in known)] == []


def test_no_error_is_explained_that_is_not_there():
    texts = [text for path in (REPOSITORY / "lib").rglob("*.py") for text in all_texts(path)]
    absent = [s.pattern for s in symptoms() if not any(s.search(text) for text in texts)]
    assert absent == []


def all_texts(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [template(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr)]


def cited(text):
    """Sources as `Name 2020`, by the last name before the year."""
    text = re.sub(r"et\s+al\.", "", text)
    return {
        f"{name} {year}"
        for name, year in re.findall(r"([A-Z][A-Za-z-]+),?\s+([12][09]\d\d)\b", text)
    }


def test_every_source_that_lib_names_is_among_the_references():
    given = cited((REPOSITORY / "docs" / "references.md").read_text(encoding="utf-8"))
    named = set()
    for path in (REPOSITORY / "lib").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        named |= {found for found in cited(source) if found.split()[0] not in NOT_SOURCES}
    assert len(given) > 60
    assert sorted(named - given) == []


@pytest.mark.xdist_group("smoke")
def test_the_readmes_classifier_runs(smoke_home, tmp_path):
    """The third block of code, on the classifier of a real run, in a folder of its own."""
    block = CODE.findall(README.read_text(encoding="utf-8"))[1]
    assert block.startswith("```python\n") and "models/quick/classifier" in block
    folder = tmp_path / "models" / "quick" / "classifier"
    shutil.copytree(smoke_home / "models" / "smoke" / "classifier", folder)
    code = block.removeprefix("```python\n").removesuffix("```")
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"label\s+confidence\s+abstained\s+reason", done.stdout)
    rows = re.findall(r"^[012] .*", done.stdout, re.MULTILINE)
    assert ["no words left" in row for row in rows] == [False, False, True]
