"""The addresses of the viewer, and what is answered there.  No address holds a path or the name of a scan."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp

from mendscan.errors import MendscanError
from mendscan.results import Results, read_results
from mendscan.viewer.access import Access
from mendscan.viewer.guard import Guard
from mendscan.viewer.pages import case_page, overview, volume_file

__all__ = ["create_app"]

_STATIC = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_NUMBER = re.compile(r"[0-9]{1,7}")
_READ = ["GET", "HEAD"]
_REASONS = {
    404: "there is nothing at this address",
    422: "the address is not understood",
    500: "the results folder is damaged where it tells of this scan; run mendscan detect again",
}


def create_app(results_folder: str | Path, access: Access) -> ASGIApp:
    """Return the viewer of a results folder as an ASGI application.

    The tables are read once, here; volumes and details when they are asked for.

    Args:
        results_folder: What ``mendscan detect`` wrote.
        access: Who may ask.

    Raises:
        ResultsError: If it is no results folder, or a table is damaged.
    """
    results = read_results(results_folder)
    listing = overview(results)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    static = {path.relative_to(_STATIC).as_posix(): path for path in _STATIC.rglob("*") if path.suffix in _TYPES}

    @app.api_route("/", methods=_READ)
    def page() -> Response:
        return _static_file(static["index.html"])

    @app.api_route("/static/{name:path}", methods=_READ)
    def part_of_page(name: str) -> Response:
        if name not in static:
            raise HTTPException(404)
        return _static_file(static[name])

    @app.api_route("/api/results", methods=_READ)
    def list_of_scans() -> Response:
        return JSONResponse(listing)

    @app.api_route("/api/cases/{number}", methods=_READ)
    def one_scan(number: str) -> Response:
        return JSONResponse(case_page(results, _place(number, results)))

    @app.api_route("/api/cases/{number}/{kind}", methods=_READ)
    def one_volume(number: str, kind: Literal["scan", "map", "restored"]) -> Response:
        path = volume_file(results.folder, results.cases[_place(number, results)], kind)
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, media_type="application/octet-stream")

    app.add_exception_handler(AnyHTTPException, _told)
    app.add_exception_handler(RequestValidationError, _told)
    app.add_exception_handler(MendscanError, _told)
    return Guard(app, access)


def _place(number: str, results: Results) -> int:
    # Plain digits: a parser would take " 1", "1_0" and the digits of other scripts, too.
    if _NUMBER.fullmatch(number) is None or int(number) >= len(results.cases):
        raise HTTPException(404)
    return int(number)


def _static_file(path: Path) -> Response:
    return FileResponse(path, media_type=_TYPES[path.suffix])


async def _told(request: Request, error: Exception) -> Response:
    # FastAPI's own answers repeat what was asked for.
    status: int = getattr(error, "status_code", 500 if isinstance(error, MendscanError) else 422)
    return JSONResponse({"error": _REASONS.get(status, "the request cannot be answered")}, status)
