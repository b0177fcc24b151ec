"""Pictures: the right thing in the right place, the same every time."""

from __future__ import annotations

import manifold3d
import numpy as np
import pytest

from service.domain.plan import Trajectory, Vent
from service.geometry.mesh import Mesh, edge_faults
from service.geometry.orientation import between_plate_and_top, blocker_mesh, choose_orientation
from service.geometry.volume import Volume
from service.results.pictures import mesh_views, slice_overlay
from service.results.render import CUT, camera_for, render_mesh
from tests.unit.solid_shapes import simple_plan


def mesh_of(body):
    out = body.to_mesh64()
    return Mesh(np.asarray(out.vert_properties)[:, :3], np.asarray(out.tri_verts, dtype=np.int64))


@pytest.fixture(scope="module")
def ball():
    return mesh_of(manifold3d.Manifold.sphere(10.0, 64))


@pytest.fixture(scope="module")
def shell():
    return mesh_of(manifold3d.Manifold.sphere(10.0, 64) - manifold3d.Manifold.sphere(7.0, 64))


def drawn(picture):
    return (np.asarray(picture) != 255).any(axis=2)


def test_ball_is_a_round_disc_of_the_right_size(ball):
    camera = camera_for(ball.vertices, (0, 1, 0), (0, 0, 1), (200, 200))
    picture = render_mesh(ball.vertices, ball.faces, camera=camera)
    area_mm2 = drawn(picture).sum() * camera.mm_per_pixel**2
    assert area_mm2 == pytest.approx(np.pi * 100, rel=0.03)


def test_light_comes_from_the_upper_left(ball):
    grey = np.asarray(render_mesh(ball.vertices, ball.faces, size=(200, 200)).convert("L"), dtype=float)
    assert grey[65, 65] > grey[135, 135] + 20


def test_same_mesh_gives_the_same_picture(ball):
    first, second = (render_mesh(ball.vertices, ball.faces, size=(120, 120)).tobytes() for _ in range(2))
    assert first == second


def test_nearer_thing_hides_the_farther():
    # Looking to the back (+y): the small box in front must cover the middle of the large one.
    body = manifold3d.Manifold.cube((20.0, 2.0, 20.0), True) + manifold3d.Manifold.sphere(3.0, 48).translate(
        (0, -20, 0)
    )
    mesh = mesh_of(body)
    picture = np.asarray(
        render_mesh(mesh.vertices, mesh.faces, direction=(0, 1, 0), size=(100, 100)).convert("L")
    )
    behind = np.asarray(
        render_mesh(mesh.vertices, mesh.faces, direction=(0, -1, 0), size=(100, 100)).convert("L")
    )
    assert np.ptp(picture[44:56, 44:56].astype(int)) > 15
    assert np.ptp(behind[44:56, 44:56].astype(int)) < 8


def test_cut_shows_the_wall_and_the_hollow(shell):
    picture = np.asarray(render_mesh(shell.vertices, shell.faces, size=(200, 200), clip_depth_mm=0.0))
    is_cut = np.abs(picture.astype(int) - CUT).max(axis=2) < 30
    camera = camera_for(shell.vertices, (0, 1, 0), (0, 0, 1), (200, 200))
    assert is_cut.sum() * camera.mm_per_pixel**2 == pytest.approx(np.pi * (100 - 49), rel=0.08)
    assert not is_cut[100, 100]
    assert drawn(render_mesh(shell.vertices, shell.faces, size=(200, 200), clip_depth_mm=0.0))[100, 100]


def test_sheet_of_views_has_all_panels(ball):
    plan = simple_plan([Trajectory("left", (0.0, 10.0, 0.0), (0.0, 0.0, 0.0), 0.0, 15.0, 2.0)])
    sheet = mesh_views(ball.vertices, ball.faces, plan=plan, panel=160, title="L3")
    assert sheet.width == 480
    pixels = drawn(sheet)
    for row in range(2):
        for column in range(3):
            panel = pixels[34 + row * 160 : 194 + row * 160, column * 160 : (column + 1) * 160]
            assert panel[60:100, 60:100].mean() > 0.9
    assert mesh_views(ball.vertices, ball.faces, panel=160).width == 320
    # The notice stands at the foot.
    assert pixels[-24:, :300].sum() > 100


def test_slices_show_contour_and_path_where_they_are(ball):
    k, j, i = np.mgrid[0:60, 0:60, 0:60]
    inside = (k - 30) ** 2 + (j - 30) ** 2 + (i - 30) ** 2 < 100
    affine = np.eye(4)
    affine[:3, 3] = -30.0
    ct = Volume(np.where(inside, 400, -200).astype(np.int16), affine)
    plan = simple_plan([Trajectory("left", (8.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0, 15.0, 2.0)])
    picture = np.asarray(
        slice_overlay(ct, (0, 0, 0), meshes=[ball], plan=plan, half_mm=20.0, panel=200)
    ).astype(int)
    axial = picture[6:206, :200]
    orange = np.abs(axial - (255, 176, 32)).max(axis=2) < 10
    rows, columns = np.nonzero(orange)
    radius = np.hypot(rows - 99.5, columns - 99.5) * 0.2
    assert np.median(radius) == pytest.approx(10.0, abs=0.3)
    blue = np.abs(axial - (0, 140, 220)).max(axis=2) < 10
    # The entry lies to the patient's left: on the right of the picture.
    assert np.nonzero(blue)[1].max() > 135
    assert np.nonzero(blue)[1].min() > 90
    by_mask = slice_overlay(
        ct, (0, 0, 0), outlines=[Volume(inside.astype(np.uint8), affine)], half_mm=20.0, panel=200
    )
    assert (np.abs(np.asarray(by_mask).astype(int) - (255, 176, 32)).max(axis=2) < 10).sum() > 300


def test_orientation_rests_on_the_plate_and_keeps_the_shape():
    drum = mesh_of(manifold3d.Manifold.cylinder(30.0, 5.0, 12.0, 96).translate((100, -50, 700)))
    pose = choose_orientation(drum.vertices, drum.faces, simple_plan())
    placed = pose.apply(drum)
    low, high = placed.vertices.min(axis=0), placed.vertices.max(axis=0)
    assert low[2] == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(low[:2] + high[:2], 0.0, atol=1e-6)
    assert placed.volume_mm3() == pytest.approx(drum.volume_mm3())
    assert np.linalg.det(pose.print_from_lps[:3, :3]) == pytest.approx(1.0)
    # A cone stump that widens upward stands upside down, on its broad end.
    assert pose.name == "inferior"
    assert pose.contact_mm2 == pytest.approx(np.pi * 144, rel=0.02)


def test_part_larger_than_the_printer_is_refused():
    from service.errors import GeometryError

    beam = mesh_of(manifold3d.Manifold.cube((300.0, 300.0, 300.0), True))
    with pytest.raises(GeometryError):
        choose_orientation(beam.vertices, beam.faces, simple_plan())
    small = mesh_of(manifold3d.Manifold.cube((200.0, 20.0, 20.0), True))
    pose = choose_orientation(small.vertices, small.faces, simple_plan())
    assert pose.size_mm[0] == pytest.approx(200.0)
    assert pose.size_mm[2] < 30.0


def test_blocker_covers_channels_and_vents():
    from service.domain.plan import ModelSettings

    path = Trajectory("left", (0.0, 20.0, 0.0), (0.0, 0.0, 0.0), 0.0, 15.0, 2.0)
    vent = Vent((15.0, 0.0, 10.0), (0.0, 0.0, 1.0), 3.4)
    blocker = blocker_mesh(simple_plan([path], ModelSettings(vents=(vent,))))
    assert edge_faults(blocker) == (0, 0)
    assert blocker.vertices[:, 1].max() == pytest.approx(26.0)
    assert blocker.vertices[:, 2].max() == pytest.approx(16.0)
    assert len(blocker_mesh(simple_plan()).faces) == 0


def test_blocker_ends_with_the_part():
    """Rods above the part made the slicer count 31 layers that it never printed."""
    path = Trajectory("left", (0.0, 20.0, -5.0), (0.0, 0.0, 30.0), 0.0, 15.0, 2.0)
    rods = blocker_mesh(simple_plan([path]))
    assert rods.vertices[:, 2].min() < 0.0 < 25.0 < rods.vertices[:, 2].max()
    cut = between_plate_and_top(rods, 25.0)
    assert edge_faults(cut) == (0, 0)
    assert cut.vertices[:, 2].min() == pytest.approx(0.0, abs=1e-6)
    assert cut.vertices[:, 2].max() == pytest.approx(25.0, abs=1e-6)
    assert len(between_plate_and_top(blocker_mesh(simple_plan()), 25.0).faces) == 0
