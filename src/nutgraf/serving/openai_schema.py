"""Define what is read of requests in the form of OpenAI's API.

What serving has no counterpart for may only have the value that changes nothing. Answers are plain
objects: their form is OpenAI's.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from nutgraf.config.evaluation import MAX_CANDIDATES
from nutgraf.serving.schema import check_number

_Count = Annotated[int | None, BeforeValidator(check_number)]


def _only(*values: Any, description: str | None = None) -> Any:
    """Return a field that may be null, left out, or have these values."""
    return Field(None, description=description, json_schema_extra={"enum": [None, *values]})


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @field_validator("*")
    @classmethod
    def _check_supported(cls, value: Any, info: ValidationInfo) -> Any:
        extra = cls.model_fields[str(info.field_name)].json_schema_extra
        if isinstance(extra, dict) and value not in (supported := cast(Any, extra["enum"])):
            words = " or ".join(json.dumps(one) for one in supported)
            raise ValueError(f"only {words} is supported: leave it out")
        return value


class StreamOptions(_Body):
    """What a stream has besides the text."""

    include_usage: bool | None = Field(None, strict=True, description="End with the tokens.")
    include_obfuscation: Any = _only(False)


class _Request(_Body):
    model: str = Field(description="A system of this server; `/v1/models` lists them.")
    n: _Count = Field(
        None,
        ge=1,
        le=MAX_CANDIDATES,
        description="Answers to each article: of several candidates all, the chosen one first.",
    )
    max_tokens: _Count = Field(
        None, ge=1, description="Longest summary, if that is less than in the study."
    )
    temperature: Any = _only(
        0, description="0: without candidates, greedily or with beams; null: as in the study."
    )
    stream: bool | None = Field(None, strict=True)
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="A label, which is not read.")

    top_p: Any = _only(1)
    frequency_penalty: Any = _only(0)
    presence_penalty: Any = _only(0)
    logit_bias: Any = _only({})
    seed: Any = _only()
    stop: Any = _only([])

    @property
    def candidates(self) -> int | None:
        """Return how many summaries are written of an article; None for as many as in the study."""
        if self.temperature is not None:
            return 1
        return self.n if self.n and self.n > 1 else None

    @property
    def limit(self) -> int | None:
        """Return the longest summary that is asked for, in tokens."""
        return self.max_tokens


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a conversation, of which only the last one of the user is read."""

    role: str
    content: str | list[TextPart] | None = None


class ChatRequest(_Request):
    """A conversation, whose last user message is an article."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: _Count = Field(None, ge=1, description="As `max_tokens`.")

    logprobs: Any = _only(False)
    top_logprobs: Any = _only(0)
    tools: Any = _only([])
    tool_choice: Any = _only("none", "auto")
    parallel_tool_calls: Any = _only(True, False)
    response_format: Any = _only({"type": "text"})
    modalities: Any = _only(["text"])

    @property
    def limit(self) -> int | None:
        """Return the longest summary that is asked for, in tokens."""
        limits = [limit for limit in (self.max_tokens, self.max_completion_tokens) if limit]
        return min(limits, default=None)

    @property
    def articles(self) -> list[str]:
        """Return the last user message; an empty text if there is none."""
        contents = [message.content for message in self.messages if message.role == "user"]
        last = (contents or [None])[-1] or ""
        return [last if isinstance(last, str) else "\n".join(part.text for part in last)]


class CompletionRequest(_Request):
    """One article or several."""

    prompt: str | list[str]

    echo: Any = _only(False)
    logprobs: Any = _only()
    suffix: Any = _only()
    best_of: Any = _only(1)

    @property
    def articles(self) -> list[str]:
        """Return the articles."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class Model(BaseModel):
    """A system."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When the server was started, in seconds since 1970.")
    owned_by: Literal["nutgraf"] = "nutgraf"


class ModelList(BaseModel):
    """The systems of this server."""

    object: Literal["list"] = "list"
    data: list[Model]


class Details(BaseModel):
    """An error."""

    message: str = Field(description="One line: the fact, the value, the option to change.")
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = Field(description="The field that it is about.")
    code: str | None


class Refusal(BaseModel):
    """Why there is no answer."""

    error: Details
