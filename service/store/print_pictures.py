"""Pictures of a print: by its camera, and of the part at its inspection."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from service.errors import NotFoundError
from service.store import times
from service.store.tables import print_pictures as table

FIRST_LAYER, END, INSPECTION = "first_layer", "end", "inspection"


@dataclass(frozen=True)
class PrintPicture:
    token: str
    kind: str
    sha256: str
    path: Path
    size: int
    taken_at: datetime
    taken_by: str


def add(
    connection: Connection, token: str, kind: str, kept: tuple[Path, str, int], *, by: str, now: datetime
) -> PrintPicture:
    """Record a kept JPEG; the same picture again changes nothing."""
    path, digest, size = kept
    found = next((p for p in listed(connection, token) if (p.sha256, p.kind) == (digest, kind)), None)
    if found is not None:
        return found
    connection.execute(
        insert(table).values(
            token=token,
            kind=kind,
            sha256=digest,
            path=str(path),
            size=size,
            taken_at=times.to_text(now),
            taken_by=by,
        )
    )
    return PrintPicture(token, kind, digest, path, size, now, by)


def listed(connection: Connection, token: str) -> list[PrintPicture]:
    """In the order they were taken."""
    rows = connection.execute(
        select(table).where(table.c.token == token).order_by(table.c.taken_at, table.c.sha256)
    )
    return [_picture(r) for r in rows]


def one(connection: Connection, token: str, sha256: str) -> PrintPicture:
    query = select(table).where(table.c.token == token, table.c.sha256 == sha256)
    row = connection.execute(
        query.order_by(table.c.taken_at)
    ).first()  # a camera that stands still repeats itself
    if row is None:
        raise NotFoundError(
            "There is no such picture of this print.", next_step="See the print job.", code="print.no_picture"
        )
    return _picture(row)


def _picture(r: Row[Any]) -> PrintPicture:
    return PrintPicture(
        r.token, r.kind, r.sha256, Path(r.path), r.size, times.from_text(r.taken_at), r.taken_by
    )
