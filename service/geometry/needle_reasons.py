"""What is said when a needle cannot be measured, and what to do next."""

from __future__ import annotations

from service.domain.verification import Decision, Verdict
from service.geometry.cement_places import CementReport

MOVED = (
    "The needle's outline is smeared and wavy: the patient moved during the scan, or the needle is bent. Scan again "
    "without motion."
)


def cement_only(cement: CementReport | None, reason: str) -> Decision:
    """A scan that shows cement but allows no statement about a needle: for a person to look at."""
    leaks = () if cement is None else cement.leaks
    found = tuple(f"Cement outside the bone: {leak.place}, {leak.volume_ml:.2f} ml." for leak in leaks)
    text = " ".join(["Cement was measured; no needle was judged.", *found, reason])
    return Decision(Verdict.REVIEW, text, found)


def why_no_needle(any_line: bool, any_near: bool, covered: bool) -> tuple[str, str]:
    if covered:
        return "tip_hidden", (
            "Something denser than bone, such as cement, surrounds the front of the needle, so where it ends cannot "
            "be told. Look at the images; the needle is measured before cement goes in."
        )
    if any_near:
        return "needle_unclear", (
            "A needle was found but its tip or side cannot be told apart: it ends outside the field, or two "
            "needles share one pedicle. Look at the images."
        )
    if any_line:
        return "needle_elsewhere", (
            "The metal found does not reach the planned vertebra. Check the level, then place the needle and "
            "scan again."
        )
    return "no_needle", "No needle was found in the scan. Scan again with the needle in place."
