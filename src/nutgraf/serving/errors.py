"""Define why a request gets no summary."""

from __future__ import annotations


class RequestError(Exception):
    """An HTTP status, and one line with the fact, the value and the setting to change."""

    def __init__(self, status: int, line: str, retry_after: int | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.line = line
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


def stopping_error() -> RequestError:
    """Return why nothing is written any more."""
    return RequestError(503, "the server is stopping: try again when it is back", retry_after=5)
