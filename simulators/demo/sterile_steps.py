"""Sterile services step by step, chosen from the states of item, load and indicator."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from PIL import Image

from simulators.demo.client import Service

Say = Callable[[str], None]
Record = dict[str, Any]

STERILISER = "STERIVAC-1"
CYCLE = "GS5_COOL"  # 38 °C: below the limit of PLA
INDICATOR = "ATTEST_1294"
_ROOT = "/api/v1/sterilisation"


def inspect(service: Service, case: Record, say: Say) -> None:
    """A second person measures the part and compares it with the plan."""
    item = _item(service, case)
    design = item["design"]
    x, y, z = design["size_mm"]
    printing = design["printing"]
    data = {
        "stl_sha256": design["stl_sha256"],
        "material": printing["material"],
        "layer_mm": printing["layer_mm"],
        "nozzle_c": printing["nozzle_c"],
        "bed_c": printing["bed_c"],
        "speed_mm_s": printing["speed_mm_s"],
        "measured_x_mm": round(x + 0.1, 2),
        "measured_y_mm": round(y - 0.1, 2),
        "measured_z_mm": round(z, 2),
        "weight_g": design["part_weight_g"],
        "gauge_go": True,
        "gauge_no_go": True,
        "vents_clear": True,
        "engraved_id": design["engraved_id"],
    }
    say("a second person inspects the part: dimensions, weight, gauges, vents, photograph, identity")
    service.send_bytes(f"/api/v1/print-jobs/{item['id']}/pictures", _photograph(), "image/jpeg", who="piet")
    _item_event(service, item, "pass_qa", data, "piet", sign=True)


def _photograph() -> bytes:
    """What a phone would take: here a grey picture."""
    out = io.BytesIO()
    Image.new("RGB", (320, 240), (150, 148, 140)).save(out, "JPEG")
    return out.getvalue()


def next_step(service: Service, case: Record, patient_id: str, say: Say) -> None:
    """One step from inspected part to issued pack."""
    item = _item(service, case)
    state = item["state"]
    if state == "QA_PASSED":
        _pack(service, item, say)
    elif state == "PACKED":
        _load(service, item, say)
    elif state in ("LOADED", "EXPOSED", "AERATING", "QUARANTINED"):
        _process(service, item, say)
    elif state == "RELEASED":
        _issue(service, item, patient_id, say)


def use(service: Service, case: Record, say: Say) -> None:
    item = _item(service, case)
    if item["state"] != "ISSUED":
        return
    say("the pack is opened; the surgeon confirms the level")
    data = {"internal_ci_pass": True, "surgeon": "sara", "confirmed_level": item["design"]["level"]}
    _item_event(service, item, "use", data, "nora")


def discard(service: Service, case: Record, say: Say) -> None:
    item = _item(service, case)
    if item["state"] == "USED":
        say("the model is discarded; the case closes")
        _item_event(service, item, "discard", {"reason": "single use, after surgery"}, "nora")


def _pack(service: Service, item: Record, say: Say) -> None:
    now = _now(service)
    say("sterile services pack the part")
    _item_event(
        service, item, "pack",
        {
            "clean": True, "dry": True, "pack_id": f"PK-{item['design']['engraved_id']}", "pouch_material": "tyvek",
            "pouch_lot": "TY-2207", "pouch_expires_at": _iso(now + timedelta(days=700)),
            "expires_at": _iso(now + timedelta(days=180)), "label_case_id": item["design"]["case_id"],
            "label_level": item["design"]["level"], "external_ci_present": True,
        },
        "carl",
    )  # fmt: skip


def _load(service: Service, item: Record, say: Say) -> None:
    """Steriliser, load, indicator: whatever is missing is made; then the item goes in."""
    if not any(s["id"] == STERILISER for s in service.get(f"{_ROOT}/sterilisers", who="sue")):
        body = {"id": STERILISER, "model": "GS5", "validated": [[CYCLE, item["design"]["family"]]]}
        service.post(f"{_ROOT}/sterilisers", body, who="sue")
    load = _load_of(service, item)
    if load is None:
        say(f"a load is opened: {STERILISER}, {CYCLE}")
        service.post(
            f"{_ROOT}/loads",
            {
                "id": _load_id(item),
                "steriliser_id": STERILISER,
                "cycle_name": CYCLE,
                "planned_aeration_c": 38.0,
            },
            who="carl",
        )
        return
    if _indicator(service, load) is None:
        expires = _iso(_now(service) + timedelta(days=365))
        body = {"id": f"BI-{load['id']}", "product": INDICATOR, "lot": "2026-07A", "expires_at": expires,
                "load_id": load["id"]}  # fmt: skip
        service.post(f"{_ROOT}/indicators", body, who="carl")
    elif not load["bi_id"]:
        data = {"pcd_id": "PCD-3", "bi_id": f"BI-{load['id']}"}
        _load_event(service, load, "place_bi", data, "carl")
    elif item["id"] not in load["item_ids"]:
        _load_event(service, load, "add_item", {"item_id": item["id"]}, "carl")
    else:
        say("the pack goes into the chamber with challenge device and indicator")
        _item_event(service, item, "load", {"load_id": load["id"]}, "carl")


@dataclass(frozen=True)
class _Bench:
    """What lies on the bench while a load is processed."""

    service: Service
    item: Record
    load: Record
    bi: Record | None
    now: datetime
    say: Say


def _process(service: Service, item: Record, say: Say) -> None:
    load = _load_of(service, item)
    if load is None:
        return
    bench = _Bench(service, item, load, _indicator(service, load), _now(service), say)
    if (
        load["state"] == "AERATING"
        and bench.bi
        and bench.bi["state"] == "PENDING"
        and not bench.bi["incubator_id"]
    ):
        data = {"incubator_id": "390G-1", "started_at": _iso(bench.now), "control_lot": bench.bi["lot"]}
        _bi_event(service, bench.bi, "start_incubation", data)
        return
    action = _PROCESS.get((item["state"], load["state"]))
    if action:
        action(bench)


def _start_cycle(bench: _Bench) -> None:
    bench.say("the cycle starts: 38 °C, 736 mg/L, 270 min")
    _load_event(bench.service, bench.load, "start", {}, "carl")


def _finish_cycle(bench: _Bench) -> None:
    started = _entered(bench.load, "start")
    if bench.now < started + timedelta(hours=5.5):
        _advance(bench.service, 5.6)
        return
    _load_event(bench.service, bench.load, "finish_cycle", _cycle_record(started), "carl", sign=True)


def _start_aeration(bench: _Bench) -> None:
    bench.say("aeration starts: 38 °C, 36 h by the table")
    data = {"aerator_id": "AER-1", "set_c": 38.0, "started_at": _iso(bench.now)}
    _load_event(bench.service, bench.load, "start_aeration", data, "carl")


def _finish_aeration(bench: _Bench) -> None:
    if bench.now < _entered(bench.load, "start_aeration") + timedelta(hours=36):
        bench.say("36 h of aeration pass (the demo's clock is moved)")
        _advance(bench.service, 36.5)
        return
    data = {"ended_at": _iso(bench.now), "min_c": 37.4, "max_c": 38.6}
    _load_event(bench.service, bench.load, "finish_aeration", data, "carl")


def _read_or_release(bench: _Bench) -> None:
    if bench.bi and bench.bi["state"] == "PENDING":
        bench.say("the indicator is read: no growth, control grown")
        data = {"growth": False, "control_growth": True, "read_at": _iso(bench.now)}
        _bi_event(bench.service, bench.bi, "read", data)
        return
    bench.say("the supervisor, who did not run the load, signs its release")
    _load_event(bench.service, bench.load, "release", {"pcd_ci_pass": True}, "sue", sign=True)


def _item_step(event: str) -> Callable[[_Bench], None]:
    # the rules of the service say which steps are signed; of these it is the exposure
    sign = event == "expose"
    return lambda bench: _item_event(bench.service, bench.item, event, {}, "carl", sign=sign)


def _release_item(bench: _Bench) -> None:
    _item_event(bench.service, bench.item, "release", {"external_ci_pass": True}, "sue", sign=True)


#: (state of the item, state of its load) -> what is done next.
_PROCESS: Mapping[tuple[str, str], Callable[[_Bench], None]] = {
    ("LOADED", "OPEN"): _start_cycle,
    ("LOADED", "RUNNING"): _finish_cycle,
    ("LOADED", "EXPOSED"): _item_step("expose"),
    ("EXPOSED", "EXPOSED"): _start_aeration,
    ("EXPOSED", "AERATING"): _item_step("start_aeration"),
    ("AERATING", "AERATING"): _finish_aeration,
    ("AERATING", "AERATED"): _item_step("finish_aeration"),
    ("QUARANTINED", "AERATED"): _read_or_release,
    ("QUARANTINED", "RELEASED"): _release_item,
}


def _issue(service: Service, item: Record, patient_id: str, say: Say) -> None:
    say("at the door: pack and wristband are scanned")
    data = {
        "scanned_pack_id": item["pack"]["pack_id"],
        "scanned_case_id": item["design"]["case_id"],
        "scanned_patient_id": patient_id,
        "scanned_level": item["design"]["level"],
        "pack_intact": True,
        "pack_dry": True,
    }
    _item_event(service, item, "issue", data, "nora")


def _cycle_record(started: datetime) -> Record:
    return {
        "started_at": _iso(started + timedelta(minutes=1)),
        "ended_at": _iso(started + timedelta(minutes=320)),
        "exposure_min": 272.0,
        "min_c": 37.2,
        "max_c": 38.9,
        "min_humidity_pct": 52.0,
        "max_humidity_pct": 61.0,
        "eto_mg_l": 736.0,
        "alarms": [],
        "record_source": "printout",
    }


def _item(service: Service, case: Mapping[str, Any]) -> Record:
    found: Record = service.get(f"{_ROOT}/items/{case['items'][-1]['id']}", who="carl")
    return found


def _load_id(item: Record) -> str:
    return f"LD-{item['design']['engraved_id']}"


def _load_of(service: Service, item: Record) -> Record | None:
    wanted = item["load_id"] or _load_id(item)
    loads: list[Record] = service.get(f"{_ROOT}/loads", who="carl")
    return next((x for x in loads if x["id"] == wanted), None)


def _indicator(service: Service, load: Record) -> Record | None:
    found: list[Record] = service.get(f"{_ROOT}/indicators", who="carl")
    return next((b for b in found if b["load_id"] == load["id"]), None)


def _entered(load: Record, event: str) -> datetime:
    return datetime.fromisoformat(next(h["at"] for h in load["history"] if h["event"] == event))


def _item_event(
    service: Service, item: Record, event: str, data: Record, who: str, *, sign: bool = False
) -> None:
    service.post(f"{_ROOT}/items/{item['id']}/events", _event(service, event, data, who, sign), who=who)


def _load_event(
    service: Service, load: Record, event: str, data: Record, who: str, *, sign: bool = False
) -> None:
    service.post(f"{_ROOT}/loads/{load['id']}/events", _event(service, event, data, who, sign), who=who)


def _bi_event(service: Service, bi: Record, event: str, data: Record) -> None:
    service.post(f"{_ROOT}/indicators/{bi['id']}/events", {"event": event, "data": data}, who="carl")


def _event(service: Service, event: str, data: Record, who: str, sign: bool) -> Record:
    body: Record = {"event": event, "data": data}
    if sign:
        body["password"] = service.passwords[who]
    return body


def _advance(service: Service, hours: float) -> None:
    service.post("/api/v1/simulation/advance", {"hours": hours}, who="carl")


def _now(service: Service) -> datetime:
    return datetime.fromisoformat(service.get("/api/v1/clock", who="carl")["now"])


def _iso(at: datetime) -> str:
    return at.isoformat()
