"""The cement step stays locked until a surgeon has acknowledged the verdict of the newest scan.

The software decides nothing: any verdict can be acknowledged, but one that is not *accurate* wants a reason in words.
A newer scan locks again, because what was acknowledged is no longer what is known.
"""

from __future__ import annotations

from sqlalchemy import Connection

from service.domain.case import CaseState
from service.domain.people import Role
from service.errors import ConflictError, InputRefusedError, NotAllowedError
from service.store import audit, cases, corrections, scans
from service.store.cases import Case
from service.store.database import transaction
from service.store.scans import Scan
from service.workflow import identity
from service.workflow.app import App

_LONGEST_NOTE = 500


def cement_step(case: Case, newest: Scan | None) -> str:
    """locked | needs_acknowledgement | acknowledged."""
    if newest is None or newest.state != "READY" or case.state is not CaseState.VERIFIED:
        return "locked"
    return "acknowledged" if newest.acknowledged_by else "needs_acknowledgement"


def acknowledge(
    app: App,
    case_id: str,
    scan_id: str,
    *,
    username: str,
    password: str,
    note: str = "",
    report_version: int | None = None,
) -> Scan:
    """Name and password are the signature; the terminal in the room needs no session of a person for it.

    Again by anybody: the first one stands, and nothing is written. `report_version` is that of the verdict shown
    (0 the automatic one, n after the n-th correction); None signs whatever holds.

    Raises
    ------
    NotAuthenticatedError, NotAllowedError : wrong password; not a surgeon.
    ConflictError : there is no verdict (`verification.no_verdict`), a newer scan (`verification.newer_scan`) or a
        correction since (`verification.newer_report`).
    InputRefusedError : the verdict is not *accurate* and no reason was given (`verification.note`).
    """
    person = identity.check_password(app, username, password)
    if Role.SURGEON not in person.roles:
        raise NotAllowedError(
            "Only a surgeon acknowledges a verdict.",
            next_step="Let the surgeon sign with name and password.",
        )
    note = note.strip()
    if len(note) > _LONGEST_NOTE:
        raise InputRefusedError(
            f"The reason is longer than {_LONGEST_NOTE} characters.",
            next_step="Shorten it.",
            code="verification.note",
        )
    now = app.clock.now()
    with transaction(app.engine) as connection:
        case, newest = shown_verdict(connection, case_id, scan_id)
        report, version = corrections.effective(connection, newest)
        if report_version is not None and report_version != version:
            raise ConflictError(
                "A point of the needle was set by hand since this verdict was shown.",
                next_step="Look at the figures that hold now, then sign.",
                code="verification.newer_report",
            )
        if cement_step(case, newest) == "acknowledged":
            return newest
        verdict = str((report or {}).get("verdict"))
        if verdict != "accurate" and not note:
            raise InputRefusedError(
                f"The verdict is {verdict}: going on wants a reason.",
                next_step="Say in a few words why, without naming the patient; or correct the needle and scan again.",
                code="verification.note",
            )
        scans.acknowledge(connection, newest.id, by=person.username, at=now)
        audit.append(
            connection,
            at=now,
            actor=person.username,
            subject=case.subject,
            event="verdict_acknowledged",
            data={"scan": newest.id, "verdict": verdict, "note": note}
            | ({"report_version": version} if version else {}),
        )
        return scans.get(connection, newest.id)


def shown_verdict(connection: Connection, case_id: str, scan_id: str) -> tuple[Case, Scan]:
    """The case with this very scan as its newest, which has a verdict that can be signed or corrected.

    Raises ConflictError: a newer scan (`verification.newer_scan`), no verdict (`verification.no_verdict`).
    """
    case, newest = newest_scan(connection, case_id, scan_id)
    if newest is None or newest.report is None or cement_step(case, newest) == "locked":
        raise ConflictError(
            "There is no verdict to sign or to correct.",
            next_step="Wait for the measurement, or take another scan.",
            code="verification.no_verdict",
        )
    return case, newest


def newest_scan(connection: Connection, case_id: str, scan_id: str) -> tuple[Case, Scan | None]:
    """The case and its newest scan, which is this very one or there is none.

    Raises ConflictError: a newer scan (`verification.newer_scan`).
    """
    case = cases.get(connection, case_id)
    newest = next(iter(scans.of_case(connection, case_id)), None)
    if newest is not None and newest.id != scan_id:
        raise ConflictError(
            "A newer scan has come since this one was shown.",
            next_step="Look at the newest scan and its verdict first.",
            code="verification.newer_scan",
        )
    return case, newest
