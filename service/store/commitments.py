"""Storage commitment of what was delivered: what to ask for, what was asked, what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from service.store import times
from service.store.deliveries import DELIVERED, Delivery, from_row
from service.store.tables import commitments, deliveries

WANTED, ASKED, COMMITTED, REFUSED = "WANTED", "ASKED", "COMMITTED", "REFUSED"


@dataclass(frozen=True)
class Change:
    """What a report changed."""

    committed: int = 0
    refused: tuple[Delivery, ...] = ()


def due(connection: Connection, destination: str, now: datetime, *, most: int) -> list[Delivery]:
    """Delivered objects that wait for a request, or too long for its outcome."""
    rows = connection.execute(
        select(deliveries)
        .where(
            deliveries.c.destination == destination,
            deliveries.c.state == DELIVERED,
            deliveries.c.commit_state.in_((WANTED, ASKED)),
            deliveries.c.commit_next_at <= times.to_text(now),
        )
        .order_by(deliveries.c.commit_next_at, deliveries.c.id)
        .limit(most)
    )
    return [from_row(r) for r in rows]


def asking(
    connection: Connection,
    items: Sequence[Delivery],
    transaction_uid: str,
    *,
    now: datetime,
    again_at: datetime,
) -> None:
    """Written before the request goes out: its report may be faster than its response."""
    connection.execute(
        insert(commitments).values(
            transaction_uid=transaction_uid,
            destination=items[0].destination,
            delivery_ids=[d.id for d in items],
            asked_at=times.to_text(now),
        )
    )
    for item in items:
        _change(
            connection,
            item,
            commit_state=ASKED,
            transaction_uid=transaction_uid,
            commit_tries=item.commit_tries + 1,
            commit_next_at=times.to_text(again_at),
            commit_detail="",
        )


def not_asked(connection: Connection, transaction_uid: str, again_at: datetime, detail: str) -> None:
    """The request did not get through; what was reported meanwhile stays."""
    connection.execute(
        update(deliveries)
        .where(deliveries.c.transaction_uid == transaction_uid, deliveries.c.commit_state == ASKED)
        .values(commit_state=WANTED, commit_next_at=times.to_text(again_at), commit_detail=detail[:255])
    )


def unaskable(connection: Connection, item: Delivery, detail: str) -> None:
    """The object cannot even be named in a request."""
    _change(connection, item, commit_state=REFUSED, commit_detail=detail[:255], commit_next_at=None)


def report(
    connection: Connection,
    transaction_uid: str,
    committed: frozenset[str],
    failed: Mapping[str, str],
    now: datetime,
) -> Change | None:
    """Note an outcome; None when the transaction is not ours. `failed` says why, by SOP instance UID.

    A report of an earlier request may still commit, but a refusal counts only for the last one: the object may have
    been sent again since. What is committed stays committed.
    """
    asked = connection.execute(
        select(commitments).where(commitments.c.transaction_uid == transaction_uid)
    ).one_or_none()
    if asked is None:
        return None
    connection.execute(
        update(commitments)
        .where(commitments.c.transaction_uid == transaction_uid, commitments.c.reported_at.is_(None))
        .values(reported_at=times.to_text(now))
    )
    rows = connection.execute(
        select(deliveries).where(
            deliveries.c.id.in_(asked.delivery_ids),
            deliveries.c.state == DELIVERED,
            deliveries.c.commit_state != COMMITTED,
        )
    )
    good, bad = 0, []
    for item in [from_row(r) for r in rows]:
        if item.sop_uid in committed:
            _change(connection, item, commit_state=COMMITTED, commit_next_at=None, commit_detail="")
            good += 1
        elif (
            item.sop_uid in failed
            and item.transaction_uid == transaction_uid
            and item.commit_state != REFUSED
        ):
            detail = failed[item.sop_uid][:255]
            _change(connection, item, commit_state=REFUSED, commit_next_at=None, commit_detail=detail)
            bad.append(item)
    return Change(good, tuple(bad))


def _change(connection: Connection, delivery: Delivery, **values: object) -> None:
    connection.execute(update(deliveries).where(deliveries.c.id == delivery.id).values(**values))
