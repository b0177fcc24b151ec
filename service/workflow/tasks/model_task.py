"""CT and inputs to a checked, printable model with its plan, report and pictures."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from service.domain.edits import edits_from_document
from service.domain.plan import ModelSettings, Plan, known_level, plan_to_document
from service.errors import GeometryError
from service.geometry.anatomy import Isolation
from service.geometry.ct_deviation import CtDeviation, deviation_from_ct
from service.geometry.edits import apply_edits
from service.geometry.mesh import Mesh, write_stl
from service.geometry.orientation import Orientation, between_plate_and_top, blocker_mesh, choose_orientation
from service.geometry.plates import find_bodies, target_field, write_bodies
from service.geometry.print_bodies import clear_of
from service.geometry.progress import Progress
from service.geometry.registration_file import write_model
from service.geometry.registration_model import build_model
from service.geometry.selfcheck import check_model
from service.geometry.solid import Solid, SolidSettings, build_solid
from service.geometry.trajectories import PlanningLimits, PlanningResult, plan_trajectories
from service.imaging.series import LoadedSeries, load_series
from service.ports import Segmenter
from service.results.deviation_map import deviation_map
from service.results.pictures import directions_of, mesh_to_draw, mesh_views, slice_overlay
from service.workflow.tasks.given_plan import given_paths
from service.workflow.tasks.handed_out import handed_out_hash, write_handed_out
from service.workflow.tasks.isolate import isolate
from service.workflow.tasks.model_report import model_report
from service.workflow.tasks.packed import packed_volumes
from service.workflow.tasks.untrusted import require_confidence


def model_task(
    argument: Mapping[str, Any], progress: Progress, segmenter: Segmenter | None = None
) -> dict[str, Any]:
    """Argument: files | ct, series_uid, level, target/above/below/endplates/surface_points | mask (mask_label;
    handed_out, the file it was edited from, see `handed_out`), edits, plan, settings, case_code, out, keep_isolation (a
    folder: `kept_isolation`), dicom_seg_at (ISO time: also write mask.seg.dcm, made then).

    `segmenter`: the site's own model, asked when no mask is given (see `isolate`).

    Writes mask.nii.gz, plan.json, model.stl, report.json (design, section 4) and what printing, verifying and editing
    need: mask.seg.nrrd, mask_handed_out.nii.gz, print.stl, print.json, blocker.stl, filler.stl, outer.nii.gz,
    registration.npz, plates.npz, views.png, slices.png, deviation.png.

    Raises
    ------
    GeometryError, ImagingError, InputRefusedError : in words; nothing useful is left behind in `out` but a
        bone that is not trusted (see `untrusted`).
    """
    argument = {**argument, "level": known_level(argument["level"])}
    watch = _Watch(progress)
    out = Path(argument["out"])
    settings = dict(argument.get("settings") or {})
    watch.stage("reading the CT", 0.0, 0.05)
    ct, ct_sha256 = _read(argument, watch.inner)
    watch.stage("isolating the vertebra", 0.05, 0.5)
    hashes = {"ct_sha256": ct_sha256, **_given_hashes(argument)}
    edits = edits_from_document(argument.get("edits"))
    # What the checked mesh does not wait for runs beside it, on the other core.
    with ThreadPoolExecutor(1) as beside:
        found = isolate(argument, ct, ct_sha256, watch.inner, beside, segmenter)
        isolation = apply_edits(found, edits)
        try:
            require_confidence(isolation, float(settings.get("min_confidence", 0.5)), out, edited=bool(edits))
        except GeometryError:
            write_handed_out(found, out)
            raise
        watch.stage("planning the needle paths", 0.5, 0.55)
        planning, plan = _plan(argument, isolation, settings, ct)
        code = str(argument.get("case_code") or "")
        registration = beside.submit(build_model, ct.volume, isolation.mask)
        volumes = beside.submit(packed_volumes, isolation)
        handed_out = beside.submit(write_handed_out, found, out)
        fields = (target_field(isolation.outer, plan), *isolation.neighbours)
        bodies = beside.submit(find_bodies, ct.volume, fields)
        watch.stage("building the model", 0.55, 0.75)
        solid = build_solid(
            isolation.outer,
            plan,
            settings=SolidSettings(vent_diameter_mm=float(settings.get("vent_diameter_mm", 3.4))),
            case_code=code,
            progress=watch.inner,
        )
        pictures = beside.submit(_write_pictures, out, ct, isolation, solid, code)
        watch.stage("checking the model", 0.75, 0.87)
        check = check_model(solid.vertices, solid.faces, solid.plan, outer=isolation.outer, marks=solid.marks)
        watch.stage("print pose and files", 0.87, 0.95)
        pose = choose_orientation(solid.vertices, solid.faces, solid.plan, cavity=solid.cavity)
        _forget_earlier(out, argument)
        write_geometry(out, solid, pose)
        for name, content in volumes.result().items():
            (out / name).write_bytes(content)
        handed_out.result()
        if argument.get("dicom_seg_at"):
            # here, as highdicom costs every other run a second to load
            from service.workflow.tasks.seg_export import write_seg

            now = datetime.fromisoformat(str(argument["dicom_seg_at"]))
            write_seg(isolation.mask, ct.files, ct_sha256, isolation.level, now, out)
        watch.stage("rest of pictures and registration model", 0.95, 1.0)
        write_model(registration.result(), out / "registration.npz")
        write_bodies(bodies.result(), out / "plates.npz")
        deviation = pictures.result()
    report = model_report(
        argument,
        ct,
        isolation,
        planning,
        solid,
        check,
        pose,
        deviation=deviation,
        inputs_sha256=hashes,
        plan_sha256=_sha256(out / "plan.json"),
    ) | {"timings_s": watch.timings()}
    (out / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True), "utf-8")
    progress("done", 1.0)
    return {"passed": report["passed"], "warnings": report["warnings"], "failures": report["failures"]}


def _plan(
    argument: Mapping[str, Any], isolation: Isolation, settings: Mapping[str, Any], ct: LoadedSeries
) -> tuple[PlanningResult, Plan]:
    """Plan anew, or check again the paths of a plan edited by hand (`plan`)."""
    marks = isolation.landmarks
    limits = PlanningLimits(target=settings.get("target", "body_centre"))
    model = ModelSettings(
        shell_mm=float(settings.get("shell_mm", 2.0)),
        channel_diameter_mm=float(settings.get("channel_diameter_mm", 2.8)),
        sleeve_wall_mm=float(settings.get("sleeve_wall_mm", 2.0)),
    )
    if argument.get("plan"):
        frame = ct.volume.frame_of_reference_uid
        planning, model = given_paths(Path(argument["plan"]), isolation, frame, model, limits)
    else:
        planning = plan_trajectories(isolation.outer, marks, limits=limits)
    if not planning.trajectories:
        raise GeometryError(
            "No needle path can be planned: " + " ".join(planning.unmet),
            next_step="Plan by hand (plan.json) or choose another target.",
            code="geometry.no_path",
        )
    centre = marks.body_centre
    return planning, Plan(
        level=isolation.level,
        frame_of_reference_uid=ct.volume.frame_of_reference_uid,
        vertebra_frame=marks.frame,
        body_centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        trajectories=planning.trajectories,
        model=model,
    )


def _forget_earlier(out: Path, argument: Mapping[str, Any]) -> None:
    """What an earlier run left in `out` and this one may not write: its word about the model, its segmentation."""
    (out / "report.json").unlink(missing_ok=True)
    seg, given = out / "mask.seg.dcm", argument.get("mask")
    if not (given and Path(given).resolve() == seg.resolve()):
        seg.unlink(missing_ok=True)


def write_geometry(out: Path, solid: Solid, pose: Orientation) -> None:
    """What printing needs: plan.json, model.stl, print.stl, print.json; blocker.stl and filler.stl where there is
    something to block or fill."""
    (out / "plan.json").write_text(
        json.dumps(plan_to_document(solid.plan), indent=2, sort_keys=True), "utf-8"
    )
    write_stl(solid.vertices, solid.faces, out / "model.stl")
    (out / "print.json").write_text(json.dumps(pose.to_document(), indent=2, sort_keys=True), "utf-8")
    rods = pose.apply(blocker_mesh(solid.plan))
    parts: dict[str, Mesh] = {
        "print": pose.apply(solid.mesh),
        "blocker": between_plate_and_top(rods, pose.size_mm[2]),
        "filler": clear_of(pose.apply(solid.cavity), rods),
    }
    for name, moved in parts.items():
        # One of an earlier model must not be printed with this one.
        (out / f"{name}.stl").unlink(missing_ok=True)
        if len(moved.faces):
            write_stl(moved.vertices, moved.faces, out / f"{name}.stl")


def _write_pictures(
    out: Path, ct: LoadedSeries, isolation: Isolation, solid: Solid, code: str
) -> CtDeviation:
    """views.png, slices.png and deviation.png; returns what the last one shows."""
    title = f"{code} {isolation.level}".strip()
    drawn = mesh_to_draw(solid.mesh)
    views = mesh_views(solid.vertices, solid.faces, plan=solid.plan, title=title, drawn=drawn)
    views.save(out / "views.png")
    overlay = slice_overlay(ct.volume, isolation.landmarks.body_centre, outlines=[isolation.outer],
                            meshes=[solid.mesh], plan=solid.plan)  # fmt: skip
    overlay.save(out / "slices.png")
    deviation = deviation_from_ct(ct.volume, solid.mesh, solid.cavity, solid.plan, solid.marks)
    axes = directions_of(solid.plan.vertebra_frame)
    picture = deviation_map(drawn, deviation, axes, surface=isolation.surface, title=title)
    picture.save(out / "deviation.png")
    return deviation


def _read(argument: Mapping[str, Any], progress: Progress) -> tuple[LoadedSeries, str]:
    """The CT, and one hash over its files' contents, independent of their names and order."""
    source = [Path(f) for f in argument["files"]] if argument.get("files") else Path(argument["ct"])
    hashes: list[Future[str]] = []
    with ThreadPoolExecutor(1) as beside:
        ct = load_series(
            source,
            argument.get("series_uid") or None,
            progress=progress,
            each=lambda file: hashes.append(beside.submit(_sha256, file)),
        )
    parts = sorted(one.result() for one in hashes)
    return ct, hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _given_hashes(argument: Mapping[str, Any]) -> dict[str, str | None]:
    """Before anything is written: what was given may be a file of the output folder that this run writes anew."""
    return {
        "mask_sha256": _sha256_of(argument.get("mask")),
        "handed_out_sha256": handed_out_hash(argument),
        "plan_sha256": _sha256_of(argument.get("plan")),
    }


def _sha256_of(given: str | None) -> str | None:
    """None without a file as well: whoever reads it says what is missing."""
    return _sha256(Path(given)) if given and Path(given).is_file() else None


def _sha256(file: Path) -> str:
    """Of the file as it is, as `sha256sum` tells it."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


class _Watch:
    """Maps each stage's own progress onto the whole, and keeps the time each took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._times: dict[str, float] = {}
        self._name, self._low, self._high, self._since = "", 0.0, 0.0, time.monotonic()

    def stage(self, name: str, low: float, high: float) -> None:
        self._close()
        self._name, self._low, self._high, self._since = name, low, high, time.monotonic()
        self._progress(name, low)

    def inner(self, stage: str, fraction: float) -> None:
        self._progress(f"{self._name}: {stage}", self._low + (self._high - self._low) * fraction)

    def timings(self) -> dict[str, float]:
        self._close()
        return self._times

    def _close(self) -> None:
        if self._name:
            self._times[self._name] = round(time.monotonic() - self._since, 3)
