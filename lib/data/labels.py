"""Labels that look wrong, the queue a person reviews, and the decisions that replay on every later run."""

from __future__ import annotations

import csv
import getpass
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd

from lib import workspace
from lib.config import closest
from lib.data.sources import decode
from lib.errors import WorkbookError

DECISIONS = ("keep", "relabel", "drop", "unsure")
DECISION_COLUMNS = ["fingerprint", "decision", "old_label", "new_label", "who", "when", "why"]
QUEUE_COLUMNS = ["fingerprint", "row_id", "split", "label", "suggestion", "score", "reason", "text", "decision", "new_label", "why"]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula to a spreadsheet


@dataclass(frozen=True)
class Replay:
    """Rows after all recorded decisions.

    Attributes
    ----------
    rows : the rows that stay, with the labels that people gave them, and `decided` (bool)
    dropped : the rows that people dropped
    applied : decisions that matched a row (the last one on each text and label)
    unmatched : decisions whose text, with that label, is not in the data; listed, never lost
    """

    rows: pd.DataFrame
    dropped: pd.DataFrame
    applied: pd.DataFrame
    unmatched: pd.DataFrame


def rank_label_issues(labels: Sequence[str], probs: np.ndarray, *, class_names: Sequence[str], method: str = "self_confidence") -> pd.DataFrame:
    """Rank rows by how wrong their label looks.

    Parameters
    ----------
    labels : n labels, each one of `class_names`
    probs : ndarray of shape (n, k), out of fold: no row's own label may have taught them
    class_names : names of the k columns
    method : cleanlab's label quality score, "self_confidence", "normalized_margin" or "confidence_weighted_entropy"

    Returns
    -------
    DataFrame, worst first: `row` (position), `score` (0..1, higher is worse), `suggestion` (the likeliest class),
    `is_issue` (confident learning says that the label is wrong)

    Source
    ------
    Northcutt, Jiang, Chuang 2021, "Confident Learning".
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    codes = pd.Categorical(labels, categories=list(class_names)).codes.astype(int)
    if (codes < 0).any():
        raise ValueError(f"labels must be in class_names; row {int(np.argmax(codes < 0))} has {labels[int(np.argmax(codes < 0))]!r}")
    score = 1 - get_label_quality_scores(codes, probs, method=method)
    flagged = find_label_issues(codes, probs, n_jobs=1)
    table = pd.DataFrame({"row": np.arange(len(codes)), "score": score, "suggestion": np.asarray(class_names, dtype=object)[probs.argmax(axis=1)], "is_issue": flagged})
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def review_queue(rows: pd.DataFrame, issues: pd.DataFrame, conflicts: Sequence[int], *, n_rows: int) -> pd.DataFrame:
    """Order rows for a person: label conflicts first, then flagged rows, worst first.

    Parameters
    ----------
    rows : with `fingerprint`, `row_id`, `split`, `label`, `text` and `decided`; rows with a decision are left out
    issues : what `rank_label_issues` gives, with `row_id` in place of `row`
    conflicts : row_ids of duplicates that carry several labels
    n_rows : length of the queue; conflicts are queued even beyond it

    Returns
    -------
    DataFrame with QUEUE_COLUMNS; `decision`, `new_label` and `why` are blank, for the person
    """
    known = rows[~rows["decided"]].merge(issues, on="row_id", how="left")
    conflict = known[known["row_id"].isin(list(conflicts))].assign(reason="same text, several labels")
    flagged = known[known["is_issue"].eq(True) & ~known["row_id"].isin(conflict["row_id"])].assign(reason="the baseline contradicts the label")
    flagged = flagged.sort_values("score", ascending=False, kind="stable").head(max(0, n_rows - len(conflict)))
    queue = pd.concat([conflict, flagged], ignore_index=True).assign(decision="", new_label="", why="")
    return queue[QUEUE_COLUMNS]


def save_queue(queue: pd.DataFrame, path: Path) -> None:
    """Write the queue as CSV that a spreadsheet opens; no cell can be a formula."""
    safe = queue.assign(score=queue["score"].astype(float).round(4))
    workspace.write_text("\ufeff" + _to_csv(safe), path)  # the mark tells spreadsheets that it is UTF-8


def collect_decisions(queue_path: Path, decisions_path: Path, *, class_names: Sequence[str]) -> int:
    """Append what a person filled in in the queue to the recorded decisions; return how many are new.

    Raises
    ------
    WorkbookError : a row has an unknown decision or label; the line is named, and nothing is recorded.
    """
    if not queue_path.exists():
        return 0
    recorded = read_decisions(decisions_path)
    now, who = datetime.now(timezone.utc).isoformat(timespec="seconds"), _user()
    last = {(row.fingerprint, row.old_label): (row.decision, row.new_label) for row in recorded.itertuples()}
    fresh = []
    for line, row in _read_csv(queue_path, required=QUEUE_COLUMNS):
        decision, new_label, old_label = row["decision"].strip().lower(), _unquoted(row["new_label"]).strip(), _unquoted(row["label"])
        if not decision and not new_label:
            continue
        decision = decision or "relabel"
        _check_decision(decision, new_label, class_names, where=f"{queue_path}, line {line}")
        if last.get((row["fingerprint"], old_label)) != (decision, new_label):
            fresh.append([row["fingerprint"], decision, old_label, new_label, who, now, _unquoted(row["why"])])
    if fresh:
        added = pd.DataFrame(fresh, columns=DECISION_COLUMNS)
        workspace.write_text(_to_csv(pd.concat([recorded, added], ignore_index=True)), decisions_path)
    return len(fresh)


def read_decisions(path: Path) -> pd.DataFrame:
    """Read recorded decisions; an empty table where there are none.

    Raises
    ------
    WorkbookError : a line has an unknown decision or lacks a cell; it is named.
    """
    rows = []
    for line, row in _read_csv(path, required=DECISION_COLUMNS) if path.exists() else []:
        _check_decision(row["decision"], row["new_label"], None, where=f"{path}, line {line}")
        rows.append([_unquoted(row[column]) for column in DECISION_COLUMNS])
    return pd.DataFrame(rows, columns=DECISION_COLUMNS, dtype=object)


def apply_decisions(rows: pd.DataFrame, decisions: pd.DataFrame) -> Replay:
    """Replay decisions on rows, matched by the fingerprint of the raw text and the label that was decided about.

    The last decision on a text and label counts. Rows of one text under several labels are decided one by one.

    Parameters
    ----------
    rows : with `fingerprint` and `label`
    decisions : with DECISION_COLUMNS
    """
    last = decisions.drop_duplicates(["fingerprint", "old_label"], keep="last")
    given = rows["fingerprint"] + "\x1f" + rows["label"]
    about = last["fingerprint"] + "\x1f" + last["old_label"]
    relabelled = dict(zip(about[last["decision"] == "relabel"], last.loc[last["decision"] == "relabel", "new_label"]))
    new = given.map(relabelled)
    dropped = given.isin(about[last["decision"] == "drop"])
    labelled = rows.assign(label=new.where(new.notna(), rows["label"]), decided=given.isin(about))
    matched = about.isin(given)
    return Replay(labelled[~dropped].reset_index(drop=True), rows[dropped].reset_index(drop=True), last[matched], last[~matched])


def _check_decision(decision: str, new_label: str, class_names: Sequence[str] | None, *, where: str) -> None:
    if decision not in DECISIONS:
        raise WorkbookError(f"{where}: decision {decision!r}{closest(decision, DECISIONS)}; it is one of {', '.join(DECISIONS)}")
    if decision == "relabel" and not new_label:
        raise WorkbookError(f"{where}: `relabel` needs a new_label")
    if decision == "relabel" and class_names is not None and new_label not in class_names:
        raise WorkbookError(f"{where}: {new_label!r} is no label of the data{closest(new_label, class_names)}; there are {', '.join(class_names)}")


def _read_csv(path: Path, *, required: list[str]) -> list[tuple[int, dict[str, str]]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(decode(path.read_bytes(), name=str(path)), newline=""))
    lacking = [column for column in required if column not in (reader.fieldnames or [])]
    if lacking:
        raise WorkbookError(f"{path}: no column {lacking[0]!r}; it needs {', '.join(required)}")
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise WorkbookError(f"{path}, line {reader.line_num}: not {len(reader.fieldnames or [])} cells as in the header")
        rows.append((reader.line_num, row))
    return rows


def _to_csv(table: pd.DataFrame) -> str:
    guarded = table.map(lambda value: f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value)
    return guarded.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def _unquoted(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
