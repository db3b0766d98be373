"""The classifier: raw texts in, labels and probabilities out.

What a run leaves for others to use. It holds everything between a raw text and an answer, and is
one folder that can be moved and mailed (`classifier_folder`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib import provenance, workspace
from lib.config import CleaningConfig, Config
from lib.data import sources
from lib.data.cleaning import clean_texts
from lib.errors import WorkbookError
from lib.evaluation.calibration import Calibrator
from lib.evaluation.decision_rule import MOST_PROBABLE, DecisionRule
from lib.evaluation.metrics import with_confidence
from lib.evaluation.selective import prediction_sets
from lib.robustness.ood import OodScores
from lib.training import baseline, classifier_folder
from lib.training.classifier_folder import Description
from lib.training.ensembles.combining import Ensemble
from lib.training.member import Member, load_member, member_entry
from lib.training.runtimes import TORCH, chosen_export
from lib.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Classifier:
    """Everything between a raw text and an answer.

    Attributes
    ----------
    class_names : k, sorted: the order of all columns
    cleaning : the rules that every text goes through first, as in training
    members : the models
    ensemble : how the members' probabilities become one
    calibrator : what makes the probabilities as sure as they are right
    decision : how calibrated probabilities become a label
    abstain_below : texts whose label is less probable are not answered, 0..1
    set_thresholds : promised coverage -> ndarray of shape (k,): how probable a class must be to
        join a prediction set
    ood : what says how unlike the training texts a text is, for cleaned texts; None says nothing
    origin : what it was made from and by: data set, its fingerprint, versions, commit
    runtime : what computes its transformers: "torch", or the name of an export
    """

    class_names: list[str]
    cleaning: CleaningConfig
    members: Sequence[Member]
    ensemble: Ensemble
    calibrator: Calibrator
    decision: DecisionRule = MOST_PROBABLE
    abstain_below: float = 0.0
    set_thresholds: Mapping[float, np.ndarray] = field(default_factory=dict)
    ood: OodScores | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    runtime: str = TORCH

    def predict(
        self,
        texts: Sequence[Any],
        *,
        coverage: float | None = None,
        with_probs: bool = False,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Label raw texts.

        Parameters
        ----------
        texts : n values; one that is no text, or has too few words, is not answered
        coverage : adds sets that hold the right class with this probability, 0..1, for texts like
            those of the training; one of `set_thresholds`
        with_probs : adds the probabilities of all classes

        Returns
        -------
        DataFrame of n rows in the order of `texts`:

        - `label`: the class that `decision` chooses, also where it abstains; None where there are
          no words
        - `confidence`: the calibrated probability of that class, 0..1; NaN where there are no words
        - `abstained`: whether the label should not be used
        - `reason`: why it abstained, else ""
        - `ood_score`, where the classifier has it: share of texts like those of the training that
          are less unusual than this one, 0..1; NaN where there are no words
        - `is_ood`, next to it: whether that is so unusual that the text may belong to no class
        - `prediction_set`, with `coverage`: a tuple of labels, the most probable first; all of them
          where there are no words; by probability alone, so that a set may lack the label
        - `probabilities`, with `with_probs`: k calibrated ones, as in `predict_probs`

        Raises
        ------
        WorkbookError : `texts` is one text instead of a list, or `coverage` was not fitted.
        """
        thresholds = None if coverage is None else self._thresholds(coverage)
        cleaned, reasons = self._clean(texts)
        probs = self._probs(cleaned, progress=progress)
        has_words = ~_without_words(cleaned)
        y_pred, confidence = with_confidence(probs, self.decision.labels(probs))
        labels = np.array(self.class_names, dtype=object)[y_pred]
        answers = pd.DataFrame({"label": labels, "confidence": confidence})
        answers.loc[~has_words, "label"] = None
        answers.loc[~has_words, "confidence"] = np.nan
        unsure = answers["confidence"] < self.abstain_below
        answers["abstained"] = unsure | ~has_words
        answers["reason"] = reasons
        answers.loc[unsure, "reason"] = f"confidence below {self.abstain_below:.3g}"
        if self.ood is not None:
            answers["ood_score"] = np.nan
            familiar = [text for text in cleaned if text]
            scores = self.ood.score(familiar, probs=probs[has_words])
            answers.loc[has_words, "ood_score"] = scores
            answers["is_ood"] = answers["ood_score"] >= self.ood.threshold
        if thresholds is not None:
            in_set = prediction_sets(probs, thresholds) | ~has_words[:, None]
            answers["prediction_set"] = [
                self._labels(row, included) for row, included in zip(probs, in_set)
            ]
        if with_probs:
            answers["probabilities"] = list(probs)
        return answers

    def predict_probs(self, texts: Sequence[Any], *, progress: bool = False) -> np.ndarray:
        """Return the calibrated probabilities of n raw texts.

        Returns
        -------
        ndarray of shape (n, k), rows summing to 1, columns in `class_names` order; 1 / k for all
        classes where there are no words
        """
        cleaned, _ = self._clean(texts)
        return self._probs(cleaned, progress=progress)

    def member_probs(
        self, texts: Sequence[Any], *, progress: bool = False
    ) -> dict[str, np.ndarray]:
        """Return what each member says of n raw texts: name -> ndarray of shape (n, k)."""
        cleaned, _ = self._clean(texts)
        return self._member_probs(cleaned, progress=progress)

    def combine(self, member_probs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the calibrated probabilities of all members together: ndarray of shape (n, k)."""
        return self.calibrator(self.ensemble.predict_probs(member_probs))

    def without_cleaning(self) -> Classifier:
        """Return the classifier whose members read texts as they come."""
        return replace(self, cleaning=CleaningConfig.off())

    def save(self, folder: Path | str) -> None:
        """Write the classifier as one folder of JSON, safetensors and tokenizer files.

        Raises
        ------
        WorkbookError : the folder cannot be written, or a member has a file of another format.
        """
        sources = {member.name: member.folder for member in self.members}
        classifier_folder.write(
            Path(folder), self._description(), members=sources, ood=self.ood, origin=self.origin
        )

    @classmethod
    def load(cls, folder: Path | str, *, runtime: str | None = None) -> Classifier:
        """Read a folder that `save` wrote, wherever it is now, after checking each of its files.

        Parameters
        ----------
        runtime : "torch", or the name of an export in the folder; None takes the fastest export
            that works on this machine, and torch where there is none or a GPU

        Raises
        ------
        WorkbookError : a file is missing, changed, unlisted or not data; the folder has another
            format version, or not that export; or a member has other classes.
        """
        folder = Path(folder)
        description, origin = classifier_folder.read(folder)
        export = chosen_export(folder, runtime)
        members = [load_member(folder, entry, export) for entry in description.members]
        for member in members:
            if member.class_names != description.class_names:
                raise WorkbookError(
                    f"{member.folder} has the classes {', '.join(member.class_names)}, "
                    f"and the classifier {', '.join(description.class_names)}; save it again"
                )
        names = [member.name for member in members]
        weights = np.array(description.weights)
        bias = np.array(description.bias)
        scale = np.array(description.calibration_scale)
        shift = np.array(description.calibration_shift)
        thresholds = description.set_thresholds
        decision = MOST_PROBABLE
        if description.decision_weights is not None:
            decision = DecisionRule(np.array(description.decision_weights))
        return cls(
            class_names=description.class_names,
            cleaning=description.cleaning,
            members=members,
            ensemble=Ensemble(description.method, names, description.class_names, weights, bias),
            calibrator=Calibrator(scale, shift),
            decision=decision,
            abstain_below=description.abstain_below,
            set_thresholds={float(key): np.array(values) for key, values in thresholds.items()},
            ood=classifier_folder.read_ood(folder),
            origin=origin,
            runtime=export.name if export else TORCH,
        )

    def describe(self) -> str:
        """Return in a sentence what the classifier is made of."""
        *others, last = [member.name for member in self.members]
        names = f"{', '.join(others)} and {last}" if others else last
        combined = f", combined by the method {self.ensemble.method}" if others else ""
        answered = "answers every text that has words"
        if self.abstain_below:
            answered = f"abstains where its confidence is below {self.abstain_below:.2f}"
        weighted = "" if self.decision.is_most_probable else " (rare ones weigh more)"
        return f"{names}{combined}: {len(self.class_names)} classes{weighted}, {answered}."

    def _clean(self, texts: Sequence[Any]) -> tuple[list[str], list[str]]:
        """Return cleaned texts, and for each that has too few words the reason, else ""."""
        if isinstance(texts, str | bytes):
            raise WorkbookError("texts must be a list of texts; found one text, put it into a list")
        raw = list(texts)
        cleaned = clean_texts(raw, settings=self.cleaning).texts
        empty = [i for i, text in enumerate(cleaned) if not text]
        rules = self.cleaning.model_copy(update={"min_words": 1})
        words = clean_texts([raw[i] for i in empty], settings=rules).texts
        reasons = [""] * len(raw)
        for i, few_words in zip(empty, words):
            reasons[i] = self._missing(raw[i], has_words=bool(few_words))
        return cleaned, reasons

    def _missing(self, value: Any, *, has_words: bool) -> str:
        """Return why there is nothing to classify in a value."""
        if not isinstance(value, str):
            is_null = pd.api.types.is_scalar(value) and pd.isna(value)
            return "null" if is_null else f"not a text: {type(value).__name__}"
        return f"fewer than {self.cleaning.min_words} words left" if has_words else "no words left"

    def _probs(self, cleaned: list[str], *, progress: bool) -> np.ndarray:
        probs = self.combine(self._member_probs(cleaned, progress=progress))
        probs[_without_words(cleaned)] = 1 / len(self.class_names)
        return probs

    def _member_probs(self, cleaned: list[str], *, progress: bool) -> dict[str, np.ndarray]:
        has_words = ~_without_words(cleaned)
        texts = [text for text in cleaned if text]
        member_probs = {}
        for member in self.members:
            probs = np.full((len(cleaned), len(self.class_names)), 1 / len(self.class_names))
            if texts:
                probs[has_words] = member.predict_probs(texts, progress=progress)
            member_probs[member.name] = probs
        return member_probs

    def _thresholds(self, coverage: float) -> np.ndarray:
        if coverage not in self.set_thresholds:
            fitted = ", ".join(f"{value:g}" for value in self.set_thresholds) or "none"
            raise WorkbookError(
                f"no prediction sets were fitted for coverage={coverage:g}; there are {fitted} "
                "(setting ensemble.coverages)"
            )
        return self.set_thresholds[coverage]

    def _labels(self, probs: np.ndarray, included: np.ndarray) -> tuple[str, ...]:
        order = np.argsort(-probs, kind="stable")
        return tuple(self.class_names[code] for code in order if included[code])

    def _description(self) -> Description:
        is_plain = self.decision.is_most_probable
        return Description(
            class_names=self.class_names,
            cleaning=self.cleaning,
            members=[member_entry(member) for member in self.members],
            method=self.ensemble.method,
            weights=self.ensemble.weights.tolist(),
            bias=self.ensemble.bias.tolist(),
            calibration_scale=self.calibrator.scale.tolist(),
            calibration_shift=self.calibrator.shift.tolist(),
            abstain_below=self.abstain_below,
            set_thresholds={
                f"{coverage:g}": values.tolist() for coverage, values in self.set_thresholds.items()
            },
            decision_weights=None if is_plain else self.decision.weights.tolist(),
        )


def members_of_run(names: Sequence[str], *, config: Config, ws: Workspace) -> list[Member]:
    """Return members that a run has trained (`ensembles.members.fit_all`)."""
    from lib.training.ensembles.members import member_folder

    members = []
    for name in names:
        settings = None if name in baseline.LINEAR else config.member_config(name).training
        members.append(Member(name, member_folder(name, config, ws), settings))
    return members


def origin_of_run(config: Config, ws: Workspace) -> dict[str, Any]:
    """Return what a classifier's origin says: the data it learned from, and what wrote it."""
    machine = provenance.machine_facts()
    raw = workspace.read_facts(sources.raw_path(config))
    return {
        "dataset": ws.dataset,
        "run": ws.run,
        "data_fingerprint": raw.get("fingerprint"),
        "train_fingerprint": provenance.path_fingerprint(ws.existing("train.parquet")),
        "python": machine["python"],
        "versions": machine["versions"],
        "commit": machine["commit"],
    }


def _without_words(cleaned: Sequence[str]) -> np.ndarray:
    return np.array([not text for text in cleaned], dtype=bool)
