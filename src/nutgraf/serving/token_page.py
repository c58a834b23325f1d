"""Serve the page of a command about a study, which only who has its printed address can use."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header

from nutgraf import __version__
from nutgraf.serving.answers import PAGE, add_error_answers, add_files, require_json
from nutgraf.serving.errors import RequestError

# In the folder of the page of `nutgraf serve`.
_SHARED = ("page.css", "show.js", "stream.js", "tabs.js", "token.js", "icon.svg")


def new_token() -> str:
    """Return 128 random bits that can stand in an address."""
    return secrets.token_urlsafe(16)


def guarded_routes(token: str) -> APIRouter:
    """Return routes, yet none, that refuse a request without the token, or with no JSON."""

    async def require_token(x_nutgraf_token: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(x_nutgraf_token.encode(), token.encode()):
            raise RequestError(403, "this page has no token: open the address that was printed")

    return APIRouter(dependencies=[Depends(require_token), Depends(require_json)])


def page_app(command: str, routes: APIRouter) -> FastAPI:
    """Return an application with the routes and the files of `<command>_page`, which are public."""
    app = FastAPI(
        title=f"nutgraf {command}",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    add_error_answers(app)
    app.include_router(routes)
    page = Path(__file__).with_name(f"{command}_page")
    add_files(app, *page.iterdir(), *(PAGE / name for name in _SHARED))
    return app
