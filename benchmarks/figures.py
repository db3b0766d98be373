"""The figures that the workbook promises of a whole run, measured in a fresh one of the profile `quick`: `make bench`.

Prints counts, and times as shares of what is allowed on two cores; an absolute time says as much about the machine.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from lib import workspace
from lib.data import duplicates, splits
from lib.workspace import Workspace

(
    ALLOWED_RUN_SECONDS,
    ALLOWED_RESUME_SECONDS,
    ALLOWED_MEMORY_GB,
    ALLOWED_HARVEST_SECONDS,
    ALLOWED_DATA_SECONDS,
) = 15 * 60, 15, 6, 60, 5 * 60


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="workbook-bench-") as folder:
        os.environ["WORKBOOK_HOME"] = folder
        harvest_seconds, _ = measured(
            "-c",
            "from lib.config import Config; from lib.data.sources import raw_table; raw_table(Config.load('quick'))",
        )
        run_seconds, run_bytes = measured("-m", "lib.delivery.cli", "run", "--profile", "quick")
        resume_seconds, _ = measured(
            "-m", "lib.delivery.cli", "run", "--profile", "quick", "--quiet"
        )
        report(harvest_seconds, run_seconds, run_bytes, resume_seconds)


def measured(*words: str) -> tuple[float, int]:
    """Run Python; return seconds and the peak of the memory of it and all its children, in bytes."""
    started, peak, done = time.perf_counter(), [0], threading.Event()
    process = subprocess.Popen([sys.executable, *words])

    def watch() -> None:
        while not done.wait(0.5):
            try:
                family = [
                    psutil.Process(process.pid),
                    *psutil.Process(process.pid).children(recursive=True),
                ]
                peak[0] = max(peak[0], sum(member.memory_info().rss for member in family))
            except psutil.NoSuchProcess:
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        sys.exit(f"{' '.join(words)} ended with {code}")
    return time.perf_counter() - started, peak[0]


def report(
    harvest_seconds: float, run_seconds: float, run_bytes: int, resume_seconds: float
) -> None:
    ws = Workspace(dataset="docstrings", run="quick")
    clean, metrics = (
        workspace.read_table(ws.path("clean.parquet")),
        workspace.read_json(ws.path("metrics.json")),
    )
    pairs = duplicates.near_duplicate_pairs(clean["text"].tolist())
    shares = splits.class_shares(clean["label"].tolist(), clean["split"].tolist())
    worst = np.abs(shares.to_numpy() - [0.70, 0.15, 0.15]).max()
    baseline = metrics["models"]["TF-IDF baseline"]["intervals"]["accuracy"]
    steps = {step["notebook"]: step["seconds"] for step in _steps(ws)}
    data_seconds = sum(seconds for name, seconds in steps.items() if name < "04")
    rows = [
        ("gathering docstrings / 1 minute", harvest_seconds / ALLOWED_HARVEST_SECONDS, "<= 1"),
        ("run of quick / 15 minutes", run_seconds / ALLOWED_RUN_SECONDS, "<= 1"),
        (
            "notebooks 01 to 03 on 20,000 texts / 5 minutes",
            data_seconds / ALLOWED_DATA_SECONDS,
            "<= 1",
        ),
        (
            "peak memory of the run / 6 GB (children's shared pages counted twice)",
            run_bytes / ALLOWED_MEMORY_GB / 1e9,
            "<= 1",
        ),
        ("resuming the finished run / 15 s", resume_seconds / ALLOWED_RESUME_SECONDS, "<= 1"),
        ("TF-IDF test accuracy", baseline["value"], ">= 0.87"),
        (
            "near-duplicate pairs across splits",
            splits.leak_matrix(pairs, clean["split"]).n_crossing,
            "0",
        ),
        ("worst distance of a class share from 70/15/15", worst, "<= 0.005"),
    ]
    print(f"\n{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB")
    for name, value, bound in rows:
        print(f"{name:<70} {value:8.4g}   ({bound})")
    for model, scores in metrics["models"].items():
        found = {name: scores["intervals"][name] for name in ("accuracy", "macro_f1")}
        print(
            f"{model}: "
            + ", ".join(
                f"{name} {i['value']:.3f} [{i['low']:.3f}, {i['high']:.3f}]"
                for name, i in found.items()
            )
        )
    print(metrics["verdict"])
    print(steps)


def _steps(ws: Workspace) -> list[dict]:
    record = workspace.read_json(Path(ws.folder(workspace.REPORTS)) / "run.json")
    return [
        {"notebook": name, "seconds": step["seconds"]} for name, step in record["steps"].items()
    ]


if __name__ == "__main__":
    main()
