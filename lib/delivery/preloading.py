"""Kernels forked from one process that has imported what takes longest to import.

torch, transformers and what they bring take some ten seconds, and most notebooks of a run need
them. On Linux alone: elsewhere not all of these libraries survive a fork.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module

MODULES = ("lib.training.classifier", "lib.training.finetune", "lib.training.search")
_servers: list[KernelServer] = []  # the one of the run that goes on, if any


@contextmanager
def preloaded() -> Iterator[KernelServer]:
    """Let `fork` give kernels, once the server has been started."""
    server = KernelServer()
    _servers.append(server)
    try:
        yield server
    finally:
        _servers.remove(server)
        server.stop()


def fork(arguments: Sequence[str], *, env: Mapping[str, str], cwd: str) -> ForkedKernel | None:
    """Return a new kernel that has imported what takes longest; None where none is at hand yet.

    Parameters
    ----------
    arguments : of ipykernel
    """
    if not _servers or not _servers[-1].is_ready():
        return None
    return _servers[-1].fork({"arguments": list(arguments), "env": dict(env), "cwd": cwd})


class KernelServer:
    """The process that forks kernels. It ends with the process that made it, as they do."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._is_ready = False

    def start(self) -> None:
        """Begin to import, unless it has begun. On Linux alone."""
        if self._process is None and sys.platform == "linux":
            command = [sys.executable, "-c", f"from {__name__} import serve; serve({MODULES})"]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def is_ready(self) -> bool:
        """Return whether its imports are done."""
        if self._process is None:
            return False
        assert self._process.stdout is not None
        if not self._is_ready and select.select([self._process.stdout], [], [], 0)[0]:
            self._is_ready = self._answer() != ""  # where an import failed, it has ended
        return self._is_ready

    def fork(self, request: Mapping[str, object]) -> ForkedKernel | None:
        """Return a new kernel, or None where the server has ended."""
        assert self._process is not None
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return None
        pid = self._answer()
        return ForkedKernel(int(pid)) if pid else None

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def _answer(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.readline().strip()


class ForkedKernel:
    """A kernel's process, with what jupyter_client asks of a `Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """Return None while it runs, else 0: the server alone would know its exit code."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self) -> int:
        """Return 0: it is asked where `poll` has found that it ended."""
        return 0

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


def serve(modules: Sequence[str]) -> None:
    """Import, say so, and fork a kernel for each line of standard input.

    A line is a JSON object of `arguments`, `env` and `cwd`; the answer is the kernel's process.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the imports and the kernels print is no answer
    for module in modules:
        import_module(module)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # is for the run, which ends this
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that kernels that ended are forgotten
    gc.freeze()  # else a kernel that ends looks through all that is imported, for seconds
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            answers.close()  # what a kernel leaves running would hold it open, and the run waits
            become_kernel(**json.loads(line))
            break
        print(pid, file=answers, flush=True)


def become_kernel(arguments: list[str], env: dict[str, str], cwd: str) -> None:
    """Run as a kernel until it is shut down."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(env, JPY_PARENT_PID=str(os.getppid()))
    os.chdir(cwd)
    from ipykernel.kernelapp import IPKernelApp  # reads the environment as it is imported

    IPKernelApp.launch_instance(arguments)
