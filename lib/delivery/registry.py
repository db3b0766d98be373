"""Trained models under semantic versions in MLflow's registry, and the one among them that is in use."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lib import provenance, workspace
from lib.config import closest
from lib.delivery import comparison
from lib.delivery.comparison import Evaluated
from lib.errors import WorkbookError
from lib.evaluation import sealed, significance
from lib.training import recorders, tracking
from lib.workspace import Workspace

MODEL = "transformer"  # what is registered of a run
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"  # aliases
OURS = {
    "version",
    "model",
    "measured",
    "test_set",
    "dataset",
    "run",
    "date",
    "commit",
    "metric.macro_f1",
    "metric.accuracy",
}  # tags of all that is ours
MAJOR, MINOR = (
    ("dataset", "classes"),
    ("training_data", "recipe", "backbone"),
)  # tags that raise a version's first and second number


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


def short_name(backbone: str) -> str:
    """Return the name that models of a backbone are registered under.

    Examples
    --------
    >>> short_name("microsoft/deberta-v3-large"), short_name("/models/My encoder/")
    ('deberta-v3-large', 'my-encoder')
    """
    return (
        re.sub(r"[^a-z0-9.]+", "-", backbone.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-.")
        or "model"
    )


def next_version(last: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the version of a model that is registered after another of its name.

    major: its classes or its data set are others, so that what reads its answers may have to change. minor: trained on other rows,
    with other settings, or from other weights. patch: the same rows and settings, trained again (another seed, code or library).

    Parameters
    ----------
    last : the highest version there is; "" where there is none
    before, now : tags of that one and of the new one

    Examples
    --------
    >>> old = {"dataset": "news", "classes": "a b", "training_data": "1", "recipe": "x", "backbone": "b"}
    >>> next_version("", {}, old), next_version("1.2.3", old, old)
    ('1.0.0', '1.2.4')
    >>> next_version("1.2.3", old, {**old, "recipe": "y"}), next_version("1.2.3", old, {**old, "classes": "a b c"})
    ('1.3.0', '2.0.0')
    """
    if not last:
        return "1.0.0"
    major, minor, patch = map(int, last.split("."))
    if any(before.get(tag) != now[tag] for tag in MAJOR):
        return f"{major + 1}.0.0"
    return (
        f"{major}.{minor + 1}.0"
        if any(before.get(tag) != now[tag] for tag in MINOR)
        else f"{major}.{minor}.{patch + 1}"
    )


def register(run: str, *, uri: str = "") -> tuple[Version, bool]:
    """Register the transformer of a finished run under the next version of its backbone, as challenger.

    Parameters
    ----------
    uri : of a tracking server; "" takes the run's setting `tracking.uri`

    Returns
    -------
    version : the new one, or the one that this very model has already
    new : whether it is new

    Raises
    ------
    WorkbookError : the run is not there or not finished, its model has changed since its evaluation, or the registry cannot be used.
    """
    found = comparison.evaluated_run(run)
    uri, folder = _uri_of(found, uri), found.ws.existing(MODEL)
    if provenance.path_fingerprint(folder) != found.metrics["fingerprints"][MODEL]:
        raise WorkbookError(
            f"{folder} is not the model that was evaluated: `workbook run --run {run}` evaluates it"
        )
    tags, name = _tags(found), short_name(found.trained_with["training.backbone"])
    with _registry(uri) as client:
        versions = _versions(client, name)
        for version in versions:
            if version.tags["model"] == tags["model"]:
                return version, False
        last = max(versions, key=_order, default=None)
        number = next_version(last.version if last else "", last.tags if last else {}, tags)
        run_id = tracking.workbook_run_id(found.ws, uri)
        _store(client, run_id, f"{name}-v{number}", found)
        if not _registered(client, name):
            client.create_registered_model(name)
        made = client.create_model_version(
            name, f"runs:/{run_id}/{name}-v{number}/model", run_id, tags={**tags, "version": number}
        )
        client.set_registered_model_alias(name, CHALLENGER, made.version)
        return next(
            version for version in _versions(client, name) if version.version == number
        ), True


def server_of(run: str, *, uri: str = "") -> str:
    """Return the address of the server that a run's model is registered on, without a password; "" where it is the local store."""
    return recorders.without_password(_uri_of(comparison.evaluated_run(run), uri))


def _uri_of(found: Evaluated, uri: str) -> str:
    return uri or found.record["settings"].get("tracking.uri", "")


def promote(
    label: str, *, force: bool = False, reason: str = "", uri: str = ""
) -> tuple[Version, str]:
    """Make a version the champion of its name, if it is better than the one that is; that one becomes `previous`.

    The first champion has nobody to beat. A later one has to be better on the same sealed test set (both paired tests and the interval
    of the gain in macro F1), and worse on no class: where the interval of a class's gain in F1 lies below 0, it is refused. The
    intervals of all classes hold together (Bonferroni).

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
        version = _find(client, label)
        champion = next(
            (other for other in _versions(client, version.name) if CHAMPION in other.aliases), None
        )
        if champion and champion.number == version.number:
            raise WorkbookError(f"{label} is the champion already")
        objection, words = (
            ("", "the first champion")
            if champion is None
            else _judged_or_not(client, champion, version, force=force)
        )
        if objection and not force:
            raise WorkbookError(
                f"{label} is not promoted: {objection}. To do so all the same: --force --reason '...'"
            )
        kept = {
            "promoted": _now(),
            "promotion": objection or words,
            **({"forced": reason} if force else {}),
        }
        for tag, value in kept.items():
            client.set_model_version_tag(version.name, version.number, tag, value[:4_000])
        _move_aliases(client, version, champion)
        return _find(client, label), words if not objection else f"forced ({reason}): {objection}"


def models(*, uri: str = "") -> pd.DataFrame:
    """Return every registered version, newest first within its name: `model`, `alias`, `macro F1`, `accuracy`, `data`, `run`, `date`, `commit`."""
    rows = []
    if uri or (recorders.local_folder() / "mlflow.db").exists():
        with _registry(uri) as client:
            for name in _names(client):
                for version in sorted(_versions(client, name), key=_order, reverse=True):
                    tags = version.tags
                    scores = (tags["metric.macro_f1"], tags["metric.accuracy"])
                    rows.append(
                        (
                            version.label,
                            ", ".join(version.aliases),
                            *scores,
                            tags["dataset"],
                            tags["run"],
                            tags["date"][:10],
                            tags["commit"][:10],
                        )
                    )
    return pd.DataFrame(
        rows, columns=["model", "alias", "macro F1", "accuracy", "data", "run", "date", "commit"]
    )


def _tags(found: Evaluated) -> dict[str, str]:
    record, settings, ws = found.record, found.trained_with, found.ws
    parts = [
        provenance.table_fingerprint(
            workspace.read_table(ws.existing(f"{part}.parquet"))[["text", "label"]]
        )
        for part in ("train", "val")
    ]
    sections = ("training.", "augmentation.") if settings["augmentation.train"] else ("training.",)
    backbone = Path(settings["training.backbone"])
    intervals = found.metrics["models"][MODEL]["intervals"]
    return {
        "dataset": ws.dataset,
        "classes": _digest(found.metrics["class_names"]),
        "training_data": _digest(parts),
        "recipe": _digest(
            {key: value for key, value in settings.items() if key.startswith(sections)}
        ),
        "backbone": provenance.path_fingerprint(backbone) or str(backbone),
        "seed": str(settings["seed"]),
        "model": found.metrics["fingerprints"][MODEL],
        "measured": found.model_id,
        "test_set": found.test_set,
        "data": str(record["data"]["fingerprint"]),
        "commit": str(record["machine"]["commit"]),
        "run": ws.run,
        "date": _now(),
        **{
            f"metric.{metric}": str(significance.Interval(**interval))
            for metric, interval in intervals.items()
        },
    }


def _store(client: Any, run_id: str, label: str, found: Evaluated) -> None:
    """Log the model, and what it is compared by when its run has long been made anew."""
    client.log_artifacts(run_id, str(found.ws.path(MODEL)), f"{label}/model")
    with tempfile.TemporaryDirectory() as scratch:
        for name in comparison.EVALUATED:
            (Path(scratch) / name).write_bytes(found.ws.path(name).read_bytes())
        client.log_artifacts(run_id, scratch, f"{label}/evaluation")


def _judged_or_not(
    client: Any, champion: Version, challenger: Version, *, force: bool
) -> tuple[str, str]:
    """Compare the two; where that cannot be done and the promotion is forced, what stands in the way is the objection."""
    try:
        return _judged(client, champion, challenger)
    except WorkbookError as error:
        if not force:
            raise
        return str(error), ""


def _judged(client: Any, champion: Version, challenger: Version) -> tuple[str, str]:
    """Return what speaks against a promotion ("" where nothing does), and the comparison in words."""
    (first_metrics, first_probs), (metrics, probs) = (
        _evaluation(client, version) for version in (champion, challenger)
    )
    classes = metrics["class_names"]
    try:
        comparison.check_comparable(
            champion.label,
            first_metrics["class_names"],
            champion.tags["test_set"],
            challenger.label,
            classes,
            challenger.tags["test_set"],
        )
    except WorkbookError as error:
        return str(error), ""
    test = _test_set(challenger, champion)
    y_true = pd.Categorical(test["label"], categories=classes).codes.astype(int)
    y_pred = [
        comparison.predicted(of, MODEL, classes, test, what=version.label)
        for of, version in ((first_probs, champion), (probs, challenger))
    ]
    groups = test["group"].to_numpy()
    paired = significance.paired_test(y_true, *y_pred, groups=groups)
    words = paired.describe(challenger.label, champion.label).rstrip(".")
    each = 1 - (1 - paired.macro_f1_gain.confidence) / len(classes)
    gains = significance.class_f1_gains(
        y_true, *y_pred, n_classes=len(classes), groups=groups, confidence=each
    )
    worse = [
        f"{label} {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
        for label, gain in zip(classes, gains)
        if gain.high < 0
    ]
    if worse:
        return f"{words}; its F1 is worse on {', '.join(worse)}", words
    return ("" if paired.verdict == "better" else words), words


def _evaluation(client: Any, version: Version) -> tuple[dict[str, Any], pd.DataFrame]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(
            client.download_artifacts(version.run_id, f"{version.label}/evaluation", scratch)
        )
        return workspace.read_json(folder / "metrics.json"), workspace.read_table(
            folder / "test_probs.parquet"
        )


def _test_set(challenger: Version, champion: Version) -> pd.DataFrame:
    """Open the sealed test set where a run still has it; both models have been measured on it before."""
    for version in (challenger, champion):
        ws = Workspace(dataset=version.tags["dataset"], run=version.tags["run"])
        if (
            ws.path("seal.json").exists()
            and workspace.read_json(ws.path("seal.json"))["sha256"] == challenger.tags["test_set"]
        ):
            return sealed.open_test(
                ws,
                model=version.tags["measured"],
                why=f"{comparison.WHY} of {challenger.label} with {champion.label}",
            )
    raise WorkbookError(
        f"no run has the test set of {challenger.label} any more: `workbook run --run {challenger.tags['run']}` makes it again"
    )


def _move_aliases(client: Any, version: Version, champion: Version | None) -> None:
    """Move champion, previous and challenger; where one cannot be moved, put all back."""
    before = _aliases(client, version.name)
    after = {
        **before,
        CHAMPION: version.number,
        **({PREVIOUS: champion.number} if champion else {}),
    }
    if after.get(CHALLENGER) == version.number:
        del after[CHALLENGER]
    try:
        _set_aliases(client, version.name, after)
    except Exception:
        _set_aliases(client, version.name, before)
        raise


def _set_aliases(client: Any, name: str, wanted: Mapping[str, Any]) -> None:
    for alias in (
        PREVIOUS,
        CHAMPION,
        CHALLENGER,
    ):  # each is moved in one piece: there is a champion at every moment
        if alias in wanted:
            client.set_registered_model_alias(name, alias, wanted[alias])
        elif alias in _aliases(client, name):
            client.delete_registered_model_alias(name, alias)


def _find(client: Any, label: str) -> Version:
    own = label.rpartition("-v")[0]
    for version in _versions(client, own) if "'" not in own else ():
        if version.label == label:
            return version
    labels = [version.label for name in _names(client) for version in _versions(client, name)]
    raise WorkbookError(
        f"no model {label!r} in the registry{closest(label, labels)}; there are {', '.join(labels) or 'none: workbook register RUN'}"
    )


def _versions(client: Any, name: str) -> list[Version]:
    if not _registered(client, name):
        return []
    aliases, found = _aliases(client, name), []
    for each in _pages(client.search_model_versions, f"name = '{name}'"):
        if each.tags.keys() >= OURS:  # what others made stands beside
            own = tuple(alias for alias, number in aliases.items() if number == str(each.version))
            found.append(
                Version(
                    name, each.tags["version"], str(each.version), each.run_id, dict(each.tags), own
                )
            )
    return found


def _registered(client: Any, name: str) -> bool:
    return bool(client.search_registered_models(f"name = '{name}'"))


def _names(client: Any) -> list[str]:
    """Return the names of all registered models, but those that a filter cannot name: none of ours is such."""
    return [
        model.name
        for model in _pages(client.search_registered_models, None)
        if "'" not in model.name
    ]


def _pages(search: Callable[..., Any], wanted: str | None) -> Iterator[Any]:
    """Yield what a search finds, from all of its pages."""
    token = None
    while True:
        page = search(filter_string=wanted, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _aliases(client: Any, name: str) -> dict[str, str]:
    return {
        alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()
    }


def _order(version: Version) -> tuple[int, ...]:
    return tuple(map(int, version.version.split(".")))


@contextmanager
def _registry(uri: str) -> Iterator[Any]:
    """Give a client, one process at a time on this machine; what MLflow cannot do is a WorkbookError."""
    from filelock import FileLock
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        recorders.local_folder().mkdir(parents=True, exist_ok=True)
        client = recorders.mlflow_client(uri)
        with FileLock(recorders.local_folder() / ".registry.lock"):
            yield client
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise WorkbookError(
            f"the model registry {recorders.without_password(uri) or recorders.local_uri()} cannot be used: {tracking.reason(error)}"
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
