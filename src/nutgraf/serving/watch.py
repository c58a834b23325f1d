"""Serve the page on which a study is watched: snapshots of its folder, as server-sent events.

Its trials are steered from there too, and two of its systems judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from nutgraf.core.errors import NutgrafError, UserError
from nutgraf.core.paths import expand
from nutgraf.core.priority import lowest_priority
from nutgraf.pipeline import steering
from nutgraf.search.ledger import Request
from nutgraf.serving import judge
from nutgraf.serving.access import Access
from nutgraf.serving.answers import COMMENT_SECONDS, EVENT_HEADERS, server_event
from nutgraf.serving.errors import RequestError
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics
from nutgraf.serving.request_guard import Guard
from nutgraf.serving.server import HttpServer, answer, bound
from nutgraf.serving.token_page import guarded_routes, new_token, page_app
from nutgraf.watching.snapshot import EVERY, Watcher, changes

logger = logging.getLogger(__name__)

_FETCH_SECONDS = 10.0  # between two looks into a storage
# The report is one page that brings its own style, and asks for nothing. It is shown as if it came
# from another site, so that nothing in it reaches this server.
_REPORT_POLICY = (
    "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'none'"
)


class Training(BaseModel):
    """The training that is asked for: the number of a trial, or the name of a model."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(max_length=200)


class Streams:
    """The streams of events to all pages, which end with the server."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self._ending = threading.Event()

    def stop(self) -> None:
        """End all streams."""
        self._ending.set()

    def refuse_running(self) -> None:
        """Do nothing: streams end within a second."""

    async def events(self) -> AsyncIterator[str]:
        """Yield the first snapshot, then what changes, at most once a second."""
        sent: dict[str, Any] = {}
        quiet_since = time.monotonic()
        while not self._ending.is_set():
            now = await asyncio.to_thread(self.watcher.latest)
            if now is not sent and (news := changes(sent, now)):
                yield _news(news, not sent)
                sent, quiet_since = now, time.monotonic()
            elif time.monotonic() - quiet_since > COMMENT_SECONDS:
                quiet_since = time.monotonic()
                yield ": nothing new\n\n"
            await asyncio.sleep(EVERY)
        last = await asyncio.to_thread(self.watcher.latest, at_once=True)
        if news := changes(sent, last):
            yield _news(news, not sent)
        yield server_event("end", "{}")


def create_app(streams: Streams, token: str, judging: FastAPI) -> FastAPI:
    """Return the application, with that for judging; who asks it has to show the token."""
    routes = guarded_routes(token)
    watcher, report = streams.watcher, f"report-{new_token()}.html"

    @routes.post("/watch/events")
    async def events() -> Response:
        return StreamingResponse(
            streams.events(), media_type="text/event-stream", headers=EVENT_HEADERS
        )

    @routes.post("/watch/curves")
    def curves(training: Training) -> list[dict[str, Any]]:
        return watcher.curves(training.name)

    @routes.post("/watch/samples")
    def samples(training: Training) -> dict[str, Any]:
        return watcher.samples(training.name)

    @routes.post("/watch/steer")
    def steer(request: Request) -> dict[str, str]:
        if not watcher.is_here:
            raise UserError("a study in a storage is steered on the machine that runs it")
        return {"id": steering.ask(watcher.folder, request)}

    # A link cannot show a token: only who has shown it gets the address of the report.
    @routes.post("/watch/report")
    async def report_address() -> dict[str, str]:
        return {"path": report}

    app = page_app("watch", routes)
    app.mount("/judging", judging)

    @app.get(f"/{report}", include_in_schema=False)
    def report_page() -> Response:
        path = watcher.folder / "report.html"
        if not path.is_file():
            raise RequestError(404, "there is no report yet: it is the last stage")
        return FileResponse(path, headers={"Content-Security-Policy": _REPORT_POLICY})

    return app


def run(
    folder: Path,
    host: str,
    port: int,
    origins: Sequence[str] = (),
    storage: str | None = None,
    with_parent: bool = False,
) -> None:
    """Serve the page for a run folder until interrupted; print its address with the token.

    Args:
        folder: The run folder, which is not used if there is a storage.
        host: The address to listen at.
        port: The port; 0 takes a free one.
        origins: Addresses at which proxies show the page.
        storage: The address of a storage that has the study.
        with_parent: Whether to end with the process that started this one, too.

    Raises:
        UserError: An address cannot be used, or there is no such folder.
        Failure: The storage does not answer, or is damaged.
    """
    lowest_priority()
    limits, metrics, token = Limits(), Metrics(), new_token()
    watching = _fetched(storage) if storage else contextlib.nullcontext(Watcher(expand(folder)))
    with (
        watching as watcher,
        bound(host, port) as sock,
        judge.tab(watcher.folder, token) as judging,
    ):
        streams = Streams(watcher)
        access = Access(host, sock.getsockname()[0], origins)
        server = HttpServer(
            Guard(create_app(streams, token, judging), limits, metrics, access), streams
        )
        if with_parent:
            threading.Thread(target=_end_with_parent, args=(server,), daemon=True).start()
        answer(server, sock, host, access, limits, fragment=f"#token={token}")


def _news(news: dict[str, Any], whole: bool) -> str:
    return server_event("news", json.dumps({**news, "whole": whole, "time": time.time()}))


@contextlib.contextmanager
def _fetched(storage: str) -> Iterator[Watcher]:
    """Yield a watcher of a study in a storage, from which a thread fetches what is new."""
    from nutgraf.storage.remote_view import RemoteView  # with the libraries of file systems

    with tempfile.TemporaryDirectory(prefix="nutgraf-watch-") as folder:
        view, ended = RemoteView(storage, Path(folder)), threading.Event()
        view.update()

        def repeat() -> None:
            while not ended.wait(_FETCH_SECONDS):
                try:
                    view.update()
                except (NutgrafError, OSError) as error:
                    logger.warning(f"{error}; the storage is asked again")

        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield Watcher(Path(folder), view.holder, view.uri)
        finally:
            ended.set()
            thread.join()


@contextlib.contextmanager
def beside(folder: Path) -> Iterator[None]:
    """Serve the page from a process beside the block, which may run the study.

    It is another process because locks of a file are a process's, and so that it takes no time of
    the study's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_run_beside, args=(folder,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _run_beside(folder: Path) -> None:
    run(folder, "127.0.0.1", 0, with_parent=True)


def _end_with_parent(server: HttpServer) -> None:
    """End the server if the study is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    server.should_exit = True
