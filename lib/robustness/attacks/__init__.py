"""Attacks: changes to a text, as small as can be found, after which the answer is another one."""

from lib.robustness.attacks.attacking import AttackOptions, attack
from lib.robustness.attacks.candidates import (
    Candidates,
    by_word,
    kept_words,
    misspellings,
    nearest_words,
    thesaurus,
)
from lib.robustness.attacks.recipes import RECIPES, Recipe, Tools
from lib.robustness.attacks.result import AttackResult, compare

__all__ = [
    "RECIPES",
    "AttackOptions",
    "AttackResult",
    "Candidates",
    "Recipe",
    "Tools",
    "attack",
    "by_word",
    "compare",
    "kept_words",
    "misspellings",
    "nearest_words",
    "thesaurus",
]
