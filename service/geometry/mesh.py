"""Triangle meshes: isosurface, cleaning, exact distances and rays, binary STL.

Frame: whatever the caller uses, in mm (LPS for models, printer coordinates for print files); faces are
counter-clockwise seen from outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import igl
import manifold3d
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph
from skimage import measure

from service.errors import GeometryError, InputRefusedError

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

#: 80 bytes as the format asks; neither a date nor a patient, so equal meshes give equal files.
STL_HEADER = b"spineprint vertebra model; binary STL; mm; no patient data"
_STL_RECORD = np.dtype([("normal", "<f4", (3,)), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


@dataclass(frozen=True, eq=False)
class Mesh:
    """`vertices` (N, 3) float64 mm; `faces` (M, 3) int64, counter-clockwise from outside."""

    vertices: Array
    faces: Ints

    @property
    def corners(self) -> Array:
        """(M, 3, 3) corner points of each face."""
        return np.asarray(self.vertices[self.faces])

    @property
    def centroids(self) -> Array:
        return np.asarray(self.corners.mean(axis=1))

    def normals(self) -> tuple[Array, Array]:
        """Unit outward normals (M, 3) and areas (M,) mm²; a degenerate face has a zero normal."""
        corners = self.corners
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        length = np.linalg.norm(cross, axis=1)
        return cross / np.maximum(length, 1e-30)[:, None], length / 2.0

    def volume_mm3(self) -> float:
        """Signed volume; positive when the faces look outward."""
        c = self.corners - self.vertices.mean(axis=0)
        return float(np.einsum("ij,ij->i", c[:, 0], np.cross(c[:, 1], c[:, 2])).sum() / 6.0)

    def transformed(self, matrix: Array) -> Mesh:
        """Moved by a proper rigid 4x4 transform."""
        return Mesh(self.vertices @ matrix[:3, :3].T + matrix[:3, 3], self.faces)


class SurfaceIndex:
    """Exact point distances and first ray hits on a mesh (libigl AABB tree)."""

    def __init__(self, mesh: Mesh) -> None:
        self._vertices = np.ascontiguousarray(mesh.vertices, dtype=np.float64)
        self._faces = np.ascontiguousarray(mesh.faces, dtype=np.int64)
        self._tree = igl.AABB()
        self._tree.init(self._vertices, self._faces)

    def distance(self, points: Array) -> Array:
        """Unsigned distance of (N, 3) points to the surface, (N,) mm."""
        points = np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 3)
        if len(points) == 0:
            return np.zeros(0)
        squared = self._tree.squared_distance(self._vertices, self._faces, points)[0]
        return np.asarray(np.sqrt(np.atleast_1d(squared)), dtype=np.float64)

    def first_hit(self, origins: Array, directions: Array) -> tuple[Ints, Array]:
        """First face hit by each ray (-1 = none) and the distance in units of `directions` (inf = none)."""
        origins = np.ascontiguousarray(origins, dtype=np.float64).reshape(-1, 3)
        directions = np.ascontiguousarray(directions, dtype=np.float64).reshape(-1, 3)
        face, t, _ = self._tree.intersect_ray_first(self._vertices, self._faces, origins, directions)
        face = np.atleast_1d(face).astype(np.int64)
        return face, np.where(face < 0, np.inf, np.atleast_1d(t))


def mesh_of_field(field: NDArray[np.float32], origin: Array, step_mm: float) -> Mesh:
    """Zero isosurface of a field (K, J, I), negative inside, on an LPS-parallel grid (marching cubes, Lewiner).

    The outermost layer must be positive, so that the surface is closed.
    """
    if not (field < 0).any():
        raise GeometryError(
            "The model is empty.", next_step="Check the isolated vertebra.", code="geometry.empty"
        )
    kji, faces, _, _ = measure.marching_cubes(field, 0.0, allow_degenerate=False)
    vertices = kji[:, ::-1].astype(np.float64) * step_mm + origin
    mesh = Mesh(vertices, faces.astype(np.int64))
    # Index order (k, j, i) mirrors the frame, so the winding is settled by the sign of the volume.
    return mesh if mesh.volume_mm3() > 0 else Mesh(vertices, np.ascontiguousarray(mesh.faces[:, ::-1]))


def face_components(mesh: Mesh) -> tuple[int, Ints]:
    """Number of edge-connected surfaces and the surface of each face (sharing a vertex counts as connected)."""
    if len(mesh.faces) == 0:
        return 0, np.zeros(0, dtype=np.int64)
    rows = mesh.faces[:, [0, 1]].ravel()
    cols = mesh.faces[:, [1, 2]].ravel()
    size = len(mesh.vertices)
    graph = sparse.coo_matrix((np.ones(len(rows), dtype=np.int8), (rows, cols)), shape=(size, size))
    _, of_vertex = csgraph.connected_components(graph, directed=False)
    used, of_face = np.unique(of_vertex[mesh.faces[:, 0]], return_inverse=True)
    return len(used), of_face.astype(np.int64)


def submesh(mesh: Mesh, keep: NDArray[np.bool_]) -> Mesh:
    """The chosen faces with the vertices they use, in the same order."""
    faces = mesh.faces[keep]
    used, renumbered = np.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[used], renumbered.reshape(-1, 3).astype(np.int64))


def surface_volumes(mesh: Mesh) -> tuple[Ints, Array]:
    """Surface number of each face, and the signed volume enclosed by each surface (negative = a void)."""
    count, of_face = face_components(mesh)
    corners = mesh.corners - mesh.vertices.mean(axis=0)
    sixth = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6.0
    return of_face, np.asarray(np.bincount(of_face, weights=sixth, minlength=count), dtype=np.float64)


def largest_body(mesh: Mesh) -> Mesh:
    """Drop islands and closed voids: only the surface that encloses most is kept."""
    of_face, volumes = surface_volumes(mesh)
    return mesh if len(volumes) == 1 else submesh(mesh, of_face == int(np.argmax(volumes)))


def simplify(mesh: Mesh, tolerance_mm: float) -> Mesh:
    """Fewer faces, no surface moved by more than the tolerance, guaranteed manifold (manifold3d).

    Coordinates come back rounded to float32, so that writing STL changes nothing more.

    Raises
    ------
    GeometryError
        When the mesh is not a manifold to begin with.
    """
    solid = manifold3d.Manifold(
        # Copies: the library refuses arrays that may not be written to.
        manifold3d.Mesh64(np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.uint64))
    )
    if solid.status() != manifold3d.Error.NoError:
        raise GeometryError(
            f"The surface is not a closed manifold ({solid.status().name}).",
            next_step="Report this case; the surface may not be printed.",
            code="geometry.not_manifold",
        )
    out = solid.simplify(tolerance_mm).to_mesh64()
    vertices = np.asarray(out.vert_properties, dtype=np.float64)[:, :3].astype(np.float32)
    return _merged(vertices, np.asarray(out.tri_verts, dtype=np.int64))


def _merged(vertices: NDArray[np.float32], faces: Ints) -> Mesh:
    """Merge vertices with equal float32 coordinates and drop the faces that collapse by it."""
    unique, inverse = np.unique(vertices, axis=0, return_inverse=True)
    faces = inverse.reshape(-1)[faces]
    proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])
    return Mesh(unique.astype(np.float64), np.ascontiguousarray(faces[proper], dtype=np.int64))


def edge_faults(mesh: Mesh) -> tuple[int, int]:
    """(open or shared by more than two faces, inconsistently wound) numbers of edges; (0, 0) = closed manifold."""
    edges = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).astype(np.int64)
    size = np.int64(len(mesh.vertices))
    low, high = edges.min(axis=1), edges.max(axis=1)
    sign = np.where(edges[:, 0] < edges[:, 1], 1, -1)
    _, inverse, counts = np.unique(low * size + high, return_inverse=True, return_counts=True)
    balance = np.bincount(inverse.reshape(-1), weights=sign)
    return int((counts != 2).sum()), int(((counts == 2) & (balance != 0)).sum())


def write_stl(vertices: NDArray[Any], faces: NDArray[Any], path: Path) -> None:
    """Write a binary STL (3D Systems 1989), little-endian, mm; the same mesh always gives the same bytes."""
    mesh = Mesh(np.asarray(vertices, dtype=np.float64), np.asarray(faces, dtype=np.int64))
    records = np.zeros(len(mesh.faces), dtype=_STL_RECORD)
    records["normal"] = mesh.normals()[0]
    records["corners"] = mesh.corners
    with path.open("wb") as out:
        out.write(STL_HEADER.ljust(80, b"\0"))
        out.write(np.uint32(len(records)).tobytes())
        out.write(records.tobytes())


def read_stl(path: Path) -> Mesh:
    """Read a binary STL; corners with equal coordinates become one vertex.

    Raises
    ------
    InputRefusedError
        When the file is not a whole binary STL.
    """
    data = path.read_bytes()
    count = int(np.frombuffer(data, "<u4", 1, 80)[0]) if len(data) >= 84 else -1
    if count < 1 or len(data) != 84 + count * _STL_RECORD.itemsize:
        raise InputRefusedError(
            "The file is not a whole binary STL.",
            next_step="Write it again with `spineprint model`.",
            code="stl.invalid",
        )
    corners = np.frombuffer(data, _STL_RECORD, count, 84)["corners"].reshape(-1, 3)
    return _merged(corners, np.arange(len(corners), dtype=np.int64).reshape(-1, 3))
