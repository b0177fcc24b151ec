"""What is known about the phantom: frames, endplates, pedicles, heights, volumes (LPS mm)."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from simulators.phantom.anatomy import Array, PhantomParameters, VertebraPose
from simulators.phantom.render import LABELS, RIB_LABEL, Grid
from simulators.phantom.shape import canal_centre_y, pedicle_limb

SCHEMA = "spineprint.phantom/1"


def _list(values: Array) -> list[float]:
    return [round(float(v), 6) for v in values]


def endplates(pose: VertebraPose) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """(centre, unit normal to the head) of the upper and the lower rim plane, LPS mm."""
    half, drop, depth = pose.half_height_mm, pose.wedge_drop_mm, pose.size.depth_mm
    up = np.array([0.0, -drop / depth, 1.0])
    upper = pose.to_lps(np.array([0.0, 0.0, half - 0.5 * drop])), pose.axes @ (up / np.linalg.norm(up))
    lower = pose.to_lps(np.array([0.0, 0.0, -half])), pose.axes[:, 2]
    return upper, lower


def body_centre(pose: VertebraPose) -> Array:
    """Half way between the centres of the two endplates, LPS mm."""
    (upper, _), (lower, _) = endplates(pose)
    return 0.5 * (upper + lower)


def anatomical_frame(pose: VertebraPose) -> dict[str, Array]:
    """Frame of the clinical definition: superior from both endplate normals, left from the pedicles.

    superior = unit(n_upper + n_lower); left = unit(w - (w·superior) superior) with w from the right to the left
    pedicle; anterior = left x superior; the origin is the body centre.
    """
    (_, up), (_, low) = endplates(pose)
    superior = (up + low) / np.linalg.norm(up + low)
    left_at, right_at = (pose.to_lps(_isthmus(pose, side)[0]) for side in (1, -1))
    across = left_at - right_at
    left = across - float(across @ superior) * superior
    left /= np.linalg.norm(left)
    return {
        "origin": body_centre(pose),
        "left": left,
        "anterior": np.cross(left, superior),
        "superior": superior,
    }


def _isthmus(pose: VertebraPose, side: int) -> tuple[Array, Array]:
    """Centre and forward unit axis of a pedicle in the model frame."""
    limb = pedicle_limb(pose, side)
    start, end = np.asarray(limb.start), np.asarray(limb.end)
    return 0.5 * (start + end), (start - end) / np.linalg.norm(start - end)


def _pedicles(pose: VertebraPose) -> list[dict[str, Any]]:
    size = pose.size
    rows = []
    for name, side in (("left", 1), ("right", -1)):
        centre, axis = _isthmus(pose, side)
        limb = pedicle_limb(pose, side)
        rows.append(
            {
                "side": name,
                "centre": _list(pose.to_lps(centre)),
                "axis": _list(pose.axes @ axis),
                "width_mm": size.pedicle_width_mm,
                "height_mm": round(2.0 * limb.tall_mm[0], 4),
                "radius_mm": 0.5 * size.pedicle_width_mm,
            }
        )
    return rows


def _heights(pose: VertebraPose) -> dict[str, float]:
    """Rim plane to rim plane along the model's superior axis at the front, middle and back of the body."""
    full, drop = 2.0 * pose.half_height_mm, pose.wedge_drop_mm
    return {"anterior": full - drop, "middle": full - 0.5 * drop, "posterior": full}


def vertebra_truth(pose: VertebraPose, complete: bool, volume_mm3: float | None) -> dict[str, Any]:
    """One vertebra as a JSON-ready mapping."""
    upper, lower = endplates(pose)
    axes = dict(zip(("left", "posterior", "superior"), pose.axes.T, strict=True))
    return {
        "level": pose.level,
        "label": LABELS[pose.level],
        "complete": complete,
        "body_centre": _list(body_centre(pose)),
        "frame": {key: _list(value) for key, value in anatomical_frame(pose).items()},
        "model_origin": _list(pose.origin),
        "model_axes": {key: _list(value) for key, value in axes.items()},
        "upper_endplate": {"centre": _list(upper[0]), "normal": _list(upper[1])},
        "lower_endplate": {"centre": _list(lower[0]), "normal": _list(lower[1])},
        "pedicles": _pedicles(pose),
        "canal_centre": _list(
            pose.to_lps(np.array([0.0, canal_centre_y(pose), 0.21 * pose.size.height_mm * pose.scale]))
        ),
        "height_mm": {key: round(value, 4) for key, value in _heights(pose).items()},
        "undamaged_height_mm": round(2.0 * pose.half_height_mm, 4),
        "body_width_mm": pose.size.width_mm,
        "body_depth_mm": pose.size.depth_mm,
        "wedge": pose.wedge,
        "volume_mm3": None if volume_mm3 is None else round(volume_mm3, 2),
    }


def phantom_truth(
    parameters: PhantomParameters,
    poses: dict[str, VertebraPose],
    grid: Grid,
    volumes: dict[int, float],
) -> dict[str, Any]:
    """The whole truth.json but for the identifiers of the DICOM study."""
    levels = parameters.levels
    above, target, below = levels[1:4]
    return {
        "schema": SCHEMA,
        "coordinates": "LPS mm",
        "target": target,
        "parameters": asdict(parameters),
        "labels": {**{level: LABELS[level] for level in levels}, "ribs": RIB_LABEL},
        "lps_from_ijk": [_list(row) for row in grid.lps_from_ijk],
        "shape_kji": list(grid.shape),
        "seeds": {
            "target": _list(body_centre(poses[target])),
            "above": _list(body_centre(poses[above])),
            "below": _list(body_centre(poses[below])),
        },
        "fracture": {
            "level": target,
            "kind": "anterior wedge" if parameters.wedge > 0 else "none",
            "anterior_height_lost": parameters.wedge,
        },
        "vertebrae": [
            vertebra_truth(
                poses[level],
                level in levels[1:4],
                volumes.get(LABELS[level]) if level in levels[1:4] else None,
            )
            for level in levels
        ],
    }
