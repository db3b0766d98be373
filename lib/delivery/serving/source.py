"""Where a server's classifier comes from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """What each worker is given.

    Attributes
    ----------
    folder, version : what to start with
    name : NAME@ALIAS whose changes are followed; "" follows none
    uri : of the registry
    poll_seconds : between two looks at it
    log : folder of the log of predictions; None logs nothing
    with_texts : whether texts are logged
    """

    folder: Path
    version: str
    name: str = ""
    uri: str = ""
    poll_seconds: float = 10.0
    log: Path | None = None
    with_texts: bool = False
