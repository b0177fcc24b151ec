"""Which job each state asks for, and how every case job starts and fails."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from service.domain.case import CaseEvent, CaseState
from service.domain.people import system
from service.errors import SpineprintError
from service.geometry.progress import Progress
from service.ports import JobHandler, JobRequest
from service.store import blobs, cases, outbox
from service.store.cases import Case
from service.store.database import is_full, reading, transaction
from service.workflow.app import App

log = logging.getLogger("spineprint.jobs")


@dataclass(frozen=True)
class StateJob:
    """`resume_state` is where a person continues after a failure of this job."""

    kind: str
    queue: str
    resume_state: CaseState
    priority: int = 10


STATE_JOBS: Mapping[CaseState, StateJob] = {
    CaseState.RECEIVING: StateJob("inspect", "io", CaseState.RECEIVING),
    CaseState.BUILDING: StateJob("build", "cpu", CaseState.RECEIVED),
    CaseState.APPROVED: StateJob("slice", "cpu", CaseState.APPROVED, priority=5),
    CaseState.VERIFYING: StateJob("verify", "urgent", CaseState.VERIFYING, priority=1),
}


def entry_job(case: Case, target: CaseState) -> tuple[JobRequest, ...]:
    """The job of the state that `case` is about to enter; its key names that very entry."""
    job = STATE_JOBS.get(target)
    if job is None:
        return ()
    return (_request(job, case.id, case.version + 1),)


def _request(job: StateJob, case_id: str, state_version: int) -> JobRequest:
    key = f"{job.kind}.{case_id}.{state_version}"
    return JobRequest(key, job.kind, case_id, job.queue, job.priority)


CaseWork = Callable[[App, Case, str], None]


def case_job(app: App, state: CaseState, work: CaseWork) -> JobHandler:
    """Wrap `work` for one state: skip when the case has moved on, turn failures into NEEDS_ATTENTION."""
    job = STATE_JOBS[state]

    def handle(key: str, argument: str) -> None:
        case_id = argument
        with reading(app.engine) as connection:
            case = cases.get(connection, case_id)
        if case.state is not state or not key.endswith(f".{case.state_version}"):
            log.info("job %s: the case has moved on, nothing to do", key)
            with transaction(app.engine) as connection:
                outbox.finish(connection, key, app.clock.now())
            return
        failure = _run(app, work, case, key)
        if failure is not None:
            # What the run left half-made may be the very thing that fills the disk: away with it before recording.
            shutil.rmtree(app.work_folder(key), ignore_errors=True)
            raise_attention(app, case, failure, job.resume_state)
        with transaction(app.engine) as connection:
            outbox.finish(connection, key, app.clock.now())

    return handle


def _run(app: App, work: CaseWork, case: Case, key: str) -> SpineprintError | None:
    """Do the work; returns why it failed. Raises SQLAlchemyError when the database cannot be used at all."""
    try:
        work(app, case, key)
    except SpineprintError as exc:
        return exc
    except OSError as exc:
        return blobs.storage_error(exc, app.config.data_dir)
    except SQLAlchemyError as exc:
        if not is_full(exc):
            raise  # nothing can be recorded now: the job stays unfinished and is taken up again
        return blobs.disk_full()
    except Exception:
        # The outermost frame of a job: a case must never stand in a state that nobody works on.
        log.exception("job %s failed unexpectedly", key)
        return _defect(key.partition(".")[0])
    return None


def _defect(kind: str) -> SpineprintError:
    return SpineprintError(
        f"The step '{kind}' failed unexpectedly.",
        next_step="This is a defect: send the support bundle. The case can be resumed.",
        code="job.defect",
    )


def raise_attention(app: App, case: Case, error: SpineprintError, resume_state: CaseState) -> None:
    """Park the case with what happened and what to do next. A case that moved on meanwhile is left alone."""
    with transaction(app.engine) as connection:
        fresh = cases.get(connection, case.id)
        if (fresh.state, fresh.state_version) != (case.state, case.state_version):
            log.info("case %s moved on while a failure was recorded", case.code)
            return
        park(connection, app, fresh, error, resume_state)
    tell_attention(app, case, error)


def park(
    connection: Connection, app: App, case: Case, error: SpineprintError, resume_state: CaseState
) -> None:
    """The same inside the caller's transaction, so that what failed and the parked case are never seen apart."""
    cases.move(
        connection,
        case,
        CaseEvent.RAISE_ATTENTION,
        actor=system("worker"),
        now=app.clock.now(),
        data={"code": error.code, "message": error.message, "next_step": error.next_step},
        changes={"attention": {**error.to_document(), "resume_state": resume_state.value}},
    )


def tell_attention(app: App, case: Case, error: SpineprintError) -> None:
    app.notifier.notify("attention", f"{error.message} {error.next_step}", case_code=case.code)


def progress_for(app: App, case_id: str) -> Progress:
    """Progress of a job onto the case, at most about three writes a second."""
    last = 0.0

    def report(stage: str, fraction: float) -> None:
        nonlocal last
        if time.monotonic() - last < 0.3 and fraction < 1.0:
            return
        last = time.monotonic()
        try:
            with transaction(app.engine) as connection:
                cases.set_progress(connection, case_id, stage, fraction, app.clock.now())
        except OperationalError as exc:
            # Progress is a courtesy: the work goes on, and what is really wrong shows at its end.
            log.warning("progress of job could not be recorded: %s", type(exc.orig).__name__)

    return report
