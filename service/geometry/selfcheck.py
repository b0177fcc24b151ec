"""The finished model measured from its mesh alone, as an inspector would: nothing of how it was made is used.

Wall by rays, channels by a fitted cylinder and a probe, hollows by a ball rolled through voxels of the mesh.
Frame: LPS mm. Limits: issue acceptance (wall, channel) and facts sheet (`vents`); all are settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Plan, Trajectory, Vent
from service.geometry.bone_outside import altered
from service.geometry.distances import Field, components, distance_to
from service.geometry.fields import Array, Grid
from service.geometry.gas_path import ball_centres, hollow_of, unreached
from service.geometry.marking import Mark
from service.geometry.mesh import Mesh, SurfaceIndex, edge_faults, surface_volumes
from service.geometry.model_check import (
    ChannelCheck,
    CheckSettings,
    ModelCheck,
    VentCheck,
    WallCheck,
    failures_of,
)
from service.geometry.parallel import in_threads
from service.geometry.raster import voxelise
from service.geometry.volume import Volume

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _View:
    """The mesh with what several measurements share."""

    mesh: Mesh
    index: SurfaceIndex
    centroids: Array
    normals: Array
    areas: Array
    grid: Grid
    hollow: Mask
    solid: Mask
    gap_mm: Field
    """Distance from the solid."""
    marks: tuple[Mark, ...]

    @cached_property
    def facing_hollow(self) -> Mask:
        """Which faces look into a hollow."""
        step = self.grid.step_mm
        near = distance_to(self.hollow, step) < 2.0 * step
        k, j, i = self.grid.indices_of(self.centroids + 0.5 * step * self.normals).T
        return np.asarray(near[k, j, i])

    def ball_centres(self, diameter_mm: float) -> Mask:
        """Where a ball may lie outside the solid."""
        return ball_centres(~self.solid, self.grid.step_mm, diameter_mm / 2.0, gap_mm=self.gap_mm)


def check_model(
    vertices: NDArray[Any],
    faces: NDArray[Any],
    plan: Plan,
    *,
    outer: Volume | None = None,
    marks: Sequence[Mark] = (),
    settings: CheckSettings | None = None,
) -> ModelCheck:
    """Measure a finished mesh against its plan.

    Parameters
    ----------
    vertices : (N, 3) LPS mm, with shared vertices (as `read_stl` returns them).
    faces : (M, 3).
    plan : the plan with its vents; the shell, channels and vents expected.
    outer : signed distance to the bone (mm, negative inside); adds the check of size, place and handedness, and
        of bone that is missing from the model.
    marks : what is written on it: left out of wall and surface, and with `outer` looked for.
    """
    settings = settings or CheckSettings()
    mesh = Mesh(np.asarray(vertices, dtype=np.float64), np.asarray(faces, dtype=np.int64))
    open_edges, flipped = edge_faults(mesh)
    _, volumes = surface_volumes(mesh)
    view = _look(mesh, plan, tuple(marks), settings)
    channels = tuple(_check_channel(view, path, plan, settings) for path in plan.trajectories)
    vent_checks, starts, labels = _check_vents(view, plan, settings)
    for path, channel in zip(plan.trajectories, channels, strict=True):
        if channel.open and channel.clear_diameter_mm >= settings.gas_ball_mm:
            starts.append(_bore(path))
    pockets = _pockets(view, starts, settings)
    sizes = np.bincount(labels.ravel())[1:] * settings.voxel_mm**3
    voids = volumes[volumes < 0]
    check = ModelCheck(
        watertight=open_edges == 0,
        winding_consistent=flipped == 0,
        bodies=int((volumes > 0).sum()),
        closed_voids=len(voids),
        closed_void_mm3=float(-voids.sum()),
        volume_ml=mesh.volume_mm3() / 1000.0,
        extents_mm=tuple(float(v) for v in np.ptp(mesh.vertices, axis=0)),  # type: ignore[arg-type]
        faces=len(mesh.faces),
        wall=_check_wall(view, plan, settings),
        channels=channels,
        vents=vent_checks,
        hollow_ml=float(view.hollow.sum()) * settings.voxel_mm**3 / 1000.0,
        cavities=int((sizes > settings.min_cavity_mm3).sum()),
        unreached_mm3=float(sum(p for p in pockets if p > settings.pocket_mm3)),
        surface_p99_mm=None if outer is None else _surface_deviation(view, plan, outer),
        missing_ml=None if outer is None else _missing_ml(view, plan, outer, settings),
        mark_relief_mm=() if outer is None else tuple(_relief(view, mark, outer) for mark in marks),
    )
    return replace(check, failures=tuple(failures_of(check, plan, settings, sizes.tolist())))


def _look(mesh: Mesh, plan: Plan, marks: tuple[Mark, ...], settings: CheckSettings) -> _View:
    step, margin = settings.voxel_mm, 4.0
    low = mesh.vertices.min(axis=0) - margin
    size = np.ceil((mesh.vertices.max(axis=0) + margin - low) / step).astype(int) + 1
    grid = Grid(low, step, (int(size[2]), int(size[1]), int(size[0])))
    solid = voxelise(mesh, low, step, grid.shape)
    widest = max([plan.model.channel_diameter_mm, *(v.diameter_mm for v in plan.model.vents)])
    # Twice: a wide seal closes vents and channels, a narrow one finds small hollows behind narrow necks.
    gap = distance_to(solid, step)
    seals = (min(widest / 2.0 + 0.4, 3.0), 0.8)
    wide, narrow = in_threads(lambda seal_mm: hollow_of(solid, step, seal_mm, gap_mm=gap), seals)
    normals, areas = mesh.normals()
    index = SurfaceIndex(mesh)
    return _View(mesh, index, mesh.centroids, normals, areas, grid, wide | narrow, solid, gap, marks)


def _axis(path: Trajectory) -> tuple[Array, Array, Array, float]:
    entry, target = np.array(path.entry), np.array(path.target)
    length = float(np.linalg.norm(target - entry))
    return entry, target, (target - entry) / length, length


def _across(axis: Array) -> tuple[Array, Array]:
    """Two unit vectors square to a unit axis and to each other."""
    u = np.cross(axis, np.eye(3)[int(np.argmin(np.abs(axis)))])
    u = u / np.linalg.norm(u)
    return u, np.cross(axis, u)


def _bore(path: Trajectory) -> Array:
    """Points on the axis from the entry to where a ball stops before the tip."""
    entry, _, axis, length = _axis(path)
    return np.asarray(entry + np.arange(0.0, length - 1.3, 0.2)[:, None] * axis)


def _check_channel(view: _View, path: Trajectory, plan: Plan, settings: CheckSettings) -> ChannelCheck:
    entry, _, axis, length = _axis(path)
    along = np.arange(-10.0, length - plan.model.channel_diameter_mm / 2.0, 0.2)
    clear = 2.0 * float(view.index.distance(entry + along[:, None] * axis).min())
    depth = _depth_error(view, entry, axis, length)
    fit = _fit_cylinder(view, path, plan.model.channel_diameter_mm / 2.0)
    is_open = clear >= settings.needle_diameter_mm and depth is not None and abs(depth) < length / 4
    offset, angle, diameter = fit or (None, None, None)
    return ChannelCheck(path.pedicle, offset, angle, diameter, clear, depth, is_open)


def _depth_error(view: _View, entry: Array, axis: Array, length: float) -> float | None:
    """Where a probe pushed down the channel stops, beyond (+) or short of (-) the target; None = never.

    Seven parallel rays at irregular places and their median: a ray may slip through the edge of two triangles.
    """
    u, v = _across(axis)
    turn, off = 0.37 + 2.4 * np.arange(7), 0.15 + 0.031 * np.arange(7)
    starts = entry - 10.0 * axis + (off * np.cos(turn))[:, None] * u + (off * np.sin(turn))[:, None] * v
    hits = view.index.first_hit(starts, np.tile(axis, (len(starts), 1)))[1]
    middle = float(np.median(hits))
    return middle - 10.0 - length if np.isfinite(middle) else None


def _fit_cylinder(view: _View, path: Trajectory, radius: float) -> tuple[float, float, float] | None:
    """Least-squares cylinder through the channel wall: (axis offset mm, axis angle °, diameter mm)."""
    entry, _, axis, length = _axis(path)
    u, v = _across(axis)
    offset = view.centroids - entry
    along, radial = offset @ axis, np.stack([offset @ u, offset @ v], axis=1)
    distance = np.linalg.norm(radial, axis=1)
    inward = -(view.normals @ np.stack([u, v], axis=1) * radial).sum(axis=1) / np.maximum(distance, 1e-9)
    wall = (np.abs(distance - radius) < 0.45) & (inward > 0.95) & (along > 3.0) & (along < length - 1.0)
    corners = np.unique(view.mesh.faces[wall])
    offset = view.mesh.vertices[corners] - entry
    t, a, b = offset @ axis, offset @ u, offset @ v
    keep = (np.abs(np.hypot(a, b) - radius) < 0.45) & (t > 2.5) & (t < length - 0.8)
    if keep.sum() < 30 or np.ptp(t[keep]) < 5.0:
        return None
    t, a, b = t[keep], a[keep], b[keep]
    x = np.array([0.0, 0.0, 0.0, 0.0, radius])
    for _ in range(8):
        da, db = a - x[0] - x[2] * t, b - x[1] - x[3] * t
        rho = np.hypot(da, db)
        jacobian = np.stack([-da / rho, -db / rho, -da * t / rho, -db * t / rho, -np.ones_like(t)], axis=1)
        x = x - np.linalg.lstsq(jacobian, rho - x[4], rcond=None)[0]
    ends = np.array([np.hypot(x[0] + x[2] * s, x[1] + x[3] * s) for s in (0.0, length)])
    return float(ends.max()), float(np.degrees(np.arctan(np.hypot(x[2], x[3])))), float(2.0 * x[4])


def _check_vents(
    view: _View, plan: Plan, settings: CheckSettings
) -> tuple[tuple[VentCheck, ...], list[Array], NDArray[np.uint32]]:
    """Vents measured, the axis points of those a ball passes, and the numbered cavities."""
    labels, _ = components(view.hollow & view.ball_centres(settings.gas_ball_mm))
    sizes = np.bincount(labels.ravel())
    found, starts = [], []
    for vent in plan.model.vents:
        check, points = _check_vent(view, vent, labels, sizes)
        found.append(check)
        if check.reaches_hollow and check.diameter_mm >= settings.gas_ball_mm:
            starts.append(points)
    return tuple(found), starts, labels


def _check_vent(
    view: _View, vent: Vent, labels: NDArray[np.uint32], sizes: NDArray[np.int64]
) -> tuple[VentCheck, Array]:
    depths = np.arange(-3.0, 14.0, 0.1)
    points = np.array(vent.position) - depths[:, None] * np.array(vent.direction)
    k, j, i = view.grid.indices_of(points).T
    rooms = labels[k, j, i]
    # A line that begins in the hollow goes through no wall: its outer end must lie in the open air.
    in_air = not view.hollow[k[0], j[0], i[0]]
    free = (np.cumsum(view.solid[k, j, i]) == 0) & in_air
    arrived = np.flatnonzero((rooms > 0) & free)
    bore = points[: arrived[0] + 1] if len(arrived) else points
    diameter = 2.0 * float(view.index.distance(bore).min()) if len(arrived) else 0.0
    # Just behind the wall the voxels can cut a corner of the room off: the largest room on the free line counts.
    room = max((int(r) for r in rooms[arrived]), key=lambda r: sizes[r], default=0)
    return VentCheck(diameter, bool(len(arrived)), room), bore


def _pockets(view: _View, starts: list[Array], settings: CheckSettings) -> list[float]:
    """Hollow parts the ball does not reach, rolling from outside and through openings measured on the mesh.

    The openings are followed on the mesh itself, because voxels are too coarse to tell 3.0 from 2.4 mm.
    """
    step, radius = settings.voxel_mm, settings.gas_ball_mm / 2.0
    labels, count = components(view.ball_centres(settings.gas_ball_mm))
    reached = np.zeros(count + 1, dtype=bool)
    reached[labels[0, 0, 0]] = True
    passages = np.zeros(view.grid.shape, dtype=bool)
    for points in starts:
        k, j, i = view.grid.indices_of(points).T
        reached[np.unique(labels[k, j, i])] = True
        passages[k, j, i] = True
    reached[0] = False
    return unreached(view.hollow, reached[labels] | passages, step, radius + 1.5)


def _set_apart(view: _View, plan: Plan, margin_mm: float, *, sleeve: bool) -> Mask:
    """Faces near an opening or in a mark."""
    return altered(view.centroids, plan, view.marks, margin_mm, sleeve=sleeve)


def _sampled(view: _View, choice: Mask, count: int) -> NDArray[np.int64]:
    """Faces drawn evenly by area (systematic sampling, no random numbers)."""
    faces = np.flatnonzero(choice)
    if len(faces) == 0:
        return faces
    total = np.cumsum(view.areas[faces])
    marks = (np.arange(count) + 0.5) / count * total[-1]
    return np.asarray(faces[np.searchsorted(total, marks)])


def _check_wall(view: _View, plan: Plan, settings: CheckSettings) -> WallCheck:
    shell = plan.model.shell_mm
    inner = view.facing_hollow
    from_inside = _sampled(view, inner & ~_set_apart(view, plan, 1.0, sleeve=True), settings.rays)
    from_outside = _sampled(view, ~inner & ~_set_apart(view, plan, 1.0, sleeve=False), settings.rays)
    hit, wall = _thickness(view, from_inside)
    wall = wall[~inner[hit]]
    outside = _thickness(view, from_outside)[1]
    thin = float((outside < settings.min_feature_mm).mean()) if len(outside) else 0.0
    # Where a crevice was made solid for the gas path the wall is thick on purpose; that share is told apart.
    even = wall[wall < shell + settings.thicker_mm]
    if len(even) < 50:
        return WallCheck(None, None, None, None, 1.0 if len(wall) else 0.0, thin, len(wall))
    return WallCheck(
        mean_mm=float(even.mean()),
        sd_mm=float(even.std()),
        p1_mm=float(np.percentile(wall, 1)),
        min_mm=float(wall.min()),
        thicker_share=float(1.0 - len(even) / len(wall)),
        thin_share=thin,
        samples=len(wall),
    )


def _thickness(view: _View, faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array]:
    """Length of the ray from each face's centre through the material to the other side."""
    if len(faces) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    inward = -view.normals[faces]
    hit, t = view.index.first_hit(view.centroids[faces] + 1e-3 * inward, inward)
    found = hit >= 0
    return hit[found], t[found] + 1e-3


def _surface_deviation(view: _View, plan: Plan, outer: Volume) -> float:
    """99th percentile of the distance between the model's outside and the bone surface, mm."""
    centroids = view.centroids
    outside = ~view.facing_hollow & ~_set_apart(view, plan, 1.0, sleeve=False)
    faces = _sampled(view, outside, 20000)
    if len(faces) == 0:
        return float("inf")
    return float(np.percentile(np.abs(outer.sample(centroids[faces], order=1, outside=8.0)), 99))


def _missing_ml(view: _View, plan: Plan, outer: Volume, settings: CheckSettings) -> float:
    """Volume of the bone that lies neither near the model's material nor around its hollow.

    The deviation above is asked of what the model has, so it cannot see what the model lacks: this asks the bone.
    """
    points = outer.to_lps(np.argwhere(outer.values < 0)[:, ::-1])
    k, j, i = view.grid.indices_of(points).T  # off the grid: its edge, which is as far from the model
    far = points[(view.gap_mm[k, j, i] > settings.missing_reach_mm) & ~view.hollow[k, j, i]]
    missing = ~altered(far, plan, view.marks, 1.0, sleeve=True)
    return float(missing.sum()) * outer.voxel_ml


def _relief(view: _View, mark: Mark, outer: Volume) -> float:
    """How far the strokes of a mark stand out of the bone surface where a ray from outside meets them, median, mm."""
    middles = np.array([(start + end) / 2.0 for start, end in mark.strokes()])
    axes = np.array([mark.reading, mark.up])
    outward = np.array(mark.outward)
    starts = np.array(mark.centre) + middles @ axes + 30.0 * outward
    hit, t = view.index.first_hit(starts, np.tile(-outward, (len(starts), 1)))
    if not (hit >= 0).any():
        return 0.0
    met = starts[hit >= 0] - t[hit >= 0, None] * outward
    return float(np.median(outer.sample(met, order=1, outside=8.0)))
