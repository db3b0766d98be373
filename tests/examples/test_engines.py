"""The examples for Spark and Ray as a person runs them: scripts, on an engine of this machine.

Spark in an environment of its own: WORKBOOK_SPARK_PYTHON names the Python that has pyspark and what
the model needs.
"""

import importlib.util
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY
from linear_classifiers import linear_classifier

from lib.delivery import pyfunc_model
from lib.provenance import imports_of
from lib.training.classifier import Classifier

TEXTS = [
    "the crow and the owl",
    "<b>the apple</b> and the pear",
    None,
    "two words",
    "saw the drill",
]
LOOPBACK = "127.0.0.1"
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a classifier, the model of MLflow that it is in, and 150 rows in four files."""
    folder = tmp_path_factory.mktemp("engines")
    linear_classifier(folder / "member").save(folder / "classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyfunc_model, "requirements", lambda folder: ["numpy"])
        pyfunc_model.save(folder / "classifier", folder / "model")
    texts = [text and f"{text} {i}" for i in range(30) for text in TEXTS]
    rows = pd.DataFrame({"row_id": range(len(texts)), "text": texts})
    (folder / "in").mkdir()
    for k, part in enumerate(np.array_split(rows.index, 4)):
        rows.loc[part].to_parquet(folder / "in" / f"part-{k}.parquet")
    return folder


def answers_of(example, python, folder, **environment):
    """Run an example on the rows; return what it wrote in the order of their ids."""
    out = folder / example.removesuffix(".py")
    command = [python, REPOSITORY / "examples" / example, folder / "model", folder / "in", out]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **environment,
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return pd.read_parquet(out).sort_values("row_id", ignore_index=True)


def check(found, folder):
    """Every row is there once, with the answer that the classifier gives here."""
    rows = pd.read_parquet(folder / "in")
    direct = Classifier.load(folder / "classifier").predict(rows["text"], with_probs=True)
    assert found["row_id"].tolist() == rows["row_id"].tolist()
    assert found["text"].tolist() == rows["text"].tolist()
    assert found["label"].tolist() == direct["label"].fillna("").tolist()
    assert found["reason"].tolist() == direct["reason"].tolist()
    assert found["abstained"].tolist() == direct["abstained"].tolist()
    probs = np.stack(direct["probabilities"])
    np.testing.assert_allclose(np.stack(found["probabilities"]), probs, rtol=1e-12)
    assert (found["label"] != "").sum() == 120 and found["reason"].value_counts()["null"] == 30


@pytest.fixture
def ray_address():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("the optional package ray is not installed")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 100_000_000, "include_dashboard": False}
    try:
        cluster = Cluster(initialize_head=True, head_node_args=node)
    except Exception as error:  # no shared memory, no free port, a machine that is too busy
        pytest.skip(f"no Ray cluster can be begun on this machine: {error}")
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def spark_python():
    python = os.environ.get("WORKBOOK_SPARK_PYTHON", sys.executable)
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, and there is no java on the PATH")
    if subprocess.run([python, "-c", "import pyspark"], capture_output=True).returncode:
        pytest.skip("pyspark is not installed; WORKBOOK_SPARK_PYTHON may name a Python that has it")
    return python


@pytest.mark.xdist_group("ray")
def test_ray_gives_the_answers_of_the_classifier(folder, ray_address):
    found = answers_of("ray_predict.py", sys.executable, folder, RAY_ADDRESS=ray_address)
    check(found, folder)


def test_spark_gives_the_answers_of_the_classifier(folder, spark_python, tmp_path):
    conf = tmp_path / "spark-defaults.conf"
    conf.write_text(
        "spark.master local[1]\nspark.ui.enabled false\nspark.driver.memory 1g\n"
        f"spark.driver.host {LOOPBACK}\nspark.driver.bindAddress {LOOPBACK}\n"
    )
    found = answers_of(
        "spark_predict.py",
        spark_python,
        folder,
        SPARK_CONF_DIR=str(tmp_path),
        SPARK_LOCAL_IP=LOOPBACK,
        PYSPARK_PYTHON=str(spark_python),
    )
    check(found, folder)


def test_the_examples_are_short_and_nothing_in_lib_knows_them():
    for path in sorted((REPOSITORY / "examples").glob("*_predict.py")):
        code = path.read_text().split('"""')[2]
        assert len([line for line in code.splitlines() if line.strip()]) <= 30, path.name
    sources = [path.read_text() for path in (REPOSITORY / "lib").rglob("*.py")]
    imported = {name.partition(".")[0] for source in sources for name in imports_of(source)}
    assert not imported & {"examples", "pyspark"}
