"""What a server counts, in the format of Prometheus."""

from __future__ import annotations

import os

import pandas as pd
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

WORKERS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # where the client library keeps workers' counts

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds


class Metrics:
    """Counts of this process, or of all workers where WORKERS_FOLDER is set."""

    def __init__(self) -> None:
        own = CollectorRegistry()
        self.requests = Counter(
            "workbook_requests", "Requests by path and status", ["path", "status"], registry=own
        )
        self.seconds = Histogram(
            "workbook_request_seconds",
            "From a request's first byte to its answer's",
            ["path"],
            buckets=BUCKETS,
            registry=own,
        )
        self.texts = Counter("workbook_texts", "Texts answered", registry=own)
        self.abstained = Counter("workbook_abstained", "Texts abstained on", registry=own)
        self.model = Gauge(
            "workbook_model",
            "1 for the model version that answers now",
            ["version"],
            multiprocess_mode="mostrecent",
            registry=own,
        )
        self._registry = own

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def count_answers(self, answers: pd.DataFrame) -> None:
        """Count what `Classifier.predict` returned."""
        self.texts.inc(len(answers))
        self.abstained.inc(int(answers["abstained"].sum()))

    def set_model(self, before: str, now: str) -> None:
        """Say which version answers, and which did."""
        if before:
            self.model.labels(before).set(0)
        self.model.labels(now).set(1)

    def exposition(self) -> bytes:
        """Return all counts as text."""
        registry = self._registry
        if WORKERS_FOLDER in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)
