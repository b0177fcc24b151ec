"""Everything of one simulated printer in one place, and its memory on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from simulators.ultimaker.auth import Gatekeeper
from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.cluster import ClusterQueue, QueuedJob
from simulators.ultimaker.faults import EVENTS, Fault, FaultBoard
from simulators.ultimaker.gcode import GcodeFile, plain_bytes, read_gcode
from simulators.ultimaker.job import History, Job
from simulators.ultimaker.machine import BusyError, Machine, Slot
from simulators.ultimaker.options import Options

SCHEMA = "um3-sim/1"
_OTHER_MATERIAL = "86a89ceb-4159-47f6-ab97-e9953803d70f"


class UploadRefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Upload:
    """A received file, read. Made beside the event loop, since a large file takes a second or two."""

    size: int
    sha256: str
    gcode_sha256: str = ""
    gcode: GcodeFile | None = None
    fault: str = ""

    @classmethod
    def read(cls, data: bytes) -> Upload:
        sha256 = hashlib.sha256(data).hexdigest()
        try:
            plain = plain_bytes(data)
        except ValueError as exc:
            return cls(len(data), sha256, fault=str(exc))
        return cls(len(data), sha256, hashlib.sha256(plain).hexdigest(), read_gcode(plain))


@dataclass
class Simulator:
    options: Options
    clock: MachineClock
    state_file: Path | None = None
    machine: Machine = field(init=False)
    cluster: ClusterQueue = field(init=False)
    gatekeeper: Gatekeeper = field(init=False)
    faults: FaultBoard = field(default_factory=FaultBoard)
    uploads: list[dict[str, Any]] = field(default_factory=list)
    """Every body that arrived whole at POST print_job, with the status it was answered."""
    materials: dict[str, str] = field(default_factory=dict)
    led: dict[str, float] = field(
        default_factory=lambda: {"brightness": 100.0, "hue": 0.0, "saturation": 0.0}
    )
    _saved_clients: int = 0

    def __post_init__(self) -> None:
        self.machine = Machine(self.options, self.clock)
        self.cluster = ClusterQueue(self.options, self.machine)
        self.gatekeeper = Gatekeeper(self.options)
        if self.state_file is not None and self.state_file.exists():
            self._load(json.loads(self.state_file.read_text()))

    # --- a job arrives -----------------------------------------------------------------------------------

    def begin(
        self, upload: Upload, name: str, user: str, application: str, parts: Mapping[str, str] | None = None
    ) -> Job:
        """Start a print of what was received. Raises UploadRefusedError with the status to answer."""
        note: dict[str, Any] = {"name": name, "bytes": upload.size, "received_at": _wall_now()}
        self.uploads.append(note)
        try:
            job = self._begin(upload, name, user, application, parts or {})
        except UploadRefusedError as exc:
            note["status"] = exc.status
            raise
        note["status"] = 201
        # the start is on disk before the client may hear of it, as the print is on the plate
        self.save()
        return job

    def _begin(self, upload: Upload, name: str, user: str, application: str, parts: Mapping[str, str]) -> Job:
        self.machine.advance()
        options, held = self.options, self.machine.job
        if held is not None and held.phase == "wait_cleanup":
            raise UploadRefusedError(options.cleanup_status, options.cleanup_text)
        if self.machine.status != "idle":
            raise UploadRefusedError(options.busy_status, options.busy_text)
        gcode = upload.gcode
        if gcode is None:
            raise UploadRefusedError(self.options.bad_header_status, upload.fault)
        if gcode.header_faults and self.options.on_bad_header == "refuse":
            raise UploadRefusedError(options.bad_header_status, options.bad_header_text)
        if self.options.on_mismatch == "refuse" and self.machine.mismatches(gcode):
            raise UploadRefusedError(self.options.bad_header_status, "Configuration mismatch")
        received = {**_received(upload, gcode), **(parts if options.owner_part == "keep" else {})}
        try:
            return self.machine.start(gcode, name, user, application, received)
        except BusyError as exc:
            raise UploadRefusedError(options.busy_status, options.busy_text) from exc

    def queue(self, upload: Upload, data: bytes, name: str, owner: str, require: str) -> QueuedJob:
        """Into the queue of the cluster firmware, busy or not. Raises UploadRefusedError."""
        note: dict[str, Any] = {"name": name, "bytes": upload.size, "received_at": _wall_now(), "status": 200}
        self.uploads.append(note)
        gcode = upload.gcode
        if gcode is None or gcode.header_faults:
            note["status"] = 400
            raise UploadRefusedError(400, "Invalid or unsupported g-code")
        job = self.cluster.add(data, gcode, _received(upload, gcode), name, owner, require)
        # in the queue, on disk, before the client may hear of it
        self.save()
        return job

    # --- things that happen ------------------------------------------------------------------------------

    def happen(self, fault: Fault) -> None:
        """Set a fault, or let a one-off event happen. Raises ValueError for an unknown kind."""
        if fault.kind not in EVENTS:
            self.faults.set(fault)
            return
        machine = self.machine
        events: dict[str, Callable[[], object]] = {
            "reboot": self._reboot,
            "power_cut": self._power_off,
            "power_on": machine.power_on,
            "panel_abort": machine.abort,
            "panel_pause": lambda: machine.pause("display"),
            "hardware_error": machine.hardware_error,
            "wrong_core": lambda: machine.set_core(0, fault.value or "BB 0.4"),
            "wrong_material": lambda: machine.set_material(0, fault.value or _OTHER_MATERIAL),
            "filament_out": machine.filament_out,
            "filament_in": machine.filament_in,
            "nonce_expiry": self.gatekeeper.expire_nonces,
            "forget_clients": self.gatekeeper.clients.clear,
        }
        events[fault.kind]()
        self.save()

    def _reboot(self) -> None:
        self._power_off()
        self.machine.power_on()

    def _power_off(self) -> None:
        self.machine.power_off()
        self.cluster.power_off()

    def tick(self) -> None:
        """Carry the machine and its queue to the present and write down what changed."""
        self.machine.advance()
        self.cluster.advance()
        if self.machine.dirty or len(self.gatekeeper.clients) != self._saved_clients:
            self.save()

    # --- memory ------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the memory whole or not at all; without a state file there is none."""
        self.machine.dirty = False
        self._saved_clients = len(self.gatekeeper.clients)
        if self.state_file is None:
            return
        job = self.machine.job
        document = {
            "schema": SCHEMA,
            "now_s": self.clock.now_s(),
            "clients": self.gatekeeper.document(),
            "slots": [asdict(s) for s in self.machine.slots],
            "history": self.machine.history.entries,
            "events": self.machine.history.events,
            "ledger": self.machine.ledger,
            "spool_empty": self.machine.spool_empty,
            "job": None if job is None else _kept(job),
            "queue": self.cluster.document(),
        }
        temporary = self.state_file.with_suffix(".new")
        with temporary.open("w") as out:
            json.dump(document, out)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(self.state_file)

    def _load(self, document: Mapping[str, Any]) -> None:
        """Come back after the power was gone: what was running then is lost, what had ended still lies there."""
        if document.get("schema") != SCHEMA:
            raise ValueError("the state file is of another kind")
        self.clock.advance(max(0.0, float(document["now_s"]) - self.clock.now_s()))
        self.gatekeeper.load(document["clients"])
        machine = self.machine
        machine.slots = [Slot(**s) for s in document["slots"]]
        machine.history = History(document["history"], document["events"])
        machine.ledger = document["ledger"]
        machine.spool_empty = bool(document.get("spool_empty", False))
        if document["job"] is not None:
            gcode = read_gcode(b"")
            machine.job = Job(
                gcode=gcode, phase="printing", phase_since_s=self.clock.now_s(), **document["job"]
            )
            machine.job.printed_s = gcode.duration_s if machine.job.result == "Finished" else 0.0
            machine.power_off()
        machine.on = False
        machine.power_on()
        self.cluster.load(document.get("queue", []))


def _received(upload: Upload, gcode: GcodeFile) -> dict[str, Any]:
    return {
        "sha256": upload.sha256,
        "gcode_sha256": upload.gcode_sha256,
        "bytes": upload.size,
        "layers": len(gcode.layers),
        "received_at": _wall_now(),
    }


def _kept(job: Job) -> dict[str, Any]:
    names = ("uuid", "name", "user", "application", "started_s", "source", "result", "finished_s")
    return {name: getattr(job, name) for name in names}


def _wall_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
