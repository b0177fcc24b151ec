"""Needle paths drawn in 3D Slicer: the same places from LPS and RAS, or a refusal in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from service.domain.plan import VertebraFrame
from service.errors import InputRefusedError
from service.workflow.tasks.markups import GivenPath, is_markups, paths_of, read_markups

#: Anterior is -y in LPS.
FRAME = VertebraFrame((0.0, 0.0, 100.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
LEFT = GivenPath("left", (20.0, 40.0, 105.0), (3.0, -5.0, 100.0))
RIGHT = GivenPath("right", (-20.0, 40.0, 105.0), (-3.0, -5.0, 100.0))


def markup(path: GivenPath, system: str = "LPS", *, kind: str = "Line", **more: Any) -> dict[str, Any]:
    sign = -1.0 if system == "RAS" else 1.0
    ends = [[sign * p[0], sign * p[1], p[2]] for p in (path.entry, path.target)]
    points = [{"label": f"L-{n}", "position": p, "positionStatus": "defined"} for n, p in enumerate(ends, 1)]
    return {"type": kind, "coordinateSystem": system, "coordinateUnits": "mm", "controlPoints": points} | more


def on_file(folder: Path, *items: dict[str, Any]) -> Path:
    path = folder / "paths.mrk.json"
    path.write_text(json.dumps({"markups": list(items)}), "utf-8")
    return path


@pytest.mark.parametrize("system", ["LPS", "RAS"])
@pytest.mark.parametrize("kind", ["Line", "Fiducial"])
def test_lines_lie_where_they_were_drawn(tmp_path: Path, system: str, kind: str) -> None:
    file = on_file(tmp_path, markup(LEFT, system, kind=kind), markup(RIGHT, system, kind=kind))
    assert is_markups(file)
    assert paths_of(read_markups(file), FRAME) == (LEFT, RIGHT)


def test_the_entry_is_the_end_at_the_back_and_four_fiducials_are_two_paths(tmp_path: Path) -> None:
    one, other = markup(LEFT, "RAS", kind="Fiducial"), markup(RIGHT, "RAS")
    one["controlPoints"] = one["controlPoints"][::-1] + other["controlPoints"]
    assert paths_of(read_markups(on_file(tmp_path, one)), FRAME) == (LEFT, RIGHT)


def test_a_name_decides_the_side(tmp_path: Path) -> None:
    (line,) = paths_of(read_markups(on_file(tmp_path, markup(LEFT, name="needle_right"))), FRAME)
    assert (line.pedicle, line.entry) == ("right", LEFT.entry)


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ([markup(LEFT) | {"coordinateSystem": "XYZ"}], "only LPS and RAS"),
        ([markup(LEFT) | {"coordinateSystem": None}], "only LPS and RAS"),
        ([markup(LEFT) | {"coordinateUnits": "cm"}], "not in mm"),
        ([markup(LEFT) | {"type": "Plane"}], "only lines"),
        ([markup(LEFT) | {"controlPoints": [{}, {}]}], "no position"),
        ([markup(LEFT) | {"controlPoints": [{}]}], "1 points"),
        ([markup(LEFT), markup(LEFT), markup(RIGHT)], "holds 3 lines"),
        ([markup(LEFT), markup(LEFT)], "both lines are for the left"),
        ([markup(LEFT, name="left or right")], "left and right"),
        ([], "holds 0 lines"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path: Path, items: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(InputRefusedError, match=says) as refused:
        paths_of(read_markups(on_file(tmp_path, *items)), FRAME)
    assert refused.value.code == "plan.markups"


def test_broken_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mrk.json").write_text("{", "utf-8")
    with pytest.raises(InputRefusedError, match="no JSON"):
        read_markups(tmp_path / "a.mrk.json")
