"""Our sender into DCMTK's storescp, and everything that can go wrong on the way."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import JPEGLSLossless
from pynetdicom import AE, evt
from pynetdicom.association import Association

from adapters.dicom_node import DicomSender
from service.ports import Destination
from tests.support_dicom import (
    CT_IMAGE,
    ct_slice,
    free_port,
    listens,
    need,
    running,
    save,
    wire_bytes,
    write_series,
)

StoreScp = Callable[..., AbstractContextManager[Destination]]


@pytest.fixture
def storescp(tmp_path: Path) -> StoreScp:
    @contextmanager
    def start(*options: str) -> Iterator[Destination]:
        port, out = free_port(), tmp_path / "received"
        out.mkdir()
        command = [need("storescp"), "-aet", "SINK", "+xa", "-od", out, *options, port]
        with running(command, lambda: listens(port)):
            yield Destination("SINK", "127.0.0.1", port)

    return start


def test_files_arrive_byte_for_byte_in_their_own_syntax(storescp: StoreScp, tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 3)
    compressed = ct_slice(50, seed=1)
    compressed.compress(JPEGLSLossless)
    files.append(save(compressed, tmp_path / "jpegls"))
    with storescp("-B") as destination:
        statuses = DicomSender().send(files, destination)
    assert [s.status for s in statuses] == [0, 0, 0, 0]
    assert [s.sop_instance_uid for s in statuses] == [str(pydicom.dcmread(f).SOPInstanceUID) for f in files]
    received = [wire_bytes(f) for f in (tmp_path / "received").iterdir()]
    assert sorted(received) == sorted(wire_bytes(f) for f in files)


def test_echo(storescp: StoreScp) -> None:
    with storescp() as destination:
        assert DicomSender().echo(destination)
    assert not DicomSender(connect_timeout_s=1).echo(destination)


def test_no_connection_and_unreadable_files_are_statuses_not_errors(tmp_path: Path) -> None:
    good = save(ct_slice(0), tmp_path / "good")
    bad = tmp_path / "bad"
    bad.write_bytes(b"not dicom")
    statuses = DicomSender(connect_timeout_s=1).send(
        [bad, good, tmp_path / "absent"], Destination("X", "127.0.0.1", free_port())
    )
    assert [s.status for s in statuses] == [0xC000, None, 0xC000]
    assert statuses[0].permanent and not statuses[1].permanent and not statuses[1].accepted
    assert "no connection" in statuses[1].detail


def test_each_instance_gets_the_answer_of_the_destination(tmp_path: Path) -> None:
    files = [save(ct_slice(n), tmp_path / f"{n}") for n in range(3)]
    sr = ct_slice(9)
    sr.SOPClassUID = sr.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    files.append(save(sr, tmp_path / "sr"))
    answers = iter([0x0000, 0xA700, 0xB000])
    scp = AE("SINK")
    scp.add_supported_context(CT_IMAGE, "1.2.840.10008.1.2.1")
    server = scp.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda event: next(answers))]
    )
    try:
        destination = Destination("SINK", "127.0.0.1", server.server_address[1])
        statuses = DicomSender().send(files, destination)
    finally:
        server.shutdown()
        server.server_close()
    assert [s.status for s in statuses] == [0x0000, 0xA700, 0xB000, 0x0122]
    assert [s.accepted for s in statuses] == [True, False, True, False]
    assert "accepts neither" in statuses[3].detail


def test_an_abort_on_the_way_leaves_the_rest_unanswered(storescp: StoreScp, tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 3)
    with storescp("--abort-after") as destination:
        statuses = DicomSender(dimse_timeout_s=2).send(files, destination)
    assert [s.accepted for s in statuses] == [False, False, False]
    assert all(s.status is None for s in statuses)


class _LateWaker(threading.Event):
    """The hold of the library's reading thread, on a machine where that thread gets its turn late."""

    def wait(self, timeout: float | None = None) -> bool:
        held = not self.is_set()
        answer = super().wait(timeout)
        if held:
            time.sleep(0.15)
        return answer


def test_a_reading_thread_that_wakes_late_takes_no_answer_away(
    storescp: StoreScp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = Association.__init__

    def late(association: Association, *args: Any) -> None:
        init(association, *args)
        association._reactor_checkpoint = _LateWaker()
        association._reactor_checkpoint.set()
        send_msg = association.dimse.send_msg

        def send_and_look_late(*message: Any) -> None:
            send_msg(*message)
            time.sleep(0.3)

        monkeypatch.setattr(association.dimse, "send_msg", send_and_look_late)

    monkeypatch.setattr(Association, "__init__", late)
    files = write_series(tmp_path / "ct", 4)
    with storescp() as destination:
        statuses = DicomSender(dimse_timeout_s=2.0).send(files, destination)
    assert [s.status for s in statuses] == [0, 0, 0, 0]


def test_a_request_that_fails_half_way_ends_the_association_and_nothing_waits(
    storescp: StoreScp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the file's disk fails while it is sent: the library keeps its reading thread held then."""
    init = Association.__init__

    def failing(association: Association, *args: Any) -> None:
        init(association, *args)
        send_msg, sent = association.dimse.send_msg, []

        def send_once(*message: Any) -> None:
            if sent:
                raise OSError(errno.EIO, "the disk fails")
            sent.append(1)
            send_msg(*message)

        monkeypatch.setattr(association.dimse, "send_msg", send_once)

    monkeypatch.setattr(Association, "__init__", failing)
    files = write_series(tmp_path / "ct", 4)
    with storescp() as destination, ThreadPoolExecutor() as pool:
        statuses = pool.submit(DicomSender(dimse_timeout_s=2.0).send, files, destination).result(timeout=20)
    assert [s.status for s in statuses] == [0, None, None, None]
    assert [s.attempted for s in statuses] == [True, True, False, False]


def test_a_rejected_association_says_why(tmp_path: Path) -> None:
    scp = AE("SINK")
    scp.add_supported_context(CT_IMAGE)
    scp.require_calling_aet = ["SOMEBODY"]
    server = scp.start_server(("127.0.0.1", 0), block=False)
    try:
        destination = Destination("SINK", "127.0.0.1", server.server_address[1])
        (status,) = DicomSender("ME").send([save(ct_slice(0), tmp_path / "f")], destination)
    finally:
        server.shutdown()
        server.server_close()
    assert status.status is None
    assert "rejected" in status.detail and "alling AE title not recognised" in status.detail
