import math

import pytest
import yaml
from pydantic import ValidationError

from lib import config
from lib.config import Config, TrainingConfig, closest, parse_overrides, profile_names, setting_keys
from lib.errors import WorkbookError
from lib.robustness.perturbations import KINDS


@pytest.fixture
def own_profiles(tmp_path, monkeypatch):
    """A folder of profiles in place of the repository's."""
    monkeypatch.setattr("lib.config.config.PROFILES", tmp_path)
    return tmp_path


def test_the_four_profiles_are_there():
    assert {"smoke", "quick", "base", "large"} <= set(profile_names())
    assert profile_names() == sorted(profile_names())


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_loads_with_the_values_of_its_file(name):
    loaded = Config.load(name)
    written = yaml.safe_load((config.PROFILES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert loaded.profile == name
    for section, settings in written.items():
        for key, value in settings.items():
            found = loaded.value(f"{section}.{key}")
            assert (list(found) if isinstance(found, tuple) else found) == value


def test_base_is_the_published_recipe():
    training = Config.load("base").training
    assert (training.backbone, training.learning_rate, training.epochs, training.batch_size) == (
        "microsoft/deberta-v3-base",
        3e-5,
        5.0,
        32,
    )
    assert (
        training.weight_decay,
        training.warmup_share,
        training.max_length,
        training.patience,
        training.max_grad_norm,
    ) == (0.01, 0.1, 256, 3, 1.0)
    assert (training.gradient_checkpointing, training.eval_steps, training.precision) == (
        False,
        220,  # half an epoch of 14,000 rows
        "auto",
    )


@pytest.mark.parametrize("profile", ["base", "large"])
def test_on_a_gpu_the_head_has_a_rate_of_its_own_and_the_ledger_is_asked_for(profile):
    config = Config.load(profile)
    assert config.training.head_learning_rate == 1e-3
    assert config.ledger.techniques == ()


def test_quick_is_the_profile_where_none_is_named(monkeypatch):
    monkeypatch.delenv("WORKBOOK_PROFILE", raising=False)
    assert Config.load().profile == "quick"
    assert Config.load("").profile == "quick"


def test_the_environment_names_the_profile_and_an_argument_beats_it(monkeypatch):
    monkeypatch.setenv("WORKBOOK_PROFILE", "smoke")
    assert Config.load().profile == "smoke"
    assert Config.load("").profile == "smoke"
    assert Config.load("base").profile == "base"


def test_an_unknown_profile_names_the_closest_and_lists_all():
    with pytest.raises(
        WorkbookError,
        match=r"no profile 'quik' \(did you mean 'quick'\?\); there are base, .*smoke",
    ):
        Config.load("quik")


def test_an_unknown_profile_in_the_environment_is_an_error(monkeypatch):
    monkeypatch.setenv("WORKBOOK_PROFILE", "smokey")
    with pytest.raises(WorkbookError, match=r"'smokey' \(did you mean 'smoke'\?\)"):
        Config.load()


def test_overrides_are_laid_over_the_profile():
    loaded = Config.load(
        "smoke",
        {"training.epochs": 7, "seed": 3, "split.shares": [0.8, 0.1, 0.1], "data.rows": None},
    )
    assert (loaded.training.epochs, loaded.seed, loaded.split.shares, loaded.data.rows) == (
        7.0,
        3,
        (0.8, 0.1, 0.1),
        None,
    )
    assert loaded.training.backbone == "tiny"
    assert loaded.labels.folds == 3


def test_an_override_does_not_outlive_its_call():
    Config.load("smoke", {"training.epochs": 7})
    assert Config.load("smoke").training.epochs == 2.0


def test_a_former_name_gets_the_present_one():
    for former, present in {
        "training.head_dropouts": "training.multisample_dropout",
        "cross_validation.stop_share": "cross_validation.early_stopping_share",
    }.items():
        reason = f"^no setting '{former}': it is '{present}' now$"
        with pytest.raises(WorkbookError, match=reason):
            Config.load("smoke", {former: 1})
        with pytest.raises(WorkbookError, match=reason):
            parse_overrides([f"{former}=1"])


def test_a_misspelt_override_names_the_closest_key():
    with pytest.raises(
        WorkbookError, match=r"no setting 'training.epoch' \(did you mean 'training.epochs'\?\)"
    ):
        Config.load("smoke", {"training.epoch": 3})


@pytest.mark.parametrize(
    "key", ["profile", "training", "training.", "epochs", "", "training.epochs.x"]
)
def test_a_key_that_is_no_single_setting_is_refused(key):
    with pytest.raises(WorkbookError, match="no setting"):
        Config.load("smoke", {key: 3})


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("training.epochs", 0, "greater than 0"),
        ("training.learning_rate", -1e-5, "greater than 0"),
        ("training.max_length", 7, "greater than or equal to 8"),
        ("training.warmup_share", 1, "less than 1"),
        ("training.batch_size", 0, "greater than or equal to 1"),
        ("training.batch_size", 1.5, "integer"),
        ("training.precision", "fp8", "'auto', 'fp32', 'bf16' or 'fp16'"),
        ("training.epochs", "many", "number"),
        ("data.rows", 9, "greater than or equal to 10"),
        ("data.merge_labels", "perhaps", "boolean"),
        ("seed", -1, "greater than or equal to 0"),
        ("seed", 2**32, "less than 4294967296"),
        ("labels.folds", 1, "greater than or equal to 2"),
        ("cleaning.html_entities", "remove", "'decode', 'drop' or 'keep'"),
        ("cleaning.urls_emails", "drop", "'replace', 'remove' or 'keep'"),
        ("cleaning.min_words", 0, "greater than or equal to 1"),
        ("split.near_duplicate_threshold", 0.5, "greater than 0.5"),
        ("split.near_duplicate_threshold", 1.01, "less than or equal to 1"),
        ("evaluation.n_resamples", 99, "greater than or equal to 100"),
        ("evaluation.confidence", 1, "less than 1"),
    ],
)
def test_a_value_out_of_range_names_the_key_the_bound_and_what_was_found(key, value, reason):
    with pytest.raises(WorkbookError, match=f"^{key}: .*{reason}") as caught:
        Config.load("smoke", {key: value})
    assert f"(found {value!r})" in str(caught.value)


@pytest.mark.parametrize(
    "bounds",
    [
        ("training.max_length", 8),
        ("training.max_length", 8_192),
        ("split.near_duplicate_threshold", 1.0),
        ("seed", 2**32 - 1),
    ],
)
def test_a_value_on_its_bound_is_taken(bounds):
    key, value = bounds
    assert Config.load("smoke", {key: value}).value(key) == value


@pytest.mark.parametrize("shares", [[0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [1.2, -0.1, -0.1]])
def test_shares_that_do_not_sum_to_one_are_refused(shares):
    with pytest.raises(WorkbookError, match=r"split: .*shares must be positive and sum to 1, got"):
        Config.load("smoke", {"split.shares": shares})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split.shares", [math.nan] * 3),
        ("training.epochs", math.inf),
        ("training.learning_rate", math.inf),
    ],
)
def test_what_is_no_finite_number_is_refused(key, value):
    with pytest.raises(WorkbookError, match=key.split(".", maxsplit=1)[0]):
        Config.load("smoke", {key: value})


def test_all_wrong_values_are_named_at_once():
    with pytest.raises(WorkbookError, match=r"training.epochs: .*; training.patience: "):
        Config.load("smoke", {"training.epochs": 0, "training.patience": 0})


def test_a_misspelt_key_in_a_profile_file_is_an_error(own_profiles):
    (own_profiles / "mine.yaml").write_text("training: {epoch: 3}\n", encoding="utf-8")
    with pytest.raises(
        WorkbookError, match=r"no setting 'training.epoch' \(did you mean 'training.epochs'\?\)"
    ):
        Config.load("mine")


def test_an_empty_profile_file_gives_the_defaults(own_profiles):
    (own_profiles / "mine.yaml").write_text("# nothing set\n", encoding="utf-8")
    assert Config.load("mine") == Config(profile="mine")
    assert Config.load("mine", {"labels.folds": 4}).labels.folds == 4


def test_settings_cannot_be_changed_after_loading():
    loaded = Config.load("smoke")
    with pytest.raises(ValidationError, match="frozen"):
        loaded.training.epochs = 9
    assert loaded.training.epochs == 2.0


def test_setting_keys_name_each_setting_once_and_not_the_profile():
    keys = setting_keys()
    assert len(keys) == len(set(keys))
    assert keys[:3] == ["seed", "data.source", "data.text_column"]
    assert "profile" not in keys
    assert "training" not in keys


def test_flat_has_every_key_with_its_value():
    loaded = Config.load("smoke", {"labels.queue_rows": 17})
    flat = loaded.flat()
    assert list(flat) == setting_keys()
    assert (flat["labels.queue_rows"], flat["training.backbone"], flat["seed"]) == (17, "tiny", 42)
    assert Config.load("smoke", flat) == loaded


def test_every_kind_of_perturbation_can_be_set():
    assert Config.load("base").robustness.kinds == (*KINDS, "synonyms")
    with pytest.raises(WorkbookError, match="raw_kinds has 'white_space', which kinds has not"):
        Config.load("smoke", {"robustness.kinds": ["html", "url", "homoglyphs"]})


def test_closest_offers_a_near_name_and_no_far_one():
    assert closest("colour", ["color", "size"]) == " (did you mean 'color'?)"
    assert closest("xyz", ["color", "size"]) == ""
    assert closest("color", []) == ""


def test_overrides_of_a_command_line_are_read_as_yaml():
    words = [
        "training.epochs=3",
        "data.merge_labels=true",
        "split.shares=[0.8, 0.1, 0.1]",
        "data.rows=",
        "data.source=hub:ag_news",
        "data.encoding=a=b",
    ]
    assert parse_overrides(words) == {
        "training.epochs": 3,
        "data.merge_labels": True,
        "split.shares": [0.8, 0.1, 0.1],
        "data.rows": None,
        "data.source": "hub:ag_news",
        "data.encoding": "a=b",
    }


def test_a_learning_rate_without_a_point_reaches_the_setting():
    assert (
        Config.load(
            "smoke", parse_overrides(["training.learning_rate=5e-5"])
        ).training.learning_rate
        == 5e-5
    )


def test_the_last_of_two_assignments_counts():
    assert parse_overrides(["seed=1", "seed=2"]) == {"seed": 2}


def test_an_assignment_without_an_equals_sign_shows_how_it_is_written():
    with pytest.raises(
        WorkbookError,
        match=r"key=value, found 'training.epochs'; for instance --set training.epochs=3",
    ):
        parse_overrides(["training.epochs"])


def test_an_assignment_to_an_unknown_key_names_the_closest():
    with pytest.raises(
        WorkbookError, match=r"no setting 'labels.fold' \(did you mean 'labels.folds'\?\)"
    ):
        parse_overrides(["labels.fold=2"])


@pytest.mark.parametrize("word", ["data.source=[", "data.text_column=@text", "data.source=a: b: c"])
def test_a_value_that_is_no_yaml_is_an_error_that_names_the_key(word):
    with pytest.raises(WorkbookError, match=word.split("=", maxsplit=1)[0]):
        parse_overrides([word])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"adversarial": "embeddings", "frozen_layers": 1},
            "adversarial=embeddings needs embeddings that learn",
        ),
        (
            {"adversarial": "embeddings", "lora_rank": 4, "unfreeze": []},
            "adversarial=embeddings needs embeddings that learn",
        ),
        (
            {"lora_rank": 4, "frozen_layers": 1, "unfreeze": []},
            "lora_rank trains small matrices in all layers alike",
        ),
        ({"lora_rank": 4, "unfreeze": [0]}, "lora_rank trains small matrices in all layers alike"),
        (
            {"lora_rank": 4, "unfreeze": [], "layer_decay": 0.9},
            "lora_rank trains small matrices in all layers alike",
        ),
        ({"unfreeze": [0, -1]}, r"unfreeze counts layers from the top, 0 or more, got \(0, -1\)"),
    ],
)
def test_training_settings_that_do_not_go_together_are_refused(settings, reason):
    with pytest.raises(WorkbookError, match=f"training: .*{reason}"):
        Config.load("base", {f"training.{name}": value for name, value in settings.items()})


@pytest.mark.parametrize(
    "settings",
    [
        {"adversarial": "weights", "frozen_layers": 1},
        {"adversarial": "embeddings", "frozen_layers": 0, "unfreeze": [0, 6]},
        {"lora_rank": 4, "unfreeze": [], "adversarial": "weights"},
        {"unfreeze": [0, 6, 12]},
    ],
)
def test_training_settings_that_go_together_are_taken(settings):
    training = Config.load(
        "base", {f"training.{name}": value for name, value in settings.items()}
    ).training
    assert {
        name: value for name, value in training.model_dump(mode="json").items() if name in settings
    } == settings


def test_the_default_training_is_the_recipe_for_a_pretrained_model():
    training = TrainingConfig()
    assert (
        training.unfreeze,
        training.averaging,
        training.averaging_start,
        training.ema_decay,
    ) == ((0, 6), "ema", 0.5, 0.999)
    off = {
        "pooling": "cls",
        "reinit_layers": 0,
        "lora_rank": 0,
        "pretraining_epochs": 0,
        "truncation": "head",
        "layer_decay": 1,
        "frozen_layers": 0,
    }
    off |= {
        "class_weights": "none",
        "label_smoothing": 0,
        "r_drop": 0,
        "mixup": 0,
        "multisample_dropout": 1,
        "adversarial": "none",
        "processes": 1,
    }
    assert {name: value for name, value in training.model_dump().items() if name in off} == off


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"search.space": {"lr": [1]}}, "search.space: 'lr' is not a training setting"),
        (
            {"cross_validation.members": {"x": {"epochs": -1}}},
            "cross_validation.members: 'x': epochs: Input should be greater than 0 (found -1)",
        ),
        (
            {"cross_validation.members": {"searched": {}}},
            "cross_validation: members has 'searched', a name that the workbook gives itself: "
            "choose another name",
        ),
        (
            {"training.lora_rank": 4},
            "training: lora_rank trains small matrices in all layers alike: set frozen_layers to "
            "0, unfreeze to [] and layer_decay to 1",
        ),
        (
            {"search.space": {"batch_size": {"low": 8, "high": 32, "step": 0.5}}},
            "search.space.batch_size: step is 0.5 between whole numbers: make it whole, or write "
            "low as 8.0 (found {'low': 8, 'high': 32, 'step': 0.5})",
        ),
        (
            {"search.space": {"dropout": {"low": 0.1, "high": 0.2, "step": 1}}},
            "search.space.dropout: step 1 leads beyond high 0.2: make it smaller, or leave it "
            "out (found {'low': 0.1, 'high': 0.2, 'step': 1})",
        ),
    ],
)
def test_an_error_of_several_settings_says_what_is_wrong_and_not_the_whole_configuration(
    overrides, message
):
    with pytest.raises(WorkbookError) as caught:
        Config.load("base", overrides)
    assert str(caught.value) == message


def test_nothing_behind_the_equals_sign_is_the_empty_text_where_that_is_the_default():
    assert parse_overrides(["tracking.uri=", "training.threads="]) == {
        "tracking.uri": "",
        "training.threads": None,
    }
    assert Config.load("base", parse_overrides(["tracking.uri="])).tracking.uri == ""


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("data.source", "t.csv", "{cwd}/t.csv"),
        ("data.source", "../t.csv", "{cwd}/../t.csv"),
        ("data.source", "/elsewhere/t.csv", "/elsewhere/t.csv"),
        ("data.source", "~/t.csv", "{home}/t.csv"),
        ("data.source", "hub:t.csv", "hub:t.csv"),
        ("data.source", "docstrings", "docstrings"),
        ("training.backbone", "models/bert", "{cwd}/models/bert"),
        ("training.backbone", "./models/bert", "{cwd}/models/bert"),
        ("training.backbone", "models/other", "models/other"),
        ("training.backbone", "tiny", "tiny"),
        ("labels.encoder", "models/bert", "{cwd}/models/bert"),
        ("labels.encoder", None, None),
        ("robustness.ood_data", "other.csv", "{cwd}/other.csv"),
        ("robustness.ood_data", None, None),
        ("monitoring.log", "logs", "{cwd}/logs"),
        ("monitoring.labels", "~/l.csv", "{home}/l.csv"),
        ("augmentation.masked_model", "models/bert", "{cwd}/models/bert"),
        ("augmentation.paraphraser", "models/bert", "{cwd}/models/bert"),
        ("augmentation.translators", ["models/bert", "a/b"], ("{cwd}/models/bert", "a/b")),
        (
            "cross_validation.members",
            {"models/bert": {"backbone": "models/bert", "pooling": "mean"}, "plain": {}},
            {"models/bert": {"backbone": "{cwd}/models/bert", "pooling": "mean"}, "plain": {}},
        ),
        (
            "search.space",
            {"backbone": ["tiny", "models/bert"], "batch_size": {"low": 1, "high": 2}},
            {"backbone": ["tiny", "{cwd}/models/bert"], "batch_size": {"low": 1, "high": 2}},
        ),
    ],
)
def test_paths_are_made_absolute_where_settings_enter(tmp_path, monkeypatch, key, given, expected):
    (tmp_path / "models" / "bert").mkdir(parents=True)
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    config = Config.load("smoke", {key: given})
    filled = filled_in(expected, cwd=tmp_path, home="/home/me")
    assert config.value(key) == filled
    is_path = "{cwd}" in str(expected) or "{home}" in str(expected) or str(given).startswith("/")
    as_json = list(filled) if isinstance(filled, tuple) else filled
    assert config.local_paths() == ({key: as_json} if is_path else {})


def filled_in(value, **places):
    if isinstance(value, dict):
        return {name: filled_in(inner, **places) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(filled_in(inner, **places) for inner in value)
    return value.format(**places) if isinstance(value, str) else value


@pytest.mark.parametrize(
    ("overrides", "n_folds", "fewer"),
    [
        (
            {},
            5,
            [
                "labels.folds=2",
                "cross_validation.folds=2",
                "search.trials=0",
                "cross_validation.curve_draws=0",
            ],
        ),
        (
            {"cross_validation.folds": 7, "search.trials": 0},
            7,
            ["labels.folds=2", "cross_validation.folds=2", "cross_validation.curve_draws=0"],
        ),
        (
            {
                "labels.folds": 2,
                "cross_validation.folds": 3,
                "search.trials": 0,
                "cross_validation.curve_draws": 0,
            },
            3,
            ["cross_validation.folds=2"],
        ),
        (
            {"search.nested_folds": 2, "labels.folds": 2, "cross_validation.folds": 2},
            10,  # half of them are searched in five parts
            ["search.trials=0", "cross_validation.curve_draws=0"],
        ),
        (
            {"search.nested_folds": 12, "labels.folds": 2, "cross_validation.folds": 2},
            12,
            ["search.trials=0", "cross_validation.curve_draws=0"],
        ),
    ],
)
def test_the_most_parts_that_a_class_is_dealt_into(overrides, n_folds, fewer):
    config = Config.load("base", overrides)
    assert (config.n_folds, config.fewer_folds) == (n_folds, fewer)
