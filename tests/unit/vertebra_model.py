"""A small analytic vertebra for tests: smooth unions of simple solids with known axes and sizes (LPS mm)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from service.geometry.volume import Volume

Array = np.ndarray


@dataclass(frozen=True)
class ModelVertebra:
    """Body: superellipse cylinder; canal behind it; tubular pedicles; arch, spinous and transverse processes."""

    centre: tuple[float, float, float] = (4.0, -7.0, 120.0)
    axes: Array | None = None
    """(3, 3) columns left, posterior, superior."""
    half_width: float = 21.0
    half_depth: float = 15.0
    height: float = 26.0
    wedge: float = 0.0
    pedicle_radius: float = 4.5
    pedicle_x: float = 13.5

    def turn(self) -> Array:
        return np.eye(3) if self.axes is None else self.axes

    def distance(self, lps: Array) -> Array:
        """Approximate signed distance (exact on the tubes), negative inside; (N, 3) LPS -> (N,)."""
        x, y, z = ((lps - np.array(self.centre)) @ self.turn()).T
        radial = ((np.abs(x) / self.half_width) ** 2.5 + (np.abs(y) / self.half_depth) ** 2.5) ** (1 / 2.5)
        side = (radial - 1.0) * self.half_depth
        # An anterior wedge lowers the upper plate towards the front and leaves its back edge.
        top = self.height / 2 - self.wedge * self.height * (self.half_depth - y) / (2 * self.half_depth)
        body = np.maximum(side, np.maximum(z - top, -z - self.height / 2))
        parts = [body]
        for s in (1.0, -1.0):
            parts.append(
                _capsule(
                    x, y, z, (s * self.pedicle_x, 8, 5), (s * self.pedicle_x, 34, 5), self.pedicle_radius
                )
            )
            parts.append(_capsule(x, y, z, (s * self.pedicle_x, 34, 4), (0, 42, -2), 4.0))
            parts.append(_capsule(x, y, z, (s * self.pedicle_x, 34, 4), (s * 32, 40, 4), 3.5))
            parts.append(_capsule(x, y, z, (s * 15, 34, -10), (s * 15, 34, 16), 4.0))
        parts.append(_capsule(x, y, z, (0, 42, -2), (0, 64, -10), 3.5))
        return np.minimum.reduce(parts)

    def field(self, step: float = 1.0) -> Volume:
        return self._sampled(self.distance, step, cap=8.0)

    def ct(
        self,
        spacing: tuple[float, float, float] = (0.7, 0.7, 1.0),
        *,
        cortex: float = 900.0,
        marrow: float = 120.0,
    ) -> Volume:
        """HU: cortex of 1.5 mm, marrow, soft tissue of 40, blurred edges of about 0.5 mm."""

        def hu(points: Array) -> Array:
            d = self.distance(points)
            inner = 1.0 / (1.0 + np.exp((d + 1.5) / 0.25))
            outer = 1.0 / (1.0 + np.exp(d / 0.25))
            return 40.0 + (cortex - 40.0) * outer + (marrow - cortex) * inner

        return self._sampled(hu, spacing, cap=None)

    def _sampled(self, value, step, cap) -> Volume:
        spacing = np.broadcast_to(np.asarray(step, dtype=float), (3,))
        low = np.add(self.centre, [-42.0, -26.0, -30.0])
        high = np.add(self.centre, [42.0, 72.0, 30.0])
        n = np.ceil((high - low) / spacing).astype(int)
        k, j, i = np.indices(n[::-1])
        points = low + np.column_stack([i.ravel(), j.ravel(), k.ravel()]) * spacing
        values = value(points).reshape(n[::-1]).astype(np.float32)
        if cap is not None:
            values = np.clip(values, -cap, cap)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = low
        return Volume(values, affine)


def _capsule(x, y, z, a, b, radius):
    p = np.stack([x, y, z], axis=-1)
    a, b = np.array(a, dtype=float), np.array(b, dtype=float)
    t = np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0.0, 1.0)
    return np.linalg.norm(p - a - t[:, None] * (b - a), axis=1) - radius


def tilted_axes(pitch_deg: float, roll_deg: float, yaw_deg: float) -> Array:
    """Columns left, posterior, superior of a turned frame."""
    p, r, w = np.radians([pitch_deg, roll_deg, yaw_deg])
    rx = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    ry = np.array([[np.cos(r), 0, np.sin(r)], [0, 1, 0], [-np.sin(r), 0, np.cos(r)]])
    rz = np.array([[np.cos(w), -np.sin(w), 0], [np.sin(w), np.cos(w), 0], [0, 0, 1]])
    return rz @ rx @ ry
