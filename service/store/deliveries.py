"""What is to be sent to which PACS, and how far that is.

WAITING until the destination has taken it (DELIVERED), will never take it as it is (REFUSED), or has failed for so
long that a person must look (DEAD, the dead letter). A worker claims what it sends, so that two workers do not send
the same; a claim ends by itself, and a worker gives its own back when it starts again.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, or_, select, update

from service.store import times
from service.store.tables import deliveries

WAITING, DELIVERED, REFUSED, DEAD = "WAITING", "DELIVERED", "REFUSED", "DEAD"
STATES = (WAITING, DELIVERED, REFUSED, DEAD)
_KEPT_ANSWERS = 12
_LONGEST_WAIT_S = 900.0
_ALARMING = or_(
    deliveries.c.state.in_((REFUSED, DEAD)),
    and_(deliveries.c.state == DELIVERED, deliveries.c.commit_state == "REFUSED"),
)
_STUCK = or_(_ALARMING, and_(deliveries.c.state == WAITING, deliveries.c.tries > 0))


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
    created_at: datetime
    delivered_at: datetime | None
    first_failed_at: datetime | None
    history: tuple[dict[str, str], ...]
    """The last answers, oldest first: {at, answer}."""
    commit_state: str
    commit_tries: int
    commit_detail: str
    transaction_uid: str

    @property
    def proven(self) -> bool:
        """Whether the destination itself has said that it answers for the object from now on."""
        return self.commit_state == "COMMITTED"


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
            state=WAITING,
            next_try_at=times.to_text(now),
            created_at=times.to_text(now),
        )
    )


# --- sending ---------------------------------------------------------------------------------------------


def claim(
    connection: Connection, destination: str, *, by: str, now: datetime, lease: timedelta, most: int
) -> list[Delivery]:
    """Take up to `most` due objects of one destination, for `lease` or until they are settled.

    What has failed least comes first: an object that breaks the connection each time does not keep others back.
    """
    chosen = (
        select(deliveries.c.id)
        .where(deliveries.c.destination == destination, *_due(now))
        .order_by(deliveries.c.tries, deliveries.c.created_at, deliveries.c.sop_uid)
        .limit(most)
    )
    ids = [r.id for r in connection.execute(chosen)]
    connection.execute(
        update(deliveries)
        .where(deliveries.c.id.in_(ids))
        .values(claimed_by=by, claimed_until=times.to_text(now + lease))
    )
    rows = {r.id: from_row(r) for r in connection.execute(select(deliveries).where(deliveries.c.id.in_(ids)))}
    return [rows[i] for i in ids]


def is_due(connection: Connection, destination: str, now: datetime) -> bool:
    query = select(deliveries.c.id).where(deliveries.c.destination == destination, *_due(now)).limit(1)
    return connection.execute(query).first() is not None


def release_claims(connection: Connection, by: str) -> int:
    """What a worker of this name was sending when it was ended is due again; returns how many."""
    statement = (
        update(deliveries)
        .where(deliveries.c.claimed_by == by, deliveries.c.state == WAITING)
        .values(claimed_by="", claimed_until=None)
    )
    return connection.execute(statement).rowcount


def _due(now: datetime) -> tuple[ColumnElement[bool], ...]:
    at = times.to_text(now)
    return (
        deliveries.c.state == WAITING,
        deliveries.c.next_try_at <= at,
        or_(deliveries.c.claimed_until.is_(None), deliveries.c.claimed_until <= at),
    )


def delivered(
    connection: Connection, delivery: Delivery, now: datetime, status: str, *, commit: bool = False
) -> None:
    """The destination took it; with `commit` it will be asked to answer for it."""
    _answered(
        connection,
        delivery,
        now,
        status,
        state=DELIVERED,
        delivered_at=times.to_text(now),
        first_failed_at=None,
        commit_state="WANTED" if commit else "",
        commit_next_at=times.to_text(now) if commit else None,
        commit_tries=0,
        commit_detail="",
        transaction_uid="",
    )


def refused(connection: Connection, delivery: Delivery, now: datetime, status: str) -> None:
    """The destination will not take it however often it is sent: a person must look."""
    _answered(connection, delivery, now, status, state=REFUSED)


def postponed(connection: Connection, delivery: Delivery, now: datetime, status: str) -> None:
    """Back off: 2, 4, 8 ... s, at most 15 minutes."""
    _answered(
        connection,
        delivery,
        now,
        status,
        first_failed_at=times.to_text(delivery.first_failed_at or now),
        next_try_at=times.to_text(now + timedelta(seconds=wait_s(delivery.tries + 1))),
    )


def given_up(connection: Connection, delivery: Delivery, now: datetime, status: str) -> None:
    """The dead letter: not tried any more until a person says so."""
    _answered(
        connection,
        delivery,
        now,
        status,
        state=DEAD,
        first_failed_at=times.to_text(delivery.first_failed_at or now),
    )


def left_over(connection: Connection, delivery: Delivery) -> None:
    """The connection was lost before its turn: no try, and due as before."""
    _change(connection, delivery, claimed_by="", claimed_until=None)


def wait_s(tries: int) -> float:
    """After this many failures in a row; no randomness, each destination has its own line."""
    return float(min(_LONGEST_WAIT_S, 2.0 ** min(tries, 12)))


def retry(connection: Connection, delivery_id: str, now: datetime) -> bool:
    """Make it due now, with a new run of tries; False when there is nothing to send.

    What has arrived is sent again only when the destination does not answer for it.
    """
    statement = (
        update(deliveries)
        .where(
            deliveries.c.id == delivery_id,
            or_(deliveries.c.state != DELIVERED, deliveries.c.commit_state == "REFUSED"),
        )
        .values(**_anew(now))
    )
    return connection.execute(statement).rowcount == 1


def retry_stuck(connection: Connection, destination: str, now: datetime) -> int:
    """`retry` for all that did not get through to one destination; how many."""
    statement = update(deliveries).where(deliveries.c.destination == destination, _STUCK).values(**_anew(now))
    return connection.execute(statement).rowcount


def _anew(now: datetime) -> dict[str, object]:
    return {
        "state": WAITING,
        "tries": 0,
        "first_failed_at": None,
        "next_try_at": times.to_text(now),
        "commit_state": "",
        "commit_next_at": None,
        "commit_detail": "",
        "transaction_uid": "",
    }


# --- reading ---------------------------------------------------------------------------------------------


def of_case(connection: Connection, case_id: str) -> list[Delivery]:
    rows = connection.execute(
        select(deliveries)
        .where(deliveries.c.case_id == case_id)
        .order_by(deliveries.c.created_at, deliveries.c.destination, deliveries.c.id)
    )
    return [from_row(r) for r in rows]


def listed(connection: Connection, *, state: str | None = None, limit: int = 500) -> list[Delivery]:
    """The newest first."""
    query = select(deliveries).order_by(deliveries.c.created_at.desc(), deliveries.c.id).limit(limit)
    if state:
        query = query.where(deliveries.c.state == state)
    return [from_row(r) for r in connection.execute(query)]


def stuck(connection: Connection, limit: int) -> tuple[int, list[Delivery]]:
    """What did not get through, of all cases: how many, and the oldest of them, one destination after the other."""
    total = connection.execute(select(func.count()).select_from(deliveries).where(_STUCK)).scalar_one()
    order = (deliveries.c.destination, deliveries.c.created_at, deliveries.c.id)
    rows = connection.execute(select(deliveries).where(_STUCK).order_by(*order).limit(limit))
    return int(total), [from_row(r) for r in rows]


def counts(connection: Connection) -> dict[str, int]:
    rows = connection.execute(select(deliveries.c.state, func.count()).group_by(deliveries.c.state))
    return {str(state): int(n) for state, n in rows}


def commit_counts(connection: Connection) -> dict[str, int]:
    """Delivered objects by how far their commitment is; without the objects nobody asked for."""
    query = (
        select(deliveries.c.commit_state, func.count())
        .where(deliveries.c.state == DELIVERED, deliveries.c.commit_state != "")
        .group_by(deliveries.c.commit_state)
    )
    return {str(state): int(n) for state, n in connection.execute(query)}


def oldest_waiting(connection: Connection) -> dict[str, datetime]:
    """Destination -> since when its oldest undelivered object is waiting."""
    query = (
        select(deliveries.c.destination, func.min(deliveries.c.created_at))
        .where(deliveries.c.state == WAITING)
        .group_by(deliveries.c.destination)
    )
    return {str(name): times.from_text(at) for name, at in connection.execute(query)}


def waiting_destinations(connection: Connection) -> set[str]:
    query = select(deliveries.c.destination).where(deliveries.c.state == WAITING).distinct()
    return {str(r.destination) for r in connection.execute(query)}


def alarms(connection: Connection) -> dict[str, int]:
    """What a person must look at: refused, given up, not answered for."""
    query = select(deliveries.c.state, func.count()).where(_ALARMING).group_by(deliveries.c.state)
    found = {str(state): int(n) for state, n in connection.execute(query)}
    return {
        "refused": found.get(REFUSED, 0),
        "dead": found.get(DEAD, 0),
        "not_committed": found.get(DELIVERED, 0),
    }


def _answered(
    connection: Connection, delivery: Delivery, now: datetime, answer: str, **values: object
) -> None:
    history = [*delivery.history, {"at": times.to_text(now), "answer": answer[:255]}][-_KEPT_ANSWERS:]
    _change(
        connection,
        delivery,
        last_status=answer[:255],
        tries=delivery.tries + 1,
        history=history,
        claimed_by="",
        claimed_until=None,
        **values,
    )


def _change(connection: Connection, delivery: Delivery, **values: object) -> None:
    connection.execute(update(deliveries).where(deliveries.c.id == delivery.id).values(**values))


def from_row(r: Row[Any]) -> Delivery:
    return Delivery(
        id=r.id,
        case_id=r.case_id,
        destination=r.destination,
        sop_uid=r.sop_uid,
        kind=r.kind,
        path=Path(r.path),
        state=r.state,
        tries=r.tries,
        next_try_at=times.from_text(r.next_try_at),
        last_status=r.last_status,
        created_at=times.from_text(r.created_at),
        delivered_at=times.maybe(r.delivered_at),
        first_failed_at=times.maybe(r.first_failed_at),
        history=tuple(r.history or ()),
        commit_state=r.commit_state,
        commit_tries=r.commit_tries,
        commit_detail=r.commit_detail,
        transaction_uid=r.transaction_uid,
    )
