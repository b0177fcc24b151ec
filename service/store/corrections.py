"""Points of a needle set by hand: an append-only list for each scan; the scan's own report is never touched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from service.store import times
from service.store.scans import Scan
from service.store.tables import needle_corrections as table


@dataclass(frozen=True)
class Correction:
    """`report` is what holds from here on; None: the automatic one again. `undoes` is the number taken back."""

    scan_id: str
    number: int
    kind: str
    by: str
    at: datetime
    reason: str
    changes: list[dict[str, Any]]
    undoes: int | None
    report: dict[str, Any] | None


def of_scan(connection: Connection, scan_id: str) -> list[Correction]:
    """Oldest first."""
    rows = connection.execute(select(table).where(table.c.scan_id == scan_id).order_by(table.c.number))
    return [
        Correction(
            scan_id=r.scan_id,
            number=int(r.number),
            kind=r.kind,
            by=r.by,
            at=times.from_text(r.at),
            reason=r.reason,
            changes=list(r.changes),
            undoes=r.undoes,
            report=dict(r.report) if r.report else None,
        )
        for r in rows
    ]


def append(connection: Connection, correction: Correction) -> None:
    """Two at the same time: the primary key lets one of them in."""
    connection.execute(
        insert(table).values(
            scan_id=correction.scan_id,
            number=correction.number,
            kind=correction.kind,
            by=correction.by,
            at=times.to_text(correction.at),
            reason=correction.reason,
            changes=correction.changes,
            undoes=correction.undoes,
            report=correction.report,
        )
    )


def standing(history: list[Correction]) -> list[Correction]:
    """Corrections that hold now, oldest first: those set and not taken back."""
    taken_back = {c.undoes for c in history if c.kind == "UNDO"}
    return [c for c in history if c.kind == "SET" and c.number not in taken_back]


def effective(connection: Connection, scan: Scan) -> tuple[dict[str, Any] | None, int]:
    """(report that holds, its version): version 0 is the automatic report, n the n-th entry of the list."""
    history = of_scan(connection, scan.id)
    if not history:
        return scan.report, 0
    last = history[-1]
    return (scan.report if last.report is None else last.report), last.number


def at_version(connection: Connection, scan: Scan, version: int) -> dict[str, Any] | None:
    """The report of this version: 0 the automatic one, n what held from the n-th entry of the list on."""
    made = next((c for c in of_scan(connection, scan.id) if c.number == version), None)
    return scan.report if made is None or made.report is None else made.report
