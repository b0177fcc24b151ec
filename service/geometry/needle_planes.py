"""Planes that hold a needle's axis: where a picture along the needle lies, and which point a pixel of it is.

Planning LPS, mm. Two planes hold the axis of every needle: one upright, seen from the patient's left (the back on
the right), and one lying across, seen from the feet (the patient's left on the right), as radiologists look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import VertebraFrame

Array = NDArray[np.float64]
PlaneName = Literal["sagittal", "axial"]

AHEAD_MM = 18.0
"""The picture's middle lies this far behind the tip: in front then remains the rest of a body, behind the pedicle."""
_LEAST_SINE = 0.05
"""An axis closer to the plane's own direction than this (3 degrees) turns the plane no more."""


@dataclass(frozen=True, eq=False)
class PicturePlane:
    """A picture with square pixels in space. `right` and `down` are unit vectors at right angles.

    `origin` is the point of the centre of pixel (0, 0); `columns` and `rows` are the picture's size.
    """

    name: str
    origin: Array
    right: Array
    down: Array
    mm_per_pixel: float
    columns: int
    rows: int

    @property
    def forward(self) -> Array:
        """Unit vector away from the viewer."""
        return np.asarray(np.cross(self.right, self.down))

    @property
    def centre(self) -> Array:
        half = np.array([self.columns - 1, self.rows - 1]) * self.mm_per_pixel / 2.0
        return np.asarray(self.origin + half[0] * self.right + half[1] * self.down)

    def pixels(self, points: NDArray[Any]) -> Array:
        """(N, 3) points -> (N, 3): column, row, and distance behind the plane in mm (negative: in front)."""
        offset = np.atleast_2d(np.asarray(points, dtype=np.float64)) - self.origin
        return np.stack(
            [
                offset @ self.right / self.mm_per_pixel,
                offset @ self.down / self.mm_per_pixel,
                offset @ self.forward,
            ],
            axis=1,
        )

    def points(self, pixels: NDArray[Any]) -> Array:
        """(N, 2) column, row -> (N, 3) points in the plane."""
        at = np.atleast_2d(np.asarray(pixels, dtype=np.float64)) * self.mm_per_pixel
        return np.asarray(self.origin + at[:, :1] * self.right + at[:, 1:] * self.down)

    def grid(self) -> Array:
        """(rows * columns, 3) points of all pixels, row by row."""
        row, column = np.meshgrid(np.arange(self.rows), np.arange(self.columns), indexing="ij")
        return self.points(np.stack([column.ravel(), row.ravel()], axis=1))

    def part(self, middle: Array, size_mm: float, pixels: int) -> PicturePlane:
        """A square piece of the same plane around the point that `middle` is projected to."""
        mm = size_mm / pixels
        inside = middle - ((middle - self.origin) @ self.forward) * self.forward
        corner = inside - (pixels - 1) / 2.0 * mm * (self.right + self.down)
        return PicturePlane(self.name, corner, self.right, self.down, mm, pixels, pixels)

    def to_document(self, *, x: int = 0, y: int = 0) -> dict[str, Any]:
        """The mapping for a screen; (x, y) is where pixel (0, 0) stands in a larger picture."""
        return {
            "frame": "LPS mm of the planning CT",
            "origin": [round(float(v), 4) for v in self.origin],
            "right": [round(float(v), 7) for v in self.right],
            "down": [round(float(v), 7) for v in self.down],
            "mm_per_pixel": self.mm_per_pixel,
            "x": x,
            "y": y,
            "columns": self.columns,
            "rows": self.rows,
        }


def along_needle(
    name: PlaneName,
    tip: NDArray[Any],
    axis: NDArray[Any],
    frame: VertebraFrame,
    *,
    size: tuple[int, int],
    mm_per_pixel: float,
) -> PicturePlane:
    """The plane of this name through `tip` that holds `axis` (any length, from entry to tip).

    The sagittal one also holds the vertebra's superior direction, the axial one its left; so each is turned about
    that direction until it holds the needle, and the picture stays upright.

    Parameters
    ----------
    size : columns, rows.
    """
    along = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    held = np.asarray(frame.superior if name == "sagittal" else frame.left, dtype=np.float64)
    held = held / np.linalg.norm(held)
    posterior = -np.asarray(frame.anterior, dtype=np.float64)
    back = -along + (along @ held) * held
    if np.linalg.norm(back) < _LEAST_SINE:
        back = posterior - (posterior @ held) * held
    back = back / np.linalg.norm(back)
    if back @ posterior < 0:
        back = -back
    right, down = (back, -held) if name == "sagittal" else (held, back)
    centre = np.asarray(tip, dtype=np.float64) - AHEAD_MM * along
    half = (np.array(size) - 1) * mm_per_pixel / 2.0
    origin = centre - half[0] * right - half[1] * down
    return PicturePlane(name, origin, right, down, mm_per_pixel, size[0], size[1])


def through(
    name: str,
    centre: NDArray[Any],
    right: NDArray[Any],
    down: NDArray[Any],
    *,
    size: tuple[int, int],
    mm_per_pixel: float,
) -> PicturePlane:
    """The plane spanned by two unit vectors at right angles, with `centre` in the picture's middle."""
    across, below = np.asarray(right, dtype=np.float64), np.asarray(down, dtype=np.float64)
    half = (np.array(size) - 1) * mm_per_pixel / 2.0
    origin = np.asarray(centre, dtype=np.float64) - half[0] * across - half[1] * below
    return PicturePlane(name, origin, across, below, mm_per_pixel, size[0], size[1])
