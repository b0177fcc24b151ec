"""Steps that are signed with a password, and those of a steriliser that comes back into service."""

from __future__ import annotations

from typing import Any

import pytest

from service.domain import sterilisation as rules
from service.domain.people import Role
from service.errors import NotAllowedError
from service.store import audit
from service.store.database import reading
from service.workflow import sterilise
from tests.support_app import PASSWORD, Rig, actor
from tests.support_sterile import BASE, BI, BOSS, DEVICE, LOAD, TECH, Room, make_room

#: The clinical table's "signs": the second reviewer, the operator for the exposure, the supervisor for the release;
#: and what stands in for them later (another inspection, a steriliser back in service).
SIGNED = {
    ("item", "pass_qa"), ("item", "requalify"), ("item", "expose"), ("item", "release"), ("load", "finish_cycle"),
    ("load", "release"), ("steriliser", "return_to_service"),
}  # fmt: skip
TABLES = {
    "item": rules.ITEM_TRANSITIONS, "load": rules.LOAD_TRANSITIONS, "bi": rules.BI_TRANSITIONS,
    "steriliser": rules.STERILISER_TRANSITIONS,
}  # fmt: skip
SUPERVISOR = actor(Role.CSSD_SUPERVISOR, name=BOSS)
PATHS = {"item": "items", "load": "loads", "steriliser": "sterilisers"}


@pytest.fixture
def room(rig: Rig) -> Room:
    return make_room(rig)


def test_the_signed_steps_are_those_of_the_table(room: Room) -> None:
    assert {(m, t.event) for m, table in TABLES.items() for t in table if t.signed} == SIGNED
    told = room.get("rules")
    assert {(m, row["event"]) for m in TABLES for row in told[m] if row["signed"]} == SIGNED


@pytest.mark.parametrize(("machine", "event"), sorted(SIGNED))
@pytest.mark.parametrize("password", [None, "", "not-the-password"])
def test_without_the_right_password_no_signed_step(
    room: Room, machine: str, event: str, password: str | None
) -> None:
    """Whatever the state: the signature is asked for before anything is looked at, by every way in."""
    body: dict[str, Any] = {"event": event, "data": {}}
    if password is not None:
        body["password"] = password
    answer = room.client(BOSS).post(f"{BASE}/{PATHS[machine]}/{room.item_id}/events", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "auth.signature")
    call = {
        "item": sterilise.item_event,
        "load": sterilise.load_event,
        "steriliser": sterilise.steriliser_event,
    }
    with pytest.raises(NotAllowedError) as error:
        call[machine](room.rig.app, room.item_id, event, {}, SUPERVISOR)
    assert error.value.code == "auth.signature"


def test_another_persons_password_is_no_signature(room: Room) -> None:
    room.to_quarantined()
    room.read()
    body = {"event": "release", "data": {"pcd_ci_pass": True}, "password": PASSWORD + "x"}
    assert room.client(BOSS).post(f"{BASE}/loads/{LOAD}/events", json=body).status_code == 403
    assert room.get(f"loads/{LOAD}")["state"] == "AERATED"


def test_signatures_stand_in_the_books_and_on_the_papers(room: Room) -> None:
    room.to_released()
    with reading(room.rig.app.engine) as connection:
        lines = {r.event: r.data for r in audit.history(connection, f"item:{room.item_id}")}
    assert {e for e, data in lines.items() if data.get("signed")} == {"pass_qa", "expose", "release"}
    sheet = room.client(TECH).get(f"{BASE}/loads/{LOAD}/record.csv").text
    assert f"{BOSS} (password)" in sheet
    passport = room.client(TECH).get(f"{BASE}/{room.at_item}/passport.csv").text
    assert f"{BOSS} (password)" in passport and f"{TECH} (password)" in passport
    assert PASSWORD not in room.client("admin").get("/api/v1/audit/export").text


def test_a_steriliser_comes_back_on_a_repair_and_negative_empty_cycles_only(room: Room) -> None:
    room.to_quarantined()
    room.read(growth=True)
    assert room.get("sterilisers")[0]["state"] == "OUT_OF_SERVICE"
    device = f"sterilisers/{DEVICE}"
    evidence = {"repair_reference": "R-7", "bi_ids": [BI]}
    assert room.refused(device, "return_to_service", BOSS, **evidence) == {"empty_cycles_negative"}
    for number in (2, 3, 4):
        load, bi = f"Q-{number}", f"QB-{number}"
        body = {"id": load, "steriliser_id": DEVICE, "cycle_name": "GS5_COOL", "planned_aeration_c": 38.0}
        room.make("loads", purpose="qualification", **body)
        room.make("indicators", id=bi, product="EZTEST", lot="B7", expires_at=room.time(9000), load_id=load)
        room.does(f"loads/{load}", "place_bi", pcd_id="PCD", bi_id=bi)
        room.does(f"loads/{load}", "start")
        room.wait(6)
        room.does(f"loads/{load}", "finish_cycle", **room.cycle())
        started = {"incubator_id": "I1", "started_at": room.time(), "control_lot": "B7"}
        room.does(f"indicators/{bi}", "start_incubation", **started)
        room.wait(40)
        room.read(bi)
    two = {"repair_reference": "R-7", "bi_ids": ["QB-2", "QB-3"]}
    assert room.refused(device, "return_to_service", BOSS, **two) == {"empty_cycles_negative"}
    three = {"repair_reference": "R-7", "bi_ids": ["QB-2", "QB-3", "QB-4"]}
    answer = room.send(device, "return_to_service", TECH, three)
    assert (answer.status_code, answer.json()["code"]) == (403, "sterilisation.role")
    assert room.does(device, "return_to_service", BOSS, **three)["state"] == "IN_SERVICE"
    out = room.does(device, "take_out_of_service", BOSS, reason="yearly maintenance", last_cycle=4)
    assert out["state"] == "OUT_OF_SERVICE"
