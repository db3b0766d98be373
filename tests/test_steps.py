from lib.config import Config, setting_keys
from lib.steps import STEPS
from lib.workspace import FILES


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
