"""One fine-tuning run: a labelled table in, the best checkpoint and its validation probabilities out."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib import workspace
from lib.config import Config, TrainingConfig
from lib.data.sources import sample_rows
from lib.errors import WorkbookError
from lib.evaluation.metrics import accuracy, macro_f1
from lib.training import backbones
from lib.workspace import Workspace

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments


@dataclass(frozen=True)
class TrainingResult:
    """What a fine-tuning run leaves.

    Attributes
    ----------
    model_dir : folder of the best checkpoint with its tokenizer; class names are in its config
    val_probs : ndarray of shape (n_val, k), of the best checkpoint, columns in `class_names` order
    class_names : sorted
    history : DataFrame by training step: `loss` or `eval_loss`, `eval_macro_f1`, `learning_rate`, `grad_norm`
    facts : device, precision, weights that learned, truncated share, seconds, samples per second, best step
    """

    model_dir: Path
    val_probs: np.ndarray
    class_names: list[str]
    history: pd.DataFrame
    facts: dict[str, Any]


def train(train: pd.DataFrame, val: pd.DataFrame, *, config: Config, run: Workspace, progress: bool = True) -> TrainingResult:
    """Fine-tune the configured backbone; stop early on macro F1; keep the best checkpoint.

    The same data, settings and seed give the same result on one machine's CPU. An earlier model of this run is
    replaced only when the new one is whole.

    Parameters
    ----------
    train, val : with `text` and `label`
    run : where the model goes

    Raises
    ------
    WorkbookError : the backbone cannot be loaded, a label of `val` is not in `train`, or the loss is no number.
    """
    from transformers import DataCollatorWithPadding, EarlyStoppingCallback, PrinterCallback, Trainer, set_seed

    settings, class_names = config.training, sorted(train["label"].unique())
    started = time.perf_counter()
    _prepare_torch(settings)
    set_seed(config.seed)
    tokenizer, model = backbones.load_backbone(_backbone_source(config, run, train["text"]), class_names=class_names)
    n_learning = backbones.freeze_lower(model, settings.frozen_layers)
    watched = sample_rows(val, settings.eval_rows, seed=config.seed) if settings.eval_rows and settings.eval_rows < len(val) else val
    encode = _encoder(tokenizer, class_names, settings.max_length)
    train_set, eval_set = encode(train), encode(watched.iloc[np.argsort(watched["text"].str.len(), kind="stable")])
    checkpoints = run.folder(workspace.MODELS) / "checkpoints"
    shutil.rmtree(checkpoints, ignore_errors=True)
    trainer = Trainer(
        model=model,
        args=training_arguments(config, checkpoints, n_train=len(train)),
        train_dataset=train_set,
        eval_dataset=eval_set,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=_metrics,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=settings.patience), *_watchers(progress)],
    )
    trainer.remove_callback(PrinterCallback)  # the history is drawn, not printed
    trainer.train()
    best = trainer.state.best_model_checkpoint
    with workspace.atomic_path(run.path("transformer")) as scratch:
        trainer.save_model(str(scratch))
        (scratch / "training_args.bin").unlink(missing_ok=True)  # a pickle: none is read here, so none is shipped
    shutil.rmtree(checkpoints, ignore_errors=True)
    tokenizer, trained, _ = load_model(run.path("transformer"))  # as saved, without the trainer's mixed precision around it
    val_probs = predict_probs(tokenizer, trained, val["text"].tolist(), max_length=settings.max_length, progress=progress)
    facts = {
        "backbone": settings.backbone,
        "device": str(trainer.args.device),
        "precision": precision(settings),
        "weights": sum(p.numel() for p in model.parameters()),
        "weights_learning": n_learning,
        "train_rows": len(train),
        "truncated_share": float(np.mean([len(ids) >= settings.max_length for ids in train_set["input_ids"]])),
        "steps": trainer.state.global_step,
        "best_step": int(best.rsplit("-", 1)[1]) if best else trainer.state.global_step,
        "seconds": round(time.perf_counter() - started, 1),
    }
    return TrainingResult(run.path("transformer"), val_probs, class_names, _history(trainer.state.log_history), facts)


def load_model(folder: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, list[str]]:
    """Load a model that `train` saved: tokenizer, model in float32, class names in the order of its logits."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return AutoTokenizer.from_pretrained(folder), model, [model.config.id2label[i] for i in range(model.config.num_labels)]


def predict_probs(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, texts: Sequence[str], *, max_length: int, batch_size: int = 64, progress: bool = True
) -> np.ndarray:
    """Return class probabilities, computed in batches of like length (a text's result does not depend on its batch).

    Returns
    -------
    ndarray of float64 of shape (n, k), rows summing to 1
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    order = np.argsort([-len(text) for text in texts], kind="stable")
    logits = np.zeros((len(texts), model.config.num_labels))
    for start in tqdm(range(0, len(texts), batch_size), "predicting", unit="batch", disable=not progress):
        rows = order[start : start + batch_size]
        batch = tokenizer([texts[row] for row in rows], truncation=True, max_length=max_length, padding=True, return_tensors="pt").to(device)
        with torch.inference_mode():
            logits[rows] = model(**batch).logits.double().cpu().numpy()
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def precision(settings: TrainingConfig) -> str:
    """Return "bf16", "fp16" or "fp32": what training computes in on this machine; weights are float32 in any case.

    `auto` is bf16 where the GPU or the processor has instructions for it, fp16 on other GPUs, else fp32.

    Raises
    ------
    WorkbookError : fp16 without a GPU, which nothing computes in.
    """
    import torch

    cuda = torch.cuda.is_available()
    if settings.precision == "fp16" and not cuda:
        raise WorkbookError("training.precision=fp16 needs a GPU, and none is visible; use auto, bf16 or fp32")
    if settings.precision != "auto":
        return settings.precision
    if cuda:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def training_arguments(config: Config, checkpoints: Path, *, n_train: int) -> TrainingArguments:
    """Translate the settings into those of HF's Trainer."""
    import torch
    from transformers import TrainingArguments

    settings, kind = config.training, precision(config.training)
    n_steps = math.ceil(math.ceil(n_train / settings.batch_size / settings.accumulation_steps) * settings.epochs)
    every = min(settings.eval_steps, max(1, n_steps // 2))  # at least two looks, or early stopping has nothing to compare
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=settings.accumulation_steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_share,  # a float below 1 is a share of all steps
        lr_scheduler_type="linear",
        max_grad_norm=settings.max_grad_norm,
        bf16=kind == "bf16",
        fp16=kind == "fp16",
        gradient_checkpointing=settings.gradient_checkpointing,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=1,  # the best one stays beside the last
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="eval_macro_f1",
        greater_is_better=True,
        logging_steps=max(1, n_steps // 40),
        logging_nan_inf_filter=False,  # show a loss as it is
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        train_sampling_strategy="group_by_length",
    )


def _prepare_torch(settings: TrainingConfig) -> None:
    import torch
    import transformers

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if settings.threads:
        torch.set_num_threads(settings.threads)


def _backbone_source(config: Config, run: Workspace, texts: pd.Series) -> str:
    """Return the configured backbone; `tiny` is built first, from the training texts."""
    if config.training.backbone != "tiny":
        return config.training.backbone
    folder = run.folder(workspace.MODELS) / "tiny-deberta"
    with workspace.atomic_path(folder) as scratch:
        backbones.build_tiny_deberta(texts.tolist(), scratch, seed=config.seed)
    return str(folder)


def _encoder(tokenizer: PreTrainedTokenizerBase, class_names: list[str], max_length: int) -> Callable[[pd.DataFrame], Any]:
    import datasets

    codes = {name: i for i, name in enumerate(class_names)}

    def encode(rows: pd.DataFrame) -> Any:
        unknown = sorted(set(rows["label"]) - set(codes))
        if unknown:
            raise WorkbookError(f"label {unknown[0]!r} is in the validation rows but not in the training rows")
        encoded = tokenizer(rows["text"].tolist(), truncation=True, max_length=max_length)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        return datasets.Dataset.from_dict({**encoded, "labels": [codes[label] for label in rows["label"]], "length": lengths})

    return encode


def _metrics(prediction: Any) -> dict[str, float]:
    y_pred = prediction.predictions.argmax(axis=1)
    k = prediction.predictions.shape[1]
    return {"accuracy": accuracy(prediction.label_ids, y_pred), "macro_f1": macro_f1(prediction.label_ids, y_pred, n_classes=k)}


def _watchers(progress: bool) -> list[Any]:
    """Return callbacks: a progress bar with the last macro F1, and a stop where the loss is no number."""
    from transformers import TrainerCallback

    class Bar(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar = tqdm(total=state.max_steps, desc="training", unit="step", disable=not progress)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.update(state.global_step - self.bar.n)

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
            self.bar.set_postfix(macro_f1=f"{metrics['eval_macro_f1']:.3f}")

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.bar.close()

    class StopAtNaN(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            bad = [name for name in ("loss", "grad_norm") if name in logs and not math.isfinite(float(logs[name]))]
            if "loss" in bad or (bad and not args.fp16):  # fp16's scaler skips steps whose gradient overflows
                raise WorkbookError(f"training diverged: {bad[0]} is {logs[bad[0]]} at step {state.global_step}; lower training.learning_rate")

    return [Bar(), StopAtNaN()]


def _history(log: list[dict[str, float]]) -> pd.DataFrame:
    columns = ["step", "loss", "learning_rate", "grad_norm", "eval_loss", "eval_macro_f1", "eval_accuracy"]
    rows = pd.DataFrame([entry for entry in log if "loss" in entry or "eval_loss" in entry]).reindex(columns=columns)
    return rows.groupby("step", as_index=False).first()


def device_line() -> str:
    """Return in words what training will run on."""
    import torch

    if torch.cuda.is_available():
        return f"GPU {torch.cuda.get_device_name()} with {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
    return f"CPU with {torch.get_num_threads()} threads (no GPU is visible to torch {torch.__version__})"
