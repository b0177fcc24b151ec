"""Pictures of a scan: one row for each version of its report, with its own state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from service.store import times
from service.store.tables import scan_pictures as table

MAKING, READY, FAILED = "MAKING", "READY", "FAILED"


@dataclass(frozen=True)
class ScanPicture:
    """`plane` maps the picture's pixels to planning LPS mm (`PicturePlane.to_document`); None: it is not one plane."""

    name: str
    kind: str
    pedicle: str | None
    title: str
    width: int
    height: int
    plane: dict[str, Any] | None
    path: Path
    sha256: str
    size: int

    def to_document(self) -> dict[str, Any]:
        return {**self.__dict__, "path": str(self.path)}


@dataclass(frozen=True)
class PictureSet:
    """`tries` counts how often they were asked for; `error` says why they failed."""

    scan_id: str
    report_version: int
    state: str
    tries: int
    error: dict[str, Any] | None
    pictures: tuple[ScanPicture, ...]
    updated_at: datetime

    def picture(self, name: str) -> ScanPicture | None:
        return next((p for p in self.pictures if p.name == name), None)


def ask(connection: Connection, scan_id: str, report_version: int, now: datetime) -> PictureSet:
    """Put the set to MAKING, for the first time or once more."""
    known = of_report(connection, scan_id, report_version)
    values = {"state": MAKING, "error": None, "updated_at": times.to_text(now)}
    if known is None:
        key = {"scan_id": scan_id, "report_version": report_version}
        connection.execute(insert(table).values(**key, tries=1, pictures=[], **values))
    else:
        connection.execute(_at(scan_id, report_version).values(tries=known.tries + 1, **values))
    made = of_report(connection, scan_id, report_version)
    assert made is not None
    return made


def finish(
    connection: Connection,
    scan_id: str,
    report_version: int,
    now: datetime,
    *,
    pictures: tuple[ScanPicture, ...] = (),
    error: dict[str, Any] | None = None,
) -> None:
    """READY with `pictures`, or FAILED with `error`."""
    connection.execute(
        _at(scan_id, report_version).values(
            state=FAILED if error else READY,
            error=error,
            pictures=[p.to_document() for p in pictures],
            updated_at=times.to_text(now),
        )
    )


def of_report(connection: Connection, scan_id: str, report_version: int) -> PictureSet | None:
    row = connection.execute(
        select(table).where(table.c.scan_id == scan_id, table.c.report_version == report_version)
    ).one_or_none()
    return None if row is None else _set(row)


def _at(scan_id: str, report_version: int) -> Any:
    return update(table).where(table.c.scan_id == scan_id, table.c.report_version == report_version)


def _set(r: Row[Any]) -> PictureSet:
    return PictureSet(
        scan_id=r.scan_id,
        report_version=int(r.report_version),
        state=r.state,
        tries=int(r.tries),
        error=dict(r.error) if r.error else None,
        pictures=tuple(ScanPicture(**{**p, "path": Path(p["path"])}) for p in r.pictures),
        updated_at=times.from_text(r.updated_at),
    )
