"""Several models as one: how they combine (`fit_ensemble`), how they differ, the members."""

from lib.training.ensembles.combining import (
    METHODS,
    Ensemble,
    choose,
    compared,
    describe_choice,
    fit_ensemble,
    out_of_fold,
    simplest,
)
from lib.training.ensembles.diversity import (
    best_member,
    describe_best_member,
    describe_diversity,
    describe_gain_curve,
    diversity,
    gain_curve,
)

__all__ = [
    "METHODS",
    "Ensemble",
    "best_member",
    "choose",
    "compared",
    "describe_best_member",
    "describe_choice",
    "describe_diversity",
    "describe_gain_curve",
    "diversity",
    "fit_ensemble",
    "gain_curve",
    "out_of_fold",
    "simplest",
]
