"""Planning sides of the bench: phantom variants and two real CTs, isolated and planned by the service itself.

The service takes each vertebra from a mask (the phantom's own label map, or a real CT's label) or isolates it from
seed points (the other real CT; all of them with SPINEPRINT_BENCH_ISOLATE=1, which takes half a minute each), finds
its frame and plans the needle paths, as it does for a hospital's CT. How good isolation is, is measured elsewhere.
Prepared anatomies are kept in the work folder.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from service.domain.plan import ModelSettings, Plan, plan_from_document, plan_to_document
from service.geometry.anatomy import Isolation, Seeds
from service.geometry.isolation import isolate_vertebra, isolation_from_mask
from service.geometry.registration_model import VertebraModel, build_model
from service.geometry.trajectories import plan_trajectories
from service.geometry.verification import VerificationSettings
from service.geometry.volume import Volume
from service.imaging.masks import read_mask
from service.imaging.nifti import read_nifti, write_nifti
from service.imaging.series import load_series
from service.workflow.tasks.verify_task import settings_for
from simulators.phantom import PhantomParameters, generate, write_study
from simulators.phantom.distance import TrueDistance

#: Sets with the wider choice of scans to be refused.
WIDER = ("later", "newer")

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SPINEPRINT_DATA", ROOT.parent / "shared" / "data"))

#: Tuning: settings of the software may be chosen by looking at scans of these.
TUNING: Mapping[str, PhantomParameters] = {
    "tune-L1": PhantomParameters(level="L1", wedge=0.3, seed=101),
    "tune-L3": PhantomParameters(level="L3", wedge=0.15, seed=102, trabecular_mean_hu=140.0),
    "tune-T12": PhantomParameters(level="T12", wedge=0.4, seed=103, cortex_mm=0.7, trabecular_mean_hu=70.0),
}
#: Acceptance: never looked at while choosing.
ACCEPTANCE: Mapping[str, PhantomParameters] = {
    "T11": PhantomParameters(level="T11", wedge=0.2, seed=201),
    "T12-porotic": PhantomParameters(
        level="T12", wedge=0.45, seed=202, trabecular_mean_hu=60.0, trabecular_sd_hu=40.0, cortex_mm=0.7
    ),
    "L1-wedge": PhantomParameters(level="L1", wedge=0.35, seed=203, height_scale=0.95),
    "L2-scoliosis": PhantomParameters(level="L2", wedge=0.1, seed=204, scoliosis_deg=8.0),
    "L3-coarse": PhantomParameters(level="L3", wedge=0.25, seed=205, increment_mm=1.0, pixel_mm=0.7,
                                   columns=200, rows=200),
    "L1-dense": PhantomParameters(level="L1", wedge=0.0, seed=206, trabecular_mean_hu=160.0, cortex_mm=1.2),
}  # fmt: skip

#: Drawn after the acceptance anatomies had been looked at (wedges, sizes and bone of their own): nothing was chosen on
#: them before their first run, which docs/accuracy-verify.md reports.
LATER: Mapping[str, PhantomParameters] = {
    "T11-wedge": PhantomParameters(level="T11", wedge=0.35, seed=301, height_scale=0.92, trabecular_mean_hu=85.0),
    "T12-scoliosis": PhantomParameters(level="T12", wedge=0.15, seed=302, scoliosis_deg=6.0),
    "L1-porotic": PhantomParameters(level="L1", wedge=0.45, seed=303, trabecular_mean_hu=65.0, cortex_mm=0.7),
    "L2-tall": PhantomParameters(level="L2", wedge=0.25, seed=304, height_scale=1.06, pixel_mm=0.45,
                                 columns=300, rows=300, increment_mm=0.8),
    "L3-dense": PhantomParameters(level="L3", wedge=0.05, seed=305, trabecular_mean_hu=150.0, cortex_mm=1.1),
    "L2-narrow": PhantomParameters(level="L2", wedge=0.3, seed=306, pedicle_width_mm=6.2),
}  # fmt: skip

#: For cement after the shadow of a needle had been dealt with, which scans of the other sets had shown.
LATEST: Mapping[str, PhantomParameters] = {
    "T12-dense": PhantomParameters(level="T12", wedge=0.1, seed=401, trabecular_mean_hu=155.0, cortex_mm=1.2),
    "L1-tall": PhantomParameters(level="L1", wedge=0.2, seed=402, height_scale=1.05, trabecular_mean_hu=110.0),
    "L2-porotic": PhantomParameters(level="L2", wedge=0.4, seed=403, trabecular_mean_hu=60.0, cortex_mm=0.7),
    "L3-dense-wedge": PhantomParameters(level="L3", wedge=0.25, seed=404, trabecular_mean_hu=145.0, cortex_mm=1.1),
}  # fmt: skip

#: For cement after strands were followed to their end and a needle's halo was learnt from its shaft, which `latest` had
#: asked for. Run once.
UNSEEN: Mapping[str, PhantomParameters] = {
    "T11-dense": PhantomParameters(level="T11", wedge=0.15, seed=501, trabecular_mean_hu=150.0, cortex_mm=1.15),
    "T12-narrow": PhantomParameters(level="T12", wedge=0.3, seed=502, pedicle_width_mm=6.4, trabecular_mean_hu=90.0),
    "L1-scoliosis": PhantomParameters(level="L1", wedge=0.25, seed=503, scoliosis_deg=7.0),
    "L2-dense": PhantomParameters(level="L2", wedge=0.05, seed=504, trabecular_mean_hu=150.0, cortex_mm=1.2),
    "L3-porotic": PhantomParameters(level="L3", wedge=0.35, seed=505, trabecular_mean_hu=65.0, cortex_mm=0.7),
}  # fmt: skip


#: Sets of phantoms only.
CEMENT_ONLY: Mapping[str, Mapping[str, PhantomParameters]] = {"latest": LATEST, "unseen": UNSEEN}


@dataclass(frozen=True)
class RealCt:
    """A CT of the data folder: its packed series and seed points, or the number of a label in its label file."""

    packed: str
    level: str
    seeds: dict[str, tuple[float, float, float]] | None = None
    labels: str = ""
    label: int = 0


REAL: Mapping[str, RealCt] = {
    "rider-thoracic": RealCt(
        "rider-thin-thoracic/dicom.tar.xz",
        "T11",
        {
            "target": (-22.0, 24.0, -234.0),
            "above": (-22.0, 27.0, -210.0),
            "below": (-22.0, 20.0, -264.0),
        },
    ),
    "lidc-T12": RealCt(
        "lidc-idri-0001/dicom.tar.xz", "T12", None, "lidc-idri-0001/vertebrae_labels.nii.gz", 32
    ),
}


@dataclass(frozen=True, eq=False)
class Anatomy:
    """`folder` holds the CT as DICOM. `surface` is the true outer surface (signed distance, mm, negative inside)."""

    name: str
    folder: Path
    model: VertebraModel
    mask: Volume
    outer: Volume
    plan: Plan
    surface: Volume
    neighbours: tuple[tuple[float, float, float], ...]
    """Body centres one level up and down where they are known."""
    settings: VerificationSettings
    """As the service takes them from the model's report: where the bone's edge lies beside `outer`."""


def names(chosen: str) -> list[str]:
    """Names of a set of `cases.SEEDS`; real CTs only where their data are present."""
    if chosen == "tuning":
        return list(TUNING)
    found = [name for name, real in REAL.items() if (DATA / real.packed).is_file()]
    if chosen in CEMENT_ONLY:
        return list(CEMENT_ONLY[chosen])
    return [*(LATER if chosen in WIDER else ACCEPTANCE), *found]


def missing() -> list[str]:
    return [name for name, real in REAL.items() if not (DATA / real.packed).is_file()]


@lru_cache(maxsize=2)
def load(name: str, work: Path) -> Anatomy:
    """The anatomy ready to be scanned; made once, then read from `work`/name."""
    folder = work / name
    if not (folder / "plan.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        _make(name, folder)
    ct = load_series(folder / "dicom").volume
    plan = plan_from_document(json.loads((folder / "plan.json").read_text()))
    outer = read_nifti(folder / "outer.nii.gz")
    known = json.loads((folder / "known.json").read_text())
    mask = read_nifti(folder / "mask.nii.gz")
    return Anatomy(
        name=name,
        folder=folder / "dicom",
        model=build_model(ct, mask),
        mask=mask,
        outer=outer,
        plan=plan,
        surface=_true_surface(name, outer, folder / "true-distance.npy"),
        neighbours=tuple(tuple(v) for v in known["neighbours"]),
        settings=settings_for({"model_report": str(folder / "report.json")}),
    )


def parameters(name: str) -> PhantomParameters | None:
    return next((group[name] for group in (TUNING, ACCEPTANCE, LATER, LATEST, UNSEEN) if name in group), None)


def stranger(name: str, work: Path) -> Path:
    """DICOM folder of another patient of the same level and shape of fracture: another texture, size and pedicle."""
    own = parameters(name)
    if own is None:
        raise ValueError(f"{name} is no phantom")
    folder = work / f"{name}-stranger"
    if not (folder / "dicom").is_dir():
        other = replace(own, seed=own.seed + 5000, longer_left_transverse_mm=4.0)
        write_study(generate(other), folder, patient_id="PH-9999")
    return folder / "dicom"


def _true_surface(name: str, outer: Volume, kept: Path) -> Volume:
    """Distance from the phantom's own surface, where the service's field lies; of a real CT that field itself."""
    own = parameters(name)
    if own is None:
        return outer
    if not kept.is_file():
        coarse = outer.values[::2, ::2, ::2]
        k, j, i = np.indices(coarse.shape).reshape(3, -1) * 2
        points = outer.to_lps(np.stack([i, j, k], axis=1).astype(np.float64))
        near = np.flatnonzero(np.abs(coarse.ravel()) < 7.0)
        values = coarse.astype(np.float32).ravel().copy()
        low, high = points[near].min(axis=0) - 3.0, points[near].max(axis=0) + 3.0
        values[near] = TrueDistance(own.level, low, high, own)(points[near])
        np.save(kept, values.reshape(coarse.shape))
    # Every second voxel: between them a distance is straight to within 0.03 mm.
    affine = outer.lps_from_ijk.copy()
    affine[:3, :3] *= 2.0
    return Volume(np.load(kept), affine, outer.frame_of_reference_uid)


def _make(name: str, folder: Path) -> None:
    own = parameters(name)
    known: dict[str, Any] = {"neighbours": []}
    if own is not None:
        phantom = generate(own)
        write_study(phantom, folder)
        seeds = {k: np.asarray(v, dtype=np.float64) for k, v in phantom.truth["seeds"].items()}
        known["neighbours"] = [phantom.truth["seeds"][k] for k in ("above", "below")]
        known["parameters"] = asdict(own)
        ct = load_series(folder / "dicom").volume
        if os.environ.get("SPINEPRINT_BENCH_ISOLATE"):
            isolation = isolate_vertebra(ct, own.level, Seeds(**seeds))
        else:
            number = phantom.truth["labels"][own.level]
            mask = read_mask(folder / "truth_labels.nii.gz", ct, level=own.level, label=number)
            isolation = isolation_from_mask(ct, mask, own.level)
        level = own.level
    else:
        isolation, level, ct = _real(REAL[name], folder)
    planned = plan_trajectories(isolation.outer, isolation.landmarks)
    if not planned.trajectories:
        raise SystemExit(f"{name}: no needle path can be planned: {' '.join(planned.unmet)}")
    centre = isolation.landmarks.body_centre
    plan = Plan(
        level=level,
        frame_of_reference_uid=ct.frame_of_reference_uid,
        vertebra_frame=isolation.landmarks.frame,
        body_centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        trajectories=planned.trajectories,
        model=ModelSettings(),
    )
    write_nifti(isolation.mask, folder / "mask.nii.gz")
    write_nifti(
        replace(isolation.outer, values=isolation.outer.values.astype(np.float32)), folder / "outer.nii.gz"
    )
    (folder / "known.json").write_text(json.dumps(known))
    (folder / "report.json").write_text(json.dumps({"isolation": {"surface": asdict(isolation.surface)}}))
    (folder / "plan.json").write_text(json.dumps(plan_to_document(plan)))


def _real(real: RealCt, folder: Path) -> tuple[Isolation, str, Volume]:
    folder.mkdir(parents=True)
    with tarfile.open(DATA / real.packed) as archive:
        archive.extractall(folder / "packed", filter="data")
    first = next(p for p in sorted((folder / "packed").rglob("*")) if p.is_file())
    shutil.move(str(first.parent), folder / "dicom")
    ct = load_series(folder / "dicom").volume
    if real.seeds is not None:
        seeds = Seeds(**{k: np.asarray(v) for k, v in real.seeds.items()})
        return isolate_vertebra(ct, real.level, seeds), real.level, ct
    mask = read_mask(DATA / real.labels, ct, level=real.level, label=real.label)
    return isolation_from_mask(ct, mask, real.level), real.level, ct
