"""A verification report whose tip or entry a person has set by hand: every figure that depends on them anew.

The automatic report is the start and stays as it was; here a new document is made beside it. Points are planning
LPS, mm. The axis of a corrected needle runs from its entry to its tip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Pedicle, Plan, Vec3
from service.domain.verification import Decision, NeedleReadings, Verdict, decide
from service.errors import InputRefusedError
from service.geometry.metrics import NeedleFigures, measure
from service.geometry.verification import MeasuredNeedle, VerificationSettings
from service.geometry.verification_document import needle_document
from service.geometry.volume import Volume

Array = NDArray[np.float64]

#: One sigma of a point that a person sets on the images: about the diagonal of an O-arm voxel (0.415 x 0.415 x
#: 0.833 mm), a proposal of this project. How well a hand really does is not known to the software.
HAND_SIGMA_MM = 1.0
#: A point further than this from the body's centre belongs to something else, and a needle is longer than the other.
FARTHEST_MM = 120.0
SHORTEST_MM = 10.0


@dataclass(frozen=True)
class HandSet:
    """What a person set of one needle; None leaves what is known."""

    pedicle: Pedicle
    tip: Vec3 | None
    entry: Vec3 | None


def with_hand_set(
    document: Mapping[str, Any],
    plan: Plan,
    outer: Volume,
    changes: Sequence[HandSet],
    settings: VerificationSettings | None = None,
) -> dict[str, Any]:
    """A copy of the report `document` with these needles corrected or added; verdict and advice follow.

    The document may be one that says why nothing was measured, as long as it holds a trusted registration.

    The verdict is never better than `review`: points set by hand are the hand's, and the software vouches for none.

    Raises
    ------
    InputRefusedError : `verification.correction`, with what is wrong with a point.
    """
    use = settings or VerificationSettings()
    needles = {str(n["pedicle"]): n for n in document["needles"]}
    for change in changes:
        side = change.pedicle
        needles[side] = _corrected(document, needles.get(side), plan, outer, change, use)
    ordered = [needles[side] for side in sorted(needles)]
    decision = _decision(decide([readings_of(n) for n in ordered], use.tolerances), ordered)
    told = [w for w in document.get("warnings") or [] if w.get("code") != "hand_set"]
    return {
        **document,
        "status": "measured",
        "reason": None,
        "reason_code": None,
        "needles": ordered,
        "needles_reason": None,
        "needles_reason_code": None,
        "verdict": str(decision.verdict),
        "advice": decision.advice,
        "findings": list(decision.findings),
        "warnings": [*told, *({"code": "hand_set", "message": m} for m in _sentences(ordered))],
    }


def _corrected(
    document: Mapping[str, Any],
    known: Mapping[str, Any] | None,
    plan: Plan,
    outer: Volume,
    change: HandSet,
    use: VerificationSettings,
) -> dict[str, Any]:
    tip, entry = _ends(known, change)
    centre = np.asarray(plan.body_centre)
    for name, point in (("tip", tip), ("entry", entry)):
        if not np.isfinite(point).all() or np.linalg.norm(point - centre) > FARTHEST_MM:
            raise _refused(
                f"The {name} of the {change.pedicle} needle lies more than {FARTHEST_MM:g} mm from the planned body."
            )
    length = float(np.linalg.norm(tip - entry))
    if length < SHORTEST_MM:
        raise _refused(
            f"Entry and tip of the {change.pedicle} needle lie less than {SHORTEST_MM:g} mm apart."
        )
    axis = (tip - entry) / length
    figures = measure(plan, outer, tip, axis, change.pedicle, use.needle.radius_mm, use.bone_edge_mm)
    if change.entry is not None:
        figures = _with_entry(figures, plan, entry)
    told = needle_document(_spread(figures, document, length, use))
    hand = dict((known or {}).get("hand_set") or {})
    hand |= {name: True for name in ("tip", "entry") if getattr(change, name) is not None}
    return {**told, "hand_set": {"tip": bool(hand.get("tip")), "entry": bool(hand.get("entry"))}}


def _ends(known: Mapping[str, Any] | None, change: HandSet) -> tuple[Array, Array]:
    """(tip, entry), each from the hand or else as known."""
    found = []
    for name in ("tip", "entry"):
        point = getattr(change, name)
        if point is None and known is not None:
            point = known.get(name)
        if point is None:
            raise _refused(
                f"The {name} of the {change.pedicle} needle is not known, so it has to be set as well."
            )
        found.append(np.asarray(point, dtype=np.float64))
    return found[0], found[1]


def _with_entry(figures: NeedleFigures, plan: Plan, entry: Array) -> NeedleFigures:
    planned = plan.trajectory(figures.pedicle)
    off = None if planned is None else float(np.linalg.norm(entry - np.asarray(planned.entry)))
    return replace(figures, entry=entry, entry_deviation_mm=off)


def _spread(
    figures: NeedleFigures, document: Mapping[str, Any], length_mm: float, use: VerificationSettings
) -> MeasuredNeedle:
    """The registration's share and the hand's, root sum of squares, doubled (k = 2)."""
    registered = (document.get("registration") or {}).get("expected_tre_mm")
    if registered is None:
        raise _refused("The report holds no trusted registration, so a point cannot be related to the plan.")
    point = float(np.hypot(float(registered), HAND_SIGMA_MM))
    return MeasuredNeedle(
        figures=figures,
        tip_uncertainty_mm=2 * point,
        lateral_uncertainty_mm=2 * point,
        breach_uncertainty_mm=2 * float(np.hypot(point, use.bone_surface_sigma_mm)),
        angle_uncertainty_deg=2 * float(np.degrees(np.sqrt(2.0) * HAND_SIGMA_MM / length_mm)),
        tip_shape="hand_set",
    )


def readings_of(needle: Mapping[str, Any]) -> NeedleReadings:
    """What the rules need, read back from a needle of a report."""
    breach, spread = needle["breach"], needle["uncertainty"]
    margin = breach.get("margin_mm")
    return NeedleReadings(
        pedicle=str(needle["pedicle"]),
        planned=bool(needle["planned"]),
        tip_to_target_mm=needle["tip_to_target_mm"],
        lateral_mm=needle["lateral_mm"],
        angle_deg=needle["angle_deg"],
        breach_mm=None if margin is None else -float(margin),
        # The document tells a direction only with a breach; towards the canal it matters without one as well.
        breach_direction=breach.get("nearest") or breach.get("direction"),
        tip_uncertainty_mm=float(spread["tip_mm"]),
        lateral_uncertainty_mm=float(spread["lateral_mm"]),
        breach_uncertainty_mm=float(spread["breach_mm"]),
        angle_uncertainty_deg=float(spread["angle_deg"]),
    )


def _decision(decision: Decision, needles: Sequence[Mapping[str, Any]]) -> Decision:
    words = " ".join(_sentences(needles))
    if decision.verdict is Verdict.ACCURATE:
        text = "By these points all values are within tolerance; the surgeon who set them decides."
        return Decision(Verdict.REVIEW, f"{words} {text}", decision.findings)
    return Decision(decision.verdict, f"{words} {decision.advice}", decision.findings)


def _sentences(needles: Sequence[Mapping[str, Any]]) -> list[str]:
    found = []
    for needle in needles:
        hand = needle.get("hand_set") or {}
        names = [name for name in ("tip", "entry") if hand.get(name)]
        if names:
            verb = "was" if len(names) == 1 else "were"
            found.append(
                f"{' and '.join(names).capitalize()} of the {needle['pedicle']} needle {verb} set by hand."
            )
    return found


def _refused(message: str) -> InputRefusedError:
    return InputRefusedError(
        message, next_step="Check the points: planning CT, LPS, mm.", code="verification.correction"
    )
