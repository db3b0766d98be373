"""A finished run's classifier gets a version in the registry."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from lib import provenance, workspace
from lib.delivery import comparison, pyfunc_model
from lib.delivery.comparison import EvaluatedRun
from lib.delivery.registry import store
from lib.delivery.registry.versions import CHALLENGER, Version, next_version, short_name
from lib.errors import WorkbookError
from lib.training import classifier_folder, mlflow_store, tracking

FOLDER = "classifier"  # what is registered of a run, by its name in workspace.FILES
EXPORTED = "exported_classifier"  # the same with its exports, where there is one
MODEL = "ensemble"  # how metrics.json and test_probs.parquet name it


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
    with store.locked(_uri(run, uri)) as client:
        versions = [version for version in store.registered() if version.name == name]
        for version in versions:
            if version.tags["model"] == tags["model"]:
                return version, False
        last = max(versions, key=lambda version: version.order, default=None)
        number = next_version(last.version, last.tags, tags) if last else "1.0.0"
        label = f"{name}-v{number}"
        run_id = tracking.workbook_run_id(run.ws, _uri(run, uri))
        _log_files(client, run_id, label, run)
        if name not in store.aliases():
            client.create_registered_model(name)
        source = f"runs:/{run_id}/{label}/model"
        tags["version"] = number
        registered = client.create_model_version(name, source, run_id, tags=tags)
        client.set_registered_model_alias(name, CHALLENGER, registered.version)
        return store.find_label(label), True


def server_of(run_name: str, *, uri: str = "") -> str:
    """Return where a run's model is registered, without a password; "" for the local store."""
    return mlflow_store.without_password(_uri(comparison.evaluated_run(run_name), uri))


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
        "date": provenance.now(),
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
