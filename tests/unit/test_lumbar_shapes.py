"""L3 to L5 made from the shipped shape of L1: proportions reached, and still a vertebra."""

from __future__ import annotations

from functools import cache

import igl
import numpy as np
import pytest
from scipy import ndimage

from bench.lumbar_shapes import (
    LOWER_LEVELS,
    Array,
    Probe,
    Proportions,
    Source,
    landmarks,
    lower_shape,
    sure_targets,
    warp,
)
from bench.lumbar_table import LEVELS, TABLE, spacing_ratio
from bench.model.isolation import MEANS
from service.geometry.templates import Template, shipped_templates, templates_for

HALF_MM = np.array([50, 66, 34])


def shipped(name: str) -> Template:
    return next(t for t in shipped_templates() if t.name == name)


@cache
def field_of(name: str) -> Array:
    """Signed distance (Z, Y, X) of a shipped template, made symmetric, exact near the surface only."""
    template = shipped(name)
    axes = [np.arange(-h, h + 1.0) for h in HALF_MM]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    points = np.column_stack([x.ravel(), y.ravel(), z.ravel()])
    found = igl.signed_distance(
        points,
        template.vertices,
        template.faces.astype(np.int64),
        sign_type=igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER,
    )[0].reshape(x.shape)
    return np.asarray(0.5 * (found + found[:, :, ::-1]))


@cache
def source(*, cut_mm: float = -200.0) -> Source:
    """L1, as if the scan ended at the height `cut_mm` of the template frame."""
    field = field_of("L1")
    height = np.arange(field.shape[0], dtype=float) - HALF_MM[2]
    return Source("L1", field, np.broadcast_to((height - cut_mm)[:, None, None], field.shape))


@cache
def made(level: str) -> Array:
    return lower_shape(level, [source()])


def span(points: dict[str, Array], one: str, other: str, axis: int) -> float:
    return float(abs(points[one][axis] - points[other][axis]))


@pytest.mark.parametrize("level", LOWER_LEVELS)
def test_the_landmarks_measured_again_lie_where_the_table_puts_them(level: str) -> None:
    before, after = landmarks(field_of("L1")), landmarks(made(level))
    # The lamina slopes and has moved: it is met at the height where the table puts the point.
    height = Proportions(before, level, "L1").targets()["canal_back"][2]
    after["canal_back"] = Probe(made(level)).end(
        (0.0, after["back"][1] + 3.0, height), np.array([0.0, 1.0, 0.0])
    )
    wanted = {m: TABLE[m].ratio(level, "L1") for m in TABLE}
    for measure, ends, axis in (
        ("pedicle_width", ("pedicle_medial", "pedicle_lateral"), 0),
        ("body_depth_lower", ("plate_lower_lip", "plate_lower_wall"), 1),
        ("height_front", ("plate_upper_front", "plate_lower_front"), 2),
        ("height_back", ("plate_upper_back", "plate_lower_back"), 2),
        ("canal_depth", ("back", "canal_back"), 1),
        ("spinous_length", ("canal_back", "spinous_tip"), 1),
        ("spinous_height", ("spinous_half_top", "spinous_half_bottom"), 2),
    ):
        reached = span(after, *ends, axis) / span(before, *ends, axis)
        assert reached == pytest.approx(wanted[measure], rel=0.12), measure
    for measure, name in (
        ("body_width_upper", "plate_upper_side"),
        ("body_width_lower", "plate_lower_side"),
        ("canal_width", "pedicle_medial"),
        ("transverse_width", "transverse_tip"),
        ("pars_width", "pars"),
    ):
        assert after[name][0] / before[name][0] == pytest.approx(wanted[measure], rel=0.12), measure


@pytest.mark.parametrize("level", LOWER_LEVELS)
def test_the_made_shape_is_one_symmetric_vertebra_with_an_open_canal(level: str) -> None:
    field = made(level)
    assert np.abs(field - field[:, :, ::-1]).max() < 1e-6
    bone = field < 0
    sizes = np.bincount(ndimage.label(bone)[0].ravel())[1:]
    assert sizes.max() > 0.995 * sizes.sum()
    found = landmarks(field)
    slice_ = bone[round(float(found["pedicle"][2])) + HALF_MM[2]]
    canal = ndimage.binary_fill_holes(slice_) & ~slice_
    depth, width = span(found, "back", "canal_back", 1), 2 * found["pedicle_medial"][0]
    assert canal.sum() > 0.5 * depth * width


def test_the_fifth_is_a_wedge_with_wide_pedicles_and_the_facets_turn_outwards() -> None:
    before, after = landmarks(field_of("L1")), landmarks(made("L5"))
    front, back = (span(after, f"plate_upper_{p}", f"plate_lower_{p}", 2) for p in ("front", "back"))
    assert front > back + 1.0
    assert span(before, "plate_upper_front", "plate_lower_front", 2) < span(
        before, "plate_upper_back", "plate_lower_back", 2
    )

    def angle(found: dict[str, Array]) -> float:
        x, y = (found["facet_upper_rear"] - found["facet_upper_front"])[:2]
        return float(np.degrees(np.arctan2(x, y)))

    moved = Proportions(before, "L5", "L1").targets()
    assert angle(moved) - angle(before) == pytest.approx(TABLE["facet_angle_upper"].step("L5", "L1"), abs=1.0)


@pytest.mark.parametrize("level", LOWER_LEVELS)
def test_the_warp_hits_its_landmarks_and_folds_nothing(level: str) -> None:
    start = landmarks(field_of("L1"))
    targets = Proportions(start, level, "L1").targets()
    spline = warp({name: start[name] for name in targets}, targets)
    for name, place in targets.items():
        assert np.allclose(start[name] + spline(start[name][None])[0], place, atol=1e-3), name
    points = Probe(field_of("L1")).inside()[::23]
    edges = [spline(points + 0.5 * e) - spline(points - 0.5 * e) + e for e in np.eye(3)]
    assert np.linalg.det(np.stack(edges, axis=-1)).min() > 0.3


def test_the_same_level_stays_as_it_is() -> None:
    start = landmarks(field_of("L1"))
    for name, place in Proportions(start, "L1", "L1").targets().items():
        # The root of the transverse process is measured at a whole mm.
        assert np.allclose(place, start[name], atol=0.5), name


def test_bone_that_the_scan_cuts_gives_neither_landmarks_nor_surface() -> None:
    start = landmarks(field_of("L1"))
    whole, cut = source(), source(cut_mm=-18.0)
    lost = set(sure_targets("L4", whole, start)) - set(sure_targets("L4", cut, start))
    assert {"facet_lower_tip", "plate_lower_middle"} <= lost
    assert "plate_upper_middle" not in lost
    alone = lower_shape("L4", [cut])
    tip = Proportions(start, "L4", "L1").targets()["facet_lower_tip"]
    below = tip + np.array([0.0, 0.0, 1.5])
    assert Probe(made("L4")).at(below)[0] < 0 < Probe(alone).at(below)[0]
    together = lower_shape("L4", [whole, cut])
    # There the whole one stands alone, at its own distance.
    assert Probe(together).at(below)[0] == pytest.approx(Probe(made("L4")).at(below)[0], abs=0.1)


def test_the_table_names_a_source_and_a_note_for_every_row() -> None:
    for name, series in TABLE.items():
        assert len(series.means) == len(LEVELS), name
        assert min(series.means) > 0, name
        assert series.source, name
        assert series.note, name
    assert spacing_ratio("L1", "L1") == 1.0
    assert 1.05 < spacing_ratio("L5", "L1") < spacing_ratio("L4", "L1") < 1.2


def test_the_lower_levels_ship_and_come_first_for_their_level() -> None:
    for level in LOWER_LEVELS:
        assert templates_for(level, count=1)[0].name == level
    wide = [np.ptp(shipped(level).vertices[:, 0]) for level in ("L1", *LOWER_LEVELS)]
    assert wide[3] == max(wide)
    assert shipped("L4").gap_mm > shipped("L1").gap_mm


def test_a_level_left_out_takes_along_the_shapes_made_from_it() -> None:
    for level in ("L1", "L2"):
        assert set(LOWER_LEVELS) <= set(MEANS[level])
