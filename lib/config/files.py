"""A file of settings, as `workbook init` writes it: a profile's keys, and `profile`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import yaml

from lib.config import paths
from lib.config.config import Config, closest
from lib.errors import WorkbookError, quoted, shown_path


def read_settings(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the profile that a file names, "" for none, and its dotted settings.

    Relative paths among them count from the file's folder.

    Raises
    ------
    WorkbookError : it is not there, no YAML, or a setting is unknown or out of range; it is named.
    """
    name = shown_path(path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise WorkbookError(f"{name} is no .yaml; of a table `workbook init {name}` writes one")
    content = _read(path, name)
    profile = str(content.pop("profile", ""))
    settings: dict[str, Any] = {}
    for section, values in content.items():
        if section not in Config.model_fields:
            near = closest(str(section), Config.model_fields)
            raise WorkbookError(f"{name}: no section {quoted(section)}{near}; mend the name")
        if isinstance(values, dict):
            settings |= {f"{section}.{key}": value for key, value in values.items()}
        elif section == "seed":
            settings[section] = values
        elif values is not None:  # a section whose settings are all remarks is one
            raise WorkbookError(f"{name}: {section} is a section; write its settings below it")
    with contextlib.chdir(path.absolute().parent):
        for key in set(paths.KEYS) & set(settings):
            settings[key] = paths.absolute(key, settings[key])
    try:
        Config.load(profile, settings)
    except WorkbookError as error:
        raise WorkbookError(f"{name}: {error}") from None
    return profile, settings


def _read(path: Path, name: str) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkbookError(
            f"{name} cannot be read ({error.strerror}); `workbook init TABLE` writes such a file"
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise WorkbookError(
            f"{name}{line}: not YAML that can be read; mend it, or `workbook init TABLE --force`"
        ) from None
    if content is not None and not isinstance(content, dict):
        raise WorkbookError(f"{name} is a {type(content).__name__}; write sections such as `data:`")
    return content or {}
