"""A patient who moves while the gantry turns: each direction of the image shows another moment.

A projection at gantry angle t carries the image's spatial frequencies along one line through the origin at that
angle (projection-slice theorem; Kak and Slaney, ch. 3). So the reconstruction of a moving patient is put together
in the frequency plane of each slice: every wedge of angles is taken from the image of the pose held at that time.
That gives the double contours and the directional smear of a real scan, exact for parallel beams in the slice.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.spatial.transform import Rotation

Array = NDArray[np.float64]
Single = NDArray[np.float32]
MotionKind = Literal["drift", "jerk", "breath"]


@dataclass(frozen=True)
class Motion:
    """Movement from one extreme to the other, about the pose that the scan's truth states.

    `shift_mm` is in LPS of the scan, `turn_deg` about `turn_axis` of the same axes through the middle of the field.
    `drift` is even, `jerk` one sudden move half-way, `breath` three breaths in one turn of the gantry.
    """

    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn_deg: float = 0.0
    turn_axis: tuple[float, float, float] = (0.0, 0.0, 1.0)
    kind: MotionKind = "drift"
    moments: int = 16

    def __post_init__(self) -> None:
        if self.kind not in ("drift", "jerk", "breath"):
            raise ValueError(f"unknown kind of motion {self.kind}")
        if self.moments < 2 or self.moments % 2:
            raise ValueError("moments must be an even number of at least 2")

    def shares(self) -> Array:
        """(moments,) position between -0.5 and 0.5 at evenly spaced times of one turn."""
        time = (np.arange(self.moments) + 0.5) / self.moments
        if self.kind == "drift":
            return np.asarray(time - 0.5)
        if self.kind == "jerk":
            return np.asarray(np.where(time < 0.5, -0.5, 0.5))
        return np.asarray(0.5 * np.sin(6.0 * np.pi * time))

    def poses(self, centre: Array) -> list[Array]:
        """`moved_from_still` (4,4) mm for each moment, turning about `centre` (3,)."""
        axis = np.asarray(self.turn_axis, dtype=np.float64)
        axis = axis / np.linalg.norm(axis)
        found = []
        for share in self.shares():
            turn = Rotation.from_rotvec(np.deg2rad(self.turn_deg) * share * axis).as_matrix()
            matrix = np.eye(4)
            matrix[:3, :3] = turn
            matrix[:3, 3] = centre + share * np.asarray(self.shift_mm) - turn @ centre
            found.append(matrix)
        return found


def combined(images: Iterable[Single], moments: int) -> Single:
    """One image (k,j,i) from those of `moments` evenly spaced times of one full turn of the gantry."""
    total: NDArray[np.complex64] | None = None
    shape: tuple[int, int] = (0, 0)
    for index, image in enumerate(images):
        shape = (image.shape[1], image.shape[2])
        part = fft.rfft2(image, axes=(1, 2)) * _wedge(shape, index, moments)
        total = part if total is None else total + part
    if total is None:
        raise ValueError("no image to combine")
    return np.asarray(fft.irfft2(total, s=shape, axes=(1, 2)), dtype=np.float32)


def _wedge(shape: tuple[int, int], index: int, moments: int) -> Single:
    """Weight of each frequency for one moment: a full turn measures every direction twice, half a turn apart."""
    v, u = np.meshgrid(fft.fftfreq(shape[0]), fft.rfftfreq(shape[1]), indexing="ij")
    half = moments // 2
    angle = np.mod(np.arctan2(v, u), np.pi) / np.pi * half
    weight = np.where(np.floor(angle).astype(int) % half == index % half, 0.5, 0.0)
    weight[0, 0] = 1.0 / moments
    return np.asarray(weight, dtype=np.float32)
