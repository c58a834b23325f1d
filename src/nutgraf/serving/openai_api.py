"""Answer in the form of OpenAI's API, which other programs know: an article in, its summary out.

Everything behind the form is that of `/summaries`: the checks of articles, the queue, the limits.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from nutgraf.config import GenerateConfig
from nutgraf.serving import schema
from nutgraf.serving.answers import require_json
from nutgraf.serving.batching import Worker
from nutgraf.serving.errors import RequestError
from nutgraf.serving.limits import Limits
from nutgraf.serving.openai_schema import (
    ChatRequest,
    CompletionRequest,
    Model,
    ModelList,
    Refusal,
)
from nutgraf.serving.running_request import COMMENT, EventStream, RunningRequest


@dataclass
class _Form:
    """The form of the answers to one request."""

    request: ChatRequest | CompletionRequest
    limit: int  # of new tokens
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def chat(self) -> bool:
        return isinstance(self.request, ChatRequest)

    @property
    def n(self) -> int:
        return self.request.n or 1

    def answer(self, choices: list[dict[str, Any]], chunk: bool = False) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": ("chat.completion" + ".chunk" * chunk) if self.chat else "text_completion",
            "created": self.created,
            "model": self.request.model,
            "choices": choices,
        }

    def choices(self, summary: schema.Summary) -> list[tuple[str, str, int]]:
        """Return text, finish reason and tokens of the answers to one article, the chosen first.

        If only one was written, it is given as often as asked for.
        """
        chosen = (summary.text, summary.finish_reason, summary.new_tokens)
        written = [(c.text, c.finish_reason, c.new_tokens) for c in summary.candidates]
        if chosen in written:
            written.remove(chosen)
        texts = [chosen, *(written or [chosen] * self.n)][: self.n]
        return [(text, self._reason(reason, tokens), tokens) for text, reason, tokens in texts]

    def _reason(self, reason: str, tokens: int) -> str:
        """Return OpenAI's word; what is cut at a sentence can have reached the limit of tokens."""
        cut = reason == "length" or (reason == "sentences" and tokens >= self.limit)
        return "length" if cut else "stop"

    def whole(self, summaries: Sequence[schema.Summary]) -> dict[str, Any]:
        """Return the answer in one piece."""
        choices = [choice for summary in summaries for choice in self.choices(summary)]
        rows: list[dict[str, Any]] = []
        for index, (text, reason, _) in enumerate(choices):
            row = {"index": index, "finish_reason": reason, "logprobs": None}
            message = {"role": "assistant", "content": text, "refusal": None}
            rows.append(row | ({"message": message} if self.chat else {"text": text}))
        return {**self.answer(rows), "usage": self.usage(summaries)}

    def usage(self, summaries: Sequence[schema.Summary]) -> dict[str, int]:
        """Count the tokens of prompts that were read and of answers that are given."""
        read = sum(summary.prompt_tokens for summary in summaries)
        new = sum(tokens for summary in summaries for *_, tokens in self.choices(summary))
        return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}

    async def events(self, running: RunningRequest) -> AsyncIterator[str]:
        """Yield the answer as server-sent events, the chosen answer to each article piece by piece.

        Its other answers come behind it.
        """
        n, summaries = self.n, list[schema.Summary]()
        options = self.request.stream_options
        with_usage = bool(options and options.include_usage)
        begun = set[int]()

        def event(index: int, text: str, reason: str | None = None) -> str:
            row: dict[str, Any] = {"index": index, "finish_reason": reason, "logprobs": None}
            delta: dict[str, str] = {} if index in begun else {"role": "assistant"}
            begun.add(index)
            if reason is None:
                delta["content"] = text
            row |= {"delta": delta} if self.chat else {"text": text}
            return _event(self.answer([row], True) | ({"usage": None} if with_usage else {}))

        try:
            async for ready in running.items():
                if not ready:
                    yield COMMENT
                    continue
                job, item = ready
                if isinstance(item, str):
                    yield event(job.index * n, item)
                    continue
                summaries.append(item)
                for index, (text, reason, _) in enumerate(self.choices(item), job.index * n):
                    if index % n:
                        yield event(index, text)
                    yield event(index, "", reason)
            if with_usage:
                yield _event(self.answer([], True) | {"usage": self.usage(summaries)})
        except RequestError as error:
            yield _event(error.as_openai())
        yield "data: [DONE]\n\n"


def _event(answer: dict[str, Any]) -> str:
    return f"data: {json.dumps(answer)}\n\n"


def openai_router(
    systems: Sequence[str],
    worker: Worker,
    limits: Limits,
    decoding: GenerateConfig,
    order_model: type[schema.SummaryRequest],
) -> APIRouter:
    """Return the paths under `/v1`.

    Args:
        systems: What a request can name as its model.
        worker: Writes the summaries.
        limits: Those of requests.
        decoding: How models write if a request does not say.
        order_model: The form of a request to `/summaries`, which checks the articles.
    """
    router, created = APIRouter(prefix="/v1"), int(time.time())

    def described(name: str) -> Model:
        if name not in systems:
            line = f"model is {name[:80]!r}: this server has {', '.join(systems)}"
            raise RequestError(404, line, param="model", code="model_not_found")
        return Model(id=name, created=created)

    async def answered(asked: ChatRequest | CompletionRequest, request: Request) -> Any:
        described(asked.model)
        try:
            order = order_model(
                articles=asked.articles, systems=[asked.model], stream=bool(asked.stream),
                candidates=asked.candidates, max_new_tokens=asked.limit,
            )  # fmt: skip
        except ValidationError as error:
            place = "messages" if isinstance(asked, ChatRequest) else "prompt"
            errors = [{**one, "loc": ("body", place)} for one in error.errors()]
            raise RequestValidationError(errors) from None
        form = _Form(asked, min(asked.limit or decoding.max_new_tokens, decoding.max_new_tokens))
        running = RunningRequest(order, worker, limits.time_limit, decoding)
        if order.stream:
            return EventStream(running, form.events(running))
        return form.whole(await running.summaries(request))

    listed: Any = {"responses": schema.problems(403, 404, 405, 500, 503, form=Refusal)}
    statuses = 400, 403, 404, 405, 408, 413, 415, 429, 500, 503, 504
    written: Any = {
        "dependencies": [Depends(require_json)],
        "responses": {
            200: {"content": {"text/event-stream": {}}},
            **schema.problems(*statuses, form=Refusal),
        },
    }

    @router.get("/models", **listed)
    async def list_systems() -> ModelList:
        """List the systems."""
        return ModelList(data=[described(name) for name in systems])

    @router.get("/models/{model}", **listed)
    async def show_system(model: str) -> Model:
        """Show one system."""
        return described(model)

    @router.post("/chat/completions", **written)
    async def chat(asked: ChatRequest, request: Request) -> Any:
        """Summarize the last user message."""
        return await answered(asked, request)

    @router.post("/completions", **written)
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        """Summarize the prompt, or several."""
        return await answered(asked, request)

    return router
