"""Mean vertebra surfaces that start the shape fit.

The file `data/vertebra_templates.npz` is computed by `bench/make_templates.py` from openly licensed labels;
`data/README.md` gives origin, licence and what follows for testing.

Template frame: right-handed, mm, x to the patient's left, y to the back, z to the head; origin at the centre
of the vertebral body (centroid of the part deeper than 0.6 of the greatest inside distance).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from service.errors import GeometryError

Array = NDArray[np.float64]

#: From the head down; the sacrum is reachable as the lower neighbour of L5 only.
SPINE = ("T6", "T7", "T8", "T9", "T10", "T11", "T12", "L1", "L2", "L3", "L4", "L5")


@dataclass(frozen=True, eq=False)
class Template:
    """Closed surface: `vertices` (N, 3) in the template frame, `faces` (M, 3) oriented outwards."""

    name: str
    level: str
    gap_mm: float
    """Mean distance of the body centre to those of the two neighbours."""
    vertices: Array
    faces: NDArray[np.int32]


@lru_cache(maxsize=1)
def shipped_templates() -> tuple[Template, ...]:
    """All templates in the package, from the head down."""
    with (
        resources.files("service.geometry").joinpath("data/vertebra_templates.npz").open("rb") as stream,
        np.load(stream) as data,
    ):
        return tuple(
            Template(
                name=str(name),
                level=str(level),
                gap_mm=float(gap),
                vertices=np.asarray(data[f"vertices_{name}"], dtype=np.float64) / 100.0,
                faces=np.asarray(data[f"faces_{name}"], dtype=np.int32),
            )
            for name, level, gap in zip(data["names"], data["levels"], data["gaps_mm"], strict=True)
        )


def templates_for(
    level: str, *, count: int, exclude: Iterable[str] = (), among: Sequence[Template] = ()
) -> tuple[Template, ...]:
    """The `count` templates nearest in level, nearest first (ties: the lower, larger one first).

    `among`: to choose from instead of those that ship.

    Raises
    ------
    GeometryError
        Unknown level, or nothing left after `exclude`.
    """
    if level not in SPINE:
        raise GeometryError(
            f"There is no vertebra shape for level {level}.",
            next_step=f"Name one of {', '.join(SPINE[2:])}.",
            code="geometry.level",
        )
    place = SPINE.index(level)
    banned = frozenset(exclude)
    usable = [t for t in among or shipped_templates() if t.name not in banned]
    if not usable:
        raise GeometryError("No vertebra shape is left to fit.", code="geometry.level")
    usable.sort(key=lambda t: (abs(SPINE.index(t.level) - place), -SPINE.index(t.level)))
    return tuple(usable[:count])


def neighbour_level(level: str, step: int) -> str:
    """Level `step` places further down, held at the ends of the known spine."""
    return SPINE[min(max(SPINE.index(level) + step, 0), len(SPINE) - 1)]
