"""Where the cement of a vertebra lies: fill by four definitions, distribution, endplates reached, leaks.

Definitions: facts sheet, section 5, and clinical report, section 2. Every percentage is stored with its variant,
because they differ severalfold (the paper's 71 % cannot be a share of the body's volume). Where a leak went is told
by its place beside the body; the vessel or defect itself is not seen, so a type is what the place suggests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial

from service.domain.plan import Plan
from service.geometry.cement import CementImage
from service.geometry.volume import Volume

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PlaceSettings:
    """Proposals, except the type letters (Yeom B, S, C and D for the disc; facts sheet, section 5)."""

    cortex_mm: float = 1.0
    """The fillable interior lies this deep under the outer surface."""
    leak_mm: float = 0.8
    """Cement further than this outside the bone's surface has left it."""
    least_leak_mm3: float = 5.0
    contact_mm: float = 1.5
    """Cement this close to an endplate touches it."""
    canal_half_mm: float = 10.0
    midline_mm: float = 5.0
    """The basivertebral vein leaves the body this close to its midline."""
    raster_mm: float = 0.5


@dataclass(frozen=True)
class Leak:
    """`type` as after Yeom (B, S, C) or D; `place` in words; `position` (x, y, z) LPS mm, planning frame."""

    type: str
    place: str
    volume_ml: float
    position: tuple[float, float, float]


@dataclass(frozen=True)
class CementReport:
    """All of it in ml and percent; `sigma_ml` one sigma of the volume. None in a percentage: not measurable."""

    volume_ml: float
    sigma_ml: float
    in_body_ml: float
    body_ml: float
    fill_percent: dict[str, float | None]
    side_percent: dict[str, float]
    third_percent: dict[str, float]
    endplate_contact: str
    leaks: tuple[Leak, ...]
    needle_excluded: bool


@dataclass(frozen=True, eq=False)
class _Body:
    """Reach of the body from its centre along the plan's axes, mm (all positive)."""

    front: float
    back: float
    up: float
    down: float


@dataclass(frozen=True)
class _LeakRule:
    place: str
    type: str
    holds: Callable[[Array, _Body, PlaceSettings], bool]


#: First that holds. The point is (left, anterior, superior) of the leak's middle from the body's centre, mm.
LEAK_RULES: tuple[_LeakRule, ...] = (
    _LeakRule(
        "spinal canal, midline", "B",
        lambda p, b, s: bool(p[1] < -b.back and abs(p[0]) <= s.midline_mm and -b.down < p[2] < b.up),
    ),
    _LeakRule(
        "spinal canal", "C", lambda p, b, s: bool(p[1] < -b.back and abs(p[0]) <= s.canal_half_mm)
    ),
    _LeakRule("behind the canal or along the pedicle", "C", lambda p, b, s: bool(p[1] < -b.back)),
    _LeakRule("disc above", "D", lambda p, b, s: bool(p[2] > b.up)),
    _LeakRule("disc below", "D", lambda p, b, s: bool(p[2] < -b.down)),
    _LeakRule("in front, mid-height", "S", lambda p, b, s: bool(p[1] > b.front and _mid_height(p, b))),
    _LeakRule("in front", "C", lambda p, b, s: bool(p[1] > b.front)),
    _LeakRule("left, mid-height", "S", lambda p, b, s: bool(p[0] > 0 and _mid_height(p, b))),
    _LeakRule("left", "C", lambda p, b, s: bool(p[0] > 0)),
    _LeakRule("right, mid-height", "S", lambda p, b, s: bool(_mid_height(p, b))),
    _LeakRule("right", "C", lambda p, b, s: True),
)  # fmt: skip


def _mid_height(point: Array, body: _Body) -> bool:
    """Segmental vessels cross the waist: the middle third of the height."""
    return bool(-body.down / 3 < point[2] < body.up / 3)


def describe(
    cement: CementImage, outer: Volume, plan: Plan, settings: PlaceSettings | None = None
) -> CementReport:
    """Fill, distribution and leaks of the cement; `outer` is the signed distance to the bone (mm, planning frame)."""
    settings = settings or PlaceSettings()
    axes = np.array([plan.vertebra_frame.left, plan.vertebra_frame.anterior, plan.vertebra_frame.superior])
    centre = np.asarray(plan.body_centre, dtype=np.float64)
    body = _reach(outer, centre, axes)
    local = (cement.points - centre) @ axes.T
    depth = outer.sample(cement.points, outside=50.0)
    in_body = (depth < settings.leak_mm) & (local[:, 1] > -body.back)
    bone, bone_depth, bone_ml = _bone(outer, centre, axes, body)
    body_ml = len(bone) * bone_ml
    fillable = float(np.count_nonzero(bone_depth < -settings.cortex_mm)) * bone_ml
    amount = float(cement.share[in_body].sum()) * cement.voxel_ml
    solid = in_body & cement.solid
    cut = local[solid]
    fill = {
        "volume_body": _percent(amount, body_ml),
        "volume_fillable": _percent(amount, fillable),
        "lateral_area": _percent(_area(cut[:, 1:], settings), _area(bone[:, 1:], settings)),
        "hull_body": _percent(_hull_ml(cut, cement, axes), body_ml),
    }
    return CementReport(
        volume_ml=cement.volume_ml,
        sigma_ml=cement.sigma_ml,
        in_body_ml=amount,
        body_ml=body_ml,
        fill_percent=fill,
        side_percent=_shares(local[in_body], cement.share[in_body], {"left": _left, "right": _right}),
        third_percent=_thirds(local[in_body], cement.share[in_body], body),
        endplate_contact=_contact(cement.points[solid], outer, axes[2], settings),
        leaks=_leaks(cement, local, depth, body, settings),
        needle_excluded=cement.needle_excluded,
    )


def _reach(outer: Volume, centre: Array, axes: Array) -> _Body:
    def way_out(direction: Array) -> float:
        s = np.arange(0.0, 45.0, 0.1)
        out = np.flatnonzero(outer.sample(centre + s[:, None] * direction, outside=10.0) > 0)
        return float(s[out[0]]) if out.size else 18.0

    return _Body(way_out(axes[1]), way_out(-axes[1]), way_out(axes[2]), way_out(-axes[2]))


def _bone(outer: Volume, centre: Array, axes: Array, body: _Body) -> tuple[Array, Array, float]:
    """Voxels (N, 3: left, anterior, superior from the centre, mm) of the body, their depth and the volume of one, ml.

    The body is the bone in front of a plane through its posterior wall, so pedicles and arch are not counted.
    """
    inside = np.argwhere(outer.values < 0)
    local = (outer.to_lps(inside[:, ::-1]) - centre) @ axes.T
    front = local[:, 1] > -body.back
    depth = outer.values[tuple(inside[front].T)]
    return local[front], depth, outer.voxel_ml


def _percent(part: float, whole: float) -> float | None:
    return 100.0 * part / whole if whole > 0 else None


def _area(flat: Array, settings: PlaceSettings) -> float:
    """Area (mm2) that points (N, 2) cover when each fills its cell of a raster; holes smaller than a cell close."""
    if not len(flat):
        return 0.0
    cell = np.floor(flat / settings.raster_mm).astype(int)
    cell -= cell.min(axis=0) - 2
    picture = np.zeros(cell.max(axis=0) + 3, dtype=bool)
    picture[tuple(cell.T)] = True
    # Voxels turned against the raster leave single cells empty.
    picture = ndimage.binary_closing(picture, structure=np.ones((3, 3), dtype=bool))
    return float(np.count_nonzero(picture)) * settings.raster_mm**2


def _hull_ml(local: Array, cement: CementImage, axes: Array) -> float:
    """Volume of the convex hull around the voxels, their own extent included."""
    if len(local) < 10:
        return 0.0
    half = 0.5 * (axes @ cement.step).T
    around = np.vstack([half, -half])
    corners = (local[:, None, :] + around[None]).reshape(-1, 3)
    return float(spatial.ConvexHull(corners).volume) / 1000.0


def _left(points: Array) -> Mask:
    return np.asarray(points[:, 0] > 0)


def _right(points: Array) -> Mask:
    return np.asarray(points[:, 0] <= 0)


def _shares(points: Array, share: Array, parts: dict[str, Callable[[Array], Mask]]) -> dict[str, float]:
    total = float(share.sum())
    return {
        name: 100.0 * float(share[where(points)].sum()) / total if total > 0 else 0.0
        for name, where in parts.items()
    }


def _thirds(points: Array, share: Array, body: _Body) -> dict[str, float]:
    third = (body.front + body.back) / 3
    return _shares(
        points,
        share,
        {
            "anterior": lambda p: np.asarray(p[:, 1] > body.front - third),
            "middle": lambda p: np.asarray((p[:, 1] <= body.front - third) & (p[:, 1] >= third - body.back)),
            "posterior": lambda p: np.asarray(p[:, 1] < third - body.back),
        },
    )


def _contact(points: Array, outer: Volume, superior: Array, settings: PlaceSettings) -> str:
    """A both endplates, B1 the upper, B2 the lower, B3 neither (facts sheet, section 5)."""
    upper, lower = (_touches(points, outer, sign * superior, settings) for sign in (1.0, -1.0))
    return {(True, True): "A", (True, False): "B1", (False, True): "B2", (False, False): "B3"}[upper, lower]


def _touches(points: Array, outer: Volume, direction: Array, settings: PlaceSettings) -> bool:
    """Whether more than a speck of cement lies within reach of a surface that faces this way."""
    depth = outer.sample(points, outside=50.0)
    near = points[depth > -settings.contact_mm]
    if not len(near):
        return False
    # Sampling the field a little beyond: steepest outwards where the surface faces `direction`.
    rise = outer.sample(near + direction, outside=50.0) - outer.sample(near - direction, outside=50.0)
    return int(np.count_nonzero(rise > 2.0 * 0.7)) >= 10


def _leaks(
    cement: CementImage, local: Array, depth: Array, body: _Body, settings: PlaceSettings
) -> tuple[Leak, ...]:
    """Pieces of cement outside the bone, largest first."""
    outside = depth > settings.leak_mm
    seeds = np.flatnonzero(outside & cement.solid)
    if not seeds.size:
        return ()
    reach = 1.2 * float(np.linalg.norm(cement.step, axis=0).max())
    pieces = _pieces(local[seeds], reach)
    # The blurred rim belongs to the piece it surrounds.
    rim = np.flatnonzero(outside)
    gap, nearest = spatial.cKDTree(local[seeds]).query(local[rim], distance_upper_bound=2.0)
    owner = np.where(np.isfinite(gap), pieces[np.minimum(nearest, len(seeds) - 1)], -1)
    found = []
    for number in range(int(pieces.max()) + 1):
        volume = float(cement.share[rim[owner == number]].sum()) * cement.voxel_ml
        if volume * 1000.0 < settings.least_leak_mm3:
            continue
        mine = seeds[pieces == number]
        middle = local[mine].mean(axis=0)
        rule = next(r for r in LEAK_RULES if r.holds(middle, body, settings))
        x, y, z = (float(v) for v in cement.points[mine].mean(axis=0))
        found.append(Leak(rule.type, rule.place, volume, (x, y, z)))
    return tuple(sorted(found, key=lambda leak: -leak.volume_ml))


def _pieces(points: Array, reach_mm: float) -> NDArray[np.int64]:
    """(N,) number of the connected piece each point belongs to; points closer than `reach_mm` are connected."""
    number = np.full(len(points), -1)
    tree = spatial.cKDTree(points)
    piece = 0
    for start in range(len(points)):
        if number[start] >= 0:
            continue
        number[start], front = piece, [start]
        while front:
            around = {n for near in tree.query_ball_point(points[front], reach_mm) for n in near}
            front = [n for n in around if number[n] < 0]
            number[front] = piece
        piece += 1
    return number
