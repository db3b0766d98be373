import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement

from tools import bootstrap

needs_a_shell = pytest.mark.skipif(
    os.name == "nt", reason="stands in for Python with a shell script"
)


@pytest.fixture(autouse=True)
def root(monkeypatch, tmp_path):
    """Let bootstrap work on a folder of its own, with this Python in the place of .venv's."""
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("numpy==1.26.4\n")
    venv = tmp_path / ".venv"
    for name, value in {
        "ROOT": tmp_path,
        "VENV": venv,
        "STAMP": venv / "installed",
        "PYTHON": Path(sys.executable),
    }.items():
        monkeypatch.setattr(bootstrap, name, value)
    return tmp_path


def write_stamp(content):
    bootstrap.VENV.mkdir(exist_ok=True)
    bootstrap.STAMP.write_text(content)


def stand_in(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", [(3, 11), (3, 12), (3, 13)])
def test_a_python_that_fits_is_no_problem(version):
    assert bootstrap.interpreter_problem(version) is None


@pytest.mark.parametrize(
    ("version", "found"), [((3, 10), "3.10"), ((3, 14), "3.14"), ((2, 7), "2.7"), ((4, 0), "4.0")]
)
def test_a_python_that_does_not_fit_is_named(version, found):
    problem = bootstrap.interpreter_problem(version)
    assert problem.startswith(f"Python {found} found, 3.11, 3.12 or 3.13 needed;")
    assert "make PYTHON=python3.11" in problem
    assert "\n" not in problem


NUMPY_1 = {"numpy==1.26.4", "pyarrow==24.0.0", "ml_dtypes==0.5.4", "textdescriptives==2.8.4"}
NUMPY_2 = {"numpy==2.5.5", "pyarrow==25.0.1", "ml_dtypes==0.6.0", "textdescriptives==2.8.2"}


@pytest.mark.parametrize(
    ("version", "own"), [("3.11", NUMPY_1), ("3.12", NUMPY_1), ("3.13", NUMPY_2)]
)
def test_each_python_has_one_version_of_each_package(version, own):
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()[1:]
    pins = [pin for pin in map(Requirement, lines) if fits(pin, version)]
    names = [pin.name for pin in pins]
    assert len(names) == len(set(names)) > 300
    assert {f"{pin.name}{pin.specifier}" for pin in pins if pin.marker} == own


def fits(pin, version):
    return pin.marker is None or pin.marker.evaluate({"python_version": version})


@pytest.mark.parametrize(("gpu", "needed"), [(None, 5), ("/usr/bin/nvidia-smi", 12)])
def test_a_small_disk_is_a_problem_and_a_gpus_libraries_need_more(monkeypatch, root, gpu, needed):
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: gpu)
    assert bootstrap.disk_problem(needed * 10**9 + 1) is None
    assert (
        bootstrap.disk_problem(needed * 10**9 - 10**8)
        == f"{needed - 0.1:.1f} GB free in {root}, {needed} GB needed; make room, or clone to a "
        "larger disk"
    )


def test_the_disk_is_measured_where_the_repository_is(monkeypatch, root):
    asked = []
    monkeypatch.setattr(
        bootstrap.shutil,
        "disk_usage",
        lambda path: asked.append(path) or SimpleNamespace(free=10**9),
    )
    assert bootstrap.disk_problem().startswith(f"1.0 GB free in {root}")
    assert asked == [root]


def test_without_a_stamp_or_a_python_nothing_is_current(monkeypatch, root):
    assert not bootstrap.is_current()
    write_stamp(bootstrap.stamp())
    assert bootstrap.is_current()
    monkeypatch.setattr(bootstrap, "PYTHON", root / ".venv" / "bin" / "python")
    assert not bootstrap.is_current()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_stamp_is_stale_once_a_file_that_names_packages_changes(root, name):
    write_stamp(bootstrap.stamp())
    (root / name).write_text("something else\n")
    assert not bootstrap.is_current()


def test_a_stamp_of_another_python_is_stale(monkeypatch):
    write_stamp(bootstrap.stamp())
    monkeypatch.setattr(sys, "version_info", (3, 12, 99))
    assert not bootstrap.is_current()


@needs_a_shell
def test_a_python_that_no_longer_runs_is_not_current(monkeypatch, root):
    write_stamp(bootstrap.stamp())
    monkeypatch.setattr(bootstrap, "PYTHON", stand_in(root / "python", "exit 1"))
    assert not bootstrap.is_current()


@pytest.fixture
def pip_alone(monkeypatch):
    """Take away what the machine tells pip, and keep proxies out of the way."""
    for name in [
        name
        for name in os.environ
        if name.upper().startswith("PIP_") or name.upper().endswith("_PROXY")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")


def test_an_index_that_cannot_be_reached_is_one_line(monkeypatch, pip_alone):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    problem = bootstrap.network_problem()
    assert problem.startswith("the package index cannot be reached (ERROR: ")
    assert problem.endswith("check the network, proxy or pip's configuration and run again")
    assert "\n" not in problem


def test_an_index_that_has_the_probe_is_no_problem(monkeypatch, pip_alone, tmp_path):
    name, version = bootstrap.PROBE.split("==")
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(tmp_path / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert bootstrap.network_problem() is None


@needs_a_shell
def test_a_venv_that_cannot_be_made_is_said_in_one_line(monkeypatch, root):
    monkeypatch.setattr(bootstrap, "PYTHON", root / "nothing")
    monkeypatch.setattr(
        sys,
        "executable",
        str(stand_in(root / "bare", "echo two; echo ensurepip is not available >&2; exit 1")),
    )
    assert (
        bootstrap.venv_problem()
        == f"cannot make {root / '.venv'} (ensurepip is not available); on Debian and Ubuntu: "
        "apt install python3-venv"
    )


def test_a_venv_that_runs_is_kept(root):
    write_stamp("of an earlier install")
    assert bootstrap.venv_problem() is None
    assert bootstrap.STAMP.read_text() == "of an earlier install"


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ({"OLDEST": (99, 0)}, "setup: Python "),
        ({"DISK_GB": {"posix-cpu": 10**9, "posix-cuda": 10**9}}, "GB needed; make room"),
    ],
    ids=["python", "disk"],
)
def test_main_says_a_problem_in_one_line_and_creates_nothing(
    monkeypatch, root, capsys, limit, words
):
    for name, value in {**limit, "PYTHON": root / ".venv" / "bin" / "python"}.items():
        monkeypatch.setattr(bootstrap, name, value)
    for start in ("run", "Popen"):
        monkeypatch.setattr(
            bootstrap.subprocess, start, lambda command, **_: pytest.fail(f"started {command}")
        )
    before = sorted(path.name for path in root.iterdir())
    assert bootstrap.main() == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("setup: ")
    assert words in said.err
    assert said.err.count("\n") == 1
    assert sorted(path.name for path in root.iterdir()) == before


def test_main_stops_before_installing_where_the_index_cannot_be_reached(
    monkeypatch, capsys, pip_alone
):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setattr(bootstrap, "DISK_GB", dict.fromkeys(bootstrap.DISK_GB, 0))
    monkeypatch.setattr(
        bootstrap, "install", lambda: pytest.fail("installed in spite of the problem")
    )
    assert bootstrap.main() == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("setup: the package index cannot be reached")


def test_main_does_nothing_where_all_is_current(monkeypatch, capsys):
    write_stamp(bootstrap.stamp())
    monkeypatch.setattr(bootstrap, "install", lambda: pytest.fail("installed although current"))
    assert bootstrap.main() == 0
    assert capsys.readouterr() == ("", "")


@needs_a_shell
def test_an_install_is_stamped_when_it_is_whole(monkeypatch, root, capfd):
    monkeypatch.setattr(
        bootstrap,
        "PYTHON",
        stand_in(root / "python", f'echo "$@" >> {root / "calls"}; echo a warning >&2'),
    )
    bootstrap.VENV.mkdir()
    assert bootstrap.install() == 0
    assert bootstrap.is_current()
    first, second = [line for line in (root / "calls").read_text().splitlines() if line != "-c"][:2]
    assert first.endswith(f"-c {root / 'constraints.txt'} torch==2.13.0")
    assert second.endswith(f"-e {root}[dev]")
    assert capfd.readouterr().err == "a warning\n" * 2


@needs_a_shell
def test_a_failed_install_leaves_no_stamp(monkeypatch, root, capfd):
    monkeypatch.setattr(
        bootstrap,
        "PYTHON",
        stand_in(root / "python", f'echo "$@" >> {root / "calls"}; echo no space left >&2; exit 1'),
    )
    bootstrap.VENV.mkdir()
    assert bootstrap.install() == 1
    assert not bootstrap.STAMP.exists()
    assert len((root / "calls").read_text().splitlines()) == 1
    assert capfd.readouterr().err.startswith("no space left\nsetup: the install failed")


@pytest.mark.xdist_group("grouped")
def test_tests_of_a_group_share_a_process(request, worker_id):
    """Else a process waits for the chain that another makes, and does nothing meanwhile."""
    if worker_id == "master":
        pytest.skip("one process runs all tests")
    assert request.node.nodeid.endswith("@grouped")
