"""What notebook 10 watches, and how."""

from __future__ import annotations

from pydantic import Field

from lib.config.section import Section


class MonitoringConfig(Section):
    """Predictions that were logged, and when they are reported."""

    # the folder that `serve` or `predict` logs to; None shows what is found in validation rows that
    # are changed on purpose
    log: str | None = None
    # a CSV file of labels that came later: label, and text_fingerprint or text
    labels: str | None = None
    # validation rows that predictions are compared with, at least 4 of each class; None takes all
    rows: int | None = Field(None, ge=40)
    batch_rows: int = Field(1_000, ge=20)  # predictions that are compared at a time
    batches: int = Field(20, ge=1)  # the newest ones, that are shown
    # share of pages that may report something where nothing has changed
    false_alarms: float = Field(0.05, ge=0.01, le=0.5)
    splits: int = Field(400, ge=100)  # of the validation rows, on which that share is measured
    n_texts: int = Field(10, ge=1)  # that are shown
