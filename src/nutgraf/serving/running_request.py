"""Answer one request: queue its summaries, receive them in any order, send them as they come."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import cast

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from nutgraf.config import GenerateConfig
from nutgraf.config.systems import EXTRACTIVE_SYSTEMS
from nutgraf.evaluation.evidence import evidence
from nutgraf.generation.result import SummaryResult
from nutgraf.serving import schema
from nutgraf.serving.answers import COMMENT_SECONDS, EVENT_HEADERS, server_event
from nutgraf.serving.batching import Job, Worker
from nutgraf.serving.errors import RequestError

COMMENT = ": waiting\n\n"


class RunningRequest:
    """The summaries of one request: queued at once, received in any order, abandoned together."""

    def __init__(
        self,
        order: schema.SummaryRequest,
        worker: Worker,
        time_limit: float,
        decoding: GenerateConfig,
    ) -> None:
        self._evidence, self._time_limit, self._worker = order.evidence, time_limit, worker
        candidates, limit = order.candidates or decoding.candidates, order.max_new_tokens
        if limit and limit >= decoding.max_new_tokens:
            limit = None  # so that it is decoded together with others
        self._started = time.monotonic()
        self._events: asyncio.Queue[tuple[Job, str | SummaryResult | RequestError]] = (
            asyncio.Queue()
        )
        loop = asyncio.get_running_loop()

        def on_event(job: Job, event: str | SummaryResult | RequestError) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, (job, event))

        self._jobs = [
            Job(index, article, system, order.stream, on_event, candidates, limit, order.evidence)
            for index, article in enumerate(order.articles)
            for system in dict.fromkeys(order.systems)
        ]
        # Extracts take no time, so they do not wait for models.
        worker.submit(sorted(self._jobs, key=lambda job: job.system not in EXTRACTIVE_SYSTEMS))

    def close(self) -> None:
        """Drop what is not written yet."""
        self._worker.abandon(self._jobs)

    async def summaries(self, request: Request) -> list[schema.Summary]:
        """Return all summaries, in the order of the request.

        Raises the first RequestError; 499, as nginx logs it, if the client has left.
        """
        with contextlib.closing(self):
            answer = asyncio.ensure_future(self._collect())
            closed = asyncio.ensure_future(_disconnected(request))
            await asyncio.wait({answer, closed}, return_when=asyncio.FIRST_COMPLETED)
            closed.cancel()
            if answer.done():
                return answer.result()
            answer.cancel()
            raise RequestError(499, "the client has left")

    async def _collect(self) -> list[schema.Summary]:
        by_job = dict([item async for item in self.items() if item])
        return [cast(schema.Summary, by_job[job]) for job in self._jobs]

    async def events(self) -> AsyncIterator[str]:
        """Yield pieces and summaries as server-sent events."""
        try:
            async for ready in self.items():
                if not ready:
                    yield COMMENT
                    continue
                job, item = ready
                if isinstance(item, str):
                    piece = {"article": job.index, "system": job.system, "text": item}
                    yield server_event("piece", json.dumps(piece))
                else:
                    yield server_event("summary", item.model_dump_json())
            yield server_event("done", "{}")
        except RequestError as error:
            problem = {"status": error.status, "error": error.line}
            yield server_event("problem", json.dumps(problem))

    async def items(self) -> AsyncIterator[tuple[Job, str | schema.Summary] | None]:
        """Yield pieces and summaries until all are whole, and None if nothing comes for a while.

        Raises the first RequestError, or 504.
        """
        missing = len(self._jobs)
        while missing:
            left = self._started + self._time_limit - time.monotonic()
            try:
                async with asyncio.timeout(min(left, COMMENT_SECONDS)):
                    job, event = await self._events.get()
            except TimeoutError:
                if left > COMMENT_SECONDS:
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
            facts=written.facts,
            candidates=[schema.Candidate(**asdict(one)) for one in written.candidates],
        )


class EventStream(StreamingResponse):
    """Server-sent events, which no proxy may hold back or change."""

    media_type = "text/event-stream"

    def __init__(self, running: RunningRequest, events: AsyncIterator[str]) -> None:
        super().__init__(events, headers=EVENT_HEADERS)
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, unless the client leaves."""
        with contextlib.closing(self._running):
            await super().__call__(scope, receive, send)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
