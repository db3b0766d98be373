"""Intervals, paired tests, and the smallest gain that a test set can show."""

from lib.evaluation.significance.intervals import (
    Interval,
    bootstrap_interval,
    class_f1_gains,
    class_f1_intervals,
    cross_validation_interval,
    macro_f1_gains,
    metric_intervals,
    share_interval,
)
from lib.evaluation.significance.paired import (
    PairedTest,
    gain_over_seeds,
    minimum_detectable_effect,
    paired_test,
    paired_tests,
)

__all__ = [
    "Interval",
    "PairedTest",
    "bootstrap_interval",
    "class_f1_gains",
    "class_f1_intervals",
    "cross_validation_interval",
    "gain_over_seeds",
    "macro_f1_gains",
    "metric_intervals",
    "paired_test",
    "paired_tests",
    "share_interval",
    "minimum_detectable_effect",
]
