"""The trick ledger: what each technique of the recipe gains and costs; negatives stay in it."""

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

PLAIN = "plain recipe"
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
# Settings of techniques that the plain run takes from the profile.
KEPT = {"learning_rate", "frozen_layers"}
COLUMNS = ["gain", "low", "high", "verdict", "macro_f1", "cost", "note"]
VERDICTS = {
    "better": "better",
    "worse": "worse",
    "inconclusive": "not significantly different from the plain recipe",
}


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
                f"ledger.techniques has no {name!r}{closest(name, TECHNIQUES)}; "
                f"there are {', '.join(TECHNIQUES)}, and all"
            )
    return [name for name in TECHNIQUES if name in names]


def trick_ledger(
    train: pd.DataFrame, val: pd.DataFrame, *, config: Config, ws: Workspace, progress: bool = True
) -> pd.DataFrame:
    """Compare each technique with the plain recipe: same seeds, same validation rows.

    Finished trainings are kept: a ledger that was interrupted goes on with the next.

    Parameters
    ----------
    train, val : with `row_id`, `text`, `label` and `group`; samples of `config.ledger` sizes are
        taken

    Returns
    -------
    DataFrame by technique, first row `plain recipe`, without a gain. `gain` is in macro F1;
    `low`, `high` are its interval (all intervals hold together: Bonferroni); `verdict`;
    `macro_f1` is the mean over seeds; `cost` the training time over the plain one's; `note`
    """
    names = chosen_techniques(config.ledger.techniques)
    if not names:
        return pd.DataFrame(columns=COLUMNS, index=pd.Index([], name="technique"))
    scored = sample(val, config.ledger.val_rows, seed=config.seed)
    variants, notes = _variants(names, config)
    predicted, seconds = _train_variants(
        train, scored, variants, config=config, ws=ws, progress=progress
    )
    classes = sorted(train["label"].unique())
    y_true = pd.Categorical(scored["label"], categories=classes).codes.astype(int)
    confidence = 1 - (1 - config.evaluation.confidence) / max(1, len(variants) - 1)
    rows: list[dict[str, Any]] = []
    for name, y_pred in predicted.items():
        scores = [macro_f1(y_true, of_seed, n_classes=len(classes)) for of_seed in y_pred]
        row = {"technique": name, "macro_f1": float(np.mean(scores))}
        if name != PLAIN:
            gain = gain_over_seeds(
                y_true,
                predicted[PLAIN],
                y_pred,
                groups=scored["group"].to_numpy(),
                confidence=confidence,
            )
            row |= {"gain": gain.value, "low": gain.low, "high": gain.high}
            row["verdict"] = gain.verdict
        rows.append(row | {"cost": seconds[name] / seconds[PLAIN]})
    rows += [{"technique": name, "note": note} for name, note in notes.items()]
    table = pd.DataFrame(rows).set_index("technique").reindex(columns=COLUMNS)
    return table.fillna({"note": "", "verdict": ""})


def plain_settings(config: Config) -> TrainingConfig:
    """Return the profile's settings with every technique off, and the ledger's epochs."""
    switched = {setting for on in TECHNIQUES.values() for setting in on} - KEPT
    off = {setting: TrainingConfig.model_fields[setting].default for setting in switched}
    off |= {"unfreeze": (), "averaging": "none", "epochs": config.ledger.epochs}
    return TrainingConfig.model_validate(config.training.model_dump() | off)


def _variants(names: list[str], config: Config) -> tuple[dict[str, TrainingConfig], dict[str, str]]:
    """Return the settings of the plain recipe and of each technique, and why one is left out."""
    plain = plain_settings(config)
    variants = {PLAIN: plain}
    notes = {}
    for name in names:
        if name == AUGMENTED and not config.augmentation.methods:
            notes[name] = "left out: augmentation.methods is empty"
            continue
        try:
            variants[name] = TrainingConfig.model_validate(plain.model_dump() | TECHNIQUES[name])
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            notes[name] = f"left out: {reason}"
    return variants, notes


def _train_variants(
    train: pd.DataFrame,
    scored: pd.DataFrame,
    variants: dict[str, TrainingConfig],
    *,
    config: Config,
    ws: Workspace,
    progress: bool,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return the classes predicted by each variant, of shape (n_seeds, n), and its seconds."""
    settings = config.ledger
    n_trainings = len(variants) * settings.seeds
    ledger_ws = ws.child("ledger")
    y_pred: dict[str, list[np.ndarray]] = {name: [] for name in variants}
    seconds = dict.fromkeys(variants, 0.0)
    with tqdm(total=n_trainings, desc="trick ledger", unit="training", disable=not progress) as bar:
        for seed in range(config.seed, config.seed + settings.seeds):
            rows = sample(train, settings.train_rows, seed=seed)
            for name, variant in variants.items():
                bar.set_postfix_str(name)
                copied = name == AUGMENTED
                probs, training_seconds = cached_training.train_and_predict(
                    _with_copies(rows, scored, config, seed=seed) if copied else rows,
                    scored,
                    config=config.model_copy(update={"training": variant, "seed": seed}),
                    ws=ledger_ws,
                    name=name,
                )
                y_pred[name].append(probs.argmax(axis=1))
                seconds[name] += training_seconds
                bar.update()
    return {name: np.stack(of_seeds) for name, of_seeds in y_pred.items()}, seconds


def sample(table: pd.DataFrame, n: int, *, seed: int) -> pd.DataFrame:
    """Return the rows that a ledger trains on or scores: `n`, or more where the classes need it."""
    return sample_rows(table, n, seed=seed) if n < len(table) else table


def _with_copies(
    rows: pd.DataFrame, scored: pd.DataFrame, config: Config, *, seed: int
) -> pd.DataFrame:
    settings = config.augmentation.model_copy(update={"rows": None})
    held_out = scored["text"].tolist()
    _, copies = rewriting.augment(
        rows, settings=settings, held_out=held_out, seed=seed, progress=False
    )
    return augmentation.with_copies(rows, copies[copies["rejected"] == ""])


def describe(ledger: pd.DataFrame, *, n_rows: int, n_seeds: int, train_rows: int) -> str:
    """Return in words what a ledger shows."""
    tested = ledger.dropna(subset="gain")
    if tested.empty:
        return "No technique is compared in this profile: name some in ledger.techniques."
    parts = []
    for verdict, words in VERDICTS.items():
        names = tested.index[tested["verdict"] == verdict]
        if len(names):
            parts.append(f"{', '.join(names)}: {words}")
    data = f"{train_rows:,} training texts, {n_rows:,} validation texts and {n_seeds} seeds"
    return f"On {data}: {'; '.join(parts)}."
