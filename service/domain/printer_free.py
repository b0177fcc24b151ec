"""When a printer can take its next job, as far as its last reading lets that be said. Rules as data.

A printer of which it cannot be said is not counted on: a forecast that hopes for it would be too early.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.domain.print_job import PrintState
from service.domain.print_queue import TURNOVER_MIN

#: A reading older than this says nothing of the printer now; it is read every few seconds.
STALE_S = 300.0
#: How far a print may be over its estimate while its end is still believed to be near.
_OVER_S = 30.0

#: The printer's state in a reading -> why it is not counted on.
_CANNOT: Mapping[str, str] = {
    "silent": "does not answer",
    "error": "reports an error",
    "booting": "is starting up",
    "needs_person": "needs a person",
}
#: The state of our own print on it -> the same.
_OURS_CANNOT: Mapping[PrintState, str] = {
    PrintState.UNKNOWN: "holds a print whose outcome is unknown",
    PrintState.PAUSED: "holds a paused print",
    PrintState.QUEUED: "holds a print that waits in its queue",
}
_PAUSED = frozenset({"paused", "pausing"})


@dataclass(frozen=True)
class Running:
    """A job on a printer. `total_s` None: its time is not known. `state` None: not a print of ours."""

    total_s: float | None
    elapsed_s: float
    state: PrintState | None = None
    paused: bool = False


@dataclass(frozen=True)
class Free:
    """`at` None: cannot be said, and `reason` says why, as the rest of a sentence about the printer."""

    at: datetime | None
    reason: str = ""


def free_at(state: str | None, read_at: datetime | None, job: Running | None, now: datetime) -> Free:
    """When a printer can begin the next print.

    Parameters
    ----------
    state : of its last reading (`service.ports.PrinterState`); None when it was never read.
    read_at : when that was.
    job : on it or reserved for it; None when there is none.
    """
    reason = _unusable(state, read_at, job, now)
    if reason:
        return Free(None, reason)
    cleared = now + timedelta(minutes=TURNOVER_MIN)
    if state == "awaiting_removal" or (job is not None and job.state is PrintState.AWAITING_REMOVAL):
        return Free(cleared)
    if job is not None:
        return _after(job, cleared)
    return (
        Free(now) if state == "idle" else Free(None, "is in use at its panel, or jobs wait in its own queue")
    )


def _unusable(state: str | None, read_at: datetime | None, job: Running | None, now: datetime) -> str:
    if state is None or read_at is None:
        return "has not been read yet"
    if state in _CANNOT:
        return _CANNOT[state]
    if (now - read_at).total_seconds() > STALE_S:
        return "has not been read for some minutes"
    return _OURS_CANNOT.get(job.state, "") if job is not None and job.state is not None else ""


def _after(job: Running, cleared: datetime) -> Free:
    if job.paused:
        return Free(None, "holds a paused print")
    if job.total_s is None:
        return Free(None, "prints a job whose end it does not tell")
    left_s = job.total_s - job.elapsed_s
    if left_s < -_OVER_S:
        return Free(None, "prints longer than it estimated")
    return Free(cleared + timedelta(seconds=max(0.0, left_s)))


def is_paused(job_state: str) -> bool:
    return job_state in _PAUSED
