"""Anatomical frame and landmarks of one vertebra, read off its outer surface.

Frame (facts sheet, section 3): `superior` is the mean of the endplate normals, `left` joins the pedicle
centres perpendicular to it, `anterior = cross(left, superior)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.domain.plan import Vec3, VertebraFrame
from service.errors import GeometryError
from service.geometry.anatomy import Endplate, Landmarks, Pedicle
from service.geometry.angles import frame_axes, unit
from service.geometry.mesh_grid import signed_edt
from service.geometry.volume import Volume

Array = NDArray[np.float64]
Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LandmarkSettings:
    """Limits of plausibility; ours, from adult anatomy T8-L5."""

    grid_mm: float = 0.75
    half_mm: tuple[float, float, float] = (60.0, 80.0, 45.0)
    """Half size of the working box along left, posterior, superior."""
    min_canal_mm2: float = 40.0
    max_endplate_tilt_deg: float = 28.0
    max_endplate_rms_mm: float = 1.8
    frame_iterations: int = 4
    pedicle_iterations: int = 3


@dataclass(frozen=True, eq=False)
class _Local:
    """The outer field resampled along a trial frame; index (z, y, x) = (superior, posterior, left)."""

    field: Grid
    origin: Array
    axes: Array
    """(3, 3) columns left, posterior, superior."""
    step: float

    @property
    def middle(self) -> Array:
        return (np.array(self.field.shape[::-1]) - 1) / 2

    def lps(self, xyz_mm: Array) -> Array:
        """Local mm (left, posterior, superior) -> LPS mm."""
        return np.asarray(self.origin + xyz_mm @ self.axes.T)

    def mm(self, axis: int, index: NDArray[np.intp] | Array) -> Array:
        """Index along local axis 0 left, 1 posterior, 2 superior -> mm."""
        return np.asarray((np.asarray(index, dtype=np.float64) - self.middle[axis]) * self.step)

    def index(self, axis: int, mm: float) -> int:
        return int(np.clip(round(mm / self.step + self.middle[axis]), 0, self.field.shape[2 - axis] - 1))


@dataclass(frozen=True, eq=False)
class _Canal:
    x: float
    front: float
    back: float
    half_width: float


@dataclass(frozen=True, eq=False)
class _Plane:
    centre: Array
    normal: Array
    rms: float


def find_landmarks(
    outer: Volume,
    level: str,
    axes: Array | None = None,
    *,
    settings: LandmarkSettings | None = None,
) -> Landmarks:
    """Landmarks of the vertebra in `outer` (signed distance, mm, negative inside).

    Parameters
    ----------
    axes : (3, 3) columns left, posterior, superior (LPS), a first guess; the patient's axes when None.

    Raises
    ------
    GeometryError
        When no body with a canal behind it can be seen (`geometry.landmarks`).
    """
    use = settings or LandmarkSettings()
    trial = np.eye(3) if axes is None else np.asarray(axes, dtype=np.float64)
    centre = _deep_centre(outer)
    # The field is asked no farther than in the cells that the surface passes: 2 mm is more than their diagonal.
    outer = outer.crop_around(outer.values < 0, 2.0)
    for _ in range(use.frame_iterations):
        local = _resample(outer, centre, trial, use)
        canal = _canal(local, use, level)
        body = _body(local, canal)
        upper, lower = _endplates(local, canal, body)
        centre, trial = _next_frame(local, canal, body, upper, lower, use)
    # The isthmus is sought in coronal slices of the frame, and the frame is turned by the isthmuses found.
    for _ in range(use.pedicle_iterations):
        local = _resample(outer, centre, trial, use)
        canal = _canal(local, use, level)
        pedicles = tuple(p for p in (_pedicle(local, canal, s) for s in (1, -1)) if p is not None)
        if len(pedicles) < 2:
            break
        left, anterior, superior = frame_axes(pedicles[0].centre - pedicles[1].centre, trial[:, 2])
        trial = np.column_stack([left, -anterior, superior])
    return _assemble(_resample(outer, centre, trial, use), canal, pedicles, use)


def _assemble(
    local: _Local, canal: _Canal, pedicles: tuple[Pedicle, ...], use: LandmarkSettings
) -> Landmarks:
    body = _body(local, canal)
    upper, lower = _endplates(local, canal, body)
    superior = local.axes[:, 2]
    heights = [float((p.centre - local.origin) @ superior) for p in pedicles]
    canal_point = np.array([canal.x, 0.5 * (canal.front + canal.back), float(np.mean(heights or [0.0]))])
    centre = _body_centre(local, canal, body)
    return Landmarks(
        frame=VertebraFrame(
            origin=_vec(centre),
            left=_vec(local.axes[:, 0]),
            anterior=_vec(-local.axes[:, 1]),
            superior=_vec(superior),
        ),
        body_centre=centre,
        upper_endplate=_endplate(local, upper, use),
        lower_endplate=_endplate(local, lower, use),
        pedicles=pedicles,
        canal_centre=local.lps(canal_point),
        height_mm=_heights(local, body),
    )


def _vec(v: Array) -> Vec3:
    return float(v[0]), float(v[1]), float(v[2])


def _deep_centre(outer: Volume) -> Array:
    """Centroid of what is deeper than 0.6 of the greatest depth: the middle of the body."""
    every = max(1, round(1.0 / min(outer.spacing_mm)))
    solid = np.pad(outer.values[::every, ::every, ::every] < 0, 1)
    if not solid.any():
        raise GeometryError("The bone surface is empty.", code="geometry.landmarks")
    spacing = tuple(s * every for s in outer.spacing_mm[::-1])
    depth = -signed_edt(solid, spacing)
    index = (np.argwhere(depth > 0.6 * depth.max()).mean(axis=0) - 1)[::-1] * every
    return np.asarray(outer.to_lps(index[None])[0])


def _resample(outer: Volume, centre: Array, axes: Array, use: LandmarkSettings) -> _Local:
    half = np.round(np.array(use.half_mm) / use.grid_mm).astype(int)
    start = centre - axes @ (half * use.grid_mm)
    shape = tuple(int(v) for v in (2 * half + 1)[::-1])
    far = float(outer.values.max())
    values = np.full(shape, far, dtype=np.float32)
    # Only where the field is known there is anything to compute: a third of the box.
    edge = outer.to_lps(np.array(list(product(*((0, n - 1) for n in outer.values.shape[::-1])))))
    index = (edge - start) @ axes / use.grid_mm
    low = np.clip(np.floor(index.min(axis=0)), 0, shape[::-1]).astype(int)
    high = np.clip(np.ceil(index.max(axis=0)) + 1, low, shape[::-1]).astype(int)
    size = tuple(int(n) for n in (high - low)[::-1])
    if min(size) > 0:
        part = outer.resampled(
            start + axes @ (low * use.grid_mm), axes * use.grid_mm, (size[0], size[1], size[2]), outside=far
        )
        values[low[2] : high[2], low[1] : high[1], low[0] : high[0]] = part.values
    return _Local(values, centre, axes, use.grid_mm)


def _canal(local: _Local, use: LandmarkSettings, level: str) -> _Canal:
    """The hole behind the body that stays open looking along the superior axis."""
    low, high = local.index(2, -14.0), local.index(2, 22.0)
    shadow = np.asarray((local.field[low:high] < 0).any(axis=0), dtype=np.bool_)
    holes = ndimage.binary_fill_holes(shadow) & ~shadow
    labels, count = ndimage.label(holes)
    best: tuple[float, NDArray[np.intp]] | None = None
    for number in range(1, count + 1):
        at = np.argwhere(labels == number)
        y, x = local.mm(1, at[:, 0]).mean(), local.mm(0, at[:, 1]).mean()
        area = len(at) * local.step**2
        if (
            y > 5.0
            and y < 55.0
            and abs(x) < 20.0
            and area >= use.min_canal_mm2
            and (best is None or area > best[0])
        ):
            best = (area, at)
    if best is None:
        raise GeometryError(
            f"No spinal canal closed by an arch is seen in the isolated {level}.",
            next_step="Look at the isolated bone: move the seeds, or give a mask that holds body and arch.",
            code="geometry.landmarks",
        )
    y, x = local.mm(1, best[1][:, 0]), local.mm(0, best[1][:, 1])
    middle = float(x.mean())
    central = np.abs(x - middle) < 3.0
    return _Canal(middle, float(y[central].min()), float(y[central].max()), float(np.ptp(x) / 2))


def _body(local: _Local, canal: _Canal) -> Mask:
    """Footprint (Y, X) of the body at mid-height, in front of the canal."""
    low, high = local.index(2, -1.5), local.index(2, 1.5)
    section = (local.field[low : high + 1] < 0).mean(axis=0) > 0.5
    section &= (local.mm(1, np.arange(section.shape[0])) < canal.front)[:, None]
    opened = ndimage.binary_opening(section, iterations=max(1, round(2.0 / local.step)))
    labels, _ = ndimage.label(opened)
    here = labels[local.index(1, 0.0), local.index(0, 0.0)]
    if here == 0:
        raise GeometryError(
            "The vertebral body is not where the deepest bone is.",
            next_step="Look at the isolated bone; move the seeds or give a mask.",
            code="geometry.landmarks",
        )
    return np.asarray(labels == here)


def _exits(local: _Local, columns: NDArray[np.intp], direction: int) -> Array:
    """Local z (mm) at which columns (N, 2) of (y, x) leave the bone going up (+1) or down (-1); NaN if never."""
    start = local.index(2, 0.0)
    line = local.field[start:] if direction > 0 else local.field[start::-1]
    values = line[:, columns[:, 0], columns[:, 1]]
    out = values > 0
    first = np.argmax(out, axis=0)
    ok = out.any(axis=0) & (first > 0)
    column = np.arange(len(columns))
    a, b = values[np.maximum(first - 1, 0), column], values[first, column]
    reached = (first - 1 + a / np.minimum(a - b, -1e-6)) * local.step
    return np.where(ok, direction * reached, np.nan)


def _endplates(local: _Local, canal: _Canal, body: Mask) -> tuple[_Plane, _Plane]:
    inner = ndimage.binary_erosion(body, iterations=max(1, round(3.5 / local.step)))
    columns = np.argwhere(inner)
    x, y = local.mm(0, columns[:, 1]), local.mm(1, columns[:, 0])
    return tuple(_fit_plane(x, y, _exits(local, columns, d)) for d in (1, -1))  # type: ignore[return-value]


def _fit_plane(x: Array, y: Array, z: Array) -> _Plane:
    """Plane z = a + b x + c y by least squares with Tukey weights (rims and pits do not count)."""
    good = np.isfinite(z) & (np.abs(z) < 28.0)
    if good.sum() < 30:
        raise GeometryError(
            "An endplate of the vertebra cannot be seen.",
            next_step="Look at the isolated bone; move the seeds or give a mask.",
            code="geometry.landmarks",
        )
    x, y, z = x[good], y[good], z[good]
    design = np.column_stack([np.ones_like(x), x, y])
    weight = np.ones_like(x)
    solution = np.zeros(3)
    residual = z - np.median(z)
    for _ in range(12):
        root = np.sqrt(weight)
        solution = np.linalg.lstsq(design * root[:, None], z * root, rcond=None)[0]
        residual = z - design @ solution
        scale = max(1.4826 * float(np.median(np.abs(residual))), 0.2)
        weight = np.clip(1 - (residual / (4.685 * scale)) ** 2, 0, None) ** 2
    centre = np.array([x.mean(), y.mean(), solution @ [1.0, x.mean(), y.mean()]])
    rms = float(np.sqrt(np.average(residual**2, weights=np.maximum(weight, 1e-9))))
    return _Plane(centre, unit([-solution[1], -solution[2], 1.0]), rms)


def _trusted(plane: _Plane, use: LandmarkSettings) -> bool:
    tilt = np.degrees(np.arccos(np.clip(plane.normal[2], -1, 1)))
    return bool(tilt < use.max_endplate_tilt_deg and plane.rms < use.max_endplate_rms_mm)


def _next_frame(
    local: _Local, canal: _Canal, body: Mask, upper: _Plane, lower: _Plane, use: LandmarkSettings
) -> tuple[Array, Array]:
    normals = [p.normal for p in (upper, lower) if _trusted(p, use)] or [np.array([0.0, 0.0, 1.0])]
    superior = local.axes @ unit(np.sum(normals, axis=0))
    centre = _body_centre(local, canal, body)
    behind = local.lps(np.array([canal.x, 0.5 * (canal.front + canal.back), 0.0]))
    forward = centre - behind
    left, anterior, superior = frame_axes(np.cross(superior, forward), superior)
    return centre, np.column_stack([left, -anterior, superior])


def _body_centre(local: _Local, canal: _Canal, body: Mask) -> Array:
    """Centroid of the bone above and below the body's footprint, up to its endplates."""
    columns = np.argwhere(body)
    top, bottom = _exits(local, columns, 1), _exits(local, columns, -1)
    ok = np.isfinite(top) & np.isfinite(bottom)
    height = np.where(ok, top - bottom, 0.0)
    x, y = local.mm(0, columns[:, 1]), local.mm(1, columns[:, 0])
    middle = np.where(ok, 0.5 * (np.nan_to_num(top) + np.nan_to_num(bottom)), 0.0)
    centre = [float(np.average(v, weights=height)) for v in (x, y, middle)]
    return local.lps(np.array(centre))


def _endplate(local: _Local, plane: _Plane, use: LandmarkSettings) -> Endplate:
    fitted = _trusted(plane, use)
    normal = local.axes @ plane.normal if fitted else local.axes[:, 2]
    return Endplate(local.lps(plane.centre), np.asarray(normal), fitted)


def _heights(local: _Local, body: Mask) -> dict[str, float]:
    """Anterior, middle and posterior height near the midline, at 8, 50 and 92 % of the body's depth."""
    y, x = np.nonzero(body)
    x_mm = local.mm(0, x)
    y_mm = local.mm(1, y[np.abs(x_mm) < 5.0])
    front, back = float(y_mm.min()), float(y_mm.max())
    out = {}
    for name, share in (("anterior", 0.08), ("middle", 0.5), ("posterior", 0.92)):
        at = front + share * (back - front)
        near = (np.abs(local.mm(1, y) - at) < 1.2) & (np.abs(x_mm) < 6.0)
        columns = np.column_stack([y[near], x[near]])
        height = _exits(local, columns, 1) - _exits(local, columns, -1)
        out[name] = float(np.nanmedian(height)) if np.isfinite(height).any() else float("nan")
    return out


def _pedicle(local: _Local, canal: _Canal, side: Literal[1, -1]) -> Pedicle | None:
    """Isthmus of one pedicle: the smallest coronal section of the bone beside the canal."""
    sections = []
    for at in np.arange(canal.front - 2.0, canal.front + 0.75 * (canal.back - canal.front), local.step):
        section = _pedicle_section(local, canal, side, float(at))
        if section is not None:
            sections.append(section)
    if len(sections) < 3:
        return None
    data = np.array(sections[: _before_processes([section[3] for section in sections])])
    area = ndimage.gaussian_filter1d(data[:, 3], 1.0, mode="nearest")
    # A pedicle is often a tube of nearly constant section: the mean over its narrow part does not jump.
    narrow = np.exp(-(area - area.min()) / (0.08 * area.min()))
    y, x, z, _, width, height = np.average(data, axis=0, weights=narrow)
    near = np.abs(data[:, 0] - y) < 3.5
    slope = np.polyfit(data[near, 0], data[near, 1:3], 1)[0] if near.sum() >= 4 else np.zeros(2)
    axis = local.axes @ unit([-slope[0], -1.0, -slope[1]])
    centre = local.lps(np.array([x, y, z]))
    name: Literal["left", "right"] = "left" if side > 0 else "right"
    return Pedicle(name, centre, axis, float(width), float(height))


def _before_processes(areas: list[float]) -> int:
    """How many sections lie before the processes part, where the area falls at once: one alone may be a small one."""
    lowest = highest = areas[0]
    for number, area in enumerate(areas):
        if highest > 1.4 * lowest and area < 0.75 * highest:
            return number
        lowest, highest = (area, area) if area < lowest else (lowest, max(highest, area))
    return len(areas)


def _pedicle_section(
    local: _Local, canal: _Canal, side: int, at: float
) -> tuple[float, float, float, float, float, float] | None:
    """(y, x, z, area, width, height) in mm of the bone beside the canal in one coronal slice."""
    slab = local.field[:, local.index(1, at), :]
    beside = side * (local.mm(0, np.arange(slab.shape[1])) - canal.x)
    solid = (slab < 0) & (beside > 2.0)[None, :] & (beside < canal.half_width + 22.0)[None, :]
    labels = cc3d.connected_components(solid, connectivity=4)
    height = local.mm(2, np.arange(slab.shape[0]))
    window = (
        solid
        & (beside > 0.5 * canal.half_width)[None, :]
        & (beside < canal.half_width + 14.0)[None, :]
        & ((height > -8.0) & (height < 18.0))[:, None]
    )
    numbers = np.bincount(labels[window], minlength=1)
    numbers[0] = 0
    if numbers.max(initial=0) < 12:
        return None
    z, x = np.nonzero(labels == numbers.argmax())
    depth = np.maximum(-slab[z, x].astype(np.float64), 1e-3)
    z_mm, x_mm = local.mm(2, z), local.mm(0, x)
    centre_x, centre_z = np.average(x_mm, weights=depth), np.average(z_mm, weights=depth)
    chords = _chords(slab, np.array([centre_z, centre_x]) / local.step + local.middle[[2, 0]]) * local.step
    area = len(z) * local.step**2
    return at, float(centre_x), float(centre_z), area, float(chords.min()), float(chords[0])


def _chords(slab: Grid, centre: Array) -> Array:
    """Lengths (cells) of the chords of the bone through `centre` (z, x) in 12 directions; the first along z."""
    angle = np.arange(24) * np.pi / 12
    reach = np.arange(0.0, 40.0, 0.1)
    where = centre[:, None, None] + np.stack([np.cos(angle), np.sin(angle)])[:, :, None] * reach
    out = ndimage.map_coordinates(slab, where, order=1, mode="nearest") > 0
    radius = np.where(out.any(axis=1), reach[np.argmax(out, axis=1)], reach[-1])
    return np.asarray(radius[:12] + radius[12:])
