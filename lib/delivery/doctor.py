"""What this machine has: Python, versions, device, precision, hub, disk, cores."""

from __future__ import annotations

import os
import urllib.request

from lib import provenance, workspace
from lib.config import TrainingConfig
from lib.errors import WorkbookError
from lib.training import backbones, finetune


def report(*, timeout_seconds: float = 5.0) -> dict[str, str]:
    """Return one line a fact, ready to print."""
    facts = provenance.machine_facts()
    return {
        "Python": facts["python"],
        "system": f"{facts['system']}, {facts['processor']}",
        "cores": str(facts["cores"]),
        "memory": f"{facts['memory_gib']} GiB",
        "free disk": f"{workspace.free_disk() / 2**30:.1f} GiB in {workspace.home()}",
        "device": finetune.device_line(),
        "precision": f"{finetune.precision(TrainingConfig())} (weights float32)",
        "offline encoder": _offline_encoder(),
        "hub": _hub(timeout_seconds),
        "commit": str(facts["commit"]),
        **{name: version or "not installed" for name, version in facts["versions"].items()},
    }


def _offline_encoder() -> str:
    try:
        return f"{backbones.offline_encoder()} (SHA-256 as expected)"
    except (WorkbookError, OSError) as error:
        return f"unusable: {error}"


def _hub(timeout_seconds: float) -> str:
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return "not asked: HF_HUB_OFFLINE is set"
    try:
        with urllib.request.urlopen(address, timeout=timeout_seconds):
            return f"reachable ({address})"
    except (OSError, ValueError) as error:
        return f"not reachable ({getattr(error, 'reason', error)}); `quick` and `smoke` need none"
