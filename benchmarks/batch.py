"""A table of a million rows, predicted whole and killed ten times: `python benchmarks/batch.py`.

Rows are runs of 12 words of the embedded data set, numbered, so that no two are the same. The
classifier is a linear one, on TF-IDF of the same data; `--encoder` takes the encoder of the profile
quick, its head untrained (what it answers does not matter here), and 100,000 rows. `workbook
predict` runs in a process of its own. Its peak memory is what the system counted, its time the
processor's. Then the same is killed after ten random times, each up to 0.15 of what the whole took,
and run to its end; both outputs are compared byte by byte.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from lib.config import Config
from lib.data.cleaning import clean_texts
from lib.data.sources import raw_table
from lib.evaluation.calibration import Calibrator
from lib.training import backbones, baseline
from lib.training.classifier import Classifier
from lib.training.ensembles import Ensemble
from lib.training.member import Member

WORDS = 12  # of a row
KILLS = 10
LONGEST = 0.15  # of the whole run's time, that a run is killed after


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--encoder", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    n_rows = options.rows or (100_000 if options.encoder else 1_000_000)
    sizes = ["--workers", str(options.workers)]
    sizes += ["--rows-per-part", str(500 if options.encoder else 5_000)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = os.environ.setdefault("WORKBOOK_HOME", name)
        print(f"home {home}" if home != name else "the embedded data set is gathered", flush=True)
        config = Config.load("quick")
        table = raw_table(config, progress=False)
        save = save_encoder if options.encoder else save_linear
        save(table, config, folder / "model")
        write_rows(table["text"], n_rows, folder / "rows.csv")
        measure(folder, n_rows, sizes)


def save_linear(table, config: Config, folder: Path) -> None:
    texts = clean_texts(table["text"].tolist(), settings=config.cleaning).texts
    model = baseline.fit_baseline(texts, table["label"].tolist())
    member = folder.with_name("member")
    baseline.save_baseline(model, member)
    save_classifier(Member("TF-IDF", member), list(model.classes_), config, folder)


def save_encoder(table, config: Config, folder: Path) -> None:
    class_names = sorted(table["label"].unique())
    tokenizer, model = backbones.load_backbone(config.training.backbone, class_names=class_names)
    member = folder.with_name("member")
    model.save_pretrained(member)
    tokenizer.save_pretrained(member)
    settings = config.training.model_copy(update={"precision": "fp32"})
    save_classifier(Member("encoder", member, settings), class_names, config, folder)


def save_classifier(member: Member, class_names: list[str], config: Config, folder: Path) -> None:
    n_classes = len(class_names)
    ensemble = Ensemble("soft", [member.name], class_names, np.ones(1), np.zeros(n_classes))
    calibrator = Calibrator(np.ones(n_classes), np.zeros(n_classes))
    Classifier(
        class_names, config.cleaning, [member], ensemble, calibrator, abstain_below=0.5
    ).save(folder)


def write_rows(texts, n_rows: int, path: Path) -> None:
    runs = []
    for text in texts:
        words = text.replace('"', "").split()
        runs += [" ".join(words[i : i + WORDS]) for i in range(0, len(words), WORDS)]
    with path.open("w", encoding="utf-8") as file:
        file.write("id,text\n")
        for i in range(n_rows):
            file.write(f'{i},"{runs[i % len(runs)]} {i}"\n')


def measure(folder: Path, n_rows: int, sizes: list[str]) -> None:
    whole = folder / "whole.parquet"
    resumed = folder / "resumed.parquet"
    megabytes = (folder / "rows.csv").stat().st_size / 1e6
    print(f"{n_rows:,} rows, {megabytes:.0f} MB, {' '.join(sizes)}", flush=True)
    started = time.perf_counter()
    usage = wait(start(folder, whole, sizes))
    seconds = time.perf_counter() - started
    processor = usage.ru_utime + usage.ru_stime
    show("whole: minutes by the clock", seconds / 60)
    show("whole: rows a second of the processor", n_rows / processor)
    show("whole: peak memory, GB", usage.ru_maxrss / 1e6, "< 2")
    generator = random.Random(42)
    finished = []
    for _ in range(KILLS):
        process = start(folder, resumed, sizes)
        time.sleep(generator.uniform(0, LONGEST) * seconds)
        if process.poll() is not None:
            sys.exit("it ended before it was killed: kill earlier")
        process.send_signal(signal.SIGKILL)
        process.wait()
        finished.append(len(list(folder.glob(".resumed.parquet.parts/*.parquet"))))
    print(f"parts that were finished at each kill: {', '.join(map(str, finished))}")
    usage = wait(start(folder, resumed, sizes))
    show("resumed: peak memory, GB", usage.ru_maxrss / 1e6, "< 2")
    show("resumed: bytes are those of the whole", digest(whole) == digest(resumed), "1")


def start(folder: Path, out: Path, sizes: list[str]) -> subprocess.Popen:
    words = ["predict", folder / "rows.csv", out, "--model", folder / "model", "--keep", "id"]
    command = [sys.executable, "-m", "lib.delivery.cli", *map(str, words), *sizes]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait(process: subprocess.Popen):
    """Return what a process that ends well has used."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"workbook predict ended with {process.returncode}")
    return usage


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def show(name: str, value: float, bound: str = "no bound") -> None:
    print(f"{name:<45} {value:10.4g}   ({bound})", flush=True)


if __name__ == "__main__":
    main()
