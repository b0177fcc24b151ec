"""The bone's edge behind the blur: sheets of known place, density and blur, and when the surface has to stay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from service.geometry.blurred_sheet import Blur, SheetSettings, estimate_blur, fit_sheets
from service.geometry.bone_edge import SurfaceSettings, find_edge
from service.geometry.cortex_edge import CortexSettings, find_cortex_edge, limited
from service.geometry.outer_surface import moved
from service.workflow.tasks.verify_task import settings_for

USE = SheetSettings()
CORTEX_HU, IN_PLANE_MM, BETWEEN_MM = 820.0, 0.5, 0.7


def profiles(
    count: int, *, noise_hu: float = 15.0, thinnest_mm: float = 0.4
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Profiles (N, M) of blurred sheets, their edges (N,) and the cosine (N,) with the slices' normal.

    Made by blurring a sharp drawing on a fine line, not from the formula that is fitted.
    """
    rng = np.random.default_rng(7)
    fine = np.arange(-6.0, 4.5, 0.025)
    edge = rng.uniform(-0.8, 0.3, count)
    thick = rng.uniform(thinnest_mm, 2.0, count)
    share = np.where(np.arange(count) % 2, 0.97, 0.1)
    rows = []
    for e, t, s in zip(edge, thick, share, strict=True):
        outside, marrow = rng.uniform(-80, 90), rng.uniform(20, 160)
        drawn = np.where(fine > e, outside, np.where(fine > e - t, CORTEX_HU, marrow))
        blur = Blur(0, IN_PLANE_MM, BETWEEN_MM, 0).along(np.array([s]))[0]
        rows.append(
            np.interp(USE.offsets_mm, fine, ndimage.gaussian_filter1d(drawn, blur / 0.025, mode="nearest"))
        )
    seen = np.array(rows) + noise_hu * rng.standard_normal((count, len(USE.offsets_mm)))
    return seen.astype(np.float32), edge, share


def test_density_and_blur_are_told_from_the_profiles_together() -> None:
    seen, _, share = profiles(400)
    found = estimate_blur(seen, share, USE)
    assert found is not None
    assert found.cortex_hu == pytest.approx(CORTEX_HU, rel=0.08)
    assert found.in_plane_mm == pytest.approx(IN_PLANE_MM, abs=0.04)
    assert found.between_slices_mm == pytest.approx(BETWEEN_MM, abs=0.05)


def test_edge_is_found_where_it_is_through_noise() -> None:
    seen, edge, share = profiles(300)
    fit = fit_sheets(seen, share, Blur(CORTEX_HU, IN_PLANE_MM, BETWEEN_MM, 15.0), USE)
    error = fit.edge_mm - edge
    assert abs(np.median(error)) < 0.02
    assert np.percentile(np.abs(error), 90) < 0.12


def test_a_fifth_too_dense_a_cortex_moves_the_edge_by_a_tenth_of_a_millimetre() -> None:
    seen, edge, share = profiles(300, noise_hu=0.0)
    fit = fit_sheets(seen, share, Blur(1.2 * CORTEX_HU, IN_PLANE_MM, BETWEEN_MM, 0.0), USE)
    assert np.median(fit.edge_mm - edge) == pytest.approx(-0.1, abs=0.04)


def test_too_few_profiles_tell_nothing() -> None:
    seen, _, share = profiles(60)
    assert estimate_blur(seen, share, USE) is None


def slab(thick_mm: float, blur_mm: float, *, texture_hu: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A box with a cortex all round, 0.5 mm voxels, and its own signed distance (mm, negative inside)."""
    step, half = 0.5, 12.25
    axis = (np.arange(72) - 35.5) * step
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    distance = np.maximum.reduce([np.abs(z), np.abs(y), np.abs(x)]) - half
    fine = np.clip(0.5 - distance / step, 0, 1), np.clip(0.5 - (distance + thick_mm) / step, 0, 1)
    hu = 30.0 + (CORTEX_HU - 30.0) * fine[0] - (CORTEX_HU - 90.0) * fine[1]
    hu = ndimage.gaussian_filter(hu, blur_mm / step)
    rough = ndimage.gaussian_filter(np.random.default_rng(2).standard_normal(hu.shape), 1.0)
    return (hu + texture_hu * rough / rough.std()).astype(np.float32), distance.astype(np.float32)


def looked_at(hu: np.ndarray, distance: np.ndarray, away_mm: float):
    from skimage.measure import marching_cubes

    vertices, faces, _, _ = marching_cubes(distance - away_mm, 0.0)
    normal = np.array([1.0, 0.0, 0.0])
    found = find_cortex_edge(
        hu, vertices.astype(float), faces.astype(np.int32), normal, 0.5, CortexSettings()
    )
    return found, vertices.astype(float), faces.astype(np.int32)


def test_distance_of_a_surface_from_the_edge_is_told() -> None:
    found, _, _ = looked_at(*slab(1.2, 0.5), away_mm=0.4)
    # A cortex of one thickness does not tell density from thickness, which leaves a tenth of a millimetre open.
    assert found.bias_mm == pytest.approx(0.4, abs=0.12)


@pytest.mark.parametrize(
    ("hu", "words"),
    [
        (slab(1.2, 1.3)[0], "blurs the cortex"),
        (slab(1.2, 0.5, texture_hu=500.0)[0], "."),
        (slab(0.0, 0.5)[0], "."),
    ],
    ids=["blurred", "textured", "no cortex"],
)
def test_surface_stays_where_the_ct_shows_no_cortex(hu: np.ndarray, words: str) -> None:
    found, _, _ = looked_at(hu, slab(1.2, 0.5)[1], away_mm=0.4)
    assert found.shift_mm is None
    assert words in found.why


def test_a_thin_wall_is_left_standing() -> None:
    from skimage.measure import marching_cubes

    z = np.abs((np.arange(40) - 19.5) * 0.5)[:, None, None]
    plate = np.broadcast_to(z, (40, 30, 30)).copy()
    plate[:, [0, -1]] = plate[:, :, [0, -1]] = 20.0
    for half_mm, most in ((0.6, 0.01), (2.0, 0.5)):
        vertices, faces, _, _ = marching_cubes(plate - half_mm, 0.0)
        shift = limited(
            vertices.astype(float),
            faces.astype(np.int32),
            np.full(len(vertices), -0.5),
            plate < half_mm,
            0.5,
            CortexSettings(),
        )
        assert -np.median(shift) == pytest.approx(most, abs=0.02)


@pytest.mark.parametrize("thick_mm", [4.0, 1.6])
def test_threshold_lies_outside_a_blurred_sheet(thick_mm: float) -> None:
    step = 0.5
    z = (np.arange(48) - 24) * step
    fine = (np.arange(4800) - 2400) * 0.005
    line = np.where(fine > 0, 50.0, np.where(fine > -thick_mm, 900.0, 100.0))
    blurred = np.interp(z, fine, ndimage.gaussian_filter1d(line, 0.6 / 0.005, mode="nearest"))
    hu = np.broadcast_to(blurred[:, None, None], (48, 24, 24)).astype(np.float32)
    soft = np.broadcast_to(z[:, None, None], hu.shape).astype(np.float32).copy()
    found = find_edge(hu, soft, SurfaceSettings())
    assert 0.3 < found.offset[24, 12, 12] < 0.6
    assert found.share_without_threshold == 0.0


@pytest.mark.parametrize(
    ("isolation", "wanted_mm"),
    [({"surface": {"at": "bone_edge"}}, 0.0), ({"surface": {"at": "threshold"}}, 0.18), ({}, 0.18)],
    ids=["at the edge", "threshold", "older report"],
)
def test_verification_takes_the_bias_off_a_thresholded_model_only(
    tmp_path: Path, isolation: dict[str, object], wanted_mm: float
) -> None:
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"isolation": isolation}), "utf-8")
    assert settings_for({"model_report": str(report)}).bone_edge_mm == wanted_mm
    assert settings_for({}).bone_edge_mm == 0.18


@pytest.mark.parametrize("shift_mm", [(1.6, 1.6), (-1.6, -1.6), (-0.9, 1.3)], ids=["out", "in", "either way"])
def test_moved_surface_lies_where_it_was_sent_and_keeps_one_inside(shift_mm: tuple[float, float]) -> None:
    from skimage.measure import marching_cubes

    at = np.indices((60, 56, 64)).astype(np.float32) - np.array([30, 28, 32])[:, None, None, None]
    ball = 0.5 * np.sqrt((at**2).sum(axis=0)) - np.float32(9.2)
    vertices, faces, _, _ = marching_cubes(ball, 0.0)
    outwards = vertices - np.array([30, 28, 32])
    share = 0.5 + 0.5 * outwards[:, 2] / np.linalg.norm(outwards, axis=1)
    wanted = shift_mm[0] + share * (shift_mm[1] - shift_mm[0])
    field, inside = moved((vertices, faces), wanted, ball < 0, ball.copy(), SurfaceSettings())
    away = marching_cubes(field, 0.0)[0] - np.array([30, 28, 32])
    share = 0.5 + 0.5 * away[:, 2] / np.linalg.norm(away, axis=1)
    reached = 0.5 * np.linalg.norm(away, axis=1) - 9.2
    np.testing.assert_allclose(reached, shift_mm[0] + share * (shift_mm[1] - shift_mm[0]), atol=0.06)
    inside_mm3 = 0.125 * np.count_nonzero(inside)
    assert inside_mm3 == pytest.approx(4 / 3 * np.pi * (9.2 + np.mean(shift_mm)) ** 3, rel=0.06)
