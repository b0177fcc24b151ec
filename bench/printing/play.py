"""One scenario on one printer, from the start of the print to its end, with every disagreement written down.

The service's records are compared with the machine only at moments at which its clock is stopped, so that the
truth does not move while it is looked at.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from bench.printing.polls import Polls
from bench.printing.scenario import Scenario
from bench.printing.wire import Seen
from bench.printing.world import SPEED, Device, World
from service.domain.case import CaseState
from service.domain.print_job import PrintState
from service.errors import ConflictError
from service.ports import bare_name
from service.store.prints import PrintJob
from service.workflow import person_steps, print_run, print_settle
from tests.support_app import TECHNICIAN

P = PrintState
#: So many polls after the printer tells the truth, and our record must tell it too.
POLLS_ALLOWED = 2
_IN_HAND = frozenset({P.INTENT, P.SENDING})
_LONG_S = 240.0
_ATTEMPTS = 4


@dataclass
class Outcome:
    scenario: Scenario
    printer: str
    killed: bool = False
    kills_seen: int = 0
    """Kills of the service during this scenario, those of its neighbours included."""
    starts: int = 0
    attempts: int = 0
    polls: list[int] = field(default_factory=list)
    """Polls after which each comparison held for good; POLLS_ALLOWED + 1 for one that never did."""
    settled_by_person: int = 0
    interface: str = "direct"
    elsewhere: str = ""
    """The printer that a further attempt went to."""
    final: str = ""
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class _Truth:
    allowed: frozenset[PrintState]
    words: str
    uuid: str = ""


def _tells(record: PrintJob, truth: _Truth) -> bool:
    return record.state in truth.allowed and (not truth.uuid or truth.uuid == record.uuid)


class Player:
    def __init__(self, world: World, device: Device, scenario: Scenario) -> None:
        self._world, self._device, self._scenario = world, device, scenario
        self._used = [device]
        self.outcome = Outcome(scenario, device.name, interface=device.interface)
        self._stretch = ""
        self._instant_met = threading.Event()
        self._case_id = ""
        self._patience_s = _LONG_S
        self._polls = Polls(self._newest, world.service.process_id)
        device.wire.watch = self._watch

    # --- the wire ----------------------------------------------------------------------------------------

    def _watch(self, seen: Seen) -> None:
        self._polls.see(seen)
        if self._stretch != self._scenario.stretch or self._instant_met.is_set():
            return
        if self._scenario.is_instant(seen):
            self._instant_met.set()
            time.sleep(self._scenario.delay_s)
            self._world.service.kill()
            self.outcome.killed = True

    # --- the play ----------------------------------------------------------------------------------------

    def play(self) -> Outcome:
        begin, kills = time.monotonic(), self._world.service.kills
        self._case_id = self._world.next_case()
        try:
            self._first_attempt()
            for _ in range(_ATTEMPTS):
                if self._to_its_end():
                    break
                self._try_again()
            self._judge_the_end()
        except TimeoutError as exc:
            self.outcome.violations.append(str(exc))
        finally:
            for device in self._used:
                device.wire.watch = lambda _seen: None
                self._leave_clean(device)
            for spare in self._used[1:]:
                self._world.free_spares.put(spare)
        self.outcome.kills_seen = self._world.service.kills - kills
        self.outcome.seconds = round(time.monotonic() - begin, 1)
        return self.outcome

    def _first_attempt(self) -> None:
        scenario, device = self._scenario, self._device
        device.panel("clock", speed=SPEED)
        if not scenario.fault_while_printing:
            self._hurt()
        self._stretch = "sending"
        self._start()
        if scenario.stretch == "sending":
            self._instant_met.wait(12.0)
        if scenario.fault_while_printing or scenario.stretch != "sending":
            self._until(lambda: self._newest().state not in _IN_HAND, "the print being sent")
        self._stretch = "printing"
        if scenario.fault_while_printing:
            self._hurt()
        if scenario.stretch == "printing":
            self._instant_met.wait(6.0)
        time.sleep(scenario.hold_s)
        self._heal()

    def _to_its_end(self) -> bool:
        """Compare, and drive the print to its end. False: nothing was started, and another attempt may be made."""
        job = self._compare("after the fault")
        if job.state is P.UNKNOWN and not self._started(job):
            self._settle(job, "not_started")
            return False
        if job.state is P.QUEUED:
            self._until(lambda: self._newest().state is not P.QUEUED, "the queue letting it begin")
            job = self._compare("after the queue")
        if job.state is P.NOT_STARTED:
            return False
        if job.state is P.PAUSED:
            self._device.panel("resume")
        if job.state is not P.UNKNOWN and self._running():
            self._end_it()
            self._stretch = "ended"
            self._wait_for_instant("ended")
            job = self._compare("after the end")
        if self._on_plate():
            self._device.panel("clear")
            self._stretch = "cleared"
            self._wait_for_instant("cleared")
            job = self._compare("after clearing")
        if job.state is P.UNKNOWN:
            self._settle(job, "failed")
        return True

    def _end_it(self) -> None:
        device, ending = self._device, self._scenario.ending
        if ending == "aborted":
            device.panel("abort")
            device.panel("clock", advance_s=200)
        elif ending == "power cut":
            device.panel("power", on=False)
            device.panel("power", on=True)
            device.panel("clock", advance_s=100)
        else:
            device.panel("clock", advance_s=6000)

    def _wait_for_instant(self, stretch: str) -> None:
        if self._scenario.stretch == stretch and not self._instant_met.is_set():
            self._instant_met.wait(4.0)

    def _start(self) -> None:
        print_run.start_print(
            self._world.rig.app, self._case_id, self._device.name, TECHNICIAN, bed_clear=True
        )

    def _try_again(self) -> None:
        if self._world.case(self._case_id).state is CaseState.NEEDS_ATTENTION:
            person_steps.resume(self._world.rig.app, self._case_id, TECHNICIAN)
        if self._scenario.elsewhere and len(self._used) == 1:
            self._go_elsewhere()
        self._start()
        self._until(lambda: self._newest().state not in _IN_HAND, "the next attempt being sent")

    def _go_elsewhere(self) -> None:
        """To another printer, once the first has digested or dropped whatever it was sent.

        While a first printer still reads an upload that was cut off for us, nobody can know; a start that comes of it
        later is told, and could not be prevented (docs/operator-guide.md).
        """
        first = self._device
        self._until(lambda: not first.look()["in_hand"], "the first printer digesting its upload")
        self._device = self._world.free_spares.get(timeout=_LONG_S)
        self._used.append(self._device)
        self._polls = Polls(self._newest, self._world.service.process_id)
        first.wire.watch = lambda _seen: None
        self._device.wire.watch = self._watch
        self._device.panel("clock", speed=SPEED)
        self.outcome.elsewhere = self._device.name

    def _settle(self, job: PrintJob, outcome: str) -> None:
        """A person has looked at the printer; meanwhile it may have told by itself."""
        try:
            print_settle.settle(self._world.rig.app, job.token, outcome, TECHNICIAN, "looked at it")
            self.outcome.settled_by_person += 1
        except ConflictError:
            self.outcome.violations.append(f"{job.token} could not be settled as {outcome}")

    # --- faults ------------------------------------------------------------------------------------------

    def _hurt(self) -> None:
        for fault in self._scenario.faults:
            self._device.panel("faults", **fault)

    def _heal(self, device: Device | None = None) -> None:
        """From here on the printer tells the truth."""
        device = device or self._device
        device.panel("power", on=True)
        device.lift_faults()
        self._until(
            lambda: device.look()["status"] != "booting" and self._answers(device), "the printer being up"
        )

    def _answers(self, device: Device) -> bool:
        try:
            device.history("")
        except httpx.HTTPError:
            return False
        return True

    # --- truth -------------------------------------------------------------------------------------------

    def _started(self, job: PrintJob) -> bool:
        return bool(self._device.starts({job.token}))

    def _running(self) -> bool:
        shown = self._device.look()["job"]
        return shown is not None and shown["state"] not in ("post_print", "wait_cleanup")

    def _on_plate(self) -> bool:
        self._device.panel("clock", speed=SPEED, advance_s=100)
        shown = self._device.look()["job"]
        return shown is not None and shown["state"] == "wait_cleanup"

    def _truth(self, job: PrintJob) -> _Truth:
        starts = self._device.starts({job.token})
        if not starts and self._device.queued(job.token):
            return _Truth(frozenset({P.QUEUED}), "in the printer's queue")
        if not starts:
            return _Truth(frozenset({P.NOT_STARTED, P.UNKNOWN}), "never started")
        machine_uuid = starts[-1]["uuid"]
        uuid = machine_uuid if self._device.names_jobs_alike else ""
        shown = self._device.look()["job"]
        if shown is not None and shown["uuid"] == machine_uuid:
            if shown["state"] in ("pausing", "paused"):
                return _Truth(frozenset({P.PAUSED}), "paused", uuid)
            if shown["state"] in ("post_print", "wait_cleanup"):
                return _Truth(frozenset({P.AWAITING_REMOVAL}), "on the plate", uuid)
            return _Truth(frozenset({P.PRINTING}), "running", uuid)
        entry: dict[str, Any] = self._device.history(machine_uuid) or {}
        results = {"Finished": P.FINISHED, "Aborted": P.ABORTED, "Failed": P.FAILED}
        return _Truth(
            frozenset({results.get(entry.get("result") or "", P.UNKNOWN)}),
            f"gone, {entry.get('result')}",
            uuid,
        )

    def _compare(self, when: str) -> PrintJob:
        """Stop the machine's clock, let the service look at it twice, and hold our record against the machine."""
        device = self._device
        self._until(
            lambda: device.look()["status"] != "booting" and self._answers(device), "the printer being up"
        )
        self._device.panel("clock", speed=0)
        try:
            self._until(lambda: self._newest().state not in _IN_HAND, f"the sending to end ({when})")
            records, truth = self._two_polls(when)
            held = [_tells(record, truth) for record in records]
            needed = POLLS_ALLOWED + 1 if not held[-1] else len(held) - 1
            while needed and held[needed - 1]:
                needed -= 1
            self.outcome.polls.append(needed)
            job = records[-1]
            if not held[-1]:
                self.outcome.violations.append(
                    f"{when}: our record says {job.state} ({job.detail}), the printer: {truth.words}"
                )
            return job
        finally:
            self._polls.end()
            self._device.panel("clock", speed=SPEED)

    def _two_polls(self, when: str) -> tuple[list[PrintJob], _Truth]:
        """The records after 0, 1 and 2 polls of a printer that did not change meanwhile, and what it is.

        A machine that still digests an upload may start while we look: then the truth is told from there on.
        """
        while True:
            truth = self._truth(self._newest())
            self._polls.begin()
            while len(self._polls.records) <= POLLS_ALLOWED:
                self._wait_a_little(when)
            if self._truth(self._newest()) == truth:
                return self._polls.records[: POLLS_ALLOWED + 1], truth

    def _judge_the_end(self) -> None:
        jobs = self._world.jobs(self._case_id)
        tokens = {job.token for job in jobs}
        starts = [start for device in self._used for start in device.starts(tokens)]
        self.outcome.attempts, self.outcome.starts = len(jobs), len(starts)
        if len({job.approval_id for job in jobs}) == 1 and len(starts) > 1:
            self.outcome.violations.append(f"{len(starts)} starts for one approval")
        for start in starts:
            job = next(j for j in jobs if j.token == bare_name(start["name"]))
            if job.state is P.NOT_STARTED:
                self.outcome.violations.append(f"{job.token} was started and our records deny it")
        case, last = self._world.case(self._case_id), jobs[-1].state
        self.outcome.final = f"{last}/{case.state}"
        fits = {
            P.FINISHED: case.state is CaseState.PRINTED,
            P.ABORTED: case.state is CaseState.NEEDS_ATTENTION and not self._world.approval_stands(case.id),
            P.FAILED: case.state is CaseState.NEEDS_ATTENTION and not self._world.approval_stands(case.id),
        }
        if not fits.get(last, False):
            self.outcome.violations.append(
                f"ended as {last} ({jobs[-1].detail}) with the case in {case.state}"
            )
        for device in self._used:
            if self._world.reserved(device.name):
                self.outcome.violations.append(f"{device.name} stayed reserved")
            if any(device.queued(token) for token in tokens):
                self.outcome.violations.append(
                    f"a job of this case still waits in the queue of {device.name}"
                )

    # --- helpers -----------------------------------------------------------------------------------------

    def _newest(self) -> PrintJob:
        return self._world.jobs(self._case_id)[-1]

    def _until(self, look: Any, what: str) -> None:
        self._patience_s = _LONG_S
        while not look():
            self._wait_a_little(what)

    def _wait_a_little(self, what: str) -> None:
        """Patience is counted in our own waits: while the whole machine is held up, nobody loses patience."""
        time.sleep(0.05)
        self._patience_s -= 0.05
        if self._patience_s < 0:
            raise TimeoutError(f"waited {_LONG_S:.0f} s for {what}; the print is {self._newest().state}")

    def _leave_clean(self, device: Device) -> None:
        """The next scenario finds an idle printer, whatever became of this one."""
        self._heal(device)
        device.panel("abort")
        device.panel("clock", advance_s=10_000, speed=SPEED)
        device.panel("clear")
