"""One whole journey, from C-STORE to CLOSED, by the people's own interfaces; then what it left behind is examined."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from pydicom import dcmread

from simulators.demo.client import Service
from simulators.demo.journey import ADMIN, Journey
from tests.e2e.stages import WatchedStage, journey_on, running_stage, send_files, study_of, wait_for
from tests.support_dicom import ROOT, patience, write_series

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

STATES = ["RECEIVING", "RECEIVED", "BUILDING", "PLAN_READY", "APPROVED", "SLICED", "PRINTING", "PRINTED",
          "QA_PASSED", "ISSUED", "USED", "VERIFYING", "VERIFIED", "CLOSED"]  # fmt: skip


@dataclass
class Travelled:
    """A finished journey with its stage still running."""

    stage: WatchedStage
    service: Service
    patient: dict[str, Any]
    truth: dict[str, Any] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    case: dict[str, Any] = field(default_factory=dict)
    stranger: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})
    """The waiting case before and after another patient's scan came, and what became of that scan."""
    unreachable: tuple[dict[str, Any], list[Any]] = ({}, [])
    """The case after a print was started on a printer that does not answer, and the printer's ledger then."""
    board: list[str] = field(default_factory=list)
    """Everything a screen with a token was told on the way."""

    def artifact(self, kind: str) -> bytes:
        return self.service.fetch(f"/api/v1/cases/{self.case['id']}/artifacts/{kind}", who="sara")


@pytest.fixture(scope="module")
def travelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Travelled]:
    with running_stage(tmp_path_factory.mktemp("journey") / "out") as (stage, service):
        ct, patient = stage.make_phantom()
        done = Travelled(stage, service, patient)
        token = service.post(
            "/api/v1/tokens", {"name": "screen", "scopes": ["board", "or_terminal"]}, who=ADMIN
        )["token"]
        screen = {"Authorization": f"Bearer {token}"}

        def scan(plan: Any) -> None:
            done.stranger = send_a_strangers_scan(done, journey, stage.out / "stranger")
            done.truth = stage.scan_with_needle(ct, plan, stage.out / "oarm")

        def look(case: dict[str, Any]) -> None:
            for path in (
                "cases",
                f"cases/{case['id']}",
                "printers",
                "print-jobs",
                f"cases/{case['id']}/verification",
            ):
                answer = httpx.get(f"{stage.url}/api/v1/{path}", headers=screen, timeout=30.0)
                assert answer.status_code == 200, (path, answer.text)
                done.board.append(answer.text)

        journey = journey_on(stage, service, {"level": patient["target"], **patient["seeds"]}, patient["patient_id"],
                             scan)  # fmt: skip

        def enter(state: str) -> None:
            done.states.append(state)
            if state == "SLICED":
                done.unreachable = start_on_an_unreachable_printer(done, journey)

        journey.on_state = enter
        stage.route_from_pacs(ct)
        journey.find_case(patient["study_instance_uid"])
        journey.on_look = look
        done.case = journey.run()
        # SEG, model, views; SR and document of the scan; its two slices and its 3-D picture
        wait_for(lambda: len(stage.pacs_received()) >= 8, 120, "all results reaching the PACS")
        yield done


def send_a_strangers_scan(
    done: Travelled, journey: Journey, folder: Path
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """An O-arm scan of another patient while the case waits for its own; (case before, case after, scan)."""
    before = journey.look()
    study = f"{ROOT}.80.1"
    files = write_series(folder, 12, study=study, series=f"{study}.1", patient_id="STRANGER-1")
    assert set(send_files(done.stage, files, "OARM")) == {0}

    def set_aside() -> dict[str, Any] | None:
        found = study_of(done.service, study)
        return found if found and found["state"] != "RECEIVING" and found["state"] != "COMPLETE" else None

    scan = wait_for(set_aside, what="the stranger's scan being judged")
    return before, journey.look(), scan


def start_on_an_unreachable_printer(done: Travelled, journey: Journey) -> tuple[dict[str, Any], list[Any]]:
    """Start the print while the printer's network is down; then the network is back and the case is resumed."""
    path = f"/api/v1/cases/{journey.case_id}"

    def reached(state: str) -> dict[str, Any] | None:
        case = journey.look()
        return case if case["state"] == state else None

    done.stage.hit("refuse_connection")
    seen = journey.look()["artifacts"]["gcode"]["sha256"]
    body = {"printer": "um3-sim", "bed_clear": True, "gcode_sha256": seen}
    done.service.post(f"{path}/print", body, who="tom")
    parked = wait_for(lambda: reached("NEEDS_ATTENTION"), what="the print being given up")
    ledger = done.stage.printer_ledger()
    done.stage.lift()
    done.service.post(f"{path}/resume", who="tom")
    wait_for(lambda: reached("SLICED"), what="the case being resumed")
    return parked, ledger


def test_the_case_goes_through_every_state_to_closed(travelled: Travelled) -> None:
    assert travelled.case["state"] == "CLOSED"
    # RECEIVING may be over before the first look
    assert travelled.states in (STATES, STATES[1:])


def test_the_printer_started_exactly_once_what_was_audited(travelled: Travelled) -> None:
    (start,) = travelled.stage.printer_ledger()
    (job,) = [j for j in travelled.case["print_jobs"] if j["state"] != "NOT_STARTED"]
    assert (job["state"], start["name"]) == ("FINISHED", job["id"])
    assert job["gcode_sha256"] == travelled.case["artifacts"]["gcode"]["sha256"]
    assert json.loads(travelled.artifact("gcode_report"))["passed"] is True


def test_an_unreachable_printer_starts_nothing_and_the_print_can_be_started_again(
    travelled: Travelled,
) -> None:
    parked, ledger = travelled.unreachable
    assert parked["attention"]["code"] == "device.printer_silent"
    assert "printer" in parked["attention"]["message"] and parked["attention"]["next_step"]
    assert [j["state"] for j in parked["print_jobs"]] == ["NOT_STARTED"]
    assert ledger == []
    assert sorted(j["state"] for j in travelled.case["print_jobs"]) == ["FINISHED", "NOT_STARTED"]


def test_the_model_is_one_watertight_body_without_sealed_cavities(travelled: Travelled) -> None:
    report = json.loads(travelled.artifact("model_report"))
    check = report["check"]
    assert (report["passed"], check["watertight"], check["bodies"], check["closed_voids"]) == (
        True,
        True,
        1,
        0,
    )
    assert check["channels"] and all(c["open"] for c in check["channels"])


def test_the_needle_is_found_where_the_simulator_put_it(travelled: Travelled) -> None:
    answer = travelled.service.get(f"/api/v1/cases/{travelled.case['id']}/verification", who="sara")
    (measured,), (true,) = answer["report"]["needles"], travelled.truth["needles"]
    true = true["preop"]
    assert np.linalg.norm(np.subtract(measured["tip"], true["tip"])) <= 1.0
    cosine = abs(np.dot(measured["axis"], true["axis"])) / np.linalg.norm(true["axis"])
    assert np.degrees(np.arccos(min(1.0, cosine))) <= 1.0


def test_the_scans_pictures_are_there_after_its_report(travelled: Travelled) -> None:
    answer = travelled.service.get(f"/api/v1/cases/{travelled.case['id']}/verification", who="sara")
    pictures, (needle,) = answer["pictures"], answer["report"]["needles"]
    assert pictures["state"] == "ready", pictures
    side = needle["pedicle"]
    assert [p["name"] for p in pictures["items"]] == [f"{side}-sagittal", f"{side}-axial", "view"]
    for picture in pictures["items"]:
        assert travelled.service.fetch(picture["href"], who="sara").startswith(b"\x89PNG")


def test_a_scan_of_another_patient_is_set_aside_and_changes_nothing(travelled: Travelled) -> None:
    before, after, scan = travelled.stranger
    assert (scan["kind"], scan["state"], scan["reason_code"]) == ("oarm", "UNMATCHED", "scan.other_patient")
    assert scan["reason"] and scan["next_step"]
    assert before["state"] == "USED"
    volatile = {"updated_at", "progress"}
    before, after = ({k: v for k, v in case.items() if k not in volatile} for case in (before, after))
    for case in (before, after):
        case["study"] = {k: v for k, v in case["study"].items() if k != "live"}  # it tells ages
    assert after == before
    assert len(travelled.case["scans"]) == 1
    kept = {f"{ROOT}.80.1.1.{n}" for n in range(1, 13)}
    assert kept <= travelled.stage.originals()


def test_the_pacs_holds_valid_results_of_the_patients_own_study(travelled: Travelled) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy of dicom3tools")
    got = {r["modality"]: travelled.stage.out / "pacs" / r["file"] for r in travelled.stage.pacs_received()}
    assert {"SR", "DOC", "SEG", "M3D", "OT"} <= set(got)
    for kind in ("SR", "DOC", "SEG", "M3D", "OT"):
        checked = subprocess.run(["dciodvfy", got[kind]], capture_output=True, text=True, check=False)
        errors = [line for line in checked.stderr.splitlines() if line.startswith("Error")]
        assert not errors, (kind, errors)
        header = dcmread(got[kind], stop_before_pixels=True)
        assert str(header.PatientID) == travelled.patient["patient_id"]
    assert dcmread(got["DOC"]).EncapsulatedDocument.startswith(b"%PDF-")


def test_the_audit_chain_is_whole_and_tells_the_journey(travelled: Travelled) -> None:
    assert travelled.service.get("/api/v1/audit/check", who=ADMIN) == {"whole": True, "first_break": None}
    events = travelled.service.get(f"/api/v1/cases/{travelled.case['id']}/events", who="sara")
    signed = [(e["actor"], e["event"]) for e in events]
    # every step of a person carries that person's name
    for step in (("piet", "give_inputs"), ("sara", "approve"), ("tom", "start_print"), ("nora", "close")):
        assert step in signed, signed


def test_no_patient_is_named_outside_the_patients_own_pages(travelled: Travelled) -> None:
    patient, out = travelled.patient, travelled.stage.out
    secrets = [patient["patient_id"], patient["patient_name"], patient["accession_number"], "19480317"]
    gcode = gzip.decompress(travelled.artifact("gcode"))
    assert gcode.count(b"\n") > 1000
    texts = {"G-code": gcode.decode("utf-8"), "ledger": json.dumps(travelled.stage.printer_ledger()),
             "printer": (out / "printer.json").read_text("utf-8"), "screens": "\n".join(travelled.board)}  # fmt: skip
    texts |= {f.name: f.read_text("utf-8") for f in (out / "logs").iterdir()}
    names = [str(p.relative_to(out)) for p in (out / "data").rglob("*")]
    texts["file names"] = "\n".join(names)
    assert len(texts["screens"]) > 1000 and travelled.case["code"] in texts["screens"]
    assert "spineprint is up" in texts["service.log"]
    found = [(where, s) for where, text in texts.items() for s in secrets if s.lower() in text.lower()]
    assert not found


def test_the_log_holds_no_error(travelled: Travelled) -> None:
    rows = [
        json.loads(line)
        for line in (travelled.stage.out / "logs" / "service.log").read_text("utf-8").splitlines()
        if line.startswith("{")
    ]
    assert any(r["event"] == "spineprint is up" for r in rows)
    bad = [r for r in rows if r["level"] in ("error", "critical")]
    assert not bad


def test_the_daemon_ends_cleanly_on_sigterm(travelled: Travelled) -> None:
    daemon = travelled.stage.daemon
    assert daemon is not None
    assert daemon.stop(timeout_s=30.0 * patience()) == 0
    assert '"spineprint has stopped"' in daemon.log.read_text("utf-8")
    daemon.start()  # the same data again: it comes up, and nothing is printed a second time
    wait_for(travelled.service.alive, 60, "the service coming up again")
    case = travelled.service.get(f"/api/v1/cases/{travelled.case['id']}", who="sara")
    assert case["state"] == "CLOSED"
    assert len(travelled.stage.printer_ledger()) == 1
    assert daemon.stop(timeout_s=30.0 * patience()) == 0
