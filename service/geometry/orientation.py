"""How the model lies on the plate, and the helper bodies the slicer needs beside it.

Print frame: mm, z up, the plate at z = 0, its middle at x = y = 0. `print_from_lps` is a proper rigid 4x4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import manifold3d
import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Plan, VertebraFrame
from service.errors import GeometryError
from service.geometry.fields import Array, segment_distance
from service.geometry.mesh import Mesh
from service.geometry.vents import VENT_MAX_DEPTH_MM


@dataclass(frozen=True)
class PrintSettings:
    """Build volume of the Ultimaker 3 with its single-nozzle margins, and when a face needs support."""

    plate_x_mm: float = 215.0
    plate_y_mm: float = 215.0
    height_mm: float = 200.0
    brim_mm: float = 7.0
    """Brim width on each side (AA 0.4 profile)."""
    overhang_deg: float = 60.0
    """Faces that lean further from the vertical than this need support."""
    contact_mm: float = 0.4
    """What lies lower than this counts as resting on the plate."""
    blocker_margin_mm: float = 0.6
    """Blocker rods are this much wider than the hole (2 mm rods kept a 2.8 mm channel free in the slicer runs)."""
    blocker_beyond_mm: float = 6.0


@dataclass(frozen=True, eq=False)
class Orientation:
    """The chosen pose. `name` is the anatomical direction that looks up."""

    name: str
    print_from_lps: Array
    size_mm: tuple[float, float, float]
    overhang_mm2: float
    contact_mm2: float

    def apply(self, mesh: Mesh) -> Mesh:
        """A mesh in LPS mm -> the same in the print frame."""
        return mesh.transformed(self.print_from_lps)

    def to_document(self) -> dict[str, object]:
        return {
            "up": self.name,
            "print_from_lps": [[round(float(v), 6) + 0.0 for v in row] for row in self.print_from_lps],
            "size_mm": [round(v, 2) for v in self.size_mm],
            "overhang_mm2": round(self.overhang_mm2, 1),
            "contact_mm2": round(self.contact_mm2, 1),
        }


def choose_orientation(
    vertices: NDArray[Any],
    faces: NDArray[Any],
    plan: Plan,
    *,
    cavity: Mesh | None = None,
    settings: PrintSettings | None = None,
) -> Orientation:
    """The pose that needs least support and rests most safely, among the anatomical directions and between them.

    Parameters
    ----------
    vertices, faces : the model, LPS mm.
    cavity : its closed inner surface; faces looking into it are carried by the filler and do not count.

    Raises
    ------
    GeometryError
        When the model fits the plate in no pose.
    """
    settings = settings or PrintSettings()
    mesh = Mesh(np.asarray(vertices, dtype=np.float64), np.asarray(faces, dtype=np.int64))
    part = _Part(mesh, *mesh.normals(), mesh.centroids, _outside_faces(mesh, plan, cavity))
    poses = [
        _pose(part, name, up, plan.vertebra_frame, settings) for name, up in _directions(plan.vertebra_frame)
    ]
    fitting = [pose for pose in poses if _fits(pose, settings)]
    if not fitting:
        raise GeometryError(
            "The model does not fit the printer's build volume in any pose.",
            next_step="Check the isolated vertebra: no single vertebra is this large.",
            code="geometry.too_large",
            details={"size_mm": [round(v, 1) for v in poses[0].size_mm]},
        )
    return min(fitting, key=_cost)


def _cost(pose: Orientation) -> float:
    """Support and height cost time and plastic; a pose that rests on a few mm² may come loose."""
    unsteady = max(0.0, 60.0 - pose.contact_mm2)
    return pose.overhang_mm2 - 2.0 * min(pose.contact_mm2, 400.0) + 20.0 * unsteady + 6.0 * pose.size_mm[2]


def _fits(pose: Orientation, settings: PrintSettings) -> bool:
    x, y, z = pose.size_mm
    brim = 2.0 * settings.brim_mm
    return x + brim <= settings.plate_x_mm and y + brim <= settings.plate_y_mm and z <= settings.height_mm


def _directions(frame: VertebraFrame) -> Iterable[tuple[str, Array]]:
    left, anterior, superior = (np.array(v) for v in (frame.left, frame.anterior, frame.superior))
    names = {
        "superior": superior,
        "inferior": -superior,
        "anterior": anterior,
        "posterior": -anterior,
        "left": left,
        "right": -left,
    }
    yield from names.items()
    for up in ("superior", "inferior"):
        for tilt in ("anterior", "posterior"):
            for degrees in (10.0, 20.0, 45.0):
                angle = np.radians(degrees)
                yield (
                    f"{up}, {degrees:g}° to {tilt}",
                    np.cos(angle) * names[up] + np.sin(angle) * names[tilt],
                )


def _outside_faces(mesh: Mesh, plan: Plan, cavity: Mesh | None) -> NDArray[np.bool_]:
    """Faces that slicer support would have to carry: neither in the hollow nor in a channel or vent."""
    centroids = mesh.centroids
    inner = np.zeros(len(centroids), dtype=bool)
    if cavity is not None and len(cavity.faces):
        from service.geometry.mesh import SurfaceIndex

        inner = SurfaceIndex(cavity).distance(centroids) < 0.3
    for start, end, diameter in _holes(plan, 0.0):
        inner |= segment_distance(centroids, start, end) < diameter / 2.0 + 0.3
    return ~inner


@dataclass(frozen=True, eq=False)
class _Part:
    """The mesh with what every pose asks of it, one row per face; `outside` as `_outside_faces` gives it."""

    mesh: Mesh
    normals: Array
    areas: Array
    centroids: Array
    outside: NDArray[np.bool_]


def _pose(
    part: _Part,
    name: str,
    up: Array,
    frame: VertebraFrame,
    settings: PrintSettings,
) -> Orientation:
    matrix = np.eye(4)
    up = up / np.linalg.norm(up)
    # x is kept along the patient's left where that is possible, so that the part is recognised on the plate.
    side = np.array(frame.left) if abs(up @ np.array(frame.left)) < 0.9 else np.array(frame.anterior)
    right = side - (side @ up) * up
    right = right / np.linalg.norm(right)
    matrix[:3, :3] = np.stack([right, np.cross(up, right), up])
    turned = part.mesh.vertices @ matrix[:3, :3].T
    low, high = turned.min(axis=0), turned.max(axis=0)
    matrix[:3, 3] = [-(low[0] + high[0]) / 2.0, -(low[1] + high[1]) / 2.0, -low[2]]
    areas = part.areas
    height = (part.centroids @ up) - low[2]
    downward = -(part.normals @ up)
    resting = (height < settings.contact_mm) & (downward > 0.5)
    leaning = (downward > np.sin(np.radians(settings.overhang_deg))) & part.outside & ~resting
    return Orientation(
        name=name,
        print_from_lps=matrix,
        size_mm=(float(high[0] - low[0]), float(high[1] - low[1]), float(high[2] - low[2])),
        overhang_mm2=float((areas[leaning] * downward[leaning]).sum()),
        contact_mm2=float((areas[resting] * downward[resting]).sum()),
    )


def _holes(plan: Plan, beyond_mm: float) -> Iterable[tuple[Array, Array, float]]:
    """(outer end, inner end, diameter) of every channel and vent, LPS mm."""
    for path in plan.trajectories:
        entry, target = np.array(path.entry), np.array(path.target)
        axis = (target - entry) / np.linalg.norm(target - entry)
        yield entry - beyond_mm * axis, target, plan.model.channel_diameter_mm
    for vent in plan.model.vents:
        position, direction = np.array(vent.position), np.array(vent.direction)
        inner = position - min(plan.model.shell_mm + 3.0, VENT_MAX_DEPTH_MM) * direction
        yield position + beyond_mm * direction, inner, vent.diameter_mm


def blocker_mesh(plan: Plan, *, settings: PrintSettings | None = None) -> Mesh:
    """Rods along channels and vents, longer and wider than the holes, where the slicer may put no support (LPS mm)."""
    settings = settings or PrintSettings()
    rods = [
        _rod(start, end, diameter / 2.0 + settings.blocker_margin_mm)
        for start, end, diameter in _holes(plan, settings.blocker_beyond_mm)
    ]
    if not rods:
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    union = manifold3d.Manifold.batch_boolean(rods, manifold3d.OpType.Add).to_mesh64()
    vertices = np.asarray(union.vert_properties, dtype=np.float64)[:, :3]
    return Mesh(vertices, np.asarray(union.tri_verts, dtype=np.int64))


def between_plate_and_top(mesh: Mesh, height_mm: float) -> Mesh:
    """The part of a closed mesh (print frame) between the plate and `height_mm`.

    A blocker that stands out above the part would make the slicer count layers that it never prints.
    """
    if not len(mesh.faces):
        return mesh
    # Copies: the library refuses arrays that may not be written to.
    copy = manifold3d.Mesh64(np.array(mesh.vertices, np.float64), np.array(mesh.faces, np.uint64))
    solid = manifold3d.Manifold(copy)
    cut = solid.trim_by_plane((0.0, 0.0, 1.0), 0.0).trim_by_plane((0.0, 0.0, -1.0), -height_mm).to_mesh64()
    vertices = np.asarray(cut.vert_properties, dtype=np.float64)[:, :3]
    return Mesh(vertices, np.asarray(cut.tri_verts, dtype=np.int64))


def _rod(start: Array, end: Array, radius: float) -> Any:
    length = float(np.linalg.norm(end - start))
    axis = (end - start) / length
    helper = np.eye(3)[int(np.argmin(np.abs(axis)))]
    u = np.cross(axis, helper)
    u /= np.linalg.norm(u)
    matrix = np.column_stack([u, np.cross(axis, u), axis, start])
    return manifold3d.Manifold.cylinder(length, radius, circular_segments=32).transform(matrix)
