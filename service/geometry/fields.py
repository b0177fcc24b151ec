"""Scalar fields on a regular, LPS-parallel grid, and the shapes cut into and added to them.

A field is float32 (K, J, I), mm, negative inside the material (signed distance convention). Frame: patient LPS,
mm. Union is `min`, intersection is `max`, subtraction of B from A is `max(A, -B)` (Ricci 1973; Hart 1996).
Only the neighbourhood of zero has to be metric, since nothing else moves the isosurface.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.errors import GeometryError
from service.geometry.distances import components, distance_to
from service.geometry.gas_path import blind_pits
from service.geometry.lost_bone import necks
from service.geometry.mesh import Mesh, SurfaceIndex, largest_body, mesh_of_field
from service.geometry.parallel import by_rows
from service.geometry.resampling import spline_coefficients
from service.geometry.volume import Volume, scaling_of

Field = NDArray[np.float32]
Array = NDArray[np.float64]
Shape = Callable[[Array], Array]
"""(N, 3) LPS mm -> (N,) mm, negative inside."""

#: Voxels repeated outwards before a cubic spline is taken, as `scipy.ndimage` does it.
_BORDER = 12
#: Values nearer to zero than this are moved off it: an isosurface through a grid point has doubled vertices.
ZERO_BAND_MM = 0.002


@dataclass(frozen=True, eq=False)
class Grid:
    """Isotropic grid parallel to LPS. `origin` (3,) LPS mm of voxel (0, 0, 0); `shape` is (K, J, I)."""

    origin: Array
    step_mm: float
    shape: tuple[int, int, int]

    @property
    def lps_from_ijk(self) -> Array:
        affine = np.diag([self.step_mm, self.step_mm, self.step_mm, 1.0])
        affine[:3, 3] = self.origin
        return affine

    def points_at(self, kji: NDArray[Any]) -> Array:
        """(N, 3) index rows (k, j, i) -> (N, 3) LPS mm."""
        return np.asarray(kji)[:, ::-1].astype(np.float64) * self.step_mm + self.origin

    def indices_of(self, lps: NDArray[Any]) -> NDArray[np.int64]:
        """(N, 3) LPS mm -> (N, 3) nearest voxel (k, j, i), clipped to the grid."""
        ijk = np.rint((np.atleast_2d(lps) - self.origin) / self.step_mm).astype(np.int64)
        top = np.array(self.shape[::-1]) - 1
        return np.asarray(np.clip(ijk, 0, top)[:, ::-1])

    def box(self, low: Array, high: Array) -> tuple[slice, slice, slice]:
        """Slices (k, j, i) that cover the LPS box, clipped to the grid."""
        first = np.floor((low - self.origin) / self.step_mm).astype(int)
        last = np.ceil((high - self.origin) / self.step_mm).astype(int) + 1
        size = np.array(self.shape[::-1])
        first, last = np.clip(first, 0, size), np.clip(last, 0, size)
        return slice(first[2], last[2]), slice(first[1], last[1]), slice(first[0], last[0])

    def points_in(self, box: tuple[slice, slice, slice]) -> Array:
        """(N, 3) LPS mm of the voxels of a box, in the order of `field[box].ravel()`."""
        axes = [np.arange(s.start, s.stop, dtype=np.float64) * self.step_mm for s in box]
        z, y, x = np.meshgrid(*axes, indexing="ij")
        return np.asarray(np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1) + self.origin)


@dataclass(frozen=True, eq=False)
class Primitive:
    """A shape with its axis-aligned bounds, so that it is evaluated only where it matters."""

    distance: Shape
    low: Array
    high: Array


def capsule(start: Array, end: Array, radius_mm: float) -> Primitive:
    """Rod with round ends around the segment `start`-`end` (LPS mm)."""
    start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)

    def distance(points: Array) -> Array:
        return segment_distance(points, start, end) - radius_mm

    return Primitive(distance, np.minimum(start, end) - radius_mm, np.maximum(start, end) + radius_mm)


def cylinder(start: Array, end: Array, radius_mm: float) -> Primitive:
    """Rod with flat ends around the segment `start`-`end` (LPS mm)."""
    start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    length = float(np.linalg.norm(end - start))
    axis = (end - start) / length

    def distance(points: Array) -> Array:
        offset = points - start
        along = offset @ axis
        radial = np.linalg.norm(offset - along[:, None] * axis, axis=1) - radius_mm
        axial = np.maximum(-along, along - length)
        outside = np.hypot(np.maximum(radial, 0.0), np.maximum(axial, 0.0))
        return np.asarray(outside + np.minimum(np.maximum(radial, axial), 0.0))

    return Primitive(distance, np.minimum(start, end) - radius_mm, np.maximum(start, end) + radius_mm)


def segment_distance(points: Array, start: Array, end: Array) -> Array:
    """Distance of (N, 3) points to the segment, (N,) mm."""
    along = end - start
    t = np.clip((points - start) @ along / max(float(along @ along), 1e-12), 0.0, 1.0)
    return np.asarray(np.linalg.norm(points - start - t[:, None] * along, axis=1))


def subtract(field: Field, grid: Grid, primitive: Primitive) -> None:
    """Cut the primitive out of the material, in place."""
    margin = 2.0 * grid.step_mm
    box = grid.box(primitive.low - margin, primitive.high + margin)
    part = field[box]
    if part.size:
        values = primitive.distance(grid.points_in(box)).astype(np.float32).reshape(part.shape)
        field[box] = np.maximum(part, -values)


def off_zero(field: Field) -> None:
    """Move values off zero, in place, keeping the side they are on (zero counts as outside)."""
    near = np.abs(field) < ZERO_BAND_MM
    field[near] = np.where(field[near] < 0, -ZERO_BAND_MM, ZERO_BAND_MM)


@dataclass(frozen=True, eq=False)
class Bone:
    """The outer bone surface and what is derived from it once.

    `field` is zero exactly on `mesh`; it is metric near zero and within `band_mm` of `-shell_mm`, elsewhere right
    to about one grid step.
    """

    grid: Grid
    field: Field
    mesh: Mesh
    index: SurfaceIndex
    lost: NDArray[np.bool_]
    """Bone of the isolated vertebra that is no part of `field`."""
    thin_necks: int
    """Necks thinner than the smallest feature that were kept, as they join parts which are thick enough."""


def prepare_bone(
    outer: Volume, *, step_mm: float, shell_mm: float, min_feature_mm: float, body_ml: float = 0.05
) -> Bone:
    """Resample the outer distance, clean it, mesh it, and make it exact at the depth of the shell.

    Parameters
    ----------
    outer : signed distance to the outer bone surface, mm, negative inside, any invertible affine.
    step_mm : edge of the working grid.
    shell_mm : depth at which the distance has to be exact.
    min_feature_mm : spikes thinner than this are left out (two extrusion lines of 0.4 mm).
    body_ml : what two thick parts must hold for a thinner neck between them to be kept.

    Raises
    ------
    GeometryError
        When there is no bone or it touches the edge of the volume.
    """
    grid = _grid_around(outer, step_mm)
    field = _resample(outer, grid)
    isolated = field < 0
    _keep_one_solid_body(field)
    thin_necks = _drop_spikes(field, step_mm, min_feature_mm, body_ml)
    _fill_pits(field, step_mm)
    off_zero(field)
    mesh = largest_body(mesh_of_field(field, grid.origin, step_mm))
    index = SurfaceIndex(mesh)
    inside = field < 0
    half = np.float32(step_mm / 2)
    rough = np.where(inside, distance_to(~inside, step_mm) - half, half - distance_to(inside, step_mm))
    # The rough distance is wrong by up to a voxel's half diagonal; the band must cover that and a voxel beside it.
    band = np.flatnonzero(inside & (np.abs(rough - shell_mm) < 2.2 * step_mm))
    kji = np.stack(np.unravel_index(band, grid.shape), axis=1)
    exact = np.where(np.abs(field) < 2.0 * step_mm, field, -rough)
    exact.ravel()[band] = -index.distance(grid.points_at(kji))
    return Bone(grid, exact.astype(np.float32), mesh, index, isolated & ~inside, thin_necks)


def _grid_around(outer: Volume, step_mm: float, margin_mm: float = 3.0) -> Grid:
    inside = outer.values < 0
    if not inside.any():
        raise GeometryError(
            "The bone surface is empty: there is nothing to model.",
            next_step="Check the isolated vertebra and its seed points.",
            code="geometry.empty",
        )
    edges = [inside[0], inside[-1], inside[:, 0], inside[:, -1], inside[:, :, 0], inside[:, :, -1]]
    if any(edge.any() for edge in edges):
        raise GeometryError(
            "The bone reaches the edge of the computed region, so its surface is not closed.",
            next_step="Use a scan that holds the whole vertebra.",
            code="geometry.cut_off",
        )
    kji = np.argwhere(inside)
    corners = np.array([[i, j, k] for k in (0, 1) for j in (0, 1) for i in (0, 1)])
    low_ijk, high_ijk = kji.min(axis=0)[::-1], kji.max(axis=0)[::-1]
    lps = outer.to_lps(low_ijk + corners * (high_ijk - low_ijk))
    # Whole multiples of the step keep the grid the same for every part of the same scan.
    low = np.floor((lps.min(axis=0) - margin_mm) / step_mm) * step_mm
    size = np.ceil((lps.max(axis=0) + margin_mm - low) / step_mm).astype(int) + 1
    return Grid(low, step_mm, (int(size[2]), int(size[1]), int(size[0])))


def _resample(outer: Volume, grid: Grid, cubic_within_mm: float = 1.5) -> Field:
    """`outer` on the grid: cubic near the surface, linear elsewhere, where nothing but the side is used."""
    affine = outer.ijk_from_lps @ grid.lps_from_ijk
    matrix, offset = affine[:3, :3][::-1, ::-1], affine[:3, 3][::-1]
    values = outer.values.astype(np.float32, copy=False)
    with ThreadPoolExecutor(1) as beside:
        # As `map_coordinates` begins itself, which it would do on one core, and before it could be shared out.
        prepared = beside.submit(spline_coefficients, np.pad(values, _BORDER, mode="edge"), 3, "nearest")
        field = np.asarray(
            ndimage.affine_transform(
                values,
                scaling_of(matrix),
                offset=offset,
                output_shape=grid.shape,
                order=1,
                mode="nearest",
                output=np.float32,
            )
        )
        coefficients = prepared.result()
    near = np.abs(field) < cubic_within_mm
    where = matrix @ np.argwhere(near).T + offset[:, None] + _BORDER

    def cubic(rows: slice) -> Field:
        return np.asarray(
            ndimage.map_coordinates(
                coefficients, where[:, rows], order=3, mode="nearest", output=np.float32, prefilter=False
            )
        )

    field[near] = by_rows(cubic, where.shape[1])
    return field


def _keep_one_solid_body(field: Field) -> None:
    """Drop islands and fill closed voids of the bone, in place."""
    labels, count = components(field < 0)
    if count > 1:
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        field[(labels != 1 + int(np.argmax(sizes))) & (labels > 0)] = 1.0
    labels, count = components(field >= 0)
    if count > 1:
        field[(labels > 0) & (labels != labels[0, 0, 0])] = -1.0


def _drop_spikes(field: Field, step_mm: float, min_feature_mm: float, body_ml: float) -> int:
    """Leave out what lies beyond the reach of a ball of the smallest feature, in place; returns the necks kept.

    An opening by reconstruction with slack: bone stays wherever it is within one grid diagonal of such a ball, so
    edges and plates are not rounded by the grid. Parts up to a quarter thinner than asked may remain. A thin neck
    between two bodies of at least `body_ml` stays as thick as it is: cut, it would take the smaller body with it.
    """
    radius = min_feature_mm / 2.0
    # Read from the field, which is metric here; samples lie up to half a step off the middle of a thin part.
    core = field < -0.75 * radius
    reach = distance_to(core, step_mm)
    spikes = (field < 0) & (reach > radius + step_mm * np.sqrt(3.0))
    if not spikes.any():
        return 0
    joining = necks((field < 0) & ~spikes, spikes, body_ml * 1000.0 / step_mm**3)
    field[spikes & ~joining] = 1.0
    _keep_one_solid_body(field)
    return components(joining & (field < 0))[1]


def _fill_pits(field: Field, step_mm: float) -> None:
    """Make the pits of the outside solid that gas would not reach through their narrow mouths, in place.

    The ball is the self-check's, its reach a little shorter, so that meshing cannot turn a pass to a fail.
    """
    pits = blind_pits(field < 0, step_mm, ball_mm=2.5, slack_mm=1.3, least_mm3=4.0)
    if pits.any():
        # Rounded at the mouth, so that no stairs of voxels show.
        share = ndimage.gaussian_filter(pits.astype(np.float32), 1.0)
        np.minimum(field, (0.5 - share) * (2.0 * step_mm), out=field, where=share > 0.05)
        field[pits] = np.minimum(field[pits], -0.25 * step_mm)
        _keep_one_solid_body(field)
