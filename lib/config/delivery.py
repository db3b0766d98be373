"""The settings of what leaves the house: exports."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from lib.config.section import Section

Runtime = Literal[
    "onnx-fp32", "onnx-int8-weights", "onnx-int8-dynamic", "openvino-fp32", "openvino-bf16"
]


class ExportConfig(Section):
    """Which exports are tried, and how much they may differ from what was measured."""

    runtimes: tuple[Runtime, ...] = get_args(Runtime)
    # validation rows that measured and exported answers are compared on; None takes all
    rows: int | None = Field(1_000, ge=10)
    # share of texts whose label stays, of an export with fewer bits; in float32 all stay
    min_agreement: float = Field(0.995, ge=0, le=1)
    max_macro_f1_difference: float = Field(0.003, ge=0, le=1)
    # of a logit, by the other texts of a batch
    max_company_difference: float = Field(0.01, ge=0)
    n_single: int = Field(100, ge=10)  # texts that are timed one by one
