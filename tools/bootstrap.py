"""Create .venv and install into it, or do nothing where it is up to date.

Run by the Makefile as `python3 tools/bootstrap.py`. It takes the standard library alone, as it runs
before the install, and says in one line what is missing before anything is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed"
OLDEST, NEWEST = (3, 11), (3, 13)  # what the tests run on
# 2.8 GB measured with the CPU build of torch; room for CUDA libraries is an estimate
DISK_GB = {"posix-cpu": 5, "posix-cuda": 12}
PROBE = "nbval==0.11.0"  # a small package: where its index page cannot be had, nothing can


def main() -> int:
    """Bring .venv up to date; return 0, or 1 after saying in one line why it can't be."""
    if is_current():
        return 0
    for check in (interpreter_problem, disk_problem, venv_problem, network_problem):
        problem = check()
        if problem:
            print(f"setup: {problem}", file=sys.stderr)
            return 1
    return install()


def stamp() -> str:
    """Return what the install depends on: the interpreter and the two files that name packages."""
    digest = hashlib.sha256(repr(sys.version_info[:3]).encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def is_current() -> bool:
    """Return whether .venv was installed whole, from the files as they are, and still runs."""
    if not (STAMP.exists() and PYTHON.exists()) or STAMP.read_text() != stamp():
        return False
    return subprocess.run([PYTHON, "-c", ""], capture_output=True).returncode == 0


def interpreter_problem(version: tuple[int, ...] = sys.version_info[:2]) -> str | None:
    """Return what is wrong with this Python, None if nothing is."""
    if OLDEST <= version <= NEWEST:
        return None
    return (
        f"Python {'.'.join(map(str, version))} found, 3.11, 3.12 or 3.13 needed; "
        "install one and run `make PYTHON=python3.11 ...`"
    )


def disk_problem(free: int | None = None) -> str | None:
    """Return that the disk is too small, None if it is not; `free` in bytes."""
    free = shutil.disk_usage(ROOT).free if free is None else free
    needed = DISK_GB["posix-cuda" if shutil.which("nvidia-smi") else "posix-cpu"]
    if free > needed * 1e9:
        return None
    return (
        f"{free / 1e9:.1f} GB free in {ROOT}, {needed} GB needed; "
        "make room, or clone to a larger disk"
    )


def venv_problem() -> str | None:
    """Make .venv where there is none that runs; return what kept it from being made."""
    same_version = f"sys.version_info[:3] == {sys.version_info[:3]}"
    probe = [str(PYTHON), "-c", f"import sys, pip; sys.exit(not {same_version})"]
    if PYTHON.exists() and subprocess.run(probe, capture_output=True).returncode == 0:
        return None
    shutil.rmtree(VENV, ignore_errors=True)
    last_line = failure([sys.executable, "-m", "venv", str(VENV)])
    if last_line is None:
        return None
    return f"cannot make {VENV} ({last_line}); on Debian and Ubuntu: apt install python3-venv"


def network_problem() -> str | None:
    """Return that the package index cannot be reached, None if it can; loads a few kilobytes."""
    options = "--dry-run --ignore-installed --no-deps --quiet --retries 1 --timeout 15"
    last_line = failure([str(PYTHON), "-m", "pip", "install", *options.split(), PROBE])
    if last_line is None:
        return None
    return (
        f"the package index cannot be reached ({last_line}); "
        "check the network, proxy or pip's configuration and run again"
    )


def failure(command: list[str]) -> str | None:
    """Run a command; return the last line it wrote where it fails, else None."""
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode == 0:
        return None
    lines = (finished.stdout + finished.stderr).strip().splitlines()
    return lines[-1] if lines else "no message"


def install() -> int:
    """Install torch at its pin, then everything else; return 0, or 1 where pip fails.

    The stamp is written last, so that an interrupted install is taken up again.
    """
    print(f"setup: installing into {VENV} (minutes, once)", flush=True)
    for packages in (["torch==2.13.0"], ["-e", f"{ROOT}[dev]"]):
        if pip_install(packages) != 0:
            remedy = "run the same command again to go on from here"
            print(f"setup: the install failed (see above); {remedy}", file=sys.stderr)
            return 1
    STAMP.write_text(stamp())
    print("setup: done", flush=True)
    return 0


def pip_install(packages: list[str]) -> int:
    """Install packages at the versions of constraints.txt; return pip's exit code."""
    options = ["--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    command = [str(PYTHON), "-m", "pip", "install", *options, *packages]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or []:
            # an extra index without that package
            if "is ignored: it is neither a file nor a directory" not in line:
                print(line, end="", file=sys.stderr)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main())
