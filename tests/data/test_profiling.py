import importlib.metadata
import json
import os
import sys

import numpy as np
import pandas as pd
import pytest

from lib.data.linguistics import (
    GRAMMATICAL,
    LINGUISTIC,
    describe_linguistic_outliers,
    describe_readability,
    linguistic_features,
    linguistic_model,
    linguistic_outliers,
    linguistic_titles,
)
from lib.data.profiling import (
    TOO_SHORT,
    UNKNOWN,
    Profile,
    audit,
    describe_balance,
    describe_conflicts,
    describe_damage,
    describe_languages,
    describe_lengths,
    describe_schema,
    describe_table,
    describe_tokens,
    encoding_damage,
    label_balance,
    label_schema,
    language_mix,
    length_summary,
    outliers,
    save_profile_page,
    text_features,
)
from lib.provenance import table_fingerprint


def test_the_balance_counts_labels_commonest_first_and_no_missing_ones():
    balance = label_balance(pd.Series(["b", "a", "b", None, "b"]))
    assert balance.to_dict() == {"n": {"b": 3, "a": 1}, "share": {"b": 0.75, "a": 0.25}}
    assert balance.index.tolist() == ["b", "a"]


def test_features_of_a_text_are_its_lengths_and_shares():
    features = text_features(["Ab1 _é!", "", None, "x  y\nz"])
    assert features.to_dict("records") == [
        {
            "n_chars": 7,
            "n_words": 2,
            "digit_share": 1 / 7,
            "upper_share": 1 / 7,
            "special_share": 1 / 7,
            "non_ascii_share": 1 / 7,
        },
        {
            "n_chars": 0,
            "n_words": 0,
            "digit_share": 0,
            "upper_share": 0,
            "special_share": 0,
            "non_ascii_share": 0,
        },
        {
            "n_chars": 0,
            "n_words": 0,
            "digit_share": 0,
            "upper_share": 0,
            "special_share": 0,
            "non_ascii_share": 0,
        },
        {
            "n_chars": 6,
            "n_words": 3,
            "digit_share": 0,
            "upper_share": 0,
            "special_share": 0,
            "non_ascii_share": 0,
        },
    ]


def test_a_text_of_one_kind_of_character_has_a_share_of_one():
    features = text_features(["123", "ABC", "?!😀", "äöü"])
    assert (
        np.diag(
            features[["digit_share", "upper_share", "special_share", "non_ascii_share"]]
        ).tolist()
        == [1.0] * 4
    )


def test_each_kind_of_damage_is_counted_with_its_first_text():
    texts = [
        None,
        "fine",
        "schÃ¶n",
        "lost \ufffd sign",
        "bell \x07",
        "zero\u200bwidth",
        "Ã¼ber \x85 \ufeff",
        "Größe 😀\tand\nline",
    ]
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
    assert outliers(pd.concat([values, pd.Series(off[1:])], ignore_index=True)).tolist() == [
        False
    ] * 101 + [True]
    assert outliers(values, factor=2).tolist() == [False] * 100 + [True]


def test_outliers_are_found_below_too():
    values = pd.Series([1000] * 10 + [1100] * 10 + [900] * 10 + [3])
    assert outliers(values).tolist() == [False] * 30 + [True]
    assert outliers(pd.Series([10] * 9 + [-1000])).tolist() == [False] * 9 + [True], (
        "below zero is as zero on a log scale"
    )


def test_linguistic_features_are_those_of_the_words():
    features = linguistic_features(["One two three. Four five six seven.", "word word word word."])
    assert features.columns.tolist() == list(LINGUISTIC)
    assert features["token_length_mean"].tolist() == pytest.approx([27 / 7, 4])
    assert features["sentence_length_mean"].tolist() == [3.5, 4]
    assert features["proportion_unique_tokens"].tolist() == [1, 0.25]
    assert features["n_sentences"].tolist() == [2, 1]
    assert features["flesch_reading_ease"].tolist() == pytest.approx(
        [206.835 - 1.015 * 3.5 - 84.6 * 8 / 7, 206.835 - 1.015 * 4 - 84.6]
    )


def test_linguistic_features_read_the_start_of_a_text_alone():
    text = "One two three. " * 50
    assert linguistic_features([text], max_chars=29)["n_sentences"].tolist() == [2]
    assert linguistic_features([text])["n_sentences"].tolist() == [50]


def test_an_empty_text_has_no_sentence():
    assert linguistic_features(["", "A text."])["n_sentences"].tolist() == [0, 1]


PACKAGE = """from pathlib import Path
from spacy.util import load_model_from_init_py

def load(**overrides):
    return load_model_from_init_py(__file__, **overrides)
"""


@pytest.fixture(scope="module")
def tiny_model():
    """A pipeline that knows five words and one sentence by heart."""
    import spacy
    from spacy.training import Example

    nlp = spacy.blank("en")
    for name in ("tagger", "morphologizer", "parser"):
        nlp.add_pipe(name, config={"min_action_freq": 1} if name == "parser" else {})
    known = {
        "words": "dogs chase red cats .".split(),
        "tags": "NNS VBP JJ NNS .".split(),
        "pos": "NOUN VERB ADJ NOUN PUNCT".split(),
    }
    known |= {"heads": [1, 1, 3, 1, 1], "deps": "nsubj ROOT amod dobj punct".split()}

    def lesson():
        return [Example.from_dict(nlp.make_doc("dogs chase red cats ."), known)]

    spacy.util.fix_random_seed(0)
    optimizer = nlp.initialize(lesson)
    for _ in range(30):
        nlp.update(lesson(), sgd=optimizer)
    return nlp


@pytest.fixture
def install(tmp_path, tiny_model, monkeypatch):
    """Install models under names, laid out as `spacy package` does; no other model is found,
    whatever this machine has."""

    def install_all(*names, without=()):
        for name in names:
            lang, _, rest = name.partition("_")
            tiny_model.meta["name"] = rest
            package = tmp_path / "site" / name
            package.mkdir(parents=True)
            tiny_model.to_disk(package / f"{name}-0.1.0")
            meta = tiny_model.meta | {
                "lang": lang,
                "version": "0.1.0",
                "pipeline": [part for part in tiny_model.pipe_names if part not in without],
            }
            (package / "meta.json").write_text(json.dumps(meta))
            (package / "__init__.py").write_text(PACKAGE)
            facts = package.with_name(f"{name}-0.1.0.dist-info")
            facts.mkdir()
            (facts / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n"
            )
            (facts / "entry_points.txt").write_text(f"[spacy_models]\n{name} = {name}\n")
        found = [
            entry
            for package in importlib.metadata.distributions()
            for entry in package.entry_points
            if entry.group != "spacy_models"
        ]
        found += [
            entry
            for package in importlib.metadata.distributions(path=[str(tmp_path / "site")])
            for entry in package.entry_points
        ]
        monkeypatch.setattr(
            "catalogue.AVAILABLE_ENTRY_POINTS", importlib.metadata.EntryPoints(found)
        )  # it looks once, when it is imported
        for name in names:
            monkeypatch.delitem(sys.modules, name, raising=False)

    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield install_all
    for path in (tmp_path / "site").glob("*_*"):
        sys.modules.pop(path.name, None)


def test_without_a_model_there_is_none(install):
    install()
    assert linguistic_model() is None


def test_the_model_is_a_small_english_one_whatever_else_there_is(install, monkeypatch):
    install("aa_core_sm")
    assert linguistic_model() == "aa_core_sm"
    install("en_core_lg")
    assert linguistic_model() == "en_core_lg"
    install("en_core_sm", "en_aaa_md")
    assert linguistic_model() == "en_core_sm"
    install("en_basic_sm")
    for order in (["en_core_sm", "en_basic_sm"], ["en_basic_sm", "en_core_sm"]):
        monkeypatch.setattr("spacy.util.get_installed_models", lambda order=order: order)
        assert linguistic_model() == "en_basic_sm"


@pytest.mark.parametrize("without", ["tagger", "parser", "morphologizer"])
def test_a_model_that_does_not_tag_and_parse_is_left_out(install, without):
    install("en_aaa_sm", without=[without])
    assert linguistic_model() is None
    install("de_core_md")
    assert linguistic_model() == "de_core_md"


def test_a_model_adds_grammar_and_changes_nothing_else(install):
    install("en_tiny_sm")
    texts = [
        "dogs chase red cats .",
        "dogs \n\n chase\t red cats . dogs chase red cats .",
        "dogs chase",
        "",
    ]
    features = linguistic_features(texts, model="en_tiny_sm")
    assert features.columns.tolist() == [*LINGUISTIC, *GRAMMATICAL]
    pd.testing.assert_frame_equal(features[list(LINGUISTIC)], linguistic_features(texts))
    known = pytest.approx([2 / 5, 1 / 5, 1 / 5, (1 + 0 + 1 + 2 + 3) / 5])
    assert features[list(GRAMMATICAL)].to_numpy().tolist() == [
        known,
        known,
        pytest.approx([1 / 2, 1 / 2, 0, 1 / 2]),
        pytest.approx([np.nan] * 4, nan_ok=True),
    ]
    cut = linguistic_features(texts, model="en_tiny_sm", max_chars=10)
    assert cut["pos_prop_NOUN"].tolist()[:3] == [1 / 2, 1 / 2, 1 / 2]


def test_titles_are_those_of_the_features_there_are():
    assert linguistic_titles(pd.DataFrame(columns=["n_sentences", "pos_prop_VERB", "other"])) == {
        "n_sentences": "sentences",
        "pos_prop_VERB": "share of verbs",
    }


def test_the_profile_page_is_one_file_with_title_and_columns_and_nothing_is_printed(
    tmp_path, capfd, monkeypatch
):
    monkeypatch.setenv("YDATA_PROFILING_NO_ANALYTICS", "0")
    table = pd.DataFrame({"n_words": [1, 2, 3, 4], "label": list("abab")})
    save_profile_page(table, tmp_path / "new" / "page.html", title="Profile of my set")
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert "<title>Profile of my set</title>" in page
    assert all(column in page for column in table)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]
    assert capfd.readouterr().out == ""
    assert os.environ["YDATA_PROFILING_NO_ANALYTICS"] == "1"


def test_a_page_that_prints_and_draws_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    import data_profiling
    import matplotlib.pyplot as plt

    class Report:
        def __init__(self, table, **options):
            assert options == {"minimal": True, "progress_bar": False, "title": "Numbers"}

        def to_html(self):
            print("summing up")
            print("a bar", file=sys.stderr)
            plt.rcParams["font.size"] = 77
            plt.figure()
            return "a page"

    monkeypatch.setattr(data_profiling, "ProfileReport", Report)
    before = plt.rcParams["font.size"]
    save_profile_page(pd.DataFrame(), tmp_path / "page.html", title="Numbers")
    assert capsys.readouterr() == ("", "")
    assert (plt.get_fignums(), plt.rcParams["font.size"]) == ([], before)
    assert (tmp_path / "page.html").read_text() == "a page"


def schema(counts, **options):
    found = label_schema(
        pd.Series([label for label, n in counts.items() for _ in range(n)]), **options
    )
    return [tuple(row) for row in found.itertuples(index=False)]


ALIKE = "differ in case, blanks or punctuation alone"


def test_labels_in_order_have_no_problem():
    empty = label_schema(pd.Series(["sport", "politics", None] * 10))
    assert (empty.columns.tolist(), len(empty)) == (["problem", "labels", "n_rows"], 0)
    assert len(label_schema(pd.Series([None, None]))) == 0


def test_labels_that_look_alike_are_found_together():
    assert schema({"rec.autos": 10, "Rec_Autos": 20, "rec autos": 30, "other": 10}) == [
        (ALIKE, ("Rec_Autos", "rec autos", "rec.autos"), 60)
    ]
    assert schema({"Sport": 10, "sport": 10}) == [(ALIKE, ("Sport", "sport"), 20)]
    assert schema({"ﬁlm①": 10, "film 1": 10}) == [(ALIKE, ("film 1", "ﬁlm①"), 20)]
    assert schema({"a rather long name": 10, "a rather long-name": 10}) == [
        (ALIKE, ("a rather long name", "a rather long-name"), 20)
    ]
    assert schema({"+": 10, "-": 10}) == []


def test_labels_spelt_nearly_alike_are_pairs_but_a_numbering_is_none():
    assert schema({"mathematics": 10, "Mathematcs": 11, "statistics": 12}) == [
        ("spelt nearly alike", ("Mathematcs", "mathematics"), 21)
    ]
    assert schema({"a long name of class 10": 10, "a long name of class 11": 10}) == []
    assert schema({"sport": 10, "sports": 10}, min_similarity=0.92) == []
    assert schema({"abcdefghij": 10, "jihgfedcba": 10}) == [], "the same letters in another order"
    assert schema({"abcdefghij": 10, "bacdefghij": 10}) == [], (
        "nine of ten letters in order are as much alike as the threshold, not more"
    )


def test_numbers_blanks_and_rare_labels_are_listed_with_their_rows():
    assert schema({"1": 10, "-2,5": 11, "nan": 12, "x1": 13}) == [
        ("look like numbers", ("-2,5", "1"), 21)
    ]
    assert schema({" a": 10, "b\t": 11, "c d": 12}) == [
        ("begin or end with a blank", (" a", "b\t"), 21)
    ]
    assert schema({"rare": 9, "rarer": 1, "common": 10}) == [
        ("fewer than 10 rows", ("rare", "rarer"), 10)
    ]
    assert schema({"rare": 9}, min_rows=9) == []


def test_features_count_characters_in_scripts_without_blanks_and_no_marks_as_signs():
    features = text_features(["这部电影，好", "दाल खाई!"])
    assert features["n_words"].tolist() == [5, 2]
    assert features["special_share"].tolist() == [1 / 6, 1 / 8]


GERMAN = "Der Zug nach Hamburg fährt heute nicht, weil es in der Nacht sehr viel geschneit hat."
ENGLISH = "The train to the city does not run today because it has snowed all through the night."
CHINESE = "因为昨天晚上下了很大的雪所以今天去上海的火车不开"


def test_the_language_mix_counts_languages_commonest_first():
    mix = language_mix(
        [
            ENGLISH,
            GERMAN,
            GERMAN,
            CHINESE,
            "Four words are few",
            "1 2 3 4 5 6",
            "",
            ENGLISH,
            GERMAN,
            ENGLISH,
            ENGLISH,
        ],
        seed=1,
    )
    assert mix["n"].to_dict() == {"English": 4, "German": 3, TOO_SHORT: 3, "Chinese": 1}
    assert mix["share"].tolist() == pytest.approx([4 / 11, 3 / 11, 3 / 11, 1 / 11])
    assert mix.index[0] == "English" and mix.index.name == "language"


def test_a_text_without_blanks_is_long_enough_to_tell_its_language():
    texts = ["ฉันชอบหนังเรื่องนี้มาก", "我喜欢这部电影", "मुझे यह फ़िल्म बहुत पसंद आई"]
    assert set(language_mix(texts, seed=1).index) == {"Thai", "Chinese", "Hindi"}


def test_an_unsure_language_is_unknown():
    assert language_mix([GERMAN], seed=1, min_confidence=1.01)["n"].to_dict() == {UNKNOWN: 1}


def test_the_sample_of_languages_is_seeded_and_reads_the_start_alone():
    texts = [GERMAN] * 10 + [ENGLISH] * 10
    drawn = [language_mix(texts, max_rows=7, seed=seed)["n"].to_dict() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] and all(sum(counts.values()) == 7 for counts in drawn)
    assert (
        len(
            {str(language_mix(texts, max_rows=7, seed=seed)["n"].to_dict()) for seed in range(1, 6)}
        )
        > 1
    )
    assert [
        language_mix([ENGLISH + f" {GERMAN}" * 20], seed=1, max_chars=n).index[0]
        for n in (len(ENGLISH), 1_000)
    ] == ["English", "German"]


def test_a_text_of_just_enough_words_is_told():
    assert [language_mix([ENGLISH], seed=1, min_words=n).index[0] for n in (17, 18)] == [
        "English",
        TOO_SHORT,
    ]


def test_a_text_of_just_the_limit_is_not_truncated():
    assert length_summary([2, 4, 5, 9], max_length=4, n_unknown=3) == {
        "n_texts": 4,
        "max_length": 4,
        "truncated_share": 0.5,
        "median_tokens": 4.5,
        "p95_tokens": pytest.approx(8.4),
        "max_tokens": 9,
        "unknown_share": 0.15,
    }


def linguistic(**columns):
    return pd.DataFrame(
        {name: np.tile([9.0, 10.0, 11.0, 10.0], 6) for name in LINGUISTIC} | columns
    )


def test_linguistic_outliers_name_the_farthest_text_cut_short():
    ease = np.tile([-60.0, -50.0, -40.0, -50.0], 6)
    ease[[3, 7]] = -120, -150
    texts = [f"text {i}" for i in range(24)]
    texts[7] = "<b>a\x07\n  b</b> " + "x" * 200
    found = linguistic_outliers(
        linguistic(flesch_reading_ease=ease).set_index(np.arange(100, 124)), texts, max_chars=20
    )
    row = found.loc[LINGUISTIC["flesch_reading_ease"]]
    assert row.tolist() == [2, -50, -150, "<b>a b</b> xxxxxxxx…"]
    others = found.drop(LINGUISTIC["flesch_reading_ease"])
    assert (
        others["n_outliers"].tolist() == [0] * 4
        and others["example"].tolist() == [""] * 4
        and others["value"].isna().all()
    )


def test_counts_and_lengths_are_judged_on_a_logarithmic_scale_and_a_text_that_fits_is_shown_whole():
    sentences = np.tile([1.0, 3.0, 9.0, 3.0], 6)
    sentences[5] = 40  # far from the others by difference, not by ratio
    found = linguistic_outliers(
        linguistic(n_sentences=sentences, token_length_mean=np.r_[np.full(23, 5.0), 90]),
        ["x" * 20] * 24,
        max_chars=20,
    )
    assert found.loc["sentences", "n_outliers"] == 0
    assert found.loc[
        LINGUISTIC["token_length_mean"], ["n_outliers", "value", "example"]
    ].tolist() == [1, 90, "x" * 20]


def test_a_feature_without_values_has_no_outlier():
    assert (
        linguistic_outliers(linguistic(n_sentences=np.nan), ["a"] * 24)["n_outliers"].tolist()
        == [0] * 5
    )


def test_the_audit_gathers_the_figures_ready_for_json():
    table = pd.DataFrame({"text": ["a b", None, "c", "schÃ¶n"], "label": ["x", "y", None, "x"]})
    texts = table["text"].tolist()
    profile = Profile(
        features=text_features(texts),
        damage=encoding_damage(texts),
        n_exact=2,
        n_near=5,
        n_conflicting=3,
        schema=label_schema(table["label"], min_rows=2),
        tokens=length_summary([2, 4], max_length=3),
        languages=pd.DataFrame({"n": [2, 1], "share": [2 / 3, 1 / 3]}, index=["English", UNKNOWN]),
        linguistic=pd.DataFrame({"n_outliers": [np.int64(4)]}, index=["sentences"]),
        terms=pd.DataFrame({"label": ["y", "x", "y"], "term": ["b", "a", "c"]}),
    )
    figures = audit(table, profile)
    assert list(figures["distinctive_terms"]) == ["y", "x"]
    features = figures.pop("features")
    assert json.loads(json.dumps(figures)) == {
        "rows": 4,
        "fingerprint": table_fingerprint(table),
        "missing_texts": 1,
        "missing_labels": 1,
        "labels": {"x": 2, "y": 1},
        "exact_duplicates": 2,
        "near_duplicate_pairs": 5,
        "rows_with_conflicting_labels": 3,
        "label_problems": [{"problem": "fewer than 2 rows", "labels": ["y"], "n_rows": 1}],
        "tokens": {
            "n_texts": 2,
            "max_length": 3,
            "truncated_share": 0.5,
            "median_tokens": 3.0,
            "p95_tokens": 3.9,
            "max_tokens": 4,
            "unknown_share": 0.0,
        },
        "languages": {"English": 0.6667, UNKNOWN: 0.3333},
        "linguistic_outliers": {"sentences": 4},
        "distinctive_terms": {"y": ["b", "c"], "x": ["a"]},
        "length_outliers": 0,
        "encoding_damage": {
            "mojibake": 1,
            "replacement character U+FFFD": 0,
            "control characters": 0,
            "invisible characters": 0,
        },
    }
    assert features["n_words"] == {
        "count": 4.0,
        "mean": 1.0,
        "std": 0.8165,
        "min": 0.0,
        "25%": 0.75,
        "50%": 1.0,
        "75%": 1.25,
        "max": 2.0,
    }
    assert list(features) == [
        "n_chars",
        "n_words",
        "digit_share",
        "upper_share",
        "special_share",
        "non_ascii_share",
    ]


def test_the_audit_counts_outliers_by_words():
    texts = ["x" * 2_000, *["one two three"] * 9, "a " * 1_000]
    features = text_features(texts).assign(n_chars=13)
    given = {"n_exact": 0, "n_near": 0, "n_conflicting": 0, "tokens": {}, "schema": pd.DataFrame()}
    given |= {
        "languages": pd.DataFrame({"share": []}),
        "linguistic": pd.DataFrame({"n_outliers": []}),
        "terms": pd.DataFrame({"label": [], "term": []}),
    }
    figures = audit(
        pd.DataFrame({"text": texts, "label": "x"}),
        Profile(features=features, damage=encoding_damage(texts), **given),
    )
    assert figures["length_outliers"] == 2


def test_the_table_is_described_with_the_rows_that_will_be_dropped():
    table = pd.DataFrame({"text": ["a", None, "c", None], "label": ["x", "y", None, None]})
    assert describe_table(table) == (
        "4 rows in 2 classes; 3 lack a text or a label and will be dropped by a rule."
    )


@pytest.mark.parametrize(
    ("largest", "sentence"),
    [
        (149, "1.49 times the rows of the smallest: accuracy and macro F1 will tell the same"),
        (150, "1.50 times the rows of the smallest: read macro F1, not accuracy."),
    ],
)
def test_the_balance_says_which_score_to_read(largest, sentence):
    assert sentence in describe_balance(label_balance(pd.Series(["a"] * largest + ["b"] * 100)))


def test_findings_among_labels_are_counted_with_what_to_do():
    wrong = label_schema(pd.Series(["Sport", "sport"] * 10))
    assert describe_schema(wrong, n_labels=1_002) == (
        "1 findings among 1,002 labels: look at each of them before training."
    )
    assert describe_schema(wrong.head(0), n_labels=2) == (
        "0 findings among 2 labels: nothing to settle."
    )


def test_lengths_are_described_by_median_longest_and_outliers():
    assert describe_lengths(pd.Series([9, 10, 11, 10, 10, 11, 9, 2_000])) == (
        "Half of the texts have 10 words or fewer, the longest has 2,000; 1 are outliers in length."
    )


def test_tokens_are_described_by_what_is_cut_and_three_lengths():
    lengths = (
        "50.0% of 4 texts have more than 4 tokens; half have 4 or fewer, "
        "95 % have 858 or fewer, the longest has 1,009. "
    )
    few = length_summary([2, 4, 5, 1_009], max_length=4, n_unknown=10)
    many = length_summary([2, 4, 5, 1_009], max_length=4, n_unknown=11)
    assert describe_tokens(few) == f"{lengths}0.98% of the tokens are unknown to the tokenizer."
    assert describe_tokens(many) == (
        f"{lengths}1.08% of the tokens are unknown to the tokenizer. "
        "WARNING: that is more than 1%, and what they stand for is lost: see which characters the "
        "texts are made of, or take another backbone."
    )


def test_damage_and_conflicts_are_described_as_counts():
    damage = encoding_damage(["fine", "lost \ufffd sign", "bell \x07"])
    assert describe_damage(damage, n=1_000).startswith(
        "2 signs of damage in 1,000 texts; the rules"
    )
    assert describe_conflicts(3, n=1_000) == (
        "3 of 1,000 rows have a text that also stands under another label."
    )


def test_languages_are_described_without_those_that_were_not_identified():
    names = ["English"] * 5 + [UNKNOWN] * 2 + ["German"] + [TOO_SHORT] * 2
    assert describe_languages(label_balance(pd.Series(names))) == (
        "2 languages were named in 10 texts, first English (50.0%); "
        "20.0% could not be identified and 20.0% are too short."
    )
    assert describe_languages(label_balance(pd.Series([TOO_SHORT]))) == (
        "0 languages were named in 1 texts; 0.0% could not be identified and 100.0% are too short."
    )


def test_readability_names_the_hardest_and_the_easiest_class_and_the_model():
    features = pd.DataFrame({"flesch_reading_ease": [10, 20, 90, 50.4]}, index=[7, 8, 9, 10])
    labels = pd.Series(["hard", "hard", "easy", "middle"])
    with_model = describe_readability(features, labels, model="en_core_web_sm")
    assert with_model == (
        "Hardest to read: hard (Flesch 15); easiest: easy (Flesch 90); n = 4. "
        "Parts of speech and sentence structure by the spaCy model en_core_web_sm."
    )
    assert "no spaCy model is installed" in describe_readability(features, labels, model=None)


def test_the_feature_with_the_most_outliers_is_named():
    table = pd.DataFrame({"n_outliers": [3, 1_200]}, index=["sentences", "share of nouns"])
    assert describe_linguistic_outliers(table, n=5_000) == (
        "Most outliers: share of nouns, 1,200 of 5,000 texts."
    )
