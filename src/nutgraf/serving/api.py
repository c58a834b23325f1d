"""Define the HTTP API: its routes, and the page that asks there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from nutgraf import __version__
from nutgraf.config import GenerateConfig
from nutgraf.serving import schema
from nutgraf.serving.answers import PAGE, add_error_answers, add_files, require_json
from nutgraf.serving.batching import Worker
from nutgraf.serving.examples import CAUTION, examples
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics
from nutgraf.serving.openai_api import openai_router
from nutgraf.serving.running_request import EventStream, RunningRequest


def create_app(
    systems: Mapping[str, str],
    base: str,
    worker: Worker,
    limits: Limits,
    metrics: Metrics,
    decoding: GenerateConfig,
    facts: str | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        systems: Descriptions by name; the first system is the default.
        base: The base model, as it is shown.
        worker: Writes the summaries.
        limits: Those of requests.
        metrics: What `/metrics` shows.
        decoding: How models write if a request does not say.
        facts: What the base's doubts are worth, if it checks facts.
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
    add_error_answers(app)

    async def summaries(order: schema.SummaryRequest, request: Request) -> Any:
        """Summarize one article or many, by one system or several.

        With `stream` the answer is `text/event-stream`: `piece` (article, system, text) as it is
        written, `summary` for each that is whole, and `done`; or `problem` (status, error).
        Comments (`: waiting`) come in between if nothing else does.
        """
        running = RunningRequest(order, worker, limits.time_limit, decoding)
        if order.stream:
            return EventStream(running, running.events())
        return {"summaries": await running.summaries(request)}

    # The form of a request depends on the systems and limits.
    order_model = schema.request_model(list(systems), limits)
    summaries.__annotations__["order"] = order_model
    app.post(
        "/summaries",
        dependencies=[Depends(require_json)],
        response_model=schema.Summaries,
        responses={
            200: {"content": {"text/event-stream": schema.EVENTS}},
            **schema.problems(403, 405, 408, 413, 415, 422, 429, 500, 503, 504),
        },
    )(summaries)
    app.include_router(openai_router(list(systems), worker, limits, decoding, order_model))
    problems = schema.problems(403, 405, 500, 503)

    @app.get("/models", responses=problems)
    async def models() -> schema.Models:
        """List the systems and the limits."""
        caution = CAUTION if base == "pocket" else None
        described = [schema.System(name=name, description=what) for name, what in systems.items()]
        return schema.Models(
            base=base, systems=described, limits=limits, caution=caution,
            candidates=decoding.candidates, choose=decoding.choose, facts=facts,
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

    add_files(app, *PAGE.iterdir())
    return app
