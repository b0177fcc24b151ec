"""Jobs decided in a transaction, handed to the queue after it.

A row is written with the state change that asks for it; the relay enqueues it and marks it. Enqueuing the same
key twice is harmless, so a crash between the two repeats nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine, insert, select, update

from service.ports import JobQueue, JobRequest, JobState
from service.store import times
from service.store.database import reading
from service.store.tables import outbox


def put(connection: Connection, jobs: Sequence[JobRequest], now: datetime) -> None:
    for job in jobs:
        known = connection.execute(select(outbox.c.key).where(outbox.c.key == job.key)).one_or_none()
        if known is None:
            connection.execute(
                insert(outbox).values(
                    key=job.key,
                    kind=job.kind,
                    argument=job.argument,
                    queue=job.queue,
                    priority=job.priority,
                    partition=job.partition,
                    created_at=times.to_text(now),
                )
            )


def finish(connection: Connection, key: str, now: datetime) -> None:
    connection.execute(update(outbox).where(outbox.c.key == key).values(finished_at=times.to_text(now)))


def relay(engine: Engine, queue: JobQueue, now: datetime) -> int:
    """Enqueue what is waiting; returns how many."""
    with reading(engine) as connection:
        rows = connection.execute(
            select(outbox).where(outbox.c.sent_at.is_(None)).order_by(outbox.c.created_at).limit(100)
        ).all()
    for row in rows:
        queue.enqueue(JobRequest(row.key, row.kind, row.argument, row.queue, row.priority, row.partition))
        with engine.begin() as connection:
            connection.execute(
                update(outbox).where(outbox.c.key == row.key).values(sent_at=times.to_text(now))
            )
    return len(rows)


def recover(engine: Engine, queue: JobQueue) -> list[str]:
    """Make unfinished jobs that nobody works on any more wait for the relay again; returns their keys.

    That are jobs the queue does not know (its database is disposable) and jobs whose handler failed unexpectedly:
    what a job has to settle (a print being sent, results for the PACS) is never given up because of one bad moment.
    """
    with reading(engine) as connection:
        rows = connection.execute(
            select(outbox.c.key).where(outbox.c.sent_at.is_not(None), outbox.c.finished_at.is_(None))
        ).all()
    lost = [r.key for r in rows if queue.status(r.key) in (JobState.UNKNOWN, JobState.FAILED)]
    if lost:
        with engine.begin() as connection:
            connection.execute(update(outbox).where(outbox.c.key.in_(lost)).values(sent_at=None))
    return lost
