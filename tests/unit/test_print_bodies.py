"""The lattice of the cavity keeps clear of vents."""

from __future__ import annotations

import numpy as np
import trimesh

from service.geometry.mesh import Mesh
from service.geometry.print_bodies import clear_of


def mesh_of(body: trimesh.Trimesh) -> Mesh:
    return Mesh(np.asarray(body.vertices, float), np.asarray(body.faces, np.int64))


def test_what_lies_in_the_rods_is_cut_out() -> None:
    filler = mesh_of(trimesh.creation.box((20, 20, 20)))
    rod = trimesh.creation.cylinder(2.0, 8.0, sections=64)
    rod.apply_translation((5, 0, 10))
    cut = clear_of(filler, mesh_of(rod))
    body = trimesh.Trimesh(cut.vertices, cut.faces)
    assert body.is_watertight
    assert abs(8000 - body.volume - np.pi * 4 * 4) < 0.5
    assert list(body.contains([[5, 0, 8], [5, 0, 5.5], [0, 0, 8]])) == [False, True, True]


def test_without_rods_or_filler_nothing_changes() -> None:
    filler, empty = (
        mesh_of(trimesh.creation.box((2, 2, 2))),
        Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64)),
    )
    assert clear_of(filler, empty) is filler
    assert clear_of(empty, filler) is empty
