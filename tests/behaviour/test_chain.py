"""The whole chain as a user meets it: killed and resumed, repeated, skipped, by hand, in a
browser."""

import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from browser import browser, needs_browser, requests_of, violations
from conftest import NEWSGROUPS, REPOSITORY, workbook
from mlflow import MlflowClient
from test_notebooks import UP_TO_03, assert_same_tables

from lib import workspace
from lib.delivery.pyfunc_model import classifier_in
from lib.steps import STEPS
from lib.training import classifier_folder
from lib.training.classifier import Classifier


def pages(home, run="smoke"):
    return [home / "reports" / run / f"{step.notebook}.html" for step in STEPS]


@pytest.mark.xdist_group("chain-a")
def test_a_finished_run_is_skipped_and_a_change_runs_what_depends_on_it(smoke_home, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(smoke_home, home)
    again = workbook("run", "--profile", "smoke", "--quiet", home=home)
    assert f"0 notebooks run, {len(STEPS)} up to date" in again.stdout, again.stderr
    changed = workbook(
        "run", "--profile", "smoke", "--quiet", "--set", "evaluation.n_mistakes=3", home=home
    )
    assert f"1 notebooks run, {len(STEPS) - 1} up to date" in changed.stdout, changed.stderr
    ledger = (home / "data/processed/docstrings/sealed_ledger.jsonl").read_text().splitlines()
    assert len(ledger) == 2
    (home / "data/processed/docstrings/smoke/clean.parquet").unlink()
    partly = workbook(
        "run",
        "--profile",
        "smoke",
        "--quiet",
        "--to",
        "02",
        "--set",
        "evaluation.n_mistakes=3",
        home=home,
    )
    assert "1 notebooks run, 1 up to date" in partly.stdout, partly.stderr


@pytest.mark.xdist_group("chain-a")
def test_decisions_in_the_queue_are_recorded_and_replayed(smoke_home, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(smoke_home, home)
    queue = home / "reports/smoke/review_queue.csv"
    filled = pd.read_csv(queue, dtype=str, keep_default_na=False)
    filled.loc[0, ["decision", "why"]] = ["drop", "not a text"]
    filled.to_csv(queue, index=False)
    finished = workbook("run", "--profile", "smoke", "--quiet", "--to", "03", home=home)
    assert "1 notebooks run, 2 up to date" in finished.stdout, finished.stderr
    recorded = pd.read_csv(
        home / "data/review/docstrings/decisions.csv", dtype=str, keep_default_na=False
    )
    assert recorded[["fingerprint", "decision", "why"]].to_numpy().tolist() == [
        [filled.loc[0, "fingerprint"], "drop", "not a text"]
    ]
    kept = sum(
        len(workspace.read_table(home / f"data/processed/docstrings/smoke/{split}.parquet"))
        for split in ("train", "val", "test")
    )
    assert (
        kept
        == len(workspace.read_table(home / "data/processed/docstrings/smoke/clean.parquet")) - 1
    )


@pytest.mark.xdist_group("chain-a")
def test_a_finished_run_is_registered_promoted_and_compared_without_another_look(
    smoke_home, tmp_path
):
    home = tmp_path / "home"
    shutil.copytree(smoke_home, home)
    for words, said in (
        (("register", "smoke"), "tiny-v1.0.0"),
        (("promote", "tiny-v1.0.0"), "there was none to beat"),
        (("compare", "smoke", "smoke"), "is not significantly different"),
    ):
        done = workbook(*words, home=home)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
    client = MlflowClient(f"sqlite:///{home / 'models/mlflow/mlflow.db'}")
    champion = client.get_model_version_by_alias("tiny", "champion")
    folder = client.download_artifacts(champion.run_id, "tiny-v1.0.0/model", str(tmp_path))
    classifier = Classifier.load(classifier_in(Path(folder)), runtime="torch")
    assert_answers_as_measured(classifier, smoke_home)
    looks = [
        json.loads(line)["model"]
        for line in (home / "data/processed/docstrings/sealed_ledger.jsonl")
        .read_text()
        .splitlines()
    ]
    assert len(looks) == 2 and len(set(looks)) == 1


def assert_answers_as_measured(classifier, home):
    """Check a classifier on the raw texts of the test rows against notebook 07's probabilities."""
    measured = workspace.read_table(home / "models/smoke/test_probs.parquet")
    raw = workspace.read_table(home / "data/raw/docstrings.parquet").set_index("row_id")
    columns = [f"ensemble: {label}" for label in classifier.class_names]
    probs = classifier.predict_probs(raw["text"].loc[measured["row_id"]])
    np.testing.assert_allclose(probs, measured[columns].to_numpy(), rtol=0, atol=1e-6)
    names = np.array(classifier.class_names, dtype=object)
    assert measured["ensemble"].tolist() == names[classifier.decision.labels(probs)].tolist()


@pytest.mark.xdist_group("chain-a")
def test_the_classifier_of_a_run_is_what_was_measured(smoke_home):
    folder = smoke_home / "models/smoke/classifier"
    classifier = Classifier.load(folder)
    assert_answers_as_measured(classifier, smoke_home)
    metrics = workspace.read_json(smoke_home / "reports/smoke/metrics.json")
    assert metrics["fingerprints"] == {"classifier": classifier_folder.fingerprint(folder)}
    assert classifier.origin["dataset"] == "docstrings"
    assert sorted(classifier.set_thresholds) == [0.8, 0.9, 0.95, 0.99]
    for path in folder.rglob("*"):
        assert path.is_dir() or str(smoke_home).encode() not in path.read_bytes()


@pytest.mark.xdist_group("chain-a")
def test_the_report_states_scores_with_intervals_and_a_verdict(smoke_home):
    index = (smoke_home / "reports/smoke/index.html").read_text()
    metrics = workspace.read_json(smoke_home / "reports/smoke/metrics.json")
    assert set(metrics["models"]) == {"TF-IDF baseline", "transformer", "ensemble"}
    for scores in metrics["models"].values():
        for name in ("accuracy", "macro_f1"):
            interval = scores["intervals"][name]
            assert interval["low"] <= interval["value"] <= interval["high"]
            assert (
                f'{interval["value"]:.3f} <span class="interval">[{interval["low"]:.3f}, '
                f"{interval['high']:.3f}]" in index
            )
    assert all(
        metrics[verdict] in html.unescape(index) for verdict in ("verdict", "ensemble_verdict")
    )
    assert (
        "Who has looked at the sealed test set?" in index
        and "final evaluation, notebook 07" in index
    )
    record = workspace.read_json(smoke_home / "reports/smoke/run.json")
    assert record["settings"]["training.backbone"] == "tiny"
    assert record["machine"]["versions"]["torch"].startswith("2.13.0")
    assert len(record["data"]["fingerprint"]) == 64
    assert all(record["steps"][step.notebook]["seconds"] > 0 for step in STEPS)


@pytest.mark.xdist_group("chain-a")
def test_pages_need_no_network_and_every_link_leads_somewhere(smoke_home):
    from selectolax.lexbor import LexborHTMLParser

    folder = smoke_home / "reports/smoke"
    for page in (*pages(smoke_home), folder / "index.html"):
        document = LexborHTMLParser(page.read_text(encoding="utf-8"))
        assert not [
            node
            for node in document.css("script[src], link[href], img[src]")
            if not (node.attributes.get("src") or "").startswith("data:")
        ], page.name
        ids = {node.attributes["id"] for node in document.css("[id]")}
        for link in document.css("a[href]"):
            target = link.attributes["href"]
            assert (target.startswith("#") and target[1:] in ids) or (folder / target).exists(), (
                page.name,
                target,
            )
        assert all(node.attributes["alt"].startswith("Figure: ") for node in document.css("img")), (
            page.name
        )
    linked = {link.attributes["href"] for link in document.css("a[href$='.html']")}
    assert linked == {f"{step.notebook}.html" for step in STEPS} | {"data_profile.html"}


@pytest.mark.xdist_group("chain-b")
def test_plain_papermill_works_from_the_repository_and_from_notebooks(make_home, tmp_path):
    home = make_home("papermill")
    for folder, name in (
        (REPOSITORY, "02_clean_and_split"),
        (REPOSITORY / "notebooks", "03_review_labels"),
    ):
        source = (REPOSITORY / "notebooks" / f"{name}.ipynb").relative_to(folder)
        options = "-p profile smoke -k python3 --no-progress-bar".split()
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(source),
            str(tmp_path / f"{name}.ipynb"),
            *options,
        ]
        finished = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "WORKBOOK_HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
    assert len(workspace.read_table(home / "data/processed/docstrings/smoke/clean.parquet")) > 590


@pytest.mark.xdist_group("chain-b")
def test_a_failing_cell_is_shown_with_its_notebook_and_heading(make_home):
    home = make_home("failing")
    failed = workbook("run", "--profile", "smoke", "--quiet", "--from", "04", home=home)
    assert failed.returncode == 1 and "run 02_clean_and_split first" in failed.stderr
    broken = workbook(
        "run",
        "--profile",
        "smoke",
        "--quiet",
        "--from",
        "02",
        "--to",
        "02",
        "--set",
        "cleaning.min_words=2000",
        home=home,
    )
    assert broken.returncode == 1
    assert (
        "02_clean_and_split stopped under 'Are the splits the right size?': docstrings, after "
        "cleaning: classes with" in broken.stderr
    )
    kept = home / "reports/smoke/02_clean_and_split.failed.ipynb"
    assert any(cell.get("outputs") for cell in nbformat.read(kept, as_version=4).cells)
    assert not (home / "data/processed/docstrings/smoke/clean.parquet").exists()
    assert "Traceback" not in broken.stderr


@pytest.mark.xdist_group("chain-b")
def test_splits_that_the_data_give_are_kept_and_copies_in_later_ones_go(tmp_path, home):
    lines = [
        "text,label,part",
        *(
            f"the {kind} text number {i * 7} speaks of {kind} things at length and of the number "
            f"{i},{kind},train"
            for i in range(40)
            for kind in ("red", "blue")
        ),
    ]
    lines += [
        f"a later {kind} text with the number {i * 11} is all about {kind} things and number "
        f"{i},{kind},test"
        for i in range(10)
        for kind in ("red", "blue")
    ]
    lines += [
        lines[1].replace(",train", ",test"),
        f"{lines[2].rsplit(',', 2)[0]}!,blue,test",
    ]  # an exact copy and a near one
    source = tmp_path / "given.csv"
    source.write_text("\n".join(lines) + "\n")
    finished = workbook(
        "run",
        "--data",
        source,
        "--set",
        "data.split_column=part",
        "--profile",
        "smoke",
        "--run",
        "given",
        "--quiet",
        "--from",
        "02",
        "--to",
        "02",
        home=home,
    )
    assert finished.returncode == 0, finished.stderr
    (folder,) = (home / "data/processed").glob("*/given")
    clean, dropped = (
        workspace.read_table(folder / f"{name}.parquet") for name in ("clean", "dropped")
    )
    assert clean["split"].value_counts().to_dict() == {"train": 64, "test": 22, "val": 14}
    assert set(clean.loc[clean["split"] == "test", "row_id"]) == set(range(80, 102))
    assert dropped[["row_id", "rule", "same_as"]].values.tolist() == [
        [0, "exact_duplicate", 100],
        [1, "copy_in_later_split", 101],
    ]


@pytest.mark.xdist_group("chain-b")
@pytest.mark.skipif(
    not NEWSGROUPS.exists(),
    reason="the folder with newsgroups.parquet is not beside the repository",
)
def test_newsgroups_are_imported_cleaned_and_split(home):
    finished = workbook(
        "run",
        "--data",
        NEWSGROUPS,
        "--label-column",
        "label",
        "--profile",
        "smoke",
        "--run",
        "news",
        "--quiet",
        "--from",
        "02",
        "--to",
        "02",
        home=home,
    )
    assert finished.returncode == 0, finished.stderr
    (raw,) = (home / "data/raw").glob("newsgroups-*.parquet")
    assert len(workspace.read_table(raw)) == 17_872
    assert (
        workspace.read_table(home / "data/processed/newsgroups/news/clean.parquet")[
            "label"
        ].nunique()
        == 5
    )


@pytest.mark.xdist_group("chain-a")
@needs_browser
def test_pages_are_drawn_break_no_rule_of_accessibility_and_ask_for_nothing(smoke_home, tmp_path):
    from PIL import Image

    index = smoke_home / "reports/smoke/index.html"
    with browser() as chromium:
        for scheme in ("light", "dark"):
            tab = chromium.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 1600})
            asked = requests_of(tab)
            for page in (index, *pages(smoke_home)):
                tab.goto(page.as_uri())
                assert violations(tab) == [], page.name
            assert asked == []
        tab.goto(index.as_uri())
        tab.screenshot(path=tmp_path / "index.png")
    colours = Image.open(tmp_path / "index.png").convert("RGB").getcolors(maxcolors=1_000_000)
    assert len(colours) > 100 and max(n for n, _ in colours) < 0.99 * 1280 * 1600


@pytest.mark.xdist_group("chain-a")
def test_a_report_is_small_enough_to_be_mailed(smoke_home):
    folder = smoke_home / "reports/smoke"
    sizes = {page.name: page.stat().st_size for page in folder.glob("*.html")}
    assert {name: size for name, size in sizes.items() if size > 3e6} == {}
    assert sum(sizes.values()) < 15e6


@pytest.mark.xdist_group("chain-a")
def test_the_index_says_what_each_notebook_found_and_what_to_do_next(smoke_home):
    from selectolax.lexbor import LexborHTMLParser

    index = LexborHTMLParser((smoke_home / "reports/smoke/index.html").read_text(encoding="utf-8"))
    found = {
        row.css_first("th").text(): row.css_first("td").text()
        for row in index.css(".notebooks tbody tr")
    }
    for step in STEPS:
        assert len(found[step.notebook].removeprefix(step.question)) > 20, step.notebook
    assert "A demonstration, as nothing was logged" in found["10_monitor"]
    assert "ready" in index.css_first(".verdict").text().lower()
    assert 1 <= len(index.css(".next li")) <= 3
    assert len(index.css(".figures img")) == 2
    assert len(index.css(".flow li")) == 7


@pytest.mark.xdist_group("chain-b")
def test_a_run_killed_in_notebook_02_resumes_to_the_same_results(make_home, request):
    home = make_home("killed")
    command = [sys.executable, "-m", "lib.delivery.cli", "run", "--profile", "smoke", "--quiet"]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "WORKBOOK_HOME": str(home)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    record = home / "reports" / "smoke" / "run.json"
    deadline = time.monotonic() + 300

    def wait_for(step):
        while not (
            record.exists()
            and workspace.read_json(record)["steps"].get(step, {}).get("state") == "started"
        ):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)

    wait_for("01_profile_data")
    second = workbook("run", "--profile", "smoke", "--quiet", home=home)
    assert second.returncode == 1
    assert "run 'smoke' is in use by another process" in second.stderr
    wait_for("02_clean_and_split")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert workspace.read_json(record)["steps"]["02_clean_and_split"]["state"] == "started"

    resumed = workbook("run", "--profile", "smoke", "--quiet", "--to", "03", home=home)
    assert resumed.returncode == 0, resumed.stderr
    assert "2 notebooks run, 1 up to date" in resumed.stdout
    # last of all here: another process has made it meanwhile
    assert_same_tables(home, request.getfixturevalue("smoke_home"), *UP_TO_03)
    assert [path.name for path in home.rglob(".*") if path.is_dir()] == [], (
        "a killed run's scratch folders are cleared"
    )
