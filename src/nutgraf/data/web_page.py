"""Extract the article of a web page.

`trafilatura` (Barbaresi 2021, "Trafilatura: A Web Scraping Library and Command-Line Tool for Text
Discovery and Extraction") extracts it.
"""

from __future__ import annotations

import re

from nutgraf.core.errors import UserError

_HTML = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.I | re.S)


def is_html(content: bytes) -> bool:
    """Return whether `content` begins as a web page does."""
    return bool(_HTML.match(content.removeprefix(b"\xef\xbb\xbf")[:4096]))


def extract_article(page: bytes | str, name: str) -> str:
    """Extract the article, a paragraph a line, without navigation, comments and captions.

    Bytes are decoded as the page declares; if it declares nothing, the encoding is guessed.
    Raises UserError, with the page's `name`, if there is no article.
    """
    import trafilatura

    text = trafilatura.extract(page, include_comments=False, include_tables=False)
    if not text:
        raise UserError(f"{name} is HTML in which no article was found: give its text")
    return text
