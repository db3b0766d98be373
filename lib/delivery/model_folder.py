"""Where the folder of a classifier is: by a path, a run's name or a name in the registry."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from lib import workspace
from lib.delivery import registry
from lib.delivery.registry import Version
from lib.errors import WorkbookError, listed, quoted
from lib.training import classifier_folder

CACHE = "models/registry_cache"  # below `home()`: what was downloaded, by its fingerprint
OF_A_RUN = (registry.EXPORTED, registry.FOLDER)  # the first that a run has


def find(name: str, *, uri: str = "") -> Path:
    """Return the folder of a classifier.

    Parameters
    ----------
    name : a folder's path; the name of a run; or of a registered model, as `registry.find` takes
        it. A folder goes before a run, and a run before the registry: `NAME@champion` and
        `./NAME` leave no choice.
    uri : of the registry's server; "" is the local one

    Returns
    -------
    Path; of a registered model the folder that it was downloaded to, once for each content

    Raises
    ------
    WorkbookError : there is none of that name (the message lists what there is), more than one
        champion and no name, or the registry cannot be used.
    """
    folder = found_without_registry(name)
    if folder:
        return folder
    try:
        version = registry.find(name, uri=uri)
    except WorkbookError as error:
        raise WorkbookError(f"{error}; {_runs_in_words()}") from error
    return downloaded(version, uri=uri)


def found_without_registry(name: str) -> Path | None:
    """Return the folder of a classifier by its path or its run's name; None where neither is.

    Raises
    ------
    WorkbookError : a path that is no classifier's folder.
    """
    with suppress(OSError):  # too long to be a path
        if name and (Path(name) / classifier_folder.MANIFEST).is_file():
            return Path(name)
    if re.fullmatch(r"\w[\w.-]{0,99}", name):
        return _of_run(name)
    if "/" in name or "\\" in name:
        raise WorkbookError(
            f"{quoted(name, 80)} is not the folder of a classifier: it has no file "
            f"{classifier_folder.MANIFEST}; {_runs_in_words()}"
        )
    return None


def downloaded(version: Version, *, uri: str = "") -> Path:
    """Return the folder of a registered model, which is downloaded unless it is there unchanged.

    Raises
    ------
    WorkbookError : the registry cannot be used, or what it holds is not what was registered.
    """
    fingerprint = version.tags["model"]
    folder = workspace.home() / CACHE / fingerprint[:16]
    if folder.exists() and classifier_folder.fingerprint(folder) == fingerprint:
        return folder
    with workspace.atomic_path(folder) as scratch:
        registry.download(version, scratch, uri=uri)
        if classifier_folder.fingerprint(scratch) != fingerprint:
            raise WorkbookError(
                f"the files of {version.label} in the registry are not those that were registered "
                "(their fingerprint differs); register the model again"
            )
    return folder


def _of_run(name: str) -> Path | None:
    run = workspace.home() / workspace.MODELS.format(run=name)
    folders = [run / part for part in OF_A_RUN]
    return next((folder for folder in folders if folder.is_dir()), None)


def _runs_in_words() -> str:
    models = workspace.home() / workspace.MODELS.format(run="")
    found = {path.parent.parent.name for path in models.glob("*/*/manifest.json")}
    runs = [name for name in sorted(found) if _of_run(name)]
    return f"runs with a classifier: {listed(runs, 80) or 'none'}"
