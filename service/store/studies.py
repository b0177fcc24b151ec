"""Received studies and their instances."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from service.errors import NotFoundError
from service.ports import ReceivedInstance
from service.store import times
from service.store.tables import instances, studies, unreadable


@dataclass(frozen=True)
class Study:
    study_uid: str
    kind: str
    state: str
    revision: int
    patient_id: str
    patient_name: str
    patient_birth_date: str
    accession_number: str
    study_date: str
    calling_ae: str
    instance_count: int
    last_instance_at: datetime
    completed_at: datetime | None
    use_now: bool
    reason_code: str
    reason: str
    next_step: str


@dataclass(frozen=True)
class StoredInstance:
    sop_uid: str
    series_uid: str
    sop_class_uid: str
    patient_id: str
    modality: str
    path: str
    sha256: str
    quarantined: bool


def get(connection: Connection, study_uid: str) -> Study | None:
    row = connection.execute(select(studies).where(studies.c.study_uid == study_uid)).one_or_none()
    return _study(row) if row else None


def need(connection: Connection, study_uid: str) -> Study:
    found = get(connection, study_uid)
    if found is None:
        raise NotFoundError(
            "There is no such study.", next_step="See the list of studies.", code="study.not_found"
        )
    return found


def listed(connection: Connection, *, kind: str | None = None, states: tuple[str, ...] = ()) -> list[Study]:
    query = select(studies).order_by(studies.c.last_instance_at.desc()).limit(500)
    if kind:
        query = query.where(studies.c.kind == kind)
    if states:
        query = query.where(studies.c.state.in_(states))
    return [_study(r) for r in connection.execute(query)]


def instances_of(connection: Connection, study_uid: str) -> list[StoredInstance]:
    rows = connection.execute(
        select(instances).where(instances.c.study_uid == study_uid).order_by(instances.c.sop_uid)
    )
    return [_instance(r) for r in rows]


def associations_of(connection: Connection, study_uid: str) -> set[str]:
    rows = connection.execute(
        select(instances.c.association).where(instances.c.study_uid == study_uid).distinct()
    )
    return {r.association for r in rows}


def copies_of(connection: Connection, sop_uid: str) -> list[StoredInstance]:
    """Every stored file of one instance: the one in use, and those kept aside because their bytes differ."""
    return [_instance(r) for r in connection.execute(select(instances).where(instances.c.sop_uid == sop_uid))]


def set_aside(connection: Connection, copy: StoredInstance) -> None:
    """Keep the file, do not use it any more."""
    connection.execute(
        update(instances)
        .where(instances.c.sop_uid == copy.sop_uid, instances.c.sha256 == copy.sha256)
        .values(quarantined=True)
    )


def insert_study(connection: Connection, values: dict[str, Any]) -> None:
    connection.execute(insert(studies).values(**values))


def change(connection: Connection, study_uid: str, **values: object) -> None:
    connection.execute(update(studies).where(studies.c.study_uid == study_uid).values(**values))


def insert_instance(
    connection: Connection,
    instance: ReceivedInstance,
    *,
    study_uid: str,
    series_uid: str,
    sop_uid: str,
    patient_id: str,
    modality: str,
    quarantined: bool,
) -> None:
    connection.execute(
        insert(instances).values(
            sop_uid=sop_uid,
            sha256=instance.sha256,
            study_uid=study_uid,
            series_uid=series_uid,
            sop_class_uid=instance.sop_class_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            patient_id=patient_id,
            modality=modality,
            path=str(instance.path),
            size=instance.size,
            association=instance.association,
            calling_ae=instance.calling_ae,
            received_at=times.to_text(instance.received_at),
            quarantined=quarantined,
        )
    )


def record_unreadable(connection: Connection, instance: ReceivedInstance, reason: str) -> bool:
    """Remember a file that cannot be understood; False when it was known already."""
    path = str(instance.path)
    if connection.execute(select(unreadable.c.path).where(unreadable.c.path == path)).one_or_none():
        return False
    connection.execute(
        insert(unreadable).values(
            path=path,
            reason=reason,
            calling_ae=instance.calling_ae,
            received_at=times.to_text(instance.received_at),
        )
    )
    return True


def count_unreadable(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(unreadable)).scalar_one())


def _instance(r: Row[Any]) -> StoredInstance:
    return StoredInstance(
        r.sop_uid,
        r.series_uid,
        r.sop_class_uid,
        r.patient_id,
        r.modality,
        r.path,
        r.sha256,
        bool(r.quarantined),
    )


def _study(r: Row[Any]) -> Study:
    return Study(
        study_uid=r.study_uid,
        kind=r.kind,
        state=r.state,
        revision=r.revision,
        patient_id=r.patient_id,
        patient_name=r.patient_name,
        patient_birth_date=r.patient_birth_date,
        accession_number=r.accession_number,
        study_date=r.study_date,
        calling_ae=r.calling_ae,
        instance_count=r.instance_count,
        last_instance_at=times.from_text(r.last_instance_at),
        completed_at=times.maybe(r.completed_at),
        use_now=bool(r.use_now),
        reason_code=r.reason_code,
        reason=r.reason,
        next_step=r.next_step,
    )
