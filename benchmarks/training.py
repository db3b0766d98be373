"""Fine-tuning against the plain recipe, in one process on a CPU: `make bench-training`.

The plain recipe is HF's Trainer with every text padded to 256 tokens, batches of 32, gradient
checkpointing, float32 (fp16 is
ignored on a CPU). Ours is `lib.training.finetune` at the same length, batch, rate, epochs and
dropout: nothing frozen, nothing
cut, so that the quality has to be the same. Prints Markdown; ratios hold on a busy machine,
absolute times do not.

    python benchmarks/training.py speed            # training and inference, MiniLM and a six-layer
    DeBERTa-v3 (some 15 minutes)
    python benchmarks/training.py equal            # the same epochs on 2,000 texts, three seeds: is
    the score the same? (an hour)
    python benchmarks/training.py quality          # the same CPU seconds (a busy machine does no
    harm): MiniLM by us, by the plain recipe, SetFit-style; TF-IDF
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import newsgroups
import numpy as np
import pandas as pd
import plain
import torch
import transformers

from lib.config import Config, TrackingConfig, TrainingConfig
from lib.data import cleaning, sources
from lib.evaluation.metrics import accuracy, macro_f1
from lib.evaluation.significance import gain_over_seeds
from lib.training import backbones, baseline, finetune, local_deberta
from lib.training.finetune import building, devices, heads, kernels
from lib.training.finetune.job import TrainingJob
from lib.workspace import Workspace

BACKBONES = ("MiniLM", "six-layer DeBERTa-v3")
Rows = tuple[pd.DataFrame, pd.DataFrame]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["speed", "equal", "quality"])
    parser.add_argument(
        "--seconds",
        type=float,
        default=120,
        help="of the processor, all threads together: training time of each model in `quality`",
    )
    parser.add_argument("--steps", type=int, default=8, help="training steps timed in `speed`")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--models",
        nargs="+",
        choices=BACKBONES,
        default=list(BACKBONES),
        help="of `speed` and `equal`",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="workbook-bench-") as folder:
        os.environ["WORKBOOK_HOME"] = folder
        print(
            f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} "
            "threads\n"
        )
        if options.what == "speed":
            speed(options.models, steps=options.steps)
        elif options.what == "equal":
            equal(options.models, n_seeds=options.seeds)
        else:
            quality(seconds=options.seconds, n_seeds=options.seeds)


# --- speed ---


def speed(models: list[str], *, steps: int) -> None:
    """Time both recipes, each model in a process of its own: `devices.prepare_torch` sets the
    allocator for all that follows."""
    print("| model | | plain | ours | ratio |\n|---|---|---|---|---|", flush=True)
    for name in models:
        with ProcessPoolExecutor(
            max_workers=1, mp_context=multiprocessing.get_context("spawn")
        ) as process:
            for what, theirs, ours in process.submit(rates, name, steps=steps).result():
                print(
                    f"| {name} | {what}, texts/s | {theirs:.2f} | {ours:.2f} | "
                    f"{ours / theirs:.2f} |",
                    flush=True,
                )


def rates(name: str, *, steps: int) -> list[tuple[str, float, float]]:
    """Return texts a second of the plain recipe, which goes first, and of ours; predictions before
    a training and after it."""
    table = docstrings()[0][:2_000]
    by_length = table.iloc[
        table["text"].str.len().argsort(kind="stable")
    ]  # every k-th of them: few texts with the lengths of all
    rows = by_length.iloc[
        np.random.default_rng(0).permutation(
            np.linspace(0, len(table) - 1, steps * plain.BATCH).astype(int)
        )
    ].reset_index(drop=True)
    timed = ("inference", "training", "inference after a training")
    theirs = [
        plain_inference_rate(name, rows),
        plain_training_rate(name, rows),
        plain_inference_rate(name, rows),
    ]
    ours = [
        our_inference_rate(name, rows),
        our_training_rate(name, rows),
        our_inference_rate(name, rows),
    ]
    return list(zip(timed, theirs, ours))


def backbone(name: str) -> str:
    """Return what `load_backbone` takes; the DeBERTa is made first: the shape of deberta-v3-small,
    random weights, MiniLM's tokenizer."""
    if name == "MiniLM":
        return "minilm"
    folder = Path(os.environ["WORKBOOK_HOME"]) / "small-deberta"
    if not folder.exists():
        tokenizer = backbones.load_tokenizer("minilm")
        shape = {
            "hidden_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        }
        torch.manual_seed(0)
        transformers.AutoModel.from_config(
            local_deberta.config(len(tokenizer), **shape)
        ).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def plain_training_rate(name: str, rows: pd.DataFrame) -> float:
    tokenizer, model = backbones.load_backbone(
        backbone(name), class_names=sorted(rows["label"].unique())
    )
    trainer = plain.trainer(
        tokenizer, model, rows["text"].tolist(), [0] * len(rows), num_train_epochs=1
    )
    return plain.rate(trainer.train, len(rows))


def plain_inference_rate(name: str, rows: pd.DataFrame) -> float:
    tokenizer, model = backbones.load_backbone(
        backbone(name), class_names=sorted(rows["label"].unique())
    )
    trainer = plain.trainer(tokenizer, model, rows["text"].tolist(), [0] * len(rows))
    return plain.rate(lambda: trainer.predict(trainer.train_dataset), len(rows))


def our_training_rate(name: str, rows: pd.DataFrame) -> float:
    """Time the trainer that `finetune.train` trains with, without evaluations and callbacks."""
    settings = same_recipe(name, epochs=1)
    config = Config(profile="bench", training=settings)
    job = TrainingJob(rows, rows, config, Workspace(dataset="bench", run="speed"))
    trainer = building.build_trainer(job)
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.load_best_model_at_end = False
    return plain.rate(trainer.train, len(rows))


def our_inference_rate(name: str, rows: pd.DataFrame) -> float:
    settings = same_recipe(name)
    tokenizer, model = backbones.load_backbone(
        settings.backbone, class_names=sorted(rows["label"].unique())
    )
    heads.compute_logits_in_float32(model)
    heads.read_first_token_only(model)
    kernels.use_needed_positions(model)
    return plain.rate(
        lambda: finetune.predict_probs(
            tokenizer, model, rows["text"].tolist(), settings=settings, progress=False
        ),
        len(rows),
    )


def same_recipe(name: str, **more) -> TrainingConfig:
    """Return our settings that learn what the plain recipe learns."""
    same = {
        "backbone": backbone(name),
        "max_length": plain.MAX_LENGTH,
        "learning_rate": plain.RATE,
        "batch_size": plain.BATCH,
        "unfreeze": (),
        "averaging": "none",
        "eval_steps": 10_000,
    }
    return TrainingConfig(**{**same, **more})


# --- quality ---


def equal(models: list[str], *, n_seeds: int, n_train: int = 2_000) -> None:
    """Train both for one epoch on the same 2,000 texts; compare macro F1 over seeds."""
    train, test = docstrings()
    test = test[:1_000]
    y, classes = codes(train, test)
    devices.prepare_torch(
        same_recipe("MiniLM")
    )  # the plain recipe is not timed here: it may have the allocator's settings too
    for name in models:
        predicted: dict[str, list[np.ndarray]] = {"plain": [], "ours": []}
        for seed in range(n_seeds):
            rows = sources.sample_rows(train, n_train, seed=seed)
            # without gradient checkpointing, which costs a quarter of an hour here and changes no
            # weight
            predicted["plain"].append(
                plain_run(
                    name,
                    rows,
                    test,
                    classes,
                    seed=seed,
                    num_train_epochs=1,
                    activation_checkpointing=False,
                )
            )
            predicted["ours"].append(our_run(rows, test, same_recipe(name, epochs=1), seed=seed))
        report(f"{name}: docstrings, one epoch of 2,000 texts", predicted, y, against="plain")


def quality(*, seconds: float, n_seeds: int) -> None:
    sets: dict[str, Rows] = {"docstrings": docstrings()}
    if newsgroups.FILE.exists():
        posts = newsgroups.posts()
        sets["newsgroups by date, bodies"] = (
            posts[posts["split"] == "train"],
            posts[posts["split"] == "test"],
        )
    else:
        print(newsgroups.MISSING)
    for name, (train, all_of_test) in sets.items():
        test = all_of_test.sample(min(len(all_of_test), 1_000), random_state=0)
        y, classes = codes(train, test)
        found: dict[str, list[np.ndarray]] = {
            model: [] for model in ("TF-IDF", "plain", "ours", "SetFit-style")
        }
        for seed in range(n_seeds):
            found["TF-IDF"].append(
                as_codes(
                    baseline.fit_baseline(train["text"], train["label"], seed=seed).predict(
                        test["text"]
                    ),
                    classes,
                )
            )
            found["plain"].append(plain_within(seconds, train, test, classes, seed=seed))
            found["ours"].append(ours_within(seconds, train, test, seed=seed))
            found["SetFit-style"].append(setfit_within(seconds, train, test, classes, seed=seed))
            print(
                f"{name}, seed {seed}: "
                + ", ".join(
                    f"{model} {macro_f1(y, each[-1], n_classes=len(classes)):.3f}"
                    for model, each in found.items()
                ),
                flush=True,
            )
        report(
            f"{name}, {seconds:.0f} CPU seconds of training each; TF-IDF takes all "
            f"{len(train):,} texts",
            found,
            y,
            against="ours",
        )


def plain_run(
    name: str,
    train: pd.DataFrame,
    test: pd.DataFrame,
    classes: list[str],
    *,
    seed: int,
    **arguments,
) -> np.ndarray:
    transformers.set_seed(seed)
    tokenizer, model = backbones.load_backbone(backbone(name), class_names=classes)
    labels = as_codes(train["label"], classes).tolist()
    plain.trainer(tokenizer, model, train["text"].tolist(), labels, seed=seed, **arguments).train()
    return finetune.predict_probs(
        tokenizer, model, test["text"].tolist(), settings=same_recipe(name), progress=False
    ).argmax(axis=1)


def our_run(
    train: pd.DataFrame, test: pd.DataFrame, settings: TrainingConfig, *, seed: int
) -> np.ndarray:
    place = Workspace(dataset="bench", run="ours")
    result = finetune.train(
        train,
        train.head(40),
        config=Config(
            profile="bench", seed=seed, training=settings, tracking=TrackingConfig(backend="none")
        ),
        ws=place,
        progress=False,
    )
    tokenizer, model, _ = finetune.load_model(result.model_dir)
    predicted = finetune.predict_probs(
        tokenizer, model, test["text"].tolist(), settings=settings, progress=False
    ).argmax(axis=1)
    shutil.rmtree(result.model_dir.parent)
    return predicted


def plain_within(
    seconds: float, train: pd.DataFrame, test: pd.DataFrame, classes: list[str], *, seed: int
) -> np.ndarray:
    """Train the plain recipe for as many steps as fit: three are timed first."""
    probe = sources.sample_rows(train, 3 * plain.BATCH, seed=seed)
    started = time.process_time()
    plain_run("MiniLM", probe, probe.head(2), classes, seed=seed, num_train_epochs=1)
    steps = max(1, int(seconds / (time.process_time() - started) * 3))
    rows = sources.sample_rows(train, min(len(train), steps * plain.BATCH), seed=seed)
    return plain_run("MiniLM", rows, test, classes, seed=seed, max_steps=steps)


def ours_within(
    seconds: float, train: pd.DataFrame, test: pd.DataFrame, *, seed: int
) -> np.ndarray:
    """Train as `quick` does (its length, its frozen layers, its rate) for as many texts as fit: 320
    are timed first."""
    settings = Config.load("quick").training.model_copy(
        update={"eval_steps": 10_000, "eval_rows": None, "epochs": 1.0}
    )
    probe, started = sources.sample_rows(train, 320, seed=seed), time.process_time()
    our_run(probe, probe.head(2), settings, seed=seed)
    n = int(seconds / (time.process_time() - started) * 320)
    rows = sources.sample_rows(train, min(len(train), n), seed=seed)
    return our_run(
        rows,
        test,
        settings.model_copy(update={"epochs": float(max(1, round(n / len(rows))))}),
        seed=seed,
    )


def setfit_within(
    seconds: float, train: pd.DataFrame, test: pd.DataFrame, classes: list[str], *, seed: int
) -> np.ndarray:
    """Contrastive pairs on mean-pooled embeddings, then logistic regression on those of the texts
    seen (Tunstall et al. 2022)."""
    from sklearn.linear_model import LogisticRegression

    transformers.set_seed(seed)
    random = np.random.default_rng(seed)
    tokenizer, model = backbones.load_backbone("minilm", class_names=classes)
    encoder, length = model.base_model, Config.load("quick").training.max_length
    optimizer, started, used = (
        torch.optim.AdamW(encoder.parameters(), lr=2e-5),
        time.process_time(),
        [],
    )
    by_class = {label: rows.index.to_numpy() for label, rows in train.groupby("label")}
    encoder.train()
    while (
        time.process_time() - started < 0.75 * seconds
    ):  # the rest is for embedding the texts seen
        labels = random.choice(classes, (16, 2))
        labels[::2, 1] = labels[::2, 0]  # half of the pairs are of one class
        pairs = np.array([[random.choice(by_class[label]) for label in pair] for pair in labels])
        used += pairs.ravel().tolist()
        vectors = embed(encoder, tokenizer, train.loc[pairs.ravel(), "text"].tolist(), length).view(
            16, 2, -1
        )
        target = torch.tensor((labels[:, 0] == labels[:, 1]).astype(np.float32))
        (torch.cosine_similarity(vectors[:, 0], vectors[:, 1]) - target).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    encoder.eval()
    seen = train.loc[list(dict.fromkeys(used))]
    head = LogisticRegression(max_iter=1_000).fit(
        all_embeddings(encoder, tokenizer, seen["text"].tolist(), length), seen["label"]
    )
    return as_codes(
        head.predict(all_embeddings(encoder, tokenizer, test["text"].tolist(), length)), classes
    )


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


def report(
    title: str, predicted: dict[str, list[np.ndarray]], y: np.ndarray, *, against: str
) -> None:
    k = int(y.max()) + 1
    print(f"\n{title} (n = {len(y):,} test texts, {len(predicted[against])} seeds)\n")
    print(f"| model | accuracy | macro F1 | {against} minus it, macro F1 |\n|---|---|---|---|")
    for name, each in predicted.items():
        scores = np.mean(
            [(accuracy(y, one), macro_f1(y, one, n_classes=k)) for one in each], axis=0
        )
        gain = (
            ""
            if name == against
            else str(gain_over_seeds(y, np.stack(each), np.stack(predicted[against])))
        )
        print(f"| {name} | {scores[0]:.3f} | {scores[1]:.3f} | {gain} |", flush=True)


# --- data ---


def docstrings() -> Rows:
    """Return 17,000 and 3,000 rows of the embedded data set, split at random by class."""
    table = sources.raw_table(Config.load("quick"), progress=False)
    return split(
        table.assign(text=cleaning.clean_texts(table["text"].tolist()).texts), n_test=3_000
    )


def split(table: pd.DataFrame, *, n_test: int) -> Rows:
    test = sources.sample_rows(table, n_test, seed=0)
    return table[~table["row_id"].isin(test["row_id"])].reset_index(drop=True), test.reset_index(
        drop=True
    )


def codes(train: pd.DataFrame, test: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    classes = sorted(train["label"].unique())
    return as_codes(test["label"], classes), classes


def as_codes(labels, classes: list[str]) -> np.ndarray:
    return pd.Categorical(labels, categories=classes).codes.astype(int)


if __name__ == "__main__":
    main()
