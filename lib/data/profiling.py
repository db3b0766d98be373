"""What is in a table of labelled texts: labels, lengths, damage, languages and terms."""

from __future__ import annotations

import contextlib
import difflib
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ftfy.badness import is_bad

from lib import provenance, workspace
from lib.data.words import count_words, words

TOO_SHORT = "too short to tell"
UNKNOWN = "unknown"
UNKNOWN_LIMIT = 0.01  # of tokens that the tokenizer does not know; above it a reader is warned
MOJIBAKE = "mojibake"
REPLACED = "replacement character U+FFFD"
CONTROL = "control characters"
INVISIBLE = "invisible characters"
DAMAGE = (MOJIBAKE, REPLACED, CONTROL, INVISIBLE)
_SPECIAL = re.compile(r"[^\w\s]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Profile:
    """The results of a profile, for `audit`.

    Attributes
    ----------
    features, damage, schema, tokens, languages, linguistic, terms : from `text_features`,
        `encoding_damage`, `label_schema`, `length_summary`, `language_mix`,
        `linguistics.linguistic_outliers` and `distinctive.distinctive_terms`
    n_exact : texts equal to an earlier one
    n_near : near-duplicate pairs
    n_conflicting : rows whose text has another label elsewhere
    """

    features: pd.DataFrame
    damage: pd.DataFrame
    schema: pd.DataFrame
    tokens: dict[str, float]
    languages: pd.DataFrame
    linguistic: pd.DataFrame
    terms: pd.DataFrame
    n_exact: int
    n_near: int
    n_conflicting: int


def audit(table: pd.DataFrame, profile: Profile) -> dict[str, Any]:
    """Gather the figures of a table's profile in one dictionary, ready for JSON."""
    features = profile.features
    terms = profile.terms.groupby("label", sort=False)["term"]
    return {
        "rows": len(table),
        "fingerprint": provenance.table_fingerprint(table),
        "missing_texts": int(table["text"].isna().sum()),
        "missing_labels": int(table["label"].isna().sum()),
        "labels": label_balance(table["label"])["n"].to_dict(),
        "label_problems": profile.schema.to_dict("records"),
        "exact_duplicates": profile.n_exact,
        "near_duplicate_pairs": profile.n_near,
        "rows_with_conflicting_labels": profile.n_conflicting,
        "length_outliers": int(outliers(features["n_words"]).sum()),
        "encoding_damage": profile.damage["n_texts"].to_dict(),
        "features": {name: features[name].describe().round(4).to_dict() for name in features},
        "tokens": profile.tokens,
        "languages": profile.languages["share"].round(4).to_dict(),
        "linguistic_outliers": profile.linguistic["n_outliers"].to_dict(),
        "distinctive_terms": {label: words.tolist() for label, words in terms},
    }


def describe_table(table: pd.DataFrame) -> str:
    """Return how many rows and classes there are, and how many rows lack a text or a label."""
    n_missing = table[["text", "label"]].isna().any(axis=1).sum()
    n_classes = table["label"].nunique()
    return (
        f"{len(table):,} rows in {n_classes} classes; "
        f"{n_missing:,} lack a text or a label and will be dropped by a rule."
    )


def label_balance(labels: pd.Series) -> pd.DataFrame:
    """Return `n` and `share` of each label, commonest first; missing labels are not counted."""
    counts = labels.value_counts()
    return pd.DataFrame({"n": counts, "share": counts / counts.sum()}).rename_axis("label")


def describe_balance(balance: pd.DataFrame) -> str:
    """Return how much larger the largest class is, and which score to read."""
    ratio = balance["n"].max() / balance["n"].min()
    advice = "read macro F1, not accuracy"
    if ratio < 1.5:
        advice = "accuracy and macro F1 will tell the same story"
    return f"The largest class has {ratio:.2f} times the rows of the smallest: {advice}."


def label_schema(
    labels: pd.Series, *, min_rows: int = 10, min_similarity: float = 0.9
) -> pd.DataFrame:
    """Return what looks wrong with the set of labels itself.

    Parameters
    ----------
    labels : one a row of the table; missing ones are left out
    min_rows : a label with fewer rows is very rare
    min_similarity : labels more alike than this (difflib's ratio, 0..1, case aside) look like one
        label misspelt; labels that differ in their digits are a numbering and are not compared

    Returns
    -------
    DataFrame with `problem`, `labels` (tuple of str, sorted) and `n_rows` (rows that carry one of
    them); empty where nothing is wrong

    Examples
    --------
    >>> label_schema(pd.Series(["Sport", "sport"] * 10)).head(1).to_numpy().tolist()
    [['differ in case, blanks or punctuation alone', ('Sport', 'sport'), 20]]
    """
    counts = labels.dropna().astype(str).value_counts()
    names = sorted(counts.index)
    alike = pd.Series(names, dtype=object).groupby([_letters(name) for name in names]).agg(tuple)
    problems = [("differ in case, blanks or punctuation alone", group) for group in alike]
    problems = [(problem, group) for problem, group in problems if len(group) > 1]
    problems += [("spelt nearly alike", pair) for pair in _similar_pairs(names, min_similarity)]
    numbers = tuple(name for name in names if _is_number(name))
    padded = tuple(name for name in names if name != name.strip())
    rare = tuple(name for name in names if counts[name] < min_rows)
    problems.append(("look like numbers", numbers))
    problems.append(("begin or end with a blank", padded))
    problems.append((f"fewer than {min_rows} rows", rare))
    rows = []
    for problem, group in problems:
        if group:
            rows.append((problem, group, int(counts[list(group)].sum())))
    return pd.DataFrame(rows, columns=["problem", "labels", "n_rows"])


def describe_schema(schema: pd.DataFrame, *, n_labels: int) -> str:
    """Return how many problems there are among the labels, and what to do."""
    advice = "look at each of them before training" if len(schema) else "nothing to settle"
    return f"{len(schema):,} findings among {n_labels:,} labels: {advice}."


def _letters(label: str) -> str:
    """Return a label without case, blanks and punctuation; as it is where nothing would be left."""
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", label).casefold()) or label


def _similar_pairs(names: Sequence[str], min_similarity: float) -> list[tuple[str, str]]:
    letters = {name: _letters(name) for name in names}
    digits = {name: re.findall(r"\d+", name) for name in names}
    pairs = []
    for one, other in itertools.combinations(names, 2):
        if letters[one] == letters[other] or digits[one] != digits[other]:
            continue
        matcher = difflib.SequenceMatcher(None, one.casefold(), other.casefold(), autojunk=False)
        # the first two are upper bounds of the last
        ratios = (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio)
        if all(ratio() > min_similarity for ratio in ratios):
            pairs.append((one, other))
    return pairs


def _is_number(label: str) -> bool:
    try:
        float(label.replace(",", "."))
    except ValueError:
        return False
    return any(character.isdigit() for character in label)  # `nan` and `inf` are words


def text_features(texts: Sequence[str | None]) -> pd.DataFrame:
    """Return lengths and shares of kinds of characters, one row a text.

    Returns
    -------
    DataFrame with `n_chars`, `n_words` (`words.count_words`) and, as shares of the characters
    (0..1), `digit_share`, `upper_share`, `special_share` (neither letter with its marks, digit, `_`
    nor white space), `non_ascii_share`
    """
    return pd.DataFrame([_features(text or "") for text in texts])


def _features(text: str) -> dict[str, float]:
    counts = {
        "digit_share": sum(map(str.isdigit, text)),
        "upper_share": sum(map(str.isupper, text)),
        "special_share": sum(
            unicodedata.category(sign)[0] != "M" for sign in _SPECIAL.findall(text)
        ),
        "non_ascii_share": 0,
    }
    if not text.isascii():
        counts["non_ascii_share"] = sum(character > "\x7f" for character in text)
    n = max(1, len(text))
    shares = {kind: count / n for kind, count in counts.items()}
    return {"n_chars": len(text), "n_words": count_words(text), **shares}


def outliers(values: pd.Series, *, factor: float = 3.0, logarithm: bool = True) -> pd.Series:
    """Return which values lie more than `factor` interquartile ranges outside the quartiles.

    With `logarithm`, ranges and quartiles are those of log(1 + value).
    """
    scaled = np.log1p(values.clip(lower=0)) if logarithm else values
    low, high = scaled.quantile([0.25, 0.75])
    margin = factor * (high - low)
    return (scaled < low - margin) | (scaled > high + margin)


def describe_lengths(n_words: pd.Series) -> str:
    """Return the median and maximum of lengths in words, and how many are outliers."""
    n_outliers = outliers(n_words).sum()
    return (
        f"Half of the texts have {n_words.median():.0f} words or fewer, the longest has "
        f"{n_words.max():,}; {n_outliers:,} are outliers in length."
    )


def length_summary(
    n_tokens: Sequence[int], *, max_length: int, n_unknown: int = 0
) -> dict[str, float]:
    """Return median, 95th percentile and maximum of lengths in tokens, and how many are cut.

    Parameters
    ----------
    n_unknown : tokens of all texts that stand for what the tokenizer does not know

    Returns
    -------
    dict with `n_texts`, `max_length`, `truncated_share` (of texts with more than `max_length`
    tokens, 0..1), `median_tokens`, `p95_tokens`, `max_tokens`, `unknown_share` (of tokens, 0..1)
    """
    values = np.asarray(n_tokens)
    return {
        "n_texts": len(values),
        "max_length": max_length,
        "truncated_share": float((values > max_length).mean()),
        "median_tokens": float(np.median(values)),
        "p95_tokens": float(np.percentile(values, 95)),
        "max_tokens": int(values.max()),
        "unknown_share": float(n_unknown / values.sum()),
    }


def describe_tokens(tokens: dict[str, float]) -> str:
    """Return the figures of `length_summary` in words, with a warning of many unknown tokens."""
    unknown = tokens["unknown_share"]
    warning = ""
    if unknown > UNKNOWN_LIMIT:
        warning = (
            f" WARNING: that is more than {UNKNOWN_LIMIT:.0%}, and what they stand for is lost: "
            "see which characters the texts are made of, or take another backbone."
        )
    return (
        f"{tokens['truncated_share']:.1%} of {tokens['n_texts']:,} texts have more than "
        f"{tokens['max_length']:,} tokens; half have {tokens['median_tokens']:,.0f} or fewer, "
        f"95 % have {tokens['p95_tokens']:,.0f} or fewer, "
        f"the longest has {tokens['max_tokens']:,}. "
        f"{unknown:.2%} of the tokens are unknown to the tokenizer.{warning}"
    )


def encoding_damage(texts: Sequence[str | None]) -> pd.DataFrame:
    """Return how many texts show each kind of damage: `n_texts`, and `first`.

    `first` is the position of the first such text; -1 where there is none.
    """
    counts = dict.fromkeys(DAMAGE, 0)
    first = dict.fromkeys(DAMAGE, -1)
    for position, text in enumerate(texts):
        for kind in _damage_of(text or ""):
            if counts[kind] == 0:
                first[kind] = position
            counts[kind] += 1
    return pd.DataFrame({"n_texts": counts, "first": first})


def _damage_of(text: str) -> list[str]:
    kinds = []
    if _CONTROL.search(text):
        kinds.append(CONTROL)
    if text.isascii():
        return kinds
    if is_bad(text):
        kinds.append(MOJIBAKE)
    if "\ufffd" in text:
        kinds.append(REPLACED)
    if any(unicodedata.category(character) == "Cf" for character in text):
        kinds.append(INVISIBLE)
    return kinds


def describe_damage(damage: pd.DataFrame, *, n: int) -> str:
    """Return how many signs of damage there are in `n` texts."""
    return (
        f"{damage['n_texts'].sum():,} signs of damage in {n:,} texts; "
        "the rules of notebook 02 repair what can be repaired."
    )


def language_mix(
    texts: Sequence[str],
    *,
    max_rows: int = 2_000,
    seed: int,
    min_words: int = 5,
    min_confidence: float = 0.8,
    max_chars: int = 1_000,
) -> pd.DataFrame:
    """Return in which languages a sample of the texts is written.

    The detector is lingua with its 74 spoken languages, in its low accuracy mode.

    Parameters
    ----------
    max_rows : texts drawn with `seed`; fewer texts are all taken
    min_words : a text with fewer words that have a letter (`words.words`) is "too short to tell"
    min_confidence : a text whose likeliest language gets less (0..1) is "unknown"
    max_chars : of a text that are read

    Returns
    -------
    DataFrame indexed by `language`, commonest first: `n` and `share` of the sampled texts
    """
    from lingua import LanguageDetectorBuilder

    n_drawn = min(len(texts), max_rows)
    drawn = pd.Series(list(texts), dtype=object).sample(n_drawn, random_state=seed)
    sample = drawn.str.slice(0, max_chars)
    is_long = [sum(map(_has_letter, words(text))) >= min_words for text in sample]
    detector = LanguageDetectorBuilder.from_all_spoken_languages().with_low_accuracy_mode().build()
    names = []
    for values in detector.compute_language_confidence_values_in_parallel(list(sample[is_long])):
        likeliest = values[0]
        is_sure = likeliest.value >= min_confidence
        names.append(likeliest.language.name.capitalize() if is_sure else UNKNOWN)
    names += [TOO_SHORT] * (len(sample) - len(names))
    return label_balance(pd.Series(names, dtype=object)).rename_axis("language")


def _has_letter(word: str) -> bool:
    return any(map(str.isalpha, word))


def describe_languages(languages: pd.DataFrame) -> str:
    """Return how many languages were named, the commonest, and the shares without one."""
    named = languages.drop([UNKNOWN, TOO_SHORT], errors="ignore")
    shares = languages["share"]
    sentence = f"{len(named):,} languages were named in {languages['n'].sum():,} texts"
    if len(named):
        share = named["share"].iloc[0]
        sentence += f", first {named.index[0]} ({share:.1%})"
    unknown = shares.get(UNKNOWN, 0)
    too_short = shares.get(TOO_SHORT, 0)
    return f"{sentence}; {unknown:.1%} could not be identified and {too_short:.1%} are too short."


def describe_conflicts(n_conflicting: int, *, n: int) -> str:
    """Return how many of `n` rows have a text that has another label elsewhere."""
    return f"{n_conflicting:,} of {n:,} rows have a text that also stands under another label."


def save_profile_page(table: pd.DataFrame, path: Path, *, title: str) -> None:
    """Write an ydata-profiling page, one self-contained HTML file, on numbers and labels.

    Raw texts do not belong in it: the page would hold them all, and take minutes.
    """
    os.environ["YDATA_PROFILING_NO_ANALYTICS"] = "1"  # else every report phones home
    import matplotlib.pyplot as plt
    from data_profiling import ProfileReport

    silent = io.StringIO()
    with (
        contextlib.redirect_stderr(silent),
        contextlib.redirect_stdout(silent),
        plt.rc_context(),
    ):
        page = ProfileReport(table, minimal=True, progress_bar=False, title=title).to_html()
        plt.close("all")
    workspace.write_text(page, path)
