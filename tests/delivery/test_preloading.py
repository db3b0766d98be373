"""Kernels forked from a process that has imported already."""

import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from lib import workspace
from lib.delivery import execution, preloading

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux")


@pytest.fixture
def server(monkeypatch):
    """A server that has imported `wave`, which no kernel has by itself; `this` prints."""
    monkeypatch.setattr(preloading, "MODULES", ("this", "wave"))
    with preloading.preloaded() as server:
        server.start()
        deadline = time.monotonic() + 60
        while not server.is_ready():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield server


def printed(folder, source, monkeypatch):
    """Execute a notebook of one cell; return what it printed."""
    monkeypatch.setattr(workspace, "NOTEBOOKS", folder)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nbformat.write(notebook, folder / "one.ipynb")
    said = execution.execute("one", folder / "one.out.ipynb", {}, progress=False)
    if said is not None:
        return said
    outputs = nbformat.read(folder / "one.out.ipynb", as_version=4).cells[-1].outputs
    # Python from 3.12 on warns of a fork beside threads, on stderr
    return "".join(output.text for output in outputs if output.name == "stdout").splitlines()


def test_a_forked_kernel_has_the_imports_and_the_environment_of_now(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SET_AFTER_THE_SERVER", "yes")
    source = (
        "import gc, os, sys\n"
        "print('wave' in sys.modules, os.environ['SET_AFTER_THE_SERVER'], os.getcwd())\n"
        "print(gc.get_freeze_count() > 1_000)\n"
        "print(os.getpid(), os.getppid())"
    )
    first, is_left_alone, numbers = printed(tmp_path, source, monkeypatch)
    assert first == f"True yes {tmp_path}"
    assert is_left_alone == "True"  # what is imported: a collector takes seconds, as it ends
    pid, parent = map(int, numbers.split())
    assert parent == server._process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)  # it has ended with its notebook


def test_a_forked_kernel_that_dies_is_noticed(server, tmp_path, monkeypatch):
    said = printed(tmp_path, "import os\nos._exit(3)", monkeypatch)
    assert "its kernel died" in said
    assert printed(tmp_path, "print(1)", monkeypatch) == ["1"]


def test_signals_to_a_kernel_that_has_ended_do_nothing():
    """jupyter_client asks a slow kernel to end, which may have ended just then."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    kernel = preloading.ForkedKernel(ended.pid)
    kernel.send_signal(signal.SIGINT)
    kernel.terminate()
    kernel.kill()
    assert kernel.poll() == 0


def test_a_forked_kernel_is_asked_to_end():
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    preloading.ForkedKernel(running.pid).terminate()
    assert running.wait(timeout=30) == -signal.SIGTERM


def test_what_a_kernel_leaves_running_does_not_hold_up_the_end(server, tmp_path, monkeypatch):
    source = (
        "import os, time\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setsid()\n"
        "    time.sleep(30)\n"
        "    os._exit(0)\n"
        "print(pid)"
    )
    (pid,) = printed(tmp_path, source, monkeypatch)
    os.kill(int(pid), 0)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 10
    os.kill(int(pid), signal.SIGKILL)


def test_without_a_server_a_kernel_imports_for_itself(tmp_path, monkeypatch):
    source = "import sys\nprint('wave' in sys.modules)"
    assert printed(tmp_path, source, monkeypatch) == ["False"]
    monkeypatch.setattr(preloading, "MODULES", ("no_such_module",))
    with preloading.preloaded() as server:
        assert printed(tmp_path, source, monkeypatch) == ["False"]
        server.start()
        server._process.wait()
        assert printed(tmp_path, source, monkeypatch) == ["False"]


def test_a_server_ends_with_the_run(monkeypatch):
    monkeypatch.setattr(preloading, "MODULES", ("wave",))
    with preloading.preloaded() as server:
        assert not server.is_ready()
        server.start()
        process = server._process
        server.start()
        assert server._process is process and process.poll() is None
    assert process.returncode is not None and preloading._servers == []
