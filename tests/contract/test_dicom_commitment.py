"""Storage commitment both ways: against pynetdicom as the other side, and against a real Orthanc."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.dsutils import encode

from adapters.dicom_node import (
    DicomNode,
    DicomSender,
    NodeConfig,
    commitment,
    commitment_content,
    commitment_reports,
)
from adapters.dicom_node.commitment import CommitmentDesk
from adapters.dicom_node.commitment_content import (
    PUSH_MODEL,
    PUSH_MODEL_INSTANCE,
    Refusal,
    read_report,
    read_request,
    report_content,
    request_content,
)
from adapters.dicom_node.commitment_scu import CommitmentScu, Reporter
from adapters.dicom_node.dimse import CommandError
from adapters.dicom_node.durable_store import DurableStore
from adapters.dicom_node.holdings import Holding, StoreHoldings
from adapters.dicom_node.normalised import data_set
from adapters.dicom_node.part10 import InstanceFacts
from service.ports import CommitmentReport, Destination, NodeEvent, Peer, ReceivedInstance
from tests.support_dicom import (
    CT_IMAGE,
    ROOT,
    ct_slice,
    free_port,
    run,
    wait_until,
    wire_bytes,
    write_series,
)
from tests.support_orthanc import orthanc

MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
TRANSACTION = f"{ROOT}.77.1"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


# --- the other side -------------------------------------------------------------------------------------------


@dataclass
class Heard:
    """One N-EVENT-REPORT as the requestor got it."""

    event_type: int
    transaction: str
    committed: set[str]
    failed: dict[str, int]
    calling_ae: str
    as_provider: bool
    """The caller proposed itself as provider by role selection."""


@dataclass
class Requestor:
    """A modality that takes reports on a port of its own; `answers` are its statuses, then success."""

    port: int
    heard: queue.Queue[Heard] = field(default_factory=queue.Queue)
    answers: list[int] = field(default_factory=list)

    def peer(self, ae_title: str = "CTSCANNER", host: str = "127.0.0.1") -> Peer:
        return Peer(ae_title, host, self.port, ("planning_ct",))

    def next(self, timeout: float = 10) -> Heard:
        return self.heard.get(timeout=timeout)

    def silent_for(self, seconds: float) -> bool:
        try:
            self.heard.get(timeout=seconds)
        except queue.Empty:
            return True
        return False

    def on_report(self, event: Any) -> tuple[int, None]:
        data = event.event_information
        self.heard.put(
            Heard(
                event.request.EventTypeID,
                str(data.TransactionUID),
                {str(i.ReferencedSOPInstanceUID) for i in data.get("ReferencedSOPSequence", ())},
                {
                    str(i.ReferencedSOPInstanceUID): int(i.FailureReason)
                    for i in data.get("FailedSOPSequence", ())
                },
                event.assoc.requestor.ae_title,
                bool(event.assoc.requestor.role_selection[PUSH_MODEL].scp_role),
            )
        )
        return (self.answers.pop(0) if self.answers else 0x0000), None


@contextmanager
def listening(port: int = 0, answers: Sequence[int] = ()) -> Iterator[Requestor]:
    requestor = Requestor(port, answers=list(answers))
    entity = AE("CTSCANNER")
    entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, requestor.on_report)]
    )
    requestor.port = int(server.server_address[1])
    try:
        yield requestor
    finally:
        server.shutdown()
        server.server_close()


# --- the desk by itself ---------------------------------------------------------------------------------------


class Desk:
    """A commitment desk over a real store, without a network in front of it."""

    def __init__(self, tmp_path: Path, *peers: Peer) -> None:
        self.root = tmp_path / "store"
        self.folder = tmp_path / "commitment"
        self.store = DurableStore(self.root, reserve_bytes=0)
        self.store.open()
        self.settled = True
        self.clock = NOON
        self.events: list[NodeEvent] = []
        self.outcomes: list[CommitmentReport] = []
        self.holdings = StoreHoldings(self.root, settle=lambda timeout_s: self.settled)
        self.desk = self.made(peers)

    def made(self, peers: Sequence[Peer]) -> CommitmentDesk:
        return CommitmentDesk(
            self.holdings,
            self.folder,
            ae_title="SPINEPRINT",
            peers=peers,
            tls=None,
            now=lambda: self.clock,
            on_event=self.events.append,
            on_report=self.outcomes.append,
        )

    def keep(self, number: int, *, data: bytes = b"data set", sop_class: str = CT_IMAGE) -> tuple[str, str]:
        uid = f"{ROOT}.5.{number}"
        facts = InstanceFacts(
            sop_class, uid, "1.2.840.10008.1.2.1", "CT", "SPINEPRINT", "127.0.0.1", "a", NOON, "", 0
        )
        self.store.keep(facts, data)
        for kept in self.store.waiting():
            self.store.retire(kept)
        return sop_class, uid

    def file(self, reference: tuple[str, str]) -> Path:
        return next(
            path
            for path in (self.root / "instances").rglob("*.dcm")
            if reference[1].encode() in path.read_bytes()
        )

    def ask(self, references: Sequence[tuple[str, str]], **changes: Any) -> tuple[int, str]:
        asked: dict[str, Any] = {
            "calling_ae": "CTSCANNER",
            "address": "127.0.0.1",
            "sop_class_uid": PUSH_MODEL,
            "sop_instance_uid": PUSH_MODEL_INSTANCE,
            "action_type": 1,
            "dataset": request_content(TRANSACTION, references),
        }
        return self.desk.action(**{**asked, **changes})

    def waiting_files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if path.is_file()] if self.folder.exists() else []

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


@pytest.fixture
def requestor() -> Iterator[Requestor]:
    with listening() as started:
        yield started


@pytest.fixture
def desk(tmp_path: Path, requestor: Requestor) -> Iterator[Desk]:
    made = Desk(tmp_path, requestor.peer(), Peer("MUTE", "127.0.0.1", 0))
    made.desk.start()
    yield made
    made.desk.stop()


@pytest.fixture
def closed(tmp_path: Path) -> Desk:
    """A desk that answers and reports nothing."""
    return Desk(tmp_path, Peer("CTSCANNER", "127.0.0.1", 1), Peer("MUTE", "127.0.0.1", 0))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts of 0.2 s instead of 5."""
    monkeypatch.setattr(commitment_reports, "_FIRST_PAUSE_S", 0.2)


def test_what_is_safe_is_committed_to_on_a_new_association(desk: Desk, requestor: Requestor) -> None:
    references = [desk.keep(n) for n in range(3)]
    assert desk.ask(references) == (0x0000, "")
    heard = requestor.next()
    assert (heard.event_type, heard.transaction, heard.failed) == (1, TRANSACTION, {})
    assert heard.committed == {uid for _, uid in references}
    assert heard.calling_ae == "SPINEPRINT" and heard.as_provider
    wait_until(lambda: not desk.desk.counters()["commitment_waiting"])
    assert desk.waiting_files() == [] and desk.events == []
    assert desk.desk.counters() == {
        "commitment_requests": 1,
        "commitment_reported": 1,
        "commitment_waiting": 0,
    }


def test_only_what_is_whole_and_uncontested_is_committed_to(desk: Desk, requestor: Requestor) -> None:
    safe, conflict, flipped, cut, header, contested, zeroed = (desk.keep(n) for n in range(7))
    absent, odd = (CT_IMAGE, f"{ROOT}.5.99"), ("1.2.3.4.5", f"{ROOT}.5.98")
    for reference, change in {
        flipped: lambda data: data[:-1] + b"!",
        cut: lambda data: data[:-1],
        header: lambda data: b"\0" * 200 + data[200:],
        zeroed: lambda data: b"",
    }.items():
        path = desk.file(reference)
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(change(data))
    desk.keep(5, data=b"other data")
    assert len(list((desk.root / "quarantine").iterdir())) == 1
    asked = [safe, (MR_IMAGE, conflict[1]), flipped, cut, header, contested, zeroed, absent, odd]
    assert desk.ask(asked) == (0x0000, "")
    heard = requestor.next()
    assert heard.event_type == 2
    assert heard.committed == {safe[1]}
    assert heard.failed == {
        conflict[1]: 0x0119,
        flipped[1]: 0x0110,
        cut[1]: 0x0110,
        header[1]: 0x0110,
        contested[1]: 0x0110,
        zeroed[1]: 0x0110,
        absent[1]: 0x0112,
        odd[1]: 0x0122,
    }
    (event,) = desk.events
    assert event.kind == "commitment_unsafe" and event.calling_ae == "CTSCANNER"
    assert "8 of 9" in event.what and "4 damaged" in event.what and "1 ambiguous" in event.what
    assert "send these again" in event.next_step


def test_an_instance_sent_to_quarantine_after_a_report_is_no_longer_committed_to(
    desk: Desk, requestor: Requestor
) -> None:
    reference = desk.keep(1)
    desk.ask([reference])
    assert requestor.next().event_type == 1
    wait_until(lambda: not desk.waiting_files())
    desk.keep(1, data=b"other data")
    desk.ask([reference])
    assert requestor.next().failed == {reference[1]: 0x0110}


def test_nothing_is_said_before_the_store_is_settled(
    desk: Desk, requestor: Requestor, impatient: None
) -> None:
    desk.settled = False
    reference = (CT_IMAGE, f"{ROOT}.5.1")
    assert desk.ask([reference])[0] == 0x0000
    assert requestor.silent_for(1.0)
    desk.keep(1)
    desk.settled = True
    assert requestor.next().committed == {reference[1]}


def _item(**values: str) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def _request(**values: Any) -> Dataset:
    data = request_content(TRANSACTION, [(CT_IMAGE, f"{ROOT}.5.1")])
    for keyword, value in values.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    return data


def _mistyped() -> Dataset:
    data = _request()
    del data.ReferencedSOPSequence
    data.add_new("ReferencedSOPSequence", "OB", b"\xff\xfe")
    return data


REFUSED = {
    "unknown caller": ({"calling_ae": "STRANGER"}, 0x0124, "STRANGER"),
    "other address": ({"address": "10.1.2.3"}, 0x0124, "[[dicom.peers]]"),
    "peer without port": ({"calling_ae": "MUTE"}, 0x0124, "port"),
    "other class": ({"sop_class_uid": CT_IMAGE}, 0x0118, "settings"),
    "other instance": ({"sop_instance_uid": "1.2.3"}, 0x0112, "settings"),
    "other action": ({"action_type": 2}, 0x0123, "settings"),
    "no data set": ({"dataset": None}, 0x0115, "maker"),
    "no transaction": ({"dataset": _request(TransactionUID=None)}, 0x0115, "maker"),
    "empty transaction": ({"dataset": _request(TransactionUID="")}, 0x0115, "maker"),
    "no sequence": ({"dataset": _request(ReferencedSOPSequence=None)}, 0x0115, "maker"),
    "empty sequence": ({"dataset": _request(ReferencedSOPSequence=[])}, 0x0115, "maker"),
    "item without class": (
        {"dataset": _request(ReferencedSOPSequence=[_item(ReferencedSOPInstanceUID="1.2")])},
        0x0115,
        "maker",
    ),
    "sequence of another type": ({"dataset": _mistyped()}, 0x0212, "maker"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_requests_that_cannot_be_answered_are_refused_with_words(closed: Desk, name: str) -> None:
    changes, status, step = REFUSED[name]
    answer, comment = closed.ask([(CT_IMAGE, f"{ROOT}.5.1")], **changes)
    assert answer == status
    assert 0 < len(comment) <= 64
    (event,) = closed.events
    assert event.kind == "commitment_refused" and f"{status:04X}" in event.what and step in event.next_step
    assert closed.waiting_files() == []


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("uid", ["../../x", "1.2/../3", "1.2.3.\N{FULLWIDTH DIGIT ONE}", "1" * 65])
def test_hostile_transaction_uids_are_refused_and_never_become_paths(closed: Desk, uid: str) -> None:
    assert closed.ask([], dataset=_request(TransactionUID=uid))[0] == 0x0115
    assert closed.waiting_files() == []


@pytest.mark.filterwarnings("ignore")
def test_damaged_data_sets_are_refused_and_never_raise() -> None:
    random = Random(7)
    references = [(CT_IMAGE, f"{ROOT}.5.{n}") for n in range(4)]
    _, report_data = report_content(TRANSACTION, references, {references[0][1]: 0x0110})
    answers: Counter[str] = Counter()
    for whole, implicit in product((request_content(TRANSACTION, references), report_data), (True, False)):
        encoded = encode(whole, implicit, True)
        syntax = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
        assert encoded is not None
        for _ in range(150):
            damaged = bytearray(encoded)
            for _ in range(random.randint(1, 4)):
                damaged[random.randrange(len(damaged))] = random.choice((0, 1, 0x10, 0x7F, 0xFF))
            del damaged[random.randint(len(damaged) // 2, len(damaged)) :]
            try:
                data = data_set(BytesIO(bytes(damaged)), syntax)
            except CommandError:
                answers["undecodable"] += 1
                continue
            for read in (read_request(data), read_report(2, data)):
                answers["refused" if isinstance(read, Refusal) else "read"] += 1
                assert not isinstance(read, Refusal) or (read.status and len(read.comment) <= 64)
    assert min(answers.values()) > 5 and len(answers) == 3, answers


def test_names_on_disk_are_hashes(tmp_path: Path, requestor: Requestor) -> None:
    desk = Desk(tmp_path, requestor.peer("A/../../B"))
    desk.desk.start()
    desk.desk.stop()  # nobody reports now, so that the file stays
    assert desk.ask([desk.keep(1)], calling_ae="A/../../B")[0] == 0x0000
    (path,) = desk.waiting_files()
    assert path.suffix == ".json" and len(path.stem) == 64 and set(path.stem) <= set("0123456789abcdef")
    assert {p.name for p in tmp_path.iterdir()} == {"store", "commitment"}


def test_too_many_references_and_too_many_requests_are_refused(
    tmp_path: Path, requestor: Requestor, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path, requestor.peer(), requestor.peer("OTHER"))
    desk.desk.start()
    desk.desk.stop()
    assert commitment_content.MOST_REFERENCES == 20_000
    monkeypatch.setattr(commitment_content, "MOST_REFERENCES", 500)
    many = [(CT_IMAGE, f"{ROOT}.{n}") for n in range(501)]
    assert desk.ask(many)[0] == 0x0213
    assert desk.ask(many[:500])[0] == 0x0000
    monkeypatch.setattr(commitment, "_MOST_PENDING", 3)
    for n in (1, 2):
        assert desk.ask([], dataset=_request(TransactionUID=f"{ROOT}.78.{n}"))[0] == 0x0000
    assert desk.ask([], dataset=_request(TransactionUID=f"{ROOT}.78.3"))[0] == 0x0213
    assert desk.ask([], dataset=_request(), calling_ae="OTHER")[0] == 0x0000, (
        "callers do not share their limits"
    )
    monkeypatch.setattr(commitment, "_MOST_PENDING", 1000)
    monkeypatch.setattr(commitment, "_MOST_PENDING_REFERENCES", 502)
    assert desk.ask([], dataset=_request(TransactionUID=f"{ROOT}.78.3"))[0] == 0x0213


def test_the_same_request_twice_is_one_transaction(tmp_path: Path) -> None:
    port = free_port()
    desk = Desk(tmp_path, Peer("CTSCANNER", "127.0.0.1", port))
    first, second = desk.keep(1), desk.keep(2)
    desk.desk.start()
    desk.desk.stop()
    assert desk.ask([first, second]) == desk.ask([second, first, first]) == (0x0000, "")
    assert len(desk.waiting_files()) == 1
    status, comment = desk.ask([first])
    assert status == 0x0115 and "in use" in comment
    desk.desk = desk.made([Peer("CTSCANNER", "127.0.0.1", port)])
    with listening(port) as requestor:
        desk.desk.start()
        assert requestor.next().committed == {first[1], second[1]}
        assert requestor.silent_for(1.0)
        # reported: the UID is free, and asking again is answered again
        wait_until(lambda: not desk.waiting_files())
        assert desk.ask([first])[0] == 0x0000
        assert requestor.next().committed == {first[1]}
    desk.desk.stop()


def test_a_request_that_cannot_be_kept_is_not_accepted(desk: Desk, requestor: Requestor) -> None:
    reference = desk.keep(1)
    desk.folder.rmdir()
    assert desk.ask([reference])[0] == 0x0213
    desk.folder.mkdir()
    assert desk.ask([reference])[0] == 0x0000
    assert requestor.next().committed == {reference[1]}


def test_an_unreachable_requestor_is_told_later_and_holds_up_nobody(
    tmp_path: Path, requestor: Requestor, impatient: None
) -> None:
    away = free_port()
    desk = Desk(tmp_path, requestor.peer(), Peer("AWAY", "127.0.0.1", away))
    reference = desk.keep(1)
    desk.desk.start()
    try:
        desk.ask([reference], calling_ae="AWAY")
        desk.ask([], calling_ae="AWAY", dataset=_request(TransactionUID=f"{ROOT}.78.1"))
        wait_until(lambda: "commitment_unreachable" in desk.kinds())
        desk.ask([reference])
        assert requestor.next(timeout=3).committed == {reference[1]}
        with listening(away) as other:
            assert {other.next().transaction, other.next().transaction} == {TRANSACTION, f"{ROOT}.78.1"}
            wait_until(lambda: not desk.waiting_files())
    finally:
        desk.desk.stop()
    assert desk.kinds().count("commitment_unreachable") == 1, "said once, not at each attempt"
    (event,) = (e for e in desk.events if e.kind == "commitment_unreachable")
    assert event.calling_ae == "AWAY" and "port" in event.next_step


def test_a_report_that_is_refused_is_repeated(tmp_path: Path, impatient: None) -> None:
    with listening(answers=[0x0110, 0x0213]) as requestor:
        desk = Desk(tmp_path, requestor.peer())
        reference = desk.keep(1)
        desk.desk.start()
        desk.ask([reference])
        assert [requestor.next().committed for _ in range(3)] == [{reference[1]}] * 3
        wait_until(lambda: not desk.waiting_files())
        desk.desk.stop()
    (event,) = desk.events
    assert event.kind == "commitment_not_taken" and "0110" in event.what


@pytest.mark.parametrize("delay_s", [0.0, 0.02, 0.1])
def test_a_peer_that_aborts_while_we_speak_costs_no_time(delay_s: float) -> None:
    """Without a remedy the library waits out its time limit of a minute for an answer that cannot come."""

    def on_established(event: Any) -> None:
        threading.Timer(delay_s, event.assoc.abort).start()

    def slow(event: Any) -> tuple[int, None]:
        time.sleep(1.0)
        return 0x0000, None

    entity = AE("PACS")
    entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    server = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        evt_handlers=[
            (evt.EVT_ESTABLISHED, on_established),
            (evt.EVT_N_EVENT_REPORT, slow),
            (evt.EVT_N_ACTION, slow),
        ],
    )
    destination = Destination("PACS", "127.0.0.1", int(server.server_address[1]))
    references = [(CT_IMAGE, f"{ROOT}.{n}") for n in range(1000)]
    begun = time.monotonic()
    try:
        for _ in range(2):
            told = Reporter("SPINEPRINT", None).tell(destination, *report_content("1.2.3", references, {}))
            assert told.status is None and told.detail
            assert not CommitmentScu().ask(references, destination, "1.2.3").accepted
    finally:
        server.shutdown()
        server.server_close()
    assert time.monotonic() - begun < 20


def test_a_report_that_waited_long_vouches_for_the_files_as_they_are_now(
    tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commitment_reports, "_VERDICT_S", 0.1)
    port = free_port()
    desk = Desk(tmp_path, Peer("CTSCANNER", "127.0.0.1", port))
    reference = desk.keep(1)
    desk.desk.start()
    desk.ask([reference])
    wait_until(lambda: "commitment_unreachable" in desk.kinds())
    desk.file(reference).unlink()
    with listening(port) as requestor:
        assert requestor.next().failed == {reference[1]: 0x0112}
        desk.desk.stop()


def test_pauses_grow_to_ten_minutes() -> None:
    assert [commitment_reports.pause_s(n) for n in range(9)] == [5, 10, 20, 40, 80, 160, 320, 600, 600]
    assert commitment_reports.pause_s(10_000) == 600


def test_a_report_nobody_takes_is_given_up_after_a_day_with_an_alarm(tmp_path: Path, impatient: None) -> None:
    desk = Desk(tmp_path, Peer("CTSCANNER", "127.0.0.1", free_port()))
    desk.desk.start()
    desk.ask([desk.keep(1)])
    wait_until(lambda: "commitment_unreachable" in desk.kinds())
    desk.clock = NOON + timedelta(hours=23, minutes=59)
    time.sleep(0.5)
    assert len(desk.waiting_files()) == 1
    desk.clock = NOON + timedelta(hours=24, minutes=1)
    wait_until(lambda: not desk.waiting_files())
    desk.desk.stop()
    event = desk.events[-1]
    assert event.kind == "commitment_given_up" and "1 instance" in event.what and event.next_step
    assert desk.desk.counters()["commitment_given_up"] == 1


def test_damaged_transactions_are_set_aside_and_the_others_reported(
    tmp_path: Path, requestor: Requestor
) -> None:
    desk = Desk(tmp_path, requestor.peer())
    reference = desk.keep(1)
    desk.desk.start()
    desk.desk.stop()
    desk.ask([reference])
    for number, text in enumerate(("", "{", "[]", '{"references": 3}', '{"references": [["1"]]}')):
        (desk.folder / f"{number}.json").write_text(text)
    (desk.folder / "cut-off.part").write_text('{"calling')
    desk.desk = desk.made([requestor.peer()])
    desk.desk.start()
    assert requestor.next().committed == {reference[1]}
    wait_until(lambda: not list(desk.folder.glob("*.json")))
    desk.desk.stop()
    assert len(list(desk.folder.glob("*.damaged"))) == 5 and not list(desk.folder.glob("*.part"))


_ACCEPT_AND_WAIT = """
import sys, time
from pathlib import Path
from tests.contract.test_dicom_commitment import Desk
from service.ports import Peer
desk = Desk(Path(sys.argv[1]), Peer("CTSCANNER", "127.0.0.1", int(sys.argv[2])))
references = [desk.keep(n) for n in range(3)]
desk.desk.start()
print(*desk.ask(references), flush=True)
time.sleep(60)
"""


def test_an_accepted_request_survives_kill_9(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", _ACCEPT_AND_WAIT, tmp_path, str(port)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None and process.stdout.readline().startswith("0")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with listening(port) as requestor:
        desk = Desk(tmp_path, requestor.peer())
        desk.desk.start()
        heard = requestor.next()
        desk.desk.stop()
    assert heard.transaction == TRANSACTION and heard.committed == {f"{ROOT}.5.{n}" for n in range(3)}


def test_stop_does_not_wait_for_a_requestor_that_says_nothing(tmp_path: Path) -> None:
    def hang(event: Any) -> tuple[int, None]:
        called.set()
        release.wait(20)
        return 0x0000, None

    called, release = threading.Event(), threading.Event()
    entity = AE("CTSCANNER")
    entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, hang)])
    desk = Desk(tmp_path, Peer("CTSCANNER", "127.0.0.1", server.server_address[1]))
    try:
        desk.desk.start()
        desk.ask([desk.keep(1)])
        assert called.wait(5)
        begun = time.monotonic()
        desk.desk.stop()
        assert time.monotonic() - begun < 4
        assert len(desk.waiting_files()) == 1, "it is told at the next start"
    finally:
        release.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("rule", "host"),
    [
        ("", "10.9.9.9"),
        ("*", "10.9.9.9"),
        ("10.9.0.0/16", "10.9.9.9"),
        ("10.9.9.9/32", "10.9.9.9"),
        ("10.9.9.1", "10.9.9.1"),
        ("pacs.example", "pacs.example"),
    ],
)
def test_reports_go_to_the_configured_host_or_where_the_request_came_from(rule: str, host: str) -> None:
    assert commitment_reports.report_host(Peer("X", rule, 104), "10.9.9.9") == host


# --- holdings -------------------------------------------------------------------------------------------------


def test_holdings_of_things_that_are_no_files(closed: Desk) -> None:
    reference = closed.keep(1)
    path = closed.file(reference)
    assert closed.holdings.holding(*reference) is Holding.SAFE
    path.unlink()
    path.mkdir()
    assert closed.holdings.holding(*reference) is Holding.DAMAGED
    for uid in ("", "../x", "1.2\N{ARABIC-INDIC DIGIT ONE}"):
        assert closed.holdings.holding(CT_IMAGE, uid) is Holding.ABSENT


def test_a_file_of_another_instance_in_its_place_is_damage(closed: Desk) -> None:
    one, two = closed.keep(1), closed.keep(2)
    closed.file(two).replace(closed.file(one))
    assert closed.holdings.holding(*one) is Holding.DAMAGED


# --- reports about what we asked for --------------------------------------------------------------------------


def report(desk: Desk, **changes: Any) -> tuple[int, str]:
    event_type, data = report_content(
        TRANSACTION, [(CT_IMAGE, "1.2.1"), (CT_IMAGE, "1.2.2")], {"1.2.2": 0x0112}
    )
    told: dict[str, Any] = {
        "calling_ae": "CTSCANNER",
        "address": "127.0.0.1",
        "sop_class_uid": PUSH_MODEL,
        "sop_instance_uid": PUSH_MODEL_INSTANCE,
        "event_type": event_type,
        "dataset": data,
    }
    return desk.desk.report(**{**told, **changes})


def test_a_report_reaches_the_sink(closed: Desk) -> None:
    assert report(closed) == (0x0000, "")
    assert closed.outcomes == [CommitmentReport(TRANSACTION, ("1.2.1",), {"1.2.2": 0x0112})]


def test_what_is_named_both_committed_and_failed_has_failed(closed: Desk) -> None:
    _, data = report_content(TRANSACTION, [(CT_IMAGE, "1.2.1")], {"1.2.1": 0x0110})
    data.ReferencedSOPSequence = request_content(TRANSACTION, [(CT_IMAGE, "1.2.1")]).ReferencedSOPSequence
    assert report(closed, event_type=1, dataset=data)[0] == 0x0000
    assert closed.outcomes == [CommitmentReport(TRANSACTION, (), {"1.2.1": 0x0110})]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"calling_ae": "STRANGER"}, 0x0124),
        ({"sop_class_uid": CT_IMAGE}, 0x0118),
        ({"sop_instance_uid": "1.2"}, 0x0112),
        ({"event_type": 3}, 0x0113),
        ({"dataset": None}, 0x0115),
        ({"dataset": _item(TransactionUID="")}, 0x0115),
        ({"dataset": _item(TransactionUID=TRANSACTION)}, 0x0115),
        ({"dataset": _mistyped()}, 0x0212),
    ],
)
def test_reports_that_say_nothing_are_refused(closed: Desk, changes: dict[str, Any], status: int) -> None:
    assert report(closed, **changes)[0] == status
    assert closed.outcomes == [] and closed.kinds() == ["commitment_refused"]


def test_a_report_the_sink_cannot_keep_is_to_be_repeated(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Peer("CTSCANNER", "127.0.0.1", 1))

    def broken(told: CommitmentReport) -> None:
        raise RuntimeError("database is away")

    desk.desk._on_report = broken
    assert report(desk)[0] == 0x0110
    assert desk.kinds() == ["commitment_refused"]


# --- we ask ---------------------------------------------------------------------------------------------------


@contextmanager
def archive(
    on_action: Callable[[Any], tuple[int, None]], *, contexts: Sequence[str] = (PUSH_MODEL,)
) -> Iterator[Destination]:
    entity = AE("PACS")
    for name in contexts:
        entity.add_supported_context(name)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, on_action)])
    try:
        yield Destination("PACS", "127.0.0.1", int(server.server_address[1]))
    finally:
        server.shutdown()
        server.server_close()


def test_we_ask_and_the_archive_gets_all_references() -> None:
    asked: list[Dataset] = []

    def on_action(event: Any) -> tuple[int, None]:
        assert (event.action_type, event.request.RequestedSOPInstanceUID) == (1, PUSH_MODEL_INSTANCE)
        asked.append(event.action_information)
        return 0x0000, None

    with archive(on_action) as destination:
        answer = CommitmentScu().ask([(CT_IMAGE, "1.2.1"), (MR_IMAGE, "1.2.2")], destination, TRANSACTION)
    assert answer.accepted and answer.transaction_uid == TRANSACTION
    (data,) = asked
    assert data.TransactionUID == TRANSACTION
    assert [(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in data.ReferencedSOPSequence] == [
        (CT_IMAGE, "1.2.1"),
        (MR_IMAGE, "1.2.2"),
    ]


def test_a_report_on_the_association_of_the_request_is_heard() -> None:
    statuses: list[int] = []
    threads: list[threading.Thread] = []

    def on_action(event: Any) -> tuple[int, None]:
        def tell() -> None:
            time.sleep(0.3)
            event_type, data = report_content(TRANSACTION, [(CT_IMAGE, "1.2.1")], {})
            answer, _ = event.assoc.send_n_event_report(data, event_type, PUSH_MODEL, PUSH_MODEL_INSTANCE)
            statuses.append(answer.Status)

        threads.append(threading.Thread(target=tell))
        threads[-1].start()
        return 0x0000, None

    outcomes: list[CommitmentReport] = []
    with archive(on_action) as destination:
        answer = CommitmentScu(on_report=outcomes.append).ask([(CT_IMAGE, "1.2.1")], destination, TRANSACTION)
        threads[0].join()
    assert answer.accepted
    assert outcomes == [CommitmentReport(TRANSACTION, ("1.2.1",), {})]
    assert statuses == [0x0000]


def test_refusal_silence_and_absence_are_answers_not_errors() -> None:
    ask = CommitmentScu(timeout_s=1.0).ask
    with archive(lambda event: (0x0213, None)) as destination:
        answer = ask([(CT_IMAGE, "1.2.1")], destination, TRANSACTION)
        assert not answer.accepted and "0213" in answer.detail
    with archive(lambda event: (0, None), contexts=["1.2.840.10008.1.1"]) as destination:
        answer = ask([(CT_IMAGE, "1.2.1")], destination, TRANSACTION)
        assert not answer.accepted and "offer" in answer.detail

    def slow(event: Any) -> tuple[int, None]:
        time.sleep(2.5)
        return 0, None

    with archive(slow) as destination:
        answer = ask([(CT_IMAGE, "1.2.1")], destination, TRANSACTION)
        assert not answer.accepted and "no answer" in answer.detail
    answer = ask([(CT_IMAGE, "1.2.1")], Destination("PACS", "127.0.0.1", free_port()), TRANSACTION)
    assert not answer.accepted and "no connection" in answer.detail
    answer = ask([(CT_IMAGE, "1.2.1")], Destination("PACS", "127.0.0.1", 1, tls=True), TRANSACTION)
    assert not answer.accepted and "certificate" in answer.detail


# --- the whole node -------------------------------------------------------------------------------------------


@dataclass
class Node:
    node: DicomNode
    store: Path
    got: list[ReceivedInstance]
    outcomes: list[CommitmentReport]

    def file(self, uid: str) -> Path:
        return next(instance.path for instance in self.got if instance.sop_instance_uid == uid)


@contextmanager
def running_node(tmp_path: Path, *peers: Peer, port: int = 0) -> Iterator[Node]:
    got: list[ReceivedInstance] = []
    outcomes: list[CommitmentReport] = []
    settings = NodeConfig("127.0.0.1", port, tmp_path / "store", peers=peers, disk_reserve_bytes=1 << 20)
    started = DicomNode(settings, got.append, commitment_sink=outcomes.append)
    started.start()
    try:
        yield Node(started, settings.store_dir, got, outcomes)
    finally:
        started.stop()


def test_images_and_request_on_one_association(tmp_path: Path, requestor: Requestor) -> None:
    """As modalities do it: everything is sent, then the request follows at once."""
    slices = [ct_slice(n, size=128, seed=n + 1) for n in range(20)]
    with running_node(tmp_path, requestor.peer()) as world:
        scu = AE("CTSCANNER")
        scu.add_requested_context(CT_IMAGE, "1.2.840.10008.1.2.1")
        scu.add_requested_context(PUSH_MODEL)
        association = scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT")
        assert {int(association.send_c_store(ds).Status) for ds in slices} == {0}
        uids = [str(ds.SOPInstanceUID) for ds in slices]
        asked = request_content(TRANSACTION, [(CT_IMAGE, uid) for uid in [*uids, "1.2.3"]])
        answer, _ = association.send_n_action(asked, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
        assert answer.Status == 0x0000
        heard = requestor.next()
        assert (heard.event_type, heard.committed, heard.failed) == (2, set(uids), {"1.2.3": 0x0112})
        assert association.send_c_store(slices[0]).Status == 0x0000, "the association goes on"
        bad, _ = association.send_n_action(
            _item(TransactionUID=TRANSACTION), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE
        )
        assert bad.Status == 0x0115 and bad.ErrorComment
        association.release()
        assert world.node.counters()["commitment_reported"] == 1
        assert "commitment_refused" in {event.kind for event in world.node.take_events()}


def test_thousands_of_references_in_one_request(tmp_path: Path, requestor: Requestor) -> None:
    references = [(CT_IMAGE, f"{ROOT}.{n}") for n in range(1500)]
    with running_node(tmp_path, requestor.peer()) as world:
        scu = AE("CTSCANNER")
        scu.add_requested_context(PUSH_MODEL)
        association = scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT")
        answer, _ = association.send_n_action(
            request_content(TRANSACTION, references), 1, PUSH_MODEL, PUSH_MODEL_INSTANCE
        )
        assert answer.Status == 0x0000
        association.release()
        heard = requestor.next(timeout=40)
    assert len(heard.failed) == 1500 and set(heard.failed.values()) == {0x0112}


# --- a real PACS ----------------------------------------------------------------------------------------------

_AUTO_ROUTING = """
function OnStableSeries(id, tags, metadata)
  if metadata['RemoteAET'] == 'SPINEPRINT' or tags['Modality'] ~= 'CT' then return end
  local job = {}
  job['Resources'] = {id}
  job['Asynchronous'] = true
  job['Permissive'] = false
  job['StorageCommitment'] = true
  RestApiPost('/modalities/spine/store', DumpJson(job, true))
end
"""


def test_auto_routing_with_storage_commitment_from_orthanc(tmp_path: Path) -> None:
    """The way into a hospital's service: modality to PACS, PACS to us, and the PACS wants our word for it."""
    files = write_series(tmp_path / "ct", 40, seed=3)
    dicom = free_port()
    with (
        running_node(tmp_path, Peer("PACS", "127.0.0.1", dicom, ("pacs",))) as world,
        orthanc(tmp_path, world.node.port, dicom, lua=_AUTO_ROUTING) as pacs,
    ):
        run("storescu", "-aet", "CTSCANNER", "-aec", "PACS", "127.0.0.1", dicom, "+sd", tmp_path / "ct")
        wait_until(lambda: len(world.got) == 40, 20, "the series was not routed")
        assert sorted(wire_bytes(i.path) for i in world.got) == sorted(wire_bytes(f) for f in files)
        assert {i.calling_ae for i in world.got} == {"PACS"}

        jobs = pacs.get("/jobs?expand")
        (job,) = [j for j in jobs if j["Type"] == "DicomModalityStore"]
        transaction = job["Content"]["StorageCommitmentTransactionUID"]
        outcome = pacs.outcome(transaction)
        assert outcome["Status"] == "Success" and outcome["RemoteAET"] == "SPINEPRINT"
        assert len(outcome["Success"]) == 40 and outcome["Failures"] == []

        # one stored file rots, one is gone: our word no longer holds for these two
        uids = sorted(i.sop_instance_uid for i in world.got)
        rotten, gone = world.file(uids[0]), world.file(uids[1])
        data = rotten.read_bytes()
        rotten.unlink()
        rotten.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        gone.unlink()
        asked = pacs.post(
            "/modalities/spine/storage-commitment", {"DicomInstances": [[CT_IMAGE, uid] for uid in uids]}
        )
        outcome = pacs.outcome(asked["ID"])
        assert outcome["Status"] == "Failure"
        assert {f["SOPInstanceUID"]: f["FailureReason"] for f in outcome["Failures"]} == {
            uids[0]: 0x0110,
            uids[1]: 0x0112,
        }
        assert len(outcome["Success"]) == 38
        # what was said to be missing is sent again, and then it is safe
        assert pacs.post("/modalities/spine/store", pacs.get("/series"))["FailedInstancesCount"] == 0
        wait_until(gone.exists)
        asked = pacs.post("/modalities/spine/storage-commitment", {"DicomInstances": [[CT_IMAGE, uids[1]]]})
        assert pacs.outcome(asked["ID"])["Status"] == "Success"


def test_orthanc_commits_to_what_we_sent(tmp_path: Path) -> None:
    """We are the user now; Orthanc reports to our node on an association of its own, as provider by role."""
    files = write_series(tmp_path / "ct", 3, seed=4)
    dicom, port = free_port(), free_port()
    peer = Peer("PACS", "127.0.0.1", dicom, ("pacs",))
    with (
        running_node(tmp_path, peer, port=port) as world,
        orthanc(tmp_path, port, dicom),
    ):
        destination = Destination("PACS", "127.0.0.1", dicom)
        sent = DicomSender().send(files, destination)
        assert all(status.accepted for status in sent)
        instances = [(CT_IMAGE, status.sop_instance_uid) for status in sent]
        answer = CommitmentScu(on_report=world.outcomes.append).ask(
            [*instances, (CT_IMAGE, "1.2.3")], destination, TRANSACTION
        )
        assert answer.accepted, answer.detail
        wait_until(lambda: bool(world.outcomes), 20, "Orthanc did not report")
        (outcome,) = world.outcomes
        assert outcome.transaction_uid == TRANSACTION
        assert set(outcome.committed) == {uid for _, uid in instances}
        assert outcome.failed == {"1.2.3": 0x0112}
        assert world.node.counters()["commitment_outcomes"] == 1, "it came to the node"


def test_an_archive_that_does_not_know_us_is_an_answer(tmp_path: Path) -> None:
    dicom = free_port()
    with orthanc(tmp_path, free_port(), dicom):
        answer = CommitmentScu("STRANGER").ask(
            [(CT_IMAGE, "1.2.1")], Destination("PACS", "127.0.0.1", dicom), TRANSACTION
        )
    assert not answer.accepted and answer.detail
