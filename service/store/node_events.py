"""What the DICOM nodes say about themselves: their state, and what an administrator should see.

Processes without a node read it here, and it is still there after a restart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from service.ports import NodeEvent
from service.store import times
from service.store.tables import node_events, node_status

MOST_EVENTS = 1000
#: The same event again within this time is counted, not written anew: a PACS retries every few seconds.
SAME_WITHIN = timedelta(hours=1)


@dataclass(frozen=True)
class StoredEvent:
    kind: str
    calling_ae: str
    called_ae: str
    address: str
    what: str
    next_step: str
    first_at: datetime
    last_at: datetime
    times: int


@dataclass(frozen=True)
class StoredStatus:
    """`document` as `service.workflow.node_watch` writes it."""

    name: str
    document: dict[str, Any]
    updated_at: datetime


def record(connection: Connection, events: Sequence[NodeEvent]) -> None:
    """Keep these; of all that is kept, the newest `MOST_EVENTS` stay."""
    for event in events:
        _count_or_add(connection, event)
    newest = select(node_events.c.id).order_by(node_events.c.last_at.desc(), node_events.c.id.desc())
    connection.execute(delete(node_events).where(node_events.c.id.not_in(newest.limit(MOST_EVENTS))))


def _count_or_add(connection: Connection, event: NodeEvent) -> None:
    e = node_events.c
    at = times.to_text(event.at)
    same = connection.execute(
        select(e.id)
        .where(
            e.kind == event.kind,
            e.calling_ae == event.calling_ae[:16],
            e.called_ae == event.called_ae[:16],
            e.address == event.address[:64],
            e.what == event.what,
            e.last_at >= times.to_text(event.at - SAME_WITHIN),
        )
        .order_by(e.last_at.desc())
        .limit(1)
    ).scalar_one_or_none()
    if same is not None:
        connection.execute(update(node_events).where(e.id == same).values(last_at=at, times=e.times + 1))
        return
    connection.execute(
        insert(node_events).values(
            kind=event.kind[:32],
            calling_ae=event.calling_ae[:16],
            called_ae=event.called_ae[:16],
            address=event.address[:64],
            what=event.what,
            next_step=event.next_step,
            first_at=at,
            last_at=at,
            times=1,
        )
    )


def newest(connection: Connection, limit: int = 100) -> list[StoredEvent]:
    rows = connection.execute(
        select(node_events).order_by(node_events.c.last_at.desc(), node_events.c.id.desc()).limit(limit)
    )
    return [
        StoredEvent(
            r.kind,
            r.calling_ae,
            r.called_ae,
            r.address,
            r.what,
            r.next_step,
            times.from_text(r.first_at),
            times.from_text(r.last_at),
            r.times,
        )
        for r in rows
    ]


def count_by_kind(connection: Connection) -> dict[str, int]:
    """Kind -> how often, over what is kept."""
    query = select(node_events.c.kind, func.sum(node_events.c.times)).group_by(node_events.c.kind)
    return {kind: int(n) for kind, n in connection.execute(query)}


def save_status(connection: Connection, name: str, document: dict[str, Any], now: datetime) -> None:
    values = {"document": document, "updated_at": times.to_text(now)}
    changed = connection.execute(update(node_status).where(node_status.c.name == name).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(node_status).values(name=name, **values))


def forget_statuses(connection: Connection, before: datetime) -> None:
    connection.execute(delete(node_status).where(node_status.c.updated_at < times.to_text(before)))


def statuses(connection: Connection) -> list[StoredStatus]:
    """Every node that was heard of lately, the one heard last first."""
    rows = connection.execute(select(node_status).order_by(node_status.c.updated_at.desc()))
    return [StoredStatus(r.name, dict(r.document), times.from_text(r.updated_at)) for r in rows]
