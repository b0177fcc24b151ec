"""DBOS Transact behind `service.ports.JobQueue`.

Each job is one DBOS workflow with one step that calls the handler. Finished steps are never repeated; a step
cut off by kill -9 runs again when a process with the same executor id starts (measured in the engine
comparison; see docs/adr/0001). Two live processes under one executor id would run a step twice, hence the lock.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from dbos import DBOS, DBOSConfig, SetEnqueueOptions, SetWorkflowID
from dbos import error as dbos_error
from sqlalchemy import Engine

from service.errors import ConflictError
from service.ports import JobHandler, JobRequest, JobState

log = logging.getLogger("spineprint.queue")

#: Pinned: DBOS strands unfinished work when this changes, so it moves only with an incompatible job format.
APPLICATION_VERSION = "jobs-1"

_STATES = {
    "ENQUEUED": JobState.QUEUED,
    "DELAYED": JobState.QUEUED,
    "PENDING": JobState.RUNNING,
    "SUCCESS": JobState.DONE,
    "ERROR": JobState.FAILED,
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
}

#: queue -> (jobs at once in this process, poll interval s). `printers` is limited per printer instead.
_QUEUES: Mapping[str, tuple[int | None, float]] = {
    "cpu": (1, 0.5),
    "urgent": (1, 0.2),
    "printers": (None, 0.2),
    "io": (2, 0.2),
    "pulls": (2, 0.5),  # by itself: a PACS that sends nothing for minutes must not keep an inspection waiting
}

_handlers: dict[str, JobHandler] = {}


@DBOS.step(name="spineprint.job.step")  # type: ignore[untyped-decorator]
def _run_step(key: str, kind: str, argument: str) -> None:
    _handlers[kind](key, argument)


@DBOS.workflow(name="spineprint.job")  # type: ignore[untyped-decorator]
def _run_job(key: str, kind: str, argument: str) -> None:
    _run_step(key, kind, argument)


class DbosJobQueue:
    """The durable queue of one worker process.

    Parameters
    ----------
    engine : the queue's own database (SQLite with our pragmas, or PostgreSQL).
    executor_id : stable name of this worker, unique among live processes.
    lock_file : held exclusively while the worker runs.
    """

    def __init__(self, engine: Engine, executor_id: str, lock_file: Path) -> None:
        self._engine = engine
        self._executor_id = executor_id
        self._lock_file = lock_file
        self._lock: IO[str] | None = None

    def run_worker(self, handlers: Mapping[str, JobHandler], queues: Sequence[str]) -> None:
        """Start working in background threads.

        Raises
        ------
        ConflictError : another live process already works under this executor id.
        """
        self._take_lock()
        _handlers.clear()
        _handlers.update(handlers)
        config: DBOSConfig = {
            "name": "spineprint",
            "system_database_url": self._engine.url.render_as_string(hide_password=False),
            "system_database_engine": self._engine,
            "application_version": APPLICATION_VERSION,
            "executor_id": self._executor_id,
            "log_level": "WARNING",
        }
        DBOS(config=config)
        DBOS.launch()
        for name in queues:
            concurrency, poll_s = _QUEUES[name]
            if name == "printers":
                DBOS.register_queue(name, partition_concurrency=1, polling_interval_sec=poll_s)
            else:
                DBOS.register_queue(name, worker_concurrency=concurrency, polling_interval_sec=poll_s)

    def enqueue(self, request: JobRequest) -> None:
        if self.status(request.key) is JobState.FAILED:
            # DBOS would keep the failed run for ever under this key; whoever asks again wants it run again.
            DBOS.delete_workflow(request.key)
        # DBOS takes either a partition or a priority; printing is ordered by our own tables.
        options = (
            SetEnqueueOptions(queue_partition_key=request.partition)
            if request.partition
            else SetEnqueueOptions(priority=request.priority)
        )
        with SetWorkflowID(request.key), options:
            DBOS.enqueue_workflow(request.queue, _run_job, request.key, request.kind, request.argument)

    def cancel(self, key: str) -> None:
        """Keeps a queued job from starting; a running step is not interrupted (DBOS cannot)."""
        DBOS.cancel_workflow(key)

    def status(self, key: str) -> JobState:
        try:
            status = DBOS.get_workflow_status(key)
        except dbos_error.DBOSNonExistentWorkflowError:
            return JobState.UNKNOWN
        return _STATES.get(status.status, JobState.UNKNOWN) if status else JobState.UNKNOWN

    def stop(self, timeout_s: float) -> None:
        DBOS.destroy(workflow_completion_timeout_sec=int(timeout_s))
        if self._lock:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        handle = self._lock_file.open("a+", encoding="ascii")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            handle.close()
            raise ConflictError(
                f"Another spineprint worker already runs as '{self._executor_id}'.",
                next_step="Stop it, or give this one its own worker.executor_id.",
                code="worker.duplicate",
            ) from exc
        handle.seek(0)
        handle.truncate()
        handle.write(str(os.getpid()))
        handle.flush()
        self._lock = handle
