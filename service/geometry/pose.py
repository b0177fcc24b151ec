"""Small rigid-body tools shared by the registration steps. Points (N, 3) LPS mm, transforms (4, 4)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]


def apply(b_from_a: Array, points: NDArray[np.float64]) -> Array:
    """(N, 3) points in frame a -> (N, 3) in frame b."""
    return np.asarray(points @ b_from_a[:3, :3].T + b_from_a[:3, 3], dtype=np.float64)


def invert(b_from_a: Array) -> Array:
    """Inverse of a rigid transform; exact, without a general matrix inversion."""
    r = b_from_a[:3, :3].T
    result = np.eye(4)
    result[:3, :3] = r
    result[:3, 3] = -r @ b_from_a[:3, 3]
    return result


def about(rotation: Array, pivot_a: Array, pivot_b: Array) -> Array:
    """b_from_a with this (3, 3) rotation that takes `pivot_a` to `pivot_b`."""
    result = np.eye(4)
    result[:3, :3] = rotation
    result[:3, 3] = pivot_b - rotation @ pivot_a
    return result


def nudge(pivot: Array, twist: Array) -> Array:
    """Small motion inside one frame: rotation vector `twist[:3]` (radians) about `pivot`, then `twist[3:]` mm."""
    rotation = Rotation.from_rotvec(twist[:3]).as_matrix()
    return about(np.asarray(rotation), pivot, pivot + twist[3:])


def displacement_mm(first: Array, second: Array, points: Array) -> Array:
    """(N,) distances between the images of (N, 3) points under two transforms into the same frame."""
    return np.asarray(np.linalg.norm(apply(first, points) - apply(second, points), axis=1))


def angle_deg(first: Array, second: Array) -> float:
    """Rotation angle between two transforms, degrees."""
    turn = Rotation.from_matrix(first[:3, :3].T @ second[:3, :3])
    return float(np.degrees(turn.magnitude()))
