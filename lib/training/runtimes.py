"""What runs a classifier's transformers on this machine: torch, or one of its exports."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from lib.config import closest
from lib.errors import WorkbookError
from lib.training import classifier_folder, exported_models
from lib.training.classifier_folder import Export

TORCH = "torch"


def chosen_export(folder: Path, runtime: str | None) -> Export | None:
    """Return the export that runs the transformers of the classifier in a folder; None: torch does.

    Parameters
    ----------
    runtime : "torch", or the name of an export; None takes the fastest that works on this machine

    Raises
    ------
    WorkbookError : the folder has no such export.
    """
    listed = classifier_folder.read_exports(folder)
    exports = {export.name: export for export in listed.exports}
    if runtime is None:
        runtime = next(filter(_works_here(exports), listed.runtimes), TORCH)
    if runtime != TORCH and runtime not in exports:
        raise WorkbookError(
            f"{folder} has no export {runtime!r}{closest(runtime, exports)}; there are "
            f"{', '.join([TORCH, *exports])}"
        )
    return exports.get(runtime)


def _works_here(exports: Mapping[str, Export]) -> Callable[[str], bool]:
    """Return a function that says of a runtime whether it is one for this machine.

    Exports compute on a processor: where there is a GPU, none is.
    """

    def works(runtime: str) -> bool:
        if runtime == TORCH:
            return importlib.util.find_spec(TORCH) is not None
        export = exports[runtime]
        return exported_models.works_here(export.engine, export.precision) and not _has_gpu()

    return works


def _has_gpu() -> bool:
    """Return whether torch sees a GPU; without an NVIDIA driver, or torch, it is not asked."""
    has_driver = Path("/proc/driver/nvidia").exists() or sys.platform != "linux"
    if not has_driver or importlib.util.find_spec(TORCH) is None:
        return False
    import torch

    return torch.cuda.is_available()
