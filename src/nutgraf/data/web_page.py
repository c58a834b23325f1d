"""Extract the article of a web page, and say what was taken.

`trafilatura` (Barbaresi 2021, "Trafilatura: A Web Scraping Library and Command-Line Tool for Text
Discovery and Extraction") extracts it. Where it gives up half, `readability-lxml` usually has all:
a warning names both counts (docs/benchmarks.md has how often).
"""

from __future__ import annotations

import email
import email.policy
import logging
import re
from collections.abc import Iterator
from typing import Any

from nutgraf.core.errors import UserError

logger = logging.getLogger(__name__)

MUCH_MORE = 1.3  # times the words, in the other extractor's text
_FEW = 120  # words: less than an article has, and more than a notice
_FEW_CHARACTERS = 900  # the same where words are not spaced
_SHOWN = 6  # words of the beginning and of the end

_HTML = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.I | re.S)
_MIME = re.compile(rb"\s*(?:[\w-]+:.*\n(?:[ \t].*\n)*)*?mime-version:", re.I)
# What pages without an article are, by words of their title and text.
_NOTICES = {
    "a check for robots": r"enable javascript and cookies|checking (?:if|your browser)|"
    r"just a moment|(?:are|is) (?:you |a )*human|not a robot|unusual (?:traffic|activity)|captcha|"
    r"pardon our interruption|access (?:to this page )?(?:has been |is )?denied|"
    r"attention required|disable any ad ?blocker",
    "a question about cookies": r"value your privacy|(?:accept|reject|allow) (?:all )?cookies|"
    r"cookie (?:settings|preferences|policy)|before you continue|(?:we|our) (?:and our )?"
    r"(?:\d+ )?partners|your consent|privacy (?:choices|preferences|settings)",
    "a page that only JavaScript fills": r"(?:enable|turn on|requires?|without) javascript|"
    r"javascript (?:is|to be) (?:disabled|required|enabled)",
    "an error": r"(?:page|article|content) (?:was |could |can ?)*not (?:be )?found|error 404|"
    r"40[34] (?:error|not found|forbidden)|error 40[34]|"
    r"(?:page|article|story) is no longer available|service unavailable",
}
_ABOUT_COOKIES = re.compile(r"\b(?:cookies?|consent|partners|vendors|privacy|preferences)\b", re.I)
_PAYWALL = re.compile(
    r"\b(?:subscribe|sign in|log in|register|sign up) (?:now )?to (?:continue|read|unlock|keep)|"
    r"\b(?:for|to) (?:our )?subscribers only|subscriber[- ]only|already a (?:subscriber|member)|"
    r"to continue reading|free articles? (?:left|remaining)",
    re.I,
)
_NOT_FREE = re.compile(r"\"isAccessibleForFree\"\s*:\s*\"?false", re.I)
# What only pages with one article say of themselves.
_ONE_ARTICLE = re.compile(
    r"\"@type\"\s*:\s*\[?\s*\"\w*(?:Article|Posting|Report|Review)|article:published_time|"
    r"[\"']og:type[\"']\s+content=[\"']article|content=[\"']article[\"']\s+property=[\"']og:type|"
    r"schema\.org/\w*(?:Article|Posting|Report)|datePublished",
    re.I,
)
_FRONT_LINKS, _FRONT_HEADINGS = 30, 5  # with at least so many, a page is one of teasers


def is_html(content: bytes) -> bool:
    """Return whether `content` begins as a web page does, or as one saved with its pictures."""
    head = content.removeprefix(b"\xef\xbb\xbf")[:4096]
    return bool(_HTML.match(head) or _MIME.match(head))


def extract_article(page: bytes | str, name: str) -> str:
    """Extract the article, a paragraph a line, without navigation, comments and captions.

    Bytes are decoded as the page declares; if it declares nothing, the encoding is guessed. MHTML
    and mail are read too. What was taken is logged, with the page's `name`; so is a warning if it
    may be a part of the article, or none. Raises UserError if there is no article.
    """
    import trafilatura
    from trafilatura.utils import decode_file

    if isinstance(page, bytes):
        if _MIME.match(page[:4096]):
            page, is_page = _body(page)
            if not is_page:
                return page if isinstance(page, str) else decode_file(page)
        page = decode_file(page)
    tree = trafilatura.load_html(page)
    text = trafilatura.extract(page, include_comments=False, include_tables=False) or ""
    words = text.split()
    if tree is not None and (notice := _notice(tree, text)):
        raise UserError(
            f"{name} is {notice}, not an article: save the page once a browser shows it"
        )
    if not words:
        raise UserError(f"{name} is HTML in which no article was found: give its text")
    shown = f"{' '.join(words[:_SHOWN])} … {' '.join(words[-_SHOWN:])}"
    logger.info(f"{name}: {len(words):,} words taken: {shown}")
    for doubt in _doubts(tree, page, text):
        logger.warning(f"{name}: {doubt}")
    return text


def _body(content: bytes) -> tuple[bytes | str, bool]:
    """Return the main part of MHTML or a mail, and whether it is HTML."""
    message = email.message_from_bytes(content, policy=email.policy.default)
    part = message.get_body(("html", "plain"))
    if part is None:
        return "", True
    raw, charset = part.get_payload(decode=True), part.get_content_charset()
    assert isinstance(raw, bytes)
    try:
        body: bytes | str = raw.decode(charset, "replace") if charset else raw
    except LookupError:
        body = raw
    return body, part.get_content_subtype() == "html"


def _notice(tree: Any, text: str) -> str | None:
    """Return what a page is that has a notice in place of an article, or None."""
    n = len(text.split())
    if len(_ABOUT_COOKIES.findall(text)) > max(3, 0.05 * n):
        return "a question about cookies"
    if n >= _FEW or len(text) > _FEW_CHARACTERS:
        return None
    said = f"{' '.join(tree.itertext('title'))} {text or tree.text_content()}"
    kinds = (kind for kind, words in _NOTICES.items() if re.search(words, said, re.I))
    return next(kinds, None)


def _doubts(tree: Any, page: str, text: str) -> Iterator[str]:
    """Yield why the text may be a part of the article, or none."""
    n, other = len(text.split()), _words_of_readability(page)
    if other > MUCH_MORE * n:
        yield f"another extractor finds {other:,} words: look whether the article is whole"
    if _NOT_FREE.search(page) or (n < 2 * _FEW and _PAYWALL.search(tree.text_content())):
        yield "it seems to be behind a paywall: look whether the article is whole"
    video = tree.xpath("//video | //meta[@property='og:type'][starts-with(@content, 'video')]")
    if n < _FEW and (video or '"VideoObject"' in page):
        yield f"it seems to be the page of a video, with {n:,} words of text"
    addresses = tree.xpath("//link[@rel='canonical']/@href | //meta[@property='og:url']/@content")
    front = any(re.fullmatch(r"https?://[^/?#]+/?", address) for address in addresses)
    if not front and not _ONE_ARTICLE.search(page):
        links = {" ".join(a.text_content().split()) for a in tree.iter("a")}
        headings = tree.xpath(
            "//*[self::h1 or self::h2 or self::h3 or self::h4][.//a or parent::a]"
        )
        sizes = [size for link in links if (size := len(link.split())) > 3]
        front = len(sizes) >= _FRONT_LINKS and sum(sizes) > n
        front |= len(headings) >= max(_FRONT_HEADINGS, 0.5 * len(text.splitlines()))
    if front:
        yield "it seems to be a list of articles, such as a front page: give the page of one"


def _words_of_readability(page: str) -> int:
    """Return how many words readability-lxml takes; 0 if it cannot read the page."""
    import lxml.etree
    import lxml.html
    import readability

    try:
        return len(
            lxml.html.fromstring(readability.Document(page).summary()).text_content().split()
        )
    except (readability.readability.Unparseable, lxml.etree.LxmlError, ValueError):
        return 0
