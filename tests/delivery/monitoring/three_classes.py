"""A small linear classifier with all that is watched, and texts for it."""

import numpy as np

from lib.config import CleaningConfig
from lib.evaluation.calibration import Calibrator
from lib.robustness import ood
from lib.training import baseline
from lib.training.classifier import Classifier
from lib.training.ensembles import Ensemble
from lib.training.member import Member

WORDS = {
    "bird": "crow finch owl wren robin stork",
    "fruit": "apple pear plum grape cherry fig",
    "tool": "saw drill nail screw hammer file",
}
CLASSES = list(WORDS)


def random_texts(labels, *, seed):
    """A sentence of each label, two words of its own in it."""
    rng = np.random.default_rng(seed)
    texts = []
    for label in labels:
        first, second = rng.choice(WORDS[label].split(), 2, replace=False)
        texts.append(f"the {first} and {'very ' * rng.integers(0, 6)}often the {second} of it")
    return texts


def linear_classifier(folder):
    """A linear model of three classes, with what tells unusual texts, loaded from `folder`."""
    labels = CLASSES * 40
    texts = random_texts(labels, seed=1)
    model = baseline.fit_baseline(texts, labels)
    baseline.save_baseline(model, folder / "TF-IDF")
    held_out = random_texts(labels, seed=2)
    made = Classifier(
        CLASSES,
        CleaningConfig(),
        [Member("TF-IDF", folder / "TF-IDF")],
        Ensemble("soft", ["TF-IDF"], CLASSES, np.ones(1), np.zeros(3)),
        Calibrator(np.ones(3), np.zeros(3)),
        ood=ood.fit_scores(texts, labels, held_out, held_out_probs=model.predict_proba(held_out)),
        origin={"dataset": "things"},
    )
    made.save(folder / "classifier")
    return Classifier.load(folder / "classifier")
