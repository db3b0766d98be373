import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY
from three_classes import linear_classifier

from lib import provenance
from lib.delivery.monitoring import prediction_log
from lib.delivery.monitoring.prediction_log import (
    PredictionLog,
    model_fingerprint,
    read_log,
    rows_of,
)
from lib.errors import WorkbookError

TEXTS = ["the crow and the owl", "<b>the saw</b> of Дом\u2028x\ny", None]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return linear_classifier(tmp_path_factory.mktemp("linear"))


def logged(folder, classifier, **options):
    log = PredictionLog(folder, classifier, **options)
    log.append(TEXTS, classifier.predict(TEXTS), source="serve")
    return log


def test_what_is_logged_reads_back(tmp_path, classifier):
    logged(tmp_path / "log", classifier)
    answers = classifier.predict(TEXTS)
    rows = read_log(tmp_path / "log")
    assert rows["label"].tolist() == ["bird", "tool", None]
    pd.testing.assert_series_equal(rows["confidence"], answers["confidence"], atol=1e-6)
    pd.testing.assert_series_equal(rows["ood_score"], answers["ood_score"], atol=1e-6)
    assert rows["abstained"].tolist() == [False, False, True]
    assert rows["reason"].tolist() == ["", "", "null"]
    assert rows["source"].tolist() == ["serve"] * 3
    assert rows["model"].tolist() == [model_fingerprint(classifier)] * 3
    assert rows["text_fingerprint"].tolist() == [
        *map(provenance.text_fingerprint, TEXTS[:2]),
        None,
    ]
    assert rows["n_characters"].tolist() == [20, 25, 0]
    assert len(rows["embedding"][0]) == 16 and rows["embedding"][2] is None
    age = pd.Timestamp.now("UTC") - rows["time"]
    assert age.between(pd.Timedelta(0), pd.Timedelta("1min")).all()
    assert rows.attrs["n_damaged"] == 0


def test_no_text_is_logged_unless_it_is_asked_for(tmp_path, classifier):
    logged(tmp_path / "without", classifier)
    (path,) = (tmp_path / "without").iterdir()
    content = path.read_text(encoding="utf-8")
    assert "crow" not in content and "saw" not in content
    assert "text" not in read_log(tmp_path / "without")
    logged(tmp_path / "with", classifier, with_texts=True)
    assert read_log(tmp_path / "with")["text"].tolist() == TEXTS


def test_a_lone_surrogate_is_logged_as_a_question_mark(tmp_path, classifier):
    log = PredictionLog(tmp_path, classifier, with_texts=True)
    log.append(["the owl \ud83d"], classifier.predict(["the owl \ud83d"]), source="serve")
    assert read_log(tmp_path)["text"].tolist() == ["the owl ?"]


def test_threads_lose_no_row(tmp_path, classifier):
    log = PredictionLog(tmp_path, classifier)
    answers = classifier.predict(TEXTS)
    threads = [
        threading.Thread(
            target=lambda: [log.append(TEXTS, answers, source="serve") for _ in range(20)]
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_log(tmp_path)) == 8 * 20 * 3
    assert len(list(tmp_path.iterdir())) == 1


def test_two_processes_write_two_files(tmp_path, classifier, monkeypatch):
    log = logged(tmp_path, classifier)
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as after a fork
    log.append(TEXTS, classifier.predict(TEXTS), source="serve")
    assert len(list(tmp_path.iterdir())) == 2
    assert len(read_log(tmp_path)) == 6


def test_a_last_line_that_is_not_whole_is_left_out_and_counted(tmp_path, classifier):
    logged(tmp_path, classifier)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    rows = read_log(tmp_path)
    assert rows["label"].tolist() == ["bird", "tool"]
    assert rows.attrs["n_damaged"] == 1


def test_a_killed_process_leaves_whole_lines(tmp_path, classifier):
    code = (
        "import sys; from pathlib import Path; from lib.training.classifier import Classifier;"
        "from lib.delivery.monitoring.prediction_log import PredictionLog;"
        "c = Classifier.load(sys.argv[1]); log = PredictionLog(Path(sys.argv[2]), c);"
        "t = ['the crow flies'] * 200; a = c.predict(t);"
        "exec('while True: log.append(t, a, source=str(1))')"
    )
    folder = classifier.members[0].folder.parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "log")],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "log").glob("*.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    rows = read_log(tmp_path / "log")
    assert len(rows) and set(rows["label"]) == {"bird"}
    assert len(rows) % 200 == 0 or rows.attrs["n_damaged"] == 1


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, classifier, monkeypatch):
    log = logged(tmp_path, classifier)
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def tell(self):
            return self.file.tell()

        def write(self, content):
            return self.file.write(content[:10])

        def truncate(self, size):
            return self.file.truncate(size)

    real = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: Full(real(self, *a, **k)))
    with pytest.raises(WorkbookError, match="No space left on device; make room"):
        log.append(TEXTS, classifier.predict(TEXTS), source="serve")
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path, classifier):
    (tmp_path / "file").write_text("")
    log = PredictionLog(tmp_path / "file", classifier)
    with pytest.raises(WorkbookError, match=r"cannot write the log of predictions .*file"):
        log.append(TEXTS, classifier.predict(TEXTS), source="serve")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"time": "2026-01-01"}\n', "is no log of predictions: a row lacks time, model"),
        ("secret\n", "JSON parse error: Invalid value. in row 0"),
        ('{"time": 3, "model": "m"}\n', "changed from string to number in row 0"),
    ],
)
def test_another_file_is_named_and_not_quoted(tmp_path, content, said):
    (tmp_path / "other.jsonl").write_text(content)
    with pytest.raises(WorkbookError, match=said) as error:
        read_log(tmp_path)
    assert "other.jsonl" in str(error.value) and "secret" not in str(error.value)
    assert len(str(error.value)) <= 300


def test_a_folder_without_a_log_is_an_error(tmp_path):
    with pytest.raises(WorkbookError, match="has no log of predictions"):
        read_log(tmp_path)


def test_texts_and_answers_belong_together(tmp_path, classifier):
    with pytest.raises(WorkbookError, match="3 texts and 2 answers"):
        PredictionLog(tmp_path, classifier).append(
            TEXTS, classifier.predict(TEXTS[:2]), source="serve"
        )


def test_a_model_is_told_from_others_wherever_it_lies(tmp_path, classifier):
    classifier.save(tmp_path / "copy")
    copy = type(classifier).load(tmp_path / "copy")
    assert model_fingerprint(copy) == model_fingerprint(classifier)
    assert model_fingerprint(replace(copy, abstain_below=0.5)) != model_fingerprint(copy)


def test_a_row_is_a_line_of_json(tmp_path, classifier):
    logged(tmp_path, classifier)
    (path,) = tmp_path.iterdir()
    lines = path.read_text(encoding="utf-8").split("\n")
    assert len(lines) == 4 and lines[3] == ""
    assert set(json.loads(lines[0])) == set(prediction_log._SCHEMA.names) - {"text"}


def test_rows_of_another_classifier_are_left_out_and_a_log_without_its_own_is_an_error(
    tmp_path, classifier
):
    logged(tmp_path, classifier)
    other = replace(classifier, abstain_below=0.9)
    with pytest.raises(WorkbookError, match="3 predictions, and none by this classifier") as error:
        rows_of(read_log(tmp_path), other)
    assert model_fingerprint(classifier) in str(error.value) and len(str(error.value)) <= 300
    PredictionLog(tmp_path, other).append(TEXTS[:1], other.predict(TEXTS[:1]), source="serve")
    assert len(rows_of(read_log(tmp_path), other)) == 1
    assert len(rows_of(read_log(tmp_path), classifier)) == 3
