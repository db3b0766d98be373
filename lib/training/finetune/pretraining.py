"""Task-adaptive pretraining: masked language modelling on the training texts."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from tqdm import tqdm
from transformers import (
    AutoModelForMaskedLM,
    DataCollatorForLanguageModeling,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from lib import workspace
from lib.errors import WorkbookError
from lib.training import backbones
from lib.training.finetune import devices, kernels

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Texts that the masked loss is measured on: at least one, at most MAX_HELD_OUT.
HELD_OUT_SHARE = 0.05
MAX_HELD_OUT = 500
# As Gururangan et al. 2020 have them.
WARMUP_SHARE = 0.06
WEIGHT_DECAY = 0.01
IGNORED = -100  # label of a token that is not masked, as torch's cross entropy has it
OFF = "set training.pretraining_epochs to 0"


@dataclass(frozen=True)
class Recipe:
    """How masked tokens are learned.

    Attributes
    ----------
    batch_size : texts a step
    max_length : tokens of a text, special ones counted; the rest is cut
    learning_rate : the highest, reached after the warm-up
    mask_share : share in (0, 1) of tokens to be guessed; of these 80 % are masked, 10 % replaced
        and 10 % left
    """

    batch_size: int = 32
    max_length: int = 128
    learning_rate: float = 5e-5
    mask_share: float = 0.15


def pretrain(
    texts: Sequence[str],
    *,
    source: str,
    folder: Path,
    epochs: float,
    recipe: Recipe = Recipe(),
    precision: str = "fp32",
    seed: int,
    progress: bool = True,
) -> dict[str, Any]:
    """Pretrain a backbone further on texts of the task, with masked tokens; write its encoder.

    DeBERTa-v3 was trained to detect replaced tokens, and transformers reads no head for masked
    ones from its hub checkpoints: it gets a fresh one, tied to the embeddings, as does any
    checkpoint without. Such a head has to learn too, so that the first loss is that of guessing
    or worse: `eval_loss_before` then says little of the encoder. BERT's pooler takes no part and
    is not written: the classifier's starts again.

    Parameters
    ----------
    texts : of the training rows alone, at least two with a token
    source : as `load_backbone` takes it
    folder : where encoder, tokenizer and config go, in the hub's layout, for `load_backbone` to
        read; replaced when whole
    precision : "fp32", "bf16" or "fp16", what it computes in; weights are float32 in any case

    Returns
    -------
    dict of `steps`, `train_rows`, `held_out_rows`, `seconds`, and the masked loss in nats per
    masked token, of the same masked tokens of texts held out: `eval_loss_before`,
    `eval_loss_after`

    Raises
    ------
    WorkbookError : the backbone cannot be loaded, lacks a weight of its encoder, or has no mask
        token; there are fewer than two texts with a token; the loss is no number.

    Source
    ------
    Gururangan et al. 2020, "Don't Stop Pretraining"
    """
    started = time.perf_counter()
    if epochs <= 0:
        raise WorkbookError(
            f"training.pretraining_epochs must be above 0 to pretrain, found {epochs}"
        )
    set_seed(seed)
    tokenizer, model = load_masked(source)
    rows = token_ids(texts, tokenizer, recipe.max_length)
    train_rows, held_out_rows = split_rows(rows, seed=seed)
    collate = masking_collator(tokenizer, recipe.mask_share, seed)
    held_out = _fixed_batches(held_out_rows, collate, recipe.batch_size)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    loss_before = masked_loss(model, held_out)
    with tempfile.TemporaryDirectory() as unused:
        arguments = _arguments(unused, recipe, epochs=epochs, precision=precision, seed=seed)
        collate = masking_collator(tokenizer, recipe.mask_share, seed + 1)
        n_steps = _train(model, train_rows, arguments, collate, progress=progress)
    loss_after = masked_loss(model, held_out)
    if not math.isfinite(loss_after):
        raise WorkbookError(
            f"pretraining diverged: the masked loss is {loss_after} after {n_steps} steps; {OFF}"
        )
    with workspace.atomic_path(folder) as scratch:
        model.base_model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
    return {
        "steps": n_steps,
        "train_rows": len(train_rows),
        "held_out_rows": len(held_out_rows),
        "eval_loss_before": loss_before,
        "eval_loss_after": loss_after,
        "seconds": round(time.perf_counter() - started, 1),
    }


def load_masked(source: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load a backbone with a head that guesses masked tokens.

    The head is a fresh one unless the checkpoint has it.

    Raises
    ------
    WorkbookError : it cannot be loaded, a weight of its encoder is missing, or its tokenizer
        has no mask token.
    """
    tokenizer, model, info = backbones.load_checkpoint(source, AutoModelForMaskedLM)
    backbones.check_keys(info, name=source, model=model)
    if tokenizer.mask_token is None:
        raise WorkbookError(
            f"the tokenizer of backbone {source!r} has no mask token, "
            f"which pretraining needs: {OFF}"
        )
    backbones.resize_embeddings(tokenizer, model)
    kernels.use_needed_positions(model)
    return tokenizer, model


def split_rows(rows: Sequence[list[int]], *, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return the rows to learn from and those held out: 5 % at random, between 1 and 500.

    Raises
    ------
    WorkbookError : fewer than two rows.
    """
    if len(rows) < 2:
        raise WorkbookError(
            "training.pretraining_epochs needs at least two texts with a token, "
            f"found {len(rows)}: set it to 0"
        )
    n_held_out = min(max(1, round(HELD_OUT_SHARE * len(rows))), MAX_HELD_OUT)
    order = np.random.default_rng(seed).permutation(len(rows))
    return [rows[i] for i in order[n_held_out:]], [rows[i] for i in order[:n_held_out]]


def masked_loss(model: PreTrainedModel, batches: Sequence[dict[str, torch.Tensor]]) -> float:
    """Return the mean cross entropy of masked tokens in nats, each token counted alike.

    Dropout is off meanwhile.
    """
    loss = 0.0
    n_tokens = 0
    training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in batches:
            ids = batch["input_ids"].to(model.device)  # (batch, tokens)
            mask = batch["attention_mask"].to(model.device)
            labels = batch["labels"].to(model.device)
            logits = model(input_ids=ids, attention_mask=mask).logits
            chosen = labels != IGNORED
            loss += torch.nn.functional.cross_entropy(
                logits[chosen].float(), labels[chosen], reduction="sum"
            ).item()
            n_tokens += int(chosen.sum())
    model.train(training)
    return loss / n_tokens


def token_ids(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[list[int]]:
    """Return the token ids of the texts that have any but special ones, which are never masked."""
    if not texts:
        return []
    special = set(tokenizer.all_special_ids)
    rows = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return [row for row in rows if not special.issuperset(row)]


def masking_collator(
    tokenizer: PreTrainedTokenizerBase, mask_share: float, seed: int
) -> Callable[[list[Any]], dict[str, torch.Tensor]]:
    """Return a function that masks a batch.

    Where chance masked nothing, and there would be no loss, it masks one token.
    """
    masked = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mask_share, seed=seed)
    special = torch.tensor(sorted(tokenizer.all_special_ids))

    def collate(rows: list[Any]) -> dict[str, torch.Tensor]:
        batch = dict(masked(rows))
        ids, labels = batch["input_ids"], batch["labels"]
        if (labels == IGNORED).all():
            row, column = (~torch.isin(ids, special)).nonzero()[0].tolist()
            labels[row, column] = ids[row, column]
            ids[row, column] = tokenizer.mask_token_id
        return batch

    return collate


def _fixed_batches(
    rows: list[list[int]], collate: Callable[[list[Any]], dict[str, torch.Tensor]], batch_size: int
) -> list[dict[str, torch.Tensor]]:
    pieces = [{"input_ids": row} for row in rows]
    starts = range(0, len(pieces), batch_size)
    return [collate(pieces[start : start + batch_size]) for start in starts]


def _train(
    model: PreTrainedModel,
    rows: list[list[int]],
    arguments: TrainingArguments,
    collate: Callable[[list[Any]], dict[str, torch.Tensor]],
    *,
    progress: bool,
) -> int:
    """Train a model in place; return the number of steps."""
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=datasets.Dataset.from_dict({"input_ids": rows}),
        data_collator=collate,
        callbacks=[_Bar(progress)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer.train().global_step


def _arguments(
    folder: str, recipe: Recipe, *, epochs: float, precision: str, seed: int
) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        weight_decay=WEIGHT_DECAY,
        warmup_steps=WARMUP_SHARE,  # a float below 1 is a share of all steps
        lr_scheduler_type="linear",
        train_sampling_strategy="group_by_length",
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    devices.use_one_gpu(arguments)
    return arguments


class _Bar(TrainerCallback):
    """One progress bar, in place of the Trainer's."""

    def __init__(self, progress: bool):
        self.progress = progress

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar = tqdm(
            total=state.max_steps, desc="pretraining", unit="step", disable=not self.progress
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bar.close()
