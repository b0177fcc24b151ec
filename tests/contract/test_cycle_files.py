"""Cycle records as files: kept as received, given back byte by byte, posted by a steriliser, signed for by a person."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.store import audit
from service.store.database import reading
from tests.contract.test_cycle_record import as_csv, rows
from tests.support_app import PASSWORD, Rig
from tests.support_sterile import BASE, BOSS, DEVICE, LOAD, NURSE, TECH, Room, make_room

RECORDS = f"{BASE}/loads/{LOAD}/cycle-records"
POST = f"{BASE}/sterilisers/{DEVICE}/cycle-record"


@pytest.fixture
def running(rig: Rig) -> Room:
    room = make_room(rig).to_loaded()
    room.does(f"loads/{LOAD}", "start")
    return room


def machine(room: Room, name: str = "z1", device: str = DEVICE) -> TestClient:
    body = {"name": name, "scopes": ["steriliser"], "steriliser": device}
    answer = room.client("admin").post("/api/v1/tokens", json=body)
    assert answer.status_code == 201, answer.text
    return TestClient(room.web, headers={"Authorization": f"Bearer {answer.json()['token']}"})


def record(room: Room, **change: Any) -> bytes:
    made = rows(room.rig.clock.now())
    made[20].update(change)
    room.wait(6)
    # a mark of order and line ends as some devices write them: kept as they are
    return b"\xef\xbb\xbf" + as_csv(made).encode()


def test_a_file_is_kept_as_received_and_given_back_byte_by_byte(running: Room) -> None:
    raw = record(running)
    body = {"base64": base64.b64encode(raw).decode(), "name": "Zyklus 1.csv", "password": PASSWORD}
    answer = running.client(TECH).post(f"{BASE}/loads/{LOAD}/cycle-record", json=body)
    assert answer.status_code == 200, answer.text
    digest = hashlib.sha256(raw).hexdigest()
    assert answer.json()["cycle"]["source"] == f"sha256:{digest}"
    (kept,) = running.client(NURSE).get(RECORDS).json()
    assert (kept["sha256"], kept["size"], kept["name"], kept["fits"]) == (
        digest,
        len(raw),
        "Zyklus 1.csv",
        True,
    )
    back = running.client(NURSE).get(f"{RECORDS}/{digest}")
    assert back.content == raw
    assert "attachment" in back.headers["content-disposition"]
    sheet = running.client(TECH).get(f"{BASE}/loads/{LOAD}/record.csv").text
    assert digest in sheet and "Zyklus 1.csv" in sheet


def test_a_refused_file_is_kept_too_with_what_is_wrong(running: Room) -> None:
    raw = record(running, humidity_pct=20.0)
    body = {"text": raw.decode(), "password": PASSWORD}
    assert running.client(TECH).post(f"{BASE}/loads/{LOAD}/cycle-record", json=body).status_code == 422
    (kept,) = running.client(TECH).get(RECORDS).json()
    assert "lowest humidity %: 20" in kept["verdict"]
    assert running.client(TECH).get(f"{RECORDS}/{kept['sha256']}").content == raw
    assert running.get(f"loads/{LOAD}")["state"] == "RUNNING"


def test_a_file_changed_on_the_disk_is_not_given_out_for_the_one_received(running: Room) -> None:
    client = running.client(TECH)
    client.post(f"{BASE}/loads/{LOAD}/cycle-record", json={"text": "nonsense", "password": PASSWORD})
    (kept,) = client.get(RECORDS).json()
    (path,) = (running.rig.app.config.data_dir / "sterile").iterdir()
    path.write_text("better", "utf-8")
    answer = client.get(f"{RECORDS}/{kept['sha256']}")
    assert (answer.status_code, answer.json()["code"]) == (507, "storage.changed")


def test_a_steriliser_posts_its_record_and_the_operator_signs_for_it(running: Room) -> None:
    device, raw = machine(running), record(running)
    answer = device.post(POST, content=raw, params={"name": "run.csv"})
    assert answer.status_code == 201, answer.text
    kept = answer.json()
    assert (kept["load_id"], kept["fits"], kept["received_from"]) == (LOAD, True, "token:z1")
    assert running.get(f"loads/{LOAD}")["state"] == "RUNNING"  # a machine cannot sign
    assert device.post(POST, content=raw).json()["sha256"] == kept["sha256"]  # again: kept once
    assert len(running.client(TECH).get(RECORDS).json()) == 1
    accept = f"{RECORDS}/{kept['sha256']}/accept"
    refused = running.client(TECH).post(accept, json={"password": "not-the-password"})
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.signature")
    assert running.client(NURSE).post(accept, json={"password": PASSWORD}).status_code == 403
    done = running.client(TECH).post(accept, json={"password": PASSWORD})
    assert (done.status_code, done.json()["state"]) == (200, "EXPOSED"), done.text
    assert done.json()["history"][-1]["actor"] == TECH


def test_a_bad_record_of_a_steriliser_is_kept_told_and_cannot_be_signed(running: Room) -> None:
    raw = record(running, alarm="vacuum leak")
    kept = machine(running).post(POST, content=raw).json()
    assert kept["fits"] is False and "vacuum leak" in kept["verdict"]
    assert any("vacuum leak" in message for _topic, message in running.rig.notes.told)
    answer = running.client(TECH).post(f"{RECORDS}/{kept['sha256']}/accept", json={"password": PASSWORD})
    assert set(answer.json()["details"]["refused"]) == {"no_alarm"}


def test_the_token_does_this_one_thing_for_this_one_device(running: Room) -> None:
    raw = record(running)
    running.make("sterilisers", BOSS, id="Z2", model="GS5", validated=[])
    device, other = machine(running), machine(running, "z2", "Z2")
    answer = other.post(POST, content=raw)
    assert (answer.status_code, answer.json()["code"]) == (403, "token.other_steriliser")
    assert running.client(TECH).post(POST, content=raw).json()["code"] == "auth.scope"  # people bring files
    paths = [p for p in running.client("admin").get("/openapi.json").json()["paths"] if p != "/health/ready"]
    opened = [p for p in paths if device.get(p.replace("{", "").replace("}", "")).status_code == 200]
    assert set(opened) <= {"/health/live"}
    assert device.post(f"{BASE}/loads/{LOAD}/events", json={"event": "start"}).status_code == 403
    body = {"text": raw.decode(), "password": PASSWORD}
    assert device.post(f"{BASE}/loads/{LOAD}/cycle-record", json=body).status_code == 403
    assert running.client("admin").delete("/api/v1/tokens/z1").status_code == 204
    assert device.post(POST, content=raw).status_code == 401
    listed = {t["name"]: t for t in running.client("admin").get("/api/v1/tokens").json()}
    assert listed["z1"]["revoked_at"] and not listed["z2"]["revoked_at"]
    assert (listed["z2"]["steriliser"], listed["z2"]["scopes"]) == ("Z2", ["steriliser"])
    assert running.client(TECH).get("/api/v1/tokens").status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        {"name": "a", "scopes": ["steriliser"]},
        {"name": "a", "scopes": ["steriliser", "board"], "steriliser": DEVICE},
        {"name": "a", "scopes": ["board"], "steriliser": DEVICE},
    ],
)
def test_a_steriliser_token_names_one_device_and_nothing_else(running: Room, body: dict[str, Any]) -> None:
    assert running.client("admin").post("/api/v1/tokens", json=body).json()["code"] == "token.invalid"


def test_a_record_that_fits_no_running_load_is_refused(running: Room) -> None:
    device, raw = machine(running), record(running)
    other = raw.replace(b"# cycle_number: 1", b"# cycle_number: 7")
    answer = device.post(POST, content=other)
    assert (answer.status_code, answer.json()["code"]) == (409, "cycle.no_load")
    assert "cycle 7" in answer.json()["title"]


def test_what_came_stands_in_the_audit_chain(running: Room) -> None:
    raw = record(running)
    kept = machine(running).post(POST, content=raw).json()
    with reading(running.rig.app.engine) as connection:
        (line,) = [r for r in audit.history(connection, f"load:{LOAD}") if r.event == "cycle_record_received"]
    assert (line.actor, line.data["sha256"]) == ("token:z1", kept["sha256"])
