"""The outbox: what was decided is done, whatever is killed in between, and never twice."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from service.domain.case import CaseState
from service.ports import JobRequest, JobState
from service.store import deliveries, outbox
from service.store.database import reading, transaction
from service.store.tables import outbox as rows
from tests.support_app import HandQueue, Rig, bring, make_rig


def _put(rig: Rig, *keys: str) -> None:
    with transaction(rig.app.engine) as connection:
        outbox.put(connection, [JobRequest(k, "build", "c", "cpu") for k in keys], rig.clock.now())


def _row(rig: Rig, key: str):
    with reading(rig.app.engine) as connection:
        return connection.execute(rows.select().where(rows.c.key == key)).one()


def test_a_job_put_is_relayed_once(rig: Rig):
    _put(rig, "a", "b")
    assert rig.relay() == 2
    assert rig.relay() == 0
    assert rig.queue.enqueued == ["a", "b"]


def test_put_and_crash_before_the_relay(rig: Rig):
    """The process ends after the commit; the next one relays."""
    _put(rig, "a")
    rig.app.engine.dispose()
    assert rig.relay() == 1


def test_a_crash_between_enqueue_and_mark_repeats_nothing(rig: Rig):
    class DyingQueue(HandQueue):
        def enqueue(self, request: JobRequest) -> None:
            super().enqueue(request)
            raise KeyboardInterrupt

    dying = DyingQueue()
    _put(rig, "a")
    with pytest.raises(KeyboardInterrupt):
        outbox.relay(rig.app.engine, dying, rig.clock.now())
    assert _row(rig, "a").sent_at is None
    rig.queue.jobs, rig.queue.states = dying.jobs, dying.states
    assert rig.relay() == 1
    assert list(rig.queue.jobs) == ["a"]


def test_the_same_key_twice_is_one_job(rig: Rig):
    _put(rig, "a", "a")
    _put(rig, "a")
    assert rig.relay() == 1


def test_a_rolled_back_decision_leaves_no_job(rig: Rig):
    with pytest.raises(RuntimeError), transaction(rig.app.engine) as connection:
        outbox.put(connection, [JobRequest("a", "build", "c", "cpu")], rig.clock.now())
        raise RuntimeError
    assert rig.relay() == 0


def test_everything_about_a_job_reaches_the_queue(rig: Rig):
    request = JobRequest("send.x", "send_print", "tok", "printers", 3, "um3")
    with transaction(rig.app.engine) as connection:
        outbox.put(connection, [request], rig.clock.now())
    rig.relay()
    assert rig.queue.jobs["send.x"] == request


def test_more_than_one_batch_is_relayed_in_the_order_decided(rig: Rig):
    for n in range(130):
        rig.clock.advance(seconds=1)
        _put(rig, f"k{n:03d}")
    while rig.relay():
        pass
    assert rig.queue.enqueued == [f"k{n:03d}" for n in range(130)]


@pytest.mark.parametrize(
    ("state", "again"),
    [
        (JobState.UNKNOWN, True),  # the queue's database was thrown away
        (JobState.FAILED, True),  # the handler failed unexpectedly
        (JobState.QUEUED, False),
        (JobState.RUNNING, False),
        (JobState.DONE, False),
        (JobState.CANCELLED, False),
    ],
)
def test_recover_takes_up_what_nobody_works_on(rig: Rig, state: JobState, again: bool):
    _put(rig, "a")
    rig.relay()
    rig.queue.states["a"] = state
    assert outbox.recover(rig.app.engine, rig.queue) == (["a"] if again else [])
    assert rig.relay() == (1 if again else 0)


def test_what_is_finished_or_not_yet_sent_is_left_alone(rig: Rig):
    _put(rig, "done", "waiting")
    rig.relay()
    with transaction(rig.app.engine) as connection:
        outbox.finish(connection, "done", rig.clock.now())
        connection.execute(rows.update().where(rows.c.key == "waiting").values(sent_at=None))
    assert outbox.recover(rig.app.engine, HandQueue()) == []


@pytest.mark.parametrize("target", [CaseState.RECEIVED, CaseState.BUILDING, CaseState.APPROVED])
def test_a_lost_queue_database_loses_no_step_of_a_case(rig: Rig, target: CaseState):
    case = bring(rig, target)
    rig.relay()
    rig.queue = HandQueue()  # the disposable database is gone
    outbox.recover(rig.app.engine, rig.queue)
    rig.run_jobs("build", "slice")
    expected = {
        CaseState.RECEIVED: CaseState.RECEIVED, CaseState.BUILDING: CaseState.PLAN_READY,
        CaseState.APPROVED: CaseState.SLICED,
    }  # fmt: skip
    assert rig.case(case.id).state is expected[target]
    assert outbox.recover(rig.app.engine, HandQueue()) in ([], [k for k in rig.queue.jobs if "publish" in k])


def test_a_failed_publication_is_made_later_and_its_objects_are_the_same(tmp_path: Path):
    peers = [{"ae_title": "PACS", "host": "127.0.0.1", "port": 1, "roles": ["pacs"]}]
    rig = make_rig(tmp_path, dicom={"peers": peers})
    case = bring(rig, CaseState.APPROVED)
    rig.tasks.fail["publish"] = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        rig.run_jobs("publish_plan")
    del rig.tasks.fail["publish"]
    rig.clock.advance(hours=1)
    assert len(outbox.recover(rig.app.engine, rig.queue)) == 1
    rig.run_jobs("publish_plan")
    with reading(rig.app.engine) as connection:
        sent = deliveries.of_case(connection, case.id)
    assert [d.destination for d in sent] == ["PACS"]
    # Made from the model's time, not from the time of the run: a repeated job makes the same bytes.
    assert json.loads(sent[0].path.read_text()) < (rig.clock.now() - timedelta(minutes=59)).isoformat()
    left = outbox.recover(rig.app.engine, HandQueue())
    assert [k for k in left if k.startswith("publish")] == []
