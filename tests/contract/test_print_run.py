"""One approval, one print: the use case with the real adapter against the simulated Ultimaker 3 over HTTP.

The machine's clock is moved by hand; its ledger is the witness for how many prints were started.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from adapters.ultimaker import PrinterSettings, Timeouts, UltimakerPrinter, pair
from adapters.ultimaker.interfaces import INTERFACES
from service.domain.case import CaseState
from service.domain.print_job import PrintState
from service.errors import (
    ConflictError,
    DeviceError,
    DeviceUnsureError,
    InputRefusedError,
    NotAllowedError,
    NotFoundError,
)
from service.ports import LookupOutcome, PrinterState, SendResult
from service.store import approvals, audit, blobs, prints, sterile
from service.store.database import reading, transaction
from service.store.prints import PrintJob
from service.web.print_views import print_sentence, print_views
from service.workflow import person_steps, print_end, print_run, print_settle, print_stop
from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.simulator import Simulator
from tests.support_app import (
    PLANNER,
    SURGEON,
    TECHNICIAN,
    Rig,
    approve_now,
    bring,
)
from tests.support_ultimaker import RunningSimulator, in_process, options_for

SETTINGS = PrinterSettings(settle_s=0.05, confirm_s=0.4, timeouts=Timeouts(6.0, 6.0, 6.0))
P = PrintState


@dataclass
class Room:
    rig: Rig
    device: RunningSimulator
    case_id: str

    @property
    def printer(self) -> UltimakerPrinter:
        printer = self.rig.app.printers["um3"]
        assert isinstance(printer, UltimakerPrinter)
        return printer

    @property
    def case(self) -> Any:
        return self.rig.case(self.case_id)

    def job(self) -> PrintJob:
        """The newest attempt."""
        with reading(self.rig.app.engine) as connection:
            return max(
                prints.listed(connection, case_id=self.case_id), key=lambda j: (j.requested_at, j.token)
            )

    def start(self) -> PrintJob:
        self.rig.clock.advance(seconds=1)
        return print_run.start_print(self.rig.app, self.case_id, "um3", TECHNICIAN, bed_clear=True)

    def send(self) -> PrintJob:
        """The job of the printer's queue, run as often as it is called."""
        job = self.job()
        print_run.send_print(self.rig.app, f"send.{job.token}", job.token)
        job = self.job()
        # out of the printer's own queue it begins by itself; the next look shows it
        return self.wait(0) if job.state is P.QUEUED else job

    def wait(self, machine_s: float) -> PrintJob:
        self.device.panel("clock", advance_s=machine_s)
        print_run.poll(self.rig.app, self.printer)
        return self.job()

    def starts(self) -> int:
        return len(self.device.ledger())

    def reserved(self) -> str:
        with reading(self.rig.app.engine) as connection:
            return prints.printer_rows(connection).get("um3", ("", None, None))[0]

    def force(self, state: PrintState) -> None:
        """What a killed process leaves behind."""
        with transaction(self.rig.app.engine) as connection:
            prints.change(connection, self.job(), state, self.rig.clock.now())

    def events(self) -> list[str]:
        with reading(self.rig.app.engine) as connection:
            return [r.event for r in audit.history(connection, f"case:{self.case_id}")]

    def code(self) -> str:
        assert self.case.state is CaseState.NEEDS_ATTENTION
        return str(self.case.attention["code"])


@pytest.fixture(params=["direct", "cluster"])
def room(
    request: pytest.FixtureRequest, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Room]:
    """Once for each interface that jobs are sent by."""
    monkeypatch.setattr(print_run, "_SETTLE_S", 0.05)
    settings = replace(SETTINGS, interface=INTERFACES[request.param])
    with in_process(Simulator(options_for(request.param), MachineClock(0.0))) as device:
        credentials = tmp_path / "um3.json"
        pair(device.url, credentials, poll_s=0.01)
        rig.with_printers({"um3": UltimakerPrinter("um3", device.url, credentials, settings)})
        case = bring(rig, CaseState.SLICED)
        yield Room(rig, device, case.id)


def test_a_print_from_the_intent_to_the_cleared_plate(room: Room):
    job = room.start()
    assert (job.state, room.case.state, room.starts()) == (P.INTENT, CaseState.PRINTING, 0)
    assert room.reserved() == job.token
    job = room.send()
    assert job.state is P.PRINTING
    assert job.uuid == room.device.ledger()[0]["uuid"]
    assert room.wait(400).state is P.PRINTING
    assert room.case.state is CaseState.PRINTING
    ended = room.wait(3000)
    assert (ended.state, ended.result) == (P.AWAITING_REMOVAL, "Finished")
    assert ended.finished_at is not None
    assert room.case.state is CaseState.PRINTING
    assert room.reserved() == job.token
    room.device.panel("clear")
    cleared = room.wait(5)
    assert cleared.state is P.FINISHED
    assert room.case.state is CaseState.PRINTED
    assert room.reserved() == ""
    assert room.starts() == 1
    with reading(room.rig.app.engine) as connection:
        (item,) = sterile.items_of_case(connection, room.case_id)
    assert (item.id, item.printed_by) == (job.token, TECHNICIAN.name)
    room.wait(5)
    assert room.events().count("print_cleared") == 1


def test_the_printer_got_exactly_the_audited_bytes_under_a_name_without_a_person(room: Room):
    job = room.start()
    room.send()
    (start,) = room.device.ledger()
    assert start["name"] == job.token
    with reading(room.rig.app.engine) as connection:
        gcode = blobs.current(connection, room.case_id)["gcode"]
    import gzip
    import hashlib

    assert start["gcode_sha256"] == hashlib.sha256(gzip.decompress(gcode.path.read_bytes())).hexdigest()
    assert job.gcode_sha256 == gcode.sha256
    assert "TEST" not in job.token


def test_a_reply_lost_after_the_start_is_found_again(room: Room):
    room.start()
    room.device.fault("drop_reply", match="/print_job", method="POST", count=1)
    job = room.send()
    assert (job.state, room.starts()) == (P.PRINTING, 1)
    assert job.uuid


def test_an_upload_cut_off_on_the_way_is_no_start_and_may_be_tried_again(room: Room):
    room.start()
    room.device.fault("drop_upload", match="/print_job", method="POST", count=1)
    assert room.send().state is P.NOT_STARTED
    assert room.code() == "printer.not_reached"
    assert (room.starts(), room.reserved()) == (0, "")
    person_steps.resume(room.rig.app, room.case_id, TECHNICIAN)
    assert room.case.state is CaseState.SLICED
    assert room.start().attempt == 2
    assert (room.send().state, room.starts()) == (P.PRINTING, 1)


def test_a_silent_printer_before_sending_is_certainly_no_start(room: Room):
    room.start()
    room.device.fault("refuse_connection")
    assert room.send().state is P.NOT_STARTED
    assert room.case.state is CaseState.NEEDS_ATTENTION
    assert room.reserved() == ""


def test_a_busy_printer_refuses_and_nothing_is_started(room: Room):
    gcode = room.rig.app.config.data_dir / "other.gcode"
    gcode.write_text(room.rig.tasks.gcode)
    room.printer.send(gcode, "somebody-elses")
    room.start()
    assert room.send().state is P.NOT_STARTED
    assert room.code() == "printer.not_ready"
    assert [s["name"] for s in room.device.ledger()] == ["somebody-elses"]


def test_a_printer_that_falls_silent_after_the_upload_leaves_it_to_a_person(
    room: Room, monkeypatch: pytest.MonkeyPatch
):
    """Lost answer, then a dead network: started or not, nobody can say."""
    room.start()
    room.device.fault("drop_reply", match="/print_job", method="POST", count=1)
    send = UltimakerPrinter.send

    def send_and_lose_the_network(self: UltimakerPrinter, gcode: Path, name: str) -> SendResult:
        result = send(self, gcode, name)
        room.device.fault("refuse_connection")
        return result

    monkeypatch.setattr(UltimakerPrinter, "send", send_and_lose_the_network)
    assert room.send().state is P.UNKNOWN
    assert room.case.state is CaseState.PRINTING
    room.device.lift_faults()
    assert (room.wait(200).state, room.starts()) == (P.PRINTING, 1)


def _unknown(room: Room) -> PrintJob:
    """Started, the answer lost, and the process killed before it could ask: then the printer is off the net."""
    room.start()
    room.force(P.SENDING)
    room.device.fault("refuse_connection")
    job = room.send()
    assert job.state is P.UNKNOWN
    room.device.lift_faults()
    return job


def test_unknown_keeps_the_printer_and_tells_people(room: Room):
    job = _unknown(room)
    assert room.reserved() == job.token
    assert room.case.state is CaseState.PRINTING
    assert "print" in room.rig.notes.topics()
    assert "print_unknown" in room.events()
    with pytest.raises(ConflictError):
        person_steps.cancel(room.rig.app, room.case_id, PLANNER, "no use")
    room.send()
    assert (room.job().state, room.starts()) == (P.UNKNOWN, 0)


@pytest.mark.parametrize(
    ("outcome", "state", "case_state"),
    [
        ("finished", P.FINISHED, CaseState.PRINTED),
        ("failed", P.FAILED, CaseState.NEEDS_ATTENTION),
        ("not_started", P.NOT_STARTED, CaseState.NEEDS_ATTENTION),
    ],
)
def test_a_person_settles_what_the_printer_cannot_say(
    room: Room, outcome: str, state: PrintState, case_state: CaseState
):
    job = _unknown(room)
    with pytest.raises(InputRefusedError):
        print_settle.settle(room.rig.app, job.token, outcome, TECHNICIAN, "  ")
    with pytest.raises(InputRefusedError):
        print_settle.settle(room.rig.app, job.token, "perhaps", TECHNICIAN, "saw it")
    settled = print_settle.settle(room.rig.app, job.token, outcome, TECHNICIAN, "looked at it")
    assert (settled.state, settled.detail, room.case.state) == (state, "looked at it", case_state)
    assert room.reserved() == ""
    with pytest.raises(ConflictError):
        print_settle.settle(room.rig.app, job.token, outcome, TECHNICIAN, "again")


def test_an_unknown_print_that_the_printer_tells_of_later_goes_on(room: Room):
    room.start()
    room.force(P.SENDING)
    with reading(room.rig.app.engine) as connection:
        gcode = blobs.current(connection, room.case_id)["gcode"]
    room.printer.send(gcode.path, room.job().token)  # the killed process had got this far
    room.device.fault("refuse_connection")
    assert room.send().state is P.UNKNOWN
    room.device.lift_faults()
    assert room.wait(200).state is P.PRINTING
    assert room.starts() == 1


def test_two_jobs_without_an_identifier_are_not_the_same_job(room: Room):
    """Our print is unknown and has no uuid yet; another job shows up that has none either."""
    from dataclasses import replace

    job = _unknown(room)
    seen = room.printer.read()
    from service.ports import PrinterJob

    other = PrinterJob("", "somebody-elses", "wait_cleanup", "Finished", 1.0, 10, 10, cleared=True)
    print_run.follow(room.rig.app, room.printer, replace(seen, state=PrinterState.BUSY, job=other), job)
    assert room.job().state is P.UNKNOWN
    assert room.case.state is CaseState.PRINTING


# --- kill -9, simulated by what it leaves and by running the job again ---------------------------------------


def test_killed_before_anything_was_sent(room: Room):
    room.start()
    room.force(P.SENDING)
    assert (room.send().state, room.starts()) == (P.PRINTING, 1)


def test_killed_between_the_upload_and_its_answer(room: Room):
    room.start()
    room.force(P.SENDING)
    with reading(room.rig.app.engine) as connection:
        gcode = blobs.current(connection, room.case_id)["gcode"]
    room.printer.send(gcode.path, room.job().token)
    job = room.send()
    assert (job.state, room.starts()) == (P.PRINTING, 1)
    assert job.uuid == room.device.ledger()[0]["uuid"]


def test_killed_after_the_answer_was_recorded(room: Room):
    room.start()
    room.send()
    for _ in range(3):
        room.send()
    assert (room.job().state, room.starts()) == (P.PRINTING, 1)


def test_run_again_after_the_print_has_ended(room: Room):
    room.start()
    room.force(P.SENDING)
    with reading(room.rig.app.engine) as connection:
        gcode = blobs.current(connection, room.case_id)["gcode"]
    room.printer.send(gcode.path, room.job().token)
    room.device.panel("clock", advance_s=0)  # out of a queue it begins by itself
    room.device.panel("clock", advance_s=5000)
    room.device.panel("clear")
    assert room.send().state is P.PRINTING  # found in the history
    assert room.wait(1).state is P.FINISHED
    assert (room.case.state, room.starts()) == (CaseState.PRINTED, 1)


@pytest.mark.parametrize("fault", ["error_500", "garbage", "work_then_500", "drop_reply"])
def test_whatever_the_answer_to_the_upload_there_is_at_most_one_start(room: Room, fault: str):
    room.start()
    room.device.fault(fault, match="/print_job", method="POST", count=1)
    for _ in range(3):
        room.send()
    assert room.starts() <= 1
    assert (room.job().state is P.PRINTING) == (room.starts() == 1)


# --- the bad ends --------------------------------------------------------------------------------------------


def test_stopped_at_the_panel_needs_a_new_approval(room: Room):
    first = room.start()
    room.send()
    room.wait(400)
    room.device.fault("panel_abort")
    assert room.wait(300).state is P.AWAITING_REMOVAL
    room.device.panel("clear")
    assert room.wait(5).state is P.ABORTED
    assert (room.code(), room.reserved()) == ("print.aborted", "")
    assert person_steps.resume(room.rig.app, room.case_id, TECHNICIAN).state is CaseState.PLAN_READY
    with pytest.raises(ConflictError):
        room.start()
    approve_now(room.rig, room.case_id, by=SURGEON)
    room.rig.run_jobs("slice")
    second = room.start()
    assert second.approval_id != first.approval_id
    assert second.token != first.token
    assert (room.send().state, room.starts()) == (P.PRINTING, 2)


def _outcome(room: Room) -> tuple[str | None, str | None]:
    with reading(room.rig.app.engine) as connection:
        (view,) = print_views(connection, room.rig.app, [room.job()])
    return view["outcome"], view["stopped_by"]


def test_a_print_aborted_at_the_panel_is_told_from_our_own_stop(room: Room):
    room.start()
    room.send()
    room.wait(400)
    assert _outcome(room) == (None, None)
    room.device.fault("panel_abort")
    assert room.wait(300).state is P.AWAITING_REMOVAL
    assert _outcome(room) == ("aborted_at_panel", None)
    room.device.panel("clear")
    room.wait(5)
    assert _outcome(room) == ("aborted_at_panel", None)
    assert room.case.attention["message"] == "The print was aborted at the printer's panel."


@pytest.mark.parametrize("answer_lost", [False, True])
def test_our_own_stop_is_told_as_ours(room: Room, answer_lost: bool):
    job = room.start()
    room.send()
    room.wait(400)
    if answer_lost:
        room.device.fault("drop_reply", match="/print_job", method="PUT", count=1)
        with pytest.raises(DeviceUnsureError):
            print_stop.command(room.rig.app, job.token, "abort", TECHNICIAN)
    else:
        print_stop.command(room.rig.app, job.token, "abort", TECHNICIAN)
    assert room.wait(300).state is P.AWAITING_REMOVAL
    assert _outcome(room) == ("stopped_here", TECHNICIAN.name)
    room.device.panel("clear")
    assert room.wait(5).state is P.ABORTED
    assert room.case.attention["message"] == "The print was stopped from here."
    assert _outcome(room) == ("stopped_here", TECHNICIAN.name)


def test_a_stop_that_the_printer_refused_is_not_taken_for_the_one_at_the_panel(room: Room):
    job = room.start()
    room.send()
    room.wait(400)
    room.device.fault("error_500", method="PUT", count=1)
    with pytest.raises(DeviceError):
        print_stop.command(room.rig.app, job.token, "abort", TECHNICIAN)
    room.device.fault("panel_abort")
    room.wait(300)
    assert _outcome(room) == ("aborted_at_panel", None)


def test_settling_is_offered_exactly_where_it_is_taken(room: Room):
    """The form on the page and the rule of the service are asked about the same prints."""
    job = room.start()

    def offered() -> tuple[bool, str | None]:
        with reading(room.rig.app.engine) as connection:
            (view,) = print_views(connection, room.rig.app, [room.job()])
        return view["can_settle"], view["printer_silent_since"]

    def taken() -> bool:
        try:
            print_settle.settle(room.rig.app, job.token, "failed", TECHNICIAN, "looked")
        except ConflictError:
            return False
        return True

    assert offered() == (False, None) and not taken()
    room.send()
    room.wait(400)
    assert offered() == (False, None) and not taken()
    room.device.fault("refuse_connection")
    room.wait(5)
    settles, silent_since = offered()
    assert settles and silent_since is not None
    assert taken()
    assert offered()[0] is False


def test_the_end_of_a_print_and_the_parked_case_are_one_step(room: Room, monkeypatch: pytest.MonkeyPatch):
    """Killed between the two, the case would stand in PRINTING for ever: only running prints are followed."""
    room.start()
    room.send()
    room.wait(400)
    room.device.fault("panel_abort")
    room.wait(300)
    room.device.panel("clear")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(print_end, "park", killed)
        with pytest.raises(KeyboardInterrupt):
            room.wait(5)
    assert room.job().state is P.AWAITING_REMOVAL
    assert room.wait(1).state is P.ABORTED
    assert room.code() == "print.aborted"


def test_a_refused_print_and_the_parked_case_are_one_step(room: Room, monkeypatch: pytest.MonkeyPatch):
    room.start()
    room.device.fault("refuse_connection")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(print_end, "park", killed)
        with pytest.raises(KeyboardInterrupt):
            room.send()
    assert room.job().state is P.INTENT
    room.send()
    assert room.case.state is CaseState.NEEDS_ATTENTION


def test_a_power_cut_is_never_taken_for_a_success(room: Room):
    room.start()
    room.send()
    room.wait(400)
    room.device.fault("power_cut")
    room.wait(60)
    assert room.job().state is P.PRINTING  # silent: nothing is concluded
    room.device.fault("power_on")
    assert room.wait(600).state is P.UNKNOWN
    assert room.case.state is CaseState.PRINTING


def test_a_power_cut_that_leaves_no_trace_in_the_printer_is_left_to_a_person(room: Room):
    room.device.panel("options", after_power_cut="nothing")
    room.start()
    room.send()
    room.wait(400)
    room.device.fault("power_cut")
    room.device.fault("power_on")
    assert room.wait(600).state is P.UNKNOWN
    assert room.reserved() == room.job().token
    assert room.printer.find(room.job().token).outcome is LookupOutcome.ABSENT


def test_a_case_whose_print_is_decided_cannot_be_cancelled_under_it(room: Room):
    """The job is on its way: it would print for a case that is gone."""
    room.start()
    with pytest.raises(ConflictError) as caught:
        person_steps.cancel(room.rig.app, room.case_id, PLANNER, "too late")
    assert caught.value.details == {"guards": ["nothing_on_the_printer"]}
    room.send()
    assert room.case.state is CaseState.PRINTING


def test_gcode_changed_on_the_disk_is_not_sent(room: Room):
    room.start()
    with reading(room.rig.app.engine) as connection:
        path = blobs.current(connection, room.case_id)["gcode"].path
    path.write_bytes(b"G28")
    assert room.send().state is P.NOT_STARTED
    assert (room.code(), room.starts()) == ("gcode.changed", 0)


def test_starting_needs_everything(room: Room):
    with pytest.raises(NotFoundError):
        print_run.start_print(room.rig.app, room.case_id, "um9", TECHNICIAN, bed_clear=True)
    with pytest.raises(NotAllowedError):
        print_run.start_print(room.rig.app, room.case_id, "um3", PLANNER, bed_clear=True)
    with pytest.raises(ConflictError) as caught:
        print_run.start_print(room.rig.app, room.case_id, "um3", TECHNICIAN, bed_clear=False)
    assert caught.value.details == {"guards": ["bed_confirmed_clear"]}
    assert (room.case.state, room.reserved()) == (CaseState.SLICED, "")


def test_the_approval_is_bound_to_the_audited_file(room: Room):
    with reading(room.rig.app.engine) as connection:
        approval = approvals.standing(connection, room.case_id)
        gcode = blobs.current(connection, room.case_id)["gcode"]
    assert approval is not None and approval.gcode_sha256 == gcode.sha256
    with transaction(room.rig.app.engine) as connection:
        approvals.bind_gcode(connection, approval.id, "0" * 64)
    with pytest.raises(ConflictError) as caught:
        room.start()
    assert caught.value.details == {"guards": ["approval_is_current"]}


def test_what_was_shown_before_the_start_is_what_is_printed(room: Room):
    def start(seen: str) -> PrintJob:
        return print_run.start_print(
            room.rig.app, room.case_id, "um3", TECHNICIAN, bed_clear=True, seen_gcode_sha256=seen
        )

    with pytest.raises(ConflictError) as caught:
        start("0" * 64)
    assert caught.value.details == {"guards": ["gcode_shown_is_current"]}
    assert (room.case.state, room.reserved()) == (CaseState.SLICED, "")
    with reading(room.rig.app.engine) as connection:
        seen = blobs.current(connection, room.case_id)["gcode"].sha256
    assert start(seen).gcode_sha256 == seen


def test_one_printer_one_case(room: Room):
    other = bring(room.rig, CaseState.SLICED, study="1.2.9", series="1.2.826.0.1.3680043.10.9999.5")
    room.start()
    with pytest.raises(ConflictError) as caught:
        print_run.start_print(room.rig.app, other.id, "um3", TECHNICIAN, bed_clear=True)
    assert caught.value.details == {"guards": ["printer_free"]}
    with pytest.raises(ConflictError):
        room.start()
    room.rig.relay()
    assert [j.partition for j in room.rig.queue.jobs.values() if j.kind == "send_print"] == ["um3"]


def _given_up(room: Room) -> PrintJob:
    """The upload broke off for us and is whole for the printer, which is still reading it."""
    room.start()
    room.device.fault("drop_upload", match="/print_job", method="POST", count=1)
    job = room.send()
    assert job.state is P.NOT_STARTED
    return job


def _late_start(room: Room, job: PrintJob) -> None:
    with reading(room.rig.app.engine) as connection:
        gcode = blobs.current(connection, room.case_id)["gcode"]
    room.printer.send(gcode.path, job.token)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_print_given_up_that_starts_after_all_is_taken_up_again(room: Room, resumed: bool):
    job = _given_up(room)
    if resumed:
        person_steps.resume(room.rig.app, room.case_id, TECHNICIAN)
    _late_start(room, job)
    assert room.wait(200).state is P.PRINTING
    assert (room.case.state, room.reserved(), room.starts()) == (CaseState.PRINTING, job.token, 1)
    assert "print" in room.rig.notes.topics()
    with pytest.raises(ConflictError):
        room.start()
    room.wait(4000)
    room.device.panel("clear")
    assert room.wait(5).state is P.FINISHED
    assert (room.case.state, room.events().count("print_found")) == (CaseState.PRINTED, 1)


def test_a_second_attempt_that_meets_the_first_is_given_up_and_the_first_taken_up(room: Room):
    first = _given_up(room)
    person_steps.resume(room.rig.app, room.case_id, TECHNICIAN)
    second = room.start()
    _late_start(room, first)
    assert room.wait(5).token == second.token  # an attempt is under way: nothing is moved under it
    assert (room.send().state, room.starts()) == (P.NOT_STARTED, 1)
    room.wait(5)
    with reading(room.rig.app.engine) as connection:
        assert prints.get(connection, first.token).state is P.PRINTING
    assert room.case.state is CaseState.PRINTING


def test_a_print_of_a_cancelled_case_that_starts_after_all_is_told_once(room: Room):
    job = _given_up(room)
    person_steps.cancel(room.rig.app, room.case_id, PLANNER, "no use")
    _late_start(room, job)
    room.wait(5)
    room.wait(5)
    assert [t for t in room.rig.notes.topics() if t == "print"] == ["print"]
    assert (room.job().state, room.case.state) == (P.NOT_STARTED, CaseState.CANCELLED)


def test_a_part_on_a_printer_that_answers_no_more_can_be_settled(room: Room):
    job = room.start()
    room.send()
    assert room.wait(4000).state is P.AWAITING_REMOVAL
    with pytest.raises(ConflictError):
        print_settle.settle(room.rig.app, job.token, "finished", TECHNICIAN, "took it off")
    room.device.fault("refuse_connection")
    room.wait(5)
    assert (
        print_settle.settle(room.rig.app, job.token, "finished", TECHNICIAN, "took it off").state
        is P.FINISHED
    )
    assert (room.case.state, room.reserved()) == (CaseState.PRINTED, "")


def test_a_part_whose_job_the_printer_has_lost_can_be_settled(room: Room):
    job = room.start()
    room.send()
    assert room.wait(4000).state is P.AWAITING_REMOVAL
    for lie in ("job_404", "history_empty", "false_idle"):
        room.device.fault(lie)
    assert room.wait(5).state is P.UNKNOWN
    assert (
        print_settle.settle(room.rig.app, job.token, "finished", TECHNICIAN, "took it off").state
        is P.FINISHED
    )
    assert room.case.state is CaseState.PRINTED


def _reprinted_at_the_panel(room: Room) -> str:
    """Aborted, cleared and printed once more at the display, all between two looks. The identifier of the copy."""
    room.device.panel("abort")
    room.device.panel("clock", advance_s=200)
    room.device.panel("clear")
    room.device.panel("reprint")
    return str(room.device.ledger()[-1]["uuid"])


# with a queue the machine's identifier may be another than the one the job was accepted by
@pytest.mark.parametrize("room", ["direct"], indirect=True)
def test_a_reprint_at_the_panel_is_not_taken_for_our_print(room: Room):
    room.start()
    uuid = room.send().uuid
    room.wait(300)
    copy = _reprinted_at_the_panel(room)
    ended = room.wait(30)
    assert (ended.state, ended.uuid, ended.result) == (P.ABORTED, uuid, "Aborted")
    assert (room.code(), copy != uuid) == ("print.aborted", True)
    room.wait(5000)
    room.device.panel("clear")
    assert (room.wait(5).state, room.job().uuid) == (P.ABORTED, uuid)
    (message,) = [text for topic, text in room.rig.notes.told if topic == "print"]
    assert "once more" in message and ended.token in message
    assert room.events().count("print_copy_at_printer") == 1


@pytest.mark.parametrize("room", ["direct"], indirect=True)
def test_a_reprint_of_a_print_the_history_has_lost_leaves_it_to_a_person(room: Room):
    room.start()
    uuid = room.send().uuid
    room.wait(300)
    room.device.panel("options", after_power_cut="nothing")
    room.device.fault("power_cut")
    room.device.fault("power_on")
    room.device.panel("clock", advance_s=600)
    room.device.panel("reprint")
    for _ in range(2):
        job = room.wait(60)
        assert (job.state, job.uuid) == (P.UNKNOWN, uuid)
    assert room.events().count("print_copy_at_printer") == 1


@pytest.mark.parametrize("room", ["direct"], indirect=True)
def test_a_stop_never_reaches_a_reprint_of_our_print(room: Room):
    job = room.start()
    room.send()
    room.wait(300)
    _reprinted_at_the_panel(room)
    with pytest.raises(DeviceError, match="Another job"):
        print_settle.command(room.rig.app, job.token, "abort", TECHNICIAN)


def _settle_as(room: Room) -> list[str]:
    """The outcomes that the page offers."""
    with reading(room.rig.app.engine) as connection:
        (view,) = print_views(connection, room.rig.app, [room.job()])
    return list(view["settle_as"])


def _sentence(room: Room) -> str:
    """What the page says that the case waits for."""
    with reading(room.rig.app.engine) as connection:
        return print_sentence(connection, room.job().case_id)


def _plate_never_confirmed(room: Room) -> PrintJob:
    """Ended with its part on the plate; then the power goes, and the printer shows the job no more."""
    room.device.panel("options", ended_job_after_power_cut="gone")
    room.start()
    room.send()
    assert room.wait(4000).state is P.AWAITING_REMOVAL
    assert _settle_as(room) == []
    assert "confirm the plate at the printer" in _sentence(room)
    room.device.fault("power_cut")
    room.device.fault("power_on")
    return room.wait(600)


def test_a_finished_print_whose_plate_nobody_can_confirm_any_more_is_left_to_a_person(room: Room):
    job = _plate_never_confirmed(room)
    assert (job.state, job.result, room.reserved()) == (P.AWAITING_REMOVAL, "Finished", job.token)
    assert "take the part off" in job.detail
    assert "settle the print" in _sentence(room), "there is no plate to confirm at the printer"
    room.wait(5)
    assert [t for t in room.rig.notes.topics() if t == "print"] == ["print"]
    assert _settle_as(room) == ["finished", "failed"]
    with pytest.raises(ConflictError):
        print_settle.settle(room.rig.app, job.token, "not_started", TECHNICIAN, "took it off")
    settled = print_settle.settle(room.rig.app, job.token, "finished", TECHNICIAN, "took it off")
    assert (settled.state, room.case.state, room.reserved()) == (P.FINISHED, CaseState.PRINTED, "")


def test_an_aborted_print_that_its_printer_shows_no_more_is_never_called_finished(room: Room):
    room.device.panel("options", ended_job_after_power_cut="gone")
    room.start()
    room.send()
    room.wait(400)
    room.device.fault("panel_abort")
    assert room.wait(300).state is P.AWAITING_REMOVAL
    room.device.fault("power_cut")
    room.device.fault("power_on")
    assert room.wait(600).result == "Aborted"
    assert _settle_as(room) == ["failed"]


def test_a_part_that_lies_there_while_another_job_is_shown_is_left_to_a_person(room: Room):
    job = _plate_never_confirmed(room)
    other = room.rig.app.config.data_dir / "other.gcode"
    other.write_text(room.rig.tasks.gcode)
    room.printer.send(other, "somebody-elses")
    assert (room.wait(5).state, _settle_as(room)) == (P.AWAITING_REMOVAL, ["finished", "failed"])
    print_settle.settle(room.rig.app, job.token, "failed", TECHNICIAN, "it was thrown away")
    assert room.code() == "print.failed"


def test_what_has_begun_on_a_silent_printer_is_not_offered_as_never_started(room: Room):
    job = room.start()
    room.send()
    room.wait(400)
    room.device.fault("refuse_connection")
    assert room.wait(5).state is P.PRINTING
    assert _settle_as(room) == ["finished", "failed"]
    with pytest.raises(ConflictError) as caught:
        print_settle.settle(room.rig.app, job.token, "not_started", TECHNICIAN, "nothing there")
    assert "finished, failed" in caught.value.message


def test_pause_and_resume_from_the_service(room: Room):
    job = room.start()
    with pytest.raises(ConflictError):
        print_settle.command(room.rig.app, job.token, "pause", TECHNICIAN)
    room.send()
    room.wait(400)
    print_settle.command(room.rig.app, job.token, "pause", TECHNICIAN)
    assert room.wait(10).state is P.PAUSED
    print_settle.command(room.rig.app, job.token, "print", TECHNICIAN)
    assert room.wait(20).state is P.PRINTING
    assert {"print_pause", "print_print"} <= set(room.events())
