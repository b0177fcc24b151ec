"""Four points on the mid-sagittal endplates, as in vertebral morphometry, to guide the fit of a deformed body.

A shape of normal height locks onto the neighbour's endplate, because a plate with marrow behind it looks like a
plate with disc behind it. With the points the body of the placed shape is first brought to the heights marked, and
then held there while the rest of the surface follows the bone. LPS mm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.errors import GeometryError
from service.geometry.anatomy import EndplatePoints
from service.geometry.shape_fit import PlacedShape, vertex_normals

Array = NDArray[np.float64]

_POSTERIOR = np.array([0.0, 1.0, 0.0])
_NAMES = ("upper front", "upper back", "lower front", "lower back")


@dataclass(frozen=True)
class AidSettings:
    """Limits from adult anatomy and our own choice of the fade; not tuned on data."""

    fade_mm: float = 8.0
    """Over this length behind the body the change of height fades out, so that the arch keeps its size."""
    near_midline_mm: float = 7.0
    height_mm: tuple[float, float] = (4.0, 50.0)
    """Heights between upper and lower points that can belong to a body."""
    depth_mm: tuple[float, float] = (12.0, 55.0)
    far_mm: float = 45.0
    behind_share: float = 0.4
    """Least share of a plate's length that leads to the back: steep lumbar plates, curved and turned spines keep it."""
    out_of_plane_mm: float = 10.0
    """One point from the plane of the other three: a few mm of each click, not the edge of the body."""
    beside_target_mm: float = 12.0
    beside_shape_mm: float = 9.0
    """The target is a rough click, the shape found is not; half of a body is 20 mm wide."""


def check_points(points: EndplatePoints, target: Array, settings: AidSettings | None = None) -> None:
    """Refuse points that cannot lie on the two endplates of one body near `target` (3,).

    Raises
    ------
    GeometryError
        `geometry.endplate_points`, with what is wrong.
    """
    use = settings or AidSettings()
    if not np.all(np.isfinite(points.all)):
        faults = ["a coordinate is not a number"]
    elif np.linalg.norm(points.all - target, axis=1).max() > use.far_mm:
        faults = [f"one lies more than {use.far_mm:g} mm from the target point"]
    else:
        faults = _size_faults(points, use) or _place_faults(points, target, use)
    if faults:
        raise _unfit(faults)


def _size_faults(points: EndplatePoints, use: AidSettings) -> list[str]:
    upper, lower = points.upper, points.lower
    heights = np.linalg.norm(upper - lower, axis=1)
    depths = [float(np.linalg.norm(plate[0] - plate[1])) for plate in (upper, lower)]
    faults = []
    if not np.all((heights > use.height_mm[0]) & (heights < use.height_mm[1])):
        faults.append(f"they are {heights[0]:.0f} mm (front) and {heights[1]:.0f} mm (back) apart in height")
    if not all(use.depth_mm[0] < d < use.depth_mm[1] for d in depths):
        faults.append(f"front and back are {depths[0]:.0f} mm (upper) and {depths[1]:.0f} mm (lower) apart")
    if np.any((upper - lower) @ (upper - lower).mean(axis=0) <= 0) or (upper - lower)[:, 2].mean() <= 0:
        faults.append("upper and lower points are exchanged")
    return faults


def _place_faults(points: EndplatePoints, target: Array, use: AidSettings) -> list[str]:
    """Front and back, and one sagittal plane, as far as the patient's own axes and the target tell them."""
    faults = _not_behind(points, _POSTERIOR, use)
    if faults:
        return faults
    upper, lower = points.upper, points.lower
    back, up = (upper + lower)[1] - (upper + lower)[0], (upper - lower).sum(axis=0)
    side = np.cross(back, up)
    side /= np.linalg.norm(side)
    off = points.all - points.all.mean(axis=0)
    # The mean directions lie in the plane, so what is left is the twist, shared by all four alike.
    twist = 4.0 * float(np.abs(off @ side).max())
    if twist > use.out_of_plane_mm:
        return [
            f"they do not lie in one sagittal plane: one is {twist:.0f} mm beside that of the other three"
        ]
    return _beside((points.all - target) @ side, "the target point", use.beside_target_mm)


def check_against_shape(
    shape: PlacedShape, points: EndplatePoints, settings: AidSettings | None = None
) -> None:
    """Refuse points that cannot lie on the endplates of the vertebra found: its own axes are known now.

    Raises
    ------
    GeometryError
        `geometry.endplate_points`, with what is wrong.
    """
    use = settings or AidSettings()
    local = (points.all - shape.pose.centre) @ shape.pose.axes
    faults = _not_behind(points, shape.pose.axes[:, 1], use)
    faults += _beside(local[:, 0], "the middle of the vertebra found", use.beside_shape_mm)
    if faults:
        raise _unfit(faults)


def _not_behind(points: EndplatePoints, posterior: Array, use: AidSettings) -> list[str]:
    faults = []
    for name, (front, back) in (("upper", points.upper), ("lower", points.lower)):
        share = float((back - front) @ posterior / np.linalg.norm(back - front))
        if share < use.behind_share:
            why = "front and back are exchanged" if share < -use.behind_share else "look at both"
            faults.append(f"the {name} back point does not lie behind the {name} front point ({why})")
    return faults


def _beside(lateral: Array, what: str, most_mm: float) -> list[str]:
    far = np.abs(lateral) > most_mm
    if not far.any():
        return []
    named = ", ".join(name for name, is_far in zip(_NAMES, far, strict=True) if is_far)
    return [f"{named} up to {np.abs(lateral).max():.0f} mm beside {what}, out of the mid-sagittal plane"]


def _unfit(faults: list[str]) -> GeometryError:
    return GeometryError(
        f"The four endplate points do not fit one vertebral body: {'; '.join(faults)}.",
        next_step="Mark, in the mid-sagittal plane, upper front, upper back, lower front and lower back: front is "
        "the side of the belly, back that of the canal.",
        code="geometry.endplate_points",
    )


def with_marked_heights(
    shape: PlacedShape, points: EndplatePoints, settings: AidSettings | None = None
) -> PlacedShape:
    """The placed shape with its body squeezed or stretched, front and back apart, to the endplates marked.

    Upper and lower plate are straight lines in the mid-sagittal plane, before and after; what lies between them
    keeps its share of the height. Raises GeometryError (`geometry.endplate_points`) for points of another vertebra.
    """
    use = settings or AidSettings()
    check_against_shape(shape, points, use)
    frame = _body_frame(shape, points)
    local = (shape.vertices - frame.origin) @ frame.axes
    normals = vertex_normals(shape.vertices, shape.template.faces) @ frame.axes
    marked = [(p - frame.origin) @ frame.axes for p in (points.upper, points.lower)]
    front, back = (float(np.mean([m[n, 1] for m in marked])) for n in (0, 1))
    old = [_plate_line(local, normals, front, back, sign, use) for sign in (1.0, -1.0)]
    new = [np.polyfit(m[:, 1], m[:, 2], 1) for m in marked]
    y = np.clip(local[:, 1], front - 4.0, back + 4.0)
    top_old, low_old, top_new, low_new = (np.polyval(line, y) for line in (*old, *new))
    share = (local[:, 2] - low_old) / np.maximum(top_old - low_old, 4.0)
    weight = np.clip((back + use.fade_mm - local[:, 1]) / use.fade_mm, 0.0, 1.0)
    moved = local.copy()
    moved[:, 2] += weight * (low_new + share * (top_new - low_new) - local[:, 2])
    return replace(shape, vertices=frame.origin + moved @ frame.axes.T)


def attractors(points: EndplatePoints) -> tuple[Array, Array]:
    """Points (M, 3) the surface has to pass through, and the outward direction (M, 3) of the plate at each.

    The marked points themselves and one third of the way in from each: the rims carry the load, the middle may sag.
    """
    places, directions = [], []
    for plate, other in ((points.upper, points.lower), (points.lower, points.upper)):
        outward = (plate - other).mean(axis=0)
        outward /= np.linalg.norm(outward)
        for share in (0.0, 0.25, 0.75, 1.0):
            places.append(plate[0] + share * (plate[1] - plate[0]))
            directions.append(outward)
    return np.array(places), np.array(directions)


@dataclass(frozen=True, eq=False)
class _Frame:
    origin: Array
    axes: Array
    """(3, 3) columns left, posterior, up."""


def _body_frame(shape: PlacedShape, points: EndplatePoints) -> _Frame:
    """Axes of the body as marked: posterior along the plates, left as the placed shape has it."""
    posterior = (points.upper[1] - points.upper[0]) + (points.lower[1] - points.lower[0])
    left = shape.pose.axes[:, 0]
    posterior = posterior - (posterior @ left) * left
    posterior /= np.linalg.norm(posterior)
    return _Frame(points.all.mean(axis=0), np.column_stack([left, posterior, np.cross(left, posterior)]))


def _plate_line(
    local: Array, normals: Array, front: float, back: float, sign: float, use: AidSettings
) -> NDArray[np.float64]:
    """Height of the shape's own plate over depth near the midline, (slope, height at 0)."""
    on_plate = (
        (np.abs(local[:, 0]) < use.near_midline_mm)
        & (sign * normals[:, 2] > 0.7)
        & (local[:, 1] > front - 3.0)
        & (local[:, 1] < back + 1.0)
    )
    if on_plate.sum() < 8:
        raise GeometryError(
            "The four endplate points lie beside the vertebra that was found at the target point.",
            next_step="Check target and endplate points against each other.",
            code="geometry.endplate_points",
        )
    return np.asarray(np.polyfit(local[on_plate, 1], local[on_plate, 2], 1))
