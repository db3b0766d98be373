"""The bar over a fit's iterations: it counts each, and closes full however the fit ends."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from lib.training import baseline, iteration_bar


class Bar:
    """What a bar was told."""

    def __init__(self, **options):
        self.total = options["total"]
        self.n = 0
        self.is_closed = False
        bars.append(self)

    def update(self):
        self.n += 1

    def close(self):
        self.is_closed = True


bars: list[Bar] = []


@pytest.fixture(autouse=True)
def counted(monkeypatch):
    bars.clear()
    monkeypatch.setattr(iteration_bar, "tqdm", Bar)


def model():
    return LogisticRegression(max_iter=200).set_callbacks(iteration_bar.IterationBar("fit"))


def test_each_iteration_counts_once_and_a_fit_that_converged_leaves_a_full_bar():
    values = np.random.default_rng(0).normal(size=(80, 4))
    fitted = model().fit(values, values[:, 0] > 0)
    (bar,) = bars
    n_iterations = int(fitted.n_iter_[0])
    assert 1 < n_iterations < 200
    # scikit-learn ends one more, which never ran
    assert bar.n in (n_iterations, n_iterations + 1)
    assert bar.total == bar.n and bar.is_closed


def test_a_fit_that_fails_closes_its_bar():
    with pytest.raises(ValueError, match="one class"):
        model().fit(np.ones((4, 1)), ["a"] * 4)
    assert all(bar.is_closed for bar in bars)


def test_the_baseline_shows_texts_and_iterations_where_it_is_asked_to(capsys):
    texts = ["good film", "bad book", "good story", "bad plot"] * 5
    labels = ["good", "bad"] * 10
    quiet = baseline.fit_baseline(texts, labels)
    assert not bars and capsys.readouterr().err == ""
    shown = baseline.fit_baseline(texts, labels, progress=True)
    assert len(bars) == 1
    assert "TF-IDF: 100%" in capsys.readouterr().err
    assert np.array_equal(quiet.predict_proba(texts), shown.predict_proba(texts))
