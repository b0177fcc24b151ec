"""Why a case is waiting, until when, whether its date can be kept, and who is told when nobody acts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from service.domain.case import CaseState
from service.domain.sterilisation import ItemState, SterilisationSettings
from service.domain.sterilisation_schedule import plan_back, why_waiting
from service.workflow import person_steps, waiting
from tests.support_app import PLANNER, Rig, bring, make_rig
from tests.support_sterile import BI, BOSS, LOAD, NURSE, Room, make_room
from tests.unit.test_sterilisation_machines import Story, at

SETTINGS = SterilisationSettings()
SURGERY = datetime(2026, 3, 20, 8, tzinfo=UTC)


@pytest.fixture
def room(rig: Rig) -> Room:
    return make_room(rig)


def row(room: Room) -> dict[str, Any]:
    (found,) = [r for r in room.get("waiting") if r["case_id"] == room.case_id]
    return dict(found)


def sentence(room: Room) -> str:
    return str(row(room)["items"][0]["sentence"])


def back(aeration_c: float = 38.0, indicator: str = "EZTEST", cycle: str = "GS5_COOL", **hours: float):
    site = replace(SETTINGS, plan_cycle=cycle, plan_aeration_c=aeration_c, plan_indicator=indicator, **hours)
    return plan_back(SURGERY, site)


def test_the_way_back_counts_the_longer_of_aeration_and_incubation() -> None:
    slow, fast, cold = back(), back(indicator="ATTEST_1294"), back(aeration_c=22.0)
    assert slow is not None and fast is not None and cold is not None
    # 2 h issue; 1 h release + 48 h incubation + 4.5 h exposure + 1.5 h chamber; 2 h packing + 8 h print
    assert slow.latest_release == SURGERY - timedelta(hours=2)
    assert slow.latest_print_start == SURGERY - timedelta(hours=2 + 1 + 48 + 4.5 + 1.5 + 2 + 8)
    assert fast.latest_print_start - slow.latest_print_start == timedelta(hours=12)  # aeration: 36 h
    assert slow.latest_print_start - cold.latest_print_start == timedelta(hours=168 - 48)
    quick = back(print_h=3.0, inspect_and_pack_h=1.0)
    assert quick is not None
    assert quick.latest_print_start - slow.latest_print_start == timedelta(hours=5 + 1)
    sliced = plan_back(SURGERY, SETTINGS, print_h=6.5)
    assert sliced is not None
    assert sliced.latest_print_start - slow.latest_print_start == timedelta(hours=1.5)


@pytest.mark.parametrize("unknown", [{"aeration_c": 15.0}, {"indicator": "X"}, {"cycle": "X"}])
def test_nothing_is_promised_where_a_time_is_unknown(unknown: dict[str, Any]) -> None:
    assert back(**unknown) is None


@pytest.mark.parametrize("state", list(ItemState))
def test_every_state_has_a_sentence(state: ItemState) -> None:
    story = Story().to_quarantined()
    item = type(story.item)(**{**story.item.__dict__, "state": state})
    wait = why_waiting(item, story.load, story.bi, at(50), SETTINGS)
    if state is ItemState.DISCARDED:
        assert wait is None
        return
    assert wait is not None
    assert wait.sentence.endswith((".", "!"))
    assert wait.sentence != "Waits for the next step in sterile services."


def test_the_sentence_follows_the_part_through_sterile_services(room: Room) -> None:
    assert "inspect" in sentence(room)
    room.to_loaded()
    assert "cycle to be started" in sentence(room)
    room.expose()
    assert "aeration to be started" in sentence(room)
    room.start_aeration()
    found = row(room)["items"][0]
    assert found["sentence"] == "Aerating."
    assert datetime.fromisoformat(found["due_at"]) == room.rig.clock.now() + timedelta(hours=36)
    room.wait(36)
    assert "end of aeration to be recorded" in sentence(room)
    room.finish_aeration()
    assert "incubat" in sentence(room) or "ready to be read" in sentence(room)
    room.read()
    assert "second person to release the load" in sentence(room)
    room.release_load()
    assert "release this pack" in sentence(room)
    room.release()
    assert "issued at the door" in sentence(room)


def test_a_surgery_date_says_what_is_the_latest_start_and_when_it_is_too_late(room: Room) -> None:
    clock = room.rig.clock
    at_date = (clock.now() + timedelta(hours=60)).isoformat()
    answer = room.client("planner").put(f"/api/v1/cases/{room.case_id}/surgery", json={"at": at_date})
    assert answer.status_code == 200, answer.text
    # 2 h issue, 1 h release, 48 h incubation, 4.5 h exposure, 1.5 h chamber: the cycle must start within 3 h
    found = row(room)
    assert found["late"] is False
    assert (
        found["verdict"] == f"The cycle must start by {clock.now() + timedelta(hours=3):%Y-%m-%d %H:%M} UTC."
    )
    room.wait(3.1)
    found = row(room)
    assert found["late"] is True
    assert found["verdict"].startswith("Too late: the cycle had to start by ")
    # the pages say the same: list, case, and the board's own token
    board = room.client("planner").get("/api/v1/cases").json()
    (seen,) = [c["schedule"] for c in board if c["id"] == room.case_id]
    detail = room.client("planner").get(f"/api/v1/cases/{room.case_id}").json()["schedule"]
    assert seen == detail
    assert (seen["late"], seen["verdict"]) == (True, found["verdict"])
    room.to_quarantined()
    assert row(room)["verdict"].startswith("The pack must be released by ")
    room.wait(20)
    assert row(room)["verdict"].startswith("Too late: the pack had to be released by ")


def test_before_printing_it_is_the_latest_start_of_print_by_the_sites_own_numbers(tmp_path: Path) -> None:
    own = {"value": "ATTEST_1294", "mark": "S", "source": "our indicator"}
    rig = make_rig(
        tmp_path, sterilisation={"plan_indicator": own, "print_h": {"value": 5.0, "mark": "S", "source": "x"}}
    )
    case = bring(rig, CaseState.PLAN_READY)
    now = rig.clock.now()
    # 2 + 1 + 36 aeration (the indicator takes 4) + 4.5 + 1.5 + 2 packing + 5 print = 52 h
    person_steps.set_surgery_time(rig.app, case.id, PLANNER, now + timedelta(hours=53))
    (found,) = waiting.list_waiting(rig.app)
    assert found["verdict"] == f"The print must start by {now + timedelta(hours=1):%Y-%m-%d %H:%M} UTC."
    rig.clock.advance(hours=1.1)
    (found,) = waiting.list_waiting(rig.app)
    assert (found["late"], found["verdict"][:34]) == (True, "Too late: the print had to start b")
    rig.app.engine.dispose()


def test_a_released_pack_in_time_is_said_so(room: Room) -> None:
    room.to_released()
    at_date = (room.rig.clock.now() + timedelta(hours=1)).isoformat()
    room.client("planner").put(f"/api/v1/cases/{room.case_id}/surgery", json={"at": at_date})
    assert (row(room)["late"], row(room)["verdict"]) == (False, "A pack is released for this operation.")


def test_people_are_told_once_about_each_overdue_step(room: Room) -> None:
    app = room.rig.app
    room.to_loaded()
    room.expose()
    room.start_aeration()
    room.wait(36 + 3.9)
    assert waiting.tell_overdue(app) == []
    room.wait(0.2)
    assert waiting.tell_overdue(app) == [room.item_id]
    assert waiting.tell_overdue(app) == []
    assert room.rig.notes.topics().count("overdue") == 1
    ended = {"ended_at": room.time(), "min_c": 37.4, "max_c": 39.0}
    room.does(f"loads/{LOAD}", "finish_aeration", **ended)
    room.does(room.at_item, "finish_aeration")
    room.read(BI)
    room.wait(5)
    assert waiting.tell_overdue(app) == [room.item_id]  # the next step, told anew
    room.does(f"loads/{LOAD}", "release", BOSS, pcd_ci_pass=True)
    room.does(room.at_item, "release", BOSS, external_ci_pass=True)
    room.wait(100)
    assert waiting.tell_overdue(app) == []  # a released pack may rest
    assert room.client(NURSE).get("/api/v1/sterilisation/waiting").status_code == 200
