"""Models that learn from spoiled texts, for notebook 08: raw texts in, probabilities out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lib import provenance
from lib.config import Config
from lib.data.cleaning import clean_texts
from lib.training import baseline, cached_training, finetune
from lib.workspace import Workspace

Predict = Callable[[Sequence[str]], np.ndarray]


def fitter(
    config: Config, *, stop: pd.DataFrame, ws: Workspace, progress: bool = True
) -> Callable[[Sequence[str], Sequence[str]], Predict]:
    """Return what trains `robustness.remedy_model` on n raw texts and their labels.

    A transformer is trained once for the same texts, labels, settings and code.

    Parameters
    ----------
    stop : with `text`, cleaned, and `label`: they end a transformer's training
    ws : where transformers are kept, each in a folder of its own

    Returns
    -------
    function from texts and labels to a function from m raw texts to an ndarray of shape (m, k),
        columns in sorted order of the labels
    """

    def cleaned(texts: Sequence[str]) -> list[str]:
        return clean_texts(texts, settings=config.cleaning).texts

    def fit(texts: Sequence[str], labels: Sequence[str]) -> Predict:
        if config.robustness.remedy_model == "linear":
            predict = baseline.fit_baseline(cleaned(texts), labels, seed=config.seed).predict_proba
        else:
            train = pd.DataFrame({"text": cleaned(texts), "label": list(labels)})
            predict = _fine_tuned(train, stop=stop, config=config, ws=ws, progress=progress)
        return lambda texts: predict(cleaned(texts))

    return fit


def _fine_tuned(
    train: pd.DataFrame, *, stop: pd.DataFrame, config: Config, ws: Workspace, progress: bool
) -> Predict:
    own_ws = ws.child(provenance.fingerprint(train)[:12])
    folder, _ = cached_training.train_once(train, stop, config=config, ws=own_ws, progress=progress)
    tokenizer, model, _ = finetune.load_model(folder)
    options: dict[str, Any] = {"settings": config.training, "progress": False}
    return lambda texts: finetune.predict_probs(tokenizer, model, list(texts), **options)
