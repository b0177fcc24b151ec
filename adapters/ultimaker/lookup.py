"""Is our job in the printer? The question that stands between a lost reply and a second print.

FOUND and ABSENT are said only on evidence; everything else is UNSURE. ABSENT takes two looks some seconds
apart, because an upload whose connection was cut may still be read and started by the printer a moment later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from adapters.ultimaker.client import PrinterClient, refusal
from adapters.ultimaker.cluster_queue import PrinterQueue, pick
from adapters.ultimaker.faults import PrinterOddAnswerError
from adapters.ultimaker.reading import job_from, job_from_history, text
from service.errors import DeviceError
from service.ports import JobLookup, LookupOutcome, PrinterJob

PAGE = 50
MAX_PAGES = 40
#: Status words under which a missing job is evidence; while it boots or is at work it is not.
_TELLING = frozenset({"idle", "maintenance", "error"})


#: A shorter beginning of our name may be anybody's.
_TELLING_SIGNS = 6


def _signs(name: str) -> str:
    return "".join(sign for sign in name.casefold() if sign.isalnum())


def _other_attempt(ours: str, theirs: str) -> bool:
    """`...-1` beside our `...-12`: a whole name, not one cut short."""
    rest = ours.removeprefix(theirs)
    whole = theirs[-1:].isdigit() and theirs.count("-") == ours.count("-")
    return whole and rest != ours and rest.isdigit()


class _AlikeError(DeviceError):
    """A job whose name is ours but for a rule of the firmware: FOUND and ABSENT would both be guesses."""

    def __init__(self, job: PrinterJob) -> None:
        super().__init__(
            f"The printer has a job named {job.name!r}, which may be ours under a changed name.",
            next_step="Look at the printer, then settle the job.",
        )


@dataclass(frozen=True)
class Wanted:
    name: str
    uuid: str = ""
    own_uuid: bool = False
    """`uuid` is the machine's own. Behind a queue it may be the queue's, and the machine has another for the job."""

    def fits(self, job: PrinterJob | None) -> bool:
        if job is None:
            return False
        if self.uuid and job.uuid == self.uuid:
            return True
        if self.own_uuid and self.uuid and job.uuid:
            return False  # our name under another identifier: somebody printed our file again at the panel
        return job.is_called(self.name)

    def may_be(self, job: PrinterJob | None) -> bool:
        """A name that is ours but for a firmware's own rule for names: cut short, or other signs (sheet 9.7).

        It is not taken for ours, and not for proof that ours is absent either.
        """
        if job is None or self.uuid or job.is_called(self.name):
            return False
        if _other_attempt(self.name, job.bare_name):
            return False
        ours, theirs = _signs(self.name), _signs(job.bare_name)
        return theirs == ours or (len(theirs) >= _TELLING_SIGNS and ours.startswith(theirs))

    def known_as(self, job: PrinterJob, listed: PrinterJob | None) -> PrinterJob:
        """The machine's job under the identifier it was accepted by: the queue may have one of its own for it."""
        return replace(job, uuid=self.uuid or (listed.uuid if listed is not None else "") or job.uuid)


def find_job(
    client: PrinterClient,
    wanted: Wanted,
    settle_s: float,
    sleep: Callable[[float], None] = time.sleep,
    queue: PrinterQueue | None = None,
) -> JobLookup:
    """Look in the queue, the running job and the whole history. Never raises for the device; see JobLookup."""
    try:
        first = _look(client, wanted, queue)
        if first.outcome is not LookupOutcome.ABSENT or settle_s <= 0:
            return first
        sleep(settle_s)
        return _look(client, wanted, queue)
    except DeviceError as exc:
        return JobLookup(LookupOutcome.UNSURE, detail=exc.message)


def current_job(client: PrinterClient) -> PrinterJob | None:
    """The job in the printer; None when it says there is none. Raises DeviceError."""
    return job_from(current_document(client))


def current_document(client: PrinterClient) -> object:
    """GET /print_job; None for 404, and for the 204 one client has met. Raises DeviceError."""
    answer = client.get("/print_job")
    if answer.status in (204, 404):
        return None
    if answer.status != 200:
        raise refusal("tell its job", answer)
    return answer.json()


def _look(client: PrinterClient, wanted: Wanted, queue: PrinterQueue | None) -> JobLookup:
    """In the order in which a job goes its way, so that none slips through between two questions."""
    entries = [entry.job for entry in queue.listed()] if queue else []
    listed = pick(entries, wanted.name, wanted.uuid)
    if listed is None and (alike := next((job for job in entries if wanted.may_be(job)), None)):
        raise _AlikeError(alike)
    if listed is not None and listed.waits:
        return JobLookup(
            LookupOutcome.FOUND, listed, f"It waits in the printer's queue. {listed.remark}".strip()
        )
    job = current_job(client)
    if job is not None and wanted.fits(job):
        job = wanted.known_as(job, listed)
        return JobLookup(LookupOutcome.FOUND, job, "It is the printer's present job.")
    recent = pick(queue.completed(), wanted.name, wanted.uuid) if queue else None
    past, seen = _search_history(client, wanted)
    if past is not None:
        past = wanted.known_as(past, listed or recent)
        return _found_in_history(client, wanted, past, recent)
    if wanted.may_be(job):
        assert job is not None
        raise _AlikeError(job)
    if listed is not None or recent is not None:
        return JobLookup(LookupOutcome.FOUND, listed or recent, "The printer's queue tells of it.")
    return _absent(client, job, seen)


def _absent(client: PrinterClient, job: PrinterJob | None, seen: int) -> JobLookup:
    """It was met nowhere: is that evidence? `job` is the present one, `seen` the entries of the history, -1 not all."""
    if seen < 0:
        return JobLookup(LookupOutcome.UNSURE, detail="The printer's history could not be read to its end.")
    if job is not None and (job.name or job.uuid):
        # it runs one job at a time, and its queue was read: another job present is an answer
        return JobLookup(
            LookupOutcome.ABSENT, detail=f"Another job is in the printer; history of {seen} read."
        )
    status = text(client.get_json("/printer/status"))
    if status not in _TELLING:
        return JobLookup(
            LookupOutcome.UNSURE, detail=f"The printer is {status or 'in an unknown state'} and shows no job."
        )
    return JobLookup(
        LookupOutcome.ABSENT, detail=f"Not the present job, and not among {seen} in the history."
    )


def _found_in_history(
    client: PrinterClient, wanted: Wanted, past: PrinterJob, recent: PrinterJob | None
) -> JobLookup:
    if not past.result:
        # the running job is in the history too, without result: it may have come between our two looks
        job = current_job(client)
        if job is not None and wanted.fits(job):
            return JobLookup(
                LookupOutcome.FOUND, replace(job, uuid=past.uuid), "It is the printer's present job."
            )
        if recent is not None and recent.result:
            told = replace(past, result=recent.result, cleared=recent.cleared)
            return JobLookup(LookupOutcome.FOUND, told, f"By the printer's queue: {recent.result}.")
        return JobLookup(
            LookupOutcome.FOUND,
            past,
            "It was started, but the history has no result: the outcome is not known.",
        )
    return JobLookup(LookupOutcome.FOUND, past, f"In the history: {past.result}.")


def _search_history(client: PrinterClient, wanted: Wanted) -> tuple[PrinterJob | None, int]:
    """(the entry, entries seen); (None, -1) when the end of the history was not reached. Raises DeviceError."""
    seen: set[str] = set()
    for page in range(MAX_PAGES):
        document = client.get_json(f"/history/print_jobs?offset={page * PAGE}&count={PAGE}")
        if not isinstance(document, list):
            raise PrinterOddAnswerError("The printer's history is not a list.")
        jobs = [job for entry in document if (job := job_from_history(entry)) is not None]
        for job in jobs:
            # the newest of our name may be a reprint of ours
            if wanted.uuid and job.uuid == wanted.uuid:
                return job, len(seen)
        for job in jobs:
            if wanted.fits(job):
                return job, len(seen)
            if wanted.may_be(job):
                raise _AlikeError(job)
        fresh = {job.uuid or job.name for job in jobs} - seen
        seen |= fresh
        if len(document) < PAGE:
            return None, len(seen)
        if not fresh:
            # the same page again: this printer does not turn pages, so its older entries stay unseen
            return None, -1
    return None, -1
