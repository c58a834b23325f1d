"""Decode and clean the text of one article or summary, or say why it cannot be used.

Everything that takes texts takes them through here: the stages, `score` and `summarize`.
"""

from __future__ import annotations

import codecs
import unicodedata

HEAD = 8192  # bytes that show what a file is

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# Line ends of other systems become "\n", spaces of a fixed width or without a break " "; other
# control characters go. So do invisible ones, which would part words: soft hyphens, spaces without
# width, tags and byte order marks, but not joiners and marks of direction, which scripts need. A
# lone surrogate, which JSON can hold and UTF-8 cannot, becomes the replacement character.
_INVISIBLE = [0xAD, 0x34F, 0x180E, 0x200B, *range(0x2060, 0x2065), *range(0x206A, 0x2070), 0xFEFF]
_INVISIBLE += [*range(0xFFF9, 0xFFFD), *range(0xE0000, 0xE0080)]
_CHARACTERS: dict[int, str | None] = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), *_INVISIBLE])
_CHARACTERS |= dict.fromkeys([0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029], "\n") | {0x09: "\t"}
_CHARACTERS |= dict.fromkeys([0xA0, 0x2007, 0x202F], " ")
_CHARACTERS |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
# How programs write into a table of text that there is nothing.
_NO_VALUE = {"nan", "none", "null", "<na>", "#n/a"}


class TextError(ValueError):
    """A value that is no text to work with; `reason` is a few words, `str` has what is known."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def usable_text(value: object) -> str:
    """Return the clean text of a value: text, or bytes in UTF-8, or with the mark of UTF-16 or -32.

    Raises TextError with the reason `missing` (None, NaN), `not text`, `not UTF-8`, or `empty` if
    nothing visible would be left, or a word such as `nan` for nothing.
    """
    if value is None or (isinstance(value, float) and value != value):
        raise TextError("missing")
    if isinstance(value, bytes):
        try:
            value = value.decode(encoding_by_mark(value[:HEAD]) or "utf-8-sig")
        except UnicodeDecodeError as error:
            raise TextError("not UTF-8", f"{error.reason} at byte {error.start}") from None
    if not isinstance(value, str):
        raise TextError("not text", f"it is of type {type(value).__name__}")
    text = clean_text(value)
    if all(c.isspace() or unicodedata.category(c) == "Cf" for c in text):
        raise TextError("empty")
    if text.lower() in _NO_VALUE:
        raise TextError("empty", f"{text!r} stands for no value")
    return text


def clean_text(text: str) -> str:
    r"""Return a text with "\n" as line end, without invisible characters and outer white space.

    Wording, case, tabs and the number of inner spaces stay as they are.
    """
    return text.replace("\r\n", "\n").translate(_CHARACTERS).strip()


def encoding_by_mark(head: bytes) -> str | None:
    """Return the UTF-16 or UTF-32 encoding that the first bytes show by a mark or by zeros."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    pairs = len(head) // 2
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros = head[start : 2 * pairs : 2].count(0)
        if pairs > 1 and zeros > 0.7 * pairs and not head[1 - start : 2 * pairs : 2].count(0):
            return encoding
    return None
