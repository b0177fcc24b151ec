"""Needles in cement: where they end, what their blur adds to the grey beside them, and how close it can be read.

Metal is so bright that its blur and blooming reach a millimetre and more beside it, differently in every scan. The
same needle shows it on its own shaft, behind the cement, where the bone that was there before is known: the mean
rise over the distance from the axis is taken off around the needle, and only where it is too steep for that the
grey is filled in from around. Lengths mm, frame of the scan.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from service.geometry.cement_grid import Grid, Line, any_of
from service.geometry.metal import ScanView
from service.geometry.needles import Axis, across
from service.geometry.registration import Registration

Array = NDArray[np.float64]
Single = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class HaloSettings:
    """Proposals of this project, chosen on the set `latest` of `bench/verify`."""

    nearest_mm: float = 0.7
    """Closer to the metal than this nothing is read: half of a voxel and the blur hold metal."""
    farthest_mm: float = 1.8
    """Beyond this a needle's blur is over; where no shaft shows how it falls, nothing is read up to here."""
    readable: float = 0.1
    """A rise of less than this part of cement's contrast is taken off; more is not read."""
    ahead_mm: float = 1.2
    """Nothing is read so far ahead of a needle's end, which is known to a millimetre and may be a point."""
    bin_mm: float = 0.3
    reach_mm: float = 3.6
    """The rise is counted from the grey between this and a millimetre further out."""
    behind_mm: float = 4.0
    """A shaft, without point and end, is what lies further behind the end than this."""
    from_cement_mm: float = 2.5
    from_others_mm: float = 6.0
    least_voxels: int = 40
    fade_mm: float = 0.9
    """Sd over which the rise fades along the axis at the needle's end."""


@dataclass(frozen=True, eq=False)
class Needles:
    """`ring`: where nothing can be read. `metal`: the needles themselves. `halo`: grey they add beside them.

    `beside`: so close to a needle that its streaks alone can be as bright as cement.
    """

    ring: Mask
    beside: Mask
    metal: Mask
    halo: Single


def needles_in(
    excess: Single,
    solid: float,
    lines: Sequence[Line],
    ends_mm: Sequence[float],
    radius_mm: float,
    grid: Grid,
    settings: HaloSettings,
) -> Needles:
    """Needles with what they hide.

    Parameters
    ----------
    excess : grey above the bone before (K, J, I). solid : that of solid cement.
    ends_mm : place of each needle's end along its line.
    """
    behind = [line.behind(end) for line, end in zip(lines, ends_mm, strict=True)]
    halo = np.zeros(excess.shape, dtype=np.float32)
    if not lines:
        none = np.zeros(excess.shape, dtype=bool)
        return Needles(none, none, none, halo)
    reach = radius_mm + settings.farthest_mm
    beside = any_of(
        [
            (line.radial < reach) & (back > -settings.farthest_mm)
            for line, back in zip(lines, behind, strict=True)
        ],
        excess.shape,
    )
    cement = (grid.blurred(excess, 0.4) > 0.5 * solid) & ~beside
    clear = ndimage.distance_transform_edt(~cement, grid.spacing_kji) > settings.from_cement_mm
    rings = []
    for n, (line, back) in enumerate(zip(lines, behind, strict=True)):
        others = [o.radial < settings.from_others_mm for k, o in enumerate(lines) if k != n]
        shaft = clear & (back > settings.behind_mm) & ~any_of(others, excess.shape)
        places, rise = _rise(excess, line.radial, shaft, radius_mm, settings)
        width = _hidden_mm(places, rise, radius_mm, solid, settings)
        rings.append((line.radial < radius_mm + width) & (back > -settings.ahead_mm))
        if len(places):
            fade = special.ndtr(back / settings.fade_mm)
            halo += (np.interp(line.radial, places, rise, right=0.0) * fade).astype(np.float32)
    metal = [(line.radial < radius_mm) & (back > 0) for line, back in zip(lines, behind, strict=True)]
    return Needles(any_of(rings, excess.shape), beside, any_of(metal, excess.shape), halo)


def _rise(
    excess: Single, radial: Array, shaft: Mask, radius_mm: float, settings: HaloSettings
) -> tuple[Array, Array]:
    """(distances from the axis, rise of the grey there) beside the shaft; empty where too little of it is seen."""
    values, away = excess[shaft], radial[shaft]
    beyond = (away >= settings.reach_mm) & (away < settings.reach_mm + 1.0)
    edges = np.arange(radius_mm, settings.reach_mm + settings.bin_mm, settings.bin_mm)
    bins = [(away >= a) & (away < b) for a, b in itertools.pairwise(edges)]
    if min(np.count_nonzero(b) for b in (beyond, *bins)) < settings.least_voxels:
        return np.zeros(0), np.zeros(0)
    level = float(np.median(values[beyond]))
    rise = np.array([float(np.median(values[b])) - level for b in bins])
    return np.append(edges[:-1] + 0.5 * settings.bin_mm, settings.reach_mm + settings.bin_mm), np.append(
        rise, 0.0
    )


def _hidden_mm(places: Array, rise: Array, radius_mm: float, solid: float, settings: HaloSettings) -> float:
    """How far beside the metal nothing can be read."""
    if not len(places):
        return settings.farthest_mm
    steep = places[np.abs(rise) > settings.readable * solid]
    last = float(steep[-1]) + 0.5 * settings.bin_mm - radius_mm if steep.size else 0.0
    return float(np.clip(last, settings.nearest_mm, settings.farthest_mm))


def seen_end(axis: Axis, view: ScanView, solid_hu: float, registration: Registration) -> tuple[float, float]:
    """(place along the axis where the needle ends, its one-sigma in mm), seen against cement.

    From the shaft forwards, the first millimetre whose grey is more like cement than like the shaft: a solid needle
    is brighter than cement, the bore of an open one darker. Where the two are too alike it is the bright line's end.
    """
    fit = registration.intensity
    cement = fit.gain * solid_hu + fit.offset
    u, v = across(axis.direction)
    turn = np.linspace(0.0, 2.0 * np.pi, 6, endpoint=False)
    beside = 0.5 * (np.cos(turn)[:, None] * u + np.sin(turn)[:, None] * v)
    s = np.arange(-40.0, 10.0, 0.25)
    points = axis.origin + s[:, None, None] * axis.direction + beside[None]
    grey = view.full.sample(points.reshape(-1, 3), outside=np.nan).reshape(len(s), -1).mean(axis=1)
    shaft = grey[(s < -20.0) & np.isfinite(grey)]
    if shaft.size < 20:
        return 0.0, 3.0
    metal = float(np.median(shaft))
    if abs(metal - cement) < 0.15 * abs(cement - view.grey.soft):
        return 0.0, 3.0
    other = np.abs(grey - cement) < np.abs(grey - metal)
    ahead = np.flatnonzero(other & (s >= -20.0))
    runs = [n for n in ahead if other[n : n + 4].all()]
    return (float(s[runs[0]]), 1.0) if runs else (0.0, 1.0)
