"""What STOW-RS and the upload page share: how many at a time, who brings, what went wrong on the way."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from fastapi.responses import JSONResponse

from service.domain.people import Actor, acting
from service.errors import SpineprintError
from service.web.access import Caller
from service.web.problems import problem
from service.workflow.upload import Bringer, Taken, Verdict, bringer

log = logging.getLogger("spineprint.intake")

#: Each holds a worker thread while it writes; the pages need the others.
MOST_AT_A_TIME = 8
BUSY_S, FULL_S = 5, 60
"""Retry-After when too many upload at once, and when the disk is full, in seconds."""


class BusyError(SpineprintError):
    """Too many uploads at once."""

    default_code = "upload.busy"
    default_retryable = True
    http_status = 503


_running = threading.BoundedSemaphore(MOST_AT_A_TIME)


@contextmanager
def one_of_few() -> Iterator[None]:
    """Raises BusyError at once rather than let senders queue up."""
    if not _running.acquire(blocking=False):
        raise BusyError(
            "Too many uploads are running at once.", next_step="Wait some seconds and send it again."
        )
    try:
        yield
    finally:
        _running.release()


def who_brings(caller: Caller, request: Request, *, way: str, upload_id: str) -> Bringer:
    actor = acting(caller.person) if caller.person else Actor(f"token:{caller.screen}"[:64])
    address = request.client.host if request.client else ""
    return bringer(actor, way=way, address=address, upload_id=upload_id)


def tell_log(who: Bringer, taken: list[Taken], fault: SpineprintError | None = None) -> None:
    """One line for each request: who, how many, and the codes of what was refused. File names stay out."""
    counts = Counter(t.verdict.value for t in taken)
    refused = Counter(t.error.code for t in taken if t.error)
    words = ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in sorted(counts.items())) or "nothing"
    because = ", ".join(f"{n} x {code}" for code, n in sorted(refused.items()))
    level = logging.WARNING if refused or fault else logging.INFO
    log.log(
        level,
        "upload (%s) from %s at %s: %s%s%s",
        who.way,
        who.origin.calling_ae,
        who.origin.peer_address,
        words,
        f"; refused: {because}" if because else "",
        f"; ended by {fault.code}" if fault else "",
    )


def retry_later(error: SpineprintError, seconds: int) -> JSONResponse:
    answer = problem(
        error.http_status, error.code, error.message, error.next_step, retryable=True, details=error.details
    )
    answer.headers["Retry-After"] = str(seconds)
    return answer


def disk_full(taken: list[Taken]) -> SpineprintError | None:
    """The refusal, when nothing was kept and the disk is why."""
    kept = any(t.verdict not in (Verdict.REFUSED, Verdict.NOT_DICOM) for t in taken)
    return (
        next((t.error for t in taken if t.error and t.error.code == "storage.full"), None)
        if not kept
        else None
    )
