"""One optimiser step: the loss and its regularisers over micro-batches, on HF's Trainer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import Trainer

from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.evaluation.metrics import accuracy, macro_f1
from lib.training import token_ids
from lib.training.backbones import encoder_layers
from lib.training.finetune import devices, freezing, losses, prediction, tokenization
from lib.training.finetune.optimizer import (
    head_alone_epochs,
    parameter_groups,
    rate_schedule,
    with_head_rate,
)


class RecipeTrainer(Trainer):
    """HF's Trainer with the recipe's loss, optimiser, schedule, micro-batches and evaluation.

    Parameters
    ----------
    settings : the recipe
    class_weights : of shape (k,), mean 1 over the training rows
    progress : whether filling a cache of frozen layers shows a bar
    args, kwargs : those of HF's Trainer; both datasets are `tokenization.EncodedTexts`

    Attributes
    ----------
    depth : lowest layers that are frozen now
    train_cache, eval_cache : what frozen layers return for each dataset, None where it is computed
    n_parts : micro-batches that a batch is split into, at least
    max_tokens : padded tokens of a micro-batch, None without a bound; lowered where memory runs out
    messages : what a reader should know of this training
    """

    control: Any
    optimizer: Any

    def __init__(
        self,
        *args: Any,
        settings: TrainingConfig,
        class_weights: torch.Tensor,
        progress: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.class_weights = class_weights.to(self.args.device)
        self.progress = progress
        self.pad = self.processing_class.pad_token_id or 0
        self.eval_labels = _labels_by_row(self.eval_dataset)
        freezes = settings.frozen_layers or settings.unfreeze
        self.n_layers = len(encoder_layers(self.model)) if freezes else 0
        self.depth = 0
        self.train_cache: freezing.ActivationCache | None = None
        self.eval_cache: freezing.ActivationCache | None = None
        self.n_parts = settings.accumulation_steps
        self.max_tokens = settings.micro_batch_tokens
        if self.max_tokens is None and not torch.cuda.is_available():
            self.max_tokens = token_ids.CPU_TOKENS
        self.messages: list[str] = []
        self._features = torch.empty(0)  # what the head was given last
        self.model.classifier.register_forward_pre_hook(self._remember_features)

    def _remember_features(self, _module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        self._features = inputs[0]

    # --- batches ---

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler:
        self.sampler = tokenization.LengthGroupedSampler(
            self.train_dataset.pieces.lengths,
            batch_size=self._train_batch_size * self.args.world_size,
            seed=self.args.seed,
        )
        return self.sampler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], None]:
        """Return the next batches, none where the run has stopped.

        Losses are averaged in `training_step`, so that no count of items is needed.
        """
        if self.control.should_training_stop:
            return [], None
        return [batch for _, batch in zip(range(num_batches), epoch_iterator)], None

    # --- frozen layers ---

    def begin_epoch(self, epoch: int) -> None:
        """Order the batches and freeze the layers as is due in an epoch, and fill the caches."""
        self.sampler.epoch = epoch
        if not self.n_layers:
            return
        self.depth = freezing.frozen_depth(self.settings, epoch, n_layers=self.n_layers)
        freezing.freeze(self.model, self.depth)
        cached = freezing.cached_depth(self.settings, epoch, n_layers=self.n_layers)
        if self.train_cache is None or self.train_cache.depth != cached:
            self.drop_caches()
            if cached and self._may_cache(cached):
                self.train_cache = self._fill_cache("train", self.train_dataset, cached)
                self.eval_cache = self._fill_cache("eval", self.eval_dataset, cached)

    def drop_caches(self) -> None:
        """Let all layers be computed again."""
        self.train_cache = self.eval_cache = None

    def _may_cache(self, depth: int) -> bool:
        """Return whether the disk and the model allow caches; say so where they do not."""
        allowed = self.settings.activation_cache_gb
        hidden_size = self.model.config.hidden_size
        datasets = (self.train_dataset, self.eval_dataset)
        size = sum(freezing.cache_gb(dataset.pieces, hidden_size) for dataset in datasets)
        if size > allowed:
            reason = f"training.activation_cache_gb={allowed:g} and it takes {size:.1f} GB"
        elif not freezing.can_cache(self.model):
            reason = "the model has a convolution between its layers"
        else:
            return True
        message = f"the {depth} lowest layers are computed again in every epoch: {reason}"
        if allowed and message not in self.messages:
            self.messages.append(message)
        return False

    def _fill_cache(self, name: str, dataset: Any, depth: int) -> freezing.ActivationCache:
        file = f"{name}-{self.args.process_index}.f32"
        with devices.mixed_precision(self.settings):  # the Trainer puts it on the whole model alone
            return freezing.ActivationCache(
                self.model,
                dataset.pieces,
                depth=depth,
                path=Path(self.args.output_dir) / "activations" / file,
                pad=self.pad,
                progress=self.progress,
            )

    # --- one step ---

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Add up the gradients of a batch's micro-batches; return the mean loss.

        Where memory runs out, the gradients are cleared, micro-batches take fewer tokens from here
        on, and the batch is begun again: the result is that of the same effective batch.
        """
        model.train()
        for part in freezing.frozen_parts(self.model, self.depth):
            part.eval()  # frozen layers do not drop out: what they return can be kept
        inputs = self._prepare_inputs(inputs)
        if self.settings.mixup:
            inputs |= draw_pairs(len(inputs["labels"]), self.settings.mixup, self.args.device)
        while True:
            random_state = torch.get_rng_state(), torch.cuda.get_rng_state_all()
            try:
                return self._passes(model, inputs)
            except RuntimeError as error:
                if not devices.is_out_of_memory(error):
                    raise
                self._lower_tokens(inputs, error)
            model.zero_grad()
            torch.set_rng_state(random_state[0])
            torch.cuda.set_rng_state_all(random_state[1])

    def _passes(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add up gradients, a second time at perturbed weights for adversarial training."""
        loss = self._gradients(model, inputs)
        target = self.settings.adversarial
        if target == "none" or (target == "embeddings" and self.depth):  # frozen, they do not move
            return loss
        epsilon = self.settings.adversarial_epsilon
        if target == "embeddings":
            epsilon = self.settings.embedding_epsilon
        with losses.perturbed(self.model, target=target, epsilon=epsilon):
            self._gradients(model, inputs)
        return loss

    def _gradients(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        n_rows = len(inputs["weight"])  # of weights whose mean is 1, over all batches
        total = torch.zeros((), device=self.args.device)
        parts = self._parts(inputs)
        for i, part in enumerate(parts):
            is_last = i == len(parts) - 1
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    loss = (self.row_losses(model, part) * part["weight"]).sum() / n_rows
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _parts(self, inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        parts = tokenization.micro_batches(inputs, n_parts=self.n_parts, max_tokens=self.max_tokens)
        return list(parts)

    def _lower_tokens(self, inputs: dict[str, torch.Tensor], error: RuntimeError) -> None:
        """Halve the tokens of the largest micro-batch, and free what the failed pass holds."""
        self._features = torch.empty(0)  # they hold its graph
        devices.free_memory()
        smallest = 2 if self.settings.mixup else 1
        shapes = [part["input_ids"].shape for part in self._parts(inputs)]
        sizes = [n_rows * n_tokens for n_rows, n_tokens in shapes if n_rows > smallest]
        if not sizes:
            texts = "a pair of texts" if self.settings.mixup else "a single text"
            raise WorkbookError(
                f"memory ran out with {texts} of at most "
                f"training.max_length={self.settings.max_length} tokens a micro-batch "
                f"({_first_line(error)}); lower training.max_length, "
                "set training.gradient_checkpointing=true, or take a smaller backbone"
            ) from error
        self.max_tokens = max(sizes) // 2
        self.messages.append(
            f"step {self.state.global_step}: memory ran out; {self.max_tokens:,} tokens a "
            f"micro-batch at most from here on, the same {len(inputs['labels'])} rows a step"
        )

    # --- the loss ---

    def row_losses(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss of each row of a micro-batch, regularisers added, of shape (rows,)."""
        settings = self.settings
        labels = batch["labels"]
        inputs = self._inputs(batch)
        if settings.r_drop:
            inputs = {name: torch.cat([values, values]) for name, values in inputs.items()}
        with self._bypass(self.train_cache):
            logits = model(**inputs).logits.float()
        # taken once: the head's passes from here on are remembered too
        features = self._features[: len(labels)]
        if settings.mixup:
            row_losses = self._mixup_losses(features, batch)
        elif settings.multisample_dropout > 1:
            row_losses = self._multisample_losses(features, labels)
        elif settings.r_drop:
            row_losses = 0.5 * sum(self._cross_entropy(half, labels) for half in logits.chunk(2))
        else:
            row_losses = self._cross_entropy(logits, labels)
        if settings.r_drop:
            divergence = losses.symmetric_divergence(*logits.chunk(2))
            row_losses = row_losses + settings.r_drop * divergence
        return row_losses

    def _inputs(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        mask = batch["attention_mask"]
        if self.train_cache is None:
            return {"input_ids": batch["input_ids"], "attention_mask": mask}
        hidden = self.train_cache(batch["piece"].cpu().numpy(), mask.shape[1])
        return {"inputs_embeds": hidden.to(mask.device, non_blocking=True), "attention_mask": mask}

    def _bypass(
        self, cache: freezing.ActivationCache | None
    ) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if cache is None else cache.bypass(self.model)

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        smoothing = self.settings.label_smoothing
        row_losses = F.cross_entropy(
            logits.float(), labels, reduction="none", label_smoothing=smoothing
        )
        return row_losses * self.class_weights[labels]

    def _multisample_losses(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the losses of rows, averaged over several dropout masks of the head."""
        masked_losses = []
        for _ in range(self.settings.multisample_dropout):
            masked = F.dropout(features, self.settings.dropout, training=True)
            masked_losses.append(self._cross_entropy(self.model.classifier(masked), labels))
        return torch.stack(masked_losses).mean(0)

    def _mixup_losses(self, features: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the losses of rows whose pooled embeddings are mixed in pairs.

        Parameters
        ----------
        batch : with what `draw_pairs` returns

        Source
        ------
        Guo et al. 2019, "Augmenting Data with Mixup for Sentence Classification" (senMixup). The
        partners are each other's, so that both are in one micro-batch.
        """
        labels, share = batch["labels"], batch["share"]
        other = partners(batch["pair"])
        weight = share.view(-1, *[1] * (features.dim() - 1)).to(features.dtype)
        logits = self.model.classifier(weight * features + (1 - weight) * features[other])
        own_losses = self._cross_entropy(logits, labels)
        return share * own_losses + (1 - share) * self._cross_entropy(logits, labels[other])

    # --- the optimiser ---

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make AdamW with a group for each (layer, decay) that ever learns; the head's is first."""
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
        """Make the schedule: each group warms up when it begins to learn; all decay together."""
        steps_per_epoch = num_training_steps / self.settings.epochs
        optimizer = self.optimizer if optimizer is None else optimizer
        n_alone = head_alone_epochs(self.settings, n_layers=self.n_layers)
        ends = round(n_alone * steps_per_epoch)
        rates = []
        for group in optimizer.param_groups:
            start = round(group["first_epoch"] * steps_per_epoch)
            rate = rate_schedule(self.settings, num_training_steps, start=start)
            learns_alone = start < ends
            rates.append(with_head_rate(rate, self.settings, ends=ends) if learns_alone else rate)
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rates)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    # --- evaluation ---

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Score the rows that decide about early stopping: macro F1, accuracy, loss."""
        metrics = self.score()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def score(self) -> dict[str, float]:
        """Return the metrics of the validation rows under the weights as they are.

        Of several processes each predicts its share.
        """
        labels = self.eval_labels
        with self._bypass(self.eval_cache), self.compute_loss_context_manager():
            logits_of_share = prediction.predict_logits(
                self.model,
                self.eval_dataset.pieces,
                n_rows=len(labels),
                pad=self.pad,
                hidden=self.eval_cache,
                share=(self.accelerator.process_index, self.accelerator.num_processes),
            )
        on_device = torch.from_numpy(logits_of_share).to(self.args.device)
        logits = self.accelerator.reduce(on_device, "sum").cpu().numpy()
        y_pred = logits.argmax(axis=1)
        prob_of_label = prediction.softmax(logits)[np.arange(len(labels)), labels]
        return {
            "eval_loss": float(-np.log(np.clip(prob_of_label, 1e-12, None)).mean()),
            "eval_macro_f1": macro_f1(labels, y_pred, n_classes=logits.shape[1]),
            "eval_accuracy": accuracy(labels, y_pred),
        }


def _labels_by_row(dataset: tokenization.EncodedTexts) -> np.ndarray:
    """Return the class of each text, of which there may be several pieces."""
    _, first_pieces = np.unique(dataset.pieces.rows, return_index=True)
    return dataset.labels[first_pieces]


def draw_pairs(n_rows: int, alpha: float, device: torch.device) -> dict[str, torch.Tensor]:
    """Return what mixup draws for a batch, whatever parts it is split into, each of shape (rows,).

    Returns
    -------
    `pair` : a number that a row has in common with its partner alone; of an odd number of rows one
        has none
    `share` : of a row in the mixture, the same for all, from Beta(alpha, alpha)
    """
    concentration = torch.tensor(alpha)
    share = torch.distributions.Beta(concentration, concentration).sample()
    pair = torch.empty(n_rows, dtype=torch.int64)
    pair[torch.randperm(n_rows)] = torch.arange(n_rows) // 2
    return {"pair": pair.to(device), "share": share.expand(n_rows).to(device)}


def partners(pair: torch.Tensor) -> torch.Tensor:
    """Return the row that each row is mixed with; one without a partner, itself.

    Examples
    --------
    >>> partners(torch.tensor([4, 2, 7, 4, 2])).tolist()
    [3, 4, 2, 0, 1]
    """
    same = pair.unsqueeze(1) == pair
    others = same & ~torch.eye(len(pair), dtype=torch.bool, device=pair.device)
    rows = torch.arange(len(pair), device=pair.device)
    return torch.where(others.any(1), others.int().argmax(1), rows)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
