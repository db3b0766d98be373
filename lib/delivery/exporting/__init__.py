"""Exports of a classifier's transformers, and the gate that each has to pass."""

from lib.delivery.exporting.gate import ODD_TEXTS, Parity, gate_texts, member_probs, parity
from lib.delivery.exporting.onnx_files import CANDIDATES, write_candidates
from lib.delivery.exporting.trials import Trial, attach, keep, run_trials, table

__all__ = [
    "CANDIDATES",
    "ODD_TEXTS",
    "Parity",
    "Trial",
    "attach",
    "gate_texts",
    "keep",
    "member_probs",
    "parity",
    "run_trials",
    "table",
    "write_candidates",
]
