"""How UltiMaker's AA 0.4 / PLA / 0.2 mm profile moves the head and blows, written down apart from the slicer's side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: mm/s2 by `;TYPE:`.
_ACCELERATIONS: Mapping[str, float] = {
    "FILL": 4000.0,
    "WALL-INNER": 1000.0,
    "WALL-OUTER": 500.0,
    "SKIN": 500.0,
    "SUPPORT": 2000.0,
    "SUPPORT-INTERFACE": 500.0,
    "SKIRT": 500.0,
}
#: mm/s by `;TYPE:`, where it is another than `jerk_mm_s`.
_JERKS: Mapping[str, float] = {"SUPPORT-INTERFACE": 5.0}


@dataclass(frozen=True)
class MotionProfile:
    """Speeds in mm/s, accelerations in mm/s2, jerks in mm/s. Values of UltiMaker's definitions in Cura 4.13.

    From the first layer to layer `slowdown_layers` speed and acceleration rise evenly to their final values.
    """

    first_layer_share: float = 0.30
    """Speed of every feature in layer 0 over the print speed."""
    slowdown_layers: int = 2
    first_layer_acceleration: float = 500.0
    accelerations: Mapping[str, float] = field(default_factory=lambda: dict(_ACCELERATIONS))
    jerk_mm_s: float = 20.0
    jerks: Mapping[str, float] = field(default_factory=lambda: dict(_JERKS))
    travel_mm_s: float = 250.0
    first_layer_travel_mm_s: float = 75.0
    travel_acceleration: float = 5000.0
    first_layer_travel_acceleration: float = 625.0
    travel_jerk_mm_s: float = 30.0
    lift_mm_s: float = 40.0
    """The plate alone: what the machine's definition allows; the profile lifts at 10."""
    retraction_mm_s: float = 25.0
    min_layer_s: float = 5.0
    """A layer that would be done sooner is printed slower, down to `least_mm_s`, until it lasts so long."""
    min_layer_tolerance_s: float = 0.5
    """The engine counts its times with small differences to the sum of path over speed."""
    least_mm_s: float = 5.0
    fan_full_layer: int = 3
    """The fan rises evenly from off in layer 0 to full here."""
    fan_full: float = 255.0
    fan_tolerance: float = 1.0
    acceleration_tolerance: float = 1.0
    """Both are written as whole numbers."""


#: By the first number of the engine's version. Those of Cura 5.0 were read in its definitions and found in its files;
#: where a later 5.x moves differently, its files are refused.
MOTION_OF_ENGINE: Mapping[str, MotionProfile] = {
    "4": MotionProfile(),
    "5": MotionProfile(
        first_layer_acceleration=1000.0,
        accelerations={
            "FILL": 3500.0,
            "WALL-INNER": 1500.0,
            "WALL-OUTER": 429.0,
            "SKIN": 1000.0,
            "SUPPORT": 2000.0,
            "SUPPORT-INTERFACE": 1000.0,
            "SKIRT": 1000.0,
        },
        travel_acceleration=1500.0,
        first_layer_travel_acceleration=1500.0 * 1000.0 / 3500.0,
        travel_jerk_mm_s=20.0,
    ),
}

#: Least and largest mean width (mm) of a layer's lines, by the same. A wall of Cura 5 is up to twice its least width
#: of 0.34 mm (`min_wall_line_width`), and the tip of a process may be nothing but one; measured 0.63 mm there.
MEAN_WIDTH_OF_ENGINE: Mapping[str, tuple[float, float]] = {"4": (0.2, 0.6), "5": (0.2, 0.68)}
