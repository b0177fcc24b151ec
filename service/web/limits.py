"""How much a request may carry: nobody, least of all somebody unknown, fills our memory or disk with one body."""

from __future__ import annotations

import re

from fastapi import HTTPException  # FastAPI passes on its own, not those of the layer below
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import NotAllowedError
from service.web.access import caller_if_any, get_app
from service.web.problems import problem

#: JSON documents of this service are some kilobytes.
LARGEST_BODY = 1 << 20
#: A mask of a whole-spine CT, uncompressed, stays below this. Only people who are logged in may send it: the
#: body is taken in, to the temporary folder, before the route's own check of the session.
LARGEST_UPLOAD = 1 << 30
_UPLOADS = re.compile(r"/api/v1/cases/[^/]+/mask/?")


class BodyLimit:
    """ASGI layer that refuses a body beyond the limit of its path, by its announced or its counted length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = LARGEST_BODY
        if _UPLOADS.fullmatch(scope["path"]):
            by_person: bool = await run_in_threadpool(_is_person, scope)
            limit = LARGEST_UPLOAD if by_person else LARGEST_BODY
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > limit:
            await _too_large(limit)(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > limit:
                raise HTTPException(413, f"The request is larger than {limit >> 20} MB.")
            return message

        await self._app(scope, counted, send)


def _is_person(scope: Scope) -> bool:
    request = Request(scope)
    try:
        caller = caller_if_any(request, get_app(request))
    except NotAllowedError:  # another site's request: the route says so
        return False
    return caller is not None and caller.person is not None


def _too_large(limit: int) -> ASGIApp:
    return problem(
        413,
        "request.too_large",
        f"The request is larger than {limit >> 20} MB.",
        "Send less; a mask may be compressed, and needs a login.",
    )
