"""The settings of the final evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lib.config.section import Section

Share = Annotated[float, Field(ge=0, le=1)]


class EvaluationConfig(Section):
    """Intervals, when a classifier is good enough, and what the model card says of the data."""

    n_resamples: int = Field(2_000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    n_mistakes: int = Field(12, ge=1)
    data_licence: str = "unknown"  # for the model card
    # least accuracy and macro F1, by name: above the lowest a classifier is ready
    success_bars: dict[str, tuple[Share, Share]] = Field(
        {"accept": (0.88, 0.87), "target": (0.91, 0.90), "stretch": (0.93, 0.92)}, min_length=1
    )
