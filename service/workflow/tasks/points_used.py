"""Which of the points given took part in the model: with a mask, none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.geometry.anatomy import Isolation

SEEDS = ("target", "above", "below", "endplates")
_OUTSIDE_MM = 2.0


def points_used(argument: Mapping[str, Any]) -> dict[str, Any]:
    """The points that the isolation started from, for the report."""
    return {} if argument.get("mask") else {k: argument[k] for k in SEEDS if argument.get(k)}


def points_unused(argument: Mapping[str, Any], isolation: Isolation) -> list[str]:
    """Sentences about points that were given beside a mask: it decides, they do not."""
    given = [k for k in SEEDS if argument.get(k)]
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
