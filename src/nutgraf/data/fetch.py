"""Fetch articles at `http` and `https` addresses, from public hosts only.

Not by a library: those that refuse private addresses look at them after they have connected, or let
some through, and none has a limit for the whole time (docs/log.md).
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from nutgraf import __version__
from nutgraf.core.errors import Failure, UserError
from nutgraf.data.web_page import extract_article, is_html

MAX_BYTES = 5 * 2**20  # of a page
MAX_SECONDS = 20.0  # for one address, with all redirects
MAX_REDIRECTS = 5
KINDS = ("text/html", "application/xhtml+xml", "text/plain")

_MOVED = (301, 302, 303, 307, 308)
_SAFE = "%/:=&?~+!$,;'@()*[]"  # what stays as it is in a path
# All of IPv6 that hosts can have (RFC 4291), and its part for examples (RFC 9637). Forms of IPv4
# addresses lie outside it, except 6to4.
_UNICAST, _EXAMPLES = ipaddress.ip_network("2000::/3"), ipaddress.ip_network("3fff::/20")


def is_address(name: str) -> bool:
    """Return whether `name` is an `http` or `https` address."""
    return name.lower().startswith(("http://", "https://"))


def fetch_article(address: str) -> str:
    """Fetch the article at an `http` or `https` address.

    Only public hosts are connected to: the addresses of a host are looked up once, all are checked,
    and the connection goes to one of them; the same at each redirect. No cookie, no credentials, no
    proxy. A lookup takes as long as the system lets it, all else at most `MAX_SECONDS` seconds.

    Raises UserError for an address that is refused, Failure if the page cannot be fetched or read.
    """
    url, end = address, time.monotonic() + MAX_SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        try:
            with _response(_checked(url), end) as response:
                target = response.headers["Location"]
                if response.status not in _MOVED or not target:
                    content = response.read(MAX_BYTES + 1)
                    break
                url = urljoin(url, target)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            if time.monotonic() >= end:
                reason = f"it took more than {MAX_SECONDS:.0f} seconds"
            raise Failure(f"{address} could not be fetched: {reason}") from None
    else:
        raise Failure(f"{address} redirects more than {MAX_REDIRECTS} times: give the last address")
    return _text(response, content, address)


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Return whether an address is that of a host on the public internet."""
    if isinstance(address, ipaddress.IPv6Address):
        assigned = address in _UNICAST and address not in _EXAMPLES
        return assigned and address.is_global and not address.sixtofour
    return address.is_global and not address.is_multicast and not address.is_reserved


def _checked(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise UserError(f"{address} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UserError(f"{address} is no http or https address of a host: not fetched")
    if parts.username is not None or parts.password is not None:
        raise UserError(f"the address at {parts.hostname} holds a user name: leave it out")
    return parts


@contextlib.contextmanager
def _response(parts: SplitResult, end: float) -> Iterator[http.client.HTTPResponse]:
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    connection = http.client.HTTPConnection(host, port)
    connection.default_port = 443 if secure else 80  # which the Host header leaves out
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(_connected(host, port, end))
        if secure:
            channel = stack.enter_context(
                ssl.create_default_context().wrap_socket(
                    channel, server_hostname=host, do_handshake_on_connect=False
                )
            )
        stack.enter_context(_ended_in_time(channel, end))
        if isinstance(channel, ssl.SSLSocket):
            channel.do_handshake()
        connection.sock = channel
        target = quote(parts.path or "/", safe=_SAFE)
        if parts.query:
            target += "?" + quote(parts.query, safe=_SAFE)
        headers = {
            "User-Agent": f"nutgraf/{__version__}",
            "Accept": ", ".join(KINDS),
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        connection.request("GET", target, headers=headers)
        yield stack.enter_context(contextlib.closing(connection.getresponse()))


def _connected(host: str, port: int, end: float) -> socket.socket:
    """Connect to one of the host's addresses, after all of them have been checked."""
    try:
        answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise UserError(f"{host[:80]!r} is no name of a host: not fetched") from None
    for *_, peer in answers:
        if not is_public(ipaddress.ip_address(peer[0])):
            raise UserError(
                f"{host} is at {peer[0]}, which is no public address: not fetched; save the page "
                "and give the file"
            )
    failed = OSError("the host has no address")
    for family, kind, protocol, _, peer in answers:
        channel = socket.socket(family, kind, protocol)
        try:
            channel.settimeout(max(end - time.monotonic(), 0.001))
            channel.connect(peer)
            return channel
        except OSError as error:
            channel.close()
            failed = error
    raise failed


@contextlib.contextmanager
def _ended_in_time(channel: socket.socket, end: float) -> Iterator[None]:
    """End the connection when its time is over: a timeout counts anew with every byte."""

    def shut() -> None:
        with contextlib.suppress(OSError):  # ended already
            channel.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(end - time.monotonic(), shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if time.monotonic() >= end:
        raise TimeoutError  # headers and pages may end anywhere and look whole


def _text(response: http.client.HTTPResponse, content: bytes, address: str) -> str:
    if response.status != 200:
        raise Failure(f"{address} could not be fetched: {response.status} {response.reason}")
    kind = response.headers.get_content_type()
    if kind not in KINDS:
        raise Failure(f"{address} is {kind}: {', '.join(KINDS)} are read")
    coding = response.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        raise Failure(f"{address} comes as {coding} though asked not to: save the page")
    if len(content) > MAX_BYTES:
        raise Failure(f"{address} is over {MAX_BYTES // 2**20} MiB: save the article as text")
    if response.length:
        raise Failure(f"{address} broke off, {response.length:,} bytes before its end: try again")
    charset = response.headers.get_content_charset()
    try:
        page = content.decode(charset, "replace") if charset else content
    except LookupError:
        raise Failure(f"{address} is in the unknown encoding {charset!r}: save the page") from None
    if kind != "text/plain" or is_html(content):
        return extract_article(page, address)
    return content.decode(charset or "utf-8", "replace")
