"""The figures that the workbook promises, measured in a fresh run of `quick`: `make bench`.

Prints counts, and times as shares of what is allowed on two cores: an absolute time says as much
about the machine.
"""

import os
import subprocess
import sys
import tempfile
import time

import numpy as np
import psutil

from lib import workspace
from lib.data import duplicates, splits
from lib.evaluation.evaluation import Evaluation
from lib.workspace import Workspace

ALLOWED_RUN_SECONDS = 15 * 60
ALLOWED_RESUME_SECONDS = 15
ALLOWED_HARVEST_SECONDS = 60
ALLOWED_DATA_SECONDS = 5 * 60
ALLOWED_MEMORY_GB = 6
HARVEST = """
from lib.config import Config
from lib.data.sources import raw_table
raw_table(Config.load('quick'))
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="workbook-bench-") as folder:
        os.environ["WORKBOOK_HOME"] = folder
        harvest_seconds, _ = measured("-c", HARVEST)
        run = ("-m", "lib.delivery.cli", "run", "--profile", "quick")
        run_seconds, run_bytes = measured(*run)
        resume_seconds, _ = measured(*run, "--quiet")
        report(harvest_seconds, run_seconds, run_bytes, resume_seconds)


def measured(*words: str) -> tuple[float, int]:
    """Run Python; return seconds, and the peak memory of it and its children in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words])
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process.pid))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{' '.join(words)} ended with {process.returncode}")
    return time.perf_counter() - started, peak


def resident_bytes(pid: int) -> int:
    """Return the memory of a process and its children; 0 where one has just ended."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return sum(member.memory_info().rss for member in family)
    except psutil.NoSuchProcess:
        return 0


def report(
    harvest_seconds: float, run_seconds: float, run_bytes: int, resume_seconds: float
) -> None:
    ws = Workspace(dataset="docstrings", run="quick")
    evaluation = Evaluation.load(ws.path("metrics.json"))
    baseline = evaluation.models["TF-IDF baseline"].intervals["accuracy"]
    record = workspace.read_json(ws.folder(workspace.REPORTS) / "run.json")
    step_seconds = {name: step["seconds"] for name, step in record["steps"].items()}
    data_seconds = sum(seconds for name, seconds in step_seconds.items() if name < "04")
    memory = run_bytes / 1e9 / ALLOWED_MEMORY_GB
    print(f"\n{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB")
    show("gathering docstrings / 1 minute", harvest_seconds / ALLOWED_HARVEST_SECONDS, "<= 1")
    show("run of quick / 15 minutes", run_seconds / ALLOWED_RUN_SECONDS, "<= 1")
    data_share = data_seconds / ALLOWED_DATA_SECONDS
    show("notebooks 01 to 03 on 20,000 texts / 5 minutes", data_share, "<= 1")
    show("peak memory of the run / 6 GB (shared pages counted twice)", memory, "<= 1")
    show("resuming the finished run / 15 s", resume_seconds / ALLOWED_RESUME_SECONDS, "<= 1")
    show("TF-IDF test accuracy", baseline.value, ">= 0.87")
    n_crossing, worst_share = split_figures(ws)
    show("near-duplicate pairs across splits", n_crossing, "0")
    show("worst distance of a class share from 70/15/15", worst_share, "<= 0.005")
    for model, scores in evaluation.models.items():
        accuracy, macro_f1 = scores.intervals["accuracy"], scores.intervals["macro_f1"]
        print(f"{model}: accuracy {accuracy}, macro_f1 {macro_f1}")
    print(evaluation.verdict)
    print(step_seconds)


def split_figures(ws: Workspace) -> tuple[int, float]:
    """Return the near-duplicate pairs across splits, and the worst gap of a class share."""
    clean = workspace.read_table(ws.path("clean.parquet"))
    pairs = duplicates.near_duplicate_pairs(clean["text"].tolist())
    shares = splits.class_shares(clean["label"].tolist(), clean["split"].tolist())
    worst = float(np.abs(shares.to_numpy() - [0.70, 0.15, 0.15]).max())
    return splits.leak_matrix(pairs, clean["split"]).n_crossing, worst


def show(name: str, value: float, bound: str) -> None:
    print(f"{name:<70} {value:8.4g}   ({bound})")


if __name__ == "__main__":
    main()
