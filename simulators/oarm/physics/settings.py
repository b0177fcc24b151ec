"""The machine. Nothing here is the maker's data: these are settings of a plausible machine, named as such."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PhysicsSettings:
    """Geometry, beam and detector. Field, voxel, pose and grey scale are those of `ScanSettings`.

    The real distances, pitch and spectrum are not published; a turn of about 390 images in 13 s at 120 kV is.
    """

    source_to_axis_mm: float = 647.7
    source_to_detector_mm: float = 1147.7
    pitch_mm: float = 0.776
    """Distance of detector pixels; 0.44 mm at the axis."""
    views: int = 360
    arc_deg: float = 360.0
    """A shorter arc (more than 180 degrees and the fan) is weighted after Parker."""
    tube_kv: float = 120.0
    filter_al_mm: float = 8.0
    """Aluminium in the beam, the tube's own filter included."""
    bins: int = 8
    """Energies the spectrum is divided into."""
    reference_kev: float = 70.0
    """Energy that the water correction leads to, and at which the planning CT's numbers are taken for attenuation."""
    photons_per_mm2: float = 2.5e8
    """Detected quanta per mm2 of detector in the whole turn without a patient; sets the noise."""
    electronic_noise: float = 5.0
    """Standard deviation of the read-out, in quanta of mean energy."""
    focus_fwhm_mm: float = 0.5
    """Blur by the focal spot as seen on the detector."""
    scintillator_fwhm_mm: float = 0.6
    """Blur of the detector itself, which also smooths the noise."""
    scatter: float = 0.08
    """Scattered share of a ray's primary per unit of its line integral, behind the grid."""
    scatter_width_mm: float = 90.0
    """Standard deviation of the scatter kernel on the detector."""
    scatter_removed: float = 0.75
    """Share of the mean scatter of a view that the machine subtracts: one number for the whole view."""
    gain_sd: float = 0.0005
    """Error of each detector column's gain after calibration, the same in all views: faint rings."""
    bad_columns: int = 1
    """Columns with a gain wrong by `bad_gain`: strong rings."""
    bad_gain: float = 0.01
    truncation_correction: float = 0.3
    """Width of the extrapolation beyond the detector before the ramp filter, as a share of the detector's."""
    hann_cut: float = 1.0
    """Where the Hann window of the ramp filter ends, as a share of the Nyquist frequency."""
    trunk_mm: tuple[float, float] = (165.0, 108.0)
    """Half axes of the oval trunk that goes on where the planning CT or the phantom ends."""
    barium_sulphate_share: float = 0.10
    """Of the cement's mass; ordinary bone cement holds about a tenth, cement for vertebroplasty up to three."""

    def __post_init__(self) -> None:
        if self.views < 8:
            raise ValueError("a turn needs at least 8 views")
        if not 0.0 < self.source_to_axis_mm < self.source_to_detector_mm:
            raise ValueError("the axis lies between source and detector")
        if not 180.0 < self.arc_deg <= 360.0:
            raise ValueError("the arc must be more than 180 and at most 360 degrees")
        if self.bins < 1 or self.tube_kv <= 50.0:
            raise ValueError("the spectrum needs a bin and a tube voltage above 50 kV")

    @property
    def photons(self) -> float:
        """Detected quanta per pixel and view without a patient: fewer views and wider pixels get the same dose."""
        return self.photons_per_mm2 * self.pitch_mm**2 / self.views

    @property
    def angles_deg(self) -> Array:
        """(views,) angle of the gantry in each view."""
        if self.arc_deg == 360.0:
            return np.linspace(0.0, 360.0, self.views, endpoint=False)
        return np.asarray(np.linspace(0.0, self.arc_deg, self.views))


def small_physics(**changes: Any) -> PhysicsSettings:
    """Fewer views and wider detector pixels, to go with `small_settings`; a third of the time."""
    return replace(PhysicsSettings(views=180, pitch_mm=1.0), **changes)
