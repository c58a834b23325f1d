"""An application answered on loopback, by a thread of this process."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

from starlette.types import ASGIApp

from nutgraf.serving.access import Access
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics
from nutgraf.serving.request_guard import Guard
from nutgraf.serving.server import HttpServer, Stoppable


@contextlib.contextmanager
def answered(
    app: ASGIApp,
    worker: Stoppable | None = None,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    origins: Sequence[str] = (),
) -> Iterator[tuple[int, HttpServer]]:
    """Answer behind the guard while the block lasts; yield the port and the server."""
    access = Access("127.0.0.1", "127.0.0.1", origins)
    guard = Guard(app, limits or Limits(), metrics or Metrics(), access)
    server = HttpServer(guard, worker)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1], server
        finally:
            server.should_exit = True
            thread.join()
