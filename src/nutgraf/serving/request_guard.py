"""Guard the application: who may ask, how much at once, and the headers of every answer."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nutgraf.serving.access import Access
from nutgraf.serving.errors import RequestError, stopping_error
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics, log_place

# Everything comes from this server; no script and no style in the page itself; no text is ever read
# as markup (`trusted-types`).
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


# A client that is cut off while it sends may never see the answer. So a body that is too large is
# read and discarded up to so many times the limit, and that of a refused request for so long.
_DISCARD_FACTOR = 8
_DISCARD_SECONDS = 1.0


class Guard:
    """An ASGI application around another.

    A refusal is JSON, as is the answer to an unexpected error, of which only the place is logged.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, access: Access) -> None:
        self._app, self._limits, self._metrics, self._access = app, limits, metrics, access
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        started, status = time.perf_counter(), 0
        prefix = self._access.prefix(scope["path"])
        scope = {**scope, "root_path": prefix}
        if scope["method"] == "HEAD":  # the server leaves the body out
            scope["method"] = "GET"

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        self._active += 1
        try:
            if refusal := self._refusal(Headers(scope=scope)):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_DISCARD_SECONDS):
                        while (await receive()).get("more_body", False):
                            pass
                raise refusal
            if scope["method"] == "POST":
                receive = await self._receive_body(receive)
            app = self._app
            if prefix and scope["path"] == prefix:  # the page has relative addresses
                app = RedirectResponse(f"{prefix.rpartition('/')[2]}/", 308)
            await app(scope, receive, send_guarded)
        except (Exception, asyncio.CancelledError) as error:
            refusal = error if isinstance(error, RequestError) else None
            if isinstance(error, asyncio.CancelledError):  # the server does not wait any longer
                refusal = stopping_error()
            if refusal is None:
                log_place(error)
                refusal = RequestError(500, f"unexpected {type(error).__name__}")
            if not status:
                response = refusal.response(scope)
                if refusal.status in (403, 408, 413, 503):  # the body was not read to its end
                    response.headers["connection"] = "close"
                await response(scope, receive, send_guarded)
        finally:
            self._active -= 1
            # Paths come from outside: those without a route are one series.
            path = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _refusal(self, headers: Headers) -> RequestError | None:
        """Return why the request is not let in, if it is not."""
        if self._active > self._limits.max_connections:
            return RequestError(
                503,
                f"{self._active} requests at once, limit {self._limits.max_connections}: ask again "
                "in a second",
                retry_after=1,
            )
        return self._access.refusal(headers)

    async def _receive_body(self, receive: Receive) -> Receive:
        """Read the body to its end, within size and time, and return it to be received again."""
        limit = self._limits.max_body
        body, size, more = bytearray(), 0, True
        try:
            async with asyncio.timeout(self._limits.time_limit):
                while more and size <= _DISCARD_FACTOR * limit:
                    message = await receive()
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size <= limit:
                        body += piece
                    more = message.get("more_body", False)
        except TimeoutError:
            raise RequestError(
                408, f"the body did not arrive in {self._limits.time_limit:g} s: send it again"
            ) from None
        if size > limit:
            raise RequestError(
                413,
                f"the body has more than {limit:,} bytes: send fewer or shorter articles, or start "
                "the server with a larger --max-body",
            )
        messages: list[Message] = [{"type": "http.request", "body": bytes(body)}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay
