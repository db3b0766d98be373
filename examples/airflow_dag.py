"""Airflow 3: train every week, register the classifier, and let it take over where it is better.

Copy it to the DAGs folder. Airflow and the workbook live in environments of their own: WORKBOOK is
the command of the workbook's, for instance /opt/workbook/.venv/bin/workbook, and WORKBOOK_ARGS what
`workbook run` is given, for instance "--profile base --data s3://bucket/labelled.parquet".
"""

import os
import shlex
import subprocess
from datetime import UTC, datetime

from airflow.sdk import dag, task

WORKBOOK = os.environ.get("WORKBOOK", "workbook")
RUN_ARGS = shlex.split(os.environ.get("WORKBOOK_ARGS", ""))


def workbook(*words: str) -> str:
    """Return what a command prints; a failed one fails the task with its message."""
    done = subprocess.run([WORKBOOK, *words], stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout)
    return done.stdout


@dag(schedule="@weekly", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False)
def workbook_weekly():
    @task(retries=1)  # it goes on from the last finished notebook
    def run(name: str) -> str:
        workbook("run", "--run", name, "--quiet", *RUN_ARGS)
        return name

    @task
    def register(name: str) -> str:
        said = workbook("register", name)
        return said.partition("registered as ")[2].partition(",")[0]

    register(run("week-{{ ds }}"))


workbook_dag = workbook_weekly()
