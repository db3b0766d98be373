"""The trick ledger: what each technique of the recipe gains and costs, over the same seeds and rows; negatives stay in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError
from tqdm import tqdm

from lib.config import Config, TrainingConfig, closest
from lib.data import augmentation
from lib.data.sources import sample_rows
from lib.errors import WorkbookError
from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance import gain_over_seeds
from lib.training import cached_training, rewriting
from lib.workspace import Workspace

AUGMENTED = "augmented copies"
TECHNIQUES: dict[str, dict[str, Any]] = {  # name: what is switched on
    "gradual unfreezing": {"unfreeze": (0, 6)},
    "EMA of weights": {"averaging": "ema"},
    "SWA of weights": {"averaging": "swa", "averaging_start": 0.25},
    "layer-wise decay": {"layer_decay": 0.9},
    "label smoothing": {"label_smoothing": 0.1},
    "R-Drop": {"r_drop": 1.0},
    "embedding perturbation": {"adversarial": "embeddings"},
    "weight perturbation": {"adversarial": "weights"},
    "mixup": {"mixup": 0.4},
    "mean pooling": {"pooling": "mean"},
    "attention pooling": {"pooling": "attention"},
    "fresh top layer": {"reinit_layers": 1},
    "five head dropouts": {"multisample_dropout": 5},
    "no attention dropout": {"attention_dropout": 0.0},
    "head and tail of the text": {"truncation": "head_tail"},
    "pretraining on the texts": {"pretraining_epochs": 1.0},
    "LoRA": {"lora_rank": 8, "learning_rate": 3e-4, "frozen_layers": 0},
    "balanced class weights": {"class_weights": "balanced"},
    AUGMENTED: {},  # of the rows themselves, by the settings of `augmentation`
}
OFF = {
    setting: TrainingConfig.model_fields[setting].default
    for on in TECHNIQUES.values()
    for setting in on
} | {
    "unfreeze": (),
    "averaging": "none",
}
COLUMNS = ["gain", "low", "high", "verdict", "macro_f1", "cost", "note"]
KEPT = ("learning_rate", "frozen_layers")  # settings that the plain run takes from the profile


def chosen_techniques(names: tuple[str, ...]) -> list[str]:
    """Return the techniques of the setting `ledger.techniques`, in the ledger's order.

    Raises
    ------
    WorkbookError : a name that is not in TECHNIQUES; the closest is named.
    """
    if "all" in names:
        return list(TECHNIQUES)
    for name in names:
        if name not in TECHNIQUES:
            raise WorkbookError(
                f"ledger.techniques has no {name!r}{closest(name, TECHNIQUES)}; there are {', '.join(TECHNIQUES)}, and all"
            )
    return [name for name in TECHNIQUES if name in names]


def trick_ledger(
    train: pd.DataFrame, val: pd.DataFrame, *, config: Config, ws: Workspace, progress: bool = True
) -> pd.DataFrame:
    """Train the plain recipe and each technique over the same seeds; compare on the same validation rows.

    Finished trainings are kept: a ledger that was interrupted goes on with the next.

    Parameters
    ----------
    train, val : with `row_id`, `text`, `label` and `group`; samples of `config.ledger` sizes are taken

    Returns
    -------
    DataFrame by technique: `gain` in macro F1, `low`, `high` (their intervals hold together: Bonferroni), `verdict`, `macro_f1`
    (mean over seeds), `cost` (its training time over the plain one's), `note`; first row `plain recipe`, without a gain
    """
    settings, names = config.ledger, chosen_techniques(config.ledger.techniques)
    if not names:
        return pd.DataFrame(columns=COLUMNS, index=pd.Index([], name="technique"))
    scored = _sample(val, settings.val_rows, seed=config.seed, setting="ledger.val_rows")
    classes = sorted(train["label"].unique())
    y_true = pd.Categorical(scored["label"], categories=classes).codes.astype(int)
    variants, notes = {"plain recipe": plain_settings(config)}, {}
    for name in names:
        if name == AUGMENTED and not config.augmentation.methods:
            notes[name] = "left out: augmentation.methods is empty"
            continue
        try:
            variants[name] = TrainingConfig.model_validate(
                variants["plain recipe"].model_dump() | TECHNIQUES[name]
            )
        except ValidationError as error:
            notes[name] = "left out: " + error.errors()[0]["msg"].removeprefix("Value error, ")
    found: dict[str, list[tuple[np.ndarray, float]]] = {name: [] for name in variants}
    with tqdm(
        total=len(variants) * settings.seeds,
        desc="trick ledger",
        unit="training",
        disable=not progress,
    ) as bar:
        for seed in range(config.seed, config.seed + settings.seeds):
            rows = _sample(train, settings.train_rows, seed=seed, setting="ledger.train_rows")
            for name, variant in variants.items():
                bar.set_postfix_str(name)
                taught = (
                    _with_copies(rows, scored, config, seed=seed) if name == AUGMENTED else rows
                )
                found[name].append(
                    _once(
                        taught,
                        scored,
                        config.model_copy(update={"training": variant, "seed": seed}),
                        ws=ws,
                        name=name,
                    )
                )
                bar.update()
    return _table(
        y_true,
        found,
        notes,
        n_classes=len(classes),
        confidence=1 - (1 - config.evaluation.confidence) / max(1, len(variants) - 1),
    )


def plain_settings(config: Config) -> TrainingConfig:
    """Return the profile's settings with every technique off, and the ledger's epochs."""
    off = {setting: value for setting, value in OFF.items() if setting not in KEPT}
    return TrainingConfig.model_validate(
        config.training.model_dump() | off | {"epochs": config.ledger.epochs}
    )


def _sample(table: pd.DataFrame, n: int, *, seed: int, setting: str) -> pd.DataFrame:
    return sample_rows(table, n, seed=seed, setting=setting) if n < len(table) else table


def _with_copies(
    rows: pd.DataFrame, scored: pd.DataFrame, config: Config, *, seed: int
) -> pd.DataFrame:
    settings = config.augmentation.model_copy(update={"rows": None})
    copies = rewriting.augment(
        rows, settings=settings, held_out=scored["text"].tolist(), seed=seed, progress=False
    )[1]
    return augmentation.with_copies(rows, copies[copies["rejected"] == ""])


def _once(
    train: pd.DataFrame, val: pd.DataFrame, config: Config, *, ws: Workspace, name: str
) -> tuple[np.ndarray, float]:
    """Train once, unless it was done before; return the classes predicted for `val` and the seconds it took."""
    place = Workspace(dataset=ws.dataset, run=f"{ws.run}/ledger")
    probs, seconds = cached_training.train_and_predict(
        train, val, config=config, ws=place, name=name
    )
    return probs.argmax(axis=1), seconds


def _table(
    y_true: np.ndarray,
    found: dict[str, list[tuple[np.ndarray, float]]],
    notes: dict[str, str],
    *,
    n_classes: int,
    confidence: float,
) -> pd.DataFrame:
    predicted = {name: np.stack([y_pred for y_pred, _ in runs]) for name, runs in found.items()}
    seconds = {name: sum(each for _, each in runs) for name, runs in found.items()}
    rows = []
    for name, y_pred in predicted.items():
        row = {
            "technique": name,
            "macro_f1": float(
                np.mean([macro_f1(y_true, each, n_classes=n_classes) for each in y_pred])
            ),
        }
        if name != "plain recipe":
            gain = gain_over_seeds(y_true, predicted["plain recipe"], y_pred, confidence=confidence)
            row |= {"gain": gain.value, "low": gain.low, "high": gain.high, "verdict": gain.verdict}
        rows.append(row | {"cost": seconds[name] / seconds["plain recipe"], "note": ""})
    rows += [{"technique": name, "note": note} for name, note in notes.items()]
    return (
        pd.DataFrame(rows)
        .set_index("technique")
        .reindex(columns=COLUMNS)
        .fillna({"note": "", "verdict": ""})
    )


def summary(ledger: pd.DataFrame, *, n_rows: int, n_seeds: int, train_rows: int) -> str:
    """Return in words what a ledger shows."""
    tested = ledger.dropna(subset="gain")
    if tested.empty:
        return "No technique is compared in this profile: name some in ledger.techniques."
    by_verdict = {
        verdict: [str(name) for name in tested.index[tested["verdict"] == verdict]]
        for verdict in ("better", "worse", "inconclusive")
    }
    words = {
        "better": "better",
        "worse": "worse",
        "inconclusive": "not significantly different from the plain recipe",
    }
    parts = [
        f"{', '.join(names)}: {words[verdict]}" for verdict, names in by_verdict.items() if names
    ]
    return f"On {train_rows:,} training texts, {n_rows:,} validation texts and {n_seeds} seeds: {'; '.join(parts)}."
