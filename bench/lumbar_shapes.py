"""Shapes of L3, L4 and L5 made from those of L1 and L2: named landmarks moved by published proportions of the levels.

The label map behind the templates ends at L2. A lower level is an upper one under a smooth warp (a spline in space,
kernel r, affine far away) that takes landmarks measured on the shape to where `lumbar_table.py` puts them. Only ratios
and steps between levels are used, so that the size and the manner of the one patient stay. Signed distances (Z, Y, X)
in mm, negative inside, on a 1 mm grid whose middle is the origin of the template frame: x left, y back, z up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import RBFInterpolator

from bench.lumbar_table import LEVELS, TABLE

Array = NDArray[np.float64]
Points = Mapping[str, Array]

LOWER_LEVELS = LEVELS[2:]
LEFT, BACK, UP = np.eye(3)
FAR_MM = 12.0
"""Distance where no source shape reaches."""
SURE_MM = 8.0
"""A landmark nearer than this to the scan's edge is not used: the bone may be cut there."""
COUNTS_FROM_MM, COUNTS_FULLY_MM = 3.0, 8.0
"""Between these heights above the scan's edge a shape begins to count in the mean."""


@dataclass(frozen=True, eq=False)
class Source:
    """A shape to start from: its level, signed distance, and height above the scan's lower edge on the same grid."""

    level: str
    field: Array
    seen_mm: Array


@dataclass(frozen=True, eq=False)
class Probe:
    """Reads values on the 1 mm grid at points (N, 3) of the template frame."""

    field: Array

    @property
    def half_mm(self) -> Array:
        return (np.array(self.field.shape[::-1]) - 1) / 2

    def at(self, points: Array) -> Array:
        index = (np.atleast_2d(points) + self.half_mm)[:, ::-1].T
        return np.asarray(ndimage.map_coordinates(self.field, index, order=1, mode="nearest"))

    def end(self, start: Iterable[float], way: Array) -> Array:
        """Where the ray from a point leaves the bone, or enters it when the point lies outside."""
        points = np.array([*start], dtype=float) + np.arange(0.0, 60.0, 0.1)[:, None] * way
        inside = self.at(points) < 0
        changed = np.flatnonzero(inside != inside[0])
        if len(changed) == 0:
            raise ValueError(f"The ray from {points[0]} along {way} meets no surface.")
        return np.asarray(points[changed[0]])

    def inside(self) -> Array:
        k, j, i = np.nonzero(self.field < 0)
        return np.asarray(np.column_stack([i, j, k]) - self.half_mm)


def extreme(points: Array, axis: int, sign: int = 1) -> Array:
    """Mean of the points (N, 3) farthest along an axis."""
    along = sign * points[:, axis]
    return np.asarray(points[along == along.max()].mean(axis=0))


# --- landmarks: of the left half and of the middle, mm


def landmarks(field: Array) -> dict[str, Array]:
    """Named points measured on a lumbar shape."""
    probe = Probe(field)
    found = body_landmarks(probe)
    back = float(found["back"][1])
    found |= pedicle_landmarks(probe, back)
    found |= arch_landmarks(probe, back, found["pedicle_bottom"])
    found |= transverse_landmarks(probe, found["pedicle_lateral"])
    return found | spinous_landmarks(probe, found["canal_back"])


def body_landmarks(probe: Probe) -> dict[str, Array]:
    found = {
        "front": probe.end((0, 0, 0), -BACK),
        "back": probe.end((0, 0, 0), BACK),
        "side": probe.end((0, -2, 0), LEFT),
    }
    front, back = found["front"][1], found["back"][1]
    for name, way in (("upper", UP), ("lower", -UP)):
        plate = probe.end((0, 0, 0), way)
        rim = 0.7 * plate[2]
        found |= {
            f"plate_{name}_middle": plate,
            f"plate_{name}_front": probe.end((0, front + 6, 0), way),
            f"plate_{name}_back": probe.end((0, back - 3, 0), way),
            f"plate_{name}_side": probe.end((0, -2, rim), LEFT),
            f"plate_{name}_corner": probe.end((0, back - 6, rim), LEFT),
            f"plate_{name}_lip": probe.end((0, 0, rim), -BACK),
            f"plate_{name}_wall": probe.end((0, 0, rim), BACK),
        }
    return found


def pedicle_landmarks(probe: Probe, back: float) -> dict[str, Array]:
    """The isthmus: the section behind the body whose deepest point lies least deep."""
    points = probe.inside()
    points = points[points[:, 0] > 2]
    cores = []
    for y in np.arange(np.ceil(back) + 1, back + 9):
        section = points[points[:, 1] == y]
        depth = probe.at(section)
        cores.append((depth.min(), *section[np.argmin(depth)]))
    core = np.array(max(cores)[1:])
    ends = {"medial": -LEFT, "lateral": LEFT, "top": UP, "bottom": -UP}
    return {"pedicle": core} | {f"pedicle_{name}": probe.end(core, way) for name, way in ends.items()}


def arch_landmarks(probe: Probe, back: float, pedicle_bottom: Array) -> dict[str, Array]:
    """Lamina, isthmus (pars) and both articular processes, these at their tips and some mm from them."""
    points = probe.inside()
    arch = points[(points[:, 1] > back + 4) & (points[:, 0] > 1)]
    canal_back = probe.end((0, back + 3, -2.5), BACK)
    near = arch[arch[:, 1] < canal_back[1] + 14]
    upper, lower = extreme(near, 2), extreme(near, 2, -1)
    above = near[near[:, 2] == np.round(upper[2] - 6)]
    below = near[near[:, 2] == np.round(lower[2] + 5)]
    waist = arch[(arch[:, 2] == np.round(pedicle_bottom[2] - 3)) & (arch[:, 1] > back + 8)]
    return {
        "canal_back": canal_back,
        "pars": extreme(waist, 0),
        "facet_upper_tip": upper,
        "facet_upper_front": extreme(above, 0, -1),
        "facet_upper_outer": extreme(above, 0),
        "facet_upper_rear": extreme(above[above[:, 1] == above[:, 1].max()], 0, -1),
        "facet_lower_tip": lower,
        "facet_lower_front": extreme(below, 1, -1),
        "facet_lower_outer": extreme(below, 0),
        "facet_lower_inner": extreme(below, 0, -1),
    }


def transverse_landmarks(probe: Probe, pedicle_lateral: Array) -> dict[str, Array]:
    points = probe.inside()
    points = points[points[:, 1] > pedicle_lateral[1]]
    tip = extreme(points, 0)
    root = points[points[:, 0] == np.round(at_root(pedicle_lateral[0], tip[0]))]
    deep = root[np.argmin(probe.at(root))]
    return {
        "transverse_tip": tip,
        "transverse_top": probe.end(deep, UP),
        "transverse_bottom": probe.end(deep, -UP),
    }


def at_root(pedicle_x: float, tip_x: float) -> float:
    """Where along the transverse process its thickness is taken."""
    return float(pedicle_x + 0.35 * (tip_x - pedicle_x))


def spinous_landmarks(probe: Probe, canal_back: Array) -> dict[str, Array]:
    points = probe.inside()
    middle = points[(points[:, 0] == 0) & (points[:, 1] > canal_back[1])]
    tip = extreme(middle, 1)
    found = {"spinous_tip": tip}
    for name, y in (("end", tip[1] - 4), ("half", (tip[1] + canal_back[1]) / 2)):
        column = middle[middle[:, 1] == np.round(y)]
        found |= {f"spinous_{name}_top": extreme(column, 2), f"spinous_{name}_bottom": extreme(column, 2, -1)}
    return found


# --- where the landmarks go


class Proportions:
    """Where the table puts the landmarks, measured at level `base`, at `level`."""

    def __init__(self, found: Points, level: str, base: str) -> None:
        self.found, self.level, self.base = found, level, base
        self.body_back = found["back"][1] * (self.mean("body_depth_upper", "body_depth_lower") - 1)
        self.lift = found["pedicle"][2] * (self.ratio("height_back") - 1)
        canal = found["canal_back"][1] - found["back"][1]
        self.arch_back = self.body_back + canal * (self.ratio("canal_depth") - 1)

    def ratio(self, measure: str) -> float:
        return TABLE[measure].ratio(self.level, self.base)

    def step(self, measure: str) -> float:
        return TABLE[measure].step(self.level, self.base)

    def mean(self, *measures: str) -> float:
        return float(np.mean([self.ratio(m) for m in measures]))

    def targets(self) -> dict[str, Array]:
        return self.body() | self.pedicle() | self.facets() | self.arch() | self.transverse() | self.spinous()

    def body(self) -> dict[str, Array]:
        """Scaled about the body's centre; the wedge is shared between both end plates."""
        front, back = self.ratio("height_front"), self.ratio("height_back")
        tall = {"middle": (front + back) / 2, "side": (front + back) / 2, "front": front, "lip": front}
        tall |= {"back": back, "wall": back, "corner": back}
        placed = {}
        for half in ("upper", "lower"):
            wide, deep = self.ratio(f"body_width_{half}"), self.ratio(f"body_depth_{half}")
            for part, up in tall.items():
                placed[f"plate_{half}_{part}"] = self.found[f"plate_{half}_{part}"] * [wide, deep, up]
        waist = [self.mean(f"body_{way}_upper", f"body_{way}_lower") for way in ("width", "depth")]
        return placed | {name: self.found[name] * [*waist, 1.0] for name in ("front", "back", "side")}

    def pedicle(self) -> dict[str, Array]:
        """The inner wall goes with the canal, the outer one by the pedicle's width beside it."""
        found = self.found
        inner, middle = found["pedicle_medial"][0], found["pedicle"][2]
        placed = {}
        for name in ("medial", "lateral", "top", "bottom"):
            x, y, z = found[f"pedicle_{name}"]
            out = inner * self.ratio("canal_width") + (x - inner) * self.ratio("pedicle_width")
            up = middle + self.lift + (z - middle) * self.ratio("pedicle_height")
            placed[f"pedicle_{name}"] = np.array([out, y + self.body_back, up])
        return placed

    def hung(self, z: float, share: float = 0.5, longer: float = 0.0) -> float:
        """Height of a point of the arch: `share` of the isthmus' loss nearer to the pedicle, `longer` mm lower."""
        return float(z + self.lift - share * self.step("isthmus_length") - longer)

    def facets(self) -> dict[str, Array]:
        """Each process turned and scaled in the transverse plane about the middle of its facet, and set apart."""
        placed = {}
        for half, ends, others, share in (
            ("upper", ("front", "rear"), ("tip", "outer"), 0.0),
            ("lower", ("front", "outer"), ("tip", "inner"), 1.0),
        ):
            centre = np.mean([self.found[f"facet_{half}_{end}"] for end in ends], axis=0)
            angle = np.radians(self.step(f"facet_angle_{half}"))
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            middle = centre[:2] * [self.ratio(f"facets_{half}"), 1.0] + [0.0, self.arch_back]
            for name in (*ends, *others):
                point = self.found[f"facet_{half}_{name}"]
                x, y = middle + self.ratio("facet_width") * turn @ (point - centre)[:2]
                longer = self.step("facet_height") if (half, name) == ("lower", "tip") else 0.0
                placed[f"facet_{half}_{name}"] = np.array([x, y, self.hung(point[2], share, longer)])
        return placed

    def arch(self) -> dict[str, Array]:
        placed = {}
        for name in ("pars", "canal_back"):
            x, y, z = self.found[name]
            placed[name] = np.array([x * self.ratio("pars_width"), y + self.arch_back, self.hung(z)])
        return placed

    def transverse(self) -> dict[str, Array]:
        found = self.found
        shift = np.array([0.0, self.arch_back, self.lift])
        tip = found["transverse_tip"] * [self.ratio("transverse_width"), 1.0, 1.0] + shift
        placed = {"transverse_tip": tip}
        root = at_root(self.pedicle()["pedicle_lateral"][0], tip[0])
        middle = (found["transverse_top"][2] + found["transverse_bottom"][2]) / 2
        for name in ("transverse_top", "transverse_bottom"):
            _, y, z = found[name]
            up = middle + (z - middle) * self.ratio("transverse_height")
            placed[name] = np.array([root, y, up]) + shift
        return placed

    def spinous(self) -> dict[str, Array]:
        found = self.found
        start, middle = found["canal_back"][1], found["spinous_tip"][2]
        placed = {}
        for name in ("tip", "end_top", "end_bottom", "half_top", "half_bottom"):
            _, y, z = found[f"spinous_{name}"]
            out = start + self.arch_back + (y - start) * self.ratio("spinous_length")
            up = self.hung(middle) + (z - middle) * self.ratio("spinous_height")
            placed[f"spinous_{name}"] = np.array([0.0, out, up])
        return placed


# --- the warp


def lower_shape(level: str, sources: Sequence[Source]) -> Array:
    """Signed distance of a level: the mean of the sources, each warped to where all together put the landmarks."""
    starts = [landmarks(source.field) for source in sources]
    ends = [sure_targets(level, source, start) for source, start in zip(sources, starts, strict=True)]
    aim = mean_points(ends)
    total, weights = np.zeros_like(sources[0].field), np.zeros_like(sources[0].field)
    for source, start, own in zip(sources, starts, ends, strict=True):
        field, seen = warped(source, warp({name: aim[name] for name in own}, start))
        weight = np.clip((seen - COUNTS_FROM_MM) / (COUNTS_FULLY_MM - COUNTS_FROM_MM), 0.0, 1.0)
        total += weight * field
        weights += weight
    return np.where(weights > 0, total / np.maximum(weights, 1e-9), FAR_MM)


def sure_targets(level: str, source: Source, start: Points) -> dict[str, Array]:
    """Targets of those landmarks that the scan shows whole."""
    targets = Proportions(start, level, source.level).targets()
    seen = Probe(source.seen_mm)
    return {name: place for name, place in targets.items() if seen.at(start[name])[0] > SURE_MM}


def mean_points(groups: Sequence[Points]) -> dict[str, Array]:
    names = dict.fromkeys(name for group in groups for name in group)
    return {name: np.mean([group[name] for group in groups if name in group], axis=0) for name in names}


def warp(start: Points, end: Points) -> RBFInterpolator:
    """Displacement (N, 3) that takes the points of `start`, both sides, to those of the same names in `end`."""
    places = both_sides(start.values())
    return RBFInterpolator(places, both_sides(end[n] for n in start) - places, kernel="linear", degree=1)


def both_sides(points: Iterable[Array]) -> Array:
    """Points off the middle plane also mirrored. (Landmarks of the middle have x = 0 exactly.)"""
    left = np.array([*points])
    return np.concatenate([left, left[left[:, 0] != 0] * [-1, 1, 1]])


def warped(source: Source, back_again: RBFInterpolator) -> tuple[Array, Array]:
    """The source's distance and height above the scan's edge, read where each point of the new shape came from."""
    index = np.moveaxis(np.indices(source.field.shape, dtype=float), 0, -1)[..., ::-1]
    points = (index - Probe(source.field).half_mm).reshape(-1, 3)
    came_from = points + back_again(points)
    field, seen = (Probe(v).at(came_from).reshape(v.shape) for v in (source.field, source.seen_mm))
    return field, seen
