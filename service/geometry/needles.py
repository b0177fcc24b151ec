"""Finding needles in a scan: straight thin metal, its axis to sub-voxel precision.

Lines are found by RANSAC among metal voxels; the axis is then the straight line through the centroids of
cross-sections of the full-resolution scan (geometry reference, section 6). Points are LPS mm of the scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.geometry.metal import ScanView
from service.geometry.tip_shapes import weights
from service.geometry.volume import Volume

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NeedleSettings:
    radius_mm: float = 1.2065
    """13 G, outer diameter 2.413 mm (facts sheet, marked unverified there: a setting per product)."""
    max_needles: int = 2
    inlier_mm: float = 1.6
    min_length_mm: float = 22.0
    max_gap_mm: float = 4.0
    draws: int = 600
    min_filling: float = 0.4
    """Metal found per length of line, relative to the needle's cross-section: noise is thinner than that."""
    max_outer_share: float = 0.45
    """Grey at 4 mm from the axis, relative to metal: above it the 'needle' is a block (cement, a rod)."""
    least_over_bone: float = 2.5
    """Grey of a shaft above soft tissue, relative to dense bone's: below it the 'needle' is a rib or a process in a
    scan without any metal, where bone is the brightest there is."""
    max_scatter_mm: float = 0.06
    """Straight needles of still patients: 0.02 to 0.03 in the tuning scans."""
    max_blur_mm: float = 0.8
    """Blur across a solid needle: 0.54 to 0.63 there; an open one looks like 0.75."""
    section_mm: float = 0.5
    disc_mm: float = 2.6
    ring_mm: tuple[float, float] = (3.4, 4.4)


@dataclass(frozen=True, eq=False)
class MetalLine:
    """A straight piece of metal from `start` to `end` (3,), both ends at half the grey of the shaft."""

    start: Array
    end: Array
    inliers: int

    @property
    def length_mm(self) -> float:
        return float(np.linalg.norm(self.end - self.start))

    @property
    def direction(self) -> Array:
        return np.asarray((self.end - self.start) / self.length_mm)


@dataclass(frozen=True, eq=False)
class Axis:
    """Fitted axis: unit `direction` towards the tip, `origin` on it; sections at `s` from the origin."""

    origin: Array
    direction: Array
    s_mm: Array
    area: Array
    """Grey above surroundings summed over the section's disc, per mm2 of disc."""
    core: Array
    """The same weighted towards the axis (`tip_shapes.weights`)."""
    moment: Array
    """(S, 2) mean over the disc of grey times its place beside the axis, mm; the two axes of `across`."""
    around: Array
    """(S,) bright part (85 %) of each section's outer ring above the shaft's usual surroundings, per `ceiling`."""
    ceiling: float
    """Brightest grey above the surroundings on the shaft: where a clipped scan is cut."""
    lateral_sigma_mm: float
    """Blur of the scan across the needle, from the width of the sections."""
    scatter_mm: float
    """Root mean square distance of the section centroids from the line."""
    sections: int
    direction_sigma_deg: float


def find_lines(view: ScanView, settings: NeedleSettings | None = None) -> list[MetalLine]:
    """Straight thin metal in the scan, longest first, at most `max_needles`. Empty without metal."""
    settings = settings or NeedleSettings()
    if not view.has_metal:
        return []
    points = view.volume.to_lps(np.argwhere(view.metal)[:, ::-1])
    rng = np.random.default_rng(30)
    lines: list[MetalLine] = []
    for _ in range(settings.max_needles + 2):
        if len(points) < 20 or len(lines) == settings.max_needles:
            break
        line = _best_line(points, rng, settings)
        if line is None:
            break
        offset = points - line.start
        along = offset @ line.direction
        away = np.linalg.norm(offset - np.outer(along, line.direction), axis=1)
        block = _is_block(view, line, settings)
        # The rim of a thick rod would come back as thin lines: a block goes with all that surrounds it.
        reach = 12.0 if block else 4.0
        points = points[(away > reach) | (along < -reach) | (along > line.length_mm + reach)]
        solid = line.inliers * view.volume.voxel_ml * 1000 / line.length_mm
        filled = solid > settings.min_filling * np.pi * settings.radius_mm**2
        if not block and filled and _brighter_than_bone(view, line, settings):
            lines.append(line)
    return lines


def _brighter_than_bone(view: ScanView, line: MetalLine, settings: NeedleSettings) -> bool:
    """Whether the brightest spot of the line's cross-sections is that of metal; the bore of an open needle is not."""
    u, v = across(line.direction)
    turn = np.linspace(0.0, 2.0 * np.pi, 8, endpoint=False)
    ring = 0.8 * settings.radius_mm * (np.cos(turn)[:, None] * u + np.sin(turn)[:, None] * v)
    spots = np.vstack([np.zeros(3), ring])
    s = np.arange(0.0, line.length_mm, 1.0)
    points = line.start + s[:, None, None] * line.direction + spots[None]
    grey = view.full.sample(points.reshape(-1, 3), outside=view.grey.soft).reshape(len(s), -1).max(axis=1)
    over = view.grey.dense_bone - view.grey.soft
    return bool(np.median(grey) - view.grey.soft > settings.least_over_bone * over)


def _best_line(points: Array, rng: np.random.Generator, settings: NeedleSettings) -> MetalLine | None:
    best: tuple[float, Array, Array] | None = None
    sample = points[rng.choice(len(points), min(len(points), 1500), replace=False)]
    pairs = rng.integers(0, len(sample), (settings.draws, 2))
    for a, b in sample[pairs]:
        gap = float(np.linalg.norm(b - a))
        if gap < settings.min_length_mm / 2:
            continue
        direction = (b - a) / gap
        length = _run(sample, a, direction, settings)[2]
        if best is None or length > best[0]:
            best = (length, a, direction)
    if best is None or best[0] < settings.min_length_mm:
        return None
    origin, direction = best[1], best[2]
    for _ in range(3):
        inliers = _inliers(points, origin, direction, settings)
        origin = points[inliers].mean(axis=0)
        direction = np.linalg.svd(points[inliers] - origin, full_matrices=False)[2][0]
    low, high, length = _run(points, origin, direction, settings)
    if length < settings.min_length_mm:
        return None
    return MetalLine(
        origin + low * direction,
        origin + high * direction,
        int(np.count_nonzero(_inliers(points, origin, direction, settings))),
    )


def _inliers(points: Array, origin: Array, direction: Array, settings: NeedleSettings) -> NDArray[np.bool_]:
    offset = points - origin
    away = np.linalg.norm(offset - np.outer(offset @ direction, direction), axis=1)
    return np.asarray(away < settings.inlier_mm)


def _run(
    points: Array, origin: Array, direction: Array, settings: NeedleSettings
) -> tuple[float, float, float]:
    """(low, high, length) of the longest stretch along the line without a gap."""
    along = np.sort(((points - origin) @ direction)[_inliers(points, origin, direction, settings)])
    if along.size < 10:
        return 0.0, 0.0, 0.0
    breaks = np.flatnonzero(np.diff(along) > settings.max_gap_mm)
    starts, stops = np.concatenate([[0], breaks + 1]), np.concatenate([breaks, [along.size - 1]])
    pick = int(np.argmax(along[stops] - along[starts]))
    low, high = float(along[starts[pick]]), float(along[stops[pick]])
    return low, high, high - low


def _is_block(view: ScanView, line: MetalLine, settings: NeedleSettings) -> bool:
    s = np.arange(2.0, line.length_mm - 2.0, 1.0)
    u, v = across(line.direction)
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = 4.0 * (np.cos(turn)[:, None] * u + np.sin(turn)[:, None] * v)
    points = line.start + s[:, None, None] * line.direction + ring[None]
    values = view.full.sample(points.reshape(-1, 3), outside=view.grey.soft).reshape(len(s), -1)
    share = (np.median(values, axis=1) - view.grey.soft) / (view.grey.top - view.grey.soft)
    return bool(np.mean(share > settings.max_outer_share) > 0.3)


def across(direction: Array) -> tuple[Array, Array]:
    """Two unit vectors perpendicular to `direction` and to each other."""
    helper = np.eye(3)[int(np.argmin(np.abs(direction)))]
    u = np.cross(direction, helper)
    u /= np.linalg.norm(u)
    return u, np.asarray(np.cross(direction, u))


def fit_axis(scan: Volume, line: MetalLine, tip: Array, settings: NeedleSettings | None = None) -> Axis:
    """Axis of the needle on the full-resolution scan.

    Parameters
    ----------
    tip : (3,) whichever end of `line` is the tip; the axis runs towards it and its origin is there.
    """
    settings = settings or NeedleSettings()
    at_end = np.linalg.norm(tip - line.end) < np.linalg.norm(tip - line.start)
    direction = line.direction if at_end else -line.direction
    origin = line.end if at_end else line.start
    length = line.length_mm
    scatter, sections = 0.0, 0
    centre, spread = origin, 0.0
    for _ in range(4):
        s = np.arange(-length + 3.0, -4.0, settings.section_mm)
        mass, centroid = _sections(scan, origin, direction, s, settings)
        solid = np.isfinite(mass) & (mass > 0.6 * np.nanmedian(mass))
        places = centroid[solid]
        centre = places.mean(axis=0)
        weight = np.ones(len(places))
        for _ in range(4):
            centre = np.average(places, axis=0, weights=weight)
            axis = np.linalg.svd((places - centre) * np.sqrt(weight)[:, None], full_matrices=False)[2][0]
            axis = axis if axis @ direction > 0 else -axis
            offset = places - centre
            away = np.linalg.norm(offset - np.outer(offset @ axis, axis), axis=1)
            scale = max(1.4826 * float(np.median(away)), 0.01)
            weight = np.clip(1 - (away / (4.685 * scale)) ** 2, 1e-6, None) ** 2
        scatter, sections = float(np.sqrt(np.average(away**2, weights=weight))), int(solid.sum())
        spread = float(np.std((places - centre) @ axis))
        direction = axis
        origin = centre + ((origin - centre) @ direction) * direction
    s = np.arange(-min(length - 3.0, 30.0), 8.0, 0.25)
    area, core, moment = _curves(scan, origin, direction, s, settings)
    # Neighbouring sections share blur: about one independent centroid per 1.5 mm.
    independent = max(sections * settings.section_mm / 1.5, 2.0)
    turn = np.degrees(scatter / max(spread, 1.0) / np.sqrt(independent))
    shaft = np.arange(-length + 3.0, -8.0, settings.section_mm)
    blur = _lateral_blur(scan, origin, direction, shaft, settings)
    ceiling = float(np.nanmax(_above(scan, origin, direction, shaft, settings)))
    around = _around(scan, origin, direction, s, settings) / max(ceiling, 1e-9)
    return Axis(
        origin, direction, s, area, core, moment, around, ceiling, blur, scatter, sections, float(turn)
    )


def smeared(axis: Axis, settings: NeedleSettings | None = None) -> bool:
    """Whether the needle is both wider and less straight than any blur explains: motion during the scan."""
    settings = settings or NeedleSettings()
    return axis.scatter_mm > settings.max_scatter_mm and axis.lateral_sigma_mm > settings.max_blur_mm


def _disc(settings: NeedleSettings) -> tuple[Array, Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """Offsets (a, b) of a cross-section's samples, mm, and which belong to its disc and to its outer ring."""
    step = 0.35
    line = np.arange(-settings.ring_mm[1], settings.ring_mm[1] + step, step)
    a, b = (m.ravel() for m in np.meshgrid(line, line))
    radius = np.hypot(a, b)
    kept = radius <= settings.ring_mm[1]
    return a[kept], b[kept], radius[kept] <= settings.disc_mm, radius[kept] >= settings.ring_mm[0]


def _above(scan: Volume, origin: Array, direction: Array, s: Array, settings: NeedleSettings) -> Array:
    """(S, P) grey of each section's disc above the median of its ring."""
    u, v = across(direction)
    a, b, disc, ring = _disc(settings)
    points = origin + s[:, None, None] * direction + (a[:, None] * u + b[:, None] * v)[None]
    values = scan.sample(points.reshape(-1, 3), outside=np.nan).reshape(len(s), -1)
    return np.asarray(values[:, disc] - np.median(values[:, ring], axis=1)[:, None])


def _curves(
    scan: Volume, origin: Array, direction: Array, s: Array, settings: NeedleSettings
) -> tuple[Array, Array, Array]:
    """(area (S,), core (S,), moment (S, 2)) of the sections at `s`; NaN where they leave the scan."""
    a, b, disc, _ = _disc(settings)
    above = _above(scan, origin, direction, s, settings)
    area_of, core_of = weights(a[disc], b[disc], settings.disc_mm)
    moment = np.stack([above @ (area_of * a[disc]), above @ (area_of * b[disc])], axis=1)
    return above @ area_of, above @ core_of, moment


def _around(scan: Volume, origin: Array, direction: Array, s: Array, settings: NeedleSettings) -> Array:
    """(S,) grey that the brightest 15 % of each section's ring exceed, above the median ring of the rear half."""
    u, v = across(direction)
    a, b, _, ring = _disc(settings)
    points = origin + s[:, None, None] * direction + (a[ring, None] * u + b[ring, None] * v)[None]
    values = scan.sample(points.reshape(-1, 3), outside=np.nan).reshape(len(s), -1)
    usual = float(np.nanmedian(values[: max(len(s) // 2, 1)]))
    return np.asarray(np.percentile(values, 85, axis=1) - usual)


def along_axis(
    scan: Volume, axis: Axis, settings: NeedleSettings | None = None
) -> tuple[Array, Array, Array]:
    """(places (S,) from the origin, grey near the axis, median grey of the ring around it) of the front 30 mm and
    14 mm beyond; places outside the scan are left out."""
    settings = settings or NeedleSettings()
    s = np.arange(-30.0, 14.0, 0.25)
    u, v = across(axis.direction)
    a, b, disc, ring = _disc(settings)
    points = axis.origin + s[:, None, None] * axis.direction + (a[:, None] * u + b[:, None] * v)[None]
    values = scan.sample(points.reshape(-1, 3), outside=np.nan).reshape(len(s), -1)
    seen = np.isfinite(values).all(axis=1)
    core = values[:, disc] @ weights(a[disc], b[disc], settings.disc_mm)[1]
    return s[seen], core[seen], np.median(values[:, ring], axis=1)[seen]


def _lateral_blur(scan: Volume, origin: Array, direction: Array, s: Array, settings: NeedleSettings) -> float:
    """Sd of the scan's blur across the shaft. Sections are averaged first: noise would widen each one."""
    a, b, disc, _ = _disc(settings)
    mean = np.nanmean(_above(scan, origin, direction, s, settings), axis=0)
    mean = mean - np.percentile(mean, 5)
    second = float((mean * (a[disc] ** 2 + b[disc] ** 2)).sum() / mean.sum()) / 2
    # A disc of even grey has a variance of a quarter of its squared radius along each axis.
    return float(np.sqrt(max(second - settings.radius_mm**2 / 4, 0.2**2)))


def _sections(
    scan: Volume, origin: Array, direction: Array, s: Array, settings: NeedleSettings
) -> tuple[Array, Array]:
    """(mass (S,), centroid (S, 3)) of each cross-section; NaN where it leaves the scan."""
    u, v = across(direction)
    a, b, disc, _ = _disc(settings)
    above = _above(scan, origin, direction, s, settings)
    mass = above.mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # The core only: surroundings of uneven grey would pull the centroid.
        core = np.clip(above - 0.25 * above.max(axis=1, keepdims=True), 0, None)
        total = core.sum(axis=1)
        ca, cb = (core * a[disc]).sum(axis=1) / total, (core * b[disc]).sum(axis=1) / total
    centroid = origin + s[:, None] * direction + ca[:, None] * u + cb[:, None] * v
    return mass, centroid
