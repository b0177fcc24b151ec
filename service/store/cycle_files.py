"""Records of sterilisers exactly as they came: a file named by its content, and a row that says of which load."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from service.errors import NotFoundError, StorageError
from service.store import blobs, times
from service.store.tables import cycle_files as table


@dataclass(frozen=True)
class CycleFile:
    """`verdict` is empty when the record fits its load's cycle, else what is wrong with it."""

    sha256: str
    load_id: str
    name: str
    path: Path
    size: int
    received_at: datetime
    received_from: str
    verdict: str


def write(folder: Path, content: bytes) -> tuple[Path, str, int]:
    """Keep the bytes durably; path, SHA-256, size. Raises StorageError; nothing half-written remains."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / f".{secrets.token_hex(8)}.in"
        source.write_bytes(content)
    except OSError as exc:
        raise blobs.storage_error(exc, folder) from exc
    try:
        return blobs.keep(source, folder, "record")
    finally:
        source.unlink(missing_ok=True)


def add(connection: Connection, file: CycleFile) -> bool:
    """Whether it is new: the same bytes for the same load are kept once."""
    same = select(table.c.sha256).where(table.c.sha256 == file.sha256, table.c.load_id == file.load_id)
    if connection.execute(same).one_or_none():
        return False
    connection.execute(
        insert(table).values(
            sha256=file.sha256, load_id=file.load_id, name=file.name, path=str(file.path), size=file.size,
            received_at=times.to_text(file.received_at), received_from=file.received_from, verdict=file.verdict,
        )
    )  # fmt: skip
    return True


def judge(connection: Connection, load_id: str, sha256: str, verdict: str) -> None:
    connection.execute(
        update(table).where(table.c.load_id == load_id, table.c.sha256 == sha256).values(verdict=verdict)
    )


def listed(connection: Connection, load_id: str) -> list[CycleFile]:
    """All records that came for a load, oldest first."""
    rows = connection.execute(
        select(table).where(table.c.load_id == load_id).order_by(table.c.received_at, table.c.sha256)
    )
    return [_file(row) for row in rows]


def get(connection: Connection, load_id: str, sha256: str) -> CycleFile:
    row = connection.execute(
        select(table).where(table.c.load_id == load_id, table.c.sha256 == sha256)
    ).one_or_none()
    if row is None:
        raise NotFoundError(
            "There is no such cycle record of this load.",
            next_step="See the list of records of the load.",
            code="cycle.not_found",
        )
    return _file(row)


def content(file: CycleFile) -> bytes:
    """The bytes as they came. Raises StorageError when the file is not the one that was recorded."""
    if not file.path.is_file() or blobs.sha256_of(file.path) != file.sha256:
        raise StorageError(
            "The kept cycle record is not the file that was received.",
            next_step="Have the disk and the backup checked; restore the file from the backup.",
            code="storage.changed",
            retryable=False,
            details={"kind": "cycle_record"},
        )
    return file.path.read_bytes()


def _file(row: object) -> CycleFile:
    values = dict(row._mapping)  # type: ignore[attr-defined]
    return CycleFile(
        **{**values, "path": Path(values["path"]), "received_at": times.from_text(values["received_at"])}
    )
