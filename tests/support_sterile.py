"""Sterile services worked through HTTP: a printed part, the people at its way, and the steps of a clean run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.domain.case import CaseEvent, CaseState
from service.domain.people import system
from service.store import cases, people, prints
from service.store.database import transaction
from service.workflow.printed_item import create_item
from tests.support_api import web_over
from tests.support_app import PASSWORD, Rig, add_people, bring
from tests.support_photo import photo

BASE = "/api/v1/sterilisation"
PATIENT_ID = "TEST-1"
DEVICE, LOAD, BI = "Z1", "L-1", "BI-1"
REVIEWER, TECH, BOSS, NURSE, SURGEON = (
    "planner", "cssd-technician", "cssd-supervisor", "theatre-nurse", "surgeon",
)  # fmt: skip
Record = dict[str, Any]


@dataclass
class Room:
    """`item_id` is a part that came off the printer; every request is made by a named person with a session."""

    rig: Rig
    web: FastAPI
    case_id: str = ""
    item_id: str = ""
    clients: dict[str, TestClient] = field(default_factory=dict)

    # --- requests ---------------------------------------------------------------------------------------

    def client(self, who: str) -> TestClient:
        """A session of this person that outlasts the story: hashing a password costs more than most steps."""
        if who not in self.clients:
            add_people(self.rig.app, who)
            secret, now = f"session-of-{who}", self.rig.clock.now()
            with transaction(self.rig.app.engine) as connection:
                people.add_session(connection, secret, who, now, now + timedelta(days=1000))
            headers = {"Authorization": f"Bearer {secret}"}
            self.clients[who] = TestClient(self.web, headers=headers)
        return self.clients[who]

    def get(self, path: str, who: str = TECH) -> Any:
        answer = self.client(who).get(f"{BASE}/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def make(self, path: str, who: str = TECH, **body: Any) -> Record:
        answer = self.client(who).post(f"{BASE}/{path}", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def send(self, path: str, event: str, who: str, data: Mapping[str, Any]) -> Any:
        body = {"event": event, "data": dict(data), "password": PASSWORD}
        return self.client(who).post(f"{BASE}/{path}/events", json=body)

    def does(self, path: str, event: str, who: str = TECH, **data: Any) -> Record:
        answer = self.send(path, event, who, data)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def refused(self, path: str, event: str, who: str = TECH, **data: Any) -> set[str]:
        """Names of the guards that refused."""
        answer = self.send(path, event, who, data)
        assert answer.status_code in (403, 409, 422), answer.text
        body = answer.json()
        assert body["code"] == "sterilisation.guard", body
        assert body["next_step"]
        return set(body["details"]["refused"])

    # --- what is there ----------------------------------------------------------------------------------

    @property
    def item(self) -> Record:
        return dict(self.get(f"items/{self.item_id}"))

    @property
    def at_item(self) -> str:
        return f"items/{self.item_id}"

    @property
    def case_state(self) -> CaseState:
        return self.rig.case(self.case_id).state

    def time(self, hours: float = 0.0) -> str:
        """ISO time, `hours` from now."""
        return (self.rig.clock.now() + timedelta(hours=hours)).isoformat()

    def wait(self, hours: float) -> None:
        self.rig.clock.advance(hours=hours)

    # --- the clean run ----------------------------------------------------------------------------------

    def inspect(self) -> None:
        design = self.item["design"]
        x, y, z = design["size_mm"]
        self.photograph()
        self.does(
            self.at_item, "pass_qa", REVIEWER, stl_sha256=design["stl_sha256"], measured_x_mm=x, measured_y_mm=y,
            measured_z_mm=z, weight_g=design["part_weight_g"], gauge_go=True, gauge_no_go=True,
            vents_clear=True, engraved_id=design["engraved_id"], **design["printing"],
        )  # fmt: skip

    def photograph(self) -> None:
        answer = self.client(REVIEWER).post(
            f"/api/v1/print-jobs/{self.item_id}/pictures",
            content=photo(),
            headers={"Content-Type": "image/jpeg"},
        )
        assert answer.status_code == 201, answer.text

    def pack(self, *, use_by_h: float = 24 * 180) -> None:
        design = self.item["design"]
        self.does(
            self.at_item, "pack", clean=True, dry=True, pack_id=f"P-{self.item_id[:8]}", pouch_material="tyvek",
            pouch_lot="T1", pouch_expires_at=self.time(24 * 700), expires_at=self.time(use_by_h),
            label_case_id=design["case_id"], label_level=design["level"], external_ci_present=True,
        )  # fmt: skip

    def device(self) -> None:
        family = self.item["design"]["family"]
        cycles = [[c, family] for c in ("GS5_COOL", "GS5_WARM")]
        self.make("sterilisers", BOSS, id=DEVICE, model="GS5", validated=cycles)

    def chamber(self, load: str = LOAD, bi: str = BI, *, cycle: str = "GS5_COOL") -> None:
        """An open load with its challenge device and indicator."""
        self.make("loads", id=load, steriliser_id=DEVICE, cycle_name=cycle, planned_aeration_c=38.0)
        self.make("indicators", id=bi, product="EZTEST", lot="B7", expires_at=self.time(9000), load_id=load)
        self.does(f"loads/{load}", "place_bi", pcd_id="PCD-1", bi_id=bi)

    def put_in(self, load: str = LOAD) -> None:
        self.does(f"loads/{load}", "add_item", item_id=self.item_id)
        self.does(self.at_item, "load", load_id=load)

    def cycle(self, **change: Any) -> Record:
        """The record of a cycle that ends now."""
        return {
            "started_at": self.time(-6), "ended_at": self.time(), "exposure_min": 275, "min_c": 37.0, "max_c": 39.5,
            "min_humidity_pct": 45, "max_humidity_pct": 70, "eto_mg_l": 735, "alarms": [],
        } | change  # fmt: skip

    def expose(self, load: str = LOAD) -> None:
        self.does(f"loads/{load}", "start")
        self.wait(6)
        self.does(f"loads/{load}", "finish_cycle", **self.cycle())
        self.does(self.at_item, "expose")

    def start_aeration(self, load: str = LOAD, bi: str = BI) -> None:
        self.does(
            f"indicators/{bi}",
            "start_incubation",
            incubator_id="I1",
            started_at=self.time(),
            control_lot="B7",
        )
        self.does(f"loads/{load}", "start_aeration", aerator_id="A1", set_c=38, started_at=self.time())
        self.does(self.at_item, "start_aeration")

    def finish_aeration(self, load: str = LOAD) -> None:
        self.wait(36.5)
        self.does(f"loads/{load}", "finish_aeration", ended_at=self.time(), min_c=37.4, max_c=39.0)
        self.does(self.at_item, "finish_aeration")

    def read(self, bi: str = BI, *, growth: bool = False) -> Record:
        self.wait(12)
        return self.does(
            f"indicators/{bi}", "read", growth=growth, control_growth=True, read_at=self.time(),
            incubator_min_c=31.0, incubator_max_c=34.0,
        )  # fmt: skip

    def release_load(self, load: str = LOAD) -> Record:
        return self.does(f"loads/{load}", "release", BOSS, pcd_ci_pass=True)

    def release(self) -> Record:
        return self.does(self.at_item, "release", BOSS, external_ci_pass=True)

    def scanned(self, **change: Any) -> Record:
        """What the nurse's scanner reads from this pack and its patient's wristband."""
        item = self.item
        return {
            "scanned_pack_id": item["pack"]["pack_id"], "scanned_case_id": item["design"]["case_id"],
            "scanned_level": item["design"]["level"], "scanned_patient_id": PATIENT_ID, "pack_intact": True,
            "pack_dry": True,
        } | change  # fmt: skip

    def use(self) -> Record:
        level = self.item["design"]["level"]
        return self.does(
            self.at_item, "use", NURSE, internal_ci_pass=True, surgeon=SURGEON, confirmed_level=level
        )

    def to_loaded(self) -> Room:
        self.inspect()
        self.pack()
        self.device()
        self.chamber()
        self.put_in()
        return self

    def to_quarantined(self) -> Room:
        self.to_loaded()
        self.expose()
        self.start_aeration()
        self.finish_aeration()
        return self

    def to_released(self) -> Room:
        self.to_quarantined()
        self.read()
        self.release_load()
        self.release()
        return self


def print_part(room: Room, **options: Any) -> Room:
    """A new case whose part has just come off the printer; `options` as of `bring`."""
    rig = room.rig
    study_date = rig.clock.now().strftime("%Y%m%d")
    case = bring(rig, CaseState.PRINTING, StudyDate=study_date, **options)
    with transaction(rig.app.engine) as connection:
        (job,) = prints.listed(connection, case_id=case.id)
        now = rig.clock.now()
        cases.move(
            connection, case, CaseEvent.PRINT_CLEARED, actor=system("printer"), now=now,
            guards={"printer_says_finished": True},
        )  # fmt: skip
        item = create_item(connection, rig.app, case, job)
    room.case_id, room.item_id = case.id, item.id
    return room


def make_room(rig: Rig) -> Room:
    """The service's web over `rig`, and one printed part."""
    rig.with_printers({"um3": None})  # type: ignore[dict-item]
    return print_part(Room(rig, web_over(rig.app)))
