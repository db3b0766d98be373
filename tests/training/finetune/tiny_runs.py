"""A task that a tiny model learns in sixteen steps, and runs of it, for the tests beside."""

import gc
import random
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch

from lib import provenance
from lib.config import Config, TrackingConfig, TrainingConfig
from lib.evaluation.metrics import macro_f1
from lib.training import finetune
from lib.workspace import Workspace

WORDS = {
    "bird": "crow finch owl wren",
    "fruit": "apple pear plum grape",
    "tool": "saw drill nail screw",
}
TINY = {
    "backbone": "tiny",
    "max_length": 32,
    "epochs": 2,
    "learning_rate": 1e-2,
    "batch_size": 8,
    "eval_steps": 8,
    "precision": "fp32",
    "threads": 1,
}
PLAIN = {"unfreeze": (), "averaging": "none"}  # what the defaults add to the plainest training
SECONDS = ("seconds", "training_seconds", "texts_per_second")


@contextmanager
def home_of_its_own(folder):
    """Within the block, runs go to `folder`, torch has one thread, and changes to lib do not count:
    others may be writing it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    # a Trainer collects garbage at its start: a third of the time of a tiny run, with all that the
    # libraries hold
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(folder))
        patch.setattr(provenance, "code_fingerprint", lambda *_: "as it is")
        yield
    gc.unfreeze()
    torch.set_num_threads(before)


def rows(n, seed):
    rng = random.Random(seed)
    labels = [sorted(WORDS, reverse=True)[i % 3] for i in range(n)]
    return pd.DataFrame(
        {
            "text": [
                " ".join(rng.choices(WORDS[label].split(), k=rng.randint(3, 12))) + "."
                for label in labels
            ],
            "label": labels,
        }
    )


TRAIN, VAL = rows(60, seed=0), rows(21, seed=1)


def configured(seed=42, **settings):
    return Config(
        profile="test",
        seed=seed,
        training=TrainingConfig(**{**TINY, **PLAIN, **settings}),
        tracking=TrackingConfig(backend="none"),
    )


def place(name):
    return Workspace(dataset="data", run=name)


def run(name, train=TRAIN, val=VAL, seed=42, watch=None, **settings):
    return finetune.train(
        train, val, config=configured(seed, **settings), ws=place(name), progress=False, watch=watch
    )


def weights_file(result):
    return (result.model_dir / "model.safetensors").read_bytes()


def score(result, val=VAL):
    y_true = (
        val["label"].map({name: code for code, name in enumerate(result.class_names)}).to_numpy()
    )
    return macro_f1(y_true, result.val_probs.argmax(axis=1), n_classes=len(result.class_names))


def differences(first, second):
    """Return the names of what differs between two results, to the last bit; seconds may."""
    facts = [
        {name: value for name, value in result.facts.items() if name not in SECONDS}
        for result in (first, second)
    ]
    same = {
        "weights file": weights_file(first) == weights_file(second),
        "val_probs": np.array_equal(first.val_probs, second.val_probs),
        "history": first.history.equals(second.history),
        **{name: facts[0].get(name) == facts[1].get(name) for name in {*facts[0], *facts[1]}},
    }
    return [name for name, equal in same.items() if not equal]


def let_average_score(patch, gap):
    """Let the averaged weights, scored after training, seem better than the best checkpoint by
    `gap`."""
    from lib.training.finetune.trainer import RecipeTrainer

    as_it_is = RecipeTrainer.score

    def scored(trainer):
        metrics = as_it_is(trainer)
        return (
            metrics
            if trainer.is_in_train
            else {**metrics, "eval_macro_f1": trainer.state.best_metric + gap}
        )

    patch.setattr(RecipeTrainer, "score", scored)
