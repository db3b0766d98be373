"""Classifiers under semantic versions in MLflow's registry, and which of them is in use."""

from lib.delivery.registry.promotion import promote
from lib.delivery.registry.registration import EXPORTED, FOLDER, register, server_of
from lib.delivery.registry.store import download, find, models
from lib.delivery.registry.versions import CHALLENGER, CHAMPION, OUR_TAGS, Version, next_version

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "EXPORTED",
    "FOLDER",
    "OUR_TAGS",
    "Version",
    "download",
    "find",
    "models",
    "next_version",
    "promote",
    "register",
    "server_of",
]
