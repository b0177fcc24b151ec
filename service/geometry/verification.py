"""From a planning CT, a plan and an O-arm scan to the verification report (`spineprint.verification/1`).

No user, no HU in the scan, no shared frame of reference is needed. All results are planning LPS, mm. The report
is either measured, with an uncertainty beside every figure, or says in words why it is not measurable.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import Plan
from service.domain.verification import Decision, NeedleReadings, Tolerances, decide
from service.geometry import pose
from service.geometry.cement import CementImage, CementSettings, find_cement
from service.geometry.cement_places import CementReport, PlaceSettings, describe
from service.geometry.heights import BodyHeights, body_heights
from service.geometry.metal import MetalSettings, ScanView, read_scan
from service.geometry.metrics import NeedleFigures, measure, outer_from_mask, side_of
from service.geometry.needle_reasons import MOVED, cement_only, why_no_needle
from service.geometry.needle_tip import Tip, TipSettings, fit_tip, hidden
from service.geometry.needles import Axis, MetalLine, NeedleSettings, find_lines, fit_axis, smeared
from service.geometry.plates import Body, plate_heights
from service.geometry.progress import Progress, silent
from service.geometry.registration import Registration, RegistrationSettings, register
from service.geometry.registration_check import GateSettings, refusal
from service.geometry.registration_model import ModelSettings, VertebraModel, build_model
from service.geometry.restoration import Restoration, RestorationSettings, measure_restoration
from service.geometry.tip_in_cement import InCementSettings, fit_tip_in_cement, lies_in_cement
from service.geometry.verification_document import to_document
from service.geometry.volume import Volume

Array = NDArray[np.float64]


@dataclass(frozen=True)
class VerificationSettings:
    metal: MetalSettings = field(default_factory=MetalSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    registration: RegistrationSettings = field(default_factory=RegistrationSettings)
    gates: GateSettings = field(default_factory=GateSettings)
    needle: NeedleSettings = field(default_factory=NeedleSettings)
    tip: TipSettings = field(default_factory=TipSettings)
    in_cement: InCementSettings = field(default_factory=InCementSettings)
    cement: CementSettings = field(default_factory=CementSettings)
    cement_places: PlaceSettings = field(default_factory=PlaceSettings)
    restoration: RestorationSettings = field(default_factory=RestorationSettings)
    tolerances: Tolerances = field(default_factory=Tolerances)
    bone_surface_sigma_mm: float = 0.3
    """One sigma of the planning CT's outer bone surface; part of the breach only."""
    hub_behind_mm: float = 40.0
    """A needle comes from the back: seen from the body's centre its hub lies this far behind at least."""
    reach_mm: float = 3.2
    """A needle whose front stays further than this from the planned vertebra (its own surface then 2 mm) belongs to
    something else."""
    front_mm: float = 12.0
    ahead_mm: float = 10.0
    """The front: from this far behind the tip to this far ahead of it, for a needle that has not arrived yet. A needle
    in the next vertebra passes our processes with its shaft, but its front is a
    disc away. Chosen on the tuning anatomies."""
    bone_edge_mm: float = 0.18
    """How far the 226 HU surface lies outside the bone's edge: mean of 24 needles in the tuning phantoms of
    `bench/verify` (0.18 with a standard deviation of 0.11); part of the breach only. Zero for a model whose surface
    lies at the edge itself."""


@dataclass(frozen=True, eq=False)
class MeasuredNeedle:
    """Figures of one needle with half intervals at k = 2."""

    figures: NeedleFigures
    tip_uncertainty_mm: float
    lateral_uncertainty_mm: float
    breach_uncertainty_mm: float
    angle_uncertainty_deg: float
    tip_shape: str


@dataclass(frozen=True, eq=False)
class Verification:
    """The typed report; `verification_document` makes its JSON form. `reason` and `reason_code` are '' when measured.

    A cement scan is measured also when no needle could be: `needles_reason` then says why, and the verdict is never
    'accurate'.
    """

    measured: bool
    reason: str
    reason_code: str
    registration: Registration | None
    needles: tuple[MeasuredNeedle, ...]
    heights: BodyHeights | None
    decision: Decision
    clipped: bool
    timings_s: dict[str, float]
    cement: CementReport | None = None
    needles_reason: str = ""
    needles_reason_code: str = ""
    restoration: Restoration | None = None
    """Heights and angle after the cement; None without cement, or when the model came without endplates."""


class _Watch:
    """Collects wall times by stage and tells the progress."""

    def __init__(self, progress: Progress) -> None:
        self.timings_s: dict[str, float] = {}
        self._progress = progress
        self._last = time.monotonic()

    def done(self, stage: str, fraction: float) -> None:
        now = time.monotonic()
        self.timings_s[stage] = round(now - self._last, 3)
        self._last = now
        self._progress(stage, fraction)


def verify_scan(
    ct: Volume | None,
    mask: Volume | None,
    outer: Volume | None,
    plan: Plan,
    scan: Volume,
    *,
    model: VertebraModel | None = None,
    bodies: Sequence[Body] = (),
    settings: VerificationSettings | None = None,
    progress: Progress = silent,
) -> dict[str, object]:
    """The report document, every key of the contract present; see `verify` for the arguments."""
    found = verify(
        ct, mask, outer, plan, scan, model=model, bodies=bodies, settings=settings, progress=progress
    )
    return to_document(found)


def verify(
    ct: Volume | None,
    mask: Volume | None,
    outer: Volume | None,
    plan: Plan,
    scan: Volume,
    *,
    model: VertebraModel | None = None,
    bodies: Sequence[Body] = (),
    settings: VerificationSettings | None = None,
    progress: Progress = silent,
) -> Verification:
    """Measure the needles of an O-arm scan against the plan.

    Parameters
    ----------
    ct : planning CT in HU. mask : uint8, 1 inside the filled target vertebra, same frame as `ct`.
    outer : signed distance (mm, negative inside) to the outer bone surface, or None to derive it from `mask`.
    scan : O-arm grey values, any affine scale, any frame of reference.
    model : the planning side prepared before (`service.geometry.registration_file`); `ct` may then be None, and
        with `outer` the `mask` too.
    bodies : endplates kept with the model (`service.geometry.plates`), for the heights after the cement.

    Raises
    ------
    GeometryError
        When the inputs cannot be used at all (empty mask, scan without an image). A scan that is readable but
        does not allow a measurement is not an error: the result says `not_measurable` and why.
    """
    settings = settings or VerificationSettings()
    watch = _Watch(progress)
    view = read_scan(scan, settings.metal)
    watch.done("read scan", 0.1)
    if model is None:
        if ct is None or mask is None:
            raise ValueError("the planning CT with its mask, or the model prepared from them, is needed")
        model = build_model(ct, mask, settings.model)
    watch.done("prepare vertebra", 0.2)
    superior = np.asarray(plan.vertebra_frame.superior, dtype=np.float64)
    registration = register(view, model, superior, settings.registration)
    watch.done("register", 0.7)
    if outer is None:
        if mask is None:
            raise ValueError("the mask or its outer surface is needed")
        outer = outer_from_mask(mask)
    heights = plate_heights(bodies) or body_heights(outer, plan)
    watch.done("bone surface", 0.8)
    gate = refusal(registration, settings.gates)
    if gate is not None or registration is None:
        reason = gate.reason if gate is not None else ""
        return _refused(reason, gate.code if gate else "", registration, heights, view, watch)
    near, far = _lines(view, registration, outer, plan, settings)
    axes = [fit_axis(view.full, n, _ends(n, registration, plan)[0], settings.needle) for n in near]
    if any(smeared(axis, settings.needle) for axis in axes):
        return _refused(MOVED, "motion", registration, heights, view, watch)
    watch.done("axes", 0.85)
    image = find_cement(
        view, model, registration, outer, axes, far, settings.cement, settings.needle.radius_mm
    )
    covered, needles = _measure_all(axes, image, registration, view, outer, plan, settings)
    watch.done("needles", 0.9)
    cement = None if image is None else describe(image, outer, plan, settings.cement_places)
    restored = None
    if cement is not None and heights is not None:
        restored = measure_restoration(
            view, registration, bodies, heights, plan.vertebra_frame, settings.restoration
        )
    watch.done("cement", 0.98)
    code, reason = ("", "") if needles else why_no_needle(bool(near or far), bool(near), covered)
    if not needles and cement is None:
        return _refused(reason, code, registration, heights, view, watch)
    decision = decide([_readings(n) for n in needles], settings.tolerances)
    watch.done("verdict", 1.0)
    return Verification(
        measured=True,
        reason="",
        reason_code="",
        registration=registration,
        needles=needles,
        heights=heights,
        decision=decision if needles else cement_only(cement, reason),
        clipped=view.grey.clipped,
        timings_s=watch.timings_s,
        cement=cement,
        needles_reason=reason,
        needles_reason_code=code,
        restoration=restored,
    )


def _lines(
    view: ScanView, registration: Registration, outer: Volume, plan: Plan, settings: VerificationSettings
) -> tuple[list[MetalLine], list[MetalLine]]:
    """Straight metal (near, far): in the planned vertebra, and elsewhere in the scan."""
    near: list[MetalLine] = []
    far: list[MetalLine] = []
    for line in find_lines(view, settings.needle):
        if not _near(line, registration, outer, plan, settings):
            far.append(line)
        elif _from_behind(line, registration, plan, settings):
            near.append(line)
        # else: a lobe of cement with its strand is a line as well, but nobody put it in from the back
    return near, far


def _refused(
    reason: str,
    code: str,
    registration: Registration | None,
    heights: BodyHeights | None,
    view: ScanView,
    watch: _Watch,
) -> Verification:
    return Verification(
        measured=False,
        reason=reason,
        reason_code=code,
        registration=registration,
        needles=(),
        heights=heights,
        decision=decide(()),
        clipped=view.grey.clipped,
        timings_s=watch.timings_s,
    )


def _ends(line: MetalLine, registration: Registration, plan: Plan) -> tuple[Array, Array]:
    """(tip, hub) ends of a line in the scan frame: the tip is the end nearer to the body's centre."""
    centre = pose.apply(registration.scan_from_preop, np.asarray(plan.body_centre)[None])[0]
    ends = sorted((line.start, line.end), key=lambda e: float(np.linalg.norm(e - centre)))
    return ends[0], ends[1]


def _near(
    line: MetalLine,
    registration: Registration,
    outer: Volume,
    plan: Plan,
    settings: VerificationSettings,
) -> bool:
    tip, hub = _ends(line, registration, plan)
    direction = (tip - hub) / np.linalg.norm(tip - hub)
    s = np.arange(-settings.front_mm, settings.ahead_mm, 0.5)
    path = pose.apply(registration.preop_from_scan, tip + s[:, None] * direction)
    return bool(outer.sample(path, outside=50.0).min() < settings.reach_mm)


def _from_behind(
    line: MetalLine, registration: Registration, plan: Plan, settings: VerificationSettings
) -> bool:
    """Whether the hub's end lies where hands are: well behind the vertebra."""
    hub = pose.apply(registration.preop_from_scan, _ends(line, registration, plan)[1][None])[0]
    back = -(hub - np.asarray(plan.body_centre)) @ np.asarray(plan.vertebra_frame.anterior)
    return bool(back > settings.hub_behind_mm)


def _measure_all(
    axes: list[Axis],
    image: CementImage | None,
    registration: Registration,
    view: ScanView,
    outer: Volume,
    plan: Plan,
    settings: VerificationSettings,
) -> tuple[bool, tuple[MeasuredNeedle, ...]]:
    """(whether cement hides a tip, all needles, left before right); no needle when any of them is unclear."""
    tips = [_tip(axis, image, registration, view, settings) for axis in axes]
    if any(tip is None for _, tip in tips):
        return any(covered for covered, tip in tips if tip is None), ()
    found = [
        _measured(axis, tip, registration, outer, plan, settings)
        for axis, (_, tip) in zip(axes, tips, strict=True)
        if tip is not None
    ]
    if len({needle.figures.pedicle for needle in found}) < len(found):
        return False, ()
    return False, tuple(sorted(found, key=lambda n: n.figures.pedicle))


def _tip(
    axis: Axis,
    image: CementImage | None,
    registration: Registration,
    view: ScanView,
    settings: VerificationSettings,
) -> tuple[bool, Tip | None]:
    """(whether the tip lies in something denser than bone, the tip if it can be told)."""
    clipped = view.grey.clipped
    if not hidden(axis, clipped=clipped, settings=settings.tip) and not lies_in_cement(
        axis, image, registration.scan_from_preop, settings.in_cement
    ):
        return False, fit_tip(axis, clipped=clipped, settings=settings.tip, needle=settings.needle)
    if clipped or image is None:
        return True, None
    grey = registration.intensity.gain * image.solid_hu + registration.intensity.offset
    return True, fit_tip_in_cement(view.full, axis, grey, settings.in_cement, settings.needle)


def _measured(
    axis: Axis,
    tip: Tip,
    registration: Registration,
    outer: Volume,
    plan: Plan,
    settings: VerificationSettings,
) -> MeasuredNeedle:
    preop = registration.preop_from_scan
    place = pose.apply(preop, (axis.origin + tip.s_mm * axis.direction)[None])[0]
    direction = np.asarray(preop[:3, :3] @ axis.direction)
    side = side_of(plan, place, direction)
    figures = measure(plan, outer, place, direction, side, settings.needle.radius_mm, settings.bone_edge_mm)
    return _with_uncertainty(figures, registration, axis, tip.sigma_mm, tip.shape, settings)


def _with_uncertainty(
    figures: NeedleFigures,
    registration: Registration,
    axis: Axis,
    tip_sigma_mm: float,
    tip_shape: str,
    settings: VerificationSettings,
) -> MeasuredNeedle:
    """Root sum of squares of registration, tip and axis; doubled (k = 2)."""
    registered = registration.expected_tre_mm
    beside = float(np.hypot(registered, axis.scatter_mm))
    turn = np.degrees(np.sqrt(np.trace(registration.intensity.covariance[:3, :3])))
    angle = float(np.sqrt(turn**2 + axis.direction_sigma_deg**2 + registration.agreement_deg**2 + 0.1**2))
    return MeasuredNeedle(
        figures=figures,
        tip_uncertainty_mm=2 * float(np.hypot(beside, tip_sigma_mm)),
        lateral_uncertainty_mm=2 * beside,
        breach_uncertainty_mm=2 * float(np.hypot(beside, settings.bone_surface_sigma_mm)),
        angle_uncertainty_deg=2 * angle,
        tip_shape=tip_shape,
    )


def _readings(needle: MeasuredNeedle) -> NeedleReadings:
    f = needle.figures
    breach = f.breach
    return NeedleReadings(
        pedicle=f.pedicle,
        planned=f.planned,
        tip_to_target_mm=f.tip_to_target_mm,
        lateral_mm=f.lateral_mm,
        angle_deg=f.angle_deg,
        breach_mm=None if breach is None else -breach.margin_mm,
        breach_direction=None if breach is None else breach.direction,
        tip_uncertainty_mm=needle.tip_uncertainty_mm,
        lateral_uncertainty_mm=needle.lateral_uncertainty_mm,
        breach_uncertainty_mm=needle.breach_uncertainty_mm,
        angle_uncertainty_deg=needle.angle_uncertainty_deg,
    )
