"""Files that belong to a case: written whole or not at all, named by content, never overwritten."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from service.errors import NotFoundError, StorageError
from service.store import times
from service.store.tables import artifacts


@dataclass(frozen=True)
class Artifact:
    id: str
    case_id: str
    kind: str
    path: Path
    sha256: str
    size: int
    created_at: datetime


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def keep(source: Path, folder: Path, kind: str) -> tuple[Path, str, int]:
    """Copy `source` durably into `folder` under `<kind>-<hash><suffixes>`; returns path, sha256, size.

    Raises
    ------
    StorageError : the disk is full or not writable; nothing half-written remains.
    """
    digest = sha256_of(source)
    suffix = (
        "".join(source.suffixes[-2:])
        if source.name.endswith((".nii.gz", ".gcode.gz", ".seg.nrrd"))
        else source.suffix
    )
    target = folder / f"{kind}-{digest[:16]}{suffix}"
    size = source.stat().st_size
    if target.exists() and target.stat().st_size == size and sha256_of(target) == digest:
        return target, digest, size
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as read, temporary.open("wb") as write:
            shutil.copyfileobj(read, write, 1 << 20)
            write.flush()
            os.fsync(write.fileno())
        temporary.replace(target)
        sync_folder(folder)
    except OSError as exc:
        temporary.unlink(missing_ok=True)
        raise storage_error(exc, folder) from exc
    return target, digest, size


def check_intact(artifact: Artifact) -> None:
    """Raise StorageError when the file on disk is not the one that was recorded (and perhaps signed)."""
    if not artifact.path.is_file() or sha256_of(artifact.path) != artifact.sha256:
        raise StorageError(
            f"The stored {artifact.kind} is not the file that was recorded.",
            next_step="Have the disk and the backup checked; then give the inputs again to make it anew.",
            code="storage.changed",
            retryable=False,
            details={"kind": artifact.kind},
        )


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def storage_error(exc: OSError, where: Path) -> StorageError:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full()
    return StorageError(
        f"The data folder cannot be written ({exc.strerror}).",
        next_step="Check the folder's permissions and its disk, then resume.",
        code="storage.write",
        details={"folder": where.name},
    )


def disk_full() -> StorageError:
    return StorageError(
        "The disk of the data folder is full.",
        next_step="Free space or move the data folder, then resume the case; nothing was lost.",
        code="storage.full",
    )


def record(
    connection: Connection, case_id: str, kind: str, kept: tuple[Path, str, int], now: datetime
) -> Artifact:
    """Make `kept` the current artifact of this kind; earlier ones stay, no longer current."""
    connection.execute(
        update(artifacts)
        .where(artifacts.c.case_id == case_id, artifacts.c.kind == kind)
        .values(current=False)
    )
    path, digest, size = kept
    artifact_id = secrets.token_hex(8)
    connection.execute(
        insert(artifacts).values(
            id=artifact_id,
            case_id=case_id,
            kind=kind,
            path=str(path),
            sha256=digest,
            size=size,
            current=True,
            created_at=times.to_text(now),
        )
    )
    return Artifact(artifact_id, case_id, kind, path, digest, size, now)


def outdate(connection: Connection, case_id: str, kinds: Sequence[str]) -> None:
    """No artifact of these kinds is current any more; the files stay."""
    connection.execute(
        update(artifacts)
        .where(artifacts.c.case_id == case_id, artifacts.c.kind.in_(kinds))
        .values(current=False)
    )


def current(connection: Connection, case_id: str) -> dict[str, Artifact]:
    rows = connection.execute(
        select(artifacts).where(artifacts.c.case_id == case_id, artifacts.c.current.is_(True))
    ).all()
    return {
        r.kind: Artifact(
            r.id, r.case_id, r.kind, Path(r.path), r.sha256, r.size, times.from_text(r.created_at)
        )
        for r in rows
    }


def one(connection: Connection, case_id: str, kind: str) -> Artifact:
    found = current(connection, case_id).get(kind)
    if found is None:
        raise NotFoundError(
            f"The case has no {kind} yet.", next_step="See the case's state.", code="artifact.not_found"
        )
    return found
