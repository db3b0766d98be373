"""ONNX files of fine-tuned transformers, in float32 and with fewer bits."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from lib import workspace
from lib.errors import WorkbookError
from lib.training import exported_models
from lib.training.classifier import Classifier
from lib.training.classifier_folder import EXPORTS, Export
from lib.training.exported_models import Engine
from lib.training.member import Member

# name -> engine, precision, file
CANDIDATES: dict[str, tuple[Engine, Literal["fp32", "bf16", "int8"], str]] = {
    "onnx-fp32": ("onnxruntime", "fp32", "fp32"),
    "onnx-int8-weights": ("onnxruntime", "int8", "int8-weights"),
    "onnx-int8-dynamic": ("onnxruntime", "int8", "int8-dynamic"),
    "openvino-fp32": ("openvino", "fp32", "fp32"),
    "openvino-bf16": ("openvino", "bf16", "fp32"),
}
MAX_ROWS = 4_096  # of a batch
BLOCK = 32  # weights that share a scale
EXAMPLE_TOKENS = 9
OPTIMISED = 4  # of accuracy_level: products in int8 where the processor has them


def write_candidates(
    classifier: Classifier, files: Path, *, names: Sequence[str]
) -> tuple[list[Export], dict[str, str]]:
    """Export the transformers of a classifier in several ways.

    Parameters
    ----------
    files : folder to write to: a folder for each member, with an ONNX file for each precision
    names : of CANDIDATES

    Returns
    -------
    exports : those that work on this machine
    left_out : name -> why not
    """
    transformers = [member for member in classifier.members if member.settings is not None]
    exports = []
    left_out = {}
    for name in names if transformers else ():
        engine, precision, stem = CANDIDATES[name]
        if not exported_models.works_here(engine, precision):
            left_out[name] = f"this machine has not {engine} in {precision}"
            continue
        models = {
            member.name: f"{EXPORTS}/{_folder(member)}/{stem}.onnx" for member in transformers
        }
        exports.append(Export(name=name, engine=engine, precision=precision, models=models))
    if not transformers:
        left_out = dict.fromkeys(names, "the classifier has no transformer")
    stems = {CANDIDATES[export.name][2] for export in exports}
    for member in tqdm(transformers if stems else [], desc="exporting", unit="model"):
        write_models(member, files / _folder(member), stems=stems)
    return exports, left_out


def write_models(member: Member, folder: Path, *, stems: set[str]) -> None:
    """Write a transformer as ONNX files, and how it reads texts.

    Parameters
    ----------
    stems : of the files: "fp32", which is always written, "int8-weights", "int8-dynamic"

    Raises
    ------
    WorkbookError : torch cannot export it, or a file cannot be written.
    """
    from lib.training import finetune

    assert member.settings is not None
    tokenizer, model, _ = finetune.load_model(member.folder, plain=True)
    exported_models.save_reading(tokenizer, folder)
    plain = folder / "fp32.onnx"
    makers = {"int8-weights": _write_int8_weights, "int8-dynamic": _write_int8_dynamic}
    with workspace.atomic_path(plain) as scratch:
        try:
            _write_fp32(model, scratch, max_length=member.settings.max_length)
        except Exception as error:  # of torch's exporter, which has many
            reason = " ".join(str(error).split())[:120]
            raise WorkbookError(
                f"{member.name} cannot be exported to ONNX: {reason}; "
                "leave notebook 09 out with --to 08, or serve it by torch"
            ) from error
    for stem in sorted(stems & set(makers)):
        with workspace.atomic_path(folder / f"{stem}.onnx") as scratch, _quiet():
            makers[stem](plain, scratch)


def _folder(member: Member) -> str:
    return workspace.file_name(member.name)


def _write_fp32(model: Any, path: Path, *, max_length: int) -> None:
    """Export a transformer that takes any batch, and texts of up to `max_length` tokens."""
    import torch

    rows = torch.export.Dim("batch", min=1, max=MAX_ROWS)
    tokens = torch.export.Dim("length", min=2, max=max_length)
    # two rows, since one would be taken for a constant
    ids = torch.arange(10, 10 + 2 * EXAMPLE_TOKENS).view(2, EXAMPLE_TOKENS)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model.config.return_dict = False  # the logits are the first of a tuple then
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes={name: {0: rows, 1: tokens} for name in inputs},
            input_names=list(inputs),
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
        program.save(str(path), external_data=False)


def _write_int8_weights(source: Path, path: Path) -> None:
    """Write weights in 8 bits, each block of them with a scale; the activations are float32."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(source), bits=8, block_size=BLOCK, is_symmetric=True, accuracy_level=OPTIMISED
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(path), False)


def _write_int8_dynamic(source: Path, path: Path) -> None:
    """Write weights in 8 bits; activations get one scale for all that is in a batch."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    model = onnx.load(source)
    del model.graph.value_info[:]  # shapes that the quantizer would take for those of its own
    quantize_dynamic(model, str(path), per_channel=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what exporter and quantizers say of themselves."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
