"""Finished runs made by hand: what notebook 07 leaves, of models whose answers are given."""

import numpy as np
import pandas as pd

from lib import provenance, workspace
from lib.config import Config
from lib.evaluation import sealed
from lib.evaluation.significance import metric_intervals
from lib.training import classifier_folder
from lib.workspace import Workspace

CLASSES = ("bird", "fruit", "tool")
NOTEBOOK = "07_evaluate_and_analyse_errors"


def sealed_rows(n=240, classes=CLASSES, seed=0):
    """Return a test set whose labels come in turn."""
    labels = [classes[i % len(classes)] for i in range(n)]
    return pd.DataFrame(
        {
            "row_id": np.arange(n) + seed,
            "text": [f"text {i}" for i in range(n)],
            "label": labels,
            "group": np.arange(n),
        }
    )


def answers(rows, n_wrong=0, *, of=None, classes=CLASSES):
    """Return the right class of every row but `n_wrong` spread over the rows of class `of` (None:
    of all)."""
    y = pd.Categorical(rows["label"], categories=classes).codes.astype(int)
    where = np.flatnonzero(y == classes.index(of)) if of else np.arange(len(y))
    wrong = where[np.linspace(0, len(where) - 1, n_wrong).astype(int)] if n_wrong else []
    y[wrong] = (y[wrong] + 1) % len(classes)
    return y


def finished_run(
    name,
    ensemble,
    *,
    rows=None,
    baseline=None,
    classes=CLASSES,
    train="a",
    dataset="data",
    classifier=None,
    **settings,
):
    """Write a run whose ensemble, and baseline, give these classes on the test rows; what stands
    for its model is no real one unless `classifier` is."""
    rows = sealed_rows(classes=classes) if rows is None else rows
    ws = Workspace(dataset=dataset, run=name)
    config = Config.load(
        "smoke",
        {
            "training.backbone": "microsoft/deberta-v3-base",
            "evaluation.n_resamples": 200,
            **settings,
        },
    )
    y_true = pd.Categorical(rows["label"], categories=classes).codes.astype(int)
    y_pred = {
        "TF-IDF baseline": answers(rows, len(rows) // 2, classes=classes)
        if baseline is None
        else baseline,
        "ensemble": ensemble,
    }
    probs = {
        model: np.eye(len(classes))[y] * 0.8 + 0.2 / len(classes) for model, y in y_pred.items()
    }
    workspace.write_table(rows, ws.path("test.parquet"))
    for part in ("train", "val"):
        workspace.write_table(
            pd.DataFrame({"text": [train], "label": [classes[0]]}), ws.path(f"{part}.parquet")
        )
    sealed.seal(ws)
    if classifier is None:
        stand_in = {"class_names": classes, "weights": name, **settings}
        workspace.write_json(stand_in, ws.path("classifier") / "classifier.json")
    else:
        classifier.save(ws.path("classifier"))
    classifier_id = classifier_folder.fingerprint(ws.path("classifier"))
    sealed.open_test(
        ws, model=f"all models of {classifier_id}", why="final evaluation, notebook 07"
    )
    models = {model: _scores(y_true, p) for model, p in probs.items()}
    found = {
        "n_test": len(rows),
        "class_names": list(classes),
        "models": models,
        "verdict": "The ensemble is.",
        "warning": "",
    }
    found["fingerprints"] = {"classifier": classifier_id}
    workspace.write_json(found, ws.path("metrics.json"))
    columns = {
        f"{model}: {label}": p[:, i]
        for model, p in probs.items()
        for i, label in enumerate(classes)
    }
    workspace.write_table(
        pd.DataFrame({"row_id": rows["row_id"], **columns}), ws.path("test_probs.parquet")
    )
    writes = {
        file: provenance.path_fingerprint(ws.path(file))
        for file in ("metrics.json", "test_probs.parquet")
    }
    record = {
        "settings": config.flat(),
        "data": {"dataset": dataset, "fingerprint": "f" * 64},
        "machine": {"commit": "c" * 40},
        "steps": {
            "04_train_model": {"state": "done", "settings": config.flat()},
            NOTEBOOK: {"state": "done", "writes": writes},
        },
        "finished": "2026-01-01T00:00:00+00:00",
    }
    workspace.write_json(record, ws.folder(workspace.REPORTS) / "run.json")
    return ws


def _scores(y_true, probs):
    intervals = metric_intervals(y_true, probs, n_resamples=100)
    return {metric: interval.value for metric, interval in intervals.items()} | {
        "intervals": {name: vars(each) for name, each in intervals.items()}
    }
