"""A dark band of a needle through cement is taken off; uneven cement in slices without metal stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from service.geometry.cement_streaks import StreakSettings, planes_of_metal, streak_field
from service.geometry.needles import MetalLine
from service.geometry.volume import Volume

SPACING_KJI = (0.833, 0.5, 0.5)
SHAPE = (30, 56, 56)
CONTRAST_HU = 2100.0
RADIUS_MM = 5.5


def places():
    k, j, i = np.indices(SHAPE)
    middle = (np.array(SHAPE) - 1) / 2
    return [(n - c) * s for n, c, s in zip((k, j, i), middle, SPACING_KJI, strict=True)]


@pytest.fixture(scope="module")
def ball():
    """(grey above the bone before, away from the ball's surface in mm, true volume in mm3)."""
    z, y, x = places()
    away = np.sqrt(z**2 + y**2 + x**2) - RADIUS_MM
    share = ndimage.gaussian_filter(np.clip(0.5 - away / 0.5, 0, 1), [0.33 / s for s in SPACING_KJI])
    noise = np.random.default_rng(4).normal(0, 50.0, SHAPE)
    return (CONTRAST_HU * share + noise).astype(np.float32), away, float(share.sum())


def band():
    """A dark band of 5 mm along y, through the ball and the bone beyond it, in four slices; the deepest is 900 HU."""
    z, y, x = places()
    return np.where(
        np.abs(z) < 1.7, -900.0 * np.exp(-0.5 * (x / 1.8) ** 2) * np.exp(-(((y + 14) / 25) ** 2)), 0.0
    )


def field(excess, away, planes):
    contrast = np.full(SHAPE, CONTRAST_HU, dtype=np.float32)
    deep, bone = away < -1.0, (away > 1.5) & (away < 5.5)
    return streak_field(excess.astype(np.float32), contrast, deep, bone, planes, SPACING_KJI)


def relative(excess, away, true):
    return float(excess[away < 1.5].sum()) / CONTRAST_HU / true - 1.0


def test_the_volume_under_a_band_is_that_without_it(ball):
    excess, away, true = ball
    dark = excess + band()
    planes = np.abs(places()[0][:, 0, 0]) < 1.7
    assert abs(relative(excess, away, true)) < 0.01
    assert relative(dark, away, true) < -0.06, "the band matters"
    assert abs(relative(dark - field(dark, away, planes), away, true)) < 0.012


def test_without_a_streak_next_to_nothing_is_changed(ball):
    excess, away, true = ball
    every = np.ones(SHAPE[0], dtype=bool)
    assert abs(relative(excess - field(excess, away, every), away, true)) < 0.01


def test_uneven_cement_in_slices_without_metal_counts_as_what_it_is(ball):
    excess, away, _ = ball
    thin = np.where(away < 0, 0.7 * excess, excess)
    planes = np.zeros(SHAPE[0], dtype=bool)
    assert not field(thin, away, planes).any()
    planes[:5] = True
    changed = field(thin, away, planes).any(axis=(1, 2))
    assert changed[:5].all()
    assert not changed[5:].any()


def test_a_streak_is_bounded(ball):
    """A hole in the cement, as a needle that was not found leaves one, is no streak."""
    excess, away, _ = ball
    hole = np.where(away < -1.0, 0.0, excess)
    found = field(hole, away, np.ones(SHAPE[0], dtype=bool))
    assert found.min() >= -StreakSettings().limit * CONTRAST_HU


@pytest.mark.parametrize(
    ("rise_mm", "first", "last"),
    [(0.0, 18, 22), (10.0, 18, 34)],
    ids=["a needle in the plane of the gantry", "one across it"],
)
def test_slices_of_metal(rise_mm, first, last):
    crop = Volume(np.zeros((60, 8, 8), dtype=np.int16), np.diag([0.5, 0.5, 0.833, 1.0]))
    z = 20 * 0.833
    line = MetalLine(np.array([2.0, 60.0, z + rise_mm]), np.array([2.0, 2.0, z]), 100)
    found = np.flatnonzero(planes_of_metal(crop, [line]))
    assert found[0] in (first, first + 1)
    assert found[-1] in (last - 1, last)
    assert np.array_equal(found, np.arange(found[0], found[-1] + 1))
    assert not planes_of_metal(crop, []).any()
