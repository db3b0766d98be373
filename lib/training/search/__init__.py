"""Which settings, and how sure: `search` and `nested`, `cross_validate`, the learning curve."""

from lib.training.search.cross_validation import CrossValidation, assign_folds, cross_validate
from lib.training.search.hyperparameter_search import (
    NestedSearch,
    Objective,
    SearchResult,
    Task,
    Watch,
    describe_importances,
    describe_optimism,
    describe_search,
    fine_tune,
    nested,
    save_search,
    search,
)

__all__ = [
    "CrossValidation",
    "NestedSearch",
    "Objective",
    "SearchResult",
    "Task",
    "Watch",
    "assign_folds",
    "cross_validate",
    "describe_importances",
    "describe_optimism",
    "describe_search",
    "fine_tune",
    "nested",
    "save_search",
    "search",
]
