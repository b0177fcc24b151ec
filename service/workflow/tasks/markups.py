"""Needle paths drawn in 3D Slicer (`.mrk.json`): lines, or fiducials in pairs. Out of it: patient LPS in mm.

Format: markups-schema-v1.0.0.json of 3D Slicer. A file says neither level nor CT, so both stay with the person.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from service.domain.plan import Vec3, VertebraFrame
from service.errors import InputRefusedError

ENDING = ".mrk.json"
UNKNOWN_CT = "The lines of 3D Slicer do not say on which CT they were drawn: compare them with the slices."
_LPS_FROM = {"LPS": (1.0, 1.0, 1.0), "RAS": (-1.0, -1.0, 1.0)}
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class DrawnLine:
    """Two ends, LPS mm, in the order drawn; the side that a name gives, if one does."""

    ends: tuple[Vec3, Vec3]
    named: Literal["left", "right"] | None


@dataclass(frozen=True)
class GivenPath:
    pedicle: Literal["left", "right"]
    entry: Vec3
    target: Vec3


def is_markups(path: Path) -> bool:
    return path.name.lower().endswith(ENDING)


def read_markups(path: Path) -> tuple[DrawnLine, ...]:
    """One or two lines. Raises InputRefusedError (`plan.markups`)."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise _refused("it is no JSON file that can be read") from error
    items = document.get("markups") if isinstance(document, Mapping) else None
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise _refused("it holds no list of markups")
    lines = tuple(line for item in items for line in _lines(item))
    if not 1 <= len(lines) <= 2:
        raise _refused(f"it holds {len(lines)} lines, and one or two are wanted")
    return lines


def paths_of(lines: Sequence[DrawnLine], frame: VertebraFrame) -> tuple[GivenPath, ...]:
    """Which end is the entry, and which pedicle each line is for: the end nearer to the back, and the side it is on.

    A name decides the side where there is one; whether it is right is for the check of the path to say.
    Raises InputRefusedError (`plan.markups`) when both lines are for one pedicle.
    """
    anterior, left, origin = (
        np.array(a, dtype=np.float64) for a in (frame.anterior, frame.left, frame.origin)
    )
    found = []
    for line in lines:
        entry, target = sorted(line.ends, key=lambda p: float(np.array(p) @ anterior))
        lies_left = float((np.array(entry) - origin) @ left) > 0
        found.append(GivenPath(line.named or ("left" if lies_left else "right"), entry, target))
    if len({path.pedicle for path in found}) < len(found):
        raise _refused(f"both lines are for the {found[0].pedicle} pedicle")
    return tuple(found)


def _lines(item: Mapping[str, Any]) -> list[DrawnLine]:
    kind = item.get("type")
    if kind not in ("Line", "Fiducial"):
        raise _refused(f"it holds a markup of type {str(kind)[:40]!r}, and only lines and fiducials are read")
    signs = _LPS_FROM.get(str(item.get("coordinateSystem")))
    if signs is None:
        raise _refused(
            f"its coordinate system is {str(item.get('coordinateSystem'))[:40]!r}, and only LPS and RAS are known"
        )
    units = item.get("coordinateUnits", "mm")
    if any(unit != "mm" for unit in (units if isinstance(units, list) else [units])):
        raise _refused("its coordinates are not in mm")
    points = item.get("controlPoints")
    if not isinstance(points, list) or not all(isinstance(p, Mapping) for p in points):
        raise _refused("a markup has no control points")
    if len(points) not in ((2,) if kind == "Line" else (2, 4)):
        raise _refused(f"a markup has {len(points)} points, and a path has two")
    return [
        DrawnLine((_place(one, signs), _place(other, signs)), _named(item, one, other))
        for one, other in zip(points[::2], points[1::2], strict=True)
    ]


def _place(point: Mapping[str, Any], signs: Sequence[float]) -> Vec3:
    position = point.get("position")
    numbers = [v for v in position if isinstance(v, int | float)] if isinstance(position, list) else []
    if (
        len(numbers) != 3
        or not np.all(np.isfinite(numbers))
        or point.get("positionStatus", "defined") != "defined"
    ):
        raise _refused("a control point has no position")
    x, y, z = (float(v) * sign for v, sign in zip(numbers, signs, strict=True))
    return (x, y, z)


def _named(*items: Mapping[str, Any]) -> Literal["left", "right"] | None:
    words = " ".join(str(item.get(key) or "") for item in items for key in ("name", "label")).replace(
        "_", " "
    )
    sides = {found.lower() for found in _SIDE.findall(words)}
    if len(sides) > 1:
        raise _refused("a line is named left and right")
    return None if not sides else "left" if "left" in sides else "right"


def _refused(what: str) -> InputRefusedError:
    return InputRefusedError(
        f"The markups file of 3D Slicer cannot be taken as a plan: {what}.",
        next_step="Save one or two lines from skin to target, named left and right, as .mrk.json.",
        code="plan.markups",
    )
