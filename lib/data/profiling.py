"""What is in a table of labelled texts: balance, labels, lengths, characters, damage, languages, linguistic features, telling words."""

from __future__ import annotations

import contextlib
import difflib
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ftfy.badness import is_bad
from scipy.sparse import csr_matrix
from scipy.stats import norm

from lib import workspace

LINGUISTIC = {  # the features of textdescriptives that need no downloaded model and mean something for short texts
    "token_length_mean": "mean word length (characters)",
    "sentence_length_mean": "mean sentence length (words)",
    "proportion_unique_tokens": "share of distinct words",
    "flesch_reading_ease": "Flesch reading ease (higher is easier)",
    "n_sentences": "sentences",
}
GRAMMATICAL = {  # those that a spaCy model with a tagger and a parser adds; shares are of words and punctuation marks
    "pos_prop_NOUN": "share of nouns",
    "pos_prop_VERB": "share of verbs",
    "pos_prop_ADJ": "share of adjectives",
    "dependency_distance_mean": "mean distance of a word from the one it depends on (words)",
}
_LINEAR = {"proportion_unique_tokens", "flesch_reading_ease", "pos_prop_NOUN", "pos_prop_VERB", "pos_prop_ADJ"}  # shares, and a score that may be negative
TOO_SHORT, UNKNOWN = "too short to tell", "unknown"
PRIOR_SHARE = 0.1  # of the table's own counts, as pseudo-counts in each class (ours; Monroe et al. leave the amount to the analyst)
_TERM = r"(?u)\b\w{2,50}\b"  # longer runs are hashes and encoded bytes, no words
# A word, or a character of a script that is written without blanks (Thai, Lao, Khmer, kana, Chinese).
_WORD = re.compile(r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|[^\W\d_\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")
_SPECIAL = re.compile(r"[^\w\s]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def label_balance(labels: pd.Series) -> pd.DataFrame:
    """Return `n` and `share` of each label, commonest first; rows without a label are not counted."""
    counts = labels.value_counts()
    return pd.DataFrame({"n": counts, "share": counts / counts.sum()}).rename_axis("label")


def label_schema(labels: pd.Series, *, min_rows: int = 10, min_similarity: float = 0.9) -> pd.DataFrame:
    """Return what looks wrong with the set of labels itself.

    Parameters
    ----------
    labels : one a row of the table; missing ones are not looked at
    min_rows : a label with fewer rows is very rare
    min_similarity : labels more alike than this (difflib's ratio, 0..1, case aside) look like one label misspelt; labels with other
        digits in them are a numbering and are not compared

    Returns
    -------
    DataFrame with `problem`, `labels` (tuple of str, sorted) and `n_rows` (rows that carry one of them); empty where nothing is wrong

    Examples
    --------
    >>> label_schema(pd.Series(["Sport", "sport"] * 10)).to_dict("records")
    [{'problem': 'differ in case, blanks or punctuation alone', 'labels': ('Sport', 'sport'), 'n_rows': 20}]
    """
    counts = labels.dropna().astype(str).value_counts()
    names = sorted(counts.index)
    alike = pd.Series(names, dtype=object).groupby([_letters(name) for name in names]).agg(tuple)
    found = [("differ in case, blanks or punctuation alone", group) for group in alike if len(group) > 1]
    found += [("spelt nearly alike", pair) for pair in _similar_pairs(names, min_similarity)]
    found += [
        ("look like numbers", tuple(name for name in names if _is_number(name))),
        ("begin or end with a blank", tuple(name for name in names if name != name.strip())),
        (f"fewer than {min_rows} rows", tuple(name for name in names if counts[name] < min_rows)),
    ]
    rows = [(problem, group, int(counts[list(group)].sum())) for problem, group in found if group]
    return pd.DataFrame(rows, columns=["problem", "labels", "n_rows"])


def distinctive_terms(texts: Sequence[str], labels: Sequence[str], *, n: int = 10, confidence: float = 0.95, max_terms: int = 50_000) -> pd.DataFrame:
    """Return the words that tell each class from all others, by log-odds ratio with an informative Dirichlet prior.

    A word counts once a text, so no single long text makes a word telling. The prior is a tenth of the table's own counts. Words are
    ranked by log-odds ratio over its standard error; an interval is that of its one word, not of the best among thousands.

    Parameters
    ----------
    texts, labels : as many of each
    n : words a class at most; only words that are commoner in the class than elsewhere are taken
    confidence : of the intervals, normal on the logarithmic scale
    max_terms : commonest words that are looked at

    Returns
    -------
    DataFrame, the largest class first, its most telling word first: `label`, `term` (in lower case), `log_odds`, `low`, `high`,
    `n_texts` (of the class, with the word)

    Source
    ------
    Monroe, Colaresi and Quinn 2008, "Fightin' Words: Lexical Feature Selection and Evaluation for Identifying the Content of Political Conflict".
    """
    from sklearn.feature_extraction.text import CountVectorizer

    columns = ["label", "term", "log_odds", "low", "high", "n_texts"]
    vectorizer = CountVectorizer(binary=True, max_features=max_terms, token_pattern=_TERM)
    try:
        occurs = vectorizer.fit_transform(texts)
    except ValueError:  # no text has a word
        return pd.DataFrame(columns=columns)
    terms, classes = vectorizer.get_feature_names_out(), label_balance(pd.Series(labels)).index
    codes = pd.Categorical(labels, categories=classes).codes
    known = np.flatnonzero(codes >= 0)
    counts = csr_matrix((np.ones(len(known)), (codes[known], known)), shape=(len(classes), len(codes))) @ occurs
    total, half = np.asarray(counts.sum(axis=0)).ravel(), norm.ppf((1 + confidence) / 2)
    tables = []
    for row, label in enumerate(classes):
        own = counts[[row]].toarray().ravel()
        log_odds, error = _log_odds(own, total - own)
        score = np.where(np.isfinite(log_odds), log_odds / error, 0.0)
        best = np.argsort(-score, kind="stable")[:n]
        best = best[score[best] > 1e-9]  # not the rounding error of words that are as common elsewhere
        low, high = log_odds[best] - half * error[best], log_odds[best] + half * error[best]
        tables.append(pd.DataFrame(dict(zip(columns, (label, terms[best], log_odds[best], low, high, own[best].astype(int))))))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def language_mix(
    texts: Sequence[str], *, max_rows: int = 2_000, seed: int, min_words: int = 5, min_confidence: float = 0.8, max_chars: int = 1_000
) -> pd.DataFrame:
    """Return in which languages a sample of the texts is written, by lingua's 74 spoken languages in its low accuracy mode.

    Parameters
    ----------
    max_rows : texts drawn with `seed`; fewer texts are all taken
    min_words : a text with fewer words (runs of letters; characters, in scripts without blanks) is "too short to tell"
    min_confidence : a text whose likeliest language gets less (0..1) is "unknown"
    max_chars : of a text that are read

    Returns
    -------
    DataFrame indexed by `language`, commonest first: `n` and `share` of the sampled texts
    """
    from lingua import LanguageDetectorBuilder

    known = pd.Series(list(texts), dtype=object)
    drawn = known.sample(min(len(known), max_rows), random_state=seed).str.slice(0, max_chars)
    long = [text for text in drawn if len(_WORD.findall(text)) >= min_words]
    detector = LanguageDetectorBuilder.from_all_spoken_languages().with_low_accuracy_mode().build()
    likeliest = [values[0] for values in detector.compute_language_confidence_values_in_parallel(long)]
    names = [best.language.name.capitalize() if best.value >= min_confidence else UNKNOWN for best in likeliest]
    return label_balance(pd.Series([*names, *[TOO_SHORT] * (len(drawn) - len(long))], dtype=object)).rename_axis("language")


def length_summary(n_tokens: Sequence[int], *, max_length: int) -> dict[str, float]:
    """Return median, 95th percentile and maximum of lengths in tokens, and the share of texts with more than `max_length`."""
    values = np.asarray(n_tokens)
    return {
        "n_texts": len(values),
        "max_length": max_length,
        "truncated_share": float((values > max_length).mean()),
        "median_tokens": float(np.median(values)),
        "p95_tokens": float(np.percentile(values, 95)),
        "max_tokens": int(values.max()),
    }


def text_features(texts: Sequence[str | None]) -> pd.DataFrame:
    """Return lengths and shares of kinds of characters, one row a text.

    Returns
    -------
    DataFrame with `n_chars`, `n_words` (split at white space) and, as shares of the characters (0..1),
    `digit_share`, `upper_share`, `special_share` (neither letter, digit, `_` nor white space), `non_ascii_share`
    """
    return pd.DataFrame([_features(text or "") for text in texts])


def encoding_damage(texts: Sequence[str | None]) -> pd.DataFrame:
    """Return how many texts show each kind of damage, with the position of the first: `n_texts`, `first` (-1: none)."""
    kinds = {
        "mojibake": lambda text: not text.isascii() and is_bad(text),
        "replacement character U+FFFD": lambda text: "\ufffd" in text,
        "control characters": lambda text: bool(_CONTROL.search(text)),
        "invisible characters": lambda text: not text.isascii() and any(unicodedata.category(c) == "Cf" for c in text),
    }
    hits = {kind: [i for i, text in enumerate(texts) if text and found(text)] for kind, found in kinds.items()}
    return pd.DataFrame({kind: {"n_texts": len(rows), "first": rows[0] if rows else -1} for kind, rows in hits.items()}).T


def outliers(values: pd.Series, *, factor: float = 3.0, logarithm: bool = True) -> pd.Series:
    """Return which values lie more than `factor` interquartile ranges (of their logarithm, unless that is off) outside the quartiles."""
    scaled = np.log1p(values.clip(lower=0)) if logarithm else values
    low, high = scaled.quantile(0.25), scaled.quantile(0.75)
    return (scaled < low - factor * (high - low)) | (scaled > high + factor * (high - low))


def linguistic_model() -> str | None:
    """Return the installed spaCy model to take for GRAMMATICAL features, None where no model tags and parses.

    English models come first, then small ones (`_sm`), then the first by name.
    """
    from spacy import util

    pipelines = {name: set(util.get_model_meta(util.get_package_path(name))["pipeline"]) for name in util.get_installed_models()}
    fit = [name for name, parts in pipelines.items() if {"tagger", "parser"} <= parts and parts & {"attribute_ruler", "morphologizer"}]
    return min(fit, key=lambda name: (not name.startswith("en_"), not name.endswith("_sm"), name), default=None)


def linguistic_features(texts: Sequence[str], *, max_chars: int = 20_000, model: str | None = None) -> pd.DataFrame:
    """Return readability and related features from textdescriptives, one row a text.

    Those of LINGUISTIC come from a blank English pipeline with a rule-based sentence splitter, whether there is a model or
    not, so that they compare across machines; syllable counts hold for English alone.

    Parameters
    ----------
    max_chars : of a text that are read
    model : an installed spaCy model (see `linguistic_model`); None leaves the features of GRAMMATICAL out

    Returns
    -------
    DataFrame with the columns of LINGUISTIC, and with those of GRAMMATICAL where a model is given
    """
    import spacy
    import textdescriptives as td

    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("textdescriptives/descriptive_stats")
    nlp.add_pipe("textdescriptives/readability")
    read = [text[:max_chars] for text in texts]
    with np.errstate(all="ignore"):
        features = td.extract_df(nlp.pipe(read, batch_size=200), metrics=["descriptive_stats", "readability"], include_text=False)[list(LINGUISTIC)]
    return features if model is None else features.join(_grammatical_features(read, model))


def linguistic_titles(features: pd.DataFrame) -> dict[str, str]:
    """Return what each column of `linguistic_features` is in words."""
    return {column: title for column, title in (LINGUISTIC | GRAMMATICAL).items() if column in features}


def linguistic_outliers(features: pd.DataFrame, texts: Sequence[str], *, max_chars: int = 120) -> pd.DataFrame:
    """Return how many texts are outliers in each linguistic feature, and the one farthest from the median.

    Parameters
    ----------
    features : from `linguistic_features`, a row a text
    max_chars : of the example that are shown, blanks run together and control characters left out

    Returns
    -------
    DataFrame indexed by `feature` (in words): `n_outliers`, `median`, `value` and `example` (of the farthest outlier; nan and "" without one)
    """
    rows = {}
    for column, title in linguistic_titles(features).items():
        values = features[column].reset_index(drop=True)
        odd = outliers(values, logarithm=column not in _LINEAR)
        farthest = (values[odd] - values.median()).abs().idxmax() if odd.any() else None
        value, example = (np.nan, "") if farthest is None else (values[farthest], _excerpt(texts[int(farthest)], max_chars))
        rows[title] = {"n_outliers": int(odd.sum()), "median": values.median(), "value": value, "example": example}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("feature")


def save_profile_page(table: pd.DataFrame, path: Path, *, title: str) -> None:
    """Write an ydata-profiling page (one self-contained HTML file) about a table of numbers and labels.

    Raw texts do not belong in it: the page would hold them all, and take minutes.
    """
    os.environ["YDATA_PROFILING_NO_ANALYTICS"] = "1"  # else every report phones home
    import matplotlib.pyplot as plt
    from data_profiling import ProfileReport

    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()), plt.rc_context():
        page = ProfileReport(table, minimal=True, progress_bar=False, title=title).to_html()
        plt.close("all")
    workspace.write_text(page, path)


def audit(
    table: pd.DataFrame,
    features: pd.DataFrame,
    damage: pd.DataFrame,
    *,
    fingerprint: str,
    n_exact: int,
    n_near: int,
    n_conflicting: int,
    schema: pd.DataFrame,
    tokens: dict[str, float],
    languages: pd.DataFrame,
    linguistic: pd.DataFrame,
    terms: pd.DataFrame,
) -> dict[str, Any]:
    """Gather the figures of a profile in one dictionary, ready for JSON.

    Parameters
    ----------
    features, damage : from `text_features` and `encoding_damage`
    n_exact, n_near, n_conflicting : texts equal to an earlier one, near-duplicate pairs, rows whose text has another label elsewhere
    schema, tokens, languages, linguistic, terms : from `label_schema`, `length_summary`, `language_mix`, `linguistic_outliers` and
        `distinctive_terms`
    """
    return {
        "rows": len(table),
        "fingerprint": fingerprint,
        "missing_texts": int(table["text"].isna().sum()),
        "missing_labels": int(table["label"].isna().sum()),
        "labels": label_balance(table["label"])["n"].to_dict(),
        "label_problems": schema.to_dict("records"),
        "exact_duplicates": n_exact,
        "near_duplicate_pairs": n_near,
        "rows_with_conflicting_labels": n_conflicting,
        "length_outliers": int(outliers(features["n_words"]).sum()),
        "encoding_damage": damage["n_texts"].to_dict(),
        "features": {name: features[name].describe().round(4).to_dict() for name in features},
        "tokens": tokens,
        "languages": languages["share"].round(4).to_dict(),
        "linguistic_outliers": linguistic["n_outliers"].to_dict(),
        "distinctive_terms": {label: rows["term"].tolist() for label, rows in terms.groupby("label", sort=False)},
    }


def _letters(label: str) -> str:
    """Return what is left of a label without case, blanks, underscores and punctuation; the label itself where that is nothing."""
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", label).casefold()) or label


def _similar_pairs(names: Sequence[str], min_similarity: float) -> list[tuple[str, str]]:
    looks = [(name, name.casefold(), _letters(name), re.findall(r"\d+", name)) for name in names]
    pairs = []
    for (one, a, a_letters, a_digits), (other, b, b_letters, b_digits) in itertools.combinations(looks, 2):
        if a_letters == b_letters or a_digits != b_digits or 2 * min(len(a), len(b)) <= min_similarity * (len(a) + len(b)):
            continue
        matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
        if matcher.quick_ratio() > min_similarity and matcher.ratio() > min_similarity:
            pairs.append((one, other))
    return pairs


def _is_number(label: str) -> bool:
    try:
        float(label.replace(",", "."))
    except ValueError:
        return False
    return any(character.isdigit() for character in label)  # `nan` and `inf` are words


def _log_odds(own: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log-odds ratios and their standard errors; not finite where they are not defined."""
    prior = PRIOR_SHARE * (own + others)
    ours, theirs = own + prior, others + prior
    with np.errstate(divide="ignore", invalid="ignore"):
        log_odds = np.log(ours / (ours.sum() - ours)) - np.log(theirs / (theirs.sum() - theirs))
        return log_odds, np.sqrt(1 / ours + 1 / theirs)


def _grammatical_features(texts: Sequence[str], model: str) -> pd.DataFrame:
    import spacy
    import textdescriptives as td

    nlp = spacy.load(model, exclude=["ner", "lemmatizer"])  # nothing here reads names or base forms
    nlp.add_pipe("textdescriptives/pos_proportions")
    nlp.add_pipe("textdescriptives/dependency_distance")
    docs = nlp.pipe((" ".join(text.split()) for text in texts), batch_size=200)  # a run of blanks is a token to spaCy
    return td.extract_df(docs, metrics=["pos_proportions", "dependency_distance"], include_text=False)[list(GRAMMATICAL)]


def _excerpt(text: str, max_chars: int) -> str:
    shown = " ".join("".join(character for character in text[: 20 * max_chars] if character.isprintable() or character.isspace()).split())
    return shown if len(shown) <= max_chars else shown[: max_chars - 1] + "…"


def _features(text: str) -> dict[str, float]:
    n = max(1, len(text))
    return {
        "n_chars": len(text),
        "n_words": len(text.split()),
        "digit_share": sum(map(str.isdigit, text)) / n,
        "upper_share": sum(map(str.isupper, text)) / n,
        "special_share": len(_SPECIAL.findall(text)) / n,
        "non_ascii_share": 0.0 if text.isascii() else sum(c > "\x7f" for c in text) / n,
    }
