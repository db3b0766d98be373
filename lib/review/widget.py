"""The label reviewer of a notebook: one queued row at a time, by buttons or keys; each decision is on disk at once."""

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
from lib.review.labels import read_decisions, record_decisions, withdraw_decision

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
    "The reviewer runs in JupyterLab: open this notebook there and run it. Elsewhere, open review_queue.csv in a spreadsheet, "
    "fill in the columns decision or new_label, save, and run this notebook again."
)
EMPTY = "Nothing is queued for review."
STYLE = """<style>
.label-reviewer { padding: 8px; border: 1px solid var(--jp-border-color2, #bbb); max-width: 60em; }
.label-reviewer:focus { outline: 2px solid var(--jp-brand-color1, #1976d2); }
.label-reviewer progress { width: 12em; margin-right: 1em; }
.label-reviewer .text { white-space: pre-wrap; overflow-wrap: anywhere; overflow: auto; max-height: 22em; padding: 8px; margin: 6px 0;
  unicode-bidi: isolate; line-height: 1.4; background: var(--jp-layout-color2, #eee); }
.label-reviewer .neighbour { max-height: 5em; }
</style>"""


class Keys(anywidget.AnyWidget):
    """Tells Python which key was pressed in the reviewer around it, and at which row; ipywidgets has no key events.

    Keys do nothing in a field and while they are held down. No key reaches JupyterLab, whose `d d` deletes the cell.
    """

    row = traitlets.Int(0).tag(sync=True)
    known = traitlets.List(list(KEYS)).tag(sync=True)
    _esm = """
    export default {
      render({ model, el }) {
        const listening = new AbortController();
        const fields = "input, select, textarea";
        let byMouse = false;
        const attach = () => {
          const box = el.closest(".label-reviewer");
          if (!box) { if (!listening.signal.aborted) setTimeout(attach, 50); return; }
          const on = (name, act, capture = false) => box.addEventListener(name, act, { capture, signal: listening.signal });
          const plain = (event) => !(event.ctrlKey || event.metaKey || event.altKey || event.isComposing);
          const focus = () => box.focus({ preventScroll: true });
          box.tabIndex = 0;
          on("pointerdown", () => { byMouse = true; });
          on("click", (event) => { if (!event.target.closest(fields)) focus(); });
          on("change", (event) => { if (byMouse && event.target.matches("select")) focus(); });
          on("keydown", (event) => {
            byMouse = false;
            if (!plain(event)) return;
            if (event.target.closest(fields)) { if (["Enter", "Escape"].includes(event.key)) focus(); return; }
            const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
            if (!model.get("known").includes(key)) return;
            event.preventDefault();
            if (!event.repeat) model.send({ key, row: model.get("row") });
          }, true);  // before the text field, which lets no key through
          on("keydown", (event) => { if (plain(event)) event.stopPropagation(); });
        };
        attach();
        return () => listening.abort();
      },
    };
    """


class Reviewer:
    """A queue under review: where the person is, what was decided in this session, and the widget that shows it.

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
        self.rows, self.path, self.class_names, self.neighbours, self._clock = (
            queue.to_dict("records"),
            decisions_path,
            list(class_names),
            neighbours,
            clock,
        )
        self._session: list[
            tuple[int, list[str], float]
        ] = []  # position, the line on disk, seconds that it took
        self._see(read_decisions(decisions_path))
        self.position = next((i for i in range(len(self.rows)) if not self._decision(i)), 0)
        self._shown_at = clock()

    def decide(self, decision: str, *, new_label: str = "", why: str = "") -> None:
        """Record a decision about the row that is shown, and go to the next row.

        Raises
        ------
        WorkbookError : the recorded decisions have a broken line, or cannot be written; nothing changes.
        """
        row = self.rows[self.position]
        why = re.sub(
            r"[\x00-\x1f\ud800-\udfff]+", " ", why
        ).strip()  # what no line of a UTF-8 file holds
        decisions = record_decisions(
            self.path,
            [
                (
                    row["fingerprint"],
                    decision,
                    row["label"],
                    new_label if decision == "relabel" else "",
                    why,
                )
            ],
        )
        self._session.append(
            (self.position, decisions.iloc[-1].tolist(), self._clock() - self._shown_at)
        )
        self._see(decisions)
        self.move(1)

    def undo(self) -> bool:
        """Take back the last decision of this session and go back to its row; False where that cannot be done.

        Raises
        ------
        WorkbookError : the recorded decisions have a broken line, or cannot be written; nothing changes.
        """
        decisions = withdraw_decision(self.path, self._session[-1][1]) if self._session else None
        if decisions is None:
            return False
        self._see(decisions)
        self.position = self._session.pop()[0]
        self._shown_at = self._clock()
        return True

    def move(self, step: int) -> None:
        """Go on (1) or back (-1) by a row, within the queue."""
        self.position = min(max(self.position + step, 0), len(self.rows) - 1)
        self._shown_at = self._clock()

    def progress(self) -> str:
        """Return where the person is, how long a row takes (the median of this session) and what is left."""
        n_decided = sum(bool(self._decision(i)) for i in range(len(self.rows)))
        where = f"{self.position + 1} of {len(self.rows)}, {n_decided} decided"
        if not self._session:
            return where
        seconds = statistics.median(entry[2] for entry in self._session)
        return f"{where}; {seconds:.0f} s a row, about {seconds * (len(self.rows) - n_decided) / 60:.0f} min left"

    def press(self, action: str) -> None:
        """Do what a button or key stands for, and show the outcome."""
        before = self.position, len(self._session)
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
        self._keys, self._card, self._said = Keys(), widgets.HTML(), widgets.HTML()
        self._choice = widgets.Dropdown(
            options=self.class_names, value=None, description="New label"
        )
        self._why = widgets.Text(
            description="Why", placeholder="optional", layout=widgets.Layout(width="36em")
        )
        self.buttons = {
            action: widgets.Button(
                description=action.capitalize(), layout=widgets.Layout(width="7em")
            )
            for action in KEYS.values()
        }
        for action, button in self.buttons.items():
            button.on_click(lambda _, action=action: self.press(action))
        self._keys.on_msg(self._key_pressed)
        row = partial(widgets.HBox, layout=widgets.Layout(flex_flow="row wrap"))
        decide, move = (
            row([self.buttons[action] for action in actions])
            for actions in (list(KEYS.values())[:4], list(KEYS.values())[4:])
        )
        names = {"ArrowLeft": "left arrow", "ArrowRight": "right arrow"}
        legend = "Keys, after a click into the frame: " + ", ".join(
            f"<kbd>{names.get(key, key)}</kbd> {action}" for key, action in KEYS.items()
        )
        legend = widgets.HTML(f"<small>{legend}; <kbd>Enter</kbd> leaves a field.</small>")
        panel = widgets.VBox(
            [
                widgets.HTML(STYLE),
                self._card,
                row([self._choice, self._why]),
                decide,
                move,
                self._said,
                legend,
                self._keys,
            ]
        )
        panel.add_class("label-reviewer")
        self._clear_fields()
        self._show("")
        return panel

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        sentence = ELSEWHERE if self.rows else EMPTY
        view = self.panel._repr_mimebundle_() if _is_interactive() else {}
        return {**view, "text/plain": sentence, "text/html": f"<p>{sentence}</p>"}

    def _act(self, action: str) -> str:
        if action == "undo":
            return "Taken back." if self.undo() else _why_no_undo(bool(self._session))
        if action in ("previous", "next"):
            self.move(-1 if action == "previous" else 1)
            return ""
        row, new_label = self.rows[self.position], self._choice.value
        if action == "relabel" and new_label in (None, row["label"]):
            return (
                "Choose another label first."
                if new_label is None
                else "It has this label already: choose another, or keep it."
            )
        was_last = self.position == len(self.rows) - 1
        self.decide(action, new_label=new_label or "", why=self._why.value)
        return f"Recorded: {action}." + (
            " That was the last row; run this notebook again to apply the decisions."
            if was_last
            else ""
        )

    def _clear_fields(self) -> None:
        row = self.rows[self.position]
        fits = row["suggestion"] in self.class_names and row["suggestion"] != row["label"]
        self._choice.value, self._why.value = row["suggestion"] if fits else None, ""

    def _key_pressed(self, _: Any, content: dict[str, Any], __: Any) -> None:
        if (
            content.get("row") == self.position and content.get("key") in KEYS
        ):  # a key pressed at a row that is gone decides nothing
            self.press(KEYS[content["key"]])

    def _see(self, decisions: pd.DataFrame) -> None:
        self._last = {
            (row.fingerprint, row.old_label): f"{row.decision} {row.new_label}".strip()
            for row in decisions.itertuples()
        }

    def _decision(self, position: int) -> str:
        return self._last.get(
            (self.rows[position]["fingerprint"], self.rows[position]["label"]), ""
        )

    def _show(self, message: str) -> None:
        row, decision = self.rows[self.position], self._decision(self.position)
        near = self.neighbours.get(row["row_id"], [])[:3]
        facts = {
            "label": row["label"],
            "suggested": row["suggestion"],
            "doubt": row["score"],
            "reason": row["reason"],
            "decided": decision,
        }
        said = [
            f'{name}: <b dir="auto">{_safe(f"{value:.2f}" if name == "doubt" else value)}</b>'
            for name, value in facts.items()
            if value != "" and not pd.isna(value)
        ]
        close = [
            f'<div class="text neighbour" dir="auto">{_safe(text)}</div>labelled <b dir="auto">{_safe(label)}</b>'
            for text, label in near
        ]
        share = f'<progress value="{self.position + 1}" max="{len(self.rows)}"></progress>{self.progress()}'
        text = f'<div class="text" dir="auto" tabindex="0">{_safe(row["text"])}</div>'
        self._card.value = (
            "<br>".join([share, " · ".join(said)])
            + text
            + ("Nearest texts:" + "".join(close) if close else "")
        )
        self._said.value = f'<div role="status">{_safe(message)}</div>'
        self._keys.row = self.position


def review(
    queue: pd.DataFrame,
    *,
    decisions_path: Path,
    class_names: Sequence[str],
    neighbours: pd.DataFrame | Neighbours | None = None,
) -> Reviewer:
    """Show queued rows one by one and record what a person decides.

    In JupyterLab the last line of a cell shows the widget. Where nobody can press a button (papermill, nbval, a page)
    it shows a sentence that says where to decide.

    Parameters
    ----------
    queue : what `labels.review_queue` gives
    decisions_path : decisions.csv; each decision is appended at once
    class_names : the labels to choose from
    neighbours : the nearest texts of a row, nearest first: row_id -> [(text, label)], or a table with `row_id` (of the queued
        row), `text` and `label`; three are shown

    Raises
    ------
    WorkbookError : the recorded decisions have a broken line; it is named.
    """
    if isinstance(neighbours, pd.DataFrame):
        neighbours = {
            row_id: list(zip(rows["text"], rows["label"]))
            for row_id, rows in neighbours.groupby("row_id", sort=False)
        }
    return Reviewer(
        queue, decisions_path=decisions_path, class_names=class_names, neighbours=neighbours or {}
    )


def _is_interactive() -> bool:
    """Return whether a person may be at the front-end: batch runners say in their requests that they take no input."""
    from IPython import get_ipython

    shell = get_ipython()
    request = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return bool(request.get("content", {}).get("allow_stdin", True))


def _why_no_undo(decided: bool) -> str:
    return (
        "Somebody else has decided since: yours stays. Go back and decide again instead."
        if decided
        else "Nothing was decided in this session yet."
    )


def _safe(text: object) -> str:
    return html.escape(re.sub(r"[\ud800-\udfff]", "\ufffd", str(text)))
