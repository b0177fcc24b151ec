"""The HTTP service: routers, errors, headers, pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from swagger_ui_bundle import swagger_ui_path

from service import NOTICE, __version__
from service.ops.loops import Loop
from service.web import problems
from service.web.limits import BodyLimit
from service.web.routers import (
    administration,
    cases,
    cycle_records,
    deliveries,
    images,
    operations,
    pages,
    print_pictures,
    printing,
    pulls,
    session,
    sterile_packs,
    sterilisation,
    stow,
    uploads,
    verification,
)
from service.workflow.app import App

_STATIC = Path(__file__).parent / "static"
#: Debian's libjs-three; the pages show pictures instead of the 3-D view where it is missing.
_THREE = Path("/usr/share/javascript/three")

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}


def create_web(app: App, loops: list[Loop]) -> FastAPI:
    """The web application over a wired service."""
    web = FastAPI(
        title="spineprint",
        version=__version__,
        description=NOTICE,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    web.state.spineprint = app
    web.state.loops = loops
    problems.install(web)
    web.add_middleware(BodyLimit)

    @web.middleware("http")
    async def secure(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        # The interactive API description loads its own scripts; everything else is held to the policy.
        if not request.url.path.startswith(("/docs", "/openapi.json")):
            for name, value in _HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    for module in (
        session,
        administration,
        cases,
        deliveries,
        images,
        print_pictures,
        printing,
        pulls,
        cycle_records,
        sterile_packs,
        sterilisation,
        verification,
        stow,
        uploads,
        operations,
        pages,
    ):
        web.include_router(module.router)
    web.mount("/static", StaticFiles(directory=_STATIC), name="static")
    # The API description works without the internet: its viewer comes with the installation.
    web.mount("/vendor/swagger", StaticFiles(directory=swagger_ui_path), name="swagger")
    if _THREE.is_dir():
        web.mount("/vendor/three", StaticFiles(directory=_THREE), name="three")
    return web
