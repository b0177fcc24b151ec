"""The queue of the cluster firmware: a job that is accepted may begin late, and must not begin twice.

Real adapter and use cases against the simulated machine and its queue over HTTP; the machine's ledger is the witness.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from adapters.ultimaker import PrinterSettings, Timeouts, UltimakerPrinter, pair
from adapters.ultimaker.interfaces import CLUSTER, DIRECT
from service.domain.case import CaseState
from service.domain.print_job import PrintState
from service.errors import ConflictError, DeviceError, DeviceUnsureError
from service.ports import LookupOutcome, PrinterState, SendOutcome
from service.store import prints
from service.store.database import reading
from service.workflow import print_guard, print_run, print_settle, print_stop
from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.simulator import Simulator
from tests.contract.test_print_safety import Hall
from tests.support_app import TECHNICIAN, Rig, bring
from tests.support_ultimaker import in_process, options_for, small_gcode

SETTINGS = PrinterSettings(settle_s=0.05, confirm_s=0.4, timeouts=Timeouts(8.0, 8.0, 8.0), interface=CLUSTER)
P = PrintState
#: Files stay on their way to the machine until the clock is moved.
SLOW = 30.0


class Queue(Hall):
    """A hall whose printers A and B have the cluster firmware, and are sent jobs by their queues."""

    def options(self, name: str, **switches: object) -> None:
        self.devices[name].panel("options", **switches)

    def listed(self, name: str = "A") -> list[tuple[str, str]]:
        """What waits or prints, as the queue itself tells it."""
        found = requests.get(f"{self.devices[name].url}/cluster-api/v1/print_jobs/", timeout=10).json()
        return [(job["name"], job["status"]) for job in found]

    def of_another(self, job_name: str = "somebody-elses", name: str = "A", **fields: str) -> None:
        """A job that somebody sends with Cura."""
        parts = {"owner": (None, "anna"), "file": (f"{job_name}.gcode", small_gcode()),
                 **{key: (None, value) for key, value in fields.items()}}  # fmt: skip
        url = f"{self.devices[name].url}/cluster-api/v1/print_jobs/"
        requests.post(url, files=parts, timeout=10).raise_for_status()

    def wait(self, machine_s: float, name: str = "A") -> None:
        self.devices[name].panel("clock", advance_s=machine_s)
        self.poll(name)

    def queued(self, name: str = "A") -> prints.PrintJob:
        """Accepted, and held in the queue by a core that somebody has taken out after the check."""
        job = self.start(name)
        self.hold(name)
        job = self.send(job)
        self.poll(name)
        job = self.job(job)
        assert (job.state, self.starts(name)) == (P.QUEUED, 0), job
        return job

    def hold(self, name: str = "A") -> None:
        """Between the check and the sending the machine is given another core."""
        printer, device = self.printer(name), self.devices[name]
        check = printer.preflight

        def then_another_core(gcode: Path) -> list[str]:
            reasons = list(check(gcode))
            device.panel("core", slot=0, id="AA 0.8")
            return reasons

        printer.preflight = then_another_core  # type: ignore[method-assign]

    def mend(self, name: str = "A") -> None:
        self.devices[name].panel("core", slot=0, id="AA 0.4")


@pytest.fixture
def queue(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    monkeypatch.setattr(print_run, "_SETTLE_S", 0.05)
    with ExitStack() as stack:
        devices = {}
        for name in ("A", "B"):
            simulator = Simulator(options_for("cluster", name=name), MachineClock(0.0))
            devices[name] = stack.enter_context(in_process(simulator))
            pair(devices[name].url, tmp_path / f"{name}.json", poll_s=0.01)
        rig.with_printers(
            {
                n: UltimakerPrinter(n, d.url, tmp_path / f"{n}.json", SETTINGS, rig.clock)
                for n, d in devices.items()
            }
        )
        yield Queue(rig, devices, bring(rig, CaseState.SLICED).id, begins_at_once=False)


# --- the good way ----------------------------------------------------------------------------------------


def test_a_job_waits_goes_to_the_machine_and_prints(queue: Queue):
    queue.options("A", cluster_sent_s=SLOW)
    job = queue.send(queue.start("A"))
    assert (job.state, queue.starts("A"), len(job.uuid)) == (P.QUEUED, 0, 36)
    queue.poll("A")
    assert queue.listed() == [(job.token, "sent_to_printer")]
    assert queue.job(job).state is P.QUEUED
    queue.wait(SLOW + 1)
    assert (queue.job(job).state, queue.starts("A")) == (P.PRINTING, 1)
    queue.wait(5000)
    assert queue.job(job).state is P.AWAITING_REMOVAL
    queue.devices["A"].panel("clear")
    queue.poll("A")
    assert queue.job(job).state is P.FINISHED
    assert queue.rig.case(queue.case_id).state is CaseState.PRINTED
    assert queue.devices["A"].look()["repeats"] == 0


@pytest.mark.parametrize(
    "switches",
    [{"cluster_same_uuid": False}, {"cluster_old_words": True}, {"keeps_file_ending": True},
     {"cluster_recent": 0}, {"cluster_same_uuid": False, "keeps_file_ending": True}],
)  # fmt: skip
def test_habits_of_the_firmware_do_not_matter(queue: Queue, switches: dict[str, object]):
    queue.options("A", **switches)
    job = queue.send(queue.start("A"))
    queue.poll("A")
    queue.wait(600)
    print_settle.command(queue.rig.app, job.token, "pause", TECHNICIAN)
    queue.wait(30)
    assert queue.job(job).state is P.PAUSED
    print_settle.command(queue.rig.app, job.token, "print", TECHNICIAN)
    print_stop.command(queue.rig.app, job.token, "abort", TECHNICIAN)
    queue.wait(300)
    assert (queue.job(job).state, queue.job(job).result) == (P.AWAITING_REMOVAL, "Aborted")
    queue.devices["A"].panel("clear")
    queue.poll("A")
    assert (queue.job(job).state, queue.starts("A")) == (P.ABORTED, 1)


def test_the_queue_alone_tells_the_end_that_a_silent_history_does_not(queue: Queue):
    job = queue.send(queue.start("A"))
    queue.poll("A")
    queue.wait(5000)
    queue.devices["A"].panel("clear")
    for entry in ("job_404",):
        queue.devices["A"].fault(entry)
    lookup = queue.printer("A").find(job.token, job.uuid)
    assert lookup.outcome is LookupOutcome.FOUND and lookup.job is not None
    assert (lookup.job.result, lookup.job.cleared, lookup.job.uuid) == ("Finished", True, job.uuid)


def test_the_direct_interface_stays_usable_on_cluster_firmware(queue: Queue, tmp_path: Path):
    url = queue.devices["A"].url
    direct = UltimakerPrinter("A", url, tmp_path / "A.json", replace(SETTINGS, interface=DIRECT))
    gcode = queue.gcode().path
    assert direct.preflight(gcode) == []
    result = direct.send(gcode, "case-1")
    assert (result.outcome, result.waits, queue.starts("A")) == (SendOutcome.ACCEPTED, False, 1)


def test_without_a_pairing_the_file_is_not_checked_and_a_print_can_be_stopped(queue: Queue):
    """The queue wants no login, the printer's own check of the file does."""
    job = queue.send(queue.start("A"))
    queue.poll("A")
    queue.devices["A"].fault("forget_clients")
    assert any("Pair again" in reason for reason in queue.printer("A").preflight(queue.gcode().path))
    queue.wait(600)
    print_stop.command(queue.rig.app, job.token, "abort", TECHNICIAN)
    queue.wait(300)
    assert queue.job(job).result == "Aborted"


# --- other jobs in the queue ------------------------------------------------------------------------------


def test_preflight_refuses_behind_jobs_of_others(queue: Queue):
    queue.devices["A"].panel("core", slot=1, id="AA 0.4")
    queue.options("A", cluster_sent_s=SLOW)
    queue.of_another()
    assert queue.printer("A").read().state is PrinterState.BUSY
    job = queue.send(queue.start("A"))
    assert (job.state, queue.code()) == (P.NOT_STARTED, "printer.not_ready")
    assert "queue" in job.detail
    assert [name for name, _ in queue.listed()] == ["somebody-elses"]


def test_a_job_bound_to_another_printer_of_the_group_is_no_hindrance(queue: Queue):
    queue.options("A", cluster_size=3)
    queue.of_another(require_printer_name="ultimakersystem-000000000101")
    job = queue.send(queue.start("A"))
    queue.poll("A")
    assert (queue.job(job).state, queue.starts("A")) == (P.PRINTING, 1)


def test_a_job_is_bound_to_the_printer_whose_plate_was_seen(queue: Queue):
    queue.options("A", cluster_size=3)
    job = queue.queued()
    (found,) = requests.get(f"{queue.devices['A'].url}/cluster-api/v1/print_jobs", timeout=10).json()
    assert found["constraints"]["require_printer_name"] == "ultimakersystem-000000000001"
    assert found["owner"] == "spineprint" and job.token in found["name"]


def test_a_group_that_does_not_say_which_printer_is_ours_gets_nothing(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
):
    queue.options("A", cluster_size=2)
    monkeypatch.setattr("simulators.ultimaker.tree.HOSTNAME", "something-else")
    job = queue.send(queue.start("A"))
    assert (job.state, queue.code(), queue.listed()) == (P.NOT_STARTED, "printer.which", [])


def test_a_job_that_slips_in_before_ours_makes_ours_be_taken_out(queue: Queue):
    """Between our check and our upload somebody else sends one: its part would lie on the plate."""
    job = queue.start("A")
    printer = queue.printer("A")
    read = printer.read

    def then_another() -> object:
        seen = read()
        queue.of_another()
        printer.read = read  # type: ignore[method-assign]
        return seen

    printer.read = then_another  # type: ignore[method-assign, assignment]
    assert queue.send(job).state is P.QUEUED
    queue.poll("A")
    assert (queue.job(job).state, queue.code()) == (P.NOT_STARTED, "print.withdrawn")
    assert [name for name, _ in queue.listed()] == ["somebody-elses"]
    assert [start["name"] for start in queue.devices["A"].ledger()] == ["somebody-elses"]


# --- waiting ---------------------------------------------------------------------------------------------


def test_what_has_to_be_changed_is_told_in_words_and_done(queue: Queue):
    job = queue.queued()
    assert "print core is to be changed in slot 1 (AA 0.8 to AA 0.4)" in job.detail
    queue.mend()
    queue.poll("A")
    assert (queue.job(job).state, queue.starts("A")) == (P.PRINTING, 1)


def test_it_waits_no_longer_than_the_plate_is_known_to_be_clear(queue: Queue):
    job = queue.queued()
    queue.rig.clock.advance(seconds=print_guard.PLATE_SEEN_FOR.total_seconds() + 1)
    queue.poll("A")
    assert (queue.job(job).state, queue.code(), queue.listed()) == (P.NOT_STARTED, "print.withdrawn", [])
    queue.mend()
    queue.wait(1000)
    assert queue.starts("A") == 0
    del queue.printer("A").preflight  # type: ignore[attr-defined]
    queue.resume()
    second = queue.send(queue.start("A"))
    queue.poll("A")
    assert (queue.job(second).state, queue.starts("A")) == (P.PRINTING, 1)


@pytest.mark.parametrize("shown", [False, True])
def test_a_person_takes_it_back_and_the_approval_stands(queue: Queue, shown: bool):
    queue.options("A", cluster_deleted_shown=shown)
    job = queue.queued()
    with pytest.raises(ConflictError):
        print_stop.command(queue.rig.app, job.token, "pause", TECHNICIAN)
    print_stop.command(queue.rig.app, job.token, "abort", TECHNICIAN)
    assert (queue.job(job).state, queue.code(), queue.listed()) == (P.NOT_STARTED, "print.withdrawn", [])
    queue.mend()
    queue.resume()
    second = queue.send(queue.start("B"))
    queue.poll("B")
    assert (queue.job(second).state, queue.starts("A"), queue.starts("B")) == (P.PRINTING, 0, 1)


def test_what_has_begun_when_it_is_taken_back_is_stopped(queue: Queue):
    job = queue.send(queue.start("A"))
    queue.listed()  # carried to the present: it has begun
    queue.devices["A"].panel("clock", advance_s=600)
    assert queue.job(job).state is P.QUEUED  # not looked at since
    print_stop.command(queue.rig.app, job.token, "abort", TECHNICIAN)
    queue.wait(300)
    assert (queue.job(job).state, queue.job(job).result) == (P.AWAITING_REMOVAL, "Aborted")


@pytest.mark.parametrize("fault", ["drop_reply", "work_then_500"])
def test_a_lost_answer_to_taking_it_out_is_looked_up(queue: Queue, fault: str):
    job = queue.queued()
    queue.devices["A"].fault(fault, method="DELETE", count=1)
    print_stop.command(queue.rig.app, job.token, "abort", TECHNICIAN)
    assert queue.job(job).state is P.NOT_STARTED


def test_a_queue_that_keeps_it_is_told_and_tried_again(queue: Queue):
    job = queue.queued()
    queue.devices["A"].fault("error_500", method="DELETE")
    with pytest.raises(DeviceUnsureError, match="still there"):
        print_stop.command(queue.rig.app, job.token, "abort", TECHNICIAN)
    queue.rig.clock.advance(hours=1)
    queue.poll("A")
    queue.poll("A")
    assert queue.job(job).state is P.QUEUED
    (told,) = [words for words in queue.told() if "still there" in words]
    assert job.token in told
    queue.devices["A"].lift_faults()
    queue.poll("A")
    assert (queue.job(job).state, queue.starts("A")) == (P.NOT_STARTED, 0)


def test_somebody_else_takes_it_out_and_a_person_says_so(queue: Queue):
    job = queue.queued()
    url = f"{queue.devices['A'].url}/cluster-api/v1/print_jobs/{job.uuid}"
    requests.delete(url, timeout=10).raise_for_status()
    queue.poll("A")
    assert queue.job(job).state is P.UNKNOWN
    assert "not_started" in queue.settle_as(job)


def test_a_print_put_back_into_the_queue_after_a_power_cut_is_not_begun_again(queue: Queue):
    queue.options("A", cluster_after_cut="queued")
    job = queue.send(queue.start("A"))
    queue.poll("A")
    queue.wait(600)
    assert queue.job(job).state is P.PRINTING
    queue.devices["A"].panel("power", on=False)
    queue.devices["A"].panel("power", on=True)
    queue.devices["A"].panel("clock", advance_s=20)  # it answers, and is still starting up
    queue.poll("A")
    assert queue.listed() == []
    assert queue.job(job).state is P.UNKNOWN
    queue.wait(1000)
    assert (queue.starts("A"), queue.job(job).state) == (1, P.UNKNOWN)


@pytest.mark.parametrize("known", ["PRINTING", "UNKNOWN"])
def test_such_a_print_is_not_let_wait_when_it_cannot_be_taken_out_at_once(queue: Queue, known: str):
    queue.options("A", cluster_after_cut="queued")
    job = queue.send(queue.start("A"))
    queue.poll("A")
    queue.wait(600)
    device = queue.devices["A"]
    device.panel("power", on=False)
    device.panel("power", on=True)
    device.panel("clock", advance_s=20)
    if known == "UNKNOWN":
        device.fault("queue_empty")
        device.fault("history_empty")
        device.fault("false_idle")
        queue.poll("A")
        assert queue.job(job).state is P.UNKNOWN
        device.lift_faults()
    device.fault("error_500", method="DELETE", count=2)
    for _ in range(2):
        queue.poll("A")
        assert queue.job(job).state is P[known]
    assert len([words for words in queue.told() if "still there" in words]) == 1
    queue.poll("A")
    assert (queue.job(job).state, queue.listed()) == (P.UNKNOWN, [])
    queue.wait(1000)
    assert queue.starts("A") == 1


def test_a_waiting_print_on_a_silent_printer_is_asked_for_before_another_one_prints(queue: Queue):
    """Somebody says that it was not started; its queue may begin it when the printer is back."""
    job = queue.queued()
    queue.devices["A"].fault("refuse_connection")
    queue.poll("A")
    print_settle.settle(queue.rig.app, job.token, "not_started", TECHNICIAN, "it is off")
    queue.resume()
    assert queue.send(queue.start("B")).state is P.NOT_STARTED
    assert (queue.code(), queue.starts("B")) == ("print.earlier_unsure", 0)
    queue.devices["A"].lift_faults()
    queue.poll("A")
    queue.mend()
    queue.resume()
    last = queue.send(queue.start("B"))
    queue.poll("B")
    queue.wait(1000)
    assert (queue.job(last).state, queue.starts("A"), queue.starts("B")) == (P.PRINTING, 0, 1)


# --- never a second start ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["drop_reply", "work_then_500"])
def test_a_lost_answer_is_found_in_the_queue(queue: Queue, fault: str):
    queue.options("A", cluster_sent_s=SLOW)
    job = queue.start("A")
    queue.devices["A"].fault(fault, match="/print_job", method="POST", count=1)
    job = queue.send(job)
    assert (job.state, len(job.uuid), len(queue.listed())) == (P.QUEUED, 36, 1)
    queue.wait(SLOW + 1)
    assert (queue.job(job).state, queue.starts("A")) == (P.PRINTING, 1)


def test_a_given_up_job_that_turns_up_in_the_queue_is_taken_out(queue: Queue):
    """The upload broke off for us and was whole for the printer; the second attempt prints elsewhere."""
    first = queue.cut_off_on("A")
    queue.resume()
    second = queue.send(queue.start("B"))
    queue.devices["A"].panel("core", slot=0, id="AA 0.8")
    queue.of_another(first.token)
    assert queue.listed() == [(first.token, "queued")]
    queue.poll("A")
    queue.mend()
    queue.wait(1000)
    queue.poll("B")
    assert (queue.listed(), queue.starts("A"), queue.starts("B")) == ([], 0, 1)
    assert (queue.job(first).state, queue.job(second).state) == (P.NOT_STARTED, P.PRINTING)
    assert [words for words in queue.told() if first.token in words and "taken out" in words]


def test_the_second_printer_gets_nothing_while_the_first_has_it_queued(queue: Queue):
    first = queue.cut_off_on("A")
    queue.resume()
    second = queue.start("B")
    queue.devices["A"].panel("core", slot=0, id="AA 0.8")
    queue.of_another(first.token)
    assert queue.send(second).state is P.NOT_STARTED
    assert (queue.code(), queue.starts("B")) == ("print.waits_there", 0)
    queue.poll("A")
    queue.mend()
    queue.resume()
    third = queue.send(queue.start("B"))
    queue.poll("B")
    assert (queue.job(third).state, queue.starts("A"), queue.starts("B")) == (P.PRINTING, 0, 1)


def test_a_queue_that_does_not_answer_holds_up_the_second_printer(queue: Queue):
    queue.cut_off_on("A")
    queue.resume()
    queue.devices["A"].fault("error_500", match="/cluster-api")
    assert queue.send(queue.start("B")).state is P.NOT_STARTED
    assert (queue.code(), queue.starts("B")) == ("print.earlier_unsure", 0)


def test_an_unreadable_queue_is_busy_and_nothing_is_sent(queue: Queue):
    queue.devices["A"].fault("garbage", match="/cluster-api/v1/print_jobs", method="GET")
    seen = queue.printer("A").read()
    assert (seen.state, "queue cannot be read" in seen.detail) == (PrinterState.BUSY, True)
    assert queue.printer("A").find("case-1").outcome is LookupOutcome.UNSURE
    assert queue.printer("A").send(queue.gcode().path, "case-1").outcome is SendOutcome.REFUSED
    assert queue.devices["A"].look("uploads") == []


@pytest.mark.parametrize(
    ("switch", "words"), [({"cluster_mode": "cloud"}, "login"), ({"cluster_size": 0}, "queue")]
)
def test_a_printer_without_an_open_queue_says_so(queue: Queue, switch: dict[str, object], words: str):
    queue.options("A", **switch)
    job = queue.send(queue.start("A"))
    assert (job.state, queue.starts("A")) == (P.NOT_STARTED, 0)
    assert words in job.detail


def test_a_command_before_it_has_begun_is_refused_in_words(queue: Queue):
    job = queue.queued()
    with pytest.raises(DeviceError, match="waits in the printer's queue"):
        queue.printer("A").command("pause", job.token, job.uuid)


def test_the_queue_outlives_a_restart_of_the_printer(tmp_path: Path):
    state = tmp_path / "state.json"
    options = options_for("cluster", cluster_sent_s=SLOW)
    first = Simulator(options, MachineClock(0.0), state)
    with in_process(first) as device:
        parts = {"owner": (None, "o"), "file": ("case-1.gcode", small_gcode())}
        requests.post(f"{device.url}/cluster-api/v1/print_jobs", files=parts, timeout=10).raise_for_status()
    second = Simulator(options, MachineClock(0.0), state)
    assert [(job.name, job.status) for job in second.cluster.jobs] == [("case-1", "queued")]
    for _ in range(3):
        second.clock.advance(100)
        second.tick()
    assert [start["name"] for start in second.machine.ledger] == ["case-1"]


def test_the_record_of_the_approval_names_one_start(queue: Queue):
    job = queue.send(queue.start("A"))
    queue.poll("A")
    with reading(queue.rig.app.engine) as connection:
        (known,) = prints.listed(connection, case_id=queue.case_id)
    (start,) = queue.devices["A"].ledger()
    assert (known.token, known.uuid) == (start["name"], start["uuid"]) == (job.token, job.uuid)


# --- copies of a job of ours ------------------------------------------------------------------------------


def _again(queue: Queue, job: prints.PrintJob, action: str = "duplicate") -> None:
    """Somebody presses that in Cura."""
    url = f"{queue.devices['A'].url}/cluster-api/v1/print_jobs/{job.uuid}/action"
    requests.put(url, json={"action": action}, timeout=10).raise_for_status()


def test_an_upload_that_arrives_twice_prints_once(queue: Queue):
    """Killed while the printer reads the file; the replay sends again; then the first upload is in the queue too."""
    job = queue.start("A")
    queue.force(job, P.SENDING)
    job = queue.send(job)
    queue.poll("A")
    assert queue.job(job).state is P.PRINTING
    queue.of_another(job.token)
    assert [status for _, status in queue.listed()] == ["none", "queued"]
    queue.poll("A")
    assert len(queue.listed()) == 1
    queue.wait(5000)
    queue.devices["A"].panel("clear")
    queue.wait(1000)
    assert (queue.job(job).state, queue.starts("A")) == (P.FINISHED, 1)


def test_both_copies_in_the_queue_print_once(queue: Queue):
    job = queue.queued()
    queue.of_another(job.token)
    queue.poll("A")
    assert queue.listed() == [(job.token, "queued")]
    queue.mend()
    queue.poll("A")
    assert (queue.job(job).state, queue.starts("A")) == (P.PRINTING, 1)


def test_a_copy_that_somebody_makes_is_taken_out_and_told_once(queue: Queue):
    job = queue.send(queue.start("A"))
    queue.poll("A")
    queue.wait(5000)
    _again(queue, job)
    queue.devices["A"].fault("error_500", method="DELETE", count=2)
    for _ in range(4):
        queue.poll("A")
    assert len(queue.listed()) == 1
    assert len([words for words in queue.told() if "copy" in words]) == 1
    queue.devices["A"].panel("clear")
    queue.wait(1000)
    assert (queue.job(job).state, queue.starts("A")) == (P.FINISHED, 1)


def test_a_copy_of_a_print_that_is_over_is_not_taken_for_it(queue: Queue):
    job = queue.send(queue.start("A"))
    queue.poll("A")
    queue.wait(5000)
    queue.devices["A"].panel("core", slot=0, id="AA 0.8")
    _again(queue, job)
    queue.devices["A"].panel("clear")
    queue.poll("A")
    assert (queue.job(job).state, queue.listed()) == (P.FINISHED, [])
