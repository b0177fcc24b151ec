"""What nobody outside knows of the printer (reference sheet, section 9): our client is truthful whichever way it is.

Each test turns a switch of the simulated machine and looks at what we would tell a person.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from requests.auth import HTTPDigestAuth

from adapters.ultimaker import (
    PrinterSettings,
    Timeouts,
    UltimakerPrinter,
    load_credentials,
    pair,
)
from adapters.ultimaker.faults import PairingRefusedError
from adapters.ultimaker.interfaces import DIRECT
from service.ports import LookupOutcome, PrinterState, SendOutcome
from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.simulator import Simulator
from tests.contract.test_ultimaker import Room
from tests.support_ultimaker import in_process, options_for, small_gcode

SETTINGS = PrinterSettings(settle_s=0.05, confirm_s=0.4, timeouts=Timeouts(4.0, 8.0, 8.0))


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    sim = Simulator(options_for("direct"), MachineClock(0.0))
    with in_process(sim) as device:
        credentials, gcode = tmp_path / "printer.json", tmp_path / "model.gcode"
        pair(device.url, credentials, poll_s=0.01)
        gcode.write_text(small_gcode(seconds=3600))
        printer = UltimakerPrinter("um3", device.url, credentials, SETTINGS)
        yield Room(sim, device, printer, gcode, credentials, DIRECT)


def _switch(room: Room, **switches: object) -> None:
    room.device.panel("options", **switches)


# --- 9.1 upload while busy, during clean-up, with a bad header ---------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 405, 409, 423, 503])
@pytest.mark.parametrize("when", ["busy", "cleanup"])
def test_a_refused_upload_by_whatever_code_starts_nothing(room: Room, status: int, when: str) -> None:
    _switch(room, **{f"{when}_status": status, f"{when}_text": "not now"})
    room.start("somebody-elses")
    room.wait(600 if when == "busy" else 6000)
    for lie in ("false_idle", "job_404"):  # as long as it tells the truth we do not even ask
        room.device.fault(lie)
    result = room.printer.send(room.gcode, "case-1")
    # a fault of the server may hide a start; that it does not is then looked up
    expected = SendOutcome.UNSURE if status >= 500 else SendOutcome.REFUSED
    assert result.outcome is expected
    room.device.lift_faults()
    assert room.printer.find("case-1").outcome is LookupOutcome.ABSENT
    assert len(room.device.ledger()) == 1


@pytest.mark.parametrize("status", [400, 406, 415, 422])
def test_the_words_of_a_refused_header_are_passed_on(room: Room, status: int) -> None:
    _switch(room, bad_header_status=status, bad_header_text="no such flavour")
    room.gcode.write_text(small_gcode().replace("Griffin", "Marlin"))
    result = room.printer.send(room.gcode, "case-1")
    assert result.outcome is SendOutcome.REFUSED and "no such flavour" in result.detail


# --- 9.2, 9.3 pairing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("id_length", "key_length"), [(8, 16), (32, 64), (36, 128)])
def test_keys_of_any_length(room: Room, tmp_path: Path, id_length: int, key_length: int) -> None:
    _switch(room, id_length=id_length, key_length=key_length)
    given = pair(room.device.url, tmp_path / "other.json", poll_s=0.01)
    assert (len(given.id), len(given.key)) == (id_length, key_length)
    printer = UltimakerPrinter("um3", room.device.url, tmp_path / "other.json", SETTINGS)
    assert printer.preflight(room.gcode) == []


@pytest.mark.parametrize("word", ["unknown", "unauthorized"])
def test_a_prompt_that_lapses_ends_the_pairing(tmp_path: Path, word: str) -> None:
    options = options_for("direct", auto_allow=False, prompt_timeout_wall_s=0.05, check_after_lapse=word)
    with in_process(Simulator(options, MachineClock(0.0))) as device, pytest.raises(PairingRefusedError):
        pair(device.url, tmp_path / "c.json", wait_s=0.5, poll_s=0.05)
    assert not (tmp_path / "c.json").exists()


# --- 9.5 hardware errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "result"), [("Failed", "Failed"), ("Aborted", "Aborted"), ("none", "")])
@pytest.mark.parametrize("status", ["error", "printing", "idle"])
def test_a_hardware_error_is_never_a_finished_print(room: Room, left: str, result: str, status: str) -> None:
    _switch(room, after_hardware_error=left, hardware_error_status=status)
    uuid = room.start()
    room.until_printing()
    room.device.fault("hardware_error")
    room.wait(300)
    found = room.printer.find("case-1", uuid)
    assert found.outcome is LookupOutcome.FOUND and found.job is not None
    assert found.job.result == result
    if status == "error":
        assert room.state() is PrinterState.ERROR
        assert room.printer.send(room.gcode, "case-2").outcome is SendOutcome.REFUSED


# --- 9.6 what the direct call takes -----------------------------------------------------------------------


def test_parts_and_files_of_later_firmware(room: Room) -> None:
    """Ours has neither; another client that sends them is told what it is told, and nothing begins."""
    given = load_credentials(room.credentials)
    url, auth = f"{room.device.url}/api/v1/print_job", HTTPDigestAuth(given.id, given.key)

    def send(name: str) -> int:
        parts = {"jobname": (None, "j"), "owner": (None, "anna"), "created_at": (None, "2026-01-02T03:04:05"),
                 "file": (name, room.gcode.read_bytes())}  # fmt: skip
        return requests.post(url, files=parts, auth=auth, timeout=10).status_code

    assert send("model.ufp") == 400
    _switch(room, owner_part="refuse")
    assert (send("model.gcode"), len(room.device.ledger())) == (400, 0)
    _switch(room, owner_part="keep")
    assert send("model.gcode") == 201
    (entry,) = requests.get(f"{room.device.url}/api/v1/history/print_jobs", timeout=10).json()
    assert (entry["owner"], entry["created_at"]) == ("anna", "2026-01-02T03:04:05")
    for has, status in ((False, 404), (True, 200)):
        _switch(room, ambient_temperature=has)
        assert requests.get(f"{room.device.url}/api/v1/ambient_temperature", timeout=10).status_code == status


# --- 9.7 names of jobs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule", [{"job_name_rule": "cut", "job_name_length": 12}, {"job_name_rule": "plain"}]
)
@pytest.mark.parametrize("later", ["in the machine", "in the history"])
def test_a_job_under_a_changed_name_is_no_proof_of_absence(
    room: Room, rule: dict[str, object], later: str
) -> None:
    _switch(room, **rule)
    room.device.fault("drop_reply", match="/print_job", method="POST", count=1)
    assert room.printer.send(room.gcode, "SP-ABC-1f2e3d-1").outcome is SendOutcome.UNSURE
    if later == "in the history":
        room.wait(6000)
        room.device.panel("clear")
    lookup = room.printer.find("SP-ABC-1f2e3d-1")
    assert lookup.outcome is LookupOutcome.UNSURE and "changed name" in lookup.detail
    (start,) = room.device.ledger()
    assert room.printer.find("SP-ABC-1f2e3d-1", start["uuid"]).outcome is LookupOutcome.FOUND
    assert room.printer.find("SP-XYZ-000000-1").outcome is LookupOutcome.ABSENT


def test_a_name_that_is_too_long_is_refused_in_words(room: Room) -> None:
    _switch(room, job_name_rule="refuse", job_name_length=4)
    result = room.printer.send(room.gcode, "case-1")
    assert result.outcome is SendOutcome.REFUSED and "Invalid job name" in result.detail


# --- 9.8 findings of the printer's own check ----------------------------------------------------------------


@pytest.mark.parametrize("level", ["", "WARNING", "ERROR", "NOZZLE_MISMATCH=INFO", "GUID_MISMATCH=ERROR"])
@pytest.mark.parametrize("data", ["dict", "none", "odd"])
def test_every_finding_counts_at_any_level_but_another_colour_of_pla(
    room: Room, level: str, data: str
) -> None:
    _switch(room, finding_level=level, finding_data=data)
    room.device.panel("material", slot=0, guid="3ee70a86-77d8-4b87-8005-e4a1bc57d2ce")
    assert room.printer.preflight(room.gcode) == []
    room.gcode.write_text(small_gcode(nozzle="AA 0.8"))
    assert any("NOZZLE_MISMATCH" in reason for reason in room.printer.preflight(room.gcode))


# --- 9.9, 9.10 moments and scales -------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["none", ""])
@pytest.mark.parametrize("lasts_s", [0.0, 600.0])
def test_a_job_without_a_word_is_there_all_the_same(room: Room, word: str, lasts_s: float) -> None:
    _switch(room, none_word=word, none_s=lasts_s, abort_none_s=lasts_s)
    uuid = room.start()
    assert room.state() is PrinterState.BUSY
    found = room.printer.find("case-1", uuid)
    assert found.outcome is LookupOutcome.FOUND
    room.wait(900)
    room.printer.command("abort", "case-1", uuid)
    assert room.state() is PrinterState.BUSY
    assert room.printer.send(room.gcode, "case-2").outcome is SendOutcome.REFUSED


def _half_way(room: Room, **switches: object) -> tuple[float, int]:
    """Progress and seconds as we tell them; the first of two layers takes three quarters of the bytes."""
    _switch(room, **switches)
    layers = small_gcode(layers=2, seconds=3600)
    begin, second = layers.split(";LAYER:1\n")
    room.gcode.write_text(f"{begin}{';filler' * 400}\n;LAYER:1\n{second}")
    room.start()
    room.until_printing()
    job = room.printer.read().job
    assert job is not None and job.time_elapsed_s is not None
    room.wait(1800 - job.time_elapsed_s if not switches.get("elapsed_from") else 1200)
    job = room.printer.read().job
    assert job is not None and job.progress is not None and job.time_elapsed_s is not None
    assert job.time_total_s == 3600
    return job.progress, job.time_elapsed_s


def test_progress_is_passed_on_whatever_it_is_a_share_of(room: Room) -> None:
    assert _half_way(room) == (pytest.approx(0.5, abs=0.01), pytest.approx(1800, abs=2))


def test_progress_of_bytes_runs_ahead_of_the_time_and_stays_a_fraction(room: Room) -> None:
    progress, elapsed_s = _half_way(room, progress_scale="bytes")
    assert 0.8 < progress < 1.0 and elapsed_s == pytest.approx(1800, abs=2)


def test_seconds_that_begin_with_the_start_are_no_progress(room: Room) -> None:
    _switch(room, elapsed_from="start")
    room.start()
    room.wait(100)
    job = room.printer.read().job
    assert job is not None and (job.state, job.progress) == ("pre_print", 0.0)
    assert job.time_elapsed_s == pytest.approx(100, abs=2)
    room.wait(6000)
    job = room.printer.read().job
    assert job is not None and job.time_elapsed_s is not None
    # longer than the whole print: told as it is, and the print has ended by its own word
    assert (job.result, job.time_elapsed_s > 3600) == ("Finished", True)


# --- 9.11 the clock ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead_s", [-400e6, 86400.0])
def test_a_clock_that_is_off_dates_nothing_of_ours(room: Room, ahead_s: float) -> None:
    _switch(room, clock_offset_s=ahead_s)
    uuid = room.start()
    told = requests.get(f"{room.device.url}/api/v1/print_job/datetime_started", timeout=10).json()
    true = datetime.fromtimestamp(room.sim.machine.now_s(), UTC).replace(tzinfo=None)
    off_s = (datetime.fromisoformat(told) - true).total_seconds()
    assert off_s == pytest.approx(ahead_s, abs=5)
    reading = room.printer.read()
    assert abs(reading.read_at.timestamp() - time.time()) < 10
    room.wait(6000)
    room.device.panel("clear")
    found = room.printer.find("case-1", uuid).job
    assert found is not None and (found.result, found.cleared) == ("Finished", True)
