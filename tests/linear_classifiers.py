"""Classifiers that learn in a moment and are real ones all the same: TF-IDF members."""

import numpy as np

from lib.config import CleaningConfig
from lib.evaluation.calibration import Calibrator
from lib.training import baseline
from lib.training.classifier import Classifier
from lib.training.ensembles import Ensemble
from lib.training.member import Member

WORDS = {
    "bird": "crow finch owl wren",
    "fruit": "apple pear plum grape",
    "tool": "saw drill nail screw",
}
CLASSES = list(WORDS)
TEXTS = [
    f"the {a} and the {b} of {i}"
    for i in range(4)
    for a, b in [words.split()[:2] for words in WORDS.values()]
]
LABELS = CLASSES * 4


def linear_classifier(folder, *, scale=1.0, **fields):
    """Return a classifier of birds, fruit and tools; another `scale` makes it answer otherwise.

    `folder` gets the member's files; CLASSES are in the order of its columns.
    """
    baseline.save_baseline(baseline.LINEAR["TF-IDF"](TEXTS, LABELS), folder)
    ensemble = Ensemble("soft", ["TF-IDF"], CLASSES, np.ones(1), np.zeros(3))
    calibrator = Calibrator(np.full(3, scale), np.zeros(3))
    member = Member("TF-IDF", folder)
    return Classifier(CLASSES, CleaningConfig(), [member], ensemble, calibrator, **fields)
