"""When a needle is accurate, when it goes back: the tolerances and the verdict, as data.

Tolerances belong to the clinical lead; the defaults are the facts sheet's (section 1, `reposition`): 2 mm and
5 degrees are a published limit, the rest a proposal. Every measured value carries its uncertainty (k = 2), and
a value whose interval straddles its tolerance is nobody's 'accurate': it asks for review.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass


class Verdict(enum.StrEnum):
    ACCURATE = "accurate"
    REVIEW = "review"
    REPOSITION = "reposition"


class Judgement(enum.IntEnum):
    """One value against one tolerance; the worst of all decides."""

    WITHIN = 0
    UNSURE = 1
    BEYOND = 2


@dataclass(frozen=True)
class Tolerances:
    """Above these the needle is to be repositioned (facts sheet, section 1)."""

    tip_mm: float = 2.0
    lateral_mm: float = 2.0
    angle_deg: float = 5.0
    breach_mm: float = 2.0
    medial_breach_mm: float = 0.0
    """Any breach towards the canal is beyond tolerance."""


@dataclass(frozen=True)
class Reading:
    """One measured value of one needle; `uncertainty` is its half interval at k = 2."""

    needle: str
    rule: str
    value: float | None
    uncertainty: float
    limit: float


@dataclass(frozen=True)
class NeedleReadings:
    """What the rules need of one needle; lengths in mm, half intervals at k = 2.

    `breach_mm` is signed: negative is the bone left between needle and cortex, so that a needle with a thin
    wall beside it is unsure rather than fine. `planned` is False when no trajectory was approved for this
    pedicle: then nothing can be called accurate.
    """

    pedicle: str
    planned: bool
    tip_to_target_mm: float | None
    lateral_mm: float | None
    angle_deg: float | None
    breach_mm: float | None
    breach_direction: str | None
    tip_uncertainty_mm: float
    lateral_uncertainty_mm: float
    breach_uncertainty_mm: float
    angle_uncertainty_deg: float


@dataclass(frozen=True)
class Decision:
    verdict: Verdict
    advice: str
    findings: tuple[str, ...]


#: Rule -> words for a person. Order is the order in which findings are told.
RULES: dict[str, str] = {
    "tip": "tip to target",
    "lateral": "tip beside the planned axis",
    "angle": "angle to the planned axis",
    "breach": "breach of the pedicle wall",
    "medial_breach": "breach towards the spinal canal",
}


def judge(value: float | None, uncertainty: float, limit: float) -> Judgement:
    """A value with its half interval against a limit; a missing value is never within."""
    if value is None:
        return Judgement.UNSURE
    if value - uncertainty > limit:
        return Judgement.BEYOND
    return Judgement.WITHIN if value + uncertainty <= limit else Judgement.UNSURE


def readings(needle: NeedleReadings, tolerances: Tolerances) -> tuple[Reading, ...]:
    """Every rule that applies to this needle."""
    rows = [
        ("tip", needle.tip_to_target_mm, needle.tip_uncertainty_mm, tolerances.tip_mm),
        ("lateral", needle.lateral_mm, needle.lateral_uncertainty_mm, tolerances.lateral_mm),
        ("angle", needle.angle_deg, needle.angle_uncertainty_deg, tolerances.angle_deg),
        ("breach", needle.breach_mm, needle.breach_uncertainty_mm, tolerances.breach_mm),
    ]
    if needle.breach_direction == "medial":
        rows.append(
            ("medial_breach", needle.breach_mm, needle.breach_uncertainty_mm, tolerances.medial_breach_mm)
        )
    return tuple(Reading(needle.pedicle, rule, v, u, limit) for rule, v, u, limit in rows)


def decide(needles: Sequence[NeedleReadings], tolerances: Tolerances | None = None) -> Decision:
    """Verdict and advice over all needles of one scan. No needle is a `review`, never an all-clear."""
    limits = tolerances or Tolerances()
    if not needles:
        return Decision(Verdict.REVIEW, "No needle was measured; look at the images.", ())
    judged = [(r, judge(r.value, r.uncertainty, r.limit)) for n in needles for r in readings(n, limits)]
    beyond = tuple(_sentence(r, j) for r, j in judged if j is Judgement.BEYOND)
    unsure = tuple(_sentence(r, j) for r, j in judged if j is Judgement.UNSURE)
    unplanned = tuple(
        f"The {n.pedicle} pedicle has a needle but no approved path." for n in needles if not n.planned
    )
    if beyond:
        text = "Reposition the needle and scan again. " + " ".join(beyond)
        return Decision(Verdict.REPOSITION, text, beyond + unsure + unplanned)
    if unsure or unplanned:
        text = "Not certain enough to call: look at the images before going on. " + " ".join(
            unplanned + unsure
        )
        return Decision(Verdict.REVIEW, text, unsure + unplanned)
    return Decision(
        Verdict.ACCURATE, "All values are within tolerance, uncertainty included; the surgeon decides.", ()
    )


def _sentence(reading: Reading, judgement: Judgement) -> str:
    words = RULES[reading.rule]
    if reading.value is None:
        return f"{reading.needle.capitalize()}: {words} could not be measured."
    unit = "deg" if reading.rule == "angle" else "mm"
    shown = max(reading.value, 0.0)
    relation = "is beyond" if judgement is Judgement.BEYOND else "may be beyond"
    return (
        f"{reading.needle.capitalize()}: {words} {shown:.1f} ± {reading.uncertainty:.1f} {unit} {relation} the "
        f"tolerance of {reading.limit:g} {unit}."
    )
