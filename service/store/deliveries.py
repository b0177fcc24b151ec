"""What is to be sent to which PACS, and how far that is."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from service.store import times
from service.store.tables import deliveries


@dataclass(frozen=True)
class Delivery:
    id: str
    case_id: str
    destination: str
    sop_uid: str
    kind: str
    path: Path
    state: str
    tries: int
    next_try_at: datetime
    last_status: str


def add(
    connection: Connection,
    *,
    case_id: str,
    destination: str,
    sop_uid: str,
    kind: str,
    path: Path,
    now: datetime,
) -> None:
    """Queue one object for one destination; the same object twice is one delivery."""
    same = select(deliveries.c.id).where(
        deliveries.c.destination == destination, deliveries.c.sop_uid == sop_uid
    )
    if connection.execute(same).one_or_none():
        return
    connection.execute(
        insert(deliveries).values(
            id=secrets.token_hex(8),
            case_id=case_id,
            destination=destination,
            sop_uid=sop_uid,
            kind=kind,
            path=str(path),
            state="WAITING",
            next_try_at=times.to_text(now),
            created_at=times.to_text(now),
        )
    )


def due(connection: Connection, now: datetime) -> list[Delivery]:
    rows = connection.execute(
        select(deliveries)
        .where(deliveries.c.state == "WAITING", deliveries.c.next_try_at <= times.to_text(now))
        .order_by(deliveries.c.created_at)
        .limit(100)
    )
    return [_delivery(r) for r in rows]


def of_case(connection: Connection, case_id: str) -> list[Delivery]:
    rows = connection.execute(
        select(deliveries).where(deliveries.c.case_id == case_id).order_by(deliveries.c.created_at)
    )
    return [_delivery(r) for r in rows]


def delivered(connection: Connection, delivery: Delivery, now: datetime, status: str) -> None:
    _change(
        connection,
        delivery,
        state="DELIVERED",
        delivered_at=times.to_text(now),
        last_status=status,
        tries=delivery.tries + 1,
    )


def refused(connection: Connection, delivery: Delivery, status: str) -> None:
    """The destination will not take it however often it is sent: a person must look."""
    _change(connection, delivery, state="REFUSED", last_status=status, tries=delivery.tries + 1)


def postponed(connection: Connection, delivery: Delivery, now: datetime, status: str) -> None:
    """Back off: 2, 4, 8 ... s, at most 15 minutes. Never given up by itself; the age shows on the page."""
    wait_s = min(900.0, 2.0 ** min(delivery.tries + 1, 12))
    _change(
        connection,
        delivery,
        last_status=status,
        tries=delivery.tries + 1,
        next_try_at=times.to_text(now + timedelta(seconds=wait_s)),
    )


def retry(connection: Connection, delivery_id: str, now: datetime) -> bool:
    """Make it due now; False when there is nothing to send."""
    statement = (
        update(deliveries)
        .where(deliveries.c.id == delivery_id, deliveries.c.state != "DELIVERED")
        .values(state="WAITING", next_try_at=times.to_text(now))
    )
    return connection.execute(statement).rowcount == 1


def counts(connection: Connection) -> dict[str, int]:
    rows = connection.execute(select(deliveries.c.state, func.count()).group_by(deliveries.c.state))
    return {str(state): int(n) for state, n in rows}


def _change(connection: Connection, delivery: Delivery, **values: object) -> None:
    connection.execute(update(deliveries).where(deliveries.c.id == delivery.id).values(**values))


def _delivery(r: Row[Any]) -> Delivery:
    return Delivery(
        r.id,
        r.case_id,
        r.destination,
        r.sop_uid,
        r.kind,
        Path(r.path),
        r.state,
        r.tries,
        times.from_text(r.next_try_at),
        r.last_status,
    )
