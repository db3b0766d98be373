"""What a training runs on: the device, its precision, its threads."""

from __future__ import annotations

import contextlib
import ctypes
import os

import datasets
import torch
from transformers.utils import logging as transformers_logging

from lib.config import TrainingConfig
from lib.errors import WorkbookError


def device_line() -> str:
    """Return in words what training will run on."""
    if torch.cuda.is_available():
        return f"GPU {torch.cuda.get_device_name()} with {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
    return f"CPU with {torch.get_num_threads()} threads (no GPU is visible to torch {torch.__version__})"


def precision(settings: TrainingConfig) -> str:
    """Return "bf16", "fp16" or "fp32": what training computes in on this machine; weights are float32 in any case.

    `auto` is bf16 where the GPU or the processor has instructions for it, fp16 on other GPUs, else fp32.

    Raises
    ------
    WorkbookError : fp16 without a GPU, which nothing computes in.
    """
    cuda = torch.cuda.is_available()
    if settings.precision == "fp16" and not cuda:
        raise WorkbookError("training.precision=fp16 needs a GPU, and none is visible; use auto, bf16 or fp32")
    if settings.precision != "auto":
        return settings.precision
    if cuda:
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def prepare_torch(settings: TrainingConfig) -> None:
    """Quieten the libraries, set the threads, and let the C library keep freed memory: asking anew for each large tensor is slow."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no mapping, and its page faults, for each large tensor
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
