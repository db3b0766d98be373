"""The classifier that answers now, and its replacement when the registry has another champion."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from lib.delivery import model_folder, registry
from lib.delivery.monitoring.prediction_log import PredictionLog
from lib.delivery.serving.questions import Answer, as_answers
from lib.delivery.serving.source import Source
from lib.errors import WorkbookError
from lib.training.classifier import Classifier

LONGEST_PAUSE = 600.0  # seconds between looks at a registry, or a champion, that cannot be used
logger = logging.getLogger("uvicorn.error")


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded classifier under its version, with its log."""

    classifier: Classifier
    version: str
    log: PredictionLog | None

    @classmethod
    def load(cls, folder: Path, version: str, source: Source) -> Model:
        """Read a classifier and let it answer once, so that nobody waits for its first answer."""
        classifier = Classifier.load(folder)
        classifier.predict(["words that nobody waits for"], with_probs=True)
        log = None
        if source.log:
            log = PredictionLog(source.log, classifier, with_texts=source.with_texts)
        return cls(classifier, version, log)

    def predict(self, texts: list[str]) -> list[Answer]:
        """Answer texts and log the answers; a log that fails is a warning."""
        table = self.classifier.predict(texts, with_probs=True)
        if self.log:
            try:
                self.log.append(texts, table, source="serve")
            except WorkbookError as error:
                logger.warning("predictions are not logged: %s", error)
        return as_answers(table, self.classifier.class_names)


class ServingModel:
    """The model that answers now.

    Attributes
    ----------
    current : is replaced as a whole; who has taken it keeps it to the end of the request
    pause : seconds to the next look at the registry
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.current = Model.load(source.folder, source.version, source)
        self.pause = source.poll_seconds
        self._said = ""

    def refresh(self) -> None:
        """Replace the model if the registry has another; whatever fails, the old one goes on."""
        try:
            version = registry.find(self.source.name, uri=self.source.uri)
            if version.label != self.current.version:
                folder = model_folder.downloaded(version, uri=self.source.uri)
                self.current = Model.load(folder, version.label, self.source)
                logger.info("%s answers from now on", version.label)
            self.pause, self._said = self.source.poll_seconds, ""
        except Exception as error:  # also what no one has thought of
            words = str(error) if isinstance(error, WorkbookError) else type(error).__name__
            if words != self._said:
                logger.warning("%s goes on answering: %s", self.current.version, words)
            self._said = words
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
