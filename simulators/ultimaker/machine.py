"""The machine itself: power, heaters, slots, one print at a time. Knows nothing of HTTP.

The life of a print follows section 5 of the reference sheet. State moves lazily: `advance` carries it to the
present, with every transition at its own instant, whatever the speed of the clock.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulators.ultimaker import job as jobs
from simulators.ultimaker.clock import MachineClock, stamp
from simulators.ultimaker.gcode import GcodeFile
from simulators.ultimaker.heat import Heater
from simulators.ultimaker.job import History, Job
from simulators.ultimaker.options import Options

GENERIC_PLA = "506c9f0d-e3aa-4bd4-b2d2-23e2425b1aa9"
ENDED_PHASES = ("post_print", "wait_cleanup")


class BusyError(Exception):
    """A print is on, or the plate is not cleared, or the machine is not idle."""


@dataclass
class Slot:
    core: str
    serial: str
    material: str
    length_mm: float = -1.0


@dataclass
class Machine:
    options: Options
    clock: MachineClock
    history: History = field(default_factory=History)
    slots: list[Slot] = field(
        default_factory=lambda: [
            Slot("AA 0.4", "a1b2c3d40000", GENERIC_PLA),
            Slot("BB 0.4", "a1b2c3d50000", ""),
        ]
    )
    ledger: list[dict[str, Any]] = field(default_factory=list)
    """Every start, as an independent witness."""
    spool_empty: bool = False
    job: Job | None = None
    last: Job | None = None
    """The newest print, whose file the display offers once more; not kept over a restart of the simulator."""
    on: bool = True
    maintenance: bool = False
    booted_s: float = 0.0
    answers_from_s: float = 0.0
    idle_from_s: float = 0.0
    dirty: bool = False
    broken: bool = False
    """After a hardware error, until the power was off."""
    bed: Heater = field(init=False)
    nozzles: list[Heater] = field(init=False)

    def __post_init__(self) -> None:
        self.bed = Heater(0.4, 900.0, self.options.ambient_c)
        self.nozzles = [Heater(2.2, 90.0, self.options.ambient_c) for _ in self.slots]
        self.booted_s = self.answers_from_s = self.idle_from_s = self.clock.now_s()

    # --- what it shows -----------------------------------------------------------------------------------

    def now_s(self) -> float:
        return self.clock.now_s()

    @property
    def answering(self) -> bool:
        return self.on and self.now_s() >= self.answers_from_s

    @property
    def status(self) -> str:
        if self.now_s() < self.idle_from_s:
            return "booting"
        if self.broken:
            return self.options.hardware_error_status
        if self.job is not None:
            return "printing"
        return "maintenance" if self.maintenance else "idle"

    # --- time --------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Carry the print to the present."""
        now_s = self.now_s()
        while self.job is not None and self.job.phase_ends_s is not None and self.job.phase_ends_s <= now_s:
            self._step(self.job, self.job.phase_ends_s)
        if self.job is not None and self.job.phase == "printing":
            wanted_c = self.job.gcode.nozzle_target_at(self.job.file_s(now_s))
            if wanted_c is not None and wanted_c != self.nozzles[0].target_c:
                self.nozzles[0].set_target(wanted_c, now_s)

    def _step(self, job: Job, at_s: float) -> None:
        steps: dict[str, Callable[[Job, float], None]] = {
            "none": self._after_none,
            "pre_print": self._begin_printing,
            "printing": self._finish,
            "pausing": lambda j, t: self._enter(j, "paused", t, None),
            "resuming": self._resumed,
            "post_print": self._plate_full,
            "wait_cleanup": self._clear_by_itself,
        }
        steps[job.phase](job, at_s)

    def _enter(self, job: Job, phase: str, at_s: float, lasts_s: float | None) -> None:
        if job.phase == "printing":
            job.printed_s = job.file_s(at_s)
        job.phase, job.phase_since_s = phase, at_s
        job.phase_ends_s = None if lasts_s is None else at_s + lasts_s
        self.dirty = True

    def _after_none(self, job: Job, at_s: float) -> None:
        if job.aborting:
            self._end(job, at_s, "Aborted")
        elif job.gcode.header_faults:
            self._end(job, at_s, "Failed")
        elif job.mismatch:
            self._enter(job, "wait_user_action", at_s, None)
        else:
            self._begin_pre_print(job, at_s)

    def _begin_pre_print(self, job: Job, at_s: float) -> None:
        nozzle_c = job.gcode.number("EXTRUDER_TRAIN.0.INITIAL_TEMPERATURE")
        bed_c = job.gcode.number("BUILD_PLATE.INITIAL_TEMPERATURE")
        heat_s = max(self.bed.seconds_to(bed_c, at_s), self.nozzles[0].seconds_to(nozzle_c, at_s))
        self.bed.set_target(bed_c, at_s)
        self.nozzles[0].set_target(nozzle_c, at_s)
        self._enter(job, "pre_print", at_s, self.options.homing_s + heat_s + self.options.levelling_s)

    def _begin_printing(self, job: Job, at_s: float) -> None:
        if job.elapsed_from_s is None:
            job.elapsed_from_s = at_s
        self._enter(job, "printing", at_s, job.gcode.duration_s - job.printed_s)

    def _finish(self, job: Job, at_s: float) -> None:
        self._end(job, at_s, "Finished")

    def _resumed(self, job: Job, at_s: float) -> None:
        job.pause_source = ""
        self.history.event(at_s, jobs.EVENT_RESUMED, f"Print {job.uuid} resumed", job.uuid)
        if job.resume_to == "printing":
            self._begin_printing(job, at_s)
        else:
            self._enter(job, job.resume_to, at_s, job.resume_left_s)

    def _end(self, job: Job, at_s: float, result: str) -> None:
        """End of the G-code or of an abort: result and end time are told before the plate is free."""
        self._enter(job, "post_print", at_s, self.options.post_print_s)
        if result == "Finished":
            job.printed_s = job.gcode.duration_s
        job.result, job.finished_s = result, at_s
        self._heaters_off(at_s)
        self.history.update(
            job.uuid,
            result=result,
            datetime_finished=stamp(at_s),
            time_elapsed=job.elapsed_s(at_s),
        )
        if result != "Failed":
            type_id = jobs.EVENT_FINISHED if result == "Finished" else jobs.EVENT_ABORTED
            self.history.event(at_s, type_id, f"Print {job.uuid} {result.lower()}", job.uuid)

    def _plate_full(self, job: Job, at_s: float) -> None:
        wait = self.options.clear_after_wall_s
        self._enter(job, "wait_cleanup", at_s, None if wait is None else wait * self.clock.speed)

    def _clear_by_itself(self, _job: Job, at_s: float) -> None:
        self.clear_plate(at_s)

    def _heaters_off(self, at_s: float) -> None:
        self.bed.set_target(0.0, at_s)
        for nozzle in self.nozzles:
            nozzle.set_target(0.0, at_s)

    # --- what the API asks -------------------------------------------------------------------------------

    def start(
        self,
        gcode: GcodeFile,
        name: str,
        user: str,
        application: str,
        received: dict[str, Any],
        uuid: str = "",
        reprint_of: str = "",
    ) -> Job:
        """Begin a print at once. Raises BusyError. `received` goes into the ledger with the start."""
        self.advance()
        if self.status != "idle":
            raise BusyError(self.status)
        now_s = self.now_s()
        mismatch = self.mismatches(gcode) if self.options.on_mismatch == "prompt" else ()
        job = Job(uuid or str(uuids.uuid4()), name, user, application, now_s, gcode, mismatch=mismatch)
        job.reprint_of = reprint_of
        self.job = self.last = job
        if self.options.elapsed_from == "start":
            job.elapsed_from_s = now_s
        self._enter(job, "none", now_s, self.options.none_s)
        parts = (received.get("owner", ""), received.get("created_at", ""))
        self.history.start(job, self.slots[0].core, self.slots[0].material, *parts)
        self.history.event(
            now_s,
            jobs.EVENT_STARTED,
            f"Print {job.uuid} started with name {name}",
            job.uuid,
            name,
        )
        self.ledger.append(
            {
                "uuid": job.uuid,
                "name": name,
                "user": user,
                "application": application,
                "started": stamp(now_s),
                **received,
                "plastic_until_layer": 0 if self.spool_empty else None,
            }
        )
        return job

    def hardware_error(self) -> None:
        """A sensor or a motor gives up: the print ends there, and the machine does nothing more until it is off."""
        self.advance()
        self.broken, self.dirty = True, True
        job, result = self.job, self.options.after_hardware_error
        if job is None or job.phase in ENDED_PHASES:
            return
        if result == "none":
            self._heaters_off(self.now_s())
            self.job = None
        else:
            self._end(job, self.now_s(), result)

    def filament_out(self) -> None:
        """The last of the filament has gone through.

        The spool's chip still says what material it is, and without a flow sensor nothing notices: the print goes on
        in the air and is called finished. Only the ledger knows the layer (from 0) that the plastic ended in. With
        `filament_sensor` the machine pauses, as when somebody presses pause at its display.
        """
        self.advance()
        self.spool_empty, self.dirty = True, True
        job = self.job
        if job is None or job.phase in ENDED_PHASES:
            return
        layer = job.gcode.layer_at(job.file_s(self.now_s()))
        entry = self.ledger[-1]
        if entry["plastic_until_layer"] is None:
            entry["plastic_until_layer"] = layer.number if layer else 0
        if self.options.filament_sensor:
            self.pause("display")

    def filament_in(self) -> None:
        """A new spool of the same material. What was printed in the air stays air."""
        self.spool_empty, self.dirty = False, True

    def mismatches(self, gcode: GcodeFile) -> tuple[str, ...]:
        """What the file wants that is not in the machine (core, material), as finding codes."""
        found = []
        for n in gcode.trains:
            wanted_core = gcode.header.get(f"EXTRUDER_TRAIN.{n}.NOZZLE.NAME", "")
            wanted_material = gcode.header.get(f"EXTRUDER_TRAIN.{n}.MATERIAL.GUID", "").lower()
            slot = self.slots[n]
            if wanted_core and wanted_core != slot.core:
                found.append("NOZZLE_MISMATCH")
            if not slot.material:
                found.append("MATERIAL_NOT_LOADED")
            elif wanted_material and wanted_material != slot.material.lower():
                found.append("GUID_MISMATCH")
        return tuple(found)

    def pause(self, source: str) -> None:
        """From `printing` or `pre_print`; in any other phase nothing happens, and nothing is said (sheet 2.5)."""
        self.advance()
        job, now_s = self.job, self.now_s()
        if job is None or job.phase not in ("printing", "pre_print"):
            return
        job.resume_to, job.resume_left_s = job.phase, max(0.0, (job.phase_ends_s or now_s) - now_s)
        job.pause_source = source
        self._enter(job, "pausing", now_s, self.options.pausing_s)
        self.history.event(now_s, jobs.EVENT_PAUSED, f"Print {job.uuid} paused", job.uuid)

    def resume(self) -> None:
        self.advance()
        if self.job is not None and self.job.phase == "paused":
            self._enter(self.job, "resuming", self.now_s(), self.options.resuming_s)

    def abort(self) -> None:
        self.advance()
        job = self.job
        if job is None or job.phase in ENDED_PHASES or job.aborting:
            return
        job.aborting = True
        self._enter(job, "none", self.now_s(), self.options.abort_none_s)

    # --- what the person does ----------------------------------------------------------------------------

    def go_on(self) -> bool:
        """Answer the prompt of `wait_user_action` with "continue"."""
        self.advance()
        if self.job is None or self.job.phase != "wait_user_action":
            return False
        self._begin_pre_print(self.job, self.now_s())
        return True

    def reprint(self) -> bool:
        """Print the newest file once more, under its name and an identifier of its own. Raises BusyError."""
        last = self.last
        if last is None:
            return False
        self.start(last.gcode, last.name, last.user, last.application, {}, reprint_of=last.uuid)
        return True

    def clear_plate(self, at_s: float | None = None) -> bool:
        """The part is off and the person has said so; only this ends `wait_cleanup`."""
        if at_s is None:
            self.advance()
            at_s = self.now_s()
        job = self.job
        if job is None or job.phase != "wait_cleanup":
            return False
        self.history.update(job.uuid, datetime_cleaned=stamp(at_s))
        self.history.event(at_s, jobs.EVENT_CLEARED, f"Print {job.uuid} cleared", job.uuid)
        self.job, self.dirty = None, True
        return True

    def set_core(self, slot: int, core: str) -> None:
        self.slots[slot].core = core
        self.dirty = True
        self.history.event(self.now_s(), jobs.EVENT_CORE_CHANGED, "Print core changed", str(slot), core)

    def set_material(self, slot: int, guid: str) -> None:
        self.slots[slot].material = guid
        self.dirty = True
        self.history.event(self.now_s(), jobs.EVENT_MATERIAL_CHANGED, "Material changed", str(slot), guid)

    # --- power -------------------------------------------------------------------------------------------

    def power_off(self) -> None:
        """Everything not written down is gone: the job is lost, its entry keeps no result and no end."""
        self.advance()
        self.on, self.dirty = False, True
        now_s = self.now_s()
        self._heaters_off(now_s)
        job = self.job
        if job is not None and job.result and self.options.ended_job_after_power_cut == "gone":
            self.job = None
        elif job is not None and not (self.options.after_power_cut == "reboot_job" or job.result):
            self.job = None
            if self.options.after_power_cut == "nothing":
                self.history.forget(job.uuid)
        elif job is not None:
            job.phase, job.phase_ends_s = "wait_cleanup", None
            job.source = job.source if job.result else "Reboot"

    def power_on(self) -> None:
        if self.on:
            return
        self.on, self.dirty, self.broken = True, True, False
        self.booted_s = self.now_s()
        self.answers_from_s = self.booted_s + self.options.boot_dead_s
        self.idle_from_s = self.answers_from_s + self.options.booting_s
        self.history.event(self.booted_s, jobs.EVENT_SYSTEM_STARTED, "System started")
