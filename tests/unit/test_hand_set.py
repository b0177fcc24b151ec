"""Figures, verdict and words after a person has set a point of a needle; the plan is that of the facts sheet."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import InputRefusedError
from service.geometry.hand_set import HandSet, readings_of, with_hand_set
from tests.unit.test_metrics import PLANNED, outer, plan

__all__ = ["outer"]
TIP, ENTRY = (2.9, -9.1, -1.2), (19.0, 28.5, 6.4)


@pytest.fixture(scope="module")
def automatic(outer):
    """A report whose left needle lies in the plan."""
    empty = {
        "needles": [],
        "registration": {"expected_tre_mm": 0.2},
        "warnings": [{"code": "x", "message": "y"}],
        "verdict": "accurate",
        "advice": "",
        "findings": [],
        "needles_reason": "hidden",
        "needles_reason_code": "c",
    }
    made = with_hand_set(empty, plan(PLANNED), outer, [HandSet("left", PLANNED.target, PLANNED.entry)])
    (needle,) = made["needles"]
    needle = {k: v for k, v in needle.items() if k != "hand_set"}
    return {**empty, "needles": [needle]}


def test_figures_follow_the_points_set(automatic, outer):
    made = with_hand_set(automatic, plan(PLANNED), outer, [HandSet("left", TIP, ENTRY)])
    (needle,) = made["needles"]
    assert needle["tip_to_target_mm"] == pytest.approx(1.6310, abs=1e-3)
    assert needle["depth_mm"] == pytest.approx(0.4677, abs=1e-3)
    assert needle["lateral_mm"] == pytest.approx(1.5625, abs=1e-3)
    assert needle["angle_deg"] == pytest.approx(1.2237, abs=1e-3)
    assert needle["entry_deviation_mm"] == pytest.approx(1.1874, abs=1e-3)
    assert needle["entry"] == pytest.approx(ENTRY)
    assert needle["hand_set"] == {"tip": True, "entry": True}
    assert made["needles_reason"] is None
    assert [w["code"] for w in made["warnings"]] == ["x", "hand_set"]
    assert "set by hand" in made["advice"]
    assert automatic["verdict"] == "accurate" and "hand_set" not in automatic["needles"][0], (
        "the start is unchanged"
    )


def test_a_tip_alone_keeps_the_entry_and_a_second_correction_keeps_the_first(automatic, outer):
    first = with_hand_set(automatic, plan(PLANNED), outer, [HandSet("left", TIP, None)])
    (needle,) = first["needles"]
    assert needle["tip"] == pytest.approx(TIP)
    way = np.subtract(TIP, automatic["needles"][0]["entry"])
    assert needle["axis"] == pytest.approx(way / np.linalg.norm(way), abs=1e-5)
    assert needle["hand_set"] == {"tip": True, "entry": False}
    second = with_hand_set(first, plan(PLANNED), outer, [HandSet("left", None, ENTRY)])
    assert second["needles"][0]["hand_set"] == {"tip": True, "entry": True}
    assert second["needles"][0]["tip"] == pytest.approx(TIP)
    assert [w["code"] for w in second["warnings"]].count("hand_set") == 1


def test_by_hand_nothing_is_ever_accurate_but_it_can_be_beyond(automatic, outer):
    near = with_hand_set(automatic, plan(PLANNED), outer, [HandSet("left", PLANNED.target, None)])
    assert near["verdict"] == "review"
    x, y, z = PLANNED.target
    far = (x, y, z + 7.0)
    assert (
        with_hand_set(automatic, plan(PLANNED), outer, [HandSet("left", far, None)])["verdict"]
        == "reposition"
    )


def test_a_needle_that_was_not_found_can_be_added(automatic, outer):
    both = plan(PLANNED)
    made = with_hand_set(automatic, both, outer, [HandSet("right", (-2, -8, -2), (-18, 28, 6))])
    assert [n["pedicle"] for n in made["needles"]] == ["left", "right"]
    assert made["needles"][1]["planned"] is False
    assert made["verdict"] == "review"
    assert "right needle" in made["advice"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (HandSet("left", (2.0, 300.0, 0.0), None), "120 mm"),
        (HandSet("left", (float("nan"), 0.0, 0.0), None), "120 mm"),
        (HandSet("left", TIP, (2.9, -9.1, 5.0)), "10 mm"),
        (HandSet("right", TIP, None), "entry of the right needle is not known"),
    ],
)
def test_points_that_cannot_be_right_are_refused(automatic, outer, change, words):
    with pytest.raises(InputRefusedError, match=words) as refused:
        with_hand_set(automatic, plan(PLANNED), outer, [change])
    assert refused.value.code == "verification.correction"


def test_a_scan_without_a_measured_needle_is_measured_by_the_points_set(automatic, outer):
    refused = {
        **automatic,
        "status": "not_measurable",
        "reason": "No needle was found in the scan.",
        "reason_code": "no_needle",
        "needles": [],
        "verdict": "review",
    }
    made = with_hand_set(refused, plan(PLANNED), outer, [HandSet("left", TIP, ENTRY)])
    assert (made["status"], made["reason"], made["reason_code"]) == ("measured", None, None)
    assert made["needles"][0]["tip_to_target_mm"] == pytest.approx(1.6310, abs=1e-3)
    assert made["needles"][0]["hand_set"] == {"tip": True, "entry": True}
    assert made["verdict"] == "review"
    assert refused["status"] == "not_measurable", "the start is unchanged"


def test_without_a_trusted_registration_nothing_is_related_to_the_plan(automatic, outer):
    loose = {**automatic, "registration": {"expected_tre_mm": None}}
    with pytest.raises(InputRefusedError, match="registration"):
        with_hand_set(loose, plan(PLANNED), outer, [HandSet("left", TIP, None)])


def test_rules_read_a_needle_back_as_it_was(automatic):
    back = readings_of(automatic["needles"][0])
    assert back.tip_to_target_mm == pytest.approx(0.0, abs=1e-6)
    assert back.breach_mm == pytest.approx(-automatic["needles"][0]["breach"]["margin_mm"])
    assert back.breach_direction == automatic["needles"][0]["breach"]["nearest"]
