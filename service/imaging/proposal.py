"""Which series of a study is the best planning CT, with the reasons in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.geometry.series_gate import DEFAULT_POLICY, GatePolicy
from service.imaging import headers
from service.imaging.scan import SeriesSummary

_SET_ASIDE_TYPES = {
    "LOCALIZER": "it is a localiser",
    "SCOUT": "it is a localiser",
    "MPR": "it is a reformat, not the original slices",
    "REFORMATTED": "it is a reformat, not the original slices",
    "CSA": "it is a reformat, not the original slices",
    "PROJECTION IMAGE": "it is a projection, not slices",
    "MIP": "it is a projection, not slices",
    "VRT": "it is a picture of a rendering",
    "SCREEN SAVE": "it is a screen picture",
    "DOSE": "it is a dose page",
}
_BONE_KERNEL_HINTS = ("bone", "br6", "br5", "b60", "b70", "yc", "yd", "fc3", "sharp")
"""Parts of kernel names that makers use for bone; only ever breaks a tie."""
_LEAST_AXIAL = 0.8
"""Cosine between slice normal and body axis; 37° leaves room for any gantry tilt."""


@dataclass(frozen=True)
class Candidate:
    """One series and why it ranks where it does; `usable` False means set aside."""

    summary: SeriesSummary
    usable: bool
    reason: str


@dataclass(frozen=True)
class Proposal:
    """`best` or None; `candidates` best first, those set aside last; `reasons[0]` explains the choice."""

    best: SeriesSummary | None
    candidates: tuple[Candidate, ...]
    reasons: tuple[str, ...]


def propose_planning_series(
    summaries: Sequence[SeriesSummary], policy: GatePolicy = DEFAULT_POLICY
) -> Proposal:
    """Rank the series of one study: axial original slices, thin, many; reformats and pages set aside."""
    judged = [_judge(summary, policy) for summary in summaries]
    usable = sorted((c for c in judged if c.usable), key=lambda c: _rank(c.summary, policy))
    aside = [c for c in judged if not c.usable]
    if not usable:
        reasons = ["No series can be used for planning.", *(c.reason for c in aside)]
        return Proposal(None, tuple(aside), tuple(reasons))
    best = usable[0].summary
    lead = f"{label(best)} is proposed: {_strengths(best)}."
    return Proposal(best, (*usable, *aside), (lead, *(c.reason for c in (*usable[1:], *aside))))


def label(summary: SeriesSummary) -> str:
    """How people tell series apart: its number and size (descriptions are free text and may name a patient)."""
    number = summary.info.series_number
    return f"Series {number if number is not None else 'without number'} ({summary.info.images} images)"


def _judge(summary: SeriesSummary, policy: GatePolicy) -> Candidate:
    who = label(summary)
    why = next(_objections(summary, policy), None)
    if why is not None:
        return Candidate(summary, False, f"{who} set aside: {why}.")
    return Candidate(summary, True, f"{who} could also be used: {_strengths(summary)}.")


def _objections(summary: SeriesSummary, policy: GatePolicy) -> Iterator[str]:
    info = summary.info
    if not summary.is_volume_class:
        yield f"it is not CT (modality {info.modality or 'unknown'})"
    yield from (
        _SET_ASIDE_TYPES[word.upper()] for word in info.image_type if word.upper() in _SET_ASIDE_TYPES
    )
    if info.normal is None or info.pixel_spacing_mm is None:
        yield "its images have no place in the patient"
    elif abs(info.normal[2]) < _LEAST_AXIAL:
        yield "its slices are not axial"
    if info.images < policy.min_slices:
        yield f"it has fewer than {policy.min_slices} slices"
    if info.slice_thickness_mm is not None and info.slice_thickness_mm > policy.max_thickness_mm:
        yield f"slices of {info.slice_thickness_mm:g} mm are too thick"


def _rank(summary: SeriesSummary, policy: GatePolicy) -> tuple[object, ...]:
    """Smaller is better. Thickness counts in tenths, so that equal reconstructions are told apart by the rest."""
    info = summary.info
    thickness = info.slice_thickness_mm if info.slice_thickness_mm is not None else policy.max_thickness_mm
    original = "ORIGINAL" in (word.upper() for word in info.image_type)
    bone = any(hint in kernel.lower() for kernel in info.kernel for hint in _BONE_KERNEL_HINTS)
    spacing = info.pixel_spacing_mm[0] if info.pixel_spacing_mm else 9.0
    return (
        not original,
        info.lossy is True,
        round(max(thickness, policy.warn_thickness_mm), 1),
        -info.images,
        round(spacing, 2),
        bone,
        info.series_number if info.series_number is not None else 10**6,
        info.series_uid,
    )


def _strengths(summary: SeriesSummary) -> str:
    info = summary.info
    thickness = (
        "unknown thickness" if info.slice_thickness_mm is None else f"{info.slice_thickness_mm:g} mm slices"
    )
    original = "original" if "ORIGINAL" in (w.upper() for w in info.image_type) else "derived"
    kind = headers.VOLUME_CLASSES.get(info.sop_class_uid or "", "image")
    lossy = ", lossy compression" if info.lossy else ""
    return f"axial {original} {kind} with {thickness}{lossy}"
