"""From grey values of the planning CT, or of the rendered phantom, to what attenuates: soft tissue and bone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulators.oarm.needle import Cement, Needle, voxel_share
from simulators.oarm.physics.attenuation import per_mm
from simulators.oarm.physics.settings import PhysicsSettings
from simulators.oarm.source import SOFT_HU, Source

Array = NDArray[np.float64]
Single = NDArray[np.float32]

SOFT_TOP_HU = 60.0
"""Above this a grey value is a mixture of soft tissue and bone."""
TISSUE_HU = -300.0
"""Below this is air."""


@dataclass(frozen=True, eq=False)
class Body:
    """What is in the beam, in the frame of the planning CT.

    `bone` (k,j,i) is the share of cortical bone; `soft` (k,j,i), coarser, the density of soft tissue relative to water
    less that of the trunk, which goes on outside the volumes. Needles and cement are left out of both.
    """

    bone: Single
    bone_from_ijk: Array
    soft: Single
    soft_from_ijk: Array
    trunk_centre: Array
    trunk_mm: tuple[float, float]
    trunk_density: float


def make_body(
    source: Source, needles: Sequence[Needle], cement: Sequence[Cement], settings: PhysicsSettings
) -> Body:
    """Divide the source into materials; each voxel keeps its attenuation at `settings.reference_kev`."""
    hu, matrix = source.hu, source.preop_from_ijk
    kev = np.array([settings.reference_kev])
    cortical_hu = 1000.0 * (float(per_mm("bone", kev)[0] / per_mm("water", kev)[0]) - 1.0)
    bone = np.clip((hu - SOFT_TOP_HU) / np.float32(cortical_hu - SOFT_TOP_HU), 0.0, None).astype(np.float32)
    soft = np.clip(1.0 + np.minimum(hu, SOFT_TOP_HU) / np.float32(1000.0), 0.0, None).astype(np.float32)
    soft *= np.clip(1.0 - bone, 0.0, 1.0)
    shapes: list[Needle | Cement] = [*needles, *cement]
    for shape in shapes:
        box, share = voxel_share(shape, (hu.shape[0], hu.shape[1], hu.shape[2]), matrix)
        bone[box] *= 1.0 - share
        soft[box] *= 1.0 - share
    centre, density = _trunk_centre(hu, matrix, settings.trunk_mm), 1.0 + SOFT_HU / 1000.0
    soft -= np.float32(density) * _in_oval(hu.shape, matrix, centre, settings.trunk_mm)
    soft, soft_from_ijk = _halved(soft, matrix)
    return Body(*_cropped(bone, matrix), soft, soft_from_ijk, centre, settings.trunk_mm, density)


def _cropped(values: Single, matrix: Array) -> tuple[Single, Array]:
    """The smallest box that holds all that is not nothing: rays are cast through bone only where there is some."""
    low, high = [], []
    for axis in range(3):
        used = np.flatnonzero(values.any(axis=tuple(a for a in range(3) if a != axis)))
        low.append(max(int(used[0]) - 1, 0) if len(used) else 0)
        high.append(int(used[-1]) + 2 if len(used) else 2)
    part = values[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    moved = matrix.copy()
    moved[:3, 3] += matrix[:3, :3] @ np.array(low[::-1], dtype=np.float64)
    return part, moved


def _trunk_centre(hu: Single, matrix: Array, half_axes: tuple[float, float]) -> Array:
    """Middle (x, y) of the trunk, LPS mm: as far from the skin behind the middle column as the trunk is thick."""
    middle = hu[len(hu) // 2]
    tissue = np.argwhere(middle > TISSUE_HU)[:, ::-1]
    if not len(tissue):
        raise ValueError("the middle slice of the planning CT shows no tissue")
    index = np.column_stack([tissue, np.full(len(tissue), len(hu) // 2)])
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    x = float(np.mean([points[:, 0].min(), points[:, 0].max()]))
    column = points[np.abs(points[:, 0] - x) < 5.0]
    return np.array([x, float(column[:, 1].max()) - half_axes[1]])


def _in_oval(
    shape: tuple[int, ...], matrix: Array, centre: Array, half_axes: tuple[float, float]
) -> NDArray[np.bool_]:
    k, j, i = (np.arange(n, dtype=np.float32) for n in shape)
    gauge = np.zeros(shape, dtype=np.float32)
    for row in (0, 1):
        m = matrix[row].astype(np.float32)
        place = (m[2] * k)[:, None, None] + (m[1] * j)[None, :, None] + (m[0] * i)[None, None, :] + m[3]
        gauge += ((place - np.float32(centre[row])) / np.float32(half_axes[row])) ** 2
    return np.asarray(gauge <= 1.0)


def _halved(values: Single, matrix: Array) -> tuple[Single, Array]:
    """Means of two by two by two voxels: soft tissue is smooth, and casting it takes most of the time else."""
    k, j, i = (n // 2 * 2 for n in values.shape)
    part = values[:k, :j, :i].reshape(k // 2, 2, j // 2, 2, i // 2, 2).mean(axis=(1, 3, 5), dtype=np.float32)
    coarse = matrix.copy()
    coarse[:3, :3] *= 2.0
    coarse[:3, 3] += matrix[:3, :3] @ np.full(3, 0.5)
    return np.asarray(part, dtype=np.float32), coarse
