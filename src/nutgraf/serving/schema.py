"""Define requests and answers, as the OpenAPI description shows them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from nutgraf.config.evaluation import MAX_CANDIDATES
from nutgraf.data.text import TextError, usable_text
from nutgraf.data.web_page import is_html
from nutgraf.evaluation.evidence import Evidence
from nutgraf.evaluation.support import Checked
from nutgraf.serving.limits import Limits

# A visible character, as `usable_text` asks: no white space, control or format character.
_FORMAT = "".join(f"\\u{n:04x}" for n in range(0x10000) if unicodedata.category(chr(n)) == "Cf")
_VISIBLE = rf"[^\s\x00-\x1f\x7f-\x9f{_FORMAT}]"
_EXAMPLE: Any = {
    "articles": ["Fire destroyed a mill in Norwick on Monday. Nobody was hurt, police said."],
    "systems": ["best"],
}
EVENTS: Any = {
    "itemSchema": {
        "type": "object",
        "properties": {
            "event": {"enum": ["piece", "summary", "done", "problem"]},
            "data": {"type": "string", "description": "One JSON object."},
        },
        "required": ["event", "data"],
    }
}


def check_number(value: object) -> object:
    """Refuse texts and booleans, which pydantic takes as numbers; in JSON 4.0 is 4."""
    if isinstance(value, (str, bool)):
        raise ValueError("input should be a valid integer")
    return value


class SummaryRequest(BaseModel):
    """Articles to summarize, each by every system."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _EXAMPLE})

    articles: list[str]
    systems: list[str]
    stream: bool = Field(
        False, strict=True, description="Answer with server-sent events, as it is written."
    )
    evidence: bool = Field(
        False,
        strict=True,
        description="Also say where each sentence comes from, what is unsupported and, if this "
        "server checks facts, what the base doubts.",
    )
    candidates: Annotated[int | None, BeforeValidator(check_number)] = Field(
        None,
        ge=1,
        le=MAX_CANDIDATES,
        description="Summaries that a model writes of each article, of which one is chosen; null: "
        "as many as in its study.",
    )
    max_new_tokens: Annotated[int | None, BeforeValidator(check_number)] = Field(
        None,
        ge=1,
        description="Longest summary of a model, in tokens, if that is less than in its study.",
    )


def request_model(systems: Sequence[str], limits: Limits) -> type[SummaryRequest]:
    """Return the form of a request to a server with these systems and limits."""
    article = Annotated[
        str,
        Field(
            min_length=1,
            max_length=limits.max_article,
            description="Plain text.",
            json_schema_extra={"pattern": _VISIBLE},
        ),
        AfterValidator(_check_visible),
    ]
    name: Any = Literal[tuple(systems)]
    who = "Who writes; a system that is named twice writes once."
    return create_model(
        "SummaryRequest",
        __base__=SummaryRequest,
        articles=(list[article], Field(min_length=1, max_length=limits.max_articles)),
        systems=(list[name], Field([systems[0]], min_length=1, description=who)),
    )


def _check_visible(article: str) -> str:
    try:
        usable_text(article)
    except TextError as error:
        fact = error.detail or "it has nothing but white space"
        raise ValueError(f"{fact}: give a text") from None
    if is_html(article[:4096].encode("utf-8", "replace")):
        raise ValueError("it is a web page: give the text of its article")
    return article


class Candidate(BaseModel):
    """One of several summaries that a model wrote, of which one was chosen."""

    text: str
    agreement: float = Field(description="With the other candidates, 0 to 100.")
    unsupported: int = Field(description="Its names and numbers that the article lacks.")
    expected: float | None = Field(
        description="Points of ROUGE above the mean of the candidates that the weights of a "
        "`fitted` choice expect of it; null without weights."
    )
    finish_reason: str
    new_tokens: int


class Summary(BaseModel):
    """One article's summary by one system."""

    article: int = Field(description="Place of the article in the request, from 0.")
    system: str
    text: str
    finish_reason: str = Field(
        description="`stop`: ended by the model; `length`: cut at the limit; `sentences`: cut "
        "after a sentence, as in the study; `extract`: no model."
    )
    prompt_tokens: int = Field(description="0 for an extract, which has no prompt.")
    trimmed_tokens: int = Field(description="Tokens of the article's end that were not read.")
    new_tokens: int
    seconds: float = Field(description="From the request to the end of this summary.")
    evidence: Evidence | None = Field(None, description="Positions count Unicode code points.")
    facts: list[Checked] | None = Field(
        None,
        description="Sentences with the probability that the article supports them; null without "
        "`evidence`, of an extract, and if this server does not check facts.",
    )
    candidates: list[Candidate] = Field(
        [], description="All that were written, if they were several; `text` is the one chosen."
    )


class Summaries(BaseModel):
    """All summaries: article by article, for each in the order of the systems."""

    summaries: list[Summary]


class System(BaseModel):
    """A writer of summaries."""

    name: str
    description: str


class Models(BaseModel):
    """The systems and limits of this server."""

    base: str
    systems: list[System] = Field(description="The first one writes if none is named.")
    limits: Limits
    caution: str | None = Field(description="A warning about these summaries.")
    candidates: int = Field(
        description="Summaries that a model writes of each article if a request does not say."
    )
    choose: str = Field(
        description="What one of several is chosen by: `consensus`, `support`, `fitted`."
    )
    facts: str | None = Field(
        description="What the base's doubts are worth; null if this server does not check facts."
    )


class Example(BaseModel):
    """An article to try."""

    kind: str
    article: str


class Health(BaseModel):
    """The server can write summaries."""

    status: Literal["ok"] = "ok"
    unanswered: int = Field(description="Summaries accepted and not yet answered.")


class Problem(BaseModel):
    """Why there is no answer."""

    error: str = Field(description="One line: the fact, the value, the option to change.")


def problems(*statuses: int, form: type[BaseModel] = Problem) -> dict[int | str, dict[str, Any]]:
    """Describe refusals with these statuses."""
    return {s: {"model": form, "description": HTTPStatus(s).phrase} for s in statuses}


def validation_message(errors: Sequence[Mapping[str, Any]]) -> str:
    """Return Pydantic's errors in one line, without a word of the texts they are about."""
    lines = []
    for error in errors[:3]:
        if error["type"] == "json_invalid":
            return f"the body is no JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
        place = ".".join(map(str, error["loc"][1:])) or "the body"
        message = error["msg"].removeprefix("Value error, ")
        shown = _describe(error.get("input"))
        lines.append(f"{place} is {shown}: {message[0].lower()}{message[1:]}")
    if len(errors) > len(lines):
        lines.append(f"and {len(errors) - len(lines)} more")
    return "; ".join(lines)


def _describe(value: Any) -> str:
    if isinstance(value, str):
        return repr(value) if len(value) <= 20 else f"a text of {len(value):,} characters"
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return "null" if value is None else f"{value}".lower()[:20]
