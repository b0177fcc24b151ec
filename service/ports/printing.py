"""Slicing and the printer."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class SliceSettings:
    """Print settings of the paper; any deviation is refused by the audit, not silently sliced."""

    layer_mm: float = 0.2
    nozzle_c: float = 210.0
    bed_c: float = 60.0
    print_speed_mm_s: float = 50.0
    material_guid: str = "506c9f0d-e3aa-4bd4-b2d2-23e2425b1aa9"  # generic PLA, 2.85 mm
    material_density_g_cm3: float = 1.24
    support: bool = True
    brim: bool = True


@dataclass(frozen=True)
class SliceResult:
    gcode: Path
    print_time_s: int
    material_mm3: float
    layer_count: int
    engine: str
    """Name and version of the engine and definitions used."""
    log_tail: str = ""


class Slicer(Protocol):
    def describe(self) -> str:
        """Engine and definitions in words. Raises ToolMissingError with how to install."""
        ...

    def slice(
        self,
        part_stl: Path,
        out: Path,
        settings: SliceSettings,
        *,
        blocker_stl: Path | None = None,
        filler_stl: Path | None = None,
    ) -> SliceResult:
        """Slice a closed mesh (mm, z up, resting on z=0, centred on x=y=0) for the Ultimaker 3.

        `blocker_stl` keeps supports out (channels, vents); `filler_stl` is the cavity, given sparse infill so
        that its roof prints. Writes `out` whole or not at all.
        """
        ...


class PrinterState(enum.StrEnum):
    """The printer as a person would describe it, from printer status and job state read together."""

    IDLE = "idle"
    BUSY = "busy"  # printing, heating, homing or in a menu
    AWAITING_REMOVAL = "awaiting_removal"  # finished or aborted, part still on the plate
    NEEDS_PERSON = "needs_person"
    BOOTING = "booting"
    ERROR = "error"
    SILENT = "silent"  # did not answer


def bare_name(name: str) -> str:
    """A job's name without the file's ending, which some firmware keeps (reference sheet section 4.1)."""
    return name.removesuffix(".gz").removesuffix(".gcode")


#: Job states of a printer with a queue of its own: accepted, not begun, and begun by the printer itself at any time.
WAITING_STATES = frozenset({"queued", "sent_to_printer"})


@dataclass(frozen=True)
class PrinterJob:
    """A job as the printer tells it. `result` is 'Finished' | 'Aborted' | 'Failed' | ''."""

    uuid: str
    name: str
    state: str
    result: str
    progress: float | None
    time_elapsed_s: int | None
    time_total_s: int | None
    pause_source: str = ""
    cleared: bool = False
    remark: str = ""
    """Why it waits, in words."""

    @property
    def waits(self) -> bool:
        """In the printer's own queue: nothing is printed yet, and it may begin by itself."""
        return self.state in WAITING_STATES

    @property
    def bare_name(self) -> str:
        return bare_name(self.name)

    def is_called(self, name: str) -> bool:
        return bool(name) and name in (self.name, self.bare_name)


@dataclass(frozen=True)
class PrinterReading:
    """One look at the printer. `read_at` is when the answer came (UTC); the age is shown beside it."""

    state: PrinterState
    read_at: datetime
    raw_status: str = ""
    job: PrinterJob | None = None
    nozzle_id: str = ""
    material_guid: str = ""
    nozzle_c: float | None = None
    bed_c: float | None = None
    detail: str = ""
    waiting: tuple[PrinterJob, ...] = ()
    """Jobs in the printer's own queue that may come to this printer, in their order."""


class SendOutcome(enum.StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"  # the printer said no; nothing was started
    UNSURE = "unsure"  # no answer or an answer we cannot trust: a person must look


@dataclass(frozen=True)
class SendResult:
    outcome: SendOutcome
    uuid: str = ""
    detail: str = ""
    findings: tuple[str, ...] = ()
    waits: bool = False
    """Accepted into the printer's own queue, not begun yet."""


class LookupOutcome(enum.StrEnum):
    FOUND = "found"
    ABSENT = "absent"  # the printer answered, and neither the current job nor its history has it
    UNSURE = "unsure"


@dataclass(frozen=True)
class JobLookup:
    outcome: LookupOutcome
    job: PrinterJob | None = None
    detail: str = ""


@dataclass(frozen=True)
class FoundPrinter:
    """A printer that announced itself on the network. All texts are the stranger's own words; empty = not told."""

    instance: str
    url: str
    name: str
    model: str
    machine: str
    firmware: str
    cores: tuple[str, ...]
    """Print cores from the left."""
    cluster: bool
    """Announces the queue of the cluster firmware; the direct interface is there all the same."""


class PrinterDiscovery(Protocol):
    def discover(self, seconds: float) -> Sequence[FoundPrinter]:
        """Listen on the network. Raises ToolMissingError (optional package), DeviceError."""
        ...


class Camera(Protocol):
    def snapshot(self) -> bytes:
        """A JPEG of the plate now. Raises DeviceError."""
        ...


class Printer(Protocol):
    """One printer. Methods never raise for a device that is silent or odd: they say so in the result."""

    @property
    def name(self) -> str: ...

    def read(self) -> PrinterReading: ...

    def preflight(self, gcode: Path) -> Sequence[str]:
        """Reasons in words not to print now (not idle, wrong nozzle, wrong material, header faults); empty = fine.

        Raises DeviceError when the printer cannot be asked.
        """
        ...

    def find(self, job_name: str, uuid: str = "") -> JobLookup:
        """Look for a job by our unique name (and uuid when known) in the running job and the history."""
        ...

    def send(self, gcode: Path, job_name: str) -> SendResult:
        """Start a print. Sends the file at most once per call; never retries by itself."""
        ...

    def command(self, target: str, job_name: str, uuid: str = "") -> None:
        """'pause' | 'print' (resume) | 'abort', for this job alone. Raises DeviceError, also for another job."""
        ...

    def withdraw(self, job_name: str, uuid: str = "") -> JobLookup:
        """Take a job that waits out of the printer's own queue; what the printer then has of it.

        ABSENT: it is certainly gone and was never begun. FOUND: it has begun, or could not be taken out (`job.waits`).
        Without a queue this is `find`.
        """
        ...
