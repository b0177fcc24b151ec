"""What draws a shape through points that a person has marked, beside the bone that the scan shows. LPS mm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Pull(Protocol):
    """Something that a shape is held by while it is deformed."""

    def pull(self, vertices: Array, normals: Array, sd_mm: float) -> Array:
        """(N, 4): weighted displacement (mm) and weight at each of the `vertices` (N, 3) with unit `normals` (N, 3).

        sd_mm : how far along the surface, as a standard deviation, a displacement is shared at this step.
        """


@dataclass(frozen=True, eq=False)
class Attractors:
    """Points (M, 3) LPS mm a surface has to pass through, facing the unit `directions` (M, 3) there."""

    points: Array
    directions: Array
    weight: float = 12.0
    """Against at most 0.8 for each vertex that sees bone: some dozen of them share the neighbourhood of a point."""

    def pull(self, vertices: Array, normals: Array, sd_mm: float) -> Array:
        """(N, 4): weighted displacement and weight at each vertex, as the evidence gives them."""
        facing = normals @ self.directions.T > 0.5
        gap = np.linalg.norm(vertices[:, None] - self.points[None], axis=2)
        nearest_ = np.argmin(np.where(facing, gap, gap + 100.0), axis=0)
        shift = self.points - vertices[nearest_]
        # Along the plate the surface may slide; only its height is given.
        shift = np.sum(shift * self.directions, axis=1, keepdims=True) * self.directions
        kernel = self.weight * np.exp(-squared_distances(vertices, vertices[nearest_]) / (2.0 * sd_mm**2))
        return np.column_stack([kernel @ shift, kernel.sum(axis=1)])


@dataclass(frozen=True, eq=False)
class SurfaceAttractors:
    """Points (M, 3) LPS mm on the outside of the bone; the surface has to pass through them wherever it faces.

    `outward` (M, 3): unit direction out of the bone as the scan shows it, zero where it shows none. A surface that
    faces the other way, or lies beside the line along it, is taken only when it lies `turned_mm` nearer: the near side
    of a thin process is not drawn through a point on its far side, and dense tissue that mimics bone does not lead to
    quite another side of the vertebra.
    """

    points: Array
    outward: Array
    weight: float = 12.0
    """As that of `Attractors`, for each point."""
    turned_mm: float = 6.0
    """About the thickness of a process."""
    aligned_share: float = 0.6
    """Least share of the way to a surface beyond the slack that leads along `outward`."""
    slack_mm: float = 3.0
    """About the spacing of the vertices: so far a point may lie beside its vertex, along the surface."""

    def pull(self, vertices: Array, normals: Array, sd_mm: float) -> Array:
        """As `Pull.pull`: along the surface's own normal, and along the surface itself beyond the slack."""
        way = vertices[:, None] - self.points[None]
        gap = np.linalg.norm(way, axis=2)
        beside = np.abs(np.sum(way * self.outward[None], axis=2)) < self.aligned_share * gap
        odd = (normals @ self.outward.T < 0.0) | (beside & (gap > self.slack_mm))
        nearest = np.argmin(gap + self.turned_mm * odd, axis=0)
        shift, normal = self.points - vertices[nearest], normals[nearest]
        across = np.sum(shift * normal, axis=1, keepdims=True) * normal
        along = shift - across
        length = np.linalg.norm(along, axis=1, keepdims=True)
        shift = across + along * np.clip(1.0 - self.slack_mm / np.maximum(length, 1e-9), 0.0, 1.0)
        kernel = self.weight * np.exp(-squared_distances(vertices, vertices[nearest]) / (2.0 * sd_mm**2))
        return np.column_stack([kernel @ shift, kernel.sum(axis=1)])


@dataclass(frozen=True, eq=False)
class Together:
    """Several that pull at the same shape."""

    parts: tuple[Pull, ...]

    def pull(self, vertices: Array, normals: Array, sd_mm: float) -> Array:
        """The sum of what they pull: displacements are weighted, so that each counts by its weight."""
        return np.asarray(np.sum([p.pull(vertices, normals, sd_mm) for p in self.parts], axis=0))


def squared_distances(points: Array, others: Array) -> NDArray[np.float32]:
    """(N, M) squared distances, mm²; single precision about their own middle, which is good to 0.01 mm²."""
    middle = points.mean(axis=0)
    a, b = (points - middle).astype(np.float32), (others - middle).astype(np.float32)
    product = a @ b.T
    product *= np.float32(-2.0)
    product += np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1)[None]
    return np.asarray(np.maximum(product, np.float32(0.0), out=product))
