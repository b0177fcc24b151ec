"""The web application over a test's service, with the paths worked out once in a run.

FastAPI works out the inputs of all hundred paths at an application's first request: a quarter of a second, which the
service spends once and a thousand tests would spend each.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI

from service.ops.loops import Loop
from service.web.api import create_web
from service.workflow.app import App

#: The first application's, with what FastAPI has worked out by then.
_PATHS: list[APIRouter] = []


def web_over(app: App, loops: Sequence[Loop] = ()) -> FastAPI:
    """As `create_web`: an application of its own (state, middleware, errors); only its paths are shared."""
    made = create_web(app, list(loops))
    if not _PATHS:
        _PATHS.append(made.router)
    made.router = _PATHS[0]
    return made
