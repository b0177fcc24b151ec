"""DICOM over TLS with client certificates: DCMTK as client and server, certificates made by openssl."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pynetdicom import AE, evt

from adapters.dicom_node import DicomNode, DicomSender, NodeConfig
from adapters.dicom_node.commitment import CommitmentDesk
from adapters.dicom_node.commitment_content import PUSH_MODEL, PUSH_MODEL_INSTANCE, request_content
from adapters.dicom_node.commitment_scu import CommitmentScu
from adapters.dicom_node.holdings import StoreHoldings
from adapters.dicom_node.tls import TlsFiles, server_context
from service.errors import ConfigError
from service.ports import Destination, NodeEvent, Peer, ReceivedInstance
from tests.support_dicom import (
    CT_IMAGE,
    free_port,
    listens,
    need,
    run,
    running,
    wait_until,
    wire_bytes,
    write_series,
)

CT = Peer("CTSCANNER", "127.0.0.1", 0, ("planning_ct",))


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir()
        self.folder, self.name = folder, name
        self.ca = folder / "ca.pem"
        run("openssl", "req", "-x509", *self._key("ca"), "-out", self.ca, "-subj", f"/CN={name}", "-days", 2)

    def _key(self, name: str) -> Sequence[object]:
        return (
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            self.folder / f"{name}.key",
        )

    def issue(self, name: str, trusted: Path | None = None) -> TlsFiles:
        request, certificate = self.folder / f"{name}.csr", self.folder / f"{name}.pem"
        run("openssl", "req", *self._key(name), "-out", request, "-subj", f"/CN={name}")
        run(
            "openssl", "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.folder / "ca.key",
            "-CAcreateserial", "-out", certificate, "-days", 2,
        )  # fmt: skip
        return TlsFiles(certificate, self.folder / f"{name}.key", trusted or self.ca)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki") / "hospital", "Hospital CA")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory, hospital: Authority) -> TlsFiles:
    """Trusts the hospital, but nobody there signed it."""
    other = Authority(tmp_path_factory.mktemp("pki") / "stranger", "Somebody's own CA")
    return other.issue("client", trusted=hospital.ca)


@pytest.fixture(scope="module")
def server(hospital: Authority) -> TlsFiles:
    return hospital.issue("spineprint")


@pytest.fixture(scope="module")
def client(hospital: Authority) -> TlsFiles:
    return hospital.issue("scanner")


class World:
    def __init__(self, node: DicomNode, got: list[ReceivedInstance]) -> None:
        self.node, self.got = node, got
        self.events: list[NodeEvent] = []

    @property
    def port(self) -> int:
        assert self.node.tls_port
        return self.node.tls_port

    def faults(self) -> list[str]:
        """What the events say about TLS, with the address."""
        self.events += self.node.take_events()
        return [f"{e.address} {e.what}" for e in self.events if e.kind == "tls_faults"]

    def serial(self, trusted: TlsFiles) -> str:
        """Serial number of the certificate the node shows."""
        with shaken(self.port, trusted) as wire:
            shown = wire.getpeercert()
            assert shown is not None
            return str(shown["serialNumber"])


@contextmanager
def node(tmp_path: Path, tls: TlsFiles, **changes: object) -> Iterator[World]:
    got: list[ReceivedInstance] = []
    settings = NodeConfig(
        "127.0.0.1",
        0,
        tmp_path / "store",
        tls_port=0,
        tls=tls,
        peers=(CT,),
        disk_reserve_bytes=1 << 20,
    )
    started = DicomNode(replace(settings, **changes), got.append)
    started.start()
    try:
        yield World(started, got)
    finally:
        started.stop()


@contextmanager
def shaken(
    port: int, files: TlsFiles | None, *, version: ssl.TLSVersion | None = None, ciphers: str = ""
) -> Iterator[ssl.SSLSocket]:
    """A TLS client after its handshake; the certificate is shown when `files` are given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if files is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(files.ca)
        context.load_cert_chain(files.certificate, files.key)
    if ciphers:
        context.set_ciphers(ciphers)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", port), 5) as plain, context.wrap_socket(plain) as wire:
        yield wire


def with_tls(program: str, files: TlsFiles, port: int, *arguments: object, check: bool = True):
    return run(
        program, "+tls", files.key, files.certificate, "+cf", files.ca,
        "-aet", "CTSCANNER", "-aec", "SPINEPRINT", "127.0.0.1", port, *arguments, check=check,
    )  # fmt: skip


def test_storescu_with_a_client_certificate(tmp_path: Path, server: TlsFiles, client: TlsFiles) -> None:
    files = write_series(tmp_path / "ct", 12, seed=1)
    with node(tmp_path, server) as world:
        with_tls("echoscu", client, world.port)
        with_tls("storescu", client, world.port, "+sd", tmp_path / "ct")
        wait_until(lambda: len(world.got) == 12)
        # the plain port goes on beside it
        run("echoscu", "-aec", "SPINEPRINT", "127.0.0.1", world.node.port)
        assert world.node.port != world.port
        assert world.faults() == []
    assert sorted(wire_bytes(i.path) for i in world.got) == sorted(wire_bytes(f) for f in files)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_that_bcp_195_allows(
    tmp_path: Path, server: TlsFiles, client: TlsFiles, version: ssl.TLSVersion
) -> None:
    with node(tmp_path, server) as world, shaken(world.port, client, version=version) as wire:
        assert wire.version() == version.name.replace("_", ".")
        name, _, bits = wire.cipher() or ("", "", 0)
        assert bits >= 128 and ("GCM" in name or "CHACHA20" in name)


def test_who_may_call_is_checked_over_tls_too(tmp_path: Path, server: TlsFiles, client: TlsFiles) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    with node(tmp_path, server, peers=()) as world:
        refused = with_tls("storescu", client, world.port, file, check=False)
        assert "Calling AE Title Not Recognized" in refused.stderr
        assert world.node.counters()["rejected_calling_ae"] == 1


def test_clients_without_or_with_a_foreign_certificate_are_refused_and_named(
    tmp_path: Path,
    server: TlsFiles,
    client: TlsFiles,
    stranger: TlsFiles,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    with node(tmp_path, server) as world, caplog.at_level(logging.WARNING, "spineprint.dicom"):
        anonymous = run(
            "storescu", "+tla", "-ic", "-aet", "CTSCANNER", "-aec", "SPINEPRINT", "127.0.0.1", world.port,
            file, check=False,
        )  # fmt: skip
        assert anonymous.returncode != 0
        assert with_tls("storescu", stranger, world.port, file, check=False).returncode != 0
        assert world.node.counters()["tls_faults"] == 2
        without, foreign = world.faults()
        assert without.startswith("127.0.0.1 ") and "CERTIFICATE" in without.upper()
        assert "CERTIFICATE_VERIFY_FAILED" in foreign
        assert all("tls_ca" in e.next_step for e in world.events if e.kind == "tls_faults")
        with_tls("echoscu", client, world.port)
        assert world.got == []
    assert caplog.text.count("at 127.0.0.1: the TLS handshake failed") == 2


@pytest.mark.parametrize(
    ("version", "ciphers", "alert"),
    [
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0", "PROTOCOL_VERSION"),
        # without forward secrecy, without authenticated encryption
        (ssl.TLSVersion.TLSv1_2, "AES128-GCM-SHA256", "HANDSHAKE_FAILURE"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AES+SHA256:ECDHE+AES+SHA1:@SECLEVEL=0", "HANDSHAKE_FAILURE"),
    ],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_old_versions_and_weak_ciphers_are_refused(
    tmp_path: Path, server: TlsFiles, client: TlsFiles, version: ssl.TLSVersion, ciphers: str, alert: str
) -> None:
    # the alert comes from the node: the client itself would have gone on
    with (
        node(tmp_path, server) as world,
        pytest.raises(ssl.SSLError, match=alert),
        shaken(world.port, client, version=version, ciphers=ciphers),
    ):
        pytest.fail("the handshake went through")


def test_silent_and_stalled_handshakes_are_dropped_in_time_and_block_nobody(
    tmp_path: Path, server: TlsFiles, client: TlsFiles, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        node(tmp_path, server, handshake_timeout_s=3.0, max_associations=4) as world,
        caplog.at_level(logging.WARNING, "spineprint.dicom"),
    ):
        address = ("127.0.0.1", world.port)
        silent = [socket.create_connection(address) for _ in range(20)]
        stalled = [socket.create_connection(address) for _ in range(5)]
        for sock in stalled:
            # the head of a ClientHello record that never comes
            sock.sendall(b"\x16\x03\x01\x02\x00\x01")
        begun = time.monotonic()
        with_tls("echoscu", client, world.port)
        assert time.monotonic() - begun < 2.8, "it had to wait for the silent ones"
        drip = stalled[0]
        for sock in (*silent, *stalled):
            sock.settimeout(8)
            with suppress(OSError):
                # a byte now and then does not buy more time
                drip.sendall(b"\0")
            with suppress(ConnectionResetError):
                assert sock.recv(100) == b""
            sock.close()
        assert time.monotonic() - begun < 7
        wait_until(lambda: world.node.counters()["tls_faults"] == 25)
        assert all(fault.startswith("127.0.0.1 ") and "3 s" in fault for fault in world.faults())
    assert "unnamed client at 127.0.0.1: the TLS handshake failed: not finished within 3 s" in caplog.text


def test_the_wrong_door_is_noticed(tmp_path: Path, server: TlsFiles, client: TlsFiles) -> None:
    with node(tmp_path, server, pdu_timeout_s=2.0, acse_timeout_s=2.0) as world:
        plain = run("echoscu", "-aec", "SPINEPRINT", "127.0.0.1", world.port, check=False)
        assert plain.returncode != 0
        wait_until(lambda: bool(world.faults()))
        secure = with_tls("echoscu", client, world.node.port, check=False)
        assert secure.returncode != 0
        wait_until(lambda: world.node.counters().get("faults", 0) >= 1)
        with_tls("echoscu", client, world.port)


def test_a_renewed_certificate_is_used_by_the_next_connection(
    tmp_path: Path, hospital: Authority, client: TlsFiles
) -> None:
    live = tmp_path / "live"
    live.mkdir()
    files = TlsFiles(live / "cert.pem", live / "key.pem", live / "ca.pem")

    def install(issued: TlsFiles) -> None:
        for source, target in (
            (issued.certificate, files.certificate),
            (issued.key, files.key),
            (issued.ca, files.ca),
        ):
            shutil.copy(source, live / "new")
            (live / "new").replace(target)

    install(hospital.issue("first"))
    with node(tmp_path, files) as world:
        first = world.serial(client)
        install(hospital.issue("second"))
        second = world.serial(client)
        assert first != second
        # half a renewal: the old one stays in use, and somebody hears of it
        files.certificate.write_text("not a certificate")
        assert world.serial(client) == second
        assert any("renewed TLS files cannot be used" in fault for fault in world.faults())
        install(hospital.issue("third"))
        assert world.serial(client) not in (first, second)
        with_tls("echoscu", client, world.port)


def test_files_that_cannot_be_used_are_said_at_the_start(tmp_path: Path, server: TlsFiles) -> None:
    absent = replace(server, key=tmp_path / "absent.key")
    with pytest.raises(ConfigError, match="TLS files"), node(tmp_path, absent):
        pytest.fail("it started")


# --- we call --------------------------------------------------------------------------------------------------


@contextmanager
def storescp(folder: Path, files: TlsFiles) -> Iterator[Destination]:
    port = free_port()
    folder.mkdir()
    command = [
        need("storescp"), "+tls", files.key, files.certificate, "+cf", files.ca, "-rc",
        "-aet", "SINK", "+xa", "-B", "-od", folder, port,
    ]  # fmt: skip
    with running(command, lambda: listens(port)):
        yield Destination("SINK", "127.0.0.1", port, tls=True)


def test_our_sender_shows_its_certificate_and_checks_theirs(
    tmp_path: Path, hospital: Authority, server: TlsFiles, stranger: TlsFiles
) -> None:
    files = write_series(tmp_path / "ct", 3)
    with storescp(tmp_path / "received", hospital.issue("sink")) as destination:
        assert DicomSender(tls=server).echo(destination)
        statuses = DicomSender(tls=server).send(files, destination)
        assert [s.status for s in statuses] == [0, 0, 0]
        received = sorted(wire_bytes(f) for f in (tmp_path / "received").iterdir())
        assert received == sorted(wire_bytes(f) for f in files)

        unsigned = DicomSender(tls=stranger, acse_timeout_s=5).send(files[:1], destination)
        assert [s.status for s in unsigned] == [None], "they did not check ours"
        with pytest.raises(ConfigError, match="certificate"):
            DicomSender().send(files[:1], destination)
        plain = DicomSender(acse_timeout_s=5).send(files[:1], replace(destination, tls=False))
        assert plain[0].status is None


def test_our_sender_does_not_talk_to_a_server_nobody_signed(
    tmp_path: Path, hospital: Authority, server: TlsFiles, stranger: TlsFiles
) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    with storescp(tmp_path / "received", stranger) as destination:
        (status,) = DicomSender(tls=server, acse_timeout_s=5).send([file], destination)
        assert status.status is None and status.detail
    assert not list((tmp_path / "received").iterdir())


def test_storage_commitment_over_tls_both_ways(tmp_path: Path, hospital: Authority, server: TlsFiles) -> None:
    reported: list[str] = []

    def on_report(event: evt.Event) -> tuple[int, None]:
        reported.append(str(event.event_information.TransactionUID))
        return 0x0000, None

    entity = AE("PACS")
    entity.add_supported_context(PUSH_MODEL, scu_role=True, scp_role=True)
    archive = entity.start_server(
        ("127.0.0.1", 0),
        block=False,
        ssl_context=server_context(hospital.issue("pacs")),
        evt_handlers=[
            (evt.EVT_N_EVENT_REPORT, on_report),
            (evt.EVT_N_ACTION, lambda event: (0x0000, None)),
        ],
    )
    destination = Destination("PACS", "127.0.0.1", int(archive.server_address[1]), tls=True)
    events: list[NodeEvent] = []
    desk = CommitmentDesk(
        StoreHoldings(tmp_path / "store", settle=lambda timeout_s: True),
        tmp_path / "commitment",
        ae_title="SPINEPRINT",
        peers=[Peer("PACS", destination.host, destination.port, tls=True)],
        tls=server,
        now=lambda: datetime.now(UTC),
        on_event=events.append,
    )
    try:
        assert CommitmentScu(tls=server).ask([(CT_IMAGE, "1.2.1")], destination, "1.2.9").accepted
        desk.start()
        asked = request_content("1.2.8", [(CT_IMAGE, "1.2.1")])
        status = desk.action(
            calling_ae="PACS", address="127.0.0.1", sop_class_uid=PUSH_MODEL,
            sop_instance_uid=PUSH_MODEL_INSTANCE, action_type=1, dataset=asked,
        )  # fmt: skip
        assert status == (0x0000, "")
        wait_until(lambda: reported == ["1.2.8"])
    finally:
        desk.stop()
        archive.shutdown()
        archive.server_close()
    assert [event.kind for event in events] == ["commitment_unsafe"]
