"""Each export tried: does it pass the gate, what does it cost, and which are kept."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.config import ExportConfig
from lib.delivery.exporting import gate
from lib.delivery.exporting.gate import Parity
from lib.training import classifier_folder, exported_models
from lib.training.classifier import Classifier
from lib.training.classifier_folder import EXPORTS, Export, Exports
from lib.training.member import Member
from lib.training.runtimes import TORCH

TIMED = 128  # texts that are timed together


@dataclass(frozen=True)
class Speed:
    """What a classifier takes on this machine, from raw texts to answers.

    Attributes
    ----------
    megabytes : of its transformers on disk
    load_seconds : of its transformers
    p50_ms, p99_ms : median and 99th percentile of single texts
    texts_per_second : of many texts together
    """

    megabytes: float
    load_seconds: float
    p50_ms: float
    p99_ms: float
    texts_per_second: float

    @property
    def ms_per_text(self) -> float:
        """Return the milliseconds of a text, the mean of one alone and of one among many."""
        return (self.p50_ms + 1_000 / self.texts_per_second) / 2


@dataclass(frozen=True)
class Trial:
    """A way to run a classifier's transformers; of torch, with which it was measured, no parity."""

    name: str
    speed: Speed
    export: Export | None = None
    parity: Parity | None = None

    @property
    def passes(self) -> bool:
        """Return whether it may be shipped."""
        return self.parity is None or self.parity.passes


def run_trials(
    classifier: Classifier,
    exports: Sequence[Export],
    files: Path,
    *,
    texts: Sequence[str],
    labels: Sequence[str],
    limits: ExportConfig,
    groups: np.ndarray | None = None,
) -> list[Trial]:
    """Run a classifier by torch and by each export, on raw texts.

    Parameters
    ----------
    classifier : as it was measured
    exports, files : from `write_candidates`
    labels, groups : of the texts

    Returns
    -------
    torch first, then the exports
    """
    measured = gate.member_probs(classifier, texts)
    is_exact = _is_measured_in_float32(classifier)
    trials = []
    for export in tqdm([None, *exports], desc="comparing", unit="runtime"):
        start = time.perf_counter()
        loaded = attach(classifier, export, files)
        load_seconds = time.perf_counter() - start
        parity = None
        if export is not None:
            parity = gate.parity(
                measured,
                loaded,
                texts,
                labels,
                limits=limits,
                exact=is_exact and export.precision == "fp32",
                groups=groups,
            )
        megabytes = _megabytes(classifier, export, files)
        times = _times(loaded, texts, n_single=limits.n_single)
        speed = Speed(megabytes, load_seconds, *times)
        trials.append(Trial(loaded.runtime, speed, export, parity))
    return trials


def table(trials: Sequence[Trial]) -> pd.DataFrame:
    """Return a row for each trial: what differs, whether it passes, what it costs."""
    rows = []
    for trial in trials:
        row = {"runtime": trial.name, "passes": trial.passes, "why not": ""}
        if trial.parity is not None:
            row |= {
                "why not": "; ".join(trial.parity.obstacles),
                "logit difference": f"{trial.parity.logit_difference:.1g}",
                "same labels": trial.parity.label_agreement.percent(),
                "macro F1 gain": trial.parity.macro_f1_gain.signed(4),
                "by company": f"{trial.parity.company_difference:.1g}",
            }
        rows.append(row | asdict(trial.speed))
    return pd.DataFrame(rows).fillna("").set_index("runtime")


def attach(classifier: Classifier, export: Export | None, files: Path) -> Classifier:
    """Return a classifier whose transformers are loaded again, from an export's files; None: torch.

    Parameters
    ----------
    files : where the files of all exports are
    """
    members = [_loaded(member, export, files) for member in classifier.members]
    return replace(classifier, members=members, runtime=export.name if export else TORCH)


def keep(trials: Sequence[Trial], files: Path, *, source: Path, folder: Path) -> Exports:
    """Write a classifier's folder with the exports that passed, the fastest first.

    Parameters
    ----------
    files : of all exports, which are deleted once what is kept is copied
    source : the classifier that was measured
    folder : where the one with exports goes
    """
    passed = [trial for trial in trials if trial.passes]
    passed.sort(key=lambda trial: trial.speed.ms_per_text)
    exports = Exports(
        exports=[trial.export for trial in passed if trial.export is not None],
        runtimes=[trial.name for trial in passed],
    )
    used = {_file(export, name, files) for export in exports.exports for name in export.models}
    for path in files.rglob("*.onnx"):
        if path not in used:
            path.unlink()
    classifier_folder.write_exports(source, folder, files, exports)
    shutil.rmtree(files, ignore_errors=True)
    return exports


def _times(
    classifier: Classifier, texts: Sequence[str], *, n_single: int
) -> tuple[float, float, float]:
    """Return the milliseconds of single texts, median and 99th percentile, and texts a second."""
    for n in (8, 1):  # what comes first is slower, together and alone
        classifier.predict_probs(texts[:n])
    singles = [_seconds(classifier, [text]) for text in texts[:n_single]]
    together = min(_seconds(classifier, texts[:TIMED]) for _ in range(2))
    p50, p99 = np.percentile(singles, [50, 99]) * 1_000
    return float(p50), float(p99), len(texts[:TIMED]) / together


def _is_measured_in_float32(classifier: Classifier) -> bool:
    """Return whether all its transformers compute in float32 where torch runs them."""
    from lib.training import finetune

    settings = [member.settings for member in classifier.members]
    return all(each is None or finetune.precision(each) == "fp32" for each in settings)


def _megabytes(classifier: Classifier, export: Export | None, files: Path) -> float:
    transformers = [member for member in classifier.members if member.settings is not None]
    paths = {_weights(member, export, files) for member in transformers}
    return sum(path.stat().st_size for path in paths) / 1e6


def _loaded(member: Member, export: Export | None, files: Path) -> Member:
    if member.settings is None:
        return member
    if export is None:
        fresh = replace(member, exported=None)
        fresh.load()
        return fresh
    path = _file(export, member.name, files)
    exported = exported_models.load(
        path, engine=export.engine, precision=export.precision, settings=member.settings
    )
    return replace(member, exported=exported)


def _weights(member: Member, export: Export | None, files: Path) -> Path:
    if export is None:
        return member.folder / "model.safetensors"
    return _file(export, member.name, files)


def _file(export: Export, member: str, files: Path) -> Path:
    return files / export.models[member].removeprefix(f"{EXPORTS}/")


def _seconds(classifier: Classifier, texts: Sequence[str]) -> float:
    start = time.perf_counter()
    classifier.predict_probs(texts)
    return time.perf_counter() - start
