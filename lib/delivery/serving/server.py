"""The server's processes: one, or several that share a port."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

# a worker answers its supervisor once this module is imported: what takes seconds is left to `_app`
from lib.delivery.serving.source import Source
from lib.errors import WorkbookError, quoted

# where the Prometheus client keeps the counts of all workers
COUNTS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
STOP_SECONDS = 30  # for requests that run when the server is told to stop
WORKER_SECONDS = 30  # for a worker to say that it lives; one that does not is replaced
MAX_CONNECTIONS = 512  # of a worker; others get 503
logger = logging.getLogger("uvicorn.error")


def serve(
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    log: Path | None = None,
    with_texts: bool = False,
    poll_seconds: float = 10.0,
    uri: str = "",
) -> None:
    """Serve a classifier until the process is told to stop.

    Parameters
    ----------
    name : as `model_folder.find` takes it; under an alias its changes are followed
    workers : processes that share the port, each with the classifier in memory
    log : folder of the log of predictions; None logs nothing
    with_texts : whether the log holds the texts
    poll_seconds : between two looks at the registry
    uri : of the registry's server; "" is the local one

    Raises
    ------
    WorkbookError : there is no such classifier, a file of it is damaged, or the port is in use.
    """
    if with_texts and not log:
        raise WorkbookError("--log-texts needs --log FOLDER, where the texts are to be logged")
    with _listening(host, port) as listener:
        source = find_source(name, uri=uri)
        source = replace(source, log=log, with_texts=with_texts, poll_seconds=poll_seconds)
        hosts = LOOPBACK if host in (*LOOPBACK, "::1") else ("*",)
        config = uvicorn.Config(
            partial(_app, source, hosts, in_worker=workers > 1),
            factory=True,
            workers=workers,
            access_log=False,
            limit_concurrency=MAX_CONNECTIONS,
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
            timeout_worker_healthcheck=WORKER_SECONDS,
        )
        logger.info("serving %s at http://%s:%s", source.version, host, listener.getsockname()[1])
        _run(config, listener)


def find_source(name: str, *, uri: str = "") -> Source:
    """Return where a classifier is now, and the alias in the registry that is followed."""
    from lib.delivery import model_folder, registry
    from lib.training import classifier_folder

    folder, version = model_folder.locate(name, uri=uri)
    classifier_folder.read(folder)  # a damaged file is found before there are workers
    if version is None:
        return Source(folder, classifier_folder.fingerprint(folder)[:12])
    if name == version.label:
        return Source(folder, version.label)
    alias = name.partition("@")[2] or registry.CHAMPION
    return Source(folder, version.label, f"{version.name}@{alias}", uri)


def _app(source: Source, hosts: tuple[str, ...], *, in_worker: bool) -> Any:
    try:
        from lib.delivery.serving.app import create_app
        from lib.delivery.serving.serving_model import ServingModel

        serving = ServingModel(source)
        if in_worker and source.name:  # it may replace one that was killed
            serving.refresh()
        return create_app(serving, hosts=hosts)
    except Exception as error:
        if not in_worker:
            raise
        logger.error("%s: %s", type(error).__name__, error)
        # so ended, a worker is not started again and again
        sys.exit(STARTUP_FAILURE)


def _run(config: uvicorn.Config, listener: socket.socket) -> None:
    if config.workers == 1:
        # uvicorn ends by the signal that stopped it; a server that was told to stop has not failed
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([listener])
        return
    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // config.workers)))
    with tempfile.TemporaryDirectory() as counts:
        os.environ[COUNTS_FOLDER] = counts
        Multiprocess(config, [listener]).run()


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        words = (error.strerror or type(error).__name__).partition(" (while")[0]
        raise WorkbookError(
            f"cannot serve at {quoted(host)}, port {port}: {words}; name another with --port or "
            "--host"
        ) from error
    listener.set_inheritable(True)
    return listener
