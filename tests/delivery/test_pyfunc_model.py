import json
import shutil
import subprocess
import venv

import mlflow
import numpy as np
import pandas as pd
import pytest
import transformer_classifiers
from conftest import REPOSITORY
from finished_runs import answers, finished_run, sealed_rows
from linear_classifiers import CLASSES, LABELS, TEXTS, linear_classifier
from transformer_classifiers import transformer_classifier

from lib.config import ExportConfig
from lib.delivery import exporting, pyfunc_model, registry
from lib.errors import WorkbookError
from lib.robustness.ood import fit_scores
from lib.training import mlflow_store
from lib.training.classifier import Classifier

ODD = [*TEXTS[:3], None, 3, {"a": 1}, "", "two words", float("nan")]
REASONS = ["", "", "", "null", "not a text: int", "not a text: dict", "no words left"]
REASONS += ["fewer than 3 words left", "null"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    linear_classifier(folder / "member").save(folder / "classifier")
    return folder / "classifier"


@pytest.fixture(scope="module")
def saved(folder):
    pyfunc_model.save(folder, folder.parent / "model")
    return folder.parent / "model"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a classifier whose transformer runs by ONNX, without torch."""
    folder = tmp_path_factory.mktemp("exported")
    source = transformer_classifier(folder)
    classifier = Classifier.load(source)
    exports, _ = exporting.write_candidates(classifier, folder / "files", names=("onnx-fp32",))
    trials = exporting.run_trials(
        classifier,
        exports,
        folder / "files",
        texts=transformer_classifiers.TEXTS,
        labels=transformer_classifiers.LABELS,
        limits=ExportConfig(rows=30, n_single=10),
    )
    exporting.keep(trials, folder / "files", source=source, folder=folder / "shipped")
    return folder / "shipped"


def pinned(saved):
    return (saved / "requirements.txt").read_text().split()


def test_the_model_answers_as_the_classifier_does(saved, folder):
    rows = pd.DataFrame({"text": ODD}, index=range(10, 10 + len(ODD)))
    found = mlflow.pyfunc.load_model(str(saved)).predict(rows)
    direct = Classifier.load(folder).predict(ODD, with_probs=True)
    assert found.index.tolist() == rows.index.tolist()
    assert found["reason"].tolist() == REASONS
    assert direct["label"].tolist() == [*CLASSES, *[None] * 6]
    assert found["label"].tolist() == [*CLASSES, *[""] * 6]
    assert found["abstained"].tolist() == [False] * 3 + [True] * 6
    assert found["ood_score"].isna().all()  # this classifier has none
    np.testing.assert_array_equal(
        np.stack(found["probabilities"]), np.stack(direct["probabilities"])
    )
    np.testing.assert_array_equal(found["confidence"], direct["confidence"])


def test_it_says_what_goes_in_and_what_comes_out(saved):
    model = mlflow.models.Model.load(str(saved))
    assert json.loads(model.signature.to_dict()["inputs"]) == [
        {"name": "text", "type": "any", "required": True}
    ]
    outputs = json.loads(model.signature.to_dict()["outputs"])
    assert [(each["name"], each["type"]) for each in outputs] == [
        ("label", "string"),
        ("confidence", "double"),
        ("abstained", "boolean"),
        ("reason", "string"),
        ("ood_score", "double"),
        ("probabilities", "array"),
    ]
    assert model.metadata == {"class_names": CLASSES}
    example = model.load_input_example(str(saved))
    answer = mlflow.pyfunc.load_model(str(saved)).predict(example)
    assert answer.columns.tolist() == [each["name"] for each in outputs] and len(answer) == 1


@pytest.mark.parametrize(
    "request_body",
    [
        {"dataframe_records": [{"text": TEXTS[0]}, {"text": None}, {"text": 3}]},
        {"dataframe_split": {"columns": ["text"], "data": [[TEXTS[0]], [None], [3]]}},
        {"inputs": {"text": [TEXTS[0], None, 3]}},
    ],
    ids=["records", "split", "inputs"],
)
def test_null_and_numbers_of_a_request_are_no_texts(saved, request_body):
    from mlflow.pyfunc.scoring_server import infer_and_parse_data

    model = mlflow.pyfunc.load_model(str(saved))
    rows = infer_and_parse_data(request_body, model.metadata.get_input_schema())
    found = model.predict(rows)
    assert found["reason"].tolist() == ["", "null", "not a text: int"]
    assert found["label"].tolist() == [CLASSES[0], "", ""]


def test_nothing_in_it_is_a_pickle_or_names_this_machine(saved, folder):
    files = [path for path in saved.rglob("*") if path.is_file()]
    data = {path for path in files if "code" not in path.relative_to(saved).parts}
    suffixes = {".json", ".safetensors", ".yaml", ".txt", ""}
    assert {path.suffix for path in data} == suffixes and (saved / "MLmodel") in data
    for path in data:
        content = path.read_bytes()
        assert (
            str(folder.parent).encode() not in content and str(REPOSITORY).encode() not in content
        )


def test_the_requirements_are_what_a_linear_classifier_imports_as_pinned_here(saved):
    constraints = (REPOSITORY / "constraints.txt").read_text().lower().replace("_", "-")
    constraints = [line.partition(";")[0] for line in constraints.split("\n")]
    assert [
        line for line in pinned(saved) if line.lower().replace("_", "-") not in constraints
    ] == []
    names = {line.partition("==")[0] for line in pinned(saved)}
    assert names >= {"mlflow-skinny", "numpy", "pandas", "scikit-learn", "ftfy", "pydantic"}
    assert not names & {"torch", "transformers", "mlflow", "matplotlib", "setuptools"}
    assert "text-classification-workbook" not in names


def test_a_changed_file_is_refused_when_the_model_is_loaded(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    weights = tmp_path / "model/data/classifier/members/TF-IDF/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(WorkbookError, match=r"\(its SHA-256 differs from manifest.json\)"):
        mlflow.pyfunc.load_model(str(tmp_path / "model"))


def test_a_classifier_that_does_not_load_is_no_model(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "classifier")
    (tmp_path / "classifier" / "classifier.json").write_text("{}")
    with pytest.raises(WorkbookError) as caught:
        pyfunc_model.save(tmp_path / "classifier", tmp_path / "model")
    assert "cannot be made a model of MLflow: lib.errors.WorkbookError: " in str(caught.value)
    assert len(str(caught.value)) <= 300 and not (tmp_path / "model").exists()


def test_the_champion_is_loaded_by_its_name_in_the_registry(tmp_path, mlflow_template, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    (tmp_path / "models" / "mlflow").mkdir(parents=True)
    shutil.copy(mlflow_template, tmp_path / "models" / "mlflow")
    monkeypatch.setattr(pyfunc_model, "requirements", lambda folder: ["numpy"])  # shown above
    scores = fit_scores([f"a {text}" for text in TEXTS], LABELS, TEXTS, held_out_probs=None)
    finished_run(
        "one", answers(sealed_rows()), classifier=linear_classifier(tmp_path / "m", ood=scores)
    )
    registry.promote(registry.register("one")[0].label)
    mlflow_store.connect()
    found = mlflow.pyfunc.load_model("models:/deberta-v3-base@champion").predict(
        pd.DataFrame({"text": TEXTS})
    )
    direct = Classifier.load(tmp_path / "models" / "one" / "classifier").predict(TEXTS)
    assert found["ood_score"].notna().all()
    for column in ("label", "confidence", "abstained", "reason", "ood_score"):
        assert found[column].tolist() == direct[column].tolist()


def test_it_answers_the_same_where_nothing_but_its_requirements_is_installed(exported, tmp_path):
    """A linear member and an exported transformer: what a linear one alone needs is less."""
    saved = tmp_path / "saved"
    pyfunc_model.save(exported, saved)
    names = {line.partition("==")[0] for line in pinned(saved)}
    assert "onnxruntime" in names and not names & {"torch", "openvino", "onnx", "onnxscript"}
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-r", saved / "requirements.txt"]
    installed = subprocess.run(install, capture_output=True, text=True)
    if installed.returncode:
        reason = installed.stderr.strip().splitlines()[-1]
        pytest.skip(f"no package index gives what the model needs: {reason}")
    saved.rename(tmp_path / "moved")
    texts = transformer_classifiers.TEXTS[:5]
    code = (
        "import json, sys, mlflow, pandas as pd\n"
        "model = mlflow.pyfunc.load_model('moved')\n"
        f"answers = model.predict(pd.DataFrame({{'text': {[*texts, None, 3]!r}}}))\n"
        "print(json.dumps([answers['probabilities'].tolist(), answers['reason'].tolist(),"
        " 'torch' in sys.modules]))"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    probs, reasons, has_torch = json.loads(done.stdout.splitlines()[-1])
    measured = Classifier.load(exported, runtime="torch").predict_probs(texts)
    np.testing.assert_allclose(probs[:-2], measured, atol=1e-4)
    assert reasons[-2:] == ["null", "not a text: int"] and not has_torch
