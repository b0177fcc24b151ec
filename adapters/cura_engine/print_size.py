"""Bounds of what a G-code body prints, from its bytes: numpy over all lines at once, a third of a second for 25 MB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LONGEST_NUMBER = 12
_PADDING = 16


def printed_bounds(body: bytes) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Lowest and highest X, Y, Z (mm) of the nozzle while it extrudes; None when it never does.

    Absolute coordinates only. A line is printed from the position before it to its own end: both count.
    """
    data = np.frombuffer(body + bytes(_PADDING), np.uint8)
    breaks = np.flatnonzero(data == ord("\n"))
    starts, ends = np.append(0, breaks + 1), np.append(breaks, len(body))
    command = data[starts + 1]
    is_move = (data[starts] == ord("G")) & (data[starts + 2] == ord(" ")) & np.isin(command, (48, 49))
    starts, ends, is_line = starts[is_move], ends[is_move], command[is_move] == ord("1")
    columns = {letter: _words(data, starts, ends, letter) for letter in "XYZE"}
    given = {letter: ~np.isnan(values) for letter, values in columns.items()}
    extrudes = is_line & given["E"] & (given["X"] | given["Y"])
    if not extrudes.any():
        return None
    involved = extrudes | np.append(extrudes[1:], False)
    positions = [_held(columns[letter])[involved] for letter in "XYZ"]
    return (
        tuple(round(float(np.nanmin(p)), 3) for p in positions),
        tuple(round(float(np.nanmax(p)), 3) for p in positions),
    )


def _words(
    data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64], letter: str
) -> NDArray[np.float64]:
    """The number behind `letter` of each move; NaN where it is absent. For E only whether it is there matters."""
    values = np.full(starts.size, np.nan)
    if not starts.size:
        return values
    at = np.flatnonzero(data == ord(letter))
    at = at[(at > starts[0]) & (data[at - 1] == ord(" "))]
    row = np.searchsorted(starts, at, side="right") - 1
    inside = at < ends[row]  # a letter in a line that is no move (M205 X20) lies beyond the move before it
    at, row = at[inside] + 1, row[inside]
    values[row] = 0.0 if letter == "E" else _decimals(data, at)
    return values


def _decimals(data: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.float64]:
    """Plain decimal numbers that begin at `at`."""
    negative = data[at] == ord("-")
    at = at + negative
    whole = np.zeros(at.size, np.int64)
    decimals = np.zeros(at.size, np.int64)
    going, behind_point = np.ones(at.size, np.bool_), np.zeros(at.size, np.bool_)
    for _ in range(_LONGEST_NUMBER):
        character = data[at]
        digit = character - np.uint8(ord("0"))  # wraps for what is below '0'
        is_digit = going & (digit < 10)
        going &= is_digit | (character == ord("."))
        if not going.any():
            break
        whole = np.where(is_digit, whole * 10 + digit, whole)
        decimals += is_digit & behind_point
        behind_point |= character == ord(".")
        at = np.minimum(at + 1, data.size - 1)
    value = whole / np.power(10.0, decimals)
    return np.where(negative, -value, value)


def _held(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """A coordinate per move, held from the last move that gave it."""
    last = np.maximum.accumulate(np.where(np.isnan(column), -1, np.arange(column.size)))
    return np.where(last >= 0, column[np.maximum(last, 0)], np.nan)
