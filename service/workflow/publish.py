"""Results back to the PACS: objects with stable UIDs, a durable queue per destination."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from service.domain.people import Actor, system
from service.errors import NotFoundError
from service.geometry.progress import silent
from service.ports import Destination
from service.store import audit, blobs, cases, deliveries, outbox, scans, studies
from service.store.cases import Case
from service.store.database import reading, transaction
from service.store.deliveries import Delivery
from service.workflow.app import App
from service.workflow.build import fresh_folder


def publish_scan(app: App, key: str, scan_id: str) -> None:
    """Job: SR and PDF of one verification."""
    with reading(app.engine) as connection:
        scan = scans.get(connection, scan_id)
        case = cases.get(connection, str(scan.case_id))
        oarm = studies.instances_of(connection, scan.study_uid)
    argument = _common(app, case) | {
        "what": "scan",
        "scan_id": scan_id,
        "scan_files": [i.path for i in oarm if not i.quarantined],
        "report": json.dumps(scan.report),
        # Not the present time: a repeated job must make the same objects.
        "now": scan.updated_at.isoformat(),
    }
    _make_and_queue(app, case, key, argument)


def publish_plan(app: App, key: str, case_id: str) -> None:
    """Job: SEG and encapsulated STL of the approved model."""
    with reading(app.engine) as connection:
        case = cases.get(connection, case_id)
    _make_and_queue(app, case, key, _common(app, case) | {"what": "plan"})


def _common(app: App, case: Case) -> dict[str, Any]:
    with reading(app.engine) as connection:
        current = blobs.current(connection, case.id)
        stored = studies.instances_of(connection, case.study_uid)
    return {
        "case_id": case.id,
        "case_code": case.code,
        "level": case.level,
        "ct_files": [i.path for i in stored if not i.quarantined and i.series_uid == case.series_uid],
        "artifacts": {kind: {"path": str(a.path), "sha256": a.sha256} for kind, a in current.items()},
        "now": (current["mesh"].created_at if "mesh" in current else case.created_at).isoformat(),
    }


def _make_and_queue(app: App, case: Case, key: str, argument: dict[str, Any]) -> None:
    work = fresh_folder(app.work_folder(key))
    result = app.run_task("publish", argument | {"out": str(work)}, silent)
    now = app.clock.now()
    kept = [(o, blobs.keep(work / o["file"], app.case_folder(case.id), o["kind"])) for o in result["objects"]]
    with transaction(app.engine) as connection:
        for item, files in kept:
            blobs.record(connection, case.id, item["kind"], files, now)
            if item.get("sop_uid"):
                for peer in app.config.dicom.peers:
                    if "pacs" in peer.roles:
                        deliveries.add(connection, case_id=case.id, destination=peer.ae_title, sop_uid=item["sop_uid"],
                                       kind=item["kind"], path=files[0], now=now)  # fmt: skip
        cases.note(
            connection,
            cases.get(connection, case.id),
            event="results_made",
            actor=system("publish"),
            now=now,
            data={"objects": [o["kind"] for o, _ in kept]},
        )
        outbox.finish(connection, key, now)
    shutil.rmtree(work, ignore_errors=True)


def deliver_due(app: App) -> int:
    """Send what is due; returns how many objects were tried. Called by the delivery loop."""
    if app.sender is None:
        return 0
    with reading(app.engine) as connection:
        waiting = deliveries.due(connection, app.clock.now())
    peers = {p.ae_title: p for p in app.config.dicom.peers}
    waiting.sort(key=lambda d: d.destination)
    for title, group in groupby(waiting, key=lambda d: d.destination):
        peer = peers.get(title)
        items = list(group)
        if peer is None:
            _settle(app, items, "destination is not configured any more")
            continue
        statuses = app.sender.send(
            [Path(d.path) for d in items], Destination(peer.ae_title, peer.host, peer.port)
        )
        now = app.clock.now()
        with transaction(app.engine) as connection:
            for item, status in zip(items, statuses, strict=True):
                text = (
                    f"{status.status:04X} {status.detail}".strip()
                    if status.status is not None
                    else status.detail
                )
                if status.accepted:
                    deliveries.delivered(connection, item, now, text)
                elif status.permanent:
                    deliveries.refused(connection, item, text)
                    app.notifier.notify("pacs", f"{title} refused a result ({text}).")
                else:
                    deliveries.postponed(connection, item, now, text)
    return len(waiting)


def retry_delivery(app: App, delivery_id: str, actor: Actor) -> None:
    """A person has a refused or waiting object sent again now. Raises NotFoundError."""
    now = app.clock.now()
    with transaction(app.engine) as connection:
        if not deliveries.retry(connection, delivery_id, now):
            raise NotFoundError(
                "There is no such delivery, or it has arrived already.", next_step="See the case's deliveries.",
                code="delivery.not_found",
            )  # fmt: skip
        audit.append(
            connection, at=now, actor=actor.name, subject=f"delivery:{delivery_id}", event="retried", data={}
        )


def _settle(app: App, items: Iterable[Delivery], reason: str) -> None:
    with transaction(app.engine) as connection:
        for item in items:
            deliveries.refused(connection, item, reason)
