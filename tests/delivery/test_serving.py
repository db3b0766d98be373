import asyncio
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import REPOSITORY
from fastapi.testclient import TestClient
from filelock import FileLock
from finished_runs import answers, finished_run, sealed_rows
from linear_classifiers import CLASSES, TEXTS, linear_classifier

from lib.delivery import registry
from lib.delivery.cli import main
from lib.delivery.monitoring.prediction_log import read_log
from lib.delivery.serving import questions
from lib.delivery.serving.app import create_app
from lib.delivery.serving.batching import Batches
from lib.delivery.serving.server import LOOPBACK, find_source
from lib.delivery.serving.serving_model import ServingModel
from lib.delivery.serving.source import Source
from lib.robustness.attributions import leave_one_out
from lib.training.classifier import Classifier

NAME = "deberta-v3-base"
JSON = {"Content-Type": "application/json"}
CSV = {"Content-Type": "text/csv; charset=utf-8"}
MIXED = ["The crow & the owl", "", "saw, drill, nail", "<br>", "=1+1", "the apple 😀 and the plum"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("served")
    linear_classifier(home / "member", abstain_below=0.4).save(home / "classifier")
    return home / "classifier"


@pytest.fixture(scope="module")
def classifier(folder):
    return Classifier.load(folder)


def client_of(serving):
    return TestClient(create_app(serving, hosts=LOOPBACK), base_url="http://127.0.0.1")


@pytest.fixture
def serving(folder):
    return ServingModel(Source(folder, "birds-v1.0.0"))


@pytest.fixture
def client(serving):
    return client_of(serving)


def expected_answers(classifier, texts):
    """What a client must get for texts, written out by hand from the direct prediction."""
    table = classifier.predict(texts, with_probs=True)
    return [
        {
            "label": row.label,
            "confidence": None if np.isnan(row.confidence) else row.confidence,
            "abstained": row.abstained,
            "reason": row.reason,
            "ood_score": None,
            "is_ood": None,
            "probabilities": dict(zip(CLASSES, row.probabilities.tolist())),
        }
        for row in table.itertuples()
    ]


def test_answers_are_those_of_the_classifier(client, classifier):
    expected = {"model": "birds-v1.0.0", "answers": expected_answers(classifier, MIXED)}
    assert client.post("/predict", json={"texts": MIXED}).json() == expected
    assert expected["answers"][1] == {
        "label": None,
        "confidence": None,
        "abstained": True,
        "reason": "no words left",
        "ood_score": None,
        "is_ood": None,
        "probabilities": dict.fromkeys(CLASSES, 1 / 3),
    }
    one = client.post("/predict", json={"text": MIXED[0]}).json()
    assert one["answers"] == expected["answers"][:1]


def test_csv_is_read_as_its_rows_are_written(client, classifier):
    rows = ["text,id", '"a ""crow"", an owl\nand a wren",1', '"",2', "", "=saw the drill,3"]
    table = "\ufeff" + "\r\n".join(rows)
    response = client.post("/predict", content=table.encode(), headers=CSV)
    texts = ['a "crow", an owl\nand a wren', "", "=saw the drill"]
    assert response.json()["answers"] == expected_answers(classifier, texts)


NO_JSON = (400, "The body is not valid JSON in UTF-8.")
NO_CSV = (
    400,
    "The body is not CSV in UTF-8 with a column named text and fields for each column.",
)
NO_STRING = "Input should be a valid string."
OTHER_TYPE = (415, "Send application/json or text/csv (header Content-Type), not compressed.")
NO_TEXTS = (422, "texts: List should have at least 1 item after validation, not 0.")


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (JSON, b'{"text": "secret', NO_JSON),
        (JSON, b"", NO_JSON),
        (JSON, b"secret", NO_JSON),
        (JSON, b'{"text": "secret\xff"}', NO_JSON),
        (JSON, rb'{"text": "secret\ud800"}', NO_JSON),
        (JSON, b"[" * 100_000, NO_JSON),
        (JSON, b'{"text": null}', (422, f"text: {NO_STRING}")),
        (JSON, b'{"texts": ["secret", 3]}', (422, f"texts[1]: {NO_STRING}")),
        (JSON, b'{"texts": ["secret", {"secret": 1}]}', (422, f"texts[1]: {NO_STRING}")),
        (JSON, b'{"texts": ["a", null, 4]}', (422, f"texts[1]: {NO_STRING}")),
        (JSON, b'{"texts": "secret"}', (422, "texts: Input should be a valid array.")),
        (JSON, b'{"secret": 1}', (422, "The body: Extra inputs are not permitted.")),
        (JSON, b'{"text": "a", "secret": 1}', (422, "The body: Extra inputs are not permitted.")),
        (JSON, b"{}", (422, "The body: Either text or texts must be given.")),
        (
            JSON,
            b'{"text": "secret", "texts": ["secret"]}',
            (422, "The body: Either text or texts must be given."),
        ),
        (JSON, b'["secret"]', (422, "The body: Input should be an object.")),
        (JSON, b'{"texts": []}', NO_TEXTS),
        (
            JSON,
            json.dumps({"texts": ["secret"] * 100_000}).encode(),
            (422, "texts: List should have at most 256 items after validation, not 100000."),
        ),
        (
            JSON,
            json.dumps({"texts": ["a", "x" * 50_001]}).encode(),
            (422, "texts[1]: String should have at most 50000 characters."),
        ),
        (CSV, b"", NO_TEXTS),
        (CSV, b"secret\nsecret\n", NO_CSV),
        (CSV, b"text\nsecret\xff\n", NO_CSV),
        (CSV, b'text\n"secret', NO_CSV),
        (CSV, b"id,text\n1,a\n2,secret,secret\n", NO_CSV),
        (CSV, b"id,text\n1,a\nsecret\n", NO_CSV),
        (CSV, b"text\n", NO_TEXTS),
        ({}, b'{"text": "secret"}', OTHER_TYPE),
        ({"Content-Type": "text/plain"}, b'{"text": "secret"}', OTHER_TYPE),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"text=secret", OTHER_TYPE),
        ({**JSON, "Content-Encoding": "gzip"}, b"secret", OTHER_TYPE),
    ],
)
def test_a_body_that_cannot_be_used_gets_one_sentence_without_its_words(
    client, headers, body, expected
):
    response = client.post("/predict", content=body, headers=headers)
    assert (response.status_code, response.json()) == (expected[0], {"detail": expected[1]})
    assert client.post("/predict", json={"text": TEXTS[0]}).status_code == 200


def test_a_body_is_cut_off_while_it_comes_in_whatever_its_header_says(client, monkeypatch):
    monkeypatch.setattr(questions, "MAX_BYTES", 1_000)
    monkeypatch.setattr(questions, "MAX_THROWN_AWAY", 5_000)
    n_sent = []

    def body(n):
        for _ in range(n):
            n_sent.append(100)
            yield b" " * 100

    for n in (11, 1_000):
        response = client.post("/predict", content=body(n), headers=JSON)
        assert response.status_code == 413 and response.headers["connection"] == "close"
        words = "The body is larger than 1,000 bytes: send fewer texts at a time."
        assert response.json() == {"detail": words}
    text = json.dumps({"text": "the crow"})
    whole = client.post("/predict", content=text.ljust(1_000), headers=JSON)
    assert whole.status_code == 200


def asked(app, messages, pause=0.0):
    """Return the status and body that an application gives to a request that comes in pieces."""
    sent = []
    pieces = iter(messages)

    async def receive():
        await asyncio.sleep(pause)
        return next(pieces)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/predict",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
    }
    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body


def test_slow_and_vanishing_clients_hold_nobody_up(serving, monkeypatch):
    monkeypatch.setattr(questions, "BODY_SECONDS", 0.05)
    app = create_app(serving, hosts=LOOPBACK)
    piece = {"type": "http.request", "body": b" ", "more_body": True}
    status, body = asked(app, [piece] * 100, pause=0.02)
    assert status == 408
    assert json.loads(body) == {"detail": "The body did not arrive within 0.05 seconds."}
    assert asked(app, [piece, {"type": "http.disconnect"}]) == (499, b"")
    whole = {"type": "http.request", "body": b'{"text": "the crow"}', "more_body": False}
    assert asked(app, [whole])[0] == 200


def test_an_explanation_is_the_text_with_what_each_word_adds(client, classifier):
    text = "so the <b>crow</b> 😀 saw an apple"
    found = client.post("/explain", json={"text": text}).json()
    assert found["answer"] == expected_answers(classifier, [text])[0]
    assert "".join(part for part, _ in found["parts"]) == text
    (direct,) = leave_one_out(classifier.predict_probs, [text], class_names=CLASSES)
    words = {i: part for i, (part, _) in enumerate(found["parts"]) if re.fullmatch(r"\w+", part)}
    assert list(words.values()) == "so the b crow b saw an apple".split()
    effects = [effect for _, effect in found["parts"]]
    assert [effects[i] for i in words] == direct.effects.tolist()
    assert found["explained"] == direct.predicted and max(direct.effects) > 0.05
    assert not any(effect for i, effect in enumerate(effects) if i not in words)


@pytest.mark.parametrize("question", [{"texts": ["a"]}, {"text": "x" * 5_001}])
def test_only_one_short_text_is_explained(client, question):
    response = client.post("/explain", json=question)
    words = "What is explained is one text of at most 5,000 characters."
    assert (response.status_code, response.json()) == (422, {"detail": words})


def test_metrics_count_requests_texts_and_abstentions(client, classifier):
    table = classifier.predict(MIXED)
    for _ in range(2):
        client.post("/predict", json={"texts": MIXED})
    client.post("/predict", json={"text": 1})
    client.get("/secret")
    lines = client.get("/metrics").text.splitlines()
    assert 'workbook_requests_total{path="/predict",status="200"} 2.0' in lines
    assert 'workbook_requests_total{path="/predict",status="422"} 1.0' in lines
    assert 'workbook_requests_total{path="other",status="404"} 1.0' in lines
    assert "workbook_texts_total 12.0" in lines
    assert f"workbook_abstained_total {2.0 * table['abstained'].sum()}" in lines
    assert 'workbook_request_seconds_count{path="/predict"} 3.0' in lines
    assert 'workbook_model{version="birds-v1.0.0"} 1.0' in lines
    assert 0 < table["abstained"].sum() < len(MIXED)


def test_health_and_readiness(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready", "model": "birds-v1.0.0"}
    assert client.get("/predict").status_code == 405
    assert client.get("/docs").status_code == 404  # its scripts would come from a network


def test_the_schema_says_what_is_accepted(client):
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/predict", "/health", "/ready"}
    content = schema["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert content["text/csv"]["example"].startswith("text\n")
    question = content["application/json"]["schema"]
    assert question["oneOf"] == [{"required": ["text"]}, {"required": ["texts"]}]
    assert question["additionalProperties"] is False
    assert question["properties"]["texts"]["maxItems"] == 256
    assert question["properties"]["text"] == {
        "type": "string",
        "maxLength": 50_000,
        "title": "Text",
        "examples": ["Return the sorted list of primes."],
    }
    assert {"200", "400", "408", "413", "415", "422"} == set(
        schema["paths"]["/predict"]["post"]["responses"]
    )


def test_the_page_needs_no_network_and_runs_only_its_own_script(client):
    first, second = client.get("/"), client.get("/")
    nonces = [
        re.search("script-src 'nonce-([^']+)'", page.headers["content-security-policy"])[1]
        for page in (first, second)
    ]
    assert nonces[0] != nonces[1]
    assert first.headers["content-security-policy"].startswith("default-src 'none'; ")
    for tag in ("script", "style"):
        assert re.findall(f"<{tag}[^>]*>", first.text) == [f'<{tag} nonce="{nonces[0]}">']
    assert "NONCE" not in first.text and "://" not in first.text and "innerHTML" not in first.text


def test_other_names_of_the_host_are_refused(client):
    for host, status in {"evil.example": 400, "localhost:8000": 200, "[::1]:8000": 200}.items():
        assert client.get("/health", headers={"Host": host}).status_code == status


def test_answers_are_logged_and_texts_only_if_asked(folder, tmp_path, classifier):
    for with_texts in (False, True):
        log = tmp_path / str(with_texts)
        source = Source(folder, "birds", log=log, with_texts=with_texts)
        client = client_of(ServingModel(source))
        client.post("/predict", json={"texts": MIXED})
        client.post("/explain", json={"text": MIXED[0]})
        rows = read_log(log)
        texts = [*MIXED, MIXED[0]]
        expected = classifier.predict(texts)["label"].tolist()
        assert rows["label"].astype(object).where(rows["label"].notna(), None).tolist() == expected
        assert set(rows["source"]) == {"serve"}
        assert ("text" in rows) == with_texts
        assert not with_texts or rows["text"].tolist() == texts


def test_a_log_that_cannot_be_written_is_a_warning(folder, tmp_path, caplog, classifier):
    log = tmp_path / "log"
    client = client_of(ServingModel(Source(folder, "birds", log=log)))
    log.write_text("in the way")
    found = client.post("/predict", json={"texts": MIXED}).json()
    assert found["answers"] == expected_answers(classifier, MIXED)
    (record,) = caplog.records
    assert record.getMessage().startswith("predictions are not logged: cannot write the log")


class Slow:
    """A model that notes what it was asked, and fails on some texts."""

    version = "slow"

    def __init__(self):
        self.asked = []

    def predict(self, texts):
        time.sleep(0.05)
        self.asked.append(texts)
        if "bad" in texts:
            raise ZeroDivisionError("secret")
        return np.array(texts)


def test_requests_that_wait_share_a_prediction_and_no_failure():
    async def ask_all(requests):
        batches = Batches(serving)
        first = asyncio.create_task(batches.answer(["first"]))
        await asyncio.sleep(0.03)
        gone = asyncio.create_task(batches.answer(["gone"]))
        tasks = [asyncio.create_task(batches.answer(texts)) for texts in requests]
        await asyncio.sleep(0)
        gone.cancel()
        return await asyncio.gather(first, *tasks, return_exceptions=True)

    serving = type("Serving", (), {"current": Slow()})()
    requests = [["a", "b"], ["c"] * 63, ["d"]]
    found = asyncio.run(ask_all(requests))
    assert serving.current.asked == [["first"], ["gone", "a", "b"], ["c"] * 63 + ["d"]]
    assert [table.tolist() for _, table in found] == [["first"], *requests]
    serving.current.asked.clear()
    _, a, bad, c = asyncio.run(ask_all([["a"], ["bad"], ["c"]]))
    assert isinstance(bad, ZeroDivisionError)
    assert (a[1].tolist(), c[1].tolist()) == (["a"], ["c"])


def test_one_half_of_the_clients_is_answered_while_the_other_half_asks():
    async def ask_five_times(batches, name):
        for _ in range(5):
            await batches.answer([name])

    async def all_clients():
        batches = Batches(serving)
        await asyncio.gather(*(ask_five_times(batches, f"client {i}") for i in range(8)))

    serving = type("Serving", (), {"current": Slow()})()
    asyncio.run(all_clients())
    halves = [[f"client {i}" for i in part] for part in (range(4), range(4, 8))]
    assert serving.current.asked == halves * 5


def test_a_failing_classifier_is_one_sentence_and_a_place_in_the_log(
    client, serving, caplog, monkeypatch
):
    def fails(texts, **_):
        raise RuntimeError(f"cannot use {texts}")

    object.__setattr__(serving.current.classifier, "predict", fails)
    for path in ("/predict", "/explain"):
        response = client.post(path, json={"text": "secret"})
        words = "The classifier failed; the server's log says where."
        assert (response.status_code, response.json()) == (500, {"detail": words})
    assert "RuntimeError" in caplog.text and "in fails" in caplog.text
    assert "secret" not in caplog.text


ROWS = sealed_rows()


@pytest.fixture(scope="module")
def home(tmp_path_factory, mlflow_template):
    """A home with three registered classifiers, which answer differently."""
    home = tmp_path_factory.mktemp("home")
    (home / "models" / "mlflow").mkdir(parents=True)
    shutil.copy(mlflow_template, home / "models" / "mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(home))
        for scale, run in enumerate(("one", "two", "three"), start=1):
            classifier = linear_classifier(home / run, scale=scale)
            finished_run(run, answers(ROWS), classifier=classifier, train=run)
            registry.register(run)
        yield home


def champion(number):
    """Make a version the champion, as a promotion does."""
    with registry.store.locked("") as client:
        version = registry.store.find_label(f"{NAME}-v1.{number}.0")
        client.set_registered_model_alias(NAME, "champion", version.number)
    return version


def probs_of(home, run):
    return Classifier.load(home / "models" / run / "classifier").predict_probs(TEXTS)


def served_probs(client):
    found = client.post("/predict", json={"texts": TEXTS}).json()
    probs = [[answer["probabilities"][name] for name in CLASSES] for answer in found["answers"]]
    return found["model"], np.array(probs)


def test_a_new_champion_takes_over_and_a_bad_one_does_not(home, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "uvicorn.error")
    champion(0)
    source = find_source(NAME)
    assert (source.version, source.name) == (f"{NAME}-v1.0.0", f"{NAME}@champion")
    serving = ServingModel(source)
    client = client_of(serving)

    expected = {run: probs_of(home, run) for run in ("one", "two", "three")}

    def now(run, version):
        serving.refresh()
        found, probs = served_probs(client)
        assert found == f"{NAME}-v{version}"
        np.testing.assert_array_equal(probs, expected[run])

    now("one", "1.0.0")
    assert caplog.messages == []
    champion(1)
    now("two", "1.1.0")
    assert caplog.messages == [f"{NAME}-v1.1.0 answers from now on"]
    (path,) = home.glob(f"models/mlflow/artifacts/*/artifacts/{NAME}-v1.2.0/**/classifier.json")
    damaged = path.parent
    (damaged / "classifier.json").rename(damaged / "aside.json")
    champion(2)
    caplog.clear()
    pauses = []
    for _ in range(8):
        now("two", "1.1.0")
        pauses.append(serving.pause)
    assert pauses == [20, 40, 80, 160, 320, 600, 600, 600]
    (line,) = caplog.messages
    assert line.startswith(f"{NAME}-v1.1.0 goes on answering: the files of {NAME}-v1.2.0 in the ")
    (damaged / "aside.json").rename(damaged / "classifier.json")
    now("three", "1.2.0")
    assert serving.pause == 10
    with registry.store.locked("") as mlflow:
        mlflow.delete_registered_model_alias(NAME, "champion")
    shutil.rmtree(home / "models" / "registry_cache")
    now("three", "1.2.0")
    assert caplog.messages[-1].startswith(
        f"{NAME}-v1.2.0 goes on answering: no classifier '{NAME}@champion'; in the registry: "
    )
    monkeypatch.setattr(registry.store, "LOCK_SECONDS", 0.05)
    with FileLock(home / "models" / "mlflow" / ".registry.lock"):
        now("three", "1.2.0")
    assert "the model registry is in use by " in caplog.messages[-1]
    monkeypatch.setattr(Classifier, "load", lambda folder: 1 / 0)
    champion(0)
    now("three", "1.2.0")
    assert caplog.messages[-1] == f"{NAME}-v1.2.0 goes on answering: ZeroDivisionError"


def test_a_folder_and_an_exact_version_are_not_followed(home, folder, classifier):
    assert find_source(f"{NAME}-v1.1.0").name == ""
    source = find_source(str(folder))
    assert source.name == "" and re.fullmatch("[0-9a-f]{12}", source.version)


def refused(*words):
    result = CliRunner().invoke(main, ["serve", *map(str, words)])
    assert result.exit_code == 1 and result.output.count("\n") == 1, result.output
    assert len(result.output) <= 310
    return result.output


def test_what_cannot_be_served_is_one_line(home, folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refused(folder, "--port", port) == (
            f"workbook: cannot serve at '127.0.0.1', port {port}: Address already in use; name "
            "another with --port or --host\n"
        )
    assert refused(folder, "--port", 0, "--host", "192.0.2.1").startswith(
        "workbook: cannot serve at '192.0.2.1', port 0: "
    )
    assert "port 0: Name or service not known; name another" in refused(
        folder, "--port", 0, "--host", "no such host"
    )
    assert refused("nothing", "--port", 0).startswith("workbook: no classifier 'nothing'; in the")
    assert refused(folder, "--port", 0, "--log-texts").startswith(
        "workbook: --log-texts needs --log FOLDER"
    )
    shutil.copytree(folder, tmp_path / "damaged")
    weights = tmp_path / "damaged" / "members" / "TF-IDF" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for workers in (1, 2):
        assert "is not the file that was saved" in refused(
            tmp_path / "damaged", "--port", 0, "--workers", workers
        )


class AskingClient(threading.Thread):
    """A client that asks without a pause, and notes each answer."""

    def __init__(self, address, number):
        super().__init__()
        self.address = address
        self.row = number
        self.found = []
        self.errors = []
        self.is_over = False

    def run(self):
        with httpx.Client(base_url=self.address, timeout=60) as client:
            while not self.is_over:
                self.row = (self.row + 1) % len(TEXTS)
                try:
                    answer = client.post("/predict", json={"text": TEXTS[self.row]}).json()
                    probs = answer["answers"][0]["probabilities"]
                    self.found.append((self.row, answer["model"], list(probs.values())))
                except (httpx.HTTPError, ValueError, KeyError) as error:
                    self.errors.append(repr(error))


@contextmanager
def asking(address, n):
    clients = [AskingClient(address, number) for number in range(n)]
    for client in clients:
        client.start()
    yield clients
    for client in clients:
        client.is_over = True
    for client in clients:
        client.join()


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def started(folder, *words, n_workers=1):
    """Start a server and give its process, its address and what counts lines of its output."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "lib.delivery.cli", "serve", *words, "--port", port]
    path = folder / "output"
    with path.open("w") as output:
        process = subprocess.Popen(list(map(str, command)), stderr=output, stdout=output)

    def n_lines(words):
        assert process.poll() is None, path.read_text()
        return path.read_text().count(words)

    try:
        wait_until(lambda: n_lines("startup complete") == n_workers)
        yield process, f"http://127.0.0.1:{port}", n_lines
        assert process.wait(60) == 0 and "Traceback" not in path.read_text(), path.read_text()
    finally:
        process.kill()


def test_under_load_a_swap_loses_nothing_and_a_stop_finishes_what_runs(home, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(home))
    champion(0)
    words = (NAME, "--poll", 0.2, "--log", tmp_path / "log")
    with started(tmp_path, *words) as (process, address, n_lines):
        with asking(address, 16) as clients:
            wait_until(lambda: all(client.found for client in clients))
            champion(1)
            wait_until(lambda: n_lines("answers from now on"))
            n_before = [len(client.found) for client in clients]
            wait_until(lambda: all(len(c.found) > n + 2 for c, n in zip(clients, n_before)))
        found = [answer for client in clients for answer in client.found]
        assert [error for client in clients for error in client.errors] == []
        expected = {
            f"{NAME}-v1.0.0": probs_of(home, "one"),
            f"{NAME}-v1.1.0": probs_of(home, "two"),
        }
        assert {model for _, model, _ in found} == set(expected)
        for row, model, probs in found:
            np.testing.assert_allclose(probs, expected[model][row], rtol=1e-9)
        assert len(read_log(tmp_path / "log")) == len(found)
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        assert f'workbook_model{{version="{NAME}-v1.0.0"}} 0.0' in lines
        assert f'workbook_model{{version="{NAME}-v1.1.0"}} 1.0' in lines
        with asking(address, 4) as clients:
            wait_until(lambda: min(len(client.found) for client in clients) > 3)
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        errors = Counter(error for client in clients for error in client.errors)
        # where nobody listens any more, or the server has just closed a connection that was idle
        refused = ("ConnectError", "RemoteProtocolError", "ReadError", "WriteError")
        assert errors and all(error.startswith(refused) for error in errors), errors
        n_answered = len(found) + sum(len(client.found) for client in clients)
        assert len(read_log(tmp_path / "log")) == n_answered


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return {pid for pid, command in commands.items() if b"spawn_main" in command}


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_killed_worker_is_replaced_and_its_counts_are_kept(folder, classifier, tmp_path):
    with started(tmp_path, folder, "--workers", 2, n_workers=2) as (process, address, n_lines):

        def ask(n):
            return [httpx.post(f"{address}/predict", json={"texts": MIXED}) for _ in range(n)]

        ask(8)
        before = workers_of(process)
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: n_lines("startup complete") == 3)
        assert len(workers_of(process) - before) == 1 == len(workers_of(process) & before)
        for response in ask(8):
            assert response.json()["answers"] == expected_answers(classifier, MIXED)
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        assert f"workbook_texts_total {16.0 * len(MIXED)}" in lines
        process.send_signal(signal.SIGTERM)


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_what_the_guide_asks_with_curl_is_answered(folder, tmp_path):
    guide = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
    lines = re.findall("^curl .*", guide, re.MULTILINE)
    (tmp_path / "texts.csv").write_text("text\nthe only one\n", encoding="utf-8")
    n_answers = []
    with started(tmp_path, folder) as (process, address, _):
        for line in lines:
            command = shlex.split(line.replace("http://127.0.0.1:8000", address))
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
            n_answers.append(len(json.loads(done.stdout)["answers"]))
        process.send_signal(signal.SIGTERM)
    assert n_answers == [2, 1]
