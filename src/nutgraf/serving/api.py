"""The HTTP interface: what can be asked, and how an answer is put together."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from nutgraf import __version__
from nutgraf.evaluation.evidence import evidence
from nutgraf.generation.summarizer import Written
from nutgraf.serving import schema
from nutgraf.serving.batching import Job, Worker
from nutgraf.serving.errors import Refusal
from nutgraf.serving.examples import CAUTION, examples
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import CONTENT_TYPE, Metrics

_PAGE = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "show.js": "text/javascript",
    "stream.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
_WHY = {
    403: "The request comes from another site, or names another host.",
    405: "The path has no such method.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    422: "The request is not as described.",
    429: "Too many summaries are waiting; Retry-After says for how many seconds.",
    500: "Something unexpected.",
    503: "The server is stopping, has too many requests at once, or is out of memory.",
    504: "The summaries were not ready within the time limit.",
}
_LEFT = 499  # as nginx logs it: the client did not wait


def create_app(
    systems: Mapping[str, str],
    base: str,
    worker: Worker,
    limits: Limits,
    metrics: Metrics,
) -> FastAPI:
    """The application for a worker with `systems` (name to description, the default first)."""
    app = FastAPI(
        title="nutgraf",
        version=__version__,
        summary="Summaries of news articles, with where they come from.",
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
    )
    to_try = examples()
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(RequestValidationError, _not_as_described)
    app.add_exception_handler(Exception, _unexpected)

    async def summaries(asked: schema.Asked, request: Request) -> Any:
        """Summaries of one article or many, by one system or several.

        With `stream` the answer is `text/event-stream`: `piece` (article, system, text) as it is
        written, `summary` for each that is whole, and `done`; or `problem` (status, error).
        """
        order = _Order(asked, worker, limits)
        if asked.stream:
            return StreamingResponse(order.events(), media_type="text/event-stream")
        whole = asyncio.ensure_future(order.whole())
        left = asyncio.ensure_future(_disconnected(request))
        await asyncio.wait({whole, left}, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        if not whole.done():
            whole.cancel()
            return Response(status_code=_LEFT)
        return whole.result()

    # The form of a request depends on the systems and limits.
    summaries.__annotations__["asked"] = schema.asked(list(systems), limits)
    app.post(
        "/summaries",
        dependencies=[Depends(_is_json)],
        response_model=schema.Summaries,
        responses={
            200: {"content": {"text/event-stream": schema.EVENTS}},
            **_problems(403, 405, 408, 413, 415, 422, 429, 500, 503, 504),
        },
    )(summaries)

    @app.get("/models", responses=_problems(403, 405, 500, 503))
    async def models() -> schema.Models:
        """The systems there are, and the limits."""
        caution = CAUTION if base == "pocket" else None
        known = [schema.System(name=name, description=what) for name, what in systems.items()]
        return schema.Models(base=base, systems=known, limits=limits, caution=caution)

    @app.get("/examples", responses=_problems(403, 405, 500, 503))
    async def articles() -> list[schema.Example]:
        """Articles of the embedded newswire, to try."""
        return to_try

    @app.get("/health", responses=_problems(403, 405, 500, 503))
    async def health() -> schema.Health:
        """Whether summaries can be had."""
        worker.check()
        return schema.Health(unanswered=worker.unanswered)

    @app.get("/metrics", response_class=PlainTextResponse, responses=_problems(403, 405, 500, 503))
    async def figures() -> Response:
        """Figures in the text format of Prometheus."""
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    for name, kind in _PAGE.items():
        path = "/" if name == "index.html" else f"/{name}"
        app.get(path, include_in_schema=False)(_file(name, kind))
    return app


class _Order:
    """The summaries of one request: queued at once, heard of as they come, given up together."""

    def __init__(self, asked: schema.Asked, worker: Worker, limits: Limits) -> None:
        self._asked, self._limits = asked, limits
        self._started = time.monotonic()
        self._heard: asyncio.Queue[tuple[int, str | Written | Refusal]] = asyncio.Queue()
        systems = dict.fromkeys(asked.systems)
        self._what = [(i, name) for i in range(len(asked.articles)) for name in systems]
        loop = asyncio.get_running_loop()

        def teller(place: int) -> Any:
            def tell(told: str | Written | Refusal) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self._heard.put_nowait, (place, told))

            return tell

        self._jobs = [
            Job(system, asked.articles[i], asked.stream, teller(place))
            for place, (i, system) in enumerate(self._what)
        ]
        worker.accept(self._jobs)

    async def whole(self) -> schema.Summaries:
        """All summaries, in their order."""
        found = {place: told async for place, told in self._parts() if not isinstance(told, str)}
        return schema.Summaries(summaries=[found[place] for place in sorted(found)])

    async def events(self) -> AsyncIterator[str]:
        """The same as server-sent events, with what is there of them before."""
        try:
            async for place, told in self._parts():
                article, system = self._what[place]
                if isinstance(told, str):
                    yield _event("piece", {"article": article, "system": system, "text": told})
                else:
                    yield _event("summary", told)
            yield _event("done", {})
        except Refusal as refusal:
            yield _event("problem", {"status": refusal.status, "error": refusal.line})

    async def _parts(self) -> AsyncIterator[tuple[int, str | schema.Summary]]:
        """Pieces and summaries until all are whole. Raises the first Refusal, or 504."""
        missing = len(self._jobs)
        until = self._started + self._limits.time_limit
        try:
            while missing:
                async with asyncio.timeout(until - time.monotonic()):
                    place, told = await self._heard.get()
                if isinstance(told, Refusal):
                    raise told
                if isinstance(told, str):
                    yield place, told
                else:
                    missing -= 1
                    yield place, await self._summary(place, told)
        except TimeoutError:
            raise Refusal(
                504,
                f"{missing} of {len(self._jobs)} summaries were not ready in "
                f"{self._limits.time_limit:g} s: ask for fewer at once, or start the server with a "
                "longer --time-limit",
            ) from None
        finally:
            for job in self._jobs:
                job.abandoned = True

    async def _summary(self, place: int, written: Written) -> schema.Summary:
        number, system = self._what[place]
        seconds = round(time.monotonic() - self._started, 3)
        found = None
        if self._asked.evidence:
            article = self._asked.articles[number]
            found = await run_in_threadpool(evidence, article, written.summary)
        return schema.Summary(
            article=number,
            system=system,
            text=written.summary,
            finish_reason=written.finish_reason,
            prompt_tokens=written.prompt_tokens,
            trimmed_tokens=written.trimmed_tokens,
            new_tokens=written.new_tokens,
            seconds=seconds,
            evidence=found,
        )


def _event(name: str, data: BaseModel | dict[str, Any]) -> str:
    text = data.model_dump_json() if isinstance(data, BaseModel) else json.dumps(data)
    return f"event: {name}\ndata: {text}\n\n"


async def _is_json(request: Request) -> None:
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, f"Content-Type is {kind[:80]!r}: send application/json")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {s: {"model": schema.Problem, "description": _WHY[s]} for s in statuses}


def _file(name: str, kind: str) -> Any:
    content = (resources.files("nutgraf.serving") / "page" / name).read_bytes()

    async def file() -> Response:
        return Response(content, media_type=kind)

    return file


async def _refused(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"error": error.line}, error.status, error.headers)


async def _not_served(request: Request, error: Any) -> JSONResponse:
    if error.status_code == 400:
        line = "the body is no JSON: it is not UTF-8, or nested too deeply"
        return JSONResponse({"error": line}, 422)
    line = f"{request.method} {request.url.path[:80]}: {error.detail}; see /openapi.json"
    return JSONResponse({"error": line}, error.status_code, error.headers)


async def _unexpected(request: Request, error: Any) -> JSONResponse:
    line = f"unexpected {type(error).__name__}: the server's messages say where"
    return JSONResponse({"error": line}, 500)


async def _not_as_described(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"error": schema.problem_line(error.errors())}, 422)
