"""Fine-tuned transformers without torch: ONNX files run by ONNX Runtime or OpenVINO."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import joblib
import numpy as np
from scipy.special import softmax
from tqdm import tqdm

from lib import workspace
from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training import token_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Engine = Literal["onnxruntime", "openvino"]
Run = Callable[[Sequence[list[int]]], np.ndarray]
TOKENIZER, READING = "tokenizer.json", "reading.json"
QUEUED_TOKENS = 8_192  # of a call of OpenVINO, which takes pieces one by one
MULTIPLE = 8  # of the tokens of a piece that it takes; any other length is slower


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A fine-tuned transformer that needs no torch.

    Attributes
    ----------
    tokenizer : of its training
    prefix, suffix : token ids before and after every text
    settings : of its training; `max_length` and `truncation` count
    run : token ids of n pieces to logits, ndarray of shape (n, k)
    max_tokens : of a call of `run`, padding included
    """

    tokenizer: Tokenizer
    prefix: list[int]
    suffix: list[int]
    settings: TrainingConfig
    run: Run
    max_tokens: int = token_ids.CPU_TOKENS

    def predict_probs(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Return probabilities of n texts: ndarray of float64 of shape (n, k); rows sum to 1."""
        pieces, rows = self.pieces(texts)
        return softmax(self.predict_logits(pieces, rows, progress=progress), axis=1)

    def pieces(self, texts: Sequence[str]) -> tuple[list[list[int]], np.ndarray]:
        """Return the token ids of all pieces, and which text each is of."""
        room = self.settings.max_length - len(self.prefix) - len(self.suffix)
        encoded = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        pieces = []
        rows = []
        for row, encoding in enumerate(encoded):
            for piece in token_ids.cut_to_pieces(encoding.ids, room, self.settings.truncation):
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


def load(path: Path, *, engine: Engine, precision: str, settings: TrainingConfig) -> ExportedModel:
    """Load an ONNX file, beside which lies how it reads texts (`save_reading`).

    Parameters
    ----------
    precision : that OpenVINO computes in; ONNX Runtime computes in that of the file
    settings : of the training

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
    pad = reading.pop("pad")
    try:
        if engine == "openvino":
            run = _start_openvino(path, precision, pad=pad, max_length=settings.max_length)
        else:
            run = _start_onnxruntime(path, pad=pad)
    except Exception as error:  # each engine raises its own
        reason = " ".join(str(error).split())[:100]
        raise WorkbookError(
            f"{path} cannot be loaded by {engine}: {reason}; export the classifier again"
        ) from error
    return ExportedModel(
        Tokenizer.from_file(str(path.with_name(TOKENIZER))),
        **reading,
        settings=settings,
        run=run,
        max_tokens=QUEUED_TOKENS if engine == "openvino" else token_ids.CPU_TOKENS,
    )


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
        return session.run(None, _padded(pieces, pad))[0]

    return run


def _start_openvino(path: Path, precision: str, *, pad: int, max_length: int) -> Run:
    """Return what computes each piece by itself, so that no answer depends on others.

    A single piece takes all threads. Of several each takes one, side by side. Lengths are multiples
    of MULTIPLE, for which the engine prepares itself once each.
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

    def one_by_one(pieces: Sequence[list[int]], model: openvino.CompiledModel) -> np.ndarray:
        request = model.create_infer_request()  # threads of a server share the model
        answers = []
        for piece in pieces:
            length = min(-(-len(piece) // MULTIPLE) * MULTIPLE, max_length)
            answers.append(request.infer(_padded([piece], pad, length=length))[0])
        return np.concatenate(answers)

    # OpenVINO sets itself up at a process's first array: two threads that come first wait for ever
    one_by_one([[pad]], of_many)

    def run(pieces: Sequence[list[int]]) -> np.ndarray:
        if len(pieces) == 1:
            return one_by_one(pieces, of_one())
        # not openvino.AsyncInferQueue: it hung, with a callback, where a model was deleted
        parts = [pieces[start::n_threads] for start in range(min(n_threads, len(pieces)))]
        with ThreadPoolExecutor(len(parts)) as pool:
            answers = list(pool.map(partial(one_by_one, model=of_many), parts))
        logits = np.empty((len(pieces), answers[0].shape[1]), answers[0].dtype)
        for start, answer in enumerate(answers):
            logits[start::n_threads] = answer
        return logits

    return run


def _padded(pieces: Sequence[list[int]], pad: int, *, length: int = 0) -> dict[str, np.ndarray]:
    """Return token ids and mask, int64 arrays of shape (pieces, longest); `length` at least."""
    longest = max(length, *map(len, pieces))
    ids = np.full((len(pieces), longest), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece)] = piece
        mask[row, : len(piece)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _threads() -> int:
    """Return the threads of an engine: OMP_NUM_THREADS as torch takes it; 0 is for all cores."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdigit() else 0
