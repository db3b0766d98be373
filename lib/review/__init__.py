"""Labels that people decide about: which look wrong, how far to trust that, what was decided."""

from lib.review.issues import rank_label_issues

__all__ = ["rank_label_issues"]
