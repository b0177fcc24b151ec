"""Gates of the isolation: what is refused in words, and how far the rest may be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from service.errors import GeometryError
from service.geometry.anatomy import Landmarks, Quality, Seeds
from service.geometry.cortex_edge import CortexEdge
from service.geometry.outer_surface import OuterSurface
from service.geometry.spine_fit import TYPICAL_GAP_MM, SpineFit, gap_share
from service.geometry.surface_aid import findings_of
from service.geometry.volume import Volume

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GateSettings:
    """Limits of the gates; ours, set on the data described in the accuracy notes."""

    volume_ml: tuple[float, float] = (12.0, 110.0)
    usual_volume_ml: tuple[float, float] = (20.0, 90.0)
    air_hu: float = -250.0
    bone_hu: float = 130.0
    """Above muscle and most enhanced organs; only a coarse gate, the fit itself is the finer one."""
    min_bone_share: float = 0.04
    bone_radius_mm: float = 18.0
    gap_share: tuple[float, float] = (0.4, 1.75)
    """Allowed distance of neighbouring points, of the usual one at the level: beyond it a vertebra was skipped or
    two points lie in the same one. A tall adult and points 5 mm off stay within."""
    metal_hu: float = 2500.0
    metal_ml: float = 0.02
    """Above the densest bone; a volume above that of noise and of a calcification."""
    dropped_ml: tuple[float, float] = (0.05, 0.5)
    """Of a mask in pieces: what is left out is said from the first on, which is more than stray voxels of a brush;
    beyond the second, a fragment or the tip of a process, a person has to look."""
    max_outside_share: float = 0.05
    min_fit_score: float = 0.22
    moved_seed_mm: float = 8.0
    lost_seed_mm: float = 16.0
    deformed_share: float = 0.75
    crushed_share: float = 0.68
    """Below this share of height left somewhere, a fit without endplate points is not trusted."""
    neighbour_gap_share: tuple[float, float] = (0.6, 1.4)
    """Distance of a neighbour found, of what the size of the vertebra lets expect; beyond it one of the two is not
    where a vertebra is."""
    short_gap_share: float = 0.84
    """Nearer than this a neighbour may not fit better than the vertebra itself, as it does when that spans a disc."""
    weak_surface_share: float = 0.35
    weak_surface_factor: tuple[float, float] = (0.8, 0.3)
    """What is left of the confidence at that share, and where nothing of the surface reaches the threshold."""
    template_spread_mm: float = 1.2
    review_levels: tuple[str, ...] = ("T8", "T9", "T10", "L5")
    """Levels at which the method is known to be weak: always for a person to look at."""
    confidence_bar: float = 0.5


def check_seeds(ct: Volume, seeds: Seeds, gates: GateSettings) -> None:
    """Refuse seeds outside the scan, in air, or far from any bone."""
    for name, point in (("target", seeds.target), ("upper", seeds.above), ("lower", seeds.below)):
        if point is None:
            continue
        if not np.all(np.isfinite(point)) or not ct.contains(np.asarray(point)[None])[0]:
            raise GeometryError(
                f"The {name} point lies outside the scan.",
                next_step="Give the point in LPS mm of this CT (x to the left, y to the back, z to the head).",
                code="geometry.seed_outside",
            )
        values = ct.sample(_ball(np.asarray(point, dtype=np.float64), gates.bone_radius_mm), outside=-1000.0)
        near = ct.sample(_ball(np.asarray(point, dtype=np.float64), 5.0), outside=-1000.0)
        if float(np.median(near)) < gates.air_hu:
            raise GeometryError(
                f"The {name} point lies in air.",
                next_step="Place it in the middle of the vertebral body.",
                code="geometry.seed_in_air",
            )
        if float(np.mean(values > gates.bone_hu)) < gates.min_bone_share:
            raise GeometryError(
                f"There is hardly any bone around the {name} point.",
                next_step="Place it in the middle of the vertebral body.",
                code="geometry.seed_off_bone",
            )


def check_order(level: str, seeds: Seeds, gates: GateSettings) -> None:
    """Refuse points that cannot lie in three vertebrae one below the other."""
    usual = TYPICAL_GAP_MM[level]
    for name, point, up in (("upper", seeds.above, 1.0), ("lower", seeds.below, -1.0)):
        if point is None:
            continue
        step = np.asarray(point, dtype=np.float64) - np.asarray(seeds.target, dtype=np.float64)
        gap = float(np.linalg.norm(step))
        if up * step[2] <= 0:
            fault = f"does not lie {'above' if up > 0 else 'below'} the target point"
        elif gap < gates.gap_share[0] * usual:
            fault = f"lies {gap:.0f} mm from the target point, within one vertebra"
        elif gap > gates.gap_share[1] * usual:
            fault = f"lies {gap:.0f} mm from the target point, so a vertebra between them was skipped"
        else:
            continue
        raise GeometryError(
            f"The {name} point {fault}.",
            next_step=f"Place the target in the body of {level}, the others in the next vertebrae above and below.",
            code="geometry.seed_order",
        )


def _ball(centre: Array, radius: float) -> Array:
    ticks = np.linspace(-radius, radius, 13)
    grid = np.stack(np.meshgrid(ticks, ticks, ticks), axis=-1).reshape(-1, 3)
    return np.asarray(centre + grid[np.linalg.norm(grid, axis=1) <= radius])


def refuse_weak_fit(fit: SpineFit, level: str, seeds: Seeds, gates: GateSettings) -> None:
    """Refuse when nothing like a vertebra was found near the seed."""
    moved = float(np.linalg.norm(fit.rigid_centre - seeds.target))
    if fit.target.score < gates.min_fit_score or moved > gates.lost_seed_mm:
        raise GeometryError(
            f"No vertebra like {level} was found at the point given.",
            next_step="Place the point in the middle of the body, check the level, or give a mask.",
            code="geometry.no_vertebra",
            details={"fit_score": round(fit.target.score, 3), "moved_mm": round(moved, 1)},
        )


def outside_share(ct: Volume, vertices: Array) -> float:
    """Share 0..1 of surface points (N, 3) beyond the scan."""
    return float(1.0 - ct.contains(vertices).mean())


def refuse_cut_vertebra(ct: Volume, vertices: Array, level: str, gates: GateSettings) -> None:
    """Refuse a vertebra of which the scan holds only a part."""
    share = outside_share(ct, vertices)
    if share > gates.max_outside_share:
        raise GeometryError(
            f"{level} is cut by the edge of the scan: about {100 * share:.0f} % of its surface lies beyond.",
            next_step="Choose a vertebra that the scan shows whole, or use a longer scan.",
            code="geometry.cut_vertebra",
            details={"outside_share": round(share, 3)},
        )


def refuse_implausible(mask: Volume, level: str, gates: GateSettings) -> None:
    """Refuse a mask that is far from the size of a vertebra."""
    volume = float(np.count_nonzero(mask.values)) * mask.voxel_ml
    low, high = gates.volume_ml
    if not low <= volume <= high:
        raise GeometryError(
            f"What was isolated as {level} measures {volume:.1f} mL; a vertebra has {low:g} to {high:g} mL.",
            next_step="Check seeds, level or mask.",
            code="geometry.no_vertebra",
            details={"volume_ml": round(volume, 1)},
        )


def judge(
    measures: dict[str, float],
    landmarks: Landmarks,
    level: str,
    gates: GateSettings,
    *,
    fit: SpineFit | None = None,
    seeds: Seeds | None = None,
    points_off_mm: Array | None = None,
) -> Quality:
    """Confidence 0..1 with reasons, worst first, from `surface_measures`.

    Each finding takes its share off; they multiply. What is measured of the fit is added to the measures handed out.

    points_off_mm : (M,) how far the surface lies from each surface point of a person, when there are any.
    """
    measures = dict(measures)
    found: list[tuple[float, str]] = []
    # A mask was drawn by someone who saw the endplates; a fit has to be shown those of a crushed body.
    marked = fit is None or (seeds is not None and seeds.endplates is not None)
    _judge_shape(found, measures, landmarks, level, gates, marked=marked)
    if fit is not None and seeds is not None:
        _judge_fit(found, measures, fit, seeds, gates)
    if points_off_mm is not None:
        findings_of(points_off_mm, found, measures)
    _judge_dropped(found, measures.get("mask_dropped_ml", 0.0), gates)
    found.sort(key=lambda item: item[0])
    confidence = float(np.prod([factor for factor, _ in found])) if found else 1.0
    return Quality(round(confidence, 3), tuple(text for _, text in found), measures)


def surface_measures(
    ct: Volume, mask: Volume, surface: OuterSurface, gates: GateSettings
) -> dict[str, float]:
    """What the surface and its mask say of themselves; units in the names."""
    field = surface.field
    solid = field.values < 0
    # Face-, edge- and vertex-consistent Euler number of the solid: 1 body - tunnels + voids.
    euler = euler_number(solid)
    return {
        "volume_ml": round(float(np.count_nonzero(solid)) * field.voxel_ml, 2),
        "share_without_threshold": round(surface.share_without_threshold, 4),
        "surface_moved_mm": round(surface.taken.moved_mm, 4),
        **_edge_measures(surface.edge),
        "edge_voxels": float(_edge_voxels(ct, mask)),
        "tunnels": float(1 - euler),
        "metal_ml": metal_ml(ct, mask, gates),
    }


def _edge_measures(edge: CortexEdge) -> dict[str, float]:
    """What the CT shows of the cortex's edge; a key is missing where it does not show it."""
    found: dict[str, float] = {}
    if edge.bias_mm is not None:
        found |= {"threshold_bias_mm": round(edge.bias_mm, 4), "edge_seen_share": round(edge.seen_share, 4)}
    if edge.blur is not None:
        found |= {
            "cortex_hu": round(edge.blur.cortex_hu, 1),
            "blur_in_plane_mm": round(edge.blur.in_plane_mm, 3),
            "blur_between_slices_mm": round(edge.blur.between_slices_mm, 3),
        }
    return found


def euler_number(solid: NDArray[np.bool_]) -> int:
    """Bodies - tunnels + voids of the solid (Z, Y, X) whose voxels hang together by their faces.

    Corners - edges + squares - cubes of the lattice of its voxel centres.
    """
    total = 0
    for axes in product((False, True), repeat=3):
        part = solid
        for axis in np.flatnonzero(axes):
            lines = np.moveaxis(part, axis, 0)
            part = np.moveaxis(lines[1:] & lines[:-1], 0, axis)
        total += (-1) ** sum(axes) * int(np.count_nonzero(part))
    return total


def _first_voxel(ct: Volume, mask: Volume) -> NDArray[np.intp]:
    """(3,) index (k, j, i) in the CT of the first voxel of a mask that lies on the CT's voxels."""
    return np.asarray(np.rint(ct.to_ijk(mask.to_lps(np.zeros((1, 3))))[0])[::-1].astype(np.intp))


def _edge_voxels(ct: Volume, mask: Volume) -> int:
    """How many voxels of the mask lie in the outermost layers of the scan."""
    sizes = zip(_first_voxel(ct, mask), ct.values.shape, strict=True)
    inner = tuple(slice(max(0, 1 - first), max(0, size - 1 - first)) for first, size in sizes)
    return int(np.count_nonzero(mask.values) - np.count_nonzero(mask.values[inner]))


def metal_ml(ct: Volume, mask: Volume, gates: GateSettings) -> float:
    """Volume of what is too dense for bone within the mask's own grid, which lies on the CT's voxels."""
    k, j, i = _first_voxel(ct, mask)
    depth, rows, columns = mask.values.shape
    part = ct.values[k : k + depth, j : j + rows, i : i + columns]
    return round(float(np.count_nonzero(part > gates.metal_hu)) * ct.voxel_ml, 3)


def _judge_shape(
    found: list[tuple[float, str]],
    measures: dict[str, float],
    landmarks: Landmarks,
    level: str,
    gates: GateSettings,
    *,
    marked: bool,
) -> None:
    low, high = gates.usual_volume_ml
    if not low <= measures["volume_ml"] <= high:
        found.append((0.6, f"The volume of {measures['volume_ml']:.0f} mL is unusual for a vertebra."))
    if measures["metal_ml"] > gates.metal_ml:
        found.append(
            (
                0.6,
                f"{measures['metal_ml']:.2f} mL of metal lie in or beside the vertebra: its streaks may have moved "
                "the surface.",
            )
        )
    if measures["edge_voxels"] > 0:
        found.append((0.6, "The vertebra touches the edge of the scan and may be cut."))
    if measures["tunnels"] > 1:
        found.append(
            (
                0.8,
                f"The bone has {measures['tunnels']:.0f} openings through it; the canal should be the only one.",
            )
        )
    if len(landmarks.pedicles) < 2:
        found.append((0.4, "Not both pedicles were found."))
    for name, plate in (("upper", landmarks.upper_endplate), ("lower", landmarks.lower_endplate)):
        if not plate.fitted:
            found.append(
                (0.7, f"The {name} endplate could not be fitted and was taken from the body's axis.")
            )
    heights = [h for h in landmarks.height_mm.values() if np.isfinite(h)]
    if heights:
        _judge_heights(found, min(heights) / max(heights), gates, marked=marked)
    if measures["share_without_threshold"] > gates.weak_surface_share:
        share = measures["share_without_threshold"]
        factor = np.interp(share, (gates.weak_surface_share, 1.0), gates.weak_surface_factor)
        found.append(
            (
                float(factor),
                f"{100 * share:.0f} % of the surface never reaches the bone threshold and follows the soft boundary.",
            )
        )
    if level in gates.review_levels:
        found.append((0.7, f"At {level} the method is known to be weak: a person has to look at the result."))


def _judge_dropped(found: list[tuple[float, str]], dropped_ml: float, gates: GateSettings) -> None:
    """`dropped_ml`: of a mask, what hangs apart from its largest body and is not in the model."""
    said, much = gates.dropped_ml
    if dropped_ml < said:
        return
    words = (
        f"{dropped_ml:.2f} mL of the mask hang apart from its largest piece and are left out: if they are bone of the "
        "vertebra, join them to it in the mask."
    )
    # Below the bar by itself: the model is then without bone that someone drew.
    found.append((0.45 if dropped_ml > much else 1.0, words))


def _judge_heights(
    found: list[tuple[float, str]], share: float, gates: GateSettings, *, marked: bool
) -> None:
    """`share`: least over greatest height of the body."""
    if share >= gates.deformed_share:
        return
    if marked:
        found.append((0.85, "The body is deformed (fracture?): check the endplates against the CT."))
    elif share >= gates.crushed_share:
        found.append(
            (0.75, "The body is deformed (fracture?): better mark the four endplate points in the CT.")
        )
    else:
        found.append(
            (
                0.45,
                f"The body has lost {100 * (1 - share):.0f} % of its height: the four endplate points are needed.",
            )
        )


def between_levels(
    score: float, neighbours: Sequence[tuple[float, float]], gates: GateSettings
) -> tuple[float, float] | None:
    """The neighbour (share of the distance expected, fit score) that shows that the shape spans a disc, if any.

    A point in a disc draws the shape half-way between two vertebrae: one of them is then found far too near, and fits
    better than what spans the disc, or the other far too far away.
    """
    low, high = gates.neighbour_gap_share
    for share, other in neighbours:
        if not low <= share <= high or (share < gates.short_gap_share and other > score):
            return share, other
    return None


def _judge_fit(
    found: list[tuple[float, str]],
    measures: dict[str, float],
    fit: SpineFit,
    seeds: Seeds,
    gates: GateSettings,
) -> None:
    moved = float(np.linalg.norm(fit.rigid_centre - seeds.target))
    inside = int(np.sum((fit.distance < -1.0) & (fit.neighbour_distance < -1.0)))
    overlap = float(inside) / float(max(1, int(np.sum(fit.distance < 0))))
    measures.update(
        fit_score=round(fit.target.score, 4),
        seed_moved_mm=round(moved, 2),
        neighbour_overlap=round(overlap, 4),
        template_spread_mm=round(fit.template_spread_mm, 3),
    )
    if fit.resumed:
        measures["resumed_fit"] = 1.0
    gaps = [(gap_share(fit.target, n), n.score) for n in fit.neighbours]
    measures.update(gap_above_share=round(gaps[0][0], 3), gap_below_share=round(gaps[1][0], 3))
    odd = between_levels(fit.target.score, gaps, gates)
    if odd is not None:
        found.append(
            (
                0.45,
                f"A neighbouring vertebra was found at {100 * odd[0]:.0f} % of the distance expected: the point may "
                "lie in a disc. Place it in the middle of the body.",
            )
        )
    if moved > gates.moved_seed_mm:
        found.append((0.6, f"The body found lies {moved:.0f} mm from the point given."))
    if overlap > 0.03:
        found.append(
            (0.6, f"The shapes of neighbouring vertebrae overlap by {100 * overlap:.0f} % of this one.")
        )
    if fit.template_spread_mm > gates.template_spread_mm:
        found.append(
            (0.7, f"Two fits from different shapes differ by {fit.template_spread_mm:.1f} mm on average.")
        )
