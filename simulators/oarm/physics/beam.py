"""Polychromatic projections: what the detector would see of each view without noise and scatter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from simulators.oarm.needle import Cement, Needle
from simulators.oarm.physics import solids
from simulators.oarm.physics.attenuation import per_mm, spectrum
from simulators.oarm.physics.materials import Body
from simulators.oarm.physics.rtk import Ray, forward
from simulators.oarm.physics.settings import PhysicsSettings

Array = NDArray[np.float64]
Single = NDArray[np.float32]

FINE = 3
"""Rays across a pixel, each way, where metal or cement casts its shadow."""
STEP_VIEWS = 30
"""Views cast at a time, which bounds the memory."""


@dataclass(frozen=True, eq=False)
class Beam:
    """Energies `kev` (n,), their `share` of the photons, and attenuation per mm (n,) of what is in the beam."""

    kev: Array
    share: Array
    water: Array
    bone: Array
    steel: Array
    cement: Array

    @classmethod
    def of(cls, settings: PhysicsSettings) -> Beam:
        kev, share = spectrum(settings.tube_kv, settings.filter_al_mm, settings.bins)
        mix = settings.barium_sulphate_share
        return cls(kev, share, *(per_mm(name, kev, mix) for name in ("water", "bone", "steel", "cement")))

    def energy(self, lines: Array) -> tuple[Array, Array]:
        """Detected energy and mean squared energy, as shares of mean and squared mean; `lines` (n, ...) are exponents.

        The detector adds up energy, so a hard photon counts more; the second value gives the noise of the sum.
        """
        weight = self.kev / float(self.share @ self.kev)
        passed = np.exp(-lines)
        return np.tensordot(self.share * weight, passed, 1), np.tensordot(self.share * weight**2, passed, 1)


def detector_shape(field_mm: float, height_mm: float, settings: PhysicsSettings) -> tuple[int, int]:
    """Rows and columns that see the whole field in every view, and no more: what lies outside is truncated."""
    near = settings.source_to_axis_mm - 0.5 * field_mm
    enlarged = settings.source_to_detector_mm
    half_wide = enlarged * np.tan(np.arcsin(0.5 * field_mm / settings.source_to_axis_mm))
    half_high = enlarged * 0.5 * height_mm / near
    return tuple(2 * int(np.ceil(half / settings.pitch_mm)) + 2 for half in (half_high, half_wide))  # type: ignore[return-value]


def primaries(
    body: Body,
    needles: Sequence[Needle],
    cement: Sequence[Cement],
    views: Sequence[Ray],
    shape: tuple[int, int],
    settings: PhysicsSettings,
) -> tuple[Single, Single]:
    """Detected energy and mean squared energy (view, row, column) without scatter, as shares of the open beam."""
    beam = Beam.of(settings)
    signal = np.empty((len(views), *shape), dtype=np.float32)
    square = np.empty_like(signal)
    coarse = tuple(n // 2 + 1 for n in shape)
    for start in range(0, len(views), STEP_VIEWS):
        part = views[start : start + STEP_VIEWS]
        bone = forward(body.bone, body.bone_from_ijk, part, shape, settings.pitch_mm)
        soft = forward(body.soft, body.soft_from_ijk, part, (coarse[0], coarse[1]), 2.0 * settings.pitch_mm)
        for n, view in enumerate(part):
            tissue = _full(soft[n], shape).ravel() + body.trunk_density * solids.oval_length(
                body.trunk_centre,
                body.trunk_mm,
                view.source,
                _directions(view, _pixels(shape), settings.pitch_mm),
            )
            lines = np.multiply.outer(beam.water, tissue) + np.multiply.outer(beam.bone, bone[n].ravel())
            energy, squared = beam.energy(lines)
            _add_shadows(beam, lines, view, shape, needles, cement, settings, energy, squared)
            signal[start + n], square[start + n] = energy.reshape(shape), squared.reshape(shape)
    return signal, square


def _add_shadows(
    beam: Beam,
    lines: Array,
    view: Ray,
    shape: tuple[int, int],
    needles: Sequence[Needle],
    cement: Sequence[Cement],
    settings: PhysicsSettings,
    energy: Array,
    squared: Array,
) -> None:
    """Replace the pixels behind metal or cement by means over finer rays, of what passes and not of lengths."""
    pixels = _pixels(shape)
    directions = _directions(view, pixels, settings.pitch_mm)
    hit = np.zeros(len(pixels), dtype=bool)
    for needle in needles:
        hit |= solids.near_needle(needle, view.source, directions, settings.pitch_mm)
    for blob in cement:
        hit |= solids.near_cement(blob, view.source, directions, settings.pitch_mm)
    chosen = np.flatnonzero(hit)
    if not len(chosen):
        return
    steps = (np.arange(FINE) + 0.5) / FINE - 0.5
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    fine = _directions(view, (pixels[chosen][:, None] + offsets).reshape(-1, 2), settings.pitch_mm)
    metal = solids.metal_length(needles, view.source, fine)
    blobs = solids.cement_length(cement, needles, view.source, fine)
    more = np.multiply.outer(beam.steel, metal) + np.multiply.outer(beam.cement, blobs)
    behind = np.repeat(lines[:, chosen], len(offsets), axis=1) + more
    for target, values in zip((energy, squared), beam.energy(behind), strict=True):
        target[chosen] = values.reshape(-1, len(offsets)).mean(axis=1)


def _pixels(shape: tuple[int, int]) -> Array:
    """(row, column) from the middle of the detector, (N,2), in pixels."""
    v, u = np.meshgrid(*(np.arange(n) - 0.5 * (n - 1) for n in shape), indexing="ij")
    return np.stack([v.ravel(), u.ravel()], axis=1)


def _directions(view: Ray, pixels: Array, pitch_mm: float) -> Array:
    """Unit directions (N,3) from the source through places of the detector."""
    places = view.detector + pitch_mm * (pixels[:, 1:] * view.u + pixels[:, :1] * view.v)
    way = places - view.source
    return np.asarray(way / np.linalg.norm(way, axis=1, keepdims=True))


def _full(coarse: Single, shape: tuple[int, int]) -> Array:
    """A view of pixels twice as wide brought to the full detector, both about the same middle."""
    offsets = [0.5 * (c - 1) - 0.25 * (n - 1) for c, n in zip(coarse.shape, shape, strict=True)]
    return np.asarray(
        ndimage.affine_transform(coarse, [0.5, 0.5], offsets, output_shape=shape, order=1, mode="nearest"),
        dtype=np.float64,
    )
