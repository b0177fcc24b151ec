"""Bone that is in the isolated vertebra but not in its model: how much, where, and what a person can do about it.

The builder leaves out what a nozzle cannot print and keeps one body, so that a process which hangs on the rest by too
thin a neck goes with the neck. That must never happen without a word. Frame: patient LPS, mm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Plan, Vec3
from service.geometry.distances import components

Mask = NDArray[np.bool_]

WHAT_TO_DO = "Paint a bridge to it (edit `paint`) and build again"


@dataclass(frozen=True)
class LostPiece:
    """One connected piece of bone without its place in the model; `centre` (3,) LPS mm."""

    volume_ml: float
    centre: Vec3


def lost_pieces(lost: Mask, origin: NDArray[Any], step_mm: float, least_ml: float) -> tuple[LostPiece, ...]:
    """The connected pieces of a mask (K, J, I) of at least `least_ml`, the largest first.

    `origin` (3,) LPS mm of voxel (0, 0, 0) of a grid parallel to LPS.
    """
    labels, count = components(lost)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    found = []
    for label in np.argsort(-sizes, kind="stable"):
        volume_ml = float(sizes[label]) * step_mm**3 / 1000.0
        if volume_ml < least_ml:
            break
        x, y, z = np.argwhere(labels == label + 1).mean(axis=0)[::-1] * step_mm + origin
        found.append(LostPiece(volume_ml, (float(x), float(y), float(z))))
    return tuple(found)


def necks(kept: Mask, thin: Mask, least_voxels: float) -> Mask:
    """The connected parts of `thin` that join two or more bodies of `kept`, each of at least `least_voxels`.

    Without them one of the two bodies would be lost. Where there is only one such body there is no neck.
    """
    labels, count = components(kept)
    large = np.bincount(labels.ravel(), minlength=count + 1) >= least_voxels
    large[0] = False
    if large.sum() < 2:
        return np.zeros_like(thin)
    bodies = np.where(large[labels], labels, 0)
    parts, _ = components(thin)
    touching = np.unique(np.concatenate(list(_neighbours(parts, bodies))), axis=0)
    part, met = np.unique(touching[:, 0], return_counts=True)
    return np.asarray(np.isin(parts, part[met > 1]))


def _neighbours(parts: NDArray[np.uint32], bodies: NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
    """(N, 2) rows of a part and a body that share a voxel's face, along each axis and both ways."""
    for axis in range(3):
        first = tuple(slice(None, -1) if n == axis else slice(None) for n in range(3))
        second = tuple(slice(1, None) if n == axis else slice(None) for n in range(3))
        for one, other in ((first, second), (second, first)):
            both = (parts[one] > 0) & (bodies[other] > 0)
            yield np.stack([parts[one][both], bodies[other][both]], axis=1)


def warnings_about(pieces: Sequence[LostPiece], plan: Plan) -> list[str]:
    """A sentence for each piece: how much, where, what to do."""
    return [
        f"{piece.volume_ml:.2f} mL of bone, {place_of(piece.centre, plan)}, are not in the model: too thin to print, "
        f"or joined to the rest by nothing that can be printed. {WHAT_TO_DO}, or accept the model without it."
        for piece in pieces
    ]


def failure_about(pieces: Sequence[LostPiece], limit_ml: float) -> str | None:
    """Why a model that lacks more than `limit_ml` of bone is not to be printed; None when it lacks no more."""
    total = sum(piece.volume_ml for piece in pieces)
    if total <= limit_ml:
        return None
    return (
        f"{total:.2f} mL of the isolated bone were left out of the model; {limit_ml:g} mL are allowed. "
        f"{WHAT_TO_DO}, or erase the piece if it does not belong to the model."
    )


def place_of(point: Vec3, plan: Plan) -> str:
    """A LPS point in words, seen from the middle of the vertebral body along the vertebra's own axes."""
    frame = plan.vertebra_frame
    offset = np.array(point) - np.array(plan.body_centre)
    words = []
    for axis, (ahead, back) in (
        (frame.left, ("left", "right")),
        (frame.anterior, ("in front", "behind")),
        (frame.superior, ("above", "below")),
    ):
        along = float(offset @ np.array(axis))
        if abs(along) >= 0.5:
            words.append(f"{abs(along):.0f} mm {ahead if along > 0 else back}")
    return f"{', '.join(words) or 'at'} (from the middle of the body)"
