"""The durable job queue."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class JobRequest:
    """One short job. The same `key` enqueued twice is one job.

    `queue` is one of `cpu`, `urgent`, `printers`, `io`, `pulls`; `partition` names the printer for `printers`.
    """

    key: str
    kind: str
    argument: str
    queue: str
    priority: int = 10
    partition: str | None = None


class JobState(enum.StrEnum):
    UNKNOWN = "unknown"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobHandler(Protocol):
    """Runs one job. Called at least once per key: must be idempotent. Outcomes go to our own tables."""

    def __call__(self, key: str, argument: str) -> None: ...


class JobQueue(Protocol):
    """The durable engine. Jobs survive kill -9; a job cut off half-way runs again."""

    def enqueue(self, request: JobRequest) -> None: ...

    def cancel(self, key: str) -> None: ...

    def status(self, key: str) -> JobState: ...

    def run_worker(self, handlers: Mapping[str, JobHandler], queues: Sequence[str]) -> None:
        """Start working in background threads; returns at once."""
        ...

    def stop(self, timeout_s: float) -> None: ...
