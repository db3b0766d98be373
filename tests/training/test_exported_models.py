import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.special import softmax
from tokenizers import Tokenizer, models, pre_tokenizers

from lib import workspace
from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training import exported_models

VOCABULARY = {word: code for code, word in enumerate(["[PAD]", "[CLS]", "[SEP]", *"abcdef"])}
# of each token what it adds to the logits of two classes
TABLE = np.array([[9, 9], [0, 0], [0, 0], [1, 0], [0, 1], [3, 0], [0, 5], [2, 2], [0, 7]], "f4")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An ONNX file whose logits are sums over the tokens of a piece, padding left out."""
    folder = tmp_path_factory.mktemp("model")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["logits"], keepdims=0),
    ]
    shape = ["batch", "length"]
    graph = helper.make_graph(
        nodes,
        "sums",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape),
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, shape),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(TABLE, "table"),
            numpy_helper.from_array(np.array([2]), "last"),
            numpy_helper.from_array(np.array([1]), "tokens"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "fp32.onnx")
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / exported_models.TOKENIZER))
    reading = {"prefix": [1], "suffix": [2], "pad": 0}
    workspace.write_json(reading, folder / exported_models.READING)
    return folder / "fp32.onnx"


def load(path, engine="onnxruntime", *, truncation="head", max_length=8):
    settings = TrainingConfig(max_length=max_length, truncation=truncation)
    return exported_models.load(path, engine=engine, precision="fp32", settings=settings)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_texts_are_read_as_in_training_whatever_computes(model, engine):
    loaded = load(model, engine)
    texts = ["a b", "f", "c d c d c d c d", "e"]
    logits = [[1, 1], [0, 7], [9, 15], [2, 2]]  # of the third text the first 6 tokens
    np.testing.assert_allclose(
        loaded.predict_probs(texts), softmax(np.array(logits, float), axis=1), rtol=1e-6
    )


def test_the_logits_of_a_text_in_windows_are_averaged(model):
    loaded = load(model, truncation="windows")
    pieces, rows = loaded.pieces(["a a a a b b c c", "b"])
    assert pieces == [[1, 3, 3, 3, 3, 4, 4, 2], [1, 4, 4, 5, 5, 2], [1, 4, 2]]
    assert rows.tolist() == [0, 0, 1]
    assert loaded.predict_logits(pieces, rows).tolist() == [[5, 2], [0, 1]]


def test_many_texts_of_all_lengths_come_back_in_their_order(model):
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(list("abcdef"), n)) for n in random.integers(1, 200, size=300)]
    loaded = load(model, max_length=256)
    pieces, rows = loaded.pieces(texts)
    expected = [TABLE[piece].sum(axis=0) for piece in pieces]
    np.testing.assert_allclose(loaded.predict_logits(pieces, rows), expected)


def test_openvino_computes_each_piece_by_itself_alone_or_among_others(model):
    loaded = load(model, "openvino")
    pieces = [[1, 3, 2], [1, 8, 8, 8, 2], [1, 4, 2], *[[1, code, 2] for code in range(3, 9)] * 20]
    together = loaded.run(pieces)
    assert together.tolist() == [TABLE[piece].sum(axis=0).tolist() for piece in pieces]
    alone = [loaded.run([piece])[0] for piece in pieces[:3]]
    np.testing.assert_array_equal(alone, together[:3])


def test_openvino_reads_few_lengths_and_none_beyond_the_training(model, monkeypatch):
    lengths = []
    padded = exported_models._padded

    def watched(pieces, pad, *, length):
        lengths.append(length)
        return padded(pieces, pad, length=length)

    loaded = load(model, "openvino", max_length=12)
    monkeypatch.setattr(exported_models, "_padded", watched)
    for n in (2, 8, 9, 12):
        assert loaded.run([[3] * n]).tolist() == [[n, 0]]
    assert lengths == [8, 8, 12, 12]


def test_threads_ask_openvino_at_the_same_time(model):
    loaded = load(model, "openvino")
    pieces = [[1, *[3 + code] * 5, 2] for code in range(6)]
    rows = [[pieces[(start + i) % 6] for i in range(1 + start % 5)] for start in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(loaded.run, rows))
    for asked, answer in zip(rows, answers):
        assert answer.tolist() == [TABLE[piece].sum(axis=0).tolist() for piece in asked]


def test_openvino_has_seen_an_array_before_threads_come(model, monkeypatch):
    """Two threads that bring a process's first arrays wait for each other for ever."""
    import openvino

    infer = openvino.InferRequest.infer
    callers = []

    def recorded(*arguments, **options):
        callers.append(threading.current_thread())
        return infer(*arguments, **options)

    monkeypatch.setattr(openvino.InferRequest, "infer", recorded)
    load(model, "openvino")
    assert callers == [threading.current_thread()]


def test_a_file_that_is_cut_short_is_named(model, tmp_path):
    path = shutil.copytree(model.parent, tmp_path / "copy") / "fp32.onnx"
    path.write_bytes(model.read_bytes()[:-40])
    with pytest.raises(WorkbookError, match=r"fp32\.onnx cannot be loaded by onnxruntime: .*again"):
        load(path)


def test_an_engine_that_is_not_installed_is_named(model, monkeypatch):
    monkeypatch.setattr(exported_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WorkbookError, match="needs the package openvino: pip install openvino"):
        load(model, "openvino")
    assert not exported_models.works_here("openvino", "fp32")
