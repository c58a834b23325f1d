"""Articles out of pages, and addresses that are fetched or refused."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nutgraf.core.errors import Failure, UserError
from nutgraf.data import fetch, web_page

STORY = (
    "The council of Oslo voted on Monday to close two of its five schools, the mayor said.",
    "Parents had gathered 4,000 names against it. They will go to court, one of them told us.",
    "The schools, both built in 1962, have 310 pupils between them, half of what they once had.",
)
PAGE = f"""<!DOCTYPE html>
<html lang="en"><head><title>Schools close – The Paper</title><meta charset="utf-8"></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/sport">Sport</a></li></ul></nav>
<div id="cookies">We value your privacy. Accept all cookies?</div>
<article><h1>Schools close</h1>{"".join(f"<p>{paragraph}</p>" for paragraph in STORY)}</article>
<section class="comments" id="comments"><p>First! This is a scandal, says a reader.</p></section>
<footer>© The Paper. All rights reserved. Subscribe to our newsletter.</footer>
</body></html>"""


def test_the_article_is_taken_out_of_a_page() -> None:
    article = web_page.extract_article(PAGE.encode(), "page.html")
    for paragraph in STORY:
        assert paragraph in article.splitlines()
    for other in ("Sport", "cookies", "scandal", "newsletter"):
        assert other not in article


def test_a_page_in_another_encoding_is_read_by_what_it_says_of_itself() -> None:
    page = PAGE.replace('"utf-8"', '"iso-8859-1"').replace("–", "-").replace("Oslo", "Tromsø")
    assert "council of Tromsø voted" in web_page.extract_article(
        page.encode("latin-1"), "page.html"
    )


@pytest.fixture
def extraction_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Extract an article and return what is said of it."""
    monkeypatch.setattr(logging.getLogger("nutgraf"), "propagate", True)
    caplog.set_level("INFO")

    def extract(page: bytes | str) -> str:
        caplog.clear()
        web_page.extract_article(page, "page.html")
        return "\n".join(caplog.messages)

    return extract


def test_what_was_taken_is_said(extraction_log: Callable[..., str]) -> None:
    assert extraction_log(PAGE) == (
        "page.html: 53 words taken: Schools close The council of Oslo … half of what they once had."
    )


def saved(page: str, encoding: str = "quoted-printable") -> bytes:
    """Return a page as Chrome saves it in one file."""
    part = EmailMessage()
    part.set_content(page, subtype="html", cte=encoding, charset="utf-8")
    whole = MIMEMultipart("related", type="text/html")
    whole["From"] = "<Saved by Blink>"
    whole["Subject"] = "Schools close =?utf-8?Q?=E2=80=93?= The Paper"
    whole.attach(part)
    whole.attach(MIMEText("body { color: red }", "css"))
    return whole.as_bytes()


@pytest.mark.parametrize("encoding", ["quoted-printable", "base64"])
def test_a_page_saved_in_one_file_is_read(encoding: str) -> None:
    content = saved(PAGE.replace("Oslo", "Tromsø"), encoding)
    assert web_page.is_html(content)
    article = web_page.extract_article(content, "page.mhtml")
    assert STORY[0].replace("Oslo", "Tromsø") in article.splitlines()
    mail = EmailMessage()
    mail.set_content("\n".join(STORY))
    assert web_page.extract_article(mail.as_bytes(), "a.eml").strip() == "\n".join(STORY)


def paragraphs(of: str) -> str:
    return "".join(f"<p>{text} It was item {n} of {of}.</p>" for n in range(3) for text in STORY)


# trafilatura gives up behind the picture.
HALF = f"""<html><body><main><div class="story-body">{paragraphs("one")}</div>
<figure><figcaption>A school in Oslo</figcaption></figure>
<div class="lower">{paragraphs("two")}</div></main></body></html>"""


def test_a_page_that_may_have_more_is_named(extraction_log: Callable[..., str]) -> None:
    said = extraction_log(HALF)
    assert (
        "page.html: 207 words taken: The council of Oslo voted on … It was item 2 of one." in said
    )
    assert re.search(r"another extractor finds (39|40|41)\d words: look whether", said)
    assert "extractor" not in extraction_log(PAGE)


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("Just a moment...", "Enable JavaScript and cookies to continue", "a check for robots"),
        ("Access Denied", "You don't have permission to access this page.", "a check for robots"),
        ("News", "We value your privacy. We and our 842 partners store cookies on a device. With "
         "your consent we and our partners use precise data. Manage your privacy preferences. " * 3,
         "a question about cookies"),
        ("The Paper", "You need to enable JavaScript to run this app.", "a page that only JavaS"),
        ("Page not found", "The page was not found. Try the search.", "an error"),
        ("503 Service Temporarily Unavailable", "nginx", "an error"),
        ("404 页面不存在", "抱歉，您访问的页面不存在或已被删除。", "an error"),
        ("Seite nicht gefunden", "Leider fehlt die Seite.", "an error"),
        ("Zustimmung", "Wir und unsere 842 Partner verwenden Cookies. Mit „Alle akzeptieren“ "
         "stimmen Sie zu.", "a question about cookies"),
        ("Consentement", "Nous et nos 731 partenaires stockons des cookies. Vous pouvez accepter "
         "ou refuser.", "a question about cookies"),
        ("Un instant…", "Veuillez confirmer que vous êtes un être humain.", "a check for robots"),
        ("Post", "Bitte aktivieren Sie JavaScript in Ihrem Browser.", "a page that only"),
    ],
)  # fmt: skip
def test_a_notice_is_no_article(title: str, text: str, expected: str) -> None:
    page = (
        f"<html><head><title>{title}</title></head><body><main><p>{text}</p></main></body></html>"
    )
    with pytest.raises(UserError, match=f"page.html is {expected}"):
        web_page.extract_article(page, "page.html")


def test_what_says_that_it_is_an_article_is_one_though_it_speaks_of_cookies_or_errors(
    extraction_log: Callable[..., str],
) -> None:
    head = '<head><meta property="og:type" content="article"></head>'
    page = "<html>{}<body><article><p>{}</p></article></body></html>"
    text = "Error 404 is a show in Oslo. " + "All like it, and nobody said that it was bad. " * 6
    assert "67 words taken" in extraction_log(page.format(head, text))
    with pytest.raises(UserError, match="is an error"):
        extraction_log(page.format("", text))


def test_text_whose_words_are_not_spaced_is_counted_in_characters(
    extraction_log: Callable[..., str],
) -> None:
    text = "".join(f"第{n}座磨坊被大火烧毁，没有人受伤。" for n in range(10, 40))
    said = extraction_log(f"<html><body><article><p>{text}</p></article></body></html>")
    assert said == f"page.html: {len(text)} characters taken: {text[:20]} … {text[-20:]}"


def test_pages_of_another_kind_are_named(extraction_log: Callable[..., str]) -> None:
    teasers = "".join(
        f"<article><h2><a href='/{n}'>The council voted on its school {n}</a></h2>"
        f"<p>{STORY[n % 3]}</p></article>"
        for n in range(8)
    )
    assert "a list of articles, such as a front page" in extraction_log(
        f"<html><body>{teasers}</body></html>"
    )
    wall = PAGE.replace("<footer>", "<div>Subscribe to continue reading</div><footer>")
    assert "behind a paywall" in extraction_log(wall)
    wall = PAGE.replace("</head>", '<script type="application/ld+json">{"@type": "NewsArticle", '
                        '"isAccessibleForFree": false}</script></head>')  # fmt: skip
    assert "behind a paywall" in extraction_log(wall)
    video = PAGE.replace("<h1>", "<video src='a.mp4'></video><h1>")
    assert "the page of a video, with 53 words of text" in extraction_log(video)


def test_a_page_without_an_article_is_told() -> None:
    with pytest.raises(UserError, match=r"empty\.html is HTML in which no article was found"):
        web_page.extract_article("<html><body></body></html>", "empty.html")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<!DOCTYPE html><html>", True),
        (b"\xef\xbb\xbf\n <!-- saved -->\n<HTML lang='en'>", True),
        (b"<?xml version='1.0'?>\n<!doctype html>", True),
        (b"<htmlish> is no tag", False),
        (b"Text that speaks of <html>", False),
        (b"", False),
    ],
)
def test_a_page_is_known_by_its_beginning(content: bytes, expected: bool) -> None:
    assert web_page.is_html(content) is expected


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        *[
            (address, False)
            for address in (
                "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 "
                "255.255.255.255 224.0.0.1 240.0.0.1 192.0.2.1 198.18.0.1 ::1 :: fe80::1 fe80::1%1 "
                "fc00::1 fec0::1 ff02::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::127.0.0.1 "
                "64:ff9b::7f00:1 64:ff9b:1::a00:1 2002:7f00:1:: 2001:0:1::1 2001:db8::1 3fff::1"
            ).split()
        ],
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert fetch.is_public(ipaddress.ip_address(address)) is public


# A server on the loopback address, which the name news.test leads to. Only there is it public.


class Site:
    """Pages by path, each a function that answers; `asked` are the paths and headers that came."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.server: ThreadingHTTPServer

    @property
    def port(self) -> int:
        return self.server.server_port


def answer(
    content: str | bytes, kind: str = "text/html; charset=utf-8", status: int = 200, **headers: str
) -> Callable[[BaseHTTPRequestHandler], None]:
    def send(request: BaseHTTPRequestHandler) -> None:
        body = content.encode() if isinstance(content, str) else content
        request.send_response(status)
        request.send_header("Content-Type", kind)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return send


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    here = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked.append((self.path, dict(self.headers)))
            with contextlib.suppress(OSError):
                here.pages[self.path](self)

        def log_message(self, *_: object) -> None: ...

    here.server = server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    known = {"news.test": ["127.0.0.1"], "inside.test": ["10.0.0.7"]}
    looked_up: list[str] = []

    def resolve(host: str, port: int, **_: object) -> list[tuple]:
        looked_up.append(host)
        # The second answer leads inside: what was checked has to be what is connected to.
        addresses = known.get(host, [host]) if looked_up.count(host) == 1 else ["10.0.0.7"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    monkeypatch.setattr(fetch.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(fetch, "is_public", lambda a: a == ipaddress.ip_address("127.0.0.1"))
    yield here
    server.shutdown()
    server.server_close()


def test_an_article_is_fetched(site: Site) -> None:
    site.pages["/a%20b?q=1"] = answer(PAGE)
    assert STORY[0] in fetch.fetch_article(f"http://news.test:{site.port}/a b?q=1#top")
    ((_, headers),) = site.asked
    assert headers["Host"] == f"news.test:{site.port}"
    assert headers["User-Agent"].startswith("nutgraf/")


def test_plain_text_is_taken_as_it_is(site: Site) -> None:
    site.pages["/"] = answer(
        "Die Bürger stimmten ab.".encode("latin-1"), "text/plain; charset=latin-1"
    )
    assert fetch.fetch_article(f"http://news.test:{site.port}") == "Die Bürger stimmten ab."


def test_a_redirect_is_followed_and_its_address_checked_too(site: Site) -> None:
    known = f"http://127.0.0.1:{site.port}"
    site.pages["/old"] = answer("", status=301, Location=f"{known}/new")
    site.pages["/new"] = answer(PAGE)
    assert STORY[0] in fetch.fetch_article(f"http://news.test:{site.port}/old")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://inside.test/secret", r"inside\.test is at 10\.0\.0\.7, which is no public"),
        ("file:///etc/passwd", "is no http or https address"),
        ("http://me:secret@news.test/", "holds a user name"),
    ],
)
def test_a_redirect_cannot_lead_inside(site: Site, target: str, expected: str) -> None:
    site.pages["/"] = answer("", status=302, Location=target)
    with pytest.raises(UserError, match=expected):
        fetch.fetch_article(f"http://news.test:{site.port}/")


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
@pytest.mark.parametrize("name", ["news.test", "other.test"])
def test_a_certificate_has_to_be_the_host_s(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
    words += f"-keyout {key} -out {certificate} -subj /CN={name} -addext subjectAltName=DNS:{name}"
    subprocess.run(words.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    trusting = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(fetch.ssl, "create_default_context", lambda: trusting)
    site.pages["/"] = answer(PAGE)
    address = f"https://news.test:{site.port}/"
    if name == "news.test":
        assert STORY[0] in fetch.fetch_article(address)
    else:
        with pytest.raises(Failure, match=r"not valid for 'news\.test'"):
            fetch.fetch_article(address)


def test_one_private_address_among_public_ones_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, site.port))
                 for a in ("127.0.0.1", "192.168.0.9")]  # fmt: skip
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lambda *_, **__: addresses)
    with pytest.raises(UserError, match=r"news\.test is at 192\.168\.0\.9"):
        fetch.fetch_article(f"http://news.test:{site.port}/")
    assert site.asked == []


def test_redirects_have_an_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    here = f"http://127.0.0.1:{site.port}/"
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", site.port))]
    monkeypatch.setattr(fetch.socket, "getaddrinfo", lambda *_, **__: addresses)
    site.pages["/"] = answer("", status=302, Location=here)
    with pytest.raises(Failure, match="redirects more than 5 times"):
        fetch.fetch_article(here)
    assert len(site.asked) == 6


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answer("", status=404), "could not be fetched: 404 Not Found"),
        (answer(b"%PDF", "application/pdf"), "is application/pdf: text/html"),
        (answer(b"\x1f\x8b", Content_Encoding="gzip"), "comes as gzip though asked not to"),
        (answer(b"x" * (fetch.MAX_BYTES + 1)), "is over 5 MiB"),
        (
            answer("half", Content_Length="5000"),
            "broke off, 4,996 bytes before its end",
        ),
        (answer(PAGE, "text/html; charset=klingon"), "unknown encoding 'klingon'"),
    ],
)
def test_what_cannot_be_read_is_told(site: Site, reply: Callable, expected: str) -> None:
    site.pages["/"] = reply
    with pytest.raises(Failure, match=expected):
        fetch.fetch_article(f"http://news.test:{site.port}/")


def test_a_page_that_trickles_ends_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_SECONDS", 0.5)

    def trickle(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(100):
            request.wfile.write(b"x")
            time.sleep(0.05)

    site.pages["/"] = trickle
    started = time.monotonic()
    with pytest.raises(Failure, match="could not be fetched: it took more than"):
        fetch.fetch_article(f"http://news.test:{site.port}/")
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://", "is no http or https address of a host"),
        ("http://news.test:99999/", "is no address"),
        ("http://user@news.test/", "holds a user name"),
        ("http://127.0.0.1/", r"127\.0\.0\.1 is at 127\.0\.0\.1, which is no public address"),
        ("http://[::1]:8000/", r"::1 is at ::1, which is no public address"),
        ("http://2130706433/", r"is at 127\.0\.0\.1, which is no public address"),
        ("http://localhost/", "which is no public address"),
        ("http://" + "a" * 70 + ".test/", "is no name of a host"),
    ],
)
def test_addresses_that_are_refused(address: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        fetch.fetch_article(address)
