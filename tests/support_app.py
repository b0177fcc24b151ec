"""The wired service on a temporary SQLite, and cases brought to a wanted state through the real use cases.

Only the heavy computations are replaced: `tiny_task` writes files of the right names and shapes in milliseconds.
Everything else (rules, tables, outbox, handlers, blobs) is the service itself.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from service.bootstrap import handlers, recognise_scan
from service.config import Config
from service.domain.case import CaseState
from service.domain.costs import Prices, estimate
from service.domain.people import Actor, Person, Role, acting
from service.errors import SpineprintError
from service.geometry.progress import Progress, silent
from service.ports import JobHandler, JobRequest, JobState, NodeEvent, Printer, ReceivedInstance
from service.store import blobs, cases, outbox
from service.store.cases import Case
from service.store.database import migrate, open_engine, reading, transaction
from service.workflow import approve, build, identity, intake, print_run
from service.workflow.app import App
from service.workflow.node_watch import NodeWatch
from service.workflow.tasks.correct_task import correct_task
from tests.support_dicom import CT_IMAGE, ct_slice, save
from tests.support_ultimaker import small_gcode

PASSWORD = "correct-horse-7"
#: One person per role; `planner` and `surgeon` are different people, as the rules want.
USERS: Mapping[str, Role] = {role.value.replace("_", "-"): role for role in Role}


def actor(*roles: Role, name: str = "") -> Actor:
    """A person with these roles, named after the first."""
    username = name or roles[0].value.replace("_", "-")
    return acting(Person(username, username.title(), frozenset(roles)))


TECHNICIAN, PLANNER, SURGEON = actor(Role.TECHNICIAN), actor(Role.PLANNER), actor(Role.SURGEON)
NURSE, ADMIN = actor(Role.THEATRE_NURSE), actor(Role.ADMIN)


class SteppedClock:
    """Stands still until told to go on."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self._now

    def advance(self, **delta: float) -> None:
        self._now += timedelta(**delta)


@dataclass
class Notes:
    """A notifier that keeps what people would be told: (topic, message)."""

    told: list[tuple[str, str]] = field(default_factory=list)

    def notify(self, topic: str, message: str, *, case_code: str | None = None) -> None:
        self.told.append((topic, message))

    def topics(self) -> list[str]:
        return [topic for topic, _ in self.told]


class HandQueue:
    """A job queue that runs nothing until the test says so."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobRequest] = {}
        self.states: dict[str, JobState] = {}
        self.enqueued: list[str] = []

    def enqueue(self, request: JobRequest) -> None:
        self.enqueued.append(request.key)
        if self.states.get(request.key, JobState.FAILED) is JobState.FAILED:
            self.jobs[request.key] = request
            self.states[request.key] = JobState.QUEUED

    def cancel(self, key: str) -> None:
        self.states[key] = JobState.CANCELLED

    def status(self, key: str) -> JobState:
        return self.states.get(key, JobState.UNKNOWN)

    def run_worker(self, handlers: Mapping[str, JobHandler], queues: Sequence[str]) -> None:
        raise NotImplementedError("this queue is worked by hand")

    def stop(self, timeout_s: float) -> None:
        return None

    def work(self, app: App, *kinds: str) -> int:
        """Run what is queued (of these kinds; all when none is named) once, oldest first."""
        table = handlers(app)
        waiting = [k for k, s in self.states.items() if s is JobState.QUEUED]
        waiting = [k for k in waiting if not kinds or self.jobs[k].kind in kinds]
        for key in waiting:
            request = self.jobs[key]
            try:
                table[request.kind](key, request.argument)
            except Exception:
                self.states[key] = JobState.FAILED
                raise
            self.states[key] = JobState.DONE
        return len(waiting)


@dataclass
class HandNode:
    """A DICOM node that receives nothing and says what the test wants it to say."""

    open: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    events: list[NodeEvent] = field(default_factory=list)

    def start(self) -> None:
        return None

    def stop(self) -> None:
        return None

    def take_events(self) -> Sequence[NodeEvent]:
        taken, self.events = self.events, []
        return taken

    def open_associations(self) -> Mapping[str, str]:
        return dict(self.open)

    def counters(self) -> Mapping[str, int]:
        return dict(self.counts)


@dataclass
class TinyTasks:
    """Stands where the tethered child stands. `fail` is raised instead of working; `report` answers `verify`."""

    fail: dict[str, BaseException] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=lambda: {"status": "measured", "verdict": "accurate"})
    model_report: dict[str, Any] = field(default_factory=dict)
    gcode_measures: dict[str, Any] = field(
        default_factory=lambda: {
            "part_over_mesh": 1.024, "layer_off_most": 0.02, "part_mm3": 24000.0, "filler_mm3": 600.0,
            "channels": [{"free_radius_mm": 1.21}, {"free_radius_mm": 1.18}],
        }
    )  # fmt: skip
    series_uid: str = "1.2.826.0.1.3680043.10.9999.2"
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    gcode: str = field(default_factory=lambda: small_gcode(seconds=600))

    def __call__(self, kind: str, argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        self.calls.append((kind, json.loads(json.dumps(dict(argument)))))
        if kind in self.fail:
            raise self.fail[kind]
        progress("working", 0.5)
        answer: dict[str, Any] = getattr(self, f"_{kind}")(argument)
        return answer

    def _inspect_study(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        assert argument["files"]
        return {
            "series_uid": self.series_uid,
            "slices": len(argument["files"]),
            "warnings": [],
            "candidates": [],
        }

    def _model(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        out = Path(argument["out"])
        report = {
            "passed": True,
            "warnings": [{"code": "planning.1", "message": "look here"}],
            "failures": [],
            "size_mm": [40.0, 50.0, 45.0],
            "gas_path": {
                "closed_voids": 0, "openings_per_cavity": 2, "narrowest_opening_mm": 3.0, "longest_path_mm": 90.0,
                "channels_mm": [2.79, 2.8],
            },
        } | self.model_report  # fmt: skip
        for name in build.PRODUCTS:
            # The contents name the inputs, so that other inputs give other hashes.
            (out / name).write_text(f"{name} {argument['target']} {argument['level']}", "utf-8")
        (out / "report.json").write_text(json.dumps(report), "utf-8")
        return {k: report[k] for k in ("passed", "warnings", "failures")}

    def _slice(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        out = Path(argument["out"])
        (out / "print.gcode.gz").write_bytes(gzip.compress(self.gcode.encode(), mtime=0))
        cost = estimate(Prices.from_document(argument.get("prices")), weight_g=1.5, print_time_s=600)
        audit = {"passed": True, "findings": [], "measures": self.gcode_measures, "weight_g": 1.5,
                 **({"cost": cost} if cost else {})}  # fmt: skip
        (out / "print.report.json").write_text(json.dumps(audit), "utf-8")
        return {"audit": audit, "engine": "tiny", "print_time_s": 600,
                "material_mm3": 1200.0}  # fmt: skip

    def _verify(self, _argument: Mapping[str, Any]) -> dict[str, Any]:
        return self.report

    def _scan_pictures(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        """A file of the right kind for each needle; its contents name the report it belongs to."""
        made = []
        for needle in argument["report"].get("needles") or [{"pedicle": None, "tip": None}]:
            name = f"{needle['pedicle'] or 'plain'}-axial"
            text = json.dumps([argument["scan_number"], needle["tip"]])
            (Path(argument["out"]) / f"{name}.png").write_text(text, "utf-8")
            made.append(
                {"file": f"{name}.png", "name": name, "kind": "slice", "pedicle": needle["pedicle"],
                 "title": name, "width": 1120, "height": 770, "plane": None}
            )  # fmt: skip
        return {"pictures": made}

    def _correct(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        """The real one: it is quick, and needs no scan."""
        return correct_task(argument, silent)

    def _publish(self, argument: Mapping[str, Any]) -> dict[str, Any]:
        name = f"{argument['what']}.dcm"
        (Path(argument["out"]) / name).write_text(json.dumps(argument["now"]), "utf-8")
        return {
            "objects": [
                {"file": name, "kind": f"published_{argument['what']}", "sop_uid": f"1.2.{len(name)}"}
            ]
        }


@dataclass
class Rig:
    app: App
    clock: SteppedClock
    notes: Notes
    queue: HandQueue = field(default_factory=HandQueue)
    tasks: TinyTasks = field(default_factory=TinyTasks)

    def relay(self) -> int:
        return outbox.relay(self.app.engine, self.queue, self.clock.now())

    def run_jobs(self, *kinds: str) -> None:
        """Relay and work until nothing is left (of these kinds)."""
        for _ in range(20):
            self.relay()
            if self.queue.work(self.app, *kinds) == 0:
                return
        raise AssertionError("the jobs never end")

    def run_verify(self, case: Case) -> None:
        """Run the verification job; the case needs no real model, only files of the right kinds."""
        with transaction(self.app.engine) as connection:
            for kind in {"plan", "mask"} - set(blobs.current(connection, case.id)):
                path = self.app.config.data_dir / f"{kind}.tiny"
                path.write_text(kind, "utf-8")
                blobs.record(
                    connection, case.id, kind, (path, blobs.sha256_of(path), len(kind)), self.clock.now()
                )
        self.run_jobs("verify")

    def case(self, case_id: str) -> Case:
        with reading(self.app.engine) as connection:
            return cases.get(connection, case_id)

    def with_printers(self, printers: Mapping[str, Printer]) -> Rig:
        self.app = replace(self.app, printers=dict(printers))
        return self


def watch(rig: Rig, node: HandNode, *, machine: str = "ward", port: int = 104) -> NodeWatch:
    """What carries this node's words into the database, as if it had started now."""
    return NodeWatch(rig.app, node, machine, port, rig.clock.now())


SERIES = "1.2.826.0.1.3680043.10.9999.2"
STUDY = "1.2.826.0.1.3680043.10.9999.1"


@cache
def _migrated() -> Path:
    """An empty database with the present schema, made once: Alembic takes longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="spdb-"))
    engine = open_engine(f"sqlite:///{folder / 'empty.sqlite3'}")
    migrate(engine)
    engine.dispose()
    return folder / "empty.sqlite3"


def make_rig(folder: Path, *, database_url: str = "", **sections: Any) -> Rig:
    """The service on a fresh database; a `database_url` is of one that has the present schema.

    `sections` are configuration sections, e.g. `dicom={"quiet_s": 1}`.
    """
    config = Config.model_validate({"data_dir": folder / "data", "database_url": database_url, **sections})
    config.data_dir.mkdir(parents=True)
    if not database_url:
        shutil.copyfile(_migrated(), config.data_dir / "spineprint.sqlite3")
    engine = open_engine(config.resolved_database_url)
    clock, notes, tasks = SteppedClock(), Notes(), TinyTasks()
    return Rig(App(config, engine, clock, notes, tasks, recognise_scan), clock, notes, tasks=tasks)


def add_people(app: App, *usernames: str) -> None:
    """Users as in USERS (all of them when none is named), each with PASSWORD."""
    for username in usernames or USERS:
        identity.add_user(
            app,
            username=username,
            display_name="",
            roles=[USERS[username].value],
            password=PASSWORD,
            by="test",
        )


def receive(
    rig: Rig, index: int = 0, *, calling_ae: str = "CT1", association: str = "a1", **options: Any
) -> Path:
    """One CT image, stored by us and handed to intake as the DICOM node does. Options as of `ct_slice`."""
    folder = rig.app.config.data_dir / "dicom"
    folder.mkdir(exist_ok=True)
    dataset = ct_slice(index, size=4, **options)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path = save(dataset, folder / f"{len(list(folder.iterdir())):04d}.dcm")
    hand_over(rig, path, calling_ae=calling_ae, association=association)
    return path


def hand_over(rig: Rig, path: Path, *, calling_ae: str = "CT1", association: str = "a1") -> None:
    intake.accept_instance(rig.app, received(rig, path, calling_ae=calling_ae, association=association))


def received(rig: Rig, path: Path, *, calling_ae: str = "CT1", association: str = "a1") -> ReceivedInstance:
    return ReceivedInstance(
        path=path, sop_class_uid=CT_IMAGE, sop_instance_uid="", transfer_syntax_uid="1.2.840.10008.1.2.1",
        sha256=blobs.sha256_of(path), size=path.stat().st_size, calling_ae=calling_ae, called_ae="SPINEPRINT",
        peer_address="127.0.0.1", association=association, received_at=rig.clock.now(),
    )  # fmt: skip


def new_case(rig: Rig, images: int = 3, **options: Any) -> Case:
    """A case in RECEIVING, its study still open."""
    for index in range(images):
        receive(rig, index, **options)
    with reading(rig.app.engine) as connection:
        found = cases.by_study(connection, options.get("study", STUDY))
    assert found is not None
    return found


def study_quiet(rig: Rig) -> None:
    """Let the quiet time pass and the studies complete."""
    rig.clock.advance(seconds=rig.app.config.dicom.quiet_s + 1)
    intake.tick(rig.app, {})


_ROAD = (
    CaseState.RECEIVING, CaseState.RECEIVED, CaseState.BUILDING, CaseState.PLAN_READY, CaseState.APPROVED,
    CaseState.SLICED, CaseState.PRINTING,
)  # fmt: skip


def bring(rig: Rig, target: CaseState, *, printer: str = "um3", **options: Any) -> Case:
    """A new case, taken by the real use cases to `target` (up to PRINTING: the intent, nothing sent)."""
    case = new_case(rig, **options)
    for state in _ROAD[1 : _ROAD.index(target) + 1]:
        _step(rig, case.id, state, printer)
        case = rig.case(case.id)
        assert case.state is state, (case.state, case.attention)
    return rig.case(case.id)


def _step(rig: Rig, case_id: str, state: CaseState, printer: str) -> None:
    if state is CaseState.RECEIVED:
        study_quiet(rig)
        rig.run_jobs("inspect")
    elif state is CaseState.BUILDING:
        build.give_inputs(rig.app, case_id, build.ModelInputs("L1", target=(1.0, -2.0, 3.0)), PLANNER)
    elif state is CaseState.PLAN_READY:
        rig.run_jobs("build")
    elif state is CaseState.APPROVED:
        approve_now(rig, case_id)
    elif state is CaseState.SLICED:
        rig.run_jobs("slice")
    else:
        print_run.start_print(rig.app, case_id, printer, TECHNICIAN, bed_clear=True)


def approve_now(rig: Rig, case_id: str, *, by: Actor = SURGEON, **changes: Any) -> Case:
    """Approve what is current, every warning acknowledged; `changes` spoil single arguments."""
    with reading(rig.app.engine) as connection:
        current = blobs.current(connection, case_id)
    arguments: dict[str, Any] = {
        "plan_sha256": current["plan"].sha256, "mesh_sha256": current["mesh"].sha256,
        "acknowledged": ["planning.1"], "signed": True,
    }  # fmt: skip
    return approve.approve(rig.app, case_id, by, **(arguments | changes))


def park(rig: Rig, case_id: str, error: SpineprintError, resume_state: CaseState) -> Case:
    """Put the case to NEEDS_ATTENTION as a failed job does."""
    from service.workflow.jobs import raise_attention

    raise_attention(rig.app, rig.case(case_id), error, resume_state)
    return rig.case(case_id)
