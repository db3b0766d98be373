"""What one GPU makes of a fine-tuning run: `lib.training.finetune` itself against the plain recipe
of `plain.py`.

    python benchmarks/gpu.py --texts texts.parquet --out gpu.md            # the kernel, and the
    speed of base and large (some 8 minutes on an H100)
    python benchmarks/gpu.py --texts texts.parquet --out full.md --full    # five epochs of the
    profile `large` from end to end
    python benchmarks/gpu.py --texts texts.parquet --out learn.md --learn  # a small model: from
    scratch, fused, and pretrained on the texts first

`--texts` is a Parquet file with text and label, for instance the 20,000 that a run leaves in
data/raw. Nothing else is needed, and
nothing is fetched: models have a DeBERTa-v3's shape and random weights, their tokenizer is trained
on the texts. It runs with torch,
transformers, accelerate, datasets, pydantic, pandas and scikit-learn; the fused kernel needs
disentangled-flash too.
"""

import argparse
import datetime
import gc
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the workbook need not be installed
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import flops
import numpy as np
import pandas as pd
import plain
import torch
from transformers import TrainerCallback

from lib.config import Config, TrackingConfig, TrainingConfig
from lib.data.sources import sample_rows
from lib.evaluation.metrics import macro_f1
from lib.evaluation.significance import gain_over_seeds
from lib.training import backbones, finetune, local_deberta
from lib.training.finetune import building, kernels
from lib.training.finetune.job import TrainingJob
from lib.training.finetune.trainer import RecipeTrainer
from lib.workspace import Workspace

V3_TOKENS, N_TOKENS = (
    128_100,
    16_000,
)  # DeBERTa-v3's table of embeddings; of the tokenizer trained here
# hidden size, layers, heads, table of embeddings; the feed-forward layer is four times as wide
SHAPES = {
    "base": (768, 12, 12, V3_TOKENS),  # microsoft/deberta-v3-base
    "large": (1024, 24, 16, V3_TOKENS),  # microsoft/deberta-v3-large
    "small": (256, 4, 4, N_TOKENS),  # learns from scratch
    "tiny": (64, 2, 2, N_TOKENS),  # for a trial on a CPU
}
N_TRAIN, N_HELD_OUT = 14_000, 3_000
NO_TRACKING = TrackingConfig(backend="none")


@dataclass(frozen=True)
class Step:
    """A way of training: the plain recipe, or ours with these settings."""

    name: str
    settings: dict | None = field(default_factory=dict)  # None: the plain recipe


PLAIN = Step("plain: HF's Trainer, padded to 256, fp16, gradient checkpointing", None)
STEPS = (
    PLAIN,
    Step("ours, the model's own attention"),
    Step("ours, fused attention", {"attention_kernel": "fused"}),
    Step("ours, fused attention, torch.compile", {"attention_kernel": "fused", "compile": True}),
    Step("ours, torch.compile", {"compile": True}),
)


@dataclass(frozen=True)
class Speed:
    """Steps after the first ones: seconds, texts, their real tokens, and the most memory taken."""

    seconds: float
    n_texts: int
    n_tokens: int
    peak_bytes: int
    remarks: tuple[str, ...] = ()


class Clock(TrainerCallback):
    """Times the steps after the first `n_warm`, in which kernels are tuned and compiled."""

    def __init__(self, n_warm: int):
        self.n_warm = n_warm

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.n_warm:
            self.started = plain.now()

    def on_train_end(self, args, state, control, **_):
        self.seconds = plain.now() - self.started


def main() -> None:
    args = arguments()
    if not torch.cuda.is_available() and args.shapes != ["tiny"]:
        sys.exit(
            f"no GPU is visible to torch {torch.__version__}: this benchmark measures one "
            "(--shapes tiny is a trial on a CPU)"
        )
    table = pd.read_parquet(args.texts)[["text", "label"]].reset_index(names="row_id")
    held_out = sample_rows(table, min(N_HELD_OUT, len(table) // 5), seed=0)
    train = table[~table["row_id"].isin(held_out["row_id"])]
    train = sample_rows(train, min(N_TRAIN, len(train)), seed=0)
    tell(args.out, machine(), mode="w")
    with tempfile.TemporaryDirectory(prefix="workbook-gpu-") as home:
        os.environ["WORKBOOK_HOME"] = home
        folders = {
            shape: checkpoint(shape, train["text"].tolist(), Path(home) / shape)
            for shape in args.shapes
        }
        if args.full:
            full_run(folders[args.shapes[-1]], train, held_out, args)
        elif args.learn:
            learning(train, held_out, args)
        else:
            tell(
                args.out,
                "\n## Is the fused kernel right?\n\n"
                + "\n".join(
                    f"- {shape}: {kernel_check(folder)}" for shape, folder in folders.items()
                ),
            )
            for shape, folder in folders.items():
                speed_table(shape, folder, train, args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--texts", type=Path, required=True, help="Parquet file with text and label"
    )
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["base", "large"])
    parser.add_argument(
        "--steps", type=int, default=80, help="timed steps of each row; half as many come before"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="five epochs of the last shape, with the settings of the profile `large`",
    )
    parser.add_argument(
        "--learn",
        action="store_true",
        help="macro F1 of a small model from scratch, fused, and pretrained",
    )
    parser.add_argument("--seeds", type=int, default=3, help="of `--learn`")
    parser.add_argument(
        "--pretraining-epochs", type=float, default=40, help="of `--learn`: a few minutes of a GPU"
    )
    return parser.parse_args()


def tell(path: Path, text: str, *, mode: str = "a") -> None:
    print(text, flush=True)
    with path.open(mode, encoding="utf-8") as file:
        file.write(text + "\n")


def machine() -> str:
    def version(name: str) -> str:
        found = [each.version for each in importlib.metadata.distributions(name=name)]
        return f"{name} {found[0] if found else 'not installed'}"

    driver = "none"
    if torch.cuda.is_available():
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    versions = ", ".join(map(version, ("torch", "transformers", "triton", "disentangled-flash")))
    return (
        f"{datetime.date.today()}; {finetune.device_line()}; driver {driver}; CUDA "
        f"{torch.version.cuda}; {versions}"
    )


def checkpoint(shape: str, texts: list[str], folder: Path) -> str:
    """Write a model of a shape, with random weights, in the hub's layout."""
    hidden, n_layers, n_heads, vocabulary = SHAPES[shape]
    sizes = {
        "hidden_size": hidden,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "intermediate_size": 4 * hidden,
    }
    return str(
        local_deberta.build(texts, folder, n_tokens=N_TOKENS, vocab_size=vocabulary, **sizes)
    )


def kernel_check(folder: str) -> str:
    """Return what the check says that every training with the fused kernel begins with: logits and
    gradients against the eager code's."""
    _, model = backbones.load_backbone(folder, class_names=list("abcde"))
    with torch.no_grad():  # fresh weights attend almost evenly, which would hide a wrong score
        for layer in model.deberta.encoder.layer:
            layer.attention.self.query_proj.weight.mul_(3)
            layer.attention.self.key_proj.weight.mul_(3)
    return kernels.use_fused_attention(model)


# --- how fast? ---


def speed_table(shape: str, folder: str, train: pd.DataFrame, args: argparse.Namespace) -> None:
    tokenizer, model = backbones.load_backbone(folder, class_names=list("abcde"))
    lengths = np.minimum(backbones.token_counts(folder, train["text"].tolist()), plain.MAX_LENGTH)
    cost = flops.flops_per_token(model.config, n_tokens=np.square(lengths).sum() / lengths.sum())
    peak = flops.peak_flops("cuda") if torch.cuda.is_available() else None
    told = (
        f"Batches of {plain.BATCH} of {len(train):,} texts, {lengths.mean():.0f} tokens on "
        f"average and {plain.MAX_LENGTH} at most; {args.steps} steps."
    )
    tell(
        args.out,
        f"\n## How fast is the {shape} shape?\n\n{told}\n\n| way | texts/s | of plain | real "
        "tokens/s | MFU | peak memory, GiB |\n|---|---|---|---|---|---|",
    )
    theirs, remarks = None, []
    for step in STEPS:
        try:
            speed = (
                plain_speed(tokenizer, folder, train, lengths, args)
                if step is PLAIN
                else our_speed(step, folder, train, args)
            )
        except torch.OutOfMemoryError:
            tell(args.out, f"| {step.name} | out of memory | | | | |")
            continue
        rate, token_rate = speed.n_texts / speed.seconds, speed.n_tokens / speed.seconds
        theirs = rate if step is PLAIN else theirs
        mfu = f"{cost * token_rate / peak:.1%}" if peak else "-"
        tell(
            args.out,
            f"| {step.name} | {rate:.1f} | {f'{rate / theirs:.2f}' if theirs else '-'} | "
            f"{token_rate:.0f} | {mfu} | {speed.peak_bytes / 2**30:.1f} |",
        )
        remarks += [f"- {step.name}: {remark}" for remark in speed.remarks]
    tell(args.out, "\n" + "\n".join([*remarks, f"- predicting: {predicting(folder, train, args)}"]))


def plain_speed(
    tokenizer, folder: str, train: pd.DataFrame, lengths: np.ndarray, args: argparse.Namespace
) -> Speed:
    clean()
    _, model = backbones.load_backbone(folder, class_names=sorted(train["label"].unique()))
    clock, n_steps = Clock(args.steps // 2), args.steps + args.steps // 2
    trainer = plain.trainer(
        tokenizer, model, train["text"].tolist(), [0] * len(train), max_steps=n_steps
    )
    trainer.add_callback(clock)
    trainer.train()
    n_texts = (
        args.steps * plain.BATCH
    )  # drawn at random: their tokens are those of as many average texts
    return Speed(clock.seconds, n_texts, round(n_texts * lengths.mean()), peak_bytes())


def our_speed(step: Step, folder: str, train: pd.DataFrame, args: argparse.Namespace) -> Speed:
    """Time the trainer that `finetune.train` trains with, all layers learning, without
    evaluations."""
    clean()
    trainer = our_trainer(folder, train, **(step.settings or {}))
    clock = Clock(args.steps // 2)
    trainer.add_callback(clock)
    trainer.args.max_steps = args.steps + args.steps // 2
    trainer.train()
    rows = list(trainer.sampler)[clock.n_warm * plain.BATCH : trainer.args.max_steps * plain.BATCH]
    n_tokens = int(trainer.train_dataset.lengths[rows].sum())
    return Speed(clock.seconds, len(rows), n_tokens, peak_bytes(), tuple(trainer.messages))


def our_trainer(folder: str, train: pd.DataFrame, **settings) -> RecipeTrainer:
    same = {
        "backbone": folder,
        "max_length": plain.MAX_LENGTH,
        "batch_size": plain.BATCH,
        "unfreeze": (),
        "averaging": "none",
    }
    chosen = TrainingConfig(**same, **settings)
    config, place = (
        Config(profile="bench", training=chosen, tracking=NO_TRACKING),
        Workspace(dataset="bench", run="speed"),
    )
    trainer = building.build_trainer(TrainingJob(train, train.head(64), config, place))
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.load_best_model_at_end = False
    return trainer


def predicting(folder: str, train: pd.DataFrame, args: argparse.Namespace) -> str:
    """Return texts a second, and the share of the plain recipe's: its own loop over texts padded to
    256."""
    texts = train["text"].tolist()[: 64 * args.steps]
    tokenizer, model = backbones.load_backbone(folder, class_names=list("abcde"))
    trainer = plain.trainer(tokenizer, model, texts, [0] * len(texts))
    theirs = [
        plain.rate(lambda: trainer.predict(trainer.train_dataset), len(texts)) for _ in range(2)
    ][-1]
    settings = TrainingConfig(backbone=folder, max_length=plain.MAX_LENGTH)
    ours = [
        plain.rate(
            lambda: finetune.predict_probs(
                tokenizer, model, texts, settings=settings, progress=False
            ),
            len(texts),
        )
        for _ in range(2)
    ][-1]
    return (
        f"{ours:.0f} texts/s, tokenising counted; the plain recipe {theirs:.0f}, tokenised "
        f"before: {ours / theirs:.2f} times"
    )


def clean() -> None:
    """Give back the memory of the model before, and count the peak anew."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


# --- how long is a run, and does it learn? ---


def full_run(folder: str, train: pd.DataFrame, val: pd.DataFrame, args: argparse.Namespace) -> None:
    """Time the profile `large` from the table to the validation probabilities, random weights in
    place of the hub's."""
    for kernel in ("fused", "model"):
        clean()
        config = Config.load(
            "large",
            {
                "training.backbone": folder,
                "training.attention_kernel": kernel,
                "tracking.backend": "none",
            },
        )
        config = config.model_copy(
            update={"training": config.training.model_copy(update={"patience": 1_000})}
        )  # to the end: random weights hardly learn
        started = time.perf_counter()
        result = finetune.train(
            train,
            val,
            config=config,
            ws=Workspace(dataset="bench", run=f"full-{kernel}"),
            progress=False,
        )
        minutes = (time.perf_counter() - started) / 60
        facts, every = result.facts, config.training.eval_steps
        told = (
            f"{facts['steps']:,} steps of {len(train):,} texts, {len(val):,} scored every "
            f"{every} steps: {minutes:.2f} minutes from table to probabilities, "
        )
        told += (
            f"{facts['texts_per_second']:.0f} texts/s, {peak_bytes() / 2**30:.1f} GiB at "
            f"most. {'; '.join(facts['messages'])}"
        )
        tell(args.out, f"\n## Five epochs, {kernel} attention\n\n{told}")


def learning(train: pd.DataFrame, test: pd.DataFrame, args: argparse.Namespace) -> None:
    """Compare macro F1 of a small model on held-out texts: from scratch, with fused attention,
    pretrained on the training texts first."""
    shape = "tiny" if args.shapes == ["tiny"] else "small"
    folder = checkpoint(
        shape, train["text"].tolist(), Path(os.environ["WORKBOOK_HOME"]) / "learner"
    )
    ways = {
        "from scratch": {},
        "fused attention": {"attention_kernel": "fused"},
        "pretrained on the texts": {"pretraining_epochs": args.pretraining_epochs},
    }
    y = pd.Categorical(test["label"], categories=sorted(train["label"].unique())).codes.astype(int)
    predicted: dict[str, list[np.ndarray]] = {way: [] for way in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for seed in range(args.seeds):
        for way, settings in ways.items():
            recipe = {
                "backbone": folder,
                "learning_rate": 5e-4,
                "epochs": 10,
                "unfreeze": (),
                **settings,
            }
            config, place = (
                Config(
                    profile="bench",
                    seed=seed,
                    training=TrainingConfig(**recipe),
                    tracking=NO_TRACKING,
                ),
                Workspace("bench", f"learn-{seed}"),
            )
            started = time.perf_counter()
            result = finetune.train(train, test, config=config, ws=place, progress=False)
            seconds[way] += (time.perf_counter() - started) / args.seeds
            predicted[way].append(result.val_probs.argmax(axis=1))
    tell(
        args.out,
        f"\n## Does it learn? ({len(train):,} texts, {len(test):,} held out, which also stop the "
        f"training; {args.seeds} seeds)\n",
    )
    tell(
        args.out,
        "| way | macro F1 | minus that from scratch | seconds a training |\n|---|---|---|---|",
    )
    for way, each in predicted.items():
        gain = (
            ""
            if way == "from scratch"
            else str(gain_over_seeds(y, np.stack(predicted["from scratch"]), np.stack(each)))
        )
        tell(
            args.out,
            f"| {way} | {np.mean([macro_f1(y, one) for one in each]):.3f} | {gain} | "
            f"{seconds[way]:.0f} |",
        )


if __name__ == "__main__":
    main()
