"""Raised marks on the side walls of the vertebral body: which side it is, which way is up, and the code of the case.

The side walls, because their normals lie in the plane of the layers in every usual pose on the plate: letters there
need no support and never lie on the plate. Nothing of the patient is written, only the code of the case.
Frame: patient LPS, mm. Letters stand on the bone surface with one height, however it curves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.domain.plan import Plan, Vec3
from service.geometry import glyphs
from service.geometry.fields import Array, Bone, Field, Grid, segment_distance

Side = Literal["left", "right"]
_REACH_MM, _STEP_MM = 20.0, 0.5
"""Half width of the window round the body's centre in which a place is looked for, and its sampling."""
_FARTHEST_MM = 50.0
_BELOW_MM = 1.0
"""How deep a letter reaches under the surface, so that it is one body with the wall; less than any wall."""


@dataclass(frozen=True)
class MarkSettings:
    raise_mm: float = 0.6
    """Three quarters of a wall's two lines: seen and felt, and no overhang to speak of."""
    stroke_mm: float = 0.9
    """Two lines of the 0.4 mm nozzle and a margin."""
    units_mm: tuple[float, ...] = (0.7, 0.6, 0.52)
    """Size of a glyph's grid square, the largest that finds a place: letters are 4.2, 3.6 or 3.1 mm high."""
    gap_mm: float = 0.9
    """Between the strokes of neighbours."""
    border_mm: float = 0.6
    """Free bone around the mark, and to a vent or channel."""
    steepest: float = 1.2
    """Wall steeper than that (rise over run across the direction of sight) distorts what is written on it ..."""
    steep_share: float = 0.06
    """... and may be no more than this share of the window."""


@dataclass(frozen=True)
class Mark:
    """One mark. `centre` lies on the wall; `reading` and `up` are unit vectors as seen from outside, `outward` theirs.

    `lines` are the rows of the mark, of equal length, the upper one first; `^` is the arrow up.
    """

    side: Side
    lines: tuple[str, ...]
    centre: Vec3
    reading: Vec3
    up: Vec3
    outward: Vec3
    unit_mm: float
    stroke_mm: float
    raise_mm: float
    gap_mm: float

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height, strokes included."""
        return _size(self.lines, self.unit_mm, self.stroke_mm, self.gap_mm)

    def plane(self, points: Array) -> Array:
        """(N, 3) LPS mm -> (N, 3): along the line, up, and outward from the centre, mm."""
        axes = np.array([self.reading, self.up, self.outward])
        return np.asarray((points - np.array(self.centre)) @ axes.T)

    def strokes(self) -> Iterator[tuple[Array, Array]]:
        """(start, end) of each stroke in the plane of the mark, (2,) mm from its centre."""
        width, height = self.size_mm
        advance = glyphs.WIDTH * self.unit_mm + self.stroke_mm + self.gap_mm
        rise = glyphs.HEIGHT * self.unit_mm + self.stroke_mm + self.gap_mm
        for row, line in enumerate(self.lines):
            bottom = height / 2.0 - self.stroke_mm / 2.0 - glyphs.HEIGHT * self.unit_mm - row * rise
            for column, letter in enumerate(line):
                across = -width / 2.0 + self.stroke_mm / 2.0 + column * advance + (column > 0) * self.gap_mm
                corner = np.array([across, bottom])
                for stroke in glyphs.GLYPHS.get(letter, ()):
                    points = corner + self.unit_mm * np.array(stroke)
                    yield from pairwise(points)

    def covers(self, points: Array, margin_mm: float) -> NDArray[np.bool_]:
        """Which of (N, 3) LPS points lie in the box of the mark, to either side of the wall it stands on."""
        width, height = self.size_mm
        across, up, outward = self.plane(points).T
        return np.asarray(
            (np.abs(across) < width / 2.0 + margin_mm)
            & (np.abs(up) < height / 2.0 + margin_mm)
            & (np.abs(outward) < _DEPTH_MM)
        )

    def to_document(self) -> dict[str, object]:
        return {
            "side": self.side,
            "lines": list(self.lines),
            "centre": [round(v, 3) for v in self.centre],
            **{axis: [round(v, 6) for v in getattr(self, axis)] for axis in ("reading", "up", "outward")},
            "letter_mm": round(glyphs.HEIGHT * self.unit_mm, 2),
            "unit_mm": self.unit_mm,
            "stroke_mm": self.stroke_mm,
            "gap_mm": self.gap_mm,
            "raise_mm": self.raise_mm,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Mark:
        """The mark of a model's report. Raises KeyError for one from before its axes were written there."""
        return cls(
            side=document["side"],
            lines=tuple(document["lines"]),
            centre=_vec(document["centre"]),
            reading=_vec(document["reading"]),
            up=_vec(document["up"]),
            outward=_vec(document["outward"]),
            unit_mm=float(document["unit_mm"]),
            stroke_mm=float(document["stroke_mm"]),
            raise_mm=float(document["raise_mm"]),
            gap_mm=float(document["gap_mm"]),
        )


_DEPTH_MM = 8.0
"""A mark's wall lies within this of its centre, along the direction of sight."""


def lines_of(side: Side, code: str) -> tuple[str, ...]:
    """Side and arrow stand in front of the two halves of the code, a little apart: `L 82D` over `^ PXQ`."""
    half = -(-len(code) // 2)
    return (f"{side[0].upper()}{code[:half]}", f"{glyphs.ARROW}{code[half:].ljust(half)}")


def choose_marks(
    bone: Bone, plan: Plan, code: str, *, settings: MarkSettings | None = None
) -> tuple[Mark, ...]:
    """A mark for each side wall of the body that has room for one, none for an empty code.

    `plan` with its vents. Characters that have no glyph are left out of the mark.
    """
    settings = settings or MarkSettings()
    text = "".join(c for c in code.upper() if c in glyphs.GLYPHS and c != glyphs.ARROW)
    if not text:
        return ()
    sides: tuple[Side, ...] = ("left", "right")
    found = (_place(bone, plan, side, lines_of(side, text), settings) for side in sides)
    return tuple(mark for mark in found if mark is not None)


def raise_marks(part: Field, bone: Bone, marks: tuple[Mark, ...]) -> None:
    """Unite the letters with the material, in place."""
    for mark in marks:
        _raise(part, bone, mark)


def _raise(part: Field, bone: Bone, mark: Mark) -> None:
    width, height = mark.size_mm
    half = np.array([width / 2.0 + 1.0, height / 2.0 + 1.0, _DEPTH_MM])
    axes = np.array([mark.reading, mark.up, mark.outward])
    reach = np.abs(axes.T) @ half
    box = bone.grid.box(np.array(mark.centre) - reach, np.array(mark.centre) + reach)
    block = part[box]
    points = bone.grid.points_in(box)
    local = mark.plane(points)
    # only what is near the surface on this side can become a letter; its exact distance is worth asking for
    near = (np.abs(local) < half).all(axis=1) & (
        np.abs(bone.field[box].ravel()) < mark.raise_mm + _BELOW_MM + 1.0
    )
    chosen = np.flatnonzero(near)
    if not len(chosen):
        return
    depth = bone.index.distance(points[chosen]) * np.sign(bone.field[box].ravel()[chosen])
    flat = np.full(len(chosen), np.inf)
    for start, end in mark.strokes():
        flat = np.minimum(flat, segment_distance(local[chosen, :2], start, end))
    # between the surface less `_BELOW_MM` and the surface plus `raise_mm`
    slab = np.abs(depth - (mark.raise_mm - _BELOW_MM) / 2.0) - (mark.raise_mm + _BELOW_MM) / 2.0
    letters = np.maximum(flat - mark.stroke_mm / 2.0, slab).astype(np.float32)
    values = block.ravel()
    values[chosen] = np.minimum(values[chosen], letters)
    part[box] = values.reshape(block.shape)


def _size(lines: tuple[str, ...], unit_mm: float, stroke_mm: float, gap_mm: float) -> tuple[float, float]:
    def along(count: int, cells: float) -> float:
        return count * (cells * unit_mm + stroke_mm) + (count - 1) * gap_mm

    return along(len(lines[0]), glyphs.WIDTH) + gap_mm, along(len(lines), glyphs.HEIGHT)


def _place(bone: Bone, plan: Plan, side: Side, lines: tuple[str, ...], settings: MarkSettings) -> Mark | None:
    frame = plan.vertebra_frame
    left, up = np.array(frame.left), np.array(frame.superior)
    outward = left if side == "left" else -left
    reading = np.cross(up, outward)
    offsets = np.arange(-_REACH_MM, _REACH_MM + _STEP_MM / 2.0, _STEP_MM)
    seen = _depths(bone, np.array(plan.body_centre), reading, up, outward, offsets)
    free = ~_near_holes(bone, plan, seen, reading, up, outward, offsets, settings.border_mm)
    for unit in settings.units_mm:
        size = _size(lines, unit, settings.stroke_mm, settings.gap_mm)
        found = _flattest(seen, free, size, settings)
        if found is not None:
            row, column = found
            centre = (
                np.array(plan.body_centre)
                + offsets[column] * reading
                + offsets[row] * up
                + seen[row, column] * outward
            )
            return Mark(
                side, lines, _vec(centre), _vec(reading), _vec(up), _vec(outward),
                unit, settings.stroke_mm, settings.raise_mm, settings.gap_mm,
            )  # fmt: skip
    return None


def _vec(v: Array) -> Vec3:
    return (float(v[0]), float(v[1]), float(v[2]))


def _depths(bone: Bone, centre: Array, reading: Array, up: Array, outward: Array, offsets: Array) -> Array:
    """How far out the first bone lies as seen from outside, (rows up, columns along the line) mm; NaN where none is."""
    along = np.arange(_FARTHEST_MM, 0.0, -bone.grid.step_mm / 2.0)
    origin = centre + offsets[None, :, None] * reading + offsets[:, None, None] * up  # (rows, columns, 3)
    depths = np.full(origin.shape[:2], np.nan)
    for distance in along:
        points = (origin + distance * outward).reshape(-1, 3)
        inside = _inside(bone.field, bone.grid, points).reshape(depths.shape)
        depths = np.where(np.isnan(depths) & inside, distance, depths)
    return depths


def _inside(field: Field, grid: Grid, points: Array) -> NDArray[np.bool_]:
    kji = np.rint((points - grid.origin) / grid.step_mm).astype(np.int64)[:, ::-1]
    held = np.all((kji >= 0) & (kji < np.array(grid.shape)), axis=1)
    found = np.zeros(len(points), dtype=bool)
    k, j, i = kji[held].T
    found[held] = field[k, j, i] < 0
    return found


def _near_holes(
    bone: Bone,
    plan: Plan,
    seen: Array,
    reading: Array,
    up: Array,
    outward: Array,
    offsets: Array,
    border: float,
) -> NDArray[np.bool_]:
    """Where a vent or channel opens within the border."""
    wall = (
        np.array(plan.body_centre)
        + offsets[None, :, None] * reading
        + offsets[:, None, None] * up
        + np.nan_to_num(seen)[..., None] * outward
    ).reshape(-1, 3)
    near = np.zeros(len(wall), dtype=bool)
    for path in plan.trajectories:
        entry, target = np.array(path.entry), np.array(path.target)
        before = entry - 15.0 * (target - entry) / np.linalg.norm(target - entry)
        near |= segment_distance(wall, before, target) < plan.model.channel_diameter_mm / 2.0 + border
    for vent in plan.model.vents:
        position, direction = np.array(vent.position), np.array(vent.direction)
        ends = position + 3.0 * direction, position - 8.0 * direction
        near |= segment_distance(wall, *ends) < vent.diameter_mm / 2.0 + border
    return near.reshape(seen.shape)


def _flattest(
    seen: Array, free: NDArray[np.bool_], size_mm: tuple[float, float], settings: MarkSettings
) -> tuple[int, int] | None:
    """(row, column) of the middle of the window with the flattest whole and free wall; None if there is none."""
    window = tuple(
        2 * int(np.ceil((s / 2.0 + settings.border_mm) / _STEP_MM)) + 1 for s in (size_mm[1], size_mm[0])
    )
    if window[0] >= seen.shape[0] or window[1] >= seen.shape[1]:
        return None
    if np.isnan(seen).all():
        return None
    # where no bone is seen its nearest neighbour stands in: the window is refused there anyhow
    nearest = ndimage.distance_transform_edt(np.isnan(seen), return_distances=False, return_indices=True)
    filled = seen[tuple(nearest)]
    rise = np.hypot(*np.gradient(ndimage.gaussian_filter(filled, 1.0), _STEP_MM))
    steep = ndimage.uniform_filter((rise > settings.steepest).astype(np.float64), window)
    spread = ndimage.maximum_filter(filled, window) - ndimage.minimum_filter(filled, window)
    whole = ndimage.minimum_filter((~np.isnan(seen) & free).astype(np.uint8), window, mode="constant") > 0
    allowed = whole & (steep < settings.steep_share) & (spread < 2.0 * (_DEPTH_MM - 2.0))
    if not allowed.any():
        return None
    rows, columns = np.indices(seen.shape)
    middle = np.hypot(rows - seen.shape[0] // 2, columns - seen.shape[1] // 2) * _STEP_MM
    cost = ndimage.uniform_filter(rise, window) + 0.03 * middle
    best = int(np.argmin(np.where(allowed, cost, np.inf)))
    return best // seen.shape[1], best % seen.shape[1]
