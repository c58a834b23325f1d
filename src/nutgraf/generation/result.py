"""Define what a summarizer returns: a summary, and how it came about."""

from __future__ import annotations

from dataclasses import dataclass

from nutgraf.evaluation.support import Checked
from nutgraf.generation.choose import Rated


@dataclass(frozen=True)
class RatedSummary(Rated):
    """One of several summaries of an article; the fields that `SummaryResult` has mean the same."""

    finish_reason: str
    new_tokens: int


@dataclass(frozen=True)
class SummaryResult:
    """A summary, and how it came about.

    `trimmed_tokens` were cut off the article's end unread; `new_tokens` were decoded, without the
    end of sequence. `finish_reason` is `stop` if the model ended the summary, `length` if it was
    cut at the limit of tokens, `sentences` if it was cut after a sentence. `seconds` are an equal
    share of the time if several were decoded together. `parts` are the summaries of an
    article's parts, if it was read in parts. `candidates` are all that were written and rated, if
    there were several; the summary is the one that was chosen. `facts` are its sentences as the
    base has judged them, if it was asked to.
    """

    summary: str
    prompt_tokens: int
    trimmed_tokens: int
    new_tokens: int
    finish_reason: str
    seconds: float
    parts: tuple[str, ...] = ()
    candidates: tuple[RatedSummary, ...] = ()
    facts: list[Checked] | None = None

    def __str__(self) -> str:
        return self.summary
