"""Readability and grammar of texts, and which texts are outliers in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from lib.data.profiling import outliers

# the features of textdescriptives that need no downloaded model and mean something for short texts
LINGUISTIC = {
    "token_length_mean": "mean word length (characters)",
    "sentence_length_mean": "mean sentence length (words)",
    "proportion_unique_tokens": "share of distinct words",
    "flesch_reading_ease": "Flesch reading ease (higher is easier)",
    "n_sentences": "sentences",
}
# those that a spaCy model with a tagger and a parser adds; shares are of words and punctuation
GRAMMATICAL = {
    "pos_prop_NOUN": "share of nouns",
    "pos_prop_VERB": "share of verbs",
    "pos_prop_ADJ": "share of adjectives",
    "dependency_distance_mean": "mean distance of a word from the one it depends on (words)",
}
# counts and lengths; all others are shares, and a score that may be negative
_LOGARITHMIC = {
    "token_length_mean",
    "sentence_length_mean",
    "n_sentences",
    "dependency_distance_mean",
}


def linguistic_model() -> str | None:
    """Return the installed spaCy model to take for GRAMMATICAL features.

    English models come first, then small ones (`_sm`), then the first by name. None where no model
    tags and parses.
    """
    from spacy import util

    models = []
    for name in util.get_installed_models():
        parts = set(util.get_model_meta(util.get_package_path(name))["pipeline"])
        if {"tagger", "parser"} <= parts and parts & {"attribute_ruler", "morphologizer"}:
            models.append((not name.startswith("en_"), not name.endswith("_sm"), name))
    return min(models)[-1] if models else None


def linguistic_features(
    texts: Sequence[str], *, max_chars: int = 20_000, model: str | None = None
) -> pd.DataFrame:
    """Return readability and related features from textdescriptives, one row a text.

    Those of LINGUISTIC come from a blank English pipeline with a rule-based sentence splitter,
    whether there is a model or not, so that they compare across machines; syllable counts hold for
    English alone.

    Parameters
    ----------
    max_chars : of a text that are read
    model : an installed spaCy model (see `linguistic_model`); None leaves out the features of
        GRAMMATICAL

    Returns
    -------
    DataFrame with the columns of LINGUISTIC, and with those of GRAMMATICAL where a model is given
    """
    import spacy
    import textdescriptives as td

    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    metrics = ["descriptive_stats", "readability"]
    for metric in metrics:
        nlp.add_pipe(f"textdescriptives/{metric}")
    beginnings = [text[:max_chars] for text in texts]
    with np.errstate(all="ignore"):
        docs = tqdm(nlp.pipe(beginnings, batch_size=200), "readability", len(texts), unit="text")
        features = td.extract_df(docs, metrics=metrics, include_text=False)[list(LINGUISTIC)]
    return features if model is None else features.join(_grammatical_features(beginnings, model))


def _grammatical_features(texts: Sequence[str], model: str) -> pd.DataFrame:
    import spacy
    import textdescriptives as td

    nlp = spacy.load(model, exclude=["ner", "lemmatizer"])  # nothing here reads names or base forms
    metrics = ["pos_proportions", "dependency_distance"]
    for metric in metrics:
        nlp.add_pipe(f"textdescriptives/{metric}")
    # a run of blanks is a token to spaCy
    plain = (" ".join(text.split()) for text in texts)
    docs = tqdm(nlp.pipe(plain, batch_size=200), "grammar", len(texts), unit="text")
    return td.extract_df(docs, metrics=metrics, include_text=False)[list(GRAMMATICAL)]


def linguistic_titles(features: pd.DataFrame) -> dict[str, str]:
    """Return the title of each column of `linguistic_features`."""
    titles = LINGUISTIC | GRAMMATICAL
    return {column: title for column, title in titles.items() if column in features}


def describe_readability(features: pd.DataFrame, labels: pd.Series, *, model: str | None) -> str:
    """Return the classes that are hardest and easiest to read, and what the features are read by.

    Parameters
    ----------
    features : from `linguistic_features`, with `model`
    labels : of the same texts
    """
    ease = features["flesch_reading_ease"].groupby(labels.to_numpy()).median().sort_values()
    hardest = f"Hardest to read: {ease.index[0]} (Flesch {ease.iloc[0]:.0f})"
    easiest = f"easiest: {ease.index[-1]} (Flesch {ease.iloc[-1]:.0f})"
    read_by = (
        "Features of words alone: no spaCy model is installed. Parts of speech and sentence "
        "structure come with: python -m spacy download en_core_web_sm."
    )
    if model:
        read_by = f"Parts of speech and sentence structure by the spaCy model {model}."
    return f"{hardest}; {easiest}; n = {len(features):,}. {read_by}"


def linguistic_outliers(
    features: pd.DataFrame, texts: Sequence[str], *, max_chars: int = 120
) -> pd.DataFrame:
    """Return how many texts are outliers in each feature, and the one farthest from the median.

    Parameters
    ----------
    features : from `linguistic_features`, a row a text
    max_chars : of the example that are shown, without control characters and with runs of blanks
        as one

    Returns
    -------
    DataFrame indexed by `feature` (its title): `n_outliers`, `median`, `value` and `example` (of
    the farthest outlier; nan and "" without one)
    """
    rows = {}
    for column, title in linguistic_titles(features).items():
        values = features[column].reset_index(drop=True)
        is_outlier = outliers(values, logarithm=column in _LOGARITHMIC)
        row = {"n_outliers": int(is_outlier.sum()), "median": values.median()}
        row |= {"value": np.nan, "example": ""}
        if is_outlier.any():
            farthest = (values[is_outlier] - row["median"]).abs().idxmax()
            row["value"] = values[farthest]
            row["example"] = _excerpt(texts[int(farthest)], max_chars)
        rows[title] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("feature")


def _excerpt(text: str, max_chars: int) -> str:
    beginning = text[: 20 * max_chars]
    shown = "".join(c for c in beginning if c.isprintable() or c.isspace())
    shown = " ".join(shown.split())
    return shown if len(shown) <= max_chars else shown[: max_chars - 1] + "…"


def describe_linguistic_outliers(outliers: pd.DataFrame, *, n: int) -> str:
    """Return the feature with the most outliers among `n` texts, from `linguistic_outliers`."""
    counts = outliers["n_outliers"]
    return f"Most outliers: {counts.idxmax()}, {counts.max():,} of {n:,} texts."
