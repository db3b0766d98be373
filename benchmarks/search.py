"""What does a search cost beside its trainings? `python benchmarks/search.py`.

Overhead: the study's own seconds a trial, where a trial costs nothing. Speed: a fixed number of
trials of fixed work of the processor, by one
worker and by four; starting the workers is counted. Where there are two cores, four workers have
those two.
"""

import os
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib
import numpy as np
import pandas as pd

from lib.config import ComputeConfig, Config, SearchConfig
from lib.training import search
from lib.workspace import Workspace

N_TRIALS, TRIAL_SECONDS = 20, 8.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="workbook-bench-") as folder:
        os.environ["WORKBOOK_HOME"] = folder
        for sampler in ("tpe", "gp", "random"):
            print(
                f"overhead of a trial ({sampler}, {N_TRIALS} trials): "
                f"{seconds(nothing, sampler=sampler) / N_TRIALS:.3f} s   (below 1 s)",
                flush=True,
            )
        rounds = rounds_in(TRIAL_SECONDS)
        print(
            f"{joblib.cpu_count()} cores; {N_TRIALS} trials of {rounds} rounds, "
            f"{TRIAL_SECONDS:.0f} s each on an idle core"
        )
        os.environ["BENCH_ROUNDS"] = str(rounds)
        print(
            f"two plain processes at once do {two_at_once(rounds):.2f} times the work of one",
            flush=True,
        )
        one, four = (seconds(work, workers=workers) for workers in (1, 4))
        print(
            f"one worker {one:.1f} s, four workers {four:.1f} s, ratio {one / four:.2f}   (1.7 "
            "with two cores of one's own)"
        )


def seconds(objective: search.Objective, *, sampler: str = "tpe", workers: int = 1) -> float:
    """Return the seconds that a study of `N_TRIALS` takes."""
    config = Config(
        profile="bench",
        search=SearchConfig(trials=N_TRIALS, sampler=sampler, pruner="none"),
        compute=ComputeConfig(workers=workers),
    )
    started = time.perf_counter()
    result = search.search(
        rows(),
        config=config,
        ws=Workspace(dataset="bench", run=f"{sampler}-{workers}-{objective.__name__}"),
        objective=objective,
        progress=False,
    )
    assert (result.trials["state"] == "COMPLETE").sum() == N_TRIALS
    return time.perf_counter() - started


def rows(n: int = 2_000) -> pd.DataFrame:
    labels = np.array(["a", "b"])[np.arange(n) % 2]
    return pd.DataFrame(
        {
            "row_id": np.arange(n),
            "text": [f"text {i}" for i in range(n)],
            "label": labels,
            "group": np.arange(n),
        }
    )


def nothing(task: search.Task, settings: dict, watch: search.Watch | None) -> float:
    return settings["learning_rate"]


def work(task: search.Task, settings: dict, watch: search.Watch | None) -> float:
    spin(int(os.environ["BENCH_ROUNDS"]))
    return settings["learning_rate"]


def spin(rounds: int) -> None:
    matrix = np.random.default_rng(0).normal(size=(200, 200))
    for _ in range(rounds):
        matrix = np.tanh(matrix @ matrix / 200)


def two_at_once(rounds: int) -> float:
    """Return how much more two processes do than one: what the machine has to spare."""
    with joblib.Parallel(n_jobs=2) as pool:
        pool(joblib.delayed(spin)(1) for _ in range(2))
        times = []
        for n in (1, 2):
            started = time.perf_counter()
            pool(joblib.delayed(spin)(rounds) for _ in range(n))
            times.append(time.perf_counter() - started)
    return 2 * times[0] / times[1]


def rounds_in(wanted: float) -> int:
    """Return how many rounds take so many seconds of the processor."""
    before = time.process_time()
    spin(300)
    return int(300 * wanted / (time.process_time() - before))


if __name__ == "__main__":
    main()
