"""Serve the page on which people judge two systems of a study, without their names."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict, Field

from nutgraf import __version__
from nutgraf.core.paths import expand
from nutgraf.judging.session import Session
from nutgraf.pipeline.judgements import open_session
from nutgraf.serving.access import Access
from nutgraf.serving.answers import (
    PAGE,
    TOKEN_BYTES,
    add_error_answers,
    add_files,
    require_json,
    requires_token,
)
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics
from nutgraf.serving.request_guard import Guard
from nutgraf.serving.server import HttpServer, answer, bound

_PAGE = Path(__file__).with_name("judge_page")
_SHARED = (
    "page.css",
    "show.js",
    "stream.js",
    "token.js",
    "icon.svg",
)  # of the page of `nutgraf serve`


class Judge(BaseModel):
    """Who judges."""

    model_config = ConfigDict(extra="forbid", strict=True)

    judge: str = Field(max_length=200)


class Span(BaseModel):
    """A part of a summary that is wrong, in characters (Unicode code points)."""

    model_config = ConfigDict(extra="forbid", strict=True)

    side: Literal["left", "right"]
    start: int
    end: int


class Click(Judge):
    """A verdict on the article that was shown last."""

    id: str
    verdict: Literal["left", "right", "good", "bad"]
    seconds: float
    wrong: list[Span] = []
    seen: bool


def create_app(session: Session, token: str) -> FastAPI:
    """Return the application; who asks it has to show the token, for articles too."""
    app = FastAPI(
        title="nutgraf judge",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    add_error_answers(app)
    guarded: dict[str, Any] = {
        "dependencies": [Depends(requires_token(token)), Depends(require_json)]
    }

    @app.post("/judge/next", **guarded)
    async def view(who: Judge) -> dict[str, Any]:
        return session.view(who.judge)

    @app.post("/judge/click", **guarded)
    async def click(given: Click) -> dict[str, Any]:
        wrong = [(span.side, span.start, span.end) for span in given.wrong]
        return session.click(given.judge, given.id, given.verdict, given.seconds, wrong, given.seen)

    @app.post("/judge/undo", **guarded)
    async def undo(who: Judge) -> dict[str, Any]:
        return session.undo(who.judge)

    @app.post("/judge/result", **guarded)
    async def result(who: Judge) -> dict[str, Any]:
        found = session.result(who.judge)
        return {**asdict(found), "words": found.words}

    add_files(app, *_PAGE.iterdir(), *(PAGE / name for name in _SHARED))
    return app


def run(
    folder: Path, systems: Sequence[str], host: str, port: int, origins: Sequence[str] = ()
) -> None:
    """Serve the page for a run folder until interrupted; print its address with the token.

    Raises:
        UserError: An address cannot be used, another process has the judgements, or a system is
            not in the study.
        Failure: The study has not been scored, or a file of judgements is damaged.
    """
    limits, metrics, token = Limits(), Metrics(), secrets.token_urlsafe(TOKEN_BYTES)
    with open_session(expand(folder), systems) as session, bound(host, port) as sock:
        access = Access(host, sock.getsockname()[0], origins)
        app = create_app(session, token)
        server = HttpServer(Guard(app, limits, metrics, access))
        answer(server, sock, host, access, limits, fragment=f"#token={token}")
