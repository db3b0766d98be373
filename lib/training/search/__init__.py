"""Which settings, and how sure: `search` and `nested`, `cross_validate` and `deal`; the study behind a search; the learning curve."""

from lib.training.search.cross_validation import CrossValidation, cross_validate, deal
from lib.training.search.settings import Objective, SearchResult, Task, Watch, fine_tune, nested, search

__all__ = ["CrossValidation", "Objective", "SearchResult", "Task", "Watch", "cross_validate", "deal", "fine_tune", "nested", "search"]
