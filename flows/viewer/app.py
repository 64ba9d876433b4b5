"""The page of `sdxl-flows view` over HTTP: what `tasks.viewing` gives and takes, and files of the page itself.

Nothing comes from elsewhere: the page's own policy forbids the browser to ask any other address, and reports run in a
sandbox, as strangers to the page around them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tasks.errors import USER_ERRORS
from tasks.viewing import Viewing

PAGE = Path(__file__).parent / "page"
PAGE_FILES = ("viewer.css", "viewer.js")
PAGE_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; img-src data: 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""Reports bring their pictures, style and script in themselves."""
LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")

Words = Annotated[str, Field(max_length=4000)]
Name = Annotated[str, Field(max_length=200)]
Place = Literal["left", "right", "tie"]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Asking(Body):
    report: Name
    voter: Name


class Casting(Asking):
    pair: Name
    place: Place


class Drawing(Body):
    voter: Name
    prompt: Words
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=0, le=100)]


class CastingTyped(Body):
    voter: Name
    id: Name
    place: Place


def make_app(viewing: Viewing, hosts: tuple[str, ...] = LOCAL) -> FastAPI:
    """`hosts`: names that the page is asked for by; `*` for all."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.middleware("http")(_guard)
    for kind in USER_ERRORS:
        app.add_exception_handler(kind, _told)
    app.add_exception_handler(RequestValidationError, _refused)
    _add_page(app)
    _add_reading(app, viewing)
    _add_voting(app, viewing)
    return app


async def _guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
    """Take nothing that another site's page sends, and let the browser load nothing from elsewhere."""
    origin = request.headers.get("origin")
    if request.method == "POST" and origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return JSONResponse({"error": "sent from another site's page"}, status_code=403)
    response = await answer(request)
    response.headers.setdefault("Content-Security-Policy", PAGE_POLICY)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


async def _told(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=400)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    mistakes = [f"{mistake['loc'][-1]}: {mistake['msg']}" for mistake in error.errors()]
    return JSONResponse({"error": "; ".join(mistakes)}, status_code=400)


def _add_page(app: FastAPI) -> None:
    @app.get("/")
    def page() -> Response:
        return FileResponse(PAGE / "index.html")

    @app.get("/page/{name}")
    def page_file(name: str) -> Response:
        if name not in PAGE_FILES:
            raise HTTPException(404)
        return FileResponse(PAGE / name)


def _add_reading(app: FastAPI, viewing: Viewing) -> None:
    @app.get("/api/start")
    def start() -> dict[str, Any]:
        return viewing.start()

    @app.get("/api/gallery/{report}")
    def gallery(report: str) -> dict[str, Any]:
        return viewing.gallery(report)

    @app.get("/reports/{report}/{name:path}")
    def report_file(report: str, name: str) -> Response:
        path = viewing.report(report).file(name)
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, headers={"Content-Security-Policy": REPORT_POLICY})

    @app.get("/pictures/{digest}.png")
    def picture(digest: str) -> Response:
        png = viewing.png(digest)
        if png is None:
            raise HTTPException(404)
        return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=86400, immutable"})


def _add_voting(app: FastAPI, viewing: Viewing) -> None:
    @app.post("/api/ask")
    def ask(asking: Asking) -> dict[str, Any]:
        return viewing.ask(asking.report, asking.voter)

    @app.post("/api/cast")
    def cast(casting: Casting) -> dict[str, Any]:
        viewing.cast(casting.report, casting.voter, casting.pair, casting.place)
        return viewing.ask(casting.report, casting.voter)

    @app.post("/api/draw")
    def draw(asked: Drawing) -> dict[str, Any]:
        return viewing.draw(asked.voter, asked.prompt, asked.seed, asked.steps, asked.guidance_scale)

    @app.post("/api/cast-typed")
    def cast_typed(casting: CastingTyped) -> dict[str, Any]:
        return viewing.cast_typed(casting.voter, casting.id, casting.place)


def serve(app: FastAPI, listening: socket.socket) -> None:
    """Until somebody interrupts it."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2, lifespan="off"
    )
    with suppress(KeyboardInterrupt):
        asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))
