"""Sterile-services records (item, load, bi, steriliser): whole documents with a version that nobody may skip."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from sqlalchemy import Connection, insert, select, update

from service.domain.sterilisation import (
    BiologicalIndicator,
    Item,
    Load,
    Steriliser,
    from_document,
    to_document,
)
from service.errors import ConflictError, NotFoundError
from service.store import times
from service.store.tables import sterile_records as table

Record = Item | Load | BiologicalIndicator | Steriliser
R = TypeVar("R", Item, Load, BiologicalIndicator, Steriliser)

KINDS: dict[type, str] = {Item: "item", Load: "load", BiologicalIndicator: "bi", Steriliser: "steriliser"}


def add(connection: Connection, record: Record, now: datetime) -> None:
    kind = KINDS[type(record)]
    same = select(table.c.id).where(table.c.kind == kind, table.c.id == record.id)
    if connection.execute(same).one_or_none():
        raise ConflictError(
            f"There is already a {kind} '{record.id}'.",
            next_step="Use another identifier.",
            code="sterilisation.exists",
        )
    connection.execute(insert(table).values(kind=kind, id=record.id, **_columns(record, now)))


def save(connection: Connection, record: Record, seen_version: int, now: datetime) -> None:
    """Write a changed record. Raises ConflictError when it changed since `seen_version` was read."""
    statement = (
        update(table)
        .where(table.c.kind == KINDS[type(record)], table.c.id == record.id, table.c.version == seen_version)
        .values(**_columns(record, now))
    )
    if connection.execute(statement).rowcount != 1:
        raise ConflictError(
            "Somebody else changed this record meanwhile.",
            next_step="Load it again.",
            code="sterilisation.stale",
        )


def get(connection: Connection, kind: type[R], record_id: str) -> R:
    found = maybe(connection, kind, record_id)
    if found is None:
        raise NotFoundError(
            f"There is no {KINDS[kind]} '{record_id}'.",
            next_step="Check the identifier.",
            code="sterilisation.not_found",
        )
    return found


def maybe(connection: Connection, kind: type[R], record_id: str) -> R | None:
    row = connection.execute(
        select(table.c.document).where(table.c.kind == KINDS[kind], table.c.id == record_id)
    ).one_or_none()
    return from_document(kind, row.document) if row else None


def listed(connection: Connection, kind: type[R]) -> list[R]:
    rows = connection.execute(
        select(table.c.document).where(table.c.kind == KINDS[kind]).order_by(table.c.id)
    )
    return [from_document(kind, r.document) for r in rows]


def items_of_case(connection: Connection, case_id: str) -> list[Item]:
    rows = connection.execute(
        select(table.c.document)
        .where(table.c.kind == "item", table.c.case_id == case_id)
        .order_by(table.c.id)
    )
    return [from_document(Item, r.document) for r in rows]


def _columns(record: Record, now: datetime) -> dict[str, object]:
    load_id = record.load_id if isinstance(record, Item | BiologicalIndicator) else None
    return {
        "version": record.version,
        "state": record.state.value,
        "case_id": record.design.case_id if isinstance(record, Item) else None,
        "load_id": load_id,
        "document": to_document(record),
        "updated_at": times.to_text(now),
    }
