"""Stories of sterile services, each from the CT to its end, through HTTP as people make the requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.domain.case import CaseState
from service.store.audit_export import check_lines
from service.workflow import print_run, sterilise
from tests.support_app import make_rig
from tests.support_route import OARM, printed_over_http, scan_measured
from tests.support_sterile import BI, BOSS, DEVICE, LOAD, NURSE, PATIENT_ID, TECH, Room, make_room

#: Stories beside those the issue names start at the printed part, which costs less.
FROM_THE_PART = pytest.mark.parametrize("room", ["part"], indirect=True)


@pytest.fixture
def room(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    """A part printed from a real case over HTTP; nothing of its way was written into a table by hand."""
    rig = make_rig(tmp_path, dicom=OARM)
    if getattr(request, "param", "case") == "part":
        yield make_room(rig)
    else:
        monkeypatch.setattr(print_run, "_SETTLE_S", 0.05)
        with printed_over_http(rig, tmp_path) as made:
            yield made
    rig.app.engine.dispose()


def test_the_papers_route_from_print_to_discard(room: Room) -> None:
    room.to_released()
    assert room.item["release"]["released_by"] == BOSS
    room.does(room.at_item, "issue", NURSE, **room.scanned())
    assert room.case_state is CaseState.ISSUED
    room.use()
    assert room.case_state is CaseState.USED
    scan_measured(room)
    assert room.does(room.at_item, "discard", NURSE, reason="single use")["state"] == "DISCARDED"
    assert room.case_state is CaseState.CLOSED
    # single use: nothing leads back
    answer = room.send(room.at_item, "issue", NURSE, room.scanned())
    assert (answer.status_code, answer.json()["code"]) == (409, "sterilisation.state")
    assert room.client("admin").get("/api/v1/audit/check").json()["whole"] is True
    exported = room.client("admin").get("/api/v1/audit/export").text
    assert check_lines(exported.splitlines()) > 20
    assert PATIENT_ID not in exported


def test_an_aborted_cycle_leaves_its_items_nonsterile_at_once(room: Room) -> None:
    room.to_loaded()
    room.does(f"loads/{LOAD}", "start")
    room.wait(2)
    room.does(f"loads/{LOAD}", "abort", reason="door alarm after 2 h")
    item = room.item
    assert (item["state"], item["exposures"]) == ("NONSTERILE", 1)
    last = item["history"][-1]
    assert (last["event"], last["actor"]) == ("fail_cycle", "system")
    # whether gas came in is not known, so the limit of exposures is used up: a new one is printed
    x, y, z = item["design"]["size_mm"]
    sizes = {"measured_x_mm": x, "measured_y_mm": y, "measured_z_mm": z, "old_pack_removed": True}
    assert "resterilisation_ok" in room.refused(room.at_item, "requalify", "planner", **sizes)
    assert room.does(room.at_item, "discard", reason="aborted cycle")["state"] == "DISCARDED"


@FROM_THE_PART
def test_a_load_given_up_before_it_ran_did_not_expose_its_items(room: Room) -> None:
    room.to_loaded()
    room.does(f"loads/{LOAD}", "abort", reason="wrong programme chosen")
    assert (room.item["state"], room.item["exposures"]) == ("NONSTERILE", 0)
    x, y, z = room.item["design"]["size_mm"]
    sizes = {"measured_x_mm": x, "measured_y_mm": y, "measured_z_mm": z, "old_pack_removed": True}
    assert room.does(room.at_item, "requalify", "planner", **sizes)["state"] == "QA_PASSED"


def test_hot_aeration_fails_the_load_and_everything_in_it(room: Room) -> None:
    room.to_loaded()
    room.expose()
    room.start_aeration()
    room.wait(36.5)
    log = {"ended_at": room.time(), "min_c": 37.5, "max_c": 52.0}
    assert room.refused(f"loads/{LOAD}", "finish_aeration", **log) == {"max_temp_ok"}
    room.does(f"loads/{LOAD}", "fail", BOSS, reason="aerator ran at 52 °C")
    assert room.item["state"] == "NONSTERILE"
    assert room.send(room.at_item, "release", BOSS, {"external_ci_pass": True}).status_code == 409


def test_without_a_reading_of_the_indicator_nothing_is_released(room: Room) -> None:
    room.to_quarantined()
    missing = room.refused(f"loads/{LOAD}", "release", BOSS, pcd_ci_pass=True)
    assert {"bi_negative", "control_positive"} <= missing
    assert room.refused(room.at_item, "release", BOSS, external_ci_pass=True) == {"load_released"}
    answer = room.send(room.at_item, "release", "admin", {"external_ci_pass": True})
    assert (answer.status_code, answer.json()["code"]) == (403, "sterilisation.role")


def test_a_positive_indicator_after_release_recalls_and_stops_the_device(room: Room) -> None:
    room.to_released()
    room.does(room.at_item, "issue", NURSE, **room.scanned())
    room.does(f"indicators/{BI}", "late_positive", reason="growth seen on day 3")
    assert room.item["state"] == "RECALLED"
    assert room.get(f"loads/{LOAD}")["state"] == "FAILED"
    assert room.get("sterilisers")[0]["state"] == "OUT_OF_SERVICE"
    assert "recall" in room.rig.notes.topics()
    room.make("loads", id="L-2", steriliser_id=DEVICE, cycle_name="GS5_COOL", planned_aeration_c=38.0)
    again = room.refused("loads/L-2", "add_item", item_id=room.item_id)
    assert "steriliser_in_service" in again
    room.does(room.at_item, "retrieve", BOSS, retrieved=True)
    assert room.item["state"] == "NONSTERILE"


@FROM_THE_PART
def test_a_used_item_keeps_its_state_and_gets_an_incident(room: Room) -> None:
    room.to_released()
    room.does(room.at_item, "issue", NURSE, **room.scanned())
    room.use()
    room.does(f"indicators/{BI}", "late_positive", reason="growth seen on day 3")
    assert (room.item["state"], room.item["recalled_after_use"]) == ("USED", True)
    assert any("infection control" in message for topic, message in room.rig.notes.told if topic == "recall")


@pytest.mark.parametrize(
    ("seen", "guard"),
    [
        ({"pack_dry": False}, "pack_intact_dry"),
        ({"pack_intact": False}, "pack_intact_dry"),
        ({"scanned_patient_id": "SOMEBODY-ELSE"}, "patient_case_level_match"),
        ({"scanned_level": "L2"}, "patient_case_level_match"),
        ({"scanned_case_id": "another"}, "patient_case_level_match"),
    ],
    ids=["wet", "damaged", "wrong patient", "wrong level", "wrong case"],
)
def test_the_door_stops(room: Room, seen: dict[str, object], guard: str) -> None:
    room.to_released()
    assert room.refused(room.at_item, "issue", NURSE, **room.scanned(**seen)) == {guard}
    assert (room.item["state"], room.case_state) == ("RELEASED", CaseState.QA_PASSED)
    withdrawn = room.does(room.at_item, "withdraw", NURSE, reason="stopped at the door", damaged=True)
    assert withdrawn["state"] == "NONSTERILE"


def test_an_expired_pack_is_stopped_and_then_withdrawn_by_the_service(room: Room) -> None:
    room.inspect()
    room.pack(use_by_h=72)
    room.device()
    room.chamber()
    room.put_in()
    room.expose()
    room.start_aeration()
    room.finish_aeration()
    room.read()
    room.release_load()
    room.release()
    room.wait(24)
    assert room.refused(room.at_item, "issue", NURSE, **room.scanned()) == {"not_expired"}
    assert sterilise.withdraw_expired(room.rig.app) == [room.item_id]
    assert room.item["state"] == "NONSTERILE"


@FROM_THE_PART
def test_a_load_failed_after_release_takes_back_what_was_released(room: Room) -> None:
    room.to_released()
    room.does(f"loads/{LOAD}", "fail", BOSS, reason="the logger of the incubator was out of calibration")
    assert room.item["state"] == "NONSTERILE"


@FROM_THE_PART
def test_a_pack_issued_from_a_load_that_failed_since_is_not_opened(room: Room) -> None:
    room.to_released()
    room.does(room.at_item, "issue", NURSE, **room.scanned())
    room.does(f"loads/{LOAD}", "fail", BOSS, reason="the logger of the incubator was out of calibration")
    level = room.item["design"]["level"]
    opened = {"internal_ci_pass": True, "surgeon": "surgeon", "confirmed_level": level}
    assert room.refused(room.at_item, "use", NURSE, **opened) == {"load_released"}
    back = {"unopened": True, "pack_intact": True, "pack_dry": True}
    assert room.refused(room.at_item, "return_unopened", NURSE, **back) == {"load_released"}
    assert room.does(room.at_item, "fail_in_theatre", NURSE, reason="load failed")["state"] == "NONSTERILE"


@FROM_THE_PART
def test_hot_cycles_are_refused_with_the_reason_before_loading(room: Room) -> None:
    room.inspect()
    room.pack()
    room.device()
    room.chamber(cycle="GS5_WARM")
    room.does(f"loads/{LOAD}", "add_item", TECH, item_id=room.item_id)
    answer = room.send(room.at_item, "load", TECH, {"load_id": LOAD})
    assert "58 °C; the material allows 45 °C" in answer.json()["details"]["refused"]["exposure_temp_ok"]
