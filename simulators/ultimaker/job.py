"""One print as the machine keeps it, and how it is told: `print_job`, history entries, events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from simulators.ultimaker.clock import stamp
from simulators.ultimaker.gcode import GcodeFile

#: Event numbers of `/history/events` (sheet section 2.6).
EVENT_SYSTEM_STARTED = 1
EVENT_CORE_CHANGED = 65536
EVENT_MATERIAL_CHANGED = 65537
EVENT_STARTED = 131072
EVENT_PAUSED = 131073
EVENT_RESUMED = 131074
EVENT_ABORTED = 131075
EVENT_FINISHED = 131076
EVENT_CLEARED = 131077
EVENT_KEY_ADDED = 1048576

_LATER_FIRMWARE_ONLY = (
    "extruders_used",
    "interrupted_step",
    "material_0_guid",
    "material_0_amount",
    "printcore_0_name",
    "owner",
    "created_at",
)


@dataclass
class Job:
    """A print in hand. `phase` is the API's `state`; `phase_ends_s` None = only a person or a call ends it."""

    uuid: str
    name: str
    user: str
    application: str
    started_s: float
    gcode: GcodeFile
    phase: str = "none"
    phase_since_s: float = 0.0
    phase_ends_s: float | None = None
    source: str = "WEB_API"
    result: str = ""
    finished_s: float | None = None
    pause_source: str = ""
    printed_s: float = 0.0
    """Seconds of the file done before the present phase."""
    elapsed_from_s: float | None = None
    resume_to: str = "printing"
    resume_left_s: float = 0.0
    mismatch: tuple[str, ...] = ()
    aborting: bool = False
    reprint_of: str = ""
    """Identifier of the print that somebody repeated at the display."""

    def file_s(self, now_s: float) -> float:
        """Seconds of the file that are done."""
        if self.phase == "printing":
            return min(self.gcode.duration_s, self.printed_s + max(0.0, now_s - self.phase_since_s))
        return min(self.gcode.duration_s, self.printed_s)

    def progress(self, now_s: float, scale: str = "time") -> float:
        """0 to 1, of the time or of the bytes of the file."""
        done_s = self.file_s(now_s)
        return round(self.gcode.share_at(done_s) if scale == "bytes" else done_s / self.gcode.duration_s, 6)

    def elapsed_s(self, now_s: float) -> int:
        """Whole seconds since the end of `pre_print`, or since the start (`Options.elapsed_from`), pauses included."""
        if self.elapsed_from_s is None:
            return 0
        end_s = now_s if self.finished_s is None else self.finished_s
        return int(max(0.0, end_s - self.elapsed_from_s))

    def view(
        self, now_s: float, *, early: bool, scale: str = "time", none_word: str = "none"
    ) -> dict[str, Any]:
        """The object of GET /print_job; "not yet" is an empty text here."""
        heated = self.elapsed_from_s is not None and self.phase not in ("none", "pre_print")
        shown = {
            "datetime_cleaned": "",
            "datetime_finished": stamp(self.finished_s) or "",
            "datetime_started": stamp(self.started_s) or "",
            "name": self.name,
            "pause_source": self.pause_source if self.phase in ("pausing", "paused") else "",
            "progress": self.progress(now_s, scale),
            "reprint_original_uuid": self.reprint_of,
            "result": self.result,
            "source": self.source,
            "source_application": self.application,
            "source_user": self.user,
            "state": none_word if self.phase == "none" else self.phase,
            "time_elapsed": self.elapsed_s(now_s),
            "time_total": int(self.gcode.duration_s) if heated else 0,
            "uuid": self.uuid,
        }
        if early:
            for key in ("result", "pause_source", "reprint_original_uuid"):
                del shown[key]
        return shown


@dataclass
class History:
    """Entries and events, newest first; survives the power."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def start(self, job: Job, core: str, material: str, owner: str = "", created_at: str = "") -> None:
        total_s = int(job.gcode.duration_s)
        self.entries.insert(
            0,
            {
                "uuid": job.uuid,
                "name": job.name,
                "source": job.source,
                "result": None,
                "reprint_original_uuid": job.reprint_of or None,
                "datetime_started": stamp(job.started_s),
                "datetime_finished": None,
                "datetime_cleaned": None,
                "time_elapsed": 0,
                "time_estimated": total_s,
                "time_total": total_s,
                "extruders_used": {str(n): n in job.gcode.trains for n in (0, 1)},
                "interrupted_step": None,
                "material_0_guid": material,
                "material_0_amount": int(job.gcode.number("EXTRUDER_TRAIN.0.MATERIAL.VOLUME_USED")),
                "printcore_0_name": core,
                "owner": owner or job.user,
                "created_at": created_at or None,
            },
        )

    def entry(self, uuid: str) -> dict[str, Any] | None:
        return next((e for e in self.entries if e["uuid"] == uuid), None)

    def forget(self, uuid: str) -> None:
        self.entries = [e for e in self.entries if e["uuid"] != uuid]

    def update(self, uuid: str, **values: object) -> None:
        entry = self.entry(uuid)
        if entry is not None:
            entry.update(values)

    def event(self, now_s: float, type_id: int, message: str, *parameters: str) -> None:
        self.events.insert(
            0,
            {
                "time": stamp(now_s),
                "type_id": type_id,
                "message": message,
                "parameters": list(parameters),
            },
        )

    def shown(self, *, early: bool) -> list[dict[str, Any]]:
        if not early:
            return self.entries
        return [{k: v for k, v in e.items() if k not in _LATER_FIRMWARE_ONLY} for e in self.entries]
