"""How far the finished model's outside lies from the bone as the CT shows it.

Asked of the CT's own HU along each normal, not of the field the model was made from, so that an error of the isolation
shows as well as one of the build. Where the surface was moved to the bone's edge on purpose, it lies inside 226 HU by
that much. Frame: patient LPS, mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Plan
from service.geometry.bone_edge import SurfaceSettings
from service.geometry.bone_outside import altered
from service.geometry.marking import Mark
from service.geometry.mesh import Mesh, SurfaceIndex
from service.geometry.volume import Array, Volume

#: How far from the model the CT is searched, and how finely; a crossing lies between two steps, linearly.
REACH_MM, STEP_MM = 2.0, 0.25
SAMPLES = 12000
#: A face nearer than this to the hollow's own surface looks into the hollow.
_INNER_MM = 0.1
_MARGIN_MM = 1.0


@dataclass(frozen=True, eq=False)
class CtDeviation:
    """Samples of the model's outside, evenly by area.

    `points` (N, 3) LPS mm; `offset_mm` (N,) of the model's surface from the CT's, positive where the model stands out,
    NaN where the CT does not cross the threshold within reach; `left_out` (N,) at channels, vents and marks.
    """

    points: Array
    offset_mm: Array
    left_out: NDArray[np.bool_]
    threshold_hu: float

    def to_document(self) -> dict[str, float | int | None]:
        """JSON form for `report.json`: magnitudes' percentiles and the mean with its sign, mm."""
        judged = self.offset_mm[~self.left_out]
        known = judged[np.isfinite(judged)]
        p50, p95 = np.percentile(np.abs(known), [50, 95]) if len(known) else (None, None)
        return {
            "threshold_hu": self.threshold_hu,
            "p50_mm": None if p50 is None else round(float(p50), 4),
            "p95_mm": None if p95 is None else round(float(p95), 4),
            "mean_mm": round(float(known.mean()), 4) if len(known) else None,
            "not_crossed_share": round(1.0 - len(known) / len(judged), 4) if len(judged) else None,
            "left_out_share": round(float(self.left_out.mean()), 4) if len(self.left_out) else None,
            "samples": len(judged),
        }


def deviation_from_ct(
    ct: Volume,
    mesh: Mesh,
    cavity: Mesh,
    plan: Plan,
    marks: Sequence[Mark],
    *,
    threshold_hu: float = SurfaceSettings.threshold_hu,
) -> CtDeviation:
    """Compare the outside of a finished model with the CT.

    Parameters
    ----------
    ct : HU.
    mesh, cavity : the model and the closed surface of its hollow (may be empty), LPS mm.
    plan, marks : where the model differs from the bone on purpose.
    """
    normals, areas = mesh.normals()
    total = np.cumsum(areas)
    drawn = np.searchsorted(total, (np.arange(SAMPLES) + 0.5) / SAMPLES * total[-1])
    points, outward = mesh.centroids[drawn], normals[drawn]
    if len(cavity.faces):
        outside = SurfaceIndex(cavity).distance(points) > _INNER_MM
        points, outward = points[outside], outward[outside]
    left_out = altered(points, plan, marks, _MARGIN_MM, sleeve=True)
    offset = np.full(len(points), np.nan)
    offset[~left_out] = _offsets(ct, points[~left_out], outward[~left_out], threshold_hu)
    return CtDeviation(points, offset, left_out, threshold_hu)


def _offsets(ct: Volume, points: Array, outward: Array, threshold_hu: float) -> Array:
    """(N,) mm from the nearest place on each normal where the CT falls below the threshold; NaN where none is."""
    steps = np.arange(-REACH_MM, REACH_MM + STEP_MM / 2.0, STEP_MM)
    along = points[:, None, :] + steps[:, None] * outward[:, None, :]
    values = ct.sample(along.reshape(-1, 3)).reshape(len(points), len(steps)) - threshold_hu
    before, after = values[:, :-1], values[:, 1:]
    falls = (before >= 0) & (after < 0)
    share = before / np.where(falls, before - after, 1.0)
    crossing = np.where(falls, steps[:-1] + share * STEP_MM, np.inf)
    nearest = np.argmin(np.abs(crossing), axis=1)
    found = crossing[np.arange(len(points)), nearest]
    return np.where(np.isfinite(found), -found, np.nan)
