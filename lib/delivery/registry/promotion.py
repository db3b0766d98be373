"""A registered classifier becomes the champion, if it is better than the one that is."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import provenance, workspace
from lib.delivery import comparison
from lib.delivery.comparison import Predictions
from lib.delivery.registry import store
from lib.delivery.registry.registration import MODEL
from lib.delivery.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, Version
from lib.errors import WorkbookError
from lib.evaluation import sealed, significance
from lib.evaluation.evaluation import Evaluation
from lib.workspace import Workspace

CONFIDENCE = 0.95  # of a promotion


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
    with store.locked(uri) as client:
        version = store.find_label(label)
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
        tags = {"promoted": provenance.now(), "promotion": words}
        if force:
            tags["forced"] = reason
        for tag, value in tags.items():
            client.set_model_version_tag(version.name, version.number, tag, value[:4_000])
        _move_aliases(client, version, champion)
        return store.find_label(label), words if is_better else f"forced ({reason}): {words}"


def _champion(name: str) -> Version | None:
    for version in store.registered():
        if version.name == name and CHAMPION in version.aliases:
            return version
    return None


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
