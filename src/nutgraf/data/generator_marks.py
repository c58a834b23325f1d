r"""Clean summaries of other programs of the marks that generators and tokenizers leave in them.

As words of a summary they would count against it: `<n>`, `<q>`, `[X_SEP]`, `<t> … </t>`, `&#39;`,
a literal `\n`, `##` of word pieces. Ordinary text stays: `a < b`, `AT&T`, `C:\new`, `#hashtag`.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from re import Match

_NAMES = "pad|mask|bos|eos|eod|eop|eot|cls|unk|sos|blank|start|end|reserved_special_token_\\d+"
_PATTERNS = {
    # Byte fallback of a tokenizer: `<0xE2><0x80><0x99>`.
    "bytes": r"(?:<0x[0-9A-Fa-f]{2}>)+",
    # What a model thinks before its summary.
    "thought": r"\A\s*<(?P<tag>think(?:ing)?)>(?s:.*?)</(?P=tag)>",
    # Ends of sentences, and of the summary. A path may hold `\n`, a name of a computer `\\n`.
    "end": r"(?-i:</?\s?[nqtsp]\s?/?>)|</?(?:sent|(?:[xs]|sent|doc|story)[_-]sep|sep|br ?/?|doc"
    r"|summary|answer|output|newline|nl|[ou]l|li)>|##(?:sent|sep)##|\|\|\|"
    r"|\[(?:(?:[xs]_)?sep|newline)\]|(?-i:\[SENT\])|<eos>|(?-i:\[EOS\])"
    r"|<\|(?:endoftext|end_of_text|im_end|eot_id|eot|end)\|>|<end_of_turn>"
    r"|\\r\\n|(?<=[.!?\s\"'”’])\\n|\\{1,2}n(?![a-z])",
    # The opening of a chat model's turn goes with its role.
    "turn": r"<\|(?:im_start|start_header_id)\|>\s*(?:assistant|user|system)?"
    r"(?:\s*<\|end_header_id\|>)?|<\|channel\|>\s*final\s*<\|message\|>|<start_of_turn>\s*(?:model|user)?",
    # In brackets in capitals: an editor writes `the [end]`.
    "special": rf"<(?:{_NAMES}|extra_id_\d+)>|(?-i:\[(?:{_NAMES.upper()}|/?INST|unk|cls)\])"
    r"|<[|｜][\w ]{1,40}[|｜]>|<</?SYS>>|\b(?:_START_|_END_|(?:start|end)seq|(?:so|eo)stok)\b|⁇",
    "entity": r"&(?:\s(?=amp|lt|gt|quot|apos|nbsp|#))?"
    r"(?:[a-z][a-z\d]+|#\s?\d{2,6}|#x[\da-f]{2,5})\s?;",
    "escape": r"(?:\\u[\da-f]{4})+|\\[\"'](?=.)|(?<=[\s.!?])\\t(?![a-z])",
    "bracket": r"-[LR][RSC]B-",
    "piece": r"(?<=\w) ##(?=\w)|(?<=\w)@@(?: |$)| ?@[-.,]@ ?",
}
_MARK = re.compile("|".join(f"(?P<{k}>{p})" for k, p in _PATTERNS.items()), re.IGNORECASE)
_BRACKETS = dict(zip(["LRB", "RRB", "LSB", "RSB", "LCB", "RCB"], "()[]{}", strict=True))
# What begins a word in the pieces of SentencePiece and of byte-level BPE.
# The least share of words that have it, if pieces stand apart.
_BEGIN = {"▁": 1 / 3, "Ġ": 1 / 2}


def without_marks(text: str, source: str = "") -> tuple[str, Counter[str]]:
    """Return a text without a generator's marks, and how often it had each.

    Those that stand in `source`, which it is compared with as it is, are no generator's, and stay.

    Marks between sentences become line ends; entities, escapes, brackets and word pieces become
    what they stand for; special tokens go. Labels such as `Summary:` are words, and stay.
    """
    marks: Counter[str] = Counter()

    def plain(mark: Match[str]) -> str:
        text = mark[0] if mark[0].lower() in source.lower() else _plain(mark)
        if text != mark[0]:  # `&D;` is no entity
            marks["<think>" if mark.lastgroup == "thought" else mark[0].strip()] += 1
        return text

    text = "\n".join(_joined(line, marks) for line in text.split("\n"))
    # Twice, for `&amp;#39;`.
    clean = _MARK.sub(plain, _MARK.sub(plain, text))
    if not marks:
        return text, marks
    lines = (re.sub(r"[ \t]{2,}", " ", line).strip() for line in clean.split("\n"))
    return "\n".join(filter(None, lines)), marks


def marks_line(marks: Counter[str], texts: int, of: str) -> str:
    """Return one line on the marks that `texts` texts had; `of` names them."""
    first = ", ".join(f"{mark} {count:,}" for mark, count in marks.most_common(4))
    more = ", ..." if len(marks) > 4 else ""
    return f"{of}: marks of a generator cleaned in {texts:,} ({first}{more})"


def _joined(line: str, marks: Counter[str]) -> str:
    """Join the pieces of a line with `▁`, or `Ġ` at half of its words: Maltese has it at some.

    `Ċ` is a line end beside `Ġ`.
    """
    for begin, share in _BEGIN.items():
        words = line.split()
        marked = sum(word.startswith(begin) for word in words)
        inside = len(re.findall(rf"(?<=[a-z.,]){begin}", line))
        apart = len(words) > 1 and marked >= share * len(words)
        if (marked > 1 and apart) or inside > 1 or (begin == "▁" and marked):
            marks[begin] += line.count(begin)
            line = ("".join(words) if apart else line).replace(begin, " ").strip()
            line = line.replace("Ċ", "\n")
    return line


def _plain(mark: Match[str]) -> str:
    text = mark[0]
    match mark.lastgroup:
        case "bytes":
            codes = bytes.fromhex("".join(re.findall(r"0x(..)", text)))
            return codes.decode("utf-8", errors="replace")
        case "end":
            return "\n"
        case "thought":
            return ""
        case "entity":
            plain = html.unescape(re.sub(r"\s", "", text)).replace("\xa0", " ")
            return text if plain.startswith("&") and len(plain) > 1 else plain
        case "escape":
            if text[1] not in "uU":
                return text[1:].replace("t", " ")
            units = bytes.fromhex(re.sub(r"\\u", "", text, flags=re.IGNORECASE))
            return units.decode("utf-16-be", errors="replace")
        case "bracket":
            return _BRACKETS[text[1:-1].upper()]
        case "piece":
            return text.strip(" @#")
    return " " if text.startswith(("<", "[")) else ""
