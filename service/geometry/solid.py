"""The printable solid: hollow shell, guiding sleeves, needle channels and vents from one distance field.

Sleeves are united before, channels subtracted after everything else, and the surface is extracted once, so that
no mesh boolean is needed and the wall is the shell thickness everywhere (offset by exact distance).
Frame: patient LPS, mm. The same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.domain.plan import Plan, Trajectory, Vent
from service.errors import GeometryError
from service.geometry import vents as openings
from service.geometry.distances import components, distance_to
from service.geometry.fields import (
    Array,
    Bone,
    Field,
    Primitive,
    capsule,
    cylinder,
    off_zero,
    prepare_bone,
    subtract,
)
from service.geometry.lost_bone import LostPiece, lost_pieces
from service.geometry.marking import Mark, choose_marks, raise_marks
from service.geometry.mesh import Ints, Mesh, largest_body, mesh_of_field, simplify, submesh, surface_volumes
from service.geometry.progress import Progress, silent
from service.geometry.volume import Volume


@dataclass(frozen=True)
class SolidSettings:
    """How the solid is made; what it is to be (shell, channel, sleeve) stands in `plan.model`."""

    grid_mm: float = 0.4
    """Working grid; at 0.4 mm the wall was 2.00 mm within 0.01 mm (reference measurements)."""
    simplify_mm: float = 0.02
    """Largest movement of the surface when faces are merged."""
    min_feature_mm: float = 0.8
    """Two lines of the 0.4 mm nozzle; thinner spikes are left out."""
    gas_ball_mm: float = 2.5
    """Diameter of the ball that must reach every hollow (proposal of the facts sheet)."""
    vent_diameter_mm: float = 3.4
    """3.0 mm asked by the facts sheet plus what a printed hole loses (0.1-0.3 mm) and a margin."""
    openings_per_cavity: int = 2
    min_compartment_ml: float = 2.0
    """Hollows smaller than this (arch, processes) are made solid rather than drilled: two vents would cost more
    anatomy than the plastic is worth."""
    lost_piece_ml: float = 0.05
    """Bone left out of the model is told piece by piece from here on; a piece this large is kept by a thin neck."""
    lost_limit_ml: float = 0.5
    """More bone left out than this, and the model is not to be printed."""
    tip_slot_diameter_mm: float = 3.2
    """Cross holes through the sleeve just before the tip; 0 leaves the channel blind."""


@dataclass(frozen=True, eq=False)
class Solid:
    """The model. Vertices (N, 3) float64 LPS mm (rounded to float32), faces (M, 3) int64 seen from outside."""

    plan: Plan
    """As given, with the chosen vents filled in."""
    vertices: Array
    faces: Ints
    outer_vertices: Array
    outer_faces: Ints
    """Outer bone surface before hollowing."""
    cavity_vertices: Array
    cavity_faces: Ints
    """Closed inner surface, outward winding, for the slicer's filler; empty when nothing is hollow."""
    measures: dict[str, float]
    marks: tuple[Mark, ...] = ()
    """What is written on it; empty without a case code, or where no wall had room."""
    lost: tuple[LostPiece, ...] = ()
    """Bone that is not in the model, in pieces of at least `lost_piece_ml`, the largest first."""

    @property
    def mesh(self) -> Mesh:
        return Mesh(self.vertices, self.faces)

    @property
    def cavity(self) -> Mesh:
        return Mesh(self.cavity_vertices, self.cavity_faces)


def build_solid(
    outer: Volume,
    plan: Plan,
    *,
    settings: SolidSettings | None = None,
    case_code: str = "",
    progress: Progress = silent,
) -> Solid:
    """Make the printable model of one vertebra.

    Parameters
    ----------
    outer : signed distance to the outer bone surface, mm, negative inside (`Isolation.outer`).
    plan : trajectories and model settings; vents that are given are used, missing ones are chosen.
    case_code : raised on the side walls of the body with the side and an arrow up (`marking`); empty: no mark.

    Raises
    ------
    GeometryError
        No bone, bone cut off by the volume, a path that does not lie in the bone, a vent off its surface or that
        opens nothing.
    """
    settings = settings or SolidSettings()
    _check_model(plan)
    progress("outer surface", 0.0)
    bone = prepare_bone(
        outer,
        step_mm=settings.grid_mm,
        shell_mm=plan.model.shell_mm,
        min_feature_mm=settings.min_feature_mm,
        body_ml=settings.lost_piece_ml,
    )
    _check_paths(bone, plan)
    openings.require_on_surface(bone, plan.model.vents)
    progress("hollow and vents", 0.5)
    hollow = _hollow_out(bone, plan, settings)
    progress("channels", 0.65)
    finished = replace(plan, model=replace(plan.model, vents=hollow.vents))
    marks = choose_marks(bone, finished, case_code)
    part = np.maximum(bone.field, -hollow.field)
    raise_marks(part, bone, marks)
    for shape in (*hollow.holes, *(channel_shape(bone, path, plan) for path in plan.trajectories)):
        subtract(part, bone.grid, shape)
    filled_mm3, islands = _tidy(part, settings.grid_mm)
    lost = bone.lost | islands
    progress("surfaces of the model and its hollow", 0.75)
    with ThreadPoolExecutor(1) as beside:
        inner = beside.submit(_cavity_mesh, hollow.field, bone, settings)
        final = _part_mesh(part, bone, settings)
        cavity = inner.result()
    progress("solid done", 1.0)
    return Solid(
        plan=finished,
        vertices=final.vertices,
        faces=final.faces,
        outer_vertices=bone.mesh.vertices,
        outer_faces=bone.mesh.faces,
        cavity_vertices=cavity.vertices,
        cavity_faces=cavity.faces,
        marks=marks,
        lost=lost_pieces(lost, bone.grid.origin, settings.grid_mm, settings.lost_piece_ml),
        measures={
            "bone_ml": round(bone.mesh.volume_mm3() / 1000.0, 4),
            "part_ml": round(final.volume_mm3() / 1000.0, 4),
            "hollow_ml": round(hollow.kept_ml, 4),
            "made_solid_ml": round(hollow.made_solid_ml, 4),
            "compartments": float(hollow.compartments),
            "vents": float(len(hollow.vents)),
            "tip_slots": float(len(hollow.holes) - len(hollow.vents)),
            "pockets_filled_mm3": round(filled_mm3, 4),
            "dropped_ml": round(float(lost.sum()) * settings.grid_mm**3 / 1000.0, 4),
            "thin_necks_kept": float(bone.thin_necks),
            "faces": float(len(final.faces)),
        },
    )


@dataclass(frozen=True, eq=False)
class _Hollow:
    field: Field
    """Negative in the hollow, sleeves and closed compartments taken out."""
    vents: tuple[Vent, ...]
    holes: tuple[Primitive, ...]
    """Vents first, then tip slots."""
    kept_ml: float
    made_solid_ml: float
    compartments: int


def _hollow_out(bone: Bone, plan: Plan, settings: SolidSettings) -> _Hollow:
    """Cavity = deeper than the shell, minus the sleeves, minus what gas cannot reach."""
    grid = bone.grid
    cavity = np.asarray(bone.field + np.float32(plan.model.shell_mm))
    for path in plan.trajectories:
        subtract(cavity, grid, sleeve_shape(path, plan))
    total_ml = float((cavity < 0).sum()) * settings.grid_mm**3 / 1000.0
    # The builder's ball is larger than the one that checks, so that meshing and voxels cannot turn a pass to a fail.
    ball_mm, slack_mm = settings.gas_ball_mm / 2.0 + 0.3, 1.1
    rooms = openings.find_compartments(cavity, grid, ball_radius_mm=ball_mm, slack_mm=slack_mm)
    kept = np.zeros(grid.shape, dtype=bool)
    vents: list[Vent] = []
    holes: list[Primitive] = []
    given_used: set[int] = set()
    count = 0
    for room in rooms:
        own, shapes = _open_room(bone, plan, room, cavity, settings, given_used)
        if len(own) >= settings.openings_per_cavity:
            vents.extend(own)
            holes.extend(shapes)
            kept |= room.centres
            count += 1
    for number, vent in enumerate(plan.model.vents):
        if number not in given_used or vent not in vents:
            raise openings.refuse_useless_vent(number + 1)
    if count == 0:
        return _Hollow(np.full(grid.shape, 5.0, dtype=np.float32), (), (), 0.0, total_ml, 0)
    # Smoothed, since the distance to single voxels would leave a knobbly surface inside.
    reach = ndimage.gaussian_filter(distance_to(kept, settings.grid_mm), 1.5) - np.float32(ball_mm + slack_mm)
    cavity = np.maximum(cavity, reach)
    kept_ml = float((cavity < 0).sum()) * settings.grid_mm**3 / 1000.0
    if settings.tip_slot_diameter_mm > 0:
        for path in plan.trajectories:
            holes.extend(
                openings.tip_slots(path, plan, kept, grid, diameter_mm=settings.tip_slot_diameter_mm)
            )
    return _Hollow(cavity, tuple(vents), tuple(holes), kept_ml, total_ml - kept_ml, count)


def _open_room(
    bone: Bone,
    plan: Plan,
    room: openings.Compartment,
    cavity: Field,
    settings: SolidSettings,
    given_used: set[int],
) -> tuple[list[Vent], list[Primitive]]:
    """The vents of one room (those of the plan first) and their shapes; nothing for a room to be made solid."""
    own: list[Vent] = []
    ends: list[Array] = []
    for number, vent in enumerate(plan.model.vents):
        end = openings.inner_end_of(vent, room.centres, bone.grid)
        if end is not None and number not in given_used:
            given_used.add(number)
            own.append(vent)
            ends.append(end)
    if not own and room.volume_ml < settings.min_compartment_ml:
        return [], []
    places = openings.wide_enough(room, cavity, bone.grid, settings.vent_diameter_mm)
    if len(own) < settings.openings_per_cavity:
        added = openings.choose_vents(
            bone,
            plan,
            places,
            diameter_mm=settings.vent_diameter_mm,
            count=settings.openings_per_cavity,
            existing=tuple(own),
        )
        own.extend(added)
    shapes = []
    for vent in own:
        end = openings.inner_end_of(vent, places, bone.grid)
        if end is None:
            end = openings.inner_end_of(vent, room.centres, bone.grid)
        if end is not None:
            shapes.append(openings.vent_shape(vent, end))
    return own, shapes


def sleeve_shape(path: Trajectory, plan: Plan) -> Primitive:
    """Guiding sleeve around one needle path; closed beyond the tip."""
    radius = plan.model.channel_diameter_mm / 2.0 + plan.model.sleeve_wall_mm
    return capsule(np.array(path.entry), np.array(path.target), radius)


def channel_shape(bone: Bone, path: Trajectory, plan: Plan) -> Primitive:
    """Needle channel from outside the entry to a flat end at the target: the tip touches where it is planned."""
    radius = plan.model.channel_diameter_mm / 2.0
    entry, target = np.array(path.entry), np.array(path.target)
    axis = (target - entry) / np.linalg.norm(target - entry)
    away = np.arange(0.5, 15.0, 0.25)
    clear = np.flatnonzero(bone_distance(bone, entry - away[:, None] * axis) > radius + 0.4)
    outside = float(away[clear[0]]) if len(clear) else 15.0
    return cylinder(entry - (outside + 0.5) * axis, target, radius)


def bone_distance(bone: Bone, points: Array) -> Array:
    """Signed distance of (N, 3) LPS points to the outer surface, (N,) mm, to about a voxel; +10 off the grid."""
    inside_grid = np.all(
        (points >= bone.grid.origin)
        & (points <= bone.grid.origin + (np.array(bone.grid.shape[::-1]) - 1) * bone.grid.step_mm),
        axis=1,
    )
    k, j, i = bone.grid.indices_of(points).T
    return np.asarray(np.where(inside_grid, bone.field[k, j, i], 10.0), dtype=np.float64)


def _tidy(part: Field, step_mm: float) -> tuple[float, NDArray[np.bool_]]:
    """Fill pockets without a way out and drop islands, in place; returns the filled mm³ and what was dropped."""
    labels, count = components(part >= 0)
    filled = np.zeros(1)
    if count > 1:
        closed = (labels > 0) & (labels != labels[0, 0, 0])
        filled = np.array([closed.sum()])
        part[closed] = -step_mm / 2.0
    labels, count = components(part < 0)
    islands = np.zeros(part.shape, dtype=bool)
    if count > 1:
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        islands = (labels > 0) & (labels != 1 + int(np.argmax(sizes)))
        part[islands] = step_mm / 2.0
    off_zero(part)
    return float(filled[0]) * step_mm**3, islands


def _part_mesh(part: Field, bone: Bone, settings: SolidSettings) -> Mesh:
    mesh = largest_body(mesh_of_field(part, bone.grid.origin, settings.grid_mm))
    return simplify(mesh, settings.simplify_mm)


def _cavity_mesh(hollow: Field, bone: Bone, settings: SolidSettings, min_mm3: float = 10.0) -> Mesh:
    field = hollow.copy()
    off_zero(field)
    if not (field < 0).any():
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    mesh = mesh_of_field(field, bone.grid.origin, settings.grid_mm)
    of_face, volumes = surface_volumes(mesh)
    # A surface with negative volume is a sleeve standing free in the hollow: it belongs to the filler's boundary.
    return simplify(submesh(mesh, (np.abs(volumes) >= min_mm3)[of_face]), settings.simplify_mm)


def _check_model(plan: Plan) -> None:
    model = plan.model
    faults: Sequence[str] = [
        f"{name} is {value:g} mm, allowed are {low:g} to {high:g} mm"
        for name, value, low, high in (
            ("shell", model.shell_mm, 0.8, 6.0),
            ("channel diameter", model.channel_diameter_mm, 1.0, 8.0),
            ("sleeve wall", model.sleeve_wall_mm, 0.8, 6.0),
        )
        if not low <= value <= high
    ]
    if faults:
        raise GeometryError(
            f"The model settings cannot be printed: {'; '.join(faults)}.",
            next_step="Correct `model` in plan.json.",
            code="geometry.model_settings",
        )


def _check_paths(bone: Bone, plan: Plan) -> None:
    for path in plan.trajectories:
        ends = np.array([path.entry, path.target])
        at_entry, at_target = bone_distance(bone, ends)
        if at_target > -1.0 or abs(at_entry) > 6.0 or np.linalg.norm(ends[1] - ends[0]) < 5.0:
            raise GeometryError(
                f"The {path.pedicle} needle path does not lead from the bone surface into the bone.",
                next_step="Plan this path again: the entry lies on the outer surface, the target inside the body.",
                code="geometry.path",
                details={
                    "pedicle": path.pedicle,
                    "entry_to_surface_mm": round(float(at_entry), 2),
                    "target_depth_mm": round(-float(at_target), 2),
                },
            )
