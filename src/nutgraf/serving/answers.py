"""Answer with the files of a page, and with errors as one line of JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from nutgraf.core.errors import NutgrafError, UserError
from nutgraf.serving import schema
from nutgraf.serving.errors import RequestError

PAGE = Path(__file__).with_name("page")
EVENT_HEADERS = {
    "Cache-Control": "no-cache, no-store, no-transform",
    "X-Accel-Buffering": "no",  # nginx
}
COMMENT_SECONDS = 15.0  # after so long without an event a comment: proxies cut at 60 s


def add_files(app: FastAPI, *files: Path) -> None:
    """Serve each file under its name, and `index.html` at the root."""
    for file in files:
        path = "/" if file.name == "index.html" else f"/{file.name}"
        app.get(path, include_in_schema=False)(_serve_file(file))


def add_error_answers(app: FastAPI) -> None:
    """Answer refusals, mistakes in requests and unexpected errors with JSON."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(NutgrafError, _on_nutgraf_error)
    app.add_exception_handler(Exception, _on_error)


async def require_json(request: Request) -> None:
    """Refuse a body of another kind than JSON, which a form of another site could send."""
    media_type = request.headers.get("content-type", "")
    if media_type.partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, f"Content-Type is {media_type[:80]!r}: send application/json")


def server_event(name: str, data: str) -> str:
    """Return a server-sent event."""
    return f"event: {name}\ndata: {data}\n\n"


def _serve_file(path: Path) -> Callable[[], Response]:
    return lambda: FileResponse(path)


async def _on_nutgraf_error(request: Request, error: Any) -> JSONResponse:
    status = 422 if isinstance(error, UserError) else 500
    return RequestError(status, str(error)).response(request.scope)


async def _on_request_error(request: Request, error: Any) -> JSONResponse:
    response: JSONResponse = error.response(request.scope)
    return response


async def _on_http_error(request: Request, error: Any) -> JSONResponse:
    if error.status_code == 400:
        line = "the body is no JSON: it is compressed, not UTF-8, or nested too deeply"
        return RequestError(422, line).response(request.scope)
    line = f"{request.method} {request.url.path[:80]}: {error.detail}"
    if request.app.openapi_url:
        line += "; see /openapi.json"
    refusal = RequestError(error.status_code, line)
    refusal.headers = dict(error.headers or {})
    if refusal.headers.get("Allow") == "GET":
        refusal.headers["Allow"] = "GET, HEAD"
    return refusal.response(request.scope)


async def _on_error(request: Request, error: Any) -> JSONResponse:
    line = f"unexpected {type(error).__name__}: the server's messages say where"
    return RequestError(500, line).response(request.scope)


async def _on_invalid(request: Request, error: Any) -> JSONResponse:
    errors = error.errors()
    place = errors[0]["loc"][1:2]
    field = str(place[0]) if place and errors[0]["type"] != "json_invalid" else None
    line = schema.validation_message(errors)
    return RequestError(422, line, param=field).response(request.scope)
