"""Received studies and their instances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, case, func, insert, or_, select, text, update

from service.errors import NotFoundError
from service.ports import ReceivedInstance
from service.store import times
from service.store.tables import instances, studies, study_sources, unreadable


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
    expected_instances: int | None
    """What the sender's own catalogue says; None: nobody asked."""
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
    revision: int
    """Of the study, with which it came."""
    superseded_in: int | None
    """Revision from which another copy is used instead; None: never used, or in use still."""
    calling_ae: str
    received_at: datetime


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


def used_in(connection: Connection, study_uid: str, revision: int) -> list[StoredInstance]:
    """The images a revision of the study consists of, whatever came later; 0: all that are in use now."""

    def used(i: StoredInstance) -> bool:
        if not revision:
            return not i.quarantined
        ended = i.superseded_in is not None and i.superseded_in <= revision
        return i.revision <= revision and not ended and (not i.quarantined or i.superseded_in is not None)

    return [i for i in instances_of(connection, study_uid) if used(i)]


@dataclass(frozen=True)
class Source:
    """One association that carried the study. `images` counts also those that were here already."""

    study_uid: str
    association: str
    calling_ae: str
    images: int
    last_at: datetime


_HEARD = text(
    "INSERT INTO study_sources (study_uid, association, calling_ae, images, last_at) "
    "VALUES (:study_uid, :association, :calling_ae, :images, :at) "
    "ON CONFLICT (study_uid, association) DO UPDATE SET "
    "images = study_sources.images + CASE WHEN excluded.last_at > study_sources.last_at "
    "THEN excluded.images ELSE 0 END, "
    "last_at = CASE WHEN excluded.last_at > study_sources.last_at THEN excluded.last_at "
    "ELSE study_sources.last_at END"
)


def heard(connection: Connection, study_uid: str, instance: ReceivedInstance, images: int = 1) -> None:
    """The sender is still at it. The same file handed over again after a crash says nothing new.

    Parameters
    ----------
    instance : the last of `images` that came over one association.
    """
    connection.execute(
        _HEARD,
        {"study_uid": study_uid, "association": instance.association, "calling_ae": instance.calling_ae,
         "images": images, "at": times.to_text(instance.received_at)},
    )  # fmt: skip


def sources_of(connection: Connection, study_uids: Sequence[str]) -> dict[str, list[Source]]:
    """Study UID -> who sent it, for each of these studies."""
    found: dict[str, list[Source]] = {uid: [] for uid in study_uids}
    for r in connection.execute(select(study_sources).where(study_sources.c.study_uid.in_(study_uids))):
        found[r.study_uid].append(_source(r))
    return found


def carried_by(connection: Connection, associations: Sequence[str]) -> list[Source]:
    """What these associations have brought so far."""
    query = select(study_sources).where(study_sources.c.association.in_(associations))
    return [_source(r) for r in connection.execute(query)]


def last_heard(connection: Connection) -> dict[str, datetime]:
    """Calling AE title -> when its last image came."""
    last = func.max(study_sources.c.last_at)
    rows = connection.execute(select(study_sources.c.calling_ae, last).group_by(study_sources.c.calling_ae))
    return {str(ae): times.from_text(at) for ae, at in rows}


@dataclass(frozen=True)
class Arrival:
    """What one revision of a study added."""

    revision: int
    images: int
    first_at: datetime
    last_at: datetime
    callers: tuple[str, ...]
    series: int


def arrivals_of(connection: Connection, study_uid: str) -> list[Arrival]:
    by_revision: dict[int, list[StoredInstance]] = {}
    for i in instances_of(connection, study_uid):
        if not i.quarantined or i.superseded_in is not None:
            by_revision.setdefault(i.revision, []).append(i)
    return [
        Arrival(
            revision,
            len(images),
            min(i.received_at for i in images),
            max(i.received_at for i in images),
            tuple(sorted({i.calling_ae for i in images})),
            len({i.series_uid for i in images}),
        )
        for revision, images in sorted(by_revision.items())
    ]


def images_by_revision(connection: Connection, study_uids: Sequence[str]) -> dict[str, dict[int, int]]:
    """Study UID -> revision -> how many images it added; for many studies at once."""
    i = instances
    query = (
        select(i.c.study_uid, i.c.revision, func.count())
        .where(i.c.study_uid.in_(study_uids), or_(i.c.quarantined.is_(False), i.c.superseded_in.is_not(None)))
        .group_by(i.c.study_uid, i.c.revision)
    )
    found: dict[str, dict[int, int]] = {uid: {} for uid in study_uids}
    for study_uid, revision, n in connection.execute(query):
        found[study_uid][revision] = n
    return found


@dataclass(frozen=True)
class SeriesCount:
    series_uid: str
    modality: str
    images: int
    aside: int


def series_of(connection: Connection, study_uid: str) -> list[SeriesCount]:
    """The series of a study; `aside` counts copies that are kept but not used."""
    i = instances
    aside = func.sum(case((i.c.quarantined.is_(True), 1), else_=0))
    query = (
        select(i.c.series_uid, func.max(i.c.modality), func.count(), aside)
        .where(i.c.study_uid == study_uid)
        .group_by(i.c.series_uid)
        .order_by(i.c.series_uid)
    )
    return [
        SeriesCount(uid, modality, n - int(q), int(q)) for uid, modality, n, q in connection.execute(query)
    ]


def copies_of(connection: Connection, sop_uid: str) -> list[StoredInstance]:
    """Every stored file of one instance: the one in use, and those kept aside because their bytes differ."""
    return [_instance(r) for r in connection.execute(select(instances).where(instances.c.sop_uid == sop_uid))]


def set_aside(connection: Connection, copy: StoredInstance, revision: int) -> None:
    """Keep the file, do not use it any more from `revision` of the study on."""
    connection.execute(
        update(instances)
        .where(instances.c.sop_uid == copy.sop_uid, instances.c.sha256 == copy.sha256)
        .values(quarantined=True, superseded_in=revision)
    )


def insert_study(connection: Connection, values: dict[str, Any]) -> None:
    connection.execute(insert(studies).values(**values))


def change(connection: Connection, study_uid: str, **values: object) -> None:
    connection.execute(update(studies).where(studies.c.study_uid == study_uid).values(**values))


def insert_instance(connection: Connection, instance: ReceivedInstance, **sorted_by: object) -> None:
    """`sorted_by` as for `instance_row`."""
    insert_instances(connection, [instance_row(instance, **sorted_by)])


def insert_instances(connection: Connection, rows: Sequence[dict[str, object]]) -> None:
    connection.execute(insert(instances), list(rows))


def instance_row(instance: ReceivedInstance, **sorted_by: object) -> dict[str, object]:
    """One row. `sorted_by`: study_uid, series_uid, sop_uid, patient_id, modality, quarantined, revision."""
    return {
        "sha256": instance.sha256,
        "sop_class_uid": instance.sop_class_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "path": str(instance.path),
        "size": instance.size,
        "association": instance.association,
        "calling_ae": instance.calling_ae,
        "received_at": times.to_text(instance.received_at),
        **sorted_by,
    }


def stored_among(connection: Connection, sop_uids: Sequence[str]) -> set[str]:
    """Which of these instances have a stored file already."""
    rows = connection.execute(select(instances.c.sop_uid).where(instances.c.sop_uid.in_(sop_uids)))
    return {r.sop_uid for r in rows}


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


@dataclass(frozen=True)
class Aside:
    """A copy that is kept but not used, beside the one that is (None: that one was never whole either)."""

    copy: StoredInstance
    used: StoredInstance | None
    study_uid: str


def aside(connection: Connection, limit: int = 200) -> list[Aside]:
    """Copies in quarantine, newest first."""
    rows = connection.execute(
        select(instances)
        .where(instances.c.quarantined.is_(True))
        .order_by(instances.c.received_at.desc())
        .limit(limit)
    ).all()
    used = select(instances).where(
        instances.c.sop_uid.in_([r.sop_uid for r in rows]), instances.c.quarantined.is_(False)
    )
    in_use = {r.sop_uid: _instance(r) for r in connection.execute(used)}
    return [Aside(_instance(r), in_use.get(r.sop_uid), r.study_uid) for r in rows]


def count_aside(connection: Connection) -> int:
    query = select(func.count()).select_from(instances).where(instances.c.quarantined.is_(True))
    return int(connection.execute(query).scalar_one())


def count_by_state(connection: Connection) -> dict[tuple[str, str], int]:
    """(kind, state) -> how many studies."""
    query = select(studies.c.kind, studies.c.state, func.count()).group_by(studies.c.kind, studies.c.state)
    return {(kind, state): n for kind, state, n in connection.execute(query)}


@dataclass(frozen=True)
class Unreadable:
    path: str
    reason: str
    calling_ae: str
    received_at: datetime


def unreadable_files(connection: Connection, limit: int = 200) -> list[Unreadable]:
    """Files that are kept but cannot be understood, newest first."""
    rows = connection.execute(select(unreadable).order_by(unreadable.c.received_at.desc()).limit(limit))
    return [Unreadable(r.path, r.reason, r.calling_ae, times.from_text(r.received_at)) for r in rows]


def count_unreadable(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(unreadable)).scalar_one())


def _source(r: Row[Any]) -> Source:
    return Source(r.study_uid, r.association, r.calling_ae, r.images, times.from_text(r.last_at))


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
        r.revision,
        r.superseded_in,
        r.calling_ae,
        times.from_text(r.received_at),
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
        expected_instances=r.expected_instances,
        last_instance_at=times.from_text(r.last_instance_at),
        completed_at=times.maybe(r.completed_at),
        use_now=bool(r.use_now),
        reason_code=r.reason_code,
        reason=r.reason,
        next_step=r.next_step,
    )
