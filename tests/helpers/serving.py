"""A server on loopback with a writer that needs no model."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import httpx2
import numpy as np

from helpers.loopback import answered
from nutgraf.config import GenerateConfig, ModelConfig
from nutgraf.data.sentences import sentence_spans
from nutgraf.evaluation.support import Checked, Reading, SupportJudge, worth
from nutgraf.generation.result import RatedSummary, SummaryResult
from nutgraf.serving.api import create_app
from nutgraf.serving.batching import Worker
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics
from nutgraf.serving.server import HttpServer

SYSTEMS = {"best": "the chosen one", "baseline": "the given one", "lead3": "no model"}


class Fake:
    """Writes `best: ` and the article's first words, when it is let; remembers its batches.

    If it `reads`, it doubts a sentence that copies little.
    """

    reads = False

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.steps: list[list[str]] = []
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None

    def expected(self, candidate: int) -> float | None:
        return None

    def text(self, system: str, article: str) -> str:
        return f"{system}: {' '.join(article.split()[:5])}."

    def write(
        self,
        system: str,
        articles: Sequence[str],
        streamed: Sequence[bool],
        on_event: Callable[[int, str | SummaryResult], bool],
        candidates: int = 1,
        max_new_tokens: int | None = None,
        checked: Sequence[bool] = (),
    ) -> None:
        self.batches.append([f"{system} {article}" for article in articles])
        self._wait()
        texts = [self.text(system, article) for article in articles]
        texts = [" ".join(text.split(" ")[:max_new_tokens]) for text in texts]
        reason = "length" if max_new_tokens else "stop"
        wanted = set(range(len(articles)))
        for n in range(max(len(text.split(" ")) for text in texts)):
            self._wait()
            self.steps.append([f"{system} {articles[i]}" for i in sorted(wanted)])
            for i in sorted(wanted):
                piece = " ".join(texts[i].split(" ")[n : n + 1])
                if not on_event(i, " " * (n > 0) + piece if piece and streamed[i] else ""):
                    wanted.remove(i)
            if not wanted:
                return
        for i, text in enumerate(texts):
            others = (f"Not {text}", text) * candidates
            others = others[: candidates if candidates > 1 else 0]
            rated = tuple(
                RatedSummary(other, 50.0 + n, n % 2, self.expected(n), reason, 4 + n % 2)
                for n, other in enumerate(others)
            )
            facts = self._facts(articles[i], text) if self.reads and checked[i] else None
            on_event(i, SummaryResult(text, 10, 0, 5, reason, 0.1, candidates=rated, facts=facts))

    def _facts(self, article: str, text: str) -> list[Checked]:
        judge, read = SupportJudge(article), Reading(np.full(9, 0.8))
        return [judge.check(text, start, end, read) for _, start, end in sentence_spans(text)]

    def _wait(self) -> None:
        assert self.open.wait(20)
        if self.error:
            raise self.error


class Server:
    """A running server: where it is, a client for it, and the worker behind it."""

    def __init__(self, port: int, worker: Worker, http: HttpServer) -> None:
        self.at, self.worker = ("127.0.0.1", port), worker
        self.address = f"http://127.0.0.1:{port}"
        self.client = httpx2.Client(base_url=self.address, timeout=30)

        self._http = http

    def stop(self) -> None:
        """As a signal does."""
        self._http.should_exit = True

    def ask(self, *articles: str, **more: object) -> httpx2.Response:
        return self.client.post("/summaries", json={"articles": list(articles), **more})


_USUAL = Limits()


@contextlib.contextmanager
def serving(
    writer: object,
    limits: Limits = _USUAL,
    base: str = "pocket",
    origins: Sequence[str] = (),
) -> Iterator[Server]:
    """The whole application around `writer`, in threads of this process."""
    metrics = Metrics()
    with Worker(writer, limits, limits.batch_size or 8, metrics) as worker:  # type: ignore[arg-type]
        facts = worth(ModelConfig()) if getattr(writer, "reads", False) else None
        app = create_app(SYSTEMS, base, worker, limits, metrics, GenerateConfig(), facts)
        with answered(app, worker, limits, metrics, origins) as (port, http):
            started = Server(port, worker, http)
            with started.client:
                yield started
