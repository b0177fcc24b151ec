"""Points of a needle set by hand at the room's screen: who, when, from, to, why; undone; and scans compared."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service.domain.case import CaseState
from service.domain.plan import ModelSettings, Plan, Trajectory, VertebraFrame, plan_to_document
from service.geometry.volume import Volume
from service.imaging.nifti import write_nifti
from service.store import audit, blobs, cases, scans
from service.store.database import reading, transaction
from service.store.tables import cases as case_table
from tests.contract.test_acknowledge import ask, scanned, sign
from tests.support_app import PASSWORD, Rig, bring
from tests.unit.test_metrics import box_spine
from tests.unit.test_web_api import add_people, people, screen, web

__all__ = ["people", "screen", "web"]

FRAME = VertebraFrame((0, 0, 0), (1, 0, 0), (0, -1, 0), (0, 0, 1))
PLANNED = Trajectory("left", (18, 28, 6), (2, -8, -2), 12.5288, 23.9625, 3.0)
TIP = [2.9, -9.1, -1.2]


@pytest.fixture(scope="module")
def bone() -> Volume:
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = [-30.0, -30.0, -25.0]
    shape = (50, 85, 60)
    points = np.indices(shape).reshape(3, -1)[::-1].T + affine[:3, 3]
    return Volume(box_spine(points).reshape(shape).astype(np.float32), affine)


@pytest.fixture
def case_id(rig: Rig, bone: Volume) -> str:
    """A case whose plan and bone are real files, as the correction reads them."""
    add_people(rig.app, "surgeon")
    case = bring(rig, CaseState.SLICED).id
    plan = Plan("L1", "1.2.3", FRAME, (0.0, 0.0, 0.0), (PLANNED,), ModelSettings())
    with reading(rig.app.engine) as connection:
        current = blobs.current(connection, case)
    for name in ("plan", "outer"):
        current[name].path.chmod(0o644)
    current["plan"].path.write_text(json.dumps(plan_to_document(plan)), "utf-8")
    write_nifti(bone, current["outer"].path)
    return case


def needle(tip: list[float]) -> dict[str, Any]:
    way = np.subtract(tip, [18, 28, 6])
    return {
        "pedicle": "left",
        "planned": True,
        "tip": tip,
        "entry": [18.0, 28.0, 6.0],
        "axis": (way / np.linalg.norm(way)).tolist(),
        "tip_to_target_mm": float(np.linalg.norm(np.subtract(tip, [2, -8, -2]))),
        "depth_mm": 0.0,
        "lateral_mm": 0.0,
        "angle_deg": 0.0,
        "entry_deviation_mm": 0.0,
        "breach": {"grade": "A", "mm": 0.0, "direction": None, "nearest": "lateral", "margin_mm": 2.0},
        "uncertainty_mm": 0.8,
        "uncertainty": {
            "tip_mm": 0.8,
            "lateral_mm": 0.4,
            "breach_mm": 0.6,
            "angle_deg": 0.4,
            "coverage_k": 2,
        },
    }


def measured(rig: Rig, case_id: str, tip: list[float], verdict: str = "accurate", number: int = 1) -> str:
    scan = scanned(rig, case_id, verdict, number=number)
    report = {
        "schema": "spineprint.verification/1",
        "status": "measured",
        "reason": None,
        "verdict": verdict,
        "advice": "",
        "findings": [],
        "warnings": [],
        "registration": {"expected_tre_mm": 0.2},
        "needles": [needle(tip)],
        "cement": None,
    }
    with transaction(rig.app.engine) as connection:
        scans.change(connection, scan, rig.app.clock.now() + timedelta(minutes=number), report=report)
    return scan


def post(client: TestClient, case_id: str, what: str, scan: str, **change: Any) -> Any:
    body = {
        "scan_id": scan,
        "username": "surgeon",
        "password": PASSWORD,
        "reason": "seen on the images",
    } | change
    return client.post(f"/api/v1/cases/{case_id}/verification/corrections{what}", json=body)


def listed(client: TestClient, case_id: str) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v1/cases/{case_id}/verification/scans")
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["scans"]
    return rows


TO_TIP = [{"pedicle": "left", "tip": TIP}]


def test_set_signed_again_and_undone_with_all_on_record(rig: Rig, case_id: str, screen: Any) -> None:
    terminal, scan = screen("or_terminal"), measured(rig, case_id, [2.0, -8.0, -2.0])
    assert sign(terminal, case_id, scan, report_version=0).status_code == 200
    made = post(terminal, case_id, "", scan, needles=TO_TIP)
    assert made.status_code == 201, made.text
    shown = ask(terminal, case_id)
    assert (shown["report_version"], shown["report"]["verdict"]) == (1, "review")
    assert shown["report"]["needles"][0]["tip_to_target_mm"] == pytest.approx(1.631, abs=1e-3)
    assert shown["report"]["needles"][0]["hand_set"] == {"tip": True, "entry": False}
    assert shown["cement_step"] == "needs_acknowledgement", "what was signed holds no more"
    stale = sign(terminal, case_id, scan, report_version=0, note="x")
    assert (stale.status_code, stale.json()["code"]) == (409, "verification.newer_report")
    assert sign(terminal, case_id, scan, report_version=1, note="as set").status_code == 200
    assert post(terminal, case_id, "/undo", scan, reason="wrong image").json()["undoes"] == 1
    back = ask(terminal, case_id)
    assert (back["report_version"], back["report"]["verdict"]) == (2, "accurate")
    assert back["cement_step"] == "needs_acknowledgement"
    again = post(terminal, case_id, "/undo", scan)
    assert (again.status_code, again.json()["code"]) == (409, "verification.nothing_to_undo")
    with reading(rig.app.engine) as connection:
        kept = scans.get(connection, scan).report
        rows = {r.event: r for r in audit.history(connection, f"case:{case_id}")}
    assert (
        kept is not None and kept["verdict"] == "accurate" and kept["needles"][0]["tip"] == [2.0, -8.0, -2.0]
    )
    row = rows["needle_corrected"]
    assert row.actor == "surgeon"
    (change,) = row.data["changes"]
    assert (change["from"]["tip"], change["to"]["tip"]) == ([2.0, -8.0, -2.0], TIP)
    assert (row.data["reason"], row.data["acknowledgement_withdrawn"]) == ("seen on the images", True)
    assert rows["needle_correction_undone"].data["undoes"] == 1
    (only,) = listed(terminal, case_id)
    assert [(c["kind"], c["stands"], c["by"]) for c in only["corrections"]] == [
        ("set", False, "surgeon"),
        ("undo", False, "surgeon"),
    ]


def test_undo_goes_back_one_step_only(rig: Rig, case_id: str, screen: Any) -> None:
    terminal, scan = screen("or_terminal"), measured(rig, case_id, [2.0, -8.0, -2.0])
    post(terminal, case_id, "", scan, needles=TO_TIP)
    post(terminal, case_id, "", scan, needles=[{"pedicle": "left", "entry": [19.0, 28.5, 6.4]}])
    assert ask(terminal, case_id)["report"]["needles"][0]["hand_set"] == {"tip": True, "entry": True}
    post(terminal, case_id, "/undo", scan)
    assert ask(terminal, case_id)["report"]["needles"][0]["hand_set"] == {"tip": True, "entry": False}
    post(terminal, case_id, "/undo", scan)
    assert "hand_set" not in ask(terminal, case_id)["report"]["needles"][0]


def test_the_results_for_the_pacs_are_made_anew(rig: Rig, case_id: str, screen: Any) -> None:
    terminal, scan = screen("or_terminal"), measured(rig, case_id, [2.0, -8.0, -2.0])
    post(terminal, case_id, "", scan, needles=TO_TIP)
    rig.run_jobs("scan_pictures", "publish_scan")
    argument = next(a for kind, a in reversed(rig.tasks.calls) if kind == "publish" and a["what"] == "scan")
    assert argument["report_version"] == 1
    assert json.loads(argument["report"])["needles"][0]["hand_set"]["tip"] is True


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"password": "wrong"}, 401, None),
        ({"username": "theatre-nurse"}, 403, None),
        ({"reason": " "}, 422, "verification.correction"),
        ({"needles": []}, 422, "verification.correction"),
        ({"needles": [{"pedicle": "left"}]}, 422, "verification.correction"),
        ({"needles": TO_TIP * 2}, 422, "verification.correction"),
        ({"needles": [{"pedicle": "left", "tip": [0, 0, 900]}]}, 422, "verification.correction"),
        ({"needles": [{"pedicle": "right", "tip": TIP}]}, 422, "verification.correction"),
        ({"scan_id": "other"}, 409, "verification.newer_scan"),
    ],
)
def test_what_is_refused(
    rig: Rig, case_id: str, screen: Any, people: Any, change: dict[str, Any], status: int, code: str | None
) -> None:
    people("theatre-nurse")
    terminal, scan = screen("or_terminal"), measured(rig, case_id, [2.0, -8.0, -2.0])
    answer = post(terminal, case_id, "", scan, **{"needles": TO_TIP, **change})
    assert answer.status_code == status, answer.text
    assert code is None or answer.json()["code"] == code
    assert ask(terminal, case_id)["report_version"] == 0


def test_nothing_measured_cannot_be_corrected(rig: Rig, case_id: str, screen: Any) -> None:
    terminal = screen("or_terminal")
    scan = scanned(rig, case_id, "", state="COMPUTING")
    answer = post(terminal, case_id, "", scan, needles=TO_TIP)
    assert (answer.status_code, answer.json()["code"]) == (409, "verification.no_verdict")
    assert post(screen("board"), case_id, "", scan, needles=TO_TIP).status_code == 403


def without_needle(rig: Rig, case_id: str, *, expected_tre_mm: float | None = 0.2) -> str:
    """A scan as the verification job leaves it when it finds the vertebra and no needle, or not even that."""
    scan = measured(rig, case_id, [2.0, -8.0, -2.0])
    with transaction(rig.app.engine) as connection:
        report = dict(scans.get(connection, scan).report or {}) | {
            "status": "not_measurable",
            "reason": "No needle was found in the scan.",
            "reason_code": "no_needle",
            "verdict": "review",
            "needles": [],
            "registration": {"expected_tre_mm": expected_tre_mm},
        }
        now = rig.app.clock.now()
        scans.change(connection, scan, now, state="NOT_MEASURABLE", report=report)
        connection.execute(
            update(case_table).where(case_table.c.id == case_id).values(state=CaseState.USED.value)
        )
    return scan


def state_of(rig: Rig, case_id: str) -> CaseState:
    with reading(rig.app.engine) as connection:
        return cases.get(connection, case_id).state


BOTH = [{"pedicle": "left", "tip": TIP, "entry": [19.0, 28.5, 6.4]}]


def test_a_needle_that_was_not_found_is_pointed_at_signed_for_and_taken_back(
    rig: Rig, case_id: str, screen: Any
) -> None:
    terminal, scan = screen("or_terminal"), without_needle(rig, case_id)
    before = ask(terminal, case_id)
    assert (before["status"], before["cement_step"]) == ("not_measurable", "locked")
    half = post(terminal, case_id, "", scan, needles=TO_TIP)
    assert (half.status_code, half.json()["code"]) == (422, "verification.correction")
    assert state_of(rig, case_id) is CaseState.USED
    made = post(terminal, case_id, "", scan, needles=BOTH)
    assert made.status_code == 201, made.text
    shown = ask(terminal, case_id)
    assert (shown["status"], shown["report_version"], "reason" in shown) == ("ready", 1, False)
    assert (shown["report"]["status"], shown["report"]["verdict"]) == ("measured", "review")
    assert shown["report"]["needles"][0]["hand_set"] == {"tip": True, "entry": True}
    assert shown["answered_at"] == before["answered_at"]
    assert (state_of(rig, case_id), shown["cement_step"]) == (CaseState.VERIFIED, "needs_acknowledgement")
    assert sign(terminal, case_id, scan, report_version=1, note="seen on both slices").status_code == 200
    (row,) = listed(terminal, case_id)
    assert (row["verdict"], row["automatic_verdict"]) == ("review", None)
    assert row["corrections"][0]["changes"][0]["from"] is None
    assert post(terminal, case_id, "/undo", scan, reason="another rod").status_code == 201
    back = ask(terminal, case_id)
    assert (back["status"], back["cement_step"]) == ("not_measurable", "locked")
    assert back["reason"] == "No needle was found in the scan."
    assert state_of(rig, case_id) is CaseState.USED
    assert post(terminal, case_id, "", scan, needles=BOTH).status_code == 201, "and set again"
    with reading(rig.app.engine) as connection:
        rows = [r for r in audit.history(connection, f"case:{case_id}") if "needle" in r.event]
    assert [r.event for r in rows if r.event.startswith("needle_")] == [
        "needle_set_by_hand",
        "needle_corrected",
        "needle_taken_back",
        "needle_correction_undone",
        "needle_set_by_hand",
        "needle_corrected",
    ]
    assert {r.actor for r in rows} == {"surgeon"}
    assert (rows[0].data["from"], rows[0].data["to"], rows[0].data["reason"]) == (
        "USED",
        "VERIFIED",
        "seen on the images",
    )


def test_undoing_one_of_two_corrections_keeps_the_verdict(rig: Rig, case_id: str, screen: Any) -> None:
    terminal, scan = screen("or_terminal"), without_needle(rig, case_id)
    post(terminal, case_id, "", scan, needles=BOTH)
    post(terminal, case_id, "", scan, needles=TO_TIP)
    post(terminal, case_id, "/undo", scan)
    assert (ask(terminal, case_id)["status"], state_of(rig, case_id)) == ("ready", CaseState.VERIFIED)
    post(terminal, case_id, "/undo", scan)
    assert (ask(terminal, case_id)["status"], state_of(rig, case_id)) == ("not_measurable", CaseState.USED)


def test_without_a_trusted_registration_no_needle_can_be_pointed_at(
    rig: Rig, case_id: str, screen: Any
) -> None:
    terminal, scan = screen("or_terminal"), without_needle(rig, case_id, expected_tre_mm=None)
    answer = post(terminal, case_id, "", scan, needles=BOTH)
    assert (answer.status_code, answer.json()["code"]) == (409, "verification.no_verdict")
    assert state_of(rig, case_id) is CaseState.USED
    assert terminal.get(f"/api/v1/cases/{case_id}/verification/scans").json()["by_hand"] is False


@pytest.mark.parametrize("state", [s for s in CaseState if s is not CaseState.USED])
def test_a_needle_is_pointed_at_only_while_the_case_waits_for_a_scan(
    rig: Rig, case_id: str, screen: Any, state: CaseState
) -> None:
    terminal, scan = screen("or_terminal"), without_needle(rig, case_id)
    with transaction(rig.app.engine) as connection:
        connection.execute(update(case_table).where(case_table.c.id == case_id).values(state=state.value))
    answer = post(terminal, case_id, "", scan, needles=BOTH)
    assert (answer.status_code, answer.json()["code"]) == (409, "verification.no_verdict")
    assert state_of(rig, case_id) is state


def test_the_planned_paths_are_where_one_starts(rig: Rig, case_id: str, screen: Any) -> None:
    terminal = screen("or_terminal")
    without_needle(rig, case_id)
    body = terminal.get(f"/api/v1/cases/{case_id}/verification/scans").json()
    assert body["by_hand"] is True
    (path,) = body["planned"]
    assert (path["pedicle"], path["tip"], path["entry"]) == ("left", [2, -8, -2], [18, 28, 6])
    way = np.subtract(path["tip"], path["entry"])
    assert path["axis"] == pytest.approx(way / np.linalg.norm(way))


def test_scans_of_a_case_side_by_side(rig: Rig, case_id: str, screen: Any) -> None:
    terminal = screen("or_terminal")
    measured(rig, case_id, [2.0, -8.0, 1.0], "reposition", 1)
    measured(rig, case_id, [2.0, -8.0, -1.9], "accurate", 2)
    measured(rig, case_id, [2.0, -8.0, -2.0], "accurate", 3)
    first, second, third = listed(terminal, case_id)
    assert [r["number"] for r in (first, second, third)] == [1, 2, 3]
    assert [r["verdict"] for r in (first, second, third)] == ["reposition", "accurate", "accurate"]
    assert first["needles"][0]["change"] is None
    change = second["needles"][0]["change"]
    assert change["tip_moved_mm"] == pytest.approx(2.9)
    assert change["tip_to_target_mm"] == pytest.approx(0.1 - 3.0)
    assert change["uncertainty_mm"] == pytest.approx(0.8 * np.sqrt(2), abs=1e-3)
    assert change["beyond_uncertainty"] is True
    assert third["needles"][0]["change"]["beyond_uncertainty"] is False
    answer = terminal.get(f"/api/v1/cases/{case_id}/verification/scans")
    assert answer.json()["frame"]["anterior"] == [0.0, -1.0, 0.0]
    same = terminal.get(
        f"/api/v1/cases/{case_id}/verification/scans", headers={"If-None-Match": answer.headers["ETag"]}
    )
    assert same.status_code == 304
