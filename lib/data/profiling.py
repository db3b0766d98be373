"""What is in a table of labelled texts: balance, lengths, characters, damage, linguistic features."""

from __future__ import annotations

import contextlib
import io
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ftfy.badness import is_bad

from lib import workspace

LINGUISTIC = {  # the features of textdescriptives that need no downloaded model and mean something for short texts
    "token_length_mean": "mean word length (characters)",
    "sentence_length_mean": "mean sentence length (words)",
    "proportion_unique_tokens": "share of distinct words",
    "flesch_reading_ease": "Flesch reading ease (higher is easier)",
    "n_sentences": "sentences",
}
_SPECIAL = re.compile(r"[^\w\s]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def label_balance(labels: pd.Series) -> pd.DataFrame:
    """Return `n` and `share` of each label, commonest first; rows without a label are not counted."""
    counts = labels.value_counts()
    return pd.DataFrame({"n": counts, "share": counts / counts.sum()}).rename_axis("label")


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


def outliers(values: pd.Series, *, factor: float = 3.0) -> pd.Series:
    """Return which values lie more than `factor` interquartile ranges of their logarithm outside the quartiles."""
    logs = np.log1p(values.clip(lower=0))
    low, high = logs.quantile(0.25), logs.quantile(0.75)
    return (logs < low - factor * (high - low)) | (logs > high + factor * (high - low))


def linguistic_features(texts: Sequence[str], *, max_chars: int = 20_000) -> pd.DataFrame:
    """Return readability and related features from textdescriptives, one row a text, columns as in LINGUISTIC.

    A blank English pipeline with a rule-based sentence splitter is used, so no model is needed; syllable counts hold
    for English alone. Only the first `max_chars` characters of a text are read.
    """
    import spacy
    import textdescriptives as td

    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("textdescriptives/descriptive_stats")
    nlp.add_pipe("textdescriptives/readability")
    docs = nlp.pipe((text[:max_chars] for text in texts), batch_size=200)
    with np.errstate(all="ignore"):
        return td.extract_df(docs, metrics=["descriptive_stats", "readability"], include_text=False)[list(LINGUISTIC)]


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


def audit(table: pd.DataFrame, features: pd.DataFrame, damage: pd.DataFrame, *, n_exact: int, n_near: int, fingerprint: str) -> dict[str, Any]:
    """Gather the figures of a profile in one dictionary, ready for JSON."""
    return {
        "rows": len(table),
        "fingerprint": fingerprint,
        "missing_texts": int(table["text"].isna().sum()),
        "missing_labels": int(table["label"].isna().sum()),
        "labels": label_balance(table["label"])["n"].to_dict(),
        "exact_duplicates": n_exact,
        "near_duplicate_pairs": n_near,
        "length_outliers": int(outliers(features["n_words"]).sum()),
        "encoding_damage": damage["n_texts"].to_dict(),
        "features": {name: features[name].describe().round(4).to_dict() for name in features},
    }


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
