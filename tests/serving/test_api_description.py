"""The OpenAPI description and the server agree, whatever is asked: fuzzed from the description."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from helpers.serving import SYSTEMS, Fake, Server, serving
from hypothesis import HealthCheck, settings
from schemathesis.checks import positive_data_acceptance

from nutgraf.config import GenerateConfig
from nutgraf.serving.api import create_app
from nutgraf.serving.batching import Worker
from nutgraf.serving.limits import Limits
from nutgraf.serving.metrics import Metrics

LIMITS = Limits(max_article=40, max_articles=3)  # long texts would take long to make up
METRICS = Metrics()
APP = create_app(
    SYSTEMS, "pocket", Worker(Fake(), LIMITS, 1, METRICS), LIMITS, METRICS, GenerateConfig()
)
described = schemathesis.openapi.from_dict(APP.openapi())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    writer = Fake()
    writer.reads = True
    with serving(writer, LIMITS) as started:
        yield started


@described.parametrize()
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_every_answer_is_as_described(case: schemathesis.Case, server: Server) -> None:
    # That the last user message has to be an article cannot be described.
    unchecked = [positive_data_acceptance] if case.path.startswith("/v1/") else []
    case.call_and_validate(base_url=server.address, excluded_checks=unchecked)
