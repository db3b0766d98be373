"""A progress bar over the iterations of a scikit-learn model."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class IterationBar:
    """Shows how far a fit is; give it to `set_callbacks` of a model that has `max_iter`.

    A fit that converges ends before the last iteration: the time left is the longest it can take.
    """

    def __init__(self, desc: str) -> None:
        self._desc = desc
        self._bar: tqdm | None = None

    def setup(self, estimator: Any, context: Any) -> None:
        """Open the bar; scikit-learn calls this as the fit begins."""
        self._bar = tqdm(total=estimator.max_iter, desc=self._desc, unit="iteration")

    def on_fit_task_begin(self, estimator: Any, context: Any, **at_this_point: Any) -> None:
        """Do nothing; scikit-learn calls this before each iteration."""

    def on_fit_task_end(self, estimator: Any, context: Any, **at_this_point: Any) -> None:
        """Count an iteration that is done; the fit as a whole, which has no parent, is none."""
        if self._bar is not None and context.parent is not None:
            self._bar.update()

    def teardown(self, estimator: Any, context: Any) -> None:
        """Close the bar, full; scikit-learn calls this as the fit ends, also by an error."""
        if self._bar is not None:
            self._bar.total = self._bar.n
            self._bar.close()
