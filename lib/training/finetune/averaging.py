"""The average of the weights over the last steps of a training."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn
from transformers import TrainerCallback

from lib import workspace
from lib.config import TrainingConfig
from lib.training.finetune import checkpoints


class WeightAverage(TrainerCallback):
    """Average the weights that learn, from a step on: at every step, or over a hundred points.

    At every step the average is exponential (EMA), over a hundred points it is even (SWA). Where
    further layers begin to learn the average begins again. It is saved with every checkpoint and
    taken up again on resuming.

    Attributes
    ----------
    weights : the average, by parameter; empty before it begins
    n : points that it is made of
    """

    def __init__(self, model: Any, settings: TrainingConfig):
        self.model = model
        self.settings = settings
        self.weights: dict[str, torch.Tensor] = {}
        self.n = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take up the average of an interrupted run."""
        path = checkpoints.current(args, state) / checkpoints.AVERAGED
        if state.global_step and path.exists():
            self.weights = load_file(path, device=str(args.device))
            self.n = int(self.weights.pop("n"))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add the weights as they are to the average."""
        swa = self.settings.averaging == "swa"
        every = max(1, state.max_steps // 100) if swa else 1
        start = self.settings.averaging_start * state.max_steps
        if state.global_step < start or state.global_step % every:
            return
        parameters = self.model.named_parameters()
        learning = {name: p.detach() for name, p in parameters if p.requires_grad}
        if learning.keys() != self.weights.keys():
            self.weights = {name: value.clone() for name, value in learning.items()}
            self.n = 1
            return
        decay = ema_weight_of_past(self.settings.ema_decay, self.n)
        update = get_swa_multi_avg_fn() if swa else get_ema_multi_avg_fn(decay)
        current = [learning[name] for name in self.weights]
        update(list(self.weights.values()), current, torch.tensor(self.n))
        self.n += 1

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save the average where the Trainer's checkpoint goes next.

        The checkpoint's state file is written last, and then stands for both.
        """
        if self.weights and state.is_world_process_zero:
            tensors = {name: value.contiguous() for name, value in self.weights.items()}
            path = checkpoints.current(args, state) / checkpoints.AVERAGED
            with workspace.atomic_path(path) as scratch:
                save_file({**tensors, "n": torch.tensor(self.n)}, scratch)


def ema_weight_of_past(decay: float, n: int) -> float:
    """Return the weight of an average of `n` points where the next one is added.

    The point of age i weighs decay ** i, over the sum of all: the first one has no more than its
    due (the bias correction of Kingma & Ba 2015).

    Examples
    --------
    >>> ema_weight_of_past(0.5, 1)  # 1/3 and 2/3
    0.33333333333333337
    """
    return 1 - (1 - decay) / (1 - decay ** (n + 1))


def set_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Give a model's parameters these values, by name."""
    with torch.no_grad():
        for name, value in weights.items():
            model.get_parameter(name).copy_(value)
