"""The command line itself: what it says by itself, files of settings, completion."""

import os
import shutil
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from lib import workspace
from lib.delivery import plan, runner
from lib.delivery.cli import main


def call(*words):
    return CliRunner().invoke(main, [*map(str, words)])


def test_the_command_alone_says_what_to_type():
    result = call()
    assert result.exit_code == 0
    for words in ("workbook init my.csv", "workbook run my.yaml", "workbook lab", "--help"):
        assert words in result.output
    assert len(result.output.splitlines()) <= 8
    assert call("--help").output.startswith("Usage:")


@pytest.fixture
def called(monkeypatch, tmp_path):
    """The arguments that reach the runner."""
    found = []

    def capture(profile, **options):
        found.append({"profile": profile, **options})
        return runner.RunResult(tmp_path, tmp_path / "index.html", [], [], 0)

    monkeypatch.setattr(runner, "run_workbook", capture)
    monkeypatch.chdir(tmp_path)
    return found


def test_a_file_of_settings_is_taken_and_options_win(called, tmp_path):
    (tmp_path / "second try.yaml").write_text(
        "profile: smoke\nseed: 3\ndata: {source: my.csv, text_column: body}\n"
        "training:\n  epochs: 2\n  max_length: 32\nsearch:\n# remarks alone\n"
    )
    assert call("run", "second try.yaml", "--quiet").exit_code == 0
    words = ("--profile", "quick", "--data", "other.csv", "--run", "x", "--text-column", "t")
    words += ("--set", "training.epochs=5")
    assert call("run", *words, "second try.yaml").exit_code == 0
    first, second = called
    assert (first["profile"], first["run"]) == ("smoke", "second-try")
    assert first["data"] == str(tmp_path / "my.csv")
    assert first["overrides"] == {
        "seed": 3,
        "data.text_column": "body",
        "training.epochs": 2,
        "training.max_length": 32,
    }
    assert (second["profile"], second["run"], second["data"]) == ("quick", "x", "other.csv")
    assert second["overrides"] == first["overrides"] | {
        "data.text_column": "t",
        "training.epochs": 5,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: {text_colum: a}", "my.yaml: no setting 'data.text_colum' (did you mean 'data.text"),
        ("porfile: quick", "my.yaml: no section 'porfile' (did you mean 'profile'?)"),
        ("profile: qick", "my.yaml: no profile 'qick' (did you mean 'quick'?)"),
        ("training: {epochs: -1}", "my.yaml: training.epochs: Input should be greater than 0"),
        ("data: my.csv", "my.yaml: data is a section; write its settings below it"),
        ("- a\n- b", "my.yaml is a list; write sections such as `data:`"),
        ("data:\n  a: 1\n b: 2", "my.yaml, line 3: not YAML that can be read; mend it, or `work"),
        ("\x00", "my.yaml: not YAML that can be read; mend it"),
    ],
)
def test_what_is_wrong_in_a_file_of_settings_is_said_with_its_name(
    content, message, called, tmp_path
):
    (tmp_path / "my.yaml").write_text(content)
    result = call("run", "my.yaml")
    assert result.exit_code == 1 and result.stderr.startswith(f"workbook: {message}")
    assert len(result.stderr.splitlines()) == 1 and called == []


def test_a_table_in_place_of_settings_and_a_file_that_is_not_there(called, tmp_path):
    assert call("run", "my.csv").stderr == (
        "workbook: my.csv is no .yaml; of a table `workbook init my.csv` writes one\n"
    )
    assert call("run", "no.yaml").stderr == (
        "workbook: no.yaml cannot be read (No such file or directory); "
        "`workbook init TABLE` writes such a file\n"
    )


def test_a_dry_run_prints_the_plan_and_runs_nothing(called, monkeypatch):
    plans = [plan.Planned("01_profile_data", "", 3.0), plan.Planned("02_clean", "new", None)]
    monkeypatch.setattr(plan, "plan_workbook", lambda *_, **__: plans)
    result = call("run", "--dry-run")
    assert result.output == "01_profile_data  up to date\n02_clean  to run: new\n"
    assert called == []


def completed(words, beginning):
    complete = ShellComplete(main, {}, "workbook", "_WORKBOOK_COMPLETE")
    return [item.value for item in complete.get_completions(words, beginning)]


def test_runs_are_completed_where_a_run_is_asked_for(home):
    for name in ("first", "second", "other"):
        workspace.write_json({}, home / "reports" / name / "run.json")
    (home / "reports" / "fake").mkdir()
    assert completed(["register"], "") == ["first", "other", "second"]
    assert completed(["compare", "first"], "s") == ["second"]
    assert completed(["run", "--run"], "f") == ["first"]
    assert completed(["predict", "a", "b", "--model"], "o") == ["other"]
    assert completed([], "ini") == ["init"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed_and_is_what_that_shell_reads(shell, tmp_path):
    result = call("completion", shell)
    assert "_WORKBOOK_COMPLETE" in result.output and "_workbook_completion" in result.output
    if shutil.which(shell):
        script = tmp_path / "script"
        script.write_text(result.output)
        assert subprocess.run([shell, "-n", str(script)]).returncode == 0


def test_another_shell_is_refused_with_those_there_are():
    result = call("completion", "tcsh")
    assert result.exit_code == 2 and "'bash', 'zsh', 'fish'" in result.stderr


def test_completing_imports_nothing_heavy(home):
    code = (
        "import sys\nfrom lib.delivery.cli import main\n"
        "try:\n    main(prog_name='workbook')\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'numpy', 'mlflow', 'papermill', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    workspace.write_json({}, home / "reports" / "first" / "run.json")
    env = {**os.environ, "_WORKBOOK_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    env["COMP_WORDS"] = "workbook register f"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr.strip()) == (["plain,first"], "[]")
