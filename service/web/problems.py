"""Errors on the wire: problem+json (RFC 9457) with our `code` and `next_step`."""

from __future__ import annotations

import logging
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from service.errors import NotAuthenticatedError, SpineprintError, StorageError

log = logging.getLogger("spineprint.web")


def problem(
    status: int,
    code: str,
    title: str,
    next_step: str,
    *,
    retryable: bool = False,
    details: dict[str, object] | None = None,
) -> JSONResponse:
    return JSONResponse(
        {
            "type": f"about:blank#{code}",
            "title": title,
            "status": status,
            "code": code,
            "next_step": next_step,
            "retryable": retryable,
            "details": details or {},
        },
        status_code=status,
        media_type="application/problem+json",
    )


def install(web: FastAPI) -> None:
    @web.exception_handler(SpineprintError)
    def expected(request: Request, exc: SpineprintError) -> Response:
        if isinstance(exc, NotAuthenticatedError) and _wants_page(request):
            return RedirectResponse(f"/login?next={quote(request.url.path)}", status_code=303)
        response = problem(
            exc.http_status,
            exc.code,
            exc.message,
            exc.next_step,
            retryable=exc.retryable,
            details=exc.details,
        )
        if isinstance(exc, NotAuthenticatedError):
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    @web.exception_handler(RequestValidationError)
    def invalid(_request: Request, exc: RequestValidationError) -> Response:
        faults = [{"where": ".".join(str(p) for p in e["loc"]), "what": e["msg"]} for e in exc.errors()]
        return problem(
            422,
            "request.invalid",
            "The request does not have the right form.",
            "Correct the fields named in details; see /docs.",
            details={"faults": faults},
        )

    @web.exception_handler(HTTPException)
    def plain(_request: Request, exc: HTTPException) -> Response:
        code = "not_found" if exc.status_code == 404 else "request.refused"
        response = problem(exc.status_code, code, str(exc.detail), "See /docs for what exists here.")
        response.headers.update(exc.headers or {})
        return response

    @web.exception_handler(UnicodeEncodeError)
    def no_text(_request: Request, _exc: UnicodeEncodeError) -> Response:
        # JSON can spell half of a surrogate pair; no database and no hash takes it.
        return problem(
            422,
            "request.invalid",
            "The request holds text that is not valid Unicode.",
            "Correct the text and send it again.",
        )

    @web.exception_handler(OSError)
    def disk(_request: Request, exc: OSError) -> Response:
        log.exception("storage failed", exc_info=exc)
        error = StorageError("The data folder cannot be used.", next_step="Check disk space and permissions.")
        return problem(507, error.code, error.message, error.next_step, retryable=True)

    @web.exception_handler(OperationalError)
    def database(_request: Request, exc: OperationalError) -> Response:
        # The statement stays out of the log: its values may be a patient's.
        log.error("the database failed: %s", type(exc.orig).__name__)
        error = StorageError(
            "The database cannot be used at the moment.",
            next_step="Try again; if it repeats, check disk space and that the database runs.",
            code="storage.database",
        )
        return problem(503, error.code, error.message, error.next_step, retryable=True)

    @web.exception_handler(Exception)
    def defect(_request: Request, exc: Exception) -> Response:
        log.exception("unexpected failure", exc_info=exc)
        return problem(
            500,
            "internal",
            "The service failed unexpectedly.",
            "Try again; if it repeats, send the support bundle to the administrator.",
            retryable=True,
        )


def _wants_page(request: Request) -> bool:
    return request.method == "GET" and "text/html" in request.headers.get("accept", "")
