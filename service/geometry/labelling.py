"""From a fitted shape to the vertebra's own voxels: one convex cut between bone, shape and neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.geometry.evidence import Evidence
from service.geometry.mesh_grid import without_holes
from service.geometry.parallel import slabs, taking_turns

Grid = NDArray[np.float32]


@dataclass(frozen=True)
class LabellingSettings:
    """Weights of the cut, from the project's isolation study (tuned there on five vertebrae)."""

    bone_weight: float = 0.6
    shape_weight: float = 2.0
    neighbour_weight: float = 1.5
    smoothness: float = 0.7
    edge_hu_per_mm: float = 60.0
    iterations: int = 120
    reach_mm: float = 7.0
    process_reach_mm: float = 28.0
    """How far a process may reach beyond the fitted shape through bone, at the levels without ribs."""
    process_levels: tuple[str, ...] = ("L1", "L2", "L3", "L4", "L5")


def bone_threshold(evidence: Evidence, distance: Grid) -> tuple[float, float]:
    """(threshold, cortex) in HU, adapted to the patient: the cortex is the shell 0.5-3 mm inside the shape."""
    shell = evidence.hu[(distance < -0.5) & (distance > -3.0) & evidence.inside_scan]
    cortex = float(np.median(shell)) if shell.size else evidence.soft_hu + 250.0
    cortex = max(cortex, evidence.soft_hu + 60.0)
    return evidence.soft_hu + 0.65 * (cortex - evidence.soft_hu), cortex


def label_target(
    evidence: Evidence,
    distance: Grid,
    neighbour_distance: Grid,
    settings: LabellingSettings,
    *,
    marked: Grid | None = None,
) -> Grid:
    """Soft membership 0..1 (Z, Y, X) of the target; the boundary is 0.5.

    marked : share 0..1 to which a person's points, through which the shape was drawn, decide against bone and
        neighbours (`surface_aid.near_points`).

    Minimises edge-weighted total variation against the evidence (Chambolle and Pock 2011), the continuous
    form of a graph cut, within a box around the shape.
    """
    box = _box(distance < settings.reach_mm + 1.0)
    part, near = distance[box], neighbour_distance[box]
    threshold, cortex = bone_threshold(evidence, distance)
    hu = evidence.hu[box]
    bone = np.clip((hu - threshold) / (0.3 * (cortex - evidence.soft_hu)), -1.0, 1.0)
    bone = np.where((part < -2.5) & (bone < 0), 0.15 * bone, bone)
    shape = np.clip(-part / 3.0, -2.0, 1.0)
    rival = np.minimum(np.clip((near - part) / 2.0, -1.0, 1.0), 0.0)
    if marked is not None:
        bone, rival = bone * (1.0 - marked[box]), rival * (1.0 - marked[box])
    force = settings.bone_weight * bone + settings.shape_weight * shape + settings.neighbour_weight * rival
    force = np.where(part > settings.reach_mm, -2.0, force).astype(np.float32)
    slope = ndimage.gaussian_gradient_magnitude(hu, 1.0 / evidence.step_mm) / evidence.step_mm
    weight = settings.smoothness * (0.15 + 0.85 / (1.0 + (slope / settings.edge_hu_per_mm) ** 2))
    soft = np.zeros(distance.shape, dtype=np.float32)
    soft[box] = _total_variation_cut(force, weight.astype(np.float32), settings.iterations)
    return soft


def grow_processes(
    evidence: Evidence,
    soft: Grid,
    distance: Grid,
    neighbour_distance: Grid,
    settings: LabellingSettings,
) -> Grid:
    """Let the target follow its own bone beyond the shape: transverse and articular tips differ most.

    Target and neighbours spread through bone at the same pace and keep what they reach first. Not for thoracic
    levels, where the bone beside the transverse process is a rib.
    """
    box = _box(distance < settings.reach_mm + 4.0, grow=round(18.0 / evidence.step_mm))
    threshold, _ = bone_threshold(evidence, distance)
    bone = (evidence.hu[box] > threshold) & evidence.inside_scan[box]
    start = solid_of(soft)[box]
    own, theirs = start.copy(), (neighbour_distance[box] < 0) & ~start
    _spread(own, theirs, bone, steps=round(settings.process_reach_mm / evidence.step_mm))
    # Filled before whiskers are taken off: the thin walls of a process would go with them, and its marrow stay open.
    tips = own & ~start
    tips |= _marrow_of_tips(tips, start, evidence.step_mm) & ~theirs
    tips = ndimage.binary_opening(tips)
    grown = soft.copy()
    grown[box] = np.maximum(soft[box], ndimage.gaussian_filter((tips | start).astype(np.float32), 0.6))
    grown[box][~(tips | start)] = np.minimum(grown[box], 0.499)[~(tips | start)]
    return grown


def _spread(
    own: NDArray[np.bool_], theirs: NDArray[np.bool_], bone: NDArray[np.bool_], *, steps: int
) -> None:
    """Let both grow face by face through `bone`, in place; what both reach at once is the neighbours'.

    Only the voxels of the step before are asked for their neighbours, as all older ones have been.
    """
    # A border that is no bone keeps every step within the arrays.
    free = np.pad(bone & ~own & ~theirs, 1)
    strides = np.array([1, free.shape[2], free.shape[1] * free.shape[2]])
    moves = np.concatenate([strides, -strides])
    open_ = free.ravel()
    mine, rival = (np.flatnonzero(np.pad(m, 1)) for m in (own, theirs))
    grown = np.zeros((2, *free.shape), dtype=np.bool_)
    own_new, their_new = grown[0].ravel(), grown[1].ravel()
    for _ in range(steps):
        rival = _next_to(rival, moves, open_)
        wider = _next_to(mine, moves, open_)
        open_[rival] = False
        mine = wider[open_[wider]]
        open_[mine] = False
        own_new[mine] = True
        their_new[rival] = True
    own |= grown[0, 1:-1, 1:-1, 1:-1]
    theirs |= grown[1, 1:-1, 1:-1, 1:-1]


def _next_to(places: NDArray[np.intp], moves: NDArray[np.intp], free: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Flat indices of the free voxels that share a face with one of `places`, each once."""
    beside = (places[:, None] + moves).ravel()
    return np.asarray(np.unique(beside[free[beside]]))


def _marrow_of_tips(
    tips: NDArray[np.bool_], start: NDArray[np.bool_], step_mm: float, *, most_mm2: float = 60.0
) -> NDArray[np.bool_]:
    """Small holes of the cross-sections near the tips: their marrow, open towards the cut of the shape."""
    every = tips | start
    near = ndimage.binary_dilation(tips, iterations=round(4.0 / step_mm))
    marrow = np.zeros_like(every)
    for axis in range(3):
        sections, out = np.moveaxis(every, axis, 0), np.moveaxis(marrow, axis, 0)
        for n in np.flatnonzero(np.moveaxis(tips, axis, 0).any(axis=(1, 2))):
            labels = cc3d.connected_components(np.pad(~sections[n], 1, constant_values=True), connectivity=4)
            sizes = np.bincount(labels.ravel())
            hole = (sizes > 0) & (sizes * step_mm**2 <= most_mm2)
            hole[[0, labels[0, 0]]] = False  # the section itself, and what lies around it
            out[n] |= hole[labels[1:-1, 1:-1]]
    return np.asarray(ndimage.binary_closing(marrow | every, iterations=1) & near & ~start)


def solid_of(soft: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Largest face-connected body of `soft > 0.5`, holes filled."""
    labels = cc3d.largest_k(soft > 0.5, k=1, connectivity=6)
    return without_holes(labels > 0)


def _box(mask: NDArray[np.bool_], grow: int = 0) -> tuple[slice, slice, slice]:
    """Bounding box of a mask, widened by `grow` voxels within the grid."""
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    z, y, x = (
        slice(max(0, s.start - grow), min(n, s.stop + grow)) for s, n in zip(found, mask.shape, strict=True)
    )
    return z, y, x


def _total_variation_cut(force: Grid, weight: Grid, iterations: int) -> Grid:
    cut = _Cut(force, weight)
    parts = slabs(force.shape[0], force.size)
    with taking_turns() as turn:
        for _ in range(iterations):
            turn(cut.raise_dual, parts)
            turn(cut.lower_primal, parts)
            cut.u, cut.change = cut.change, cut.u
    return cut.u


class _Cut:
    """Arrays of the cut, and the two halves of an iteration on a slab of the first axis.

    Either half writes to its own slab only and reads, beyond it, nothing but what the other half has written.
    """

    step = np.float32(0.28)

    def __init__(self, force: Grid, weight: Grid) -> None:
        self.u: Grid = np.clip(0.5 + force, 0.0, 1.0).astype(np.float32)
        self.bar, self.change = self.u.copy(), np.empty_like(self.u)
        # The dual is kept divided by its step, which saves a pass over the data for each axis and iteration.
        self.dual = np.zeros((3, *self.u.shape), dtype=np.float32)
        self.bound, self.pull = weight / self.step, self.step * force

    def raise_dual(self, slab: slice) -> None:
        part, dual, bar = self.change[slab], self.dual[:, slab], self.bar
        for axis in range(3):
            low, high = _shifted(axis)
            if axis == 0:
                stop = min(slab.stop, len(bar) - 1)
                near, far = bar[slab.start : stop], bar[slab.start + 1 : stop + 1]
                low = (slice(0, stop - slab.start), slice(None), slice(None))
            else:
                near, far = bar[slab][low], bar[slab][high]
            np.subtract(far, near, out=part[low])
            dual[axis][low] += part[low]
        np.einsum("cijk,cijk->ijk", dual, dual, out=part)
        np.sqrt(part, out=part)
        np.maximum(part, 1e-9, out=part)
        np.divide(self.bound[slab], part, out=part)
        np.minimum(part, 1.0, out=part)
        dual *= part

    def lower_primal(self, slab: slice) -> None:
        change, dual = self.change[slab], self.dual[:, slab]
        np.add(dual[0], dual[1], out=change)
        change += dual[2]
        start = max(slab.start, 1)
        self.change[start : slab.stop] -= self.dual[0][start - 1 : slab.stop - 1]
        for axis in (1, 2):
            low, high = _shifted(axis)
            change[high] -= dual[axis][low]
        change *= self.step * self.step
        change += self.pull[slab]
        change += self.u[slab]
        np.clip(change, 0.0, 1.0, out=change)
        np.multiply(change, 2.0, out=self.bar[slab])
        self.bar[slab] -= self.u[slab]


def _shifted(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """All but the last, and all but the first, along an axis of three."""
    low, high = [slice(None)] * 3, [slice(None)] * 3
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    return tuple(low), tuple(high)
