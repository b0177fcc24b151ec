"""The outbox of results on both databases: claims, order, back-off; and a database from before it had them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config as AlembicConfig
from pydantic import ValidationError
from sqlalchemy import text

from service.config import Config
from service.store import commitments, deliveries, pulls, studies
from service.store.database import MIGRATIONS, migrate, open_engine, reading, transaction
from service.store.deliveries import Delivery
from tests.support_app import Rig, receive
from tests.support_delivery import all_of, queue_objects

LEASE = timedelta(minutes=30)


def _claim(rig: Rig, by: str, destination: str = "PACS", most: int = 10) -> list[Delivery]:
    with transaction(rig.app.engine) as connection:
        return deliveries.claim(connection, destination, by=by, now=rig.clock.now(), lease=LEASE, most=most)


def test_a_claim_is_for_one_worker_and_ends_by_itself(any_rig: Rig) -> None:
    uids = queue_objects(any_rig, 3, "PACS", "OTHER")
    assert [d.sop_uid for d in _claim(any_rig, "w1", most=2)] == uids[:2]
    assert [d.sop_uid for d in _claim(any_rig, "w2")] == uids[2:]
    assert _claim(any_rig, "w2") == []
    assert len(_claim(any_rig, "w2", "OTHER")) == 3
    with transaction(any_rig.app.engine) as connection:
        assert deliveries.release_claims(connection, "w1") == 2
    assert [d.sop_uid for d in _claim(any_rig, "w3")] == uids[:2]
    any_rig.clock.advance(minutes=31)
    assert [d.sop_uid for d in _claim(any_rig, "w4")] == uids


def test_the_same_object_is_queued_once_for_each_destination(any_rig: Rig) -> None:
    queue_objects(any_rig, 1, "PACS", "PACS", "OTHER")
    assert [d.destination for d in all_of(any_rig)] == ["OTHER", "PACS"]


def test_what_failed_least_is_sent_first(any_rig: Rig) -> None:
    uids = queue_objects(any_rig, 3, "PACS")
    first, *rest = _claim(any_rig, "w")
    with transaction(any_rig.app.engine) as connection:
        deliveries.postponed(connection, first, any_rig.clock.now(), "no answer")
        for item in rest:
            deliveries.left_over(connection, item)
    assert [d.sop_uid for d in _claim(any_rig, "w")] == uids[1:]
    any_rig.clock.advance(hours=1)
    assert [d.sop_uid for d in _claim(any_rig, "w")] == [*uids[1:], uids[0]]


def test_the_pauses_double_up_to_a_quarter_of_an_hour() -> None:
    assert [deliveries.wait_s(n) for n in range(1, 13)] == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]


def test_counts_alarms_and_ages(any_rig: Rig) -> None:
    queue_objects(any_rig, 4, "PACS")
    queue_objects(any_rig, 1, "OTHER")
    since = any_rig.clock.now()
    one, two, three, _four = _claim(any_rig, "w", most=4)
    now = any_rig.clock.now()
    with transaction(any_rig.app.engine) as connection:
        deliveries.delivered(connection, one, now, "0000", commit=True)
        deliveries.refused(connection, two, now, "A900")
        deliveries.given_up(connection, three, now, "no answer")
        commitments.asking(connection, [one], "2.25.1", now=now, again_at=now)
        changed = commitments.report(connection, "2.25.1", frozenset(), {one.sop_uid: "0112"}, now)
    assert changed and [d.id for d in changed.refused] == [one.id]
    with reading(any_rig.app.engine) as connection:
        assert deliveries.counts(connection) == {"DELIVERED": 1, "REFUSED": 1, "DEAD": 1, "WAITING": 2}
        assert deliveries.commit_counts(connection) == {"REFUSED": 1}
        assert deliveries.alarms(connection) == {"refused": 1, "dead": 1, "not_committed": 1}
        assert deliveries.oldest_waiting(connection) == {"PACS": since, "OTHER": since}
        assert deliveries.waiting_destinations(connection) == {"PACS", "OTHER"}


def test_the_expected_number_reaches_a_study_that_is_here_and_one_that_comes_later(any_rig: Rig) -> None:
    study = "1.2.826.0.1.3680043.10.9999.1"
    with transaction(any_rig.app.engine) as connection:
        pulls.add(connection, pull_id="p", peer="PACS", accession_number="A1", study_uid=study, by="x",
                  now=any_rig.clock.now())  # fmt: skip
        pulls.change(connection, "p", any_rig.clock.now(), expected=180)
        assert pulls.expected_of(connection, "1.2") is None
    receive(any_rig)
    with transaction(any_rig.app.engine) as connection:
        assert studies.need(connection, study).expected_instances == 180
        pulls.tell_study(connection, study, 181)
        assert studies.need(connection, study).expected_instances == 181


def test_deliveries_of_an_older_database_go_on(tmp_path: Path) -> None:
    """Migration 0002 on rows that were written before it."""
    engine = open_engine(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    settings = AlembicConfig()
    settings.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0001")
    at = "2026-01-01T00:00:00.000000+00:00"
    with engine.begin() as connection:
        connection.execute(text("PRAGMA defer_foreign_keys=ON"))
        connection.execute(
            text(
                "INSERT INTO studies (study_uid, kind, state, revision, patient_id, patient_name, patient_birth_date, "
                "accession_number, study_date, calling_ae, instance_count, first_instance_at, last_instance_at, "
                "use_now, reason_code, reason, next_step) VALUES ('1.2', 'planning_ct', 'COMPLETE', 1, '', '', '', "
                "'', '', '', 1, :at, :at, 0, '', '', '')"
            ),
            {"at": at},
        )
        connection.execute(
            text(
                "INSERT INTO cases (id, code, state, version, state_version, study_uid, level, series_uid, inputs, "
                "planned_by, newer_images, created_at, updated_at) VALUES ('c', 'ABC', 'VERIFIED', 1, 1, '1.2', "
                "'L1', '', '{}', '', 0, :at, :at)"
            ),
            {"at": at},
        )
        connection.execute(
            text(
                "INSERT INTO deliveries (id, case_id, destination, sop_uid, kind, path, state, tries, next_try_at, "
                "last_status, created_at) VALUES ('d', 'c', 'PACS', '1.2.3', 'sr', 'x', 'WAITING', 3, :at, 'A700', :at)"
            ),
            {"at": at},
        )
    migrate(engine)
    with reading(engine) as connection:
        (kept,) = deliveries.listed(connection)
    assert (kept.state, kept.tries, kept.history, kept.commit_state) == ("WAITING", 3, (), "")
    with transaction(engine) as connection:
        (claimed,) = deliveries.claim(connection, "PACS", by="w", now=kept.created_at, lease=LEASE, most=1)
        deliveries.postponed(connection, claimed, kept.created_at, "A700 full")
    with reading(engine) as connection:
        (again,) = deliveries.listed(connection)
    assert (again.tries, len(again.history), again.first_failed_at) == (4, 1, kept.created_at)
    engine.dispose()


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"url": "ftp://vna/x"}, "must look like"),
        ({"url": "https://vna/x?y=1"}, "must look like"),
        ({"url": "https://user:secret@vna/x"}, "must not hold a password"),
        ({"url": "https://vna/x", "user": "u"}, "belong together"),
        ({"url": "https://vna/x", "password_file": "/p"}, "belong together"),
        ({"url": "http://vna/x", "user": "u", "password_file": "/p"}, "only sent over https"),
        ({"url": "https://vna/x", "name": "PACS"}, "is a peer's AE title"),
        ({"url": "https://vna/x", "roles": ["oarm"]}, "pacs"),
    ],
)
def test_faults_of_a_web_destination_are_named(entry: dict[str, object], word: str) -> None:
    peers = [{"ae_title": "PACS", "host": "h", "port": 1}]
    with pytest.raises(ValidationError, match=word):
        Config.model_validate({"dicom": {"peers": peers, "web_destinations": [{"name": "VNA", **entry}]}})


def test_web_destinations_of_other_machines_are_no_simulation() -> None:
    web = [{"name": "VNA", "url": "https://vna.hospital/x"}]
    with pytest.raises(ValidationError, match=r"vna\.hospital"):
        Config.model_validate({"simulation": {"enabled": True}, "dicom": {"web_destinations": web}})
