"""What people decided about labels: collected from the queue, recorded, replayed on every run."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lib import provenance, workspace
from lib.config import closest
from lib.errors import WorkbookError, listed, quoted
from lib.review.issues import QUEUE_COLUMNS
from lib.review.sheets import read_sheet, save_sheet, to_csv, unquote, write_lock

DECISIONS = ("keep", "relabel", "drop", "unsure")
ANSWER_COLUMNS = ["fingerprint", "decision", "old_label", "new_label", "why"]
DECISION_COLUMNS = ["fingerprint", "decision", "old_label", "new_label", "who", "when", "why"]


@dataclass(frozen=True)
class Replay:
    """Rows after all recorded decisions.

    Attributes
    ----------
    rows : the rows that stay, with the labels that people gave them, and `decided` (bool)
    dropped : the rows that people dropped
    applied : decisions that matched a row (the last one on each text and label)
    unmatched : decisions whose text, with that label, is not in the data; listed, never lost
    n_recorded : all recorded decisions, those that a later one replaced included
    """

    rows: pd.DataFrame
    dropped: pd.DataFrame
    applied: pd.DataFrame
    unmatched: pd.DataFrame
    n_recorded: int

    def class_losses(self) -> pd.DataFrame:
        """Return the decisions that take a row from its class, as `label` and `rule`."""
        losses = self.applied[self.applied["decision"].isin(["drop", "relabel"])]
        return losses.rename(columns={"old_label": "label", "decision": "rule"})

    def describe(self, *, n_new: int) -> str:
        """Say how many decisions there are, `n_new` of them new, and what they do."""
        return (
            f"{n_new:,} new decisions; {self.n_recorded:,} recorded. "
            f"{len(self.applied):,} apply to texts of this data; "
            f"{len(self.unmatched):,} match no text here (listed above). "
            f"{len(self.dropped):,} rows are dropped by decision."
        )


def save_queue(queue: pd.DataFrame, path: Path) -> None:
    """Write the queue as CSV that a spreadsheet opens; no cell can be a formula."""
    rounded = queue.assign(score=queue["score"].astype(float).round(4))
    save_sheet(rounded, path)


def collect_decisions(queue_path: Path, decisions_path: Path, *, class_names: Sequence[str]) -> int:
    """Record what a person filled in in the queue; return how many decisions are new.

    Raises
    ------
    WorkbookError : a row has an unknown decision or label; the line is named, and nothing is
        recorded.
    """
    if not queue_path.exists():
        return 0
    recorded = last_decisions(read_decisions(decisions_path))
    new_answers = []
    for line, row in read_sheet(queue_path, required=QUEUE_COLUMNS):
        decision = row["decision"].strip().lower()
        new_label = _class_named(unquote(row["new_label"]), class_names)
        old_label = unquote(row["label"])
        if not decision and not new_label:
            continue
        decision = decision or "relabel"
        where = f"{queue_path}, line {line}"
        _check_decision(decision, new_label, where=where)
        if decision == "relabel" and new_label not in class_names:
            raise WorkbookError(
                f"{where}: {quoted(new_label)} is not a label of the data"
                f"{closest(new_label, class_names)}; the labels are "
                f"{listed(map(quoted, class_names))}"
            )
        if recorded.get((row["fingerprint"], old_label)) != (decision, new_label):
            why = unquote(row["why"])
            new_answers.append((row["fingerprint"], decision, old_label, new_label, why))
    if new_answers:
        record_decisions(decisions_path, new_answers)
    return len(new_answers)


def record_decisions(path: Path, answers: Sequence[tuple[str, str, str, str, str]]) -> pd.DataFrame:
    """Append decisions to the recorded ones, with who and when; all are written or none.

    Parameters
    ----------
    path : decisions.csv; made where it does not exist yet
    answers : the ANSWER_COLUMNS of each: (fingerprint, decision, old label, new label, why)

    Returns
    -------
    DataFrame with DECISION_COLUMNS, all decisions that are recorded now, the new ones last

    Raises
    ------
    WorkbookError : an answer is not a decision, the recorded ones have a broken line, or the file
        cannot be written; nothing changes.
    """
    for _, decision, _, new_label, _ in answers:
        _check_decision(decision, new_label, where=str(path))
    added = pd.DataFrame(answers, columns=ANSWER_COLUMNS, dtype=object)
    added["who"] = _user_name()
    added["when"] = provenance.now()
    with write_lock(path):
        decisions = pd.concat([read_decisions(path), added[DECISION_COLUMNS]], ignore_index=True)
        workspace.write_text(to_csv(decisions), path)
    return decisions


def withdraw_decision(path: Path, decision: Sequence[str]) -> pd.DataFrame | None:
    """Remove the last recorded decision if it is this one.

    Parameters
    ----------
    path : decisions.csv
    decision : its cells, in the order of DECISION_COLUMNS

    Returns
    -------
    DataFrame with DECISION_COLUMNS, what stays recorded; None where another decision is the last
    one, and nothing changes

    Raises
    ------
    WorkbookError : the recorded decisions have a broken line, or the file cannot be written;
        nothing changes.
    """
    with write_lock(path):
        decisions = read_decisions(path)
        if decisions.empty or decisions.iloc[-1].tolist() != list(decision):
            return None
        remaining = decisions.iloc[:-1]
        workspace.write_text(to_csv(remaining), path)
    return remaining


def read_decisions(path: Path) -> pd.DataFrame:
    """Read recorded decisions; an empty table where there are none.

    Raises
    ------
    WorkbookError : a line has an unknown decision or lacks a cell; it is named.
    """
    lines = read_sheet(path, required=DECISION_COLUMNS) if path.exists() else []
    for line, row in lines:
        _check_decision(row["decision"], row["new_label"], where=f"{path}, line {line}")
    cells = [[unquote(row[column]) for column in DECISION_COLUMNS] for _, row in lines]
    return pd.DataFrame(cells, columns=DECISION_COLUMNS, dtype=object)


def last_decisions(decisions: pd.DataFrame) -> dict[tuple[str, str], tuple[str, str]]:
    """Return the last decision and new label on each (fingerprint, old label)."""
    subjects = zip(decisions["fingerprint"], decisions["old_label"])
    outcomes = zip(decisions["decision"], decisions["new_label"])
    return dict(zip(subjects, outcomes))


def apply_decisions(rows: pd.DataFrame, decisions: pd.DataFrame) -> Replay:
    """Replay decisions on rows, matched by the fingerprint of the raw text and the old label.

    The last decision on a text and label counts. Rows of one text under several labels are decided
    one by one.

    Parameters
    ----------
    rows : with `fingerprint` and `label`
    decisions : with DECISION_COLUMNS
    """
    last = decisions.drop_duplicates(["fingerprint", "old_label"], keep="last")
    last = last.set_index(last["fingerprint"] + "\x1f" + last["old_label"])
    subjects = rows["fingerprint"] + "\x1f" + rows["label"]
    decision = subjects.map(last["decision"])
    relabelled = rows["label"].mask(decision.eq("relabel"), subjects.map(last["new_label"]))
    replayed = rows.assign(label=relabelled, decided=decision.notna())
    is_dropped = decision.eq("drop")
    is_matched = last.index.isin(subjects)
    return Replay(
        rows=replayed[~is_dropped].reset_index(drop=True),
        dropped=rows[is_dropped].reset_index(drop=True),
        applied=last[is_matched].reset_index(drop=True),
        unmatched=last[~is_matched].reset_index(drop=True),
        n_recorded=len(decisions),
    )


def _class_named(words: str, class_names: Sequence[str]) -> str:
    """Return the class that a person wrote, whose blanks need not be right; else what they wrote.

    Examples
    --------
    >>> _class_named("neg", ["neg ", "pos"]), _class_named(" other", ["neg ", "pos"])
    ('neg ', 'other')
    """
    if words in class_names:
        return words
    by_words = {" ".join(name.split()): name for name in class_names}
    plain = " ".join(words.split())
    return by_words.get(plain, plain)


def _check_decision(decision: str, new_label: str, *, where: str) -> None:
    if decision not in DECISIONS:
        suggestion = closest(decision, DECISIONS)
        raise WorkbookError(
            f"{where}: decision {decision!r}{suggestion}; it is one of {', '.join(DECISIONS)}"
        )
    if decision == "relabel" and not new_label:
        raise WorkbookError(f"{where}: `relabel` needs a new_label")


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
