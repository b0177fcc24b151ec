"""CT slices for the pages: pictures of patient-aligned planes, with the outline of the vertebra.

A case's CT is read once and kept while it is looked at; the cache is bounded in bytes and forgets the case that
was looked at longest ago. Planes are cut along the patient axes (LPS mm), so a pixel is one LPS point and a
click on a picture is a point of the plan.
"""

from __future__ import annotations

import io
import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from skimage import measure

from service.domain.plan import plan_from_document
from service.errors import InputRefusedError, NotFoundError
from service.geometry.volume import Volume
from service.imaging.nifti import read_nifti
from service.imaging.series import load_series
from service.store import blobs, cases, studies
from service.store.database import reading
from service.workflow.app import App

Array = NDArray[np.float64]
PlaneName = Literal["axial", "sagittal", "coronal"]

#: Name -> (right, down, normal) of the picture in LPS. As radiologists look: the patient's left is on the right
#: of axial and coronal pictures; the sagittal one is seen from the patient's left, the back on its right.
PLANES: dict[PlaneName, tuple[Array, Array, Array]] = {
    "axial": (np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0])),
    "sagittal": (np.array([0, 1.0, 0]), np.array([0, 0, -1.0]), np.array([1.0, 0, 0])),
    "coronal": (np.array([1.0, 0, 0]), np.array([0, 0, -1.0]), np.array([0, 1.0, 0])),
}

VERTEBRA_HALF_MM = 55.0
"""Half edge of the region around a vertebra: a lumbar vertebra with its processes is under 100 mm wide."""
_MOST_PIXELS = 560
_FINEST_MM = 0.25
_CACHE_BYTES = 900 << 20
_OUTLINE = (255, 176, 32)


@dataclass(frozen=True)
class Area:
    """What of the scan is shown: the LPS box centre ± half_mm clipped to the scan, or all of it (None)."""

    centre: tuple[float, float, float] | None = None
    half_mm: float = VERTEBRA_HALF_MM


WHOLE = Area()


@dataclass(frozen=True)
class Grid:
    """The pixels of one plane: `origin` is the LPS point of pixel (0, 0) at position 0 along the normal."""

    columns: int
    rows: int
    mm_per_pixel: float
    origin: tuple[float, float, float]
    low_mm: float
    high_mm: float
    step_mm: float


@dataclass(frozen=True, eq=False)
class View:
    """What the pictures of one case are cut from. `centre` is where to look first (LPS mm)."""

    key: str
    ct: Volume
    mask: Volume | None
    centre: tuple[float, float, float]

    @property
    def size_bytes(self) -> int:
        return int(self.ct.values.nbytes + (self.mask.values.nbytes if self.mask else 0))


class ViewCache:
    """Views by key, the least recently used forgotten beyond `limit_bytes`. The newest one is always kept."""

    def __init__(self, limit_bytes: int = _CACHE_BYTES) -> None:
        self._limit = limit_bytes
        self._views: OrderedDict[str, View] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, app: App, case_id: str) -> View:
        """The view of a case, read from disk when it is new or its images or mask changed.

        Raises NotFoundError (no such case, no usable images yet), ImagingError (images cannot be read).
        """
        source = _source(app, case_id)
        # One reader at a time: two people opening the same case must not read the CT twice.
        with self._lock:
            known = self._views.get(source.key)
            if known is not None:
                self._views.move_to_end(source.key)
                return known
            view = _load(source, self._same_ct(source))
            self._views[source.key] = view
            while len(self._views) > 1 and self.held_bytes > self._limit:
                self._views.popitem(last=False)
            return view

    def _same_ct(self, source: _Source) -> Volume | None:
        """After a new model only the mask differs; the CT in memory is taken over and the old view dropped."""
        for key in list(self._views):
            if key.startswith(source.ct_key):
                return self._views.pop(key).ct
        return None

    @property
    def held_bytes(self) -> int:
        return sum(v.size_bytes for v in self._views.values())


@dataclass(frozen=True)
class _Source:
    ct_key: str
    key: str
    files: tuple[Path, ...]
    series_uid: str
    mask: Path | None
    plan: Path | None


def _source(app: App, case_id: str) -> _Source:
    with reading(app.engine) as connection:
        case = cases.get(connection, case_id)
        stored = studies.used_in(connection, case.study_uid, case.study_revision)
        current = blobs.current(connection, case_id)
    files = tuple(Path(i.path) for i in stored if i.series_uid == case.series_uid)
    if not case.series_uid or not files:
        raise NotFoundError(
            "The CT of this case is not complete yet.",
            next_step="Wait until the images have been received and inspected.",
            code="slices.not_ready",
        )
    ct_key = f"{case_id}/{case.study_revision}/{case.series_uid}/"
    mask, plan = current.get("mask"), current.get("plan")
    key = ct_key + (mask.sha256[:16] if mask else "-") + (plan.sha256[:16] if plan else "-")
    return _Source(
        ct_key, key, files, case.series_uid, mask.path if mask else None, plan.path if plan else None
    )


def _load(source: _Source, ct: Volume | None) -> View:
    volume = ct or load_series(source.files, source.series_uid).volume
    if source.plan is not None:
        plan = plan_from_document(json.loads(source.plan.read_text("utf-8")))
        centre = plan.body_centre
    else:
        middle = volume.to_lps((np.array(volume.values.shape[::-1])[None] - 1) / 2.0)[0]
        centre = (float(middle[0]), float(middle[1]), float(middle[2]))
    mask = read_nifti(source.mask) if source.mask else None
    return View(source.key, volume, mask, centre)


def grid(view: View, plane: PlaneName, area: Area) -> Grid:
    """The pixel grid of a plane over the area. Raises InputRefusedError when the area misses the scan."""
    shape = np.array(view.ct.values.shape[::-1])
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (shape - 1)
    lps = view.ct.to_lps(corners)
    low, high = lps.min(axis=0), lps.max(axis=0)
    if area.centre is not None:
        centre = np.array(area.centre)
        low, high = np.maximum(low, centre - area.half_mm), np.minimum(high, centre + area.half_mm)
        if np.any(high <= low):
            raise InputRefusedError(
                "The area asked for lies outside the scan.",
                next_step="Give a centre in LPS mm inside the scan.",
                code="slices.outside",
            )
    right, down, normal = PLANES[plane]
    width, height = float((high - low) @ np.abs(right)), float((high - low) @ np.abs(down))
    mm = max(_FINEST_MM, max(width, height) / _MOST_PIXELS)
    corner = np.where(right + down < 0, high, low) * (1 - np.abs(normal))
    along = float(low @ np.abs(normal)), float(high @ np.abs(normal))
    return Grid(
        int(width / mm) + 1,
        int(height / mm) + 1,
        round(mm, 5),
        (float(corner[0]), float(corner[1]), float(corner[2])),
        *along,
        step_mm=round(min(view.ct.spacing_mm), 3),
    )


def document(view: View, area: Area = WHOLE) -> dict[str, object]:
    """What a page needs to show slices and to turn a click into an LPS point."""
    planes = {}
    for name, (right, down, normal) in PLANES.items():
        g = grid(view, name, area)
        planes[name] = {
            "columns": g.columns, "rows": g.rows, "mm_per_pixel": g.mm_per_pixel, "origin": g.origin,
            "right": right.tolist(), "down": down.tolist(), "normal": normal.tolist(),
            "low_mm": g.low_mm, "high_mm": g.high_mm, "step_mm": g.step_mm,
        }  # fmt: skip
    return {
        "revision": view.key.rsplit("/", 1)[1],
        "frame": "LPS mm of the planning CT",
        "centre": view.centre,
        "outline": view.mask is not None,
        "planes": planes,
    }


def picture(
    view: View,
    plane: PlaneName,
    at_mm: float,
    *,
    area: Area = WHOLE,
    window: tuple[float, float] = (300.0, 1500.0),
    outline: bool = True,
) -> bytes:
    """One plane as PNG.

    Parameters
    ----------
    at_mm : position along the plane's normal, LPS mm; clipped to the scan.
    window : (level, width) in HU.
    outline : draw the border of the mask where there is one.
    """
    g = grid(view, plane, area)
    right, down, normal = PLANES[plane]
    origin = np.array(g.origin) + normal * float(np.clip(at_mm, g.low_mm, g.high_mm))
    steps = np.stack([right, down, normal], axis=1) * g.mm_per_pixel
    cut = view.ct.resampled(origin, steps, (1, g.rows, g.columns)).values[0]
    level, width = window
    grey = np.clip((cut - level) / max(width, 1.0) + 0.5, 0.0, 1.0) * 255.0
    image = Image.fromarray(np.rint(grey).astype(np.uint8), "L")
    if outline and view.mask is not None:
        # Nearest voxel: the outline shows the mask as it is, not a smoothed one.
        inside = view.mask.resampled(origin, steps, (1, g.rows, g.columns), order=0, outside=0.0).values[0]
        image = _outlined(image, inside > 0.5)
    target = io.BytesIO()
    image.save(target, "PNG", compress_level=1)
    return target.getvalue()


def _outlined(image: Image.Image, inside: NDArray[np.bool_]) -> Image.Image:
    coloured = image.convert("RGB")
    draw = ImageDraw.Draw(coloured)
    for line in measure.find_contours(inside.astype(np.float32), 0.5):
        draw.line([(float(c), float(r)) for r, c in line], fill=_OUTLINE, width=1)
    return coloured
