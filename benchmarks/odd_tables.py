"""Odd files through the whole chain: each runs to its end, or is refused in one short line.

Takes the sources of `tests/odd_tables.py`, or those that are named, each in a home of its own and
in the profile `smoke`; prints what came of each, and exits with 1 unless all is as expected. The
cells of the notebooks run in copies of one process, two at a time: a source that runs takes about a
minute.
"""

import multiprocessing
import os
import re
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

import nbformat  # noqa: E402
import odd_tables  # noqa: E402
from IPython.core.interactiveshell import InteractiveShell  # noqa: E402
from IPython.core.pylabtools import select_figure_formats  # noqa: E402

from lib import workspace  # noqa: E402
from lib.errors import MAX_CHARS, WorkbookError  # noqa: E402
from lib.evaluation.significance import Interval  # noqa: E402
from lib.steps import STEPS  # noqa: E402

PROCESSES = 2
MAKERS = {make.__name__: make for make in odd_tables.CASES}


def main(names: list[str]) -> int:
    chosen = [name for name in MAKERS if not names or name in names]
    first_cells()
    context = multiprocessing.get_context("fork")
    n_unexpected = 0
    with context.Pool(PROCESSES, maxtasksperchild=1) as pool:
        for name, outcome, line, seconds, is_expected in pool.imap(outcome_of, chosen):
            n_unexpected += not is_expected
            mark = "" if is_expected else "  UNEXPECTED"
            print(f"{name:<40} {outcome:<8} {seconds:6.0f} s{mark}  {line}", flush=True)
    print(f"{len(chosen) - n_unexpected} of {len(chosen)} as expected")
    return int(n_unexpected > 0)


def first_cells() -> None:
    """Import what the notebooks do, once for all sources."""
    for step in STEPS:
        imports, *_ = code_cells(step.notebook)
        exec(imports.source, {})


def outcome_of(name: str) -> tuple[str, str, str, float, bool]:
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="workbook-odd-") as folder:
        odd = MAKERS[name](Path(folder) / "data")
        os.environ["WORKBOOK_HOME"] = str(Path(folder) / "home")
        outcome, line = run(odd)
    seconds = time.perf_counter() - started
    return name, outcome, line, seconds, outcome in expected(odd, line)


def expected(odd: odd_tables.OddTable, line: str) -> tuple[str, ...]:
    if odd.refused:
        return ("stops",) if re.search(odd.refused, line) else ()
    return ("runs", "stops") if odd.may_stop else ("runs",)


def run(odd: odd_tables.OddTable) -> tuple[str, str]:
    """Return what came of a source, and a line about it.

    That is `runs`, with the baseline's score; `stops`, in a short line; or `fails`.
    """
    parameters = {"profile": "smoke", "data": str(odd.path), "settings": odd.settings}
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            for step in STEPS:
                run_cells(step.notebook, parameters)
            (metrics,) = workspace.home().glob("reports/*/metrics.json")
            scores = workspace.read_json(metrics)["models"]["TF-IDF baseline"]
        except WorkbookError as error:
            line = str(error)
            is_short = "\n" not in line and len(line) <= MAX_CHARS
            return ("stops" if is_short else "fails"), line[:MAX_CHARS].replace("\n", " | ")
        except Exception as error:
            return "fails", f"{step.notebook}: {type(error).__name__}: {error}"[:MAX_CHARS]
    return "runs", f"macro F1 of the baseline {Interval(**scores['intervals']['macro_f1'])}"


def run_cells(notebook: str, parameters: dict) -> None:
    """Run a notebook's cells in this process; figures are drawn, and not kept."""
    warnings.simplefilter("ignore")
    shell = InteractiveShell.instance()
    shell.reset()
    select_figure_formats(shell, {"png"})
    for cell in code_cells(notebook):
        given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        more = given if "parameters" in cell.metadata.get("tags", []) else ""
        shell.run_cell(f"{cell.source}\n{more}").raise_error()


def code_cells(notebook: str) -> list:
    path = REPOSITORY / "notebooks" / f"{notebook}.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
