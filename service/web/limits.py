"""How much a request may carry: nobody, least of all somebody unknown, fills our memory or disk with one body."""

from __future__ import annotations

import re

from fastapi import HTTPException  # FastAPI passes on its own, not those of the layer below
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.domain.people import Scope as TokenScope
from service.errors import NotAllowedError
from service.web.access import caller_if_any, get_app, may_bring_images
from service.web.problems import problem

#: JSON documents of this service are some kilobytes.
LARGEST_BODY = 1 << 20
#: A mask of a whole-spine CT, uncompressed, stays below this. Only people who are logged in may send it: the
#: body is taken in, to the temporary folder, before the route's own check of the session.
LARGEST_UPLOAD = 1 << 30
#: A photograph of a part, read whole and looked at by its route.
LARGEST_PHOTO = 16 << 20
_PHOTO = re.compile(r"/api/v1/print-jobs/[^/]+/pictures/?")
_MASK = re.compile(r"/api/v1/cases/[^/]+/mask/?")
#: Images are read by their routes as they arrive, with the disk reserve in view; the limit is `[web] max_upload_mb`.
_IMAGES = re.compile(r"/api/v1/uploads/?|(?P<stow>/dicom-web/studies(/[^/]+)?/?)")


class BodyLimit:
    """ASGI layer that refuses a body beyond the limit of its path, by its announced or its counted length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        large = _IMAGES.fullmatch(path) or _MASK.fullmatch(path) or _PHOTO.fullmatch(path)
        limit: int = await run_in_threadpool(_limit, scope) if large else LARGEST_BODY
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


def _limit(scope: Scope) -> int:
    """For a path that may take much, by who asks."""
    images = _IMAGES.fullmatch(scope["path"])
    request = Request(scope)
    app = get_app(request)
    try:
        caller = caller_if_any(request, app)
    except NotAllowedError:  # another site's request: the route says so
        return LARGEST_BODY
    if caller is None:
        return LARGEST_BODY
    if _PHOTO.fullmatch(scope["path"]):
        return LARGEST_PHOTO if caller.person is not None else LARGEST_BODY
    if not images:
        return LARGEST_UPLOAD if caller.person is not None else LARGEST_BODY
    scopes = (TokenScope.DICOM_WEB,) if images["stow"] else ()
    return app.config.web.max_upload_mb << 20 if may_bring_images(caller, *scopes) else LARGEST_BODY


def _too_large(limit: int) -> ASGIApp:
    return problem(
        413,
        "request.too_large",
        f"The request is larger than {limit >> 20} MB.",
        "Send less at once; a mask may be compressed. Masks and images need a login, or a token for them.",
    )
