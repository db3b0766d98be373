"""Fine-tuned transformers without torch: ONNX files run by ONNX Runtime or OpenVINO."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import joblib
import numpy as np
from scipy.special import softmax
from tqdm import tqdm

from lib import workspace
from lib.errors import WorkbookError
from lib.training import token_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Engine = Literal["onnxruntime", "openvino"]
Run = Callable[[Sequence[list[int]]], np.ndarray]
TOKENIZER, READING = "tokenizer.json", "reading.json"
QUEUED_TOKENS = 8_192  # of a call of an engine that takes its pieces one by one


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A fine-tuned transformer that needs no torch.

    Attributes
    ----------
    tokenizer : of its training
    prefix, suffix : token ids before and after every text
    run : token ids of n pieces to logits, ndarray of shape (n, k)
    max_tokens : of a call of `run`, padding included
    """

    tokenizer: Tokenizer
    prefix: list[int]
    suffix: list[int]
    run: Run
    max_tokens: int = token_ids.CPU_TOKENS

    def predict_probs(
        self, texts: Sequence[str], *, max_length: int, truncation: str, progress: bool = False
    ) -> np.ndarray:
        """Return probabilities of n texts: ndarray of float64 of shape (n, k), rows summing to 1.

        Parameters
        ----------
        max_length, truncation : those of the training
        """
        pieces, rows = self.pieces(texts, max_length=max_length, truncation=truncation)
        return softmax(self.predict_logits(pieces, rows, progress=progress), axis=1)

    def pieces(
        self, texts: Sequence[str], *, max_length: int, truncation: str
    ) -> tuple[list[list[int]], np.ndarray]:
        """Return the token ids of all pieces, and which text each is of."""
        room = max_length - len(self.prefix) - len(self.suffix)
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        pieces = []
        rows = []
        for row, encoding in enumerate(encoded):
            for piece in token_ids.cut_to_pieces(encoding.ids, room, truncation):
                pieces.append([*self.prefix, *piece, *self.suffix])
                rows.append(row)
        return pieces, np.array(rows, dtype=np.int64)

    def predict_logits(
        self, pieces: list[list[int]], rows: np.ndarray, *, progress: bool = False
    ) -> np.ndarray:
        """Return the logits of texts, averaged over the pieces of each: ndarray of shape (n, k)."""
        lengths = np.array([len(piece) for piece in pieces])
        outputs = []
        done = []
        with tqdm(total=len(pieces), desc="predicting", unit="piece", disable=not progress) as bar:
            for batch in token_ids.sorted_batches(lengths, max_tokens=self.max_tokens):
                outputs.append(self.run([pieces[i] for i in batch]))
                done.append(batch)
                bar.update(len(batch))
        logits = np.concatenate(outputs).astype(float)
        counts = np.bincount(rows)
        total = np.zeros((len(counts), logits.shape[1]))
        np.add.at(total, rows[np.concatenate(done)], logits)
        return total / counts[:, None]


def save_reading(tokenizer: Any, folder: Path) -> None:
    """Write how a transformer reads texts: its tokenizer, special tokens and padding."""
    from lib.training.finetune.tokenization import special_tokens

    prefix, suffix = special_tokens(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / TOKENIZER))
    reading = {"prefix": prefix, "suffix": suffix, "pad": tokenizer.pad_token_id or 0}
    workspace.write_json(reading, folder / READING)


def load(path: Path, *, engine: Engine, precision: str) -> ExportedModel:
    """Load an ONNX file, beside which lies how it reads texts (`save_reading`).

    Parameters
    ----------
    precision : that OpenVINO computes in; ONNX Runtime computes in that of the file

    Raises
    ------
    WorkbookError : the engine is not installed, or cannot read the file.
    """
    from tokenizers import Tokenizer

    if not importlib.util.find_spec(engine):
        raise WorkbookError(
            f"{path} needs the package {engine}: pip install {engine}, or take another runtime"
        )
    reading = workspace.read_json(path.with_name(READING))
    try:
        if engine == "openvino":
            run, max_tokens = _start_openvino(path, precision), QUEUED_TOKENS
        else:
            run, max_tokens = _start_onnxruntime(path, pad=reading["pad"]), token_ids.CPU_TOKENS
    except Exception as error:  # each engine raises its own
        reason = " ".join(str(error).split())[:100]
        raise WorkbookError(
            f"{path} cannot be loaded by {engine}: {reason}; export the classifier again"
        ) from error
    tokenizer = Tokenizer.from_file(str(path.with_name(TOKENIZER)))
    return ExportedModel(tokenizer, reading["prefix"], reading["suffix"], run, max_tokens)


def works_here(engine: Engine, precision: str) -> bool:
    """Return whether an engine is installed and this processor is fast in a precision."""
    if not importlib.util.find_spec(engine):
        return False
    if engine != "openvino" or precision != "bf16":
        return True
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _start_onnxruntime(path: Path, *, pad: int) -> Run:
    """Return what computes pieces in one batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(pieces: Sequence[list[int]]) -> np.ndarray:
        ids, mask = _padded(pieces, pad)
        return session.run(None, {"input_ids": ids, "attention_mask": mask})[0]

    return run


def _padded(pieces: Sequence[list[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Return token ids and mask, int64 arrays of shape (pieces, longest)."""
    longest = max(map(len, pieces))
    ids = np.full((len(pieces), longest), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece)] = piece
        mask[row, : len(piece)] = 1
    return ids, mask


def _start_openvino(path: Path, precision: str) -> Run:
    """Return what computes each piece by itself: no answer depends on others, nothing is padded.

    A single piece takes all threads. Of several each takes one, side by side.
    """
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    n_threads = _threads() or joblib.cpu_count()

    def compiled(hint: str, n_streams: int) -> openvino.CompiledModel:
        options = {
            "PERFORMANCE_HINT": hint,
            "NUM_STREAMS": n_streams,
            "INFERENCE_NUM_THREADS": n_threads,
            "INFERENCE_PRECISION_HINT": {"bf16": "bf16"}.get(precision, "f32"),
        }
        return core.compile_model(model, "CPU", options)

    of_many = compiled("THROUGHPUT", n_threads)
    of_one = lru_cache(partial(compiled, "LATENCY", 1))  # for the first that comes alone

    def run(pieces: Sequence[list[int]]) -> np.ndarray:
        if len(pieces) == 1:
            request = of_one().create_infer_request()  # threads of a server share the model
            return request.infer(_inputs(pieces[0]))[0].copy()
        logits: list[Any] = [None] * len(pieces)

        def keep(request: openvino.InferRequest, place: int) -> None:
            logits[place] = request.get_output_tensor().data[0].copy()

        queue = openvino.AsyncInferQueue(of_many, n_threads)
        queue.set_callback(keep)
        for place, piece in enumerate(pieces):
            queue.start_async(_inputs(piece), place)
        queue.wait_all()
        return np.stack(logits)

    return run


def _inputs(piece: list[int]) -> dict[str, np.ndarray]:
    ids = np.array([piece], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _threads() -> int:
    """Return the threads of an engine: OMP_NUM_THREADS as torch takes it; 0 is for all cores."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdigit() else 0
