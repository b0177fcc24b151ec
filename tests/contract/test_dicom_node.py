"""The DICOM node against real peers: DCMTK and Orthanc."""

from __future__ import annotations

import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
import requests
from pydicom.uid import JPEGLSLossless
from pynetdicom import AE

from adapters.dicom_node import DicomNode, DicomSender, NodeConfig
from adapters.dicom_node.durable_store import dataset_bytes
from service.errors import ConfigError, ImagingError
from service.imaging.series import load_series
from service.ports import Destination, Peer, ReceivedInstance
from tests.support_dicom import (
    CT_IMAGE,
    ROOT,
    ct_slice,
    free_port,
    listens,
    need,
    run,
    running,
    save,
    wait_until,
    wire_bytes,
    write_series,
)

CT = Peer("CTSCANNER", "127.0.0.1", 0, ("planning_ct",))


class Sink:
    def __init__(self) -> None:
        self.got: list[ReceivedInstance] = []

    def __call__(self, instance: ReceivedInstance) -> None:
        self.got.append(instance)

    @property
    def uids(self) -> set[str]:
        return {i.sop_instance_uid for i in self.got}


class World:
    def __init__(self, node: DicomNode, sink: Sink, conflicts: Sink, store: Path) -> None:
        self.node, self.sink, self.conflicts, self.store = node, sink, conflicts, store

    def storescu(
        self, *arguments: object, aet: str = "CTSCANNER", aec: str = "SPINEPRINT", check: bool = True
    ):
        return run("storescu", "-aet", aet, "-aec", aec, "127.0.0.1", self.node.port, *arguments, check=check)

    def settled(self) -> None:
        wait_until(lambda: not self.node.counters()["intake_waiting"], what="intake did not finish")


def stored_files(store: Path) -> list[Path]:
    """All files but those of the log, which are there from the start."""
    return [p for p in store.rglob("*") if p.is_file() and p.parent.name != "segments"]


def config(tmp_path: Path, **changes: object) -> NodeConfig:
    plain = NodeConfig(
        "127.0.0.1", 0, tmp_path / "store", peers=(CT,), disk_reserve_bytes=1 << 20, segment_bytes=1 << 20
    )
    return replace(plain, **changes)


@contextmanager
def node(tmp_path: Path, **changes: object) -> Iterator[World]:
    sink, conflicts = Sink(), Sink()
    settings = config(tmp_path, **changes)
    started = DicomNode(settings, sink, conflict_sink=conflicts)
    started.start()
    try:
        yield World(started, sink, conflicts, settings.store_dir)
    finally:
        started.stop()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with node(tmp_path) as started:
        yield started


def test_the_end_of_the_last_association_is_told_when_all_is_handed_over(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", 5, seed=2)
    sink = Sink()
    seen: list[tuple[int, int, int]] = []

    def quiet() -> None:
        seen.append((len(sink.got), started.counters()["intake_waiting"], len(started.open_associations())))

    started = DicomNode(config(tmp_path), sink, on_quiet=quiet)
    started.start()
    try:
        World(started, sink, Sink(), tmp_path / "store").storescu("+sd", tmp_path / "ct")
        wait_until(lambda: (5, 0, 0) in seen, what="nobody was told")
    finally:
        started.stop()
    assert all(waiting == 0 and associations == 0 for _, waiting, associations in seen)


def test_a_series_from_storescu_is_stored_byte_for_byte_and_handed_over(world: World, tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 12, seed=1)
    world.storescu("+sd", tmp_path / "ct")
    world.settled()
    sent = {str(pydicom.dcmread(f).SOPInstanceUID): wire_bytes(f) for f in files}
    assert world.sink.uids == set(sent)
    for instance in world.sink.got:
        assert dataset_bytes(instance.path) == wire_bytes(instance.path) == sent[instance.sop_instance_uid]
        assert instance.calling_ae == "CTSCANNER"
        assert instance.sop_class_uid == CT_IMAGE
        assert instance.received_at.tzinfo is not None
    assert len({i.association for i in world.sink.got}) == 1
    assert not list((world.store / "pending").iterdir())
    assert not list((world.store / "incoming").iterdir())
    loaded = load_series([i.path for i in world.sink.got])
    assert loaded.volume.values.shape == (12, 32, 32)


def test_stored_files_are_what_dcmtk_calls_dicom(world: World, tmp_path: Path) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    world.storescu(file)
    world.settled()
    (instance,) = world.sink.got
    assert run("dcmftest", instance.path).stdout.startswith("yes")
    assert "CTSCANNER" in run("dcmdump", "+P", "0002,0016", instance.path).stdout


def test_echo_is_answered_even_to_unknown_callers(world: World) -> None:
    run("echoscu", "-aet", "STRANGER", "-aec", "SPINEPRINT", "127.0.0.1", world.node.port)
    assert world.node.counters()["echoes"] == 1


def test_unknown_caller_wrong_called_title_and_wrong_address_are_rejected_with_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    peers = (CT, Peer("ELSEWHERE", "10.99.0.0/16", 0))
    with node(tmp_path, peers=peers) as world, caplog.at_level(logging.WARNING, "spineprint.dicom"):
        stranger = world.storescu(file, aet="STRANGER", check=False)
        assert stranger.returncode != 0 and "Calling AE Title Not Recognized" in stranger.stderr
        wrong = world.storescu(file, aec="OTHER", check=False)
        assert "Called AE Title Not Recognized" in wrong.stderr
        assert world.storescu(file, aet="ELSEWHERE", check=False).returncode != 0
        counters = world.node.counters()
        assert (counters["rejected_calling_ae"], counters["rejected_called_ae"]) == (2, 1)
        assert "received" not in counters
    text = caplog.text
    assert "STRANGER at 127.0.0.1: association rejected: calling AE title is not configured" in text
    assert "called OTHER, this node is SPINEPRINT" in text
    assert (
        "ELSEWHERE at 127.0.0.1: association rejected: calling AE title is configured for another address"
        in text
    )


def test_the_senders_syntax_is_kept(world: World, tmp_path: Path) -> None:
    explicit = save(ct_slice(0), tmp_path / "explicit")
    compressed = ct_slice(1, seed=3)
    compressed.compress(JPEGLSLossless)
    jpegls = save(compressed, tmp_path / "jpegls")
    world.storescu("-R", explicit)
    world.storescu("-R", "-xt", jpegls)
    world.settled()
    assert {i.transfer_syntax_uid for i in world.sink.got} == {"1.2.840.10008.1.2.1", str(JPEGLSLossless)}
    assert {wire_bytes(i.path) for i in world.sink.got} == {wire_bytes(explicit), wire_bytes(jpegls)}


def test_requestors_order_of_syntaxes_wins(world: World) -> None:
    scu = AE("CTSCANNER")
    scu.add_requested_context(
        CT_IMAGE, ["1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
    )
    association = scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT")
    assert [c.transfer_syntax[0] for c in association.accepted_contexts] == ["1.2.840.10008.1.2.4.70"]
    association.release()


def test_open_associations_are_visible(world: World) -> None:
    scu = AE("CTSCANNER")
    scu.add_requested_context(CT_IMAGE)
    association = scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT")
    wait_until(lambda: list(world.node.open_associations().values()) == ["CTSCANNER"])
    (opened,) = world.node.open_associations()
    assert association.send_c_store(ct_slice(0)).Status == 0
    world.settled()
    assert world.sink.got[0].association == opened
    association.release()
    wait_until(lambda: not world.node.open_associations())


def test_the_limit_counts_associations_and_frees_them_again(tmp_path: Path) -> None:
    with node(tmp_path, max_associations=1) as world:
        scu = AE("CTSCANNER")
        scu.add_requested_context(CT_IMAGE)
        first = scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT")
        assert first.send_c_store(ct_slice(0)).Status == 0
        # what pynetdicom makes of it is its own matter: woken late, it sees the closed connection before the rejection
        assert not scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT").is_established
        assert world.node.counters()["rejected_limit"] == 1
        first.release()
        wait_until(lambda: not world.node.open_associations())
        again = scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT")
        assert again.is_established
        again.release()


def test_same_instance_again_is_success_and_changes_nothing(world: World, tmp_path: Path) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    world.storescu(file)
    world.settled()
    before = world.sink.got[0].path.stat()
    world.storescu(file)
    world.settled()
    after = world.sink.got[0].path.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert world.node.counters()["duplicates"] == 1
    assert [i.path for i in world.sink.got] == [before_path := world.sink.got[0].path, before_path]
    assert not list((world.store / "quarantine").iterdir())


def test_other_content_under_the_same_uid_goes_to_quarantine(world: World, tmp_path: Path) -> None:
    first = save(ct_slice(0), tmp_path / "first")
    second = save(ct_slice(0, seed=5), tmp_path / "second")
    world.storescu(first)
    world.storescu(second)
    world.settled()
    assert len(world.sink.got) == 1 and len(world.conflicts.got) == 1
    assert wire_bytes(world.sink.got[0].path) == wire_bytes(first)
    assert wire_bytes(world.conflicts.got[0].path) == wire_bytes(second)
    assert world.conflicts.got[0].path.parent.name == "quarantine"
    assert world.node.counters()["conflicts"] == 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_hostile_uids_never_become_paths(world: World) -> None:
    scu = AE("CTSCANNER")
    scu.add_requested_context(CT_IMAGE, "1.2.840.10008.1.2.1")
    association = scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT")
    for uid in ("../../x", "1.2/../../../etc/x"):
        ds = ct_slice(0)
        ds.SOPInstanceUID = uid
        assert association.send_c_store(ds).Status == 0xC000
    assert association.send_c_store(ct_slice(0)).Status == 0
    association.release()
    world.settled()
    assert world.node.counters()["refused_uid"] == 2
    assert len(stored_files(world.store.parent)) == 1


def test_a_disk_at_its_reserve_is_answered_a700_and_leaves_nothing(tmp_path: Path) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    with node(tmp_path, disk_reserve_bytes=1 << 60) as world:
        answer = world.storescu("-v", file, check=False)
        assert "Refused: OutOfResources" in answer.stderr
        assert world.node.counters()["refused_storage"] == 1
        assert not stored_files(world.store)


def test_objects_other_than_images_are_stored_too(world: World) -> None:
    sr = ct_slice(0)
    sr.SOPClassUID = sr.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    scu = AE("CTSCANNER")
    scu.add_requested_context(sr.SOPClassUID, "1.2.840.10008.1.2.1")
    association = scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT")
    assert association.send_c_store(sr).Status == 0
    association.release()


def test_the_sink_gets_it_again_until_it_succeeds_and_after_a_restart(tmp_path: Path) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    calls = []

    def failing(instance: ReceivedInstance) -> None:
        calls.append(instance)
        raise OSError("database is away")

    broken = DicomNode(config(tmp_path), failing)
    broken.start()
    run("storescu", "-aet", "CTSCANNER", "-aec", "SPINEPRINT", "127.0.0.1", broken.port, file)
    wait_until(lambda: len(calls) >= 2, what="no second try")
    broken.stop()
    with node(tmp_path) as world:
        world.settled()
        assert [i.sop_instance_uid for i in world.sink.got] == [calls[0].sop_instance_uid]
        assert world.sink.got[0] == calls[0]
        assert not list((world.store / "pending").iterdir())


def test_silent_slow_and_oversized_clients_do_not_stop_others(tmp_path: Path) -> None:
    with node(tmp_path, pdu_timeout_s=0.5, acse_timeout_s=3.0, max_associations=8) as world:
        address = ("127.0.0.1", world.node.port)
        silent = [socket.create_connection(address) for _ in range(6)]
        slow = [socket.create_connection(address) for _ in range(12)]
        for client in slow:
            client.sendall(b"\x01\x00\x00")
        huge = socket.create_connection(address)
        huge.sendall(struct.pack(">BBI", 1, 0, 0xFFFFFFF0) + b"x" * 5000)
        dropped = time.monotonic()
        for client in (huge, *slow, *silent):
            client.settimeout(8)
            try:
                while client.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            client.close()
        assert time.monotonic() - dropped < 8
        run("echoscu", "-aec", "SPINEPRINT", *address)
        wait_until(lambda: world.node.counters()["faults"] >= 19)
        said = [event.what for event in world.node.take_events()]
        assert sum("sent nothing for 3 s" in what for what in said) == 6
        assert sum("did not finish a PDU within 0.5 s" in what for what in said) == 12
        assert sum("announced a PDU of 4294967280 bytes" in what for what in said) == 1


def test_a_request_that_comes_byte_by_byte_is_dropped_in_time(tmp_path: Path) -> None:
    with node(tmp_path, pdu_timeout_s=0.5) as world:
        client = socket.create_connection(("127.0.0.1", world.node.port))
        client.settimeout(5)
        start = time.monotonic()
        with pytest.raises(OSError):
            for byte in struct.pack(">BxI", 1, 500) + bytes(500):
                client.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - start < 5
        wait_until(lambda: world.node.counters()["faults"] == 1)
        client.close()


def test_associations_that_say_nothing_do_not_count_as_those_at_work(tmp_path: Path) -> None:
    with node(tmp_path, max_associations=2) as world:
        scu = AE("CTSCANNER")
        scu.add_requested_context(CT_IMAGE)
        address = ("127.0.0.1", world.node.port)
        silent = [scu.associate(*address, ae_title="SPINEPRINT") for _ in range(5)]
        assert all(association.is_established for association in silent)
        at_work = [scu.associate(*address, ae_title="SPINEPRINT") for _ in range(2)]
        assert all(association.send_c_store(ct_slice(n)).Status == 0 for n, association in enumerate(at_work))
        assert not scu.associate(*address, ae_title="SPINEPRINT").is_established
        assert world.node.counters()["rejected_limit"] == 1
        for association in (*silent, *at_work):
            association.release()


def test_port_in_use_is_said_in_words(tmp_path: Path) -> None:
    with node(tmp_path) as world:
        second = DicomNode(config(tmp_path, port=world.node.port, store_dir=tmp_path / "two"), Sink())
        with pytest.raises(ConfigError, match=str(world.node.port)):
            second.start()


def test_a_truncated_data_set_is_stored_as_it_came_and_refused_when_read(
    world: World, tmp_path: Path
) -> None:
    files = write_series(tmp_path / "ct", 12)
    files[4].write_bytes(files[4].read_bytes()[:-500])
    statuses = DicomSender("CTSCANNER").send(files, Destination("SPINEPRINT", "127.0.0.1", world.node.port))
    assert all(status.accepted for status in statuses)
    world.settled()
    stored = {i.sop_instance_uid: i.path for i in world.sink.got}
    assert wire_bytes(stored[f"{ROOT}.2.5"]) == wire_bytes(files[4])
    with pytest.raises(ImagingError, match="slice 5"):
        load_series(list(stored.values()))


def test_a_sender_that_hangs_up_in_the_middle_leaves_nothing_half_written(world: World) -> None:
    scu = AE("CTSCANNER")
    scu.add_requested_context(CT_IMAGE, "1.2.840.10008.1.2.1")
    association = scu.associate("127.0.0.1", world.node.port, ae_title="SPINEPRINT")
    wait_until(lambda: bool(world.node.open_associations()))
    # the first half of a P-DATA-TF PDU, then the connection is gone
    association.dul.socket.send(struct.pack(">BBI", 4, 0, 5000) + b"x" * 2000)
    association.dul.socket.close()
    wait_until(lambda: not world.node.open_associations())
    assert not stored_files(world.store)
    association.kill()


def test_parallel_senders(world: World, tmp_path: Path) -> None:
    for n in range(4):
        write_series(tmp_path / f"ct{n}", 15, series=f"{ROOT}.7{n}", size=64, seed=n + 1)
    threads = [threading.Thread(target=world.storescu, args=("+sd", tmp_path / f"ct{n}")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    world.settled()
    assert len(world.sink.uids) == 60
    assert world.node.counters()["received"] == 60


def test_orthanc_stores_to_us(tmp_path: Path) -> None:
    orthanc = need("Orthanc")
    files = write_series(tmp_path / "ct", 5, seed=2)
    http, dicom = free_port(), free_port()
    with node(tmp_path, peers=(Peer("PACS", "127.0.0.1", dicom, ("pacs",)),)) as world:
        settings = {
            "Name": "test",
            "StorageDirectory": str(tmp_path / "orthanc"),
            "IndexDirectory": str(tmp_path / "orthanc"),
            "HttpPort": http,
            "DicomPort": dicom,
            "DicomAet": "PACS",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "Plugins": [],
            "DicomModalities": {"spine": ["SPINEPRINT", "127.0.0.1", world.node.port]},
        }
        (tmp_path / "orthanc.json").write_text(json.dumps(settings))
        with running([orthanc, tmp_path / "orthanc.json"], lambda: listens(http)):
            url = f"http://127.0.0.1:{http}"
            assert requests.post(f"{url}/modalities/spine/echo", data="{}", timeout=10).ok
            for file in files:
                requests.post(f"{url}/instances", data=file.read_bytes(), timeout=10).raise_for_status()
            series = requests.get(f"{url}/series", timeout=10).json()
            done = requests.post(f"{url}/modalities/spine/store", json=series, timeout=30).json()
            assert (done["InstancesCount"], done["FailedInstancesCount"]) == (5, 0)
        world.settled()
        assert {wire_bytes(i.path) for i in world.sink.got} == {wire_bytes(f) for f in files}
        assert {i.calling_ae for i in world.sink.got} == {"PACS"}
