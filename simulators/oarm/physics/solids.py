"""Exact lengths of rays in needles, cement and the trunk: metal drawn on voxels would bring streaks of its own.

Rays are given by one origin (3,) and unit directions (N,3), in the frame of the solid, mm. A span is the stretch of
a ray inside a convex solid: (N,) where it begins and where it ends; empty where the end is not beyond the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulators.oarm.needle import Cement, Needle

Array = NDArray[np.float64]
Span = tuple[Array, Array]


@dataclass(frozen=True, eq=False)
class _Local:
    """Rays in a needle's own frame: across, across and behind the tip along the axis, mm."""

    start: Array
    way: Array

    @classmethod
    def of(cls, needle: Needle, origin: Array, directions: Array) -> _Local:
        axis = needle.axis
        helper = np.eye(3)[int(np.argmin(np.abs(axis)))]
        u = helper - axis * float(helper @ axis)
        u /= np.linalg.norm(u)
        frame = np.stack([u, np.cross(axis, u), -axis])
        return cls(frame @ (origin - np.asarray(needle.tip)), directions @ frame.T)

    def half_space(self, normal: Array, offset: float) -> Span:
        """Where `normal . q <= offset`."""
        slope = self.way @ normal
        gap = offset - float(self.start @ normal)
        slope = np.where(np.abs(slope) < 1e-12, 1e-12, slope)
        at = gap / slope
        return np.where(slope > 0, -np.inf, at), np.where(slope > 0, at, np.inf)

    def between(self, low: float, high: float) -> Span:
        """The slab `low` to `high` behind the tip."""
        back = np.array([0.0, 0.0, 1.0])
        return meet(self.half_space(-back, -low), self.half_space(back, high))

    def quadric(self, weights: Array, constant: float, middle: float = 0.0) -> list[Span]:
        """Where `weights . (q - middle along the axis)**2 <= constant`: one span, or two if the surface is a cone."""
        start = self.start - np.array([0.0, 0.0, middle])
        a = (self.way**2) @ weights
        b = (self.way * start) @ weights
        c = float((start**2) @ weights) - constant
        a = np.where(np.abs(a) < 1e-12, 1e-12, a)
        inner = b**2 - a * c
        real = inner >= 0
        root = np.sqrt(np.where(real, inner, 0.0))
        first, second = (
            np.minimum((-b - root) / a, (-b + root) / a),
            np.maximum((-b - root) / a, (-b + root) / a),
        )
        full, closed = np.full(len(a), np.inf), a > 0
        inside = (np.where(closed & real, first, full), np.where(closed & real, second, -full))
        if bool(closed.all()):
            return [inside]
        # An open cone: outside the two roots, one sheet each; without roots the whole ray.
        left = (np.where(closed, full, -full), np.where(closed, -full, np.where(real, first, full)))
        right = (np.where(closed | ~real, full, second), np.where(closed | ~real, -full, full))
        return [inside, left, right]


def meet(a: Span, b: Span) -> Span:
    """What two spans share."""
    return np.maximum(a[0], b[0]), np.minimum(a[1], b[1])


def needle_spans(needle: Needle, origin: Array, directions: Array) -> list[tuple[float, Span]]:
    """Spans whose lengths, each times its sign, add up to the ray's length in metal."""
    rays = _Local.of(needle, origin, directions)
    radius, length = 0.5 * needle.diameter_mm, needle.tip_length_mm
    slope = radius / length
    round_ = np.array([1.0, 1.0, 0.0])
    whole = rays.between(0.0, needle.length_mm)
    if needle.tip_shape in ("cone", "ogive"):
        shaft = meet(rays.quadric(round_, radius**2)[0], rays.between(length, needle.length_mm))
        if needle.tip_shape == "cone":
            point = rays.quadric(np.array([1.0, 1.0, -(slope**2)]), 0.0)
        else:
            point = rays.quadric(np.array([1.0, 1.0, slope**2]), radius**2, middle=length)
        front = rays.between(0.0, length)
        return [(1.0, shaft), *((1.0, meet(span, front)) for span in point)]
    for normal, offset in _faces(needle, slope):
        whole = meet(whole, rays.half_space(normal, offset))
    spans = [(1.0, meet(whole, rays.quadric(round_, radius**2)[0]))]
    if needle.bore:
        spans.append((-1.0, meet(whole, rays.quadric(round_, (0.5 * needle.bore) ** 2)[0])))
    return spans


def _faces(needle: Needle, slope: float) -> list[tuple[Array, float]]:
    """Half-spaces (normal, offset) of a ground point, in the needle's frame; as `Needle.distance` has them."""
    radius = 0.5 * needle.diameter_mm
    if needle.tip_shape == "trocar":
        turns = 2.0 * np.pi * np.arange(3) / 3.0
        return [(np.array([np.cos(t), np.sin(t), -slope]), 0.0) for t in turns]
    if needle.tip_shape == "diamond":
        steep = slope / np.sqrt(2.0)
        return [(np.array([x, y, -steep]), 0.0) for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    return [(np.array([1.0, 0.0, -2.0 * slope]), -radius)]


def metal_length(needles: Sequence[Needle], origin: Array, directions: Array) -> Array:
    """Length (N,) of each ray in metal, mm. Needles that cross count twice where they do."""
    total = np.zeros(len(directions))
    for needle in needles:
        for sign, (first, last) in needle_spans(needle, origin, directions):
            total += sign * np.clip(last - first, 0.0, None)
    return total


def cement_length(
    cement: Sequence[Cement], needles: Sequence[Needle], origin: Array, directions: Array
) -> Array:
    """Length (N,) of each ray in cement outside the needles, mm; blobs that overlap count once."""
    if not cement:
        return np.zeros(len(directions))
    parts = [blob.spheres() for blob in cement]
    centres, radii = np.vstack([c for c, _ in parts]), np.concatenate([r for _, r in parts])
    to = centres - origin
    along = directions @ to.T
    inner = radii**2 - np.einsum("ij,ij->i", to, to) + along**2
    half = np.sqrt(np.clip(inner, 0.0, None))
    order = np.argsort(along - half, axis=1)
    first, last = (np.take_along_axis(v, order, axis=1) for v in (along - half, along + half))
    total = _union(first, last)
    for needle in needles:
        for sign, (low, high) in needle_spans(needle, origin, directions):
            total -= sign * _union(np.maximum(first, low[:, None]), np.minimum(last, high[:, None]))
    return np.clip(total, 0.0, None)


def _union(first: Array, last: Array) -> Array:
    """Length (N,) covered by spans (N,n) sorted by where they begin."""
    reached = np.maximum.accumulate(last, axis=1)
    before = np.concatenate([np.full((len(first), 1), -np.inf), reached[:, :-1]], axis=1)
    return np.asarray(np.clip(last - np.maximum(first, before), 0.0, None).sum(axis=1))


def oval_length(centre: Array, half_axes: tuple[float, float], origin: Array, directions: Array) -> Array:
    """Length (N,) in an endless upright cylinder of oval section: `centre` (2,) and half axes along x and y, mm."""
    scale = np.asarray(half_axes)
    start = (origin[:2] - centre) / scale
    way = directions[:, :2] / scale
    a = np.clip((way**2).sum(axis=1), 1e-12, None)
    b = way @ start
    inner = b**2 - a * (float(start @ start) - 1.0)
    return np.asarray(2.0 * np.sqrt(np.clip(inner, 0.0, None)) / a)


def near_needle(needle: Needle, origin: Array, directions: Array, margin_mm: float) -> NDArray[np.bool_]:
    """Rays (N,) that come within `margin_mm` of the needle's shaft, its axis taken as endless."""
    normal = np.cross(directions, needle.axis)
    size = np.linalg.norm(normal, axis=1)
    gap = np.abs(normal @ (origin - np.asarray(needle.tip))) / np.maximum(size, 1e-9)
    return np.asarray((gap < 0.5 * needle.diameter_mm + margin_mm) | (size < 1e-3))


def near_cement(blob: Cement, origin: Array, directions: Array, margin_mm: float) -> NDArray[np.bool_]:
    """Rays (N,) that come within `margin_mm` of the ball around the blob."""
    low, high = blob.box()
    to = 0.5 * (low + high) - origin
    along = directions @ to
    gap = np.sqrt(np.clip(float(to @ to) - along**2, 0.0, None))
    return np.asarray(gap < 0.5 * float(np.linalg.norm(high - low)) + margin_mm)
