"""Define the HTTP API: its routes, and how an answer is put together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from nutgraf import __version__
from nutgraf.config import GenerateConfig
from nutgraf.config.systems import EXTRACTIVE_SYSTEMS
from nutgraf.evaluation.evidence import evidence
from nutgraf.generation.summarizer import SummaryResult
from nutgraf.serving import schema
from nutgraf.serving.batching import Job, Worker
from nutgraf.serving.errors import RequestError
from nutgraf.serving.examples import CAUTION, examples
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics

_PAGE = Path(__file__).with_name("page")
_CLIENT_CLOSED_REQUEST = 499  # as nginx logs it
_COMMENT_SECONDS = 15.0  # after so long without an event a comment: proxies cut at 60 s


def create_app(
    systems: Mapping[str, str],
    base: str,
    worker: Worker,
    limits: Limits,
    metrics: Metrics,
    decoding: GenerateConfig,
) -> FastAPI:
    """Return the application.

    Args:
        systems: Descriptions by name; the first system is the default.
        base: The base model, as it is shown.
        worker: Writes the summaries.
        limits: Those of requests.
        metrics: What `/metrics` shows.
        decoding: How models write if a request does not say.
    """
    app = FastAPI(
        title="nutgraf",
        version=__version__,
        summary="Summaries of news articles, with where they come from.",
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        servers=[{"url": "."}],  # wherever a proxy shows it
        root_path_in_servers=False,
    )
    articles_to_try = examples()
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_error)

    async def summaries(order: schema.SummaryRequest, request: Request) -> Any:
        """Summarize one article or many, by one system or several.

        With `stream` the answer is `text/event-stream`: `piece` (article, system, text) as it is
        written, `summary` for each that is whole, and `done`; or `problem` (status, error).
        Comments (`: waiting`) come in between if nothing else does.
        """
        if order.candidates is None:
            order = order.model_copy(update={"candidates": decoding.candidates})
        running = _RunningRequest(order, worker, limits.time_limit)
        if order.stream:
            return _EventStream(running)
        with contextlib.closing(running):
            answer = asyncio.ensure_future(running.summaries())
            closed = asyncio.ensure_future(_disconnected(request))
            await asyncio.wait({answer, closed}, return_when=asyncio.FIRST_COMPLETED)
            closed.cancel()
            if answer.done():
                return answer.result()
            answer.cancel()
            return Response(status_code=_CLIENT_CLOSED_REQUEST)

    # The form of a request depends on the systems and limits.
    summaries.__annotations__["order"] = schema.request_model(list(systems), limits)
    app.post(
        "/summaries",
        dependencies=[Depends(_require_json)],
        response_model=schema.Summaries,
        responses={
            200: {"content": {"text/event-stream": schema.EVENTS}},
            **_problems(403, 405, 408, 413, 415, 422, 429, 500, 503, 504),
        },
    )(summaries)
    problems = _problems(403, 405, 500, 503)

    @app.get("/models", responses=problems)
    async def models() -> schema.Models:
        """List the systems and the limits."""
        caution = CAUTION if base == "pocket" else None
        described = [schema.System(name=name, description=what) for name, what in systems.items()]
        return schema.Models(
            base=base, systems=described, limits=limits, caution=caution,
            candidates=decoding.candidates, choose=decoding.choose,
        )  # fmt: skip

    @app.get("/examples", responses=problems)
    async def articles() -> list[schema.Example]:
        """Show articles of the embedded newswire, to try."""
        return articles_to_try

    @app.get("/health", responses=problems)
    async def health() -> schema.Health:
        """Show whether summaries can be written."""
        worker.check()
        return schema.Health(unanswered=worker.unanswered)

    @app.get("/metrics", response_class=PlainTextResponse, responses=problems)
    async def figures() -> Response:
        """Show metrics in the text format of Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    for file in _PAGE.iterdir():
        path = "/" if file.name == "index.html" else f"/{file.name}"
        app.get(path, include_in_schema=False)(_serve_file(file))
    return app


class _RunningRequest:
    """The summaries of one request: queued at once, received in any order, abandoned together."""

    def __init__(self, order: schema.SummaryRequest, worker: Worker, time_limit: float) -> None:
        self._evidence, self._time_limit, self._worker = order.evidence, time_limit, worker
        self._started = time.monotonic()
        self._events: asyncio.Queue[tuple[Job, str | SummaryResult | RequestError]] = (
            asyncio.Queue()
        )
        loop = asyncio.get_running_loop()

        def on_event(job: Job, event: str | SummaryResult | RequestError) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, (job, event))

        self._jobs = [
            Job(index, article, system, order.stream, on_event, order.candidates or 1)
            for index, article in enumerate(order.articles)
            for system in dict.fromkeys(order.systems)
        ]
        # Extracts take no time, so they do not wait for models.
        worker.submit(sorted(self._jobs, key=lambda job: job.system not in EXTRACTIVE_SYSTEMS))

    def close(self) -> None:
        """Drop what is not written yet."""
        self._worker.abandon(self._jobs)

    async def summaries(self) -> schema.Summaries:
        """Return all summaries, in the order of the request."""
        by_job = dict([item async for item in self._items() if item])
        return schema.Summaries.model_validate({"summaries": [by_job[job] for job in self._jobs]})

    async def events(self) -> AsyncIterator[str]:
        """Yield pieces and summaries as server-sent events."""
        try:
            async for ready in self._items():
                if not ready:
                    yield ": waiting\n\n"
                    continue
                job, item = ready
                if isinstance(item, str):
                    piece = {"article": job.index, "system": job.system, "text": item}
                    yield _event("piece", json.dumps(piece))
                else:
                    yield _event("summary", item.model_dump_json())
            yield _event("done", "{}")
        except RequestError as error:
            problem = {"status": error.status, "error": error.line}
            yield _event("problem", json.dumps(problem))

    async def _items(self) -> AsyncIterator[tuple[Job, str | schema.Summary] | None]:
        """Yield pieces and summaries until all are whole, and None if nothing comes for a while.

        Raises the first RequestError, or 504.
        """
        missing = len(self._jobs)
        while missing:
            left = self._started + self._time_limit - time.monotonic()
            try:
                async with asyncio.timeout(min(left, _COMMENT_SECONDS)):
                    job, event = await self._events.get()
            except TimeoutError:
                if left > _COMMENT_SECONDS:
                    yield None
                    continue
                raise RequestError(
                    504,
                    f"{missing} of {len(self._jobs)} summaries were not ready in "
                    f"{self._time_limit:g} s: ask for fewer at once, or start the server with a "
                    "longer --time-limit",
                ) from None
            if isinstance(event, RequestError):
                raise event
            if isinstance(event, str):
                yield job, event
            else:
                missing -= 1
                yield job, await self._summary(job, event)

    async def _summary(self, job: Job, written: SummaryResult) -> schema.Summary:
        seconds = round(time.monotonic() - self._started, 3)
        sources = None
        if self._evidence:
            sources = await run_in_threadpool(evidence, job.article, written.summary)
        return schema.Summary(
            article=job.index,
            system=job.system,
            text=written.summary,
            finish_reason=written.finish_reason,
            prompt_tokens=written.prompt_tokens,
            trimmed_tokens=written.trimmed_tokens,
            new_tokens=written.new_tokens,
            seconds=seconds,
            evidence=sources,
            candidates=[schema.Candidate(**asdict(one)) for one in written.candidates],
        )


class _EventStream(StreamingResponse):
    """Server-sent events, which no proxy may hold back or change."""

    media_type = "text/event-stream"

    def __init__(self, running: _RunningRequest) -> None:
        headers = {
            "Cache-Control": "no-cache, no-store, no-transform",
            "X-Accel-Buffering": "no",  # nginx
        }
        super().__init__(running.events(), headers=headers)
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, unless the client leaves."""
        with contextlib.closing(self._running):
            await super().__call__(scope, receive, send)


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


async def _require_json(request: Request) -> None:
    media_type = request.headers.get("content-type", "")
    if media_type.partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, f"Content-Type is {media_type[:80]!r}: send application/json")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": schema.Problem, "description": HTTPStatus(s).phrase} for s in statuses}


def _serve_file(path: Path) -> Callable[[], Response]:
    return lambda: FileResponse(path)


async def _on_request_error(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"error": error.line}, error.status, error.headers)


async def _on_http_error(request: Request, error: Any) -> JSONResponse:
    if error.status_code == 400:
        line = "the body is no JSON: it is compressed, not UTF-8, or nested too deeply"
        return JSONResponse({"error": line}, 422)
    line = f"{request.method} {request.url.path[:80]}: {error.detail}; see /openapi.json"
    headers = dict(error.headers or {})
    if headers.get("Allow") == "GET":
        headers["Allow"] = "GET, HEAD"
    return JSONResponse({"error": line}, error.status_code, headers)


async def _on_error(request: Request, error: Any) -> JSONResponse:
    line = f"unexpected {type(error).__name__}: the server's messages say where"
    return JSONResponse({"error": line}, 500)


async def _on_invalid(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"error": schema.validation_message(error.errors())}, 422)
