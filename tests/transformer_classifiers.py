"""A classifier of TF-IDF and a small DeBERTa-v3, whose weights are so large that rounding shows."""

import numpy as np

from lib.config import CleaningConfig, TrainingConfig
from lib.evaluation.calibration import Calibrator
from lib.training import backbones, baseline, local_deberta
from lib.training.classifier import Classifier
from lib.training.ensembles import Ensemble
from lib.training.member import Member

CLASSES = ["bird", "fruit", "tool"]
WORDS = {"bird": "crow finch owl wren", "fruit": "apple pear plum", "tool": "saw drill nail"}
RANDOM = np.random.default_rng(0)
LABELS = [CLASSES[i % 3] for i in range(90)]
TEXTS = [
    " ".join(RANDOM.choice(WORDS[label].split(), size=3 + RANDOM.integers(40))) for label in LABELS
]


def transformer_classifier(folder):
    """Save the classifier below a folder and return where."""
    import torch

    baseline.save_baseline(baseline.LINEAR["TF-IDF"](TEXTS, LABELS), folder / "TF-IDF")
    local_deberta.build(TEXTS, folder / "backbone", seed=1)
    tokenizer, model = backbones.load_backbone(str(folder / "backbone"), class_names=CLASSES)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    model.save_pretrained(folder / "transformer")
    tokenizer.save_pretrained(folder / "transformer")
    settings = TrainingConfig(max_length=32, truncation="windows", precision="fp32")
    members = [
        Member("TF-IDF", folder / "TF-IDF"),
        Member("a transformer", folder / "transformer", settings),
    ]
    names = [member.name for member in members]
    ensemble = Ensemble("weighted", names, CLASSES, np.array([0.1, 0.9]), np.zeros(3))
    classifier = Classifier(
        CLASSES, CleaningConfig(), members, ensemble, Calibrator(np.ones(3), np.zeros(3))
    )
    classifier.save(folder / "classifier")
    return folder / "classifier"
