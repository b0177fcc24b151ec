"""Pictures of a scan: after its report, with a state of their own, never lost, and for those who may see them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from service.bootstrap import open_app
from service.domain.case import CaseState
from service.errors import ImagingError
from service.store import blobs, outbox, scan_pictures, scans
from service.store.database import reading, transaction
from service.workflow import publish
from tests.contract.test_acknowledge import ask
from tests.contract.test_corrections import TO_TIP, bone, listed, measured, needle, post
from tests.contract.test_corrections import case_id as case_with_files
from tests.support_app import HandQueue, Rig, make_rig, receive, study_quiet
from tests.support_route import OARM, SCAN
from tests.unit.test_intake import _waiting_case as waiting_case
from tests.unit.test_web_api import people, screen, web

__all__ = ["bone", "case_with_files", "people", "screen", "web"]

REPORT = {
    "schema": "spineprint.verification/1", "status": "measured", "verdict": "accurate", "reason": None, "advice": "",
    "registration": {"expected_tre_mm": 0.2}, "needles": [needle([2.0, -8.0, -2.0])],
}  # fmt: skip


@pytest.fixture
def rig(tmp_path: Any) -> Rig:
    return make_rig(tmp_path, dicom=OARM)


@pytest.fixture
def case_id(rig: Rig) -> str:
    """A case whose scan was just measured; nothing after the report has run."""
    case = waiting_case(rig)
    rig.tasks.report = REPORT
    for index in range(2):
        receive(rig, index, calling_ae="OARM", study=SCAN, series=f"{SCAN}.1")
    study_quiet(rig)
    rig.run_verify(case)
    assert rig.case(case.id).state is CaseState.VERIFIED
    return case.id


def asked(rig: Rig) -> list[str]:
    return [kind for kind, _ in rig.tasks.calls]


def test_the_report_is_out_before_anything_is_drawn(rig: Rig, case_id: str, screen: Any) -> None:
    terminal = screen("or_terminal")
    shown = ask(terminal, case_id)
    assert (shown["status"], shown["report"]["verdict"]) == ("ready", "accurate")
    assert shown["pictures"] == {"state": "making", "items": []}
    assert "scan_pictures" not in asked(rig) and "publish" not in asked(rig)
    rig.run_jobs()
    shown = ask(terminal, case_id)
    assert shown["pictures"]["state"] == "ready"
    (item,) = shown["pictures"]["items"]
    assert (item["name"], item["pedicle"], item["width"]) == ("left-axial", "left", 1120)
    answer = terminal.get(item["href"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert json.loads(answer.text) == [1, [2.0, -8.0, -2.0]]
    assert answer.headers["cache-control"] == "no-store"
    assert asked(rig)[-3:] == ["scan_pictures", "publish", "publish"], "the results come after the pictures"
    made = [
        (a["what"], [p["name"] for p in a["pictures"]]) for kind, a in rig.tasks.calls if kind == "publish"
    ]
    assert made == [("scan", ["left-axial"]), ("scan_pictures", ["left-axial"])]


def test_a_kill_between_report_and_pictures_loses_none(rig: Rig, case_id: str, screen: Any) -> None:
    rig.relay()
    rig.queue = HandQueue()  # gone with the process, before or while they were drawn
    rig.app = open_app(rig.app.config)  # the next start, on the same database
    rig.app = replace(rig.app, run_task=rig.tasks, clock=rig.clock, notifier=rig.notes)
    assert ask(screen("or_terminal"), case_id)["pictures"]["state"] == "making", "nothing else is claimed"
    assert len(outbox.recover(rig.app.engine, rig.queue)) >= 1
    rig.run_jobs()
    with reading(rig.app.engine) as connection:
        (scan,) = scans.of_case(connection, case_id)
        found = scan_pictures.of_report(connection, scan.id, 0)
    assert found is not None and found.state == scan_pictures.READY and found.pictures[0].path.is_file()
    assert outbox.recover(rig.app.engine, HandQueue()) == []


def test_a_failure_is_told_and_asked_for_again(rig: Rig, case_id: str, screen: Any) -> None:
    terminal = screen("or_terminal")
    rig.tasks.fail["scan_pictures"] = ImagingError(
        "The scan cannot be read.", next_step="Look at the disk.", code="x"
    )
    rig.run_jobs()
    shown = ask(terminal, case_id)
    assert (shown["status"], shown["report"]["verdict"]) == ("ready", "accurate"), "the report stands"
    assert shown["pictures"] == {
        "state": "failed", "items": [], "reason": "The scan cannot be read.", "next_step": "Look at the disk.",
    }  # fmt: skip
    assert [a["what"] for kind, a in rig.tasks.calls if kind == "publish"] == ["scan"], (
        "the results go without"
    )
    again = f"/api/v1/cases/{case_id}/verification/scans/{shown['scan_id']}/pictures"
    del rig.tasks.fail["scan_pictures"]
    assert terminal.post(again).status_code == 202
    assert ask(terminal, case_id)["pictures"]["state"] == "making"
    twice = terminal.post(again)
    assert (twice.status_code, twice.json()["code"]) == (409, "pictures.not_failed")
    rig.run_jobs()
    assert ask(terminal, case_id)["pictures"]["state"] == "ready"
    what = [a["what"] for kind, a in rig.tasks.calls if kind == "publish"]
    assert what == ["scan", "scan_pictures"], "the document that went out is not made twice under one name"


def test_a_full_disk_is_a_failure_of_the_pictures_alone(
    rig: Rig, case_id: str, screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blobs, "keep", full)
    rig.run_jobs("scan_pictures")
    shown = ask(screen("or_terminal"), case_id)
    assert (shown["status"], shown["pictures"]["state"]) == ("ready", "failed")
    assert "disk" in shown["pictures"]["reason"]


def test_a_correction_gets_pictures_of_its_own(rig: Rig, case_with_files: str, screen: Any) -> None:
    terminal, case_id = screen("or_terminal"), case_with_files
    scan = measured(rig, case_id, [2.0, -8.0, -2.0])
    assert ask(terminal, case_id)["pictures"] == {"state": "none", "items": []}
    rig.tasks.calls.clear()
    assert post(terminal, case_id, "", scan, needles=TO_TIP).status_code == 201
    assert ask(terminal, case_id)["pictures"]["state"] == "making"
    rig.run_jobs()
    (item,) = ask(terminal, case_id)["pictures"]["items"]
    assert listed(terminal, case_id)[0]["pictures"]["items"] == [item]
    assert "/pictures/1/" in item["href"]
    assert json.loads(terminal.get(item["href"]).text) == [1, TO_TIP[0]["tip"]]
    assert post(terminal, case_id, "/undo", scan).status_code == 201
    rig.run_jobs()
    (back,) = ask(terminal, case_id)["pictures"]["items"]
    assert json.loads(terminal.get(back["href"]).text) == [1, [2.0, -8.0, -2.0]]
    assert json.loads(terminal.get(item["href"]).text) == [1, TO_TIP[0]["tip"]], "the earlier ones stay"


def test_a_job_of_an_earlier_version_still_publishes(rig: Rig, case_id: str) -> None:
    with reading(rig.app.engine) as connection:
        (scan,) = scans.of_case(connection, case_id)
    publish.publish_scan(rig.app, f"publish.scan.{scan.id}", scan.id)
    assert rig.tasks.calls[-1][1]["report_version"] == 0


def test_who_may_see_them(rig: Rig, case_id: str, screen: Any, people: Any) -> None:
    rig.run_jobs()
    terminal, board = screen("or_terminal"), screen("board")
    shown = ask(terminal, case_id)
    href = shown["pictures"]["items"][0]["href"]
    assert people("surgeon").get(href).status_code == 200
    assert board.get(href).status_code == 403
    assert terminal.get(href, headers={"Authorization": ""}).status_code == 401
    for wrong in ("left-sagittal", "..%2f..%2fplan", "left-axial.png"):
        answer = terminal.get(href.replace("left-axial", wrong))
        assert answer.status_code == 404, wrong
    assert terminal.get(href.replace("/pictures/0/", "/pictures/5/")).status_code == 404
    other = waiting_case(rig, study="1.2.3.99", series="1.2.3.99.1", patient_id="OTHER-9").id
    answer = terminal.get(href.replace(case_id, other))
    assert (answer.status_code, answer.json()["code"]) == (404, "scan.not_found")
    assert board.post(href.rsplit("/", 2)[0]).status_code == 403


def test_a_picture_that_was_changed_on_the_disk_is_not_shown(rig: Rig, case_id: str, screen: Any) -> None:
    rig.run_jobs()
    terminal = screen("or_terminal")
    item = ask(terminal, case_id)["pictures"]["items"][0]
    with transaction(rig.app.engine) as connection:
        found = scan_pictures.of_report(connection, ask(terminal, case_id)["scan_id"], 0)
    assert found is not None
    path = found.pictures[0].path
    assert "TEST" not in path.name and path.name.startswith("scan-picture-")
    path.chmod(0o644)
    path.write_text("something else", "utf-8")
    answer = terminal.get(item["href"])
    assert (answer.status_code, answer.json()["code"]) == (507, "storage.changed")
