"""`workbook run | compare | register | promote | models | lab | doctor`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from lib import workspace
from lib.config import parse_overrides, profile_names
from lib.errors import WorkbookError

if TYPE_CHECKING:
    import pandas as pd


class _OneLineErrors(click.Group):
    """A group whose commands end with one line and exit code 1 where the user can put something right."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except WorkbookError as error:
            click.echo(f"workbook: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            click.echo(
                "workbook: stopped; the same command goes on from the last finished notebook",
                err=True,
            )
            sys.exit(130)


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """From a table of labelled texts to a model one can trust, and a report."""


@main.command()
@click.option(
    "--profile",
    default="",
    metavar="P",
    help=f"Settings: {', '.join(profile_names())}. [default: quick]",
)
@click.option(
    "--data",
    default="",
    metavar="D",
    help="CSV, TSV, JSON, JSONL or Parquet (also .gz), a folder with one sub-folder a class, hub:<name>[:config][:split], or docstrings.",
)
@click.option("--text-column", metavar="NAME", help="Column of the texts. [default: text]")
@click.option("--label-column", metavar="NAME", help="Column of the labels. [default: label]")
@click.option(
    "--run",
    "run_name",
    default="",
    metavar="NAME",
    help="Name of the run and its report. [default: the profile's, or the data's]",
)
@click.option("--from", "first", metavar="NN", help="First notebook, for instance 03.")
@click.option("--to", "last", metavar="NN", help="Last notebook, for instance 07.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting, for instance training.epochs=3; may be given again.",
)
@click.option(
    "--force", is_flag=True, help="Run also the notebooks that are finished and up to date."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
def run(  # noqa: PLR0917 (click passes them by name)
    profile: str,
    data: str,
    text_column: str,
    label_column: str,
    run_name: str,
    first: str,
    last: str,
    assignments: tuple[str, ...],
    force: bool,
    quiet: bool,
) -> None:
    """Run the notebooks in order and build the report under reports/<run>."""
    from lib.delivery.runner import run_workbook

    columns = {"data.text_column": text_column, "data.label_column": label_column}
    overrides = {
        **{key: value for key, value in columns.items() if value},
        **parse_overrides(assignments),
    }
    _quiet_libraries()
    result = run_workbook(
        profile,
        run=run_name,
        data=data,
        overrides=overrides,
        first=first,
        last=last,
        force=force,
        progress=not quiet,
    )
    click.echo(
        f"{len(result.executed)} notebooks run, {len(result.skipped)} up to date, {result.seconds:.0f} s"
    )
    click.echo(f"report: {result.index}")


@main.command()
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
def compare(first: str, second: str) -> None:
    """Say whether the second of two finished runs is better, on their sealed test set."""
    from lib.delivery.comparison import compare

    found = compare(first, second)
    _print_table(found.scores)
    click.echo(f"\n{found.words}")
    if found.warning:
        click.echo(f"{found.warning}.")


@main.command()
@click.argument("run_name", metavar="RUN")
@click.option(
    "--uri",
    default="",
    metavar="URI",
    help="Tracking server. [default: the run's, else models/mlflow]",
)
def register(run_name: str, uri: str) -> None:
    """Register a finished run's transformer under the next version, as challenger."""
    from lib.delivery import registry

    version, new = registry.register(run_name, uri=uri)
    known = (
        f"registered as {version.label}, challenger" if new else f"known already as {version.label}"
    )
    click.echo(
        f"{known}: macro F1 {version.tags['metric.macro_f1']}, accuracy {version.tags['metric.accuracy']}"
    )
    server = registry.server_of(run_name, uri=uri)
    click.echo(
        f"to put it in use: workbook promote {version.label}{f' --uri {server}' if server else ''}"
    )


@main.command()
@click.argument("label", metavar="NAME-vX.Y.Z")
@click.option("--force", is_flag=True, help="Promote it whatever the comparison says.")
@click.option(
    "--reason", default="", metavar="WORDS", help="Why it is forced; kept with the model."
)
@click.option("--uri", default="", metavar="URI", help="Tracking server. [default: models/mlflow]")
def promote(label: str, force: bool, reason: str, uri: str) -> None:
    """Make a registered model the champion, if it is better than the one that is."""
    from lib.delivery import registry

    version, words = registry.promote(label, force=force, reason=reason, uri=uri)
    click.echo(f"{version.label} is the champion: {words}")


@main.command()
@click.option("--uri", default="", metavar="URI", help="Tracking server. [default: models/mlflow]")
def models(uri: str) -> None:
    """List the registered models."""
    from lib.delivery import registry

    found = registry.models(uri=uri)
    if len(found):
        _print_table(found)
    else:
        click.echo("no model is registered yet: workbook register RUN")


@main.command()
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def lab(options: tuple[str, ...]) -> None:
    """Open the notebooks in JupyterLab; words after -- go to it."""
    sys.exit(
        subprocess.call(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                f"--notebook-dir={workspace.REPOSITORY}",
                "--ServerApp.ip=127.0.0.1",
                *options,
            ]
        )
    )


@main.command()
def doctor() -> None:
    """Print what this machine has: Python, versions, device, precision, hub, disk, cores."""
    from lib.delivery.doctor import report

    facts = report()
    width = max(map(len, facts))
    for name, fact in facts.items():
        click.echo(f"{name:<{width}}  {fact}")


def _print_table(table: pd.DataFrame) -> None:
    rows = [list(table.columns), *table.astype(str).to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _quiet_libraries() -> None:
    """Set, for this process and the kernels it starts, what keeps libraries from phoning home and from chattering."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "YDATA_PROFILING_NO_ANALYTICS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
