"""Many durable instances into their studies at once: one commit, a few statements, whatever their number.

The usual case, new images of a study that is being received, is sorted together. Everything that needs judgement
(a new study, copies, late images) goes the way of `intake`, one by one, in the same transaction.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection

from service.errors import ImagingError
from service.imaging.instance_header import InstanceIdentity, read_header, read_identity
from service.ports import ReceivedInstance
from service.store import cases, studies, times
from service.store.database import transaction
from service.store.studies import Study
from service.workflow import intake
from service.workflow.app import App

_Sorted = tuple[InstanceIdentity, ReceivedInstance]


def accept_instances(app: App, instances: Sequence[ReceivedInstance]) -> None:
    """The batch sink of the DICOM node. When it raises, all may be handed over again: nothing is counted twice."""
    by_study: dict[str, list[_Sorted]] = defaultdict(list)
    for instance in instances:
        try:
            identity = read_identity(instance.path)
        except ImagingError:
            intake.accept_instance(app, instance)  # records it as unreadable
        else:
            by_study[identity.study_uid].append((identity, instance))
    for study_uid, members in by_study.items():
        with transaction(app.engine) as connection:
            # the first of a study may open it; those behind it are then sorted together
            for group in (members[:1], members[1:]):
                _sort_group(app, connection, study_uid, group)


def _sort_group(app: App, connection: Connection, study_uid: str, members: Sequence[_Sorted]) -> None:
    study = studies.get(connection, study_uid)
    plain, rest = _plain(connection, study, members)
    if study is not None and plain:
        _sort_together(connection, study, plain)
    for _, instance in rest:
        intake.sort(app, connection, read_header(instance.path), instance)


def _plain(
    connection: Connection, study: Study | None, members: Sequence[_Sorted]
) -> tuple[Sequence[_Sorted], Sequence[_Sorted]]:
    """(new images of a study that is being received and needs no decision, everything else)."""
    if study is None or study.state != "RECEIVING" or study.kind == "unknown":
        return [], members
    if study.kind == "planning_ct" and cases.by_study(connection, study.study_uid) is None:
        return [], members
    seen = studies.stored_among(connection, [identity.sop_instance_uid for identity, _ in members])
    plain: list[_Sorted] = []
    rest: list[_Sorted] = []
    for member in members:
        uid = member[0].sop_instance_uid
        (rest if uid in seen else plain).append(member)
        seen.add(uid)
    return plain, rest


def _sort_together(connection: Connection, study: Study, members: Sequence[_Sorted]) -> None:
    rows = [
        studies.instance_row(
            instance,
            study_uid=study.study_uid,
            series_uid=identity.series_uid,
            sop_uid=identity.sop_instance_uid,
            patient_id=identity.patient_id,
            modality=identity.modality,
            quarantined=False,
            revision=study.revision,
        )
        for identity, instance in members
    ]
    studies.insert_instances(connection, rows)
    last = {(i.association, i.calling_ae): i for _, i in sorted(members, key=lambda m: m[1].received_at)}
    carried = Counter((i.association, i.calling_ae) for _, i in members)
    for carrier, instance in last.items():
        studies.heard(connection, study.study_uid, instance, carried[carrier])
    latest = max(instance.received_at for _, instance in members)
    studies.change(
        connection,
        study.study_uid,
        instance_count=study.instance_count + len(members),
        last_instance_at=times.to_text(max(latest, study.last_instance_at)),
    )
