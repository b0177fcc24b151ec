"""Two people at the same moment, on SQLite and on PostgreSQL: never do both win."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest

from service.domain.people import Role
from service.domain.sterilisation import BiState, ItemState, LoadState
from service.domain.sterilisation_model import BiologicalIndicator, Item, Load
from service.errors import SpineprintError
from service.results.label_code import PackCode, write_code
from service.store import audit, people, sterile
from service.store.database import reading, transaction
from service.workflow import identity, sterilise
from tests.support_app import PASSWORD, Rig, actor
from tests.support_route import at_once, served
from tests.support_sterile import BASE, BI, DEVICE, LOAD, PATIENT_ID, Room, make_room

SUE = actor(Role.CSSD_SUPERVISOR, name="sue")
SAM = actor(Role.CSSD_SUPERVISOR, name="sam")
CEM, CAT = actor(Role.CSSD_TECHNICIAN, name="cem"), actor(Role.CSSD_TECHNICIAN, name="cat")
NIA, NED = actor(Role.THEATRE_NURSE, name="nia"), actor(Role.THEATRE_NURSE, name="ned")
ROUNDS = 4
"""Threads a side: more tries at the same instant than the two people of the story."""


@pytest.fixture
def room(any_rig: Rig) -> Room:
    return make_room(any_rig)


def together(*steps: Callable[[], Any]) -> list[Any]:
    """Run the steps at the same instant; each one's result, or the error it was refused with."""
    barrier, results = threading.Barrier(len(steps)), [None] * len(steps)

    def run(index: int) -> None:
        barrier.wait()
        try:
            results[index] = steps[index]()
        except SpineprintError as exc:
            results[index] = exc

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(steps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


def won(results: list[Any]) -> list[Any]:
    return [r for r in results if r is not None and not isinstance(r, SpineprintError)]


def whole(room: Room) -> None:
    with reading(room.rig.app.engine) as connection:
        assert audit.verify_chain(connection) is None


def test_two_supervisors_release_one_load(room: Room) -> None:
    room.to_quarantined()
    room.read()
    app, data = room.rig.app, {"pcd_ci_pass": True}
    steps = [
        lambda who=who: sterilise.load_event(app, LOAD, "release", data, who, signed=True)
        for who in (SUE, SAM) * ROUNDS
    ]
    results = together(*steps)
    (load,) = won(results)
    assert load.state is LoadState.RELEASED
    with reading(app.engine) as connection:
        kept = sterile.get(connection, Load, LOAD)
        lines = [r for r in audit.history(connection, f"load:{LOAD}") if r.event == "release"]
    assert kept == load
    assert [h.event for h in kept.history].count("release") == 1
    assert len(lines) == 1
    whole(room)


def test_one_item_goes_into_one_of_two_loads(room: Room) -> None:
    room.inspect()
    room.pack()
    room.device()
    room.chamber()
    room.chamber("L-2", "BI-2")
    for load in (LOAD, "L-2"):
        room.does(f"loads/{load}", "add_item", item_id=room.item_id)
    app = room.rig.app
    steps = [
        lambda load=load, who=who: sterilise.item_event(app, room.item_id, "load", {"load_id": load}, who)
        for load, who in ((LOAD, CEM), ("L-2", CAT)) * ROUNDS
    ]
    (item,) = won(together(*steps))
    with reading(app.engine) as connection:
        kept = sterile.get(connection, Item, room.item_id)
    assert (kept.state, kept.load_id) == (ItemState.LOADED, item.load_id)
    whole(room)


def test_one_pack_is_issued_once(room: Room) -> None:
    room.to_released()
    scanned, app = room.scanned(), room.rig.app
    steps = [
        lambda who=who: sterilise.item_event(app, room.item_id, "issue", scanned, who)
        for who in (NIA, NED) * ROUNDS
    ]
    (item,) = won(together(*steps))
    assert item.issue.issued_by in ("nia", "ned")
    whole(room)


def test_a_release_and_a_positive_reading_never_leave_a_released_item(room: Room) -> None:
    """Whichever comes first, afterwards the item of a positive indicator is not released."""
    room.to_quarantined()
    room.read()
    room.release_load()
    app = room.rig.app
    together(
        lambda: sterilise.item_event(
            app, room.item_id, "release", {"external_ci_pass": True}, SUE, signed=True
        ),
        lambda: sterilise.bi_event(app, BI, "late_positive", {"reason": "growth"}, CEM),
    )
    with reading(app.engine) as connection:
        assert sterile.get(connection, BiologicalIndicator, BI).state is BiState.POSITIVE
        assert sterile.get(connection, Load, LOAD).state is LoadState.FAILED
        assert sterile.get(connection, Item, room.item_id).state is ItemState.RECALLED
    whole(room)


def test_loads_opened_together_get_numbers_without_gap(room: Room) -> None:
    room.device()
    steps = [
        lambda n=n: sterilise.open_load(
            room.rig.app, load_id=f"N-{n}", steriliser_id=DEVICE, cycle_name="GS5_COOL", planned_aeration_c=38.0,
            purpose="routine", actor=CEM,
        )
        for n in range(6)
    ]  # fmt: skip
    numbers = sorted(load.cycle_number for load in won(together(*steps)))
    assert numbers == [1, 2, 3, 4, 5, 6]


# --- the same as requests side by side, to a real server ----------------------------------------------------


def secrets_of(room: Room, role: str, *names: str) -> list[str]:
    """A session of each of these people."""
    made, now = [], room.rig.clock.now()
    for name in names:
        identity.add_user(
            room.rig.app, username=name, display_name="", roles=[role], password=PASSWORD, by="test"
        )
        made.append(f"session-of-{name}")
        with transaction(room.rig.app.engine) as connection:
            people.add_session(connection, made[-1], name, now, now + timedelta(days=1000))
    return made


def one_won(answers: list[httpx.Response]) -> dict[str, Any]:
    """The body of the one request that was accepted; all others were refused as too late."""
    good = [a for a in answers if a.status_code == 200]
    assert {a.status_code for a in answers if a.status_code != 200} <= {409}, [a.text for a in answers]
    assert len(good) == 1
    return dict(good[0].json())


def test_http_two_supervisors_release_one_load(room: Room) -> None:
    room.to_quarantined()
    room.read()
    bosses = secrets_of(room, "cssd_supervisor", "sue", "sam")
    body = {"event": "release", "data": {"pcd_ci_pass": True}, "password": PASSWORD}
    with served(room) as url:
        path = f"{BASE}/loads/{LOAD}/events"
        load = one_won(at_once(url, [(boss, path, body) for boss in bosses * ROUNDS]))
    assert load["state"] == "RELEASED"
    assert [h["event"] for h in room.get(f"loads/{LOAD}")["history"]].count("release") == 1
    whole(room)


def test_http_one_item_goes_into_one_of_two_loads(room: Room) -> None:
    room.inspect()
    room.pack()
    room.device()
    room.chamber()
    room.chamber("L-2", "BI-2")
    for load in (LOAD, "L-2"):
        room.does(f"loads/{load}", "add_item", item_id=room.item_id)
    people_ = secrets_of(room, "cssd_technician", "cem", "cat")
    wanted = [
        (who, f"{BASE}/{room.at_item}/events", {"event": "load", "data": {"load_id": load}})
        for who, load in zip(people_, (LOAD, "L-2"), strict=True)
    ]
    with served(room) as url:
        item = one_won(at_once(url, wanted * ROUNDS))
    assert (room.item["state"], room.item["load_id"]) == ("LOADED", item["load_id"])
    whole(room)


def test_http_one_pack_is_issued_once_at_two_doors(room: Room) -> None:
    room.to_released()
    item = room.item
    design = item["design"]
    code = write_code(
        PackCode(item["pack"]["pack_id"], design["case_id"], design["level"], design["patient_reference"])
    )
    body = {"pack_code": code, "wristband": PATIENT_ID, "pack_intact": True, "pack_dry": True}
    nurses = secrets_of(room, "theatre_nurse", "nia", "ned")
    with served(room) as url:
        issued = one_won(at_once(url, [(nurse, f"{BASE}/door", body) for nurse in nurses * ROUNDS]))
    assert (issued["state"], room.item["state"]) == ("ISSUED", "ISSUED")
    assert [h["event"] for h in room.item["history"]].count("issue") == 1
    whole(room)
