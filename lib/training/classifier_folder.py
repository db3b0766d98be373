"""The folder of a classifier: what is in it, and the check of every file before it is read."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib import provenance, workspace
from lib.config import CleaningConfig
from lib.errors import WorkbookError
from lib.robustness.ood import OodScores
from lib.training.exported_models import Engine

# `ood` came later and changes no label: a version of the workbook without it reads all the rest;
# decision weights do, so that a folder with them has the version that follows
FORMAT_VERSION = 1
WEIGHTED_VERSION = 2
DESCRIPTION, ORIGIN, MANIFEST = "classifier.json", "origin.json", "manifest.json"
CARD = "README.md"  # a model card may be put in later: nothing reads it, so it is not checked
OOD = "ood"
EXPORTS, LISTED = "exports", "exports.json"
FORMATS = {".json", ".onnx", ".safetensors", ".txt", ".model", ".jinja"}  # nothing runs when read


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MemberEntry(_Part):
    """A member; the last three are None for a linear model."""

    name: str
    folder: str = Field(pattern=r"^members/\w[\w.-]*$")
    max_length: int | None = None
    truncation: Literal["head", "head_tail", "windows"] | None = None
    precision: Literal["fp32", "bf16", "fp16"] | None = None


class Description(_Part):
    """What classifier.json holds: all that answers depend on, but for the members' own files."""

    format_version: int = FORMAT_VERSION
    class_names: list[str] = Field(min_length=2)
    cleaning: CleaningConfig
    members: list[MemberEntry] = Field(min_length=1)
    method: Literal["soft", "weighted", "greedy", "stacking"]
    weights: list[Any]  # of the members: (m,), or (m * k, k) for "stacking"
    bias: list[float]
    calibration_scale: list[float]
    calibration_shift: list[float]
    abstain_below: float = Field(ge=0, le=1)
    set_thresholds: dict[str, list[float]]  # coverage -> a threshold for each class
    decision_weights: list[float] | None = None  # of each class; None: the most probable one


class Export(_Part):
    """A way to run the transformers of a classifier outside torch, which passed the parity gate."""

    name: str
    engine: Engine
    precision: Literal["fp32", "bf16", "int8"]
    models: dict[str, str]  # member -> its ONNX file, relative to the classifier's folder


class Exports(_Part):
    """What exports.json holds."""

    exports: list[Export] = []
    runtimes: list[str] = []  # names of exports, and "torch"; the fastest first


def write(
    folder: Path,
    description: Description,
    *,
    members: Mapping[str, Path],
    ood: OodScores | None,
    origin: Mapping[str, Any],
) -> None:
    """Write a classifier's folder, whole or not at all.

    Parameters
    ----------
    members : name -> folder to copy the member's files from
    ood : what says how unlike the training texts a text is; None leaves it out
    origin : what the classifier was made from and by

    Raises
    ------
    WorkbookError : the folder cannot be written, or a member has a file that is not data.
    """
    with workspace.atomic_path(folder) as scratch:
        scratch.mkdir()
        for entry in description.members:
            shutil.copytree(members[entry.name], scratch / entry.folder)
        workspace.write_json(_content(description), scratch / DESCRIPTION)
        workspace.write_json(dict(origin), scratch / ORIGIN)
        if ood is not None:
            ood.save(scratch / OOD)
        _write_manifest(scratch)


def write_exports(source: Path, folder: Path, files: Path, exports: Exports) -> None:
    """Write a classifier's folder with exports, whole or not at all.

    Parameters
    ----------
    source : the classifier without them
    files : what the folder's `exports` holds, but for the list of them
    """
    with workspace.atomic_path(folder) as scratch:
        shutil.copytree(source, scratch)
        if exports.exports:
            shutil.copytree(files, scratch / EXPORTS)
            workspace.write_json(exports.model_dump(mode="json"), scratch / EXPORTS / LISTED)
        _write_manifest(scratch)


def read_exports(folder: Path) -> Exports:
    """Return the exports of a classifier's folder.

    Raises
    ------
    WorkbookError : what lists them is damaged.
    """
    path = folder / EXPORTS / LISTED
    try:
        return Exports(**workspace.read_json(path)) if path.exists() else Exports()
    except (ValidationError, ValueError, TypeError) as error:
        raise WorkbookError(f"{path} cannot be read; copy the folder again") from error


def _write_manifest(folder: Path) -> None:
    hashes = {name: provenance.path_fingerprint(folder / name) for name in _files(folder)}
    workspace.write_json({"sha256": hashes}, folder / MANIFEST)


def read(folder: Path) -> tuple[Description, dict[str, Any]]:
    """Check every file of a classifier's folder; return its description and its origin.

    Raises
    ------
    WorkbookError : a file is missing, changed, not in the manifest or not data; or the folder has
        another format version.
    """
    _check_files(folder)
    path = folder / DESCRIPTION
    try:
        content = workspace.read_json(path)
        version = content.get("format_version")
        if version in (FORMAT_VERSION, WEIGHTED_VERSION):
            return Description(**content), workspace.read_json(folder / ORIGIN)
    except (ValidationError, ValueError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WorkbookError(f"{path} cannot be read: {reason}; copy the folder again") from error
    raise WorkbookError(
        f"{path} has format version {version}, and this version of the workbook reads "
        f"{FORMAT_VERSION} and {WEIGHTED_VERSION}: {ORIGIN} names the version that wrote it"
    )


def _content(description: Description) -> dict[str, Any]:
    """Return what classifier.json holds: decision weights where there are any."""
    content = description.model_dump(mode="json")
    if description.decision_weights is None:
        del content["decision_weights"]
    else:
        content["format_version"] = WEIGHTED_VERSION
    return content


def read_ood(folder: Path) -> OodScores | None:
    """Return what says how unlike the training texts a text is, None where the folder has none.

    Raises
    ------
    WorkbookError : it cannot be read.
    """
    return OodScores.load(folder / OOD) if (folder / OOD).exists() else None


def fingerprint(folder: Path) -> str:
    """Return a SHA-256 over all that answers depend on.

    Left out are where it was made and when, and exports: they give the same answers.
    """
    exports = f"{EXPORTS}/"
    names = [name for name in _files(folder) if name != ORIGIN and not name.startswith(exports)]
    hashes = {name: provenance.path_fingerprint(folder / name) for name in names}
    return provenance.fingerprint(hashes)


def _check_files(folder: Path) -> None:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise WorkbookError(f"{folder} is not a classifier: it has no file {MANIFEST}")
    try:
        hashes = dict(workspace.read_json(manifest)["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise WorkbookError(f"{manifest} is damaged; copy the folder again") from error
    files = _files(folder)
    for name in sorted({*files, *hashes}):
        path = folder / name
        if name not in files:
            raise WorkbookError(f"{path} is missing; copy the folder again")
        if name not in hashes:
            raise WorkbookError(f"{path} is not listed in {MANIFEST}; remove it")
        if provenance.path_fingerprint(path) != hashes[name]:
            raise WorkbookError(
                f"{path} is not the file that was saved (its SHA-256 differs from {MANIFEST}); "
                "copy the folder again"
            )


def _files(folder: Path) -> list[str]:
    """Return the relative names of a folder's files, but the manifest's and the card's."""
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise WorkbookError(f"{path} is a link; a classifier's folder holds all of its files")
        if path.is_file():
            names.append(path.relative_to(folder).as_posix())
    names = [name for name in names if name not in (MANIFEST, CARD)]
    for name in names:
        if PurePosixPath(name).suffix not in FORMATS:
            formats = ", ".join(sorted(FORMATS))
            raise WorkbookError(
                f"{folder / name} is not in a format that a classifier has ({formats}); remove it"
            )
    return names
