"""What the core asks of the outside world, as Protocols, and the plain values that pass through them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Wall time, UTC-aware. Durations are measured with `time.monotonic`, never with this."""

    def now(self) -> datetime: ...


class Notifier(Protocol):
    """Tells people that something needs them. Must not raise; must not carry patient data."""

    def notify(self, topic: str, message: str, *, case_code: str | None = None) -> None: ...


# --- job queue -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobRequest:
    """One short job. The same `key` enqueued twice is one job.

    `queue` is one of `cpu`, `urgent`, `printers`, `io`, `pulls`; `partition` names the printer for `printers`.
    """

    key: str
    kind: str
    argument: str
    queue: str
    priority: int = 10
    partition: str | None = None


class JobState(enum.StrEnum):
    UNKNOWN = "unknown"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobHandler(Protocol):
    """Runs one job. Called at least once per key: must be idempotent. Outcomes go to our own tables."""

    def __call__(self, key: str, argument: str) -> None: ...


class JobQueue(Protocol):
    """The durable engine. Jobs survive kill -9; a job cut off half-way runs again."""

    def enqueue(self, request: JobRequest) -> None: ...

    def cancel(self, key: str) -> None: ...

    def status(self, key: str) -> JobState: ...

    def run_worker(self, handlers: Mapping[str, JobHandler], queues: Sequence[str]) -> None:
        """Start working in background threads; returns at once."""
        ...

    def stop(self, timeout_s: float) -> None: ...


# --- slicing ---------------------------------------------------------------------------------------------


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


# --- printer ---------------------------------------------------------------------------------------------


class PrinterState(enum.StrEnum):
    """The printer as a person would describe it, from printer status and job state read together."""

    IDLE = "idle"
    BUSY = "busy"  # printing, heating, homing or in a menu
    AWAITING_REMOVAL = "awaiting_removal"  # finished or aborted, part still on the plate
    NEEDS_PERSON = "needs_person"
    BOOTING = "booting"
    ERROR = "error"
    SILENT = "silent"  # did not answer


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


class LookupOutcome(enum.StrEnum):
    FOUND = "found"
    ABSENT = "absent"  # the printer answered, and neither the current job nor its history has it
    UNSURE = "unsure"


@dataclass(frozen=True)
class JobLookup:
    outcome: LookupOutcome
    job: PrinterJob | None = None
    detail: str = ""


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

    def command(self, target: str) -> None:
        """'pause' | 'print' (resume) | 'abort'. Raises DeviceError."""
        ...


# --- DICOM out -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Destination:
    """`tls`: call over TLS with our certificate (PS3.15 B.12)."""

    ae_title: str
    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True)
class StoreStatus:
    """Answer of a destination for one instance. `status` is the DIMSE status; None = no answer.

    `attempted` is False when the connection was lost before this instance's turn: it was no try of this instance.
    """

    sop_instance_uid: str
    status: int | None
    detail: str = ""
    attempted: bool = True

    @property
    def accepted(self) -> bool:
        # 0000 success, Bxxx warnings: the instance is stored (PS3.7 C). 0111 duplicate instance: it is there already,
        # e.g. because the answer to an earlier try was lost.
        return self.status is not None and (self.status in (0, 0x0111) or 0xB000 <= self.status <= 0xBFFF)

    @property
    def permanent(self) -> bool:
        """Refusals that a retry cannot change: class not supported (0122), data set does not match class (A9xx),
        cannot understand (Cxxx). A7xx, out of resources, passes."""
        return self.status is not None and (
            self.status == 0x0122 or 0xA900 <= self.status <= 0xA9FF or 0xC000 <= self.status <= 0xCFFF
        )


class ImageSender(Protocol):
    def send(self, files: Sequence[Path], destination: Destination) -> Sequence[StoreStatus]:
        """C-STORE the files over one association; one status per file, in order. Does not raise for refusals."""
        ...

    def echo(self, destination: Destination) -> bool: ...


@dataclass(frozen=True)
class CommitmentAnswer:
    """What a destination said to a storage commitment request; the outcome itself comes later as a report."""

    transaction_uid: str
    accepted: bool
    detail: str = ""


@dataclass(frozen=True)
class CommitmentReport:
    """The outcome of one of our storage commitment requests (PS3.4 annex J.3.3)."""

    transaction_uid: str
    committed: tuple[str, ...]
    """SOP instance UIDs the destination answers for from now on."""
    failed: Mapping[str, int]
    """SOP instance UID -> failure reason (0008,1197)."""


class CommitmentRequester(Protocol):
    """Storage commitment as a user of it: asks a destination to answer for what it was sent."""

    def ask(
        self, instances: Sequence[tuple[str, str]], destination: Destination, transaction_uid: str
    ) -> CommitmentAnswer:
        """Ask for (SOP class UID, SOP instance UID) pairs. Does not raise for refusals or silence."""
        ...


class CommitmentSink(Protocol):
    """Where the node hands over a report. Must be idempotent: a destination may report twice."""

    def __call__(self, report: CommitmentReport) -> None: ...


@dataclass(frozen=True)
class FoundStudy:
    """One study as a PACS describes it in answer to a C-FIND; what it did not tell is empty or None."""

    study_uid: str
    study_date: str = ""
    description: str = ""
    modalities: tuple[str, ...] = ()
    instances: int | None = None
    patient_id: str = ""


@dataclass(frozen=True)
class MoveProgress:
    """Sub-operations of a C-MOVE (PS3.4 C.4.2.1.6 ff.); `remaining` None = the PACS does not say."""

    completed: int = 0
    failed: int = 0
    warned: int = 0
    remaining: int | None = None


@dataclass(frozen=True)
class MoveResult:
    """The end of a C-MOVE. `status` is the DIMSE status of the last response; None = no answer any more."""

    status: int | None
    progress: MoveProgress
    failed_uids: tuple[str, ...] = ()
    detail: str = ""


class MoveWatcher(Protocol):
    def __call__(self, progress: MoveProgress) -> None: ...


class StudyFinder(Protocol):
    """Query/retrieve at a PACS, Study Root."""

    def find(self, accession_number: str, destination: Destination) -> Sequence[FoundStudy]:
        """Studies with exactly this accession number. Raises DeviceError."""
        ...

    def move(self, study_uid: str, destination: Destination, to_ae: str, watch: MoveWatcher) -> MoveResult:
        """Have the study sent to `to_ae`. Raises DeviceError when it cannot be asked for."""
        ...


# --- DICOM in --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReceivedInstance:
    """One durable instance as it came from the wire; the file holds the bytes exactly as received (Part 10)."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    sha256: str
    size: int
    calling_ae: str
    called_ae: str
    peer_address: str
    association: str
    """Unique id of the association that carried it."""
    received_at: datetime


@dataclass(frozen=True)
class Origin:
    """Who brought an instance that did not come over the DICOM network; the names are those of an association."""

    calling_ae: str
    """`WEB:` and the user or token, at most 16 characters."""
    peer_address: str
    association: str
    """Unique id of the upload that carried it."""


@dataclass(frozen=True)
class FileFacts:
    """What a Part-10 file says of itself; `sha256` and `size` are those of its data set, without the file meta."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    sha256: str
    size: int


class KeptAs(enum.StrEnum):
    NEW = "new"
    DUPLICATE = "duplicate"
    """The same bytes were here already."""
    CONFLICT = "conflict"
    """Other bytes under the same UID: kept in quarantine, the first one stays."""


class InstanceIntake(Protocol):
    """The second door for images: files that came by HTTP, with the same promises as the DICOM node gives."""

    @property
    def scratch(self) -> Path:
        """A folder on the disk of the store for what is still arriving; emptied at every start."""
        ...

    def require_room(self, size: int) -> None:
        """Raises StorageError (`storage.full`) when so many bytes would go below the disk reserve."""
        ...

    def look(self, file: Path) -> FileFacts:
        """Raises InputRefusedError when it is no Part-10 file or its file meta is damaged."""
        ...

    def keep(self, file: Path, facts: FileFacts, origin: Origin) -> KeptAs:
        """Make the data set durable before returning. `facts` may carry the identity the data set itself has.

        Raises InputRefusedError (`dicom.uid`, `dicom.class`, `dicom.syntax`), StorageError; then nothing is left.
        """
        ...

    def carrying(self, origin: Origin) -> AbstractContextManager[None]:
        """While the block runs, `open_associations` names this upload."""
        ...

    def open_associations(self) -> Mapping[str, str]:
        """Upload id -> calling name of those running now in this process."""
        ...

    def counters(self) -> Mapping[str, int]: ...


class InstanceSink(Protocol):
    """Where the DICOM node hands over what is already durable. Called again for the same file after a crash."""

    def __call__(self, instance: ReceivedInstance) -> None: ...


@dataclass(frozen=True)
class NodeEvent:
    """Something an administrator wants to see about the DICOM node: a rejection, a refusal, a fault, an abort.

    `kind` is one of the counters' names (`rejected_calling_ae`, `refused_storage`, `faults` ...). Titles come from
    the wire cleaned for printing; no patient data.
    """

    at: datetime
    kind: str
    calling_ae: str
    called_ae: str
    address: str
    what: str
    """What happened, in words."""
    next_step: str = ""


class ImageNode(Protocol):
    """The listening DICOM node."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def take_events(self) -> Sequence[NodeEvent]:
        """What happened since the last call, oldest first; older ones beyond some hundred are dropped."""
        ...

    def open_associations(self) -> Mapping[str, str]:
        """Association id -> calling AE title of those open now."""
        ...

    def counters(self) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class Peer:
    """A DICOM application we know. Roles: planning_ct, oarm, pacs. `tls`: we call it over TLS."""

    ae_title: str
    host: str
    port: int
    roles: tuple[str, ...] = field(default=())
    tls: bool = False
