"""Labels that look wrong, the queue a person reviews, and the decisions that replay on every later run."""

from __future__ import annotations

import csv
import getpass
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from lib import workspace
from lib.config import closest
from lib.data.formats import decode
from lib.errors import WorkbookError

DECISIONS = ("keep", "relabel", "drop", "unsure")
DECISION_COLUMNS = ["fingerprint", "decision", "old_label", "new_label", "who", "when", "why"]
QUEUE_COLUMNS = [
    "fingerprint",
    "row_id",
    "split",
    "label",
    "suggestion",
    "score",
    "reason",
    "text",
    "decision",
    "new_label",
    "why",
]
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


def rank_label_issues(
    labels: Sequence[str],
    probs: np.ndarray,
    *,
    class_names: Sequence[str],
    method: str = "self_confidence",
) -> pd.DataFrame:
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
        raise ValueError(
            f"labels must be in class_names; row {int(np.argmax(codes < 0))} has {labels[int(np.argmax(codes < 0))]!r}"
        )
    score = 1 - get_label_quality_scores(codes, probs, method=method)
    flagged = find_label_issues(codes, probs, n_jobs=1)
    table = pd.DataFrame(
        {
            "row": np.arange(len(codes)),
            "score": score,
            "suggestion": np.asarray(class_names, dtype=object)[probs.argmax(axis=1)],
            "is_issue": flagged,
        }
    )
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def confusion_rates(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Return for each class the shares of the others among what a model takes its rows for.

    Parameters
    ----------
    labels : ndarray of int of shape (n,)
    probs : ndarray of shape (n, k), out of fold

    Returns
    -------
    ndarray of shape (k, k), rows summing to 1, zeros on the diagonal; a class without a row is confused with all others alike
    """
    k = probs.shape[1]
    rates = (
        np.stack(
            [
                probs[labels == c].mean(axis=0) if (labels == c).any() else np.ones(k)
                for c in range(k)
            ]
        )
        + 1e-9
    )
    np.fill_diagonal(rates, 0)
    return rates / rates.sum(axis=1, keepdims=True)


def inject_label_noise(
    labels: np.ndarray,
    *,
    rate: float,
    n_classes: int,
    confusion: np.ndarray | None = None,
    seed: int = 42,
) -> tuple[np.ndarray, np.ndarray]:
    """Make a share of the labels wrong.

    Parameters
    ----------
    labels : ndarray of int of shape (n,), 0..n_classes - 1
    rate : share of the labels, 0..1; at least one is made wrong
    confusion : from `confusion_rates`: what a wrong label is drawn from; None draws from the other classes alike

    Returns
    -------
    the labels with the noise, and ndarray of bool of shape (n,): which ones are wrong now
    """
    random = np.random.default_rng(seed)
    planted = np.zeros(len(labels), dtype=bool)
    planted[random.choice(len(labels), max(1, round(rate * len(labels))), replace=False)] = True
    drawn_from = (
        (np.ones((n_classes, n_classes)) - np.eye(n_classes)) / (n_classes - 1)
        if confusion is None
        else confusion
    )
    steps = drawn_from[labels[planted]].cumsum(axis=1)
    noisy = labels.copy()
    noisy[planted] = np.minimum(
        (random.random(len(steps))[:, None] * steps[:, -1:] >= steps).sum(axis=1), n_classes - 1
    )
    return noisy, planted


def review_queue(
    rows: pd.DataFrame, issues: pd.DataFrame, conflicts: Sequence[int], *, n_rows: int
) -> pd.DataFrame:
    """Order rows for a person: label conflicts first, then flagged rows, worst first.

    Of the labels in a conflict at most one is right. The default score of `rank_label_issues` is the judge's probability that
    the label is wrong, so that "worst first" finds the most wrong labels in any number of rows that are looked at.

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
    conflict = known[known["row_id"].isin(list(conflicts))].assign(
        reason="same text, several labels"
    )
    flagged = known[known["is_issue"].eq(True) & ~known["row_id"].isin(conflict["row_id"])].assign(
        reason="the detectors contradict the label"
    )
    flagged = flagged.sort_values("score", ascending=False, kind="stable").head(
        max(0, n_rows - len(conflict))
    )
    queue = pd.concat([conflict, flagged], ignore_index=True).assign(
        decision="", new_label="", why=""
    )
    return queue[QUEUE_COLUMNS]


def save_queue(queue: pd.DataFrame, path: Path) -> None:
    """Write the queue as CSV that a spreadsheet opens; no cell can be a formula."""
    safe = queue.assign(score=queue["score"].astype(float).round(4))
    workspace.write_text(
        "\ufeff" + _to_csv(safe), path
    )  # the mark tells spreadsheets that it is UTF-8


def collect_decisions(queue_path: Path, decisions_path: Path, *, class_names: Sequence[str]) -> int:
    """Append what a person filled in in the queue to the recorded decisions; return how many are new.

    Raises
    ------
    WorkbookError : a row has an unknown decision or label; the line is named, and nothing is recorded.
    """
    if not queue_path.exists():
        return 0
    recorded = read_decisions(decisions_path)
    last = {
        (row.fingerprint, row.old_label): (row.decision, row.new_label)
        for row in recorded.itertuples()
    }
    fresh = []
    for line, row in _read_csv(queue_path, required=QUEUE_COLUMNS):
        decision, new_label, old_label = (
            row["decision"].strip().lower(),
            _unquoted(row["new_label"]).strip(),
            _unquoted(row["label"]),
        )
        if not decision and not new_label:
            continue
        decision = decision or "relabel"
        _check_decision(decision, new_label, class_names, where=f"{queue_path}, line {line}")
        if last.get((row["fingerprint"], old_label)) != (decision, new_label):
            fresh.append(
                (row["fingerprint"], decision, old_label, new_label, _unquoted(row["why"]))
            )
    if fresh:
        record_decisions(decisions_path, fresh)
    return len(fresh)


def record_decisions(path: Path, answers: Sequence[tuple[str, str, str, str, str]]) -> pd.DataFrame:
    """Append decisions to the recorded ones, with who and when; the file is written whole or not at all.

    Parameters
    ----------
    path : decisions.csv; made where it is not there yet
    answers : (fingerprint, decision, old label, new label, why) of each

    Returns
    -------
    DataFrame with DECISION_COLUMNS, all decisions as they are recorded now, the new ones last

    Raises
    ------
    WorkbookError : an answer is no decision, the recorded ones have a broken line, or the file cannot be written; nothing changes.
    """
    for _, decision, _, new_label, _ in answers:
        _check_decision(decision, new_label, None, where=str(path))
    now, who = datetime.now(UTC).isoformat(timespec="seconds"), _user()
    added = pd.DataFrame(
        [(*answer[:4], who, now, answer[4]) for answer in answers],
        columns=DECISION_COLUMNS,
        dtype=object,
    )
    with _only_writer(path):
        decisions = pd.concat([read_decisions(path), added], ignore_index=True)
        workspace.write_text(_to_csv(decisions), path)
    return decisions


def withdraw_decision(path: Path, decision: Sequence[str]) -> pd.DataFrame | None:
    """Remove the last recorded decision if it is this one.

    Parameters
    ----------
    path : decisions.csv
    decision : its cells, in the order of DECISION_COLUMNS

    Returns
    -------
    DataFrame with DECISION_COLUMNS, what stays recorded; None where another decision is the last one, and nothing changes

    Raises
    ------
    WorkbookError : the recorded decisions have a broken line, or the file cannot be written; nothing changes.
    """
    with _only_writer(path):
        decisions = read_decisions(path)
        if decisions.empty or decisions.iloc[-1].tolist() != [_unquoted(cell) for cell in decision]:
            return None
        workspace.write_text(_to_csv(decisions.iloc[:-1]), path)
    return decisions.iloc[:-1]


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
    relabelled = dict(
        zip(
            about[last["decision"] == "relabel"],
            last.loc[last["decision"] == "relabel", "new_label"],
        )
    )
    new = given.map(relabelled)
    dropped = given.isin(about[last["decision"] == "drop"])
    labelled = rows.assign(label=new.where(new.notna(), rows["label"]), decided=given.isin(about))
    matched = about.isin(given)
    return Replay(
        labelled[~dropped].reset_index(drop=True),
        rows[dropped].reset_index(drop=True),
        last[matched],
        last[~matched],
    )


def _check_decision(
    decision: str, new_label: str, class_names: Sequence[str] | None, *, where: str
) -> None:
    if decision not in DECISIONS:
        raise WorkbookError(
            f"{where}: decision {decision!r}{closest(decision, DECISIONS)}; it is one of {', '.join(DECISIONS)}"
        )
    if decision == "relabel" and not new_label:
        raise WorkbookError(f"{where}: `relabel` needs a new_label")
    if decision == "relabel" and class_names is not None and new_label not in class_names:
        raise WorkbookError(
            f"{where}: {new_label!r} is no label of the data{closest(new_label, class_names)}; there are {', '.join(class_names)}"
        )


def _read_csv(path: Path, *, required: list[str]) -> list[tuple[int, dict[str, str]]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(decode(path.read_bytes(), name=str(path)), newline=""))
    lacking = [column for column in required if column not in (reader.fieldnames or [])]
    if lacking:
        raise WorkbookError(f"{path}: no column {lacking[0]!r}; it needs {', '.join(required)}")
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise WorkbookError(
                f"{path}, line {reader.line_num}: not {len(reader.fieldnames or [])} cells as in the header"
            )
        rows.append((reader.line_num, row))
    return rows


@contextmanager
def _only_writer(path: Path) -> Iterator[None]:
    """Hold the lock of a file that several people may add to; the system lets go of it however the process ends."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=10)
    except Timeout:
        raise WorkbookError(
            f"cannot write {path}: another process has held {lock.lock_file} for 10 seconds"
        ) from None
    except OSError as error:
        raise WorkbookError(f"cannot write {path}: {error}") from error
    try:
        yield
    finally:
        lock.release()


def _to_csv(table: pd.DataFrame) -> str:
    guarded = table.map(
        lambda value: (
            f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
        )
    )
    return guarded.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def _unquoted(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
