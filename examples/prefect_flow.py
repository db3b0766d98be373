"""Prefect 3: the notebooks as a flow, and the classifier in the registry.

`python examples/prefect_flow.py` runs it once; `workbook_flow.serve(cron="0 3 * * 1")` every week.
WORKBOOK is the command of the workbook's own environment, WORKBOOK_ARGS what `workbook run` is
given.
"""

import os
import shlex
import subprocess

from prefect import flow, task

WORKBOOK = os.environ.get("WORKBOOK", "workbook")
RUN_ARGS = shlex.split(os.environ.get("WORKBOOK_ARGS", ""))


@task(retries=1)  # a run goes on from the last finished notebook
def run(name: str) -> str:
    subprocess.run([WORKBOOK, "run", "--run", name, "--quiet", *RUN_ARGS], check=True)
    return name


@task
def register(name: str) -> None:
    subprocess.run([WORKBOOK, "register", name], check=True)


@flow
def workbook_flow(name: str = "prefect", register_it: bool = True) -> str:
    done = run(name)
    if register_it:
        register(done)
    return done


if __name__ == "__main__":
    workbook_flow()
