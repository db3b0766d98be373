import base64
import io
import warnings

import IPython.display
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from lib import plots
from lib.plots import fonts, style

NASTY = [
    "$",
    "$x_{1$ and $\\alpha",
    "C:\\dir_$HOME",
    "a long name of many words that goes on and on, " * 5,
    "<b>&amp;</b>",
    "",
    "文字",
]


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def only_own_fonts(monkeypatch):
    """The fonts of every machine: those that come with matplotlib."""
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(fonts, "_without_font", set())
    fonts._installed_families.cache_clear()
    with plt.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no installed font")
        yield
    fonts._installed_families.cache_clear()


def make_font(path, family, characters):
    """Write a font in which each character is a square."""
    pen = TTGlyphPen(None)
    for point, draw in zip(
        [(0, 0), (0, 700), (700, 700), (700, 0)], [pen.moveTo, *[pen.lineTo] * 3]
    ):
        draw(point)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *(f"uni{ord(c):04X}" for c in characters)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, characters), names[1:])))
    font.setupGlyf(dict.fromkeys(names, square))
    font.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": family, "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return str(path)


def titles(ax):
    figure = ax.figure.get_suptitle()
    return " | ".join(
        [figure, *(panel.get_title(loc) for panel in ax.figure.axes for loc in ("left", "center"))]
    )


def balance(names, counts):
    counts = pd.Series(counts, index=pd.Index(names, name="label"))
    return pd.DataFrame({"n": counts, "share": counts / counts.sum()})


def square(names):
    return pd.DataFrame(
        np.arange(len(names) ** 2).reshape(len(names), -1), index=names, columns=names
    )


def scores(names, models=("baseline", "transformer")):
    index = pd.MultiIndex.from_product([names, models])
    return pd.DataFrame({"value": 0.8, "low": 0.7, "high": 0.85}, index=index)


def history():
    return pd.DataFrame(
        {
            "step": [5, 10, 15, 20],
            "loss": [1.0, 0.8, 0.6, 0.5],
            "eval_loss": [np.nan, 0.9, np.nan, 0.7],
            "eval_macro_f1": [np.nan, 0.4, np.nan, 0.6],
            "learning_rate": [1e-3, 2e-3, 1e-3, 0],
            "grad_norm": [1.0, 2.0, 1.0, 0.5],
        }
    )


def features(names):
    return pd.DataFrame(
        {"a": np.arange(4.0 * len(names)), "b": [np.nan, *np.ones(4 * len(names) - 1)]}
    ), pd.Series(names * 4)


def reliability_table():
    return pd.DataFrame({"confidence": [0.55, 0.95], "accuracy": [0.5, 0.9], "n": [400, 834]})


def search_trials():
    return pd.DataFrame(
        {
            "state": ["COMPLETE", "FAIL", "PRUNED", "COMPLETE", "COMPLETE"],
            "value": [0.5, np.nan, np.nan, 0.4, 0.9],
            "stop_macro_f1": [0.4, np.nan, 0.1, 0.3, np.nan],
            "learning_rate": [1e-4, 1e-3, 1e-3, 1e-3, 1e-2],
            "epochs": [4.0, 5.0, 6.0, 6.0, 6.0],
            "unfreeze": ["[]", "[1]", "[1]", "[0, $6]", "[]"],
            "eval_rows": [20, 20, 20, None, 20],
            "compile": [False, True, True, True, True],
        }
    )


def perturbed():
    conditions = pd.MultiIndex.from_product(
        [["keyboard", "word_drop"], [1, 5]], names=["kind", "severity"]
    )
    ends = {"macro_f1": [0.9, 0.7, 0.8, 0.6], "low": 0.5, "high": 1.0}
    return pd.DataFrame(ends, index=conditions)


FIGURES = {
    "class_balance": (lambda: plots.class_balance(balance(["a", "b"], [1200, 34])), "n = 1,234"),
    "lengths": (lambda: plots.lengths(pd.Series([1, 2, 3, 400]), pd.Series(list("abab"))), "n = 4"),
    "features_by_class": (
        lambda: plots.features_by_class(
            *features(["a", "b"]), titles={"a": "feature A", "b": "feature B"}
        ),
        "n = 8",
    ),
    "receipts": (
        lambda: plots.receipts(
            pd.DataFrame({"n_texts": [3, 0], "chars_removed": [70, 0]}, index=["html", "space"]),
            n=2_500,
        ),
        "n = 2,500",
    ),
    "leak_matrices": (
        lambda: plots.leak_matrices(
            {
                "random: 7 cross": square(["train", "test"]),
                "grouped: 0 cross": square(["train", "test"]),
            }
        ),
        "7 cross",
    ),
    "issue_scores": (
        lambda: plots.issue_scores(pd.Series([0.1, 0.2, 0.99]), pd.Series([False, False, True])),
        "n = 3",
    ),
    "training_curves": (lambda: plots.training_curves(history(), best_step=20), "step 20"),
    "scores_with_intervals": (
        lambda: plots.scores_with_intervals(scores(["accuracy"]), title="Validation (n = 50)"),
        "n = 50",
    ),
    "severity_curves": (
        lambda: plots.severity_curves(perturbed(), clean=0.9, n=120),
        "get worse? (n = 120",
    ),
    "severity_curves, cleaned": (
        lambda: plots.severity_curves(perturbed(), clean=0.9, n=120, raw=perturbed().tail(2)),
        "word drop",
    ),
    "flip_rates": (
        lambda: plots.flip_rates(perturbed()["macro_f1"], n=120),
        "% of 120 texts",
    ),
    "confusion_matrix": (
        lambda: plots.confusion_matrix(square(["a", "b", "c"]), title="Confusions"),
        "Confusions (n = 36)",
    ),
    "reliability": (lambda: plots.reliability({"transformer": reliability_table()}), "n = 1,234"),
    "search_history": (lambda: plots.search_history(search_trials(), n=400), "n = 400"),
    "importances": (
        lambda: plots.importances({"epochs": 0.7, "batch_size": 0.3}, n_trials=9),
        "9 complete trials",
    ),
    "parallel_coordinates": (
        lambda: plots.parallel_coordinates(
            search_trials(), ["learning_rate", "unfreeze", "eval_rows", "compile"]
        ),
        "3 complete trials",
    ),
    "accuracy_by_length": (
        lambda: plots.accuracy_by_length(
            pd.DataFrame(
                {"accuracy": [0.5], "low": [0.4], "high": [0.6], "n": [90]}, index=["1-9"]
            ),
            overall=0.5,
        ),
        "short or long texts",
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_its_n_or_its_finding_and_can_be_drawn(name):
    draw, words = FIGURES[name]
    ax = draw()
    ax.figure.canvas.draw()
    assert words in titles(ax)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.class_balance(balance(NASTY, range(1, 8))),
        lambda: plots.lengths(pd.Series(range(14)), pd.Series(NASTY * 2)),
        lambda: plots.features_by_class(
            *features(NASTY), titles={"a": "feature A", "b": "feature B"}
        ),
        lambda: plots.confusion_matrix(square(NASTY), title="Confusions"),
        lambda: plots.scores_with_intervals(scores(NASTY), title="F1 by class (n = 7)"),
    ],
    ids=[
        "class_balance",
        "lengths",
        "features_by_class",
        "confusion_matrix",
        "scores_with_intervals",
    ],
)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_dollars_and_long_names_are_shown_as_they_are(draw):
    ax = draw()
    ax.figure.canvas.draw()
    texts = [
        *ax.get_xticklabels(),
        *ax.get_yticklabels(),
        *(ax.get_legend().get_texts() if ax.get_legend() else []),
    ]
    shown = [text.get_text() for text in texts]
    assert any("\\$" in text for text in shown), "a bare $ would open mathematics"
    assert any("(blank)" in text for text in shown)
    assert max(map(len, shown)) < 60


def test_a_long_name_without_blanks_keeps_its_beginning():
    ax = plots.class_balance(
        balance(["department_of_computer_science_and_engineering", "b"], [2, 1])
    )
    assert any(label.get_text().startswith("department_of") for label in ax.get_yticklabels())


def test_classes_whose_names_begin_alike_keep_a_bar_each():
    stem = "a name of several words that two classes begin with: "
    ax = plots.class_balance(balance([stem + "first", stem + "second"], [30, 10]))
    assert len({bar.get_y() for bar in ax.patches}) == 2


def test_bars_hold_the_counts_and_the_largest_is_on_top():
    ax = plots.class_balance(balance(["many", "few"], [30, 10]))
    by_height = sorted(ax.patches, key=lambda bar: bar.get_y(), reverse=True)
    assert [bar.get_width() for bar in by_height] == [30, 10]
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["few", "many"]
    assert {text.get_text() for text in ax.texts} == {"30 (75.0%)", "10 (25.0%)"}


def test_lengths_are_a_cumulative_share_with_the_median_in_the_legend():
    ax = plots.lengths(pd.Series([4, 1, 2, 9]), pd.Series(list("aaab")))
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 4]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [1 / 3, 2 / 3, 1])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "a (median 2)",
        "b (median 9)",
    ]


def test_of_many_classes_the_largest_are_shown_and_the_title_says_so():
    names = [f"class {i:03}" for i in range(150)]
    counts = list(range(1, 151))
    drawn = {
        40: plots.class_balance(balance(names[::-1], counts[::-1])),
        12: plots.lengths(
            pd.Series(range(sum(counts))), pd.Series(np.repeat(names, counts).tolist())
        ),
    }
    labels = pd.Series(np.repeat(names, counts).tolist())
    titles = {"a": "feature A"}
    panel = plots.features_by_class(pd.DataFrame({"a": range(len(labels))}), labels, titles=titles)
    for n, ax in drawn.items():
        assert f"(n = 11,325; the {n} largest of 150 classes)" in ax.get_title(loc="left")
    assert [text.get_text()[:9] for text in drawn[12].get_legend().get_texts()] == names[-12:]
    assert [label.get_text() for label in panel.get_yticklabels()] == names[-12:][::-1]
    assert "n = 11,325; the 12 largest of 150 classes" in panel.figure.get_suptitle()
    heights = [ax.figure.get_size_inches()[1] for ax in (*drawn.values(), panel)]
    assert max(heights) < 15


def test_receipts_are_shares_of_n():
    ax = plots.receipts(
        pd.DataFrame({"n_texts": [3, 1], "chars_removed": [70, -5]}, index=["html", "urls"]), n=10
    )
    assert sorted(bar.get_width() for bar in ax.patches) == [0.1, 0.3]
    assert {text.get_text() for text in ax.texts} == {
        "3 texts, -70 characters",
        "1 texts, +5 characters",
    }


def test_a_confusion_matrix_shows_counts_and_shares_of_the_true_class():
    ax = plots.confusion_matrix(
        pd.DataFrame([[3, 1], [0, 2]], index=["a", "b"], columns=["a", "b"]), title="Confusions"
    )
    assert [text.get_text() for text in ax.texts] == ["3\n75%", "1\n25%", "0\n0%", "2\n100%"]


def test_many_classes_are_shades_and_confused_ones_stand_together():
    names = [f"class {i:02}" for i in range(16)]
    counts = pd.DataFrame(8 * np.eye(16, dtype=int), index=names, columns=names)
    for one, other in ((0, 9), (9, 3), (12, 5)):
        counts.iloc[one, other] = 8
        counts.iloc[other, one] = 2
    ax = plots.confusion_matrix(counts, title="Confusions")
    assert titles(ax) == " | Confusions (n = 158); confused classes stand together |  |  | "
    assert list(ax.texts) == []
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == [label.get_text() for label in ax.get_xticklabels()]
    assert sorted(shown) == names
    place = {name: shown.index(name) for name in names}
    group = sorted(place[f"class {i:02}"] for i in (0, 3, 9))
    assert group == list(range(group[0], group[0] + 3))
    assert abs(place["class 12"] - place["class 05"]) == 1
    shades = ax.images[0].get_array()
    assert shades[place["class 12"], place["class 05"]] == 0.5
    assert shades[place["class 05"], place["class 12"]] == 0.2
    assert shades[place["class 09"], place["class 09"]] == 8 / 18


def test_a_figure_of_150_classes_is_small():
    names = [f"class {i}" for i in range(150)]
    counts = pd.DataFrame(np.eye(150, dtype=int), index=names, columns=names)
    ax = plots.confusion_matrix(counts, title="Confusions")
    content = io.BytesIO()
    ax.figure.savefig(content, bbox_inches="tight")
    assert len(content.getvalue()) < 300_000
    assert ax.get_xlabel() == "predicted, in the order of the labels"
    assert (len(ax.get_xticks()), len(ax.get_yticks())) == (0, 150)
    assert (ax.figure.get_size_inches() < 20).all()


def test_a_bin_that_is_all_right_is_drawn_though_its_interval_is_a_rounding_error_off():
    table = pd.DataFrame(
        {"accuracy": [0.0, 1.0], "low": [1e-17, 0.7], "high": [0.3, 1 - 1e-16], "n": [9, 9]},
        index=["1-9", "10-19"],
    )
    ax = plots.accuracy_by_length(table, overall=0.5)
    assert [line.get_ydata().tolist() for line in ax.containers[0].lines[1]] == [[0, 0.7], [0.3, 1]]


@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_string_is_the_name_of_a_class_in_a_figure(odd_names):
    balanced = balance(odd_names, range(1, len(odd_names) + 1))
    drawn = [
        plots.class_balance(balanced),
        plots.confusion_matrix(square(odd_names), title="Confusions"),
    ]
    for ax in drawn:
        ax.figure.canvas.draw()
        shown = [label.get_text() for label in ax.get_yticklabels()]
        assert not any("  " in name or "\t" in name for name in shown)
        assert max(map(len, shown)) <= 36
    names = [label.get_text() for label in drawn[0].get_yticklabels()]
    assert names[::-1] == [style.short(name) for name in odd_names]
    assert {"All", "nan", "neg", " _x", "two lines", "x" * 33 + "…"} <= set(names)


def test_a_class_without_rows_does_not_break_the_confusion_matrix():
    ax = plots.confusion_matrix(
        pd.DataFrame([[3, 0], [0, 0]], index=["a", "b"], columns=["a", "b"]), title="Confusions"
    )
    ax.figure.canvas.draw()
    assert ax.texts[3].get_text() == "0\n0%"


def test_leak_panels_share_one_scale():
    ax = plots.leak_matrices(
        {"one": pd.DataFrame([[1, 0], [0, 1]]), "other": pd.DataFrame([[80, 9], [9, 80]])}
    )
    assert [panel.images[0].get_clim() for panel in ax.figure.axes] == [(0, 80), (0, 80)]


def test_issue_scores_stack_flagged_on_unflagged():
    ax = plots.issue_scores(
        pd.Series([0.01, 0.01, 0.01, 0.99]), pd.Series([False, False, True, True])
    )
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "not flagged",
        "flagged (2)",
    ]
    unflagged, flagged = ax.containers
    assert [(bar.get_y(), bar.get_height()) for bar in (unflagged[0], flagged[0], flagged[-1])] == [
        (0, 2),
        (2, 1),
        (0, 1),
    ]


def test_training_curves_mark_the_checkpoint_and_skip_missing_values():
    loss = plots.training_curves(history(), best_step=10)
    training, validation, mark = loss.lines
    assert training.get_ydata().tolist() == [1.0, 0.8, 0.6, 0.5]
    assert (validation.get_xdata().tolist(), validation.get_ydata().tolist()) == (
        [10, 20],
        [0.9, 0.7],
    )
    assert set(mark.get_xdata()) == {10}


def test_interval_bars_run_from_low_to_high():
    ax = plots.scores_with_intervals(
        scores(["accuracy"], models=["only"]), title="Validation (n = 50)"
    )
    (segment,) = ax.collections[0].get_segments()
    np.testing.assert_allclose(segment[:, 0], [0.7, 0.85])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["only"]


def test_accuracy_by_length_draws_the_intervals_it_is_given():
    table = pd.DataFrame(
        {"accuracy": [0.5, 0.9], "low": [0.4, 0.6], "high": [0.65, 0.95], "n": [1_090, 10]},
        index=["1-9", "10-99"],
    )
    ax = plots.accuracy_by_length(table, overall=0.7)
    np.testing.assert_allclose(
        [segment[:, 1] for segment in ax.collections[0].get_segments()], [[0.4, 0.65], [0.6, 0.95]]
    )
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        "1-9\n(n = 1,090)",
        "10-99\n(n = 10)",
    ]


def test_a_given_axes_is_drawn_into():
    _, mine = plt.subplots()
    assert plots.class_balance(balance(["a"], [3]), ax=mine) is mine


@pytest.fixture
def shown(monkeypatch):
    calls = []
    monkeypatch.setattr(
        IPython.display, "display", lambda figure, **more: calls.append((figure, more))
    )
    return calls


def test_show_gives_the_title_as_alt_text_and_closes_the_figure(shown):
    ax = plots.class_balance(balance(["a", "b"], [3, 1]))
    plots.show(ax)
    [(picture, options)] = shown
    about = options["metadata"]["image/png"]
    assert about["alt"] == picture["text/plain"] == "Figure: Rows a class (n = 4)"
    assert not plt.fignum_exists(ax.figure.number)


def test_a_figure_is_shown_at_half_its_size_so_that_it_is_crisp(shown):
    plots.show(plots.class_balance(balance(["a", "b"], [3, 1])))
    [(picture, options)] = shown
    with Image.open(io.BytesIO(base64.b64decode(picture["image/png"]))) as image:
        assert image.width // 2 == options["metadata"]["image/png"]["width"] > 800


def test_show_names_every_panel(shown):
    plots.show(
        plots.leak_matrices({"random\nsplit": square(["a", "b"]), "grouped": square(["a", "b"])})
    )
    assert shown[0][1]["metadata"]["image/png"]["alt"] == "Figure: random split; grouped"


@pytest.mark.parametrize("name", ["training_curves", "features_by_class"])
def test_show_includes_the_title_above_several_panels(shown, name):
    draw, words = FIGURES[name]
    plots.show(draw())
    assert words in shown[0][1]["metadata"]["image/png"]["alt"]


def test_a_live_figure_is_drawn_in_one_place_again_and_again(monkeypatch):
    calls = []

    class Place:
        def update(self, figure, **more):
            calls.append(("update", figure, more))

    monkeypatch.setattr(
        IPython.display,
        "display",
        lambda figure, **more: calls.append(("display", figure, more)) or Place(),
    )
    redraw = plots.live(plots.class_balance)
    for counts in ([3, 1], [2, 2], [4, 0]):
        redraw(balance(["a", "b"], counts))
    assert [what for what, *_ in calls] == ["display", "update", "update"]
    assert calls[0][2]["display_id"] is True and "display_id" not in calls[2][2]
    for _, _, options in calls:
        assert options["metadata"]["image/png"]["alt"] == "Figure: Rows a class (n = 4)"
    assert not plt.get_fignums()


def test_training_curves_are_drawn_before_the_best_step_is_known():
    history = pd.DataFrame(
        {"step": [1, 2], "loss": [2.0, 1.0], "learning_rate": [0.1, 0.2], "grad_norm": [1.0, 1.0]}
    )
    history = history.assign(eval_loss=np.nan, eval_macro_f1=np.nan, eval_accuracy=np.nan)
    assert "Training so far: 2 steps" in titles(plots.training_curves(history))
    assert "step 2, the best checkpoint" in titles(plots.training_curves(history, best_step=2))


def test_the_trick_ledger_draws_gains_with_their_intervals_best_on_top():
    ledger = pd.DataFrame(
        {
            "gain": [np.nan, -0.1, 0.2],
            "low": [np.nan, -0.15, -0.1],
            "high": [np.nan, -0.05, 0.5],
            "verdict": ["", "worse", "inconclusive"],
            "cost": [1, 2, 1.04],
        },
        index=["plain recipe", "slow one", "quick one"],
    )
    ax = plots.trick_ledger(ledger, n=1_200, n_seeds=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "slow one (2.0x time)",
        "quick one (1.0x time)",
    ]
    np.testing.assert_allclose(
        [bars.get_segments()[0][:, 0] for bars in ax.collections], [[-0.15, -0.05], [-0.1, 0.5]]
    )
    assert "n = 1,200 rows, 3 seeds" in titles(ax)


def telling(names, terms=("one", "two")):
    rows = [
        (name, term, 1.5 - i / 10, 1.0, 2.0, 7) for name in names for i, term in enumerate(terms)
    ]
    return pd.DataFrame(rows, columns=["label", "term", "log_odds", "low", "high", "n_texts"])


def test_token_lengths_are_cut_at_the_limit_and_the_title_says_how_many():
    ax = plots.token_lengths([3, 40, 64, 65, 300], max_length=64)
    assert (
        titles(ax).strip(" |")
        == "40.0% of the texts are longer than the 64 tokens that the model reads (n = 5)"
    )
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "read whole (3)",
        "cut (2)",
        "limit: 64 tokens",
    ]
    whole, cut = ax.containers
    assert (sum(bar.get_height() for bar in whole), sum(bar.get_height() for bar in cut)) == (3, 2)
    assert {edge for bar in cut if bar.get_height() for edge in [bar.get_x() >= 64.5]} == {True}
    assert set(ax.lines[0].get_xdata()) == {64.5}


@pytest.mark.parametrize(("values", "limit"), [([1, 1], 512), ([5000, 9000], 16), ([512], 512)])
def test_token_lengths_all_on_one_side_of_the_limit_are_all_drawn(values, limit):
    ax = plots.token_lengths(values, max_length=limit)
    ax.figure.canvas.draw()
    assert sum(bar.get_height() for bars in ax.containers for bar in bars) == len(values)
    low, high = ax.get_xlim()
    assert low < limit + 0.5 < high


def test_telling_terms_have_a_panel_a_class_with_their_intervals():
    ax = plots.distinctive_terms(telling(["a", "b"]), balance(["b", "a", "c"], [30, 20, 10]))
    panels = ax.figure.axes
    assert [panel.get_title(loc="left") for panel in panels] == [
        "b\nn = 30",
        "a\nn = 20",
        "c\nn = 10; no word tells it",
    ]
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    np.testing.assert_allclose(
        [segment[:, 0] for segment in ax.collections[0].get_segments()], [[1, 2], [1, 2]]
    )
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first term is on top"
    assert "n = 60)" in titles(ax)


@pytest.mark.parametrize(
    ("n", "drawn", "words"),
    [
        (2, 2, "(n = 199)"),
        (12, 12, "(n = 1,134)"),
        (13, 12, "the 12 largest of 13 classes"),
        (20, 12, "the 12 largest of 20"),
    ],
)
def test_telling_terms_of_many_classes_show_the_twelve_largest_and_say_so(n, drawn, words):
    names = [f"class {i}" for i in range(n)]
    ax = plots.distinctive_terms(telling(names), balance(names, range(100, 100 - n, -1)))
    ax.figure.canvas.draw()
    assert len(ax.figure.axes) == drawn
    assert words in titles(ax)


def test_no_telling_term_at_all_can_be_drawn():
    plots.distinctive_terms(telling([]), balance(["a", "b"], [1, 1])).figure.canvas.draw()


@pytest.mark.filterwarnings("error:Glyph")
def test_terms_and_classes_are_shown_as_they_are_and_without_missing_glyphs():
    ax = plots.distinctive_terms(
        telling(NASTY, terms=("$x_{1$", "文字a", "w" * 50)), balance(NASTY, range(7, 0, -1))
    )
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        r"\$x_{1\$",
        "WenZia",
        "w" * 17 + "…",
    ]
    shown = [panel.get_title(loc="left") for panel in ax.figure.axes]
    assert shown[0] == "\\$\nn = 7" and shown[-1] == "WenZi\nn = 1" and "(blank)" in shown[5]


def test_a_script_without_a_font_is_drawn_in_latin_letters_and_named_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drawn = [fonts.drawable(text) for text in ("体育 ok", "健康", "กีฬา", "Größe → ½", "plain")]
    assert drawn == ["TiYu ok", "JianKang", "kila", "Größe → ½", "plain"]
    messages = [str(warning.message) for warning in caught]
    assert [message.split(":")[0] for message in messages] == [
        "no installed font has characters of CJK (体)",
        "no installed font has characters of THAI (ก)",
    ]
    assert "install one" in messages[0] and max(map(len, messages)) <= 300


@pytest.mark.filterwarnings("error:Glyph", "error:no installed font")
def test_an_installed_font_draws_what_the_first_one_lacks(tmp_path, monkeypatch, shown):
    paths = [
        make_font(tmp_path / "a.ttf", "A Mono", "文字体育"),
        make_font(tmp_path / "b.ttf", "B Sans", "文字体育"),
        make_font(tmp_path / "c.ttf", "C", "ก"),
    ]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: paths)
    ax = plots.confusion_matrix(square(["文字", "体育", "ก"]), title="Confusions")
    plots.show(ax)
    names = [*ax.get_xticklabels(), *ax.get_yticklabels()]
    assert [name.get_text() for name in names] == ["文字", "体育", "ก"] * 2
    assert all(name.get_fontfamily() == ["sans-serif", "B Sans", "C"] for name in names)
    ax.figure.canvas.draw()


def test_a_name_that_begins_with_an_underscore_stays_in_the_legend():
    ax = plots.lengths(pd.Series([1, 2, 3, 4]), pd.Series(["_a", "_a", "b", "_"]))
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == [" _ (median 4)", " _a (median 2)", "b (median 3)"]


def test_detectors_are_drawn_by_kind_and_rate_with_the_best_on_top():
    rows = [
        (kind, rate, detector, value, value - 0.1, value + 0.05)
        for kind in ("ambiguous", "uniform")
        for rate in (0.05, 0.1)
        for detector, value in (("combined", 0.8), ("TF-IDF", 0.6))
    ]
    table = pd.DataFrame(rows, columns=["kind", "rate", "detector", "value", "low", "high"])
    ax = plots.detectors(table, n=1_500, n_seeds=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["TF-IDF", "combined"]
    assert [panel.get_title(loc="left") for panel in ax.figure.axes] == [
        "ambiguous errors",
        "uniform errors",
    ]
    assert "n = 1,500 rows, 3 seeds" in ax.figure.get_suptitle()
    assert [text.get_text() for text in ax.figure.axes[-1].get_legend().get_texts()] == [
        "5% wrong",
        "10% wrong",
    ]
    np.testing.assert_allclose(
        [bars.get_segments()[-1][:, 0] for bars in ax.collections], [[0.7, 0.85]] * 2
    )


def test_fold_scores_show_each_fold_the_mean_and_which_member_is_chosen():
    scores = pd.DataFrame({"member": ["a", "b"] * 3, "macro_f1": [0.8, 0.7, 0.9, 0.7, 0.85, 0.7]})
    compared = pd.DataFrame(
        {
            "macro_f1": [0.85, 0.7],
            "low": [0.7, 0.65],
            "high": [0.95, 0.75],
            "chosen": [True, False],
        },
        index=["a", "b"],
    )
    ax = plots.fold_scores(scores, compared, n=1200)
    assert ax.get_title(loc="left") == "Cross-validation (n = 1,200 texts, 3 folds)"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a (chosen)", "b"]
    assert sorted(ax.lines[0].get_xdata()) == [0.8, 0.85, 0.9]
    ends = [segment[:, 0].tolist() for line in ax.collections for segment in line.get_segments()]
    np.testing.assert_allclose(ends, [[0.7, 0.95], [0.65, 0.75]])


def test_a_learning_curve_is_drawn_with_its_law_up_to_twice_the_texts():
    table = pd.DataFrame(
        {"macro_f1": [0.6, 0.8], "low": [0.5, 0.7], "high": [0.7, 0.85]}, index=[100, 400]
    )
    ax = plots.learning_curve(table, lambda n: 0.5 + n / 2000, n=90)
    assert ax.get_title(loc="left") == "TF-IDF by training size (n = 90 held-out texts)"
    measured, expected = ax.lines[-2].get_xydata(), ax.lines[-1].get_xydata()
    assert (measured[0, 0], expected[-1, 0], expected[-1, 1]) == (100, 800, 0.9)
    assert measured[:, 0].max() <= 400 <= expected[:, 0].min()
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["100", "400", "800"]


def test_detectable_gains_are_drawn_in_points_with_the_size_of_each_split():
    table = pd.DataFrame(
        {"val": [0.01, 0.02], "test": [0.005, 0.01], "more": [0.01, 0.02]}, index=[0.05, 0.1]
    )
    ax = plots.detectable_gains(table, sizes=pd.Series({"val": 1000, "test": 4000, "more": 1000}))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "val, more (n = 1,000)",
        "test (n = 4,000)",
    ]
    np.testing.assert_allclose(
        [line.get_xydata() for line in ax.lines], [[[5, 1], [10, 2]], [[5, 0.5], [10, 1]]]
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "rows where one model alone is right (%)",
        "gain in accuracy (points)",
    )


def test_many_features_are_drawn_in_two_columns_with_a_panel_each():
    titles = {f"f{i}": f"feature {i}" for i in range(7)}
    table = pd.DataFrame({column: np.arange(20.0) for column in titles})
    ax = plots.features_by_class(table, pd.Series(["a", "b"] * 10), titles=titles)
    drawn = ax.figure.axes
    assert [panel.get_title(loc="left") for panel in drawn] == list(titles.values())
    assert (
        len({round(panel.get_subplotspec().get_position(ax.figure).x0, 3) for panel in drawn}) == 2
    )
    few = plots.features_by_class(
        table, pd.Series(["a", "b"] * 10), titles=dict(list(titles.items())[:5])
    ).figure.axes
    assert len({panel.get_subplotspec().get_position(few[0].figure).x0 for panel in few}) == 1


def test_the_history_of_a_search_shows_the_best_so_far_and_pruned_trials_where_they_stood():
    ax = plots.search_history(search_trials(), n=400)
    best, complete, pruned = (line.get_xydata().tolist() for line in ax.lines)
    assert best == [[1, 0.5], [2, 0.5], [3, 0.5], [4, 0.9]]  # a failed trial has no place
    assert complete == [[1, 0.5], [3, 0.4], [4, 0.9]]
    assert pruned == [[2, 0.1]]


def test_a_line_leads_from_the_settings_of_a_complete_trial_to_its_value():
    ax = plots.parallel_coordinates(
        search_trials(),
        ["learning_rate", "epochs", "eval_rows", "unfreeze"],
        logarithmic=["learning_rate"],
    )
    lines = [line.get_ydata() for line in ax.lines if len(line.get_ydata()) == 5]
    np.testing.assert_allclose(
        lines, [[0.5, 1, 1, 0, 0], [0, 0, 0, 1, 0.2], [1, 1, 0, 1, 1]]
    )  # the worst first, the best on top
    names = {text.get_text() for text in ax.texts}
    assert {"0.001", "none", "20", "[0, \\$6]", "0.9"} <= names


def test_each_member_that_joins_is_drawn_with_its_gain_and_named():
    curve = pd.DataFrame(
        {
            "member": ["best", "second"],
            "gain": [0.0, 0.02],
            "low": [0.0, 0.01],
            "high": [0.0, 0.03],
        },
        index=[1, 2],
    )
    ax = plots.member_gains(curve, n=1_500)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["best", "+ second"]
    assert ax.get_lines()[0].get_ydata().tolist() == [0.0, 0.02]
    assert "n = 1,500" in titles(ax)


def test_prediction_sets_are_drawn_as_promised_and_kept_beside_their_size():
    table = pd.DataFrame(
        {"covered": [0.82, 0.9], "low": [0.8, 0.88], "high": [0.84, 0.92], "mean_size": [1.0, 1.5]},
        index=[0.8, 0.9],
    )
    ax = plots.conformal({"over all texts": table, "by class": table}, n=300)
    kept, cost = ax.figure.axes
    assert kept.get_lines()[0].get_xdata().tolist() == kept.get_lines()[0].get_ydata().tolist(), (
        "the line of promises"
    )
    assert [line.get_ydata().tolist() for line in cost.get_lines()] == [[1.0, 1.5]] * 2
    assert [text.get_text() for text in kept.get_legend().get_texts()] == [
        "as promised",
        "over all texts",
        "by class",
    ]
    assert "n = 300" in titles(ax)


def test_accuracy_is_drawn_from_all_texts_answered_to_the_surest():
    table = pd.DataFrame(
        {"accuracy": [0.99, 0.9], "low": [0.97, 0.88], "high": [1.0, 0.92]}, index=[0.5, 1.0]
    )
    ax = plots.accuracy_answered({"ensemble": table}, n=300)
    left, right = ax.get_xlim()
    assert left > right, "the share that is answered falls to the right"
    assert ax.get_lines()[0].get_ydata().tolist() == [0.99, 0.9]
    assert "n = 300" in titles(ax)


def test_bins_of_few_rows_are_left_out_of_the_reliability_where_there_are_larger_ones():
    few = pd.DataFrame(
        {"confidence": [0.25, 0.55, 0.95], "accuracy": [1.0, 0.5, 0.9], "n": [2, 400, 834]}
    )
    ax = plots.reliability({"a": few})
    assert ax.collections[0].get_offsets().tolist() == [[0.55, 0.5], [0.95, 0.9]]
    assert "n = 1,236; bins of 10 or more" in titles(ax)
    assert len(plots.reliability({"a": few.assign(n=[2, 3, 4])}).collections[0].get_offsets()) == 3


def test_what_is_reported_of_a_batch_bears_a_mark():
    p = pd.DataFrame({"language": [0.5, 0.001], "class mix": [np.nan, 0.2]})
    ax = plots.drift(p, limit=0.01, names=["1: $", "2: b"])
    assert [(text.get_text(), text.get_position()) for text in ax.texts] == [("!", (1, 0))]
    shade = ax.images[0].get_array()
    assert shade.shape == (2, 2)
    assert shade[0, 1] == pytest.approx(1.5)  # the colour turns at 1, where p is the limit
    assert [label.get_text() for label in ax.get_yticklabels()] == ["language", "class mix"]


def test_estimated_and_measured_accuracy_stand_side_by_side():
    index = pd.MultiIndex.from_tuples(
        [(1, "estimated"), (1, "measured"), (2, "estimated")], names=["batch", "accuracy"]
    )
    table = pd.DataFrame(
        {"value": [0.8, 0.7, 0.9], "low": [0.7, 0.6, 0.85], "high": [0.9, 0.8, 0.95]}, index=index
    ).assign(n=[1_000, 20, 990])
    ax = plots.accuracy_by_batch(table, expected=0.75)
    assert ax.get_title(loc="left").endswith("(at most 1,000 texts a batch)")
    drawn = [line.get_xydata().tolist() for line in ax.lines if line.get_linestyle() == "None"]
    assert [[1.0, 0.8], [2.0, 0.9]] in drawn
    assert [[1.15, 0.7]] in drawn
    assert ax.lines[0].get_ydata()[0] == 0.75
