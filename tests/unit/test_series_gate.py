"""The geometry gate: every defect is named with its slices; good series pass whatever their file order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.geometry.series_gate import GatePolicy, GateResult, SlicePlace, check_series


def stack(count: int = 20, spacing: float = 0.8, thickness: float | None = 0.8) -> list[SlicePlace]:
    return [
        SlicePlace(
            f"1.2.{n}",
            n + 1,
            (-100.0, -120.0, -50.0 + n * spacing),
            (1, 0, 0),
            (0, 1, 0),
            64,
            48,
            (0.7, 0.5),
            thickness,
        )
        for n in range(count)
    ]


def codes(result: GateResult) -> list[str]:
    return [f.code for f in result.findings]


def only_refusal(result: GateResult) -> str:
    assert not result.accepted
    (finding,) = result.refusals
    return f"{finding.code}: {finding.sentence}"


def test_order_comes_from_positions_not_from_numbers() -> None:
    places = [replace(p, instance_number=99 - n) for n, p in enumerate(stack())]
    order = np.random.default_rng(3).permutation(len(places))
    result = check_series([places[i] for i in order])
    assert result.accepted and result.findings == ()
    assert [order[i] for i in result.ordered] == list(range(20))
    assert result.spacing_mm == pytest.approx(0.8)
    expected = [[0.5, 0, 0, -100], [0, 0.7, 0, -120], [0, 0, 0.8, -50], [0, 0, 0, 1]]
    np.testing.assert_allclose(result.lps_from_ijk, expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-3.1, 3.1)] * 3),
    tilt=st.floats(-30, 30),
    spacing=st.floats(0.3, 4.9),
    seed=st.integers(0, 2**16),
)
def test_affine_maps_every_first_pixel_to_its_header_position(
    angles: tuple[float, float, float], tilt: float, spacing: float, seed: int
) -> None:
    from scipy.spatial.transform import Rotation

    axes = Rotation.from_euler("xyz", angles).as_matrix()
    step = spacing * (axes[:, 2] * np.cos(np.radians(tilt)) + axes[:, 1] * np.sin(np.radians(tilt)))
    places = [
        replace(
            p,
            position=tuple(np.array([10, 20, 30]) + n * step),
            row_dir=tuple(axes[:, 0]),
            col_dir=tuple(axes[:, 1]),
        )
        for n, p in enumerate(stack(12, thickness=None))
    ]
    shuffled = [places[i] for i in np.random.default_rng(seed).permutation(12)]
    result = check_series(shuffled)
    assert result.lps_from_ijk is not None
    assert result.tilt_deg == pytest.approx(tilt, abs=1e-6)
    assert np.linalg.det(result.lps_from_ijk[:3, :3]) > 0
    for k, index in enumerate(result.ordered):
        np.testing.assert_allclose(
            (result.lps_from_ijk @ [0, 0, k, 1])[:3], shuffled[index].position, atol=1e-6
        )


def test_missing_slices_are_named_with_their_neighbours() -> None:
    places = stack()
    del places[7:9]
    text = only_refusal(check_series(places))
    assert text == (
        "series.gap: 2 slice(s) are missing: 2 missing between slice 7 (z -45.20 mm) and slice 10 (z -42.80 mm) "
        "(2.40 mm instead of 0.80 mm)."
    )


def test_two_gaps_are_both_named() -> None:
    places = [p for p in stack() if p.instance_number not in (4, 15)]
    text = only_refusal(check_series(places))
    assert "2 slice(s) are missing" in text
    assert "between slice 3 " in text and "between slice 14 " in text


def test_uneven_spacing_is_refused_with_the_worst_step() -> None:
    places = stack(spacing=1.0)
    places[5] = replace(places[5], position=(-100.0, -120.0, -50.0 + 5.3))
    text = only_refusal(check_series(places))
    assert text.startswith("series.variable_spacing") and "slice 6 (z -44.70 mm)" in text


def test_half_of_the_series_with_double_spacing_is_variable_spacing_not_gaps() -> None:
    fine, coarse = stack(15, 1.0), stack(10, 2.0)
    places = fine + [
        replace(p, sop_uid=f"9.{n}", position=(-100.0, -120.0, -34.0 + 2 * n)) for n, p in enumerate(coarse)
    ]
    assert only_refusal(check_series(places)).startswith("series.variable_spacing")


def test_creeping_spacing_is_refused_although_each_step_looks_even() -> None:
    places = [
        replace(p, position=(-100.0, -120.0, float(-50 + n + 0.0009 * n * n)))
        for n, p in enumerate(stack(100))
    ]
    steps = np.diff([p.position[2] for p in places])
    assert np.abs(np.diff(steps)).max() < 0.01
    assert not check_series(places).accepted


@pytest.mark.parametrize(("spacing", "digits"), [(0.625, 1), (0.8333, 2), (1.25, 1), (0.75, 1)])
def test_positions_rounded_by_the_scanner_are_accepted(spacing: float, digits: int) -> None:
    places = [
        replace(p, position=(-100.0, -120.0, round(-50 + n * spacing, digits)))
        for n, p in enumerate(stack(60))
    ]
    result = check_series(places)
    assert result.accepted, [f.sentence for f in result.refusals]
    assert result.spacing_mm == pytest.approx(spacing, rel=0.005)


def test_same_instance_twice_is_dropped_with_a_warning() -> None:
    places = stack()
    result = check_series([*places, places[3]])
    assert result.accepted and codes(result) == ["series.copies"] and len(result.ordered) == 20
    assert "slice 4" in result.findings[0].sentence


def test_two_instances_at_one_position_are_refused() -> None:
    places = stack()
    text = only_refusal(check_series([*places, replace(places[3], sop_uid="9.9", instance_number=77)]))
    assert text.startswith("series.duplicate_position") and "slice 77" in text


def test_one_uid_for_two_slices_is_refused() -> None:
    places = stack()
    places[3] = replace(places[3], sop_uid=places[9].sop_uid)
    text = only_refusal(check_series(places))
    assert text.startswith("series.uid_reused") and "slice 4" in text and "slice 10" in text


BAD: list[tuple[str, Callable[[SlicePlace], SlicePlace]]] = [
    ("series.mixed_orientation", lambda p: replace(p, row_dir=(0, 1, 0), col_dir=(0, 0, -1))),
    ("series.mixed_orientation", lambda p: replace(p, row_dir=(0.99995, 0.01, 0), col_dir=(-0.01, 0.99995, 0))),
    ("series.mixed_size", lambda p: replace(p, rows=128)),
    ("series.mixed_pixel_spacing", lambda p: replace(p, pixel_spacing=(0.71, 0.5))),
    ("series.orientation_invalid", lambda p: replace(p, row_dir=(0, 0, 0))),
    ("series.orientation_invalid", lambda p: replace(p, col_dir=(0.5, 0.9, 0))),
    ("series.orientation_invalid", lambda p: replace(p, pixel_spacing=(0.7, 0.0))),
    ("series.orientation_invalid", lambda p: replace(p, position=(0, float("nan"), 0))),
    ("series.shifted_slices", lambda p: replace(p, position=(-99.0, -120.0, p.position[2]))),
]  # fmt: skip


@pytest.mark.parametrize(("code", "change"), BAD)
def test_one_odd_slice_is_refused_by_name(code: str, change: Callable[[SlicePlace], SlicePlace]) -> None:
    places = stack()
    places[11] = change(places[11])
    text = only_refusal(check_series(places))
    assert text.startswith(code) and "slice 12" in text


def test_gantry_tilt_is_a_warning_and_shears_the_affine() -> None:
    angle = np.radians(-18.5)
    places = [replace(p, col_dir=(0, np.cos(angle), np.sin(angle))) for p in stack()]
    result = check_series(places)
    assert codes(result) == ["series.tilt"]
    assert result.lps_from_ijk is not None
    assert result.tilt_deg == pytest.approx(-18.5)
    np.testing.assert_allclose(result.lps_from_ijk[:3, 2], [0, 0, 0.8], atol=1e-9)
    assert result.spacing_mm == pytest.approx(0.8 * np.cos(angle))


def test_thickness_warns_refuses_and_gaps_between_thin_slices_are_told() -> None:
    assert codes(check_series(stack(thickness=1.25))) == []
    assert codes(check_series(stack(thickness=1.5))) == ["series.thick"]
    assert codes(check_series(stack(thickness=None, spacing=2.0))) == ["series.thick"]
    assert codes(check_series(stack(thickness=0.5, spacing=1.0))) == ["series.unscanned"]
    assert only_refusal(check_series(stack(thickness=6.0))).startswith("series.too_thick")
    assert only_refusal(check_series(stack(spacing=7.0, thickness=None))).startswith("series.too_thick")


def test_too_few_slices_and_none() -> None:
    assert only_refusal(check_series(stack(4))).startswith("series.too_few: The series has 4 slice(s)")
    assert only_refusal(check_series([])).startswith("series.empty")
    one = check_series(stack(1), GatePolicy(min_slices=1))
    assert one.accepted and one.spacing_mm == 0.8
