"""How unlike its training texts a text is: several scores, and the one that a classifier gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.special import logsumexp, softmax
from sklearn.covariance import LedoitWolf
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import euclidean_distances

from lib import workspace
from lib.data.terms import fit_tfidf, restored_tfidf
from lib.errors import WorkbookError

MAX_PROBABILITY, MAHALANOBIS, COMBINED = "max_probability", "mahalanobis", "combined"
BATCH = 1_000  # texts whose similarities to the training texts are in memory at a time
FACTS, ARRAYS = "ood.json", "ood.safetensors"
SPARSE = ("data", "indices", "indptr")  # of the training texts' TF-IDF
Encode = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True, eq=False)
class OodScores:
    """How unlike the training texts a text is; higher is less alike.

    Attributes
    ----------
    tfidf : of the training texts
    arrays : what was fitted to them; `held_out`, ndarray of shape (m, n_scores), are the scores of
        texts like them
    chosen : the score that `score` gives
    false_alarms : share of texts like those of the training that may be flagged, 0..1
    encode : vectors of texts, for `mahalanobis`; scores with it cannot be saved
    """

    tfidf: TfidfVectorizer
    arrays: Mapping[str, np.ndarray]
    chosen: str = COMBINED
    false_alarms: float = 0.05
    encode: Encode | None = None

    @property
    def threshold(self) -> float:
        """Return from which score on a text is flagged."""
        return 1 - self.false_alarms

    def all_scores(self, texts: Sequence[str], probs: np.ndarray | None) -> pd.DataFrame:
        """Return every score of n texts, at least one, a column each.

        - `max_probability`: 1 minus it (Hendrycks and Gimpel 2017)
        - `energy`: of a linear model on TF-IDF, since probabilities do not tell their logits (Liu
          et al. 2020)
        - `neighbours`: distance to the nearest training text, by the cosine of TF-IDF (Sun et al.
          2022, on a network's features and with the k-th nearest; here the first tells more)
        - `novelty`: share of the text's terms that the training texts do not have (ours)
        - `mahalanobis`, where there is an encoder: squared distance of the vectors to the nearest
          class; classes share one covariance (Lee et al. 2018), shrunk (Ledoit and Wolf 2004)
        - `combined`: the mean of all, each in standard deviations of held-out texts (ours)

        Parameters
        ----------
        probs : ndarray of shape (n, k), of the classifier; None takes those of the linear model
        """
        parts = self._parts(texts, probs)
        held_out = self.arrays["held_out"][:, : parts.shape[1]]
        spread = held_out.std(axis=0)
        spread[spread < 1e-9] = 1  # a score that is the same for all of them
        parts[COMBINED] = ((parts - held_out.mean(axis=0)) / spread).mean(axis=1)
        return parts

    def score(self, texts: Sequence[str], *, probs: np.ndarray) -> np.ndarray:
        """Return the share of held-out texts less unusual than each of n texts: ndarray (n,), 0..1.

        Of texts like them at most `false_alarms` reach `threshold`, whatever the score: it is 1
        minus a conformal p-value (Bates et al. 2023, "Testing for Outliers with Conformal
        p-values"). With fewer held-out texts than 1 / `false_alarms` none does.
        """
        if not len(texts):
            return np.zeros(0)
        scores = self.all_scores(texts, probs)
        column = scores.columns.get_loc(self.chosen)
        held_out = np.sort(self.arrays["held_out"][:, column])
        n_less = np.searchsorted(held_out, scores[self.chosen], side="left")
        return n_less / (len(held_out) + 1)

    def _parts(self, texts: Sequence[str], probs: np.ndarray | None) -> pd.DataFrame:
        arrays = self.arrays
        matrix = self.tfidf.transform(texts)
        logits = matrix @ arrays["coef"].T + arrays["intercept"]
        if probs is None:
            probs = softmax(logits, axis=1)
        shape = (len(arrays["indptr"]) - 1, matrix.shape[1])
        known = csr_matrix(tuple(arrays[name] for name in SPARSE), shape).T
        starts = range(0, len(texts), BATCH)
        nearest = [(matrix[i : i + BATCH] @ known).max(axis=1).toarray()[:, 0] for i in starts]
        parts = {
            MAX_PROBABILITY: 1 - probs.max(axis=1),
            "energy": -logsumexp(logits, axis=1),
            "neighbours": 1 - np.concatenate(nearest),
            "novelty": [_unknown_share(self.tfidf, text) for text in texts],
        }
        if self.encode is not None:
            whitened = np.asarray(self.encode(list(texts))) @ arrays["whitening"]
            distances = euclidean_distances(whitened, arrays["means"], squared=True)
            parts[MAHALANOBIS] = distances.min(axis=1)
        return pd.DataFrame(parts)

    def save(self, folder: Path) -> None:
        """Write the scores as JSON and safetensors.

        Raises
        ------
        WorkbookError : they need an encoder, which is not written.
        """
        from safetensors.numpy import save_file

        if self.encode is not None:
            raise WorkbookError("scores with an encoder cannot be saved: fit them without `encode`")
        facts = {
            "terms": self.tfidf.get_feature_names_out().tolist(),
            "analyzer": self.tfidf.analyzer.__name__,
            "chosen": self.chosen,
            "false_alarms": self.false_alarms,
        }
        folder.mkdir(parents=True)
        workspace.write_json(facts, folder / FACTS)
        # it writes memory as it lies, and a table's columns lie one after the other
        rows = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        save_file(rows, folder / ARRAYS)

    @classmethod
    def load(cls, folder: Path) -> OodScores:
        """Read scores that `save` wrote.

        Raises
        ------
        WorkbookError : a file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            facts = workspace.read_json(folder / FACTS)
            arrays = load_file(folder / ARRAYS)
            terms = facts.pop("terms")
            tfidf = restored_tfidf(facts.pop("analyzer"), terms=terms, idf=arrays["idf"])
            return cls(tfidf, arrays, **facts)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            reason = f"{type(error).__name__} {error}"[:100]
            raise WorkbookError(f"{folder} cannot be read: {reason}; copy it again") from error


def fit_scores(
    texts: Sequence[str],
    labels: Sequence[str],
    held_out: Sequence[str],
    *,
    held_out_probs: np.ndarray | None,
    encode: Encode | None = None,
    rows: int = 4_000,
    seed: int = 42,
) -> OodScores:
    """Fit all scores to training texts.

    Parameters
    ----------
    texts, labels : of the training, n of each
    held_out : texts like them that the classifier did not learn from; they say what is usual
    held_out_probs : ndarray of shape (m, k), what the classifier says of them; None takes what the
        linear model of `energy` says
    encode : vectors of texts; adds `mahalanobis`
    rows : training texts that are used, drawn at random
    """
    drawn = np.random.default_rng(seed).permutation(len(texts))[:rows]
    texts = [texts[i] for i in drawn]
    codes = np.unique([labels[i] for i in drawn], return_inverse=True)[1]
    tfidf, matrix = fit_tfidf(texts)
    linear = LogisticRegression(C=10, max_iter=200, random_state=seed).fit(matrix, codes)
    coef = linear.coef_
    intercept = linear.intercept_
    if len(coef) == 1:  # of two classes: half of the log-odds each
        coef = np.vstack([-coef, coef]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    arrays = {"idf": tfidf.idf_, "coef": coef, "intercept": intercept}
    arrays |= {name: getattr(matrix, name) for name in SPARSE}
    if encode is not None:
        arrays |= _class_means(np.asarray(encode(texts), dtype=float), codes)
    arrays["held_out"] = np.zeros((1, 5))
    scores = OodScores(tfidf, arrays, encode=encode)
    for _ in range(2):  # the combination needs the parts of held-out texts
        table = scores.all_scores(held_out, held_out_probs)
        scores = replace(scores, arrays=arrays | {"held_out": np.ascontiguousarray(table)})
    return scores


def _class_means(vectors: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the classes' means and the matrix after which distances are Mahalanobis's."""
    means = np.stack([vectors[codes == code].mean(axis=0) for code in range(codes.max() + 1)])
    covariance = LedoitWolf(assume_centered=True).fit(vectors - means[codes])
    whitening = np.linalg.cholesky(covariance.precision_)
    return {"means": means @ whitening, "whitening": whitening}


def _unknown_share(tfidf: TfidfVectorizer, text: str) -> float:
    terms = set(tfidf.analyzer(text))
    return sum(term not in tfidf.vocabulary_ for term in terms) / max(1, len(terms))
