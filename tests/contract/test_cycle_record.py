"""Records of sterilisers, read from CSV and JSON, and judged against the window of the cycle over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.sterilisation import Load, SterilisationSettings
from service.errors import InputRefusedError
from service.workflow.cycle_record import read_cycle_record
from tests.support_app import PASSWORD, Rig
from tests.support_sterile import BASE, DEVICE, LOAD, TECH, Room, make_room

START = datetime.fromisoformat("2026-01-05T08:00:00+00:00")
RUN = Load(LOAD, DEVICE, 1, "GS5_COOL", 38.0)
HEAD = {"steriliser": DEVICE, "cycle_number": "1", "program": "GS5_COOL"}
SPEC = SterilisationSettings().cycle(RUN.cycle_name)
GAP_MIN = SterilisationSettings().record_gap_min
Row = dict[str, Any]


def rows(start: datetime = START) -> list[Row]:
    """30 min conditioning, 280 min exposure, 30 min purge; a sample every 5 min."""
    made = []
    for minute in range(0, 341, 5):
        phase = "conditioning" if minute < 30 else "exposure" if minute <= 310 else "purge"
        made.append({
            "time": (start + timedelta(minutes=minute)).isoformat(), "phase": phase,
            "temperature_c": 37.0 + 0.01 * (minute % 30), "humidity_pct": 55.0 + minute % 10,
            "eto_mg_l": 736.0 if phase == "exposure" else "", "alarm": "",
        })  # fmt: skip
    return made


def as_csv(samples: list[Row], head: dict[str, str] = HEAD) -> str:
    lines = [f"# {k}: {v}" for k, v in head.items()]
    names = list(samples[0])
    lines += [",".join(names), *(",".join(str(s[n]) for n in names) for s in samples)]
    return "\r\n".join(lines) + "\r\n"


def as_json(samples: list[Row], head: dict[str, str] = HEAD) -> str:
    return json.dumps({**head, "samples": samples})


@pytest.mark.parametrize("write", [as_csv, as_json])
def test_both_forms_say_the_same(write: Callable[[list[Row]], str]) -> None:
    assert read_cycle_record(write(rows()), RUN, SPEC, gap_min=GAP_MIN) == {
        "started_at": START.isoformat(), "ended_at": (START + timedelta(minutes=340)).isoformat(),
        "exposure_min": 280.0, "min_c": 37.0, "max_c": 37.25, "min_humidity_pct": 55.0, "max_humidity_pct": 60.0,
        "eto_mg_l": 736.0, "alarms": [],
    }  # fmt: skip


def test_the_hottest_moment_of_any_phase_counts_and_every_alarm() -> None:
    made = rows()
    made[-1]["temperature_c"], made[-1]["alarm"] = 47.5, "vacuum leak"
    made[0]["temperature_c"] = 21.0  # cold before the exposure is no fault
    found = read_cycle_record(as_csv(made), RUN, SPEC, gap_min=GAP_MIN)
    assert (found["min_c"], found["max_c"], found["alarms"]) == (37.0, 47.5, ["vacuum leak"])


def _drop(samples: list[Row]) -> None:
    del samples[20:23]  # 20 min without a sample


def _interrupt(samples: list[Row]) -> None:
    samples[20]["phase"] = "purge"


def _swap(samples: list[Row]) -> None:
    samples[3], samples[4] = samples[4], samples[3]


def _set(index: int, **change: Any) -> Callable[[list[Row]], None]:
    return lambda samples: samples[index].update(change)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (_drop, "cycle.incomplete"),
        (_interrupt, "cycle.incomplete"),
        (_swap, "cycle.incomplete"),
        (_set(20, humidity_pct=""), "cycle.incomplete"),
        (_set(20, temperature_c=""), "cycle.incomplete"),
        (_set(20, eto_mg_l=""), "cycle.incomplete"),
        (_set(20, temperature_c="warm"), "cycle.format"),
        (_set(20, temperature_c="nan"), "cycle.format"),
        (_set(20, time="2026-01-05T08:00:00"), "cycle.format"),
        (lambda samples: samples.__delitem__(slice(7, None)), "cycle.incomplete"),
        (lambda samples: [s.pop("phase") for s in samples], "cycle.format"),
    ],
)
@pytest.mark.parametrize("write", [as_csv, as_json])
def test_a_record_with_a_hole_is_refused(
    spoil: Callable[[list[Row]], object], code: str, write: Callable[[list[Row]], str]
) -> None:
    made = rows()
    spoil(made)
    with pytest.raises(InputRefusedError) as caught:
        read_cycle_record(write(made), RUN, SPEC, gap_min=GAP_MIN)
    assert caught.value.code == code


@pytest.mark.parametrize("value", [500.0, 990.0])
def test_the_concentration_farthest_from_nominal_counts(value: float) -> None:
    made = rows()
    made[20]["eto_mg_l"], made[21]["eto_mg_l"] = value, 730.0
    assert read_cycle_record(as_csv(made), RUN, SPEC, gap_min=GAP_MIN)["eto_mg_l"] == value


@pytest.mark.parametrize("name", sorted(HEAD))
def test_the_record_of_another_run_is_refused(name: str) -> None:
    for head in (HEAD | {name: "other"}, {k: v for k, v in HEAD.items() if k != name}):
        with pytest.raises(InputRefusedError) as caught:
            read_cycle_record(as_csv(rows(), head), RUN, SPEC, gap_min=GAP_MIN)
        assert caught.value.code == "cycle.other_run"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet='{}[]",:#\r\n0aé ', max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(InputRefusedError):
        read_cycle_record(text, RUN, SPEC, gap_min=GAP_MIN)


def test_the_gap_allowed_is_that_of_the_settings() -> None:
    assert GAP_MIN == 10.0
    made = rows()
    del made[20:21]  # 10 min
    assert read_cycle_record(as_csv(made), RUN, SPEC, gap_min=GAP_MIN)["exposure_min"] == 280.0
    with pytest.raises(InputRefusedError):
        read_cycle_record(as_csv(made), RUN, SPEC, gap_min=9.0)


@pytest.fixture
def running(rig: Rig) -> Room:
    room = make_room(rig).to_loaded()
    room.does(f"loads/{LOAD}", "start")
    return room


def test_an_imported_record_ends_the_cycle(running: Room) -> None:
    text = as_csv(rows(running.rig.clock.now()))
    running.wait(6)
    answer = running.client(TECH).post(
        f"{BASE}/loads/{LOAD}/cycle-record", json={"text": text, "password": PASSWORD}
    )
    assert answer.status_code == 200, answer.text
    load = answer.json()
    assert (load["state"], load["cycle"]["exposure_min"]) == ("EXPOSED", 280.0)
    assert load["cycle"]["source"].startswith("sha256:")
    assert running.does(running.at_item, "expose")["state"] == "EXPOSED"


def test_an_imported_record_out_of_window_is_refused_with_every_reason(running: Room) -> None:
    made = rows(running.rig.clock.now())
    made[-1]["temperature_c"] = 47.5
    made[20]["humidity_pct"] = 20.0
    made[21]["alarm"] = "low pressure"
    running.wait(6)
    answer = running.client(TECH).post(
        f"{BASE}/loads/{LOAD}/cycle-record", json={"text": as_csv(made), "password": PASSWORD}
    )
    assert answer.status_code == 422
    refused = answer.json()["details"]["refused"]
    assert set(refused) == {"all_parameters_in_window", "no_alarm", "max_temp_ok"}
    assert "lowest humidity %: 20, allowed 40 to 80" in refused["all_parameters_in_window"]
    assert running.get(f"loads/{LOAD}")["state"] == "RUNNING"
