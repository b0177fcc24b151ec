"""A small analytic spine for the verification tests: three vertebrae, a planning CT, an O-arm-like scan, a needle.

Everything is a function of position, so the scan is sampled in its own frame and the truth is exact: nothing
is resampled from the planning CT. Written for these tests only and independent of the simulators.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from service.domain.plan import Plan, Trajectory, VertebraFrame
from service.geometry.volume import Volume

PITCH_MM = 34.0


def capsule(p, a, b, radius, flatten=None):
    a, b = np.asarray(a, float), np.asarray(b, float)
    if flatten is not None:
        p, a, b = p / flatten, a / flatten, b / flatten
    along = np.clip(((p - a) @ (b - a)) / ((b - a) @ (b - a)), 0, 1)
    distance = np.linalg.norm(p - a - along[:, None] * (b - a), axis=1) - radius
    return distance * (1.0 if flatten is None else min(flatten))


def smooth_union(f, g, k=2.0):
    h = np.clip(0.5 + 0.5 * (g - f) / k, 0, 1)
    return g * (1 - h) + f * h - k * h * (1 - h)


@dataclass(frozen=True)
class Texture:
    """Sum of random plane waves: the same value at the same place, in whichever frame it is asked."""

    waves: np.ndarray
    phases: np.ndarray

    @staticmethod
    def make(rng, wavelength_mm, count=24):
        direction = rng.normal(size=(count, 3))
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        return Texture(
            direction * (2 * np.pi / rng.uniform(*wavelength_mm, size=(count, 1))),
            rng.uniform(0, 2 * np.pi, count),
        )

    def __call__(self, p):
        total = np.zeros(len(p))
        for wave, phase in zip(self.waves, self.phases, strict=True):
            total += np.cos(p @ wave + phase)
        return total * np.sqrt(2.0 / len(self.phases))


@dataclass(frozen=True)
class Vertebra:
    """Local frame: x left, y back, z head; origin in the middle of the body."""

    rng_seed: int
    parts: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def make(seed):
        rng = np.random.default_rng(seed)

        def vary(value, part=0.12):
            return float(value * (1 + rng.uniform(-part, part)))

        names = {
            "half_width": vary(22), "half_depth": vary(16), "half_height": vary(13), "wedge": rng.uniform(0, 0.2),
            "ped_x": vary(13.5), "ped_z": vary(5.0), "ped_r": vary(4.4), "ped_len": vary(16),
            "tp_len": vary(22), "tp_up": rng.uniform(-3, 8), "tp_len_r": vary(22), "tp_up_r": rng.uniform(-3, 8),
            "spin_len": vary(26), "spin_drop": vary(10, 0.4), "spin_x": rng.uniform(-3, 3),
            "art_up": vary(13), "art_down": vary(15), "lump_x": rng.uniform(-20, 20), "lump_z": rng.uniform(-8, 8),
            "lump_r": vary(4, 0.4),
        }  # fmt: skip
        return Vertebra(seed, names)

    def sdf(self, p):
        q = self.parts
        x, y, z = p.T
        waist = 1 - 0.10 * np.exp(-((z / 7.0) ** 2))
        side = (np.hypot(x / q["half_width"], y / q["half_depth"]) - waist) * q["half_depth"]
        half = q["half_height"] * (1 - q["wedge"] * np.clip(-y / q["half_depth"], -0.3, 1))
        body = np.maximum(side, np.abs(z) - half)
        f = smooth_union(
            body, capsule(p, (q["lump_x"], -13, q["lump_z"]), (q["lump_x"], -10, q["lump_z"]), q["lump_r"])
        )
        back = q["half_depth"] + q["ped_len"]
        for sign, tp_len, tp_up in ((1, q["tp_len"], q["tp_up"]), (-1, q["tp_len_r"], q["tp_up_r"])):
            root = np.array([sign * q["ped_x"], q["half_depth"] - 6, q["ped_z"]])
            mass = np.array([sign * (q["ped_x"] + 3), back, q["ped_z"] - 2])
            tip = mass + np.array([sign * tp_len, 3, tp_up])
            base = np.array([q["spin_x"] * 0.3, back + 9, -6])
            f = smooth_union(f, capsule(p, root, mass, q["ped_r"]))
            f = smooth_union(f, capsule(p, mass, tip, 3.6))
            f = smooth_union(f, capsule(p, mass, base, 3.4, np.array([1, 1, 1.8])))
            f = smooth_union(f, capsule(p, mass, mass + np.array([sign * 1.0, 2, q["art_up"]]), 3.6))
            f = smooth_union(f, capsule(p, mass, mass + np.array([-sign * 3.0, 6, -q["art_down"]]), 3.6))
        end = np.array([q["spin_x"], back + 9 + q["spin_len"], -6 - q["spin_drop"]])
        return smooth_union(f, capsule(p, (q["spin_x"] * 0.3, back + 9, -6), end, 2.6, np.array([1, 1, 2.2])))


@dataclass(frozen=True)
class Patient:
    seed: int
    vertebrae: tuple[Vertebra, ...]
    marrow: Texture
    tissue: Texture

    @staticmethod
    def make(seed):
        rng = np.random.default_rng(1000 + seed)
        return Patient(
            seed,
            tuple(Vertebra.make(10 * seed + k) for k in range(3)),
            Texture.make(rng, (4, 9), 9),
            Texture.make(rng, (15, 40), 6),
        )

    def hu(self, p, offsets=None, levels=(0, 1, 2)):
        """HU at (N, 3) planning LPS points; vertebra k sits at z = (k - 1) pitch, moved by `offsets[k]` mm."""
        values = 20 + 60 * self.tissue(p)
        for k in levels:
            centre = np.array([0, 0, (k - 1) * PITCH_MM]) + (0 if offsets is None else np.asarray(offsets)[k])
            local = p - centre
            near = np.flatnonzero(np.max(np.abs(local - [0, 24, 0]) - [44, 56, 30], axis=1) < 0)
            d = self.vertebrae[k].sdf(local[near])
            near, d = near[d < 1], d[d < 1]
            soft = values[near]
            inner = 140 + 60 * self.marrow(local[near] + 100 * k)
            cortex = np.clip(0.5 - (np.abs(d + 0.5) - 0.5) / 0.8, 0, 1)
            inside = np.clip(0.5 - d / 0.8, 0, 1)
            values[near] = soft + inside * (inner - soft) + cortex * 650
        return values

    def target_sdf(self, p):
        return self.vertebrae[1].sdf(p)


def grid(shape_kji, spacing, centre):
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.asarray(centre) - (np.array(shape_kji[::-1]) - 1) / 2 * np.asarray(spacing)
    k, j, i = np.indices(shape_kji).reshape(3, -1)
    return affine, np.stack([i, j, k], axis=1) @ affine[:3, :3].T + affine[:3, 3]


def planning(patient, *, spacing=(0.8, 0.8, 1.0), half=(52, 58, 46), noise=15.0):
    """(ct Volume, mask Volume, Plan); the vertebra's frame is the LPS frame with its origin in the body."""
    shape = tuple(int(2 * h / s) for h, s in zip(half[::-1], spacing[::-1], strict=True))
    affine, points = grid(shape, spacing, (0, 24, 0))
    rng = np.random.default_rng(patient.seed)
    hu = patient.hu(points).reshape(shape)
    hu = ndimage.gaussian_filter(hu, [0.45 / s for s in spacing[::-1]]) + rng.normal(0, noise, shape)
    mask = (patient.target_sdf(points).reshape(shape) < 0).astype(np.uint8)
    ct = Volume(np.round(hu).astype(np.int16), affine, "1.2.826.0.1.1")
    return ct, Volume(mask, affine, "1.2.826.0.1.1"), plan_for(patient)


def plan_for(patient):
    q = patient.vertebrae[1].parts
    frame = VertebraFrame((0, 0, 0), (1, 0, 0), (0, -1, 0), (0, 0, 1))
    trajectories = []
    for side, sign in (("left", 1), ("right", -1)):
        root = np.array([sign * q["ped_x"], q["half_depth"] - 4, q["ped_z"]])
        mass = np.array([sign * (q["ped_x"] + 3), q["half_depth"] + q["ped_len"], q["ped_z"] - 0.5])
        d = root - mass
        d /= np.linalg.norm(d)
        target = root + d * 14
        entry = target - d * exit_length(patient, target, -d)
        trajectories.append(Trajectory(side, tuple(entry), tuple(target), *plan_angles(d, side), 3.0))
    return Plan("L1", "1.2.826.0.1.1", frame, (0.0, 0.0, 0.0), tuple(trajectories))


def plan_angles(d, side):
    a, left, s = -d[1], d[0], d[2]
    medial = -left if side == "left" else left
    return float(np.degrees(np.arctan2(-s, a))), float(np.degrees(np.arctan2(medial, a)))


def exit_length(patient, start, direction):
    steps = np.arange(0, 90, 0.05)
    d = patient.target_sdf(start + steps[:, None] * direction)
    return float(steps[np.flatnonzero(d > 0)[0]])


@dataclass(frozen=True)
class Needle:
    """Tip and unit axis (towards the tip) in planning LPS; `tip_shape` cone | bevel | flat | diamond."""

    tip: np.ndarray
    axis: np.ndarray
    radius_mm: float = 1.2065
    tip_shape: str = "cone"
    tip_mm: float = 3.0
    length_mm: float = 90.0

    def sdf(self, p):
        back = -(p - self.tip) @ self.axis
        radial_vector = (p - self.tip) + back[:, None] * self.axis
        radial = np.linalg.norm(radial_vector, axis=1)
        side = radial - self.radius_mm
        span = np.maximum(-back, back - self.length_mm)
        across = np.cross(self.axis, [0.3, 0.2, 0.9])
        across /= np.linalg.norm(across)
        if self.tip_shape == "cone":
            side = np.maximum(side, radial - back * self.radius_mm / self.tip_mm)
        elif self.tip_shape == "bevel":
            u = radial_vector @ across
            side = np.maximum(side, (u + self.radius_mm) - back * 2 * self.radius_mm / self.tip_mm)
        elif self.tip_shape == "diamond":
            other = np.cross(self.axis, across)
            for turn in np.arange(3) * 2 * np.pi / 3:
                u = radial_vector @ (np.cos(turn) * across + np.sin(turn) * other)
                side = np.maximum(side, u - back * self.radius_mm / self.tip_mm)
        return np.maximum(side, span)


def rigid(rotvec_deg, translation):
    m = np.eye(4)
    m[:3, :3] = Rotation.from_rotvec(np.radians(rotvec_deg)).as_matrix()
    m[:3, 3] = translation
    return m


def move(m, p):
    return np.atleast_2d(p) @ m[:3, :3].T + m[:3, 3]


#: The last scene without its needles: tests put several needles into the same patient and pose.
_BONE = {}


def scan(
    patient, needles=(), *, preop_from_scan=None, seed=0, spacing=(0.6, 0.6, 0.833), half=(62, 62, 50),
    field_mm=60.0, centre_preop=(0, 22, 0), noise=60.0, gain=0.8, offset=250.0, metal=6000.0, clip=None,
    levels=(0, 1, 2), cement=(), cement_hu=2300.0,
):  # fmt: skip
    """An O-arm-like scan Volume: other frame, affine grey values, cylinder field, blur, noise, metal.

    `field_mm` is the radius of the reconstructed cylinder; grey = gain * HU + offset. `cement` holds balls as
    ((x, y, z), radius), planning LPS mm; needles are put in after them.
    """
    rng = np.random.default_rng(500 + seed)
    pose = np.eye(4) if preop_from_scan is None else preop_from_scan
    centre = move(np.linalg.inv(pose), np.asarray(centre_preop, float))[0]
    shape = tuple(int(2 * h / s) for h, s in zip(half[::-1], spacing[::-1], strict=True))
    affine, points = grid(shape, spacing, centre)
    preop = move(pose, points)
    offsets = np.zeros((3, 3))
    offsets[[0, 2]] = rng.normal(0, 1.0, (2, 3))
    key = (patient.seed, pose.tobytes(), affine.tobytes(), shape, offsets.tobytes(), levels)
    if key not in _BONE:
        _BONE.clear()
        _BONE[key] = patient.hu(preop, offsets, levels)
    hu = _BONE[key].copy()
    for middle, radius in cement:
        inside = np.clip(0.5 - (np.linalg.norm(preop - middle, axis=1) - radius) / 0.5, 0, 1)
        hu += inside * (cement_hu - hu)
    for needle in needles:
        near = np.flatnonzero(
            np.linalg.norm(np.cross(preop - needle.tip, needle.axis), axis=1) < needle.radius_mm + 2
        )
        inside = np.clip(0.5 - needle.sdf(preop[near]) / 0.5, 0, 1)
        hu[near] += inside * (metal - hu[near])
    hu = ndimage.gaussian_filter(hu.reshape(shape), [0.34 / s for s in spacing[::-1]])
    hu += ndimage.gaussian_filter(rng.normal(0, 1, shape), 0.5) * noise / 0.42
    if clip is not None:
        hu = np.minimum(hu, clip)
    grey = gain * hu + offset
    x, y = points[:, 0] - centre[0], points[:, 1] - centre[1]
    grey[(np.hypot(x, y) > field_mm).reshape(shape)] = -900
    return Volume(np.round(grey).astype(np.int16), affine, "1.2.826.0.1.2")


def needle_along(plan, side, *, shift=(0.0, 0.0, 0.0), turn_deg=(0.0, 0.0, 0.0), **shape):
    t = plan.trajectory(side)
    axis = np.subtract(t.target, t.entry)
    axis = Rotation.from_rotvec(np.radians(turn_deg)).apply(axis / np.linalg.norm(axis))
    return Needle(np.asarray(t.target) + shift, axis, **shape)
