"""The library of rendered needle points: what tells one shape from another, and what a cut range does to it."""

from __future__ import annotations

import numpy as np
import pytest

from service.geometry.tip_shapes import TipCurves, library, weights

RADIUS_MM, DISC_MM = 1.2065, 2.6


def shapes(*, cut: float = float("inf"), tube: bool = False) -> tuple[TipCurves, ...]:
    return library(RADIUS_MM, DISC_MM, 0.6, 0.4, cut, tube)


def one(name: str, length_mm: float, **chosen: object) -> TipCurves:
    (found,) = [c for c in shapes(**chosen) if c.shape == name and c.length_mm == length_mm]  # type: ignore[arg-type]
    return found


def test_every_curve_rises_from_nothing_to_the_shaft() -> None:
    for curves in (*shapes(), *shapes(tube=True)):
        ahead, shaft = curves.behind_mm < -2.0, (curves.behind_mm > 9.0) & (curves.behind_mm < 14.0)
        assert np.abs(curves.curves[:, ahead]).max() < 0.01
        assert curves.curves[:2, shaft] == pytest.approx(np.ones((2, shaft.sum())), abs=0.02)


def test_the_area_behind_the_tip_is_that_of_the_solid() -> None:
    """Volume missing beside a plain end: two thirds of a cone, half of a bevel, a third of an ogive, mm of shaft."""
    for name, share in (("cone", 2 / 3), ("bevel", 0.5), ("ogive", 1 / 3)):
        curves = one(name, 4.0)
        step = curves.behind_mm[1] - curves.behind_mm[0]
        missing = (1.0 - curves.curves[0][curves.behind_mm > 0]).sum() * step
        missing -= curves.curves[0][curves.behind_mm <= 0].sum() * step
        assert missing == pytest.approx(share * 4.0, abs=0.2)


def test_only_a_bevel_lies_beside_the_axis_and_a_point_shows_in_the_core_first() -> None:
    assert np.abs(one("cone", 4.0).curves[2]).max() < 0.01
    assert one("bevel", 4.0).curves[2].min() < -0.15
    behind = one("cone", 4.0).behind_mm
    area, core, _ = (np.interp(1.5, behind, curve) for curve in one("cone", 4.0).curves)
    assert core > 1.5 * area


def test_a_tube_is_dark_inside_and_a_cut_range_fills_the_disc() -> None:
    assert one("tube_bevel", 4.0, tube=True).core_of_area < 0.75 * one("bevel", 4.0).core_of_area
    filling = [one("cone", 3.0, cut=cut).area_of_top for cut in (0.3, 0.5, 0.7, float("inf"))]
    assert filling == sorted(filling, reverse=True)
    assert filling[0] > 1.2 * filling[-1]


def test_weights_sum_to_one_and_keep_to_the_disc() -> None:
    a, b = (m.ravel() for m in np.meshgrid(np.linspace(-4, 4, 41), np.linspace(-4, 4, 41)))
    for of in weights(a, b, DISC_MM):
        assert of.sum() == pytest.approx(1.0)
        assert of[np.hypot(a, b) > DISC_MM].max() == 0.0
