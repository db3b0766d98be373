"""Exact and near duplicates, contradicting labels, and the groups that must stay together."""

from lib.data.duplicates.groups import (
    conflicting_rows,
    exact_duplicates,
    group_ids,
    without_rows,
)
from lib.data.duplicates.pairs import MAX_PAIRS, near_duplicate_pairs

__all__ = [
    "MAX_PAIRS",
    "conflicting_rows",
    "exact_duplicates",
    "group_ids",
    "near_duplicate_pairs",
    "without_rows",
]
