"""Signed-distance model of the bones: negative inside, mm, close to exact near the surface.

A vertebra is a body (waisted column between two dished endplates) joined by smooth unions with tapered elliptic
limbs for pedicles, laminae and processes, less the canal. Where two bones would touch (facets, rib joints) each
gives way at the bisector so that the joint gap stays open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from simulators.phantom.anatomy import Array, PhantomParameters, VertebraPose, spine_poses

Single = NDArray[np.float32]

FAR_MM = 60.0
"""Stands for 'not near this bone'."""
REACH_MM = 5.0
"""Bones farther than this from a block of points are not evaluated there."""


def smooth_min(a: Single, b: Single, k: float) -> Single:
    """Polynomial smooth minimum (Quilez), equal to min where |a - b| >= k."""
    blend = np.maximum(k - np.abs(a - b), 0.0) / np.float32(k)
    result: Single = np.minimum(a, b) - blend * blend * np.float32(0.25 * k)
    return result


def smooth_max(a: Single, b: Single, k: float) -> Single:
    """Mirror image of `smooth_min`."""
    blend = np.maximum(k - np.abs(a - b), 0.0) / np.float32(k)
    result: Single = np.maximum(a, b) + blend * blend * np.float32(0.25 * k)
    return result


def along_ray(size: Single, gauge: Single, innermost: Single | float) -> Single:
    """Signed distance to an oval along the ray from its middle.

    `size` is the distance from the middle, `gauge` the size in units of the oval's own radius in that direction;
    on the axis, where no ray is defined, the value is `-innermost`.
    """
    near_axis = gauge < 1e-3
    ray = size * (1.0 - 1.0 / np.where(near_axis, 1.0, gauge))
    result: Single = np.where(near_axis, -innermost, ray).astype(np.float32)
    return result


@dataclass(frozen=True, eq=False)
class Limb:
    """Rounded rod from `start` to `end` (model mm) with elliptic section.

    `thick_mm` and `tall_mm` are the semi-axes at start and end; the tall one lies along `up`. `flare` widens both
    ends relative to the middle, which leaves a true isthmus half way.
    """

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    thick_mm: tuple[float, float]
    tall_mm: tuple[float, float]
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    flare: float = 0.0

    @cached_property
    def basis(self) -> tuple[Array, Array, float]:
        """Origin (3,), columns along/thick/tall (3,3), length mm."""
        start, end = np.asarray(self.start), np.asarray(self.end)
        length = float(np.linalg.norm(end - start))
        along = (end - start) / length
        tall = np.asarray(self.up) - along * float(np.dot(self.up, along))
        tall /= np.linalg.norm(tall)
        return start, np.stack([along, np.cross(tall, along), tall], axis=1), length

    @cached_property
    def ball(self) -> tuple[Array, float]:
        """Centre and radius of a ball that holds the limb, model mm."""
        start, _, length = self.basis
        widest = max(*self.thick_mm, *self.tall_mm) * (1.0 + self.flare)
        return 0.5 * (start + np.asarray(self.end)), 0.5 * length + widest

    def distance(self, points: Single) -> Single:
        """Signed distance (N,) of model points (N,3), measured along the ray to the limb's axis."""
        start, basis, length = self.basis
        q = (points - start.astype(np.float32)) @ basis.astype(np.float32)
        t = np.clip(q[:, 0] * np.float32(1.0 / length), 0.0, 1.0)
        over = q[:, 0] - t * np.float32(length)
        swell: Single | float = 1.0
        if self.flare:
            swell = 1.0 + np.float32(self.flare) * (2.0 * t - 1.0) ** 2
        thick = (self.thick_mm[0] + np.float32(self.thick_mm[1] - self.thick_mm[0]) * t) * swell
        tall = (self.tall_mm[0] + np.float32(self.tall_mm[1] - self.tall_mm[0]) * t) * swell
        cap = np.minimum(thick, tall)
        gauge = np.sqrt((q[:, 1] / thick) ** 2 + (q[:, 2] / tall) ** 2 + (over / cap) ** 2)
        size = np.sqrt(q[:, 1] ** 2 + q[:, 2] ** 2 + over**2)
        return along_ray(size, gauge, cap)


class Rib:
    """A rib as a chain of limbs, in the frame of its vertebra."""

    def __init__(self, pose: VertebraPose, side: int) -> None:
        self.pose, self.level = pose, pose.level
        self.parts = rib_limbs(pose, side)

    def near(self, centre_lps: Array, radius_mm: float) -> list[Limb | None]:
        """The parts that matter within `radius_mm` of a point."""
        return list(_near(self.parts, self.pose.to_local(centre_lps), radius_mm))

    def distance(self, lps: Single, parts: Sequence[Limb | None]) -> tuple[Single, Single]:
        """Signed distance and the cortex scale (1 = as the body) for LPS points (N,3)."""
        local = local_points(self.pose, lps)
        d = np.full(len(lps), FAR_MM, dtype=np.float32)
        for part in parts:
            if part is not None:
                d = smooth_min(d, part.distance(local), 1.5)
        return d, np.full(len(lps), 1.1, dtype=np.float32)


class Vertebra:
    """One vertebra before the joints are opened."""

    def __init__(self, pose: VertebraPose) -> None:
        self.pose, self.level = pose, pose.level
        self.parts = vertebra_limbs(pose)
        size = pose.size
        self.body_ball = 0.5 * float(np.hypot(size.width_mm, size.height_mm * pose.scale)) + 1.0

    def near(self, centre_lps: Array, radius_mm: float) -> list[Limb | None]:
        """The parts that matter within `radius_mm` of a point; None stands for the body."""
        centre = self.pose.to_local(centre_lps)
        parts: list[Limb | None] = list(_near(self.parts, centre, radius_mm))
        if float(np.linalg.norm(centre)) < self.body_ball + radius_mm + REACH_MM:
            parts.insert(0, None)
        return parts

    def distance(self, lps: Single, parts: Sequence[Limb | None]) -> tuple[Single, Single]:
        """Signed distance and the cortex scale (1 = as the body) for LPS points (N,3)."""
        local = local_points(self.pose, lps)
        d = np.full(len(lps), FAR_MM, dtype=np.float32)
        for part in parts:
            if part is None:
                d = smooth_min(d, body_distance(self.pose, local), 2.0)
            else:
                d = smooth_min(d, part.distance(local), 2.0)
        d = smooth_max(d, -canal_distance(self.pose, local), 1.0)
        behind = np.clip((local[:, 1] - np.float32(0.5 * self.pose.size.depth_mm - 2.0)) / 6.0, 0.0, 1.0)
        return d, (1.0 + 0.35 * behind).astype(np.float32)


def local_points(pose: VertebraPose, lps: Single) -> Single:
    """LPS points (N,3) in the vertebra's model frame."""
    moved: Single = (lps - pose.origin.astype(np.float32)) @ pose.axes.astype(np.float32)
    return moved


def body_distance(pose: VertebraPose, p: Single) -> Single:
    """Vertebral body: waisted oval column between dished endplates; the upper one falls forward in a wedge."""
    size, half = pose.size, np.float32(pose.half_height_mm)
    x, y, z = p[:, 0], p[:, 1], p[:, 2]
    forward = np.clip(0.5 - y / size.depth_mm, 0.0, 1.0)
    top = half - np.float32(pose.wedge_drop_mm) * forward
    middle, tall = 0.5 * (top - half), 0.5 * (top + half)
    level = np.clip((z - middle) / tall, -1.0, 1.0)
    # osteoporotic collapse pushes the anterior wall out a little where it has lost height
    bulge = np.float32(0.10 * pose.wedge) * forward * (1.0 - level * level)
    waist = 1.0 - 0.10 * (1.0 - level * level) + bulge
    a, b = np.float32(0.5 * size.width_mm) * waist, np.float32(0.5 * size.depth_mm) * waist
    u, v = (x / a) ** 2, (y / b) ** 2
    gauge = 0.6 * np.sqrt(u + v) + 0.4 * np.sqrt(np.sqrt(u * u + v * v))
    side = along_ray(np.sqrt(x * x + y * y), gauge, 0.5 * size.depth_mm)
    inside = np.clip(1.0 - gauge, 0.0, 1.0)
    dish = 1.7 * np.sqrt(inside)
    slope = np.float32(1.0 / np.hypot(1.0, pose.wedge_drop_mm / size.depth_mm))
    upper = (z - (top - dish * (1.0 + pose.wedge))) * slope
    lower = -(z + half - dish)
    column = smooth_max(smooth_max(upper, lower, 1.5), side, 3.0)
    # basivertebral vein: a dip in the back wall at mid height
    vein = np.sqrt((x / 4.0) ** 2 + ((y - np.float32(0.5 * size.depth_mm)) / 3.8) ** 2 + (z / 2.4) ** 2)
    return smooth_max(column, ((1.0 - vein) * 2.8).astype(np.float32), 1.5)


def canal_half_axes(pose: VertebraPose) -> tuple[float, float]:
    """Half width and half depth of the spinal canal, mm."""
    return (10.6 if pose.level.startswith("L") else 9.6), 7.8


def canal_centre_y(pose: VertebraPose) -> float:
    return 0.5 * pose.size.depth_mm + 6.8


def canal_distance(pose: VertebraPose, p: Single) -> Single:
    """Elliptic spinal canal, endless along the model's z."""
    a, b = canal_half_axes(pose)
    x, y = p[:, 0], p[:, 1] - np.float32(canal_centre_y(pose))
    return along_ray(np.sqrt(x * x + y * y), np.sqrt((x / a) ** 2 + (y / b) ** 2), b)


def pedicle_limb(pose: VertebraPose, side: int) -> Limb:
    """Pedicle of one side (+1 left, -1 right): converges forward, isthmus half way."""
    size = pose.size
    back = 0.5 * size.depth_mm
    wide, tall = 0.5 * size.pedicle_width_mm, 0.5 * size.pedicle_height_mm * min(pose.scale, 1.1)
    x = canal_half_axes(pose)[0] + 0.4 + wide
    z = 0.21 * size.height_mm * pose.scale
    return Limb(
        (side * (x - 1.3), back - 7.0, z),
        (side * (x + 1.3), back + 12.0, z),
        (wide, wide),
        (tall, tall),
        flare=0.18,
    )


def vertebra_limbs(pose: VertebraPose) -> list[Limb]:
    """All limbs of one vertebra in its model frame."""
    size = pose.size
    back = 0.5 * size.depth_mm
    limbs: list[Limb] = []
    thoracic = pose.level.startswith("T")
    x = canal_half_axes(pose)[0] + 0.4 + 0.5 * size.pedicle_width_mm
    x_joint = canal_half_axes(pose)[0] + 4.0
    z = 0.21 * size.height_mm * pose.scale
    for side in (1, -1):
        limbs.append(pedicle_limb(pose, side))
        limbs.append(
            Limb((side * x_joint, back + 13.0, -2.0), (0.0, back + 20.0, -7.0), (3.0, 3.3), (9.5, 11.0))
        )
        reach = size.transverse_mm + (pose.long_left_mm if side > 0 else 0.0)
        behind, rise = (20.0, 1.0) if thoracic else (15.5, 3.0)
        limbs.append(
            Limb(
                (side * x, back + 12.5, z - 2.0),
                (side * (x + reach), back + behind, z - 2.0 + rise),
                (3.4, 2.6),
                (5.4, 4.8),
            )
        )
        limbs.extend(_joint_limbs(pose, side, x_joint))
    root, tip = (0.0, back + 20.0, -6.0), (-0.6, back + 21.0 + size.spinous_mm, -6.0 - size.spinous_drop_mm)
    waist = (0.0, 0.5 * (root[1] + tip[1]), 0.5 * (root[2] + tip[2]))
    limbs.append(Limb(root, waist, (3.2, 2.5), (9.0, 6.0 if thoracic else 8.0)))
    limbs.append(Limb(waist, tip, (2.5, 3.6), (6.0 if thoracic else 8.0, 5.0 if thoracic else 9.0)))
    return limbs


def _joint_limbs(pose: VertebraPose, side: int, x: float) -> list[Limb]:
    """Superior and inferior articular process and, in the lumbar spine, the mammillary knob.

    Lumbar facets stand oblique to the sagittal plane, thoracic ones nearly coronal; T12 changes from one to the
    other.
    """
    back, half = 0.5 * pose.size.depth_mm, pose.half_height_mm
    upper_lumbar = pose.level.startswith("L")
    lower_lumbar = upper_lumbar or pose.level == "T12"
    oblique, coronal = (0.45 * side, 0.9, 0.0), (0.97 * side, -0.2, 0.0)
    top, end = half + 6.0, -half - pose.size.disc_below_mm - 2.0
    limbs = []
    if upper_lumbar:
        start, stop = (side * (x + 0.5), back + 12.5, 1.0), (side * (x + 2.6), back + 14.0, top)
        limbs.append(Limb(start, stop, (4.4, 3.2), (5.6, 6.4), up=oblique))
        knob = (side * (x + 4.2), back + 18.5, half - 1.0)
        limbs.append(Limb((side * (x + 2.5), back + 15.0, 4.0), knob, (3.6, 2.8), (3.6, 2.8)))
    else:
        start, stop = (side * (x - 0.5), back + 12.5, 1.0), (side * (x - 0.5), back + 12.5, top)
        limbs.append(Limb(start, stop, (3.4, 2.6), (5.0, 5.4), up=coronal))
    if lower_lumbar:
        start, stop = (side * (x - 3.0), back + 17.0, -8.0), (side * (x - 3.4), back + 18.6, end)
        limbs.append(Limb(start, stop, (4.6, 4.0), (5.0, 5.2), up=oblique))
    else:
        start, stop = (side * (x - 2.5), back + 17.0, -7.0), (side * (x - 2.0), back + 18.2, end)
        limbs.append(Limb(start, stop, (3.2, 2.8), (5.6, 5.4), up=coronal))
    return limbs


def rib_limbs(pose: VertebraPose, side: int) -> list[Limb]:
    """Head, neck and first part of the shaft."""
    back, z = 0.5 * pose.size.depth_mm, 0.2 * pose.size.height_mm
    head = 0.5 * pose.size.width_mm + 3.5
    path = [
        (side * head, back - 3.0, z),
        (side * (head + 11.0), back + 9.0, z - 2.0),
        (side * (head + 24.0), back + 15.0, z - 7.0),
        (side * (head + 44.0), back + 8.0, z - 18.0),
        (side * (head + 60.0), back - 12.0, z - 32.0),
    ]
    limbs, left = [], pose.size.rib_mm
    for start, end in pairwise(path):
        length = float(np.linalg.norm(np.subtract(end, start)))
        share = min(1.0, left / length)
        stop = tuple(float(s + share * (e - s)) for s, e in zip(start, end, strict=True))
        limbs.append(Limb(start, (stop[0], stop[1], stop[2]), (3.0, 3.0), (5.0, 5.0)))
        left -= length
        if left <= 0:
            break
    return limbs


def _near(parts: Sequence[Limb], centre: Array, radius_mm: float) -> list[Limb]:
    near = []
    for part in parts:
        middle, size = part.ball
        if float(np.linalg.norm(middle - centre)) < size + radius_mm + REACH_MM:
            near.append(part)
    return near


class Skeleton:
    """All bones of the phantom; `sample` returns the opened (jointed) distances."""

    def __init__(self, poses: dict[str, VertebraPose], facet_gap_mm: float) -> None:
        self.poses, self.gap = poses, np.float32(facet_gap_mm)
        self.vertebrae = tuple(Vertebra(pose) for pose in poses.values())
        self.ribs = tuple(Rib(p, side) for p in poses.values() if p.size.rib_mm > 0 for side in (1, -1))
        self.bones: tuple[Vertebra | Rib, ...] = self.vertebrae + self.ribs

    @classmethod
    def of(cls, parameters: PhantomParameters) -> Skeleton:
        return cls(spine_poses(parameters), parameters.facet_gap_mm)

    def sample(
        self, lps: Single, centre: Array, radius_mm: float
    ) -> list[tuple[Vertebra | Rib, Single, Single]]:
        """Bone, signed distance and cortex scale for each bone near a block of LPS points (N,3)."""
        raw: list[tuple[Vertebra | Rib, Single, Single]] = []
        for bone in self.bones:
            parts = bone.near(centre, radius_mm)
            if parts:
                raw.append((bone, *bone.distance(lps, parts)))
        opened = []
        for index, (bone, d, scale) in enumerate(raw):
            cut = d
            for other, (_, d_other, _) in enumerate(raw):
                if other != index:
                    cut = np.maximum(cut, 0.5 * (d - d_other + self.gap))
            opened.append((bone, cut, scale))
        return opened


def vertebra_sdf(level: str, points_lps: Array, parameters: PhantomParameters | None = None) -> Array:
    """True signed distance (N,) mm of one vertebra's outer surface at LPS points (N,3), negative inside.

    The model's own distance is divided by the length of its gradient, which makes it right to first order near
    the surface; more than about 5 mm away only the sign and the order of size may be relied on.
    """
    skeleton = Skeleton.of(parameters or PhantomParameters())
    points = np.asarray(points_lps, dtype=np.float64).reshape(-1, 3)
    value = _sdf_of(skeleton, level, points)
    step = 0.05
    gradient = np.stack(
        [(_sdf_of(skeleton, level, points + step * axis) - value) / step for axis in np.eye(3)], axis=1
    )
    result: Array = value / np.clip(np.linalg.norm(gradient, axis=1), 0.5, 2.0)
    return result


def _sdf_of(skeleton: Skeleton, level: str, points: Array) -> Array:
    if level not in skeleton.poses:
        raise ValueError(f"the phantom has no {level}, only {', '.join(skeleton.poses)}")
    at = points.mean(axis=0)
    # float32 is fine to 1e-5 mm once the points are near the origin of the vertebra
    radius = float(np.linalg.norm(points - at, axis=1).max()) + 3.0 * FAR_MM
    for bone, d, _ in skeleton.sample(points.astype(np.float32), at, radius):
        if isinstance(bone, Vertebra) and bone.level == level:
            return d.astype(np.float64)
    raise ValueError(f"no {level} in the phantom")
