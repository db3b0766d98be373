"""The rules that notebooks keep, and nbval over all of them in the smoke profile."""

import ast
import os
import re
import subprocess
import sys

import nbformat
import pandas as pd
import pytest
from conftest import REPOSITORY
from IPython.core.interactiveshell import InteractiveShell
from papermill import inspect_notebook

from lib import workspace
from lib.config import Config, profile_names, setting_keys
from lib.delivery.execution import check_parameters, notebook_parameters
from lib.errors import WorkbookError
from lib.steps import STEPS
from lib.workspace import FILES

PATHS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
EVERY_NOTEBOOK = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells(path, kind=None):
    return [
        cell for cell in nbformat.read(path, as_version=4).cells if kind in (None, cell.cell_type)
    ]


def test_steps_and_notebooks_are_the_same():
    assert [path.stem for path in PATHS] == [step.notebook for step in STEPS]
    assert all(re.fullmatch(r"\d\d(_[a-z]+)+", path.stem) for path in PATHS)


@EVERY_NOTEBOOK
def test_head_states_question_files_and_time(path):
    head, step = cells(path)[0].source, next(step for step in STEPS if step.notebook == path.stem)
    assert head.startswith(f"# {step.number} · {step.question}\n")
    assert {"**Reads**", "**Writes**", "**Takes**"} <= set(re.findall(r"\*\*\w+\*\*", head))
    named = set(re.findall(r"`([\w.]+)`", head)) & set(FILES)
    assert named == {name for name in (*step.reads, *step.writes) if name != "source"}


@EVERY_NOTEBOOK
def test_parameters_cell_is_plain(path):
    tagged = [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    for line in tagged[0].source.splitlines():
        assert re.fullmatch(r"\w+: (str|int|float|bool|list|dict) = [^#]+  # [^=]+", line), line
    assert all(isinstance(node, ast.AnnAssign) for node in ast.parse(tagged[0].source).body)


@EVERY_NOTEBOOK
def test_sections_are_questions_with_prose_between_code(path):
    found = cells(path)
    heads = [
        line
        for cell in found
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]
    assert heads
    assert all(head.endswith("?") or "?" in head for head in heads), heads
    kinds = "".join("c" if cell.cell_type == "code" else "m" for cell in found)
    assert kinds.startswith("mccc")
    assert "ccc" not in kinds[4:], "more than a result and its takeaway in a row"


@EVERY_NOTEBOOK
def test_code_has_no_magic_no_class_no_long_function(path):
    for cell in cells(path, "code"):
        assert not re.search(r"^\s*[%!]|^\s*from .* import \*", cell.source, re.MULTILINE), (
            cell.source
        )
        assert len(cell.source.splitlines()) <= 24, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef | ast.FunctionDef), cell.source


@EVERY_NOTEBOOK
def test_stored_outputs_are_invariants_that_nbval_compares(path):
    for cell in cells(path, "code"):
        if "keep_output" in cell.metadata.get("tags", []):
            assert cell.source.startswith("# NBVAL_CHECK_OUTPUT"), cell.source
            assert cell.outputs and "text/plain" in cell.outputs[0]["data"], (
                "run the notebook and store this output"
            )
        else:
            assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("path", PATHS[2:], ids=lambda path: path.stem)
def test_without_its_inputs_a_notebook_says_in_its_head_what_to_run_first(path, home, monkeypatch):
    monkeypatch.setenv("WORKBOOK_PROFILE", "smoke")
    names = {}
    with pytest.raises(WorkbookError) as caught, pd.option_context("display.max_colwidth", 50):
        for cell in cells(path, "code")[:3]:
            exec(cell.source, names)
    missing = home / "data/processed/docstrings/smoke/clean.parquet"
    assert str(caught.value) == (
        f"{missing} is not there yet: run 02_clean_and_split first (run 'smoke', data 'docstrings')"
    )


def test_a_notebook_shows_our_errors_in_one_line(capsys):
    shell = InteractiveShell()
    shell.run_cell("from lib.errors import WorkbookError\nraise WorkbookError('run 03 first')")
    assert capsys.readouterr().out == "WorkbookError: run 03 first\n"


def test_the_map_says_what_each_notebook_reads():
    rows = []
    for step in STEPS:
        writers = {FILES[name][1][:2] for name in step.reads if name != "source"} - {step.number}
        link = f"[{step.notebook}]({step.notebook}.ipynb)"
        rows.append(f"| {link} | {step.question} | {', '.join(sorted(writers))} |")
    text = (REPOSITORY / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("| [")] == rows


@EVERY_NOTEBOOK
def test_papermill_describes_every_parameter(path):
    own = {
        "data": "table, folder, hub:name or docstrings; empty takes the profile's",
        "profile": "smoke, quick, base or large; empty takes WORKBOOK_PROFILE, else quick",
        "run": "name of the run; empty takes the name of the profile, or of the data",
    }
    found = {name: facts["help"] for name, facts in inspect_notebook(str(path)).items()}
    example = re.fullmatch(r"dotted settings, for instance ([\w.]+)", found.pop("settings"))
    assert example[1] in setting_keys()
    assert found == own


def test_nothing_but_the_reviewer_is_a_widget_and_it_has_a_still_alternative():
    """tqdm's bars are text: `tqdm.auto` and `tqdm.notebook` would be widgets."""
    widgets = re.compile(r"ipywidgets|anywidget|tqdm\.(auto|notebook)")
    sources = {
        path: path.read_text(encoding="utf-8") for path in (REPOSITORY / "lib").rglob("*.py")
    }
    sources |= {path: "\n".join(cell.source for cell in cells(path, "code")) for path in PATHS}
    with_widgets = [path.name for path, source in sources.items() if widgets.search(source)]
    assert with_widgets == ["widget.py"]


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_loads_and_reaches_the_notebooks(name):
    config = Config.load(name)
    used = {name.split(".")[0] for step in STEPS for name in step.settings}
    assert {key.split(".")[0] for key in config.flat() if "." in key} - {
        "tracking",
        "compute",
    } == used  # no result depends on these
    for path in PATHS:
        assert notebook_parameters(path) == ["profile", "run", "data", "settings"]


def test_a_misspelt_parameter_names_the_closest():
    with pytest.raises(
        WorkbookError,
        match=r"02_clean_and_split has no parameter 'profle' \(did you mean 'profile'\?\)",
    ):
        check_parameters("02_clean_and_split", {"profle": "smoke"})


@pytest.mark.xdist_group("chain-a")
def test_nbval_runs_all_notebooks_with_the_results_of_the_runner(make_home, smoke_home):
    """nbval starts kernels in notebooks/, papermill where it is called: the same files come out, to
    the last digit."""
    folder = make_home("nbval")
    options = (
        "--nbval-lax --nbval-current-env --nbval-cell-timeout=300 -p no:xdist -p "
        "no:cacheprovider -q -o addopts="
    ).split()
    command = [
        sys.executable,
        "-m",
        "pytest",
        *options,
        *(f"notebooks/{path.name}" for path in PATHS),
    ]
    environment = {**os.environ, "WORKBOOK_PROFILE": "smoke", "WORKBOOK_HOME": str(folder)}
    finished = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=600
    )
    assert finished.returncode == 0, finished.stdout[-4000:]
    n_cells = sum(len(cells(path, "code")) for path in PATHS)
    assert f"{n_cells} passed" in finished.stdout
    assert_same_results(folder, smoke_home)


def assert_same_results(one, other):
    place = "reports/smoke/metrics.json"
    assert workspace.read_json(one / place) == workspace.read_json(other / place)
    probs = [f"models/smoke/{name}_probs.parquet" for name in ("val", "oof", "test")]
    assert_same_tables(one, other, *UP_TO_03, *probs)


UP_TO_03 = (
    "data/processed/docstrings/smoke/label_issues.parquet",
    "data/processed/docstrings/smoke/train.parquet",
)


def assert_same_tables(one, other, *names):
    for name in names:
        first, second = (workspace.read_table(home / name) for home in (one, other))
        pd.testing.assert_frame_equal(first, second, check_exact=True)
