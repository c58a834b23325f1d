"""Serve the web page and the HTTP API."""

from __future__ import annotations

import contextlib
import logging
import os
import socket

from nutgraf.core.errors import UserError
from nutgraf.core.fast_import import fast_imports
from nutgraf.serving.limits import Limits

logger = logging.getLogger(__name__)


def run(model: str, host: str, port: int, limits: Limits) -> None:
    """Serve a model until interrupted; print the address when it answers.

    Args:
        model: A run folder, its `final_best_model`, an exported model, or a Hub id.
        host: The address to listen at.
        port: The port; 0 takes a free one.
        limits: Those of requests.

    Raises:
        UserError: The address cannot be used, or `models.loaded` raises it.
    """
    import uvicorn

    # Before torch computes: on a CPU oneDNN caches compiled products of 1,024 shapes, and articles
    # have many lengths (docs/log.md).
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    with fast_imports():
        from nutgraf.serving.api import create_app
        from nutgraf.serving.batching import Worker
        from nutgraf.serving.metrics import Metrics
        from nutgraf.serving.models import loaded
        from nutgraf.serving.request_guard import Guard, is_loopback

    with _bind(host, port) as sock, loaded(model, limits.batch_size) as models:
        metrics, local = Metrics(), is_loopback(host)
        with Worker(models, limits, models.batch_size, metrics) as worker:
            app = create_app(models.systems, models.base, worker, limits, metrics)
            server = uvicorn.Server(
                uvicorn.Config(
                    Guard(app, limits, metrics, local),
                    access_log=False,
                    log_level="warning",
                    lifespan="off",
                    ws="none",
                    server_header=False,
                    proxy_headers=False,
                    timeout_graceful_shutdown=5,
                )
            )
            sock.listen(limits.max_connections)
            name = f"[{host}]" if ":" in host else host
            print(f"http://{name}:{sock.getsockname()[1]}/", flush=True)
            if not local:
                logger.warning(
                    f"{host} is not loopback: whoever reaches this address can use it, unencrypted"
                )
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[sock])


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, which does not listen yet."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port is {port}: give a number from 0 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, ValueError) as error:  # ValueError: an impossible name
        raise UserError(
            f"{host} port {port} cannot be had ({error}): give another with --host and --port"
        ) from None
    return sock
