"""The classifier as an MLflow model of code and data: its folder, `lib`, and no pickle.

MLflow loads it by `_load_pyfunc`, wherever what `requirements` lists is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib import workspace
from lib.errors import WorkbookError, shown_path
from lib.training import classifier_folder
from lib.training.classifier import Classifier
from lib.training.runtimes import TORCH

if TYPE_CHECKING:
    import pandas as pd

MODULE = "lib.delivery.pyfunc_model"
EXAMPLE = "The <b>first</b> of these texts &amp; all that it says."
COLUMNS = {
    "label": "string",
    "confidence": "double",
    "abstained": "boolean",
    "reason": "string",
    "ood_score": "double",
}
NOT_LISTED = {"setuptools", "text-classification-workbook"}  # every environment's, and `code` has


class TextModel:
    """What MLflow calls."""

    def __init__(self, classifier: Classifier):
        self._classifier = classifier

    def predict(
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Label raw texts.

        Parameters
        ----------
        model_input : n rows with `text`; what is no text is not answered
        params : MLflow hands them on; there are none

        Returns
        -------
        DataFrame of n rows in their order: `label`, `confidence`, `abstained`, `reason` and
        `ood_score` as `Classifier.predict` returns them, but that no label is "" and a classifier
        without `ood_score` has NaN; and `probabilities`, a list of k numbers
        """
        answers = self._classifier.predict(model_input["text"].tolist(), with_probs=True)
        answers["label"] = answers["label"].fillna("")  # Spark would be given "None"
        answers["probabilities"] = [probs.tolist() for probs in answers["probabilities"]]
        answers = answers.reindex(columns=[*COLUMNS, "probabilities"])
        return answers.set_index(model_input.index)


def save(folder: Path, path: Path, *, card: Path | None = None) -> None:
    """Write a classifier's folder as an MLflow model.

    Parameters
    ----------
    folder : of the classifier
    path : of the model, a folder that is not there yet
    card : a model card, which is put into the copy of the classifier's folder

    Raises
    ------
    WorkbookError : the classifier cannot be loaded, or gives no answer.
    """
    import mlflow
    import pandas as pd

    pinned = requirements(folder)
    class_names = workspace.read_json(folder / classifier_folder.DESCRIPTION)["class_names"]
    mlflow.pyfunc.save_model(
        path,
        loader_module=MODULE,
        data_path=folder,
        code_paths=[workspace.REPOSITORY / "lib"],
        pip_requirements=pinned,
        signature=_signature(),
        input_example=pd.DataFrame({"text": [EXAMPLE]}),
        metadata={"class_names": class_names},
    )
    if card:
        (classifier_in(path) / classifier_folder.CARD).write_bytes(card.read_bytes())


def classifier_in(model: Path) -> Path:
    """Return the classifier's folder in a registered model; of an early version that is all."""
    data = model / "data"
    return next(data.iterdir()) if data.is_dir() else model


def requirements(folder: Path) -> list[str]:
    """Return the packages, with versions, that a classifier needs to load and to answer.

    It does both in a process of its own, and what that has imported is the answer.

    Raises
    ------
    WorkbookError : the classifier cannot be loaded, or gives no answer.
    """
    command = [sys.executable, "-m", MODULE, str(folder.absolute())]
    environment = {**os.environ, "PYTHONPATH": str(workspace.REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise WorkbookError(
            f"{shown_path(folder)} cannot be made a model of MLflow: {lines[-1][:150]}"
        )
    names = {*json.loads(done.stdout.splitlines()[-1]), "mlflow-skinny"}
    # without what names a build, as in 2.13.0+cpu
    versions = {name: metadata.version(name).partition("+")[0] for name in names}
    return [f"{name}=={version}" for name, version in sorted(versions.items())]


def _signature() -> Any:
    """Return the types of columns; of the text none, since MLflow makes a "None" of null else."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array

    outputs: list[Any] = [ColSpec(kind, name) for name, kind in COLUMNS.items()]
    outputs.append(ColSpec(Array(DataType.double), "probabilities"))
    return ModelSignature(Schema([ColSpec(AnyType(), "text")]), Schema(outputs))


def _load_pyfunc(folder: str) -> TextModel:
    """Return the model; MLflow calls this by its name."""
    return TextModel(Classifier.load(folder))


def _imported_packages() -> list[str]:
    """Return the names of the packages that this process has imported."""
    modules = {name.partition(".")[0] for name, module in sys.modules.items() if module}
    packages = metadata.packages_distributions()
    names = {name for module in modules for name in packages.get(module, [])}
    return sorted(names - NOT_LISTED)


if __name__ == "__main__":
    exports = classifier_folder.read_exports(Path(sys.argv[1]))
    # all that another machine may choose; torch where there is no other
    for runtime in [name for name in exports.runtimes if name != TORCH] or [TORCH]:
        Classifier.load(sys.argv[1], runtime=runtime).predict([EXAMPLE, None], with_probs=True)
    print(json.dumps(_imported_packages()))
