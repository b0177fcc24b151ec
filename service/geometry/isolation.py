"""Isolate one vertebra from a CT: by fitting shapes to it, or from a mask made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.errors import GeometryError
from service.geometry.anatomy import BodyField, BodyName, Isolation, Quality, Seeds
from service.geometry.bone_edge import SurfaceSettings
from service.geometry.drawn_edits import DrawnEdits, drawn_edits
from service.geometry.evidence import Evidence
from service.geometry.isolation_checks import (
    GateSettings,
    check_order,
    check_seeds,
    judge,
    refuse_cut_vertebra,
    refuse_implausible,
    refuse_weak_fit,
    surface_measures,
)
from service.geometry.labelling import LabellingSettings, grow_processes, label_target, solid_of
from service.geometry.landmarks import find_landmarks
from service.geometry.mesh_grid import without_holes
from service.geometry.outer_surface import outer_surface
from service.geometry.progress import Progress, silent
from service.geometry.refit import refit_spine
from service.geometry.spine_fit import FitSettings, FitStart, SpineFit, fit_spine
from service.geometry.surface_aid import check_surface_points, near_points, surface_off_mm
from service.geometry.volume import Volume

Array = NDArray[np.float64]


@dataclass(frozen=True)
class IsolationSettings:
    """Settings of all stages; the defaults are the ones measured."""

    fit: FitSettings = field(default_factory=FitSettings)
    labelling: LabellingSettings = field(default_factory=LabellingSettings)
    surface: SurfaceSettings = field(default_factory=SurfaceSettings)
    gates: GateSettings = field(default_factory=GateSettings)
    crop_margin_mm: float = 12.0


def isolate_vertebra(
    ct: Volume,
    level: str,
    seeds: Seeds,
    *,
    settings: IsolationSettings | None = None,
    progress: Progress = silent,
) -> Isolation:
    """Isolate `level` by fitting vertebra shapes to it and its neighbours.

    Parameters
    ----------
    ct : HU; any grid.
    seeds : LPS mm near the body centres; the neighbours are searched when not given.

    Raises
    ------
    GeometryError
        `geometry.seed_outside`, `geometry.seed_in_air`, `geometry.seed_off_bone`, `geometry.seed_order`,
        `geometry.cut_vertebra`, `geometry.endplate_points`, `geometry.surface_points`,
        `geometry.no_vertebra`, `geometry.landmarks`: nothing that could be trusted was found.
    """
    return isolate_resumable(ct, level, seeds, settings=settings, progress=progress)[0]


def isolate_resumable(
    ct: Volume,
    level: str,
    seeds: Seeds,
    *,
    start: FitStart | None = None,
    settings: IsolationSettings | None = None,
    progress: Progress = silent,
) -> tuple[Isolation, FitStart]:
    """`isolate_vertebra`, and what the next call may start from after points were moved, added or taken away.

    start : of a fit of this level in this CT; used as far as the points lead to where it had found the vertebrae. The
        measure `resumed_fit` says that it was. A start that was used is handed back as it is, so that many small
        corrections do not drift.
    """
    use = settings or IsolationSettings()
    check_seeds(ct, seeds, use.gates)
    check_order(level, seeds, use.gates)
    if seeds.surface is not None:
        check_surface_points(ct, seeds.surface)

    def tell(stage: str, fraction: float) -> None:
        progress(stage, 0.8 * fraction)

    fit = refit_spine(ct, level, seeds, start, settings=use.fit, progress=tell) if start else None
    if fit is None:
        fit = fit_spine(ct, level, seeds, settings=use.fit, progress=tell)
    return _isolation_of(ct, level, seeds, fit, use, progress), fit.start


def _isolation_of(
    ct: Volume, level: str, seeds: Seeds, fit: SpineFit, use: IsolationSettings, progress: Progress
) -> Isolation:
    """From the fitted shapes to the bone's voxels, surface and landmarks."""
    refuse_weak_fit(fit, level, seeds, use.gates)
    refuse_cut_vertebra(ct, fit.target.vertices, level, use.gates)
    progress("labelling the bone", 0.75)
    marked = None if seeds.surface is None else near_points(fit.evidence, seeds.surface)
    soft = label_target(fit.evidence, fit.distance, fit.neighbour_distance, use.labelling, marked=marked)
    if level in use.labelling.process_levels:
        soft = grow_processes(fit.evidence, soft, fit.distance, fit.neighbour_distance, use.labelling)
    mask = _native_mask(ct, fit.evidence, soft, use.crop_margin_mm)
    refuse_implausible(mask, level, use.gates)
    progress("taking the surface", 0.82)
    surface = outer_surface(ct, mask, settings=use.surface)
    progress("finding the landmarks", 0.94)
    with ThreadPoolExecutor(1) as beside:
        body = beside.submit(inside_surface, surface.field, mask, ct)
        measures = beside.submit(lambda: surface_measures(ct, body.result(), surface, use.gates))
        landmarks = find_landmarks(surface.field, level, fit.target.pose.axes)
        mask = body.result()
        off_mm = None if seeds.surface is None else surface_off_mm(surface.field, seeds.surface)
        quality = judge(
            measures.result(), landmarks, level, use.gates, fit=fit, seeds=seeds, points_off_mm=off_mm
        )
    progress("isolated", 1.0)
    return Isolation(
        level, mask, surface.field, landmarks, quality, "fitted", surface.taken, _neighbours(fit)
    )


def isolation_from_mask(
    ct: Volume,
    mask: Volume,
    level: str,
    *,
    handed_out: Volume | None = None,
    settings: IsolationSettings | None = None,
    progress: Progress = silent,
) -> Isolation:
    """The same from a mask of the one vertebra (non-zero inside; any grid in the CT's frame).

    The mask is brought to the CT's grid, its largest body kept and filled; how much of it hung apart and is left out is
    the measure `mask_dropped_ml`, and said.

    handed_out : the mask of this CT that a person edited to make this one, on the CT's voxels: what was erased or
        painted then is so for the surface as well, whatever the CT shows there (`drawn_edits`).

    Raises
    ------
    GeometryError
        `geometry.empty_mask`, `geometry.mask_frame`, `geometry.no_vertebra`, `geometry.landmarks`.
    """
    use = settings or IsolationSettings()
    _same_frame(ct, mask)
    progress("reading the mask", 0.1)
    native, dropped_ml = _mask_on_ct(ct, mask, use.crop_margin_mm)
    refuse_implausible(native, level, use.gates)
    progress("taking the surface", 0.4)
    threshold_hu = use.surface.threshold_hu
    drawn = drawn_edits(ct, handed_out, native, threshold_hu=threshold_hu) if handed_out else None
    surface = outer_surface(drawn.ct if drawn and drawn.ct else ct, native, settings=use.surface)
    progress("finding the landmarks", 0.8)
    landmarks = find_landmarks(surface.field, level)
    measures = surface_measures(ct, native, surface, use.gates) | {"mask_dropped_ml": round(dropped_ml, 3)}
    quality = judge(measures, landmarks, level, use.gates)
    progress("isolated", 1.0)
    return Isolation(
        level, native, surface.field, landmarks, _with_drawn(quality, drawn), "mask", surface.taken
    )


_ANOTHER_MASK = (
    "The mask given is not taken for an edit of the one handed out, as most of its outline or its voxels are others: "
    "its surface follows the CT, so that a thin layer that was erased may have come back. Look at the slices."
)


def _with_drawn(quality: Quality, drawn: DrawnEdits | None) -> Quality:
    if drawn is None:
        return quality
    if drawn.ct is None:
        return replace(quality, reasons=(*quality.reasons, _ANOTHER_MASK))
    words = (
        f"The mask handed out was edited by hand: {drawn.erased_ml:.2f} mL erased, "
        f"{drawn.painted_ml:.2f} mL painted."
    )
    measures = {"drawn_out_ml": drawn.erased_ml, "drawn_in_ml": drawn.painted_ml}
    return replace(quality, reasons=(*quality.reasons, words), measures=quality.measures | measures)


def _neighbours(fit: SpineFit) -> tuple[BodyField, ...]:
    """The fitted shapes of the levels above and below."""
    field = fit.evidence.volume(fit.neighbour_distance)
    found = []
    names: tuple[BodyName, ...] = ("above", "below")
    for name, shape in zip(names, fit.neighbours, strict=True):
        left, posterior, up = shape.pose.axes.T
        axes = np.column_stack([left, -posterior, up])
        found.append(BodyField(name, field, shape.pose.centre, axes, exact=False))
    return tuple(found)


def _native_mask(ct: Volume, evidence: Evidence, soft: NDArray[np.float32], margin_mm: float) -> Volume:
    solid = solid_of(soft)
    index = np.argwhere(solid)
    if not len(index):
        raise GeometryError(
            "No bone was found for this vertebra.",
            next_step="Check seed and level, or give a mask.",
            code="geometry.no_vertebra",
        )
    low = evidence.origin + evidence.step_mm * index.min(axis=0)[::-1]
    high = evidence.origin + evidence.step_mm * index.max(axis=0)[::-1]
    part = ct.crop_to_lps_box((low + high) / 2, (high - low) / 2 + margin_mm)
    # The filled solid, with the soft boundary kept where there is one, so that the CT's finer grid is used.
    member = np.where(solid, np.maximum(soft, 0.501), np.minimum(soft, 0.499)).astype(np.float32)
    return _where(evidence.volume(member), solid, part, ct, outside=0.0, inside=lambda values: values > 0.5)


def inside_surface(field: Volume, part: Volume, ct: Volume) -> Volume:
    """The voxels of `part`'s grid inside the surface, so that the mask handed out is the bone modelled."""
    return _where(field, field.values < 0, part, ct, outside=8.0, inside=lambda values: values < 0)


def _where(
    source: Volume,
    solid: NDArray[np.bool_],
    part: Volume,
    ct: Volume,
    *,
    outside: float,
    inside: Callable[[NDArray[np.float32]], NDArray[np.bool_]],
) -> Volume:
    """The body of voxels of `part`'s grid where `source` is `inside`; asked only around its own `solid` voxels."""
    k, j, i = ndimage.find_objects(solid.astype(np.uint8))[0]
    corners = product(*((s.start - 1.0, s.stop) for s in (i, j, k)))
    places = part.to_ijk(source.to_lps(np.array(list(corners))))
    size = part.values.shape[::-1]
    low = np.clip(np.floor(places.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(places.max(axis=0)) + 1, low, size).astype(int)
    values = np.zeros(part.values.shape, dtype=np.uint8)
    if np.all(high > low):
        box = part.crop((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        shape = (box.values.shape[0], box.values.shape[1], box.values.shape[2])
        affine = box.lps_from_ijk
        found = source.resampled(affine[:3, 3], affine[:3, :3], shape, outside=outside)
        values[low[2] : high[2], low[1] : high[1], low[0] : high[0]] = _body(inside(found.values))
    return Volume(values, part.lps_from_ijk, ct.frame_of_reference_uid)


def _body(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest body, its holes filled."""
    return without_holes(cc3d.largest_k(values, k=1, connectivity=6) > 0)


def _same_frame(ct: Volume, mask: Volume) -> None:
    known = ct.frame_of_reference_uid and mask.frame_of_reference_uid
    if known and ct.frame_of_reference_uid != mask.frame_of_reference_uid:
        raise GeometryError(
            "The mask belongs to another frame of reference than the CT.",
            next_step="Give the mask that was made on this very series.",
            code="geometry.mask_frame",
        )


def _mask_on_ct(ct: Volume, mask: Volume, margin_mm: float) -> tuple[Volume, float]:
    """The mask's body on the CT's voxels, and the mL of the mask that are no part of it."""
    index = np.argwhere(mask.values)
    if not len(index):
        raise GeometryError(
            "The mask of the vertebra is empty.",
            next_step="Give a mask in which the vertebra's voxels are not zero.",
            code="geometry.empty_mask",
        )
    points = mask.to_lps(np.array([index.min(axis=0)[::-1], index.max(axis=0)[::-1]]))
    corners = mask.to_lps(
        np.array(
            [
                [index[:, 2 - a].min() if n >> a & 1 else index[:, 2 - a].max() for a in range(3)]
                for n in range(8)
            ]
        )
    )
    low, high = np.vstack([points, corners]).min(axis=0), np.vstack([points, corners]).max(axis=0)
    if not ct.contains(((low + high) / 2)[None])[0]:
        raise GeometryError(
            "The mask lies outside the CT.",
            next_step="Give the mask that was made on this very series.",
            code="geometry.mask_frame",
        )
    part = ct.crop_to_lps_box((low + high) / 2, (high - low) / 2 + margin_mm)
    # A coarser mask is taken over as a distance, which does not carry its voxels' stairs to the finer grid.
    ijk_from_ijk = np.linalg.inv(mask.lps_from_ijk) @ part.lps_from_ijk
    values = ndimage.affine_transform(
        (mask.values != 0).astype(np.float32),
        ijk_from_ijk[:3, :3][::-1, ::-1],
        offset=ijk_from_ijk[:3, 3][::-1],
        output_shape=part.values.shape,
        order=1,
        cval=0.0,
    )
    given = values > 0.5
    body = _body(given)
    # of the voxels given, so that holes that were filled do not make up for a piece that is left out
    dropped_ml = float(np.count_nonzero(given & ~body)) * part.voxel_ml
    return Volume(body.astype(np.uint8), part.lps_from_ijk, ct.frame_of_reference_uid), dropped_ml
