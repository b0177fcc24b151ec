"""Our STOW-RS client: into a real Orthanc with its DICOMweb plugin, and against every answer a server may give."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
import respx

from adapters.dicom_web import StowSender, StowTarget
from service.errors import ConfigError
from service.ports import Destination, StoreStatus
from tests.support_dicom import ct_slice, free_port, need, save, wire_bytes, write_series
from tests.support_pacs import orthanc

HERE = Destination("VNA", "", 0)
URL = "http://vna.test/dicom-web"


def _uid(path: Path) -> str:
    return str(pydicom.dcmread(path).SOPInstanceUID)


# --- a real server ------------------------------------------------------------------------------------------


def test_files_arrive_byte_for_byte_and_a_retry_makes_no_duplicate(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 3, size=64)
    with orthanc(tmp_path / "pacs", plugins=True) as pacs:
        sender = StowSender(StowTarget("VNA", pacs.web_url))
        assert sender.echo(HERE)
        first = sender.send(files, HERE)
        again = sender.send(files, HERE)
        assert [s.accepted for s in (*first, *again)] == [True] * 6, (first, again)
        assert [s.sop_instance_uid for s in first] == [_uid(f) for f in files]
        kept = pacs.instances()
    assert sorted(kept) == sorted(_uid(f) for f in files)
    for file in files:
        (tmp_path / "back").write_bytes(kept[_uid(file)])
        assert wire_bytes(tmp_path / "back") == wire_bytes(file)


def test_one_bad_file_spoils_only_itself_at_a_real_server(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 2)
    # A file meta that reads well, and nothing behind it that any server could take.
    broken = save(ct_slice(7), tmp_path / "broken")
    broken.write_bytes(broken.read_bytes()[:340])
    with orthanc(tmp_path / "pacs", plugins=True) as pacs:
        sender = StowSender(StowTarget("VNA", pacs.web_url))
        statuses = sender.send([files[0], broken, files[1], tmp_path / "absent"], HERE)
        kept = pacs.instances()
    assert [s.accepted for s in statuses] == [True, False, True, False], statuses
    # Orthanc says 400 for the request and does not name the bad one: it is found by sending each for itself.
    assert statuses[1].permanent and "400" in statuses[1].detail
    assert statuses[3].permanent
    assert sorted(kept) == sorted(_uid(f) for f in files)


def test_a_wrong_password_is_said_and_passes(tmp_path: Path) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    with orthanc(tmp_path / "pacs", plugins=True, auth=("spine", "right")) as pacs:
        sender = StowSender(StowTarget("VNA", pacs.web_url, "spine", secret))
        (status,) = sender.send([file], HERE)
        assert (status.accepted, status.permanent) == (False, False)
        assert "user or password" in status.detail
        assert not sender.echo(HERE)
        secret.write_text("right\n")  # read anew, without a restart
        assert sender.send([file], HERE)[0].accepted


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        [need("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate


@contextmanager
def _tls_in_front_of(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """A reverse proxy as hospitals put in front of a PACS (Debian's Orthanc crashes on TLS of its own)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while block := await source.read(65536):
            target.write(block)
            await target.drain()
        target.close()

    async def handle(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        behind = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(source, behind[1]), copy(behind[0], target), return_exceptions=True)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    opened = asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    server = asyncio.run_coroutine_threadsafe(opened, loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def test_https_with_the_hospitals_own_authority(tmp_path: Path) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    key, certificate = _certificate(tmp_path, "server")
    _, stranger = _certificate(tmp_path, "stranger")
    with orthanc(tmp_path / "pacs", plugins=True) as pacs:
        http = int(pacs.url.rpartition(":")[2])
        with _tls_in_front_of(http, certificate, key) as port:
            url = f"https://127.0.0.1:{port}/dicom-web"
            for ca in (stranger, None):
                (status,) = StowSender(StowTarget("VNA", url, ca_file=ca)).send([file], HERE)
                assert status.status is None and "certificate" in status.detail, status
            assert pacs.get("/instances") == []
            assert StowSender(StowTarget("VNA", url, ca_file=certificate)).send([file], HERE)[0].accepted
            assert len(pacs.get("/instances")) == 1


def test_unusable_password_or_ca_files_are_faults_of_the_configuration(tmp_path: Path) -> None:
    (file,) = write_series(tmp_path / "ct", 1)
    (tmp_path / "ca").write_text("not a certificate")
    for target in (
        StowTarget("VNA", URL, "spine", tmp_path / "absent"),
        StowTarget("VNA", URL, ca_file=tmp_path / "absent"),
        StowTarget("VNA", URL, ca_file=tmp_path / "ca"),
    ):
        with pytest.raises(ConfigError, match="VNA"):
            StowSender(target).send([file], HERE)


def test_no_server_and_a_silent_one_give_no_answer_in_bounded_time(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 2)
    closed = StowSender(StowTarget("VNA", f"http://127.0.0.1:{free_port()}/dicom-web"))
    assert [s.status for s in closed.send(files, HERE)] == [None, None]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/dicom-web"
        quick = StowSender(StowTarget("VNA", url), answer_timeout_s=0.5)
        statuses = quick.send(files, HERE)
    assert [(s.status, s.detail) for s in statuses] == [(None, "no answer in time")] * 2


def test_a_server_that_hangs_up_in_the_middle_gives_no_answer(tmp_path: Path) -> None:
    files = [save(ct_slice(0, size=1024), tmp_path / "large")]
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            peer, _ = server.accept()
            peer.recv(1000)
            peer.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        (status,) = StowSender(StowTarget("VNA", url)).send(files, HERE)
        thread.join(5)
    assert status.status is None and "lost" in status.detail


# --- what servers answer ------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_series(tmp_path / "ct", 2)


def _sequence(uid: str, tag: str, number: int) -> dict[str, Any]:
    return {"00081150": {"vr": "UI", "Value": ["1.2"]}, "00081155": {"vr": "UI", "Value": [uid]},
            tag: {"vr": "US", "Value": [number]}}  # fmt: skip


def _body(stored: dict[str, int], failed: dict[str, int]) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if stored:
        items = [_sequence(u, "00081196", w) for u, w in stored.items()]
        body["00081199"] = {"vr": "SQ", "Value": items}
    if failed:
        items = [_sequence(u, "00081197", r) for u, r in failed.items()]
        body["00081198"] = {"vr": "SQ", "Value": items}
    return body


def _answer(files: list[Path], status: int, **options: Any) -> list[StoreStatus]:
    with respx.mock(assert_all_called=False) as router:
        router.post(f"{URL}/studies").respond(status, **options)
        return list(StowSender(StowTarget("VNA", URL)).send(files, HERE))


def test_the_request_is_what_the_standard_asks_for(files: list[Path]) -> None:
    with respx.mock() as router:
        route = router.post(f"{URL}/studies").respond(200, json={})
        StowSender(StowTarget("VNA", URL + "/")).send(files, HERE)
        request = route.calls.last.request
    kind, _, boundary = request.headers["content-type"].rpartition("=")
    assert kind == 'multipart/related; type="application/dicom"; boundary'
    assert request.headers["accept"] == "application/dicom+json"
    assert int(request.headers["content-length"]) == len(request.content)
    assert "transfer-encoding" not in request.headers
    parts = request.content.split(b"--" + boundary.encode())
    assert parts[0] == b"" and parts[-1] == b"--\r\n"
    for part, file in zip(parts[1:-1], files, strict=True):
        assert part == b"\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() + b"\r\n"


@pytest.mark.parametrize(
    ("reason", "accepted", "permanent"),
    [(0xA700, False, False), (0xA900, False, True), (0xC122, False, True), (0x0122, False, True),
     (0x0110, False, False), (0x0111, True, False), (0x0124, False, False), (0xB00E, True, False)],
)  # fmt: skip
def test_each_instance_has_its_own_status(
    files: list[Path], reason: int, accepted: bool, permanent: bool
) -> None:
    good, bad = (_uid(f) for f in files)
    statuses = _answer(files, 202, json=_body({good: 0}, {bad: reason}))
    assert [s.sop_instance_uid for s in statuses] == [good, bad]
    assert [s.status for s in statuses] == [0, reason]
    assert (statuses[1].accepted, statuses[1].permanent) == (accepted, permanent)


def test_a_warning_is_stored_and_shown(files: list[Path]) -> None:
    one, two = (_uid(f) for f in files)
    statuses = _answer(files, 202, json=_body({one: 0xB000, two: 7}, {}))
    assert [s.status for s in statuses] == [0xB000, 0]


def test_409_with_reasons_and_without(files: list[Path]) -> None:
    one, two = (_uid(f) for f in files)
    statuses = _answer(files, 409, json=_body({}, {one: 0xA900, two: 0xA700}))
    assert [s.permanent for s in statuses] == [True, False]
    assert [(s.accepted, s.permanent) for s in _answer(files, 409)] == [(False, False)] * 2


def test_what_the_answer_does_not_name_is_not_taken_for_stored(files: list[Path]) -> None:
    one, _two = (_uid(f) for f in files)
    statuses = _answer(files, 202, json=_body({one: 0}, {}))
    assert [s.status for s in statuses] == [0, None]
    # 200 says that all of them are stored; with a failure beside it, it does not.
    assert [s.status for s in _answer(files, 200, json=_body({one: 0}, {}))] == [0, 0]
    assert [s.status for s in _answer(files, 200, json=_body({}, {one: 0xA700}))] == [0xA700, None]


def test_an_answer_in_another_form_counts_by_its_status(files: list[Path]) -> None:
    xml = b"<NativeDicomModel/>"
    assert [s.status for s in _answer(files, 200, content=xml)] == [0, 0]
    assert [s.status for s in _answer(files, 202, content=xml)] == [None, None]


@pytest.mark.parametrize("status", [301, 401, 403, 404, 405, 408, 429, 500, 502, 503, 507])
def test_faults_of_address_login_or_moment_pass(files: list[Path], status: int) -> None:
    for found in _answer(files, status, headers={"Location": "http://elsewhere.test/"}):
        assert (found.accepted, found.permanent) == (False, False)
        assert str(status) in found.detail


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_refused_request_is_repeated_one_by_one_to_find_the_culprit(files: list[Path], status: int) -> None:
    bad = _uid(files[1]).encode()

    def judge(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status) if bad in request.content else httpx.Response(200, json={})

    with respx.mock() as router:
        route = router.post(f"{URL}/studies").mock(side_effect=judge)
        statuses = StowSender(StowTarget("VNA", URL)).send(files, HERE)
        assert route.call_count == 3
    assert [s.accepted for s in statuses] == [True, False]
    assert statuses[1].permanent and str(status) in statuses[1].detail


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"[" * 100_000, b'{"00081199": 3}', b'{"00081199": {"Value": [3, null, {"00081155": 1}]}}',
     b'{"00081198": {"Value": [{"00081155": {"Value": ["1"]}, "00081197": {"Value": ["x", -1, 99999999]}}]}}',
     b"\xff\xfe", b"x" * (9 << 20)],
)  # fmt: skip
def test_no_answer_whatever_breaks_the_client(files: list[Path], body: bytes) -> None:
    assert [s.accepted for s in _answer(files, 202, content=body)] == [False, False]


def test_large_files_go_in_requests_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.dicom_web.stow._MOST_BYTES", 10_000)
    files = [save(ct_slice(n, size=64), tmp_path / f"{n}") for n in range(3)]
    with respx.mock() as router:
        route = router.post(f"{URL}/studies").respond(200, json={})
        assert [s.accepted for s in StowSender(StowTarget("VNA", URL)).send(files, HERE)] == [True] * 3
        assert route.call_count == 3


def test_the_environments_proxy_is_not_used(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    one, two = (_uid(f) for f in files)
    body = json.dumps(_body({one: 0, two: 0}, {})).encode()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                got = b""
                while not got.endswith(b"--\r\n"):
                    got += peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert [s.status for s in StowSender(StowTarget("VNA", url)).send(files, HERE)] == [0, 0]
        thread.join(5)
