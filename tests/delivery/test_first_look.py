"""`workbook init`: what it says of a table, the file that it writes, and what it refuses."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from lib import workspace
from lib.config import Config, read_settings
from lib.delivery import first_look
from lib.delivery.cli import main

TOPICS = ("delivery", "payment", "refund")
ROWS = [
    (f"the parcel number {i} came late and the box was open", TOPICS[i % 3], f"u{i // 4}")
    for i in range(120)
]


def table(folder, rows=ROWS, header=("body", "topic", "author"), name="my.csv"):
    path = folder / name
    path.write_text("\n".join(map(",".join, [header, *rows])) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, on a processor whose speed is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(first_look, "measured_flops", lambda: first_look.TWO_CORES_FLOPS)
    return tmp_path


def init(*words):
    return CliRunner().invoke(main, ["init", *map(str, words)])


def test_a_table_is_described_and_its_settings_are_written(here):
    rows = [*ROWS, ROWS[0], ("schÃ¶n war es nicht aber billig", "refund", "u9")]
    table(here, rows)
    result = init("my.csv")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == (
        "my.csv: 122 rows in 3 classes; 0 lack a text or a label and will be dropped by a rule."
    )
    assert lines[1].startswith("text column: 'body' (sure: named like one, 10 words on average")
    assert lines[2].startswith("label column: 'topic' (sure: ")
    assert lines[3].startswith("group column: 'author' (sure: ")
    assert lines[4] == "classes: 'delivery' 41, 'refund' 41, 'payment' 40"
    assert lines[5] == "copies: 1 texts equal an earlier one."
    assert lines[6] == (
        "lengths: Half of the texts have 11 words or fewer, the longest has 11; 1 are outliers in "
        "length."
    )
    assert lines[7].startswith("languages: ") and "first English" in lines[7]
    assert lines[8].startswith("encoding: 1 signs of damage in 122 texts")
    assert lines[9].startswith("time on this processor: smoke 5 min, quick 8 min, base ")
    assert lines[10:] == ["written: my.yaml. Next: workbook run my.yaml"]
    written = yaml.safe_load(Path("my.yaml").read_text())
    assert written == {
        "profile": "quick",
        "data": {
            "source": "my.csv",
            "text_column": "body",
            "label_column": "topic",
            "group_column": "author",
        },
    }


def test_the_remarked_settings_can_be_taken_as_they_are(here):
    """What a person does: take away the signs."""
    table(here)
    assert init("my.csv").exit_code == 0
    text = Path("my.yaml").read_text()
    Path("all.yaml").write_text(
        text.replace("\n# What to change", "\n## W")
        .replace("\n# ", "\n")
        .replace("\n#   ", "\n  ")
        .replace("\n  # ", "\n  ")
    )
    profile, settings = read_settings(Path("all.yaml"))
    assert profile == "quick"
    assert {key: value for key, value in settings.items() if not key.endswith("column")} == {
        "data.source": str(here / "my.csv"),
        "data.rows": 5_000,
        "training.max_length": 32,
        "training.epochs": 3,
    }


def test_a_group_that_is_a_guess_is_written_as_a_remark(here):
    rows = [(text, topic, author, f"x{i // 5}") for i, (text, topic, author) in enumerate(ROWS)]
    table(here, rows, header=("body", "topic", "ref", "key"))
    assert init("my.csv").exit_code == 0
    text = Path("my.yaml").read_text()
    assert "group_column" not in yaml.safe_load(text)["data"]
    assert "\n  # group_column: key  # its rows stay in one split\n" in text


def test_columns_that_are_named_are_taken(here):
    table(here)
    result = init("my.csv", "--text-column", "body", "--label-column", "author")
    assert "label column: 'author' (given: not guessed)" in result.output
    assert "To mend before a run: " in result.output  # four rows an author
    assert yaml.safe_load(Path("my.yaml").read_text())["data"]["label_column"] == "author"


def test_paths_count_from_the_folder_of_the_file(here):
    table(here)
    (here / "runs").mkdir()
    assert init("my.csv", "--out", "runs/first.yaml").exit_code == 0
    assert yaml.safe_load(Path("runs/first.yaml").read_text())["data"]["source"] == "../my.csv"
    _, settings = read_settings(Path("runs/first.yaml"))
    assert Path(settings["data.source"]).resolve() == here / "my.csv"


@pytest.mark.parametrize("name", ["a: b", "# c", "日本", "'q\"", "null", "1", "x\u2028y"])
def test_any_name_of_a_column_is_read_back(name, here):
    rows = [{name: text, "topic": topic} for text, topic, _ in ROWS]
    Path("my.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert init("my.jsonl").exit_code == 0
    assert read_settings(Path("my.yaml"))[1]["data.text_column"] == name


def test_a_large_table_is_read_as_far_as_its_head(here, monkeypatch):
    source = table(here)
    monkeypatch.setattr("lib.data.formats.first_rows.head_of.__kwdefaults__", {"max_bytes": 5_000})
    result = init("my.csv")
    n_bytes = source.stat().st_size
    assert f"These are its head, some {5_000 / n_bytes:.1%} of about 1" in result.output
    n_read = int(result.output.split(" rows in")[0].split()[-1])
    assert 60 < n_read < 100
    assert yaml.safe_load(Path("my.yaml").read_text())["data"]["source"] == "my.csv"


def test_two_gigabytes_take_seconds(here):
    """Most of the file is a hole, which takes no room."""
    source = table(here)
    n_bytes = source.stat().st_size
    rows = source.read_bytes()
    source.write_bytes(rows + rows.split(b"\n", 1)[1] * (20_500_000 // n_bytes + 1))
    with source.open("r+b") as file:
        file.truncate(2_000_000_000)
    seen = first_look.look("my.csv")
    assert seen.share == 0.01
    assert seen.n_rows == pytest.approx(2e9 / (n_bytes / 120), rel=0.01)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "my.csv is empty; export it again"),
        ("body,topic\n", "my.csv: no column looks like texts"),
        ("a,b\n1,2\n3,4\n", "no column looks like texts: values of 3 words or more; there ar"),
        ("a,b\n1,2,3\n", "line 2: 3 cells where the header has 2; quote cells that hold a ','"),
        ("text,id\na b c,1\nd e f,2\n", "no column looks like labels: short values that repeat"),
    ],
)
def test_tables_without_anything_to_learn_are_refused_in_a_line(content, message, here):
    Path("my.csv").write_text(content)
    result = init("my.csv")
    assert result.exit_code == 1
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not Path("my.yaml").exists()


def test_an_error_in_a_head_names_the_table_itself(here, monkeypatch):
    monkeypatch.setattr("lib.data.formats.first_rows.head_of.__kwdefaults__", {"max_bytes": 100})
    Path("my.csv").write_text("a,b\n1,2,3\n" + "1,2\n" * 100)
    assert init("my.csv").stderr.startswith("workbook: my.csv, line 2: 3 cells where the header")


def test_a_file_that_is_there_is_kept_without_force(here):
    table(here)
    Path("my.yaml").write_text("profile: large\n")
    result = init("my.csv")
    assert result.stderr == (
        "workbook: my.yaml is there already: --force writes over it, or name another --out\n"
    )
    assert Path("my.yaml").read_text() == "profile: large\n"
    assert init("my.csv", "--force").exit_code == 0
    assert read_settings(Path("my.yaml"))[0] == "quick"


def test_a_folder_of_classes_has_columns_of_its_own(here):
    for i, (text, topic, _) in enumerate(ROWS):
        path = here / "texts" / topic / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    result = init("texts")
    assert "text column: 'text' (given: not guessed)" in result.output
    assert yaml.safe_load(Path("texts.yaml").read_text())["data"]["source"] == "texts"


def test_time_grows_with_rows_and_shrinks_with_speed(here):
    table(here)
    seen = first_look.look("my.csv")
    one = first_look.estimated_seconds(seen, flops=first_look.TWO_CORES_FLOPS)
    two = first_look.estimated_seconds(seen, flops=2 * first_look.TWO_CORES_FLOPS)
    assert one["quick"] == pytest.approx(483 + 120 * 918 / 20_000)
    assert one == pytest.approx({profile: 2 * seconds for profile, seconds in two.items()})
    # 84 training rows of 256 tokens, 45 times, six operations a weight and token
    assert two["base"] == pytest.approx(6 * 86e6 * 256 * 84 * 45 / 250e9, rel=0.02)
    assert two["large"] == pytest.approx(6 * 304e6 * 256 * 84 * 45 / 250e9, rel=0.02)
    words = first_look.describe_times({"smoke": 300, "quick": 7_140, "base": 7_200})
    assert words == (
        "time on this processor: smoke 5 min, quick 119 min, base 2 h: an estimate, half or twice "
        "is likely."
    )


def test_the_speed_of_the_processor_is_measured():
    assert 1e8 < first_look.measured_flops(size=128) < 1e14


def test_the_settings_that_are_written_open_a_run_of_the_tables_name(here):
    table(here)
    init("my.csv")
    profile, settings = read_settings(Path("my.yaml"))
    config, ws = workspace.open_run(
        profile=profile, run="", data=settings["data.source"], settings=settings
    )
    assert isinstance(config, Config) and ws.run == "my"


def test_how_the_table_is_read_can_be_said_and_is_written_down(here):
    text = Path(table(here)).read_text().replace(",", "|")
    Path("my.csv").write_bytes(text.replace("late", "spät").encode("cp1251", "ignore"))
    words = ("--set", "data.encoding=cp1251", "--set", "data.delimiter=pipe")
    assert init("my.csv", *words).exit_code == 0
    _, settings = read_settings(Path("my.yaml"))
    assert (settings["data.encoding"], settings["data.delimiter"]) == ("cp1251", "|")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "training.epochs=3",
            "init only reads the table: write training.epochs into my.yaml",
        ),
        ("data.encodin=x", "no setting 'data.encodin' (did you mean 'data.encoding'?)"),
        ("data.quoting=x", "data.quoting: Input should be 'double', 'backslash' or 'none'"),
    ],
)
def test_other_settings_are_refused_while_looking(assignment, message, here):
    table(here)
    result = init("my.csv", "--set", assignment)
    assert result.exit_code == 1 and result.stderr.startswith(f"workbook: {message}")
