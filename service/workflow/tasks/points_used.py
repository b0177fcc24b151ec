"""Which of the points given took part in the model: with a mask none, with a segmentation model only the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.geometry.anatomy import Isolation

SEEDS = ("target", "above", "below", "endplates")
_OUTSIDE_MM = 2.0


def points_used(argument: Mapping[str, Any], isolation: Isolation) -> dict[str, Any]:
    """The points that the isolation started from, for the report."""
    if argument.get("mask"):
        return {}
    asked = SEEDS[:1] if isolation.source == "segmented" else SEEDS
    return {k: argument[k] for k in asked if argument.get(k)}


def points_unused(argument: Mapping[str, Any], isolation: Isolation) -> list[str]:
    """Sentences about points that were given beside a mask or a model's answer: these decide, points do not."""
    given = [k for k in SEEDS if argument.get(k)]
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
