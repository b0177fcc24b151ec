"""Distances and connected parts of voxel masks (K, J, I) on an isotropic grid."""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray

from service.geometry.mesh_grid import unsigned_edt

Field = NDArray[np.float32]


def distance_to(mask: NDArray[np.bool_], step_mm: float) -> Field:
    """Distance from each voxel centre to the nearest true voxel centre, mm (zero inside the mask)."""
    return unsigned_edt(~mask, (step_mm,) * 3)


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.uint32], int]:
    """6-connected components: labels (1..n, zero outside) and n."""
    labels, count = cc3d.connected_components(mask, connectivity=6, return_N=True)
    return np.asarray(labels, dtype=np.uint32), int(count)
