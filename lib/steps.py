"""The notebooks of the workbook, in order, and what each one's result depends on."""

from __future__ import annotations

from dataclasses import dataclass

from lib.workspace import FILES, Workspace


@dataclass(frozen=True)
class Step:
    """One notebook of the workbook and what its result depends on.

    Attributes
    ----------
    notebook : file name without its ending
    settings : sections of Config that it uses, or dotted keys (`seed` always counts)
    reads : names in FILES; "source" is the table that the run is about
    """

    notebook: str
    question: str
    settings: tuple[str, ...]
    reads: tuple[str, ...]

    @property
    def number(self) -> str:
        """Return the two digits that the notebook's name begins with."""
        return self.notebook[:2]

    @property
    def writes(self) -> tuple[str, ...]:
        """Return the names in FILES that this notebook writes."""
        return tuple(name for name, (_, writer) in FILES.items() if writer == self.notebook)


STEPS = (
    Step(
        "01_profile_data",
        "What is in this data?",
        ("data", "profiling", "split", "training.backbone", "training.max_length"),
        ("source",),
    ),
    Step(
        "02_clean_and_split",
        "What must go, and does anything leak?",
        ("data", "cleaning", "split", "evaluation.confidence"),
        ("source",),
    ),
    Step(
        "03_review_labels",
        "Which labels are wrong?",
        ("labels",),
        ("clean.parquet", "decisions.csv", "review_queue.csv"),
    ),
    Step(
        "04_train_model",
        "What does the transformer add to a baseline?",
        (
            "training",
            "ledger",
            "augmentation",
            "evaluation.n_resamples",
            "evaluation.confidence",
            "split.near_duplicate_threshold",
            "split.shingle_words",
        ),
        ("train.parquet", "val.parquet", "clean.parquet"),
    ),
    Step(
        "05_search_and_cross_validate",
        "Which settings, and how sure are the scores?",
        ("search", "cross_validation", "training", "evaluation.confidence"),
        ("train.parquet",),
    ),
    Step(
        "06_build_ensemble",
        "Are several models worth their cost?",
        (
            "ensemble",
            "cleaning",
            "robustness.ood_data",
            "robustness.ood_rows",
            "robustness.ood_false_alarms",
            "cross_validation",
            "search.cross_validate",
            "training",
            "evaluation.n_resamples",
            "evaluation.confidence",
        ),
        (
            "train.parquet",
            "val.parquet",
            "val_probs.parquet",
            "oof_probs.parquet",
            "best_settings.yaml",
            "baseline",
            "transformer",
        ),
    ),
    Step(
        "07_evaluate_and_analyse_errors",
        "How good is it, and where does it fail?",
        ("evaluation", "training", "cross_validation", "search.cross_validate"),
        (
            "source",
            "train.parquet",
            "test.parquet",
            "seal.json",
            "val.parquet",
            "val_probs.parquet",
            "baseline",
            "transformer",
            "classifier",
            "best_settings.yaml",
            "audit.json",
            "judgements.csv",
        ),
    ),
    Step(
        "08_test_robustness",
        "What breaks it?",
        (
            "robustness",
            "evaluation.n_resamples",
            "evaluation.confidence",
            "training",
            "cross_validation",
            "search.cross_validate",
        ),
        (
            "source",
            "train.parquet",
            "val.parquet",
            "classifier",
            "best_settings.yaml",
            "behaviour.csv",
            "identity_terms.csv",
        ),
    ),
    Step(
        "09_export_and_serve",
        "Does what we ship equal what we measured?",
        ("export",),
        ("source", "val.parquet", "classifier"),
    ),
    Step(
        "10_monitor",
        "Is what comes in still what it was trained for?",
        ("monitoring", "evaluation.confidence"),
        ("source", "val.parquet", "classifier"),
    ),
)


def check_inputs(notebook: str, ws: Workspace) -> None:
    """Check that the files which a notebook reads are there, but its own and the source.

    Raises
    ------
    WorkbookError : one is not; the notebook to run first is named.
    """
    step = next(step for step in STEPS if step.notebook == notebook)
    for name in step.reads:
        if name in ("source", *step.writes) or ws.path(name).exists():
            continue
        check_inputs(FILES[name][1], ws)  # what writes it may lack something itself
        ws.existing(name)
