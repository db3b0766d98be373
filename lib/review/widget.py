"""The label reviewer of a notebook: one queued row at a time, decided by buttons or keys.

Each decision is on disk at once.
"""

from __future__ import annotations

import html
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import pandas as pd
import traitlets

from lib.errors import WorkbookError
from lib.review.decisions import (
    DECISIONS,
    last_decisions,
    read_decisions,
    record_decisions,
    withdraw_decision,
)

Neighbours = Mapping[int, Sequence[tuple[str, str]]]
KEYS = {
    "k": "keep",
    "r": "relabel",
    "d": "drop",
    "u": "unsure",
    "z": "undo",
    "ArrowLeft": "previous",
    "ArrowRight": "next",
}
ELSEWHERE = (
    "The reviewer runs in JupyterLab: open this notebook there and run it. Elsewhere, open "
    "review_queue.csv in a spreadsheet, fill in the columns decision or new_label, save, and run "
    "this notebook again."
)
EMPTY = "Nothing is queued for review."
N_NEIGHBOURS = 3
LEGEND = (
    "<small>Keys, after a click into the frame: <kbd>k</kbd> keep, <kbd>r</kbd> relabel, "
    "<kbd>d</kbd> drop, <kbd>u</kbd> unsure, <kbd>z</kbd> undo, <kbd>left arrow</kbd> previous, "
    "<kbd>right arrow</kbd> next; <kbd>Enter</kbd> leaves a field.</small>"
)
_STATIC = Path(__file__).parent / "static"
_SURROGATES = re.compile(r"[\ud800-\udfff]")
# Characters that no line of a UTF-8 file holds.
_NOT_IN_A_LINE = re.compile(r"[\x00-\x1f\ud800-\udfff]+")


class Keys(anywidget.AnyWidget):
    """Tells Python which key was pressed in the reviewer around it, and at which row.

    ipywidgets has no key events.
    """

    row = traitlets.Int(0).tag(sync=True)
    known = traitlets.List(list(KEYS)).tag(sync=True)
    _esm = _STATIC / "reviewer.js"
    _css = _STATIC / "reviewer.css"


class Reviewer:
    """A queue under review: the position, the decisions of this session, and the widget.

    Attributes
    ----------
    position : the row that is shown, counted from 0
    panel : the widget, made when it is first asked for
    """

    def __init__(
        self,
        queue: pd.DataFrame,
        *,
        decisions_path: Path,
        class_names: Sequence[str],
        neighbours: Neighbours,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rows = queue.to_dict("records")
        self.path = decisions_path
        self.class_names = list(class_names)
        self.neighbours = neighbours
        self._clock = clock
        # Of each decision: position, the line on disk, seconds that it took.
        self._session: list[tuple[int, list[str], float]] = []
        self._last = last_decisions(read_decisions(decisions_path))
        undecided = [i for i in range(len(self.rows)) if not self._decision(i)]
        self.position = undecided[0] if undecided else 0
        self._shown_at = clock()

    def decide(self, decision: str, *, new_label: str = "", why: str = "") -> None:
        """Record a decision about the row that is shown, and go to the next row.

        Raises
        ------
        WorkbookError : the recorded decisions have a broken line, or cannot be written; nothing
            changes.
        """
        row = self.rows[self.position]
        new_label = new_label if decision == "relabel" else ""
        why = _NOT_IN_A_LINE.sub(" ", why).strip()
        answer = (row["fingerprint"], decision, row["label"], new_label, why)
        decisions = record_decisions(self.path, [answer])
        seconds = self._clock() - self._shown_at
        self._session.append((self.position, decisions.iloc[-1].tolist(), seconds))
        self._last = last_decisions(decisions)
        self.move(1)

    def undo(self) -> bool:
        """Withdraw the last decision of this session and go back to its row; False if impossible.

        Raises
        ------
        WorkbookError : the recorded decisions have a broken line, or cannot be written; nothing
            changes.
        """
        if not self._session:
            return False
        position, decision, _ = self._session[-1]
        remaining = withdraw_decision(self.path, decision)
        if remaining is None:
            return False
        self._session.pop()
        self._last = last_decisions(remaining)
        self.position = position
        self._shown_at = self._clock()
        return True

    def move(self, step: int) -> None:
        """Go on (1) or back (-1) by a row, within the queue."""
        self.position = min(max(self.position + step, 0), len(self.rows) - 1)
        self._shown_at = self._clock()

    def progress(self) -> str:
        """Return the position, the median seconds a row of this session, and the time left."""
        n_rows = len(self.rows)
        n_decided = sum(bool(self._decision(i)) for i in range(n_rows))
        position = f"{self.position + 1} of {n_rows}, {n_decided} decided"
        if not self._session:
            return position
        seconds = statistics.median(seconds for _, _, seconds in self._session)
        minutes_left = seconds * (n_rows - n_decided) / 60
        return f"{position}; {seconds:.0f} s a row, about {minutes_left:.0f} min left"

    def press(self, action: str) -> None:
        """Do what a button or key stands for, and show the outcome."""
        before = (self.position, len(self._session))
        try:
            message = self._act(action)
        except WorkbookError as error:
            message = f"Nothing was recorded. {error}"
        if before != (self.position, len(self._session)):
            self._clear_fields()
        self._show(message)

    @cached_property
    def panel(self) -> widgets.VBox:
        """Return the widget."""
        if not self.rows:
            return widgets.VBox([widgets.HTML(f"<p>{EMPTY}</p>")])
        self._keys = Keys()
        self._keys.on_msg(self._on_key)
        self._card = widgets.HTML()
        self._message = widgets.HTML()
        self._choice = widgets.Dropdown(options=self.class_names, description="New label")
        self._why = widgets.Text(
            description="Why", placeholder="optional", layout={"width": "36em"}
        )
        self.buttons = {action: self._button(action) for action in KEYS.values()}
        buttons = list(self.buttons.values())
        box = partial(widgets.HBox, layout={"flex_flow": "row wrap"})
        children = [
            self._card,
            box([self._choice, self._why]),
            box(buttons[: len(DECISIONS)]),
            box(buttons[len(DECISIONS) :]),
            self._message,
            widgets.HTML(LEGEND),
            self._keys,
        ]
        panel = widgets.VBox(children)
        panel.add_class("label-reviewer")
        self._clear_fields()
        self._show("")
        return panel

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        sentence = ELSEWHERE if self.rows else EMPTY
        view = self.panel._repr_mimebundle_() if _is_interactive() else {}
        return {**view, "text/plain": sentence, "text/html": f"<p>{sentence}</p>"}

    def _button(self, action: str) -> widgets.Button:
        button = widgets.Button(description=action.capitalize(), layout={"width": "7em"})
        button.on_click(lambda _: self.press(action))
        return button

    def _act(self, action: str) -> str:
        """Do what a button or key stands for; return what to tell the person."""
        if action == "undo":
            return self._undo_message()
        if action in ("previous", "next"):
            self.move(1 if action == "next" else -1)
            return ""
        new_label = self._choice.value
        if action == "relabel" and new_label is None:
            return "Choose another label first."
        if action == "relabel" and new_label == self.rows[self.position]["label"]:
            return "It has this label already: choose another, or keep it."
        was_last = self.position == len(self.rows) - 1
        self.decide(action, new_label=new_label or "", why=self._why.value)
        message = f"Recorded: {action}."
        if was_last:
            message += " That was the last row; run this notebook again to apply the decisions."
        return message

    def _undo_message(self) -> str:
        if self.undo():
            return "Withdrawn."
        if self._session:
            return "Somebody else has decided since: yours stays. Go back and decide again instead."
        return "Nothing was decided in this session yet."

    def _clear_fields(self) -> None:
        row = self.rows[self.position]
        suggestion = row["suggestion"]
        is_choice = suggestion in self.class_names and suggestion != row["label"]
        self._choice.value = suggestion if is_choice else None
        self._why.value = ""

    def _on_key(self, _: Any, content: dict[str, Any], __: Any) -> None:
        # A key that was pressed at a row that is gone decides nothing.
        if content.get("row") == self.position and content.get("key") in KEYS:
            self.press(KEYS[content["key"]])

    def _decision(self, position: int) -> str:
        """Return the last decision on a row, and its new label; blank where there is none."""
        row = self.rows[position]
        decision = self._last.get((row["fingerprint"], row["label"]), ())
        return " ".join(decision).strip()

    def _show(self, message: str) -> None:
        row = self.rows[self.position]
        done = f'<progress value="{self.position + 1}" max="{len(self.rows)}"></progress>'
        facts = _facts_html(row, self._decision(self.position))
        text = f'<div class="text" dir="auto" tabindex="0">{_safe(row["text"])}</div>'
        neighbours = _neighbours_html(self.neighbours.get(row["row_id"], []))
        self._card.value = f"{done}{self.progress()}<br>{facts}{text}{neighbours}"
        self._message.value = f'<div role="status">{_safe(message)}</div>'
        self._keys.row = self.position


def review(
    queue: pd.DataFrame,
    *,
    decisions_path: Path,
    class_names: Sequence[str],
    neighbours: Neighbours | None = None,
) -> Reviewer:
    """Show queued rows one by one and record what a person decides.

    In JupyterLab the last line of a cell shows the widget. Where nobody can press a button
    (papermill, nbval, a page) it shows a sentence that says where to decide.

    Parameters
    ----------
    queue : from `issues.review_queue`
    decisions_path : decisions.csv; each decision is appended at once
    class_names : the labels to choose from
    neighbours : the nearest texts of a row, nearest first: row_id -> [(text, label)]; three are
        shown

    Raises
    ------
    WorkbookError : the recorded decisions have a broken line; it is named.
    """
    return Reviewer(
        queue, decisions_path=decisions_path, class_names=class_names, neighbours=neighbours or {}
    )


def _is_interactive() -> bool:
    """Return whether a person may be at the front end.

    Batch runners say in their requests that they take no input.
    """
    from IPython import get_ipython

    shell = get_ipython()
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return bool(request.get("content", {}).get("allow_stdin", True))


def _facts_html(row: Mapping[str, Any], decision: str) -> str:
    score = "" if pd.isna(row["score"]) else f"{row['score']:.2f}"
    suggestion = "" if pd.isna(row["suggestion"]) else row["suggestion"]
    facts = {
        "label": row["label"],
        "suggested": suggestion,
        "label error score": score,
        "reason": row["reason"],
        "decided": decision,
    }
    shown = [f'{name}: <b dir="auto">{_safe(fact)}</b>' for name, fact in facts.items() if fact]
    return " · ".join(shown)


def _neighbours_html(neighbours: Sequence[tuple[str, str]]) -> str:
    shown = [
        f'<div class="text neighbour" dir="auto">{_safe(text)}</div>'
        f'labelled <b dir="auto">{_safe(label)}</b>'
        for text, label in neighbours[:N_NEIGHBOURS]
    ]
    return "Nearest texts:" + "".join(shown) if shown else ""


def _safe(text: object) -> str:
    return html.escape(_SURROGATES.sub("\ufffd", str(text)))
