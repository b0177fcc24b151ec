"""The model's outside against the CT's own threshold: exact on a ball, grey where the CT shows no edge."""

from __future__ import annotations

import numpy as np
import pytest

from service.geometry.anatomy import SurfaceTaken
from service.geometry.ct_deviation import CtDeviation, deviation_from_ct
from service.geometry.mesh import Mesh, mesh_of_field
from service.geometry.volume import Volume
from service.results.deviation_map import deviation_map, figures_in_words
from service.results.pictures import directions_of
from tests.unit import solid_shapes as shapes

NOTHING = Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))


def ball_mesh(radius, shift=(0.0, 0.0, 0.0)):
    affine, x, y, z = shapes.grid([20, 20, 20], 0.5)
    field = np.sqrt((x - shift[0]) ** 2 + (y - shift[1]) ** 2 + (z - shift[2]) ** 2) - radius
    return mesh_of_field(field.astype(np.float32), affine[:3, 3], 0.5)


def ball_ct(radius=15.0):
    """A ball whose HU fall by 500 per mm through 226 HU at its radius."""
    affine, x, y, z = shapes.grid([20, 20, 20], 0.6)
    hu = np.clip(226.0 - 500.0 * (np.sqrt(x**2 + y**2 + z**2) - radius), 0.0, 1000.0)
    return Volume(hu.astype(np.float32), affine)


@pytest.mark.parametrize("radius", [14.6, 15.0, 15.3])
def test_a_ball_too_large_or_too_small_is_off_by_its_radius(radius):
    found = deviation_from_ct(ball_ct(), ball_mesh(radius), NOTHING, shapes.simple_plan(), ())
    assert np.nanmedian(found.offset_mm) == pytest.approx(radius - 15.0, abs=0.03)
    document = found.to_document()
    assert document["p50_mm"] == pytest.approx(abs(radius - 15.0), abs=0.03)
    assert document["not_crossed_share"] == 0.0


def test_the_hollow_is_not_compared():
    outside, inside = ball_mesh(15.0), ball_mesh(12.0)
    turned = inside.faces[:, ::-1] + len(outside.vertices)
    shell = Mesh(np.vstack([outside.vertices, inside.vertices]), np.vstack([outside.faces, turned]))
    found = deviation_from_ct(ball_ct(), shell, inside, shapes.simple_plan(), ())
    assert np.linalg.norm(found.points, axis=1).min() > 14.5


def test_where_the_ct_shows_no_edge_there_is_no_figure_but_a_share():
    ct = ball_ct()
    x = ct.to_lps(np.argwhere(ct.values > -1)[:, ::-1])[:, 0].reshape(ct.values.shape)
    halved = Volume(np.where(x > 0, 900.0, ct.values), ct.lps_from_ijk)
    found = deviation_from_ct(halved, ball_mesh(15.0), NOTHING, shapes.simple_plan(), ())
    assert found.to_document()["not_crossed_share"] == pytest.approx(0.5, abs=0.03)
    assert "no such place on 5" in figures_in_words(found)
    empty = CtDeviation(found.points, found.offset_mm * np.nan, found.left_out, 226.0)
    assert empty.to_document()["p95_mm"] is None
    assert "nowhere" in figures_in_words(empty)


def test_the_picture_is_red_where_the_model_stands_out_and_blue_where_it_lies_inside():
    mesh = ball_mesh(15.0, shift=(0.4, 0.0, 0.0))
    found = deviation_from_ct(ball_ct(), mesh, NOTHING, shapes.simple_plan(), ())
    picture = deviation_map(mesh, found, directions_of(None), surface=SurfaceTaken(), title="T")
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    row = 56 + 240  # the middle of the first view, seen from in front: the patient's left is on the right
    left, right = pixels[row, 60:120], pixels[row, 360:420]
    assert (left[:, 2] - left[:, 0]).max() > 60
    assert (right[:, 0] - right[:, 2]).max() > 60
