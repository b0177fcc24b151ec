"""What people do at each state of a case, as a table: state -> action.

Each action is chosen from what the service says now, so the journey can be taken up again after any interruption.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulators.demo import sterile_steps
from simulators.demo.client import Service, ServiceError

#: Who plays which part; names are the demo's user names.
CAST: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "ada": ("Ada Admin", ("admin",)),
    "piet": ("Piet Planner", ("planner",)),
    "sara": ("Dr Sara Surgeon", ("surgeon",)),
    "tom": ("Tom Technician", ("technician",)),
    "carl": ("Carl CSSD", ("cssd_technician",)),
    "sue": ("Sue Supervisor", ("cssd_supervisor",)),
    "nora": ("Nora Nurse", ("theatre_nurse",)),
}

ADMIN = "ada"
END_STATES = ("CLOSED", "CANCELLED")


class JourneyError(Exception):
    """The journey cannot go on; the text says why."""


@dataclass
class Journey:
    """Drives one case to its end. `scan` is called when the O-arm is wanted; `clear_plate` at the printer."""

    service: Service
    inputs: Mapping[str, Any]
    printer: str
    patient_id: str
    scan: Callable[[Mapping[str, Any]], None]
    clear_plate: Callable[[], None]
    say: Callable[[str], None] = print
    on_state: Callable[[str], None] = lambda _state: None
    on_look: Callable[[dict[str, Any]], None] = lambda _case: None
    mask: str | None = None
    mask_label: int | None = None
    poll_s: float = 0.3
    case_id: str = ""
    _scanned: bool = False
    _states: list[str] = field(default_factory=list)

    def find_case(self, study_uid: str, timeout_s: float = 180.0) -> str:
        """Wait for the case that the received study opens."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for row in self.service.get("/api/v1/cases", who="piet"):
                detail = self.service.get(f"/api/v1/cases/{row['id']}", who="piet")
                if detail["study"]["study_uid"] == study_uid:
                    self.case_id = str(row["id"])
                    return self.case_id
            time.sleep(self.poll_s)
        raise JourneyError("the study arrived but no case was opened")

    def run(self, *, until: str = "CLOSED", timeout_s: float = 900.0) -> dict[str, Any]:
        """Act until the case reaches `until` (or ends); returns the case as the service tells it."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            case = self.look()
            self.on_look(case)
            state = str(case["state"])
            if not self._states or self._states[-1] != state:
                self._states.append(state)
                self.on_state(state)
            if state == until or state in END_STATES:
                return case
            if state == "NEEDS_ATTENTION":
                raise JourneyError(
                    f"needs attention: {case['attention']['message']} {case['attention']['next_step']}"
                )
            try:
                self._act(state, case)
            except ServiceError as refused:
                if refused.status == 409:  # the case moved on between looking and acting
                    time.sleep(self.poll_s)
                    continue
                raise
            time.sleep(self.poll_s)
        raise JourneyError(f"no progress within {timeout_s:.0f} s; last state {self._states[-1]}")

    def look(self) -> dict[str, Any]:
        found: dict[str, Any] = self.service.get(f"/api/v1/cases/{self.case_id}", who="sara")
        return found

    def _act(self, state: str, case: dict[str, Any]) -> None:
        actions: Mapping[str, Callable[[dict[str, Any]], None]] = {
            "RECEIVED": self._give_inputs,
            "PLAN_READY": self._approve,
            "SLICED": self._print,
            "PRINTING": self._watch_printer,
            "PRINTED": lambda c: sterile_steps.inspect(self.service, c, self.say),
            "QA_PASSED": lambda c: sterile_steps.next_step(self.service, c, self.patient_id, self.say),
            "ISSUED": lambda c: sterile_steps.use(self.service, c, self.say),
            "USED": self._take_scan,
            "VERIFIED": lambda c: sterile_steps.discard(self.service, c, self.say),
        }
        action = actions.get(state)
        if action:
            action(case)

    def _give_inputs(self, _case: dict[str, Any]) -> None:
        if self.mask:
            self.say(f"planner gives level {self.inputs['level']} and a mask")
            form = {"level": str(self.inputs["level"])}
            if self.mask_label is not None:
                form["label"] = str(self.mask_label)
            self.service.upload(f"/api/v1/cases/{self.case_id}/mask", Path(self.mask), form, who="piet")
            return
        self.say(f"planner gives level {self.inputs['level']} and points")
        self.service.post(f"/api/v1/cases/{self.case_id}/inputs", self.inputs, who="piet")

    def _approve(self, case: dict[str, Any]) -> None:
        report = self.service.get(f"/api/v1/cases/{self.case_id}/artifacts/model_report", who="sara")
        for warning in report["warnings"]:
            self.say(f"surgeon acknowledges: {warning['message']}")
        self.service.post(
            f"/api/v1/cases/{self.case_id}/approve",
            {
                "plan_sha256": case["artifacts"]["plan"]["sha256"],
                "mesh_sha256": case["artifacts"]["mesh"]["sha256"],
                "acknowledged": [w["code"] for w in report["warnings"]],
                "password": self.service.passwords["sara"],
            },
            who="sara",
        )
        self.say("surgeon signs plan and model")

    def _print(self, case: dict[str, Any]) -> None:
        self.say("technician confirms the clear plate and starts the print")
        body = {
            "printer": self.printer,
            "bed_clear": True,
            "gcode_sha256": case["artifacts"]["gcode"]["sha256"],
        }
        self.service.post(f"/api/v1/cases/{self.case_id}/print", body, who="tom")

    def _watch_printer(self, case: dict[str, Any]) -> None:
        jobs = case["print_jobs"]
        if jobs and jobs[0]["state"] == "AWAITING_REMOVAL":
            self.say("technician takes the part off and confirms the plate at the printer")
            self.clear_plate()
            time.sleep(1.0)

    def _take_scan(self, case: dict[str, Any]) -> None:
        if self._scanned:
            return
        self.say("the needle is in place; the O-arm scans and sends")
        plan = self.service.get(f"/api/v1/cases/{self.case_id}/artifacts/plan", who="sara")
        self.scan(plan)
        self._scanned = True
        del case
