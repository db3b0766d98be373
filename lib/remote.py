"""Files in object stores, `s3://` and `gs://`, through fsspec: a local copy, and an upload."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib import provenance, workspace
from lib.errors import WorkbookError, quoted

COPIES = "data/raw/remote"  # below `home()`: a folder for each address
VERSION = "version.json"


def is_remote(name: str) -> bool:
    """Return whether a name is an address in an object store.

    Examples
    --------
    >>> is_remote("s3://bucket/my.csv"), is_remote("hub:ag_news"), is_remote("my.csv")
    (True, False, False)
    """
    return bool(re.match(r"[a-z][a-z0-9+]*://", name))


def fetch(url: str) -> Path:
    """Return a local copy of a file or folder, downloaded where it has changed since the last time.

    Where the store cannot be reached, an earlier copy is taken, with a warning.

    Parameters
    ----------
    url : for instance s3://bucket/folder/my.csv

    Raises
    ------
    WorkbookError : there is no such file, it may not be read, or the store cannot be reached.
    """
    folder = workspace.home() / COPIES / provenance.fingerprint(url)[:16]
    copy = folder / (url.rstrip("/").rpartition("/")[2] or "data")
    try:
        with _store(url) as (store, path):
            version = _version(store, path)
            record = folder / VERSION
            if copy.exists() and record.exists() and workspace.read_json(record) == version:
                return copy
            record.unlink(missing_ok=True)
            with workspace.atomic_path(copy) as scratch:
                store.get(path, str(scratch), recursive=store.isdir(path))
            workspace.write_json(version, record)
    except WorkbookError as error:
        if not copy.exists() or isinstance(error.__cause__, FileNotFoundError):
            raise
        warnings.warn(f"{error}; an earlier copy is used", stacklevel=2)
    return copy


def upload(folder: Path, url: str) -> int:
    """Copy a folder to an object store, over what is there; return the number of files.

    Raises
    ------
    WorkbookError : it may not be written, or the store cannot be reached.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with _store(url) as (store, path):
        targets = [f"{path.rstrip('/')}/{file.relative_to(folder).as_posix()}" for file in files]
        store.put([str(file) for file in files], targets)
    return len(files)


def _version(store: Any, path: str) -> dict[str, str]:
    """Return what tells the present content: file -> what the store says of it."""
    if not store.exists(path):
        raise FileNotFoundError(path)
    files = sorted(store.find(path)) if store.isdir(path) else [path]
    return {file: str(store.ukey(file)) for file in files}


@contextmanager
def _store(url: str) -> Iterator[tuple[Any, str]]:
    """Give the store of an address, and the path in it.

    Raises
    ------
    WorkbookError : what is done with it fails.
    """
    import fsspec

    shown = quoted(url, 80)
    scheme = url.partition("://")[0]
    try:
        store, path = fsspec.core.url_to_fs(url)
        store.invalidate_cache()
        yield store, path
    except WorkbookError:  # of a file here
        raise
    except ImportError as error:
        raise WorkbookError(
            f"{shown}: a package for {scheme}:// is missing; pip install "
            f"{ {'s3': 's3fs', 'gs': 'gcsfs'}.get(scheme, f'fsspec[{scheme}]') }"
        ) from error
    except FileNotFoundError as error:
        raise WorkbookError(f"{shown}: no such file, folder or bucket") from error
    except PermissionError as error:
        raise WorkbookError(f"{shown}: no permission; check the store's credentials") from error
    except Exception as error:  # each store raises its own
        reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise WorkbookError(f"{shown} cannot be reached: {reason}") from error
