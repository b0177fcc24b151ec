"""The vectorised bounds of what is printed against a plain line-by-line loop."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.cura_engine.print_size import printed_bounds


def plain_bounds(body: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The simplest possible reading."""
    at, involved = [math.nan] * 3, []
    for line in body.splitlines():
        word, *rest = line.split() or [""]
        if word not in {"G0", "G1"}:
            continue
        before = list(at)
        for item in rest:
            if item[0] in "XYZ":
                at["XYZ".index(item[0])] = float(item[1:])
        letters = {item[0] for item in rest}
        if word == "G1" and "E" in letters and letters & {"X", "Y"}:
            involved += [before, list(at)]
    if not involved:
        return None
    columns = [[v for v in axis if not math.isnan(v)] for axis in zip(*involved, strict=True)]
    return tuple(round(min(c), 3) for c in columns), tuple(round(max(c), 3) for c in columns)


number = st.integers(-400_000, 400_000).map(lambda n: f"{n / 1000:g}")


@st.composite
def line(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["G0", "G1", "G1", "M205", ";TYPE:WALL-OUTER", "G92"]))
    if kind == "M205":
        return "M205 X20 Y20"
    if not kind.startswith("G"):
        return kind
    if kind == "G92":
        return "G92 E0"
    words = [f"{w}{draw(number)}" for w in "XYZE" if draw(st.booleans())]
    return " ".join([kind, *(["F1500"] if draw(st.booleans()) else []), *words])


@settings(max_examples=200, deadline=None)
@given(st.lists(line(), max_size=25), st.booleans())
def test_finds_what_a_plain_loop_finds(lines: list[str], ended: bool) -> None:
    body = "\n".join(["G0 X0.5 Y-3 Z0.2", *lines]) + ("\n" if ended else "")
    assert printed_bounds(body.encode()) == plain_bounds(body)


@pytest.mark.parametrize("body", ["", ";LAYER:0\n", "G0 X1 Y1\nG1 F300 E2\n", "G1"])
def test_nothing_printed_has_no_bounds(body: str) -> None:
    assert printed_bounds(body.encode()) is None
