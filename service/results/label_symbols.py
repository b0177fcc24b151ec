"""Symbols of medical labels (ISO 15223-1), drawn by ourselves as lines and letters in a unit square.

Only the meaning and the bare geometry of a symbol follow the standard. y grows upwards; a symbol wider than one unit
says so. Drawing is left to the PDF and the printer language (`labels`, `label_zpl`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Letters:
    """Text centred at `at`, `height` of capitals."""

    text: str
    at: Point
    height: float


@dataclass(frozen=True)
class Symbol:
    """Polylines and letters in a box of `width` by 1."""

    meaning: str
    lines: tuple[tuple[Point, ...], ...]
    letters: tuple[Letters, ...] = ()
    width: float = 1.0


def _box(x0: float, y0: float, x1: float, y1: float) -> tuple[Point, ...]:
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0))


def _arc(x: float, y: float, radius: float, start_deg: float, end_deg: float) -> tuple[Point, ...]:
    steps = 24
    angles = [math.radians(start_deg + (end_deg - start_deg) * i / steps) for i in range(steps + 1)]
    return tuple((x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles)


_RING = _arc(0.5, 0.5, 0.46, 0, 360)
_STROKE = ((0.5 - 0.46 * math.sqrt(0.5), 0.5 + 0.46 * math.sqrt(0.5)),
           (0.5 + 0.46 * math.sqrt(0.5), 0.5 - 0.46 * math.sqrt(0.5)))  # fmt: skip

SYMBOLS: Mapping[str, Symbol] = {
    "use_by": Symbol(
        "use-by date",
        (((0.2, 0.95), (0.8, 0.95), (0.2, 0.05), (0.8, 0.05), (0.2, 0.95)),),
    ),
    "single_use": Symbol("do not reuse", (_RING, _STROKE), (Letters("2", (0.5, 0.5), 0.5),)),
    "keep_dry": Symbol(
        "keep dry",
        (
            _arc(0.5, 0.35, 0.45, 0, 180),
            ((0.05, 0.35), (0.95, 0.35)),
            ((0.5, 0.35), (0.5, 0.12)),
            _arc(0.58, 0.12, 0.08, 180, 360),
            ((0.25, 0.98), (0.2, 0.86)),
            ((0.5, 1.0), (0.45, 0.88)),
            ((0.75, 0.98), (0.7, 0.86)),
        ),
    ),
    "damaged": Symbol(
        "do not use if the package is damaged",
        (
            _RING,
            _STROKE,
            (
                (0.3, 0.3),
                (0.7, 0.3),
                (0.7, 0.55),
                (0.58, 0.62),
                (0.52, 0.52),
                (0.42, 0.66),
                (0.3, 0.58),
                (0.3, 0.3),
            ),
        ),
    ),
    "sterile_eo": Symbol(
        "sterilised using ethylene oxide",
        (_box(0.03, 0.2, 2.97, 0.8), ((2.05, 0.2), (2.05, 0.8))),
        (Letters("STERILE", (1.04, 0.5), 0.28), Letters("EO", (2.51, 0.5), 0.28)),
        3.0,
    ),
    "no_resterilise": Symbol(
        "do not resterilise",
        (_RING, _STROKE),
        (Letters("2", (0.5, 0.7), 0.26), Letters("STERILE", (0.5, 0.4), 0.135)),
    ),
    "keep_cool": Symbol(
        "keep away from heat and sunlight",
        (
            _arc(0.5, 0.86, 0.13, 180, 360),
            ((0.5, 0.66), (0.5, 0.58)),
            ((0.36, 0.72), (0.28, 0.64)),
            ((0.64, 0.72), (0.72, 0.64)),
            ((0.3, 0.86), (0.2, 0.86)),
            ((0.7, 0.86), (0.8, 0.86)),
            # a roof between the sun and what it must not reach
            ((0.1, 0.34), (0.5, 0.52), (0.9, 0.34)),
            _box(0.3, 0.04, 0.7, 0.3),
        ),
    ),
    "lot": Symbol("batch code", (_box(0.05, 0.05, 1.75, 0.95),), (Letters("LOT", (0.9, 0.5), 0.5),), 1.8),
    "udi": Symbol(
        "unique device identifier", (_box(0.05, 0.05, 1.75, 0.95),), (Letters("UDI", (0.9, 0.5), 0.5),), 1.8
    ),
    # an oval: straight above and below, half circles at the ends
    "single_barrier": Symbol(
        "single sterile barrier system",
        (
            (
                *_arc(0.5, 0.5, 0.42, 90, 270),
                *_arc(0.8, 0.5, 0.42, -90, 90),
                (0.5, 0.92),
            ),
        ),
        width=1.3,
    ),
    # a thermometer, open below the mark of the upper limit; the number is printed by the label
    "upper_temperature": Symbol(
        "upper limit of temperature",
        (
            _arc(0.32, 0.17, 0.13, 125, 415),
            ((0.245, 0.27), (0.245, 0.9)),
            _arc(0.32, 0.9, 0.075, 180, 0),
            ((0.395, 0.9), (0.395, 0.27)),
            ((0.395, 0.58), (1.28, 0.58)),
        ),
        width=1.3,
    ),
    "non_sterile": Symbol(
        "non-sterile",
        (_box(0.03, 0.2, 2.97, 0.8), ((0.03, 0.2), (2.97, 0.8)), ((0.03, 0.8), (2.97, 0.2))),
        (Letters("STERILE", (1.5, 0.5), 0.34),),
        3.0,
    ),
}
