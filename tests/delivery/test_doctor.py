import platform
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata

import pytest

from lib import provenance
from lib.delivery import doctor
from lib.training import backbones


@pytest.fixture(autouse=True)
def _bare(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "not" / "there" / "yet"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def encoder(monkeypatch, tmp_path):
    """Stand in for the offline encoder, whose 90 MB take a moment to check."""
    monkeypatch.setattr(backbones, "offline_encoder", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    """Answer on a port of this machine with the status that a test sets."""

    class Answer(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self):
            self.send_response(self.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield Answer
    server.shutdown()
    server.server_close()


def test_the_report_has_a_line_for_every_fact(encoder, tmp_path):
    found = doctor.report()
    facts = [
        "Python",
        "system",
        "cores",
        "memory",
        "free disk",
        "device",
        "precision",
        "offline encoder",
        "hub",
        "commit",
    ]
    assert list(found) == [*facts, *provenance.VERSIONED]
    assert found["Python"] == platform.python_version()
    assert found["free disk"].endswith(f" GiB in {tmp_path / 'not' / 'there' / 'yet'}")
    assert found["precision"].endswith(" (weights float32)")
    assert found["transformers"] == metadata.version("transformers")
    assert not [name for name, line in found.items() if "\n" in line]
    assert not (tmp_path / "not").exists()


def test_the_offline_encoder_is_checked():
    assert (
        doctor.report()["offline encoder"] == f"{backbones.offline_encoder()} (SHA-256 as expected)"
    )


def test_a_damaged_offline_encoder_is_told_not_raised(monkeypatch):
    monkeypatch.setattr(backbones, "OFFLINE_SHA256", {"tokenizer.json": "0" * 64})
    assert doctor.report()["offline encoder"].startswith("unusable: ")


def test_a_missing_package_is_told(monkeypatch, encoder):
    monkeypatch.setattr(
        provenance, "package_version", lambda name: None if name == "scipy" else "1.0"
    )
    found = doctor.report()
    assert (found["scipy"], found["pandas"]) == ("not installed", "1.0")


def test_the_hub_is_not_asked_where_it_must_not_be(monkeypatch, encoder):
    monkeypatch.setattr(doctor.urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked"))
    assert doctor.report()["hub"] == "not asked: HF_HUB_OFFLINE is set"


@pytest.mark.parametrize("offline", [None, "0", ""])
def test_a_hub_that_is_not_there_is_not_reachable(monkeypatch, encoder, offline):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_HUB_OFFLINE") if offline is None else monkeypatch.setenv(
        "HF_HUB_OFFLINE", offline
    )
    line = doctor.report(timeout_seconds=2)["hub"]
    assert line.startswith("not reachable (")
    assert "refused" in line
    assert line.endswith("; `quick` and `smoke` need none")


def test_a_hub_that_answers_is_reachable(monkeypatch, encoder, hub):
    assert doctor.report()["hub"].startswith("reachable (http://127.0.0.1:")


def test_a_hub_that_refuses_is_not_reachable(monkeypatch, encoder, hub):
    hub.status = 503
    assert doctor.report()["hub"].startswith("not reachable (")


def test_an_address_that_is_none_is_told_not_raised(monkeypatch, encoder):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "huggingface.co")
    assert doctor.report()["hub"].startswith("not reachable (")
