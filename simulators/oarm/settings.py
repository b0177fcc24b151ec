"""The scanner, how the patient lies, and the grid of the scan that follows from both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from simulators.oarm.motion import Motion

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScanSettings:
    """The scanner and how the patient lies. Frame, voxel and blur as in reference/geometry.md section 7.

    The default pose is prone, turned by `turn_deg` about an axis drawn from `seed` and shifted by `shift_mm`
    relative to the planning CT. Grey values are `grey_scale * HU + grey_offset`, which is not HU, cut at
    `grey_maximum` when given (some exports stop at 3071).
    """

    columns: int = 512
    slices: int = 192
    pixel_mm: float = 0.415
    increment_mm: float = 0.833
    field_mm: float = 200.0
    blur_fwhm_mm: float = 0.7
    noise_sd: float = 55.0
    grey_scale: float = 0.82
    grey_offset: float = 70.0
    grey_maximum: float | None = None
    cupping: float = 60.0
    metal_hu: float = 7000.0
    blooming: float = 0.05
    streaks: float = 1.0
    turn_deg: float = 11.0
    shift_mm: tuple[float, float, float] = (31.0, -22.0, 44.0)
    centre_offset_mm: tuple[float, float, float] = (4.0, -9.0, 6.0)
    """Where the middle of the field lies relative to the scanned spot: nobody centres exactly."""
    neighbour_mm: float = 1.5
    neighbour_deg: float = 1.5
    """Own motion per level of distance from the target; only a phantom can be scanned this way."""
    neighbour_seed: int | None = None
    """Draws the neighbours' motion; None takes `seed`. Scans that share it share the time to render the phantom."""
    cement_hu: float = 2300.0
    wedge_after: float | None = None
    """Share of the anterior height still lost in this scan; None as in the planning CT. Only a phantom can do it."""
    motion: Motion | None = None
    """The patient's movement while the gantry turns; None lies still."""
    seed: int = 1


def small_settings(**changes: Any) -> ScanSettings:
    """A smaller field with coarser pixels for tests; slices as in the full scan."""
    return replace(ScanSettings(columns=256, slices=120, pixel_mm=0.6, field_mm=148.0), **changes)


def pose(settings: ScanSettings, focus: Array) -> Array:
    """`preop_from_scan` (4,4): turned about `focus` (LPS mm of the planning CT) and shifted."""
    rng = np.random.default_rng([settings.seed, 17])
    way = rng.standard_normal(3)
    turn = Rotation.from_rotvec(np.deg2rad(settings.turn_deg) * way / np.linalg.norm(way)).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = turn
    matrix[:3, 3] = focus - turn @ (focus + np.asarray(settings.shift_mm))
    return matrix


def scan_grid(settings: ScanSettings, centre: Array) -> Array:
    """`scan_from_ijk` (4,4) of a prone patient: rows run to the right, columns to the front, slices to the head."""
    steps = np.array([-settings.pixel_mm, -settings.pixel_mm, settings.increment_mm])
    matrix = np.diag([*steps, 1.0])
    middle = 0.5 * (np.array([settings.columns, settings.columns, settings.slices]) - 1.0)
    matrix[:3, 3] = np.round(centre - steps * middle, 4)
    return matrix
