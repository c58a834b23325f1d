"""Serve the web page and the HTTP API."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import uvicorn

from nutgraf import COMPILED_PRODUCTS
from nutgraf.config.systems import EngineName
from nutgraf.core.errors import UserError
from nutgraf.core.fast_import import fast_imports
from nutgraf.core.signals import stop_on_signals
from nutgraf.serving.access import Access
from nutgraf.serving.limits import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

# At the end, what is being written has so many seconds to be whole, and to be refused after that.
_FINISH_SECONDS, _REFUSE_SECONDS = 4.0, 2


class Stoppable(Protocol):
    """Work in the background that has to end with a server."""

    def stop(self) -> None:
        """Begin nothing new."""

    def refuse_running(self) -> None:
        """Give up what is still running."""


class HttpServer(uvicorn.Server):
    """An HTTP server that ends in order: nothing new, what is being written, then refusals."""

    def __init__(self, app: ASGIApp, background: Stoppable | None = None) -> None:
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="error",  # its warnings are of what clients send
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,  # longer than proxies keep a connection, or they answer 502
            timeout_graceful_shutdown=int(_FINISH_SECONDS) + _REFUSE_SECONDS,
        )
        super().__init__(config)
        self._background = background

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer all requests, and close."""
        if self._background:
            self._background.stop()
            asyncio.get_running_loop().call_later(_FINISH_SECONDS, self._background.refuse_running)
        await super().shutdown(sockets)


def run(
    model: str,
    host: str,
    port: int,
    limits: Limits,
    origins: Sequence[str] = (),
    engine: EngineName = "auto",
    check_facts: bool = False,
) -> None:
    """Serve a model until interrupted; print the address when it answers.

    Args:
        model: A run folder, its `final_best_model`, an exported model, or a Hub id.
        host: The address to listen at.
        port: The port; 0 takes a free one.
        limits: Those of requests.
        origins: Addresses at which proxies show the page.
        engine: What writes.
        check_facts: Let the base read summaries too, for whoever asks for evidence.

    Raises:
        UserError: An address cannot be used, or `models.loaded` raises it.
    """
    # Before torch is loaded, in place of what other commands have: articles have many lengths, and
    # a server runs for days (docs/log.md).
    if os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == COMPILED_PRODUCTS:
        os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "16"
    with fast_imports():
        from nutgraf.serving.api import create_app
        from nutgraf.serving.batching import Worker
        from nutgraf.serving.metrics import Metrics
        from nutgraf.serving.models import loaded
        from nutgraf.serving.request_guard import Guard

    with bound(host, port) as sock:
        access, metrics = Access(host, sock.getsockname()[0], origins), Metrics()
        with (
            loaded(model, limits.batch_size, engine, check_facts) as models,
            Worker(models, limits, models.batch_size, metrics) as worker,
        ):
            app = create_app(
                models.systems, models.base, worker, limits, metrics, models.decoding, models.facts
            )
            server = HttpServer(Guard(app, limits, metrics, access), worker)
            answer(server, sock, host, access, limits)


def answer(
    server: HttpServer,
    sock: socket.socket,
    host: str,
    access: Access,
    limits: Limits,
    fragment: str = "",
) -> None:
    """Print the address, with a fragment that is the page's alone, and answer until interrupted."""
    sock.listen(limits.max_connections)
    name = f"[{host}]" if ":" in host else host
    print(f"http://{name}:{sock.getsockname()[1]}/{fragment}", flush=True)
    if not access.local:
        logger.warning(
            f"{host} is not loopback: whoever reaches this address can use it, unencrypted"
        )
    with contextlib.suppress(KeyboardInterrupt), stop_on_signals():
        server.run(sockets=[sock])


def bound(host: str, port: int) -> socket.socket:
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
            f"{host.strip() or repr(host)} port {port} cannot be had ({error}): give another with "
            "--host and --port"
        ) from None
    return sock
