"""Tests of behaviour: what an answer must be, must not change by, or must not fall by.

Source: Ribeiro et al. 2020, "Beyond Accuracy: Behavioral Testing of NLP Models with CheckList".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import regex

from lib.errors import WorkbookError, listed, shown_path
from lib.evaluation.significance import Interval
from lib.robustness.editable import check_choices, read_own
from lib.robustness.prediction import Predict, checked
from lib.robustness.rates import rates_by_name, units_of
from lib.robustness.substitution import replace_words, seeded

COLUMNS = ("test", "type", "change", "value", "label")
TYPES = ("minimum function", "invariance", "direction: not lower", "direction: not higher")
CHANGES = ("text", "start", "end", "swap")
NUMBER = "<number>"


@dataclass(frozen=True)
class Behaviour:
    """How often a classifier fails tests of its behaviour.

    Attributes
    ----------
    table : DataFrame by test: `type`, `rate` of failures with `low` and `high` (NaN where there is
        no case), `count` of failures, `n` cases
    cases : DataFrame of every case: `test`, `type`, `row` (position of the text, -1 for a text of
        the test's own), `text` before the change, `changed`, `label` (that the test is about),
        `answer` and `new_answer`, `found` (whether it failed)
    """

    table: pd.DataFrame
    cases: pd.DataFrame

    def failures(self, *, per_test: int = 2) -> pd.DataFrame:
        """Return the first cases of each test that failed."""
        failed = self.cases[self.cases["found"]]
        columns = ["test", "changed", "label", "answer", "new_answer"]
        return failed.groupby("test", sort=False).head(per_test)[columns].reset_index(drop=True)

    def describe(self) -> str:
        """Return as a sentence which test fails most often, and which have no case."""
        sentences = []
        measured = self.table[self.table["n"] > 0]
        if len(measured):
            worst = measured.loc[measured["rate"].idxmax()]
            rate = Interval(worst["rate"], worst["low"], worst["high"], n=worst["n"])
            sentences.append(
                f"Most failures: {worst.name!r} ({worst['type']}), {rate.percent()} of {rate.n:,} "
                "cases."
            )
        empty = self.table.index.difference(measured.index, sort=False)
        if len(empty):
            sentences.append(f"No text has a place for: {listed(empty)}.")
        return " ".join(sentences)


def read_tests(path: Path, *, class_names: Sequence[str]) -> pd.DataFrame:
    """Read tests of behaviour; where there is no file, it is made of those that are shipped.

    Returns
    -------
    DataFrame with COLUMNS; several rows of one `test` are values of which each text gets one

    Raises
    ------
    WorkbookError : what `read_own` raises; or a type, change or label that there is not, or a
        change that does not fit the type. The row is named.
    """
    tests = read_own(path, COLUMNS)
    check_choices(tests, "type", TYPES, where=path)
    check_choices(tests, "change", CHANGES, where=path)
    check_choices(tests, "label", ["", *class_names], where=path)
    own_text = tests["change"] == "text"
    names_class = tests["value"].str.contains("{label}", regex=False)
    several = tests.groupby("test")["type"].transform("nunique") > 1
    wrong = {
        "the change 'text' and the type 'minimum function' need each other: the value is a whole "
        "text, whose answer is known": own_text != (tests["type"] == TYPES[0]),
        "a minimum function needs a label, or {label} in its value for each class in turn": own_text
        & (tests["label"] == "")
        & ~names_class,
        "the test has another type in another row; give each its own name": several,
    }
    for reason, rows in wrong.items():
        if rows.any():
            raise WorkbookError(f"{shown_path(path)}, row {rows.argmax() + 1}: {reason}")
    return tests


def run_tests(
    predict: Predict,
    texts: Sequence[str],
    y_true: np.ndarray,
    tests: pd.DataFrame,
    *,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
    tolerance: float = 0.05,
    seed: int = 42,
) -> Behaviour:
    """Test a classifier's behaviour on texts that are changed, and on texts of the tests' own.

    A minimum function fails where the answer is not the label; an invariance where the answer
    changes; a direction where the probability of the label falls (or rises) by more than
    `tolerance`. The label of a direction is that of the text where the test names none.

    Parameters
    ----------
    texts, y_true : n texts, and their classes, ndarray of int of shape (n,)
    tests : from `read_tests`; a test on which a text has nothing to swap has no case of it
    groups : (n,) of anything; rows of a group are alike (see `significance.grouped_share`)
    seed : of the value that a text gets, with the text itself
    """
    names = np.array(class_names, dtype=object)
    cases = _cases(list(texts), y_true, tests, names.tolist(), seed=seed)
    asked = list(dict.fromkeys([*cases["text"], *cases["changed"]]))
    answers = dict(zip(asked, checked(predict, n_classes=len(names))(asked)))
    before, after = (
        np.reshape([answers[text] for text in cases[column]], (-1, len(names)))
        for column in ("text", "changed")
    )
    code = cases.pop("code").to_numpy(dtype=int)
    rise = (after - before)[np.arange(len(cases)), code]
    fails = {
        TYPES[0]: after.argmax(axis=1) != code,
        TYPES[1]: after.argmax(axis=1) != before.argmax(axis=1),
        TYPES[2]: rise < -tolerance,
        TYPES[3]: rise > tolerance,
    }
    cases["label"] = names[code]
    cases["answer"] = names[before.argmax(axis=1)]
    cases["new_answer"] = names[after.argmax(axis=1)]
    of_type = [cases["type"] == kind for kind in fails]
    cases["found"] = np.select(of_type, list(fails.values())).astype(bool)
    types = tests.drop_duplicates("test").set_index("test")["type"]
    unit = units_of(len(texts), groups)
    own = -1 - np.arange(len(cases))  # a text of a test's own is by itself
    cases["unit"] = np.where(cases["row"] < 0, own, unit[cases["row"].to_numpy(dtype=int)])
    table = rates_by_name(cases, "test", names=types.index)
    table.insert(0, "type", types)
    return Behaviour(table, cases.drop(columns="unit"))


def _cases(
    texts: list[str], y_true: np.ndarray, tests: pd.DataFrame, names: list[str], *, seed: int
) -> pd.DataFrame:
    cases = []
    for test, values in tests.groupby("test", sort=False):
        if values["change"].iloc[0] == "text":
            cases += _own_cases(values, names)
            continue
        for row, text in enumerate(texts):
            random = seeded(seed, test, text)
            value = values.iloc[int(random.random() * len(values))]
            code = names.index(value["label"]) if value["label"] else int(y_true[row])
            words = value["value"].replace("{label}", names[code])
            changed = _changed(text, value["change"], words, random)
            if changed != text:
                cases.append((test, value["type"], row, text, changed, code))
    return pd.DataFrame(cases, columns=["test", "type", "row", "text", "changed", "code"])


def _own_cases(values: pd.DataFrame, names: list[str]) -> list[tuple]:
    cases = []
    for value in values.itertuples():
        labels = [value.label] if value.label else names
        for label in labels:
            text = value.value.replace("{label}", label)
            cases.append((value.test, value.type, -1, text, text, names.index(label)))
    return cases


def _changed(text: str, change: str, value: str, random: Random) -> str:
    if change == "start":
        return f"{value} {text}"
    if change == "end":
        return f"{text} {value}"
    if value == NUMBER:
        return regex.sub(r"\d+", lambda found: _other_number(found[0], random), text)
    words = value.split("|")
    shift = 1 + int(random.random() * (len(words) - 1))
    others = [*words[shift:], *words[:shift]]
    return replace_words(text, {word.lower(): other for word, other in zip(words, others)})


def _other_number(number: str, random: Random) -> str:
    """Return a number of as many digits, with another first one."""
    first = random.choice("123456789".replace(number[0], ""))
    return first + "".join(random.choices("0123456789", k=len(number) - 1))
