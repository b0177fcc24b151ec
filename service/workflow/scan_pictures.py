"""Pictures of a scan, made once its report is out: a stage of their own, which a report never waits for.

The request is written with the report in one transaction; whatever ends the service in between, the job is taken up
again at the next start. A correction by hand makes a report of its own and asks for its own pictures. The results for
the PACS are made after them, so that the document can hold them; when they fail it is made without.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from service.errors import ConflictError, NotFoundError, SpineprintError
from service.geometry.progress import silent
from service.ports import JobRequest
from service.store import blobs, cases, corrections, outbox, scan_pictures, scans, studies
from service.store.database import reading, transaction
from service.store.scan_pictures import FAILED, MAKING, READY, PictureSet, ScanPicture
from service.store.scans import Scan
from service.workflow.app import App
from service.workflow.build import fresh_folder

WORD = {MAKING: "making", READY: "ready", FAILED: "failed"}
_KIND = "scan_pictures"


def request(connection: Connection, app: App, scan_id: str, report_version: int) -> JobRequest:
    """Note in the caller's transaction that pictures are wanted, and the job that makes them."""
    wanted = scan_pictures.ask(connection, scan_id, report_version, app.clock.now())
    key = f"pictures.{scan_id}.{report_version}.{wanted.tries}"
    return JobRequest(key, _KIND, argument_of(scan_id, report_version), "io")


def make(app: App, key: str, argument: str) -> None:
    """Job: the pictures of one scan with one version of its report; then the results for the PACS."""
    scan_id, version = of_argument(argument)
    assert version is not None, "pictures are always asked for with the version of their report"
    work = fresh_folder(app.work_folder(key))
    error: dict[str, Any] | None = None
    pictures: tuple[ScanPicture, ...] = ()
    try:
        task = _argument(app, scan_id, version) | {"out": str(work)}
        made = app.run_task(_KIND, task, silent)["pictures"]
        pictures = tuple(_kept(app, task["case_id"], work, picture) for picture in made)
    except SpineprintError as exc:
        error = exc.to_document()
    except OSError as exc:
        error = blobs.storage_error(exc, work).to_document()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    now = app.clock.now()
    with transaction(app.engine) as connection:
        scan_pictures.finish(connection, scan_id, version, now, pictures=pictures, error=error)
        outbox.put(connection, publishing(scan_id, version, with_pictures=bool(pictures)), now)
        outbox.finish(connection, key, now)


def publishing(scan_id: str, version: int, *, with_pictures: bool) -> list[JobRequest]:
    """The results are made once for each report, the pictures as objects of their own whenever they are there."""
    suffix = f".{version}" if version else ""
    argument = argument_of(scan_id, version)
    jobs = [JobRequest(f"publish.scan.{scan_id}{suffix}", "publish_scan", argument, "io")]
    if with_pictures:
        jobs.append(JobRequest(f"publish.pictures.{scan_id}{suffix}", "publish_pictures", argument, "io"))
    return jobs


def argument_of(scan_id: str, version: int) -> str:
    """One version of a scan's report, as jobs are told about it."""
    return f"{scan_id}:{version}"


def of_argument(argument: str) -> tuple[str, int | None]:
    """(scan, version of its report); None: a job from before reports had their version in it."""
    scan_id, _, version = argument.partition(":")
    return scan_id, int(version) if version else None


def again(app: App, case_id: str, scan_id: str) -> None:
    """Ask once more for pictures that failed, or that a scan of an earlier version of the service never had.

    Raises
    ------
    NotFoundError : the case has no such scan.
    ConflictError : there is no report yet, or the pictures are being made or there already.
    """
    now = app.clock.now()
    with transaction(app.engine) as connection:
        scan = of_case(connection, case_id, scan_id)
        report, version = corrections.effective(connection, scan)
        known = scan_pictures.of_report(connection, scan.id, version)
        if report is None:
            raise ConflictError(
                "The scan has no report, so there is nothing to draw.",
                next_step="Wait for the measurement, or take another scan.",
                code="pictures.no_report",
            )
        if known is not None and known.state != FAILED:
            raise ConflictError(
                "The pictures are there already, or are being made.",
                next_step="Wait a few seconds; they appear by themselves.",
                code="pictures.not_failed",
            )
        outbox.put(connection, [request(connection, app, scan.id, version)], now)


def of_case(connection: Connection, case_id: str, scan_id: str) -> Scan:
    cases.get(connection, case_id)
    scan = scans.get(connection, scan_id)
    if scan.case_id != case_id:
        raise NotFoundError(
            "The case has no such scan.", next_step="See the case's scans.", code="scan.not_found"
        )
    return scan


def document(connection: Connection, scan: Scan, report_version: int) -> dict[str, Any]:
    """For a screen. `state`: none (never asked for) | making | ready | failed, with `reason` and `next_step`."""
    known = scan_pictures.of_report(connection, scan.id, report_version)
    if known is None:
        return {"state": "none", "items": []}
    told: dict[str, Any] = {
        "state": WORD[known.state],
        "items": [_item(scan, known, p) for p in known.pictures],
    }
    if known.error is not None:
        told |= {"reason": known.error.get("message"), "next_step": known.error.get("next_step")}
    return told


def file(app: App, case_id: str, scan_id: str, report_version: int, name: str) -> ScanPicture:
    """One picture whose file is the one that was recorded. Raises NotFoundError, StorageError."""
    with reading(app.engine) as connection:
        scan = of_case(connection, case_id, scan_id)
        known = scan_pictures.of_report(connection, scan.id, report_version)
    picture = known.picture(name) if known else None
    if known is None or picture is None:
        raise NotFoundError(
            "There is no such picture of this scan.",
            next_step="See the list of the scan's pictures.",
            code="pictures.not_found",
        )
    blobs.check_intact(
        blobs.Artifact("", case_id, "picture", picture.path, picture.sha256, picture.size, known.updated_at)
    )
    return picture


def _item(scan: Scan, known: PictureSet, picture: ScanPicture) -> dict[str, Any]:
    base = f"/api/v1/cases/{scan.case_id}/verification/scans/{scan.id}/pictures"
    shown = ("name", "kind", "pedicle", "title", "width", "height", "plane", "sha256")
    return {key: getattr(picture, key) for key in shown} | {
        "href": f"{base}/{known.report_version}/{picture.name}"
    }


def _argument(app: App, scan_id: str, version: int) -> dict[str, Any]:
    with reading(app.engine) as connection:
        scan = scans.get(connection, scan_id)
        case = cases.get(connection, str(scan.case_id))
        current = blobs.current(connection, case.id)
        oldest_first = [s.id for s in reversed(scans.of_case(connection, case.id))]
        return {
            "case_id": case.id,
            "case_code": case.code,
            "level": case.level,
            "scan_number": oldest_first.index(scan.id) + 1,
            "scan_files": [i.path for i in studies.used_in(connection, scan.study_uid, scan.study_revision)],
            "report": corrections.at_version(connection, scan, version),
            "plan": str(blobs.one(connection, case.id, "plan").path),
            "outer": str(current["outer"].path) if "outer" in current else None,
            "mask": str(blobs.one(connection, case.id, "mask").path),
        }


def _kept(app: App, case_id: str, work: Path, picture: dict[str, Any]) -> ScanPicture:
    path, digest, size = blobs.keep(work / picture["file"], app.case_folder(case_id), "scan-picture")
    told = {k: picture[k] for k in ("name", "kind", "pedicle", "title", "width", "height", "plane")}
    return ScanPicture(**told, path=path, sha256=digest, size=size)
