import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from jupyter_client import KernelManager
from tiny_runs import (
    TRAIN,
    VAL,
    configured,
    differences,
    home_of_its_own,
    let_average_score,
    rows,
    run,
)
from transformers import TrainerState

from lib import provenance
from lib.delivery import kernels
from lib.training import token_ids
from lib.training.finetune import averaging, callbacks, checkpoints, fine_tuning
from lib.training.finetune.trainer import RecipeTrainer

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True, scope="module")
def _home(tmp_path_factory):
    with home_of_its_own(tmp_path_factory.mktemp("home")):
        yield


class Killed(Exception):  # noqa: N818 - what a signal would do
    pass


@contextmanager
def killed(where, step=None):
    """Kill the run within the block at a place in the code, once the run has done `step` steps;
    then look that it was killed."""
    owner, name = {
        "step": (RecipeTrainer, "training_step"),
        "averaged": (averaging.WeightAverage, "on_evaluate"),
        "half saved": (TrainerState, "save_to_json"),
        "torn": (TrainerState, "save_to_json"),
        "saved": (RecipeTrainer, "_save_checkpoint"),
        "stopped": (RecipeTrainer, "_load_best_model"),
        "trained": (fine_tuning, "keep_better_average"),
    }[where]
    original = getattr(owner, name)

    def replaced(*words, **more):
        state = getattr(words[0], "state", words[0]) if where != "averaged" else words[2]
        if step is not None and state.global_step != step:
            return original(*words, **more)
        if where in ("saved", "torn", "averaged"):
            original(*words, **more)
        if where == "torn":
            path = Path(words[1])
            path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, replaced)
        yield


@pytest.fixture
def began(monkeypatch):
    """The step that each training of the test began at."""
    steps, begin = [], callbacks.ResumeState.on_train_begin

    def noted(self, args, state, control, **more):
        steps.append(state.global_step)
        return begin(self, args, state, control, **more)

    monkeypatch.setattr(callbacks.ResumeState, "on_train_begin", noted)
    return steps


CASES = {
    "dropout": (
        {"eval_steps": 4},
        [
            ("step", 2),
            ("saved", 4),
            ("step", 7),
            ("step", 8),
            ("half saved", 12),
            ("torn", 12),
            ("step", 14),
            ("stopped", 16),
        ],
        [0, 0, 4, 4, 8, 8, 8, 12, 16],
    ),
    "each stage of unfreezing, with an exponential average": (
        {
            "unfreeze": (0, 1),
            "epochs": 3,
            "eval_steps": 3,
            "averaging": "ema",
            "averaging_start": 0.25,
            "ema_decay": 0.9,
        },
        [("step", 2), ("step", 7), ("step", 14), ("averaged", 18), ("step", 20), ("saved", 21)],
        [0, 0, 6, 12, 15, 18, 21],
    ),
    "frozen layers in bf16, with an even average": (
        {
            "frozen_layers": 1,
            "precision": "bf16",
            "epochs": 1.5,
            "eval_steps": 3,
            "averaging": "swa",
            "averaging_start": 0.25,
        },
        [("step", 5), ("step", 11)],
        [0, 3, 9],
    ),
    "early stopping about to trigger": (
        {"learning_rate": 1e-12, "patience": 2, "eval_steps": 3},
        [("saved", 6), ("saved", 9)],
        [0, 6, 9],
    ),
    "the end within an epoch": ({"epochs": 0.6, "eval_steps": 3}, [("stopped", 5)], [0, 5]),
    "low-rank matrices": (
        {
            "lora_rank": 4,
            "learning_rate": 5e-2,
            "averaging": "ema",
            "averaging_start": 0.1,
            "epochs": 1,
            "eval_steps": 3,
        },
        [("step", 5)],
        [0, 3],
    ),
    "attention pooling and mixup": (
        {"pooling": "attention", "mixup": 0.4, "epochs": 1, "eval_steps": 3},
        [("step", 5)],
        [0, 3],
    ),
    "two passes a step": (
        {
            "r_drop": 1,
            "adversarial": "weights",
            "multisample_dropout": 2,
            "layer_decay": 0.8,
            "reinit_layers": 1,
            "epochs": 1,
            "eval_steps": 3,
        },
        [("step", 5)],
        [0, 3],
    ),
    "frozen layers computed anew": (
        {"unfreeze": (1, 1), "activation_cache_gb": 1e-9, "epochs": 3, "eval_steps": 4},
        [("step", 18)],
        [0, 16],
    ),
}


@pytest.mark.parametrize(("settings", "kills", "beginnings"), CASES.values(), ids=CASES)
def test_a_run_killed_and_started_again_is_the_uninterrupted_one(
    monkeypatch, began, settings, kills, beginnings
):
    let_average_score(monkeypatch, 0.01)
    settings = {"patience": 100, **settings}
    whole = run("whole", **settings)
    began.clear()
    for where, step in kills:
        with killed(where, step):
            run("killed", **settings)
    again = run("killed", **settings)
    assert began == beginnings
    assert differences(again, whole) == []
    assert (whole.facts["kept"] == "average") == (settings.get("averaging", "none") != "none")
    assert not (again.model_dir.parent / "checkpoints").exists()


def test_a_run_killed_once_it_was_trained_has_nothing_left_to_train(began):
    settings = {"learning_rate": 1e-12, "patience": 2, "eval_steps": 3, "averaging": "ema"}
    whole = run("whole", **settings)
    with killed("trained"):
        run("killed", **settings)
    again = run("killed", **settings)
    assert began == [0, 0, 9]
    assert differences(again, whole) == []


def test_memory_that_ran_out_is_remembered(monkeypatch):
    gradients = RecipeTrainer._gradients

    def short_of_memory(self, model, inputs):
        if self.max_tokens == token_ids.CPU_TOKENS and self.state.global_step >= 2:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        return gradients(self, model, inputs)

    monkeypatch.setattr(RecipeTrainer, "_gradients", short_of_memory)
    settings = {"epochs": 1, "eval_steps": 4}
    whole = run("whole", **settings)
    with killed("step", 6):
        run("killed", **settings)
    again = run("killed", **settings)
    assert whole.facts["messages"] == [
        "step 2: memory ran out; 36 tokens a micro-batch at most from here on, the same 8 rows "
        "a step"
    ]
    assert differences(again, whole) == []


def test_the_seconds_of_a_resumed_run_are_those_of_all_its_parts(monkeypatch):
    settings, clock = {"epochs": 1, "eval_steps": 4}, [0.0]
    step = RecipeTrainer.training_step

    def ten_seconds(*words):
        clock[0] += 10
        return step(*words)

    monkeypatch.setattr(RecipeTrainer, "training_step", ten_seconds)
    for module in (fine_tuning, callbacks):
        monkeypatch.setattr(
            module, "time", type("clock", (), {"perf_counter": staticmethod(lambda: clock[0])})
        )
    with killed("step", 6):
        run("killed", **settings)
    facts = run("killed", **settings).facts
    assert (facts["training_seconds"], facts["texts_per_second"]) == (80, 0.8)


def test_a_process_killed_by_a_signal_leaves_what_the_next_one_goes_on_from(began):
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import tiny_runs, torch
from lib import provenance
from lib.training.finetune.trainer import RecipeTrainer
provenance.code_fingerprint = lambda *_: "as it is"
torch.set_num_threads(1)
step = RecipeTrainer.training_step
def kill(self, *words):
    if self.state.global_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *words)
RecipeTrainer.training_step = kill
tiny_runs.run("signal", epochs=1, eval_steps=3)
"""
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env=dict(os.environ),
        capture_output=True,
        timeout=300,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    whole, again = run("whole", epochs=1, eval_steps=3), run("signal", epochs=1, eval_steps=3)
    assert began == [0, 6]
    assert differences(again, whole) == []


def checkpoint(folder, *, lacking="", state='{"global_step": %d}'):
    folder.mkdir(parents=True)
    for name in (
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "recipe.json",
    ):
        (folder / name).touch()
    (folder / "trainer_state.json").write_text(
        state % int(folder.name.split("-")[1]) if "%" in state else state, encoding="utf-8"
    )
    if lacking:
        (folder / lacking).unlink()


def test_a_checkpoint_without_the_random_state_of_each_process_is_passed_over(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for step, ranks in ((4, "01"), (8, "0")):
        checkpoint(tmp_path / f"checkpoint-{step}", lacking="rng_state.pth")
        for rank in ranks:
            (tmp_path / f"checkpoint-{step}" / f"rng_state_{rank}.pth").touch()
    assert checkpoints.last(tmp_path) == str(tmp_path / "checkpoint-4")


def test_the_last_checkpoint_is_the_one_of_most_steps(tmp_path):
    assert checkpoints.last(tmp_path) is None
    for step in (9, 100, 20):
        checkpoint(tmp_path / f"checkpoint-{step}")
    assert checkpoints.last(tmp_path) == str(tmp_path / "checkpoint-100")


@pytest.mark.parametrize(
    "lacking",
    [
        "trainer_state.json",
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "recipe.json",
    ],
)
def test_a_checkpoint_half_written_or_half_deleted_is_passed_over(tmp_path, lacking):
    checkpoint(tmp_path / "checkpoint-4")
    checkpoint(tmp_path / "checkpoint-8", lacking=lacking)
    assert checkpoints.last(tmp_path) == str(tmp_path / "checkpoint-4")


@pytest.mark.parametrize("state", ["", "{", '{"global_step": 8'])
def test_a_checkpoint_whose_state_is_cut_off_is_passed_over(tmp_path, state):
    checkpoint(tmp_path / "checkpoint-8", state=state)
    assert checkpoints.last(tmp_path) is None


OTHER = TRAIN.assign(label=TRAIN["label"].where(TRAIN.index != 0, "bird"))
CHANGES = {
    "nothing": {},
    "a setting": {"config": configured(dropout=0.2)},
    "the seed": {"config": configured(seed=43)},
    "a training label": {"train": OTHER},
    "the order of the training rows": {"train": TRAIN[::-1]},
    "the validation rows": {"val": rows(21, seed=2)},
    "the code": {"code": "another"},
}


def opened(folder, train=TRAIN, val=VAL, config=None):
    return checkpoints.open_or_clear(folder, checkpoints.key_of(train, val, config or configured()))


@pytest.mark.parametrize(("what", "change"), CHANGES.items(), ids=CHANGES)
def test_checkpoints_of_anything_else_are_cleared_away(tmp_path, monkeypatch, what, change):
    opened(tmp_path)
    checkpoint(tmp_path / "checkpoint-4")
    monkeypatch.setattr(provenance, "code_fingerprint", lambda *_: change.get("code", "as it is"))
    opened(tmp_path, **{name: value for name, value in change.items() if name != "code"})
    assert (tmp_path / "checkpoint-4").exists() == (what == "nothing")
    assert (tmp_path / "attempt.json").exists()


def test_what_a_clearing_cut_short_leaves_is_not_taken_up(tmp_path, monkeypatch):
    opened(tmp_path)
    checkpoint(tmp_path / "checkpoint-4")
    monkeypatch.setattr(
        checkpoints.shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(Killed)
    )
    with pytest.raises(Killed):
        checkpoints.clear(tmp_path)
    monkeypatch.undo()
    opened(tmp_path)
    assert not (tmp_path / "checkpoint-4").exists()


def diverging_at_first(patch, settings):
    """Let a run diverge at step 6 of its first try; return the learning rates at which it was seen
    to."""
    rates, look = [], callbacks.DivergenceGuard.on_log

    def seen(self, args, state, control, logs, **more):
        rate = more["optimizer"].param_groups[0]["initial_lr"]
        if rate == settings["learning_rate"] and state.global_step == 6:
            rates.append(rate)
            raise callbacks.Diverged("made up")
        return look(self, args, state, control, logs, **more)

    patch.setattr(callbacks.DivergenceGuard, "on_log", seen)
    return rates


def test_a_second_try_is_that_of_a_quarter_of_the_rate_and_is_remembered_where_it_is_killed(
    monkeypatch, began
):
    settings = {"learning_rate": 1e-2, "warmup_share": 0.1, "eval_steps": 4}
    gentle = run("gentle", **{**settings, "learning_rate": 0.0025, "warmup_share": 0.3})
    rates = diverging_at_first(monkeypatch, settings)
    whole = run("whole", **settings)
    with killed("step", 9):
        run("killed", **settings)
    again = run("killed", **settings)
    assert whole.facts["messages"] == [
        "a second try, after one at a learning rate of 0.01 with a warm-up of 10%: made up"
    ]
    assert differences(whole, gentle) == ["messages"]
    assert differences(again, whole) == []
    assert rates == [0.01, 0.01]
    assert began == [0, 0, 0, 0, 0, 8]


NOTES = """
from pathlib import Path
import tiny_runs
from lib.training.finetune import callbacks

begin = callbacks.ResumeState.on_train_begin

def noted(self, args, state, control, **more):
    print("began at", state.global_step, flush=True)
    return begin(self, args, state, control, **more)

callbacks.ResumeState.on_train_begin = noted
"""
CELL = """
settings = {"eval_steps": 4, "epochs": 10}
with tiny_runs.home_of_its_own(Path("home")):
    watch = lambda history: print("evaluated", flush=True)
    result = tiny_runs.run("run", watch=watch, **settings)
    print(tiny_runs.differences(result, tiny_runs.run("whole", **settings)))
"""


@pytest.fixture
def kernel(tmp_path):
    """A kernel as a notebook has one, and its client."""
    places = map(str, (REPOSITORY, Path(__file__).parent))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    manager = KernelManager(kernel_spec_manager=kernels.OwnKernels())
    manager.start_kernel(cwd=str(tmp_path), env=environment)
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_a_cell_that_is_interrupted_leaves_nothing_half_written_and_goes_on(kernel, tmp_path):
    manager, client = kernel
    client.execute_interactive(NOTES, timeout=60)
    client.execute(CELL)
    said = ""
    while said.count("evaluated") < 3:
        said += client.get_iopub_msg(timeout=60)["content"].get("text", "")
    manager.interrupt_kernel()
    assert client.get_shell_msg(timeout=60)["content"]["ename"] == "KeyboardInterrupt"
    assert "began at 0" in said
    assert not (tmp_path / "home/models/run/transformer").exists()
    assert [path for path in tmp_path.rglob(".*.*") if path.is_dir()] == []

    outputs = []
    reply = client.execute_interactive(CELL, output_hook=outputs.append, timeout=120)
    assert reply["content"]["status"] == "ok"
    said = "".join(message["content"].get("text", "") for message in outputs)
    first, second = re.findall(r"began at (\d+)", said)
    assert int(first) >= 8 and second == "0"
    assert said.endswith("[]\n")
