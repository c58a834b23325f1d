"""By which names a server can be asked, on loopback and elsewhere, and what names no origin."""

from __future__ import annotations

import socket

import pytest
from starlette.datastructures import Headers

from nutgraf.core.errors import UserError
from nutgraf.serving.access import Access


def is_let_in(access: Access, host: str) -> bool:
    return access.refusal(Headers({"Host": host})) is None


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is called `Desk`, in full desk.office.example."""
    monkeypatch.setattr(socket, "gethostname", lambda: "Desk")
    monkeypatch.setattr(socket, "getfqdn", lambda: "desk.Office.example")


@pytest.mark.parametrize(
    ("host", "address", "local"),
    [("::1", "::1", True), ("here", "127.0.1.1", True), ("x", "::ffff:127.0.0.1", True),
     ("0.0.0.0", "0.0.0.0", False), ("::", "::", False)],
)  # fmt: skip
def test_the_address_decides_whether_a_server_is_for_this_machine_only(
    host: str, address: str, local: bool
) -> None:
    access = Access(host, address)
    assert access.local == local
    for name in ("[::1]:80", "localhost:1", f"[{host}]" if ":" in host else host):
        assert is_let_in(access, name)
    for name in ("192.168.0.7:8000", "[fe80::1]"):
        assert is_let_in(access, name) != local


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "192.0.2.7"])
def test_a_foreign_name_that_points_here_is_refused_wherever_the_server_listens(
    named: None, address: str
) -> None:
    """A page of that name could ask as one of ours: the browser sends no foreign Origin."""
    access = Access(address, address)
    for name in ("evil.example", "evil.example:8000", "localhost.evil.example", "desk.evil.example",
                 "192.168.0.7.nip.io", "office.example", "", "["):  # fmt: skip
        origin = {"Origin": f"http://{name}"} if name.startswith("evil") else {}
        error = access.refusal(Headers({"Host": name, **origin}))
        assert error is not None, name
        assert error.status == 403
        assert error.line.startswith(f"Host is {name!r} and ")
        assert error.line.count("\n") == 0
        assert "start it with --allow-origin" in error.line


def test_off_loopback_this_machine_is_asked_by_its_own_names(named: None) -> None:
    access = Access("Bench.lan", "192.0.2.7", ["https://hub.example/proxy/8000/"])
    own = ["desk", "DESK:8000", "desk.local", "desk.office.example", "Desk.Office.Example:80"]
    for name in (*own, "bench.lan", "hub.example", "localhost", "192.0.2.7:8000"):
        assert is_let_in(access, name), name
    here = Access("127.0.0.1", "127.0.0.1")
    assert not [name for name in own if is_let_in(here, name)]


@pytest.mark.parametrize(
    "url",
    ["*", "https://*.app.example", "null", "proxy.example", "ftp://a.example", "https://", "http://[",
     "https://me:word@a.example", "https://a.example/?b", "http://a.example:x", ""],
)  # fmt: skip
def test_an_origin_that_names_no_one_page_is_refused(url: str) -> None:
    with pytest.raises(UserError, match=r"--allow-origin is '.*': give the address at which"):
        Access("127.0.0.1", "127.0.0.1", [url])
