"""A made-up study whose two systems are judged, and the server of its page on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from nutgraf.core.files import write_records
from nutgraf.data.article_store import write_split
from nutgraf.data.rows import Article
from nutgraf.judging.prediction import FEATURES
from nutgraf.pipeline.judgements import open_session
from nutgraf.serving.access import Access
from nutgraf.serving.judge import create_app
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics
from nutgraf.serving.request_guard import Guard
from nutgraf.serving.server import HttpServer
from nutgraf.storage.run_folder import RunFolder

TOKEN = "the-token"


def write_study(path: Path, articles: Sequence[Article], texts: dict[str, list[str]]) -> RunFolder:
    """Test articles, and summaries and scores of each system; the longer the better by ROUGE."""
    folder = RunFolder(path)
    with folder.artefact("data").writing() as scratch:
        write_split(articles, scratch / "data" / "test.parquet")
    for system, summaries in texts.items():
        rows = [{"id": a.id, "text": text} for a, text in zip(articles, summaries, strict=True)]
        scores = [dict.fromkeys(FEATURES, 0) | {"rougeLsum": len(text)} for text in summaries]
        for kind, content in (("summaries", rows), ("scores", scores)):
            file = f"{kind}/{system}.jsonl"
            with folder.artefact(f"{kind}/{system}", outputs=[file]).writing() as scratch:
                write_records(scratch / file, content)
    return folder


@contextlib.contextmanager
def judging(run: Path) -> Iterator[str]:
    """The page for `best` and `lead3` of a run folder; its address, without the token."""
    limits, access = Limits(), Access("127.0.0.1", "127.0.0.1")
    with (
        open_session(run, ("best", "lead3")) as session,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        server = HttpServer(Guard(create_app(session, TOKEN), limits, Metrics(), access))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
