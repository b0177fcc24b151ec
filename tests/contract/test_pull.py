"""A study fetched by its accession number: C-FIND and C-MOVE at real peers (Orthanc, DCMTK), into our node."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from adapters.dicom_node import DicomNode, NodeConfig
from adapters.dicom_node.query import DicomFinder
from service.errors import DeviceError, InputRefusedError, NotAllowedError
from service.ports import Destination, MoveProgress, Peer
from service.store import pulls, studies
from service.store.database import reading
from service.store.pulls import Pull
from service.store.studies import Study
from service.web.routers.pulls import _view
from service.workflow import intake, pull
from tests.support_app import PLANNER, SURGEON, Rig, make_rig
from tests.support_dicom import ROOT, free_port, listens, need, run, running, wait_until, write_series
from tests.support_pacs import Orthanc, orthanc

OTHER = f"{ROOT}.51"
FIND, MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"


@dataclass
class World:
    rig: Rig
    node: DicomNode

    def fetch(self, accession: str = "A1", *, peer: str = "PACS", study_uid: str = "") -> Pull:
        """Ask, run the job, and wait until what came in is sorted."""
        asked = pull.ask(
            self.rig.app, accession_number=accession, peer=peer, actor=PLANNER, study_uid=study_uid
        )
        self.rig.run_jobs("pull")
        wait_until(lambda: self.node.counters().get("intake_waiting", 0) == 0, 20, "not all was sorted")
        with reading(self.rig.app.engine) as connection:
            return pulls.need(connection, asked.id)

    def study(self, uid: str = f"{ROOT}.1") -> Study | None:
        with reading(self.rig.app.engine) as connection:
            return studies.get(connection, uid)

    def arrived(self, count: int, uid: str = f"{ROOT}.1") -> bool:
        found = self.study(uid)
        return found is not None and found.instance_count == count


@contextmanager
def world(folder: Path, port: int, *, title: str = "PACS", node_title: str = "SPINEPRINT") -> Iterator[World]:
    peers = [{"ae_title": title, "host": "127.0.0.1", "port": port, "roles": ["pacs", "planning_ct"]},
             {"ae_title": "OARM1", "host": "127.0.0.1", "port": 1, "roles": ["oarm"]}]  # fmt: skip
    rig = make_rig(folder, dicom={"peers": peers, "ae_title": node_title})
    rig.app = replace(
        rig.app, finder=DicomFinder(node_title, connect_timeout_s=2, find_timeout_s=10, move_timeout_s=20)
    )
    settings = NodeConfig(
        "127.0.0.1", 0, rig.app.config.data_dir / "dicom", ae_title=node_title, disk_reserve_bytes=1 << 20,
        peers=(Peer(title, "127.0.0.1", 0),),
    )  # fmt: skip
    node = DicomNode(settings, partial(intake.accept_instance, rig.app))
    node.start()
    try:
        yield World(rig, node)
    finally:
        node.stop()


@contextmanager
def with_orthanc(folder: Path, **changes: Any) -> Iterator[tuple[World, Orthanc]]:
    with (
        orthanc(folder / "orthanc", DicomAet="PACS", **changes) as pacs,
        world(folder, pacs.dicom.port) as ours,
    ):
        pacs.put("/modalities/spine", {"AET": "SPINEPRINT", "Host": "127.0.0.1", "Port": ours.node.port})
        yield ours, pacs


def load(pacs: Orthanc, folder: Path, count: int, **options: Any) -> list[Path]:
    files = write_series(folder, count, **options)
    run("storescu", "-aec", "PACS", "127.0.0.1", pacs.dicom.port, "+sd", folder)
    return files


def test_orthanc_is_asked_and_sends_the_study_to_us(tmp_path: Path) -> None:
    with with_orthanc(tmp_path) as (ours, pacs):
        files = load(pacs, tmp_path / "ct", 7)
        load(pacs, tmp_path / "other", 2, study=OTHER, series=f"{OTHER}.2", AccessionNumber="A2")
        done = ours.fetch()
        assert (done.state, done.error) == ("DONE", None)
        assert (done.study_uid, done.expected) == (f"{ROOT}.1", 7)
        assert (done.completed, done.failed) == (7, 0)
        wait_until(lambda: ours.arrived(7), 20, "the study is not here")
        assert ours.study(OTHER) is None
        study = ours.study()
        assert study and study.expected_instances == 7 and study.calling_ae == "PACS"
        with reading(ours.rig.app.engine) as connection:
            assert _view(connection, done)["line"] == "7 of 7"
            got = {i.sop_uid for i in studies.instances_of(connection, study.study_uid)}
        assert got == {str(pydicom.dcmread(f).SOPInstanceUID) for f in files}
        # Once more: nothing comes twice.
        again = ours.fetch()
        assert (again.state, again.id != done.id) == ("DONE", True)
        assert ours.arrived(7)


def test_several_studies_with_the_number_are_shown_and_one_is_chosen(tmp_path: Path) -> None:
    with with_orthanc(tmp_path) as (ours, pacs):
        load(pacs, tmp_path / "ct", 2)
        load(pacs, tmp_path / "other", 3, study=OTHER, series=f"{OTHER}.2", StudyDate="20250607",
             StudyDescription="CT WIRBELSÄULE", SpecificCharacterSet="ISO_IR 100")  # fmt: skip
        asked = ours.fetch()
        assert asked.state == "AMBIGUOUS"
        assert [(c["study_uid"], c["study_date"], c["instances"]) for c in asked.candidates] == [
            (OTHER, "20250607", 3), (f"{ROOT}.1", "20240102", 2),
        ]  # fmt: skip
        assert asked.candidates[0]["description"] == "CT WIRBELSÄULE"
        assert asked.candidates[0]["modalities"] == ["CT"]
        assert ours.study() is None and ours.study(OTHER) is None
        done = ours.fetch(study_uid=OTHER)
        assert (done.state, done.completed) == ("DONE", 3)
        wait_until(lambda: ours.arrived(3, OTHER), 20, "the study is not here")
        assert ours.study() is None
        gone = ours.fetch(study_uid="1.2.3")
        assert (gone.state, (gone.error or {})["code"]) == ("FAILED", "pull.study_gone")


def test_what_a_pacs_does_not_have_or_does_not_know(tmp_path: Path) -> None:
    with with_orthanc(tmp_path) as (ours, pacs):
        load(pacs, tmp_path / "ct", 2)
        none = ours.fetch("A9")
        assert (none.state, (none.error or {})["code"]) == ("FAILED", "pull.nothing")
        assert ours.rig.notes.topics() == ["pull"]
    # The PACS does not know our AE title as a destination.
    with (
        orthanc(tmp_path / "second", DicomAet="PACS") as pacs,
        world(tmp_path / "w2", pacs.dicom.port) as ours,
    ):
        load(pacs, tmp_path / "ct2", 2)
        failed = ours.fetch()
        assert failed.state == "FAILED"
        assert str((failed.error or {})["code"]).startswith("pull.")
        assert (failed.error or {})["next_step"]
        assert ours.study() is None


@contextmanager
def dcmqrscp(folder: Path, ours: World, port: int, *, known: bool = True) -> Iterator[None]:
    (folder / "archive").mkdir()
    title = "SPINEPRINT" if known else "SOMEBODY"
    settings = folder / "dcmqrscp.cfg"
    settings.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 8\nHostTable BEGIN\n"
        f"spine = ({title}, 127.0.0.1, {ours.node.port})\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nPACS {folder / 'archive'} RW (10, 100mb) ANY\nAETable END\n"
    )
    with running([need("dcmqrscp"), "-c", settings, port], lambda: listens(port)):
        yield


def test_dcmqrscp_is_asked_and_sends(tmp_path: Path) -> None:
    port = free_port()
    write_series(tmp_path / "ct", 5)
    with world(tmp_path, port) as ours, dcmqrscp(tmp_path, ours, port):
        run("storescu", "-aec", "PACS", "127.0.0.1", port, "+sd", tmp_path / "ct")
        done = ours.fetch()
        assert (done.state, done.completed, done.failed) == ("DONE", 5, 0), done.error
        wait_until(lambda: ours.arrived(5), 20, "the study is not here")


def test_dcmqrscp_that_does_not_know_us_says_so(tmp_path: Path) -> None:
    port = free_port()
    write_series(tmp_path / "ct", 2)
    with world(tmp_path, port) as ours, dcmqrscp(tmp_path, ours, port, known=False):
        run("storescu", "-aec", "PACS", "127.0.0.1", port, "+sd", tmp_path / "ct")
        failed = ours.fetch()
        assert (failed.state, (failed.error or {})["code"]) == ("FAILED", "pull.unknown_destination")
        assert "SPINEPRINT" in str((failed.error or {})["message"])


def test_images_that_cannot_be_sent_to_us_are_counted(tmp_path: Path) -> None:
    """Our node is away: every sub-operation fails, and the PACS says so."""
    port = free_port()
    write_series(tmp_path / "ct", 3)
    with world(tmp_path, port) as ours, dcmqrscp(tmp_path, ours, port):
        run("storescu", "-aec", "PACS", "127.0.0.1", port, "+sd", tmp_path / "ct")
        ours.node.stop()
        asked = pull.ask(ours.rig.app, accession_number="A1", peer="PACS", actor=PLANNER)
        ours.rig.run_jobs("pull")
        with reading(ours.rig.app.engine) as connection:
            failed = pulls.need(connection, asked.id)
        assert failed.state == "FAILED"
        assert str((failed.error or {})["code"]) in ("pull.incomplete", "pull.move_failed")


# --- a PACS to order ----------------------------------------------------------------------------------------


class OrderedQr:
    """Query/retrieve whose answers are the test's."""

    def __init__(self) -> None:
        self.matches: list[Dataset] = []
        self.asked: list[Dataset] = []
        self.find_status: int = 0
        self.hold = threading.Event()
        self.silent = False

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self.asked.append(event.identifier)
        if self.silent:
            self.hold.wait(30)
        for match in self.matches:
            yield 0xFF00, match
        if self.find_status:
            yield self.find_status, None

    @contextmanager
    def running(self, *models: str) -> Iterator[Destination]:
        entity = AE("PACS")
        for model in models or (FIND, MOVE):
            entity.add_supported_context(model)
        server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, self._find)]
        )
        try:
            yield Destination("PACS", "127.0.0.1", server.server_address[1])
        finally:
            self.hold.set()
            server.shutdown()
            server.server_close()


def _match(uid: str, accession: str = "A1", **more: Any) -> Dataset:
    found = Dataset()
    found.QueryRetrieveLevel, found.StudyInstanceUID, found.AccessionNumber = "STUDY", uid, accession
    for keyword, value in more.items():
        setattr(found, keyword, value)
    return found


def test_only_exact_matches_count_whatever_the_pacs_sends(tmp_path: Path) -> None:
    qr = OrderedQr()
    odd = _match("1.4", "A1 ", ModalitiesInStudy=["CT", "SR"])
    odd.add_new(0x00201208, "LO", "many")  # NumberOfStudyRelatedInstances, by right a number
    others = [_match("1.2", "A11"), _match("1.3", ""), _match("", "A1")]
    qr.matches = [_match("1.1"), *others, _match("1.1"), odd]
    with qr.running() as pacs:
        found = DicomFinder().find("A1", pacs)
    assert [s.study_uid for s in found] == ["1.1", "1.4"]
    assert (found[1].instances, found[1].modalities) == (None, ("CT", "SR"))
    assert qr.asked[0].AccessionNumber == "A1" and qr.asked[0].QueryRetrieveLevel == "STUDY"


def test_a_pacs_that_answers_with_everything_is_cut_off() -> None:
    qr = OrderedQr()
    qr.matches = [_match(f"1.{n}", "X") for n in range(1000)]
    with qr.running() as pacs, pytest.raises(DeviceError, match="more than 200") as caught:
        DicomFinder().find("A1", pacs)
    assert caught.value.code == "pull.too_many"


def test_a_query_that_fails_or_gets_no_answer_or_no_service() -> None:
    qr = OrderedQr()
    qr.find_status = 0xA700
    with qr.running() as pacs, pytest.raises(DeviceError, match="A700"):
        DicomFinder().find("A1", pacs)
    qr.silent = True
    started = time.monotonic()
    with qr.running() as pacs, pytest.raises(DeviceError) as caught:
        DicomFinder(find_timeout_s=1).find("A1", pacs)
    assert caught.value.code == "pull.query_failed" and time.monotonic() - started < 10
    with OrderedQr().running(MOVE) as pacs, pytest.raises(DeviceError) as caught:
        DicomFinder().find("A1", pacs)
    assert caught.value.code == "pull.not_offered"
    with pytest.raises(DeviceError) as caught:
        DicomFinder(connect_timeout_s=1).find("A1", Destination("PACS", "127.0.0.1", free_port()))
    assert caught.value.code == "pull.no_connection"


def test_a_pacs_that_goes_silent_while_sending(tmp_path: Path) -> None:
    seen: list[MoveProgress] = []
    given_up = threading.Event()

    def moving(_event: evt.Event) -> Iterator[Any]:
        yield "127.0.0.1", free_port()
        yield 3
        given_up.wait(20)
        yield 0xFF00, None

    entity = AE("PACS")
    entity.add_supported_context(MOVE)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_MOVE, moving)])
    try:
        pacs = Destination("PACS", "127.0.0.1", server.server_address[1])
        result = DicomFinder(move_timeout_s=1).move("1.2", pacs, "SPINEPRINT", seen.append)
    finally:
        given_up.set()
        server.shutdown()
        server.server_close()
    assert result.status is None or result.status != 0


# --- the request --------------------------------------------------------------------------------------------


def test_the_same_request_twice_is_one_and_a_job_that_was_cut_off_runs_again(tmp_path: Path) -> None:
    with with_orthanc(tmp_path) as (ours, pacs):
        load(pacs, tmp_path / "ct", 2)
        app = ours.rig.app
        first = pull.ask(app, accession_number=" A1 ", peer="PACS", actor=PLANNER)
        assert pull.ask(app, accession_number="A1", peer="PACS", actor=PLANNER).id == first.id

        class Dying(DicomFinder):
            def move(self, *_arguments: Any) -> Any:
                raise KeyboardInterrupt

        ours.rig.app = replace(app, finder=Dying())
        with pytest.raises(KeyboardInterrupt):
            ours.rig.run_jobs("pull")
        with reading(app.engine) as connection:
            assert pulls.need(connection, first.id).state == "MOVING"
        ours.rig.app = app
        pull.run(app, f"pull.{first.id}", first.id)
        with reading(app.engine) as connection:
            assert pulls.need(connection, first.id).state == "DONE"
        wait_until(lambda: ours.arrived(2), 20, "the study is not here")
        # A finished request is not run again.
        ours.node.stop()
        pull.run(app, f"pull.{first.id}", first.id)


@pytest.mark.parametrize("number", ["", " ", "A*", "A?", "*", "A\\B", "A\nB", "12345678901234567", "Ä1"])
def test_patterns_and_nonsense_are_no_accession_number(rig: Rig, number: str) -> None:
    with pytest.raises(InputRefusedError) as caught:
        pull.ask(rig.app, accession_number=number, peer="PACS", actor=PLANNER)
    assert caught.value.code == "pull.accession_number"


def test_who_may_ask_and_whom(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy, world(tmp_path, busy.getsockname()[1]) as ours:
        with pytest.raises(NotAllowedError):
            pull.ask(ours.rig.app, accession_number="A1", peer="PACS", actor=SURGEON)
        for peer in ("OARM1", "NOBODY"):
            with pytest.raises(InputRefusedError, match="PACS"):
                pull.ask(ours.rig.app, accession_number="A1", peer=peer, actor=PLANNER)
        with pytest.raises(InputRefusedError):
            pull.ask(ours.rig.app, accession_number="A1", peer="PACS", actor=PLANNER, study_uid="1.2.x")
