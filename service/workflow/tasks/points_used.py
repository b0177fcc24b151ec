"""Which of the points given took part in the model: with a mask none, with a segmentation model only the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.geometry.anatomy import Isolation
from service.geometry.surface_aid import surface_off_mm

SEEDS = ("target", "above", "below", "endplates", "surface_points")
_OUTSIDE_MM = 2.0


def points_used(argument: Mapping[str, Any], isolation: Isolation) -> dict[str, Any]:
    """The points that the isolation started from, for the report."""
    if argument.get("mask"):
        return {}
    asked = SEEDS[:1] if isolation.source == "segmented" else SEEDS
    return {k: argument[k] for k in asked if argument.get(k)}


def surface_points_met(argument: Mapping[str, Any], isolation: Isolation) -> dict[str, Any]:
    """For the report: each surface point and how far the final surface, after all edits, lies from it.

    `off_mm` is positive where the point lies outside the bone. Nothing when no such points took part.
    """
    points = points_used(argument, isolation).get("surface_points")
    if not points:
        return {}
    off = surface_off_mm(isolation.outer, np.asarray(points, dtype=np.float64))
    return {
        "surface_points": [
            {"point": [float(v) for v in point], "off_mm": round(float(mm), 2)}
            for point, mm in zip(points, off, strict=True)
        ]
    }


def points_unused(argument: Mapping[str, Any], isolation: Isolation) -> list[str]:
    """Sentences about points that were given beside a mask or a model's answer: these decide, points do not."""
    given = [k.replace("_", " ") for k in SEEDS if argument.get(k)]
    if isolation.source == "segmented" and given[1:]:
        return [f"The segmentation model needs the target point only; not used: {', '.join(given[1:])}."]
    if not argument.get("mask") or not given:
        return []
    found = [f"The mask alone says which bone it is; the points given were not used: {', '.join(given)}."]
    target = argument.get("target")
    if target:
        off = float(isolation.outer.sample(np.asarray([target], dtype=np.float64), outside=8.0)[0])
        if off > _OUTSIDE_MM:
            found.append(
                "The target point lies outside the bone of the mask: one of the two may be of another level."
            )
    return found
