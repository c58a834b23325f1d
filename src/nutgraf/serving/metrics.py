"""What a server tells of itself: figures for Prometheus, and the place of an error.

Neither holds a word of an article or a summary.
"""

from __future__ import annotations

import logging
import traceback

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

logger = logging.getLogger(__name__)


__all__ = ["CONTENT_TYPE", "Metrics", "log_place"]

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)
_TOGETHER = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "nutgraf_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "nutgraf_request_seconds", "Seconds from a request to the end of its answer.", ["path"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.summaries = Counter(
            "nutgraf_summaries", "Summaries written.", ["system"], registry=registry
        )
        self.new_tokens = Counter(
            "nutgraf_new_tokens", "Tokens decoded, in whole summaries.", ["system"],
            registry=registry,
        )  # fmt: skip
        self.unanswered = Gauge(
            "nutgraf_unanswered", "Summaries accepted and not yet answered.", registry=registry
        )
        self.batch_size = Histogram(
            "nutgraf_batch_size", "Summaries decoded together.", buckets=_TOGETHER,
            registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All figures in the text format of Prometheus."""
        return generate_latest(self._registry)


def log_place(error: BaseException) -> None:
    """Say the kind of an error and where it was raised; its message could quote an article."""
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames))
    logger.error(f"nutgraf: {type(error).__name__} at {places}")
