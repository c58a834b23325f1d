"""Serve the page on which people judge two systems of a study, without their names."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from nutgraf.config.systems import JUDGED
from nutgraf.core.paths import expand
from nutgraf.judging.session import Session
from nutgraf.pipeline.judgements import open_session
from nutgraf.serving.access import Access
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics
from nutgraf.serving.request_guard import Guard
from nutgraf.serving.server import HttpServer, answer, bound
from nutgraf.serving.token_page import guarded_routes, new_token, page_app


class Judge(BaseModel):
    """Who judges."""

    model_config = ConfigDict(extra="forbid", strict=True)

    judge: str = Field(max_length=200)


class Span(BaseModel):
    """A part of a summary that is wrong, in characters (Unicode code points)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    side: str
    start: int
    end: int


class Click(Judge):
    """A verdict on the article that was shown last."""

    id: str
    verdict: str
    seconds: float
    wrong: list[Span] = []
    seen: bool


def create_app(session: Callable[[], Session], token: str) -> FastAPI:
    """Return the application; who asks it has to show the token, for articles too.

    `session` returns the same session each time.
    """
    routes = guarded_routes(token)

    # Coroutines that never wait: clicks are saved one after the other.
    @routes.post("/judge/next")
    async def view(who: Judge) -> dict[str, Any]:
        return session().view(who.judge)

    @routes.post("/judge/click")
    async def click(body: Click) -> dict[str, Any]:
        wrong = [(span.side, span.start, span.end) for span in body.wrong]
        return session().click(body.judge, body.id, body.verdict, body.seconds, wrong, body.seen)

    @routes.post("/judge/undo")
    async def undo(who: Judge) -> dict[str, Any]:
        return session().undo(who.judge)

    @routes.post("/judge/result")
    async def result(who: Judge) -> dict[str, Any]:
        standing = session().result(who.judge)
        return {**asdict(standing), "words": standing.words}

    return page_app("judge", routes)


@contextlib.contextmanager
def tab(folder: Path, token: str) -> Iterator[FastAPI]:
    """Yield the application for a tab of another page, for the usual two systems.

    Its session begins with the first request, and ends with the block.
    """
    with contextlib.ExitStack() as stack:
        session = functools.cache(lambda: stack.enter_context(open_session(folder, JUDGED)))
        yield create_app(session, token)


def run(
    folder: Path, systems: Sequence[str], host: str, port: int, origins: Sequence[str] = ()
) -> None:
    """Serve the page for a run folder until interrupted; print its address with the token.

    Raises:
        UserError: An address cannot be used, another process has the judgements, or a system is
            not in the study.
        Failure: The study has not been scored, or a file of judgements is damaged.
    """
    limits, metrics, token = Limits(), Metrics(), new_token()
    with open_session(expand(folder), systems) as session, bound(host, port) as sock:
        access = Access(host, sock.getsockname()[0], origins)
        app = create_app(lambda: session, token)
        server = HttpServer(Guard(app, limits, metrics, access))
        answer(server, sock, host, access, limits, fragment=f"#token={token}")
