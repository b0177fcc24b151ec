"""The append-only, hash-chained record of everything that happened.

Each row's hash covers its own content and the hash of the row before it; a changed, removed or reordered row
breaks the chain at that place. `verify_chain` finds the first break.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, text, update

from service.store import times
from service.store.tables import audit, audit_head

GENESIS = "0" * 64


@dataclass(frozen=True)
class AuditRow:
    seq: int
    at: datetime
    actor: str
    subject: str
    event: str
    data: dict[str, object]
    hash: str


def canonical(data: Mapping[str, object]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def row_hash(previous: str, seq: int, at: str, actor: str, subject: str, event: str, data: str) -> str:
    # The fields are joined as a JSON list: no content can imitate a field boundary.
    payload = json.dumps([previous, seq, at, actor, subject, event, data], ensure_ascii=False)
    return hashlib.sha256(payload.encode()).hexdigest()


def append(
    connection: Connection, *, at: datetime, actor: str, subject: str, event: str, data: Mapping[str, object]
) -> int:
    """Add one row inside the caller's transaction; returns its number."""
    last = select(audit_head).where(audit_head.c.id == 1).with_for_update()
    head = connection.execute(last).one_or_none()
    if head is None:
        # Two processes may both be the first.
        start = text("INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, :hash) ON CONFLICT DO NOTHING")
        connection.execute(start, {"hash": GENESIS})
        head = connection.execute(last).one()
    previous, seq = str(head.hash), int(head.seq) + 1
    at_text, content = times.to_text(at), canonical(data)
    digest = row_hash(previous, seq, at_text, actor, subject, event, content)
    connection.execute(
        insert(audit).values(
            seq=seq,
            at=at_text,
            actor=actor,
            subject=subject,
            event=event,
            data=content,
            previous_hash=previous,
            hash=digest,
        )
    )
    connection.execute(update(audit_head).where(audit_head.c.id == 1).values(seq=seq, hash=digest))
    return seq


def history(connection: Connection, subject: str) -> list[AuditRow]:
    rows = connection.execute(select(audit).where(audit.c.subject == subject).order_by(audit.c.seq)).all()
    return [
        AuditRow(r.seq, times.from_text(r.at), r.actor, r.subject, r.event, json.loads(r.data), r.hash)
        for r in rows
    ]


def events(connection: Connection, subjects: Iterable[str], names: Iterable[str]) -> list[AuditRow]:
    """The rows of these events about these subjects, oldest first."""
    query = select(audit).where(audit.c.subject.in_(list(subjects)), audit.c.event.in_(list(names)))
    return [
        AuditRow(r.seq, times.from_text(r.at), r.actor, r.subject, r.event, json.loads(r.data), r.hash)
        for r in connection.execute(query.order_by(audit.c.seq))
    ]


def verify_chain(connection: Connection) -> int | None:
    """None when the chain is whole, else the number of the first row that does not fit."""
    previous, expected = GENESIS, 1
    for r in connection.execute(select(audit).order_by(audit.c.seq)):
        digest = row_hash(previous, r.seq, r.at, r.actor, r.subject, r.event, r.data)
        if r.seq != expected or r.previous_hash != previous or r.hash != digest:
            return int(expected)
        previous, expected = r.hash, expected + 1
    head = connection.execute(select(audit_head).where(audit_head.c.id == 1)).one_or_none()
    if head is None:
        return None if expected == 1 else 1
    return None if (head.seq == expected - 1 and head.hash == previous) else expected
