"""Pictures of a print: the camera's at the first layer and at the end, a person's at the inspection.

The camera has a loop of its own. It never touches a print: whatever it does or fails to do, only pictures are missing.
"""

from __future__ import annotations

import json
import logging
import secrets
from pathlib import Path

from sqlalchemy import Connection

from service.domain.people import Actor, system
from service.domain.print_job import PrintState
from service.errors import ConflictError, SpineprintError
from service.imaging.photo import clean_photo
from service.ports import Camera
from service.store import blobs, cases, print_pictures, prints
from service.store.database import reading, transaction
from service.store.print_pictures import END, FIRST_LAYER, INSPECTION, PrintPicture
from service.store.prints import PrintJob
from service.workflow import print_trace
from service.workflow.app import App

log = logging.getLogger("spineprint.print")

MOST_PHOTOS = 12
#: Without the time of the first layer in the audit: a fiftieth of the print.
_FIRST_LAYER_SHARE = 0.02
#: In times of the first layer: by then two or three layers lie on it, and how it stuck can still be seen.
_LATEST = 3.0
_ON_CAMERA = frozenset({PrintState.PRINTING, PrintState.AWAITING_REMOVAL})
_CAMERA = system("camera")


def take_due(app: App, printer: str, camera: Camera) -> None:
    """One turn of a printer's camera: take the picture that is due, if any; say which one was missed."""
    with reading(app.engine) as connection:
        jobs = prints.listed(connection, printer=printer, states=_ON_CAMERA)
        missed = [job for job in jobs if _missed(connection, job)]
        due = next(((job, kind) for job in jobs if (kind := _due(connection, job)) is not None), None)
    for job in missed:
        log.warning("no picture of the first layer of %s: it was not looked at in time", job.token)
        with transaction(app.engine) as connection:
            print_trace.leave(connection, app, job, print_trace.FIRST_LAYER_MISSED, _CAMERA)
    if due is None:
        return
    job, kind = due
    try:
        content = clean_photo(camera.snapshot())
        _keep(app, job, kind, content, _CAMERA)
    except SpineprintError as error:
        log.warning("no picture of %s (%s): %s", job.token, kind, error.code)


def _due(connection: Connection, job: PrintJob) -> str | None:
    taken = _taken(connection, job)
    if job.state is PrintState.AWAITING_REMOVAL:
        return None if END in taken else END
    if FIRST_LAYER in taken or not job.progress:
        return None
    first = _first_layer_share(connection, job)
    return FIRST_LAYER if first <= job.progress <= _LATEST * first else None


def _missed(connection: Connection, job: PrintJob) -> bool:
    """More is printed than the first layers, nobody took their picture, and it has not been said yet."""
    late = (job.progress or 0.0) > _LATEST * _first_layer_share(connection, job)
    if not late or FIRST_LAYER in _taken(connection, job):
        return False
    return job.token not in print_trace.missed_first_layer(connection, [job])


def _taken(connection: Connection, job: PrintJob) -> set[str]:
    return {p.kind for p in print_pictures.listed(connection, job.token)}


def _first_layer_share(connection: Connection, job: PrintJob) -> float:
    report = blobs.current(connection, job.case_id).get("gcode_report")
    measures = json.loads(report.path.read_text("utf-8")).get("measures", {}) if report else {}
    first, whole = measures.get("first_layer_s"), measures.get("print_time_s")
    return float(first) / float(whole) if first and whole else _FIRST_LAYER_SHARE


def add_photo(app: App, token: str, content: bytes, actor: Actor) -> PrintPicture:
    """A person's photograph of the part. Raises InputRefusedError, NotFoundError, ConflictError (too many)."""
    with reading(app.engine) as connection:
        job = prints.get(connection, token)
        count = sum(p.kind == INSPECTION for p in print_pictures.listed(connection, token))
    if count >= MOST_PHOTOS:
        raise ConflictError(
            f"This part has {MOST_PHOTOS} photographs already.",
            next_step="Go on with those that are there.",
            code="photo.many",
        )
    return _keep(app, job, INSPECTION, clean_photo(content), actor)


def _keep(app: App, job: PrintJob, kind: str, content: bytes, by: Actor) -> PrintPicture:
    scratch = app.work_folder("pictures")
    source = scratch / f"{secrets.token_hex(8)}.jpg"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        source.write_bytes(content)
        kept = blobs.keep(source, app.case_folder(job.case_id), "print-picture")
    except OSError as error:
        raise blobs.storage_error(error, scratch) from error
    finally:
        source.unlink(missing_ok=True)
    now = app.clock.now()
    with transaction(app.engine) as connection:
        known = {p.sha256 for p in print_pictures.listed(connection, job.token)}
        picture = print_pictures.add(connection, job.token, kind, kept, by=by.name, now=now)
        if kind == INSPECTION and picture.sha256 not in known:
            case = cases.get(connection, job.case_id)
            cases.note(
                connection,
                case,
                event="part_photographed",
                actor=by,
                now=now,
                data={"job": job.token, "sha256": picture.sha256},
            )
    return picture


def intact(picture: PrintPicture) -> Path:
    """Where the picture lies. Raises StorageError when it is not the one that was recorded."""
    blobs.check_intact(
        blobs.Artifact("", "", "picture", picture.path, picture.sha256, picture.size, picture.taken_at)
    )
    return picture.path
