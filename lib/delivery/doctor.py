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
    free_gib = workspace.free_disk() / 2**30
    precision = finetune.precision(TrainingConfig())
    lines = {"Python": facts["python"]}
    lines["system"] = f"{facts['system']}, {facts['processor']}"
    lines["cores"] = str(facts["cores"])
    lines["memory"] = f"{facts['memory_gib']} GiB"
    lines["free disk"] = f"{free_gib:.1f} GiB in {workspace.home()}"
    lines["device"] = finetune.device_line()
    lines["precision"] = f"{precision} (weights float32)"
    lines["offline encoder"] = _offline_encoder()
    lines["hub"] = _hub(timeout_seconds)
    lines["commit"] = str(facts["commit"])
    for name, version in facts["versions"].items():
        lines[name] = version or "not installed"
    return lines


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
