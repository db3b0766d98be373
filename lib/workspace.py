"""Where files live, and how they are written: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.config import Config
from lib.errors import WorkbookError

if TYPE_CHECKING:
    import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = REPOSITORY / "notebooks"
PROCESSED = "data/processed/{dataset}/{run}"
AUGMENTED = "data/augmented/{dataset}/{run}"
REVIEW = "data/review/{dataset}"
MODELS = "models/{run}"
REPORTS = "reports/{run}"
# every file that a notebook hands to another, or to a person: its folder, and who writes it
FILES = {
    "audit.json": (PROCESSED, "01_profile_data"),
    "data_profile.html": (REPORTS, "01_profile_data"),
    "clean.parquet": (PROCESSED, "02_clean_and_split"),
    "dropped.parquet": (PROCESSED, "02_clean_and_split"),
    "duplicates.parquet": (PROCESSED, "02_clean_and_split"),
    "label_issues.parquet": (PROCESSED, "03_review_labels"),
    "label_laboratory.parquet": (PROCESSED, "03_review_labels"),
    "review_queue.csv": (REPORTS, "03_review_labels"),
    "decisions.csv": (REVIEW, "03_review_labels"),
    "train.parquet": (PROCESSED, "03_review_labels"),
    "val.parquet": (PROCESSED, "03_review_labels"),
    "test.parquet": (PROCESSED, "03_review_labels"),
    "seal.json": (PROCESSED, "03_review_labels"),
    "copies.parquet": (AUGMENTED, "04_train_model"),
    "baseline": (MODELS, "04_train_model"),
    "transformer": (MODELS, "04_train_model"),
    "val_probs.parquet": (MODELS, "04_train_model"),
    "history.json": (MODELS, "04_train_model"),
    "trick_ledger.parquet": (MODELS, "04_train_model"),
    "search_trials.parquet": (MODELS, "05_search_and_cross_validate"),
    "best_settings.yaml": (MODELS, "05_search_and_cross_validate"),
    "oof_probs.parquet": (MODELS, "05_search_and_cross_validate"),
    "cross_validation.parquet": (MODELS, "05_search_and_cross_validate"),
    "members": (MODELS, "06_build_ensemble"),
    "classifier": (MODELS, "06_build_ensemble"),
    "ensemble_probs.parquet": (MODELS, "06_build_ensemble"),
    "model_card.md": (REPORTS, "07_evaluate_and_analyse_errors"),
    "README.md": (MODELS, "07_evaluate_and_analyse_errors"),
    "metrics.json": (REPORTS, "07_evaluate_and_analyse_errors"),
    "test_probs.parquet": (MODELS, "07_evaluate_and_analyse_errors"),
    "mistakes.parquet": (PROCESSED, "07_evaluate_and_analyse_errors"),
    "judgements.csv": (REVIEW, "07_evaluate_and_analyse_errors"),
    "behaviour.csv": (REVIEW, "08_test_robustness"),
    "identity_terms.csv": (REVIEW, "08_test_robustness"),
    "severity_curves.parquet": (PROCESSED, "08_test_robustness"),
    "flipped_texts.parquet": (PROCESSED, "08_test_robustness"),
    "robustness.json": (REPORTS, "08_test_robustness"),
    "exported_classifier": (MODELS, "09_export_and_serve"),
    "export.json": (REPORTS, "09_export_and_serve"),
    "reference.parquet": (MODELS, "10_monitor"),
    "drift.json": (REPORTS, "10_monitor"),
}


def home() -> Path:
    """Return the folder that holds data, models and reports: WORKBOOK_HOME, else the repository."""
    return Path(os.environ.get("WORKBOOK_HOME") or REPOSITORY).expanduser().resolve()


def anchor_home() -> None:
    """Make WORKBOOK_HOME absolute, for processes that this one starts in other folders."""
    if os.environ.get("WORKBOOK_HOME"):
        os.environ["WORKBOOK_HOME"] = str(home())


def free_disk() -> int:
    """Return the bytes that are free where `home()` is, or will be."""
    folder = home()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def dataset_name(source: str) -> str:
    """Return the short name of a source, fit for a folder.

    Examples
    --------
    >>> dataset_name("/somewhere/My table.csv.gz"), dataset_name("docstrings")
    ('My-table', 'docstrings')
    >>> dataset_name("hub:ag_news:default:train")
    'hub-ag_news-default-train'
    """
    if source.startswith("hub:"):
        name = source.replace(":", "-").replace("/", "-")
    else:
        path = Path(source)
        name = path.name if path.is_dir() else path.name.split(".")[0]
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"


@dataclass(frozen=True)
class Workspace:
    """The folders of one run on one data set.

    Processed data belongs to a run, not to a data set: two runs with other settings never overwrite
    each other's.
    """

    dataset: str
    run: str

    def folder(self, place: str) -> Path:
        """Return the folder for a place such as `PROCESSED`, whether it exists or not."""
        return home() / place.format(dataset=self.dataset, run=self.run)

    def child(self, name: str) -> Workspace:
        """Return the folders of a part of this run, which lie below its own."""
        return replace(self, run=f"{self.run}/{name}")

    def path(self, name: str) -> Path:
        """Return where the file (or folder) of this name in `FILES` lives."""
        return self.folder(FILES[name][0]) / name

    def existing(self, name: str) -> Path:
        """Return `path(name)`.

        Raises
        ------
        WorkbookError : it has not been written; the notebook that writes it is named.
        """
        path = self.path(name)
        if not path.exists():
            raise WorkbookError(
                f"{path} is not there yet: run {FILES[name][1]} first "
                f"(run {self.run!r}, data {self.dataset!r})"
            )
        return path


def file_name(name: str) -> str:
    """Return a name as a file or folder may have it; names that differ stay different.

    Examples
    --------
    >>> file_name("plain"), file_name("a b") == file_name("a/b")
    ('plain', False)
    """
    plain = re.sub(r"[^\w.-]+", "-", name)
    if plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def open_run(
    *, profile: str, run: str, data: str, settings: Mapping[str, Any]
) -> tuple[Config, Workspace]:
    """Validate a notebook's parameters and return its settings and folders.

    Parameters
    ----------
    profile : name of a profile; "" takes WORKBOOK_PROFILE, else `quick`
    run : name of the run; "" takes the profile's name, or the data set's where `data` is given
    data : a source; "" takes the profile's
    settings : dotted overrides

    Raises
    ------
    WorkbookError : a setting is unknown or out of range, or the run's name is not fit for a folder.
    """
    source = {"data.source": data} if data else {}
    config = Config.load(profile, {**settings, **source})
    dataset = dataset_name(config.data.source)
    run = run or (dataset if data else config.profile)
    if not re.fullmatch(r"\w[\w.-]{0,99}", run):
        raise WorkbookError(
            f"a run's name is letters, digits, '.', '_' and '-', 100 at most; found {run!r}"
        )
    return config, Workspace(dataset=dataset, run=run)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path next to `path`, and rename it to `path` when the block ends well.

    A block that fails, or a process that is killed, leaves the old file as it was. Works for files
    and folders.

    Raises
    ------
    WorkbookError : the folder cannot be written, or the disk is full.
    """
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield scratch / path.name
        _replace(scratch / path.name, path)
    except PermissionError as error:
        raise WorkbookError(
            f"cannot write {path}: no permission for {error.filename or path.parent}"
        ) from error
    except OSError as error:
        # ENOSPC, EDQUOT; Arrow has words of its own
        if error.errno not in (28, 122) and "No space left" not in str(error):
            raise WorkbookError(f"cannot write {path}: {error}") from error
        free = shutil.disk_usage(path.parent).free / 1e6
        raise WorkbookError(
            f"cannot write {path}: the disk is full ({free:.0f} MB free); nothing was changed, "
            "make room and run again"
        ) from error
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _replace(new: Path, path: Path) -> None:
    if not path.is_dir():
        os.replace(new, path)
        return
    aside = new.parent / f"{path.name}.old"  # a folder cannot be renamed over another
    path.rename(aside)
    try:
        os.replace(new, path)
    except BaseException:
        aside.rename(path)
        raise


def write_table(table: pd.DataFrame, path: Path, *, facts: Mapping[str, Any] | None = None) -> None:
    """Write a table as Parquet, whole or not at all, with `facts` in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table, preserve_index=False)
    metadata = dict(arrow.schema.metadata or {})
    metadata[b"workbook"] = json.dumps(dict(facts or {})).encode()
    with atomic_path(path) as scratch:
        pq.write_table(arrow.replace_schema_metadata(metadata), scratch, compression="zstd")


def read_table(path: Path) -> pd.DataFrame:
    """Read a table that `write_table` wrote."""
    import pandas as pd

    return pd.read_parquet(path)


def read_facts(path: Path) -> dict[str, Any]:
    """Read the `facts` of a table that `write_table` wrote; {} where there are none."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    return json.loads(metadata.get(b"workbook", b"{}"))


def write_text(text: str, path: Path) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_path(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(value: Any, path: Path) -> None:
    """Write JSON, whole or not at all; NumPy numbers become plain ones."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=_plain_number)
    write_text(f"{text}\n", path)


def _plain_number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


def read_json(path: Path) -> Any:
    """Read JSON."""
    return json.loads(path.read_text(encoding="utf-8"))
