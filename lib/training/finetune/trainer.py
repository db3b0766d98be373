"""What one optimiser step minimises: the loss and its regularisers, over micro-batches, on HF's Trainer as the engine."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import Trainer

from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.evaluation.metrics import accuracy, macro_f1
from lib.training.backbones import encoder_layers
from lib.training.finetune import freezing, prediction, tokenization

CPU_MICRO_TOKENS = (
    1_024  # a micro-batch that stays in the processor's cache; larger ones were slower
)


class RecipeTrainer(Trainer):
    """HF's Trainer with the recipe's loss, optimiser groups, schedule, micro-batches and evaluation.

    Parameters
    ----------
    settings : the recipe
    watched : encoded validation texts (`tokenization.encode`), their classes as (n,) ints, and their cache or None
    class_weights : of shape (k,), mean 1 over the training rows
    """

    control: Any
    optimizer: Any

    def __init__(
        self,
        *args: Any,
        settings: TrainingConfig,
        watched: tuple[Any, np.ndarray],
        class_weights: torch.Tensor,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.settings, self.watched, self.class_weights = (
            settings,
            watched,
            class_weights.to(self.args.device),
        )
        self.depth = 0  # lowest layers that are frozen now
        self.caches: dict[
            str, freezing.ActivationCache
        ] = {}  # of the training pieces ("train") and the watched ones ("eval")
        self.n_parts, self.max_tokens = settings.accumulation_steps, settings.micro_batch_tokens
        if self.max_tokens is None and not torch.cuda.is_available():
            self.max_tokens = CPU_MICRO_TOKENS
        self.messages: list[str] = []
        self._features = torch.empty(0)  # what the head was given last
        self.model.classifier.register_forward_pre_hook(self._remember_features)

    def _remember_features(self, _module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self._features = inputs[0]

    # --- batches ---

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        self.sampler = tokenization.LengthGroupedSampler(
            self.train_dataset.lengths,
            batch_size=self._train_batch_size * self.args.world_size,
            seed=self.args.seed,
        )
        return self.sampler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """Return the next batches, none where the run has stopped; losses are averaged here, so that no count of items is needed."""
        if self.control.should_training_stop:
            return [], None
        return [batch for _, batch in zip(range(num_batches), epoch_iterator)], None

    # --- one step ---

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Add up the gradients of a batch's micro-batches, and of its adversarial second pass; return the mean loss.

        Where memory runs out, the gradients are cleared, the micro-batches halved and the batch is begun anew: the result is that of
        the same effective batch.
        """
        model.train()
        for part in freezing.frozen_parts(self.model, self.depth):
            part.eval()  # frozen layers do not drop out: what they give can be kept
        inputs = self._prepare_inputs(inputs)
        while True:
            state = _random_state()
            try:
                loss = self._gradients(model, inputs)
                if self.settings.adversarial != "none":
                    with perturbed(
                        self.model,
                        what=self.settings.adversarial,
                        size=self.settings.adversarial_epsilon,
                    ):
                        self._gradients(model, inputs)
                return loss
            except (
                RuntimeError
            ) as error:  # torch.OutOfMemoryError is one; a CPU's allocator raises the plain kind
                if not _is_out_of_memory(error):
                    raise
                self._halve(len(inputs["labels"]), error)
                model.zero_grad()
                _set_random_state(state)

    def _gradients(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        n_rows, total = inputs["weight"].sum(), torch.zeros((), device=self.args.device)
        parts = list(
            tokenization.micro_batches(inputs, n_parts=self.n_parts, max_tokens=self.max_tokens)
        )
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = (self.row_losses(model, part) * part["weight"]).sum() / n_rows
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _halve(self, n_rows: int, error: RuntimeError) -> None:
        self._features = torch.empty(0)  # they hold the graph of the pass that failed
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.n_parts >= n_rows:
            raise WorkbookError(
                f"memory ran out with a single text of at most training.max_length={self.settings.max_length} tokens a micro-batch ({_first_line(error)}); "
                "lower training.max_length, set training.gradient_checkpointing=true, or take a smaller backbone"
            ) from error
        self.n_parts = min(n_rows, 2 * self.n_parts)
        self.messages.append(
            f"step {self.state.global_step}: memory ran out; {self.n_parts} micro-batches from here on, the same {n_rows} rows a step"
        )

    # --- the loss ---

    def row_losses(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of each row of a micro-batch, regularisers added, of shape (rows,)."""
        settings, labels = self.settings, batch["labels"]
        inputs = self._inputs(batch)
        if settings.r_drop:
            inputs = {name: torch.cat([values, values]) for name, values in inputs.items()}
        with (
            freezing.bypassed(self.model, self.caches["train"].depth)
            if "train" in self.caches
            else contextlib.nullcontext()
        ):
            logits = model(**inputs).logits.float()
        if settings.mixup:
            losses = self._mixed_up(labels)
        elif settings.multisample_dropout > 1:
            features = self._features[
                : len(labels)
            ]  # taken once: the head's own passes are remembered too
            losses = torch.stack(
                [
                    self._cross_entropy(self._head(features), labels)
                    for _ in range(settings.multisample_dropout)
                ]
            ).mean(0)
        elif settings.r_drop:
            losses = 0.5 * sum(self._cross_entropy(half, labels) for half in logits.chunk(2))
        else:
            losses = self._cross_entropy(logits, labels)
        if settings.r_drop:
            losses = losses + settings.r_drop * symmetric_divergence(*logits.chunk(2))
        return losses

    def _inputs(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        mask = batch["attention_mask"]
        if "train" not in self.caches:
            return {"input_ids": batch["input_ids"], "attention_mask": mask}
        hidden = self.caches["train"](batch["piece"].cpu().numpy(), mask.shape[1])
        return {"inputs_embeds": hidden.to(mask.device, non_blocking=True), "attention_mask": mask}

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses, weights = (
            F.cross_entropy(
                logits.float(),
                labels,
                reduction="none",
                label_smoothing=self.settings.label_smoothing,
            ),
            self.class_weights,
        )
        return losses * (
            weights[labels] if labels.dim() == 1 else labels @ weights
        )  # soft labels are rows of shares

    def _head(self, features: torch.Tensor) -> torch.Tensor:
        return self.model.classifier(F.dropout(features, self.settings.dropout, training=True))

    def _mixed_up(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the losses of rows whose pooled embeddings are mixed in pairs (Guo et al. 2019, senMixup)."""
        features = self._features[: len(labels)]
        alpha = torch.tensor(self.settings.mixup)
        share = float(torch.distributions.Beta(alpha, alpha).sample())
        other = torch.randperm(len(labels)).to(labels.device)
        logits = self.model.classifier(share * features + (1 - share) * features[other])
        return share * self._cross_entropy(logits, labels) + (1 - share) * self._cross_entropy(
            logits, labels[other]
        )

    # --- the optimiser ---

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW with a group for each (layer, decay) that ever learns; the head's group comes first."""
        if self.optimizer is None:
            decayed = set(self.get_decay_parameter_names(self.model))
            self.optimizer = torch.optim.AdamW(
                parameter_groups(self.model, self.settings, decayed=decayed),
                lr=self.settings.learning_rate,
                betas=self.settings.adam_betas,
                eps=self.settings.adam_epsilon,
                fused=True,
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: Any = None
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """Make the schedule: each group warms up when it begins to learn, and all decay together."""
        steps_an_epoch = num_training_steps / self.settings.epochs
        optimizer = self.optimizer if optimizer is None else optimizer
        rates = [
            rate_schedule(
                self.settings,
                num_training_steps,
                start=round(group["first_epoch"] * steps_an_epoch),
            )
            for group in optimizer.param_groups
        ]
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # --- evaluation ---

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Score the watched rows: macro F1, accuracy, loss."""
        metrics = self.score()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def score(self) -> dict[str, float]:
        """Return the metrics of the watched rows under the weights as they are; of several processes each predicts its share."""
        (pieces, labels), cache = self.watched, self.caches.get("eval")
        share = self.accelerator.process_index, self.accelerator.num_processes
        with (
            freezing.bypassed(self.model, cache.depth) if cache else contextlib.nullcontext(),
            self.compute_loss_context_manager(),
        ):
            own = prediction.predict_logits(
                self.model,
                pieces,
                n_rows=len(labels),
                pad=self.processing_class.pad_token_id or 0,
                hidden=cache,
                share=share,
            )
        logits = (
            self.accelerator.reduce(torch.from_numpy(own).to(self.args.device), "sum").cpu().numpy()
        )
        probs, y_pred = prediction.softmax(logits), logits.argmax(axis=1)
        k = logits.shape[1]
        loss = -np.log(np.clip(probs[np.arange(len(labels)), labels], 1e-12, None)).mean()
        return {
            "eval_loss": float(loss),
            "eval_macro_f1": macro_f1(labels, y_pred, n_classes=k),
            "eval_accuracy": accuracy(labels, y_pred),
        }


def parameter_groups(
    model: Any, settings: TrainingConfig, *, decayed: set[str]
) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups, the head's first: rate by depth, weight decay, and the epoch a group begins to learn in.

    The head learns at `learning_rate`, the top layer at `layer_decay` times that, each layer below at `layer_decay` times the one above.
    Parameters that never learn are left out.
    """
    n_layers = (
        len(encoder_layers(model))
        if settings.frozen_layers or settings.unfreeze or settings.layer_decay < 1
        else 0
    )
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    never = {
        id(p)
        for part in freezing.frozen_parts(model, settings.frozen_layers)
        for p in part.parameters()
    }
    for name, parameter in model.named_parameters():
        if id(parameter) not in never and (parameter.requires_grad or not settings.lora_rank):
            groups.setdefault((_height(name, model, n_layers), name in decayed), []).append(
                parameter
            )
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate * settings.layer_decay ** (n_layers + 1 - height),
            "weight_decay": settings.weight_decay if decay else 0.0,
            "first_epoch": _first_epoch(settings, height, n_layers),
        }
        for (height, decay), parameters in sorted(
            groups.items(), key=lambda item: (-item[0][0], item[0][1])
        )
    ]


def _height(name: str, model: Any, n_layers: int) -> int:
    """Return 0 for the embeddings and what layers share, 1 to n for the layers, n + 1 for the head."""
    prefix, _, rest = name.partition(".")
    if not n_layers or prefix != model.base_model_prefix or rest.startswith("pooler."):
        return n_layers + 1
    words = rest.split(".")
    return int(words[2]) + 1 if words[:2] == ["encoder", "layer"] else 0


def _first_epoch(settings: TrainingConfig, height: int, n_layers: int) -> int:
    epochs = range(len(settings.unfreeze) + 1)
    depths = [freezing.frozen_depth(settings, epoch, n_layers=n_layers) for epoch in epochs]
    return next(epoch for epoch in epochs if height > depths[epoch] or not depths[epoch])


def rate_schedule(settings: TrainingConfig, n_steps: int, *, start: int) -> Callable[[int], float]:
    """Return the multiple of a group's learning rate by step: its own warm-up from `start` on, times the decay that all share.

    SWA holds the rate from its start on: averaging over a decayed tail averages points that hardly differ.
    """
    warmup = max(1, round(settings.warmup_share * n_steps)) if settings.warmup_share else 0
    last = settings.averaging_start * n_steps if settings.averaging == "swa" else n_steps

    def rate(step: int) -> float:
        rise = min(1.0, max(0.0, (step - start) / warmup)) if warmup else float(step >= start)
        done = min(1.0, max(0.0, (min(step, last) - warmup) / max(1, n_steps - warmup)))
        fall = {"linear": 1 - done, "cosine": 0.5 * (1 + np.cos(np.pi * done)), "constant": 1.0}[
            settings.schedule
        ]
        return float(rise * fall)

    return rate


def symmetric_divergence(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the mean of both Kullback-Leibler divergences between two sets of logits, row by row (Liang et al. 2021, R-Drop)."""
    one, other = F.log_softmax(first, -1), F.log_softmax(second, -1)
    return 0.5 * ((one.exp() - other.exp()) * (one - other)).sum(-1)


@contextlib.contextmanager
def perturbed(model: Any, *, what: str, size: float) -> Iterator[None]:
    """Within the block, weights are moved up the gradient: the word embeddings (Miyato et al. 2017) or all that learn (AWP, Wu et al. 2020).

    Parameters
    ----------
    size : of each tensor's move, relative to the norm of the tensor (`weights`); of the table's mean row (`embeddings`)
    """
    chosen = (
        [model.get_input_embeddings().weight]
        if what == "embeddings"
        else [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    )
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:  # memory may run out while they are moved
        with torch.no_grad():
            for weight in chosen:
                if weight.grad is None:
                    continue
                norm, scale = (
                    weight.grad.norm(),
                    weight.norm() if what == "weights" else weight.norm(dim=1).mean(),
                )
                if torch.isfinite(norm) and norm > 0:
                    saved.append((weight, weight.clone()))
                    weight.add_(weight.grad * (size * scale / norm))
        yield
    finally:
        with torch.no_grad():
            for weight, before in saved:
                weight.copy_(before)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error)
        for words in ("out of memory", "can't allocate memory", "DefaultCPUAllocator")
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return (
        torch.get_rng_state(),
        torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def _set_random_state(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
