"""A served classifier under load: `python benchmarks/serving.py [FOLDER]`.

FOLDER is a classifier's; without one, TF-IDF and an untrained head on the offline encoder are taken
together. Sixteen clients ask for a minute, a text at a time and without a pause, and each answer is
compared with the direct prediction. Meanwhile the champion is replaced. Then one of two workers is
killed under load. The batch path is `Classifier.predict` in a process of the same settings.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import newsgroups
import numpy as np
import psutil

from lib.config import CleaningConfig, TrainingConfig
from lib.delivery import registry
from lib.evaluation.calibration import Calibrator
from lib.training import backbones, baseline, classifier_folder, mlflow_store
from lib.training.classifier import Classifier
from lib.training.ensembles import Ensemble
from lib.training.member import Member

N_CLIENTS = 16
SECONDS = 60
SWAP_AFTER = 35  # seconds; until then the speed is measured: loading a model takes a core's time
BATCH_SECONDS = 15
N_TEXTS = 500
N_CHARS = 300
TOLERANCE = 1e-5  # of a probability: a text's company in a batch moves float32 by 1e-6
NAME = "benchmark"
BATCH = """
import json, sys, time
from pathlib import Path
from lib.training.classifier import Classifier
classifier, texts = Classifier.load(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
classifier.predict(texts[:64], with_probs=True)
started, cpu, n = time.perf_counter(), time.process_time(), 0
while time.perf_counter() - started < float(sys.argv[3]):
    start = n % (len(texts) - 64)
    n += len(classifier.predict(texts[start : start + 64], with_probs=True))
print(n / (time.perf_counter() - started), n / (time.process_time() - cpu))
"""


def main() -> None:
    if not newsgroups.FILE.exists():
        print(newsgroups.MISSING)
        return
    posts = newsgroups.posts().sample(frac=1, random_state=42, ignore_index=True)
    texts = posts["text"].str.slice(0, N_CHARS).tolist()[:N_TEXTS]
    with tempfile.TemporaryDirectory(prefix="workbook-bench-") as scratch:
        os.environ["WORKBOOK_HOME"] = scratch
        home = Path(scratch)
        first = Path(sys.argv[1]) if sys.argv[1:] else new_classifier(posts.tail(2_000), home)
        found = Classifier.load(first)
        other = Calibrator(found.calibrator.scale * 0.7, found.calibrator.shift)
        replace(found, calibrator=other).save(home / "without exports")
        exports = classifier_folder.read_exports(first)
        classifier_folder.write_exports(
            home / "without exports", home / "second", first / classifier_folder.EXPORTS, exports
        )
        folders = {f"{NAME}-v1.0.0": first, f"{NAME}-v1.1.0": home / "second"}
        versions = register(folders)
        probs = {
            label: Classifier.load(path).predict_probs(texts) for label, path in folders.items()
        }
        measure_load(home, texts, probs, versions)
        measure_a_killed_worker(home, texts, probs)


def new_classifier(rows, home: Path) -> Path:
    classes = sorted(set(rows["label"]))
    fit = baseline.LINEAR["TF-IDF"]
    baseline.save_baseline(fit(rows["text"].tolist(), rows["label"].tolist()), home / "linear")
    tokenizer, model = backbones.load_backbone("minilm", class_names=classes)
    model.save_pretrained(home / "encoder")
    tokenizer.save_pretrained(home / "encoder")
    settings = TrainingConfig(max_length=64, precision="fp32")
    members = [Member("TF-IDF", home / "linear"), Member("encoder", home / "encoder", settings)]
    k = len(classes)
    ensemble = Ensemble("soft", ["TF-IDF", "encoder"], classes, np.ones(2) / 2, np.zeros(k))
    plain = Calibrator(np.ones(k), np.zeros(k))
    Classifier(classes, CleaningConfig(), members, ensemble, plain).save(home / "first")
    return home / "first"


def register(folders: dict[str, Path]) -> list[str]:
    """Register folders as they are, the first as champion, and return MLflow's numbers."""
    import mlflow

    client = mlflow_store.connect()
    client.create_registered_model(NAME)
    experiment = mlflow_store.experiment_id(NAME, "")
    numbers = []
    for label, folder in folders.items():
        run_id = client.create_run(experiment).info.run_id
        client.log_artifacts(run_id, str(folder), f"{label}/model")
        tags = dict.fromkeys(registry.OUR_TAGS, "-")
        tags |= {"version": label[-5:], "model": classifier_folder.fingerprint(folder)}
        source = f"runs:/{run_id}/{label}/model"
        numbers.append(client.create_model_version(NAME, source, run_id, tags=tags).version)
    promote(numbers[0])
    assert mlflow.search_model_versions()
    return numbers


def promote(number: str) -> None:
    mlflow_store.connect().set_registered_model_alias(NAME, registry.CHAMPION, number)


@dataclass
class Load:
    """What sixteen clients saw.

    Attributes
    ----------
    seconds : that each answer took
    models : the version that gave each
    n_wrong : answers that differ from the direct prediction
    errors : (when, what)
    """

    address: str
    texts: list[str]
    probs: dict[str, np.ndarray]
    seconds: list[float] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    n_wrong: int = 0
    errors: list[tuple[float, str]] = field(default_factory=list)
    is_over: bool = False

    @contextmanager
    def asking(self):
        threads = [threading.Thread(target=self._client, args=(i,)) for i in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        yield
        self.is_over = True
        for thread in threads:
            thread.join()

    def _client(self, number: int) -> None:
        rng = np.random.default_rng(number)
        # of the standard library, as clients share the cores with the server
        connection = HTTPConnection(self.address, timeout=60)
        while not self.is_over:
            row = int(rng.integers(len(self.texts)))
            started = time.perf_counter()
            try:
                self._check(row, ask(connection, self.texts[row]))
            except (HTTPException, OSError, ValueError, KeyError) as error:
                self.errors.append((time.perf_counter(), repr(error)))
                connection.close()  # it is opened again by what is asked next
            self.seconds.append(time.perf_counter() - started)
        connection.close()

    def _check(self, row: int, found: dict) -> None:
        (answer,) = found["answers"]
        expected = self.probs[found["model"]][row]
        difference = np.abs(np.array(list(answer["probabilities"].values())) - expected).max()
        self.n_wrong += bool(difference > TOLERANCE)
        self.models.append(found["model"])


def ask(connection: HTTPConnection, text: str) -> dict:
    """Return the server's answer; ValueError where it is none."""
    body = json.dumps({"text": text})
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    if response.status != HTTPStatus.OK:
        raise ValueError(f"{response.status}: {content[:200]!r}")
    return json.loads(content)


@contextmanager
def served(*words, n_workers=1):
    """Start a server; give its process, its address and what counts lines of its output."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lib.delivery.cli", "serve", *words, "--port", str(port)]
    with tempfile.NamedTemporaryFile("r") as output:
        process = subprocess.Popen(command, stdout=output.file, stderr=output.file)

        def n_lines(words):
            return Path(output.name).read_text().count(words)

        try:
            wait_until(lambda: n_lines("startup complete") >= n_workers)
            yield process, f"127.0.0.1:{port}", n_lines
        finally:
            process.terminate()
            process.wait()


def wait_until(condition) -> float:
    started = time.perf_counter()
    while not condition():
        time.sleep(0.05)
    return time.perf_counter() - started


def measure_load(home: Path, texts, probs, versions) -> None:
    (home / "texts.json").write_text(json.dumps(texts))
    batch = [batch_speed(home)]
    with served(f"{NAME}@champion", "--poll", "2") as (process, address, n_lines):
        load = Load(address, texts, probs)
        server = psutil.Process(process.pid)
        cpu_before = sum(server.cpu_times()[:2])
        clients_before = time.process_time()
        started = time.perf_counter()
        with load.asking():
            time.sleep(SWAP_AFTER)
            seconds = time.perf_counter() - started
            cpu_seconds = sum(server.cpu_times()[:2]) - cpu_before
            of_clients = time.process_time() - clients_before
            n_timed = len(load.models)
            promote(versions[1])
            swap_seconds = wait_until(lambda: n_lines("answers from now on"))
            time.sleep(max(1, SECONDS - SWAP_AFTER - swap_seconds))
    batch.append(batch_speed(home))
    wall, cpu = np.mean(batch, axis=0)
    p50, p99 = np.percentile(load.seconds, [50, 99])
    counts = ", ".join(f"{load.models.count(label):,} by {label}" for label in probs)
    show(f"{N_CLIENTS} clients, {SECONDS} s: answers ({counts})", f"{len(load.models):,}")
    show("errors", f"{len(load.errors)}", "0")
    show("answers that differ from the direct prediction", f"{load.n_wrong}", "0")
    show("p99 / p50 of an answer's time", f"{p99 / p50:.1f}", "< 20")
    show("p50, p99", f"{p50 * 1e3:,.0f} ms, {p99 * 1e3:,.0f} ms")
    show("texts a second, share of the batch path's", f"{n_timed / seconds / wall:.2f}", ">= 0.70")
    show("texts a CPU-second, share of the batch path's", f"{n_timed / cpu_seconds / cpu:.2f}")
    show(
        "share of the CPU time that the clients took",
        f"{of_clients / (of_clients + cpu_seconds):.2f}",
    )
    show("seconds from a promotion to the last worker's swap", f"{swap_seconds:.1f}")


def batch_speed(home: Path) -> list[float]:
    """Return the texts that the batch path answers in a second, and in a CPU-second."""
    words = [str(home / "second"), str(home / "texts.json"), str(BATCH_SECONDS)]
    found = subprocess.run([sys.executable, "-c", BATCH, *words], capture_output=True, text=True)
    return [float(word) for word in found.stdout.split()[-2:]]


def measure_a_killed_worker(home: Path, texts, probs) -> None:
    words = (f"{NAME}@champion", "--workers", "2", "--poll", "5")
    with served(*words, n_workers=2) as (process, address, n_lines):
        load = Load(address, texts, probs)
        with load.asking():
            time.sleep(5)
            workers = [
                child
                for child in psutil.Process(process.pid).children()
                if "spawn_main" in " ".join(child.cmdline())
            ]
            killed = time.perf_counter()
            workers[0].send_signal(signal.SIGKILL)
            replaced = wait_until(lambda: n_lines("startup complete") == 3)
            time.sleep(5)
    delays = [when - killed for when, _ in load.errors]
    show("a worker killed under load: seconds until another serves", f"{replaced:.1f}")
    show("answers, of them wrong", f"{len(load.models):,}, {load.n_wrong}", "0 wrong")
    show("requests that broke with the worker", f"{len(delays)}", f"<= {N_CLIENTS}")
    show("seconds from the kill to the last of them", f"{max(delays, default=0):.1f}")


def show(what: str, found: str, target: str = "") -> None:
    print(f"{what:<70} {found:>20}  {target}", flush=True)


if __name__ == "__main__":
    main()
