"""Cleaning rules in a fixed order, each with a receipt of what it did."""

from lib.data.cleaning.receipts import (
    MIN_WORDS_RULE,
    CleaningResult,
    clean_texts,
    sample_changes,
    without_each_rule,
)
from lib.data.cleaning.rules import DataCleaner, active_rules

__all__ = [
    "MIN_WORDS_RULE",
    "CleaningResult",
    "DataCleaner",
    "active_rules",
    "clean_texts",
    "sample_changes",
    "without_each_rule",
]
