"""Endplates of the planned body and its neighbours in the planning CT, kept so that a scan can find them again.

A scan after the cement tells how far each plate has moved (`service.geometry.restoration`). That needs points on the
plates and how the planning CT looks across them, nothing else of the CT. Frame: planning LPS, mm.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from service.domain.plan import Plan
from service.geometry.anatomy import BodyField, BodyName
from service.geometry.angles import frame_axes, unit
from service.geometry.heights import PLACES, BodyHeights, body_depth, column_exit
from service.geometry.volume import Volume

log = logging.getLogger("spineprint.geometry")
Array = NDArray[np.float64]
PLATES = ("upper", "lower")

#: Changes with the meaning of the arrays; a file of another format is not read.
FORMAT = "spineprint.plates/1"
#: Where a profile across a plate is read, mm along the body's axis, positive out of the body.
OFFSETS_MM = np.arange(-6.0, 6.01, 0.25)
#: Columns of a place: across the body and along it, mm from its middle.
ACROSS_MM = np.arange(-9.0, 9.01, 1.5)
ALONG_MM = np.array([-1.2, 0.0, 1.2])
#: A place needs this share of its columns.
LEAST_COLUMNS = 0.4
#: How far from the surface known the plate's edge is looked for: the surface of the isolated bone lies where a
#: threshold has it, a fitted shape of a neighbour somewhere near.
EDGE_MM = {True: 1.5, False: 2.5}


@dataclass(frozen=True, eq=False)
class Body:
    """Plates of one body. Arrays over (plate, place): plates upper, lower; places anterior, middle, posterior.

    `points` (2, 3, N, 3) on the plates, NaN where a column has none; `profiles` (2, 3, N, P) HU at `OFFSETS_MM`.
    """

    name: BodyName
    axes: Array
    points: Array
    profiles: NDArray[np.float32]

    @property
    def superior(self) -> Array:
        return np.asarray(self.axes[:, 2])

    def middles(self) -> Array:
        """(2, 3, 3) mean point of every plate and place; NaN where the place is not known."""
        known = np.asarray(np.isfinite(self.points).all(axis=-1))
        share = known.mean(axis=-1)
        total = np.where(known[..., None], self.points, 0.0).sum(axis=2)
        means = total / np.maximum(known.sum(axis=-1), 1)[..., None]
        return np.where((share >= LEAST_COLUMNS)[..., None], means, np.nan)

    def heights_mm(self) -> Array:
        """(3,) median height of the columns near the midline, by place; NaN where unknown."""
        gap = (self.points[0] - self.points[1]) @ self.superior
        inner = np.abs(np.repeat(ACROSS_MM, len(ALONG_MM))) <= 3.01
        found = np.full(3, np.nan)
        for place, column in enumerate(gap[:, inner]):
            good = column[np.isfinite(column)]
            if len(good) >= LEAST_COLUMNS * inner.sum():
                found[place] = np.median(good)
        return found


def target_field(outer: Volume, plan: Plan) -> BodyField:
    """The planned vertebra itself."""
    frame = plan.vertebra_frame
    axes = np.column_stack([frame.left, frame.anterior, frame.superior]).astype(np.float64)
    return BodyField("target", outer, np.asarray(plan.body_centre, dtype=np.float64), axes)


def find_bodies(ct: Volume, fields: Sequence[BodyField]) -> tuple[Body, ...]:
    """Plates of every body that can be followed through its field; the others are left out."""
    found = (_body(ct, field) for field in fields)
    return tuple(body for body in found if body is not None)


def _body(ct: Volume, field: BodyField) -> Body | None:
    if not field.exact:
        field = _upright(field)
    points = _points(field)
    if points is None:
        return None
    superior = field.axes[:, 2]
    crop = _around(ct, points)
    # On the CT as it is: the steepest fall beside a thin plate moves outwards with every blur.
    points = _on_edges(crop, points, superior, EDGE_MM[field.exact])
    smooth = _smoothed(crop)
    profiles = np.stack([_profiles(smooth, points[n], s * superior) for n, s in enumerate((1.0, -1.0))])
    points[~np.isfinite(profiles).all(axis=-1)] = np.nan
    body = Body(field.name, field.axes, points, profiles.astype(np.float32))
    return body if np.isfinite(body.middles()).any() else None


def _points(field: BodyField) -> Array | None:
    """(2, 3, N, 3) where columns along the axis leave the body; NaN without, None when its walls are not found."""
    left, anterior, superior = field.axes.T
    depth = body_depth(field.field, field.centre, left, anterior)
    if depth is None:
        return None
    front, back = depth
    points = np.full((2, len(PLACES), len(ACROSS_MM) * len(ALONG_MM), 3), np.nan)
    for place, share in enumerate(PLACES.values()):
        forward = front - share * (front + back)
        columns = [(x, y) for x in ACROSS_MM for y in ALONG_MM]
        for number, (x, y) in enumerate(columns):
            middle = field.centre + x * left + (forward + y) * anterior
            for plate, sign in enumerate((1.0, -1.0)):
                reach = column_exit(field.field, middle, sign * superior)
                if reach is not None:
                    points[plate, place, number] = middle + sign * reach * superior
    return points if np.isfinite(points).any() else None


def _upright(field: BodyField, rounds: int = 2) -> BodyField:
    """The field with its axis along the mean of its plates' normals: a fitted shape leans with its template.

    Along a leaning axis the upper and lower plate would be measured at different places, each with its own dish.
    """
    for _ in range(rounds):
        points = _points(field)
        if points is None:
            return field
        local = (points - field.centre) @ field.axes
        slopes = []
        for plate in local:
            flat = plate.reshape(-1, 3)
            known = flat[np.isfinite(flat).all(axis=1)]
            if len(known) < 20:
                return field
            design = np.column_stack([np.ones(len(known)), known[:, 0], known[:, 1]])
            slopes.append(np.linalg.lstsq(design, known[:, 2], rcond=None)[0][1:])
        lean = np.mean(slopes, axis=0)
        superior = field.axes @ unit([-lean[0], -lean[1], 1.0])
        left, anterior, superior = frame_axes(field.axes[:, 0], superior)
        middle = np.nanmean(local.reshape(-1, 3), axis=0)
        centre = field.centre + field.axes[:, 2] * middle[2]
        field = replace(field, centre=centre, axes=np.column_stack([left, anterior, superior]))
    return field


def _around(ct: Volume, points: Array) -> Volume:
    known = points[np.isfinite(points).all(axis=-1)]
    low, high = known.min(axis=0), known.max(axis=0)
    return ct.crop_to_lps_box((low + high) / 2, (high - low) / 2 + float(OFFSETS_MM[-1]) + 6.0)


def _smoothed(crop: Volume) -> Volume:
    """Blurred by 0.5 mm, near the point spread of the O-arm."""
    sigma = [0.5 / s for s in crop.spacing_mm[::-1]]
    return Volume(ndimage.gaussian_filter(crop.values.astype(np.float32), sigma), crop.lps_from_ijk)


def _profiles(smooth: Volume, points: Array, outwards: Array) -> Array:
    """(3, N, P) HU across a plate; NaN where the CT ends."""
    along = points[..., None, :] + OFFSETS_MM[:, None] * outwards
    asked = np.nan_to_num(along.reshape(-1, 3), nan=1e9)
    return smooth.sample(asked, outside=np.nan).reshape(along.shape[:-1])


def _on_edges(smooth: Volume, points: Array, superior: Array, reach_mm: float) -> Array:
    """The points moved along the axis to where the grey falls most steeply near them."""
    moved = points.copy()
    near = np.abs(OFFSETS_MM) <= reach_mm
    for plate, sign in enumerate((1.0, -1.0)):
        profiles = _profiles(smooth, points[plate], sign * superior)
        fall = np.gradient(profiles, axis=-1)[..., near]
        known = np.asarray(np.isfinite(fall).all(axis=-1))
        # One place moves as one: a single column's steepest fall may be a pit or a vessel.
        for place in range(fall.shape[0]):
            if known[place].any():
                step = OFFSETS_MM[near][int(np.argmin(fall[place][known[place]].mean(axis=0)))]
                moved[plate, place] += sign * step * superior
    return moved


def plate_heights(bodies: Sequence[Body]) -> BodyHeights | None:
    """Heights of the planned body between the edges of its plates; None when they were not kept or not all found."""
    for body in bodies:
        heights = body.heights_mm()
        if body.name == "target" and np.isfinite(heights).all():
            return BodyHeights(*(float(v) for v in heights))
    return None


def write_bodies(bodies: Sequence[Body], path: Path) -> None:
    """Write as a compressed NumPy archive that loads without executing anything."""
    content: dict[str, Any] = {"format": np.asarray(FORMAT)}
    for body in bodies:
        content |= {f"{body.name}_{key}": getattr(body, key) for key in ("axes", "points", "profiles")}
    with path.open("wb") as stream:
        np.savez_compressed(stream, **content)


def read_bodies(path: Path) -> tuple[Body, ...]:
    """The bodies; none when the file cannot be used (a report then has no heights after the cement)."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            if str(stored["format"]) != FORMAT:
                return ()
            names: tuple[BodyName, ...] = ("target", "above", "below")
            return tuple(
                Body(n, *(stored[f"{n}_{key}"] for key in ("axes", "points", "profiles")))
                for n in names
                if f"{n}_axes" in stored
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as exc:
        log.warning("the endplates kept with the model cannot be read (%s)", type(exc).__name__)
        return ()
