"""The fit from seeds: on the phantom with its truth, and on real CT when the data are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from service.geometry.anatomy import Seeds
from service.geometry.isolation import IsolationSettings, isolate_vertebra
from service.geometry.spine_fit import FitSettings, fit_spine
from service.geometry.trajectories import plan_trajectories
from service.geometry.volume import Volume
from simulators.phantom.anatomy import PhantomParameters
from simulators.phantom.study import generate

DATA = Path(os.environ.get("SPINEPRINT_DATA", Path(__file__).resolve().parents[2] / "../shared/data"))


def dice(field: Volume, labels: Volume, number: int) -> float:
    """Overlap of `field < 0` with one label, on the label's own grid."""
    index = np.argwhere(labels.values == number)
    low, high = index.min(axis=0) - 12, index.max(axis=0) + 13
    part = labels.crop((low[2], low[1], low[0]), (high[2], high[1], high[0]))
    k, j, i = np.indices(part.values.shape)
    points = part.to_lps(np.column_stack([i.ravel(), j.ravel(), k.ravel()]))
    mine = field.sample(points, outside=8.0).reshape(part.values.shape) < 0
    truth = part.values == number
    return float(2 * np.sum(mine & truth) / (mine.sum() + truth.sum()))


@pytest.mark.slow  # a minute; the journey isolates the phantom's fracture on every run
def test_phantom_fracture_from_one_seed() -> None:
    phantom = generate(PhantomParameters(pixel_mm=0.8, columns=180, rows=180, increment_mm=1.0))
    ct = Volume(phantom.hu, phantom.lps_from_ijk)
    truth = next(v for v in phantom.truth["vertebrae"] if v["level"] == "L1")
    seed = np.add(truth["body_centre"], [2.0, -1.5, 1.5])
    found = isolate_vertebra(ct, "L1", Seeds(seed))
    labels = Volume(phantom.labels, phantom.lps_from_ijk)
    assert dice(found.outer, labels, phantom.truth["labels"]["L1"]) > 0.92
    assert np.linalg.norm(found.landmarks.body_centre - truth["body_centre"]) < 2.0
    for axis in ("left", "anterior", "superior"):
        assert np.dot(getattr(found.landmarks.frame, axis), truth["frame"][axis]) > np.cos(np.radians(3.0))
    assert len(plan_trajectories(found.outer, found.landmarks).trajectories) == 2


@pytest.mark.slow
@pytest.mark.parametrize("other", ["T12", "L2"])
def test_a_point_in_a_disc_asks_for_a_person(other: str) -> None:
    phantom = generate(PhantomParameters(pixel_mm=0.8, columns=180, rows=180, increment_mm=1.0))
    centres = {v["level"]: np.array(v["body_centre"]) for v in phantom.truth["vertebrae"]}
    seed = 0.5 * (centres["L1"] + centres[other])
    found = isolate_vertebra(Volume(phantom.hu, phantom.lps_from_ijk), "L1", Seeds(seed)).quality
    assert found.confidence < 0.5
    assert any("disc" in reason for reason in found.reasons)


def lumbar(name: str) -> Volume:
    import SimpleITK

    folder = DATA / "totalseg-lumbar-example"
    if not folder.is_dir():
        pytest.skip(f"real CT not found: set SPINEPRINT_DATA ({folder.name} is missing)")
    image = SimpleITK.ReadImage(str(folder / name))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(SimpleITK.GetArrayFromImage(image), affine)


@pytest.mark.data
@pytest.mark.slow
def test_lumbar_ct_from_one_seed() -> None:
    settings = IsolationSettings(fit=FitSettings())
    found = isolate_vertebra(
        lumbar("ct.nii.gz"), "L2", Seeds(np.array([4.0, -137.0, 349.0])), settings=settings
    )
    assert dice(found.outer, lumbar("vertebrae_labels.nii.gz"), 30) > 0.92


@pytest.mark.data
@pytest.mark.slow
def test_the_neighbour_below_is_not_taken_from_the_plate_of_the_disc() -> None:
    """It was found 22 mm below L4, where L5's upper plate lies; its body is 38 mm away."""
    fit = fit_spine(lumbar("ct.nii.gz"), "L4", Seeds(np.array([5.0, -138.6, 278.4])))
    assert np.linalg.norm(fit.neighbours[1].pose.centre - np.array([1.8, -134.2, 242.3])) < 8.0
