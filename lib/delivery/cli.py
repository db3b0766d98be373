"""The command `workbook`: from a table to a report, and what is done with a classifier."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import get_completion_class

from lib import workspace
from lib.config import Config, parse_overrides, profile_names, read_settings
from lib.errors import WorkbookError

if TYPE_CHECKING:
    import pandas as pd


PROFILES = f"Settings: {', '.join(profile_names())}"
SOURCES = (
    "CSV, TSV, JSON, JSONL or Parquet (also .gz), a folder with one sub-folder for each class, or "
    "of such tables, either also in a store (s3://, gs://), hub:<name>[:config][:split], or "
    "docstrings. Where a file does not tell how it "
    "is to be read: --set data.delimiter=semicolon, data.quoting=double, data.encoding=cp1251."
)
RUN_NAME = "Name of the run and its report. [default: the profile's, or the data's]"
SERVER = "Tracking server."
LOCAL = "models/mlflow"
MODEL = "Run, folder or registered NAME[@alias]. [default: the only champion]"
READING = "data.encoding, data.delimiter or data.quoting, as for run."
PATH = click.Path(path_type=Path)
POSITIVE = click.IntRange(min=1)
ASSIGNMENT = "A setting, for instance training.epochs=3; may be given again."
WELCOME = """\
From a table of labelled texts to a model one can trust. Type

  workbook init my.csv  to look at a table and write my.yaml
  workbook run my.yaml  to run the notebooks, up to reports/my/index.html
  workbook run          to do so on the 20,000 texts inside
  workbook lab          to open the notebooks in JupyterLab
  workbook --help       for all commands"""


class _OneLineErrors(click.Group):
    """A group whose commands end with one line where the user can put something right."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except WorkbookError as error:
            click.echo(f"workbook: {error}", err=True)
            sys.exit(1)
        except KeyboardInterrupt:
            remedy = "the same command goes on from the last finished notebook or part"
            click.echo(f"workbook: stopped; {remedy}", err=True)
            sys.exit(130)


def _run_names(_context: object, _parameter: object, beginning: str) -> list[str]:
    """Return the names of runs, for the completion of RUN by a shell."""
    names = (path.parent.name for path in workspace.home().glob("reports/*/run.json"))
    return sorted(name for name in names if name.startswith(beginning))


@click.group(
    cls=_OneLineErrors,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.pass_context
def main(context: click.Context) -> None:
    """From a table of labelled texts to a model one can trust, and a report."""
    workspace.anchor_home()
    if context.invoked_subcommand is None:
        click.echo(WELCOME)


@main.command()
@click.argument("source", metavar="TABLE")
@click.option("--text-column", default="", metavar="NAME", help="Column of the texts.")
@click.option("--label-column", default="", metavar="NAME", help="Column of the labels.")
@click.option("--out", type=PATH, metavar="FILE", help="[default: TABLE.yaml]")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help=READING)
@click.option("--force", is_flag=True, help="Write over FILE.")
def init(
    source: str, out: Path | None, assignments: tuple[str, ...], force: bool, **columns: str
) -> None:
    """Look at a table, say what is in it, and write the settings of a run."""
    from lib.delivery import first_look

    out = out or Path(f"{workspace.dataset_name(source)}.yaml")
    if out.exists() and not force:
        raise WorkbookError(
            f"{out} is there already: --force writes over it, or name another --out"
        )
    overrides = parse_overrides(assignments)
    others = [key for key in overrides if not key.startswith("data.")]
    if others:
        raise WorkbookError(f"init only reads the table: write {others[0]} into {out}")
    given = Config.load("quick", overrides).data
    reading = given.model_dump(exclude_unset=True, exclude={"source"})
    seen = first_look.look(source, **columns, **reading)
    for line in first_look.describe(seen):
        click.echo(line)
    seconds = first_look.estimated_seconds(seen, flops=first_look.measured_flops())
    click.echo(first_look.describe_times(seconds))
    workspace.write_text(first_look.settings_text(seen, out.parent), out)
    click.echo(f"written: {out}. Next: workbook run {out}")


@main.command()
@click.argument("settings", required=False, type=PATH, metavar="[FILE.yaml]")
@click.option("--profile", default="", metavar="P", help=f"{PROFILES}. [default: quick]")
@click.option("--data", default="", metavar="D", help=SOURCES)
@click.option("--text-column", metavar="NAME", help="Column of the texts. [default: text]")
@click.option("--label-column", metavar="NAME", help="Column of the labels. [default: label]")
@click.option(
    "--run", "run_name", default="", metavar="NAME", help=RUN_NAME, shell_complete=_run_names
)
@click.option("--from", "first", metavar="NN", help="First notebook, for instance 03.")
@click.option("--to", "last", metavar="NN", help="Last notebook, for instance 07.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help=ASSIGNMENT)
@click.option("--force", is_flag=True, help="Run also notebooks that are finished and up to date.")
@click.option("--dry-run", is_flag=True, help="Say which notebooks would run, and why.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def run(  # noqa: PLR0913, PLR0917 (an argument for each option; click passes them by name)
    settings: Path | None,
    profile: str,
    data: str,
    text_column: str,
    label_column: str,
    run_name: str,
    first: str,
    last: str,
    assignments: tuple[str, ...],
    force: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Run the notebooks in order and build the report under reports/<run>.

    FILE.yaml holds settings, as `workbook init` writes it; options come before it.
    """
    from lib.delivery.plan import plan_workbook
    from lib.delivery.runner import run_workbook

    overrides: dict[str, Any] = {}
    if settings:
        file_profile, overrides = read_settings(settings)
        profile = profile or file_profile
        data = data or overrides.get("data.source", "")
        run_name = run_name or workspace.dataset_name(str(settings))
        overrides.pop("data.source", None)
    if text_column:
        overrides["data.text_column"] = text_column
    if label_column:
        overrides["data.label_column"] = label_column
    overrides |= parse_overrides(assignments)
    _quiet_libraries()
    options: dict[str, Any] = {"run": run_name, "data": data, "overrides": overrides}
    options |= {"first": first, "last": last, "force": force}
    if dry_run:
        for plan in plan_workbook(profile, **options):
            click.echo(plan.describe())
        return
    result = run_workbook(profile, progress=not quiet, **options)
    n_executed = len(result.executed)
    n_skipped = len(result.skipped)
    click.echo(f"{n_executed} notebooks run, {n_skipped} up to date, {result.seconds:.0f} s")
    click.echo(f"report: {result.index}")


@main.command()
@click.argument("first", metavar="RUN", shell_complete=_run_names)
@click.argument("second", metavar="RUN", shell_complete=_run_names)
def compare(first: str, second: str) -> None:
    """Say whether the second of two finished runs is better, on their sealed test set."""
    from lib.delivery.comparison import compare

    comparison = compare(first, second)
    _print_table(comparison.scores)
    click.echo(f"\n{comparison.verdict}")
    if comparison.warning:
        click.echo(f"{comparison.warning}.")


@main.command()
@click.argument("name", default="", metavar="[RUN]", shell_complete=_run_names)
@click.option("--compare", "pair", nargs=2, metavar="RUN RUN", help="Is the second run better?")
def report(name: str, pair: tuple[str, str] | None) -> None:
    """Build the pages of a run again, or a page that compares two runs."""
    from lib.delivery import comparison, site

    if bool(name) == bool(pair):
        raise WorkbookError("report takes one run, or --compare and two: workbook report quick")
    if pair:
        page = comparison.write_comparison(*pair)
    else:
        ws, record, _ = comparison.run_record(name)
        page = site.write_report(ws, record)
    click.echo(f"report: {page}")


@main.command()
@click.argument("run_name", metavar="RUN", shell_complete=_run_names)
@click.option(
    "--uri", default="", metavar="URI", help=f"{SERVER} [default: the run's, else {LOCAL}]"
)
def register(run_name: str, uri: str) -> None:
    """Register a finished run's classifier under the next version, as challenger."""
    from lib.delivery import registry

    version, new = registry.register(run_name, uri=uri)
    done = f"registered as {version.label}, challenger"
    if not new:
        done = f"already registered as {version.label}"
    macro_f1, accuracy = version.tags["metric.macro_f1"], version.tags["metric.accuracy"]
    click.echo(f"{done}: macro F1 {macro_f1}, accuracy {accuracy}")
    server = registry.server_of(run_name, uri=uri)
    address = f" --uri {server}" if server else ""
    click.echo(f"to put it in use: workbook promote {version.label}{address}")


@main.command()
@click.argument("label", metavar="NAME-vX.Y.Z")
@click.option("--force", is_flag=True, help="Whatever the comparison says.")
@click.option("--reason", default="", metavar="WORDS", help="Why; kept with the model.")
@click.option("--uri", default="", metavar="URI", help=f"{SERVER} [default: {LOCAL}]")
def promote(label: str, force: bool, reason: str, uri: str) -> None:
    """Make a registered model the champion, if it is better than the one that is."""
    from lib.delivery import registry

    version, words = registry.promote(label, force=force, reason=reason, uri=uri)
    click.echo(f"{version.label} is the champion: {words}")


@main.command()
@click.option("--uri", default="", metavar="URI", help=f"{SERVER} [default: {LOCAL}]")
def models(uri: str) -> None:
    """List the registered models."""
    from lib.delivery import registry

    table = registry.models(uri=uri)
    if len(table):
        _print_table(table)
    else:
        click.echo("no model is registered yet: workbook register RUN")


@main.command()
@click.argument("name", default="", metavar="[NAME]", shell_complete=_run_names)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option("--log", type=click.Path(path_type=Path), metavar="FOLDER", help="Log answers here.")
@click.option("--log-texts", is_flag=True, help="Log the texts too.")
@click.option(
    "--poll", default=10.0, show_default=True, help="Seconds between looks at the registry."
)
@click.option("--uri", default="", metavar="URI", help=f"{SERVER} [default: {LOCAL}]")
def serve(
    name: str,
    host: str,
    port: int,
    workers: int,
    log: Path | None,
    log_texts: bool,
    poll: float,
    uri: str,
) -> None:
    """Answer texts over HTTP: NAME[@ALIAS] in the registry, a run or a classifier's folder."""
    _quiet_libraries()
    from lib.delivery.serving import serve

    serve(
        name,
        host=host,
        port=port,
        workers=workers,
        log=log,
        with_texts=log_texts,
        poll_seconds=poll,
        uri=uri,
    )


@main.command()
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def lab(options: tuple[str, ...]) -> None:
    """Open a map of the notebooks in JupyterLab; words after -- go to it."""
    settings = {
        "ServerApp.root_dir": workspace.REPOSITORY,
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.kernel_spec_manager_class": "lib.delivery.kernels.OwnKernels",
        "LabApp.default_url": "/lab/tree/notebooks/README.md",
        "LabApp.app_settings_dir": Path(__file__).parent / "lab_settings",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    ours = [f"--{name}={value}" for name, value in settings.items()]
    sys.exit(subprocess.call([sys.executable, "-m", "jupyterlab", *ours, *options]))


@main.command()
def doctor() -> None:
    """Print what this machine has: Python, versions, device, precision, hub, disk, cores."""
    from lib.delivery.doctor import report

    facts = report()
    width = max(map(len, facts))
    for name, fact in facts.items():
        click.echo(f"{name:<{width}}  {fact}")


@main.command()
@click.argument("source", metavar="IN")
@click.argument("out", metavar="OUT")
@click.option("--model", default="", metavar="NAME", help=MODEL, shell_complete=_run_names)
@click.option("--text-column", metavar="NAME", help="Column of the texts. [default: text]")
@click.option(
    "--keep", multiple=True, metavar="NAME", help="Column that OUT has too; may be given again."
)
@click.option("--rows-per-part", default=5_000, type=POSITIVE, help="Rows that are lost at most.")
@click.option("--workers", default=1, type=POSITIVE, help="Processes, each with the model.")
@click.option("--log", type=Path, metavar="FOLDER", help="Log the predictions for monitoring.")
@click.option("--log-texts", is_flag=True, help="Log the texts as well.")
@click.option("--overwrite", is_flag=True, help="Replace OUT, and drop what was unfinished.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help=READING)
@click.option("--uri", default="", metavar="URI", help=f"{SERVER} [default: {LOCAL}]")
def predict(
    source: str,
    out: str,
    model: str,
    text_column: str,
    assignments: tuple[str, ...],
    uri: str,
    **options: Any,
) -> None:
    """Predict each row of a table IN; OUT is Parquet, with one row for each."""
    from lib.delivery import batch, model_folder

    overrides = parse_overrides(assignments)
    if text_column:
        overrides["data.text_column"] = text_column
    settings = Config.load(overrides=overrides).data
    _quiet_libraries()
    folder = model_folder.find(model, uri=uri)
    n_rows, n_abstained = batch.predict_table(
        source, out, model=folder, settings=settings, **options
    )
    click.echo(f"{n_rows:,} rows in {out}, of which {n_abstained:,} abstain")


@main.command()
@click.argument("name", metavar="RUN", shell_complete=_run_names)
@click.argument("target", metavar="hub:owner/name")
@click.option("--public", is_flag=True, help="Everybody may see it. [default: you alone]")
@click.option("--license", "licence", default="", metavar="ID", help="By the hub's name: mit.")
@click.option("--yes", is_flag=True, help="Send it. [default: say what would be sent]")
def push(name: str, target: str, public: bool, licence: str, yes: bool) -> None:
    """Send a run's classifier and its card to the Hugging Face hub."""
    _quiet_libraries()
    from lib.delivery import hub

    plan = hub.plan(name, target, public=public, licence=licence)
    click.echo(plan.describe())
    click.echo(f"sent: {hub.send(plan)}" if yes else "nothing was sent: --yes sends it")


@main.command()
@click.argument("name", metavar="RUN", shell_complete=_run_names)
@click.argument("url", metavar="URL")
def publish(name: str, url: str) -> None:
    """Copy a run's report and classifier to an object store, s3:// or gs://."""
    from lib import remote
    from lib.delivery import model_folder
    from lib.delivery.comparison import run_record

    ws, _, _ = run_record(name)
    folders = {"report": ws.folder(workspace.REPORTS), "classifier": model_folder.find(name)}
    for part, folder in folders.items():
        target = f"{url.rstrip('/')}/{name}/{part}"
        click.echo(f"{remote.upload(folder, target)} files in {target}")


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script that makes a shell complete commands, options and runs with Tab."""
    kind = get_completion_class(shell)
    assert kind is not None  # click has these three
    click.echo(kind(main, {}, "workbook", "_WORKBOOK_COMPLETE").source())


@main.command("export-dvc")
@click.argument("name", metavar="RUN", shell_complete=_run_names)
def export_dvc(name: str) -> None:
    """Write a run's notebooks as stages of dvc.yaml, in the home folder."""
    from lib.delivery import dvc

    click.echo(f"{dvc.export_dvc(name)}: `dvc repro` makes again what a change asks for")


def _print_table(table: pd.DataFrame) -> None:
    rows = [list(table.columns), *table.astype(str).to_numpy().tolist()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        click.echo("  ".join(cells).rstrip())


def _quiet_libraries() -> None:
    """Keep libraries from phoning home and from chatter, in this process and its kernels."""
    quiet = {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "YDATA_PROFILING_NO_ANALYTICS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
