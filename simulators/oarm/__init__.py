"""O-arm simulator: a cone-beam-like scan of a planning CT or the phantom with needles in another pose."""

from simulators.oarm.motion import Motion
from simulators.oarm.needle import TIP_SHAPES, Cement, Needle
from simulators.oarm.physics import PhysicsMissingError, PhysicsSettings, small_physics
from simulators.oarm.scan import Scan, make_scan, write_scan
from simulators.oarm.settings import ScanSettings, small_settings

__all__ = [
    "TIP_SHAPES",
    "Cement",
    "Motion",
    "Needle",
    "PhysicsMissingError",
    "PhysicsSettings",
    "Scan",
    "ScanSettings",
    "make_scan",
    "small_physics",
    "small_settings",
    "write_scan",
]
