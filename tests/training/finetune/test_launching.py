import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from tiny_runs import VAL, configured, home_of_its_own, place, rows, run, score

from lib import workspace
from lib.errors import WorkbookError
from lib.training.finetune import launching, worker
from lib.training.finetune.job import TrainingJob


@pytest.fixture(autouse=True, scope="module")
def _home(tmp_path_factory):
    with home_of_its_own(tmp_path_factory.mktemp("home")):
        yield


def test_two_processes_give_what_one_gives():
    """With everything on in which they have to wait for one another."""
    # batches that can be shared evenly: in a shorter last one windows would be seen twice
    train = pd.concat([rows(16, seed=0)] * 8, ignore_index=True)
    val = rows(240, seed=1)  # several batches, which the processes share
    settings = {
        "dropout": 0,
        "attention_dropout": 0,
        "unfreeze": (0,),
        "frozen_layers": 1,
        "averaging": "ema",
        "averaging_start": 0.2,
        "pretraining_epochs": 1,
        "truncation": "windows",
        "max_length": 8,
    }
    settings |= {"epochs": 3, "eval_steps": 5, "patience": 100}
    looks = []
    one, two = (
        run("one", train, val, **settings),
        run("two", train, val, processes=2, watch=looks.append, **settings),
    )
    np.testing.assert_allclose(two.val_probs, one.val_probs, atol=1e-4)
    assert score(two, val) >= 0.8
    assert (one.facts["processes"], two.facts["processes"]) == (1, 2)
    assert one.facts["steps"] > 3 * len(train) / 8  # there are more windows than texts
    for name in ("steps", "best_step", "kept", "messages", "weights_learning", "truncated_share"):
        assert two.facts[name] == one.facts[name], name
    np.testing.assert_allclose(
        two.history.to_numpy(float), one.history.to_numpy(float), rtol=1e-2, atol=1e-4
    )
    assert list(two.history.columns) == list(one.history.columns)
    np.testing.assert_allclose(
        looks[-1].to_numpy(float), two.history.to_numpy(float)[: len(looks[-1])]
    )
    assert sorted(path.name for path in two.model_dir.parent.iterdir()) == [
        "last_checkpoint",
        "pretrained",
        "pretrained.json",
        "tiny-deberta",
        "transformer",
    ]


def test_two_machines_give_what_one_gives():
    """Two launchers that know of one another by an address alone; each has one process."""
    train = rows(64, seed=0)
    settings = {"dropout": 0, "attention_dropout": 0, "epochs": 3, "eval_steps": 5, "patience": 100}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    first, second = (
        ("--nnodes", "2", "--node_rank", rank, "--master_addr", "127.0.0.1", "--master_port", port)
        for rank in "01"
    )
    folder = place("machines").path("transformer").parent / "launch"
    said = []

    def second_machine():
        given_up = time.monotonic() + 60
        while not (folder / "job.json").exists():
            if time.monotonic() > given_up:
                return
            time.sleep(0.1)
        command = launching.launch_command(configured(launch_options=second), str(folder))
        said.append(
            subprocess.run(command, cwd=workspace.REPOSITORY, capture_output=True, text=True)
        )

    other = threading.Thread(target=second_machine)
    other.start()
    one, two = (
        run("machine", train, **settings),
        run("machines", train, launch_options=first, **settings),
    )
    other.join()
    assert said and said[0].returncode == 0, said
    assert (one.facts["processes"], two.facts["processes"]) == (1, 2)
    np.testing.assert_allclose(two.val_probs, one.val_probs, atol=1e-4)
    np.testing.assert_allclose(
        two.history.to_numpy(float), one.history.to_numpy(float), rtol=1e-2, atol=1e-4
    )


def test_an_error_of_a_process_arrives_as_one_with_its_reason():
    with pytest.raises(WorkbookError) as caught:
        run("wrong", processes=2, reinit_layers=5)
    assert (
        str(caught.value)
        == "training in 2 processes failed: training.reinit_layers=5, but the backbone has 2 layers"
    )


def launcher(code):
    """The command of a launcher that does nothing but this."""
    return lambda config, folder: [
        sys.executable,
        "-c",
        f"import os, sys\nfolder = {folder!r}\n{code}",
    ]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "sys.exit('Traceback\\n[rank0]: lib.errors.WorkbookError: too "
            "much\\n\\nChildFailedError\\n')",
            "too much",
        ),
        ("sys.exit('Traceback\\nRuntimeError: gone\\n\\n')", "RuntimeError: gone"),
        ("print('said on the way out'); sys.exit(1)", "said on the way out"),
        ("os.kill(os.getpid(), 9)", "no output"),
        ("sys.exit(0)", "no output"),
    ],
)
def test_a_launcher_that_fails_or_leaves_no_result_is_an_error(monkeypatch, code, reason):
    monkeypatch.setattr(launching, "launch_command", launcher(code))
    with pytest.raises(WorkbookError) as caught:
        launching.launch(
            TrainingJob(rows(6, seed=0), VAL, configured(processes=3), place("failed"))
        )
    assert str(caught.value) == f"training in 3 processes failed: {reason}"


def test_the_result_of_an_earlier_launch_is_not_taken_for_this_ones(monkeypatch):
    folder = place("stale").path("transformer").parent / "launch"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"facts": {}, "history": []}', encoding="utf-8")
    monkeypatch.setattr(launching, "launch_command", launcher("sys.exit(0)"))
    with pytest.raises(WorkbookError, match="failed: no output"):
        launching.launch(TrainingJob(rows(6, seed=0), VAL, configured(processes=2), place("stale")))


def test_what_watches_sees_each_evaluation_and_may_end_the_processes():
    seen = []

    def watch(history):
        seen.append(history)
        assert len(processes_of("watched")) >= 2
        raise InterruptedError("seen enough")

    with pytest.raises(InterruptedError, match="seen enough"):
        run("watched", processes=2, epochs=50, watch=watch)
    (history,) = seen
    assert history["eval_macro_f1"].notna().sum() == history["step"].max() / 8 > 0
    assert processes_of("watched") == []
    assert not place("watched").path("transformer").exists()


ORPHANING = """
import sys
sys.path.insert(0, {tests!r})
from tiny_runs import run
run("orphans", processes=2, epochs=500)
"""


def test_the_processes_end_with_the_one_that_reads_the_result():
    code, history = (
        ORPHANING.format(tests=str(Path(__file__).parent)),
        place("orphans").path("transformer").parent / "launch" / "history.json",
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(workspace.REPOSITORY)}
    )
    while not history.exists():
        assert parent.poll() is None
        time.sleep(0.1)
    assert len(processes_of("orphans")) >= 2
    parent.kill()
    parent.wait()
    given_up = time.monotonic() + 30
    while processes_of("orphans") and time.monotonic() < given_up:
        time.sleep(0.2)
    assert processes_of("orphans") == []


def processes_of(name):
    """Return the processes that train in this run."""
    folder = str(place(name).path("transformer").parent)
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(folder in word for word in process.info["cmdline"] or [])
    ]


MODULE = "lib.training.finetune.worker"


def test_on_gpus_the_launcher_is_accelerates_and_takes_more_words(monkeypatch):
    monkeypatch.setattr(launching.torch.cuda, "is_available", lambda: True)
    more = ("--num_machines", "2", "--machine_rank", "1")
    command = launching.launch_command(configured(processes=4, launch_options=more), "folder")
    assert command == [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "8",
        *more,
        "-m",
        MODULE,
        "folder",
    ]


@pytest.mark.parametrize(
    ("processes", "words", "flag"),
    [
        (2, (), ["--multi_gpu"]),
        (1, ("--gpu_ids", "1"), []),
        (1, ("--num_machines", "2"), ["--multi_gpu"]),
        (2, ("--config_file", "c.yaml"), []),
        (2, ("--multi_gpu", "--gpu_ids", "0,2"), []),
    ],
)
def test_accelerate_takes_the_words_and_one_kind_of_launch(monkeypatch, processes, words, flag):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    monkeypatch.setattr(launching.torch.cuda, "is_available", lambda: True)
    configured_words = configured(processes=processes, launch_options=words)
    command = launching.launch_command(configured_words, "folder")
    assert command[3 : command.index("--num_processes")] == flag
    if "--config_file" not in words:
        options = launch_command_parser().parse_args(command[3:])
        _validate_launch_command(options)


@pytest.mark.parametrize("word", ["--use_deepspeed", "--use_fsdp"])
def test_a_launch_that_shares_out_gradients_is_refused(word):
    with pytest.raises(ValueError, match=f"launch_options has {word}, and .*: leave it out"):
        configured(processes=2, launch_options=(word,))


@pytest.mark.parametrize(
    ("variable", "name"),
    [("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"), ("ACCELERATE_USE_FSDP", "FSDP")],
)
def test_a_launcher_s_file_that_shares_out_gradients_is_refused_by_its_processes(
    monkeypatch, tmp_path, variable, name
):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(WorkbookError, match=f"asks for {name}, .*: set distributed_type to"):
        worker.main(tmp_path)


def test_a_zero_2_configuration_as_accelerate_reads_it_is_refused(monkeypatch, tmp_path):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env

    (tmp_path / "zero2.yaml").write_text(
        "{compute_environment: LOCAL_MACHINE, distributed_type: DEEPSPEED, num_machines: 1, "
        "deepspeed_config: {zero_stage: 2}, mixed_precision: bf16, main_process_port: 0}"
    )
    monkeypatch.setattr(launching.torch.cuda, "is_available", lambda: True)
    words = ["--config_file", str(tmp_path / "zero2.yaml")]
    command = launching.launch_command(configured(processes=2, launch_options=words), "folder")
    options, _, _ = _validate_launch_command(launch_command_parser().parse_args(command[3:]))
    options.deepspeed_fields_from_accelerate_config = "zero_stage"  # as the launcher sets it
    _, environment = prepare_deepspeed_cmd_env(options)
    assert (options.num_processes, environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"]) == (2, "2")
    monkeypatch.setattr(os, "environ", environment)
    with pytest.raises(WorkbookError, match="asks for DeepSpeed, which shares out gradients"):
        worker.main(tmp_path)


def test_on_cpus_the_launcher_is_torchrun_with_a_port_of_its_own_or_the_words_given(monkeypatch):
    monkeypatch.setattr(launching.torch.cuda, "is_available", lambda: False)
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    assert launching.launch_command(configured(processes=2), "folder") == [
        *start,
        "--standalone",
        "-m",
        MODULE,
        "folder",
    ]
    words = ("--nnodes", "2")
    assert launching.launch_command(configured(processes=2, launch_options=words), "folder") == [
        *start,
        *words,
        "-m",
        MODULE,
        "folder",
    ]


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, (1, True)),
        ({"WORLD_SIZE": "4", "RANK": "0"}, (4, True)),
        ({"WORLD_SIZE": "4", "RANK": "3"}, (4, False)),
    ],
)
def test_a_process_learns_from_its_environment_which_one_it_is(monkeypatch, environment, found):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (launching.n_processes(), launching.is_first()) == found
