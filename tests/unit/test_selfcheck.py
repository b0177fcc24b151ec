"""The self-check must find each fault by itself, in a mesh made to have it."""

from __future__ import annotations

import dataclasses
import json

import manifold3d
import numpy as np
import pytest

from service.domain.plan import ModelSettings, Trajectory, Vent
from service.geometry.mesh import Mesh
from service.geometry.selfcheck import check_model
from tests.unit.solid_shapes import simple_plan

# A drum of 40 x 40 x 40 mm with a 2 mm wall, made by a mesh library, not by the code that builds our models.
OUTSIDE, INSIDE = 20.0, 18.0
ENTRY, TARGET = (0.0, 20.0, 0.0), (0.0, 0.0, 0.0)
PATH = Trajectory("left", ENTRY, TARGET, 0.0, 15.0, 2.0)
VENTS = (
    Vent((10.0, 0.0, 20.0), (0.0, 0.0, 1.0), 3.4),
    Vent((-10.0, 0.0, -20.0), (0.0, 0.0, -1.0), 3.4),
)
PLAN = simple_plan([PATH], ModelSettings(vents=VENTS))


def box(half, centre=(0.0, 0.0, 0.0)):
    return manifold3d.Manifold.cube((2 * half,) * 3, True).translate(centre)


def rod(start, end, radius):
    start, end = np.asarray(start, float), np.asarray(end, float)
    axis = (end - start) / np.linalg.norm(end - start)
    u = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    u /= np.linalg.norm(u)
    matrix = np.column_stack([u, np.cross(axis, u), axis, start])
    body = manifold3d.Manifold.cylinder(float(np.linalg.norm(end - start)), radius, circular_segments=96)
    return body.transform(matrix)


def drum(*, outside=OUTSIDE, inside=INSIDE, channel=1.4, vents=VENTS, aside=0.0, vent_radius=1.7):
    body = box(outside) - box(inside)
    body = body + (rod((0, 20, 0), (0, -3.4, 0), 3.4) ^ box(outside))
    for vent in vents:
        out, way = np.array(vent.position), np.array(vent.direction)
        body = body - rod(out + 2 * way, out - 4 * way, vent_radius)
    if channel:
        body = body - rod((aside, 22, 0), (aside, 0, 0), channel)
    return body


def mesh_of(body):
    out = body.to_mesh64()
    return Mesh(np.asarray(out.vert_properties)[:, :3], np.asarray(out.tri_verts, dtype=np.int64))


def measured(body, plan=PLAN, **changes):
    mesh = mesh_of(body.refine_to_length(2.0))
    return check_model(mesh.vertices, mesh.faces, dataclasses.replace(plan, **changes))


@pytest.fixture(scope="module")
def sound():
    return measured(drum())


def test_sound_model_passes_and_figures_are_true(sound):
    assert sound.failures == ()
    assert sound.watertight
    assert sound.bodies == 1
    assert sound.wall.mean_mm == pytest.approx(2.0, abs=0.005)
    assert sound.wall.p1_mm == pytest.approx(2.0, abs=0.01)
    assert sound.channels[0].diameter_mm == pytest.approx(2.8, abs=0.01)
    assert sound.channels[0].axis_mm < 0.01
    assert sound.channels[0].depth_error_mm == pytest.approx(0.0, abs=1e-3)
    assert [vent.diameter_mm for vent in sound.vents] == pytest.approx([3.4, 3.4], abs=0.02)
    assert sound.extents_mm == pytest.approx((40.0, 40.0, 40.0))
    assert sound.cavities == 1
    # 36 mm cube less the sleeve that crosses half of it; openings of the vents count a little.
    assert sound.hollow_ml == pytest.approx((36.0**3 - np.pi * 3.4**2 * 20) / 1000.0, rel=0.02)


def test_document_is_plain_json(sound):
    document = json.loads(json.dumps(sound.to_document()))
    assert document["passed"] is True
    assert document["failures"] == []
    assert document["wall"]["mean_mm"] == pytest.approx(2.0, abs=0.01)


def test_sealed_cavity_is_found():
    check = measured(drum(vents=(), channel=1.4))
    assert check.closed_voids == 1
    assert check.closed_void_mm3 > 40_000
    assert any("sealed cavity" in text for text in check.failures)


def test_small_sealed_bubble_in_the_wall_is_found():
    body = drum() - manifold3d.Manifold.sphere(0.6, 24).translate((12.0, 12.0, 19.0))
    check = measured(body)
    assert check.closed_voids == 1
    assert not check.passed


def test_blocked_channel_is_found():
    check = measured(drum() + rod((0, 12, 0), (0, 10, 0), 2.0))
    assert not check.channels[0].open
    assert any("left channel is blocked" in text for text in check.failures)


def test_missing_channel_is_found():
    check = measured(drum(channel=0.0))
    assert any("left channel was not found" in text for text in check.failures)


def test_needle_that_would_not_pass_is_found():
    check = measured(drum(channel=1.15))
    assert not check.channels[0].open
    assert any("wide instead of" in text for text in check.failures)


def test_channel_beside_its_plan_is_found():
    check = measured(drum(aside=0.25))
    assert check.channels[0].axis_mm == pytest.approx(0.25, abs=0.02)
    assert any("off the plan" in text for text in check.failures)


def test_channel_too_deep_is_found():
    check = measured(drum() - rod((0, 2, 0), (0, -1.5, 0), 1.4))
    assert check.channels[0].depth_error_mm == pytest.approx(1.5, abs=0.01)
    assert any("planned depth" in text for text in check.failures)


def test_thin_wall_is_found():
    check = measured(drum(inside=18.8))
    assert check.wall.mean_mm == pytest.approx(1.2, abs=0.01)
    assert any("wall is 1.20 mm on average" in text for text in check.failures)


def test_thin_spot_is_found_though_the_mean_is_right():
    dent = manifold3d.Manifold.cube((12.0, 12.0, 2.0), True).translate((10.0, -10.0, -18.5))
    check = measured(drum() - dent)
    assert check.wall.p1_mm < 1.6
    assert any("thinner than" in text for text in check.failures)


def test_second_body_is_found():
    check = measured(drum() + box(3.0, (40.0, 0.0, 0.0)))
    assert check.bodies == 2
    assert any("2 separate bodies" in text for text in check.failures)


def test_narrow_vent_is_found():
    check = measured(drum(vent_radius=1.3))
    assert sum("at least 3 mm" in text for text in check.failures) == 2


def test_vent_that_was_not_drilled_is_found():
    check = measured(drum(vents=VENTS[:1]))
    assert [vent.reaches_hollow for vent in check.vents] == [True, False]
    assert any("Vent 2 is blocked" in text for text in check.failures)
    assert any("has 1 vent" in text for text in check.failures)


def test_vents_that_begin_in_the_hollow_are_no_openings():
    """They cut nothing, and from within the hollow everything looks open."""
    within = (Vent((8.0, 8.0, 0.0), (0.0, 0.0, 1.0), 3.4), Vent((-8.0, 8.0, 0.0), (0.0, 0.0, -1.0), 3.4))
    plan = simple_plan([PATH], ModelSettings(vents=within))
    slot = rod((0, 6, 0), (6, 6, 0), 1.6)  # as the builder cuts near the tip: no sealed cavity then
    check = measured(drum(vents=()) - slot, plan)
    assert [vent.reaches_hollow for vent in check.vents] == [False, False]
    assert any("Vent 1 is blocked" in text for text in check.failures)
    assert any("has 0 vent" in text for text in check.failures)


def test_room_behind_a_narrow_neck_is_out_of_reach():
    """A second room joined by a 1.6 mm hole: open for the mesh, closed for gas in practice."""
    partition = manifold3d.Manifold.cube((40.0, 2.0, 40.0), True).translate((0.0, -10.0, 0.0)) ^ box(19.0)
    body = drum() + (partition - rod((8, -5, 8), (8, -15, 8), 0.8))
    check = measured(body)
    assert check.closed_voids == 0
    assert check.unreached_mm3 > 1000
    assert any("out of reach" in text for text in check.failures)


def test_open_surface_and_wrong_winding_are_found():
    mesh = mesh_of(drum().refine_to_length(2.0))
    holed = check_model(mesh.vertices, mesh.faces[:-5], PLAN)
    assert not holed.watertight
    faces = mesh.faces.copy()
    faces[:40] = faces[:40, ::-1]
    flipped = check_model(mesh.vertices, faces, PLAN)
    assert not flipped.winding_consistent
    assert any("outward" in text for text in flipped.failures)


def test_mirrored_model_is_found_against_the_bone():
    from service.geometry.solid import SolidSettings, build_solid
    from tests.unit import solid_shapes as shapes

    bone = shapes.vertebra(step=0.8)
    lopsided = dataclasses.replace(bone, values=bone.values.copy())
    _, x, y, z = shapes.grid([44, 48, 24], 0.8, (0, 18, 0))
    np.minimum(
        lopsided.values,
        shapes.capsule(x, y, z, (20, 0, 0), (30, -8, 0), 4.0),
        out=lopsided.values,
        casting="unsafe",
    )
    plan = shapes.vertebra_plan(lopsided)
    solid = build_solid(lopsided, plan, settings=SolidSettings(grid_mm=0.6))
    assert check_model(solid.vertices, solid.faces, solid.plan, outer=lopsided).failures == ()
    mirrored = solid.vertices * [-1, 1, 1]
    check = check_model(mirrored, solid.faces[:, ::-1], solid.plan, outer=lopsided)
    assert any("mirrored" in text for text in check.failures)
