"""The helping bodies of a print, made to fit each other."""

from __future__ import annotations

import manifold3d
import numpy as np

from service.geometry.mesh import Mesh


def clear_of(filler: Mesh, rods: Mesh) -> Mesh:
    """The filler of the cavity without what lies in the rods along channels and vents; both closed, mm, one frame.

    The filler carries the cavity's roof. Behind a vent there is no roof to carry, and its lattice would stand in the
    way of the gas.
    """
    if not len(filler.faces) or not len(rods.faces):
        return filler
    cut = (_solid(filler) - _solid(rods)).to_mesh64()
    vertices = np.asarray(cut.vert_properties, dtype=np.float64)[:, :3]
    return Mesh(vertices, np.asarray(cut.tri_verts, dtype=np.int64))


def _solid(mesh: Mesh) -> manifold3d.Manifold:
    # Copies: the library refuses arrays that may not be written to.
    return manifold3d.Manifold(
        manifold3d.Mesh64(np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.uint64))
    )
