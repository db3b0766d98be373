"""Fine-tuning a transformer: `train` and what belongs to it."""

from lib.training.finetune.building import early_stopping_rows
from lib.training.finetune.devices import device_line, precision
from lib.training.finetune.fine_tuning import TrainingResult, train
from lib.training.finetune.prediction import embed, load_model, predict_probs
from lib.training.finetune.tokenization import learnable

__all__ = [
    "TrainingResult",
    "device_line",
    "early_stopping_rows",
    "embed",
    "learnable",
    "load_model",
    "precision",
    "predict_probs",
    "train",
]
