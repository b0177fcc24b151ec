"""The life of one print attempt, as our records tell it. Transitions as data."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from service.errors import ConflictError


class PrintState(enum.StrEnum):
    INTENT = "INTENT"  # decided and recorded; the printer has not been touched
    SENDING = "SENDING"  # the one send may be under way
    QUEUED = "QUEUED"  # accepted into the printer's own queue; it begins by itself, now or later
    PRINTING = "PRINTING"  # accepted by the printer
    PAUSED = "PAUSED"
    AWAITING_REMOVAL = "AWAITING_REMOVAL"  # ended, part on the plate; the outcome is in `result`
    FINISHED = "FINISHED"  # plate cleared after a finished print
    ABORTED = "ABORTED"
    FAILED = "FAILED"
    NOT_STARTED = "NOT_STARTED"  # certainly not started; a person may try again
    UNKNOWN = "UNKNOWN"  # the printer cannot say; a person must look


S = PrintState
RUNNING = frozenset({S.SENDING, S.QUEUED, S.PRINTING, S.PAUSED, S.AWAITING_REMOVAL, S.UNKNOWN})
OVER = frozenset({S.FINISHED, S.ABORTED, S.FAILED, S.NOT_STARTED})

#: from -> the states that may follow. UNKNOWN is left by what the printer tells later, or by a person;
#: NOT_STARTED only when the printer shows the job after all. What has begun never waits in a queue again.
NEXT: Mapping[PrintState, frozenset[PrintState]] = {
    S.INTENT: frozenset({S.SENDING, S.NOT_STARTED}),
    S.SENDING: frozenset({S.QUEUED, S.PRINTING, S.AWAITING_REMOVAL, S.FINISHED, S.ABORTED, S.FAILED, S.NOT_STARTED,
                          S.UNKNOWN}),
    S.QUEUED: frozenset({S.QUEUED, S.PRINTING, S.PAUSED, S.AWAITING_REMOVAL, S.FINISHED, S.ABORTED, S.FAILED,
                         S.NOT_STARTED, S.UNKNOWN}),
    S.PRINTING: frozenset({S.PRINTING, S.PAUSED, S.AWAITING_REMOVAL, S.FINISHED, S.ABORTED, S.FAILED, S.UNKNOWN}),
    S.PAUSED: frozenset({S.PAUSED, S.PRINTING, S.AWAITING_REMOVAL, S.FINISHED, S.ABORTED, S.FAILED, S.UNKNOWN}),
    S.AWAITING_REMOVAL: frozenset({S.AWAITING_REMOVAL, S.FINISHED, S.ABORTED, S.FAILED, S.UNKNOWN}),
    S.UNKNOWN: frozenset({S.UNKNOWN, S.QUEUED, S.PRINTING, S.PAUSED, S.AWAITING_REMOVAL, S.FINISHED, S.ABORTED,
                          S.FAILED, S.NOT_STARTED}),
    S.FINISHED: frozenset(),
    S.ABORTED: frozenset(),
    S.FAILED: frozenset(),
    S.NOT_STARTED: frozenset({S.UNKNOWN}),
}  # fmt: skip


def check_step(current: PrintState, target: PrintState) -> None:
    """Raise ConflictError when a print cannot go from `current` to `target`."""
    if target not in NEXT[current]:
        raise ConflictError(
            f"A print that is {current} cannot become {target}.",
            next_step="Load the print job again.",
            code="print.state",
        )


def observed(job_state: str, result: str, *, cleared: bool) -> PrintState:
    """What a printer's job state and result mean for our record (Ultimaker words, reference sheet 2.4 and 5)."""
    ended = {"Finished": S.FINISHED, "Aborted": S.ABORTED, "Failed": S.FAILED}
    if cleared:
        # Gone from the plate without a result: power cut or reboot. Never taken for a success.
        return ended.get(result, S.UNKNOWN)
    if job_state in ("queued", "sent_to_printer"):
        return S.QUEUED
    if job_state in ("paused", "pausing"):
        return S.PAUSED
    if job_state in ("wait_cleanup", "post_print") or result in ended:
        return S.AWAITING_REMOVAL
    if job_state in ("none", "pre_print", "printing", "resuming", "wait_user_action", "message", ""):
        return S.PRINTING
    return S.UNKNOWN
