"""Cone-beam physics of the O-arm simulator: what runs without itk-rtk, and a needle measured on a scan it made."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.geometry.metal import read_scan
from service.geometry.needle_tip import fit_tip
from service.geometry.needles import find_lines, fit_axis
from service.geometry.volume import Volume
from simulators.oarm import (
    TIP_SHAPES,
    Cement,
    Needle,
    PhysicsMissingError,
    PhysicsSettings,
    make_scan,
    small_physics,
)
from simulators.oarm.__main__ import main
from simulators.oarm.physics import solids
from simulators.oarm.physics.attenuation import per_mm, spectrum
from simulators.oarm.physics.beam import Beam, detector_shape
from simulators.oarm.physics.detector import measured_lines, water_table
from simulators.oarm.physics.rtk import circle

Array = NDArray[np.float64]
FIXTURE = Path(__file__).parents[1] / "fixtures" / "oarm_physics_needle.npz"
SOURCE = np.array([300.0, -200.0, 80.0])
STEP_MM = 0.02


def _rays(count: int) -> Array:
    """Unit directions (N,3) from SOURCE to places about the first 12 mm of a needle that points down to the origin."""
    rng = np.random.default_rng(4)
    to = np.column_stack([rng.uniform(-1.5, 1.5, (count, 2)), rng.uniform(-1.0, 12.0, count)]) - SOURCE
    return np.asarray(to / np.linalg.norm(to, axis=1, keepdims=True))


def _counted(inside: Any, directions: Array) -> Array:
    """Lengths (N,) by walking along each ray."""
    t = np.arange(320.0, 410.0, STEP_MM)
    return np.array([STEP_MM * np.count_nonzero(inside(SOURCE + t[:, None] * d)) for d in directions])


@pytest.mark.parametrize("shape", TIP_SHAPES)
def test_a_rays_length_in_the_needle_is_that_of_its_shape(shape: Any) -> None:
    needle = Needle((1.0, 2.0, 40.0), (0.3, 0.2, 0.0), tip_shape=shape, length_mm=60.0)
    directions = _rays(40)
    exact = solids.metal_length([needle], SOURCE, directions)
    counted = _counted(lambda p: needle.distance(p) < 0, directions)
    assert counted.max() > 1.0
    assert np.abs(exact - counted).max() < 2.5 * STEP_MM


def test_cement_is_counted_once_and_not_where_a_needle_is() -> None:
    needle = Needle((1.0, 2.0, 40.0), (0.3, 0.2, 0.0), tip_shape="cannula")
    blobs = [
        Cement((0.0, 0.0, 5.0), radius_mm=6.0, leak_to=(2.0, 17.0, 1.0)),
        Cement((3.0, 0.0, 5.0), radius_mm=4.0),
    ]
    directions = _rays(12)
    exact = solids.cement_length(blobs, [needle], SOURCE, directions)

    def inside(p: Array) -> NDArray[np.bool_]:
        blob = np.min([b.distance(p) for b in blobs], axis=0) < 0
        return np.asarray(blob & (needle.distance(p) >= 0))

    assert np.abs(exact - _counted(inside, directions)).max() < 6 * STEP_MM


def test_materials_have_the_ct_numbers_they_are_known_for() -> None:
    kev = np.array([70.0])
    water = per_mm("water", kev)[0]
    hu = {name: 1000.0 * (per_mm(name, kev)[0] / water - 1.0) for name in ("bone", "steel", "cement")}
    assert water == pytest.approx(0.0193, rel=0.01)  # NIST: 0.1929 per cm at 70 keV
    assert 1400 < hu["bone"] < 1800
    assert 1500 < hu["cement"] < 3500
    assert hu["steel"] > 25000
    energies, share = spectrum(120.0, 8.0, 8)
    assert share.sum() == pytest.approx(1.0)
    assert 60.0 < energies @ share < 75.0


def test_water_comes_out_straight_and_more_metal_comes_out_less_than_straight() -> None:
    settings = PhysicsSettings()
    beam = Beam.of(settings)
    bent, straight = water_table(settings)
    for length in (50.0, 216.0, 330.0):
        measured = -np.log(beam.energy(beam.water * length)[0])
        assert np.interp(measured, bent, straight) == pytest.approx(0.0193 * length, rel=0.01)
    thin, thick = (-np.log(beam.energy(beam.steel * length)[0]) for length in (1.0, 20.0))
    assert thick < 0.8 * 20.0 * thin


def test_noise_grows_behind_a_patient_and_a_bad_column_shows_in_every_view() -> None:
    quiet = small_physics(scatter=0.0, gain_sd=0.0, bad_columns=1, bad_gain=0.2, electronic_noise=0.0)
    beam = Beam.of(quiet)
    spread = []
    for length in (0.0, 220.0):
        energy, squared = beam.energy(beam.water * length)
        flat = np.full((6, 40, 50), energy, dtype=np.float32)
        lines = measured_lines(flat, np.full_like(flat, squared), quiet, np.random.default_rng(1))
        middle = np.median(lines, axis=(0, 1))
        bad = np.flatnonzero(np.abs(middle - np.median(middle)) > 0.1)
        assert len(bad) == 1
        spread.append(float(np.delete(lines, bad, axis=2).std()))
    assert spread[1] > 5.0 * spread[0]


def test_the_detector_sees_the_field_in_every_view_and_no_more() -> None:
    settings = PhysicsSettings()
    rows, columns = detector_shape(148.0, 80.0, settings)
    for view in circle(settings)[::45]:
        assert np.linalg.norm(view.source - view.detector) == pytest.approx(settings.source_to_detector_mm)
        edge = view.detector + 0.5 * columns * settings.pitch_mm * view.u - view.source
        passes = np.linalg.norm(np.cross(edge / np.linalg.norm(edge), view.source))
        assert 74.0 <= passes < 75.5
    assert rows * settings.pitch_mm > 80.0 * 1147.7 / 647.7


def test_settings_that_no_machine_has_are_refused() -> None:
    for wrong in ({"views": 2}, {"arc_deg": 150.0}, {"source_to_axis_mm": 1200.0}, {"bins": 0}):
        with pytest.raises(ValueError, match=r"turn|arc|axis|spectrum"):
            PhysicsSettings(**wrong)  # type: ignore[arg-type]


def test_without_itk_rtk_the_message_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # None in sys.modules makes the import fail, as when the package was never installed.
    monkeypatch.setitem(sys.modules, "itk", None)
    with pytest.raises(PhysicsMissingError, match=r"requirements/physics\.txt"):
        make_scan(tmp_path, physics=PhysicsSettings())
    arguments = ["scan", "--preop", str(tmp_path), "--out", str(tmp_path / "out"), "--physics"]
    assert main(arguments) == 2
    assert "pip install --require-hashes -r requirements/physics.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments[:-1], "--views", "90"]) == 2


def test_a_needle_in_cone_beam_physics_is_measured_within_what_is_stated() -> None:
    """Scanned with itk-rtk by tests/fixtures/make_oarm_physics.py, so that every run of the suite sees real streaks."""
    kept = np.load(FIXTURE)
    tip_mm, direction = kept["tip_mm"], kept["axis"]
    view = read_scan(Volume(kept["grey"], kept["scan_from_ijk"]))
    line = max(find_lines(view), key=lambda found: found.length_mm)
    end = min((line.start, line.end), key=lambda e: float(np.linalg.norm(e - tip_mm)))
    axis = fit_axis(view.full, line, end)
    tip = fit_tip(axis, clipped=view.grey.clipped)
    assert tip is not None
    error = axis.origin + tip.s_mm * axis.direction - tip_mm
    along = float(error @ direction)
    assert np.linalg.norm(error - along * direction) < 0.2
    assert np.degrees(np.arccos(min(1.0, float(axis.direction @ direction)))) < 0.3
    assert abs(along) < 2.0 * tip.sigma_mm
    assert abs(along) < 0.8
