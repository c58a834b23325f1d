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
from pathlib import Path
from typing import Any

from nutgraf.core.errors import UserError
from nutgraf.data.source_files import bare_suffix

logger = logging.getLogger(__name__)

MUCH_MORE = 1.3  # times as much, in the other extractor's text
# Less than an article has, and more than a notice; characters if words are not spaced.
_FEW = {"words": 120, "characters": 400}
_NOTICE = {"words": 50, "characters": 150}  # so little is named in any language
_LONG_LINK = {"words": 4, "characters": 10}  # a headline
_SHOWN = {"words": 6, "characters": 20}  # of the beginning and of the end

_HTML = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|(html|head|body|meta|link|title|style|"
    rb"main|article|section|header|nav|div|p|h1|table)(?=[\s/>]))",
    re.I | re.S,
)
_MIME = re.compile(rb"\s*(?:[\w-]+:.*\n(?:[ \t].*\n)*)*?mime-version:", re.I)
MIME_NAMES = (".mhtml", ".mht", ".eml")
# What pages without an article are, by words of their title and text.
_NOTICES = {
    "a check for robots": r"enable javascript and cookies|checking (?:if|your browser)|"
    r"just a moment|(?:are|is) (?:you |a )*human|not a robot|unusual (?:traffic|activity)|captcha|"
    r"pardon our interruption|access (?:to this page )?(?:has been |is )?denied|"
    r"attention required|disable any ad ?blocker|(?:ein mensch|être humain|ser humano|"
    r"essere umano|не робот|真人)|nur einen moment|un (?:instant|momento)(?:…|\.\.\.)",
    "a question about cookies": r"value your privacy|"
    r"cookie (?:settings|preferences|policy)|before you continue|(?:we|our) (?:and our )?"
    r"(?:\d+ )?partners|your consent|privacy (?:choices|preferences|settings)|"
    r"(?:cookies?\b|(?:unsere|nos|nuestros|nostri|nossos|onze) [\d., ]*(?:partn|parten|soci|parc))"
    r".{0,400}(?:accept|acept|akzept|accett|aceit|refus|ablehn|rechaz|rifiut|conse[nj]|zustimm|"
    r"einwillig|toestem|согла|同意)|"
    r"(?:accept|reject|allow|akzept|acept|accett)\w* (?:\w+ )?cookies",
    "a page that only JavaScript fills": r"(?:enable|turn on|requires?|without|a[ck]tiv\w+|"
    r"attiv\w+|habilit\w+|inschakel\w+|включит\w+|启用|有効).{0,20}javascript|"
    r"javascript.{0,20}(?:disabled|required|enabled|a[ck]tiv|attiv|habilit|inschakel|включ|启用|有効)",
    "an error": r"(?:page|article|content) (?:was |could |can ?)*not (?:be )?found|"
    r"40[34] (?:error|not found|forbidden)|error 40[34]|"
    r"^\W*(?:40[0134]|410|429|451|50[0234])\s*(?:$|[^\w\s]|bad|service|gateway|too|un|page|pa|se|页)|"
    r"(?:page|article|story) is no longer available|service unavailable|"
    r"(?:can ?not|could ?not|can.t|couldn.t) find (?:the|that|this) (?:page|article)|"
    r"seite nicht gefunden|page (?:introuvable|non trouvée)|página no encontrada|"
    r"pagina (?:non trovata|niet gevonden)|страница не найдена|页面不存在|ページが見つかりません|"
    r"for legal reasons|not available in your (?:country|region)|access cannot be granted",
}
_ABOUT_COOKIES = re.compile(
    r"\b(?:cookies?|consent\w*|partners?|vendors|privacy|preferences|partenaires|socios|parceiros|"
    r"zustimm\w*|einwillig\w*|datenschutz\w*|privacidad\w*|toestemming|согласи\w*)\b",
    re.I,
)
_PAYWALL = re.compile(
    r"\b(?:subscribe|sign in|log in|register|sign up) (?:now )?to (?:continue|read|unlock|keep)|"
    r"\b(?:for|to) (?:our )?subscribers only|subscriber[- ]only|already a (?:subscriber|member)|"
    r"to continue reading|free articles? (?:left|remaining)|bereits abonnent|jetzt weiterlesen|"
    r"weiterlesen mit|déjà abonné|réservée?s? aux abonnés|(?:solo|sólo) para suscriptores|"
    r"ya (?:eres|es) suscriptor|già abbonat|riservat[oi] agli abbonati|voor abonnees|"
    r"для подписчиков",
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
        if _MIME.match(page[:4096]) or bare_suffix(Path(name)) in MIME_NAMES:
            page, is_page = _body(page)
            if not is_page:
                return page if isinstance(page, str) else decode_file(page)
        page = decode_file(page)
    tree = trafilatura.load_html(page)
    text = trafilatura.extract(page, include_comments=False, include_tables=False) or ""
    unit = _unit(text)
    if tree is not None and (notice := _notice(tree, page, text)):
        raise UserError(
            f"{name} is {notice}, not an article: save the page once a browser shows it"
        )
    if not text.strip():
        raise UserError(f"{name} is HTML in which no article was found: give its text")
    pieces, sep = (text.split(), " ") if unit == "words" else (" ".join(text.split()), "")
    n = _SHOWN[unit]
    shown = f"{sep.join(pieces[:n])} … {sep.join(pieces[-n:])}"
    logger.info(f"{name}: {_amount(text, unit):,} {unit} taken: {shown}")
    for doubt in _doubts(tree, page, text):
        logger.warning(f"{name}: {doubt}")
    return text


def _unit(text: str) -> str:
    """Return what a text is measured in: `words`, or `characters` if its words are not spaced."""
    return "characters" if len(text) > 15 * len(text.split()) else "words"


def _amount(text: str, unit: str) -> int:
    words = text.split()
    return len(words) if unit == "words" else sum(map(len, words))


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


def _notice(tree: Any, page: str, text: str) -> str | None:
    """Return what a page is that has a notice in place of an article, or None."""
    n, unit, marked = len(text.split()), _unit(text), _ONE_ARTICLE.search(page)
    if len(_ABOUT_COOKIES.findall(text)) > max(3, (0.12 if marked else 0.05) * n):
        return "a question about cookies"
    if (marked and n) or _amount(text, unit) >= _FEW[unit]:
        return None
    said = " ".join(f"{' '.join(tree.itertext('title'))} {text or tree.text_content()}".split())
    kinds = (kind for kind, words in _NOTICES.items() if re.search(words, said, re.I))
    return next(kinds, None)


def _doubts(tree: Any, page: str, text: str) -> Iterator[str]:
    """Yield why the text may be a part of the article, or none."""
    unit = _unit(text)
    n, few = _amount(text, unit), _FEW[unit]
    if (other := _amount(_text_of_readability(page), unit)) > MUCH_MORE * n:
        yield f"another extractor finds {other:,} {unit}: look whether the article is whole"
    if n < _NOTICE[unit]:
        yield f"it has only {n} {unit}: look whether that is the article, and not a notice"
    if _NOT_FREE.search(page) or (n < 2 * few and _PAYWALL.search(tree.text_content())):
        yield "it seems to be behind a paywall: look whether the article is whole"
    video = tree.xpath("//video | //meta[@property='og:type'][starts-with(@content, 'video')]")
    if n < few and (video or '"VideoObject"' in page):
        yield f"it seems to be the page of a video, with {n:,} {unit} of text"
    addresses = tree.xpath("//link[@rel='canonical']/@href | //meta[@property='og:url']/@content")
    front = any(re.fullmatch(r"https?://[^/?#]+/?", address) for address in addresses)
    if not front and not _ONE_ARTICLE.search(page):
        links = {" ".join(a.text_content().split()) for a in tree.iter("a")}
        headings = tree.xpath(
            "//*[self::h1 or self::h2 or self::h3 or self::h4][.//a or parent::a]"
        )
        sizes = {link: _amount(link, unit) for link in links}
        sizes = {link: size for link, size in sizes.items() if size >= _LONG_LINK[unit]}
        flat = " ".join(text.split())
        front = len(sizes) >= _FRONT_LINKS and sum(sizes.values()) > n
        front |= sum(size for link, size in sizes.items() if link in flat) > 0.5 * n
        front |= len(headings) >= max(_FRONT_HEADINGS, 0.5 * len(text.splitlines()))
    if front:
        yield "it seems to be a list of articles, such as a front page: give the page of one"


def _text_of_readability(page: str) -> str:
    """Return the text that readability-lxml takes, empty if it cannot read the page."""
    import lxml.etree
    import lxml.html
    import readability

    try:
        return str(lxml.html.fromstring(readability.Document(page).summary()).text_content())
    except (readability.readability.Unparseable, lxml.etree.LxmlError, ValueError):
        return ""
