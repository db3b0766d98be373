"""The words that set a class apart from all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.stats import norm

from lib.data.profiling import label_balance
from lib.data.terms import single_terms

# of the table's own counts, as pseudo-counts in each class (ours; Monroe et al. name no amount)
PRIOR_SHARE = 0.1
TERM_COLUMNS = ["label", "term", "log_odds", "low", "high", "n_texts"]
LONGEST_TERM = 50  # letters; longer runs are hashes and encoded bytes, not words


def distinctive_terms(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    n: int = 10,
    confidence: float = 0.95,
    max_terms: int = 50_000,
) -> pd.DataFrame:
    """Return the words that set each class apart from all others.

    In scripts without blanks they are n-grams of characters (`terms.single_terms`). The measure is
    the log-odds ratio with an informative Dirichlet prior, a tenth of the table's own counts. A
    word counts once a text, so no single long text makes a word distinctive. Words are ranked by
    log-odds ratio over its standard error; an interval is that of its one word, not of the best
    among thousands.

    Parameters
    ----------
    texts, labels : as many of each
    n : words a class at most; only words that are commoner in the class than elsewhere are taken
    confidence : of the intervals, normal on the logarithmic scale
    max_terms : commonest words that are considered

    Returns
    -------
    DataFrame, the largest class first, its most distinctive word first: `label`, `term` (in lower
    case), `log_odds`, `low`, `high`, `n_texts` (of the class, with the word)

    Source
    ------
    Monroe, Colaresi and Quinn 2008, "Fightin' Words: Lexical Feature Selection and Evaluation for
    Identifying the Content of Political Conflict".
    """
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(
        binary=True, max_features=max_terms, token_pattern=None, analyzer=_legible_terms
    )
    try:
        occurs = vectorizer.fit_transform(texts)
    except ValueError:  # no text has a word
        return pd.DataFrame(columns=TERM_COLUMNS)
    terms = vectorizer.get_feature_names_out()
    classes = label_balance(pd.Series(labels)).index
    counts = _counts_by_class(occurs, labels, classes)
    total = np.asarray(counts.sum(axis=0)).ravel()
    half = norm.ppf((1 + confidence) / 2)
    tables = []
    for row, label in enumerate(classes):
        count = counts[[row]].toarray().ravel()
        log_odds, error = _log_odds(count, total - count)
        table = pd.DataFrame({"label": label, "term": terms, "log_odds": log_odds})
        table["low"] = log_odds - half * error
        table["high"] = log_odds + half * error
        table["n_texts"] = count.astype(int)
        score = pd.Series(log_odds / error)
        # not the rounding error of words that are as common elsewhere
        score = score[np.isfinite(log_odds) & (score > 1e-9)]
        best = score.sort_values(ascending=False, kind="stable").index[:n]
        tables.append(table.loc[best])
    return pd.concat(tables, ignore_index=True)


def _legible_terms(text: str) -> list[str]:
    """Return the terms of a text, without single letters where there are longer terms."""
    terms = [term for term in single_terms(text) if 0 < len(term) <= LONGEST_TERM]
    return [term for term in terms if len(term) > 1 or not term.isalnum()] or terms


def _counts_by_class(occurs: csr_matrix, labels: Sequence[str], classes: pd.Index) -> csr_matrix:
    """Return in how many texts of each class each term occurs, shape (classes, terms)."""
    codes = pd.Categorical(labels, categories=classes).codes
    labelled = np.flatnonzero(codes >= 0)
    cells = (codes[labelled], labelled)
    shape = (len(classes), len(codes))
    members = csr_matrix((np.ones(len(labelled)), cells), shape=shape)
    return members @ occurs


def _log_odds(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log-odds ratios and their standard errors; not finite where they are not defined."""
    prior = PRIOR_SHARE * (inside + outside)
    inside = inside + prior
    outside = outside + prior
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = inside / (inside.sum() - inside)
        odds_outside = outside / (outside.sum() - outside)
        log_odds = np.log(odds) - np.log(odds_outside)
        error = np.sqrt(1 / inside + 1 / outside)
    return log_odds, error


def describe_terms(terms: pd.DataFrame) -> str:
    """Return how many of the terms have an interval above zero, from `distinctive_terms`."""
    n_above = (terms["low"] > 0).sum()
    return (
        f"{n_above:,} of the {len(terms):,} words found have an interval above "
        "zero; it is that of one word, not of the best among thousands."
    )
