"""What a server counts, in the format of Prometheus."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from lib.delivery.serving.questions import Answer


class Metrics:
    """Counts of this process, or of all workers where PROMETHEUS_MULTIPROC_DIR is set."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own: Any = {"registry": self._registry}
        # the library's own buckets go from 5 ms to 10 s
        self.seconds = Histogram("workbook_request_seconds", "To the answer", ["path"], **own)
        self.requests = Counter("workbook_requests", "Answered", ["path", "status"], **own)
        self.texts = Counter("workbook_texts", "Texts answered", **own)
        self.abstained = Counter("workbook_abstained", "Texts abstained on", **own)
        self.model = Gauge(
            "workbook_model",
            "1 for the version that answers now",
            ["version"],
            multiprocess_mode="mostrecent",
            **own,
        )

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def count_answers(self, answers: Sequence[Answer]) -> None:
        """Count texts, and those that are not answered."""
        self.texts.inc(len(answers))
        self.abstained.inc(sum(answer.abstained for answer in answers))

    def set_model(self, before: str, now: str) -> None:
        """Say which version answers, and which did."""
        if before:
            self.model.labels(before).set(0)
        self.model.labels(now).set(1)

    def exposition(self) -> bytes:
        """Return all counts as text."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)
