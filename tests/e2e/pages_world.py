"""A served service with cases in every state the pages show, brought there through the real use cases.

Only the minutes of computing a model and its G-code are left out: their products are made small here (or taken
from a folder), and enter through the same job functions. Images are read, inspected and sliced for real.
"""

from __future__ import annotations

import gzip
import json
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from skimage import measure
from sqlalchemy import update

from service.bootstrap import open_app
from service.config import Config
from service.domain.case import CaseState
from service.domain.people import Actor, Person, Role, acting
from service.domain.plan import (
    ModelSettings,
    Plan,
    Trajectory,
    Vent,
    VertebraFrame,
    plan_from_document,
    plan_to_document,
)
from service.domain.print_job import PrintState
from service.errors import DeviceError
from service.geometry.mesh import write_stl
from service.geometry.metrics import signed_distance
from service.geometry.progress import Progress
from service.geometry.volume import Volume
from service.imaging.nifti import write_nifti
from service.ops.loops import Loop
from service.ports import PrinterReading, PrinterState, ReceivedInstance
from service.results.needle_sheet import Caption, needle_slices
from service.results.needle_slices import Scene, grey_window
from service.results.pictures import mesh_views
from service.store import blobs, cases, prints, scan_pictures, scans, sterile, studies, times
from service.store.cases import Case
from service.store.database import reading, transaction
from service.store.tables import cases as case_table
from service.workflow import (
    approve,
    build,
    identity,
    intake,
    print_pictures,
    print_run,
    print_settle,
    sterilise,
)
from service.workflow.app import App
from service.workflow.jobs import raise_attention
from service.workflow.node_watch import NodeWatch
from service.workflow.tasks.correct_task import correct_task
from service.workflow.tasks.inspect_task import inspect_study
from service.workflow.tasks.scan_pictures_task import shown_needles
from tests.support_api import web_over
from tests.support_app import HandNode
from tests.support_dicom import ROOT, ct_slice, save
from tests.support_photo import photo

PASSWORD = "correct-horse-7"
PEOPLE = {
    "ada": (Role.PLANNER,),
    "lin": (Role.SURGEON,),
    "tom": (Role.TECHNICIAN,),
    "cem": (Role.CSSD_TECHNICIAN,),
    "sue": (Role.CSSD_SUPERVISOR,),
    "nia": (Role.THEATRE_NURSE,),
}
SLICES, SIZE, STEP_MM = 24, 64, 1.5
CENTRE = (0.0, 10.0, -200.0)
"""LPS mm of the made vertebral body."""
LOW = np.array(CENTRE) - (SIZE / 2 * STEP_MM, SIZE / 2 * STEP_MM, SLICES / 2 * STEP_MM)
"""LPS mm of the first voxel's centre of the made CT."""

FRAME = VertebraFrame(CENTRE, (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
NEEDLE: dict[str, Any] = {
    "pedicle": "left", "planned": True, "tip": [4.0, 2.0, -200.0], "entry": [18.0, 30.0, -196.0],
    "axis": [-0.444, -0.888, -0.127], "depth_mm": 0.9, "entry_deviation_mm": 1.1, "tip_to_target_mm": 1.24,
    "lateral_mm": 0.8, "angle_deg": 2.1, "breach": {"grade": "A", "mm": 0.0, "direction": None, "margin_mm": 1.9},
    "uncertainty_mm": 0.6,
    "uncertainty": {"tip_mm": 0.6, "lateral_mm": 0.5, "breach_mm": 0.6, "angle_deg": 0.9, "coverage_k": 2},
}  # fmt: skip


def person(name: str) -> Actor:
    return acting(Person(name, name.title(), frozenset(PEOPLE[name])))


def verification(
    verdict: str, *, measured: bool = True, advice: str = "Look at the images."
) -> dict[str, Any]:
    """A verification report with one needle, as the OR terminal gets it."""
    reason = None if measured else "No needle was found in the scan."
    return {
        "schema": "spineprint.verification/1", "status": "measured" if measured else "not_measurable",
        "reason": reason, "registration": {"expected_tre_mm": 0.5}, "needles": [NEEDLE] if measured else [],
        "cement": None, "verdict": verdict, "advice": advice,
    }  # fmt: skip


def bone(x: Any, y: Any, z: Any) -> Any:
    """A made vertebra, LPS mm: a body and two pedicles with their processes."""
    cx, cy, cz = CENTRE
    body = ((x - cx) / 18) ** 2 + ((y - cy + 8) / 13) ** 2 + ((z - cz) / 11) ** 4 < 1
    bars = (abs(abs(x - cx) - 12) < 4.5) & (y > cy - 4) & (y < cy + 24) & (abs(z - cz - 3) < 6)
    return body | bars


def make_model(folder: Path) -> Path:
    """The products of a model task over `bone`, small but of the right kinds."""
    folder.mkdir(parents=True, exist_ok=True)
    step, origin = 1.0, np.array(CENTRE) - (30.0, 30.0, 20.0)
    k, j, i = np.meshgrid(np.arange(41), np.arange(66), np.arange(61), indexing="ij")
    inside = bone(i * step + origin[0], j * step + origin[1], k * step + origin[2])
    affine = np.eye(4)
    affine[:3, 3] = origin
    write_nifti(Volume(inside.astype(np.uint8), affine), folder / "mask.nii.gz")
    corners, faces, _, _ = measure.marching_cubes(inside.astype(np.float32), 0.5, gradient_direction="ascent")
    for name in ("model.stl", "print.stl"):
        write_stl(corners[:, ::-1] * step + origin, faces[:, ::-1], folder / name)
    paths = tuple(
        Trajectory(side, (s * 13.0, 34.0, -196.0), (s * 4.0, 4.0, -201.0), 9.1, 16.7, 2.4)  # type: ignore[arg-type]
        for side, s in (("left", 1.0), ("right", -1.0))
    )
    vent = Vent((0.0, 2.0, -189.0), (0.0, 0.0, 1.0), 3.4)
    plan = Plan("L1", f"{ROOT}.9", FRAME, CENTRE, paths, ModelSettings(vents=(vent,)))
    (folder / "plan.json").write_text(json.dumps(plan_to_document(plan), sort_keys=True), "utf-8")
    report = {
        "schema": "spineprint.model/1", "passed": True, "failures": [], "size_mm": [36.0, 55.0, 22.0],
        "warnings": [
            {"code": "isolation.1", "message": "The bone touches the edge of the region."},
            {"code": "planning.1", "message": "The left path leaves 2.4 mm of bone."},
        ],
        "check": {"watertight": True, "winding_consistent": True, "bodies": 1, "closed_voids": 0,
                  "wall": {"min_mm": 1.96, "mean_mm": 2.01, "thin_share": 0.0},
                  "channels": [{"pedicle": "left", "open": True, "clear_diameter_mm": 2.72, "axis_mm": 0.01,
                                "axis_deg": 0.01}],
                  "vents": [{"diameter_mm": 3.4, "reaches_hollow": True}], "volume_ml": 24.1},
        "gas_path": {"closed_voids": 0, "openings_per_cavity": 2, "narrowest_opening_mm": 3.3,
                     "longest_path_mm": 90.0},
    }  # fmt: skip
    (folder / "report.json").write_text(json.dumps(report), "utf-8")
    (folder / "print.json").write_text("{}", "utf-8")
    mesh_views(corners[:, ::-1] * step + origin, faces[:, ::-1], plan=plan, panel=120).save(
        folder / "views.png"
    )
    return folder


def make_ct(folder: Path, study: str, patient: str, name: str) -> Path:
    """A small CT of `bone` in soft tissue."""
    folder.mkdir(parents=True, exist_ok=True)
    low = LOW
    rows, columns = np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij")
    for index in range(SLICES):
        z = low[2] + index * STEP_MM
        inside = bone(columns * STEP_MM + low[0], rows * STEP_MM + low[1], z)
        ds = ct_slice(
            index, size=SIZE, spacing_mm=STEP_MM, study=study, series=f"{study}.2", patient_id=patient,
            patient_name=name, position=(float(low[0]), float(low[1]), float(z)), PixelSpacing=[STEP_MM, STEP_MM],
        )  # fmt: skip
        ds.PixelData = (np.where(inside, 500, 40) + 1024).astype("<i2").tobytes()
        save(ds, folder / f"{index:04d}.dcm")
    return folder


def made_scene() -> Scene:
    """The made bone and a scan of it in the same frame with a rod of metal where NEEDLE is."""
    step, origin = 1.5, np.array(CENTRE) - (60.0, 60.0, 45.0)
    k, j, i = np.meshgrid(np.arange(61), np.arange(81), np.arange(81), indexing="ij")
    points = np.stack([i, j, k], axis=-1) * step + origin
    inside = bone(points[..., 0], points[..., 1], points[..., 2])
    tip, axis = np.array(NEEDLE["tip"]), np.array(NEEDLE["axis"]) / np.linalg.norm(NEEDLE["axis"])
    along = np.clip((points - tip) @ axis, -80.0, 0.0)
    metal = np.linalg.norm(points - tip - along[..., None] * axis, axis=-1) < 1.6
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = origin
    scan = Volume(np.where(metal, 4000.0, np.where(inside, 500.0, 90.0)).astype(np.float32), affine)
    outer = Volume(signed_distance(inside, (step, step, step)), affine)
    return Scene(scan, np.eye(4), outer, FRAME, 2.8, grey_window(scan, np.eye(4), outer))


@dataclass
class World:
    """`model` is the folder whose products every build hands out."""

    app: App
    folder: Path
    model: Path
    ct: Path | None = None
    made: int = 0
    node: HandNode = field(default_factory=HandNode)
    """What the pages hear of a DICOM node while the world is served."""

    def run_task(self, kind: str, argument: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
        if kind == "inspect_study":
            return inspect_study(argument, progress)
        if kind == "correct":
            return correct_task(argument, progress)
        out = Path(argument["out"])
        if kind == "model":
            for name in build.PRODUCTS:
                if (self.model / name).is_file():
                    shutil.copyfile(self.model / name, out / name)
            return {"passed": True, "warnings": []}
        (out / "print.gcode.gz").write_bytes(gzip.compress(b";FLAVOR:Griffin\n", mtime=0))
        measures = {
            "part_over_mesh": 1.01, "part_mm3": 24000.0, "filler_mm3": 0.0, "vents": [{"free_radius_mm": 1.63}],
            "printed": {"surface_p95_mm": 0.04, "surface_mean_abs_mm": 0.02, "surface_off_share": 0.001,
                        "wall_mean_mm": 2.0, "wall_p1_mm": 1.85, "wall_thin_share": 0.0,
                        "bone": {"p95_mm": 0.11, "mean_abs_mm": 0.03, "left_out_share": 0.07}},
        }  # fmt: skip
        report = {
            "passed": True, "measures": measures, "print_time_s": 7200, "weight_g": 29.8,
            "cost": {"currency": "EUR", "material": 0.83, "printer": 5.0, "total": 5.83},
        }  # fmt: skip
        for picture in ("errors", "bone"):
            shutil.copyfile(self.model / "views.png", out / f"print.{picture}.png")
        (out / "print.report.json").write_text(json.dumps(report), "utf-8")
        return {"audit": {"passed": True, "findings": []}, "engine": "made", "print_time_s": 7200,
                "material_mm3": 24000.0}  # fmt: skip

    def case(self, case_id: str) -> Case:
        with reading(self.app.engine) as connection:
            return cases.get(connection, case_id)

    def people(self) -> None:
        for name, roles in PEOPLE.items():
            identity.add_user(
                self.app, username=name, display_name=f"{name.title()} Example", by="test", password=PASSWORD,
                roles=[r.value for r in roles],
            )  # fmt: skip

    def receiving(self, name: str, *, calling_ae: str = "CT1", slices: int | None = None) -> str:
        """Send a CT study; returns its UID."""
        self.made += 1
        study = f"{ROOT}.{self.made}"
        folder = self.ct or make_ct(self.folder / f"ct{self.made}", study, f"P{self.made}", name)
        for path in sorted(folder.iterdir())[:slices]:
            self.hand_over(path, calling_ae)
        with reading(self.app.engine) as connection:
            return studies.listed(connection)[0].study_uid

    def hand_over(self, path: Path, calling_ae: str) -> None:
        intake.accept_instance(
            self.app,
            ReceivedInstance(
                path, "1.2.840.10008.5.1.4.1.1.2", "", "1.2.840.10008.1.2.1", blobs.sha256_of(path),
                path.stat().st_size, calling_ae, "SPINEPRINT", "127.0.0.1", "a1", self.app.clock.now(),
            ),
        )  # fmt: skip

    def received(self, name: str) -> Case:
        study_uid = self.receiving(name)
        with reading(self.app.engine) as connection:
            study, case = studies.need(connection, study_uid), cases.by_study(connection, study_uid)
        assert case is not None
        intake.complete(self.app, study)
        intake.inspect(self.app, case, "inspect")
        return self.case(case.id)

    def building(self, name: str) -> Case:
        case = self.received(name)
        return build.give_inputs(self.app, case.id, build.ModelInputs("L1", target=CENTRE), person("ada"))

    def plan_ready(self, name: str) -> Case:
        case = self.building(name)
        build.build(self.app, case, f"build-{case.id}")
        return self.case(case.id)

    def sliced(self, name: str) -> Case:
        case = self.plan_ready(name)
        with reading(self.app.engine) as connection:
            current = blobs.current(connection, case.id)
            report = json.loads(current["model_report"].path.read_text("utf-8"))
        approve.approve(
            self.app, case.id, person("lin"), plan_sha256=current["plan"].sha256, signed=True,
            mesh_sha256=current["mesh"].sha256, acknowledged=[w["code"] for w in report["warnings"]],
        )  # fmt: skip
        approve.slice_approved(self.app, self.case(case.id), f"slice-{case.id}")
        return self.case(case.id)

    def printing(self, name: str, printer: str, state: PrintState, **values: object) -> Case:
        case = self.sliced(name)
        job = print_run.start_print(self.app, case.id, printer, person("tom"), bed_clear=True)
        with transaction(self.app.engine) as connection:
            now = self.app.clock.now()
            job = prints.change(connection, job, PrintState.SENDING, now)
            prints.change(connection, job, state, now, uuid=f"uuid-{job.token}", **values)
        return self.case(case.id)

    def job(self, case: Case) -> prints.PrintJob:
        """The newest print of this case."""
        with reading(self.app.engine) as connection:
            return prints.listed(connection, case_id=case.id)[0]

    def read_printer(self, name: str, state: PrinterState, *, age_s: float = 1.0, **values: Any) -> None:
        at = self.app.clock.now() - timedelta(seconds=age_s)
        seen = asdict(PrinterReading(state, at, **values)) | {"read_at": at.isoformat()}
        with transaction(self.app.engine) as connection:
            prints.save_reading(connection, name, seen, at)

    def printed(self, name: str, printer: str) -> Case:
        """A part in sterile services' books, settled by the technician."""
        case = self.printing(name, printer, PrintState.UNKNOWN)
        with reading(self.app.engine) as connection:
            job = prints.listed(connection, case_id=case.id)[0]
        print_settle.settle(self.app, job.token, "finished", person("tom"), "the part was on the plate")
        return self.case(case.id)

    def pass_qa(self, case: Case) -> str:
        with reading(self.app.engine) as connection:
            item = sterile.items_of_case(connection, case.id)[0]
        design = item.design
        x, y, z = design.size_mm
        print_pictures.add_photo(self.app, item.id, photo(), person("ada"))
        sterilise.item_event(
            self.app, item.id, "pass_qa",
            {"stl_sha256": design.stl_sha256, "material": "PLA", "layer_mm": 0.2, "nozzle_c": 210.0, "bed_c": 60.0,
             "speed_mm_s": 50.0, "measured_x_mm": x, "measured_y_mm": y, "measured_z_mm": z, "vents_clear": True,
             "weight_g": design.part_weight_g or 0.0, "gauge_go": True, "gauge_no_go": True,
             "engraved_id": design.engraved_id},
            person("ada"), signed=True,
        )  # fmt: skip
        return item.id

    def attention(self, name: str) -> Case:
        case = self.building(name)
        error = DeviceError("The worker lost its disk.", next_step="Resume the case.", code="test.parked")
        raise_attention(self.app, case, error, CaseState.BUILDING)
        return self.case(case.id)

    def oarm_study(self, case: Case, state: str, *, images: int = 192) -> str:
        """An O-arm study of this case's patient in the books, without its images."""
        self.made += 1
        at = times.to_text(self.app.clock.now())
        uid = f"{ROOT}.7.{self.made}"
        with transaction(self.app.engine) as connection:
            planning = studies.need(connection, case.study_uid)
            studies.insert_study(
                connection,
                {"study_uid": uid, "kind": "oarm", "state": state, "patient_id": planning.patient_id,
                 "patient_name": planning.patient_name, "instance_count": images, "first_instance_at": at,
                 "last_instance_at": at},
            )  # fmt: skip
        return uid

    def ask_pictures(self, scan_id: str) -> None:
        with transaction(self.app.engine) as connection:
            scan_pictures.ask(connection, scan_id, 0, self.app.clock.now())

    def lose_pictures(self, scan_id: str, why: str) -> None:
        error = {"message": why, "next_step": "Have the disk checked."}
        with transaction(self.app.engine) as connection:
            scan_pictures.finish(connection, scan_id, 0, self.app.clock.now(), error=error)

    def pictures(self, scan_id: str, report: Mapping[str, Any]) -> None:
        """Pictures of this scan as the job leaves them, drawn for real over the made bone and a made scan."""
        scene = made_scene()
        caption = Caption("L1", "MADE", 1)
        plan = plan_from_document(json.loads((self.model / "plan.json").read_text("utf-8")))
        drawn = needle_slices(scene, shown_needles(report, plan), caption)
        with reading(self.app.engine) as connection:
            case_id = str(scans.get(connection, scan_id).case_id)
        kept = []
        for picture in drawn:
            source = self.folder / f"{scan_id}-{picture.name}.png"
            picture.image.save(source)
            path, sha256, size = blobs.keep(source, self.app.case_folder(case_id), "scan-picture")
            kept.append(
                scan_pictures.ScanPicture(
                    picture.name, picture.kind, picture.pedicle, picture.title, *picture.image.size, picture.plane,
                    path, sha256, size,
                )
            )  # fmt: skip
        with transaction(self.app.engine) as connection:
            now = self.app.clock.now()
            scan_pictures.finish(connection, scan_id, 0, now, pictures=tuple(kept))

    def put_to(self, case: Case, state: CaseState) -> None:
        """Where the journey would have taken it."""
        with transaction(self.app.engine) as connection:
            connection.execute(update(case_table).where(case_table.c.id == case.id).values(state=state.value))

    def scan(self, case: Case, state: str, **values: object) -> str:
        """A scan of this case in a state of the verification job."""
        study_uid, now = self.oarm_study(case, "MATCHED"), self.app.clock.now()
        with transaction(self.app.engine) as connection:
            scan_id = scans.create(
                connection, study_uid=study_uid, revision=1, case_id=case.id, last_image_at=now, now=now
            )
            scans.change(connection, scan_id, now, state=state, **values)
        return scan_id


def open_world(
    folder: Path, *, model: Path | None = None, ct: Path | None = None, dicom: Mapping[str, Any] | None = None
) -> World:
    printers = [
        {"name": n, "url": "http://127.0.0.1:9", "credentials_file": str(folder / f"{n}.json")}
        for n in ("um3-left", "um3-right", "um3-spare")
    ]
    config = Config.model_validate(
        {
            "data_dir": folder / "data",
            "printers": printers,
            "dicom": {"quiet_s": 3600, "oarm_quiet_s": 3600} | dict(dicom or {}),
        }
    )
    app = open_app(config)
    world = World(app, folder, model or make_model(folder / "model"), ct)
    world.app = replace(app, run_task=world.run_task)
    world.people()
    return world


@contextmanager
def served(world: World) -> Iterator[str]:
    """The web service on a free port; yields its address."""
    server = uvicorn.Server(
        uvicorn.Config(web_over(world.app), host="127.0.0.1", port=0, log_config=None, access_log=False)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    watch = NodeWatch(world.app, world.node, "ward-server", 11112, world.app.clock.now())
    watching = Loop("watch", 0.5, watch.look)
    watching.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        watching.stop()
        server.should_exit = True
        thread.join(timeout=10)
        world.app.engine.dispose()
