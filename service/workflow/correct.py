"""A surgeon sets tip or entry of a needle by hand; who, when, from where, to where and why stay on record.

Also where no needle was measured, as long as the vertebra was found in the scan (its registration passed its gates):
then tip and entry are both pointed at, and the case has a verdict until the points are taken back.

The automatic report is never changed. What holds is the newest entry of the list (`store.corrections`); taking one
back adds an entry as well. A verdict that was acknowledged is locked again, because what was signed holds no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from service.domain.case import CaseEvent, CaseState
from service.domain.people import Person, Role, acting
from service.errors import ConflictError, InputRefusedError, NotAllowedError
from service.geometry.progress import silent
from service.store import audit, blobs, cases, corrections, outbox, scans
from service.store.cases import Case
from service.store.corrections import Correction
from service.store.database import reading, transaction
from service.store.scans import Scan
from service.workflow import identity, scan_pictures
from service.workflow.acknowledge import cement_step, newest_scan, shown_verdict
from service.workflow.app import App

_LONGEST_REASON = 500
Point = tuple[float, float, float]


@dataclass(frozen=True)
class NeedleChange:
    """Planning CT, LPS, mm; None leaves what is known."""

    pedicle: str
    tip: Point | None = None
    entry: Point | None = None


@dataclass(frozen=True)
class Signature:
    username: str
    password: str
    reason: str


def correct(
    app: App, case_id: str, scan_id: str, changes: Sequence[NeedleChange], signature: Signature
) -> Correction:
    """Set points of the newest scan's needles; the figures that depend on them are computed anew.

    Raises
    ------
    NotAuthenticatedError, NotAllowedError : wrong password; not a surgeon.
    ConflictError : neither a verdict nor a trusted registration (`verification.no_verdict`), a newer scan
        (`verification.newer_scan`), or somebody else's correction came in between (`verification.newer_report`).
    InputRefusedError : no reason, no point, or a point that cannot be right (`verification.correction`).
    """
    person, reason = _signed(app, signature)
    _require_points(changes)
    with reading(app.engine) as connection:
        _, scan = _settable(connection, case_id, scan_id)
        before, version = corrections.effective(connection, scan)
        current = blobs.current(connection, case_id)
    if before is None:
        raise ConflictError(
            "The scan has no report.", next_step="Take another scan.", code="verification.no_verdict"
        )
    argument = {
        "report": before,
        "plan": str(current["plan"].path),
        "outer": str(current["outer"].path) if "outer" in current else None,
        "mask": str(current["mask"].path),
        "model_report": str(current["model_report"].path) if "model_report" in current else None,
        "changes": [{"pedicle": c.pedicle, "tip": c.tip, "entry": c.entry} for c in changes],
    }
    report = app.run_task("correct", argument, silent)
    made = Correction(
        scan_id=scan_id,
        number=version + 1,
        kind="SET",
        by=person.username,
        at=app.clock.now(),
        reason=reason,
        changes=[_from_to(before, report, c) for c in changes],
        undoes=None,
        report=report,
    )
    return _record(app, case_id, made, person)


def can_be_set(case: Case, newest: Scan | None) -> bool:
    """Whether points of the newest scan's needles can be set: it is registered, and nothing newer is under way."""
    if newest is None or not _registered(newest):
        return False
    without = case.state is CaseState.USED and newest.state == "NOT_MEASURABLE"
    return without or cement_step(case, newest) != "locked"


def _settable(connection: Connection, case_id: str, scan_id: str) -> tuple[Case, Scan]:
    case, newest = newest_scan(connection, case_id, scan_id)
    if newest is not None and can_be_set(case, newest):
        return case, newest
    return shown_verdict(connection, case_id, scan_id)


def _registered(scan: Scan) -> bool:
    """Whether the automatic report stands behind a pose: it states its error only then."""
    return ((scan.report or {}).get("registration") or {}).get("expected_tre_mm") is not None


def undo(app: App, case_id: str, scan_id: str, signature: Signature) -> Correction:
    """Take the newest correction back that still stands; what held before it holds again.

    Raises as `correct`; ConflictError `verification.nothing_to_undo` when no correction stands.
    """
    person, reason = _signed(app, signature)
    with reading(app.engine) as connection:
        _, scan = shown_verdict(connection, case_id, scan_id)
        history = corrections.of_scan(connection, scan.id)
    standing = corrections.standing(history)
    if not standing:
        raise ConflictError(
            "No correction of this scan stands, so there is nothing to take back.",
            next_step="See the list of corrections.",
            code="verification.nothing_to_undo",
        )
    last = standing[-1]
    earlier = standing[-2].report if len(standing) > 1 else None
    made = Correction(
        scan_id=scan_id,
        number=len(history) + 1,
        kind="UNDO",
        by=person.username,
        at=app.clock.now(),
        reason=reason,
        changes=[{"pedicle": c["pedicle"], "from": c["to"], "to": c["from"]} for c in last.changes],
        undoes=last.number,
        report=earlier,
    )
    return _record(app, case_id, made, person)


def _signed(app: App, signature: Signature) -> tuple[Person, str]:
    person = identity.check_password(app, signature.username, signature.password)
    if Role.SURGEON not in person.roles:
        raise NotAllowedError(
            "Only a surgeon sets points of a needle by hand.",
            next_step="Let the surgeon sign with name and password.",
        )
    reason = signature.reason.strip()
    if not reason or len(reason) > _LONGEST_REASON:
        raise _refused(f"A correction wants a reason of 1 to {_LONGEST_REASON} characters.", "Say why.")
    return person, reason


def _require_points(changes: Sequence[NeedleChange]) -> None:
    if not changes or any(c.tip is None and c.entry is None for c in changes):
        raise _refused("No point was given.", "Give the tip or the entry of a needle, or both.")
    if len({c.pedicle for c in changes}) < len(changes):
        raise _refused("A needle was given twice.", "Give each pedicle once.")


def _record(app: App, case_id: str, made: Correction, person: Person) -> Correction:
    with transaction(app.engine) as connection:
        # Again inside: a scan or another correction may have come while the figures were computed.
        case, scan = _settable(connection, case_id, made.scan_id)
        if len(corrections.of_scan(connection, scan.id)) != made.number - 1:
            raise ConflictError(
                "Somebody else corrected this scan at the same time.",
                next_step="Look at the figures that hold now, then correct again.",
                code="verification.newer_report",
            )
        corrections.append(connection, made)
        scans.lock_again(connection, scan.id)
        _move(connection, case, scan, made, person)
        audit.append(
            connection,
            at=made.at,
            actor=made.by,
            subject=case.subject,
            event="needle_corrected" if made.kind == "SET" else "needle_correction_undone",
            data={
                "scan": scan.id,
                "number": made.number,
                "undoes": made.undoes,
                "reason": made.reason,
                "changes": made.changes,
                "verdict": (made.report or scan.report or {}).get("verdict"),
                "acknowledgement_withdrawn": bool(scan.acknowledged_by),
            },
        )
        outbox.put(connection, [scan_pictures.request(connection, app, scan.id, made.number)], made.at)
    return made


def _move(connection: Connection, case: Case, scan: Scan, made: Correction, person: Person) -> None:
    """A scan in which no needle was measured has a verdict as long as one is set by hand."""
    measured = (scan.report or {}).get("status") == "measured"
    if scan.state == "NOT_MEASURABLE":
        event, state = CaseEvent.NEEDLE_SET_BY_HAND, "READY"
    elif made.report is None and not measured:
        event, state = CaseEvent.NEEDLE_TAKEN_BACK, "NOT_MEASURABLE"
    else:
        return
    scans.set_state(connection, scan.id, state)
    cases.move(
        connection,
        case,
        event,
        actor=acting(person),
        now=made.at,
        guards={
            "registration_is_trusted": _registered(scan),
            "no_needle_stands": made.report is None,
            "signed": True,
        },
        data={"scan": scan.id, "number": made.number, "reason": made.reason},
    )


def _from_to(before: dict[str, Any], after: dict[str, Any], change: NeedleChange) -> dict[str, Any]:
    old, new = (
        next((n for n in report["needles"] if n["pedicle"] == change.pedicle), None)
        for report in (before, after)
    )
    return {"pedicle": change.pedicle, "from": _ends(old), "to": _ends(new)}


def _ends(needle: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if needle is None else {"tip": needle["tip"], "entry": needle["entry"]}


def history_document(history: Sequence[Correction]) -> list[dict[str, Any]]:
    """The list for a screen, without the reports."""
    standing = {c.number for c in corrections.standing(list(history))}

    def row(c: Correction) -> dict[str, Any]:
        at: datetime = c.at
        return {
            "number": c.number,
            "kind": "set" if c.kind == "SET" else "undo",
            "by": c.by,
            "at": at,
            "reason": c.reason,
            "changes": c.changes,
            "undoes": c.undoes,
            "stands": c.number in standing,
        }

    return [row(c) for c in history]


def _refused(message: str, next_step: str) -> InputRefusedError:
    return InputRefusedError(message, next_step=next_step, code="verification.correction")
