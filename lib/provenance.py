"""What a result depends on: fingerprints of data, code and machine; work done once for a key."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib import workspace

if TYPE_CHECKING:
    import pandas as pd

# the packages whose versions a result depends on
VERSIONED = (
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "scikit-learn",
    "numpy",
    "pandas",
    "scipy",
    "pyarrow",
    "cleanlab",
    "peft",
    "textdescriptives",
    "fg-data-profiling",
    "ftfy",
    "papermill",
    "matplotlib",
)


def table_fingerprint(table: pd.DataFrame) -> str:
    """Return a SHA-256 over column names, values and row order."""
    import pandas as pd

    digest = hashlib.sha256("\x1f".join(table.columns).encode())
    digest.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def text_fingerprint(text: str) -> str:
    """Return the first 16 hex digits of a text's SHA-256: what a review decision is matched by."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def path_fingerprint(path: Path) -> str | None:
    """Return a SHA-256 over a file, or over a folder's files with their names; None if absent."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        parts = [(str(file.relative_to(path)), path_fingerprint(file)) for file in files]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(*parts: Any) -> str:
    """Return a SHA-256 over values: tables and files by their content, anything else as JSON.

    Examples
    --------
    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    >>> fingerprint("a") == fingerprint("b")
    False
    """
    plain = json.dumps([_plain(part) for part in parts], sort_keys=True, default=str)
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(part: Any) -> Any:
    import pandas as pd

    if isinstance(part, pd.DataFrame):
        return table_fingerprint(part)
    return path_fingerprint(part) if isinstance(part, Path) else part


def once(
    record: Path, key: str, make: Callable[[], Mapping[str, Any]], *, outputs: Iterable[Path] = ()
) -> dict[str, Any]:
    """Do something unless it has been done with the same key, and return what is known about it.

    The record is deleted before `make` runs and written after it, so that no record ever stands
    next to outputs of another key, whenever the process is killed.

    Parameters
    ----------
    record : a JSON file, which holds the key and what `make` returned
    key : of everything that the result depends on (`fingerprint`, `code_fingerprint`)
    make : writes the outputs and returns facts about them, fit for JSON
    outputs : files and folders that have to be there
    """
    known = workspace.read_json(record) if record.exists() else {}
    if known.get("key") != key or not all(path.exists() for path in outputs):
        record.unlink(missing_ok=True)
        known = {"key": key, "facts": dict(make())}
        workspace.write_json(known, record)
    return known["facts"]


def code_fingerprint(*modules: str) -> str:
    """Return a SHA-256 over modules of `lib` and all that they import of it, at whatever depth.

    Parameters
    ----------
    modules : dotted names, for instance "lib.training.finetune"; others than lib's are left out

    Examples
    --------
    >>> code_fingerprint("lib.errors") == code_fingerprint("lib.errors", "os")
    True
    """
    names = sorted(imported_modules(modules))
    return fingerprint([[name, *map(path_fingerprint, _sources(name))] for name in names])


def imported_modules(modules: Iterable[str]) -> set[str]:
    """Return the modules of `lib` among these, and those that they import at whatever depth."""
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        sources = _sources(name) if name.split(".")[0] == "lib" else []
        if name in found or not sources:
            continue
        found.add(name)
        package, _, _ = name.rpartition(".")
        waiting += [package, *imports_of(sources[0].read_text(encoding="utf-8"))]
    return found


@cache
def imports_of(source: str) -> list[str]:
    """Return what Python source imports, as dotted names; of `from a import b` both `a` and `a.b`.

    Examples
    --------
    >>> imports_of("from lib import workspace")
    ['lib', 'lib.workspace']
    """
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _sources(module: str) -> list[Path]:
    """Return the file of a module of `lib`; of a package its `__init__` and what is no code."""
    path = workspace.REPOSITORY.joinpath(*module.split("."))
    if path.with_suffix(".py").exists():
        return [path.with_suffix(".py")]
    if not (path / "__init__.py").exists():
        return []
    return [path / "__init__.py", *_data_files(path)]


def _data_files(folder: Path) -> list[Path]:
    """Return the files below a folder that are no code, but those of packages within it."""
    files: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not (path / "__init__.py").exists():
            files += _data_files(path)
        elif path.is_file() and path.suffix not in {".py", ".pyc"}:
            files.append(path)
    return files


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine_facts() -> dict[str, Any]:
    """Return what a result may depend on: system, processor, memory, versions, commit."""
    import psutil

    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: package_version(name) for name in VERSIONED},
        "commit": commit(),
    }


def package_version(name: str) -> str | None:
    """Return the installed version of a package, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the repository's commit, "+changes" added where files differ; None outside git."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def _git(*words: str) -> str:
    command = ["git", "-C", str(workspace.REPOSITORY), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
