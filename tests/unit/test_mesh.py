"""Meshes: files that come back the same, faults counted, distances and rays against formulas; voxels of a mesh."""

from __future__ import annotations

import manifold3d
import numpy as np
import pytest

from service.errors import GeometryError, InputRefusedError
from service.geometry.mesh import (
    Mesh,
    SurfaceIndex,
    edge_faults,
    largest_body,
    mesh_of_field,
    read_stl,
    simplify,
    surface_volumes,
    write_stl,
)
from service.geometry.raster import voxelise


def sphere_field(radius, step=0.5, half=14.0):
    axis = np.arange(-half, half + step / 2, step)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return (np.sqrt(x**2 + y**2 + z**2) - radius).astype(np.float32), np.full(3, -half), step


@pytest.fixture(scope="module")
def ball():
    return mesh_of_field(*sphere_field(10.03))


def test_isosurface_is_the_sphere_and_looks_outward(ball):
    radius = np.linalg.norm(ball.vertices, axis=1)
    assert np.abs(radius - 10.03).max() < 0.01
    assert edge_faults(ball) == (0, 0)
    assert ball.volume_mm3() == pytest.approx(4 / 3 * np.pi * 10.03**3, rel=2e-3)
    assert ((ball.normals()[0] * ball.centroids).sum(axis=1) > 0).all()


def test_isosurface_keeps_left_and_right():
    field, origin, step = sphere_field(3.0)
    field[:, :, :4] = -1.0
    field[:, :, 0] = 1.0
    mesh = largest_body(
        mesh_of_field(np.pad(field[1:-1, 1:-1], ((1, 1), (1, 1), (0, 0)), constant_values=1), origin, step)
    )
    assert mesh.vertices[:, 0].max() < -11.0


def test_stl_comes_back_bit_for_bit(tmp_path, ball):
    small = simplify(ball, 0.02)
    write_stl(small.vertices, small.faces, tmp_path / "a.stl")
    back = read_stl(tmp_path / "a.stl")
    write_stl(back.vertices, back.faces, tmp_path / "b.stl")
    assert (tmp_path / "a.stl").read_bytes() == (tmp_path / "b.stl").read_bytes()
    np.testing.assert_array_equal(back.vertices[back.faces], small.vertices[small.faces])
    assert edge_faults(back) == (0, 0)


def test_stl_is_read_by_another_program(tmp_path, ball):
    import trimesh

    write_stl(ball.vertices, ball.faces, tmp_path / "a.stl")
    other = trimesh.load_mesh(tmp_path / "a.stl")
    assert other.is_watertight
    assert other.volume == pytest.approx(ball.volume_mm3(), rel=1e-5)


def test_stl_header_names_the_program_and_nothing_else(tmp_path, ball):
    write_stl(ball.vertices, ball.faces, tmp_path / "a.stl")
    header = (tmp_path / "a.stl").read_bytes()[:80].rstrip(b"\0").decode("ascii")
    assert "spineprint" in header
    # "solid" at the start would make readers take the file for text.
    assert not header.startswith("solid")


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:50], lambda b: b + b"\0", lambda b: b""])
def test_damaged_stl_is_refused(tmp_path, ball, damage):
    write_stl(ball.vertices, ball.faces, tmp_path / "a.stl")
    (tmp_path / "a.stl").write_bytes(damage((tmp_path / "a.stl").read_bytes()))
    with pytest.raises(InputRefusedError):
        read_stl(tmp_path / "a.stl")


def test_simplify_moves_nothing_more_than_allowed(ball):
    small = simplify(ball, 0.02)
    assert len(small.faces) < 0.8 * len(ball.faces)
    assert edge_faults(small) == (0, 0)
    assert SurfaceIndex(small).distance(ball.vertices).max() < 0.021
    np.testing.assert_array_equal(small.vertices, small.vertices.astype(np.float32))


def test_simplify_refuses_an_open_surface(ball):
    with pytest.raises(GeometryError):
        simplify(Mesh(ball.vertices, ball.faces[:-3]), 0.02)


def test_empty_field_is_refused():
    field, origin, step = sphere_field(3.0)
    with pytest.raises(GeometryError):
        mesh_of_field(np.abs(field) + 1, origin, step)


def test_void_has_negative_volume_and_is_dropped(ball):
    hole = Mesh(ball.vertices * 0.5, ball.faces[:, ::-1] + len(ball.vertices))
    both = Mesh(np.vstack([ball.vertices, hole.vertices]), np.vstack([ball.faces, hole.faces]))
    volumes = np.sort(surface_volumes(both)[1])
    assert volumes[0] == pytest.approx(-volumes[1] / 8, rel=1e-6)
    assert len(largest_body(both).faces) == len(ball.faces)


def test_distance_and_ray_against_the_sphere(ball):
    index = SurfaceIndex(ball)
    points = np.array([[0.0, 0.0, 0.0], [20.0, 0.0, 0.0], [3.0, 4.0, 0.0]])
    np.testing.assert_allclose(index.distance(points), [10.03, 9.97, 5.03], atol=0.02)
    face, t = index.first_hit(
        np.array([[0.1, 0.2, 30.0], [0.1, 20.0, 30.0]]), np.array([[0, 0, -1.0], [0, 0, -1.0]])
    )
    assert face[0] >= 0
    assert t[0] == pytest.approx(19.97, abs=0.02)
    assert face[1] == -1
    assert np.isinf(t[1])


def test_voxels_of_a_mesh_agree_with_the_formula():
    body = manifold3d.Manifold.sphere(10.0, 96) - manifold3d.Manifold.sphere(6.0, 96).translate(
        (1.0, 0.0, 0.0)
    )
    out = body.to_mesh64()
    mesh = Mesh(np.asarray(out.vert_properties)[:, :3], np.asarray(out.tri_verts, dtype=np.int64))
    voxels = voxelise(mesh, np.full(3, -12.0), 0.5, (49, 49, 49))
    z, y, x = np.meshgrid(*[np.arange(49) * 0.5 - 12.0] * 3, indexing="ij")
    truth = (np.sqrt(x**2 + y**2 + z**2) < 10) & (np.sqrt((x - 1) ** 2 + y**2 + z**2) > 6)
    # Only voxels on the faceted surface itself may differ.
    assert (voxels != truth).mean() < 0.004
    assert voxels.sum() * 0.125 == pytest.approx(body.volume(), rel=0.01)
