"""The embedded data set: 20,000 documentation strings of installed packages, in five topics."""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.util
import itertools
import re
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from lib.errors import WorkbookError

TOPICS = {  # topic -> import names of the packages whose documentation speaks of it
    "mathematics": ("sympy", "mpmath", "networkx"),
    "statistics": ("scipy", "statsmodels", "sklearn", "numpy"),
    "deep learning": ("torch", "transformers", "accelerate"),
    "tables and databases": ("pandas", "pyarrow", "sqlalchemy", "datasets", "narwhals"),
    "visualisation and interfaces": (
        "matplotlib", "seaborn", "PIL", "fontTools",
        "prompt_toolkit", "rich", "IPython", "pygments",
    ),
}  # fmt: skip
ROWS_PER_TOPIC = 4_000
MIN_WORDS = 10  # a shorter text ("Return self.") says nothing of its field
TEST_FOLDERS = {"tests", "test"}  # large and hardly documented
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# from a few escapes in regular expressions; no file can hold them
SURROGATES = re.compile("[\ud800-\udfff]")
# import name -> distribution, where they differ
DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow"}


def harvest(
    *, rows_per_topic: int = ROWS_PER_TOPIC, min_words: int = MIN_WORDS, progress: bool = True
) -> pd.DataFrame:
    """Read the documentation strings of the installed packages, without importing any of them.

    Texts are as found, markup and all. Of equal texts one is taken; a text found under several
    topics counts for whichever comes first in `TOPICS`. The sample of a topic is the texts with the
    smallest SHA-256, so that another version of a package moves few rows. Rows are in the order of
    the hash read backwards, so that topics are mixed.

    Returns
    -------
    DataFrame with `text` and `label`, 5 * rows_per_topic rows

    Raises
    ------
    WorkbookError : a package is not installed, or a topic has fewer texts than asked for.
    """
    topics = []
    files = []
    for topic, packages in TOPICS.items():
        for package in packages:
            package_files = _python_files(package)
            files += package_files
            topics += [topic] * len(package_files)
    read = delayed(_docstrings)
    batches = Parallel(n_jobs=-1, return_as="generator")(read(file, min_words) for file in files)
    bar: dict[str, Any] = {
        "desc": "reading documentation strings",
        "unit": "file",
        "disable": not progress,
    }
    first_topic: dict[str, str] = {}
    for topic, texts in zip(topics, tqdm(batches, total=len(files), **bar)):
        for text in texts:
            first_topic.setdefault(text, topic)
    table = pd.DataFrame(first_topic.items(), columns=["text", "label"])
    table["digest"] = [hashlib.sha256(text.encode()).hexdigest() for text in table["text"]]
    table = table.sort_values("digest").groupby("label").head(rows_per_topic)
    counts = table["label"].value_counts().reindex(list(TOPICS), fill_value=0)
    if counts.min() < rows_per_topic:
        raise WorkbookError(
            f"too few documentation strings, {rows_per_topic} a topic are needed, "
            f"found {counts.to_dict()}: run `make setup`"
        )
    table["digest"] = table["digest"].str[::-1]
    return table.sort_values("digest", ignore_index=True)[["text", "label"]]


def package_versions() -> dict[str, str]:
    """Return the version of each package that is read."""
    names = itertools.chain.from_iterable(TOPICS.values())
    return {name: metadata.version(DISTRIBUTIONS.get(name, name)) for name in names}


def _python_files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)  # finds a top-level package without running it
    if spec is None or spec.origin is None:
        raise WorkbookError(
            f"the package {package!r}, a part of the data set `docstrings`, is not installed: "
            "run `make setup`"
        )
    folder = Path(spec.origin).parent
    files = folder.rglob("*.py")
    return sorted(file for file in files if not TEST_FOLDERS & {*file.relative_to(folder).parts})


def _docstrings(file: Path, min_words: int) -> list[str]:
    """Return the documentation strings in a file that have `min_words` and are valid Unicode."""
    gc.disable()  # it takes two fifths of the time, and a tree holds no circle
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []  # a template, or a file for another Python
    finally:
        gc.enable()
    texts = []
    for node in _statements(tree):
        text = ast.get_docstring(node, clean=False) if isinstance(node, DOCUMENTED) else None
        if text and len(text.split()) >= min_words and not SURROGATES.search(text):
            texts.append(text)
    return texts


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk over statements alone: five times as fast as `ast.walk`, which visits all."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        for field in ("finalbody", "handlers", "orelse", "body"):
            children = getattr(node, field, [])
            if isinstance(children, list):  # the body of a lambda is an expression
                stack.extend(reversed(children))
