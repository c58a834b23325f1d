"""What stands before the application: who may ask, how much at once, and what every answer carries.

Against pages of other origins: DNS rebinding (a foreign name that points here is refused by its
Host header) and requests that a browser sends for another page (refused by their Origin header).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from nutgraf.serving.errors import Refusal
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics, log_place

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# Everything from this server and nothing else; no script and no style in the page itself; no text
# is ever read as markup (`trusted-types`).
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
# Times the limit: so much of a body that is too large is read all the same and thrown away, since a
# client that is cut off while it sends may never see the answer.
_THROWN_AWAY = 8
_MOMENT = 1.0  # seconds, in which the body of a request that is not let in may arrive
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """An ASGI application around another.

    With `local`, requests have to name this machine in their Host header. A refusal is JSON, as is
    the answer to an unexpected error, of which only the place is logged.
    """

    def __init__(self, app: App, limits: Limits, metrics: Metrics, local: bool) -> None:
        self._app, self._limits, self._metrics, self._local = app, limits, metrics, local
        self._inside = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = [(k.lower().encode(), v.encode()) for k, v in _HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        self._inside += 1
        try:
            try:
                try:
                    self._admit(scope)
                except Refusal:
                    await _throw_away(receive)
                    raise
                await self._app(scope, await self._with_body(scope, receive), sending)
            except Refusal as refusal:
                await _refuse(sending, refusal)
            except Exception as error:
                log_place(error)
                if not status:
                    await _refuse(sending, Refusal(500, f"unexpected {type(error).__name__}"))
        finally:
            self._inside -= 1
            # Paths come from outside: those that are none of ours are one series.
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _admit(self, scope: MutableMapping[str, Any]) -> None:
        if self._inside > self._limits.max_connections:
            raise Refusal(
                503,
                f"{self._inside} requests at once, limit {self._limits.max_connections}: ask again "
                "in a second",
                retry_after=1,
            )
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self._local and not is_loopback(_name(f"//{host}")):
            raise Refusal(
                403,
                f"Host is {host[:80]!r} and this server is for this machine only: ask for "
                "127.0.0.1 or localhost, or start it with --host",
            )
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Refusal(
                403, f"Origin is {origin[:80]!r}: pages of other sites may not ask this server"
            )

    async def _with_body(self, scope: MutableMapping[str, Any], receive: Receive) -> Receive:
        """The body read to its end, within size and time, to be received once more."""
        if scope["method"] != "POST":
            return receive
        body, size, more = bytearray(), 0, True
        most = _THROWN_AWAY * self._limits.max_body
        try:
            async with asyncio.timeout(self._limits.time_limit):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size <= self._limits.max_body:
                        body += piece
                    more = message.get("more_body", False) and size <= most
        except TimeoutError:
            raise Refusal(
                408, f"the body did not arrive in {self._limits.time_limit:g} s: send it again"
            ) from None
        if size > self._limits.max_body:
            raise Refusal(
                413,
                f"the body has more than {self._limits.max_body:,} bytes: send fewer or shorter "
                "articles, or start the server with a larger --max-body",
            )
        read = False

        async def once_more() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return once_more


def _name(address: str) -> str:
    """The host in an address, in lower case; empty where it has none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


async def _throw_away(receive: Receive) -> None:
    """Read what is sent, for a moment: a client that is cut off may never see the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MOMENT):
            while (await receive()).get("more_body", False):
                pass


async def _refuse(send: Send, refusal: Refusal) -> None:
    body = json.dumps({"error": refusal.line}).encode()
    headers = {"content-type": "application/json", **refusal.headers}
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    fields.append((b"content-length", str(len(body)).encode()))
    # A body that was not read is not waited for.
    if refusal.status in (403, 408, 413, 503):
        fields.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
