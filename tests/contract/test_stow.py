"""STOW-RS over real HTTP: with a client that others wrote, with hand-made requests, and with hostile ones."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from requests import HTTPError

from service.store import audit, studies
from service.store.database import reading
from service.web import receiving
from service.web.limits import LARGEST_BODY
from tests.support_app import STUDY, Rig, make_rig
from tests.support_dicom import CT_IMAGE, ROOT, wait_until, wire_bytes
from tests.support_web import BOUNDARY, STOW_TYPE, DoorRig, ct_file, related, served_door, stow

STORED, FAILED, OTHER = "00081199", "00081198", "0008119A"


@pytest.fixture
def served(rig: Rig) -> Iterator[DoorRig]:
    with served_door(rig) as made:
        yield made


def uids(answer: httpx.Response, sequence: str) -> list[str]:
    assert answer.headers["content-type"] == "application/dicom+json"
    return [item["00081155"]["Value"][0] for item in answer.json().get(sequence, {}).get("Value", [])]


def reasons(answer: httpx.Response, sequence: str = FAILED) -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json()[sequence]["Value"]]


def images(folder: Path, count: int, **options: Any) -> list[bytes]:
    return [ct_file(folder, index, **options).read_bytes() for index in range(count)]


# --- a client that others wrote -------------------------------------------------------------------------------


def web_client(served: DoorRig, secret_of: httpx.Client) -> DICOMwebClient:
    return DICOMwebClient(
        url=f"{served.url}/dicom-web", headers={"Authorization": secret_of.headers["authorization"]}
    )


def test_dicomweb_client_stores_a_study_with_a_machines_token(served: DoorRig, tmp_path: Path):
    files = [ct_file(tmp_path, index, size=64) for index in range(20)]
    client = web_client(served, served.machine("dicom_web"))
    answer = client.store_instances([dcmread(f) for f in files])
    assert len(answer.ReferencedSOPSequence) == 20
    assert "FailedSOPSequence" not in answer
    kept = served.instances(STUDY)
    assert {wire_bytes(Path(k.path)) for k in kept} == {wire_bytes(f) for f in files}
    with reading(served.rig.app.engine) as connection:
        assert studies.need(connection, STUDY).calling_ae == "WEB:dicom_web"
        rows = audit.history(connection, f"study:{STUDY}")
    uploaded = [r for r in rows if r.event == "images_uploaded"]
    assert [(r.actor, r.data["way"]) for r in uploaded] == [("token:dicom_web", "stow")]


def test_dicomweb_client_hears_of_the_wrong_study(served: DoorRig, tmp_path: Path):
    client = web_client(served, served.machine("dicom_web"))
    good, other = (dcmread(ct_file(tmp_path, i, study=f"{ROOT}.{i + 5}")) for i in range(2))
    answer = client.store_instances([good, other], study_instance_uid=f"{ROOT}.5")
    assert [str(i.ReferencedSOPInstanceUID) for i in answer.ReferencedSOPSequence] == [good.SOPInstanceUID]
    assert [i.FailureReason for i in answer.FailedSOPSequence] == [0xA900]
    with pytest.raises(HTTPError) as refused:
        client.store_instances([other], study_instance_uid=f"{ROOT}.5")
    assert refused.value.response.status_code == 409


# --- statuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sorted_between", [False, True])
def test_all_stored_is_200_and_again_is_200(served: DoorRig, tmp_path: Path, sorted_between: bool):
    client, parts = served.machine("dicom_web"), images(tmp_path, 3)
    for _ in range(2):
        answer = stow(client, related(*parts))
        assert answer.status_code == 200
        assert uids(answer, STORED) == [f"{ROOT}.2.{n}" for n in (1, 2, 3)]
        assert answer.json()[STORED]["Value"][0]["00081150"] == {"vr": "UI", "Value": [CT_IMAGE]}
        assert set(answer.json()) == {"00081190", STORED}
        if sorted_between:
            served.settle()  # now the study knows them, and the door is not asked to keep them again
    assert len(served.instances(STUDY)) == 3
    metrics = served.machine("metrics").get("/metrics").text
    assert 'spineprint_web_images_total{event="received"} 6.0' in metrics
    assert 'spineprint_web_images_total{event="duplicates"} 3.0' in metrics


def test_part_stored_is_202_and_names_each_with_its_reason(served: DoorRig, tmp_path: Path):
    good = images(tmp_path / "a", 1)[0]
    mesh = ct_file(tmp_path / "b", 1, SOPClassUID="1.2.3").read_bytes()
    syntax = ct_file(tmp_path / "c", 2).read_bytes()
    syntax = syntax.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.9\0", 1)
    answer = stow(served.person(), related(good, mesh, syntax, b"not DICOM at all"))
    assert answer.status_code == 202
    assert uids(answer, STORED) == [f"{ROOT}.2.1"]
    assert sorted(reasons(answer)) == [0x0122, 0xC122]
    assert reasons(answer, OTHER) == [0xC000]


def test_none_stored_is_409(served: DoorRig, tmp_path: Path):
    answer = stow(served.person(), related(b"x", b""))
    assert (answer.status_code, reasons(answer, OTHER)) == (409, [0xC000, 0xC000])
    answer = stow(
        served.person("surgeon"), related(*images(tmp_path, 1)), path=f"/dicom-web/studies/{ROOT}.99"
    )
    assert (answer.status_code, reasons(answer)) == (409, [0xA900])


def test_a_header_that_names_another_object_is_a_warning(served: DoorRig, tmp_path: Path):
    uid = f"{ROOT}.2.1".encode()
    part = images(tmp_path, 1)[0].replace(uid, b"9" + uid[1:], 1)
    answer = stow(served.person(), related(part))
    assert answer.status_code == 202
    assert uids(answer, STORED) == [f"{ROOT}.2.1"]
    assert answer.json()[STORED]["Value"][0]["00081196"] == {"vr": "US", "Value": [0xB007]}


def test_below_the_disk_reserve_is_507_with_retry_after(tmp_path: Path):
    rig = make_rig(tmp_path)
    with served_door(rig, disk_reserve_bytes=1 << 60) as served:
        parts = images(tmp_path, 2)
        answer = stow(served.person(), related(*parts))
        assert answer.status_code == 507
        assert int(answer.headers["retry-after"]) > 0
        assert reasons(answer, OTHER) == [0xA700, 0xA700]
        assert served.instances(STUDY) == []
        assert list(served.door.scratch.iterdir()) == []
    rig.app.engine.dispose()


@pytest.mark.parametrize(
    ("content_type", "status", "code"),
    [
        ("application/dicom", 415, "stow.media_type"),
        ("application/json", 415, "stow.media_type"),
        ("", 415, "stow.media_type"),
        ('multipart/related; type="application/dicom+json"; boundary=b', 415, "stow.media_type"),
        ('multipart/related; type="application/dicom"', 400, "upload.multipart"),
        ('multipart/related; type="application/dicom"; boundary=other', 400, "upload.multipart"),
        (f"multipart/related; boundary={BOUNDARY}", 200, ""),
    ],
)
def test_content_types(served: DoorRig, tmp_path: Path, content_type: str, status: int, code: str):
    body = related(*images(tmp_path, 1))
    answer = served.person().post(
        "/dicom-web/studies", content=body, headers={"Content-Type": content_type} if content_type else {}
    )
    assert answer.status_code == status, answer.text
    if code:
        assert answer.json()["code"] == code
        assert answer.json()["next_step"]


def test_parts_of_another_kind_fail_alone(served: DoorRig, tmp_path: Path):
    image = images(tmp_path, 1)[0]
    body = related(image, end=False) + related(image, headers={"Content-Type": "application/json"})
    answer = stow(served.person(), body)
    assert (answer.status_code, reasons(answer, OTHER)) == (202, [0xC000])


# --- who may --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("who", "status"),
    [("planner", 200), ("technician", 200), ("surgeon", 200), ("admin", 200), ("theatre-nurse", 403),
     ("cssd-technician", 403)],
)  # fmt: skip
def test_people_by_their_roles(served: DoorRig, tmp_path: Path, who: str, status: int):
    assert stow(served.person(who), related(*images(tmp_path, 1))).status_code == status


@pytest.mark.parametrize("scope", ["board", "or_terminal", "metrics"])
def test_a_screens_token_stores_nothing(served: DoorRig, tmp_path: Path, scope: str):
    answer = stow(served.machine(scope), related(*images(tmp_path, 1)))
    assert (answer.status_code, answer.json()["code"]) == (403, "auth.scope")
    assert served.instances(STUDY) == []


def test_a_client_that_knows_only_basic_credentials(served: DoorRig, tmp_path: Path):
    secret = served.machine("dicom_web").headers["authorization"].removeprefix("Bearer ")
    body, stranger = related(*images(tmp_path, 1)), served.client()
    for password, status in ((secret, 200), ("guessed", 401), ("", 401)):
        stranger.auth = ("pacs", password)
        assert stow(stranger, body).status_code == status
    stranger.auth = None
    for header in ("Basic", "Basic %%%", "Basic /w==", "Basic cGFjcw==", "Digest x"):
        stranger.headers["authorization"] = header
        assert stow(stranger, body).status_code == 401


def test_strangers_store_nothing(served: DoorRig, tmp_path: Path):
    body = related(*images(tmp_path, 1))
    assert stow(served.client(), body).status_code == 401
    assert stow(served.client("guessed"), body).status_code == 401
    assert stow(served.client(), b"x" * (LARGEST_BODY + 1)).status_code == 413
    assert list(served.door.scratch.iterdir()) == []


@pytest.mark.parametrize(
    "path",
    ["/api/v1/cases", "/api/v1/studies", "/metrics", "/api/v1/uploads/studies?study=1", "/api/v1/printers"],
)
def test_the_machines_token_reads_nothing(served: DoorRig, path: str):
    assert served.machine("dicom_web").get(path).status_code == 403


def test_the_machines_token_is_for_stow_only(served: DoorRig, tmp_path: Path):
    client = served.machine("dicom_web")
    answer = client.post("/api/v1/uploads", files=[("file", ("x", images(tmp_path, 1)[0]))])
    assert (answer.status_code, answer.json()["code"]) == (403, "auth.scope")
    assert client.post("/api/v1/cases/x/resume").status_code == 403


# --- hostile --------------------------------------------------------------------------------------------------


def test_ten_thousand_tiny_parts(served: DoorRig, tmp_path: Path):
    image = images(tmp_path, 1)[0]
    answer = stow(served.person(), related(*[b"x"] * 10_000, image))
    assert (answer.status_code, uids(answer, STORED)) == (202, [f"{ROOT}.2.1"])
    assert len(answer.json()[OTHER]["Value"]) == 10_000


@pytest.mark.parametrize("extra", [b"X: " + b"y" * 100_000, b"X: y\r\n" * 5000, b"\xff\x00: y", b": y"])
def test_giant_and_broken_part_headers(served: DoorRig, extra: bytes):
    body = b"--" + BOUNDARY.encode() + b"\r\n" + extra + b"\r\n\r\nx\r\n--" + BOUNDARY.encode() + b"--\r\n"
    answer = stow(served.person(), body)
    assert (answer.status_code, answer.json()["code"]) == (400, "upload.multipart")


def test_a_body_without_its_end_keeps_what_came_whole_and_says_so(served: DoorRig, tmp_path: Path):
    first, second = images(tmp_path, 2)
    answer = stow(served.person(), related(first, second)[: -len(second) // 2])
    assert (answer.status_code, uids(answer, STORED)) == (202, [f"{ROOT}.2.1"])
    assert reasons(answer, OTHER) == [0xC000]
    assert [i.sop_uid for i in served.instances(STUDY)] == [f"{ROOT}.2.1"]


def test_a_sender_that_hangs_up_leaves_what_it_sent_whole(
    served: DoorRig, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, logger="spineprint.intake")
    client, (first, second) = served.person(), images(tmp_path, 2, size=64)
    head = related(first, end=False) + related(second, end=False)[:-100]
    port = httpx.URL(served.url).port or 0
    with socket.create_connection(("127.0.0.1", port)) as wire:
        wire.sendall(
            f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: {client.headers['authorization']}\r\n"
            f"Content-Type: {STOW_TYPE}\r\nContent-Length: 10000000\r\n\r\n".encode()
        )
        wire.sendall(head)
        wait_until(lambda: served.door.counters().get("received") == 1, what="the first was not kept")
    wait_until(lambda: list(served.door.scratch.iterdir()) == [], what="something was left")
    assert [i.sop_uid for i in served.instances(STUDY)] == [f"{ROOT}.2.1"]
    wait_until(lambda: "upload.cancelled" in caplog.text, what="no line says so")
    assert "WEB:planner at 127.0.0.1" in caplog.text
    assert "TEST^PATIENT" not in caplog.text


def test_too_large_is_413(tmp_path: Path):
    rig = make_rig(tmp_path, web={"max_upload_mb": 1})
    with served_door(rig) as served:
        client = served.person()
        assert stow(client, related(b"x" * (2 << 20))).status_code == 413

        def drip() -> Iterator[bytes]:  # no length announced
            yield related(*images(tmp_path, 1), end=False)
            for _ in range(40):
                yield b"x" * 65536

        assert stow(client, drip()).status_code == 413
        assert list(served.door.scratch.iterdir()) == []
    rig.app.engine.dispose()


def test_more_at_once_than_allowed_are_told_to_come_back(served: DoorRig, tmp_path: Path):
    client, go_on = served.person(), threading.Event()
    image = images(tmp_path, 1)[0]

    def slow() -> Iterator[bytes]:
        body = related(image)
        yield body[:100]
        go_on.wait(30)
        yield body[100:]

    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(stow(client, slow()).status_code))
        for _ in range(receiving.MOST_AT_A_TIME)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(list(served.door.scratch.iterdir())) == receiving.MOST_AT_A_TIME)
    refused = stow(client, related(image))
    assert (refused.status_code, refused.json()["code"]) == (503, "upload.busy")
    assert int(refused.headers["retry-after"]) > 0
    started = time.monotonic()
    assert client.get("/api/v1/cases").status_code == 200  # the pages still answer
    assert time.monotonic() - started < 2
    assert len(served.door.open_associations()) == receiving.MOST_AT_A_TIME
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert answers == [200] * receiving.MOST_AT_A_TIME
    assert stow(client, related(image)).status_code == 200
    wait_until(lambda: served.door.open_associations() == {})
