"""The web page and the HTTP interface to the model that a study left."""

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
    """Serve until interrupted; the address is printed when it can be asked.

    Port 0 takes a free one. Raises UserError for an address that cannot be had, and as
    `models.loaded` does.
    """
    import uvicorn

    # Before torch computes: on a CPU it keeps compiled products for up to 1,024 shapes, and
    # articles have many lengths (docs/log.md).
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    with fast_imports():
        from nutgraf.serving.api import create_app
        from nutgraf.serving.batching import Worker
        from nutgraf.serving.metrics import Metrics
        from nutgraf.serving.models import loaded
        from nutgraf.serving.request_guard import Guard, is_loopback

    with _listening(host, port) as listening, loaded(model, limits.batch_size) as models:
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
            listening.listen(limits.max_connections)
            name = f"[{host}]" if ":" in host else host
            print(f"http://{name}:{listening.getsockname()[1]}/", flush=True)
            if not local:
                logger.warning(
                    f"{host} is not loopback: whoever reaches this address can use it, unencrypted"
                )
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """A socket bound to the address, which does not listen yet."""
    if not 0 <= port < 2**16:
        raise UserError(f"--port is {port}: give a number from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, ValueError) as error:  # a host with a NUL, or that can be no name
        raise UserError(
            f"{host} port {port} cannot be had ({error}): give another with --host and --port"
        ) from None
    return bound
