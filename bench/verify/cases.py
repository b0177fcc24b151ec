"""Which scans are made: every number drawn from a seed, tuning and acceptance from different ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.verify.anatomies import WIDER, Anatomy
from service.domain.plan import Trajectory
from service.geometry.needles import across
from simulators.oarm import Cement, Motion, Needle, ScanSettings, small_settings

Array = NDArray[np.float64]

#: `fresh`: the acceptance anatomies in scans that nobody looked at before the last change of the software.
#: `later`: other anatomies, other seeds and more kinds of scans to be refused.
#: `newer`: those anatomies and kinds in other scans, drawn after what `later` had shown was mended.
#: `latest`: once more other anatomies, for cement only, drawn when `fresh` and `later` had been looked at for it.
#: `unseen`: the same again, drawn when `latest` had been looked at as well and what it showed was mended.
SEEDS = {
    "tuning": 7001,
    "acceptance": 9001,
    "fresh": 15013,
    "later": 20021,
    "newer": 26029,
    "latest": 31033,
    "unseen": 37039,
}
#: Points the software has no profile of, and those it has; two scans of three carry an unknown one.
UNKNOWN_TIPS = ("trocar", "ogive", "cannula")
KNOWN_TIPS = ("cone", "bevel", "diamond")
REFUSALS = ("wrong_level", "needle_elsewhere", "wrong_patient", "no_needle", "heavy_motion", "outside")
#: Kinds that only the wider sets hold: a needle in soft tissue beside the bone, a stranger whose vertebra is full of
#: cement, the CT of quite another person, and the vertebra cut in half by the edge of the field.
LATER_REFUSALS = (*REFUSALS, "beside_bone", "stranger_cement", "other_person", "cut")
#: Kinds made from the phantom's own parameters or its neighbours' places; the others work on a real CT as well.
PHANTOM_ONLY = ("wrong_level", "needle_elsewhere", "wrong_patient", "stranger_cement")


@dataclass(frozen=True)
class Case:
    """One scan to make; `rng` gives everything else about it."""

    chosen: str
    index: int
    anatomy: str
    kind: str = "accuracy"

    def rng(self) -> np.random.Generator:
        others = {"accuracy": 0, "cement": 50, "heights": 60, "physics": 70}
        offset = others[self.kind] if self.kind in others else 1 + LATER_REFUSALS.index(self.kind)
        return np.random.default_rng([SEEDS[self.chosen], offset, self.index])


@dataclass(frozen=True)
class Scene:
    needles: tuple[Needle, ...]
    sides: tuple[str, ...]
    cement: tuple[Cement, ...]
    settings: ScanSettings
    focus: tuple[float, float, float]
    clipped: bool


def accuracy_cases(chosen: str, count: int, anatomies: list[str]) -> list[Case]:
    return [Case(chosen, n, anatomies[n % len(anatomies)]) for n in range(count)]


def cement_cases(chosen: str, count: int, anatomies: list[str]) -> list[Case]:
    """Scans that all hold cement; every third clipped, about half leaking."""
    return [Case(chosen, n, anatomies[n % len(anatomies)], "cement") for n in range(count)]


def refusal_cases(chosen: str, count: int, phantoms: list[str], others: Sequence[str] = ()) -> list[Case]:
    """Kinds in turn; anatomies in turn. `others` (real CTs) take part in the kinds that can be made of them."""
    kinds = LATER_REFUSALS if chosen in WIDER else REFUSALS
    found = []
    for n in range(count):
        kind = kinds[n % len(kinds)]
        names = phantoms if kind in PHANTOM_ONLY else [*phantoms, *others]
        found.append(Case(chosen, n, names[(n // len(kinds) + n) % len(names)], kind))
    return found


def scene(case: Case, anatomy: Anatomy) -> Scene:
    """Needles, cement, pose and scanner of an accuracy scan."""
    rng = case.rng()
    clipped = case.index % 3 == 2
    with_cement = case.kind == "cement" or (case.index + case.index // 8) % 4 == 1
    shape = UNKNOWN_TIPS[case.index // 3 % 3] if case.index % 3 else KNOWN_TIPS[case.index // 3 % 3]
    paths = list(anatomy.plan.trajectories)
    rng.shuffle(paths)  # type: ignore[arg-type]
    paths = paths[: 2 if rng.random() < 0.25 else 1]
    length = float(rng.uniform(2.0, 5.0))
    needles = tuple(_needle(rng, path, anatomy, shape, length) for path in paths)
    cement = (_cement(rng, anatomy, case.index),) if with_cement else ()
    return Scene(
        needles,
        tuple(p.pedicle for p in paths),
        cement,
        _settings(rng, case.index, clipped),
        anatomy.plan.body_centre,
        clipped,
    )


def _needle(
    rng: np.random.Generator, path: Trajectory, anatomy: Anatomy, shape: str, length: float
) -> Needle:
    """Half of them close to the plan, half of them off by enough to breach."""
    entry, target = np.asarray(path.entry), np.asarray(path.target)
    way = (target - entry) / np.linalg.norm(target - entry)
    far = rng.random() < 0.5
    u, v = across(way)
    turn = rng.uniform(0.0, 2.0 * np.pi)
    beside = np.cos(turn) * u + np.sin(turn) * v
    shift = (rng.uniform(1.5, 6.0) if far else rng.uniform(0.0, 1.2)) * beside
    tilt = np.deg2rad(rng.uniform(0.0, 6.0) if far else rng.uniform(0.0, 2.0))
    turn = rng.uniform(0.0, 2.0 * np.pi)
    new_way = way + np.tan(tilt) * (np.cos(turn) * u + np.sin(turn) * v)
    new_way /= np.linalg.norm(new_way)
    middle = 0.5 * (entry + target) + shift
    reach = 0.5 * float(np.linalg.norm(target - entry)) + float(
        rng.uniform(-4.0, 2.0) if far else rng.uniform(-1, 1)
    )
    tip = middle + reach * new_way
    return Needle(_point(tip - 45.0 * new_way), _point(tip), tip_shape=shape, tip_length_mm=length)  # type: ignore[arg-type]


def _cement(rng: np.random.Generator, anatomy: Anatomy, seed: int) -> Cement:
    frame = anatomy.plan.vertebra_frame
    centre = np.asarray(anatomy.plan.body_centre) + rng.uniform(-3.0, 3.0, 3)
    centre = centre + rng.uniform(2.0, 5.0) * np.asarray(frame.anterior)
    leak = None
    if rng.random() < 0.5:
        way = (frame.anterior, frame.left, frame.superior, [-v for v in frame.anterior])[int(rng.integers(4))]
        leak = _point(centre + rng.uniform(17.0, 24.0) * np.asarray(way))
    return Cement(_point(centre), radius_mm=float(rng.uniform(4.5, 7.5)), seed=seed + 1, leak_to=leak)


def _settings(rng: np.random.Generator, seed: int, clipped: bool, **changes: Any) -> ScanSettings:
    """Start errors up to 15 degrees and 20 mm off the middle of the field; where the frame lies is arbitrary anyway."""
    off = rng.standard_normal(3)
    off *= rng.uniform(0.0, 20.0) / np.linalg.norm(off)
    values: dict[str, Any] = {
        "turn_deg": float(rng.uniform(0.0, 15.0)),
        "shift_mm": _point(rng.uniform(-150.0, 150.0, 3)),
        "centre_offset_mm": _point(off),
        "noise_sd": float(rng.uniform(40.0, 80.0)),
        "blur_fwhm_mm": float(rng.uniform(0.65, 0.85)),
        "grey_scale": float(rng.uniform(0.7, 1.0)),
        "grey_offset": float(rng.uniform(-100.0, 200.0)),
        # Three spines a patient: how the neighbours moved is shared by scans, so that they need not be rendered anew.
        "neighbour_mm": (0.6, 1.5, 2.4)[seed // 9 % 3],
        "neighbour_deg": (0.6, 2.4, 1.5)[seed // 9 % 3],
        "neighbour_seed": 40 + seed // 9 % 3,
        "grey_maximum": 3071.0 if clipped else None,
        "seed": 100 + seed,
    }
    return small_settings(**{**values, **changes})


def refused_scene(case: Case, anatomy: Anatomy) -> Scene:
    """A scan that must not be measured. `wrong_patient` is this scene made from another patient's CT."""
    rng = case.rng()
    path = anatomy.plan.trajectories[int(rng.integers(len(anatomy.plan.trajectories)))]
    needle = _needle(rng, path, anatomy, "bevel", 3.5)
    needles: tuple[Needle, ...] = (needle,)
    cement: tuple[Cement, ...] = ()
    centre = np.asarray(anatomy.plan.body_centre)
    focus, changes = centre, {}
    if case.kind == "no_needle":
        needles = ()
    elif case.kind == "needle_elsewhere":
        step = np.asarray(anatomy.neighbours[int(rng.integers(2))]) - centre
        needles = (_moved(needle, step),)
    elif case.kind == "wrong_level":
        side = int(rng.integers(2))
        step = np.asarray(anatomy.neighbours[side]) - centre
        needles, focus = (_moved(needle, step),), centre + step * rng.uniform(1.5, 1.8)
        # A short field, as an examiner who aimed at the wrong level would choose: the planned level is cut or out.
        changes = {"slices": 72, "centre_offset_mm": (2.0, -4.0, 1.0)}
    elif case.kind == "outside":
        frame = anatomy.plan.vertebra_frame
        way = (frame.left, frame.anterior, [-v for v in frame.left])[int(rng.integers(3))]
        focus = centre + rng.uniform(75.0, 95.0) * np.asarray(way)
        changes = {"centre_offset_mm": (0.0, 0.0, 0.0)}
    elif case.kind == "beside_bone":
        needles = (_beside_bone(rng, needle, anatomy, path.pedicle),)
    elif case.kind == "stranger_cement":
        cement = (_cement(rng, anatomy, case.index),)
    elif case.kind == "cut":
        # The body's centre lies on the edge of a short field.
        slices, step = 72, 0.833
        way = (1.0, -1.0)[int(rng.integers(2))]
        focus = centre + way * 0.5 * slices * step * np.asarray(anatomy.plan.vertebra_frame.superior)
        changes = {
            "slices": slices,
            "increment_mm": step,
            "centre_offset_mm": (2.0, -4.0, 0.0),
            "turn_deg": 6.0,
        }
    elif case.kind == "heavy_motion":
        shift = rng.standard_normal(3)
        shift *= rng.uniform(5.0, 9.0) / np.linalg.norm(shift)
        changes = {
            "motion": Motion(
                _point(shift),
                float(rng.uniform(2.0, 5.0)),
                _point(rng.standard_normal(3)),
                kind=("drift", "jerk", "breath")[int(rng.integers(3))],  # type: ignore[arg-type]
            )
        }
    return Scene(
        needles, (path.pedicle,), cement, _settings(rng, case.index, False, **changes), _point(focus), False
    )


def _beside_bone(rng: np.random.Generator, needle: Needle, anatomy: Anatomy, side: str) -> Needle:
    """The needle moved outwards until its axis keeps 6 to 12 mm from the planned vertebra."""
    left = np.asarray(anatomy.plan.vertebra_frame.left)
    outwards = left if side == "left" else -left
    gap = rng.uniform(6.0, 12.0)
    for step in np.arange(10.0, 90.0, 1.0):
        moved = _moved(needle, step * outwards)
        s = np.arange(0.0, 100.0, 0.5)
        path = np.asarray(moved.tip) - s[:, None] * moved.axis
        if anatomy.surface.sample(path, outside=50.0).min() >= gap:
            return moved
    raise ValueError(f"{anatomy.name}: no place beside the bone was found")


def _moved(needle: Needle, step: Array) -> Needle:
    return Needle(
        _point(np.asarray(needle.entry) + step),
        _point(np.asarray(needle.tip) + step),
        tip_shape=needle.tip_shape,
        tip_length_mm=needle.tip_length_mm,
    )


def physics_cases(chosen: str, count: int, anatomies: list[str]) -> list[Case]:
    """Scans that two simulators make of the same scene."""
    return [Case(chosen, n, anatomies[n % len(anatomies)], "physics") for n in range(count)]


def physics_scene(case: Case, anatomy: Anatomy) -> Scene:
    """Three shapes of tip in turn; of eight scans one is clipped, one of a patient who moves, one with cement."""
    rng = case.rng()
    special = {3: "clipped", 4: "motion", 5: "cement"}.get(case.index % 8, "")
    shape = ("bevel", "trocar", "cannula")[(case.index + case.index // 3) % 3]
    path = anatomy.plan.trajectories[int(rng.integers(len(anatomy.plan.trajectories)))]
    needle = _needle(rng, path, anatomy, shape, float(rng.uniform(2.5, 4.5)))
    cement = (_cement(rng, anatomy, case.index),) if special == "cement" else ()
    way = rng.standard_normal(3)
    motion = Motion(_point(1.0 * way / np.linalg.norm(way)), 0.4) if special == "motion" else None
    # 67 mm along the patient hold the vertebra and both discs; every slice more costs time in the physics.
    settings = _settings(rng, case.index, special == "clipped", slices=80, motion=motion)
    return Scene((needle,), (path.pedicle,), cement, settings, anatomy.plan.body_centre, special == "clipped")


def restored_scene(case: Case, anatomy: Anatomy, wedge: float) -> Scene:
    """A scan after the cement: no needle any more, and a part of the lost height regained."""
    rng = case.rng()
    clipped = case.index % 3 == 2
    cement = (_cement(rng, anatomy, case.index),)
    # As high as a real scan, so that both neighbours are in the field.
    changes = {"wedge_after": float(wedge * rng.uniform(0.2, 0.9)), "slices": 184}
    settings = _settings(rng, case.index, clipped, **changes)
    return Scene((), (), cement, settings, anatomy.plan.body_centre, clipped)


def _point(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z
