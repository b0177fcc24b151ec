"""The spine phantom: its voxels agree with its own truth, its headers are valid and its left is left."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom import dcmread
from scipy import ndimage

from simulators.phantom import (
    Phantom,
    PhantomParameters,
    generate,
    small_parameters,
    vertebra_sdf,
    write_study,
)
from simulators.phantom.__main__ import main
from simulators.phantom.anatomy import spine_poses
from simulators.phantom.render import planning_grid, slab_weights
from simulators.phantom.shape import Limb, pedicle_limb

L1 = 20


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return generate(small_parameters())


@pytest.fixture(scope="module")
def study(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    write_study(phantom, out)
    return out


def _vertebra(truth: dict[str, Any], level: str) -> dict[str, Any]:
    return next(v for v in truth["vertebrae"] if v["level"] == level)


def _voxel_points(phantom: Phantom, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    kji = np.argwhere(mask)
    return kji[:, ::-1] @ phantom.lps_from_ijk[:3, :3].T + phantom.lps_from_ijk[:3, 3]


def _value_at(phantom: Phantom, point: Any) -> float:
    ijk = np.linalg.solve(phantom.lps_from_ijk[:3, :3], np.asarray(point) - phantom.lps_from_ijk[:3, 3])
    return float(ndimage.map_coordinates(phantom.hu.astype(float), ijk[::-1, None], order=1)[0])


def test_grey_values_by_tissue(phantom: Phantom) -> None:
    label = phantom.labels == L1
    deep = ndimage.binary_erosion(label, iterations=4)
    marrow = phantom.hu[deep].astype(float)
    assert 85 < marrow.mean() < 125
    assert 35 < marrow.std() < 75
    inside = ndimage.distance_transform_edt(label, sampling=(1.0, 0.8, 0.8))
    cortex = phantom.hu[(inside > 0.1) & (inside < 0.9)]
    assert 350 < np.median(cortex) < 700
    truth = _vertebra(phantom.truth, "L1")
    below = np.asarray(truth["lower_endplate"]["centre"]) - 3.7 * np.asarray(truth["frame"]["superior"])
    disc = [_value_at(phantom, below + np.array([dx, dy, 0.0])) for dx in (-6, 0, 6) for dy in (-5, 0, 5)]
    assert 70 < np.mean(disc) < 110
    canal = np.asarray(truth["canal_centre"])
    assert -20 < np.mean([_value_at(phantom, canal + np.array([0, 0, dz])) for dz in range(-6, 7)]) < 70
    assert phantom.hu[:, -1, 0].mean() < -950


def test_the_trabecular_mean_asked_for_is_the_one_found() -> None:
    made = generate(small_parameters(trabecular_mean_hu=60.0, trabecular_sd_hu=20.0, columns=96, rows=112))
    deep = ndimage.binary_erosion(made.labels == L1, iterations=4)
    assert made.hu[deep].mean() == pytest.approx(62, abs=14)


def test_left_is_the_longer_transverse_process_and_the_aorta_side(phantom: Phantom) -> None:
    points = _voxel_points(phantom, phantom.labels == L1)
    centre = np.asarray(_vertebra(phantom.truth, "L1")["body_centre"])
    reach_left = (points[:, 0] - centre[0]).max()
    reach_right = (centre[0] - points[:, 0]).max()
    assert reach_left - reach_right == pytest.approx(7.0, abs=1.0)
    # the spinous process is posterior (+y), the front of the body is anterior (-y)
    assert (points[:, 1] - centre[1]).max() > 45
    assert 12 < (centre[1] - points[:, 1]).max() < 20
    level = centre + np.array([0.0, -29.0, 0.0])
    left = [_value_at(phantom, level + np.array([9, 0, dz])) for dz in range(-8, 9)]
    right = [_value_at(phantom, level + np.array([-28, 0, dz])) for dz in range(-8, 9)]
    assert np.mean(left) > 20 > np.mean(right)


def test_truth_frames_follow_the_clinical_definition(phantom: Phantom) -> None:
    for vertebra in phantom.truth["vertebrae"]:
        frame = {key: np.asarray(value) for key, value in vertebra["frame"].items()}
        axes = np.stack([frame["left"], frame["anterior"], frame["superior"]], axis=1)
        assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-5)
        # left x superior = anterior in LPS
        assert np.allclose(np.cross(frame["left"], frame["superior"]), frame["anterior"], atol=1e-5)
        assert frame["left"][0] > 0.9
        assert frame["anterior"][1] < -0.9
        assert frame["superior"][2] > 0.9
        normals = [np.asarray(vertebra[k]["normal"]) for k in ("upper_endplate", "lower_endplate")]
        assert np.allclose(
            np.sum(normals, axis=0) / np.linalg.norm(np.sum(normals, axis=0)), frame["superior"], atol=1e-5
        )


@pytest.mark.parametrize("wedge", [0.0, 0.3, 0.6])
def test_endplates_and_heights_lie_on_the_surface(wedge: float) -> None:
    parameters = PhantomParameters(wedge=wedge)
    pose = spine_poses(parameters)["L1"]
    half, depth = pose.half_height_mm, pose.size.depth_mm
    # walk along z near the front and back rim, where dishing is small, until the surface is crossed
    for y, lost in ((-0.40 * depth, 0.90), (0.40 * depth, 0.10)):
        z = np.linspace(half + 3.0, -half - 3.0, 1200)
        d = vertebra_sdf(
            "L1", pose.to_lps(np.stack([np.zeros_like(z), np.full_like(z, y), z], axis=1)), parameters
        )
        inside = z[d < 0]
        assert inside.max() == pytest.approx(half - wedge * 2 * half * lost, abs=1.3)
        assert inside.min() == pytest.approx(-half, abs=1.3)


def test_the_pedicle_isthmus_has_the_width_of_the_truth() -> None:
    parameters = PhantomParameters(pedicle_width_mm=6.0)
    pose = spine_poses(parameters)["L1"]
    for side in (1, -1):
        limb = pedicle_limb(pose, side)
        start, end = np.asarray(limb.start), np.asarray(limb.end)
        way = (end - start) / np.linalg.norm(end - start)
        across = np.cross([0.0, 0.0, 1.0], way)
        t = np.linspace(-7, 7, 2801)
        widths = []
        for share in np.linspace(0.35, 0.65, 7):
            line = start + share * (end - start) + t[:, None] * across / np.linalg.norm(across)
            d = vertebra_sdf("L1", pose.to_lps(line), parameters)
            run = np.flatnonzero(d < 0)
            widths.append(t[run[-1]] - t[run[0]])
        assert widths[3] == pytest.approx(6.0, abs=0.1)
        assert min(widths) > 5.9


def test_the_distance_is_a_distance() -> None:
    """Walking along the gradient by the stated distance ends on the surface."""
    parameters = PhantomParameters()
    pose = spine_poses(parameters)["L1"]
    rng = np.random.default_rng(5)
    cloud = pose.to_lps(rng.uniform([-35, -20, -25], [35, 55, 20], (4000, 3)))
    d = vertebra_sdf("L1", cloud, parameters)
    near = cloud[np.abs(d) < 1.5]
    d = d[np.abs(d) < 1.5]
    step = 0.05
    gradient = np.stack(
        [(vertebra_sdf("L1", near + step * e, parameters) - d) / step for e in np.eye(3)], axis=1
    )
    gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
    left = np.abs(vertebra_sdf("L1", near - gradient * d[:, None], parameters))
    assert np.median(left) < 0.05
    assert np.percentile(left, 95) < 0.3


def test_a_limb_of_equal_radii_is_a_capsule() -> None:
    limb = Limb((0, 0, 0), (0, 0, 10), (2, 2), (2, 2), up=(0, 1, 0))
    points = np.array([[5, 0, 5], [0, 0, 15], [0, 1, 5], [3, 0, -4]], dtype=np.float32)
    assert limb.distance(points) == pytest.approx([3.0, 3.0, -1.0, 3.0], abs=1e-4)


@pytest.mark.parametrize("gap", [1.0, 1.6, 3.0])
def test_facet_joints_stay_open(gap: float) -> None:
    """No point may lie in two vertebrae, and the nearest bones of neighbours are about one gap apart."""
    parameters = PhantomParameters(facet_gap_mm=gap)
    poses = spine_poses(parameters)
    rng = np.random.default_rng(3)
    joint = 0.5 * (poses["L1"].origin + poses["L2"].origin) + [0.0, 33.0, -2.0]
    points = joint + rng.uniform(-1, 1, (60000, 3)) * [24.0, 14.0, 16.0]
    d1, d2 = vertebra_sdf("L1", points, parameters), vertebra_sdf("L2", points, parameters)
    assert (d1 < 0).sum() > 500
    assert (d2 < 0).sum() > 500
    assert not ((d1 < 0) & (d2 < 0)).any()
    from_surface = d2[np.abs(d1) < 0.1]
    # the model's distances run short where a process is flat, which narrows the gap by up to a third
    assert 0.6 * gap < from_surface.min() < 1.25 * gap


def test_volume_and_labels_agree_with_the_distance_model(phantom: Phantom) -> None:
    mask = phantom.labels == L1
    counted = mask.sum() * 0.8 * 0.8 * 1.0
    stated = _vertebra(phantom.truth, "L1")["volume_mm3"]
    assert stated == pytest.approx(counted, rel=0.02)
    points = _voxel_points(phantom, mask)
    assert (vertebra_sdf("L1", points, phantom.parameters) < 0.02).mean() > 0.999
    finer = generate(PhantomParameters(columns=176, rows=200, pixel_mm=0.7))
    assert _vertebra(finer.truth, "L1")["volume_mm3"] == pytest.approx(stated, rel=0.01)


def test_neighbours_exist_and_the_ends_are_partial(phantom: Phantom) -> None:
    complete = {v["level"]: v["complete"] for v in phantom.truth["vertebrae"]}
    assert complete == {"T11": False, "T12": True, "L1": True, "L2": True, "L3": False}
    for level, label in phantom.truth["labels"].items():
        if level != "ribs":
            touches = (phantom.labels[[0, -1]] == label).any()
            assert touches == (not complete[level])
    for name, level in (("above", "T12"), ("target", "L1"), ("below", "L2")):
        seed = np.asarray(phantom.truth["seeds"][name])[None]
        assert vertebra_sdf(level, seed, phantom.parameters)[0] < -5.0


def test_scoliosis_level_and_scale_change_what_they_say() -> None:
    leaning = spine_poses(PhantomParameters(scoliosis_deg=10.0))
    assert np.rad2deg(np.arcsin(leaning["T12"].axes[0, 2])) == pytest.approx(5.0, abs=0.1)
    tall = spine_poses(PhantomParameters(height_scale=1.2))
    assert tall["L1"].half_height_mm == pytest.approx(1.2 * 0.5 * 25.5)
    assert list(spine_poses(PhantomParameters(level="T12"))) == ["T10", "T11", "T12", "L1", "L2"]
    for wrong in ({"level": "S1"}, {"wedge": 0.7}, {"pixel_mm": 0.0}):
        with pytest.raises(ValueError):
            PhantomParameters(**wrong)  # type: ignore[arg-type]


def test_same_seed_same_bytes_other_seed_other_noise() -> None:
    tiny = {"columns": 64, "rows": 64, "pixel_mm": 1.6, "increment_mm": 2.0}
    first, second = generate(PhantomParameters(**tiny)), generate(PhantomParameters(**tiny))
    assert first.hu.tobytes() == second.hu.tobytes()
    other = generate(PhantomParameters(seed=2, **tiny))
    assert other.hu.tobytes() != first.hu.tobytes()
    assert (other.labels == first.labels).all()


def test_slab_weights_are_a_box() -> None:
    assert slab_weights(1.0, 0.5) == pytest.approx([0.25, 0.5, 0.25])
    assert slab_weights(1.0, 1.0) == pytest.approx([1.0])
    assert slab_weights(3.0, 1.0) == pytest.approx([1 / 3] * 3)


def test_the_full_preset_has_the_planned_size() -> None:
    parameters = PhantomParameters()
    grid = planning_grid(spine_poses(parameters), parameters)
    assert grid.shape[1:] == (256, 256)
    assert 200 <= grid.shape[0] <= 280


def test_the_series_reads_back_in_place(study: Path, phantom: Phantom) -> None:
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(study / "dicom"))
    image = SimpleITK.ReadImage(names)
    assert (SimpleITK.GetArrayFromImage(image) == phantom.hu).all()
    assert image.GetOrigin() == pytest.approx(tuple(phantom.lps_from_ijk[:3, 3]), abs=1e-3)
    assert image.GetSpacing() == pytest.approx((0.8, 0.8, 1.0), abs=1e-4)
    labels = SimpleITK.ReadImage(str(study / "truth_labels.nii.gz"))
    assert (SimpleITK.GetArrayFromImage(labels) == phantom.labels).all()
    assert labels.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-3)
    truth = json.loads((study / "truth.json").read_text())
    head = dcmread(study / "dicom" / "IM00001.dcm")
    assert (head.KVP, head.XRayTubeCurrent, head.SliceThickness) == (120, 250, 1)
    assert (head.PatientName, head.PatientID) == ("PHANTOM^ONE", "PH-0001")
    assert head.FrameOfReferenceUID == truth["frame_of_reference_uid"]
    centre = truth["seeds"]["target"]
    index = image.TransformPhysicalPointToIndex(centre)
    assert labels.GetPixel(index) == L1


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools (dciodvfy)")
def test_dciodvfy_finds_no_error(study: Path) -> None:
    for name in ("IM00001.dcm", "IM00060.dcm"):
        done = subprocess.run(
            ["dciodvfy", str(study / "dicom" / name)], capture_output=True, text=True, check=False
        )
        assert "Error" not in done.stderr + done.stdout
        assert "CTImage" in done.stderr + done.stdout


def test_the_command_writes_a_study_and_names_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--columns", "64", "--rows", "64", "--pixel-mm", "1.6", "--increment-mm", "2"]
    assert main(["--out", str(tmp_path), "--level", "L2", "--wedge", "0.1", *size]) == 0
    assert json.loads((tmp_path / "truth.json").read_text())["target"] == "L2"
    assert len(list((tmp_path / "dicom").glob("*.dcm"))) > 40
    assert main(["--out", str(tmp_path), "--level", "C4"]) == 2
    assert "C4" in capsys.readouterr().err
