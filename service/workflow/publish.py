"""Results made for the PACS: objects with stable UIDs, queued for every destination (`deliver` sends them)."""

from __future__ import annotations

import json
import logging
import shutil
from typing import Any

from service.domain.people import system
from service.geometry.progress import silent
from service.store import blobs, cases, corrections, outbox, scan_pictures, scans, studies
from service.store.cases import Case
from service.store.database import reading, transaction
from service.workflow import deliver
from service.workflow.app import App
from service.workflow.build import fresh_folder
from service.workflow.scan_pictures import of_argument

log = logging.getLogger("spineprint.publish")


def publish_scan(app: App, key: str, argument: str) -> None:
    """Job: SR and PDF of one version of a scan's report, the PDF with its pictures where there are some."""
    case, task = _scan_argument(app, argument)
    _make_and_queue(app, case, key, task | {"what": "scan"})


def publish_pictures(app: App, key: str, argument: str) -> None:
    """Job: the pictures of one version of a scan's report, each a Secondary Capture."""
    case, task = _scan_argument(app, argument)
    _make_and_queue(app, case, key, task | {"what": "scan_pictures"})


def _scan_argument(app: App, argument: str) -> tuple[Case, dict[str, Any]]:
    scan_id, asked = of_argument(argument)
    with reading(app.engine) as connection:
        scan = scans.get(connection, scan_id)
        case = cases.get(connection, str(scan.case_id))
        oarm = studies.instances_of(connection, scan.study_uid)
        version = corrections.effective(connection, scan)[1] if asked is None else asked
        report = corrections.at_version(connection, scan, version)
        made = next((c for c in corrections.of_scan(connection, scan.id) if c.number == version), None)
        pictures = scan_pictures.of_report(connection, scan_id, version)
    return case, _common(app, case) | {
        "scan_id": scan_id,
        "scan_files": [i.path for i in oarm if not i.quarantined],
        "report_version": version,
        "report": json.dumps(report),
        "pictures": [
            {"path": str(p.path), "name": p.name, "title": p.title}
            for p in (pictures.pictures if pictures else ())
        ],
        # Not the present time: a repeated job must make the same objects.
        "now": (made.at if made else scan.updated_at).isoformat(),
    }


def publish_plan(app: App, key: str, case_id: str) -> None:
    """Job: SEG and encapsulated STL of the approved model."""
    with reading(app.engine) as connection:
        case = cases.get(connection, case_id)
        mesh = blobs.current(connection, case_id).get("mesh")
    # The key names the mesh that was signed; by now another model may be current, which nobody has looked at.
    if mesh is None or not key.endswith(f".{mesh.sha256[:16]}"):
        log.info("job %s: the model has been replaced, nothing to publish", key)
        with transaction(app.engine) as connection:
            outbox.finish(connection, key, app.clock.now())
        return
    _make_and_queue(app, case, key, _common(app, case) | {"what": "plan"})


def _common(app: App, case: Case) -> dict[str, Any]:
    with reading(app.engine) as connection:
        current = blobs.current(connection, case.id)
        stored = studies.used_in(connection, case.study_uid, case.study_revision)
    return {
        "case_id": case.id,
        "case_code": case.code,
        "level": case.level,
        "ct_files": [i.path for i in stored if i.series_uid == case.series_uid],
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
                deliver.queue_result(app, connection, case_id=case.id, sop_uid=item["sop_uid"], kind=item["kind"],
                                     path=files[0], now=now)  # fmt: skip
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
