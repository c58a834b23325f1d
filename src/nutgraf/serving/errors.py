"""Define why a request gets no summary, and how that is answered.

Each answer is one line, `{"error": line}`; under `/v1` it is in the form of OpenAI's API, which
the programs that ask there read.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Scope

OPENAI = "/v1/"  # the start of paths that answer as OpenAI's API does


class RequestError(Exception):
    """An HTTP status, and one line with the fact, the value and the setting to change.

    `param` is the field of the request that it is about, and `code` a word for programs: OpenAI's
    form has both.
    """

    def __init__(
        self,
        status: int,
        line: str,
        retry_after: int | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(line)
        self.status, self.line = status, line
        self.param, self.code = param, code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}

    def as_openai(self) -> dict[str, Any]:
        """Return it in the form of OpenAI's API."""
        kind, code = "invalid_request_error", self.code
        if self.status >= 500:
            kind = "server_error"
        elif self.status == 429:
            kind, code = "rate_limit_error", "rate_limit_exceeded"
        return {"error": {"message": self.line, "type": kind, "param": self.param, "code": code}}

    def response(self, scope: Scope) -> JSONResponse:
        """Return the answer to the request of a scope."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not path.startswith(OPENAI):
            return JSONResponse({"error": self.line}, self.status, self.headers)
        status = 400 if self.status == 422 else self.status
        return JSONResponse(self.as_openai(), status, self.headers)


def stopping_error() -> RequestError:
    """Return why nothing is written any more."""
    return RequestError(503, "the server is stopping: try again when it is back", retry_after=5)
