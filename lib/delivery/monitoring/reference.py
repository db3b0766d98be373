"""What predictions are compared with: those of the validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lib import provenance, workspace
from lib.delivery.monitoring.prediction_log import model_fingerprint
from lib.delivery.monitoring.text_signals import TextSignals
from lib.training.classifier import Classifier


def predictions(
    classifier: Classifier, texts: Sequence[Any], *, progress: bool = False
) -> pd.DataFrame:
    """Return answers and signals of n raw texts, as a log would have them, and the texts."""
    answers = classifier.predict(texts, progress=progress)
    table = answers.join(TextSignals(classifier).table(texts))
    fingerprints = [provenance.text_fingerprint(str(text)) for text in texts]
    return table.assign(text_fingerprint=fingerprints, text=list(texts))


def saved_predictions(classifier: Classifier, texts: Sequence[Any], path: Path) -> pd.DataFrame:
    """Return `predictions` of n raw texts from a file, made anew where classifier or texts changed.

    The texts themselves are not in the file.
    """

    def make() -> dict[str, int]:
        rows = predictions(classifier, texts, progress=True).drop(columns="text")
        workspace.write_table(rows, path)
        return {"rows": len(rows)}

    code = provenance.code_fingerprint(__name__)
    key = provenance.fingerprint(model_fingerprint(classifier), list(texts), code)
    provenance.once(path.with_suffix(".json"), key, make, outputs=[path])
    return workspace.read_table(path).assign(text=list(texts))
