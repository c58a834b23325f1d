"""A made-up study whose two systems are judged, and the server of its page on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.loopback import answered
from nutgraf.core.files import write_records
from nutgraf.data.article_store import write_split
from nutgraf.data.rows import Article
from nutgraf.judging.prediction import FEATURES
from nutgraf.pipeline.judgements import open_session
from nutgraf.serving.judge import create_app
from nutgraf.storage.run_folder import RunFolder

TOKEN = "the-token"


def write_study(path: Path, articles: Sequence[Article], texts: dict[str, list[str]]) -> RunFolder:
    """Write test articles, summaries and scores of each system; ROUGE-Lsum is the length."""
    folder = RunFolder(path)
    with folder.artefact("data").writing() as scratch:
        write_split(articles, scratch / "data" / "test.parquet")
    for system, summaries in texts.items():
        rows = [{"id": a.id, "text": text} for a, text in zip(articles, summaries, strict=True)]
        scores = [dict.fromkeys(FEATURES, 0) | {"rougeLsum": len(text)} for text in summaries]
        inputs = ["data:test"]
        for kind, content in (("summaries", rows), ("scores", scores)):
            file = f"{kind}/{system}.jsonl"
            artefact = folder.artefact(f"{kind}/{system}", outputs=[file], inputs=[*inputs])
            inputs.append(artefact.name)
            with artefact.writing() as scratch:
                write_records(scratch / file, content)
    return folder


@contextlib.contextmanager
def judging(run: Path) -> Iterator[str]:
    """Serve the page for `best` and `lead3`; yield its address without the token."""
    with (
        open_session(run, ("best", "lead3")) as session,
        answered(create_app(lambda: session, TOKEN)) as (port, _),
    ):
        yield f"http://127.0.0.1:{port}"
