"""Never two prints for one approval: late starts, other printers, old confirmations, local faults, other jobs.

Real adapter, two simulated machines over HTTP; their ledgers are the witness.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest

from adapters.ultimaker import PrinterSettings, Timeouts, UltimakerPrinter, pair
from adapters.ultimaker.interfaces import INTERFACES
from service.domain.case import CaseState
from service.domain.print_job import PrintState
from service.errors import ConflictError, DeviceError
from service.ports import PrinterState
from service.store import blobs, prints
from service.store.blobs import Artifact
from service.store.database import reading, transaction
from service.store.prints import PrintJob
from service.web.print_views import print_view
from service.workflow import person_steps, print_guard, print_run, print_settle
from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.simulator import Simulator
from tests.support_app import SURGEON, TECHNICIAN, Rig, approve_now, bring
from tests.support_ultimaker import RunningSimulator, in_process, options_for

SETTINGS = PrinterSettings(settle_s=0.05, confirm_s=0.4, timeouts=Timeouts(8.0, 8.0, 8.0))
P = PrintState


@dataclass
class Hall:
    """One case and two printers, A and B."""

    rig: Rig
    devices: dict[str, RunningSimulator]
    case_id: str
    begins_at_once: bool = True

    def printer(self, name: str) -> UltimakerPrinter:
        found = self.rig.app.printers[name]
        assert isinstance(found, UltimakerPrinter)
        return found

    def start(self, name: str) -> PrintJob:
        self.rig.clock.advance(seconds=1)
        return print_run.start_print(self.rig.app, self.case_id, name, TECHNICIAN, bed_clear=True)

    def send(self, job: PrintJob) -> PrintJob:
        """Out of the queue of a printer that has one it begins by itself; the next look shows it."""
        print_run.send_print(self.rig.app, f"send.{job.token}", job.token)
        if self.begins_at_once and self.job(job).state is P.QUEUED:
            self.poll(job.printer)
        return self.job(job)

    def job(self, job: PrintJob) -> PrintJob:
        with reading(self.rig.app.engine) as connection:
            return prints.get(connection, job.token)

    def poll(self, name: str) -> None:
        print_run.poll(self.rig.app, self.printer(name))

    def force(self, job: PrintJob, state: PrintState) -> None:
        """What a killed process leaves behind."""
        now = self.rig.clock.now()
        with transaction(self.rig.app.engine) as connection:
            prints.change(connection, prints.get(connection, job.token), state, now, sent_at=now.isoformat())

    def gcode(self) -> Artifact:
        with reading(self.rig.app.engine) as connection:
            return blobs.current(connection, self.case_id)["gcode"]

    def starts(self, name: str) -> int:
        return len(self.devices[name].ledger())

    def resume(self) -> None:
        person_steps.resume(self.rig.app, self.case_id, TECHNICIAN)

    def code(self) -> str:
        case = self.rig.case(self.case_id)
        assert case.state is CaseState.NEEDS_ATTENTION and case.attention is not None
        return str(case.attention["code"])

    def settle_as(self, job: PrintJob) -> list[str]:
        """The outcomes that the page offers."""
        with reading(self.rig.app.engine) as connection:
            view = print_view(connection, self.rig.app, prints.get(connection, job.token))
        return list(view["settle_as"])

    def cut_off_on(self, name: str) -> PrintJob:
        """The upload breaks off for us and is whole for the printer, which reads it for a while."""
        job = self.start(name)
        self.devices[name].fault("drop_upload", match="/print_job", method="POST", count=1)
        job = self.send(job)
        assert job.state is P.NOT_STARTED and job.may_start_late
        return job

    def starts_late(self, name: str, job: PrintJob) -> None:
        self.printer(name).send(self.gcode().path, job.token)
        self.devices[name].look()
        self.devices[name].panel("clock", advance_s=0)  # carried to the present: it has begun

    def told(self) -> list[str]:
        return [message for topic, message in self.rig.notes.told if topic == "print"]


@pytest.fixture(params=["direct", "cluster"])
def hall(
    request: pytest.FixtureRequest, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hall]:
    """Once for each interface that jobs are sent by."""
    monkeypatch.setattr(print_run, "_SETTLE_S", 0.05)
    settings = replace(SETTINGS, interface=INTERFACES[request.param])
    with ExitStack() as stack:
        devices = {}
        for name in ("A", "B"):
            simulator = Simulator(options_for(request.param, name=name), MachineClock(0.0))
            devices[name] = stack.enter_context(in_process(simulator))
            pair(devices[name].url, tmp_path / f"{name}.json", poll_s=0.01)
        rig.with_printers(
            {
                n: UltimakerPrinter(n, d.url, tmp_path / f"{n}.json", settings, rig.clock)
                for n, d in devices.items()
            }
        )
        yield Hall(rig, devices, bring(rig, CaseState.SLICED).id)


# --- an attempt on another printer -----------------------------------------------------------------------


def test_the_second_printer_gets_nothing_when_the_first_has_started_after_all(hall: Hall):
    first = hall.cut_off_on("A")
    hall.resume()
    second = hall.start("B")
    hall.starts_late("A", first)
    assert hall.send(second).state is P.NOT_STARTED
    assert (hall.starts("A"), hall.starts("B"), hall.code()) == (1, 0, "print.found")
    hall.poll("A")
    assert hall.job(first).state is P.PRINTING
    assert hall.rig.case(hall.case_id).state is CaseState.PRINTING


def test_a_first_printer_that_does_not_answer_is_looked_at_before_the_second_prints(hall: Hall):
    first = hall.cut_off_on("A")
    hall.resume()
    hall.devices["A"].fault("refuse_connection")
    assert hall.send(hall.start("B")).state is P.NOT_STARTED
    assert (hall.code(), hall.starts("B")) == ("print.earlier_unsure", 0)
    assert hall.settle_as(first) == ["not_started"]
    with pytest.raises(ConflictError):
        print_settle.settle(hall.rig.app, first.token, "finished", TECHNICIAN, "saw it")
    settled = print_settle.settle(
        hall.rig.app, first.token, "not_started", TECHNICIAN, "A is off, plate empty"
    )
    assert (settled.state, settled.may_start_late) == (P.NOT_STARTED, False)
    assert hall.settle_as(first) == []
    hall.resume()
    assert hall.send(hall.start("B")).state is P.PRINTING
    assert hall.starts("B") == 1


def test_an_attempt_that_never_touched_its_printer_holds_up_nobody(hall: Hall):
    hall.devices["A"].fault("refuse_connection")
    first = hall.send(hall.start("A"))
    assert (first.state, first.may_start_late) == (P.NOT_STARTED, False)
    hall.resume()
    assert hall.send(hall.start("B")).state is P.PRINTING


def test_a_late_start_beside_a_running_attempt_elsewhere_is_told_once(hall: Hall):
    first = hall.cut_off_on("A")
    hall.resume()
    second = hall.send(hall.start("B"))
    assert second.state is P.PRINTING
    hall.starts_late("A", first)
    hall.poll("A")
    hall.poll("A")
    (message,) = hall.told()
    assert first.token in message and second.token in message
    assert (hall.job(first).state, hall.job(second).state) == (P.NOT_STARTED, P.PRINTING)


def test_a_print_of_an_approval_that_was_replaced_is_not_taken_for_the_new_one(hall: Hall):
    """Given up on A; the G-code was damaged and the plan approved anew; then the old part shows up."""
    first = hall.cut_off_on("A")
    hall.resume()
    hall.gcode().path.write_bytes(b"G28")
    hall.send(hall.start("B"))
    hall.resume()
    approve_now(hall.rig, hall.case_id, by=SURGEON)
    hall.rig.run_jobs("slice")
    assert hall.rig.case(hall.case_id).state is CaseState.SLICED
    hall.starts_late("A", first)
    hall.poll("A")
    hall.poll("A")
    assert (hall.job(first).state, hall.starts("A")) == (P.NOT_STARTED, 1)
    assert hall.rig.case(hall.case_id).state is CaseState.SLICED
    assert len(hall.told()) == 1


def test_a_late_start_under_a_name_with_the_file_s_ending_is_taken_up(hall: Hall):
    hall.devices["A"].panel("options", keeps_file_ending=True)
    first = hall.cut_off_on("A")
    hall.starts_late("A", first)
    hall.poll("A")
    assert (hall.job(first).state, hall.starts("A")) == (P.PRINTING, 1)
    hall.devices["A"].panel("clock", advance_s=5000)
    hall.poll("A")
    assert hall.job(first).state is P.AWAITING_REMOVAL


def _printed_there_unseen(hall: Hall) -> PrintJob:
    """Given up on A, which prints it while nobody looks; the part is taken off and confirmed."""
    first = hall.cut_off_on("A")
    hall.resume()
    hall.starts_late("A", first)
    hall.devices["A"].panel("clock", advance_s=9000)
    hall.devices["A"].panel("clear")
    hall.poll("A")
    assert (hall.job(first).state, hall.settle_as(first)) == (P.NOT_STARTED, ["not_started"])
    return first


@pytest.mark.parametrize("seen_by", ["A", "B"])
def test_a_late_start_that_ended_unseen_is_the_print_of_the_case(hall: Hall, seen_by: str):
    first = _printed_there_unseen(hall)
    assert hall.send(hall.start("B")).state is P.NOT_STARTED
    assert (hall.code(), hall.settle_as(first)) == ("print.found", [])
    with pytest.raises(ConflictError):
        print_settle.settle(hall.rig.app, first.token, "not_started", TECHNICIAN, "plate is empty")
    hall.poll(seen_by)
    hall.poll("A")
    assert hall.job(first).state is P.FINISHED
    assert hall.rig.case(hall.case_id).state is CaseState.PRINTED
    assert hall.starts("A") + hall.starts("B") == 1
    assert len([m for m in hall.told() if "though it was given up" in m]) == 1


def test_a_late_start_that_was_found_is_known_though_its_printer_is_not_configured_any_more(hall: Hall):
    first = _printed_there_unseen(hall)
    hall.send(hall.start("B"))
    hall.resume()
    hall.rig.with_printers({"B": hall.printer("B")})
    assert hall.send(hall.start("B")).state is P.NOT_STARTED
    assert (hall.code(), hall.settle_as(first), hall.starts("B")) == ("print.found", [], 0)
    hall.poll("B")
    assert hall.job(first).state is P.UNKNOWN
    print_settle.settle(hall.rig.app, first.token, "finished", TECHNICIAN, "took it off")
    assert hall.rig.case(hall.case_id).state is CaseState.PRINTED


def test_a_late_start_that_was_found_waits_for_its_printer_to_be_free(hall: Hall):
    """Another case has the printer meanwhile: the print is taken up when that one is over, not forgotten."""
    first = _printed_there_unseen(hall)
    with transaction(hall.rig.app.engine) as connection:
        assert prints.reserve(connection, "A", "SP-another")
    hall.send(hall.start("B"))
    hall.poll("A")
    assert (hall.job(first).state, hall.settle_as(first)) == (P.NOT_STARTED, [])
    with transaction(hall.rig.app.engine) as connection:
        prints.release(connection, "A", "SP-another")
    hall.poll("A")
    assert hall.job(first).state is P.FINISHED


# --- killed while sending, and something else is wrong here ----------------------------------------------


@pytest.mark.parametrize("wrong", ["file gone", "file changed"])
def test_killed_after_the_start_the_printer_is_asked_before_anything_else(hall: Hall, wrong: str):
    job = hall.start("A")
    hall.force(job, P.SENDING)
    hall.starts_late("A", job)
    path = hall.gcode().path
    if wrong == "file gone":
        path.unlink()
    else:
        path.write_bytes(b"G28")
    assert (hall.send(job).state, hall.starts("A")) == (P.PRINTING, 1)


def test_a_printer_taken_out_of_the_configuration_while_it_may_print_leaves_it_to_a_person(hall: Hall):
    job = hall.start("A")
    hall.force(job, P.SENDING)
    hall.starts_late("A", job)
    hall.rig.with_printers({"B": hall.printer("B")})
    assert hall.send(job).state is P.UNKNOWN
    assert hall.rig.case(hall.case_id).state is CaseState.PRINTING
    with pytest.raises(ConflictError):
        hall.start("B")
    print_settle.settle(hall.rig.app, job.token, "finished", TECHNICIAN, "took it off")
    assert hall.rig.case(hall.case_id).state is CaseState.PRINTED


def test_a_file_that_is_gone_ends_in_words_and_a_way_out(hall: Hall):
    job = hall.start("A")
    hall.gcode().path.unlink()
    assert hall.send(job).state is P.NOT_STARTED
    assert (hall.code(), hall.starts("A")) == ("gcode.changed", 0)
    assert person_steps.resume(hall.rig.app, hall.case_id, TECHNICIAN).state is CaseState.PLAN_READY


# --- a plate that was seen clear long ago ----------------------------------------------------------------


@pytest.mark.parametrize("state", [P.INTENT, P.SENDING])
def test_a_confirmation_of_the_plate_does_not_last(hall: Hall, state: PrintState):
    job = hall.start("A")
    if state is P.SENDING:
        hall.force(job, state)
    hall.rig.clock.advance(hours=60)
    assert hall.send(job).state is P.NOT_STARTED
    assert (hall.code(), hall.starts("A")) == ("print.plate_not_seen", 0)
    hall.resume()
    assert hall.send(hall.start("A")).state is P.PRINTING


def test_a_confirmation_of_times_to_come_does_not_count(hall: Hall):
    job = hall.start("A")
    hall.rig.clock.advance(hours=-48)
    assert hall.send(job).state is P.NOT_STARTED
    assert (hall.code(), hall.starts("A")) == ("print.plate_not_seen", 0)
    assert "set back" in hall.rig.case(hall.case_id).attention["message"]


def test_a_confirmation_lasts_for_a_few_minutes(hall: Hall):
    job = hall.start("A")
    hall.rig.clock.advance(seconds=print_guard.PLATE_SEEN_FOR.total_seconds() - 1)
    assert hall.send(job).state is P.PRINTING


# --- other jobs, and silence ------------------------------------------------------------------------------


def test_stop_and_pause_never_reach_another_job(hall: Hall):
    job = hall.send(hall.start("A"))
    device = hall.devices["A"]
    device.panel("clock", advance_s=5000)
    device.panel("clear")
    hall.printer("A").send(hall.gcode().path, "somebody-elses")
    device.panel("clock", advance_s=0)
    for target in ("pause", "abort"):
        with pytest.raises(DeviceError, match="Another job"):
            print_settle.command(hall.rig.app, job.token, target, TECHNICIAN)
    seen = hall.printer("A").read().job
    assert seen is not None and seen.name == "somebody-elses"
    assert (seen.result, seen.pause_source) == ("", "")


def test_a_silence_goes_back_to_before_a_restart(hall: Hall, tmp_path: Path):
    hall.poll("A")
    device, began = hall.devices["A"], hall.rig.clock.now()
    device.fault("refuse_connection")
    fresh = UltimakerPrinter("A", device.url, tmp_path / "A.json", SETTINGS, hall.rig.clock)
    hall.rig.with_printers({"A": fresh})
    hall.rig.clock.advance(hours=48)
    hall.poll("A")
    hall.poll("A")
    with reading(hall.rig.app.engine) as connection:
        _, stored, read_at = prints.printer_rows(connection)["A"]
    assert stored is not None and stored["state"] == PrinterState.SILENT.value
    assert read_at is not None and hall.rig.clock.now() - read_at >= timedelta(hours=48)
    assert read_at <= began
