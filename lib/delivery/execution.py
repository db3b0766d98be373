"""One notebook executed with papermill, in a kernel of its own."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from tqdm import tqdm

from lib import workspace
from lib.config import closest
from lib.errors import WorkbookError

LOG_FILE_SECONDS = 15.0  # between two lines of live output where it goes to a file


def check_parameters(notebook: str, parameters: Mapping[str, Any]) -> None:
    """Raise WorkbookError where the parameters cell has no such name; the closest is named."""
    names = notebook_parameters(workspace.NOTEBOOKS / f"{notebook}.ipynb")
    for name in parameters:
        if name not in names:
            raise WorkbookError(
                f"{notebook} has no parameter {name!r}{closest(name, names)}; "
                f"it takes {', '.join(names)}"
            )


def notebook_parameters(path: Path) -> list[str]:
    """Return the names in the parameters cell of a notebook."""
    import papermill

    return list(papermill.inspect_notebook(str(path)))


def execute(
    notebook: str, output: Path, parameters: dict[str, Any], *, progress: bool
) -> str | None:
    """Execute a notebook of the workbook.

    Parameters
    ----------
    output : where the executed notebook goes, also one that fails

    Returns
    -------
    None, or the failing cell's error with the heading that the cell is under
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from traitlets.config import Config

    from lib.delivery import kernels

    with tempfile.TemporaryDirectory(prefix="kernel-") as folder:
        try:
            papermill.execute_notebook(
                str(workspace.NOTEBOOKS / f"{notebook}.ipynb"),
                str(output),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(workspace.NOTEBOOKS),
                log_output=True,
                progress_bar={"desc": "  cells", "leave": False} if progress else False,
                kernel_manager_class=kernels.OwnKernel,
                config=Config({"KernelManager": kernels.connection(folder)}),
            )
        except papermill.PapermillExecutionError as error:
            is_ours = error.ename == WorkbookError.__name__
            why = error.evalue if is_ours else f"{error.ename}: {error.evalue}"
        except DeadKernelError:
            why = "its kernel died; was it out of memory? Fewer rows: --set data.rows=5000"
        else:
            return None
    return f"{notebook} stopped under {_heading(output)!r}: {why}"


@contextmanager
def live_output(bar: tqdm) -> Iterator[None]:
    """Show the last line that the running cell wrote to standard error next to a progress bar.

    It may be a training's own bar. Where the output is a file, a line now and then is enough.
    """
    pause = 0.0 if sys.stderr.isatty() else LOG_FILE_SECONDS

    class LastLine(logging.Handler):
        shown = 0.0

        def emit(self, record: logging.LogRecord) -> None:
            lines = record.getMessage().replace("\r", "\n").split("\n")
            lines = [line.strip() for line in lines if line.strip()]
            if lines and time.monotonic() - self.shown >= pause:
                bar.set_postfix_str(lines[-1][:70])
                self.shown = time.monotonic()

    logger = logging.getLogger("papermill")
    handler = LastLine(logging.WARNING)  # papermill logs standard error as warnings
    propagate = logger.propagate
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _heading(executed: Path) -> str:
    """Return the last heading above the cell that failed, or ran when the kernel died."""
    heading = ""
    for cell in nbformat.read(executed, as_version=4).cells:
        is_banner = "papermill-error-cell-tag" in cell.metadata.get("tags", [])
        if cell.cell_type == "markdown" and not is_banner:
            for line in cell.source.splitlines():
                if line.startswith("#"):
                    heading = line.lstrip("# ")
        if cell.metadata.get("papermill", {}).get("status") in ("failed", "running"):
            break
    return heading
