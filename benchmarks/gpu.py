"""What one GPU makes of a fine-tuning run: the kernels against the model's own code, and our recipe, step by step, against a plain one.

`python benchmarks/gpu.py --out gpu.md`, with `--full` for a whole run of five epochs, with `--texts texts.parquet` (columns
`text` and `label`) for accuracy. Weights are random, and so are texts but for their lengths: speed depends on neither. It
needs torch, transformers, accelerate and numpy; disentangled-flash for the fused kernel; pandas and scikit-learn for `--texts`.
"""

import argparse
import datetime
import gc
import importlib.metadata
import importlib.util
import math
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, DebertaV2Config, Trainer, TrainerCallback, TrainingArguments, set_seed

_spec = importlib.util.spec_from_file_location("kernels", Path(__file__).resolve().parents[1] / "lib/training/finetune/kernels.py")
kernels = importlib.util.module_from_spec(_spec)  # by its path: the package around it imports what this machine may lack
_spec.loader.exec_module(kernels)

SHAPES = {  # hidden size, layers, heads, vocabulary; the feed-forward layer is four times as wide
    "base": (768, 12, 12, 128_100),  # microsoft/deberta-v3-base
    "large": (1024, 24, 16, 128_100),  # microsoft/deberta-v3-large
    "small": (256, 4, 4, 16_000),  # learns from scratch, for --texts
    "tiny": (64, 2, 2, 1_000),  # for a trial on a CPU
}
V3 = {"relative_attention": True, "max_relative_positions": -1, "position_buckets": 256, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
V3 |= {"norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0, "pooler_dropout": 0, "pooler_hidden_act": "gelu"}
N_TEXTS, MAX_LENGTH, BATCH, N_CLASSES, EPOCHS = 14_000, 256, 32, 5, 5
LENGTH_LOG_MEAN, LENGTH_LOG_SD = 4.644, 1.176  # fitted to tokens of documentation texts: 5 % have up to 17, 25 % 40, half 99, 75 % 235, 90 % 500
MEGABATCH = 50  # batches that are sorted by length together, as HF's LengthGroupedSampler has it
ROUNDED_TO = 8  # padded lengths are multiples of it: what tensor cores like, and few shapes


@dataclass(frozen=True)
class Step:
    """The plain recipe, or ours with these switches."""

    name: str
    grouped: bool = True  # batches of like length, padded to their longest text; else all padded to 256
    fused: bool = False
    compiled: bool = False


PLAIN = Step("plain: HF's Trainer, all padded to 256, fp16, checkpointing, AdamW", grouped=False)
EAGER, FUSED = Step("+ batches of like length, padded to their longest"), Step("+ fused attention", fused=True)
COMPILED = (Step("+ torch.compile", fused=True, compiled=True), Step("torch.compile, without fused attention", compiled=True))
STACK = (PLAIN, Step("bf16, fused AdamW, no checkpointing", grouped=False), EAGER, FUSED, *COMPILED)


@dataclass(frozen=True)
class Speed:
    seconds: float
    n_texts: int
    n_tokens: int  # real ones, without padding
    peak_bytes: int
    remarks: tuple[str, ...] = ()


def main() -> None:
    args = arguments()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit(f"no GPU is visible to torch {torch.__version__}: this benchmark measures one")
    shapes = [args.shape] if args.shape else ["base", "large"]
    tell(args.out, machine(args.device), mode="w")
    tell(args.out, "\n## Is the fused kernel right?\n\nDistance to the eager code in float32, relative to the norm; of gradients the worst of all.\n")
    tell(args.out, "| shape | in | fused logits | fused gradients | eager logits | eager gradients |\n|---|---|---|---|---|---|")
    remarks = [correctness(shape, args) for shape in shapes]
    tell(args.out, "\n".join(["", *remarks]))
    for shape in shapes:
        speeds = speed_table(shape, args)
    if args.full:
        tell(args.out, f"\n## How long is a run of {EPOCHS} epochs of the {shapes[-1]} shape?\n\n{full_run(shapes[-1], speeds, args)}")
    if args.texts:
        tell(args.out, f"\n## Does it learn as well?\n\n{accuracy(args)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--shape", choices=SHAPES, help="one shape only; base and large if left out")
    parser.add_argument("--full", action="store_true", help="also time five epochs of the last shape with the fastest step")
    parser.add_argument("--texts", type=Path, help="Parquet file with text and label: accuracy of a small model from scratch")
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each row")
    for name, kind, default in (("--device", str, "cuda"), ("--backend", str, None), ("--n-texts", int, N_TEXTS)):
        parser.add_argument(name, type=kind, default=default, help=argparse.SUPPRESS)  # for a trial on a CPU
    return parser.parse_args()


def tell(path: Path, text: str, *, mode: str = "a") -> None:
    print(text, flush=True)
    with path.open(mode, encoding="utf-8") as file:
        file.write(text + "\n")


def machine(device: str) -> str:
    def version(name: str) -> str:
        found = [each.version for each in importlib.metadata.distributions(name=name)]
        return f"{name} {found[0] if found else 'not installed'}"

    driver, name = "none", "CPU"
    if device == "cuda":
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver, name = subprocess.run(command, capture_output=True, text=True).stdout.strip(), torch.cuda.get_device_name()
    versions = ", ".join(map(version, ("torch", "transformers", "triton", "disentangled-flash")))
    return f"{datetime.date.today()}; {name}; driver {driver}; CUDA {torch.version.cuda}; {versions}"


# --- models and batches ---


def build(shape: str, device: str, *, n_classes: int = N_CLASSES) -> torch.nn.Module:
    """Return a classifier of a DeBERTa-v3's shape, its weights drawn with the same seed each time."""
    hidden, n_layers, n_heads, vocab_size = SHAPES[shape]
    set_seed(42)
    sizes = {"hidden_size": hidden, "num_hidden_layers": n_layers, "num_attention_heads": n_heads, "intermediate_size": 4 * hidden}
    config = DebertaV2Config(vocab_size=vocab_size, num_labels=n_classes, **sizes, **V3)
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).to(device)


def random_texts(shape: str, n: int) -> list[np.ndarray]:
    """Return token ids of texts that are as long as documentation texts."""
    rng = np.random.default_rng(42)
    lengths = np.exp(rng.normal(LENGTH_LOG_MEAN, LENGTH_LOG_SD, n)).round().clip(3, MAX_LENGTH).astype(int)
    return [rng.integers(4, SHAPES[shape][3], length) for length in lengths]


def batches(lengths: np.ndarray, *, grouped: bool, seed: int) -> list[np.ndarray]:
    """Return the rows of each batch of an epoch, in random order; grouped: of like length within 50 batches."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    if grouped:
        stretches = [order[start : start + MEGABATCH * BATCH] for start in range(0, len(order), MEGABATCH * BATCH)]
        order = np.concatenate([rows[np.argsort(-lengths[rows], kind="stable")] for rows in stretches])
    found = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [found[i] for i in rng.permutation(len(found))]


def padded(texts: list[np.ndarray], *, device: str, length: int | None = None) -> dict[str, torch.Tensor]:
    length = length or padded_length(max(map(len, texts)))
    ids, mask = np.zeros((2, len(texts), length), dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
    tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    return {name: (tensor.pin_memory() if device == "cuda" else tensor).to(device, non_blocking=True) for name, tensor in tensors.items()}


def padded_length(longest: int) -> int:
    return min(MAX_LENGTH, math.ceil(longest / ROUNDED_TO) * ROUNDED_TO)


# --- is it right? ---


def correctness(shape: str, args: argparse.Namespace) -> str:
    """Tell a row for float32 and one for bfloat16, of logits and all gradients; return the kernel's own remark."""
    model = build(shape, args.device).eval()
    with torch.no_grad():  # fresh weights attend almost evenly, which would hide a wrong score
        for layer in model.deberta.encoder.layer:
            layer.attention.self.query_proj.weight.mul_(3)
            layer.attention.self.key_proj.weight.mul_(3)
    rng = np.random.default_rng(7)
    texts = [rng.integers(4, SHAPES[shape][3], length) for length in (256, 255, 161, 128, 77, 33, 8, 3)]
    batch = padded(texts, device=args.device)
    exact = outputs(model, batch, None)
    eager = {kind: distances(outputs(model, batch, kind), exact) for kind in (None, torch.bfloat16)}
    remark = kernels.use_fused_attention(model, backend=args.backend)
    for kind, found in eager.items():
        gaps = [f"{gap:.1e}" for gap in (*distances(outputs(model, batch, kind), exact), *found)]
        tell(args.out, f"| {shape} | {'bf16' if kind else 'fp32'} | {' | '.join(gaps)} |")
    return f"- {shape}: {remark}"


def outputs(model: torch.nn.Module, batch: dict[str, torch.Tensor], kind: torch.dtype | None) -> list[torch.Tensor]:
    model.zero_grad()
    with torch.autocast(model.device.type, dtype=kind, enabled=kind is not None):
        logits = model(**batch).logits.float()
    logits.sum().backward()
    return [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def distances(found: list[torch.Tensor], exact: list[torch.Tensor]) -> tuple[float, float]:
    gaps = [float((a - b).norm() / b.norm()) for a, b in zip(found, exact) if b.norm() > 0]
    return gaps[0], float(np.max(gaps[1:]))


# --- how fast? ---


def speed_table(shape: str, args: argparse.Namespace) -> dict[Step, Speed]:
    """Tell the speed of each step of the stack; return those that fitted into memory."""
    texts = random_texts(shape, args.n_texts)
    lengths, peak = np.array([len(text) for text in texts]), kernels.peak_flops(args.device)
    cost = kernels.flops_per_token(build(shape, "cpu").config, n_tokens=np.square(lengths).sum() / lengths.sum())
    tell(args.out, f"\n## How fast is the {shape} shape?\n\nBatches of {BATCH} texts of up to {MAX_LENGTH} tokens; {args.steps} steps.\n")
    tell(args.out, "| step | texts/s | of plain | real tokens/s | MFU | peak memory, GiB |\n|---|---|---|---|---|---|")
    speeds: dict[Step, Speed] = {}
    for step in STACK:
        try:
            speeds[step] = speed = plain_speed(shape, texts, args) if step is PLAIN else our_speed(shape, step, texts, args)
        except torch.cuda.OutOfMemoryError:
            tell(args.out, f"| {step.name} | out of memory | | | | |")
            continue
        rate, plain = speed.n_texts / speed.seconds, speeds.get(PLAIN)
        ratio = f"{rate * plain.seconds / plain.n_texts:.2f}x" if plain else "-"
        mfu = f"{cost * speed.n_tokens / speed.seconds / peak:.1%}" if peak else "-"
        tell(args.out, f"| {step.name} | {rate:.1f} | {ratio} | {speed.n_tokens / speed.seconds:.0f} | {mfu} | {speed.peak_bytes / 2**30:.1f} |")
    tell(args.out, "\n" + "\n".join(f"- {step.name}: {remark}" for step, speed in speeds.items() for remark in speed.remarks))
    return speeds


def plain_speed(shape: str, texts: list[np.ndarray], args: argparse.Namespace) -> Speed:
    """Time HF's Trainer with the settings of a plain recipe."""
    clean(args.device)
    rows = [{**{k: v[0] for k, v in padded([text], device="cpu", length=MAX_LENGTH).items()}, "labels": i % N_CLASSES} for i, text in enumerate(texts)]
    clock, quiet = Clock(max(2, args.steps // 4), args.device), {"save_strategy": "no", "logging_strategy": "no", "report_to": "none", "disable_tqdm": True}
    recipe = {"learning_rate": 3e-5, "weight_decay": 0.01, "optim": "adamw_torch", "fp16": True, "gradient_checkpointing": True}
    amount = {"per_device_train_batch_size": BATCH, "max_steps": clock.n_warm + args.steps, "use_cpu": args.device == "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(output_dir=folder, **amount, **recipe, **quiet)
        Trainer(build(shape, args.device), settings, train_dataset=rows, callbacks=[clock]).train()
    n_texts = args.steps * BATCH  # drawn at random: their tokens are those of as many average texts
    return Speed(clock.seconds, n_texts, round(n_texts * np.mean([len(text) for text in texts])), peak_bytes(args.device))


class Clock(TrainerCallback):
    """Times the steps after the first ones."""

    def __init__(self, n_warm: int, device: str):
        self.n_warm, self.device, self.seconds = n_warm, device, math.nan

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.n_warm:
            self.started = now(self.device)

    def on_train_end(self, args, state, control, **_):
        self.seconds = now(self.device) - self.started


def our_speed(shape: str, step: Step, texts: list[np.ndarray], args: argparse.Namespace) -> Speed:
    """Time batches that stand for an epoch's: evenly chosen from all, ordered by their tokens, then shuffled."""
    recipe, lengths = Recipe(shape, step, args), np.array([len(text) for text in texts])
    epoch = sorted(batches(lengths, grouped=step.grouped, seed=0), key=lambda rows: lengths[rows].sum())
    timed = [epoch[i] for i in np.random.default_rng(0).permutation(np.linspace(0, len(epoch) - 1, args.steps).round().astype(int))]
    of_each_shape = {(len(rows), padded_length(lengths[rows].max())): rows for rows in epoch}  # kernels are compiled before the clock starts
    for rows in [*of_each_shape.values(), *timed[: max(2, args.steps // 4)]]:
        recipe.train([texts[row] for row in rows], rows % N_CLASSES)
    started = now(args.device)
    for rows in timed:
        recipe.train([texts[row] for row in rows], rows % N_CLASSES)
    seconds, n_tokens = now(args.device) - started, sum(lengths[rows].sum() for rows in timed)
    return Speed(seconds, sum(map(len, timed)), int(n_tokens), peak_bytes(args.device), recipe.remarks)


class Recipe:
    """A model with a step's switches, and one optimiser step of it."""

    def __init__(self, shape: str, step: Step, args: argparse.Namespace, *, n_classes: int = N_CLASSES, learning_rate: float = 3e-5):
        clean(args.device)
        self.device, self.step, self.model = args.device, step, build(shape, args.device, n_classes=n_classes).train()
        self.remarks = (kernels.use_fused_attention(self.model, backend=args.backend),) if step.fused else ()
        if step.compiled:
            self.remarks += (kernels.compile_model(self.model, wanted=True)[1],)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=learning_rate, weight_decay=0.01, fused=True)

    def train(self, texts: list[np.ndarray], labels: np.ndarray) -> None:
        batch = padded(texts, device=self.device, length=None if self.step.grouped else MAX_LENGTH)
        with torch.autocast(self.device, dtype=torch.bfloat16):
            loss = self.model(**batch, labels=torch.as_tensor(labels).to(self.device, non_blocking=True)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def clean(device: str) -> None:
    """Give back the memory of the model before, and count the peak anew."""
    gc.collect()
    torch.compiler.reset()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


# --- how long is a run, and does it learn? ---


def full_run(shape: str, speeds: dict[Step, Speed], args: argparse.Namespace) -> str:
    """Run all epochs with the fastest step; return its time, building and compiling included."""
    step = max((step for step in speeds if step is not PLAIN), key=lambda step: speeds[step].n_texts / speeds[step].seconds)
    texts, n_steps = random_texts(shape, args.n_texts), 0
    started, lengths = now(args.device), np.array([len(text) for text in texts])
    recipe = Recipe(shape, step, args)
    for epoch in range(EPOCHS):
        for rows in batches(lengths, grouped=step.grouped, seed=epoch):
            recipe.train([texts[row] for row in rows], rows % N_CLASSES)
            n_steps += 1
    minutes = (now(args.device) - started) / 60
    return f"{n_steps} steps of `{step.name}`: {minutes:.1f} minutes, {peak_bytes(args.device) / 2**30:.1f} GiB at most."


def accuracy(args: argparse.Namespace) -> str:
    """Return test accuracies of a small model from scratch, its words hashed, with eager and with fused attention; both drop out."""
    import pandas as pd
    from sklearn.model_selection import train_test_split

    table, shape = pd.read_parquet(args.texts), "tiny" if args.shape == "tiny" else "small"
    labels, names = pd.factorize(table["label"], sort=True)
    words = [str(text).lower().split()[:MAX_LENGTH] or [""] for text in table["text"]]
    texts = [np.array([4 + zlib.crc32(word.encode()) % (SHAPES[shape][3] - 4) for word in text]) for text in words]
    lengths, lines = np.array([len(text) for text in texts]), []
    learn, test = train_test_split(np.arange(len(texts)), test_size=0.2, stratify=labels, random_state=42)
    for step in (EAGER, FUSED):
        recipe = Recipe(shape, step, args, n_classes=len(names), learning_rate=3e-4)
        for epoch in range(EPOCHS):
            for rows in (learn[chosen] for chosen in batches(lengths[learn], grouped=True, seed=epoch)):
                recipe.train([texts[row] for row in rows], labels[rows])
        right, model = 0, recipe.model.eval()
        for rows in (test[chosen] for chosen in batches(lengths[test], grouped=True, seed=0)):
            with torch.inference_mode():
                logits = model(**padded([texts[row] for row in rows], device=args.device)).logits
            right += int((logits.argmax(-1).cpu().numpy() == labels[rows]).sum())
        lines.append(f"- {'fused' if step.fused else 'eager'}: {right / len(test):.3f} of {len(test)} texts. {' '.join(recipe.remarks)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
