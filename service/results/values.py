"""Values of a report as it was stored: what is missing or no finite number is taken for not there."""

from __future__ import annotations

import math
from collections.abc import Mapping


def mapping(value: object) -> Mapping[str, object]:
    """`value` when it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def number(value: object) -> float | None:
    """`value` as a float when it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
