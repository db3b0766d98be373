import numpy as np
import pandas as pd
import pytest

from lib.delivery.monitoring.accuracy import accuracy_table, read_labels
from lib.errors import WorkbookError
from lib.provenance import text_fingerprint

BATCH = pd.DataFrame(
    {
        "label": ["a", "b", "a", None],
        "confidence": [0.9, 0.8, 0.7, np.nan],
        "text_fingerprint": ["f1", "f2", "f3", None],
    }
)


def test_accuracy_is_estimated_by_confidence_and_measured_by_labels():
    labels = pd.Series({"f1": "a", "f2": "a", "elsewhere": "b"})
    table = accuracy_table([BATCH, BATCH[2:]], labels)
    estimated = table.loc[1, "estimated"]
    assert (estimated["value"], estimated["n"]) == (pytest.approx(0.8), 3)
    half = 1.959964 * np.sqrt(0.09 + 0.16 + 0.21) / 3
    assert estimated["low"] == pytest.approx(0.8 - half, abs=1e-6)
    assert estimated["high"] == 1
    measured = table.loc[1, "measured"]
    assert (measured["value"], measured["n"]) == (0.5, 2)
    assert (2, "measured") not in table.index
    assert table.loc[2, "estimated"]["value"] == pytest.approx(0.7)


def test_labels_are_read_by_fingerprint_or_text(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("label,text_fingerprint\na,f1\nb,f2\na,f1\n")
    assert read_labels(str(path)).to_dict() == {"f1": "a", "f2": "b"}
    path.write_text("text,label\nthe owl,bird\n")
    assert read_labels(str(path)).to_dict() == {text_fingerprint("the owl"): "bird"}
    assert read_labels(None).empty


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text\nthe owl\n", "no column 'label'"),
        ("label,id\na,1\n", "line 2: there is no column text_fingerprint, and none text"),
        ("label,text\na,secret\nb,secret\n", "line 3: the text has another label above"),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path, content, said):
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(WorkbookError, match=said) as error:
        read_labels(str(path))
    assert "labels.csv" in str(error.value) and "secret" not in str(error.value)
