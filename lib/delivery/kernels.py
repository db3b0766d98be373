"""Kernels of this Python, whatever other kernels the machine has."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets import default

from lib.delivery import preloading

LAST_ANSWER_SECONDS = 0.5  # that a kernel has to finish its last answer before it is ended
MAX_SOCKET_BYTES = 103  # of a socket's path on macOS; Linux takes 107


class OwnKernels(KernelSpecManager):
    """Knows one kernel, `python3`, which is the Python that this runs in.

    A kernel of that name on JUPYTER_PATH would come before it, and may lack the packages.
    """

    def _kernel_dirs_default(self) -> list[str]:
        return []


class OwnKernel(AsyncKernelManager):
    """A kernel of `OwnKernels`, ended with an interrupt first, as jupyter_client does.

    But not within its last answer: the kernel's own code would print a traceback.
    """

    @default("kernel_spec_manager")
    def _own_kernels(self) -> OwnKernels:
        return OwnKernels()

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options: Any) -> None:
        arguments = kernel_cmd[kernel_cmd.index("ipykernel_launcher") + 1 :]
        folder = str(options.get("cwd") or Path.cwd())
        forked = preloading.fork(arguments, env=options["env"], cwd=folder)
        if forked is None:
            await super()._async_launch_kernel(kernel_cmd, **options)
            return
        provisioner = self.provisioner
        assert isinstance(provisioner, LocalProvisioner)
        provisioner.process = forked  # type: ignore[assignment]  # answers what is asked
        provisioner.pid = provisioner.pgid = forked.pid  # it leads a session of its own

    async def shutdown_kernel(self, **options: bool) -> None:  # type: ignore[override]
        """End the kernel."""
        await asyncio.sleep(LAST_ANSWER_SECONDS)
        await super().shutdown_kernel(**options)


def connection(folder: str) -> dict[str, Any]:
    """Return how to talk to a kernel: by sockets in a folder, or by TCP where its path is too long.

    Parameters
    ----------
    folder : of this kernel alone: a shared name mixes up runs side by side
    """
    connection_file = Path(folder) / "kernel.json"
    socket = Path(folder) / "kernel-ipc-5"  # the last of five
    if len(os.fsencode(socket)) > MAX_SOCKET_BYTES:
        return {"transport": "tcp", "ip": "127.0.0.1", "connection_file": str(connection_file)}
    return {"transport": "ipc", "connection_file": str(connection_file)}
