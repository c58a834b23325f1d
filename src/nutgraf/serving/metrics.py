"""Count for Prometheus, and log the place of an error.

Neither shows a word of an article or a summary.
"""

from __future__ import annotations

import functools
import logging
import traceback

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

logger = logging.getLogger(__name__)

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = functools.partial(Counter, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)
        self.requests = counter("nutgraf_requests", "Requests answered.", ["path", "status"])
        seconds = "Seconds from a request to the end of its answer."
        self.seconds = histogram("nutgraf_request_seconds", seconds, ["path"], buckets=_SECONDS)
        self.summaries = counter("nutgraf_summaries", "Summaries written.", ["system"])
        tokens = "Tokens decoded, in whole summaries."
        self.new_tokens = counter("nutgraf_new_tokens", tokens, ["system"])
        waiting = "Summaries accepted and not yet answered."
        self.unanswered = Gauge("nutgraf_unanswered", waiting, registry=self.registry)
        together = "Summaries decoded together."
        self.batch_size = histogram("nutgraf_batch_size", together, buckets=_BATCH_SIZES)


def log_place(error: BaseException) -> None:
    """Log the type of an error and where it was raised; its message could quote an article."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames))
    logger.error(f"nutgraf: {type(error).__name__} at {places}")
