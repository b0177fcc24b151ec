"""Corrections of an isolated vertebra as data: the same edits on the same isolation give the same bone again.

Each acts within a ball: `erase` takes away what is in it, `paint` adds it, `cut` takes away the part of it that lies
beyond a plane through its centre (a rib that sticks to the vertebra, a neighbour's facet). Frame: LPS mm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from service.domain.plan import Vec3
from service.errors import InputRefusedError

EditKind = Literal["cut", "erase", "paint"]
MOST_EDITS = 200
LEAST_RADIUS_MM, MOST_RADIUS_MM = 0.5, 40.0
_KEYS = {"kind", "centre", "radius_mm", "normal"}


@dataclass(frozen=True)
class Edit:
    """`normal` (unit length, only for a cut) points to the side that goes."""

    kind: EditKind
    centre: Vec3
    radius_mm: float
    normal: Vec3 | None = None

    def to_document(self) -> dict[str, object]:
        document: dict[str, object] = {
            "kind": self.kind, "centre": list(self.centre), "radius_mm": self.radius_mm,
        }  # fmt: skip
        return document | ({"normal": list(self.normal)} if self.normal else {})


def edits_from_document(document: object) -> tuple[Edit, ...]:
    """A list of `{"kind", "centre", "radius_mm"}`, for a cut also `"normal"`; nothing for None.

    Raises
    ------
    InputRefusedError
        With code `edits.invalid` and which edit is at fault.
    """
    if document is None:
        return ()
    if not isinstance(document, Sequence) or isinstance(document, str) or len(document) > MOST_EDITS:
        raise _invalid(f"expected a list of at most {MOST_EDITS} edits")
    return tuple(_edit(item, number) for number, item in enumerate(document, 1))


def _edit(item: object, number: int) -> Edit:
    if not isinstance(item, Mapping) or not set(item) <= _KEYS:
        raise _invalid(
            f"edit {number} needs the keys kind, centre, radius_mm and, for a cut, normal, no others"
        )
    kind: EditKind | None = next((k for k in get_args(EditKind) if k == item.get("kind")), None)
    if kind is None:
        raise _invalid(f"edit {number}: kind is one of {', '.join(get_args(EditKind))}")
    centre, normal = _vector(item.get("centre")), _vector(item.get("normal"))
    radius = item.get("radius_mm")
    if centre is None:
        raise _invalid(f"edit {number}: centre is three numbers, LPS mm")
    if (
        not isinstance(radius, int | float)
        or isinstance(radius, bool)
        or not LEAST_RADIUS_MM <= radius <= MOST_RADIUS_MM
    ):
        raise _invalid(f"edit {number}: radius_mm is a number from {LEAST_RADIUS_MM:g} to {MOST_RADIUS_MM:g}")
    length = math.hypot(*normal) if normal else 0.0
    if (kind == "cut") != (item.get("normal") is not None) or (kind == "cut" and not length > 1e-6):
        raise _invalid(
            f"edit {number}: a cut has a normal (three numbers, not all zero), and nothing else has one"
        )
    unit = (normal[0] / length, normal[1] / length, normal[2] / length) if normal else None
    return Edit(kind, centre, float(radius), unit)


def _vector(value: object) -> Vec3 | None:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        return None
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value):
        return None
    return (float(value[0]), float(value[1]), float(value[2]))


def _invalid(what: str) -> InputRefusedError:
    return InputRefusedError(
        f"The edits cannot be read: {what}.",
        next_step='Write them as [{"kind": "erase", "centre": [X, Y, Z], "radius_mm": 3}]; see the operator guide.',
        code="edits.invalid",
    )
