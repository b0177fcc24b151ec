"""Shapes of L3, L4 and L5 from those of L1 and L2: named landmarks moved by published proportions of the levels.

The label map behind the templates ends at L2. A lower level is made from an upper one by a smooth warp (thin-plate
spline in space) that takes landmarks measured on the shape to where the table below puts them. The table holds
means of published series; only their ratios to the level started from are used, so that the size and the manner
of the one patient stay. Nothing in it was fitted to another data set. Template frame: mm, x left, y back, z up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import RBFInterpolator

Array = NDArray[np.float64]

LEVELS = ("L1", "L2", "L3", "L4", "L5")
LOWER_LEVELS = LEVELS[2:]
#: A landmark nearer than this to the scan's edge is not used: the bone may be cut there.
SURE_MM = 8.0
#: Between these heights above the scan's edge a shape begins to count in the mean.
COUNTS_FROM_MM, COUNTS_FULLY_MM = 3.0, 8.0
LEFT, BACK, UP = np.eye(3)
FAR_MM = 12.0


@dataclass(frozen=True)
class Series:
    """Means of L1 to L5, mm or degrees. `own` says what of it is our estimate."""

    means: tuple[float, float, float, float, float]
    source: str
    own: str = ""

    def ratio(self, level: str, base: str) -> float:
        return self.means[LEVELS.index(level)] / self.means[LEVELS.index(base)]

    def step(self, level: str, base: str) -> float:
        return self.means[LEVELS.index(level)] - self.means[LEVELS.index(base)]


PANJABI_1992 = "Panjabi et al., Spine 1992;17:299-306"
BONCZAR_2024 = "Bonczar et al., Surg Radiol Anat 2024;47:22 (pooled, 18 studies)"
ZINDRICK_1987 = "Zindrick et al., Spine 1987;12:160-166"
PANJABI_1993 = "Panjabi et al., Spine 1993;18:1298-1310"
MASHARAWI_2004 = "Masharawi et al., Spine 2004;29:1755-1763"
MASHARAWI_2011 = "Masharawi and Salame, Clin Anat 2011;24:858-867"
TABLE: Mapping[str, Series] = {
    "body_width_upper": Series((41.2, 42.6, 44.1, 46.6, 47.3), PANJABI_1992),
    "body_width_lower": Series((43.3, 45.5, 48.0, 49.5, 49.4), PANJABI_1992),
    "body_depth_upper": Series((34.1, 34.6, 35.2, 35.5, 34.7), PANJABI_1992),
    "body_depth_lower": Series((35.3, 34.9, 34.8, 33.9, 33.2), PANJABI_1992),
    "height_front": Series((24.54, 25.75, 26.83, 26.86, 27.44), BONCZAR_2024),
    "height_back": Series((26.57, 27.02, 26.67, 25.76, 24.11), BONCZAR_2024),
    "canal_width": Series((22.04, 22.15, 22.62, 23.19, 26.46), BONCZAR_2024),
    "canal_depth": Series((16.02, 15.08, 14.69, 15.06, 15.69), BONCZAR_2024),
    "pedicle_width": Series((8.7, 8.9, 10.3, 12.9, 18.0), ZINDRICK_1987),
    "pedicle_height": Series((15.4, 15.0, 14.9, 14.8, 14.0), ZINDRICK_1987),
    "facets_upper": Series((25.0, 27.0, 29.0, 33.0, 37.0), PANJABI_1993, "all but the limit of 40.6"),
    "facets_lower": Series((27.0, 29.0, 33.0, 37.0, 40.6), PANJABI_1993, "all but the limit of 40.6"),
    "facet_size": Series((12.4, 12.7, 13.8, 14.7, 15.6), PANJABI_1993),
    "facet_angle_upper": Series((27.0, 29.0, 40.4, 44.0, 49.0), MASHARAWI_2004, "places within its ranges"),
    "facet_angle_lower": Series((29.0, 33.9, 44.0, 50.0, 56.3), MASHARAWI_2004, "places within its ranges"),
    "pars_width": Series((25.0, 27.0, 31.0, 37.0, 46.0), "", "all"),
    "facet_height": Series((15.3, 16.0, 15.7, 16.2, 18.4), PANJABI_1993),
    "isthmus_length": Series((19.0, 18.0, 16.0, 13.0, 9.7), MASHARAWI_2011, "all but 19.9 at T12 and 9.7 at L5"),
    "transverse_width": Series((71.2, 76.1, 85.7, 79.4, 92.5), PANJABI_1992),
    "transverse_thickness": Series((9.0, 9.0, 9.0, 9.0, 18.0), "Li et al.", ""),
    "spinous_length": Series((30.0, 32.0, 32.0, 29.0, 24.0), MASHARAWI_2011, "all but the loss of 8 mm"),
    "spinous_height": Series((22.0, 23.0, 22.0, 19.0, 15.0), MASHARAWI_2011, "all but the loss of 8 mm"),
}


#: T12's body height (Kunkel et al., J Anat 2011;219:375-387: front 20.8, back 23.1 mm).
T12_HEIGHT_MM = 22.0
#: Height of the discs T12-L1 (Bach et al., World Neurosurg 2019;124:e106-118, both sexes) and L1-L2 to L5-S1
#: (Shin et al., Brain Spine 2024;5:104162), mm.
DISCS_MM = (5.2, 6.61, 7.90, 8.83, 9.31, 8.14)


def spacing_ratio(level: str, base: str) -> float:
    """Mean distance of a level's body centre to those of its neighbours, of that at `base`.

    The body of S1 is taken to be as high as that of L5: our estimate.
    """
    heights = np.mean([TABLE["height_front"].means, TABLE["height_back"].means], axis=0)
    column = np.array([T12_HEIGHT_MM, *heights, heights[-1]])
    steps = (column[:-1] + column[1:]) / 2 + DISCS_MM
    spacing = (steps[:-1] + steps[1:]) / 2
    return float(spacing[LEVELS.index(level)] / spacing[LEVELS.index(base)])


@dataclass(frozen=True, eq=False)
class Source:
    """A shape to start from: signed distance and height above the scan's edge, (Z, Y, X) mm on the same grid."""

    level: str
    field: Array
    seen_mm: Array


@dataclass(frozen=True, eq=False)
class Probe:
    """Reads a signed distance (Z, Y, X) on a 1 mm grid whose middle is the origin of the template frame."""

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
        return points[changed[0]]

    def inside(self) -> Array:
        k, j, i = np.nonzero(self.field < 0)
        return np.column_stack([i, j, k]) - self.half_mm


def extreme(points: Array, axis: int, sign: int = 1) -> Array:
    """Mean of the points farthest along an axis."""
    along = sign * points[:, axis]
    return np.asarray(points[along == along.max()].mean(axis=0))


def body_landmarks(probe: Probe) -> dict[str, Array]:
    found = {"front": probe.end((0, 0, 0), -BACK), "back": probe.end((0, 0, 0), BACK), "side": probe.end((0, -2, 0), LEFT)}
    for name, way in (("upper", UP), ("lower", -UP)):
        middle = probe.end((0, 0, 0), way)
        found[f"plate_{name}_middle"] = middle
        found[f"plate_{name}_front"] = probe.end((0, found["front"][1] + 6, 0), way)
        found[f"plate_{name}_back"] = probe.end((0, found["back"][1] - 3, 0), way)
        rim = 0.7 * middle[2]
        found[f"plate_{name}_side"] = probe.end((0, -2, rim), LEFT)
        found[f"plate_{name}_lip"] = probe.end((0, 0, rim), -BACK)
        found[f"plate_{name}_wall"] = probe.end((0, 0, rim), BACK)
        found[f"plate_{name}_corner"] = probe.end((0, found["back"][1] - 6, rim), LEFT)
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
    points = probe.inside()
    arch = points[(points[:, 1] > back + 4) & (points[:, 0] > 1)]
    found = {"canal_back": probe.end((0, back + 3, -2.5), BACK)}
    near = arch[arch[:, 1] < found["canal_back"][1] + 14]
    tip = extreme(near, 2)
    slab = near[near[:, 2] == np.round(tip[2] - 6)]
    found |= {"facet_upper_tip": tip, "facet_upper_front": extreme(slab, 0, -1), "facet_upper_outer": extreme(slab, 0)}
    found["facet_upper_rear"] = extreme(slab[slab[:, 1] == slab[:, 1].max()], 0, -1)
    tip = extreme(near, 2, -1)
    slab = near[near[:, 2] == np.round(tip[2] + 5)]
    found |= {"facet_lower_tip": tip, "facet_lower_inner": extreme(slab, 0, -1), "facet_lower_front": extreme(slab, 1, -1)}
    found["facet_lower_outer"] = extreme(slab, 0)
    waist = arch[(arch[:, 2] == np.round(pedicle_bottom[2] - 3)) & (arch[:, 1] > back + 8)]
    found["pars"] = extreme(waist, 0)
    return found


def process_landmarks(probe: Probe, pedicle_lateral: Array, canal_back: Array) -> dict[str, Array]:
    points = probe.inside()
    tip = extreme(points[points[:, 1] > pedicle_lateral[1]], 0)
    found = {"transverse_tip": tip}
    section = points[(points[:, 0] == np.round(pedicle_lateral[0] + 0.35 * (tip[0] - pedicle_lateral[0]))) & (points[:, 1] > pedicle_lateral[1])]
    deep = section[np.argmin(probe.at(section))]
    found |= {"transverse_top": probe.end(deep, UP), "transverse_bottom": probe.end(deep, -UP)}
    middle = points[(points[:, 0] == 0) & (points[:, 1] > canal_back[1])]
    tip = extreme(middle, 1)
    found["spinous_tip"] = tip
    for name, y in (("end", tip[1] - 4), ("half", 0.5 * (tip[1] + canal_back[1]))):
        column = middle[middle[:, 1] == np.round(y)]
        found |= {f"spinous_{name}_top": extreme(column, 2), f"spinous_{name}_bottom": extreme(column, 2, -1)}
    return found


def landmarks(field: Array) -> dict[str, Array]:
    """Named points of the left half and the middle."""
    probe = Probe(field)
    found = body_landmarks(probe)
    back = float(found["back"][1])
    found |= pedicle_landmarks(probe, back)
    found |= arch_landmarks(probe, back, found["pedicle_bottom"])
    return found | process_landmarks(probe, found["pedicle_lateral"], found["canal_back"])


class Proportions:
    """Where the table puts the landmarks of `base` at `level`."""

    def __init__(self, found: Mapping[str, Array], level: str, base: str) -> None:
        self.found, self.level, self.base = found, level, base
        self.body_back = found["back"][1] * (self.mean("body_depth_upper", "body_depth_lower") - 1)
        self.lift = found["pedicle"][2] * (self.ratio("height_back") - 1)
        deeper = self.ratio("canal_depth") - 1
        self.arch_back = self.body_back + (found["canal_back"][1] - found["back"][1]) * deeper

    def ratio(self, measure: str) -> float:
        return TABLE[measure].ratio(self.level, self.base)

    def mean(self, *measures: str) -> float:
        return float(np.mean([self.ratio(m) for m in measures]))

    def targets(self) -> dict[str, Array]:
        return self.body() | self.pedicle() | self.facets() | self.arch() | self.spinous()

    def body(self) -> dict[str, Array]:
        front, back = self.ratio("height_front"), self.ratio("height_back")
        middle = (front + back) / 2
        height = {"middle": middle, "side": middle, "front": front, "lip": front, "back": back, "wall": back, "corner": back}
        placed = {
            f"plate_{half}_{part}": self.found[f"plate_{half}_{part}"]
            * [self.ratio(f"body_width_{half}"), self.ratio(f"body_depth_{half}"), up]
            for half in ("upper", "lower")
            for part, up in height.items()
        }
        waist = [
            self.mean("body_width_upper", "body_width_lower"),
            self.mean("body_depth_upper", "body_depth_lower"),
            1.0,
        ]
        return placed | {name: self.found[name] * waist for name in ("front", "back", "side")}

    def pedicle(self) -> dict[str, Array]:
        found = self.found
        inner, outer = found["pedicle_medial"][0], found["pedicle_lateral"][0]
        medial, wide = inner * self.ratio("canal_width"), self.ratio("pedicle_width")
        placed = {}
        for name in ("medial", "lateral", "top", "bottom"):
            x, y, z = found[f"pedicle_{name}"]
            tall = (z - found["pedicle"][2]) * (self.ratio("pedicle_height") - 1)
            placed[f"pedicle_{name}"] = np.array([medial + (x - inner) * wide, y + self.body_back, z + self.lift + tall])
        return placed

    def height(self, z: float, *, share: float = 0.0, longer: float = 0.0) -> float:
        """Height of an arch's point: `share` of the isthmus' loss nearer to the pedicle, `longer` mm farther down."""
        loss = TABLE["isthmus_length"].step(self.level, self.base)
        return float(z + self.lift - share * loss - longer)

    def facets(self) -> dict[str, Array]:
        placed = {}
        grown = TABLE["facet_height"].step(self.level, self.base)
        for half, names, ends, share in (
            ("upper", ("tip", "front", "rear", "outer"), ("front", "rear"), 0.0),
            ("lower", ("tip", "inner", "front", "outer"), ("front", "outer"), 1.0),
        ):
            centre = np.mean([self.found[f"facet_{half}_{end}"] for end in ends], axis=0)
            turn = np.radians(TABLE[f"facet_angle_{half}"].step(self.level, self.base))
            rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            for name in names:
                point = self.found[f"facet_{half}_{name}"]
                x, y = self.ratio("facet_size") * rotation @ (point - centre)[:2]
                longer = grown if share and name == "tip" else 0.0
                z = self.height(point[2], share=share, longer=longer)
                middle = centre[0] * self.ratio(f"facets_{half}")
                placed[f"facet_{half}_{name}"] = np.array([middle + x, centre[1] + self.arch_back + y, z])
        return placed

    def arch(self) -> dict[str, Array]:
        found = self.found
        x, y, z = found["pars"]
        placed = {"pars": np.array([x * self.ratio("pars_width"), y + self.arch_back, self.height(z, share=0.5)])}
        x, y, z = found["canal_back"]
        placed["canal_back"] = np.array([0.0, y + self.arch_back, self.height(z, share=0.5)])
        tip = found["transverse_tip"] * [self.ratio("transverse_width"), 1, 1] + [0, self.arch_back, self.lift]
        placed["transverse_tip"] = tip
        root = self.pedicle()["pedicle_lateral"][0]
        middle = 0.5 * (found["transverse_top"][2] + found["transverse_bottom"][2])
        for name in ("transverse_top", "transverse_bottom"):
            _, y, z = found[name]
            thick = (z - middle) * self.ratio("transverse_thickness")
            placed[name] = np.array([root + 0.35 * (tip[0] - root), y + self.arch_back, middle + self.lift + thick])
        return placed

    def spinous(self) -> dict[str, Array]:
        found = self.found
        start, middle = found["canal_back"][1], found["spinous_tip"][2]
        placed = {}
        for name in ("tip", "end_top", "end_bottom", "half_top", "half_bottom"):
            _, y, z = found[f"spinous_{name}"]
            long = (y - start) * self.ratio("spinous_length")
            tall = (z - middle) * self.ratio("spinous_height")
            placed[f"spinous_{name}"] = np.array([0.0, start + self.arch_back + long, self.height(middle, share=0.5) + tall])
        return placed


def both_sides(points: Iterable[Array]) -> Array:
    left = np.array([*points])
    return np.concatenate([left, left[np.abs(left[:, 0]) > 1e-9] * [-1, 1, 1]])


def warp(start: Mapping[str, Array], end: Mapping[str, Array]) -> RBFInterpolator:
    """Smooth displacement (N, 3) that takes the points of `start` to those of `end` of the same names."""
    names = [name for name in end if name in start]
    places = both_sides(start[n] for n in names)
    ends = both_sides(end[n] for n in names)
    return RBFInterpolator(places, ends - places, kernel="linear", degree=1)


def lower_shape(level: str, sources: Sequence[Source]) -> Array:
    """Signed distance (Z, Y, X) of a level: the sources, each warped to where both together put the landmarks."""
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


def sure_targets(level: str, source: Source, start: Mapping[str, Array]) -> dict[str, Array]:
    """Targets of those landmarks that the scan shows whole."""
    targets = Proportions(start, level, source.level).targets()
    seen = Probe(source.seen_mm)
    return {name: place for name, place in targets.items() if seen.at(start[name])[0] > SURE_MM}


def mean_points(groups: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    names = dict.fromkeys(name for group in groups for name in group)
    return {name: np.mean([group[name] for group in groups if name in group], axis=0) for name in names}


def warped(source: Source, back_again: RBFInterpolator) -> tuple[Array, Array]:
    """The source's distance and height above the scan's edge, read where each point of the new shape came from."""
    grid = np.moveaxis(np.indices(source.field.shape, dtype=float), 0, -1)[..., ::-1]
    points = (grid - Probe(source.field).half_mm).reshape(-1, 3)
    came_from = points + back_again(points)
    field, seen = (Probe(values).at(came_from).reshape(values.shape) for values in (source.field, source.seen_mm))
    return field, seen
