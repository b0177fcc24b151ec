"""How far the endplates moved between planning CT and cement scan: heights, recovery and Cobb angle.

Each plate is found again by the pattern of grey across it, which shifts with the plate, needs no bone threshold and
does not ask what lies on the other side of the body. Columns with cement or metal in them are left out: cement that
touches a plate hides it. Heights after = heights of the planning CT plus the shifts. Definitions: facts sheet,
section 3. Frame: planning LPS of the planned vertebra, mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.domain.plan import VertebraFrame
from service.geometry import angles, pose
from service.geometry.heights import PLACES, BodyHeights
from service.geometry.metal import ScanView
from service.geometry.plates import ACROSS_MM, ALONG_MM, LEAST_COLUMNS, OFFSETS_MM, Body
from service.geometry.registration import Registration

Array = NDArray[np.float64]
Three = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class RestorationSettings:
    """Proposals of this project, chosen on the tuning anatomies of `bench/verify`."""

    reach_mm: float = 6.0
    """A plate is looked for this far from where the planning CT has it."""
    neighbour_reach_mm: float = 8.0
    """Neighbours also move on their own between supine CT and prone scan; first as a whole within this."""
    step_mm: float = 0.25
    read_mm: tuple[float, float] = (-4.0, 5.0)
    """Part of the profile that is compared, inwards and outwards of the plate."""
    least_likeness: float = 0.85
    """Correlation a plate must reach to be believed."""
    lead: float = 0.03
    """And by which it must beat any other place more than 2 mm away."""
    cement_over_hu: float = 500.0
    """A column this much brighter than it ever was holds cement or metal."""
    floor_mm: float = 0.15
    """One sigma of a shift that columns have in common: registration, sampling, point spread."""
    height_mm: float = 0.35
    """One sigma of a height in the planning CT: its edges come out up to 0.6 mm too far apart
    (docs/accuracy-verify.md)."""
    intact_share: float = 0.8
    """A neighbour whose front or middle keeps this share of its back is intact (Genant: less than 20 % lost)."""


@dataclass(frozen=True)
class Shift:
    """One plate at one place: moved by `mm` outwards along the body's axis, `sigma_mm` one sigma."""

    mm: float
    sigma_mm: float


@dataclass(frozen=True)
class Cobb:
    """Sagittal Cobb angle over both neighbours, degrees, kyphosis positive; `sigma_deg` of the later one."""

    before_deg: float
    after_deg: float
    sigma_deg: float


@dataclass(frozen=True)
class Restoration:
    """Triples are anterior, middle, posterior; None where it is not known, with the sentence in `reasons`."""

    before: BodyHeights
    after_mm: Three
    sigma_mm: Three
    normal_mm: Three
    recovery_percent: Three
    cobb: Cobb | None
    reasons: tuple[str, ...]


NO_NEIGHBOUR = (
    "Recovery is not given: no intact neighbour was measured in the planning CT (the model was made from a mask, or "
    "both neighbours are deformed or cut)."
)
NOT_LOST = "Recovery is given only where at least 2 mm of height were lost against the intact neighbours."
HIDDEN = "Height after the cement is not given ({places}): cement, metal or the edge of the field hides the endplate."
NO_COBB = (
    "The Cobb angle is not given: the endplates of both neighbours must be known in the planning CT and lie in the "
    "field."
)


def measure_restoration(
    view: ScanView,
    registration: Registration,
    bodies: Sequence[Body],
    before: BodyHeights,
    frame: VertebraFrame,
    settings: RestorationSettings | None = None,
) -> Restoration | None:
    """Heights and angle after the cement; None when the target's plates were not kept with the model.

    `before` are the heights reported for the planning CT.
    """
    use = settings or RestorationSettings()
    known: dict[str, Body] = {body.name: body for body in bodies}
    if "target" not in known:
        return None
    shifts = _shifts(view, registration, known["target"], use, start_mm=0.0)
    after, sigma = _heights_after(before, shifts, use)
    normal = _normal(known, use)
    recovery = _recovery(before, after, normal)
    cobb = _cobb(view, registration, known, frame, use)
    reasons = []
    hidden = [name for name, value in zip(PLACES, after, strict=True) if value is None]
    if hidden:
        reasons.append(HIDDEN.format(places=", ".join(hidden)))
    if all(v is None for v in normal):
        reasons.append(NO_NEIGHBOUR)
    elif any(r is None and a is not None for r, a in zip(recovery, after, strict=True)):
        reasons.append(NOT_LOST)
    if cobb is None:
        reasons.append(NO_COBB)
    return Restoration(before, after, sigma, normal, recovery, cobb, tuple(reasons))


def _three(values: Sequence[float | None]) -> Three:
    front, middle, back = values
    return front, middle, back


def _heights_after(
    before: BodyHeights, shifts: list[list[Shift | None]], use: RestorationSettings
) -> tuple[Three, Three]:
    heights: list[float | None] = []
    sigmas: list[float | None] = []
    for height, upper, lower in zip(before.as_tuple(), *shifts, strict=True):
        if upper is None or lower is None:
            heights.append(None)
            sigmas.append(None)
            continue
        heights.append(height + upper.mm + lower.mm)
        sigmas.append(float(np.linalg.norm([upper.sigma_mm, lower.sigma_mm, use.height_mm])))
    return _three(heights), _three(sigmas)


def _normal(known: dict[str, Body], use: RestorationSettings) -> Three:
    """Mean of the intact neighbours' heights, place by place."""
    found = []
    for name in ("above", "below"):
        if name not in known:
            continue
        heights = known[name].heights_mm()
        if np.isfinite(heights).all() and heights[:2].min() >= use.intact_share * heights[2]:
            found.append(heights)
    if not found:
        return None, None, None
    return _three([float(v) for v in np.mean(found, axis=0)])


def _recovery(before: BodyHeights, after: Three, normal: Three) -> Three:
    return _three(
        [
            None if a is None or n is None else angles.recovery_percent(b, a, n)
            for b, a, n in zip(before.as_tuple(), after, normal, strict=True)
        ]
    )


def _cobb(
    view: ScanView,
    registration: Registration,
    known: dict[str, Body],
    frame: VertebraFrame,
    use: RestorationSettings,
) -> Cobb | None:
    """From the upper plate of the level above and the lower plate of the level below."""
    normals: list[tuple[Array, Array, float]] = []
    for name, plate in (("above", 0), ("below", 1)):
        body = known.get(name)
        if body is None:
            return None
        start = _as_a_whole(view, registration, body, use)
        if start is None:
            return None
        shifts = _shifts(view, registration, body, use, start_mm=start)[plate]
        turned = _normals(body, plate, shifts)
        if turned is None:
            return None
        normals.append(turned)
    (up_old, up_new, up_sigma), (low_old, low_new, low_sigma) = normals
    return Cobb(
        before_deg=angles.cobb_deg(frame, up_old, low_old),
        after_deg=angles.cobb_deg(frame, up_new, low_new),
        sigma_deg=float(np.hypot(up_sigma, low_sigma)),
    )


def _normals(body: Body, plate: int, shifts: Sequence[Shift | None]) -> tuple[Array, Array, float] | None:
    """(normal before, after, sigma in degrees) of a plate in the body's sagittal plane, from its front and back."""
    middles = body.middles()[plate]
    front, back = shifts[0], shifts[-1]
    if front is None or back is None or not np.isfinite(middles[[0, -1]]).all():
        return None
    anterior, superior = body.axes[:, 1], body.superior
    run = float((middles[0] - middles[-1]) @ anterior)
    rise = float((middles[0] - middles[-1]) @ superior)
    # Shifts count outwards: up for the upper plate, down for the lower.
    more = (front.mm - back.mm) * (1.0 if plate == 0 else -1.0)
    old, new = (superior - r / run * anterior for r in (rise, rise + more))
    sigma = np.degrees(np.hypot(front.sigma_mm, back.sigma_mm) / run)
    return old, new, float(sigma)


def _as_a_whole(
    view: ScanView, registration: Registration, body: Body, use: RestorationSettings
) -> float | None:
    """How far a neighbour moved up along its axis as one piece: the place where all of its plates look right."""
    steps = np.arange(-use.neighbour_reach_mm, use.neighbour_reach_mm + 1e-6, use.step_mm)
    likeness = []
    for plate, sign in enumerate((1.0, -1.0)):
        for place in range(len(PLACES)):
            planned, seen = _columns(view, registration, body, plate, place, use, use.neighbour_reach_mm, 0.0)
            if planned is not None and seen is not None:
                scores = _scores(planned.mean(axis=0), seen.mean(axis=0), use)
                likeness.append(scores if sign > 0 else scores[::-1])
    if len(likeness) < 3:
        return None
    return float(steps[int(np.argmax(np.mean(likeness, axis=0)))])


def _shifts(
    view: ScanView, registration: Registration, body: Body, use: RestorationSettings, *, start_mm: float
) -> list[list[Shift | None]]:
    """Upper and lower plate by place, sought around the body moved up by `start_mm`."""
    found: list[list[Shift | None]] = []
    for plate, sign in enumerate((1.0, -1.0)):
        row = []
        for place in range(len(PLACES)):
            shift = _shift(view, registration, body, plate, place, use, sign * start_mm)
            row.append(shift)
        found.append(row)
    return found


def _shift(
    view: ScanView,
    registration: Registration,
    body: Body,
    plate: int,
    place: int,
    use: RestorationSettings,
    start_mm: float,
) -> Shift | None:
    planned, seen = _columns(view, registration, body, plate, place, use, use.reach_mm, start_mm)
    if planned is None or seen is None:
        return None
    scores = _scores(planned.mean(axis=0), seen.mean(axis=0), use)
    best = int(np.argmax(scores))
    apart = np.abs(np.arange(len(scores)) - best) * use.step_mm > 2.0
    if scores[best] < use.least_likeness or scores[apart].max(initial=-1.0) > scores[best] - use.lead:
        return None
    if best in (0, len(scores) - 1):
        return None
    value = start_mm - use.reach_mm + use.step_mm * _peak(scores, best)
    # How far quarters of the columns agree says how well the mean of all is known.
    quarters = [
        start_mm - use.reach_mm + use.step_mm * _peak(part, int(np.argmax(part)))
        for n in range(4)
        if len(planned[n::4])
        for part in (_scores(planned[n::4].mean(axis=0), seen[n::4].mean(axis=0), use),)
    ]
    spread = float(np.std(quarters, ddof=1)) / np.sqrt(len(quarters)) if len(quarters) > 1 else 1.0
    return Shift(value, float(np.hypot(spread, use.floor_mm)))


def _columns(
    view: ScanView,
    registration: Registration,
    body: Body,
    plate: int,
    place: int,
    use: RestorationSettings,
    reach_mm: float,
    start_mm: float,
) -> tuple[Array | None, Array | None]:
    """(planned (n, P), seen (n, P + 2 reach)) of the columns free of cement and metal; None when they are too few."""
    points = body.points[plate, place]
    outwards = body.superior * (1.0 if plate == 0 else -1.0)
    known = np.isfinite(points).all(axis=-1)
    if known.sum() < LEAST_COLUMNS * len(ACROSS_MM) * len(ALONG_MM):
        return None, None
    low, high = use.read_mm
    wide = np.arange(low - reach_mm, high + reach_mm + 1e-6, use.step_mm) + start_mm
    way = points[known][:, None, :] + wide[:, None] * outwards
    scan = pose.apply(registration.scan_from_preop, way.reshape(-1, 3))
    fit = registration.intensity
    seen = (view.full.sample(scan, outside=np.nan).reshape(way.shape[:-1]) - fit.offset) / fit.gain
    planned = body.profiles[plate, place][known].astype(np.float64)
    brightest = planned.max(axis=1) + use.cement_over_hu
    noisy = _smoothed(seen)
    free = np.isfinite(seen).all(axis=1) & (noisy.max(axis=1) < brightest)
    if free.sum() < LEAST_COLUMNS * known.size:
        return None, None
    first = int(np.searchsorted(OFFSETS_MM, low - 1e-6))
    last = int(np.searchsorted(OFFSETS_MM, high + 1e-6))
    return planned[free][:, first:last], seen[free]


def _smoothed(values: Array) -> Array:
    """Mean of five neighbours along each column, so that noise is not taken for cement."""
    kernel = np.ones(5) / 5.0
    return np.asarray([np.convolve(row, kernel, mode="same") for row in values])


def _scores(planned: Array, seen: Array, use: RestorationSettings) -> Array:
    """Correlation of the planned profile with the seen one at every shift, (2 reach / step + 1,)."""
    windows = np.lib.stride_tricks.sliding_window_view(seen, len(planned))
    a = planned - planned.mean()
    b = windows - windows.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(a) * np.linalg.norm(b, axis=1)
    return np.asarray((b @ a) / np.maximum(scale, 1e-9))


def _peak(scores: Array, best: int) -> float:
    """Index of the maximum between the samples, by a parabola through its neighbours."""
    if best in (0, len(scores) - 1):
        return float(best)
    before, here, after = scores[best - 1 : best + 2]
    bend = before - 2.0 * here + after
    return best + (0.5 * (before - after) / bend if bend < 0 else 0.0)
