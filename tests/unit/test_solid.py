"""The hollow model: exact wall, channels on plan, openings, one clean surface, same bytes; and its refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from service.domain.plan import ModelSettings, Trajectory, Vent, plan_from_document, plan_to_document
from service.errors import GeometryError
from service.geometry.mesh import SurfaceIndex, edge_faults, surface_volumes, write_stl
from service.geometry.selfcheck import check_model
from service.geometry.solid import SolidSettings, build_solid
from tests.unit import solid_shapes as shapes

#: Where the question is not the last hundredth of a millimetre.
COARSE = SolidSettings(grid_mm=0.6)


@pytest.fixture(scope="module")
def bone():
    return shapes.vertebra(step=0.6)


@pytest.fixture(scope="module")
def plan(bone):
    return shapes.vertebra_plan(bone)


@pytest.fixture(scope="module")
def solid(bone, plan):
    return build_solid(bone, plan, case_code="82DPXQ")


@pytest.fixture(scope="module")
def check(bone, solid):
    return check_model(solid.vertices, solid.faces, solid.plan, outer=bone, marks=solid.marks)


def test_one_closed_manifold_body_without_void(solid):
    assert edge_faults(solid.mesh) == (0, 0)
    volumes = surface_volumes(solid.mesh)[1]
    assert len(volumes) == 1
    assert volumes[0] > 0


def test_trimesh_agrees_that_it_is_a_closed_volume(solid):
    import trimesh

    mesh = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.is_volume
    assert mesh.body_count == 1


def test_self_check_passes_with_the_figures_of_the_acceptance(check):
    assert check.failures == ()
    assert check.wall.mean_mm == pytest.approx(2.0, abs=0.03)
    assert check.wall.p1_mm >= 1.95
    for channel in check.channels:
        assert channel.axis_mm <= 0.1
        assert channel.axis_deg <= 0.1
        assert channel.diameter_mm == pytest.approx(2.8, abs=0.05)
        assert channel.depth_error_mm == pytest.approx(0.0, abs=0.1)
    assert all(vent.diameter_mm >= 3.0 and vent.reaches_hollow for vent in check.vents)


def test_the_marks_stand_out_and_are_missed_where_they_are_not(bone, solid, check):
    assert [mark.side for mark in solid.marks] == ["left", "right"]
    assert check.mark_relief_mm == pytest.approx((0.6, 0.6), abs=0.1)
    lower = [
        dataclasses.replace(m, centre=(m.centre[0], m.centre[1], m.centre[2] - 9.0)) for m in solid.marks
    ]
    wrong = check_model(solid.vertices, solid.faces, solid.plan, outer=bone, marks=lower)
    assert any("stands out by" in failure for failure in wrong.failures)


def test_wall_against_the_formula_of_a_sphere():
    """The inner sphere is at radius 18.00: measured on vertices, no code of ours in between."""
    solid = build_solid(shapes.sphere(20.0), shapes.simple_plan())
    radius = np.linalg.norm(solid.cavity_vertices, axis=1)
    assert radius.mean() == pytest.approx(18.0, abs=0.01)
    assert radius.min() > 17.9
    assert radius.max() < 18.05
    outside = np.linalg.norm(solid.outer_vertices, axis=1)
    assert np.abs(outside - 20.0).max() < 0.03


def test_wall_does_not_depend_on_a_field_that_is_wrong_inside(bone, plan, solid):
    """Isolation promises distance near zero only; exaggerated depths must not change the wall."""
    stretched = dataclasses.replace(
        bone, values=np.where(bone.values < 0, bone.values * (1 - 0.1 * bone.values), bone.values)
    )
    other = build_solid(stretched, plan, settings=COARSE)
    check = check_model(other.vertices, other.faces, other.plan)
    assert check.wall.mean_mm == pytest.approx(2.0, abs=0.03)
    assert other.measures["hollow_ml"] == pytest.approx(solid.measures["hollow_ml"], rel=0.03)


@pytest.mark.parametrize("shell", [1.5, 3.0])
def test_other_shell_thickness(shell):
    solid = build_solid(shapes.sphere(18.0), shapes.simple_plan(model=ModelSettings(shell_mm=shell)))
    assert np.linalg.norm(solid.cavity_vertices, axis=1).mean() == pytest.approx(18.0 - shell, abs=0.01)


def test_two_vents_far_apart_and_away_from_channels(solid, plan):
    first, second = (np.array(v.position) for v in solid.plan.model.vents)
    assert np.linalg.norm(first - second) > 20.0
    for vent in solid.plan.model.vents:
        assert vent.diameter_mm >= 3.0
        # Through the body, which lies in front of y = 17; pedicles, canal and arch lie behind.
        assert vent.position[1] < 17.5
        for path in plan.trajectories:
            entry, target = np.array(path.entry), np.array(path.target)
            t = np.clip(
                (np.array(vent.position) - entry) @ (target - entry) / ((target - entry) @ (target - entry)),
                0,
                1,
            )
            assert np.linalg.norm(np.array(vent.position) - entry - t * (target - entry)) > 5.0


def test_small_hollows_of_the_arch_are_made_solid(solid):
    assert solid.measures["compartments"] == 1
    assert solid.measures["made_solid_ml"] > 0.5
    # The middle of the spinous process is material: its surface is the nearest thing, 4 mm away.
    assert SurfaceIndex(solid.mesh).distance(np.array([[0.0, 54.0, -5.0]]))[0] == pytest.approx(4.0, abs=0.1)


def test_same_input_gives_the_same_bytes(tmp_path, bone, plan):
    first, again = (build_solid(bone, plan, settings=COARSE) for _ in range(2))
    write_stl(first.vertices, first.faces, tmp_path / "a.stl")
    write_stl(again.vertices, again.faces, tmp_path / "b.stl")
    assert (tmp_path / "a.stl").read_bytes() == (tmp_path / "b.stl").read_bytes()


def test_rebuilt_from_the_plan_document_gives_the_same_model(bone, plan):
    """Chosen vents travel in plan.json; building again from it must not choose anew or shift them."""
    rounded = plan_from_document(plan_to_document(plan))
    first = build_solid(bone, rounded, settings=COARSE)
    second = build_solid(bone, plan_from_document(plan_to_document(first.plan)), settings=COARSE)
    assert second.plan == first.plan
    np.testing.assert_array_equal(second.vertices, first.vertices)


def test_moved_patient_moves_the_model():
    shift = (120.0, -35.6, 801.2)
    moved = shapes.vertebra(step=0.8, shift=shift)
    solid = build_solid(moved, shapes.vertebra_plan(moved, shift=shift), settings=COARSE)
    check = check_model(solid.vertices, solid.faces, solid.plan, outer=moved)
    assert check.failures == ()


def test_cavity_mesh_is_closed_and_lies_inside(solid):
    assert edge_faults(solid.cavity) == (0, 0)
    assert solid.cavity.volume_mm3() / 1000.0 == pytest.approx(solid.measures["hollow_ml"], rel=0.03)


def test_island_and_void_of_the_bone_are_cleaned():
    affine, x, y, z = shapes.grid([24, 24, 24], 0.6)
    ball = np.sqrt(x**2 + y**2 + z**2) - 16.0
    island = np.sqrt((x - 20) ** 2 + (y - 20) ** 2 + z**2) - 2.0
    bubble = 1.5 - np.sqrt((x - 6) ** 2 + y**2 + z**2)
    field = np.minimum(np.maximum(ball, bubble), island)
    solid = build_solid(shapes.volume(field, affine), shapes.simple_plan())
    assert solid.outer_vertices.max() < 16.3
    assert solid.measures["bone_ml"] == pytest.approx(4 / 3 * np.pi * 16**3 / 1000, rel=0.01)


def test_thin_spike_is_left_out():
    affine, x, y, z = shapes.grid([26, 20, 20], 0.4)
    field = np.minimum(
        np.sqrt(x**2 + y**2 + z**2) - 14.0, shapes.capsule(x, y, z, (0, 0, 0), (22, 0, 0), 0.25)
    )
    solid = build_solid(shapes.volume(field, affine), shapes.simple_plan())
    assert solid.vertices[:, 0].max() < 16.0


def test_bone_thinner_than_two_shells_stays_solid():
    affine, x, y, z = shapes.grid([20, 20, 8], 0.5)
    plate = shapes.rounded_box(x, y, z, (0, 0, 0), (15, 15, 1.8), 1.0)
    solid = build_solid(shapes.volume(plate, affine), shapes.simple_plan())
    assert solid.measures["hollow_ml"] == 0.0
    assert len(solid.cavity_faces) == 0
    assert solid.plan.model.vents == ()


def test_a_given_vent_is_kept_and_completed(bone, plan):
    own = Vent(position=(0.0, -17.0, 0.0), direction=(0.0, -1.0, 0.0), diameter_mm=4.0)
    given = dataclasses.replace(plan, model=ModelSettings(vents=(own,)))
    solid = build_solid(bone, given, settings=COARSE)
    assert solid.plan.model.vents[0] == own
    assert len(solid.plan.model.vents) == 2
    check = check_model(solid.vertices, solid.faces, solid.plan)
    assert check.failures == ()
    assert check.vents[0].diameter_mm == pytest.approx(4.0, abs=0.1)


def test_a_vent_that_opens_nothing_is_refused(bone, plan):
    # On the lamina, which is thinner than two shells and has no hollow.
    stray = Vent(position=(7.5, 39.0, 0.5), direction=(0.0, 0.0, 1.0), diameter_mm=4.0)
    with pytest.raises(GeometryError, match="does not lead into a hollow") as refusal:
        build_solid(bone, dataclasses.replace(plan, model=ModelSettings(vents=(stray,))), settings=COARSE)
    assert refusal.value.code == "geometry.vent"


@pytest.mark.parametrize(
    ("positions", "says"),
    [(((8.0, 8.0, 0.0), (-8.0, 8.0, 0.0)), "inside"), (((0.0, 0.0, 17.0), (0.0, 0.0, -17.0)), "outside")],
)
def test_vents_off_the_surface_are_refused(bone, plan, positions, says):
    """In the hollow nothing would be cut, and the model would have no opening at all."""
    ways = ((0.0, 0.0, 1.0), (0.0, 0.0, -1.0))
    given = tuple(Vent(p, d, 3.4) for p, d in zip(positions, ways, strict=True))
    with pytest.raises(GeometryError, match=f"Vent 1 of the plan begins {says}") as refusal:
        build_solid(bone, dataclasses.replace(plan, model=ModelSettings(vents=given)), settings=COARSE)
    assert refusal.value.code == "geometry.vent"
    assert refusal.value.next_step


def test_chosen_vents_lie_on_the_surface(bone, solid):
    """What the service wrote is taken back: at most a tenth of what is refused."""
    off = bone.sample(np.array([vent.position for vent in solid.plan.model.vents]), outside=8.0)
    assert np.abs(off).max() < 0.15


def test_refusals_are_in_words():
    ball = shapes.sphere(12.0, 0.8)
    empty = dataclasses.replace(ball, values=np.abs(ball.values) + 1)
    cut = ball.crop((8, 0, 0), (99, 99, 99))
    outside = Trajectory("left", (0.0, 30.0, 0.0), (0.0, 20.0, 0.0), 0.0, 15.0, 1.0)
    cases = {
        "geometry.empty": (empty, shapes.simple_plan()),
        "geometry.cut_off": (cut, shapes.simple_plan()),
        "geometry.path": (ball, shapes.simple_plan([outside])),
        "geometry.model_settings": (ball, shapes.simple_plan(model=ModelSettings(shell_mm=0.2))),
    }
    for code, (volume, plan) in cases.items():
        with pytest.raises(GeometryError) as refusal:
            build_solid(volume, plan)
        assert refusal.value.code == code
        assert refusal.value.next_step


def test_progress_is_told_in_order():
    told = []
    build_solid(
        shapes.sphere(12.0, 0.8),
        shapes.simple_plan(),
        progress=lambda stage, share: told.append((stage, share)),
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
