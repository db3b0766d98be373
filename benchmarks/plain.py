"""The plain recipe that the workbook's training is measured against: HF's Trainer on texts that are
all padded to 256 tokens."""

import os
import time
from collections.abc import Callable

import torch
import transformers

MAX_LENGTH, BATCH, RATE = 256, 32, 1e-4


def trainer(
    tokenizer, model, texts: list[str], labels: list[int], *, seed: int = 42, **arguments
) -> transformers.Trainer:
    """Return HF's Trainer with fp16 (which a CPU ignores) and gradient checkpointing; `arguments`
    are more of its TrainingArguments."""
    encoded = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding="max_length")
    rows = [
        {**{key: values[i] for key, values in encoded.items()}, "labels": labels[i]}
        for i in range(len(texts))
    ]
    recipe = {
        "output_dir": os.environ["WORKBOOK_HOME"],
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": 64,
        "learning_rate": RATE,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "fp16": True,
        "activation_checkpointing": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "seed": seed,
    }
    options = transformers.TrainingArguments(**{**recipe, **arguments})
    return transformers.Trainer(
        model=model,
        args=options,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=transformers.default_data_collator,
    )


def now() -> float:
    """Return the seconds of a clock, once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def rate(work: Callable[[], object], n: int) -> float:
    """Return n over the seconds that the work takes."""
    started = now()
    work()
    return n / (now() - started)
