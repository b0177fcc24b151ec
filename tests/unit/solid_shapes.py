"""Analytic bones for the tests of the solid: fields whose true surface is known by formula.

Frame: LPS mm, x left, y posterior, z superior. Nothing here uses the code under test.
"""

from __future__ import annotations

import numpy as np

from service.domain.plan import ModelSettings, Plan, Trajectory, VertebraFrame
from service.geometry.volume import Volume

FRAME = VertebraFrame(
    origin=(0.0, 0.0, 0.0), left=(1.0, 0.0, 0.0), anterior=(0.0, -1.0, 0.0), superior=(0.0, 0.0, 1.0)
)


def grid(half, step=0.5, centre=(0.0, 0.0, 0.0)):
    """Volume affine and coordinates x, y, z (K, J, I) around `centre`."""
    half, centre = np.asarray(half, dtype=float), np.asarray(centre, dtype=float)
    axes = [np.arange(-h, h + step / 2, step) + c for h, c in zip(half, centre, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = [a[0] for a in axes]
    return affine, x, y, z


def volume(field, affine):
    return Volume(np.clip(field, -8.0, 8.0).astype(np.float32), affine)


def capsule(x, y, z, a, b, r):
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    d = b - a
    t = ((x - a[0]) * d[0] + (y - a[1]) * d[1] + (z - a[2]) * d[2]) / (d @ d)
    t = np.clip(t, 0.0, 1.0)
    return np.sqrt((x - a[0] - t * d[0]) ** 2 + (y - a[1] - t * d[1]) ** 2 + (z - a[2] - t * d[2]) ** 2) - r


def rounded_box(x, y, z, centre, half, r):
    q = [np.abs(v - c) - (h - r) for v, c, h in zip((x, y, z), centre, half, strict=True)]
    outside = np.sqrt(sum(np.maximum(v, 0.0) ** 2 for v in q))
    return outside + np.minimum(np.maximum(np.maximum(q[0], q[1]), q[2]), 0.0) - r


def sphere(radius=20.0, step=0.5, centre=(0.0, 0.0, 0.0)):
    affine, x, y, z = grid([radius + 6] * 3, step, centre)
    field = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) - radius
    return volume(field, affine)


def elliptic_body(x, y, z):
    """Body 46 x 34 x 28 mm: an elliptic drum with rounded rims; approximately metric."""
    ring = np.sqrt((x / 23.0) ** 2 + (y / 17.0) ** 2) + 1e-6
    slope = np.sqrt((x / 23.0**2) ** 2 + (y / 17.0**2) ** 2) / ring
    q0 = (ring - 1.0) / np.maximum(slope, 1.0 / 23.0) + 2.0
    q1 = np.abs(z) - 12.0
    return np.hypot(np.maximum(q0, 0), np.maximum(q1, 0)) + np.minimum(np.maximum(q0, q1), 0.0) - 2.0


def vertebra(step=0.5, shift=(0.0, 0.0, 0.0)):
    """A lumbar-like bone: body, pedicles, thin arch with a canal through it, spinous and transverse processes."""
    affine, x, y, z = grid([44, 48, 24], step, (0, 18, 0))
    parts = [elliptic_body(x, y, z)]
    for s in (1.0, -1.0):
        parts.append(capsule(x, y, z, (s * 14.0, 12.0, 5.0), (s * 15.0, 34.0, 4.0), 5.2))
        parts.append(capsule(x, y, z, (s * 15.0, 34.0, 2.0), (s * 37.0, 37.0, 3.0), 4.5))
        parts.append(capsule(x, y, z, (s * 15.0, 34.0, 12.0), (s * 15.0, 36.0, -14.0), 6.0))
        parts.append(capsule(x, y, z, (s * 15.0, 35.0, -2.0), (0.0, 43.0, -3.0), 3.0))
    parts.append(rounded_box(x, y, z, (0.0, 51.0, -5.0), (4.0, 13.0, 9.0), 3.0))
    field = np.minimum.reduce(parts)
    affine[:3, 3] += shift
    return volume(field, affine)


def entry_on(volume, target, direction):
    """Walk from `target` against `direction` to the last crossing of the surface: where a needle would enter."""
    direction = np.asarray(direction, dtype=float) / np.linalg.norm(direction)
    t = np.arange(0.0, 80.0, 0.05)
    values = volume.sample(np.asarray(target) - t[:, None] * direction, outside=8.0)
    last = int(np.flatnonzero(values < 0)[-1])
    return np.asarray(target) - t[last] * direction


def vertebra_plan(volume, shift=(0.0, 0.0, 0.0), model=None, sides=("left", "right")):
    """A straight path through each pedicle, converging forward."""
    paths = []
    for side in sides:
        s = 1.0 if side == "left" else -1.0
        target = np.array([s * 5.0, -4.0, 1.0]) + shift
        through = np.array([s * 14.5, 23.0, 4.5]) + shift
        entry = entry_on(volume, target, target - through)
        paths.append(Trajectory(side, tuple(entry), tuple(target), 5.0, 18.0, 3.0))
    frame = VertebraFrame(tuple(float(v) for v in shift), FRAME.left, FRAME.anterior, FRAME.superior)
    return Plan("L3", "1.2.3", frame, tuple(float(v) for v in shift), tuple(paths), model or ModelSettings())


def simple_plan(paths=(), model=None):
    return Plan("L3", "1.2.3", FRAME, (0.0, 0.0, 0.0), tuple(paths), model or ModelSettings())
