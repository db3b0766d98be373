"""Odd files through the whole chain: each runs to its end, or is refused in one short line.

Takes the sources of `tests/odd_tables.py`, or those that are named, each in a home of its own and
in the profile `smoke`; prints what came of each, and exits with 1 unless all is as expected. A
source that runs takes some four minutes.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

import odd_tables  # noqa: E402

from lib.errors import MAX_CHARS  # noqa: E402

COMMAND = [sys.executable, "-m", "lib.delivery.cli", "run", "--profile", "smoke", "--quiet"]


def main(names: list[str]) -> int:
    chosen = [make for make in odd_tables.CASES if not names or make.__name__ in names]
    n_unexpected = 0
    for make in chosen:
        with tempfile.TemporaryDirectory(prefix="workbook-odd-") as folder:
            odd = make(Path(folder) / "data")
            started = time.perf_counter()
            outcome, line = run(odd, home=Path(folder) / "home")
            seconds = time.perf_counter() - started
        is_expected = outcome in expected(odd)
        n_unexpected += not is_expected
        mark = "" if is_expected else "  UNEXPECTED"
        print(f"{odd.name:<40} {outcome:<8} {seconds:6.0f} s{mark}  {line}", flush=True)
    print(f"{len(chosen) - n_unexpected} of {len(chosen)} as expected")
    return int(n_unexpected > 0)


def expected(odd: odd_tables.OddTable) -> tuple[str, ...]:
    if odd.refused:
        return ("refused",)
    return ("runs", "stops") if odd.may_stop else ("runs",)


def run(odd: odd_tables.OddTable, *, home: Path) -> tuple[str, str]:
    """Return what came of a source, and the line that it was refused in.

    That is `runs`; `refused`, as expected; `stops`, in another short line; or `fails`.
    """
    settings = [f"--set={key}={value}" for key, value in odd.settings.items()]
    command = [*COMMAND, "--data", str(odd.path), *settings]
    environment = {**os.environ, "WORKBOOK_HOME": str(home)}
    done = subprocess.run(
        command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, errors="replace"
    )
    if done.returncode == 0:
        return "runs", ""
    # below a notebook's error stands where the notebook is
    said = re.sub(r"\n\(the whole notebook: .*\)$", "", done.stderr.strip())
    line = said.removeprefix("workbook: ")
    if "\n" in line or len(line) > MAX_CHARS or done.returncode != 1 or line == said:
        return "fails", line[-MAX_CHARS:].replace("\n", " | ")
    return ("refused" if odd.refused and re.search(odd.refused, line) else "stops"), line


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
