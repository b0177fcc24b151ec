"""Grey values of one scan, measured and reconstructed instead of drawn; the counterpart of `simulators.oarm.image`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from simulators.oarm.needle import Cement, Needle
from simulators.oarm.physics.attenuation import per_mm
from simulators.oarm.physics.beam import detector_shape, primaries
from simulators.oarm.physics.detector import measured_lines
from simulators.oarm.physics.materials import make_body
from simulators.oarm.physics.rtk import Ray, circle, reconstruct, require
from simulators.oarm.physics.settings import PhysicsSettings
from simulators.oarm.settings import ScanSettings
from simulators.oarm.source import Source

Array = NDArray[np.float64]

GANTRY_FROM_LPS = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
"""The gantry's axis runs along the patient; with the signs of `scan_grid` columns, slices and rows follow x, y, -z."""


def make_physics_image(
    source: Source,
    needles: Sequence[Needle],
    cement: Sequence[Cement],
    settings: ScanSettings,
    physics: PhysicsSettings,
    preop_from_scan: Array,
    scan_from_ijk: Array,
) -> NDArray[np.int16]:
    """Stored grey values (k,j,i).

    Of `settings` the field, voxel, motion, seed and grey scale count; blur, noise, cupping, streaks, blooming and
    the brightness of metal and cement come from `physics`.

    Raises
    ------
    PhysicsMissingError
        When itk-rtk is not installed.
    """
    require()
    rng = np.random.default_rng([settings.seed, 83])
    body = make_body(source, needles, cement, physics)
    views = _views(settings, physics, preop_from_scan, scan_from_ijk)
    shape = detector_shape(settings.field_mm, settings.slices * settings.increment_mm, physics)
    signal, square = primaries(body, needles, cement, views, shape, physics)
    lines = measured_lines(signal, square, physics, rng)
    size = (settings.columns, settings.slices, settings.columns)
    steps = (settings.pixel_mm, settings.increment_mm, settings.pixel_mm)
    volume = reconstruct(lines, physics, size, steps).transpose(1, 0, 2)[:, ::-1]
    water = float(per_mm("water", np.array([physics.reference_kev]))[0])
    return _to_grey(volume / np.float32(water), settings)


def _views(
    settings: ScanSettings, physics: PhysicsSettings, preop_from_scan: Array, scan_from_ijk: Array
) -> list[Ray]:
    """The turn as the patient sees it, LPS mm of the planning CT, with the movement of each moment."""
    middle = 0.5 * (np.array([settings.columns, settings.columns, settings.slices]) - 1.0)
    centre = scan_from_ijk[:3, :3] @ middle + scan_from_ijk[:3, 3]
    scan_from_gantry = np.eye(4)
    scan_from_gantry[:3, :3] = GANTRY_FROM_LPS.T
    scan_from_gantry[:3, 3] = centre
    turn = circle(physics)
    if settings.motion is None:
        moves = [np.eye(4)] * len(turn)
    else:
        moves = replace(settings.motion, moments=len(turn)).poses(centre)
    return [
        view.moved(preop_from_scan @ np.linalg.inv(move) @ scan_from_gantry)
        for view, move in zip(turn, moves, strict=True)
    ]


def _to_grey(relative: NDArray[np.float32], settings: ScanSettings) -> NDArray[np.int16]:
    """From attenuation relative to water to stored values, with the round field."""
    half = 0.5 * (settings.columns - 1)
    axis = (np.arange(settings.columns) - half) * settings.pixel_mm
    outside = np.hypot(axis[None, :], axis[:, None]) > 0.5 * settings.field_mm
    top = settings.grey_maximum if settings.grey_maximum is not None else 32767.0
    grey = np.float32(settings.grey_scale) * (1000.0 * relative - 1000.0) + np.float32(settings.grey_offset)
    grey[:, outside] = -1000.0
    return np.asarray(np.clip(np.rint(grey), -1000.0, top), dtype=np.int16)
