"""Which settings, and how sure: `search` and `nested`, `cross_validate` and `assign_folds`; the study behind a search; the learning curve."""

from lib.training.search.cross_validation import CrossValidation, assign_folds, cross_validate
from lib.training.search.hyperparameter_search import (
    Objective,
    SearchResult,
    Task,
    Watch,
    fine_tune,
    nested,
    search,
)

__all__ = [
    "CrossValidation",
    "Objective",
    "SearchResult",
    "Task",
    "Watch",
    "cross_validate",
    "assign_folds",
    "fine_tune",
    "nested",
    "search",
]
