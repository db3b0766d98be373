"""Slices of the texts on which a model is weaker: suspected on some rows, confirmed on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.preprocessing import normalize

from lib.data.profiling import text_features
from lib.data.terms import single_terms
from lib.evaluation.significance import grouped_share, share_gap

FEATURES = {
    "n_words": "words",
    "digit_share": "share of digits",
    "upper_share": "share of capitals",
    "special_share": "share of signs",
    "non_ascii_share": "share beyond ASCII",
}
# of the values of a feature: the lowest and highest tenth, and fifths
_PARTS = ((0, 0.1), (0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1), (0.9, 1))
_MAX_SHARE = 0.5  # of the rows in a slice: beyond it the rest is the slice
_MAX_OVERLAP = 0.4  # of two slices that are both tested, as Jaccard similarity
_MIN_TEXTS = 5  # with a term, for it to count in clusters


@dataclass(frozen=True, eq=False)
class WeakSlices:
    """The slices that were suspected, and what became of them on other rows.

    Attributes
    ----------
    table : DataFrame by slice, the surest first: `n` rows and their `share`, `accuracy` and that
        `elsewhere`, the `gain` of the slice over elsewhere with `low` and `high`, `p` (adjusted)
        and `verdict`, "worse" or "inconclusive"
    n_candidates : slices that were looked at
    n_suspecting, n : rows on which slices were suspected, and tested
    """

    table: pd.DataFrame
    n_candidates: int
    n_suspecting: int
    n: int

    @property
    def weak(self) -> pd.DataFrame:
        """Return the slices that are weaker than chance explains."""
        return self.table[self.table["verdict"] == "worse"]

    @property
    def title(self) -> str:
        """Return the finding as a figure's title."""
        finding = "No slice is weaker than chance explains"
        if len(self.weak):
            finding = f"{len(self.weak)} of {len(self.table)} suspected slices are weaker"
        return f"{finding} (n = {self.n:,})"

    @property
    def drawn(self) -> pd.DataFrame:
        """Return the table with the number of rows in the names of the slices."""
        return self.table.rename(index=lambda name: f"{name} (n = {self.table['n'][name]:,})")

    def describe(self) -> str:
        """Return the weak slices as sentences, or that there is none."""
        tested = (
            f"{self.n_candidates:,} slices were looked at on {self.n_suspecting:,} other rows, and "
            f"the {len(self.table)} most suspicious tested (Holm)."
        )
        if self.weak.empty:
            return f"No slice is weaker than chance explains, n = {self.n:,}. {tested}"
        found = [
            f"{name} ({row['accuracy']:.3f} against {row['elsewhere']:.3f}, n = {row['n']:,})"
            for name, row in self.weak.iterrows()
        ]
        return f"Weaker than elsewhere: {'; '.join(found)}. {tested}"


def candidate_slices(
    texts: Sequence[str],
    *,
    columns: Mapping[str, Sequence[object]] | None = None,
    n_terms: int = 300,
    n_clusters: int = 20,
    seed: int = 42,
) -> pd.DataFrame:
    """Return slices of n texts that a model may be weak on; no label is used.

    They are parts of the range of each feature (length, kinds of characters), the values of
    columns, the texts with a term, and clusters of TF-IDF's leading topics.

    Parameters
    ----------
    columns : name -> n values, for instance the language; missing values are in no slice
    n_terms : the commonest terms, but for those of more than half of the texts

    Returns
    -------
    DataFrame of bool of shape (n, n_slices), columns named by what the slice is
    """
    slices = _ranges(text_features(texts))
    for column, values in (columns or {}).items():
        named = pd.Series(values, dtype=object)
        slices |= {f"{column}: {value}": named == value for value in named.dropna().unique()}
    vectorizer = CountVectorizer(analyzer=single_terms, binary=True, dtype=np.float32)
    occurs = vectorizer.fit_transform(texts)
    terms = vectorizer.get_feature_names_out()
    n_texts = np.asarray(occurs.sum(axis=0)).ravel()
    is_common = n_texts <= _MAX_SHARE * len(texts)
    for code in np.argsort(-n_texts * is_common, kind="stable")[:n_terms]:
        slices[f'with "{terms[code]}"'] = occurs[:, [code]].toarray().ravel() > 0
    kept = n_texts >= _MIN_TEXTS
    if kept.any():
        tfidf = TfidfTransformer().fit_transform(occurs[:, kept])
        slices |= _clusters(tfidf, terms[kept], n_clusters=n_clusters, seed=seed)
    return pd.DataFrame({name: np.asarray(rows, dtype=bool) for name, rows in slices.items()})


def _ranges(features: pd.DataFrame) -> dict[str, np.ndarray]:
    slices = {}
    for feature, title in FEATURES.items():
        values = features[feature].to_numpy()
        for part in _PARTS:
            low, high = np.quantile(values, part)
            slices[f"{title} {low:.3g} to {high:.3g}"] = (values >= low) & (values <= high)
    return slices


def _clusters(
    tfidf: csr_matrix, terms: np.ndarray, *, n_clusters: int, seed: int
) -> dict[str, np.ndarray]:
    """Return clusters of texts, named by the terms that they have more of than all texts."""
    n_topics = min(50, min(tfidf.shape) - 1)
    if n_topics < 2:
        return {}
    topics = normalize(TruncatedSVD(n_topics, random_state=seed).fit_transform(tfidf))
    n_clusters = min(n_clusters, len(np.unique(topics, axis=0)))
    cluster = KMeans(n_clusters, n_init=1, random_state=seed).fit_predict(topics)
    overall = np.asarray(tfidf.mean(axis=0)).ravel()
    slices = {}
    for code in np.unique(cluster):
        rows = cluster == code
        excess = np.asarray(tfidf[rows].mean(axis=0)).ravel() - overall
        slices[f"about {', '.join(terms[np.argsort(-excess, kind='stable')[:3]])}"] = rows
    return slices


def weak_slices(
    slices: pd.DataFrame,
    right: np.ndarray,
    suspecting: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    n_tested: int = 10,
    min_rows: int = 30,
    confidence: float = 0.95,
) -> WeakSlices:
    """Suspect slices on some rows, and test those suspected on the others.

    Parameters
    ----------
    slices : from `candidate_slices`, n rows
    right : ndarray of bool of shape (n,), whether the model is
    suspecting : ndarray of bool of shape (n,), the rows on which slices are suspected; the model
        that is right there may be another, since the test is on the other rows alone
    groups : (n,) of anything; rows of a group are alike, and on one side of `suspecting`
    n_tested : slices at most; of two that share two fifths of their rows the less suspicious is
        left out
    min_rows : of a slice on either side
    confidence : that no slice is called weak by chance

    Source
    ------
    One-sided: Fisher's exact test, and where rows come in groups no less than the p of a score test
    whose variance is that between groups. Adjusted by Holm 1979. The upper ends of the intervals
    (Newcombe's) hold together (Bonferroni).
    """
    is_large = slices[suspecting].sum().ge(min_rows) & slices[~suspecting].sum().ge(min_rows)
    candidates = slices.loc[:, is_large & slices.mean().le(_MAX_SHARE)]
    names = _suspects(candidates[suspecting], ~right[suspecting], n=n_tested)
    tested = candidates.loc[~suspecting, names]
    of_rows = np.arange(len(right)) if groups is None else np.asarray(groups)
    unit = np.unique(of_rows[~suspecting], return_inverse=True)[1]
    table = _test(tested, right[~suspecting], unit, confidence=confidence)
    return WeakSlices(table, candidates.shape[1], int(suspecting.sum()), len(tested))


def _suspects(slices: pd.DataFrame, wrong: np.ndarray, *, n: int) -> list[str]:
    """Return the slices with most errors for their size, the most suspicious first."""
    inside = slices.to_numpy(dtype=np.float32)
    sizes = inside.sum(axis=0)
    p = stats.hypergeom.sf(wrong @ inside - 1, len(wrong), wrong.sum(), sizes)
    chosen: list[int] = []
    for code in np.argsort(p, kind="stable"):
        common = inside[:, code] @ inside[:, chosen]
        either = sizes[chosen] + sizes[code] - common
        if not (common > _MAX_OVERLAP * either).any():
            chosen.append(int(code))
        if len(chosen) == n:
            break
    return slices.columns[chosen].tolist()


def _test(
    slices: pd.DataFrame, right: np.ndarray, unit: np.ndarray, *, confidence: float
) -> pd.DataFrame:
    """Return the table of `WeakSlices`."""
    of_each = 1 - 2 * (1 - confidence) / max(1, slices.shape[1])
    rows = []
    for inside in slices.to_numpy().T:
        sides = [
            grouped_share(right[side], groups=unit[side], confidence=of_each)
            for side in (inside, ~inside)
        ]
        gap = share_gap(*sides)
        n = sides[0].n
        p = _p_value(inside, ~right, unit)
        rows.append((n, n / len(right), sides[0].value, sides[1].value, *gap.with_ends, p))
    columns = ["n", "share", "accuracy", "elsewhere", "gain", "low", "high", "p"]
    table = pd.DataFrame(rows, index=slices.columns, columns=columns).rename_axis("slice")
    table = table.sort_values("p", kind="stable")
    n_left = np.arange(len(table), 0, -1)
    table["p"] = (table["p"] * n_left).cummax().clip(upper=1)  # Holm
    is_weak = table["p"].le(1 - confidence)
    return table.assign(verdict=np.where(is_weak, "worse", "inconclusive"))


def _p_value(inside: np.ndarray, wrong: np.ndarray, unit: np.ndarray) -> float:
    """Return how often chance gives a slice as many errors."""
    n = len(wrong)
    n_inside = int(inside.sum())
    n_wrong = int(wrong[inside].sum())
    exact = float(stats.hypergeom.sf(n_wrong - 1, n, int(wrong.sum()), n_inside))
    if unit.max() + 1 == n or exact == 1:
        return exact
    contrast = inside / n_inside - ~inside / (n - n_inside)
    by_unit = np.bincount(unit, weights=contrast * (wrong - wrong.mean()))
    spread = float(np.sqrt((by_unit**2).sum()))
    return max(exact, float(stats.norm.sf(contrast @ wrong / spread)))
