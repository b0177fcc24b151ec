"""The camera's pictures of a print, a person's of the part, and the filament's lot; on the simulated printer."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from adapters.ultimaker.camera import UltimakerCamera
from service.errors import ConflictError, DeviceError, InputRefusedError
from service.store import blobs
from service.store import print_pictures as stored
from service.store.database import reading
from service.web.print_views import print_view
from service.workflow import print_pictures, print_run
from tests.contract.test_print_run import P, Room, room  # noqa: F401 - the fixture
from tests.support_api import web_over
from tests.support_app import PASSWORD, TECHNICIAN, add_people
from tests.support_photo import CAMERA, photo


@pytest.fixture
def camera(room: Room) -> UltimakerCamera:  # noqa: F811
    return UltimakerCamera(room.device.url, connect_s=1.0, read_s=1.0)


def kinds(at: Room) -> list[str]:
    with reading(at.rig.app.engine) as connection:
        return [p.kind for p in stored.listed(connection, at.job().token)]


def turn(at: Room, camera: UltimakerCamera) -> list[str]:
    print_pictures.take_due(at.rig.app, "um3", camera)
    return kinds(at)


def into_the_print(at: Room) -> None:
    at.start()
    at.send()
    while not (at.wait(5).progress or 0.0) > 0.03:
        pass


def test_the_camera_shows_the_plate(room: Room, camera: UltimakerCamera) -> None:  # noqa: F811
    with Image.open(io.BytesIO(camera.snapshot())) as image:
        assert (image.format, image.size) == ("JPEG", (640, 480))
    stream = f"{room.device.url}/api/v1/camera/0/stream"
    with httpx.stream("GET", stream, follow_redirects=True) as answer:
        assert answer.headers["content-type"].startswith("multipart/x-mixed-replace")
        assert b"image/jpeg" in next(answer.iter_bytes())
    assert httpx.get(f"{room.device.url}/api/v1/camera/1/snapshot").status_code == 404


def test_one_picture_of_the_first_layer_and_one_of_the_end(room: Room, camera: UltimakerCamera) -> None:  # noqa: F811
    room.start()
    assert turn(room, camera) == []
    room.send()
    assert turn(room, camera) == [], "nothing is printed yet"
    while not (room.wait(5).progress or 0.0) > 0.03:
        pass
    assert turn(room, camera) == ["first_layer"]
    assert turn(room, camera) == ["first_layer"], "once"
    assert room.wait(3000).state is P.AWAITING_REMOVAL
    assert sorted(turn(room, camera)) == ["end", "first_layer"]
    assert sorted(turn(room, camera)) == ["end", "first_layer"]
    with reading(room.rig.app.engine) as connection:
        pictures = {p.kind: p for p in stored.listed(connection, room.job().token)}
    first, end = pictures["first_layer"], pictures["end"]
    assert first.path.read_bytes() != end.path.read_bytes()
    assert (first.taken_by, room.starts()) == ("system:camera", 1)


def test_a_late_picture_is_not_filed_as_the_first_layer(room: Room, camera: UltimakerCamera) -> None:  # noqa: F811
    """The service was down while the first layer was printed."""
    into_the_print(room)
    while (room.wait(30).progress or 0.0) < 0.6:
        pass
    assert turn(room, camera) == []
    assert turn(room, camera) == []
    assert room.events().count("first_layer_missed") == 1, "said once"
    with reading(room.rig.app.engine) as connection:
        assert print_view(connection, room.rig.app, room.job())["first_layer_missed"] is True
    assert room.wait(3000).state is P.AWAITING_REMOVAL
    assert turn(room, camera) == ["end"]


def test_a_print_that_ended_unseen_misses_its_first_layer_and_has_its_end(
    room: Room,  # noqa: F811
    camera: UltimakerCamera,
) -> None:
    room.start()
    room.send()
    assert room.wait(4000).state is P.AWAITING_REMOVAL
    assert turn(room, camera) == ["end"]
    assert room.events().count("first_layer_missed") == 1


@pytest.mark.parametrize("fault", ["silent", "refuse_connection", "error_500"])
def test_a_camera_that_fails_disturbs_nothing(room: Room, camera: UltimakerCamera, fault: str) -> None:  # noqa: F811
    into_the_print(room)
    before = room.job()
    room.device.fault(fault)
    assert turn(room, camera) == []
    with pytest.raises(DeviceError, match="camera gives no picture"):
        camera.snapshot()
    assert room.job() == before
    room.device.lift_faults()
    assert turn(room, camera) == ["first_layer"]


@pytest.fixture
def web(room: Room) -> Iterator[TestClient]:  # noqa: F811
    add_people(room.rig.app)
    with TestClient(web_over(room.rig.app), base_url="http://127.0.0.1") as client:
        yield client


def login(web: TestClient, who: str) -> dict[str, str]:
    answer = web.post("/api/v1/login", json={"username": who, "password": PASSWORD})
    web.cookies.clear()
    return {"Authorization": f"Bearer {answer.json()['token']}", "Content-Type": "image/jpeg"}


def test_a_photograph_is_cleaned_listed_and_read_again(room: Room, web: TestClient) -> None:  # noqa: F811
    path = f"/api/v1/print-jobs/{room.start().token}/pictures"
    assert web.post(path, content=photo()).status_code == 401
    tom = login(web, TECHNICIAN.name)
    added = web.post(path, content=photo(), headers=tom)
    assert added.status_code == 201, added.text
    assert web.post(path, content=photo(), headers=tom).json()["sha256"] == added.json()["sha256"]
    (listed,) = web.get(path, headers=tom).json()
    assert (listed["kind"], listed["taken_by"]) == ("inspection", TECHNICIAN.name)
    picture = web.get(listed["href"], headers=tom)
    assert picture.headers["content-type"] == "image/jpeg"
    assert CAMERA.encode() not in picture.content
    refused = web.post(path, content=b"%PDF", headers=tom)
    assert (refused.status_code, refused.json()["code"]) == (422, "photo.kind")
    assert web.post(path, content=b"0" * (17 << 20), headers=tom).status_code == 413
    assert room.events().count("part_photographed") == 1


def test_there_is_an_end_to_photographs(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(print_pictures, "MOST_PHOTOS", 1)
    token = room.start().token
    print_pictures.add_photo(room.rig.app, token, photo(), TECHNICIAN)
    with pytest.raises(ConflictError):
        print_pictures.add_photo(room.rig.app, token, photo((1, 2, 3)), TECHNICIAN)


def test_a_picture_that_was_changed_on_disk_is_not_shown(room: Room, web: TestClient) -> None:  # noqa: F811
    token = room.start().token
    picture = print_pictures.add_photo(room.rig.app, token, photo(), TECHNICIAN)
    picture.path.write_bytes(photo((1, 2, 3)))
    tom = login(web, TECHNICIAN.name)
    answer = web.get(f"/api/v1/print-jobs/{token}/pictures/{picture.sha256}", headers=tom)
    assert answer.json()["code"] == "storage.changed"


def test_the_lot_of_the_filament_is_kept_with_the_print(room: Room, web: TestClient) -> None:  # noqa: F811
    with pytest.raises(InputRefusedError) as error:
        print_run.start_print(
            room.rig.app, room.case_id, "um3", TECHNICIAN, bed_clear=True, filament_lot="x" * 65
        )
    assert error.value.code == "print.lot"
    tom = login(web, TECHNICIAN.name) | {"Content-Type": "application/json"}
    with reading(room.rig.app.engine) as connection:
        seen = blobs.current(connection, room.case_id)["gcode"].sha256
    body = {"printer": "um3", "bed_clear": True, "filament_lot": " PLA-2291/7 ", "gcode_sha256": seen}
    started = web.post(f"/api/v1/cases/{room.case_id}/print", json=body, headers=tom)
    assert started.status_code == 202, started.text
    assert room.job().filament_lot == "PLA-2291/7"
    assert started.json()["filament_lot"] == "PLA-2291/7"
