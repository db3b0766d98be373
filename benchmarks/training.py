"""Fine-tuning against the plain recipe, in one process on a CPU: `make bench-training`.

The plain recipe is HF's Trainer with every text padded to 256 tokens, batches of 32, gradient checkpointing, float32 (fp16 is
ignored on a CPU). Ours is `lib.training.finetune` at the same length, batch, rate, epochs and dropout: nothing frozen, nothing
cut, so that the quality has to be the same. Prints Markdown; ratios hold on a busy machine, absolute times do not.

    python benchmarks/training.py speed            # training and inference, MiniLM and a six-layer DeBERTa-v3 (some 15 minutes)
    python benchmarks/training.py equal            # the same epochs on 2,000 texts, three seeds: is the score the same? (an hour)
    python benchmarks/training.py quality          # the same CPU seconds (a busy machine does no harm): MiniLM by us, by the plain recipe, SetFit-style; TF-IDF
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import newsgroups
import numpy as np
import pandas as pd
import torch
import transformers

from lib.config import Config, TrackingConfig, TrainingConfig
from lib.data import cleaning, sources
from lib.evaluation.metrics import accuracy, macro_f1
from lib.evaluation.significance import gain_over_seeds
from lib.training import backbones, baseline, finetune
from lib.training.finetune import encoding, heads, kernels, machine, run
from lib.training.finetune.arguments import training_arguments
from lib.workspace import Workspace

MAX_LENGTH, BATCH, RATE = 256, 32, 1e-4
Rows = tuple[pd.DataFrame, pd.DataFrame]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "equal", "quality"])
    parser.add_argument("--seconds", type=float, default=120, help="of the processor, all threads together: training time of each model in `quality`")
    parser.add_argument("--steps", type=int, default=8, help="training steps timed in `speed`")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="workbook-bench-") as folder:
        os.environ["WORKBOOK_HOME"] = folder
        print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
        if options.what == "speed":
            speed(steps=options.steps)
        elif options.what == "equal":
            equal(n_seeds=options.seeds)
        else:
            quality(seconds=options.seconds, n_seeds=options.seeds)


# --- speed ---


def speed(*, steps: int) -> None:
    texts = docstrings()[0]["text"].tolist()[:2_000]
    print("| model | | plain | ours | ratio |\n|---|---|---|---|---|")
    for name, load in (("MiniLM", load_minilm), ("six-layer DeBERTa-v3", load_small_deberta)):
        tokenizer, model = load()
        by_length = sorted(texts, key=len)  # every k-th of them: few texts with the lengths of all
        chosen = [by_length[i] for i in np.random.default_rng(0).permutation(np.linspace(0, len(texts) - 1, steps * BATCH).astype(int))]
        rates = {  # the plain recipe first: what machine.prepare_torch does to the allocator would help it too
            "training": [plain_training_rate(tokenizer, model, chosen)],
            "inference": [plain_inference_rate(tokenizer, model, chosen)],
        }
        machine.prepare_torch(TrainingConfig())
        rates["training"].append(our_training_rate(load, chosen, steps))
        rates["inference"].append(our_inference_rate(tokenizer, model, chosen))
        for what, (plain, ours) in rates.items():
            print(f"| {name} | {what}, texts/s | {plain:.2f} | {ours:.2f} | {ours / plain:.2f} |", flush=True)


def load_minilm() -> tuple:
    return backbones.load_backbone("minilm", class_names=list("abcde"))


def load_small_deberta() -> tuple:
    """Return a model of the shape of deberta-v3-small (six layers of 768), random weights, MiniLM's tokenizer."""
    tokenizer, _ = load_minilm()
    config = backbones.tiny_deberta_config(len(tokenizer))
    shape = {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072, "pooler_hidden_size": 768, "num_labels": 5}
    config.update(shape)
    torch.manual_seed(0)
    return tokenizer, transformers.AutoModelForSequenceClassification.from_config(config)


def plain_trainer(tokenizer, model, texts: list[str], labels: list[int], *, folder: str, seed: int = 42, **arguments) -> transformers.Trainer:
    encoded = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding="max_length")
    rows = [{**{key: values[i] for key, values in encoded.items()}, "labels": labels[i]} for i in range(len(texts))]
    recipe = {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": 64,
        "learning_rate": RATE,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "activation_checkpointing": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": seed,
    }
    options = transformers.TrainingArguments(**{**recipe, **arguments})
    return transformers.Trainer(model=model, args=options, train_dataset=rows, processing_class=tokenizer, data_collator=transformers.default_data_collator)


def plain_training_rate(tokenizer, model, texts: list[str]) -> float:
    trainer = plain_trainer(tokenizer, model, texts, [0] * len(texts), folder=os.environ["WORKBOOK_HOME"], num_train_epochs=1)
    return timed(trainer.train, len(texts))


def plain_inference_rate(tokenizer, model, texts: list[str]) -> float:
    trainer = plain_trainer(tokenizer, model, texts, [0] * len(texts), folder=os.environ["WORKBOOK_HOME"])
    return timed(lambda: trainer.predict(trainer.train_dataset), len(texts))


def our_training_rate(load: Callable[[], tuple], texts: list[str], steps: int) -> float:
    """Time `RecipeTrainer` as `finetune.train` builds it, without evaluations."""
    tokenizer, model = load()
    settings = same_recipe(epochs=1)
    heads.read_first_token_only(model)
    kernels.use_needed_positions(model)
    pieces = encoding.encode(texts, tokenizer, max_length=MAX_LENGTH)
    y = np.zeros(len(texts), np.int64)
    config = Config(profile="bench", training=settings)
    arguments = training_arguments(config, settings, Path(os.environ["WORKBOOK_HOME"]) / "checkpoints", n_train=len(texts))
    arguments.eval_strategy = arguments.save_strategy = "no"
    arguments.load_best_model_at_end = False
    trainer = run.RecipeTrainer(
        model=model,
        args=arguments,
        settings=settings,
        train_dataset=encoding.Pieces(pieces, y),
        watched=(pieces, y),
        class_weights=torch.ones(5),
        processing_class=tokenizer,
        data_collator=lambda rows: encoding.collate(rows, pad=tokenizer.pad_token_id),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return timed(trainer.train, len(texts))


def our_inference_rate(tokenizer, model, texts: list[str]) -> float:
    heads.read_first_token_only(model)
    kernels.use_needed_positions(model)
    return timed(lambda: finetune.predict_probs(tokenizer, model, texts, max_length=MAX_LENGTH, progress=False), len(texts))


def timed(work: Callable[[], object], n: int) -> float:
    started = time.perf_counter()
    work()
    return n / (time.perf_counter() - started)


def same_recipe(**more) -> TrainingConfig:
    """Return our settings that learn what the plain recipe learns."""
    same = {
        "backbone": "minilm",
        "max_length": MAX_LENGTH,
        "learning_rate": RATE,
        "batch_size": BATCH,
        "unfreeze": (),
        "averaging": "none",
        "eval_steps": 10_000,
    }
    return TrainingConfig(**{**same, **more})


# --- quality ---


def equal(*, n_seeds: int, n_train: int = 2_000) -> None:
    """Train both for one epoch on the same 2,000 texts; compare macro F1 over seeds."""
    train, test = docstrings()
    test = test[:1_000]
    y, classes = codes(train, test)
    predicted: dict[str, list[np.ndarray]] = {"plain": [], "ours": []}
    for seed in range(n_seeds):
        rows = sources.sample_rows(train, n_train, seed=seed)
        # without gradient checkpointing, which costs a quarter of an hour here and changes no weight
        predicted["plain"].append(plain_run(rows, test, classes, seed=seed, num_train_epochs=1, activation_checkpointing=False))
        predicted["ours"].append(our_run(rows, test, same_recipe(epochs=1), seed=seed))
    report("docstrings, one epoch of 2,000 texts", predicted, y, against="plain")


def quality(*, seconds: float, n_seeds: int) -> None:
    sets: dict[str, Rows] = {"docstrings": docstrings()}
    if newsgroups.FILE.exists():
        posts = newsgroups.posts()
        sets["newsgroups by date, bodies"] = posts[posts["split"] == "train"], posts[posts["split"] == "test"]
    else:
        print(newsgroups.MISSING)
    for name, (train, all_of_test) in sets.items():
        test = all_of_test.sample(min(len(all_of_test), 1_000), random_state=0)
        y, classes = codes(train, test)
        found: dict[str, list[np.ndarray]] = {model: [] for model in ("TF-IDF", "plain", "ours", "SetFit-style")}
        for seed in range(n_seeds):
            found["TF-IDF"].append(as_codes(baseline.fit_baseline(train["text"], train["label"], seed=seed).predict(test["text"]), classes))
            found["plain"].append(plain_within(seconds, train, test, classes, seed=seed))
            found["ours"].append(ours_within(seconds, train, test, seed=seed))
            found["SetFit-style"].append(setfit_within(seconds, train, test, classes, seed=seed))
            print(
                f"{name}, seed {seed}: " + ", ".join(f"{model} {macro_f1(y, each[-1], n_classes=len(classes)):.3f}" for model, each in found.items()),
                flush=True,
            )
        report(f"{name}, {seconds:.0f} CPU seconds of training each; TF-IDF takes all {len(train):,} texts", found, y, against="ours")


def plain_run(train: pd.DataFrame, test: pd.DataFrame, classes: list[str], *, seed: int, callbacks: tuple = (), **arguments) -> np.ndarray:
    transformers.set_seed(seed)
    tokenizer, model = backbones.load_backbone("minilm", class_names=classes)
    labels = as_codes(train["label"], classes).tolist()
    trainer = plain_trainer(tokenizer, model, train["text"].tolist(), labels, folder=os.environ["WORKBOOK_HOME"], seed=seed, **arguments)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()
    return finetune.predict_probs(tokenizer, model, test["text"].tolist(), max_length=MAX_LENGTH, progress=False).argmax(axis=1)


def our_run(train: pd.DataFrame, test: pd.DataFrame, settings: TrainingConfig, *, seed: int) -> np.ndarray:
    place = Workspace(dataset="bench", run="ours")
    result = finetune.train(
        train, train.head(40), config=Config(profile="bench", seed=seed, training=settings, tracking=TrackingConfig(backend="none")), run=place, progress=False
    )
    tokenizer, model, _ = finetune.load_model(result.model_dir)
    predicted = finetune.predict_probs(tokenizer, model, test["text"].tolist(), max_length=settings.max_length, progress=False).argmax(axis=1)
    shutil.rmtree(result.model_dir.parent)
    return predicted


def plain_within(seconds: float, train: pd.DataFrame, test: pd.DataFrame, classes: list[str], *, seed: int) -> np.ndarray:
    """Train the plain recipe for as many steps as fit: three are timed first."""
    probe = sources.sample_rows(train, 3 * BATCH, seed=seed)
    started = time.process_time()
    plain_run(probe, probe.head(2), classes, seed=seed, num_train_epochs=1)
    steps = max(1, int(seconds / (time.process_time() - started) * 3))
    rows = sources.sample_rows(train, min(len(train), steps * BATCH), seed=seed)
    return plain_run(rows, test, classes, seed=seed, max_steps=steps)


def ours_within(seconds: float, train: pd.DataFrame, test: pd.DataFrame, *, seed: int) -> np.ndarray:
    """Train as `quick` does (its length, its frozen layers, its rate) for as many texts as fit: 320 are timed first."""
    settings = Config.load("quick").training.model_copy(update={"eval_steps": 10_000, "eval_rows": None, "epochs": 1.0})
    probe, started = sources.sample_rows(train, 320, seed=seed), time.process_time()
    our_run(probe, probe.head(2), settings, seed=seed)
    n = int(seconds / (time.process_time() - started) * 320)
    rows = sources.sample_rows(train, min(len(train), n), seed=seed)
    return our_run(rows, test, settings.model_copy(update={"epochs": float(max(1, round(n / len(rows))))}), seed=seed)


def setfit_within(seconds: float, train: pd.DataFrame, test: pd.DataFrame, classes: list[str], *, seed: int) -> np.ndarray:
    """Contrastive pairs on mean-pooled embeddings, then logistic regression on those of the texts seen (Tunstall et al. 2022)."""
    from sklearn.linear_model import LogisticRegression

    transformers.set_seed(seed)
    random = np.random.default_rng(seed)
    tokenizer, model = backbones.load_backbone("minilm", class_names=classes)
    encoder, length = model.base_model, Config.load("quick").training.max_length
    optimizer, started, used = torch.optim.AdamW(encoder.parameters(), lr=2e-5), time.process_time(), []
    by_class = {label: rows.index.to_numpy() for label, rows in train.groupby("label")}
    encoder.train()
    while time.process_time() - started < 0.75 * seconds:  # the rest is for embedding the texts seen
        labels = random.choice(classes, (16, 2))
        labels[::2, 1] = labels[::2, 0]  # half of the pairs are of one class
        pairs = np.array([[random.choice(by_class[label]) for label in pair] for pair in labels])
        used += pairs.ravel().tolist()
        vectors = embed(encoder, tokenizer, train.loc[pairs.ravel(), "text"].tolist(), length).view(16, 2, -1)
        target = torch.tensor((labels[:, 0] == labels[:, 1]).astype(np.float32))
        (torch.cosine_similarity(vectors[:, 0], vectors[:, 1]) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    encoder.eval()
    seen = train.loc[list(dict.fromkeys(used))]
    head = LogisticRegression(max_iter=1_000).fit(all_embeddings(encoder, tokenizer, seen["text"].tolist(), length), seen["label"])
    return as_codes(head.predict(all_embeddings(encoder, tokenizer, test["text"].tolist(), length)), classes)


def embed(encoder, tokenizer, texts: list[str], length: int) -> torch.Tensor:
    batch = tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
    mask = batch["attention_mask"].unsqueeze(-1)
    return (encoder(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)


@torch.inference_mode()
def all_embeddings(encoder, tokenizer, texts: list[str], length: int) -> np.ndarray:
    order = np.argsort([len(text) for text in texts])
    found = np.zeros((len(texts), encoder.config.hidden_size))
    for start in range(0, len(texts), 32):
        rows = order[start : start + 32]
        found[rows] = embed(encoder, tokenizer, [texts[row] for row in rows], length).numpy()
    return found


def report(title: str, predicted: dict[str, list[np.ndarray]], y: np.ndarray, *, against: str) -> None:
    k = int(y.max()) + 1
    print(f"\n{title} (n = {len(y):,} test texts, {len(predicted[against])} seeds)\n")
    print(f"| model | accuracy | macro F1 | {against} minus it, macro F1 |\n|---|---|---|---|")
    for name, each in predicted.items():
        scores = np.mean([(accuracy(y, one), macro_f1(y, one, n_classes=k)) for one in each], axis=0)
        gain = "" if name == against else str(gain_over_seeds(y, np.stack(each), np.stack(predicted[against])))
        print(f"| {name} | {scores[0]:.3f} | {scores[1]:.3f} | {gain} |", flush=True)


# --- data ---


def docstrings() -> Rows:
    """Return 17,000 and 3,000 rows of the embedded data set, split at random by class."""
    table = sources.raw_table(Config.load("quick"), progress=False)
    return split(table.assign(text=cleaning.clean_texts(table["text"].tolist()).texts), n_test=3_000)


def split(table: pd.DataFrame, *, n_test: int) -> Rows:
    test = sources.sample_rows(table, n_test, seed=0)
    return table[~table["row_id"].isin(test["row_id"])].reset_index(drop=True), test.reset_index(drop=True)


def codes(train: pd.DataFrame, test: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    classes = sorted(train["label"].unique())
    return as_codes(test["label"], classes), classes


def as_codes(labels, classes: list[str]) -> np.ndarray:
    return pd.Categorical(labels, categories=classes).codes.astype(int)


if __name__ == "__main__":
    main()
