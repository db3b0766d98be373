import pytest

from lib.config import Config, setting_keys
from lib.errors import WorkbookError
from lib.steps import STEPS, check_inputs
from lib.workspace import FILES, Workspace


def test_a_step_knows_its_number_and_what_it_writes():
    step = next(step for step in STEPS if step.notebook == "02_clean_and_split")
    assert step.number == "02"
    assert step.writes == ("clean.parquet", "dropped.parquet", "duplicates.parquet")


def test_every_step_reads_what_itself_or_an_earlier_one_writes():
    written = {"source"}
    for step in STEPS:
        written |= set(step.writes)
        assert set(step.reads) <= written, step.notebook


def test_every_file_has_a_step_that_writes_it_and_every_section_exists():
    assert {notebook for _, notebook in FILES.values()} <= {step.notebook for step in STEPS}
    assert {name for step in STEPS for name in step.settings} <= {
        *Config.model_fields,
        *setting_keys(),
    }


@pytest.mark.parametrize(
    ("notebook", "missing", "first"),
    [
        ("02_clean_and_split", set(FILES), None),
        ("03_review_labels", {"decisions.csv", "review_queue.csv"}, None),  # its own
        ("04_train_model", {"train.parquet"}, "train.parquet"),
        ("04_train_model", {"train.parquet", "clean.parquet"}, "clean.parquet"),
        ("06_build_ensemble", {"clean.parquet"}, None),  # it reads what was made of it
        ("06_build_ensemble", {"oof_probs.parquet", "baseline"}, "oof_probs.parquet"),
        ("09_export_and_serve", {"classifier", "transformer"}, "transformer"),
        ("07_evaluate_and_analyse_errors", {"audit.json"}, "audit.json"),
    ],
)
def test_the_notebook_to_run_first_is_named(home, notebook, missing, first):
    ws = Workspace(dataset="news", run="r")
    for name in set(FILES) - missing:
        ws.path(name).parent.mkdir(parents=True, exist_ok=True)
        ws.path(name).touch()
    if first is None:
        check_inputs(notebook, ws)
        return
    with pytest.raises(WorkbookError) as caught:
        check_inputs(notebook, ws)
    writer = FILES[first][1]
    path = ws.path(first)
    assert str(caught.value) == (
        f"{path} is not there yet: run {writer} first (run 'r', data 'news')"
    )
