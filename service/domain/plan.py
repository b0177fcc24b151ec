"""The plan: which vertebra, which needle paths, which model. The content of `plan.json`.

All coordinates are patient LPS in mm of the planning CT (x to the left, y to the back, z to the head).
Angles follow the definitions of the clinical facts sheet, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from service.errors import InputRefusedError

SCHEMA = "spineprint.plan/1"

Vec3 = tuple[float, float, float]
Pedicle = Literal["left", "right"]

#: Levels the product supports (paper: thoracolumbar and lumbar vertebroplasty); T8-T10 for review only.
LEVELS = ("T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")
#: Surface points a person may give with a case: who needs more corrects the mask.
MOST_SURFACE_POINTS = 30


@dataclass(frozen=True)
class VertebraFrame:
    """Right-handed anatomical frame of one vertebra; unit axes in LPS.

    `anterior = cross(left, superior)` (facts sheet, section 3).
    """

    origin: Vec3
    left: Vec3
    anterior: Vec3
    superior: Vec3


@dataclass(frozen=True)
class Trajectory:
    """One planned needle path, straight from `entry` (outer bone surface) to `target` (tip)."""

    pedicle: Pedicle
    entry: Vec3
    target: Vec3
    sagittal_deg: float
    transverse_deg: float
    clearance_mm: float


@dataclass(frozen=True)
class Vent:
    """An opening for gas and drainage; `direction` is a unit vector pointing out of the model."""

    position: Vec3
    direction: Vec3
    diameter_mm: float


@dataclass(frozen=True)
class ModelSettings:
    """What the solid is to be. Defaults: paper (2.0 mm shell), 13 G needle of 2.41 mm plus clearance."""

    shell_mm: float = 2.0
    channel_diameter_mm: float = 2.8
    sleeve_wall_mm: float = 2.0
    vents: tuple[Vent, ...] = ()


@dataclass(frozen=True)
class Plan:
    level: str
    frame_of_reference_uid: str
    vertebra_frame: VertebraFrame
    body_centre: Vec3
    trajectories: tuple[Trajectory, ...]
    model: ModelSettings = field(default_factory=ModelSettings)

    def trajectory(self, pedicle: Pedicle) -> Trajectory | None:
        return next((t for t in self.trajectories if t.pedicle == pedicle), None)


def plan_to_document(plan: Plan) -> dict[str, object]:
    """The `spineprint.plan/1` document; floats are rounded to 1e-4 so that equal plans have equal bytes."""
    frame = plan.vertebra_frame
    return {
        "schema": SCHEMA,
        "level": plan.level,
        "frame_of_reference_uid": plan.frame_of_reference_uid,
        "vertebra_frame": {
            "origin": _rounded(frame.origin),
            "left": _rounded(frame.left, 8),
            "anterior": _rounded(frame.anterior, 8),
            "superior": _rounded(frame.superior, 8),
        },
        "body_centre": _rounded(plan.body_centre),
        "trajectories": [
            {
                "pedicle": t.pedicle,
                "entry": _rounded(t.entry),
                "target": _rounded(t.target),
                "sagittal_deg": _round(t.sagittal_deg),
                "transverse_deg": _round(t.transverse_deg),
                "clearance_mm": _round(t.clearance_mm),
            }
            for t in plan.trajectories
        ],
        "model": {
            "shell_mm": _round(plan.model.shell_mm),
            "channel_diameter_mm": _round(plan.model.channel_diameter_mm),
            "sleeve_wall_mm": _round(plan.model.sleeve_wall_mm),
            "vents": [
                {
                    "position": _rounded(v.position),
                    "direction": _rounded(v.direction, 8),
                    "diameter_mm": _round(v.diameter_mm),
                }
                for v in plan.model.vents
            ],
        },
    }


def plan_from_document(document: Mapping[str, object]) -> Plan:
    """Read a `spineprint.plan/1` document.

    Raises
    ------
    InputRefusedError
        With code `plan.invalid` and the place of the first fault.
    """
    if not isinstance(document, Mapping):
        raise _fault("document", "expected an object")
    if document.get("schema") != SCHEMA:
        raise _fault("schema", f"expected {SCHEMA!r}, found {document.get('schema')!r}")
    level = document.get("level")
    if level not in LEVELS:
        raise _fault("level", f"expected one of {', '.join(LEVELS)}, found {level!r}")
    frame = _mapping(document, "vertebra_frame")
    model = _mapping(document, "model")
    frame_of_reference = document.get("frame_of_reference_uid")
    if not isinstance(frame_of_reference, str):
        raise _fault("frame_of_reference_uid", f"expected a UID, found {frame_of_reference!r}")
    trajectories = tuple(_trajectory(t) for t in _items(document, "trajectories"))
    if len({t.pedicle for t in trajectories}) != len(trajectories):
        raise _fault("trajectories", "a pedicle is used twice")
    return Plan(
        level=str(level),
        frame_of_reference_uid=frame_of_reference,
        vertebra_frame=VertebraFrame(
            origin=_vec(frame, "origin"),
            left=_vec(frame, "left"),
            anterior=_vec(frame, "anterior"),
            superior=_vec(frame, "superior"),
        ),
        body_centre=_vec(document, "body_centre"),
        trajectories=trajectories,
        model=ModelSettings(
            shell_mm=_size(model, "shell_mm"),
            channel_diameter_mm=_size(model, "channel_diameter_mm"),
            sleeve_wall_mm=_size(model, "sleeve_wall_mm"),
            vents=tuple(
                Vent(_vec(v, "position"), _unit(v, "direction"), _size(v, "diameter_mm"))
                for v in _items(model, "vents")
            ),
        ),
    )


def known_level(name: object) -> str:
    """The level as it is written everywhere ("l1" is "L1").

    Raises
    ------
    InputRefusedError
        `input.level`, with the levels that are possible.
    """
    level = str(name).strip().upper()
    if level not in LEVELS:
        raise InputRefusedError(
            f"The level {_shown(name)} is not one that can be made: the service knows {LEVELS[0]} to {LEVELS[-1]}.",
            next_step=f"Give one of {', '.join(LEVELS)}.",
            code="input.level",
        )
    return level


def _trajectory(item: Mapping[str, object]) -> Trajectory:
    pedicle = item.get("pedicle")
    if pedicle not in ("left", "right"):
        raise _fault("trajectories.pedicle", f"expected 'left' or 'right', found {pedicle!r}")
    return Trajectory(
        pedicle=pedicle,
        entry=_vec(item, "entry"),
        target=_vec(item, "target"),
        sagittal_deg=_number(item, "sagittal_deg"),
        transverse_deg=_number(item, "transverse_deg"),
        clearance_mm=_number(item, "clearance_mm"),
    )


def _rounded(values: Sequence[float], digits: int = 4) -> list[float]:
    return [_round(v, digits) for v in values]


def _round(value: float, digits: int = 4) -> float:
    # "+ 0.0" turns a negative zero into zero, so that the same plan never differs by a sign of nothing.
    return round(float(value), digits) + 0.0


def _mapping(document: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = document.get(key)
    if not isinstance(value, Mapping):
        raise _fault(key, "expected an object")
    return value


def _items(document: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    value = document.get(key)
    if not isinstance(value, list) or not all(isinstance(v, Mapping) for v in value):
        raise _fault(key, "expected a list of objects")
    return value


def _finite(value: object) -> float | None:
    """The number as a float; None for anything else (a truth value, text, infinity, more than a float holds)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _number(document: Mapping[str, object], key: str) -> float:
    number = _finite(document.get(key))
    if number is None:
        raise _fault(key, f"expected a finite number, found {_shown(document.get(key))}")
    return number


def _size(document: Mapping[str, object], key: str) -> float:
    """A length above zero, in mm."""
    number = _number(document, key)
    if number <= 0:
        raise _fault(key, f"expected a length above 0 mm, found {number:g}")
    return number


def _vec(document: Mapping[str, object], key: str) -> Vec3:
    value = document.get(key)
    numbers = [_finite(v) for v in value] if isinstance(value, list) and len(value) == 3 else [None]
    x, y, z = numbers if len(numbers) == 3 else (None, None, None)
    if x is None or y is None or z is None:
        raise _fault(key, f"expected three finite numbers (LPS mm), found {_shown(value)}")
    return (x, y, z)


def _unit(document: Mapping[str, object], key: str) -> Vec3:
    """A direction of length 1."""
    vector = _vec(document, key)
    length = math.hypot(*vector)
    if not 1e-6 < length < math.inf:
        raise _fault(key, f"expected a direction, found the length {length:g}")
    # Left as it is where only the rounding of a written plan is off, so that a plan read back is the very same.
    if abs(length - 1.0) < 1e-6:
        return vector
    x, y, z = (_round(v / length, 8) for v in vector)
    return (x, y, z)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fault(where: str, what: str) -> InputRefusedError:
    return InputRefusedError(
        f"The plan is not usable: {where}: {what}.",
        next_step="Correct this field of plan.json, or plan again with `spineprint model`.",
        code="plan.invalid",
        details={"where": where},
    )
