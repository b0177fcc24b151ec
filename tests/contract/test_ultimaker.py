"""Our printer client against the simulated Ultimaker 3, over real HTTP.

The machine's clock stands still (speed 0) and is moved by hand, so that every state can be looked at; the
simulator's ledger is the witness for how many prints were started.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from adapters.ultimaker import PrinterSettings, Timeouts, UltimakerPrinter, load_credentials, pair
from adapters.ultimaker.faults import (
    CommandUnsureError,
    PairingRefusedError,
    PrinterAuthError,
    PrinterSilentError,
)
from adapters.ultimaker.interfaces import INTERFACES, Interface
from service.errors import DeviceError, InputRefusedError
from service.ports import LookupOutcome, PrinterState, SendOutcome
from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.options import Options
from simulators.ultimaker.server import address, listen
from simulators.ultimaker.simulator import Simulator
from tests.support_ultimaker import (
    RunningSimulator,
    in_process,
    options_for,
    simulator,
    small_gcode,
    start_simulator,
    stop_simulator,
)

SETTINGS = PrinterSettings(settle_s=0.05, confirm_s=0.4, timeouts=Timeouts(2.0, 5.0, 5.0))
#: For tests in which the printer is silent on purpose.
HASTY = PrinterSettings(settle_s=0.05, confirm_s=0.4, timeouts=Timeouts(0.5, 0.5, 0.5))


@dataclass
class Room:
    """A printer, somebody who can press its buttons, and our client for it."""

    sim: Simulator
    device: RunningSimulator
    printer: UltimakerPrinter
    gcode: Path
    credentials: Path
    interface: Interface

    def wait(self, machine_s: float) -> None:
        self.device.panel("clock", advance_s=machine_s)

    def state(self) -> PrinterState:
        return self.printer.read().state

    def hasty(self, settle_s: float = HASTY.settle_s) -> UltimakerPrinter:
        """A client that does not wait long for the same printer."""
        settings = replace(HASTY, settle_s=settle_s, interface=self.interface)
        return UltimakerPrinter("um3", self.device.url, self.credentials, settings)

    def start(self, name: str = "case-1") -> str:
        result = self.printer.send(self.gcode, name)
        assert result.outcome is SendOutcome.ACCEPTED, result.detail
        self.wait(0)  # out of a queue it begins by itself
        return result.uuid

    def until_printing(self) -> None:
        self.wait(600)
        reading = self.printer.read()
        assert reading.job is not None
        assert reading.job.state == "printing"


#: Tests of what only the direct interface has: a login for the upload, an answer to a busy one.
direct_only = pytest.mark.parametrize("room", ["direct"], indirect=True)


@pytest.fixture(params=["direct", "cluster"])
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    """Once for each interface that jobs are sent by."""
    interface = INTERFACES[request.param]
    sim = Simulator(options_for(request.param), MachineClock(0.0))
    with in_process(sim) as device:
        credentials = tmp_path / "printer.json"
        pair(device.url, credentials, poll_s=0.01)
        gcode = tmp_path / "model.gcode"
        gcode.write_text(small_gcode(seconds=3600))
        printer = UltimakerPrinter("um3", device.url, credentials, replace(SETTINGS, interface=interface))
        yield Room(sim, device, printer, gcode, credentials, interface)


@pytest.fixture
def shy(tmp_path: Path) -> Iterator[RunningSimulator]:
    """A printer on which nobody has pressed anything yet."""
    with in_process(Simulator(Options(), MachineClock(0.0))) as device:
        yield device


# --- pairing ---------------------------------------------------------------------------------------------


def test_pairing_waits_for_the_press_and_keeps_the_key_to_itself(
    shy: RunningSimulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "sub" / "cred.json"
    prompts: list[str] = []

    def at_the_printer(text: str) -> None:
        prompts.append(text)
        shown = shy.look()["prompts"]
        assert [(p["application"], p["user"]) for p in shown] == [("spineprint", "room-3")]
        shy.panel("pairing", allow=True)

    given = pair(shy.url, path, user="room-3", poll_s=0.01, on_prompt=at_the_printer)
    assert len(prompts) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_credentials(path) == given
    UltimakerPrinter("um3", shy.url, path, SETTINGS).preflight(_file(tmp_path))
    everything_said = caplog.text + repr(given) + "".join(prompts)
    assert given.key not in everything_said
    assert given.id[:8] in prompts[0]


def test_pairing_denied_leaves_no_file(shy: RunningSimulator, tmp_path: Path) -> None:
    path = tmp_path / "cred.json"
    with pytest.raises(PairingRefusedError, match="denied"):
        pair(shy.url, path, poll_s=0.01, on_prompt=lambda _t: shy.panel("pairing", allow=False))
    assert not path.exists()


def test_pairing_gives_up_when_nobody_comes(shy: RunningSimulator, tmp_path: Path) -> None:
    with pytest.raises(PairingRefusedError, match="Nobody pressed"):
        pair(shy.url, tmp_path / "cred.json", wait_s=0.1, poll_s=0.02)


def test_a_late_check_that_says_unauthorized_is_settled_by_digest(
    shy: RunningSimulator, tmp_path: Path
) -> None:
    shy.panel("options", check_window_wall_s=-1)  # `check` never says authorized, as late on a real printer
    pair(shy.url, tmp_path / "c.json", poll_s=0.01, on_prompt=lambda _t: shy.panel("pairing", allow=True))
    assert load_credentials(tmp_path / "c.json").id


@direct_only
def test_a_new_pairing_takes_effect_without_a_new_client(room: Room) -> None:
    room.device.fault("forget_clients")
    assert room.printer.send(room.gcode, "case-1").outcome is SendOutcome.REFUSED
    pair(room.device.url, room.credentials, poll_s=0.01)
    room.start()


# --- the good way ----------------------------------------------------------------------------------------


def test_the_file_goes_once_and_arrives_whole(room: Room) -> None:
    before = room.device.look()["challenges"]
    uuid = room.start("case-7_a")
    (start,) = room.device.ledger()
    assert (start["uuid"], start["name"]) == (uuid, "case-7_a")
    assert start["gcode_sha256"] == hashlib.sha256(room.gcode.read_bytes()).hexdigest()
    assert start["layers"] == 8
    assert len(room.device.look("uploads")) == 1
    # one challenge at most, at auth/verify: the upload itself met none
    assert room.device.look()["challenges"] - before <= 1


def test_the_life_of_a_print_to_the_cleared_plate(room: Room) -> None:
    assert room.printer.preflight(room.gcode) == []
    assert room.state() is PrinterState.IDLE
    uuid = room.start()
    first = room.printer.read()
    assert (first.state, first.raw_status) == (PrinterState.BUSY, "printing")
    room.wait(60)
    warming = room.printer.read()
    assert warming.job is not None
    assert (warming.job.state, warming.job.progress) == ("pre_print", 0.0)
    assert warming.nozzle_c is not None
    assert warming.bed_c is not None
    assert 100 < warming.nozzle_c < 210
    assert 30 < warming.bed_c < 60
    room.wait(600)
    printing = room.printer.read()
    assert printing.job is not None
    assert printing.job.state == "printing"
    assert 0.05 < (printing.job.progress or 0) < 0.3
    assert (printing.nozzle_c, printing.bed_c) == (210.0, 60.0)
    assert printing.job.time_total_s == 3600
    room.wait(3600)
    done = room.printer.read()
    assert (done.state, done.raw_status) == (PrinterState.AWAITING_REMOVAL, "printing")
    assert done.job is not None
    assert (done.job.result, done.job.progress, done.job.cleared) == ("Finished", 1.0, False)
    assert room.printer.send(room.gcode, "case-2").outcome is SendOutcome.REFUSED
    room.device.panel("clear")
    assert room.state() is PrinterState.IDLE
    found = room.printer.find("case-1", uuid)
    assert found.outcome is LookupOutcome.FOUND
    assert found.job is not None
    assert (found.job.result, found.job.cleared) == ("Finished", True)
    assert len(room.device.ledger()) == 1


def test_pause_resume_abort(room: Room) -> None:
    room.start()
    room.until_printing()
    room.printer.command("pause", "case-1")
    room.wait(30)
    reading = room.printer.read()
    assert reading.job is not None
    assert (reading.job.state, reading.job.pause_source) == ("paused", "api")
    held = reading.job.progress
    room.wait(1000)
    again = room.printer.read().job
    assert again is not None
    assert again.progress == held
    room.printer.command("print", "case-1")
    room.wait(100)
    resumed = room.printer.read().job
    assert resumed is not None
    assert resumed.state == "printing"
    assert (resumed.progress or 0) > (held or 0)
    room.printer.command("abort", "case-1")
    assert room.state() is PrinterState.BUSY
    room.wait(120)
    ended = room.printer.read()
    assert ended.state is PrinterState.AWAITING_REMOVAL
    assert ended.job is not None
    assert ended.job.result == "Aborted"


def test_commands_that_cannot_be_done_say_so(room: Room) -> None:
    with pytest.raises(DeviceError, match="no job"):
        room.printer.command("pause", "case-1")
    with pytest.raises(InputRefusedError):
        room.printer.command("explode", "case-1")
    room.start()
    room.until_printing()
    room.printer.command("pause", "case-1")
    room.wait(10)
    room.device.fault("odd_state", value="paused")
    with pytest.raises(CommandUnsureError, match="still paused"):
        room.printer.command("print", "case-1")


def test_a_command_is_for_our_job_alone(room: Room) -> None:
    room.start("somebody-elses")
    room.until_printing()
    for target in ("pause", "abort"):
        with pytest.raises(DeviceError, match="Another job") as caught:
            room.printer.command(target, "case-1", "")
        assert caught.value.code == "printer.other_job"
    job = room.printer.read().job
    assert job is not None
    assert (job.name, job.state) == ("somebody-elses", "printing")


def test_a_job_that_keeps_the_ending_of_its_file_is_ours_all_the_same(room: Room) -> None:
    room.device.panel("options", keeps_file_ending=True)
    room.start()
    room.until_printing()
    job = room.printer.read().job
    assert job is not None
    assert (job.name, job.bare_name) == ("case-1.gcode.gz", "case-1")
    assert room.printer.find("case-1").outcome is LookupOutcome.FOUND
    room.printer.command("pause", "case-1")


@direct_only
def test_one_of_two_at_the_same_time_gets_in(room: Room) -> None:
    other = UltimakerPrinter("um3", room.device.url, room.credentials, SETTINGS)
    results = []
    threads = [
        threading.Thread(target=lambda p=p, n=n: results.append(p.send(room.gcode, n)))
        for n, p in (("case-a", room.printer), ("case-b", other))
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join(5)
    assert sorted(r.outcome for r in results) == [SendOutcome.ACCEPTED, SendOutcome.REFUSED]
    assert len(room.device.ledger()) == 1


# --- at most once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["drop_reply", "work_then_500"])
def test_a_lost_reply_is_unsure_then_found_and_never_sent_again(room: Room, kind: str) -> None:
    room.device.fault(kind, match="/print_job", method="POST", count=1)
    result = room.printer.send(room.gcode, "case-1")
    assert (result.outcome, result.uuid) == (SendOutcome.UNSURE, "")
    found = room.printer.find("case-1")
    assert found.outcome is LookupOutcome.FOUND
    (start,) = room.device.ledger()
    assert found.job is not None
    assert found.job.uuid == start["uuid"]
    second = room.printer.send(room.gcode, "case-1")
    assert (second.outcome, second.uuid) == (SendOutcome.ACCEPTED, start["uuid"])
    assert len(room.device.ledger()) == 1
    assert len(room.device.look("uploads")) == 1


@pytest.mark.parametrize("kind", ["drop_upload", "error_500", "refuse_connection"])
def test_an_upload_that_did_not_get_through_is_unsure_then_absent(room: Room, kind: str) -> None:
    room.device.fault(kind, match="/print_job", method="POST", count=1)
    assert room.printer.send(room.gcode, "case-1").outcome is SendOutcome.UNSURE
    assert room.printer.find("case-1").outcome is LookupOutcome.ABSENT
    assert room.device.ledger() == []


def test_silence_after_the_upload_is_unsure_and_so_is_the_lookup(room: Room) -> None:
    printer = room.hasty()
    room.device.fault("silent", match="/print_job", method="POST", count=1, seconds=2)
    assert printer.send(room.gcode, "case-1").outcome is SendOutcome.UNSURE
    room.device.fault("silent")
    assert printer.find("case-1").outcome is LookupOutcome.UNSURE
    room.device.lift_faults()
    assert printer.find("case-1").outcome is LookupOutcome.ABSENT


def test_absent_is_not_said_on_one_look(room: Room) -> None:
    """The upload's connection is gone, the printer still reads the file and starts a moment later."""
    printer = room.hasty(settle_s=1.5)
    room.device.fault("slow", match="/print_job", method="POST", count=1, seconds=1.2)
    assert printer.send(room.gcode, "case-1").outcome is SendOutcome.UNSURE
    assert room.device.ledger() == []
    assert printer.find("case-1").outcome is LookupOutcome.FOUND
    assert len(room.device.ledger()) == 1


def test_nobody_there_means_nothing_was_sent(tmp_path: Path, room: Room) -> None:
    sock = listen("127.0.0.1", 0)  # bound, not listening: connections are refused
    gone = UltimakerPrinter("um3", address(sock), room.credentials, SETTINGS)
    result = gone.send(_file(tmp_path), "case-1")
    assert result.outcome is SendOutcome.REFUSED
    assert "Nothing was sent" in result.detail
    assert gone.read().state is PrinterState.SILENT
    assert gone.find("case-1").outcome is LookupOutcome.UNSURE
    with pytest.raises(PrinterSilentError):
        gone.preflight(_file(tmp_path))
    sock.close()


def test_a_job_beyond_the_first_page_of_the_history_is_found(room: Room) -> None:
    uuid = room.start()
    room.wait(5000)
    room.device.panel("clear")
    mine = room.sim.machine.history.entries[0]
    filler = [{**mine, "uuid": f"u{i}", "name": f"other-{i}"} for i in range(130)]
    room.sim.machine.history.entries[:0] = filler
    assert room.printer.find("case-1").outcome is LookupOutcome.FOUND
    assert room.printer.find("nameless", uuid).outcome is LookupOutcome.FOUND
    absent = room.printer.find("case-none")
    assert absent.outcome is LookupOutcome.ABSENT
    assert "131" in absent.detail


@pytest.mark.parametrize("name", ["", "a b", "Müller", "x" * 64, "../up", "a.gcode", "a\n"])
def test_odd_job_names_are_refused_before_anything_is_sent(room: Room, name: str) -> None:
    assert room.printer.send(room.gcode, name).outcome is SendOutcome.REFUSED
    assert room.device.look("uploads") == []


# --- what the printer tells wrongly ---------------------------------------------------------------------


def test_silence_keeps_the_time_of_the_last_answer(room: Room) -> None:
    printer = room.hasty()
    last = printer.read()
    room.device.fault("silent")
    time.sleep(0.05)
    silent = printer.read()
    assert (silent.state, silent.read_at) == (PrinterState.SILENT, last.read_at)
    room.device.lift_faults()
    assert printer.read().read_at > last.read_at


@pytest.mark.parametrize("kind", ["error_500", "garbage"])
def test_answers_that_are_none_make_no_state(room: Room, kind: str) -> None:
    room.device.fault(kind)
    reading = room.printer.read()
    assert reading.state is PrinterState.SILENT
    assert reading.detail
    assert room.printer.find("case-1").outcome is LookupOutcome.UNSURE
    assert room.printer.send(room.gcode, "case-1").outcome is SendOutcome.REFUSED
    assert room.device.ledger() == []


@pytest.mark.parametrize(
    ("machine_s", "state"), [(600, PrinterState.BUSY), (5000, PrinterState.AWAITING_REMOVAL)]
)
def test_a_false_idle_does_not_fool_us(room: Room, machine_s: float, state: PrinterState) -> None:
    room.start()
    room.wait(machine_s)
    room.device.fault("false_idle")
    assert room.printer.read().raw_status == "idle"
    assert room.state() is state
    assert room.printer.send(room.gcode, "case-2").outcome is SendOutcome.REFUSED
    assert any("idle" in reason or "plate" in reason for reason in room.printer.preflight(room.gcode))


@direct_only
def test_idle_without_job_but_busy_all_the_same_is_refused_by_405(room: Room) -> None:
    room.start()
    room.device.fault("false_idle")
    room.device.fault("job_404")
    result = room.printer.send(room.gcode, "case-2")
    assert result.outcome is SendOutcome.REFUSED
    assert "405" in result.detail
    assert len(room.device.ledger()) == 1


def test_a_job_that_hides_is_still_found_with_its_outcome_unknown(room: Room) -> None:
    uuid = room.start()
    room.until_printing()
    room.device.fault("job_404")
    assert room.state() is PrinterState.BUSY
    found = room.printer.find("case-1", uuid)
    assert found.outcome is LookupOutcome.FOUND
    assert found.job is not None
    assert (found.job.result, found.job.cleared) == ("", False)
    room.device.fault("history_empty")
    # no job and no history, but at work: no evidence for a second start
    assert room.printer.find("case-1", uuid).outcome is LookupOutcome.UNSURE


def test_odd_words_are_busy_and_not_idle(room: Room) -> None:
    room.device.fault("odd_status", value="dancing")
    reading = room.printer.read()
    assert reading.state is PrinterState.BUSY
    assert "dancing" in reading.detail
    assert room.printer.send(room.gcode, "case-1").outcome is SendOutcome.REFUSED


# --- credentials -----------------------------------------------------------------------------------------


def test_an_expired_nonce_costs_one_more_try_and_no_second_print(room: Room) -> None:
    room.device.fault("nonce_expired", match="/print_job", method="POST", count=1)
    room.start()
    assert len(room.device.ledger()) == 1
    room.device.fault("nonce_expiry")
    room.printer.command("abort", "case-1")


@direct_only
@pytest.mark.parametrize("status", [401, 403])
def test_forgotten_credentials_say_pair_again(room: Room, status: int) -> None:
    room.device.panel("options", denied_status=status)
    room.device.fault("forget_clients")
    assert any("Pair again" in reason for reason in room.printer.preflight(room.gcode))
    assert room.printer.send(room.gcode, "case-1").outcome is SendOutcome.REFUSED
    with pytest.raises(PrinterAuthError) as caught:
        room.printer.command("abort", "case-1")
    assert caught.value.status == status
    assert room.state() is PrinterState.IDLE


def test_without_credentials_one_can_look_but_not_print(room: Room, tmp_path: Path) -> None:
    for path in (None, tmp_path / "missing.json"):
        printer = UltimakerPrinter("um3", room.device.url, path, SETTINGS)
        assert printer.read().state is PrinterState.IDLE
        assert printer.send(room.gcode, "case-1").outcome is SendOutcome.REFUSED
        assert len(printer.preflight(room.gcode)) == 1
        with pytest.raises(PrinterAuthError):
            printer.command("abort", "case-1")


# --- the machine and the person --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("panel", "body", "words"),
    [
        ("core", {"slot": 0, "id": "AA 0.8"}, "AA 0.4 must be in slot 1; there is AA 0.8"),
        ("core", {"slot": 0, "id": ""}, "there is none"),
        ("core", {"slot": 1, "id": ""}, "Slot 2 has no print core"),
        ("material", {"slot": 0, "guid": ""}, "No material"),
        ("material", {"slot": 0, "guid": "86a89ceb-4159-47f6-ab97-e9953803d70f"}, "not an accepted PLA"),
        ("maintenance", {"on": True}, "menu"),
    ],
)
def test_preflight_names_what_is_not_ready(
    room: Room, panel: str, body: dict[str, object], words: str
) -> None:
    room.device.panel(panel, **body)
    assert any(words in reason for reason in room.printer.preflight(room.gcode))


def test_preflight_takes_another_colour_of_pla(room: Room) -> None:
    room.device.panel("material", slot=0, guid="3EE70A86-77d8-4b87-8005-e4a1bc57d2ce")
    assert room.printer.preflight(room.gcode) == []


def test_a_gzipped_file_is_checked_and_sent_as_it_is(room: Room, tmp_path: Path) -> None:
    packed = tmp_path / "model.gcode.gz"
    packed.write_bytes(gzip.compress(room.gcode.read_bytes(), mtime=0))
    assert room.printer.preflight(packed) == []
    assert room.printer.send(packed, "SP-GZ-1").outcome is SendOutcome.ACCEPTED
    room.wait(0)
    assert len(room.device.ledger()) == 1


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (";FLAVOR:Griffin", ";FLAVOR:Marlin", "HEADER_MISSING_ITEM"),
        (";PRINT.SIZE.MAX.Z:1.6", ";PRINT.SIZE.MAX.Z:260", "MACHINE_TOO_SMALL"),
        (";PRINT.TIME:3600", ";PRINT.TIME:10:00", "HEADER_MISSING_ITEM"),
    ],
)
def test_preflight_passes_on_the_printers_own_findings(room: Room, old: str, new: str, code: str) -> None:
    written = room.gcode.read_text()
    assert old in written
    room.gcode.write_text(written.replace(old, new))
    assert any(code in reason for reason in room.printer.preflight(room.gcode))


def test_early_firmware_has_no_header_check_and_tells_no_result(room: Room) -> None:
    room.device.panel("options", firmware="3.5.0.20160901")
    assert room.printer.preflight(room.gcode) == []
    room.start()
    room.wait(5000)
    reading = room.printer.read()
    assert reading.state is PrinterState.AWAITING_REMOVAL
    assert reading.job is not None
    assert reading.job.result == ""
    assert "does not say" in reading.detail


def test_abort_and_pause_at_the_panel_are_seen(room: Room) -> None:
    room.start()
    room.until_printing()
    room.device.panel("pause")
    room.wait(10)
    reading = room.printer.read()
    assert reading.job is not None
    assert (reading.job.state, reading.job.pause_source) == ("paused", "display")
    room.device.panel("abort")
    room.wait(120)
    reading = room.printer.read()
    assert reading.state is PrinterState.AWAITING_REMOVAL
    assert reading.job is not None
    assert reading.job.result == "Aborted"


@direct_only
def test_a_prompt_on_the_display_needs_a_person(room: Room) -> None:
    room.device.fault("wrong_material")
    room.start()
    room.wait(5)
    assert room.state() is PrinterState.NEEDS_PERSON
    room.device.panel("continue")
    assert room.state() is PrinterState.BUSY


def test_a_power_cut_loses_the_print_and_never_calls_it_finished(room: Room) -> None:
    uuid = room.start()
    room.until_printing()
    room.device.panel("power", on=False)
    assert room.state() is PrinterState.SILENT
    assert room.printer.find("case-1", uuid).outcome is LookupOutcome.UNSURE
    room.device.panel("power", on=True)
    room.wait(20)
    assert room.state() is PrinterState.BOOTING
    room.wait(60)
    assert room.state() is PrinterState.IDLE
    found = room.printer.find("case-1", uuid)
    assert found.outcome is LookupOutcome.FOUND
    assert found.job is not None
    assert found.job.result == ""


# --- whole processes -------------------------------------------------------------------------------------


def test_the_simulator_as_a_process_remembers_over_a_kill(tmp_path: Path) -> None:
    gcode, credentials, state = _file(tmp_path), tmp_path / "c.json", tmp_path / "sim.json"
    fast = {"state": state, "speed": 3000.0}
    first = start_simulator(**fast)
    try:
        pair(first.url, credentials, poll_s=0.05)
        printer = UltimakerPrinter("um3", first.url, credentials, SETTINGS)
        assert printer.send(gcode, "case-1").outcome is SendOutcome.ACCEPTED
        first.kill()
    finally:
        stop_simulator(first)
    with simulator(**fast) as second:
        printer = UltimakerPrinter("um3", second.url, credentials, SETTINGS)
        _until(lambda: printer.read().state is PrinterState.IDLE)
        found = printer.find("case-1")
        assert found.outcome is LookupOutcome.FOUND
        assert found.job is not None
        assert found.job.result == ""
        assert printer.send(gcode, "case-2").outcome is SendOutcome.ACCEPTED
        assert [s["name"] for s in second.ledger()] == ["case-1", "case-2"]


def test_a_sender_killed_while_the_printer_reads_its_file_does_not_print_twice(room: Room) -> None:
    room.device.fault("slow", match="/print_job", method="POST", count=1, seconds=1.0)
    code = (
        "import sys; from pathlib import Path; from adapters.ultimaker import PrinterSettings, UltimakerPrinter;"
        "from adapters.ultimaker.interfaces import INTERFACES;"
        "settings = PrinterSettings(interface=INTERFACES[sys.argv[4]]);"
        "UltimakerPrinter('um3', sys.argv[1], Path(sys.argv[2]), settings).send(Path(sys.argv[3]), 'case-1')"
    )
    arguments = [sys.executable, "-c", code, room.device.url, str(room.credentials), str(room.gcode)]
    arguments.append(room.interface.name)
    sender = subprocess.Popen(arguments)
    # the fault leaves the board when the POST has come: the file is on its way, the answer is not
    _until(lambda: not room.sim.faults.active, 20.0)
    sender.kill()
    sender.wait(5)
    assert room.device.ledger() == []
    assert room.hasty(settle_s=1.5).find("case-1").outcome is LookupOutcome.FOUND
    assert room.printer.send(room.gcode, "case-1").outcome is SendOutcome.ACCEPTED
    room.wait(0)
    assert len(room.device.ledger()) == len(room.device.look("uploads")) == 1


def test_a_fast_print_with_a_person_who_clears(tmp_path: Path) -> None:
    gcode = tmp_path / "m.gcode"
    gcode.write_text(small_gcode(seconds=1200))
    with simulator(speed=4000.0, clear_after_s=0.4) as device:
        pair(device.url, tmp_path / "c.json", poll_s=0.05)
        printer = UltimakerPrinter("um3", device.url, tmp_path / "c.json", SETTINGS)
        assert printer.send(gcode, "case-1").outcome is SendOutcome.ACCEPTED
        seen: list[PrinterState] = []

        def idle() -> bool:
            state = printer.read().state
            if not seen or seen[-1] is not state:
                seen.append(state)
            return state is PrinterState.IDLE

        _until(idle)
        assert seen == [PrinterState.BUSY, PrinterState.AWAITING_REMOVAL, PrinterState.IDLE]


def _file(folder: Path) -> Path:
    path = folder / "any.gcode"
    path.write_text(small_gcode())
    return path


def _until(condition: object, within_s: float = 8.0) -> None:
    assert callable(condition)
    ends = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < ends, "did not come about in time"
        time.sleep(0.02)
