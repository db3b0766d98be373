"""Attacks: changes to a text, as small as can be found, after which the answer is another one."""

from lib.robustness.attacks.attacking import AttackOptions, attack
from lib.robustness.attacks.candidates import (
    Candidates,
    Synonyms,
    by_word,
    character_edits,
    kept_words,
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
    "Synonyms",
    "Tools",
    "attack",
    "by_word",
    "character_edits",
    "compare",
    "kept_words",
    "nearest_words",
    "thesaurus",
]
