"""O-arm simulator: a cone-beam-like scan of a planning CT or the phantom with needles in another pose."""

from simulators.oarm.needle import Cement, Needle
from simulators.oarm.scan import Scan, ScanSettings, make_scan, small_settings, write_scan

__all__ = ["Cement", "Needle", "Scan", "ScanSettings", "make_scan", "small_settings", "write_scan"]
