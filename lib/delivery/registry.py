"""Classifiers under semantic versions in MLflow's registry, and which of them is in use."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import provenance, workspace
from lib.config import closest
from lib.delivery import comparison, pyfunc_model
from lib.delivery.comparison import EvaluatedRun, Predictions
from lib.errors import WorkbookError, listed, quoted, shown_path
from lib.evaluation import sealed, significance
from lib.evaluation.evaluation import Evaluation
from lib.training import classifier_folder, mlflow_store, tracking
from lib.workspace import Workspace

FOLDER = "classifier"  # what is registered of a run, by its name in workspace.FILES
EXPORTED = "exported_classifier"  # the same with its exports, where there is one
MODEL = "ensemble"  # how metrics.json and test_probs.parquet name it
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"  # aliases
OUR_TAGS = {
    *("version", "model", "measured", "test_set", "dataset", "run", "date", "commit"),
    *("metric.macro_f1", "metric.accuracy"),
}
MAJOR_TAGS = ("dataset", "classes")  # a change of these raises the first number of a version
CONFIDENCE = 0.95  # of a promotion
LOCK_SECONDS = 60  # to wait for another process; an upload of a large model takes as long
MINOR_TAGS = ("training_data", "recipe", "backbone")  # and of these the second
COLUMNS = ["model", "alias", "macro F1", "accuracy", "data", "run", "date", "commit"]


@dataclass(frozen=True)
class Version:
    """A registered model.

    Attributes
    ----------
    name : of the backbone
    version : "1.0.0"
    number : MLflow's own
    run_id : MLflow's run that holds its files
    tags : what it was made from, its scores, how it was promoted
    aliases : "champion", "challenger", "previous"
    """

    name: str
    version: str
    number: str
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]

    @property
    def label(self) -> str:
        """Return name and version."""
        return f"{self.name}-v{self.version}"

    @property
    def order(self) -> tuple[int, ...]:
        """Return the three numbers of the version."""
        return tuple(map(int, self.version.split(".")))


def short_name(backbone: str) -> str:
    """Return the name that models of a backbone are registered under.

    Examples
    --------
    >>> short_name("microsoft/deberta-v3-large"), short_name("/models/My encoder/")
    ('deberta-v3-large', 'my-encoder')
    """
    folder = backbone.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9.]+", "-", folder).strip("-.") or "model"


def next_version(last: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the version of a model that is registered after another of its name.

    The first number rises with other classes or another data set, so that what reads the answers
    may have to change. The second rises with other rows, settings or starting weights. The third
    rises where the same rows and settings were trained again (another seed, code or library).

    Parameters
    ----------
    last : the highest version there is; "" where there is none
    before, now : tags of that one and of the new one

    Examples
    --------
    >>> recipe = {"training_data": "1", "recipe": "x", "backbone": "b"}
    >>> old = {"dataset": "news", "classes": "a b", **recipe}
    >>> next_version("", {}, old), next_version("1.2.3", old, old)
    ('1.0.0', '1.2.4')
    >>> next_version("1.2.3", old, {**old, "recipe": "y"})
    '1.3.0'
    >>> next_version("1.2.3", old, {**old, "classes": "a b c"})
    '2.0.0'
    """
    if not last:
        return "1.0.0"
    major, minor, patch = map(int, last.split("."))
    changed = {tag for tag in (*MAJOR_TAGS, *MINOR_TAGS) if before.get(tag) != now[tag]}
    if changed & set(MAJOR_TAGS):
        return f"{major + 1}.0.0"
    if changed:
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def register(run_name: str, *, uri: str = "") -> tuple[Version, bool]:
    """Register the classifier of a finished run, as challenger, under its backbone's next version.

    Parameters
    ----------
    uri : of a tracking server; "" takes the run's setting `tracking.uri`

    Returns
    -------
    version : the new one, or the one that this very model has already
    new : whether it is new

    Raises
    ------
    WorkbookError : the run is not there or not finished, its model has changed since its
        evaluation, or the registry cannot be used.
    """
    run = comparison.evaluated_run(run_name)
    folder = _folder(run)
    if classifier_folder.fingerprint(folder) != run.evaluation.fingerprints.get(FOLDER):
        raise WorkbookError(
            f"{folder} is not the model that was evaluated: "
            f"`workbook run --run {run_name}` evaluates it"
        )
    tags = _tags(run)
    name = short_name(run.trained_with["training.backbone"])
    with _registry(_uri(run, uri)) as client:
        versions = [version for version in _versions() if version.name == name]
        for version in versions:
            if version.tags["model"] == tags["model"]:
                return version, False
        last = max(versions, key=lambda version: version.order, default=None)
        number = next_version(last.version, last.tags, tags) if last else "1.0.0"
        label = f"{name}-v{number}"
        run_id = tracking.workbook_run_id(run.ws, _uri(run, uri))
        _log_files(client, run_id, label, run)
        if name not in _aliases():
            client.create_registered_model(name)
        source = f"runs:/{run_id}/{label}/model"
        tags["version"] = number
        registered = client.create_model_version(name, source, run_id, tags=tags)
        client.set_registered_model_alias(name, CHALLENGER, registered.version)
        return _find(label), True


def server_of(run_name: str, *, uri: str = "") -> str:
    """Return where a run's model is registered, without a password; "" for the local store."""
    return mlflow_store.without_password(_uri(comparison.evaluated_run(run_name), uri))


def promote(
    label: str, *, force: bool = False, reason: str = "", uri: str = ""
) -> tuple[Version, str]:
    """Make a version the champion of its name; the champion until now becomes `previous`.

    Where there is no champion, nobody has to be beaten. Else the version has to be better on the
    same sealed test set (both paired tests and the interval of the gain in macro F1). It must also
    be worse on no class: where the interval of a class's gain in F1 lies below 0, it is refused.
    The intervals of all classes hold together (Bonferroni).

    Parameters
    ----------
    label : for instance "deberta-v3-large-v1.0.0"
    force : promote it whatever the comparison says; the reason is kept with it

    Returns
    -------
    version : as it is now
    words : why it was promoted

    Raises
    ------
    WorkbookError : no such version, it is the champion already, or it is not better and not forced.
    """
    if force != bool(reason.strip()):
        raise WorkbookError(
            "--force and --reason go together: a forced promotion is kept with its reason"
        )
    with _registry(uri) as client:
        version = _find(label)
        champion = _champion(version.name)
        if champion and champion.number == version.number:
            raise WorkbookError(f"{label} is the champion already")
        is_better, words = True, "there was none to beat"
        if champion:
            is_better, words = _judge(client, champion, version)
        if not is_better and not force:
            raise WorkbookError(
                f"{label} is not promoted: {words}. To do so all the same: --force --reason '...'"
            )
        tags = {"promoted": _now(), "promotion": words}
        if force:
            tags["forced"] = reason
        for tag, value in tags.items():
            client.set_model_version_tag(version.name, version.number, tag, value[:4_000])
        _move_aliases(client, version, champion)
        return _find(label), words if is_better else f"forced ({reason}): {words}"


def find(name: str, *, uri: str = "") -> Version:
    """Return a registered model; cheap enough to be asked every few seconds.

    Parameters
    ----------
    name : NAME (its champion), NAME@ALIAS or NAME-vX.Y.Z; "" is the only champion there is

    Raises
    ------
    WorkbookError : there is none, or several (the message lists what there is), or the registry
        cannot be used.
    """
    versions = _all_versions(uri)
    wanted, _, alias = name.partition("@")
    alias = alias or CHAMPION
    found = [
        version
        for version in versions
        if name == version.label or (wanted in ("", version.name) and alias in version.aliases)
    ]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} champions, name one" if found else f"no classifier {quoted(name, 80)}"
    there = [" ".join([version.label, *version.aliases]) for version in found or versions]
    raise WorkbookError(f"{what}; in the registry: {listed(there) or 'none'}")


def download(version: Version, folder: Path, *, uri: str = "") -> None:
    """Copy the classifier's folder of a registered model to `folder`, which is not there yet.

    Raises
    ------
    WorkbookError : the registry cannot be used, or has not its files any more.
    """
    with _registry(uri) as client, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        found = client.download_artifacts(version.run_id, f"{version.label}/model", scratch)
        shutil.move(pyfunc_model.classifier_in(Path(found)), folder)


def models(*, uri: str = "") -> pd.DataFrame:
    """Return every registered version, newest first within its name.

    Returns
    -------
    DataFrame of `model`, `alias`, `macro F1`, `accuracy`, `data`, `run`, `date`, `commit`
    """
    versions = sorted(_all_versions(uri), key=lambda version: version.order, reverse=True)
    versions.sort(key=lambda version: version.name)
    return pd.DataFrame([_row(version) for version in versions], columns=COLUMNS)


def _row(version: Version) -> tuple[str, ...]:
    tags = version.tags
    scores = (tags["metric.macro_f1"], tags["metric.accuracy"])
    origin = (tags["dataset"], tags["run"], tags["date"][:10], tags["commit"][:10])
    return (version.label, ", ".join(version.aliases), *scores, *origin)


def _uri(run: EvaluatedRun, uri: str) -> str:
    return uri or run.record["settings"].get("tracking.uri", "")


def _tags(run: EvaluatedRun) -> dict[str, str]:
    settings = run.trained_with
    tables = [
        workspace.read_table(run.ws.existing(f"{part}.parquet"))[["text", "label"]]
        for part in ("train", "val")
    ]
    sections = ("training.", "augmentation.") if settings["augmentation.train"] else ("training.",)
    recipe = {key: value for key, value in settings.items() if key.startswith(sections)}
    backbone = settings["training.backbone"]
    intervals = run.evaluation.models[MODEL].intervals
    return {
        "dataset": run.ws.dataset,
        "classes": provenance.fingerprint(run.evaluation.class_names),
        "training_data": provenance.fingerprint(*tables),
        "recipe": provenance.fingerprint(recipe),
        "backbone": provenance.path_fingerprint(Path(backbone)) or backbone,
        "seed": str(settings["seed"]),
        "model": str(run.evaluation.fingerprints[FOLDER]),
        "measured": run.model_id,
        "test_set": run.test_set,
        "data": str(run.record["data"]["fingerprint"]),
        "commit": str(run.record["machine"]["commit"]),
        "run": run.ws.run,
        "date": _now(),
        **{f"metric.{metric}": str(interval) for metric, interval in intervals.items()},
    }


def _folder(run: EvaluatedRun) -> Path:
    exported = run.ws.path(FOLDER).with_name(EXPORTED)
    return exported if exported.is_dir() else run.ws.existing(FOLDER)


def _log_files(client: Any, run_id: str, label: str, run: EvaluatedRun) -> None:
    """Log the model, and what it is compared by when its run has been made again."""
    card = run.ws.path(classifier_folder.CARD)
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        pyfunc_model.save(_folder(run), model, card=card if card.exists() else None)
        evaluation = Path(scratch) / "evaluation"
        evaluation.mkdir()
        for name in comparison.EVALUATED:
            shutil.copy(run.ws.path(name), evaluation)
        client.log_artifacts(run_id, scratch, label)


def _predictions(client: Any, version: Version) -> Predictions:
    """Read what a version was measured by.

    Raises
    ------
    WorkbookError : its files in the registry are missing or damaged.
    """
    with tempfile.TemporaryDirectory() as scratch:
        artifacts = f"{version.label}/evaluation"
        folder = Path(client.download_artifacts(version.run_id, artifacts, scratch))
        try:
            evaluation = Evaluation.load(folder / "metrics.json")
            probs = workspace.read_table(folder / "test_probs.parquet")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WorkbookError(
                f"the evaluation of {version.label} in the registry is missing or damaged: "
                f"delete that version there, and `workbook register {version.tags['run']}`"
            ) from error
    test_set = version.tags["test_set"]
    return Predictions(version.label, MODEL, evaluation.class_names, probs, test_set)


def _judge(client: Any, champion: Version, challenger: Version) -> tuple[bool, str]:
    """Return whether the challenger is better, and the comparison or what prevents it in words."""
    try:
        first = _predictions(client, champion)
        second = _predictions(client, challenger)
        comparison.check_comparable(first, second)
        test, confidence = _test_set(challenger, champion)
    except WorkbookError as error:
        return False, str(error)
    paired = comparison.paired_test(first, second, test, confidence=confidence)
    words = paired.describe(challenger.label, champion.label).rstrip(".")
    worse = _worse_classes(first, second, test, confidence=confidence)
    if worse:
        return False, f"{words}; its F1 is worse on {', '.join(worse)}"
    return paired.verdict == "better", words


def _worse_classes(
    first: Predictions, second: Predictions, test: pd.DataFrame, *, confidence: float
) -> list[str]:
    """Return the classes that the second is worse on, with the gains; they hold together."""
    n_classes = len(second.class_names)
    gains = significance.class_f1_gains(
        comparison.true_classes(test, second.class_names),
        first.classes(test),
        second.classes(test),
        n_classes=n_classes,
        groups=np.asarray(test["group"]),
        confidence=1 - (1 - confidence) / n_classes,
    )
    return [
        f"{label} {gain.signed()}"
        for label, gain in zip(second.class_names, gains)
        if gain.high < 0
    ]


def _test_set(challenger: Version, champion: Version) -> tuple[pd.DataFrame, float]:
    """Open the sealed test set, on which both have been measured, where a run still has it.

    The second value is the confidence at which the tests of all evaluations hold together.
    """
    why = f"{comparison.WHY} of {challenger.label} with {champion.label}"
    for version in (challenger, champion):
        ws = Workspace(dataset=version.tags["dataset"], run=version.tags["run"])
        seal = ws.path("seal.json")
        if seal.exists() and workspace.read_json(seal)["sha256"] == challenger.tags["test_set"]:
            test = sealed.open_test(ws, model=version.tags["measured"], why=why)
            return test, sealed.caution(sealed.ledger(ws), confidence=CONFIDENCE)[1]
    raise WorkbookError(
        f"no run has the test set of {challenger.label} any more: "
        f"`workbook run --run {challenger.tags['run']}` makes it again"
    )


def _move_aliases(client: Any, version: Version, champion: Version | None) -> None:
    """Move champion last: there is one at every moment, and a failed promotion can be repeated."""
    if CHALLENGER in version.aliases:
        client.delete_registered_model_alias(version.name, CHALLENGER)
    if champion:
        client.set_registered_model_alias(version.name, PREVIOUS, champion.number)
    client.set_registered_model_alias(version.name, CHAMPION, version.number)


def _champion(name: str) -> Version | None:
    for version in _versions():
        if version.name == name and CHAMPION in version.aliases:
            return version
    return None


def _find(label: str) -> Version:
    versions = {version.label: version for version in _versions()}
    if label not in versions:
        raise WorkbookError(
            f"no model {label!r} in the registry{closest(label, versions)}; "
            f"there are {', '.join(versions) or 'none: workbook register RUN'}"
        )
    return versions[label]


def _all_versions(uri: str) -> list[Version]:
    if not uri and not (mlflow_store.local_folder() / "mlflow.db").exists():
        return []
    with _registry(uri):
        return _versions()


def _versions() -> list[Version]:
    """Return all that was registered here; what others registered has not our tags."""
    import mlflow

    aliases = _aliases()
    versions = []
    for found in mlflow.search_model_versions():
        if found.tags.keys() >= OUR_TAGS:
            number = str(found.version)
            names = tuple(alias for alias, of in aliases[found.name].items() if str(of) == number)
            tags = dict(found.tags)
            run_id = str(found.run_id)
            versions.append(Version(found.name, tags["version"], number, run_id, tags, names))
    return versions


def _aliases() -> dict[str, dict[str, str]]:
    """Return the aliases of every registered name: alias -> MLflow's number."""
    import mlflow

    return {model.name: model.aliases for model in mlflow.search_registered_models()}


@contextmanager
def _registry(uri: str) -> Iterator[Any]:
    """Give a client of the registry that MLflow then uses, one process of this machine at a time.

    Raises
    ------
    WorkbookError : MLflow cannot do what is asked of it, or another process holds the registry.
    """
    from filelock import FileLock, Timeout
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    lock = mlflow_store.local_folder() / ".registry.lock"
    try:
        client = mlflow_store.connect(uri)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=LOCK_SECONDS):
            lock.write_text(f"process {os.getpid()}")  # for the message of one that waits
            yield client
    except Timeout as error:
        raise WorkbookError(
            f"the model registry is in use by {lock.read_text()}, which has held "
            f"{shown_path(lock)} for {LOCK_SECONDS:g} s; wait for it to end, or end it"
        ) from error
    except (MlflowException, SQLAlchemyError, OSError) as error:
        address = mlflow_store.without_password(uri) or mlflow_store.local_uri()
        why = mlflow_store.reason(error)
        raise WorkbookError(
            f"the model registry {address} cannot be used: {why}; check --uri"
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
