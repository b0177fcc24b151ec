"""From the printer's JSON to our words. Pure, and never raises for odd content.

The pair of printer status and job state is what counts: the status stays `printing` all through clean-up, and
has been seen `idle` while a job was still there (reference sheet sections 2.4 and 5).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime

from service.ports import PrinterJob, PrinterReading, PrinterState

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
#: Job states in which the machine is at work or about to be.
_WORKING = frozenset({"pre_print", "printing", "pausing", "paused", "resuming", "post_print"})
#: Job states in which it waits for somebody's answer on the screen.
_ASKING = frozenset({"wait_user_action", "message"})
#: Pauses that the machine made by itself, because something is wrong.
_TROUBLE_PAUSES = frozenset({"flowsensor", "printer"})

_STOPPED = {
    "booting": (PrinterState.BOOTING, ""),
    "error": (PrinterState.ERROR, "The printer reports an error; look at its display."),
}
_WITHOUT_JOB = {
    "idle": (PrinterState.IDLE, ""),
    "maintenance": (PrinterState.BUSY, "Somebody is in a menu of the printer."),
    "waiting_for_peripherals": (PrinterState.BUSY, "The printer waits for its attachments."),
}


def text(value: object) -> str:
    """A text, or empty for anything else: the printer says "" or null for "not yet".

    What no database and no page can hold (half a surrogate of a file name on a USB stick, NUL) becomes a mark.
    """
    if not isinstance(value, str):
        return ""
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value[:300])


def number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return found if math.isfinite(found) else None


def _whole(value: object) -> int | None:
    """Seconds; None beyond what a database's integer holds, which is no time of a print."""
    found = number(value)
    return None if found is None or abs(found) >= 2**31 else int(found)


def _part(document: object, *path: str | int) -> object:
    for step in path:
        if isinstance(step, str) and isinstance(document, Mapping):
            document = document.get(step)
        elif isinstance(step, int) and isinstance(document, list) and step < len(document):
            document = document[step]
        else:
            return None
    return document


def job_from(document: object) -> PrinterJob | None:
    """A job from GET /print_job; None when the document names no job."""
    if not isinstance(document, Mapping):
        return None
    uuid, name, state = text(document.get("uuid")), text(document.get("name")), text(document.get("state"))
    if not uuid and not name and state in ("", "none"):
        return None
    progress = number(document.get("progress"))
    return PrinterJob(
        uuid=uuid,
        name=name,
        state=state,
        result=text(document.get("result")),
        progress=None if progress is None else min(1.0, max(0.0, progress)),
        time_elapsed_s=_whole(document.get("time_elapsed")),
        time_total_s=_whole(document.get("time_total")),
        pause_source=text(document.get("pause_source")),
        cleared=bool(text(document.get("datetime_cleaned"))),
    )


def job_from_history(document: object) -> PrinterJob | None:
    """A job from an entry of GET /history/print_jobs.

    The history has no state: it is `` (empty) here; an empty `result` means the outcome is not known, or not yet.
    """
    if not isinstance(document, Mapping):
        return None
    uuid, name = text(document.get("uuid")), text(document.get("name"))
    if not uuid and not name:
        return None
    return PrinterJob(
        uuid=uuid,
        name=name,
        state="",
        result=text(document.get("result")),
        progress=None,
        time_elapsed_s=_whole(document.get("time_elapsed")),
        time_total_s=_whole(document.get("time_total")),
        cleared=bool(text(document.get("datetime_cleaned"))),
    )


def reading_from(printer: object, job_document: object, read_at: datetime) -> PrinterReading:
    """The reading from GET /printer and GET /print_job (None = 404, no job), read together at `read_at` (UTC)."""
    status = text(_part(printer, "status"))
    job = job_from(job_document)
    state, detail = judge(status, job)
    extruder = _part(printer, "heads", 0, "extruders", 0)
    return PrinterReading(
        state=state,
        read_at=read_at,
        raw_status=status,
        job=job,
        nozzle_id=text(_part(extruder, "hotend", "id")),
        material_guid=material_of(extruder),
        nozzle_c=number(_part(extruder, "hotend", "temperature", "current")),
        bed_c=number(_part(printer, "bed", "temperature", "current")),
        detail=detail,
    )


def material_of(extruder: object) -> str:
    """GUID of the loaded material, lower case; empty = none."""
    material = _part(extruder, "active_material")
    return (text(_part(material, "guid")) or text(_part(material, "GUID"))).lower()


def second_core_missing(printer: object) -> bool:
    """Both slots must hold a core, even when one prints (cooling air; reference sheet section 6.3)."""
    extruders = _part(printer, "heads", 0, "extruders")
    if not isinstance(extruders, list) or len(extruders) < 2:
        return False
    return not text(_part(extruders, 1, "hotend", "id"))


def judge(status: str, job: PrinterJob | None) -> tuple[PrinterState, str]:
    """State and remark from the printer's status word and its job.

    What is not understood counts as busy, never as idle: the printer is not used until a person has looked.
    """
    if status in _STOPPED:
        return _STOPPED[status]
    found = None if job is None else _judge_job(status, job)
    if found is not None:
        return found
    if status == "printing":
        return PrinterState.BUSY, "" if job else "The printer is at work but shows no job."
    return _WITHOUT_JOB.get(
        status, (PrinterState.BUSY, f"The printer reports the unknown status {status!r}.")
    )


def _judge_job(status: str, job: PrinterJob) -> tuple[PrinterState, str] | None:
    """What the job says of the machine; None when it says nothing (an old job, cleaned away)."""
    remark = f"The status says idle, but the job is in {job.state or 'no state'}." if status == "idle" else ""
    if job.state == "wait_cleanup":
        if not job.result:
            remark = f"{remark} The printer does not say whether the print finished or was aborted.".strip()
        return PrinterState.AWAITING_REMOVAL, remark
    if job.state in _ASKING:
        return PrinterState.NEEDS_PERSON, "The printer asks something on its display."
    if job.state == "paused" and job.pause_source in _TROUBLE_PAUSES:
        return PrinterState.NEEDS_PERSON, f"The printer paused by itself ({job.pause_source})."
    if job.cleared and job.state not in _WORKING:
        return None
    if job.state in ("", "none", "unknown"):
        # for a moment after a start and after an abort
        remark = remark or "The job's state is not known at this moment."
    elif job.state not in _WORKING:
        remark = f"The printer reports the unknown job state {job.state!r}."
    return PrinterState.BUSY, remark
