"""Decode and clean the text of one article or summary, or say why it cannot be used.

Everything that takes texts takes them through here: the stages, `score` and `summarize`.
"""

from __future__ import annotations

import unicodedata

# Line ends of other systems become "\n"; other control characters and byte order marks go. A
# lone surrogate, which JSON can hold and UTF-8 cannot, becomes the replacement character.
_CHARACTERS: dict[int, str | None] = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), 0xFEFF])
_CHARACTERS |= dict.fromkeys([0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029], "\n") | {0x09: "\t"}
_CHARACTERS |= dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


class TextError(ValueError):
    """A value that is no text to work with; `reason` is a few words, `str` has what is known."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def usable_text(value: object) -> str:
    """Return the clean text of a value: text, or bytes in UTF-8 with or without a mark.

    Raises TextError with the reason `missing` (None), `not text`, `not UTF-8`, or `empty` if
    nothing visible would be left.
    """
    if value is None:
        raise TextError("missing")
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise TextError("not UTF-8", f"{error.reason} at byte {error.start}") from None
    if not isinstance(value, str):
        raise TextError("not text", f"it is of type {type(value).__name__}")
    text = clean_text(value)
    if all(c.isspace() or unicodedata.category(c) == "Cf" for c in text):
        raise TextError("empty")
    return text


def clean_text(text: str) -> str:
    r"""Return a text with "\n" as line end, without control characters and outer white space.

    Wording, case, tabs and inner spaces stay as they are.
    """
    return text.replace("\r\n", "\n").translate(_CHARACTERS).strip()
