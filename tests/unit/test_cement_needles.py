"""What a needle adds to the grey beside it is learnt from its own shaft; what is only its streak is no cement."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from service.geometry.cement import CementSettings, _bodies
from service.geometry.cement_grid import Grid, Line, wider
from service.geometry.cement_needles import HaloSettings, needles_in
from service.geometry.needles import Axis
from service.geometry.pose import invert
from service.geometry.volume import Volume

STEP_MM = 0.6
RADIUS_MM = 1.2065
SOLID_HU = 2200.0
END_MM = 0.0


@pytest.fixture(scope="module")
def grid():
    """A grid of 30 mm along x and 24 mm across it, bone throughout; the needle comes along x and ends at x = 0."""
    affine = np.diag([STEP_MM, STEP_MM, STEP_MM, 1.0])
    affine[:3, 3] = (-24.0, -12.0, -12.0)
    crop = Volume(np.zeros((41, 41, 61), dtype=np.int16), affine)
    registration = SimpleNamespace(preop_from_scan=invert(np.eye(4)))
    return Grid(crop, registration, Volume(np.full((41, 41, 61), -5.0), affine))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def line(grid):
    none = np.zeros(0)
    axis = Axis(np.zeros(3), np.array([1.0, 0.0, 0.0]), none, none, none, none, none, 0.0, 0.5, 0.02, 10, 0.1)
    return Line(axis, grid)


def scan_of(grid, line, width_mm):
    """(grey above the bone of a needle that ends in a ball of cement, what the needle adds outside its metal)."""
    noise = np.random.default_rng(3).normal(0, 40.0, line.radial.shape)
    behind = line.along < END_MM
    rise = np.where(
        behind & (line.radial > RADIUS_MM), 1500.0 * np.exp(-(line.radial - RADIUS_MM) / width_mm), 0.0
    )
    x, y, z = (grid.scan - np.array([1.0, 0.0, 0.0])).T
    ball = (np.sqrt(x**2 + y**2 + z**2) < 5.0).reshape(line.radial.shape)
    metal = behind & (line.radial <= RADIUS_MM)
    return np.where(metal, 6000.0, SOLID_HU * ball + rise + noise).astype(np.float32), rise


def found(grid, line, excess, settings=None):
    return needles_in(excess, SOLID_HU, [line], [END_MM], RADIUS_MM, grid, settings or HaloSettings())


def test_the_rise_beside_a_needle_is_that_on_its_shaft(grid, line):
    excess, rise = scan_of(grid, line, 0.3)
    needles = found(grid, line, excess)
    beside = (line.radial > RADIUS_MM + 0.7) & (line.radial < 3.5) & (line.along < -2.0)
    assert np.abs(needles.halo - rise)[beside].max() < 60.0 < rise[beside].max()
    assert not needles.halo[(line.along > 3.0) | (line.radial > 4.5)].any() or (
        np.abs(needles.halo[line.along > 3.0]).max() < 5.0
    )


@pytest.mark.parametrize(("width_mm", "low", "high"), [(0.1, 0.69, 0.71), (0.5, 0.8, 1.5), (3.0, 1.79, 1.81)])
def test_what_is_not_read_is_as_wide_as_the_needles_blur(grid, line, width_mm, low, high):
    """A slow fall is as far from readable as a needle without a visible shaft."""
    ring = found(grid, line, scan_of(grid, line, width_mm)[0]).ring
    widest = line.radial[ring & (line.along < -2.0)].max() - RADIUS_MM
    assert low - 0.15 < widest <= high
    assert not ring[line.along > HaloSettings().ahead_mm].any()


def test_without_a_shaft_to_learn_from_nothing_is_taken_off_and_less_is_read(grid, line):
    excess, _ = scan_of(grid, line, 0.3)
    needles = found(grid, line, excess, HaloSettings(behind_mm=40.0))
    assert not needles.halo.any()
    assert line.radial[needles.ring].max() > RADIUS_MM + HaloSettings().farthest_mm - 0.15


def test_without_a_needle_everything_is_read(grid):
    needles = needles_in(
        np.zeros(grid.crop.values.shape, np.float32), SOLID_HU, [], [], RADIUS_MM, grid, HaloSettings()
    )
    assert not (needles.ring.any() or needles.metal.any() or needles.halo.any())


def test_a_bright_streak_that_lies_wholly_beside_a_needle_is_no_cement(grid, line):
    needles = found(grid, line, scan_of(grid, line, 0.3)[0])
    sector = (grid.scan[:, 1] > 0).reshape(line.radial.shape)
    streak = sector & (line.radial > 1.7) & (line.radial < 3.0) & (line.along > -18.0) & (line.along < -12.0)
    cement = np.linalg.norm(grid.scan - np.array([1.0, 0.0, 0.0]), axis=1).reshape(line.radial.shape) < 5.0
    tail = sector & (line.radial > 1.7) & (line.radial < 3.0) & (line.along > -10.0) & (line.along < 0.0)
    assert np.count_nonzero(streak) * grid.voxel_mm3 > 20.0
    kept = _bodies(streak | cement | tail, needles, grid, CementSettings())
    assert not kept[streak].any()
    assert kept[cement].all() and kept[tail].all(), "what goes on from the cement belongs to it"


def test_a_crop_is_made_wider_where_cement_comes_near_its_side_and_only_there():
    scan = Volume(np.zeros((50, 60, 70), dtype=np.int16), np.diag([0.5, 0.5, 0.8, 1.0]))
    crop = scan.crop((20, 10, 5), (50, 40, 30))
    cement = np.zeros(crop.values.shape, dtype=bool)
    cement[10:15, 12:18, 12:28] = True
    made = wider(scan, crop, cement, 2.5, 5.0)
    assert made is not None
    assert made.values.shape == (25, 30, 40), "ten voxels of 0.5 mm more at the high end of i"
    assert np.allclose(made.lps_from_ijk, crop.lps_from_ijk)
    assert wider(scan, crop, cement & False, 2.5, 5.0) is None
    cement[:, :, :] = False
    cement[10:15, 12:18, 12:18] = True
    assert wider(scan, crop, cement, 2.5, 5.0) is None
    edge = scan.crop((0, 0, 0), (70, 60, 50))
    assert wider(scan, edge, np.ones(edge.values.shape, dtype=bool), 2.5, 5.0) is None, "the scan ends there"
