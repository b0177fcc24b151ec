"""The cement step is locked until a surgeon has signed for the newest verdict, and locked again by a newer scan."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from service.domain.case import CaseState
from service.store import audit, scans, studies, times
from service.store.database import reading, transaction
from service.store.tables import cases
from tests.support_app import PASSWORD, Rig, bring
from tests.unit.test_web_api import add_people, people, screen, web

__all__ = ["people", "screen", "web"]


@pytest.fixture
def case_id(rig: Rig) -> str:
    add_people(rig.app, "surgeon")
    return bring(rig, CaseState.SLICED).id


def scanned(rig: Rig, case_id: str, verdict: str, *, state: str = "READY", number: int = 1) -> str:
    """A scan as the verification job leaves it, and the case where that job puts it."""
    now = rig.app.clock.now() + timedelta(minutes=number)
    study = f"1.2.3.{number}"
    report = {"status": "measured", "verdict": verdict, "needles": []} if state == "READY" else None
    with transaction(rig.app.engine) as connection:
        at = times.to_text(now)
        studies.insert_study(
            connection,
            {"study_uid": study, "kind": "oarm", "state": "MATCHED", "patient_id": "", "patient_name": "",
             "instance_count": 192, "first_instance_at": at, "last_instance_at": at},
        )  # fmt: skip
        scan = scans.create(
            connection, study_uid=study, revision=1, case_id=case_id, last_image_at=now, now=now
        )
        scans.change(connection, scan, now, state=state, report=report)
        after = CaseState.VERIFIED if state == "READY" else CaseState.VERIFYING
        connection.execute(update(cases).where(cases.c.id == case_id).values(state=after.value))
    return scan


def ask(client: TestClient, case_id: str) -> dict[str, Any]:
    answer = client.get(f"/api/v1/cases/{case_id}/verification")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def sign(client: TestClient, case_id: str, scan_id: str, **change: str) -> Any:
    body = {"scan_id": scan_id, "username": "surgeon", "password": PASSWORD} | change
    return client.post(f"/api/v1/cases/{case_id}/verification/acknowledge", json=body)


def test_the_terminal_unlocks_with_a_surgeons_signature(rig: Rig, case_id: str, screen: Any) -> None:
    terminal = screen("or_terminal")
    assert ask(terminal, case_id)["cement_step"] == "locked"
    scan = scanned(rig, case_id, "accurate")
    before = ask(terminal, case_id)
    assert before["cement_step"] == "needs_acknowledgement"
    answer = sign(terminal, case_id, scan)
    assert (answer.status_code, answer.json()["by"]) == (200, "surgeon")
    after = ask(terminal, case_id)
    assert (after["cement_step"], after["acknowledged"]["by"]) == ("acknowledged", "surgeon")
    assert after["answered_at"] == before["answered_at"], "when the answer came does not change by signing"
    again = sign(terminal, case_id, scan, note="twice")
    assert again.json() == answer.json()
    with reading(rig.app.engine) as connection:
        rows = [r for r in audit.history(connection, f"case:{case_id}") if r.event == "verdict_acknowledged"]
    assert [(r.actor, r.data) for r in rows] == [
        ("surgeon", {"scan": scan, "verdict": "accurate", "note": ""})
    ]


@pytest.mark.parametrize("verdict", ["reposition", "review"])
def test_going_on_against_the_verdict_wants_a_reason(
    rig: Rig, case_id: str, screen: Any, verdict: str
) -> None:
    terminal, scan = screen("or_terminal"), scanned(rig, case_id, verdict)
    for note in ("", "   ", "x" * 501):
        answer = sign(terminal, case_id, scan, note=note)
        assert (answer.status_code, answer.json()["code"]) == (422, "verification.note")
    assert ask(terminal, case_id)["cement_step"] == "needs_acknowledgement"
    assert (
        sign(terminal, case_id, scan, note="cement from this place reaches the fracture").status_code == 200
    )
    assert ask(terminal, case_id)["cement_step"] == "acknowledged"


def test_a_newer_scan_locks_again_and_the_old_verdict_is_not_signed(
    rig: Rig, case_id: str, screen: Any
) -> None:
    terminal, first = screen("or_terminal"), scanned(rig, case_id, "accurate")
    assert sign(terminal, case_id, first).status_code == 200
    second = scanned(rig, case_id, "", state="COMPUTING", number=2)
    assert ask(terminal, case_id)["cement_step"] == "locked"
    late = sign(terminal, case_id, first)
    assert (late.status_code, late.json()["code"]) == (409, "verification.newer_scan")
    early = sign(terminal, case_id, second)
    assert (early.status_code, early.json()["code"]) == (409, "verification.no_verdict")


def test_who_may_not_sign(rig: Rig, case_id: str, screen: Any, people: Any) -> None:
    scan = scanned(rig, case_id, "accurate")
    nurse, terminal = people("theatre-nurse"), screen("or_terminal")
    assert sign(terminal, case_id, scan, password="wrong").status_code == 401
    assert sign(terminal, case_id, scan, username="nobody").status_code == 401
    assert sign(terminal, case_id, scan, username="theatre-nurse").status_code == 403
    assert sign(screen("board"), case_id, scan).status_code == 403
    # a person's own session lets the page be used, but it is the surgeon who signs
    assert sign(nurse, case_id, scan).status_code == 200
    assert ask(terminal, case_id)["acknowledged"]["by"] == "surgeon"


def test_nothing_to_sign_yet(case_id: str, screen: Any) -> None:
    terminal = screen("or_terminal")
    answer = sign(terminal, case_id, "x")
    assert (answer.status_code, answer.json()["code"]) == (409, "verification.no_verdict")
    assert sign(terminal, "no-such-case", "x").status_code == 404
