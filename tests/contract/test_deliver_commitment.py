"""Storage commitment of results: asked, answered, refused, silent; and at a real Orthanc through our own node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest
import requests

from adapters.dicom_node import DicomNode, NodeConfig
from adapters.dicom_node.commitment_scu import CommitmentScu
from service.ports import CommitmentAnswer, CommitmentReport, Destination, Peer
from service.store import deliveries
from service.store.database import reading
from service.store.deliveries import Delivery
from service.workflow import deliver, intake
from simulators.pacs.sink import PacsSink
from tests.support_app import TECHNICIAN, Rig
from tests.support_delivery import all_of, queue_objects, rig_for, states
from tests.support_dicom import CT_IMAGE, wait_until
from tests.support_pacs import orthanc


@dataclass
class Archive:
    """The requesting side of storage commitment, with answers to order; what is asked is kept."""

    accepted: bool = True
    asked: list[tuple[tuple[tuple[str, str], ...], str]] = field(default_factory=list)

    def ask(
        self, instances: Sequence[tuple[str, str]], destination: Destination, transaction_uid: str
    ) -> CommitmentAnswer:
        self.asked.append((tuple(instances), transaction_uid))
        return CommitmentAnswer(transaction_uid, self.accepted, "" if self.accepted else "no connection")

    @property
    def last(self) -> str:
        return self.asked[-1][1]


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture
def sent(tmp_path: Path, archive: Archive) -> Rig:
    """Two results that the PACS has taken, and that it is to answer for."""
    with PacsSink(tmp_path / "pacs") as sink:
        rig = rig_for(tmp_path, Destination("PACS", "127.0.0.1", sink.port), commitment=True)
        rig.app = replace(rig.app, committer=archive)
        queue_objects(rig, 2, "PACS")
        assert deliver.take_turn(rig.app, "PACS") == 2
    return rig


def commits(rig: Rig) -> list[str]:
    return [d.commit_state for d in all_of(rig)]


def report(rig: Rig, transaction: str, committed: Sequence[str] = (), **failed: int) -> None:
    deliver.note_commitment(
        rig.app,
        CommitmentReport(transaction, tuple(committed), {k.replace("_", "."): v for k, v in failed.items()}),
    )


def uids(rig: Rig) -> list[str]:
    return [d.sop_uid for d in all_of(rig)]


def test_what_was_delivered_is_asked_for_once(sent: Rig, archive: Archive) -> None:
    assert states(sent) == ["DELIVERED"] * 2
    assert commits(sent) == ["ASKED"] * 2
    assert not any(d.proven for d in all_of(sent))
    ((instances, transaction),) = archive.asked
    assert sorted(instances) == [(CT_IMAGE, uid) for uid in uids(sent)]
    assert transaction.startswith("2.25.") and len(transaction) <= 64
    sent.clock.advance(minutes=59)
    assert deliver.request_commitments(sent.app, "PACS") == 0


def test_only_a_report_is_the_final_proof_and_twice_changes_nothing(sent: Rig, archive: Archive) -> None:
    one, two = uids(sent)
    for _ in range(2):
        report(sent, archive.last, [one])
        assert commits(sent) == ["COMMITTED", "ASKED"]
        assert [d.proven for d in all_of(sent)] == [True, False]
    report(sent, archive.last, [one, two])
    report(sent, archive.last, [one, two])
    assert commits(sent) == ["COMMITTED"] * 2
    assert sent.notes.told == []
    sent.clock.advance(hours=100)
    assert deliver.request_commitments(sent.app, "PACS") == 0
    # What it has committed to, it cannot take back by a stray message.
    deliver.note_commitment(sent.app, CommitmentReport(archive.last, (), {one: 0x0112}))
    assert commits(sent) == ["COMMITTED"] * 2


def test_a_refusal_is_shown_told_once_and_sent_again_by_a_person(
    sent: Rig, archive: Archive, tmp_path: Path
) -> None:
    one, two = uids(sent)
    outcome = CommitmentReport(archive.last, (one,), {two: 0x0112})
    for _ in range(2):
        deliver.note_commitment(sent.app, outcome)
    bad = all_of(sent)[1]
    assert (bad.state, bad.commit_state) == ("DELIVERED", "REFUSED")
    assert bad.commit_detail == "0112 the PACS does not have this object"
    assert sent.notes.topics() == ["pacs"]
    with reading(sent.app.engine) as connection:
        assert deliveries.alarms(connection)["not_committed"] == 1
    sent.clock.advance(hours=100)
    assert deliver.request_commitments(sent.app, "PACS") == 0
    deliver.retry_delivery(sent.app, bad.id, TECHNICIAN)
    deliver.note_commitment(sent.app, outcome)  # late, and about what was
    assert (all_of(sent)[1].state, commits(sent)[1]) == ("WAITING", "")
    with PacsSink(tmp_path / "again", port=sent.app.config.dicom.peers[0].port) as sink:
        deliver.take_turn(sent.app, "PACS")
        assert [e["sop_instance_uid"] for e in sink.received] == [two]
    deliver.note_commitment(sent.app, outcome)
    assert commits(sent) == ["COMMITTED", "ASKED"]
    report(sent, archive.last, [two])
    assert commits(sent) == ["COMMITTED"] * 2


def test_silence_for_too_long_is_asked_again_with_a_new_transaction(sent: Rig, archive: Archive) -> None:
    for times in range(2, 6):
        sent.clock.advance(hours=1)
        assert deliver.request_commitments(sent.app, "PACS") == 2
        assert len({transaction for _, transaction in archive.asked}) == times
    assert sent.notes.topics() == ["pacs"]  # the fifth time a person hears of it
    # The report of the second request comes at last, after three more.
    report(sent, archive.asked[1][1], uids(sent))
    assert commits(sent) == ["COMMITTED"] * 2


def test_a_late_refusal_of_an_earlier_request_does_not_count(sent: Rig, archive: Archive) -> None:
    sent.clock.advance(hours=1)
    deliver.request_commitments(sent.app, "PACS")
    deliver.note_commitment(
        sent.app, CommitmentReport(archive.asked[0][1], (), dict.fromkeys(uids(sent), 0x0110))
    )
    assert commits(sent) == ["ASKED"] * 2


def test_a_request_that_does_not_get_through_is_repeated_with_growing_pauses(
    sent: Rig, archive: Archive
) -> None:
    archive.accepted = False
    sent.clock.advance(hours=1)
    pauses = []
    for _ in range(8):
        assert deliver.request_commitments(sent.app, "PACS") == 2
        assert commits(sent) == ["WANTED"] * 2
        assert all_of(sent)[0].commit_detail == "no connection"
        pause = 1
        sent.clock.advance(minutes=1)
        while not deliver_is_due(sent):
            sent.clock.advance(minutes=1)
            pause += 1
        pauses.append(pause)
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def deliver_is_due(rig: Rig) -> bool:
    from service.store import commitments

    with reading(rig.app.engine) as connection:
        return bool(commitments.due(connection, "PACS", rig.clock.now(), most=10))


def test_a_report_that_is_faster_than_the_answer_counts(sent: Rig, archive: Archive) -> None:
    @dataclass
    class Fast(Archive):
        def ask(self, instances: Sequence[tuple[str, str]], *rest: object) -> CommitmentAnswer:
            transaction = str(rest[-1])
            report(sent, transaction, [uid for _, uid in instances])
            return CommitmentAnswer(transaction, False, "the association was lost")

    sent.app = replace(sent.app, committer=Fast())
    sent.clock.advance(hours=1)
    deliver.request_commitments(sent.app, "PACS")
    assert commits(sent) == ["COMMITTED"] * 2


def test_a_transaction_that_is_not_ours_changes_nothing(sent: Rig) -> None:
    report(sent, "2.25.1", uids(sent))
    assert commits(sent) == ["ASKED"] * 2


def test_a_file_that_is_gone_cannot_be_asked_for(sent: Rig) -> None:
    all_of(sent)[0].path.unlink()
    sent.clock.advance(hours=1)
    assert deliver.request_commitments(sent.app, "PACS") == 1
    assert commits(sent) == ["REFUSED", "ASKED"]


def test_without_commitment_nobody_is_asked(tmp_path: Path, archive: Archive) -> None:
    with PacsSink(tmp_path / "pacs") as sink:
        rig = rig_for(tmp_path, Destination("PACS", "127.0.0.1", sink.port))
        rig.app = replace(rig.app, committer=archive)
        queue_objects(rig, 1, "PACS")
        deliver.take_turn(rig.app, "PACS")
    assert (commits(rig), archive.asked) == ([""], [])


def test_orthanc_answers_for_what_it_has_and_not_for_what_it_lost(tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc", DicomAet="PACS") as pacs:
        rig = rig_for(tmp_path, Destination("PACS", "127.0.0.1", pacs.dicom.port), commitment=True)
        settings = NodeConfig(
            "127.0.0.1", 0, rig.app.config.data_dir / "dicom", disk_reserve_bytes=1 << 20,
            peers=(Peer("PACS", "127.0.0.1", 0),),
        )  # fmt: skip
        note = partial(deliver.note_commitment, rig.app)
        node = DicomNode(settings, partial(intake.accept_instance, rig.app), commitment_sink=note)
        node.start()
        try:
            pacs.put("/modalities/spine", {"AET": "SPINEPRINT", "Host": "127.0.0.1", "Port": node.port})
            rig.app = replace(rig.app, committer=CommitmentScu(on_report=note))
            queue_objects(rig, 3, "PACS")
            assert deliver.deliver_to(rig.app, "PACS") == 3
            # One of them is lost in the archive before it is asked.
            lost: Delivery = all_of(rig)[1]
            key = next(
                k for k in pacs.get("/instances")
                if pacs.get(f"/instances/{k}/simplified-tags")["SOPInstanceUID"] == lost.sop_uid
            )  # fmt: skip
            assert requests.delete(f"{pacs.url}/instances/{key}", timeout=10).ok
            assert deliver.request_commitments(rig.app, "PACS") == 3
            wait_until(lambda: "ASKED" not in commits(rig), 30, "no report came")
        finally:
            node.stop()
        assert commits(rig) == ["COMMITTED", "REFUSED", "COMMITTED"]
        assert all_of(rig)[1].commit_detail.startswith("0112")
        assert rig.notes.topics() == ["pacs"]
