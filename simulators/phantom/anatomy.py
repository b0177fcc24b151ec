"""Parameters of the spine phantom and the pose of each of its vertebrae.

Frames: LPS is patient space in mm (x left, y posterior, z head). Each vertebra has a local model frame with the
same sense (x left, y posterior, z superior) and its origin at the middle of the undamaged vertebral body.
Dimensions are rounded from common morphometry tables (Panjabi 1991/1992 for T9-L5); they are settings of a
phantom, not clinical facts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVELS = ("T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")
TARGET_LEVELS = LEVELS[2:-2]
"""A target needs two modelled vertebrae on each side: one complete neighbour and one partial."""


@dataclass(frozen=True)
class Dimensions:
    """Sizes of one undamaged vertebra, mm; `tilt_deg` leans the superior axis backward (supine posture)."""

    width_mm: float
    depth_mm: float
    height_mm: float
    disc_below_mm: float
    pedicle_width_mm: float
    pedicle_height_mm: float
    transverse_mm: float
    spinous_mm: float
    spinous_drop_mm: float
    tilt_deg: float
    rib_mm: float


DIMENSIONS: dict[str, Dimensions] = {
    "T9": Dimensions(30, 28, 21.0, 4.5, 6.2, 13.5, 14, 24, 14, 0, 90),
    "T10": Dimensions(32, 29, 22.0, 5.0, 6.6, 14.5, 13, 23, 12, 4, 85),
    "T11": Dimensions(34, 30, 22.5, 5.5, 7.4, 15.5, 11, 23, 9, 8, 70),
    "T12": Dimensions(37, 30.5, 24.0, 6.5, 7.4, 15.5, 11, 24, 7, 10, 48),
    "L1": Dimensions(41, 31, 25.5, 7.5, 7.2, 15.2, 20, 26, 6, 9, 0),
    "L2": Dimensions(43, 32, 26.5, 9.0, 7.8, 15.0, 23, 27, 5, 5, 0),
    "L3": Dimensions(45, 33, 27.0, 10.0, 9.2, 14.5, 26, 27, 5, 0, 0),
    "L4": Dimensions(47, 33.5, 27.0, 10.5, 11.0, 14.5, 24, 25, 4, -8, 0),
    "L5": Dimensions(49, 34, 26.0, 10.0, 14.0, 14.5, 24, 21, 4, -20, 0),
}


@dataclass(frozen=True)
class PhantomParameters:
    """Everything that decides the phantom; equal parameters give equal pixels.

    `wedge` is the fraction of the anterior body height lost at the target (0..0.6). `thickness_mm` acts as a slab
    average along z, `psf_sigma_mm` as an isotropic Gaussian blur, `noise_sd_hu` is the noise after both.
    """

    level: str = "L1"
    wedge: float = 0.3
    seed: int = 1
    columns: int = 256
    rows: int = 256
    pixel_mm: float = 0.55
    increment_mm: float = 0.5
    thickness_mm: float = 1.0
    margin_mm: float = 14.0
    """How far the volume reaches into the partial vertebrae at both ends."""
    psf_sigma_mm: float = 0.45
    noise_sd_hu: float = 18.0
    pedicle_width_mm: float | None = None
    """Isthmus width of the target; None takes the level's own."""
    facet_gap_mm: float = 1.6
    cortex_mm: float = 0.9
    cortex_hu: float = 760.0
    trabecular_mean_hu: float = 100.0
    trabecular_sd_hu: float = 55.0
    disc_hu: float = 88.0
    """Grey value of the discs; a degenerate or enhanced disc is brighter than muscle by far more."""
    scoliosis_deg: float = 0.0
    height_scale: float = 1.0
    longer_left_transverse_mm: float = 7.0
    """Makes left and right differ, so that a mirrored model is found out."""
    centre_lps_mm: tuple[float, float, float] = (-3.4, 21.7, -231.5)
    """Where the target's model origin lies in patient space."""

    def __post_init__(self) -> None:
        if self.level not in TARGET_LEVELS:
            raise ValueError(f"level must be one of {', '.join(TARGET_LEVELS)}, not {self.level}")
        if not 0.0 <= self.wedge <= 0.6:
            raise ValueError("wedge is a fraction of anterior height between 0 and 0.6")
        if min(self.columns, self.rows, self.pixel_mm, self.increment_mm, self.thickness_mm) <= 0:
            raise ValueError("columns, rows, pixel, increment and thickness must be positive")

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """The five modelled levels from head to foot; the first and last are cut by the volume."""
        at = LEVELS.index(self.level)
        return LEVELS[at - 2 : at + 3]


def small_parameters(**changes: object) -> PhantomParameters:
    """A coarse preset for tests: 0.8 mm pixels, 1.0 mm increment, about 140 mm field."""
    values: dict[str, object] = {"columns": 176, "rows": 176, "pixel_mm": 0.8, "increment_mm": 1.0}
    return PhantomParameters(**{**values, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class VertebraPose:
    """One vertebra in patient space. `axes` (3,3): columns are the model's left, posterior, superior in LPS."""

    level: str
    origin: Array
    axes: Array
    size: Dimensions
    wedge: float
    long_left_mm: float
    scale: float

    @property
    def half_height_mm(self) -> float:
        return 0.5 * self.size.height_mm * self.scale

    @property
    def wedge_drop_mm(self) -> float:
        """How much lower the upper rim is at the anterior edge than at the posterior edge."""
        return self.wedge * self.size.height_mm * self.scale

    def to_lps(self, local: Array) -> Array:
        """Model points (...,3) mm to LPS mm."""
        return local @ self.axes.T + self.origin

    def to_local(self, lps: Array) -> Array:
        """LPS points (...,3) mm to model mm."""
        return (lps - self.origin) @ self.axes


def rotation(tilt_back_deg: float, lean_left_deg: float) -> Array:
    """Columns left, posterior, superior after leaning the superior axis backward and to the left."""
    back, left = np.deg2rad([-tilt_back_deg, lean_left_deg])
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(back), -np.sin(back)], [0, np.sin(back), np.cos(back)]], dtype=np.float64
    )
    about_y = np.array(
        [[np.cos(left), 0, np.sin(left)], [0, 1, 0], [-np.sin(left), 0, np.cos(left)]], dtype=np.float64
    )
    return about_y @ about_x


def spine_poses(parameters: PhantomParameters) -> dict[str, VertebraPose]:
    """Stack the vertebrae from the target up and down; a wedge tips what stands above it forward."""
    levels = parameters.levels
    wedge_tilt = 0.0
    poses: dict[str, VertebraPose] = {}
    for index, level in enumerate(levels):
        size = DIMENSIONS[level]
        is_target = level == parameters.level
        if is_target and parameters.pedicle_width_mm is not None:
            size = Dimensions(**{**size.__dict__, "pedicle_width_mm": parameters.pedicle_width_mm})
        if index < 2:
            target = DIMENSIONS[parameters.level]
            # the spine makes up for a part of the wedge in the disc above it
            wedge_tilt = 0.6 * np.rad2deg(np.arctan2(parameters.wedge * target.height_mm, target.depth_mm))
        tilt = size.tilt_deg - (wedge_tilt if index < 2 else 0.0)
        lean = parameters.scoliosis_deg * (2 - index) / 2.0
        poses[level] = VertebraPose(
            level,
            np.zeros(3),
            rotation(tilt, lean),
            size,
            parameters.wedge if is_target else 0.0,
            parameters.longer_left_transverse_mm,
            parameters.height_scale,
        )
    return _stacked(poses, levels, np.asarray(parameters.centre_lps_mm, dtype=np.float64))


def _stacked(
    poses: dict[str, VertebraPose], levels: tuple[str, ...], centre: Array
) -> dict[str, VertebraPose]:
    placed = {levels[2]: _moved(poses[levels[2]], centre)}
    for lower_index in (2, 1):
        lower, upper = placed[levels[lower_index]], poses[levels[lower_index - 1]]
        placed[upper.level] = _moved(upper, lower.origin + _step(lower, upper))
    for upper_index in (2, 3):
        upper, lower = placed[levels[upper_index]], poses[levels[upper_index + 1]]
        placed[lower.level] = _moved(lower, upper.origin - _step(lower, upper))
    return {level: placed[level] for level in levels}


def _step(lower: VertebraPose, upper: VertebraPose) -> Array:
    """From the lower to the upper origin across the disc between them, LPS mm."""
    disc_axis = lower.axes[:, 2] + upper.axes[:, 2]
    disc_axis /= np.linalg.norm(disc_axis)
    top = lower.half_height_mm - 0.5 * lower.wedge_drop_mm
    step: Array = (
        lower.axes[:, 2] * top
        + disc_axis * upper.size.disc_below_mm
        + upper.axes[:, 2] * upper.half_height_mm
    )
    return step


def _moved(pose: VertebraPose, origin: Array) -> VertebraPose:
    return VertebraPose(pose.level, origin, pose.axes, pose.size, pose.wedge, pose.long_left_mm, pose.scale)
