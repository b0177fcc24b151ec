"""From what falls on the detector to the line integrals the machine works with: scatter, noise, gain, correction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from simulators.oarm.physics.attenuation import per_mm
from simulators.oarm.physics.beam import Beam
from simulators.oarm.physics.settings import PhysicsSettings

Array = NDArray[np.float64]
Single = NDArray[np.float32]

_SCATTER_STEP = 8
"""Scatter is smooth, so it is computed on pixels this much wider."""


def measured_lines(
    signal: Single, square: Single, settings: PhysicsSettings, rng: np.random.Generator
) -> Single:
    """Water-corrected line integrals (view, row, column); the memory of `signal` is used up.

    `signal` and `square` are detected energy and mean squared energy as shares of the open beam's mean energy and
    its square. Noise: with N photons of mean energy m and mean squared energy s the sum has mean N m and variance
    N s, as m²/s·N equal quanta have (compound Poisson; Whiting, Proc. SPIE 4682, 2002).
    """
    gain = _gain(signal.shape[2], settings, rng)
    bent, straight = water_table(settings)
    for n in range(len(signal)):
        primary = _blurred(signal[n], settings.focus_fwhm_mm, settings)
        spread = _scattered(primary, settings)
        mean, second = primary + spread, _blurred(square[n], settings.focus_fwhm_mm, settings) + spread
        quanta = settings.photons * mean**2 / second
        counted = rng.poisson(quanta) * (second / mean) / settings.photons
        lit = _blurred(counted.astype(np.float32), settings.scintillator_fwhm_mm, settings)
        read = lit + rng.standard_normal(lit.shape) * (settings.electronic_noise / settings.photons)
        corrected = read * gain - settings.scatter_removed * float(spread.mean())
        # A ray without signal is taken for one with a fifth of a quantum, as a machine has to.
        lines = -np.log(np.maximum(corrected, 0.2 / settings.photons))
        signal[n] = np.interp(lines, bent, straight)
    return signal


def water_table(settings: PhysicsSettings) -> tuple[Array, Array]:
    """Line integrals of water for the whole spectrum (n,) and for the reference energy (n,), 0 to 800 mm.

    Beyond that, and below nothing, `np.interp` stays at the ends.
    """
    beam = Beam.of(settings)
    lengths = np.linspace(-10.0, 800.0, 1621)
    energy, _ = beam.energy(np.multiply.outer(beam.water, lengths))
    reference = float(per_mm("water", np.array([settings.reference_kev]))[0])
    return -np.log(energy), reference * lengths


def _gain(columns: int, settings: PhysicsSettings, rng: np.random.Generator) -> Array:
    """Factor (columns,) left after calibration."""
    gain = 1.0 + settings.gain_sd * rng.standard_normal(columns)
    bad = rng.choice(columns, size=min(settings.bad_columns, columns), replace=False)
    gain[bad] += settings.bad_gain
    return np.asarray(gain)


def _blurred(view: Single, fwhm_mm: float, settings: PhysicsSettings) -> Single:
    return np.asarray(
        ndimage.gaussian_filter(view, fwhm_mm / 2.3548 / settings.pitch_mm, mode="nearest", truncate=3.0),
        dtype=np.float32,
    )


def _scattered(primary: Single, settings: PhysicsSettings) -> Single:
    """Scatter of one view: a ray scatters what it loses, here primary times line integral, into a wide bell.

    B. Ohnesorge, T. Flohr, K. Klingenbeck-Regn: Efficient object scatter correction algorithm (Eur. Radiol. 9, 1999).
    """
    rows, columns = primary.shape
    small = ndimage.zoom(primary, 1.0 / _SCATTER_STEP, order=1, grid_mode=True, mode="nearest")
    small = np.clip(small, 1e-9, 1.0)
    source = -settings.scatter * small * np.log(small)
    sigma = settings.scatter_width_mm / settings.pitch_mm / _SCATTER_STEP
    bell = ndimage.gaussian_filter(source, sigma, mode="nearest")
    full = ndimage.zoom(
        bell, (rows / bell.shape[0], columns / bell.shape[1]), order=1, grid_mode=True, mode="nearest"
    )
    return np.asarray(full, dtype=np.float32)
