"""The queue of the cluster firmware, in front of the one machine (reference sheet section 4.2).

A job waits until it is first, the machine is idle and holds what the file wants (or somebody forces it); then its file
goes to the machine, which begins it. The queue is carried to the present with the machine (`Simulator.tick`).
"""

from __future__ import annotations

import base64
import uuid as uuids
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from simulators.ultimaker.gcode import GcodeFile, plain_bytes, read_gcode
from simulators.ultimaker.machine import Machine
from simulators.ultimaker.options import Options

HOSTNAME = "ultimakersystem-000000000001"
"""Of this machine: its unique name in the group, too."""
GROUP_UUID = "6e2ff6ae-3b25-4a5c-8e3c-5f0c1c0f5d11"
APPLICATION = "Cura Connect"
"""As whose the machine itself shows a job of the queue."""
_ENDED_WORDS = ("post_print", "wait_cleanup", "wait_user_action")


@dataclass
class QueuedJob:
    """`status`: queued, sent_to_printer, begun (then the machine tells), or the word it ended with."""

    uuid: str
    name: str
    owner: str
    created_s: float
    data: bytes
    gcode: GcodeFile
    received: dict[str, Any]
    require: str = ""
    force: bool = False
    status: str = "queued"
    sent_until_s: float = 0.0
    machine_uuid: str = ""
    started: bool = False


@dataclass
class ClusterQueue:
    options: Options
    machine: Machine
    jobs: list[QueuedJob] = field(default_factory=list)
    done: list[QueuedJob] = field(default_factory=list)
    """Newest first."""
    repeats: int = 0
    """How often a job was repeated (duplicate, reprint), as an independent witness."""

    # --- what is asked of it -----------------------------------------------------------------------------

    def add(
        self, data: bytes, gcode: GcodeFile, received: dict[str, Any], name: str, owner: str, require: str
    ) -> QueuedJob:
        job = QueuedJob(str(uuids.uuid4()), name, owner, self.machine.now_s(), data, gcode, received, require)
        self.jobs.append(job)
        self.machine.dirty = True
        return job

    def get(self, uuid: str) -> QueuedJob | None:
        return next((job for job in self.jobs if job.uuid == uuid), None)

    def repeat(self, job: QueuedJob) -> QueuedJob:
        """Duplicate or reprint: the same file once more, under the same name."""
        copy = replace(job, uuid=str(uuids.uuid4()), status="queued", machine_uuid="", started=False)
        self.jobs.append(copy)
        self.repeats += 1
        self.machine.dirty = True
        return copy

    def remove(self, job: QueuedJob) -> None:
        self.jobs.remove(job)
        self.machine.dirty = True
        if self.options.cluster_deleted_shown:
            self._done(job, "aborted")

    def move(self, job: QueuedJob, position: int) -> None:
        self.jobs.remove(job)
        waiting = [n for n, other in enumerate(self.jobs) if other.status == "queued"]
        self.jobs.insert((waiting or [len(self.jobs)])[0] + max(0, position), job)

    # --- time --------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Carry the queue to the present of the machine."""
        for job in list(self.jobs):
            if job.status == "begun" and not self._in_machine(job):
                self._ended(job)
        if not self.machine.answering or not self.options.cluster_size:
            return
        now_s = self.machine.now_s()
        sent = next((job for job in self.jobs if job.status == "sent_to_printer"), None)
        first = sent or next((job for job in self.jobs if self._may_begin(job)), None)
        if first is None or self.machine.status != "idle":
            return
        if sent is None:
            first.status, first.sent_until_s = "sent_to_printer", now_s + self.options.cluster_sent_s
            self.machine.dirty = True
        if first.sent_until_s <= now_s:
            self._begin(first)

    def _begin(self, job: QueuedJob) -> None:
        own = job.uuid if self.options.cluster_same_uuid else ""
        begun = self.machine.start(job.gcode, job.name, job.owner, APPLICATION, job.received, uuid=own)
        begun.mismatch = ()  # settled here, or forced
        job.status, job.machine_uuid, job.started = "begun", begun.uuid, True

    def _may_begin(self, job: QueuedJob) -> bool:
        here = job.require in ("", HOSTNAME)
        return job.status == "queued" and here and (job.force or not self.changes(job))

    def _in_machine(self, job: QueuedJob) -> bool:
        return self.machine.job is not None and self.machine.job.uuid == job.machine_uuid

    def _ended(self, job: QueuedJob) -> None:
        entry = self.machine.history.entry(job.machine_uuid) or {}
        word = str(entry.get("result") or "").lower() or self.options.cluster_after_cut
        self.jobs.remove(job)
        self.machine.dirty = True
        if word == "queued":  # put back, to be printed from its start
            self.jobs.insert(0, replace(job, status="queued", machine_uuid=""))
        elif word != "gone":
            self._done(job, word)

    def _done(self, job: QueuedJob, word: str) -> None:
        self.done.insert(0, replace(job, status=word, data=b""))
        del self.done[self.options.cluster_recent :]

    def power_off(self) -> None:
        """Files on their way to the machine are lost; what waits is kept, if it is."""
        self.jobs = [j for j in self.jobs if j.status == "begun" or self.options.cluster_queue_kept]
        for job in self.jobs:
            job.status = "queued" if job.status == "sent_to_printer" else job.status

    # --- how it is told ----------------------------------------------------------------------------------

    def changes(self, job: QueuedJob) -> list[dict[str, Any]]:
        """`configuration_changes_required`: what has to be put in before it may begin."""
        found: list[dict[str, Any]] = []
        for n in job.gcode.trains:
            slot = self.machine.slots[n]
            core = job.gcode.header.get(f"EXTRUDER_TRAIN.{n}.NOZZLE.NAME", "")
            guid = job.gcode.header.get(f"EXTRUDER_TRAIN.{n}.MATERIAL.GUID", "").lower()
            if core and core != slot.core:
                found.append(_change("print_core_change", n, slot.core, core))
            if guid and guid != slot.material.lower():
                kind = "material_change" if slot.material else "material_insert"
                found.append(_change(kind, n, slot.material, guid))
        return found

    def word(self, job: QueuedJob) -> str:
        """The status word; later firmware tells there how the print ended."""
        held = self.machine.job
        if job.status != "begun" or held is None or held.uuid != job.machine_uuid:
            return "none" if job.status == "begun" else job.status
        end = {"Aborted": "aborted_", "Failed": "failed_"}.get(held.result, "")
        plain = self.options.cluster_old_words or held.phase not in _ENDED_WORDS
        return held.phase if plain else f"{end}{held.phase}"

    def view(self, job: QueuedJob) -> dict[str, Any]:
        held = self.machine.job if job.status == "begun" and self._in_machine(job) else None
        begun = job.status != "queued"
        changes = self.changes(job) if job.status == "queued" and not job.force else []
        return {
            "assigned_to": HOSTNAME if begun or job.require == HOSTNAME else None,
            "build_plate": {"type": "glass"},
            "compatible_machine_families": [self.options.variant],
            "configuration": [{"extruder_index": n} for n in job.gcode.trains],
            "configuration_changes_required": changes,
            "constraints": {"require_printer_name": job.require or None},
            "created_at": datetime.fromtimestamp(job.created_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "force": job.force,
            "impediments_to_printing": [],
            "last_seen": 0.0,
            "machine_variant": self.options.variant,
            "name": job.name,
            "network_error_count": 0,
            "owner": job.owner,
            "printed_on_uuid": GROUP_UUID if job.started else None,
            "printer_uuid": GROUP_UUID if begun else None,
            "started": job.started,
            "status": self.word(job),
            "time_elapsed": 0 if held is None else held.elapsed_s(self.machine.now_s()),
            "time_total": int(job.gcode.duration_s),
            "uuid": job.uuid,
        }

    def printers(self) -> list[dict[str, Any]]:
        """This machine, and the others of its group, which are only names here."""
        names = [
            HOSTNAME,
            *(f"ultimakersystem-0000000001{n:02d}" for n in range(1, self.options.cluster_size)),
        ]
        return [
            {
                "enabled": True,
                "firmware_version": self.options.firmware,
                "friendly_name": self.options.name if n == 0 else f"{self.options.name}-{n}",
                "ip_address": f"192.0.2.{10 + n}",
                "machine_variant": self.options.variant,
                "status": self.machine.status if n == 0 else "idle",
                "unique_name": name,
                "uuid": GROUP_UUID if n == 0 else f"{GROUP_UUID[:-2]}{n:02d}",
            }
            for n, name in enumerate(names)
        ]

    # --- memory ------------------------------------------------------------------------------------------

    def document(self) -> list[dict[str, Any]]:
        names = ("uuid", "name", "owner", "created_s", "received", "require", "force", "status", "machine_uuid",
                 "started")  # fmt: skip
        return [
            {name: getattr(job, name) for name in names} | {"data": base64.b64encode(job.data).decode()}
            for job in self.jobs
        ]

    def load(self, document: list[Mapping[str, Any]]) -> None:
        for item in document:
            data = base64.b64decode(item["data"])
            kept = {key: value for key, value in item.items() if key != "data"}
            self.jobs.append(QueuedJob(data=data, gcode=read_gcode(plain_bytes(data)), **kept))
        self.power_off()


def _change(kind: str, index: int, origin: str, target: str) -> dict[str, Any]:
    return {
        "type_of_change": kind,
        "index": index,
        "origin_id": origin,
        "origin_name": origin,
        "target_id": target,
        "target_name": target,
    }
