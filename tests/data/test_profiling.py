import json

import numpy as np
import pandas as pd
import pytest

from lib.data.profiling import LINGUISTIC, audit, encoding_damage, label_balance, linguistic_features, outliers, save_profile_page, text_features


def test_the_balance_counts_labels_commonest_first_and_no_missing_ones():
    balance = label_balance(pd.Series(["b", "a", "b", None, "b"]))
    assert balance.to_dict() == {"n": {"b": 3, "a": 1}, "share": {"b": 0.75, "a": 0.25}}
    assert balance.index.tolist() == ["b", "a"]


def test_features_of_a_text_are_its_lengths_and_shares():
    features = text_features(["Ab1 _é!", "", None, "x  y\nz"])
    assert features.to_dict("records") == [
        {"n_chars": 7, "n_words": 2, "digit_share": 1 / 7, "upper_share": 1 / 7, "special_share": 1 / 7, "non_ascii_share": 1 / 7},
        {"n_chars": 0, "n_words": 0, "digit_share": 0, "upper_share": 0, "special_share": 0, "non_ascii_share": 0},
        {"n_chars": 0, "n_words": 0, "digit_share": 0, "upper_share": 0, "special_share": 0, "non_ascii_share": 0},
        {"n_chars": 6, "n_words": 3, "digit_share": 0, "upper_share": 0, "special_share": 0, "non_ascii_share": 0},
    ]


def test_a_text_of_one_kind_of_character_has_a_share_of_one():
    features = text_features(["123", "ABC", "?!😀", "äöü"])
    assert np.diag(features[["digit_share", "upper_share", "special_share", "non_ascii_share"]]).tolist() == [1.0] * 4


def test_each_kind_of_damage_is_counted_with_its_first_text():
    texts = [None, "fine", "schÃ¶n", "lost \ufffd sign", "bell \x07", "zero\u200bwidth", "Ã¼ber \x85 \ufeff", "Größe 😀\tand\nline"]
    assert encoding_damage(texts).to_dict("index") == {
        "mojibake": {"n_texts": 2, "first": 2},
        "replacement character U+FFFD": {"n_texts": 1, "first": 3},
        "control characters": {"n_texts": 2, "first": 4},
        "invisible characters": {"n_texts": 2, "first": 5},
    }


def test_undamaged_texts_have_no_first():
    assert encoding_damage(["fine", "schön", ""])["first"].tolist() == [-1] * 4
    assert encoding_damage([])["n_texts"].tolist() == [0] * 4


def test_outliers_lie_three_interquartile_ranges_off_on_a_log_scale():
    inner = [np.e**i - 1 for i in (1, 2, 3, 4, 5)]
    off = [np.e ** (2 - 3 * 2 - 0.01) - 1, np.e ** (4 + 3 * 2 + 0.01) - 1]
    on = [np.e ** (4 + 3 * 2 - 0.01) - 1]
    values = pd.Series([*inner * 20, *on])
    assert outliers(values).sum() == 0
    assert outliers(pd.concat([values, pd.Series(off[1:])], ignore_index=True)).tolist() == [False] * 101 + [True]
    assert outliers(values, factor=2).tolist() == [False] * 100 + [True]


def test_outliers_are_found_below_too():
    values = pd.Series([1000] * 10 + [1100] * 10 + [900] * 10 + [3])
    assert outliers(values).tolist() == [False] * 30 + [True]


def test_linguistic_features_are_those_of_the_words():
    features = linguistic_features(["One two three. Four five six seven.", "word word word word."])
    assert features.columns.tolist() == list(LINGUISTIC)
    assert features["token_length_mean"].tolist() == pytest.approx([27 / 7, 4])
    assert features["sentence_length_mean"].tolist() == [3.5, 4]
    assert features["proportion_unique_tokens"].tolist() == [1, 0.25]
    assert features["n_sentences"].tolist() == [2, 1]
    assert features["flesch_reading_ease"].tolist() == pytest.approx([206.835 - 1.015 * 3.5 - 84.6 * 8 / 7, 206.835 - 1.015 * 4 - 84.6])


def test_linguistic_features_read_the_start_of_a_text_alone():
    text = "One two three. " * 50
    assert linguistic_features([text], max_chars=29)["n_sentences"].tolist() == [2]
    assert linguistic_features([text])["n_sentences"].tolist() == [50]


def test_an_empty_text_has_no_sentence():
    assert linguistic_features(["", "A text."])["n_sentences"].tolist() == [0, 1]


def test_the_profile_page_is_one_file_with_title_and_columns_and_nothing_is_printed(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("YDATA_PROFILING_NO_ANALYTICS", "0")
    table = pd.DataFrame({"n_words": [1, 2, 3, 4], "label": list("abab")})
    save_profile_page(table, tmp_path / "new" / "page.html", title="Profile of my set")
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert "<title>Profile of my set</title>" in page
    assert all(column in page for column in table)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    assert capfd.readouterr().out == ""


def test_the_audit_gathers_the_figures_ready_for_json():
    table = pd.DataFrame({"text": ["a b", None, "c", "schÃ¶n"], "label": ["x", "y", None, "x"]})
    texts = table["text"].tolist()
    figures = audit(table, text_features(texts), encoding_damage(texts), n_exact=2, n_near=5, fingerprint="f00")
    features = figures.pop("features")
    assert json.loads(json.dumps(figures)) == {
        "rows": 4,
        "fingerprint": "f00",
        "missing_texts": 1,
        "missing_labels": 1,
        "labels": {"x": 2, "y": 1},
        "exact_duplicates": 2,
        "near_duplicate_pairs": 5,
        "length_outliers": 0,
        "encoding_damage": {"mojibake": 1, "replacement character U+FFFD": 0, "control characters": 0, "invisible characters": 0},
    }
    assert features["n_words"] == {"count": 4.0, "mean": 1.0, "std": 0.8165, "min": 0.0, "25%": 0.75, "50%": 1.0, "75%": 1.25, "max": 2.0}
    assert list(features) == ["n_chars", "n_words", "digit_share", "upper_share", "special_share", "non_ascii_share"]
