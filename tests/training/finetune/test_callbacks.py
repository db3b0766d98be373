from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tiny_runs import home_of_its_own, run

from lib.config import TrainingConfig
from lib.training.finetune import callbacks, freezing
from lib.training.finetune.averaging import WeightAverage, set_weights
from lib.training.finetune.callbacks import Diverged, DivergenceGuard, history_table


@pytest.fixture(autouse=True, scope="module")
def _home(tmp_path_factory):
    with home_of_its_own(tmp_path_factory.mktemp("home")):
        yield


# --- history ---


def test_the_history_has_one_row_a_step_and_only_what_was_measured():
    log = [
        {"loss": 2.0, "learning_rate": 0.1, "grad_norm": 3.0, "epoch": 0.5, "step": 1},
        {"loss": 1.0, "learning_rate": 0.2, "grad_norm": 4.0, "epoch": 1.0, "step": 2},
        {"eval_loss": 0.7, "eval_macro_f1": 0.5, "eval_accuracy": 0.6, "epoch": 1.0, "step": 2},
        {"train_runtime": 9.0, "train_loss": 1.5, "step": 2},
    ]
    expected = pd.DataFrame(
        [[1, 2.0, 0.1, 3.0, None, None, None], [2, 1.0, 0.2, 4.0, 0.7, 0.5, 0.6]],
        columns=[
            "step",
            "loss",
            "learning_rate",
            "grad_norm",
            "eval_loss",
            "eval_macro_f1",
            "eval_accuracy",
        ],
    )
    pd.testing.assert_frame_equal(history_table(log), expected)


def test_whoever_watches_is_given_the_history_so_far_after_every_evaluation():
    seen = []
    result = run("watched", epochs=1, eval_steps=3, watch=seen.append)
    assert [table["step"].tolist() for table in seen] == [
        [*range(1, 4)],
        [*range(1, 7)],
        [*range(1, 9)],
    ]
    assert [table["eval_macro_f1"].notna().sum() for table in seen] == [1, 2, 3]
    pd.testing.assert_frame_equal(seen[-1], result.history)


def test_the_bar_shows_the_steps_and_the_score(monkeypatch):
    bars, bar = [], callbacks.tqdm
    monkeypatch.setattr(
        callbacks,
        "tqdm",
        lambda **words: bars.append(bar(**{**words, "disable": False})) or bars[-1],
    )
    result = run("shown", epochs=0.5)
    assert (bars[0].n, bars[0].total) == (4, 4)
    assert bars[0].postfix == f"macro_f1={result.history['eval_macro_f1'].iloc[-1]:.3f}"


# --- divergence ---

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("fp16", "logs", "found"),
    [
        (False, {"loss": 0.5, "grad_norm": 1.0}, None),
        (False, {"loss": 0.5, "grad_norm": INF}, "grad_norm is inf"),
        (False, {"loss": 0.5, "grad_norm": NAN}, "grad_norm is nan"),
        (False, {"loss": NAN, "grad_norm": NAN}, "loss is nan"),
        (False, {"eval_loss": NAN, "eval_macro_f1": 0.1}, "eval_loss is nan"),
        (True, {"loss": 0.5, "grad_norm": INF}, None),
        (True, {"loss": 0.5, "grad_norm": NAN}, None),
        (True, {"loss": NAN, "grad_norm": NAN}, "loss is nan"),
        (True, {"eval_loss": NAN}, "eval_loss is nan"),
        (False, {"train_loss": NAN}, None),
    ],
)
def test_what_is_no_number_is_divergence_but_not_a_step_that_fp16_skips(fp16, logs, found):
    guard = DivergenceGuard(chance_loss=1.0, starts=0)
    words = (
        SimpleNamespace(fp16=fp16, logging_steps=1),
        SimpleNamespace(global_step=3, log_history=[]),
        None,
        logs,
    )
    if found is None:
        guard.on_log(*words)
    else:
        with pytest.raises(Diverged, match=rf"^{found} at step 3$"):
            guard.on_log(*words)


def stopped_at(losses, *, starts, every=1):
    """Return the step at which the guard stops a run that logs these losses, None where it does
    not."""
    guard, args = (
        DivergenceGuard(chance_loss=1.0, starts=starts),
        SimpleNamespace(fp16=False, logging_steps=every),
    )
    state = SimpleNamespace(global_step=0, log_history=[])
    for loss in losses:
        state.global_step += every
        state.log_history.append({"loss": loss, "step": state.global_step})
        try:
            guard.on_log(args, state, None, state.log_history[-1])
        except Diverged:
            return state.global_step
    return None


@pytest.mark.parametrize(
    ("losses", "options", "step"),
    [
        ([1.0] * 300, {"starts": 0}, 100),
        ([1.0] * 300, {"starts": 40}, 140),
        ([1.0] * 60, {"starts": 40, "every": 7}, 140),
        ([1.0] * 60, {"starts": 41, "every": 7}, 147),
        ([1.0] * 99, {"starts": 0}, None),  # a short run
        ([1.0] * 139, {"starts": 40}, None),
        ([0.96] * 300, {"starts": 0}, None),
        ([0.98] * 300, {"starts": 0}, 100),
        (
            [0.0] * 40 + [1.0] * 260,
            {"starts": 40},
            140,
        ),  # what comes before the last layers learn does not count
        ([5.0] * 40 + [0.5] * 260, {"starts": 40}, None),
        ([0.5] * 150 + [1.0] * 150, {"starts": 40}, None),  # it had left chance behind
    ],
)
def test_a_loss_that_stays_where_guessing_is_stops_the_run_a_hundred_steps_after_the_warm_up(
    losses, options, step
):
    assert stopped_at(losses, **options) == step


# --- stages ---


@pytest.mark.parametrize(
    ("n_layers", "settings", "epoch"),
    [
        (12, {"unfreeze": (0, 6)}, 2),
        (6, {"unfreeze": (0, 6)}, 1),  # the six are all there are
        (12, {"unfreeze": (0, 6), "frozen_layers": 6}, 1),
        (12, {"unfreeze": (0, 6), "frozen_layers": 12}, 0),
        (12, {"unfreeze": ()}, 0),
        (12, {"unfreeze": (), "frozen_layers": 4}, 0),
    ],
)
def test_the_last_stage_begins_when_all_layers_learn_that_ever_do(n_layers, settings, epoch):
    assert freezing.last_stage(TrainingConfig(**settings), n_layers=n_layers) == epoch


@pytest.mark.parametrize(
    ("settings", "depths"),
    [
        ({"unfreeze": ()}, [0, 0, 0, 0]),
        ({"unfreeze": (0,)}, [0, 0, 0, 0]),  # one epoch does not pay for a cache
        ({"unfreeze": (0, 6)}, [6, 6, 0, 0]),
        ({"unfreeze": (2, 2)}, [10, 10, 0, 0]),
        ({"unfreeze": (0, 6), "frozen_layers": 3}, [3, 3, 3, 3]),
        ({"unfreeze": (), "frozen_layers": 3}, [3, 3, 3, 3]),
        ({"unfreeze": (), "frozen_layers": 3, "epochs": 1}, [0]),
        ({"unfreeze": (), "frozen_layers": 3, "epochs": 1.5}, [3, 3]),
    ],
)
def test_what_is_kept_of_frozen_layers_depends_on_the_epoch_and_not_on_where_a_run_began(
    settings, depths
):
    settings = TrainingConfig(**{"epochs": 4, **settings})
    assert [
        freezing.cached_depth(settings, epoch, n_layers=12) for epoch in range(len(depths))
    ] == depths


# --- averages ---


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope, self.offset = (
            torch.nn.Parameter(torch.zeros(2)),
            torch.nn.Parameter(torch.zeros(())),
        )

    def put(self, slope, offset):
        with torch.no_grad():
            self.slope.fill_(slope)
            self.offset.fill_(offset)


def averaged(steps, *, max_steps, model=None, average=None, **settings):
    model = model or Line()
    average = average or WeightAverage(model, TrainingConfig(**settings))
    for step in steps:
        model.put(step, -(step**2))
        average.on_step_end(None, SimpleNamespace(global_step=step, max_steps=max_steps), None)
    return average


def exponential(values, limit):
    weights = [limit**age for age in reversed(range(len(values)))]
    return sum(w * value for w, value in zip(weights, values)) / sum(weights)


@pytest.mark.parametrize("limit", [0.999, 0.9, 0.24])
def test_in_the_exponential_average_a_point_weighs_by_its_age_from_the_start_on(limit):
    average = averaged(
        range(1, 11), max_steps=10, averaging="ema", averaging_start=0.35, ema_decay=limit
    )
    assert average.weights["slope"].tolist() == pytest.approx(
        [exponential(range(4, 11), limit)] * 2, rel=1e-6
    )
    assert average.weights["offset"].item() == pytest.approx(
        exponential([-(step**2) for step in range(4, 11)], limit), rel=1e-6
    )
    assert average.n == 7


def test_the_even_average_is_the_mean_of_a_hundred_points_at_most():
    average = averaged(range(1, 401), max_steps=400, averaging="swa", averaging_start=0.5)
    points = range(200, 401, 4)
    assert average.n == len(points) == 51
    assert average.weights["slope"].tolist() == pytest.approx([300] * 2, rel=1e-5)
    assert average.weights["offset"].item() == pytest.approx(
        -sum(step**2 for step in points) / 51, rel=1e-5
    )


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_an_average_begins_anew_when_more_weights_begin_to_learn(kind):
    model = Line()
    model.slope.requires_grad_(False)
    settings = {
        "max_steps": 10,
        "model": model,
        "averaging": kind,
        "averaging_start": 0,
        "ema_decay": 0.5,
    }
    early = averaged([1, 2], **settings)
    assert list(early.weights) == ["offset"]
    model.slope.requires_grad_(True)
    found = averaged([3, 4, 5], average=early, **settings).weights
    expected = averaged([3, 4, 5], **{**settings, "model": Line()}).weights
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in expected.items()
    }


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_an_average_is_saved_before_the_checkpoint_and_taken_up_again(tmp_path, kind):
    settings = {"max_steps": 10, "averaging": kind, "averaging_start": 0}
    whole, part = averaged(range(1, 10), **settings), averaged(range(1, 6), **settings)
    args = SimpleNamespace(output_dir=str(tmp_path), device=torch.device("cpu"))
    part.on_evaluate(args, SimpleNamespace(global_step=5, is_world_process_zero=False), None)
    assert list(tmp_path.iterdir()) == []
    state = SimpleNamespace(global_step=5, is_world_process_zero=True)
    part.on_evaluate(args, state, None)
    assert [path.name for path in (tmp_path / "checkpoint-5").iterdir()] == ["averaged.safetensors"]
    model = Line()
    resumed = WeightAverage(model, TrainingConfig(averaging=kind, averaging_start=0))
    resumed.on_train_begin(args, state, None)
    found = averaged(range(6, 10), average=resumed, model=model, **settings)
    assert found.n == 9
    assert all(torch.equal(value, found.weights[name]) for name, value in whole.weights.items())
    set_weights(model, found.weights)
    assert all(
        torch.equal(parameter, whole.weights[name]) for name, parameter in model.named_parameters()
    )


def test_a_run_at_its_beginning_takes_up_no_average(tmp_path):
    args = SimpleNamespace(output_dir=str(tmp_path), device=torch.device("cpu"))
    averaged([1], max_steps=2, averaging="ema", averaging_start=0).on_evaluate(
        args, SimpleNamespace(global_step=0, is_world_process_zero=True), None
    )
    fresh = WeightAverage(Line(), TrainingConfig())
    fresh.on_train_begin(args, SimpleNamespace(global_step=0), None)
    assert (fresh.weights, fresh.n) == ({}, 0)
