"""The upload page's interface over real HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.store import audit, cases
from service.store.database import reading
from tests.support_app import STUDY, Rig, make_rig
from tests.support_web import DoorRig, ct_file, related, served_door, upload, zipped


@pytest.fixture
def served(rig: Rig) -> Iterator[DoorRig]:
    with served_door(rig) as made:
        yield made


def image(folder: Path, index: int = 0, **options: Any) -> bytes:
    return ct_file(folder, index, **options).read_bytes()


def test_files_and_zips_in_one_request(served: DoorRig, tmp_path: Path):
    first, second, third = (image(tmp_path, n) for n in range(3))
    cut = image(tmp_path, 3)[:180]
    answer = upload(
        served.person(),
        ("one", first), ("README.TXT", b"hello"), ("disc.zip", zipped({"a/b": second, "cut": cut, "again": first})),
        ("last", third),
    )  # fmt: skip
    assert answer.status_code == 200
    body = answer.json()
    assert {k: body[k] for k in ("stored", "already_here", "kept_aside", "not_dicom", "refused")} == {
        "stored": 3, "already_here": 1, "kept_aside": 0, "not_dicom": 1, "refused": 1
    }  # fmt: skip
    assert body["not_dicom_names"] == ["README.TXT"]
    assert body["refusals"][0]["name"] == "cut"
    assert body["refusals"][0]["message"] and body["refusals"][0]["next_step"]
    assert body["studies"] == [STUDY]
    assert len(served.instances(STUDY)) == 3
    assert list(served.door.scratch.iterdir()) == []


def test_one_upload_in_many_requests_is_one_row_and_leads_to_its_case(served: DoorRig, tmp_path: Path):
    client, upload_id = served.person("surgeon"), secrets.token_hex(16)
    for index in range(4):
        answer = upload(client, ("x", image(tmp_path, index)), upload=upload_id)
        assert answer.json()["upload"] == upload_id
    served.settle()
    rig = served.rig
    with reading(rig.app.engine) as connection:
        rows = audit.history(connection, f"study:{STUDY}")
        case = cases.by_study(connection, STUDY)
    assert case is not None
    assert [r.actor for r in rows if r.event == "images_uploaded"] == ["surgeon"]
    seen = client.get("/api/v1/uploads/studies", params={"study": [STUDY, "1.2.3"]})
    found = {r["study_uid"]: r for r in seen.json()}
    assert found[STUDY]["case"] == {"id": case.id, "code": case.code, "state": "RECEIVING"}
    assert found[STUDY]["study"]["calling_ae"] == "WEB:surgeon"
    assert found["1.2.3"] == {"study_uid": "1.2.3", "study": None, "case": None}
    again = client.get(
        "/api/v1/uploads/studies",
        params={"study": [STUDY, "1.2.3"]},
        headers={"If-None-Match": seen.headers["etag"]},
    )
    assert again.status_code == 304


@pytest.mark.parametrize("bad", ["x", "A" * 32, "../" * 8, "a" * 33, "a" * 31])
def test_the_id_of_an_upload_is_checked(served: DoorRig, tmp_path: Path, bad: str):
    answer = upload(served.person(), ("x", image(tmp_path)), upload=bad)
    assert answer.status_code == 422
    assert served.instances(STUDY) == []


def test_a_form_that_is_cut_off_keeps_what_came_whole(served: DoorRig, tmp_path: Path):
    disposition = {"Content-Disposition": 'form-data; name="file"; filename="x"'}
    body = related(image(tmp_path, 0), image(tmp_path, 1), headers=disposition)[:-200]
    answer = served.person().post(
        "/api/v1/uploads", content=body, headers={"Content-Type": "multipart/form-data; boundary=border-7"}
    )
    assert answer.status_code == 200
    assert answer.json()["stored"] == 1
    assert answer.json()["cut_off"]["code"] == "upload.multipart"
    assert len(served.instances(STUDY)) == 1


@pytest.mark.parametrize(
    "content_type", ["application/zip", "multipart/form-data", "multipart/related; boundary=b", ""]
)
def test_another_content_type_is_refused_in_words(served: DoorRig, content_type: str):
    headers = {"Content-Type": content_type} if content_type else {}
    answer = served.person().post("/api/v1/uploads", content=b"PK", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "upload.multipart")
    assert answer.json()["next_step"]


def test_a_full_disk_is_507_and_a_retry_later_works(tmp_path: Path):
    rig = make_rig(tmp_path)
    with served_door(rig, disk_reserve_bytes=1 << 60) as served:
        answer = upload(served.person(), ("x", image(tmp_path / "a")))
        assert (answer.status_code, answer.json()["code"]) == (507, "storage.full")
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["retryable"] is True
    with served_door(rig) as served:
        assert upload(served.person("surgeon"), ("x", image(tmp_path / "a"))).json()["stored"] == 1
    rig.app.engine.dispose()


def test_a_process_without_the_door_says_so(rig: Rig, tmp_path: Path):
    with served_door(rig) as served:
        client = served.person()
        object.__setattr__(rig.app, "door", None)
        answer = upload(client, ("x", image(tmp_path)))
    assert (answer.status_code, answer.json()["code"]) == (503, "upload.no_door")


def test_fields_that_are_no_files_are_passed_over(served: DoorRig, tmp_path: Path):
    answer = served.person().post(
        "/api/v1/uploads", data={"note": "hello"}, files=[("file", ("x", image(tmp_path)))]
    )
    assert answer.json()["stored"] == 1
    assert answer.json()["not_dicom"] == 0
