"""What one GPU makes of a fine-tuning run: the kernels against the model's own code, and our recipe, step by step, against a plain one.

`python benchmarks/gpu.py --out gpu.md`, with `--full` for the whole run of five epochs, with `--texts texts.parquet` (columns
`text` and `label`) for accuracy. Weights are random, texts too but for their lengths: speed depends on neither. It needs
torch, transformers, accelerate, numpy, pandas and scikit-learn; disentangled-flash where the fused kernel is to be measured.
"""

import argparse
import datetime
import functools
import importlib.metadata
import importlib.util
import math
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, DebertaV2Config, Trainer, TrainerCallback, TrainingArguments, set_seed

_spec = importlib.util.spec_from_file_location("kernels", Path(__file__).resolve().parents[1] / "lib" / "training" / "finetune" / "kernels.py")
kernels = importlib.util.module_from_spec(_spec)  # by its path: the package around it imports what this machine may lack
_spec.loader.exec_module(kernels)

SHAPES = {  # hidden size, layers, heads, vocabulary; the feed-forward layer is four times as wide
    "base": (768, 12, 12, 128_100),  # microsoft/deberta-v3-base
    "large": (1024, 24, 16, 128_100),  # microsoft/deberta-v3-large
    "small": (256, 4, 4, 16_000),  # learns from scratch, for --texts
    "tiny": (64, 2, 2, 1_000),  # for a trial on a CPU
}
N_TEXTS, MAX_LENGTH, BATCH, N_CLASSES = 14_000, 256, 32, 5
LENGTH_LOG_MEAN, LENGTH_LOG_SD = 4.644, 1.176  # fitted to tokens of documentation texts: 5 % have up to 17, 25 % 40, half 99, 75 % 235, 90 % 500
MEGABATCH = 50  # batches that are sorted by length together, as HF's LengthGroupedSampler has it
ROUNDED_TO = 8  # padded lengths are multiples of it: what tensor cores like, and few shapes


@dataclass(frozen=True)
class Step:
    """One step of the stack: the plain recipe with these changes."""

    name: str
    plain: bool = False
    grouped: bool = True
    fused: bool = False
    compiled: bool = False


STACK = (
    Step("plain recipe", plain=True, grouped=False),
    Step("bf16, fused AdamW, no checkpointing", grouped=False),
    Step("+ batches of like length, padded to their longest"),
    Step("+ fused attention", fused=True),
    Step("+ torch.compile", fused=True, compiled=True),
    Step("torch.compile without fused attention", compiled=True),
)


@dataclass(frozen=True)
class Speed:
    seconds: float
    n_texts: int
    n_tokens: int  # real ones, without padding
    peak_bytes: int
    remarks: list[str] = field(default_factory=list)


def main() -> None:
    args = arguments()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"no GPU is visible to torch {torch.__version__}: this benchmark measures one")
    tell = functools.partial(write, args.out)
    args.out.write_text("")
    tell(machine(args.device))
    shapes = [args.shape] if args.shape else ["base", "large"]
    tell("\n## Is the fused kernel right?\n\nDistance to the eager code in float32, relative to the norm; the worst of all gradients.\n")
    tell("| shape | computed in | fused: logits | fused: gradients | eager: logits | eager: gradients |\n|---|---|---|---|---|---|")
    for shape in shapes:
        tell(correctness(shape, args))
    for shape in shapes:
        speeds = speed_table(shape, args, tell)
        if args.full and speeds and shape == shapes[-1]:
            best = max((step for step in speeds if not step.plain), key=lambda step: speeds[step].n_texts / speeds[step].seconds)
            tell(f"\n## How long is a run of {args.epochs} epochs of the {shape} shape?\n\n{full_run(shape, best, args)}")
    if args.texts:
        tell(f"\n## Does it learn as well?\n\n{accuracy(args)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--shape", choices=SHAPES, help="one shape only; base and large if left out")
    parser.add_argument("--full", action="store_true", help="also time five epochs of the last shape with the fastest step")
    parser.add_argument("--texts", type=Path, help="Parquet file with text and label: accuracy of a small model from scratch")
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each row")
    for name, kind, default in (("--device", str, "cuda"), ("--backend", str, None), ("--n-texts", int, N_TEXTS), ("--epochs", int, 5)):
        parser.add_argument(name, type=kind, default=default, help=argparse.SUPPRESS)  # for a trial on a CPU
    return parser.parse_args()


def write(path: Path, text: str) -> None:
    print(text, flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")


def machine(device: str) -> str:
    driver = "none"
    if device == "cuda":
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    versions = {name: _version(name) for name in ("torch", "transformers", "triton", "disentangled-flash")}
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return f"{datetime.date.today()}; {name}; driver {driver}; CUDA {torch.version.cuda}; " + ", ".join(f"{k} {v}" for k, v in versions.items())


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# --- models and texts ---


def build(shape: str, device: str, *, n_classes: int = N_CLASSES) -> torch.nn.Module:
    """Return a classifier of a DeBERTa-v3's shape, its weights drawn with the same seed each time."""
    hidden, n_layers, n_heads, vocab_size = SHAPES[shape]
    set_seed(42)
    config = DebertaV2Config(
        vocab_size=vocab_size,
        hidden_size=hidden,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        intermediate_size=4 * hidden,
        relative_attention=True,
        max_relative_positions=-1,
        position_buckets=256,
        pos_att_type=["p2c", "c2p"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
        pooler_dropout=0,
        pooler_hidden_act="gelu",
        num_labels=n_classes,
    )
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).to(device)


def random_texts(n: int, vocab_size: int) -> list[np.ndarray]:
    """Return token ids of texts with the lengths of documentation texts."""
    rng = np.random.default_rng(42)
    lengths = np.exp(rng.normal(LENGTH_LOG_MEAN, LENGTH_LOG_SD, n)).round().clip(3, MAX_LENGTH).astype(int)
    return [rng.integers(4, vocab_size, length) for length in lengths]


def batches(lengths: np.ndarray, *, grouped: bool, seed: int) -> list[np.ndarray]:
    """Return the rows of each batch of an epoch, in random order; grouped: of like length within 50 batches."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    if grouped:
        stretches = [order[start : start + MEGABATCH * BATCH] for start in range(0, len(order), MEGABATCH * BATCH)]
        order = np.concatenate([rows[np.argsort(-lengths[rows], kind="stable")] for rows in stretches])
    found = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [found[i] for i in rng.permutation(len(found))]


def padded(texts: list[np.ndarray], *, length: int, device: str) -> dict[str, torch.Tensor]:
    ids, mask = np.zeros((2, len(texts), length), dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if device == "cuda":
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


def padded_length(longest: int) -> int:
    return min(MAX_LENGTH, math.ceil(longest / ROUNDED_TO) * ROUNDED_TO)


# --- (a) is it right? ---


def correctness(shape: str, args: argparse.Namespace) -> str:
    """Return table rows: logits and all gradients, fused and eager, against the eager code in float32."""
    model = build(shape, args.device).eval()
    with torch.no_grad():  # fresh weights attend almost evenly, which would hide a wrong score
        for layer in model.deberta.encoder.layer:
            layer.attention.self.query_proj.weight.mul_(3)
            layer.attention.self.key_proj.weight.mul_(3)
    rng = np.random.default_rng(7)
    texts = [rng.integers(4, SHAPES[shape][3], length) for length in (256, 255, 161, 128, 77, 33, 8, 3)]
    batch = padded(texts, length=MAX_LENGTH, device=args.device)
    exact = outputs(model, batch, None)
    eager = {kind: distances(outputs(model, batch, kind), exact) for kind in (None, torch.bfloat16)}
    line = kernels.use_fused_attention(model, backend=args.backend)
    rows = []
    for kind, (logits, gradients) in eager.items():
        fused = distances(outputs(model, batch, kind), exact)
        rows.append(f"| {shape} | {'bf16' if kind else 'fp32'} | {fused[0]:.1e} | {fused[1]:.1e} | {logits:.1e} | {gradients:.1e} |")
    return "\n".join([*rows, f"| | {line} | | | | |"])


def outputs(model: torch.nn.Module, batch: dict[str, torch.Tensor], kind: torch.dtype | None) -> list[torch.Tensor]:
    model.zero_grad()
    with torch.autocast(model.device.type, dtype=kind, enabled=kind is not None):
        logits = model(**batch).logits.float()
    logits.sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def distances(found: list[torch.Tensor], exact: list[torch.Tensor]) -> tuple[float, float]:
    gaps = [float((a - b).norm() / b.norm()) for a, b in zip(found, exact) if b.norm() > 0]
    return gaps[0], max(gaps[1:])


# --- (b) how fast? ---


def speed_table(shape: str, args: argparse.Namespace, tell: functools.partial) -> dict[Step, Speed]:
    """Measure and tell each step of the stack; return those that fitted into memory."""
    texts = random_texts(args.n_texts, SHAPES[shape][3])
    squares, peak = np.square([len(text) for text in texts], dtype=float), kernels.peak_flops(args.device)
    cost = kernels.flops_per_token(build(shape, "cpu").config, n_tokens=squares.sum() / np.sqrt(squares).sum())
    tell(f"\n## How fast is the {shape} shape?\n\nBatches of {BATCH} texts of up to {MAX_LENGTH} tokens; {args.steps} steps.\n")
    tell("| step | texts/s | of plain | real tokens/s | MFU | peak memory, GiB |\n|---|---|---|---|---|---|")
    speeds: dict[Step, Speed] = {}
    for step in STACK:
        try:
            speed = plain_speed(shape, texts, args) if step.plain else our_speed(shape, step, texts, args)
        except torch.cuda.OutOfMemoryError:
            tell(f"| {step.name} | out of memory | | | | |")
            continue
        finally:
            if args.device == "cuda":
                torch.cuda.empty_cache()
        speeds[step] = speed
        rate, tokens = speed.n_texts / speed.seconds, speed.n_tokens / speed.seconds
        plain = speeds.get(STACK[0])
        ratio = f"{rate * plain.seconds / plain.n_texts:.2f}x" if plain else "-"
        mfu = f"{cost * tokens / peak:.1%}" if peak else "-"
        tell(f"| {step.name} | {rate:.1f} | {ratio} | {tokens:.0f} | {mfu} | {speed.peak_bytes / 2**30:.1f} |")
    tell("\n" + "\n".join(f"- {step.name}: {remark}" for step, speed in speeds.items() for remark in speed.remarks))
    return speeds


def plain_speed(shape: str, texts: list[np.ndarray], args: argparse.Namespace) -> Speed:
    """Time HF's Trainer as one would set it up: all texts padded to 256, fp16, gradient checkpointing, torch's AdamW."""
    n_warm = max(2, args.steps // 4)
    rows = [{**{k: v[0] for k, v in padded([text], length=MAX_LENGTH, device="cpu").items()}, "labels": i % N_CLASSES} for i, text in enumerate(texts)]
    clock = Clock(n_warm, args.device)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=n_warm + args.steps,
            per_device_train_batch_size=BATCH,
            learning_rate=3e-5,
            weight_decay=0.01,
            optim="adamw_torch",
            fp16=True,
            gradient_checkpointing=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=args.device == "cpu",
        )
        Trainer(build(shape, args.device), settings, train_dataset=rows, callbacks=[clock]).train()
    share = args.steps * BATCH / len(texts)  # its batches are drawn at random: their tokens are those of as many average texts
    return Speed(clock.seconds, args.steps * BATCH, round(share * sum(map(len, texts))), _peak(args.device))


class Clock(TrainerCallback):
    """Times the steps after the first ones."""

    def __init__(self, n_warm: int, device: str):
        self.n_warm, self.device, self.seconds = n_warm, device, math.nan

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.n_warm:
            self.started = _now(self.device, reset=True)

    def on_train_end(self, args, state, control, **_):
        self.seconds = _now(self.device) - self.started


def our_speed(shape: str, step: Step, texts: list[np.ndarray], args: argparse.Namespace) -> Speed:
    """Time batches that stand for an epoch's: evenly chosen from all, ordered by length, then shuffled."""
    model, remarks = prepared(shape, step, args)
    train = trainer_of(model, texts, step, args.device)
    lengths = np.array([len(text) for text in texts])
    epoch = sorted(batches(lengths, grouped=step.grouped, seed=0), key=lambda rows: lengths[rows].sum())
    epoch = [rows for rows in epoch if len(rows) == BATCH]
    timed = [epoch[i] for i in np.linspace(0, len(epoch) - 1, args.steps).round().astype(int)]
    timed = [timed[i] for i in np.random.default_rng(0).permutation(len(timed))]
    shapes_seen = {padded_length(lengths[rows].max()): rows for rows in epoch}  # each is compiled for, before the clock starts
    for rows in [*shapes_seen.values(), *timed[: max(2, args.steps // 4)]]:
        train(rows)
    started = _now(args.device, reset=True)
    for rows in timed:
        train(rows)
    seconds = _now(args.device) - started
    return Speed(seconds, sum(map(len, timed)), int(sum(lengths[rows].sum() for rows in timed)), _peak(args.device), remarks)


def prepared(shape: str, step: Step, args: argparse.Namespace, *, n_classes: int = N_CLASSES) -> tuple[torch.nn.Module, list[str]]:
    model = build(shape, args.device, n_classes=n_classes).train()
    remarks = [kernels.use_fused_attention(model, backend=args.backend)] if step.fused else []
    model, line = kernels.compile_model(model, wanted=step.compiled)
    return model, [*remarks, line] if step.compiled else remarks


def trainer_of(model, texts, step, device, *, labels=None, rate=3e-5):
    """Return a function that makes one optimiser step on the rows it is given."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    targets = torch.as_tensor(np.arange(len(texts)) % N_CLASSES if labels is None else labels)

    def train(rows: np.ndarray) -> None:
        chosen = [texts[row] for row in rows]
        batch = padded(chosen, length=padded_length(max(map(len, chosen))) if step.grouped else MAX_LENGTH, device=device)
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(**batch, labels=targets[rows].to(device, non_blocking=True)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train


def _now(device: str, *, reset: bool = False) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        if reset:
            torch.cuda.reset_peak_memory_stats()
    return time.perf_counter()


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


# --- (c) how long is a run? (d) does it learn? ---


def full_run(shape: str, step: Step, args: argparse.Namespace) -> str:
    texts = random_texts(args.n_texts, SHAPES[shape][3])
    lengths, started, n_steps = np.array([len(text) for text in texts]), _now(args.device, reset=True), 0
    train = trainer_of(prepared(shape, step, args)[0], texts, step, args.device)
    for epoch in range(args.epochs):
        for rows in batches(lengths, grouped=step.grouped, seed=epoch):
            train(rows)
            n_steps += 1
    minutes = (_now(args.device) - started) / 60
    return f"{n_steps} steps with `{step.name}`: {minutes:.1f} minutes, kernels compiled, {_peak(args.device) / 2**30:.1f} GiB at most."


def accuracy(args: argparse.Namespace) -> str:
    """Return test accuracies of a small model from scratch, with eager and with fused attention: dropout is in both."""
    import pandas as pd
    from sklearn.model_selection import train_test_split

    table = pd.read_parquet(args.texts)
    labels, names = pd.factorize(table["label"], sort=True)
    shape = args.shape if args.device == "cpu" and args.shape else "small"
    words = SHAPES[shape][3]
    texts = [np.array([4 + zlib.crc32(word.encode()) % (words - 4) for word in str(text).lower().split()[:MAX_LENGTH]] or [3]) for text in table["text"]]
    learn, test = train_test_split(np.arange(len(texts)), test_size=0.2, stratify=labels, random_state=42)
    lengths, lines = np.array([len(text) for text in texts]), []
    for step in (STACK[2], STACK[3]):
        model, remarks = prepared(shape, step, args, n_classes=len(names))
        train = trainer_of(model, texts, step, args.device, labels=labels, rate=3e-4)
        for epoch in range(args.epochs):
            for rows in batches(lengths[learn], grouped=True, seed=epoch):
                train(learn[rows])
        model.eval()
        with torch.inference_mode():
            guesses = [model(**padded([texts[i]], length=lengths[i], device=args.device)).logits.argmax().item() for i in test]
        lines.append(f"- {'fused' if step.fused else 'eager'}: {np.mean(guesses == labels[test]):.3f} of {len(test)} test texts {' '.join(remarks)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
