import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from linear_classifiers import CLASSES, LABELS, TEXTS

from lib.config import CleaningConfig, TrainingConfig
from lib.data.cleaning import clean_texts
from lib.errors import WorkbookError
from lib.evaluation.calibration import Calibrator
from lib.evaluation.decision_rule import MOST_PROBABLE, DecisionRule
from lib.robustness import ood
from lib.training import backbones, baseline, classifier_folder, finetune, local_deberta
from lib.training.classifier import Classifier
from lib.training.ensembles import Ensemble
from lib.training.member import Member

RAW = [
    "<p>The crow &amp; the owl</p>",
    "a  saw,\ta drill: see https://example.org/tools.",
    "Ａpple and pear and plum " * 30,
]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The files of a linear model and of an untrained DeBERTa-v3, as saved."""
    folder = tmp_path_factory.mktemp("members")
    for name, fit in baseline.LINEAR.items():
        baseline.save_baseline(fit(TEXTS, LABELS), folder / name.replace(":", ""))
    local_deberta.build(TEXTS, folder / "backbone", seed=1)
    tokenizer, model = backbones.load_backbone(str(folder / "backbone"), class_names=CLASSES)
    model.save_pretrained(folder / "transformer")
    tokenizer.save_pretrained(folder / "transformer")
    return folder


def settings(**changed):
    return TrainingConfig(**{"max_length": 16, "precision": "fp32", **changed})


@pytest.fixture
def classifier(folders):
    members = [
        Member("TF-IDF", folders / "TF-IDF"),
        Member("short", folders / "transformer", settings()),
        Member(
            "a: long/one", folders / "transformer", settings(max_length=64, truncation="windows")
        ),
    ]
    weights = np.array([0.5, 0.2, 0.3])
    return Classifier(
        CLASSES,
        CleaningConfig(),
        members,
        Ensemble("weighted", [member.name for member in members], CLASSES, weights, np.zeros(3)),
        Calibrator(np.array([1.1, 0.9, 1.3]), np.array([0.0, 0.1, -0.2])),
        abstain_below=0.25,
        set_thresholds={0.9: np.array([0.2, 0.3, 0.4]), 0.5: np.array([0.5, 0.5, 0.5])},
        origin={"dataset": "things", "versions": {"torch": "2"}},
    )


@pytest.fixture
def saved(classifier, tmp_path):
    classifier.save(tmp_path / "classifier")
    return tmp_path / "classifier"


def test_probabilities_are_those_of_the_parts_to_the_last_digit(classifier, folders):
    cleaned = clean_texts(RAW).texts
    tokenizer, model, names = finetune.load_model(folders / "transformer")
    assert names == CLASSES
    parts = {
        "TF-IDF": baseline.load_baseline(folders / "TF-IDF").predict_proba(cleaned),
        "short": finetune.predict_probs(tokenizer, model, cleaned, settings=settings()),
        "a: long/one": finetune.predict_probs(
            tokenizer, model, cleaned, settings=settings(max_length=64, truncation="windows")
        ),
    }
    assert not np.allclose(parts["short"][2], parts["a: long/one"][2], atol=1e-9)
    mixed = 0.5 * parts["TF-IDF"] + 0.2 * parts["short"] + 0.3 * parts["a: long/one"]
    expected = np.exp(np.log(mixed) * [1.1, 0.9, 1.3] + [0.0, 0.1, -0.2])
    found = classifier.predict_probs(RAW)
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_array_equal(
        found, classifier.calibrator(classifier.ensemble.predict_probs(parts))
    )


def test_cleaning_cleaned_text_changes_nothing(classifier):
    cleaned = clean_texts(RAW).texts
    assert cleaned != RAW
    np.testing.assert_array_equal(classifier.predict_probs(RAW), classifier.predict_probs(cleaned))


def test_without_cleaning_members_read_texts_as_they_come(classifier):
    bare = classifier.without_cleaning()
    assert bare.member_probs(RAW)["TF-IDF"] == pytest.approx(
        bare.members[0].predict_probs(RAW), abs=0
    )
    assert not np.allclose(bare.predict_probs(RAW), classifier.predict_probs(RAW), atol=1e-6)
    assert bare.predict_probs(["", " \n"]).tolist() == [[1 / 3] * 3] * 2


def test_every_row_gets_its_row_in_order(classifier):
    texts = [RAW[0], None, "", " \n", "<br/><b></b>", 7, float("nan"), b"crow", "owl!", RAW[1]]
    answers = classifier.predict(pd.Series(texts, index=range(100, 110)))
    assert answers["reason"].tolist() == [
        *("", "null", "no words left", "no words left", "no words left", "not a text: int", "null"),
        *("not a text: bytes", "fewer than 3 words left", ""),
    ]
    assert answers["abstained"].tolist() == [reason != "" for reason in answers["reason"]]
    assert answers["label"].isna().tolist() == answers["abstained"].tolist()
    assert answers["confidence"].isna().tolist() == answers["abstained"].tolist()
    probs = classifier.predict_probs(texts)
    np.testing.assert_array_equal(probs[1], np.full(3, 1 / 3))
    np.testing.assert_array_equal(probs[[0, 9]], classifier.predict_probs([RAW[0], RAW[1]]))
    np.testing.assert_array_equal(answers["confidence"][[0, 9]], probs[[0, 9]].max(axis=1))
    assert answers["label"][9] == CLASSES[probs[9].argmax()]


def test_members_together_are_the_whole(classifier):
    parts = classifier.member_probs([*RAW, None])
    assert list(parts) == ["TF-IDF", "short", "a: long/one"]
    np.testing.assert_array_equal(parts["short"][3], np.full(3, 1 / 3))
    np.testing.assert_array_equal(classifier.combine(parts)[:3], classifier.predict_probs(RAW))


def test_the_probabilities_come_with_the_answers_where_they_are_asked_for(classifier):
    texts = ["return the sorted list of numbers", ""]
    answers = classifier.predict(texts, with_probs=True)
    assert np.array_equal(np.stack(answers["probabilities"]), classifier.predict_probs(texts))
    assert "probabilities" not in classifier.predict(texts)


def test_no_texts_give_no_rows(classifier):
    assert classifier.predict_probs([]).shape == (0, 3)
    answers = classifier.predict([], coverage=0.9)
    assert len(answers) == 0
    assert list(answers) == ["label", "confidence", "abstained", "reason", "prediction_set"]


def test_texts_of_which_none_has_words(classifier):
    assert classifier.predict([None, ""])["abstained"].tolist() == [True, True]


def of_fixed_probs(probs, **fields):
    """A classifier whose only member gives these probabilities."""
    member = Member("fixed", None)
    object.__setattr__(member, "predict_probs", lambda texts, **_: np.array(probs))
    ensemble = Ensemble("soft", ["fixed"], CLASSES, np.ones(1), np.zeros(3))
    plain = Calibrator(np.ones(3), np.zeros(3))
    return Classifier(CLASSES, CleaningConfig(), [member], ensemble, plain, **fields)


def test_it_abstains_below_its_threshold_and_still_names_the_best_guess():
    classifier = of_fixed_probs([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], abstain_below=0.55)
    answers = classifier.predict(["one two three", "four five six"])
    assert answers["label"].tolist() == ["bird", "fruit"]
    assert answers["abstained"].tolist() == [False, True]
    assert answers["reason"].tolist() == ["", "confidence below 0.55"]
    assert classifier.describe() == (
        "fixed: 3 classes, abstains where its confidence is below 0.55."
    )


def test_the_label_is_the_class_that_the_decision_rule_chooses():
    probs = [[0.6, 0.3, 0.1], [0.5, 0.2, 0.3], [1.0, 0.0, 0.0]]
    rule = DecisionRule(np.array([1.0, 1.0, 2.0]))
    parts = {"abstain_below": 0.35, "set_thresholds": {0.9: np.array([0.4, 0.4, 0.4])}}
    classifier = of_fixed_probs(probs, decision=rule, **parts)
    texts = ["one two three", "four five six", "seven eight nine"]
    answers = classifier.predict(texts, coverage=0.9)
    assert answers["label"].tolist() == ["bird", "tool", "bird"]
    assert answers["confidence"].tolist() == pytest.approx([0.6, 0.3, 1.0])
    assert answers["abstained"].tolist() == [False, True, False]
    plain = of_fixed_probs(probs, **parts)
    expected = plain.predict(texts, coverage=0.9)
    assert expected["label"].tolist() == ["bird", "bird", "bird"]
    assert answers["prediction_set"].tolist() == expected["prediction_set"].tolist()
    np.testing.assert_array_equal(classifier.predict_probs(texts), plain.predict_probs(texts))
    assert "3 classes (rare ones weigh more), abstains" in classifier.describe()


def test_the_decision_rule_is_saved_with_the_classifier(classifier, tmp_path):
    rule = DecisionRule(np.array([1.0, 1.5, 40.0]))
    weighted = replace(classifier, decision=rule)
    weighted.save(tmp_path / "classifier")
    before = weighted.predict(RAW)
    assert before["label"].tolist() != classifier.predict(RAW)["label"].tolist()
    loaded = Classifier.load(tmp_path / "classifier")
    pd.testing.assert_frame_equal(loaded.predict(RAW), before)
    assert loaded.decision.weights.tolist() == [1, 1.5, 40]
    description = json.loads((tmp_path / "classifier" / "classifier.json").read_text())
    assert description["decision_weights"] == [1, 1.5, 40]
    assert description["format_version"] == 2  # earlier versions of the workbook refuse it


def test_a_folder_without_a_decision_rule_is_as_before(classifier, saved, tmp_path):
    description = json.loads((saved / "classifier.json").read_text())
    assert "decision_weights" not in description and description["format_version"] == 1
    assert Classifier.load(saved).decision is MOST_PROBABLE
    plain = replace(classifier, decision=DecisionRule(np.ones(3)))
    plain.save(tmp_path / "plain")
    assert classifier_folder.fingerprint(tmp_path / "plain") == classifier_folder.fingerprint(saved)


def test_prediction_sets_hold_the_classes_that_reach_their_thresholds():
    classifier = of_fixed_probs(
        [[0.3, 0.6, 0.1], [0.2, 0.25, 0.55]], set_thresholds={0.9: np.array([0.25, 0.3, 0.5])}
    )
    answers = classifier.predict(["one two three", None, "four five six"], coverage=0.9)
    assert answers["prediction_set"].tolist() == [("fruit", "bird"), tuple(CLASSES), ("tool",)]
    assert "prediction_set" not in classifier.predict(["one two three", "four five six"])
    with pytest.raises(WorkbookError, match=r"coverage=0\.8; there are 0\.9 \(setting ensemble"):
        classifier.predict(["one two three"], coverage=0.8)


@pytest.fixture(scope="module")
def unusual():
    """Scores of how unlike `TEXTS` a text is: 24 of 26 held-out texts have few new terms."""
    held_out = [*(f"the {a} and the {b} of 7" for a in "ab" for b in TEXTS), *["qqq zzz xxx"] * 2]
    uniform = np.full((len(held_out), 3), 1 / 3)
    scores = ood.fit_scores(TEXTS, LABELS, held_out, held_out_probs=uniform)
    return replace(scores, chosen="novelty", false_alarms=0.1)


def test_it_says_how_unusual_a_text_is(classifier, unusual):
    texts = ["<b>the crow</b> and the finch of 1", None, "zzz qqq xxx"]
    plain = classifier.predict(texts)
    answers = replace(classifier, ood=unusual).predict(texts)
    pd.testing.assert_frame_equal(answers.drop(columns=["ood_score", "is_ood"]), plain)
    assert answers["ood_score"].isna().tolist() == [False, True, False]
    assert answers["ood_score"][0] == 0
    assert answers["ood_score"][2] == pytest.approx(24 / 27)
    assert answers["is_ood"].tolist() == [False, False, False]
    often = replace(classifier, ood=replace(unusual, false_alarms=0.2)).predict(texts)
    assert often["is_ood"].tolist() == [False, False, True]
    assert list(replace(classifier, ood=unusual).predict([])) == list(answers)


def test_what_is_unusual_is_saved_with_the_classifier(classifier, unusual, tmp_path):
    replace(classifier, ood=unusual).save(tmp_path / "classifier")
    texts = [*RAW, None, "zzz qqq xxx"]
    before = replace(classifier, ood=unusual).predict(texts)
    pd.testing.assert_frame_equal(Classifier.load(tmp_path / "classifier").predict(texts), before)
    manifest = json.loads((tmp_path / "classifier" / "manifest.json").read_text())["sha256"]
    assert {"ood/ood.json", "ood/ood.safetensors"} <= set(manifest)
    (tmp_path / "classifier" / "ood" / "ood.safetensors").unlink()
    with pytest.raises(WorkbookError, match=r"ood\.safetensors is missing; copy the folder again"):
        Classifier.load(tmp_path / "classifier")


def test_a_folder_from_before_there_were_such_scores_is_read(saved):
    assert not (saved / "ood").exists()
    assert Classifier.load(saved).ood is None


def test_one_text_in_place_of_a_list_is_an_error(classifier):
    with pytest.raises(WorkbookError, match="must be a list of texts; found one text"):
        classifier.predict("the crow and the owl")


def test_a_folder_that_was_moved_answers_the_same(classifier, saved, tmp_path):
    before = classifier.predict(RAW, coverage=0.5)
    moved = tmp_path / "elsewhere" / "renamed classifier"
    moved.parent.mkdir()
    shutil.move(saved, moved)
    loaded = Classifier.load(moved)
    pd.testing.assert_frame_equal(loaded.predict(RAW, coverage=0.5), before)
    np.testing.assert_array_equal(loaded.predict_probs(RAW), classifier.predict_probs(RAW))
    assert loaded.abstain_below == 0.25
    assert loaded.origin == {"dataset": "things", "versions": {"torch": "2"}}
    assert loaded.describe() == classifier.describe()
    assert loaded.describe() == (
        "TF-IDF, short and a: long/one, combined by the method weighted: 3 classes, "
        "abstains where its confidence is below 0.25."
    )
    loaded.save(tmp_path / "again")
    manifests = [
        json.loads((at / "manifest.json").read_text()) for at in (moved, tmp_path / "again")
    ]
    assert manifests[0] == manifests[1]


def test_a_model_card_may_be_put_in_and_changes_no_answer(classifier, saved):
    before = classifier_folder.fingerprint(saved)
    (saved / "README.md").write_text("# card", encoding="utf-8")
    loaded = Classifier.load(saved)
    np.testing.assert_array_equal(loaded.predict_probs(RAW), classifier.predict_probs(RAW))
    assert classifier_folder.fingerprint(saved) == before
    (saved / "members" / "README.md").write_text("# card", encoding="utf-8")
    with pytest.raises(WorkbookError, match=r"README\.md is not in a format that a classifier has"):
        Classifier.load(saved)


def test_the_folder_is_data_with_relative_names(saved, tmp_path):
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".model"}
    names = {path.relative_to(saved).as_posix() for path in files}
    assert set(json.loads((saved / "manifest.json").read_text())["sha256"]) == names - {
        "manifest.json"
    }
    for path in files:
        assert str(tmp_path.parent).encode() not in path.read_bytes()


def test_each_member_keeps_how_it_reads_texts(saved):
    loaded = Classifier.load(saved)
    assert [member.settings and member.settings.max_length for member in loaded.members] == [
        *(None, 16, 64)
    ]
    assert loaded.members[2].settings.truncation == "windows"
    assert loaded.cleaning == CleaningConfig()


def test_one_member_is_the_same_kind_of_object(folders, tmp_path):
    for member in (
        Member("TF-IDF", folders / "TF-IDF"),
        Member("alone", folders / "transformer", settings()),
    ):
        single = Ensemble("soft", [member.name], CLASSES, np.ones(1), np.zeros(3))
        plain = Calibrator(np.ones(3), np.zeros(3))
        Classifier(CLASSES, CleaningConfig(), [member], single, plain).save(tmp_path / "one")
        cleaned = clean_texts(RAW).texts
        np.testing.assert_allclose(
            Classifier.load(tmp_path / "one").predict_probs(RAW),
            member.predict_probs(cleaned),
            rtol=1e-6,
        )
        assert member.predict_probs(cleaned).dtype == np.float64


def test_a_stack_of_members_survives_saving(classifier, folders, tmp_path):
    rng = np.random.default_rng(0)
    names = ["TF-IDF", "TF-IDF: naive Bayes"]
    members = [Member(name, folders / name.replace(":", "")) for name in names]
    stack = Ensemble("stacking", names, CLASSES, rng.normal(size=(6, 3)), rng.normal(size=3))
    before = Classifier(CLASSES, CleaningConfig(), members, stack, classifier.calibrator)
    before.save(tmp_path / "stack")
    after = Classifier.load(tmp_path / "stack")
    np.testing.assert_array_equal(after.predict_probs(RAW), before.predict_probs(RAW))


def test_the_fingerprint_follows_what_answers_depend_on_alone(classifier, folders, tmp_path):
    def fingerprint(**fields):
        Classifier(**{**vars(classifier), **fields}).save(tmp_path / "one")
        return classifier_folder.fingerprint(tmp_path / "one")

    other_member = Member("TF-IDF", folders / "TF-IDF naive Bayes")
    others = [
        fingerprint(abstain_below=0.5),
        fingerprint(cleaning=CleaningConfig(html_tags=False)),
        fingerprint(calibrator=Calibrator(np.ones(3), np.zeros(3))),
        fingerprint(members=[other_member, *classifier.members[1:]]),
    ]
    assert len({fingerprint(), *others}) == 5
    assert fingerprint(origin={"commit": "other"}) == fingerprint()


def damage(kind, folder):
    weights = folder / "members" / "TF-IDF" / "weights.safetensors"
    description = folder / "classifier.json"
    if kind == "changed":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif kind == "missing":
        weights.unlink()
    elif kind == "unlisted":
        (folder / "members" / "note.txt").write_text("hello")
    elif kind == "pickle":
        (folder / "members" / "short" / "pytorch_model.bin").write_bytes(b"x")
    elif kind == "link":
        weights.unlink()
        weights.symlink_to(description)
    elif kind == "no manifest":
        (folder / "manifest.json").unlink()
    elif kind == "manifest":
        (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("kind", "file", "reason"),
    [
        ("changed", "members/TF-IDF/weights.safetensors", "is not the file that was saved"),
        ("missing", "members/TF-IDF/weights.safetensors", "is missing; copy the folder again"),
        ("unlisted", "members/note.txt", "is not listed in manifest.json; remove it"),
        ("pickle", "members/short/pytorch_model.bin", "is not in a format that a classifier has"),
        ("link", "members/TF-IDF/weights.safetensors", "is a link"),
        ("no manifest", "", "is not a classifier: it has no file manifest.json"),
        ("manifest", "manifest.json", "is damaged"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line_that_names_the_file(saved, kind, file, reason):
    Classifier.load(saved)
    damage(kind, saved)
    with pytest.raises(WorkbookError) as error:
        Classifier.load(saved)
    assert str(error.value).startswith(str(saved / file)) and reason in str(error.value)
    assert "\n" not in str(error.value)


def rewrite(folder, **changed):
    """Change classifier.json, and the manifest so that it still fits."""
    from lib import provenance

    path, manifest = folder / "classifier.json", folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    hashes = json.loads(manifest.read_text())
    hashes["sha256"]["classifier.json"] = provenance.path_fingerprint(path)
    manifest.write_text(json.dumps(hashes))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"format_version": 3}, "has format version 3, and this version of the workbook reads 1"),
        ({"method": "magic"}, "cannot be read: 1 validation error"),
        ({"members": [{"name": "x", "folder": "members/../../etc"}]}, "cannot be read: 1 valid"),
        ({"class_names": ["bird", "fruit", "zebra"]}, "has the classes bird, fruit, tool"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(saved, changed, reason):
    rewrite(saved, **changed)
    with pytest.raises(WorkbookError, match=re.escape(reason)) as error:
        Classifier.load(saved)
    assert "\n" not in str(error.value)


def test_saving_never_leaves_half_a_folder(classifier, saved, folders, tmp_path):
    before = sorted(path.name for path in saved.rglob("*"))
    bad = tmp_path / "bad"
    shutil.copytree(folders / "TF-IDF", bad)
    (bad / "model.pkl").write_bytes(b"x")
    fields = vars(classifier)
    with pytest.raises(WorkbookError, match=r"model\.pkl is not in a format"):
        Classifier(**{**fields, "members": [Member("TF-IDF", bad)]}).save(saved)
    assert sorted(path.name for path in saved.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    Classifier.load(saved)


def test_a_precision_that_is_not_there_becomes_float32_with_a_line(saved, monkeypatch):
    entries = json.loads((saved / "classifier.json").read_text())["members"]
    entries[1]["precision"] = "fp16"
    rewrite(saved, members=entries)
    monkeypatch.setattr(finetune, "precision", lambda settings: "fp32")
    with pytest.warns(UserWarning, match="short was measured in fp16, which this machine lacks"):
        loaded = Classifier.load(saved)
    assert loaded.members[1].settings.precision == "fp32"
    monkeypatch.setattr(finetune, "precision", lambda settings: "bf16")
    assert Classifier.load(saved).members[1].settings.precision == "fp16"
