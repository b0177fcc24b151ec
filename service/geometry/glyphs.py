"""Letters as strokes, drawn by ourselves for marks on a printed part: no font file, no thin serif, no closed dot.

A glyph is a set of polylines on a grid 4 wide and 6 high, y upwards; a nozzle draws it as lines of one width.
"""

from __future__ import annotations

from collections.abc import Mapping

Stroke = tuple[tuple[float, float], ...]

WIDTH, HEIGHT = 4.0, 6.0
ARROW = "^"
"""In a text: an arrow that points up."""

_RING = "10 01 05 16 36 45 41 30 10"
_BOWL = "00 06 36 45 44 33 03"
_DRAWN: Mapping[str, str] = {
    "A": "00 26 40/12 32",
    "B": "00 06 36 45 44 33 03/33 42 41 30 00",
    "C": "45 36 16 05 01 10 30 41",
    "D": "00 06 26 44 42 20 00",
    "E": "46 06 00 40/03 33",
    "F": "46 06 00/03 33",
    "G": "45 36 16 05 01 10 30 41 43 23",
    "H": "00 06/40 46/03 43",
    "I": "16 36/26 20/10 30",
    "J": "46 41 30 10 01",
    "K": "00 06/46 03 40",
    "L": "06 00 40",
    "M": "00 06 23 46 40",
    "N": "00 06 40 46",
    "O": _RING,
    "P": _BOWL,
    "Q": f"{_RING}/22 40",
    "R": f"{_BOWL}/23 40",
    "S": "45 36 16 05 04 13 33 42 41 30 10 01",
    "T": "06 46/26 20",
    "U": "06 01 10 30 41 46",
    "V": "06 20 46",
    "W": "06 10 23 30 46",
    "X": "00 46/06 40",
    "Y": "06 23 46/23 20",
    "Z": "06 46 00 40",
    # the stroke through it tells it from the letter
    "0": f"{_RING}/12 34",
    "1": "15 26 20/10 30",
    "2": "05 16 36 45 44 00 40",
    "3": "05 16 36 45 44 33 42 41 30 10 01/13 33",
    "4": "30 36 02 42",
    "5": "46 06 03 33 42 41 30 10 01",
    "6": "45 36 16 05 01 10 30 41 42 33 03",
    "7": "06 46 20",
    "8": "13 04 05 16 36 45 44 33 13 02 01 10 30 41 42 33",
    "9": "01 10 30 41 45 36 16 05 04 13 43",
    "-": "13 33",
    ARROW: "20 26/04 26 44",
}


def _strokes(drawn: str) -> tuple[Stroke, ...]:
    return tuple(
        tuple((float(point[0]), float(point[1])) for point in line.split()) for line in drawn.split("/")
    )


GLYPHS: Mapping[str, tuple[Stroke, ...]] = {letter: _strokes(drawn) for letter, drawn in _DRAWN.items()}
