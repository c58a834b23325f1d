"""Decide who may ask: by the name that a request gives the server, and by the page it comes from.

Against DNS rebinding: a foreign name that points here is refused by its Host header. Against pages
of other origins: what a browser sends for them is refused by its Origin header. A proxy shows the
server at an origin of its own, which has to be named. Headers like X-Forwarded-Host are not read,
because everybody can send them.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from nutgraf.core.errors import UserError
from nutgraf.serving.errors import RequestError

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME_IT = "if a proxy shows this server there, start it with --allow-origin and that address"


class Access:
    """The host names and origins of one server, and the paths at which proxies show it."""

    def __init__(self, host: str, address: str, allowed: Sequence[str] = ()) -> None:
        """Read the origins.

        Args:
            host: What the server was started with: a name or an address.
            address: The address at which it listens. Requests have to name this machine or an
                allowed origin in their Host header; on a loopback address only by a loopback name.
            allowed: Addresses at which proxies show the server, like `https://a.example/path/`.

        Raises:
            UserError: An allowed address has no origin.
        """
        self.local = _is_loopback(address)
        self._names = {host.lower(), "localhost"}
        if not self.local:
            own = socket.gethostname().lower()
            self._names |= {own, f"{own}.local", socket.getfqdn().lower()}
        self._origins: set[str] = set()
        self._prefixes: list[str] = []
        for url in allowed:
            origin = _origin(url)
            if origin is None or "@" in url or "?" in url or "#" in url:
                raise UserError(
                    f"--allow-origin is {url!r}: give the address at which a proxy shows the page, "
                    "like https://example.org or https://example.org/proxy/8000/"
                )
            self._origins.add(origin)
            self._names.add(str(urlsplit(origin).hostname))
            if prefix := urlsplit(url).path.rstrip("/"):
                self._prefixes.append(prefix)

    def prefix(self, path: str) -> str:
        """Return the start of a path that a proxy has not taken off; empty if there is none."""
        prefixes = (p for p in self._prefixes if path == p or path.startswith(f"{p}/"))
        return max(prefixes, key=len, default="")

    def refusal(self, headers: Headers) -> RequestError | None:
        """Return why the request is not let in, if it is not."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_own_name(host):
            ask = (
                "this server is for this machine only: ask for 127.0.0.1 or localhost, or start it "
                "with --host"
                if self.local
                else "that is no name of this machine: ask for its address"
            )
            return RequestError(403, f"Host is {host[:80]!r} and {ask}; {_NAME_IT}")
        if origin is None or (known := _origin(origin)) in self._origins:
            return None
        if known is None or known != _origin(f"{urlsplit(origin).scheme}://{host}"):
            return RequestError(
                403,
                f"Origin is {origin[:80]!r}: pages of other sites may not ask this server; "
                f"{_NAME_IT}",
            )
        return None

    def _is_own_name(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        of_this_machine = _is_loopback(name) if self.local else _ip(name) is not None
        return name in self._names or of_this_machine


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_loopback(address: str) -> bool:
    ip = _ip(address)
    return ip is not None and (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def _origin(url: str) -> str | None:
    """Return scheme, host and port of an address as browsers send them; None if it has none."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not host or "*" in host:
        return None
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + f":{port}" * (
        port not in (None, _DEFAULT_PORTS[parts.scheme])
    )
