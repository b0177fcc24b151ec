"""How a print ended, in words that tell the ends apart. Rules as data.

The printer says 'Aborted' for both, a hand at its panel and our own command; our record says which it was.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

from service.domain.print_job import PrintState


class Outcome(enum.StrEnum):
    FINISHED = "finished"
    ABORTED_AT_PANEL = "aborted_at_panel"
    STOPPED_HERE = "stopped_here"
    ABORTED = "aborted"  # by whom is not known: a job that is not ours
    FAILED = "failed"
    UNKNOWN = "unknown"


OUTCOME_TEXT: Mapping[Outcome, str] = {
    Outcome.FINISHED: "finished",
    Outcome.ABORTED_AT_PANEL: "aborted at the panel",
    Outcome.STOPPED_HERE: "stopped from here",
    Outcome.ABORTED: "aborted",
    Outcome.FAILED: "failed",
    Outcome.UNKNOWN: "outcome unknown",
}

#: The printer's word for the end of a job (reference sheet 5). No word is no success.
_BY_RESULT: Mapping[str, Outcome] = {
    "Finished": Outcome.FINISHED,
    "Aborted": Outcome.ABORTED,
    "Failed": Outcome.FAILED,
}
#: Our record where it alone decides. AWAITING_REMOVAL is told by the result; the states before it have no end yet.
_BY_STATE: Mapping[PrintState, Outcome] = {
    PrintState.FINISHED: Outcome.FINISHED,
    PrintState.ABORTED: Outcome.ABORTED,
    PrintState.FAILED: Outcome.FAILED,
    PrintState.UNKNOWN: Outcome.UNKNOWN,
}


def told(result: str) -> Outcome:
    """What the printer's result says of a job, whosever it is."""
    return _BY_RESULT.get(result, Outcome.UNKNOWN)


def outcome_of(state: PrintState, result: str, *, stopped_here: bool | None = None) -> Outcome | None:
    """How a print of ours ended; None while it has not ended, and when it never started.

    Parameters
    ----------
    result : the printer's word.
    stopped_here : whether a person stopped it through this service; None when that was not looked up.
    """
    found = told(result) if state is PrintState.AWAITING_REMOVAL else _BY_STATE.get(state)
    if found is not Outcome.ABORTED or stopped_here is None:
        return found
    return Outcome.STOPPED_HERE if stopped_here else Outcome.ABORTED_AT_PANEL
