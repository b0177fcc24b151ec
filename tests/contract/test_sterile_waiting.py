"""Why a case is waiting, until when, whether its date can be kept, and who is told when nobody acts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service.domain.sterilisation import ItemState, SterilisationSettings
from service.domain.sterilisation_schedule import Handling, plan_back, why_waiting
from service.workflow import waiting
from tests.support_app import Rig
from tests.support_sterile import BI, BOSS, LOAD, NURSE, Room, make_room
from tests.unit.test_sterilisation_machines import Story, at

SETTINGS, HANDLING = SterilisationSettings(), Handling()
SURGERY = datetime(2026, 3, 20, 8, tzinfo=UTC)


@pytest.fixture
def room(rig: Rig) -> Room:
    return make_room(rig)


def row(room: Room) -> dict[str, Any]:
    (found,) = [r for r in room.get("waiting") if r["case_id"] == room.case_id]
    return dict(found)


def sentence(room: Room) -> str:
    return str(row(room)["items"][0]["sentence"])


def back(aeration_c: float = 38.0, indicator: str = "EZTEST", cycle: str = "GS5_COOL"):
    return plan_back(
        SURGERY, SETTINGS, cycle_name=cycle, aeration_c=aeration_c, indicator=indicator, handling=HANDLING
    )


def test_the_way_back_counts_the_longer_of_aeration_and_incubation() -> None:
    slow, fast, cold = back(), back(indicator="ATTEST_1294"), back(aeration_c=22.0)
    assert slow is not None and fast is not None and cold is not None
    # 2 h issue; 1 h release + 48 h incubation + 4.5 h exposure + 1.5 h chamber; 2 h packing + 8 h print
    assert slow.latest_release == SURGERY - timedelta(hours=2)
    assert slow.latest_print_start == SURGERY - timedelta(hours=2 + 1 + 48 + 4.5 + 1.5 + 2 + 8)
    assert fast.latest_print_start - slow.latest_print_start == timedelta(hours=12)  # aeration: 36 h
    assert slow.latest_print_start - cold.latest_print_start == timedelta(hours=168 - 48)


@pytest.mark.parametrize("unknown", [{"aeration_c": 15.0}, {"indicator": "X"}, {"cycle": "X"}])
def test_nothing_is_promised_where_a_time_is_unknown(unknown: dict[str, Any]) -> None:
    assert back(**unknown) is None


@pytest.mark.parametrize("state", list(ItemState))
def test_every_state_has_a_sentence(state: ItemState) -> None:
    story = Story().to_quarantined()
    item = type(story.item)(**{**story.item.__dict__, "state": state})
    wait = why_waiting(item, story.load, story.bi, at(50), SETTINGS, HANDLING)
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
    found = row(room)
    assert found["late"] is False
    assert found["verdict"].startswith("Release is needed by ")
    room.wait(58.5)
    found = row(room)
    assert found["late"] is True
    assert found["verdict"].startswith("Too late: the pack had to be released by ")


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
