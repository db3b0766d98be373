"""The versions of registered classifiers: what one is, and how the next is numbered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"  # aliases
OUR_TAGS = {
    *("version", "model", "measured", "test_set", "dataset", "run", "date", "commit"),
    *("metric.macro_f1", "metric.accuracy"),
}
MAJOR_TAGS = ("dataset", "classes")  # a change of these raises the first number of a version
MINOR_TAGS = ("training_data", "recipe", "backbone")  # and of these the second


@dataclass(frozen=True)
class Version:
    """A registered model.

    Attributes
    ----------
    name : of the backbone
    version : "1.0.0"
    number : MLflow's own
    run_id : MLflow's run that holds its files
    tags : what it was made from, its scores, how it was promoted
    aliases : "champion", "challenger", "previous"
    """

    name: str
    version: str
    number: str
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]

    @property
    def label(self) -> str:
        """Return name and version."""
        return f"{self.name}-v{self.version}"

    @property
    def order(self) -> tuple[int, ...]:
        """Return the three numbers of the version."""
        return tuple(map(int, self.version.split(".")))


def short_name(backbone: str) -> str:
    """Return the name that models of a backbone are registered under.

    Examples
    --------
    >>> short_name("microsoft/deberta-v3-large"), short_name("/models/My encoder/")
    ('deberta-v3-large', 'my-encoder')
    """
    folder = backbone.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9.]+", "-", folder).strip("-.") or "model"


def next_version(last: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the version of a model that is registered after another of its name.

    The first number rises with other classes or another data set, so that what reads the answers
    may have to change. The second rises with other rows, settings or starting weights. The third
    rises where the same rows and settings were trained again (another seed, code or library).

    Parameters
    ----------
    last : the highest version there is; "" where there is none
    before, now : tags of that one and of the new one

    Examples
    --------
    >>> recipe = {"training_data": "1", "recipe": "x", "backbone": "b"}
    >>> old = {"dataset": "news", "classes": "a b", **recipe}
    >>> next_version("", {}, old), next_version("1.2.3", old, old)
    ('1.0.0', '1.2.4')
    >>> next_version("1.2.3", old, {**old, "recipe": "y"})
    '1.3.0'
    >>> next_version("1.2.3", old, {**old, "classes": "a b c"})
    '2.0.0'
    """
    if not last:
        return "1.0.0"
    major, minor, patch = map(int, last.split("."))
    changed = {tag for tag in (*MAJOR_TAGS, *MINOR_TAGS) if before.get(tag) != now[tag]}
    if changed & set(MAJOR_TAGS):
        return f"{major + 1}.0.0"
    if changed:
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"
