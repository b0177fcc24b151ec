"""The verdict table: every rule, within, beyond and straddling."""

from __future__ import annotations

import dataclasses

import pytest

from service.domain.verification import (
    RULES,
    Judgement,
    NeedleReadings,
    Tolerances,
    Verdict,
    decide,
    judge,
    readings,
)

FINE = NeedleReadings(
    pedicle="left",
    planned=True,
    tip_to_target_mm=0.8,
    lateral_mm=0.6,
    angle_deg=1.0,
    breach_mm=-2.0,
    breach_direction="lateral",
    tip_uncertainty_mm=0.8,
    lateral_uncertainty_mm=0.4,
    breach_uncertainty_mm=0.7,
    angle_uncertainty_deg=0.4,
)


@pytest.mark.parametrize(
    ("value", "uncertainty", "expected"),
    [
        (1.0, 0.5, Judgement.WITHIN),
        (1.5, 0.5, Judgement.WITHIN),
        (1.6, 0.5, Judgement.UNSURE),
        (2.5, 0.5, Judgement.UNSURE),
        (2.6, 0.5, Judgement.BEYOND),
        (None, 0.5, Judgement.UNSURE),
    ],
)
def test_a_value_whose_interval_straddles_the_limit_is_unsure(value, uncertainty, expected):
    assert judge(value, uncertainty, 2.0) is expected


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, Verdict.ACCURATE, "surgeon decides"),
        ({"tip_to_target_mm": 1.5}, Verdict.REVIEW, "tip to target"),
        ({"tip_to_target_mm": 3.0}, Verdict.REPOSITION, "tip to target"),
        ({"lateral_mm": 1.9}, Verdict.REVIEW, "beside"),
        ({"lateral_mm": 2.6}, Verdict.REPOSITION, "beside"),
        ({"angle_deg": 4.8}, Verdict.REVIEW, "angle"),
        ({"angle_deg": 5.6}, Verdict.REPOSITION, "angle"),
        ({"breach_mm": 1.0}, Verdict.ACCURATE, "within"),
        ({"breach_mm": 1.8}, Verdict.REVIEW, "pedicle wall"),
        ({"breach_mm": 2.8}, Verdict.REPOSITION, "pedicle wall"),
        ({"breach_direction": "medial"}, Verdict.ACCURATE, "within"),
        ({"breach_direction": "medial", "breach_mm": -0.3}, Verdict.REVIEW, "canal"),
        ({"breach_direction": "medial", "breach_mm": 0.9}, Verdict.REPOSITION, "canal"),
        ({"breach_mm": None, "breach_direction": None}, Verdict.REVIEW, "could not be measured"),
        ({"planned": False, "tip_to_target_mm": None}, Verdict.REVIEW, "no approved path"),
    ],
)
def test_verdict_table(change, verdict, words):
    decision = decide([dataclasses.replace(FINE, **change)])
    assert decision.verdict is verdict
    assert words in decision.advice


def test_the_worst_needle_decides():
    bad = dataclasses.replace(FINE, pedicle="right", angle_deg=9.0)
    decision = decide([FINE, bad])
    assert decision.verdict is Verdict.REPOSITION
    assert "Right" in decision.advice
    assert "Left" not in decision.advice


def test_no_needle_is_never_an_all_clear():
    assert decide([]).verdict is Verdict.REVIEW


def test_tolerances_belong_to_the_caller():
    needle = dataclasses.replace(FINE, tip_to_target_mm=1.8)
    assert decide([needle], Tolerances(tip_mm=3.0)).verdict is Verdict.ACCURATE
    assert decide([needle], Tolerances(tip_mm=0.5)).verdict is Verdict.REPOSITION


def test_every_rule_has_words_and_is_used():
    medial = dataclasses.replace(FINE, breach_direction="medial")
    assert {r.rule for r in readings(medial, Tolerances())} == set(RULES)
