"""The ASGI application: device API, panel, error shapes, the ticking of the machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException

from simulators.ultimaker import api, api_cluster, api_machine, camera, panel, web
from simulators.ultimaker.auth import DeniedError
from simulators.ultimaker.faults import App, Gate
from simulators.ultimaker.simulator import Simulator

TICK_WALL_S = 0.05


def build(sim: Simulator) -> App:
    """The whole simulated printer as an ASGI application; wants uvicorn with h11 for the cut connections."""
    app = FastAPI(
        title="Simulated Ultimaker 3",
        docs_url="/docs/api/",
        redoc_url=None,
        lifespan=_ticking,
        redirect_slashes=False,
    )
    app.state.sim = sim
    app.include_router(panel.router)
    app.include_router(api.router)
    app.include_router(api_cluster.router)
    # last: it answers every GET that nothing else does
    app.include_router(api_machine.router)
    app.add_api_route("/", camera.front_page, methods=["GET"], include_in_schema=False)
    app.add_exception_handler(web.ApiError, _api_error)
    app.add_exception_handler(DeniedError, web.denied)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    return Gate(app, sim.faults, lambda: sim.machine.answering, sim.gatekeeper.expire_nonces)


@asynccontextmanager
async def _ticking(app: FastAPI) -> AsyncIterator[None]:
    task = asyncio.create_task(_tick(app.state.sim))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _tick(sim: Simulator) -> None:
    while True:
        panel.auto_answer(sim)
        sim.tick()
        await asyncio.sleep(TICK_WALL_S)


async def _api_error(_request: Request, exc: Exception) -> Response:
    status, message = (exc.status, exc.message) if isinstance(exc, web.ApiError) else (500, str(exc))
    return JSONResponse({"message": message}, status)


async def _http_error(request: Request, exc: Exception) -> Response:
    status, message = (exc.status_code, str(exc.detail)) if isinstance(exc, HTTPException) else (500, "")
    inside = request.url.path.startswith(("/api", "/panel"))
    if status == 404 and not inside:
        return RedirectResponse("/", 302)
    return JSONResponse({"message": "Not found" if status == 404 else message}, status)


async def _invalid(_request: Request, _exc: Exception) -> Response:
    return JSONResponse({"message": "Bad request"}, 400)
