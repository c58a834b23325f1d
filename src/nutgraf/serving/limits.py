"""Define the limits of one server; each field is an option of `nutgraf serve`."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, ValidationError

from nutgraf.config.types import Count, Positive, Section
from nutgraf.core.errors import UserError


class Limits(Section):
    """Limit what one server accepts at once, and for how long."""

    max_body: Count = Field(2_000_000, description="Largest body of a request, in bytes.")
    max_article: Count = Field(50_000, description="Longest article, in characters.")
    max_articles: Count = Field(16, description="Articles in one request.")
    max_queue: Count = Field(
        128, description="Summaries accepted and not yet answered; more are refused (429)."
    )
    time_limit: Positive = Field(
        60.0, description="Seconds for one request, waiting included; then it ends (504)."
    )
    batch_size: Count | None = Field(
        None, description="Summaries decoded together; without it as many as in the study."
    )
    batch_wait: Positive = Field(
        0.01, description="Seconds that a batch which is not full waits for more."
    )
    max_connections: Count = Field(256, description="Requests at once; more are refused (503).")


def parse_limits(options: Mapping[str, str]) -> Limits:
    """Return the limits given as text by name of the field. Raises UserError."""
    try:
        return Limits.model_validate(options)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        option = str(problem["loc"][0]).replace("_", "-")
        message = problem["msg"][0].lower() + problem["msg"][1:]
        raise UserError(f"--{option} is {problem['input']!r}: {message}") from None
