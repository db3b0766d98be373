"""What a training runs on: the device, its precision, its threads."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import logging as transformers_logging

from lib.config import TrainingConfig
from lib.errors import WorkbookError

if TYPE_CHECKING:
    from transformers import TrainingArguments

OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "DefaultCPUAllocator",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_line() -> str:
    """Return in words what training will run on."""
    if torch.cuda.is_available():
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        return f"GPU {torch.cuda.get_device_name()} with {gib:.0f} GiB"
    n_threads = torch.get_num_threads()
    return f"CPU with {n_threads} threads (no GPU is visible to torch {torch.__version__})"


def precision(settings: TrainingConfig) -> str:
    """Return "bf16", "fp16" or "fp32": what training computes in on this machine.

    Weights are float32 in any case. `auto` is bf16 where the GPU has it or the processor computes
    faster in it, fp16 on other GPUs, else fp32.

    Raises
    ------
    WorkbookError : fp16 without a GPU.
    """
    cuda = torch.cuda.is_available()
    if settings.precision == "fp16" and not cuda:
        raise WorkbookError(
            "training.precision=fp16 needs a GPU, and none is visible; use auto, bf16 or fp32"
        )
    if settings.precision != "auto":
        return settings.precision
    if cuda:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _is_bf16_faster(torch.cpu.get_capabilities()) else "fp32"


def use_one_gpu(arguments: TrainingArguments) -> None:
    """Let a process train on one GPU; HF's Trainer shares each batch among all GPUs that it sees.

    That is another batch size, float32 in place of mixed precision, and a head that stays on the
    first GPU. Several GPUs are used by several processes, `training.processes`.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)


def mixed_precision(settings: TrainingConfig) -> AbstractContextManager:
    """Return a context in which a model computes as in training: autocast, or nothing for fp32."""
    kind = precision(settings)
    dtype = torch.float16 if kind == "fp16" else torch.bfloat16
    return torch.autocast(device().type, dtype=dtype, enabled=kind != "fp32")


def _is_bf16_faster(processor: Mapping[str, Any]) -> bool:
    """Return whether a processor multiplies matrices in bf16 faster than in float32.

    By its maker's word it does with AMX, which was not at hand. AVX-512 alone has an instruction
    for it: with that an AMD processor was faster (LOG.md, 2026-11-29), and on an Intel one without
    AMX (a virtual machine may hide it) products took 1.9 times as long (LOG.md, 2026-11-24).
    """
    is_intel = str(processor.get("cpu_name", "")).startswith("Intel")
    return bool(processor.get("amx_bf16") or (processor.get("avx512_bf16") and not is_intel))


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether memory ran out; a CPU's allocator and cuBLAS raise a plain RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


def free_memory() -> None:
    """Give back what a pass that failed held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def quieten_libraries() -> None:
    """Turn off the warnings and progress bars of transformers: we show our own."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def prepare_torch(settings: TrainingConfig) -> None:
    """Quieten the libraries, set the threads, and let the C library keep freed memory.

    Asking the system again for each large tensor is slow.
    """
    quieten_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping, and its page faults, for each large tensor
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
