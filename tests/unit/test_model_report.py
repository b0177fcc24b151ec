"""What the report of a model warns about, and what it is reproducible by."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from service.geometry.lost_bone import LostPiece
from service.geometry.marking import Mark
from service.geometry.model_check import ModelCheck
from service.workflow.tasks import model_report as report


class _Solid:
    """Only what the warnings ask for."""

    def __init__(self, sides: tuple[str, ...] = (), lost: tuple[LostPiece, ...] = ()) -> None:
        axis = (0.0, 0.0, 1.0)
        self.marks = tuple(Mark(s, ("L",), axis, axis, axis, axis, 0.6, 0.9, 0.6, 0.9) for s in sides)  # type: ignore[arg-type]
        self.lost = lost


@pytest.mark.parametrize(
    ("code", "sides", "warned"),
    [
        ("", (), ["model.no_code"]),
        ("82DPXQ", (), ["model.unmarked"]),
        ("82DPXQ", ("left",), ["model.one_mark"]),
        ("82DPXQ", ("left", "right"), []),
    ],
)
def test_a_part_without_both_marks_is_told(code: str, sides: tuple[str, ...], warned: list[str]) -> None:
    solid: Any = _Solid(sides)
    found = report._mark_warnings({"case_code": code}, solid)
    assert [w["code"] for w in found] == warned
    if sides == ("left",):
        assert "the left side" in found[0]["message"]


def test_bone_left_out_fails_the_model_even_when_the_self_check_misses_less() -> None:
    check: Any = type("Check", (), {"failures": ()})()
    lost = (LostPiece(0.4, (0.0, 0.0, 0.0)), LostPiece(0.2, (0.0, 0.0, 0.0)))
    assert "0.60 mL" in report._failures(_Solid(lost=lost), check)[0]  # type: ignore[arg-type]
    assert report._failures(_Solid(lost=lost[:1]), check) == []  # type: ignore[arg-type]


def test_the_libraries_that_decide_are_installed_under_their_names() -> None:
    from importlib import metadata

    assert all(metadata.version(name) for name in report.MODEL_LIBRARIES)
    assert "missing_ml" in {f.name for f in dataclasses.fields(ModelCheck)}
