"""What follows a training: progress, divergence, stages of unfreezing, what a resumed run needs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback

from lib import workspace
from lib.errors import WorkbookError
from lib.training.finetune import checkpoints
from lib.training.finetune.trainer import RecipeTrainer

PLATEAU_STEPS = 100  # steps after warm-up within which the loss has to leave chance
PLATEAU_SHARE = 0.97  # of the loss of guessing: above it nothing was learned
MEASURED = ("loss", "learning_rate", "grad_norm", "eval_loss", "eval_macro_f1", "eval_accuracy")


class Diverged(WorkbookError):  # noqa: N818 - it reads as what happened
    """The loss is not a number, or stays where guessing would be."""


def history_table(log: list[dict[str, float]]) -> pd.DataFrame:
    """Return the Trainer's log, one row a step; what was not measured at a step is NaN."""
    entries = [entry for entry in log if "loss" in entry or "eval_loss" in entry]
    rows = pd.DataFrame(entries).reindex(columns=["step", *MEASURED])
    return rows.groupby("step", as_index=False).first()


class Progress(TrainerCallback):
    """A bar with the last macro F1, and the history so far to whoever draws it."""

    def __init__(self, *, progress: bool, watch: Callable[[pd.DataFrame], None] | None):
        self.progress = progress
        self.watch = watch

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            unit="step",
            disable=not self.progress,
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        """Show the score, and hand on the history."""
        self.bar.set_postfix(macro_f1=f"{metrics['eval_macro_f1']:.3f}")
        if self.watch and state.is_world_process_zero:
            self.watch(history_table(state.log_history))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.bar.close()


class Recording(TrainerCallback):
    """Hand every entry of the log on as it is written."""

    def __init__(self, log_step: Callable[[dict[str, float], int], None]):
        self.log_step = log_step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Hand it on."""
        if state.is_world_process_zero:
            self.log_step(logs, state.global_step)


class DivergenceGuard(TrainerCallback):
    """Raise Diverged where the loss is not a number, or stays that of guessing after the warm-up.

    Parameters
    ----------
    chance_loss : least loss of a guess that is the same for every text
    starts : step at which the last layers that are to learn have warmed up
    """

    def __init__(self, *, chance_loss: float, starts: int):
        self.chance_loss = chance_loss
        self.starts = starts

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        """Check the newest entry; once, 100 steps after the warm-up, the losses since then."""
        self._check_finite(logs, state.global_step, fp16=args.fp16)
        due = self.starts + PLATEAU_STEPS
        if due <= state.global_step < due + args.logging_steps:
            self._check_plateau(state)

    def _check_finite(self, logs: dict[str, float], step: int, *, fp16: bool) -> None:
        watched = ["loss", "eval_loss"]
        if not fp16:  # its scaler skips steps whose gradient overflows
            watched.append("grad_norm")
        for name in watched:
            if not math.isfinite(logs.get(name, 0.0)):
                raise Diverged(f"{name} is {logs[name]} at step {step}")

    def _check_plateau(self, state: Any) -> None:
        entries = [entry for entry in state.log_history if "loss" in entry]
        losses = [entry["loss"] for entry in entries if entry["step"] > self.starts]
        if losses and np.mean(losses) > PLATEAU_SHARE * self.chance_loss:
            raise Diverged(
                f"the loss is {np.mean(losses):.3f} up to step {state.global_step}, "
                f"and guessing gives {self.chance_loss:.3f}"
            )


class EarlyStopping(EarlyStoppingCallback):
    """Stop after `patience` evaluations in a row without a better macro F1.

    Parameters
    ----------
    starts : the first step that counts: an evaluation while the head alone learns says nothing of
        the training
    """

    def __init__(self, *, patience: int, starts: int):
        super().__init__(early_stopping_patience=patience)
        self.starts = starts

    def check_metric_value(self, args: Any, state: Any, control: Any, metric_value: float) -> None:
        """Count the evaluation, unless it is too early."""
        if state.global_step >= self.starts:
            super().check_metric_value(args, state, control, metric_value)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, in the Trainer's form."""
        arguments = {"patience": self.early_stopping_patience, "starts": self.starts}
        return {**super().state(), "args": arguments}


class Unfreezing(TrainerCallback):
    """Let the trainer freeze, at the beginning of an epoch, what is to be frozen in it."""

    def __init__(self, trainer: RecipeTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Do it, unless the run has stopped."""
        if not control.should_training_stop:
            self.trainer.begin_epoch(int(state.epoch or 0))


class ResumeState(TrainerCallback):
    """Keep next to each checkpoint what the Trainer does not, and take it up again on resuming.

    These are the tokens of a micro-batch, lowered where memory runs out, the messages, and the
    seconds spent. A run that had stopped when it was killed does no further step.
    """

    def __init__(self, trainer: RecipeTrainer, *, started: float):
        self.trainer = trainer
        self.started = started
        self.seconds_before = 0.0

    @property
    def seconds(self) -> float:
        """Return the seconds spent, including those up to the checkpoint it was resumed from."""
        return self.seconds_before + time.perf_counter() - self.started

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up what was kept."""
        saved = state.stateful_callbacks["TrainerControl"]["args"]
        control.should_training_stop = saved["should_training_stop"]
        # done before the checkpoint was written
        control.should_log = control.should_evaluate = control.should_save = False
        if not state.global_step:
            return
        kept = workspace.read_json(checkpoints.current(args, state) / checkpoints.RECIPE)
        messages = self.trainer.messages
        messages += [message for message in kept["messages"] if message not in messages]
        self.trainer.max_tokens = kept["max_tokens"]
        self.seconds_before = kept["seconds"]

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep it: an evaluation is followed by the Trainer's checkpoint."""
        if state.is_world_process_zero:
            kept = {
                "max_tokens": self.trainer.max_tokens,
                "messages": self.trainer.messages,
                "seconds": self.seconds,
            }
            workspace.write_json(kept, checkpoints.current(args, state) / checkpoints.RECIPE)
