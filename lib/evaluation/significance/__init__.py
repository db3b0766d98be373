"""Intervals, paired tests, and the smallest gain that a test set can show."""

from lib.evaluation.significance.intervals import (
    Interval,
    class_f1_gains,
    class_f1_intervals,
    cross_validation_interval,
    grouped_share,
    intervals_of,
    macro_f1_gains,
    metric_intervals,
    share_gap,
    share_interval,
    student_interval,
)
from lib.evaluation.significance.paired import (
    VERDICT_WORDS,
    PairedTest,
    describe_gain,
    describe_gains,
    gain_over_seeds,
    minimum_detectable_effect,
    paired_test,
    paired_tests,
)

__all__ = [
    "VERDICT_WORDS",
    "Interval",
    "PairedTest",
    "class_f1_gains",
    "class_f1_intervals",
    "cross_validation_interval",
    "describe_gain",
    "describe_gains",
    "gain_over_seeds",
    "grouped_share",
    "intervals_of",
    "macro_f1_gains",
    "metric_intervals",
    "minimum_detectable_effect",
    "paired_test",
    "paired_tests",
    "share_gap",
    "share_interval",
    "student_interval",
]
