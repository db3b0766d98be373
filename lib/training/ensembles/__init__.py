"""Several models as one: how they combine (`fit_ensemble`), the members themselves, and one model in their place."""

from lib.training.ensembles.combining import (
    Ensemble,
    best_member,
    choose,
    diversity,
    fit_ensemble,
    gain_curve,
    load_ensemble,
    out_of_fold,
    save_ensemble,
    simplest,
)

__all__ = [
    "Ensemble",
    "best_member",
    "choose",
    "diversity",
    "fit_ensemble",
    "gain_curve",
    "load_ensemble",
    "out_of_fold",
    "save_ensemble",
    "simplest",
]
