"""The O-arm scan against the plan: job of VERIFYING, on its own queue so that it never waits behind a model."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from service.domain.case import CaseEvent, CaseState
from service.domain.people import system
from service.errors import SpineprintError
from service.geometry.progress import Progress
from service.store import audit, blobs, cases, scans, studies
from service.store.cases import Case
from service.store.database import reading, transaction
from service.store.scans import Scan
from service.store.studies import Study
from service.workflow import completeness, scan_pictures
from service.workflow.app import App

#: Error codes that say something about the scan, as opposed to a failure of ours.
_ABOUT_THE_SCAN = ("imaging.", "geometry.", "verify.scan")

#: A scan may come in these states, and in an operation it comes within hours of the step before.
_IN_THEATRE = (CaseState.ISSUED, CaseState.USED, CaseState.VERIFYING, CaseState.VERIFIED)
_THEATRE_FOR = timedelta(hours=12)


def may_be_needed(app: App) -> bool:
    """Whether a scan may have to be measured soon: a case is in the operating room."""
    since = app.clock.now() - _THEATRE_FOR
    with reading(app.engine) as connection:
        return any(case.updated_at > since for case in cases.listed(connection, states=_IN_THEATRE))


def arriving_files(app: App) -> list[str]:
    """Images so far of the O-arm scans that are not complete."""
    with reading(app.engine) as connection:
        found = studies.listed(connection, kind="oarm", states=("RECEIVING",))
        return [i.path for study in found for i in studies.used_in(connection, study.study_uid, 0)]


def verify(app: App, case: Case, key: str) -> None:
    """Measure the newest scan of the case and publish the report.

    A scan that cannot be used ends as NOT_MEASURABLE with its reason and the case waits for the next scan; only
    a failure of ours raises (and parks the case).
    """
    with reading(app.engine) as connection:
        waiting = [s for s in scans.of_case(connection, case.id) if s.state == "COMPUTING"]
    if not waiting:
        raise SpineprintError(
            "There is no scan to measure.", next_step="Send the O-arm scan again.", code="scan.missing"
        )
    scan = waiting[0]
    waited_s = (app.clock.now() - scan.last_image_at).total_seconds()
    report: dict[str, Any] | None
    try:
        report = app.run_task("verify", _argument(app, case, scan), _progress(app, scan))
        # for whoever asks where the seconds went: what was before the measuring process began
        report.setdefault("timings_s", {})["waiting"] = round(waited_s, 3)
    except SpineprintError as exc:
        if not exc.code.startswith(_ABOUT_THE_SCAN):
            _set_failed(app, scan, exc)
            raise
        report = None
        refusal = exc
    _hold_until_quiet(app, scan)
    if _drop_when_it_grew(app, case, scan):
        return
    now = app.clock.now()
    with transaction(app.engine) as connection:
        fresh = cases.unmoved(connection, case)
        measured = report is not None and report["status"] == "measured"
        values: dict[str, Any] = {
            "state": "READY" if measured else "NOT_MEASURABLE",
            "fraction": 1.0,
            "stage": "done",
        }
        if report is not None:
            values["report"] = report
        else:
            values["error"] = refusal.to_document()
        scans.change(connection, scan.id, now, **values)
        reason = "" if measured else (report["reason"] if report else refusal.message)
        cases.move(
            connection,
            fresh,
            CaseEvent.SCAN_MEASURED if measured else CaseEvent.SCAN_NOT_MEASURABLE,
            actor=system("verification"),
            now=now,
            data={"scan": scan.id, "verdict": report.get("verdict") if report else None, "reason": reason},
            # the report is out with this transaction; its pictures, and with them the results, come after it
            jobs=[scan_pictures.request(connection, app, scan.id, 0)] if report else (),
        )
    if not measured:
        app.notifier.notify("scan", f"The O-arm scan gives no measurement: {reason}", case_code=case.code)


def _hold_until_quiet(app: App, scan: Scan) -> None:
    """An early start (`completeness.may_begin`) may be wrong: no answer leaves before the sender was silent for long.

    Measuring takes about as long as the quiet time, so there is seldom anything left to wait for.
    """
    while True:
        with reading(app.engine) as connection:
            study = studies.need(connection, scan.study_uid)
            if _declared_complete(connection, study):
                return
            sources = studies.sources_of(connection, [scan.study_uid])[scan.study_uid]
        if study.revision != scan.study_revision:
            return
        left_s = (completeness.closes_at(app, study, sources, None) - app.clock.now()).total_seconds()
        if left_s <= 0:
            return
        time.sleep(min(left_s, 0.1))


def _declared_complete(connection: Connection, study: Study) -> bool:
    """A person said to use these very images now."""
    return any(
        row.event == "use_now" and row.data.get("instances") == study.instance_count
        for row in audit.history(connection, f"study:{study.study_uid}")
    )


def _drop_when_it_grew(app: App, case: Case, scan: Scan) -> bool:
    """Images that came while the scan was measured: its answer would be one about a part of the scan.

    It is not shown and not published; the case waits again, and the whole scan is measured as a new revision.
    """
    now = app.clock.now()
    with transaction(app.engine) as connection:
        study = studies.need(connection, scan.study_uid)
        if study.revision == scan.study_revision:
            return False
        error = SpineprintError(
            "More images of this scan arrived while it was measured, so this answer would be about a part of it.",
            next_step="Wait: the whole scan is measured as soon as it is complete.",
            code="scan.superseded",
        )
        scans.change(
            connection,
            scan.id,
            now,
            state="NOT_MEASURABLE",
            fraction=1.0,
            stage="done",
            error=error.to_document(),
        )
        cases.move(
            connection,
            cases.get(connection, case.id),
            CaseEvent.SCAN_NOT_MEASURABLE,
            actor=system("verification"),
            now=now,
            data={"scan": scan.id, "verdict": None, "reason": error.message, "revision": study.revision},
        )
    app.notifier.notify("scan", error.message, case_code=case.code)
    return True


def _argument(app: App, case: Case, scan: Scan) -> dict[str, Any]:
    with reading(app.engine) as connection:
        current = blobs.current(connection, case.id)
        ct = studies.used_in(connection, case.study_uid, case.study_revision)
        oarm = studies.used_in(connection, scan.study_uid, scan.study_revision)
    return {
        "ct_files": [i.path for i in ct if i.series_uid == case.series_uid],
        "scan_files": [i.path for i in oarm],
        "mask": str(current["mask"].path),
        "plan": str(current["plan"].path),
        "outer": str(current["outer"].path) if "outer" in current else None,
        "prepared": str(current["registration"].path) if "registration" in current else None,
        "plates": str(current["plates"].path) if "plates" in current else None,
        "model_report": str(current["model_report"].path) if "model_report" in current else None,
    }


def _progress(app: App, scan: Scan) -> Progress:
    last = 0.0

    def report(stage: str, fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last < 0.2:
            return
        last = time.monotonic()
        with transaction(app.engine) as connection:
            scans.change(connection, scan.id, app.clock.now(), stage=stage, fraction=round(fraction, 3))

    return report


def _set_failed(app: App, scan: Scan, error: SpineprintError) -> None:
    with transaction(app.engine) as connection:
        scans.change(connection, scan.id, app.clock.now(), state="FAILED", error=error.to_document())


def recompute(connection: Connection, app: App, case: Case) -> None:
    """On resuming a case whose verification failed: the newest failed scan is computed again."""
    found = scans.of_case(connection, case.id)
    failed = [s for s in found if s.state == "FAILED"]
    if failed and not any(s.state == "COMPUTING" for s in found):
        scans.change(
            connection, failed[0].id, app.clock.now(), state="COMPUTING", error=None, stage="waiting"
        )
