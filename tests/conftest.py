"""What several test files share: the embedded data set, harvested once, and a whole run in the
smoke profile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[1]
# any string is the name of a class: also those that tables, formulas and formats have a use for
ODD_NAMES = [
    *("All", "all classes", "rows", "index", "count", "text", "label", "row_id", "fold", "p: x"),
    *("nan", "NA", "null", "None", "True", "1", "neg ", " pos", "_x", "$x$ and $y_1$", "'=1", "=1"),
    *("<b>bold</b>", "a, b", 'say "yes"', "two\nlines", "tab\there", "x" * 200, "数学", "é\u0301"),
]
NEWSGROUPS = REPOSITORY.parent / "shared" / "data" / "newsgroups.parquet"


def pytest_configure(config):
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["YDATA_PROFILING_NO_ANALYTICS"] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # gcsfs reads this when it is imported: without it, it asks for each bucket's type over gRPC,
    # which no stand-in answers, and waits for minutes
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in its own
def pytest_collection_modifyitems(items):
    """Let the tests of a file share a process, and so what its fixtures make, unless they say
    otherwise."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory, worker_id):
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def docstrings_file(shared_folder):
    """The raw file of the whole embedded data set."""
    from lib import workspace
    from lib.config import Config
    from lib.data import sources

    home = shared_folder / "harvest"
    with FileLock(shared_folder / "harvest.lock"):
        os.environ["WORKBOOK_HOME"] = str(home)
        try:
            path = sources.raw_path(Config.load("quick"))
            if not path.exists():
                sources.raw_table(Config.load("quick"), progress=False)
        finally:
            del os.environ["WORKBOOK_HOME"]
    assert workspace.read_facts(path)["rows"] == 20_000
    return path


@pytest.fixture(scope="module")
def one_thread():
    """torch with one thread: of small tensors several make nothing faster, and a sum depends on how
    it is shared."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def odd_names():
    return ODD_NAMES


@pytest.fixture(params=ODD_NAMES, ids=lambda name: ascii(name)[:20])
def odd_name(request):
    return request.param


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home for one test."""
    folder = tmp_path / "home"
    monkeypatch.setenv("WORKBOOK_HOME", str(folder))
    folder.mkdir()
    return folder


@pytest.fixture
def write(tmp_path):
    """Write bytes or text below the test's folder and return the path as a source."""

    def write_one(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write_one


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory):
    """An empty MLflow store, made once; making one takes seconds."""
    from lib.training import mlflow_store

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(tmp_path_factory.mktemp("mlflow")))
        mlflow_store.connect().search_experiments()
        return mlflow_store.local_folder() / "mlflow.db"


@pytest.fixture(scope="session")
def make_home(docstrings_file, tmp_path_factory):
    """Make homes that have the embedded data set already."""

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        (folder / "data" / "raw").mkdir(parents=True)
        shutil.copy(docstrings_file, folder / "data" / "raw")
        return folder

    return make


@pytest.fixture(scope="session")
def smoke_home(docstrings_file, shared_folder):
    """A home with one whole run in the smoke profile, made once; tests that change it take a
    copy."""
    folder = shared_folder / "smoke"
    is_made = shared_folder / "smoke.made"
    with FileLock(shared_folder / "smoke.lock"):
        if not is_made.exists():
            (folder / "data" / "raw").mkdir(parents=True, exist_ok=True)
            shutil.copy(docstrings_file, folder / "data" / "raw")
            finished = workbook("run", "--profile", "smoke", "--quiet", home=folder)
            assert finished.returncode == 0, finished.stderr
            is_made.touch()
    return folder


def workbook(*words, home, cwd=None, **options):
    """Run the command line in a process of its own."""
    environment = {**os.environ, "WORKBOOK_HOME": str(home), **options.pop("env", {})}
    command = [sys.executable, "-m", "lib.delivery.cli", *map(str, words)]
    return subprocess.run(
        command,
        env=environment,
        cwd=cwd or REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        **options,
    )
