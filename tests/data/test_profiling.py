import json

import numpy as np
import pandas as pd
import pytest

from lib.data.profiling import (
    LINGUISTIC,
    TOO_SHORT,
    UNKNOWN,
    audit,
    encoding_damage,
    label_balance,
    label_schema,
    language_mix,
    length_summary,
    linguistic_features,
    linguistic_outliers,
    outliers,
    save_profile_page,
    telling_terms,
    text_features,
)


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


def schema(counts, **options):
    found = label_schema(pd.Series([label for label, n in counts.items() for _ in range(n)]), **options)
    return [tuple(row) for row in found.itertuples(index=False)]


ALIKE = "differ in case, blanks or punctuation alone"


def test_labels_in_order_have_no_problem():
    empty = label_schema(pd.Series(["sport", "politics", None] * 10))
    assert (empty.columns.tolist(), len(empty)) == (["problem", "labels", "n_rows"], 0)
    assert len(label_schema(pd.Series([None, None]))) == 0


def test_labels_that_look_alike_are_found_together():
    assert schema({"rec.autos": 10, "Rec_Autos": 20, "rec autos": 30, "other": 10}) == [(ALIKE, ("Rec_Autos", "rec autos", "rec.autos"), 60)]
    assert schema({"+": 10, "-": 10}) == []


def test_labels_spelt_nearly_alike_are_pairs_but_a_numbering_is_none():
    assert schema({"mathematics": 10, "Mathematcs": 11, "statistics": 12}) == [("spelt nearly alike", ("Mathematcs", "mathematics"), 21)]
    assert schema({"a long name of class 10": 10, "a long name of class 11": 10}) == []
    assert schema({"sport": 10, "sports": 10}, min_similarity=0.92) == []


def test_numbers_blanks_and_rare_labels_are_listed_with_their_rows():
    assert schema({"1": 10, "-2,5": 11, "nan": 12, "x1": 13}) == [("look like numbers", ("-2,5", "1"), 21)]
    assert schema({" a": 10, "b\t": 11, "c d": 12}) == [("begin or end with a blank", (" a", "b\t"), 21)]
    assert schema({"rare": 9, "rarer": 1, "common": 10}) == [("fewer than 10 rows", ("rare", "rarer"), 10)]
    assert schema({"rare": 9}, min_rows=9) == []


def test_a_telling_term_has_the_log_odds_of_the_formula():
    texts, labels = ["cat cat x", "cat y", "dog x", "dog dog dog y", "dog cat"], list("aabbb")
    terms = telling_terms([text + " zz zz" for text in texts], labels)
    assert terms[["label", "term"]].to_numpy().tolist() == [["b", "dog"], ["a", "cat"], ["a", "zz"]]
    # cat: 2 of a's 4 words (cat cat zz zz), 1 of b's 7 (dog dog dog cat zz zz zz); the prior is a tenth of 3 and of 11
    log_odds = np.log(2.3 / (4 + 1.1 - 2.3)) - np.log(1.3 / (7 + 1.1 - 1.3))
    half = 1.959964 * np.sqrt(1 / 2.3 + 1 / 1.3)
    cat = terms.iloc[1]
    assert cat[["log_odds", "low", "high"]].tolist() == pytest.approx([log_odds, log_odds - half, log_odds + half], abs=1e-5)
    assert terms["n_texts"].tolist() == [3, 2, 2]


def test_a_word_repeated_in_one_text_does_not_outdo_one_that_many_texts_have():
    texts = ["spam " * 1000 + "common", *["common word"] * 9, *["plain word"] * 10]
    terms = telling_terms(texts, ["a"] * 10 + ["b"] * 10)
    assert terms[terms["label"] == "a"]["term"].tolist()[0] == "common"
    assert terms.set_index("term")["n_texts"]["spam"] == 1


def test_the_most_telling_word_comes_first_and_a_rare_one_last():
    texts = ["often rare", *["often"] * 50, *["other"] * 51]
    terms = telling_terms(texts, ["a"] * 51 + ["b"] * 51)
    assert terms[terms["label"] == "a"]["term"].tolist() == ["often", "rare"]
    assert terms.iloc[0]["low"] > 0 > terms.set_index("term")["low"]["rare"]
    assert telling_terms(texts, ["a"] * 51 + ["b"] * 51, n=1)["term"].tolist() == ["often", "other"]


def test_the_largest_class_comes_first_and_rows_without_a_label_are_left_out():
    texts, labels = ["apple", "pear", "pear", "plum plum"], ["a", "b", "b", None]
    assert telling_terms(texts, labels)[["label", "term"]].to_numpy().tolist() == [["b", "pear"], ["a", "apple"]]


def test_the_interval_follows_the_confidence_and_the_commonest_words_are_kept():
    texts, labels = ["apple fig", "apple", "pear", "pear"], list("aabb")
    wide, narrow = (telling_terms(texts, labels, confidence=c).set_index("term") for c in (0.99, 0.5))
    assert ((wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"])).tolist() == pytest.approx([2.575829 / 0.674490] * 3, abs=1e-4)
    assert set(telling_terms(texts, labels, max_terms=2)["term"]) == {"apple", "pear"}


@pytest.mark.parametrize("texts", [["", "?!"], ["x" * 51, "y"], ["same same", "same"]])
def test_texts_without_a_telling_word_give_an_empty_table_with_columns(texts):
    terms = telling_terms(texts, ["a", "b"])
    assert (len(terms), terms.columns.tolist()) == (0, ["label", "term", "log_odds", "low", "high", "n_texts"])


def test_a_lone_class_has_no_telling_word():
    assert len(telling_terms(["apple pear", "apple"], ["a", "a"])) == 0


GERMAN = "Der Zug nach Hamburg fährt heute nicht, weil es in der Nacht sehr viel geschneit hat."
ENGLISH = "The train to the city does not run today because it has snowed all through the night."
CHINESE = "因为昨天晚上下了很大的雪所以今天去上海的火车不开"


def test_the_language_mix_counts_languages_commonest_first():
    mix = language_mix([ENGLISH, GERMAN, GERMAN, CHINESE, "Four words are few", "1 2 3 4 5 6", "", ENGLISH, GERMAN, ENGLISH, ENGLISH], seed=1)
    assert mix["n"].to_dict() == {"English": 4, "German": 3, TOO_SHORT: 3, "Chinese": 1}
    assert mix["share"].tolist() == pytest.approx([4 / 11, 3 / 11, 3 / 11, 1 / 11])
    assert mix.index[0] == "English" and mix.index.name == "language"


def test_an_unsure_language_is_unknown():
    assert language_mix([GERMAN], seed=1, min_confidence=1.01)["n"].to_dict() == {UNKNOWN: 1}


def test_the_sample_of_languages_is_seeded_and_reads_the_start_alone():
    texts = [GERMAN] * 10 + [ENGLISH] * 10
    drawn = [language_mix(texts, max_rows=7, seed=seed)["n"].to_dict() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] and all(sum(counts.values()) == 7 for counts in drawn)
    assert language_mix([GERMAN + " " + ENGLISH * 20], seed=1, max_chars=len(GERMAN))["n"].to_dict() == {"German": 1}


def test_a_text_of_just_the_limit_is_not_truncated():
    assert length_summary([2, 4, 5, 9], max_length=4) == {
        "n_texts": 4,
        "max_length": 4,
        "truncated_share": 0.5,
        "median_tokens": 4.5,
        "p95_tokens": pytest.approx(8.4),
        "max_tokens": 9,
    }


def linguistic(**columns):
    return pd.DataFrame({name: np.tile([9.0, 10.0, 11.0, 10.0], 6) for name in LINGUISTIC} | columns)


def test_linguistic_outliers_name_the_farthest_text_cut_short():
    ease = np.tile([-60.0, -50.0, -40.0, -50.0], 6)
    ease[[3, 7]] = -120, -150
    texts = [f"text {i}" for i in range(24)]
    texts[7] = "<b>a\x07\n  b</b> " + "x" * 200
    found = linguistic_outliers(linguistic(flesch_reading_ease=ease).set_index(np.arange(100, 124)), texts, max_chars=20)
    row = found.loc[LINGUISTIC["flesch_reading_ease"]]
    assert row.tolist() == [2, -50, -150, "<b>a b</b> xxxxxxxx…"]
    others = found.drop(LINGUISTIC["flesch_reading_ease"])
    assert others["n_outliers"].tolist() == [0] * 4 and others["example"].tolist() == [""] * 4 and others["value"].isna().all()


def test_a_feature_without_values_has_no_outlier():
    assert linguistic_outliers(linguistic(n_sentences=np.nan), ["a"] * 24)["n_outliers"].tolist() == [0] * 5


def test_the_audit_gathers_the_figures_ready_for_json():
    table = pd.DataFrame({"text": ["a b", None, "c", "schÃ¶n"], "label": ["x", "y", None, "x"]})
    texts = table["text"].tolist()
    figures = audit(
        table,
        text_features(texts),
        encoding_damage(texts),
        fingerprint="f00",
        n_exact=2,
        n_near=5,
        n_conflicting=3,
        schema=label_schema(table["label"], min_rows=2),
        tokens=length_summary([2, 4], max_length=3),
        languages=pd.DataFrame({"n": [2, 1], "share": [2 / 3, 1 / 3]}, index=["English", UNKNOWN]),
        linguistic=pd.DataFrame({"n_outliers": [np.int64(4)]}, index=["sentences"]),
        terms=pd.DataFrame({"label": ["y", "x", "y"], "term": ["b", "a", "c"]}),
    )
    features = figures.pop("features")
    assert json.loads(json.dumps(figures)) == {
        "rows": 4,
        "fingerprint": "f00",
        "missing_texts": 1,
        "missing_labels": 1,
        "labels": {"x": 2, "y": 1},
        "exact_duplicates": 2,
        "near_duplicate_pairs": 5,
        "rows_with_conflicting_labels": 3,
        "label_problems": [{"problem": "fewer than 2 rows", "labels": ["y"], "n_rows": 1}],
        "tokens": {"n_texts": 2, "max_length": 3, "truncated_share": 0.5, "median_tokens": 3.0, "p95_tokens": 3.9, "max_tokens": 4},
        "languages": {"English": 0.6667, UNKNOWN: 0.3333},
        "linguistic_outliers": {"sentences": 4},
        "telling_terms": {"y": ["b", "c"], "x": ["a"]},
        "length_outliers": 0,
        "encoding_damage": {"mojibake": 1, "replacement character U+FFFD": 0, "control characters": 0, "invisible characters": 0},
    }
    assert features["n_words"] == {"count": 4.0, "mean": 1.0, "std": 0.8165, "min": 0.0, "25%": 0.75, "50%": 1.0, "75%": 1.25, "max": 2.0}
    assert list(features) == ["n_chars", "n_words", "digit_share", "upper_share", "special_share", "non_ascii_share"]
