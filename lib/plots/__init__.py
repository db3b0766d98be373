"""Every figure: `plots.x(data, *, ax=None) -> Axes`; `plots.show(axes)` displays it."""

# ruff: noqa: F401  (names for `from lib import plots`)
from lib.plots.data import (
    class_balance,
    distinctive_terms,
    features_by_class,
    leak_matrices,
    lengths,
    receipts,
    token_lengths,
)
from lib.plots.delivery import runtimes
from lib.plots.evaluation import (
    accuracy_answered,
    accuracy_by_length,
    conformal,
    confusion_matrix,
    detectable_gains,
    gains,
    reliability,
    scores_with_intervals,
)
from lib.plots.monitoring import accuracy_by_batch, drift
from lib.plots.review import detectors, issue_scores
from lib.plots.robustness import flip_rates, severity_curves
from lib.plots.style import live, show
from lib.plots.training import (
    fold_scores,
    importances,
    learning_curve,
    member_gains,
    parallel_coordinates,
    search_history,
    training_curves,
    trick_ledger,
)
