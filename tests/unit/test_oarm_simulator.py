"""The O-arm simulator: needles, pose and headers of its scans agree with the truth it writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom import dcmread
from scipy import ndimage

from simulators.oarm import (
    TIP_SHAPES,
    Cement,
    Motion,
    Needle,
    Scan,
    ScanSettings,
    make_scan,
    small_settings,
    write_scan,
)
from simulators.oarm.__main__ import join_negative, main
from simulators.oarm.needle import voxel_share
from simulators.pacs import PacsSink
from simulators.phantom import generate, small_parameters, vertebra_sdf, write_study

LEFT = Needle((17.2, 52.7, -226.5), (-1.4, 14.4, -234.4))
RIGHT = Needle((-24.0, 52.7, -226.5), (-5.4, 14.4, -234.4))
TINY: dict[str, Any] = {"columns": 96, "slices": 36, "pixel_mm": 1.4, "increment_mm": 1.2, "field_mm": 130.0}


@pytest.fixture(scope="module")
def preop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("preop")
    write_study(generate(small_parameters()), out)
    return out / "dicom"


@pytest.fixture(scope="module")
def pixels_only(preop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same series without its truth, as a real CT would come."""
    return Path(shutil.copytree(preop, tmp_path_factory.mktemp("real") / "series" / "ct"))


@pytest.fixture(scope="module")
def scanned(preop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scan")
    write_scan(make_scan(preop, needles=[LEFT, RIGHT], settings=small_settings()), out)
    return out


def _read(scanned: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, Any]]:
    """Grey values (k,j,i), scan_from_ijk as SimpleITK reads it, and the truth."""
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(scanned / "dicom"))
    image = SimpleITK.ReadImage(names)
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    truth = json.loads((scanned / "truth.json").read_text())
    return SimpleITK.GetArrayFromImage(image).astype(float), matrix, truth


def test_thresholded_metal_lies_on_the_true_needles(scanned: Path) -> None:
    grey, matrix, truth = _read(scanned)
    points = np.argwhere(grey > 2600)[:, ::-1] @ matrix[:3, :3].T + matrix[:3, 3]
    tips = [np.asarray(n["scan"]["tip"]) for n in truth["needles"]]
    axes = [np.asarray(n["scan"]["axis"]) for n in truth["needles"]]
    away = np.stack(
        [
            np.linalg.norm((points - t) - ((points - t) @ a)[:, None] * a, axis=1)
            for t, a in zip(tips, axes, strict=True)
        ]
    )
    for n, (tip, axis) in enumerate(zip(tips, axes, strict=True)):
        own = points[(away[n] < 3.0) & (away.argmin(axis=0) == n)]
        assert len(own) > 300
        # only the part away from the other needle, where the threshold takes one needle alone
        own = own[(own - tip) @ axis < -12.0]
        middle = own.mean(axis=0)
        beside = (middle - tip) - ((middle - tip) @ axis) * axis
        assert np.linalg.norm(beside) < 0.15
        direction = np.linalg.svd(own - middle, full_matrices=False)[2][0]
        assert np.rad2deg(np.arccos(min(1.0, abs(float(direction @ axis))))) < 0.3


@pytest.mark.parametrize("shape", TIP_SHAPES)
def test_metal_reaches_the_stated_tip_and_not_beyond(shape: Any) -> None:
    needle = Needle((0, 0, 30), (0.3, 0.2, 0), tip_shape=shape)
    grid = (60, 40, 40)
    matrix = np.diag([0.25, 0.25, 0.25, 1.0])
    matrix[:3, 3] = [-5.0, -5.0, -5.0]
    box, share = voxel_share(needle, grid, matrix)
    full = np.zeros(grid, dtype=np.float32)
    full[box] = share
    points = np.argwhere(full > 0.02)[:, ::-1] @ matrix[:3, :3].T + matrix[:3, 3]
    forward = (points - np.asarray(needle.tip)) @ needle.axis
    assert -0.6 < forward.max() < 0.2
    # from 4 mm behind the tip on, the section is the full disc, or the ring of a tube
    heights = matrix[2, 3] + 0.25 * np.arange(grid[0])
    area = full[heights > 4.5].sum(axis=(1, 2)) * 0.25**2
    section = np.pi * (2.413**2 - needle.bore**2) / 4
    assert area == pytest.approx(np.full(len(area), section), rel=0.02)
    assert (needle.bore > 0) == (shape == "cannula")


def test_bone_is_where_the_pose_says(scanned: Path) -> None:
    """Grey on the true cortex of the target is highest in the true pose; any 1.2 mm shift lowers it."""
    grey, matrix, truth = _read(scanned)
    rng = np.random.default_rng(2)
    cloud = np.array([-3.4, 30.0, -232.0]) + rng.uniform(-1, 1, (60000, 3)) * [30.0, 35.0, 20.0]
    d = vertebra_sdf("L1", cloud, small_parameters())
    metal = np.min([n.distance(cloud) for n in (LEFT, RIGHT)], axis=0)
    cortex = cloud[(d > -0.7) & (d < -0.3) & (metal > 4.0)]
    scan_from_preop = np.linalg.inv(np.asarray(truth["preop_from_scan"]))

    def mean(shift: NDArray[np.float64]) -> float:
        moved = (cortex + shift) @ scan_from_preop[:3, :3].T + scan_from_preop[:3, 3]
        ijk = (moved - matrix[:3, 3]) @ np.linalg.inv(matrix[:3, :3]).T
        return float(np.mean(ndimage.map_coordinates(grey, ijk[:, ::-1].T, order=1)))

    best = mean(np.zeros(3))
    for axis in np.eye(3):
        for sign in (1.2, -1.2):
            assert mean(sign * axis) < best - 30


def test_the_pose_is_a_real_move_and_the_truth_is_consistent(scanned: Path) -> None:
    _, _, truth = _read(scanned)
    move = np.asarray(truth["preop_from_scan"])
    assert np.allclose(move[:3, :3] @ move[:3, :3].T, np.eye(3), atol=1e-8)
    assert np.linalg.det(move[:3, :3]) == pytest.approx(1.0)
    assert np.rad2deg(np.arccos((np.trace(move[:3, :3]) - 1) / 2)) == pytest.approx(11.0, abs=0.01)
    for needle in truth["needles"]:
        for name in ("tip", "entry"):
            back = move[:3, :3] @ needle["scan"][name] + move[:3, 3]
            assert back == pytest.approx(needle["preop"][name], abs=1e-6)
        assert 30 < np.linalg.norm(np.subtract(needle["scan"]["tip"], needle["preop"]["tip"])) < 90
    assert set(truth["neighbour_motion_preop"]) == {"T11", "T12", "L2", "L3"}


def test_headers_are_those_of_an_intraoperative_scan(scanned: Path, preop: Path) -> None:
    head, planning = dcmread(scanned / "dicom" / "IM00001.dcm"), dcmread(preop / "IM00001.dcm")
    assert (head.PatientID, head.PatientName) == (planning.PatientID, planning.PatientName)
    assert head.FrameOfReferenceUID != planning.FrameOfReferenceUID
    assert head.StudyInstanceUID != planning.StudyInstanceUID
    assert (head.KVP, head.XRayTubeCurrent, head.PatientPosition) == (120, 25, "HFP")
    assert "O-arm" in head.ManufacturerModelName
    assert float(head.SliceThickness) == pytest.approx(0.833)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools (dciodvfy)")
def test_dciodvfy_finds_no_error(scanned: Path) -> None:
    done = subprocess.run(
        ["dciodvfy", str(scanned / "dicom" / "IM00050.dcm")], capture_output=True, text=True, check=False
    )
    assert "Error" not in done.stderr + done.stdout
    assert "CTImage" in done.stderr + done.stdout


def test_the_field_is_round_and_the_grey_is_not_hu(scanned: Path) -> None:
    grey, _, _ = _read(scanned)
    assert (grey[:, 0, 0] == -1000).all()
    side = (np.arange(256) - 127.5) * 0.6
    inside = np.hypot(*np.meshgrid(side, side)) < 70
    middle = grey[60][inside]
    # muscle and fat of a scan that kept HU would lie between -110 and 60
    assert np.median(middle) > 5
    assert middle.std() > 50


def test_streaks_come_from_metal_only(pixels_only: Path) -> None:
    settings = ScanSettings(**TINY, noise_sd=0.0, cupping=0.0)
    plain, clean = (
        make_scan(pixels_only, needles=n, settings=settings, focus=LEFT.tip).grey.astype(float)
        for n in ([LEFT], [])
    )
    off = make_scan(
        pixels_only,
        needles=[LEFT],
        settings=ScanSettings(**{**TINY, "noise_sd": 0.0, "cupping": 0.0, "streaks": 0.0}),
    ).grey.astype(float)
    changed = np.abs(plain - off)
    with_metal = np.flatnonzero((np.abs(off - clean) > 300).any(axis=(1, 2)))
    far = np.setdiff1d(np.arange(36), np.arange(with_metal[0] - 1, with_metal[-1] + 2))
    assert changed[far].max() == 0
    metal = np.abs(off - clean) > 20
    beside = changed[with_metal][~metal[with_metal]]
    assert beside.std() > 8
    assert beside.max() > 100


def test_grey_maximum_cuts_metal(pixels_only: Path) -> None:
    scan = make_scan(
        pixels_only, needles=[LEFT], settings=ScanSettings(**TINY, grey_maximum=1800.0, streaks=0.0)
    )
    assert scan.grey.max() == 1800
    assert (scan.grey == 1800).sum() > 20


def test_cement_has_the_stated_volume_and_is_bright(pixels_only: Path) -> None:
    blob = Cement((-3.4, 18.0, -233.0), radius_mm=8.0)
    settings = ScanSettings(**{**TINY, "pixel_mm": 0.8, "increment_mm": 0.8}, noise_sd=0.0)
    scan = make_scan(pixels_only, cement=[blob], settings=settings, focus=blob.centre)
    rng = np.random.default_rng(8)
    low, high = blob.box()
    inside = (blob.distance(rng.uniform(low, high, (200000, 3))) < 0).mean() * np.prod(high - low)
    stated = scan.truth["cement"][0]["volume_mm3"]
    assert stated == pytest.approx(inside, rel=0.03)
    assert (scan.grey > 1200).sum() * 0.8**3 == pytest.approx(stated, rel=0.15)


def test_leaking_cement_reaches_the_point_it_leaks_to() -> None:
    tight, leaking = (Cement((0, 0, 0), radius_mm=6.0, leak_to=to) for to in (None, (2.0, 17.0, 1.0)))
    drop = np.array([[2.0, 17.0, 1.0], [2.0, 18.5, 1.0], [1.0, 8.5, 0.5]])
    assert (leaking.distance(drop) < 0).all()
    assert (tight.distance(drop) > 0).all()
    assert leaking.box()[1][1] == pytest.approx(19.0)


def _edge_width(scan: Scan) -> float:
    """Width in voxels of the needle's bright line across the rows: of a still needle about its diameter."""
    bright = scan.grey[18].astype(float) - np.median(scan.grey[18])
    return float((bright > 0.25 * bright.max()).sum())


def test_motion_smears_what_moves_and_keeps_the_total(pixels_only: Path) -> None:
    quiet: dict[str, Any] = {**TINY, "noise_sd": 0.0, "streaks": 0.0, "cupping": 0.0, "turn_deg": 0.0}
    upright = Needle((-3.4, 18.0, -200.0), (-3.4, 18.0, -240.0))
    still, moving = (
        make_scan(
            pixels_only, needles=[upright], settings=ScanSettings(**quiet, motion=motion), focus=upright.tip
        )
        for motion in (None, Motion((6.0, 0.0, 0.0), kind="jerk"))
    )
    assert _edge_width(moving) > 1.6 * _edge_width(still)
    inner = (slice(None), slice(30, 66), slice(30, 66))
    assert moving.grey[inner].mean() == pytest.approx(still.grey[inner].mean(), abs=6)
    nothing = make_scan(
        pixels_only, needles=[upright], settings=ScanSettings(**quiet, motion=Motion()), focus=upright.tip
    )
    assert np.abs(nothing.grey.astype(int) - still.grey).max() <= 1


def test_the_mean_of_a_motion_is_the_stated_pose() -> None:
    for kind in ("drift", "jerk", "breath"):
        motion = Motion((3.0, -1.0, 2.0), 4.0, kind=kind)
        assert motion.shares().mean() == pytest.approx(0.0, abs=1e-9)
        assert np.ptp(motion.shares()) > 0.85
        poses = np.array(motion.poses(np.array([5.0, 6.0, 7.0])))
        centres = poses[:, :3, :3] @ [5.0, 6.0, 7.0] + poses[:, :3, 3]
        assert centres.mean(axis=0) == pytest.approx([5.0, 6.0, 7.0])
    with pytest.raises(ValueError, match="even number"):
        Motion(moments=5)


def test_same_seed_same_bytes_other_seed_other_pose(preop: Path) -> None:
    first, second = (make_scan(preop, needles=[LEFT], settings=ScanSettings(**TINY)) for _ in range(2))
    assert first.grey.tobytes() == second.grey.tobytes()
    other = make_scan(preop, needles=[LEFT], settings=ScanSettings(**TINY, seed=2))
    assert not np.allclose(other.preop_from_scan, first.preop_from_scan, atol=0.1)


def test_a_series_without_truth_is_scanned_as_one_rigid_body(pixels_only: Path) -> None:
    scan = make_scan(pixels_only, needles=[LEFT], settings=ScanSettings(**TINY))
    assert scan.truth["neighbour_motion_preop"] == {}
    assert (scan.grey > 300).sum() > 500


def _agreement(preop: Path, scan: Scan, centre: Any) -> tuple[float, float]:
    """Correlation of grey with the planning CT's HU at the same anatomy, in the true pose and 4 mm beside it."""
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(preop))
    planning = SimpleITK.ReadImage(names)
    hu = SimpleITK.GetArrayFromImage(planning).astype(float)
    rng = np.random.default_rng(4)
    points = np.asarray(centre) + rng.uniform(-1, 1, (20000, 3)) * [35.0, 35.0, 18.0]
    found = []
    for beside in (0.0, 4.0):
        to_index = np.linalg.inv(scan.preop_from_scan @ scan.scan_from_ijk)
        ijk = (points + np.array([beside, 0.0, 0.0])) @ to_index[:3, :3].T + to_index[:3, 3]
        grey = ndimage.map_coordinates(scan.grey.astype(float), ijk[:, ::-1].T, order=1)
        own = (points - planning.GetOrigin()) / planning.GetSpacing()
        found.append(np.corrcoef(grey, ndimage.map_coordinates(hu, own[:, ::-1].T, order=1))[0, 1])
    return float(found[0]), float(found[1])


def test_planning_ct_and_scan_agree_in_the_true_pose(pixels_only: Path) -> None:
    settings = ScanSettings(**{**TINY, "pixel_mm": 0.9, "columns": 148, "increment_mm": 1.0, "slices": 60})
    centre = (-3.4, 30.0, -232.0)
    true, beside = _agreement(pixels_only, make_scan(pixels_only, settings=settings, focus=centre), centre)
    assert true > 0.9
    assert beside < true - 0.15


@pytest.mark.data
def test_a_real_ct_and_its_scan_agree_in_the_true_pose(tmp_path: Path) -> None:
    data = Path(os.environ.get("SPINEPRINT_DATA", Path(__file__).parents[3] / "shared" / "data"))
    packed = data / "rider-thin-thoracic" / "dicom.tar.xz"
    if not packed.exists():
        pytest.skip("needs the real CT data: rider-thin-thoracic/dicom.tar.xz below $SPINEPRINT_DATA")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "ct", filter="data")
    folder = next((tmp_path / "ct").rglob("*.dcm")).parent
    settings = ScanSettings(**{**TINY, "pixel_mm": 0.9, "columns": 148, "increment_mm": 1.0, "slices": 60})
    centre = (-22.0, 40.0, -240.0)
    true, beside = _agreement(folder, make_scan(folder, settings=settings, focus=centre), centre)
    assert true > 0.9
    assert beside < true - 0.1


def test_an_empty_folder_and_a_point_like_needle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no CT series"):
        make_scan(tmp_path)
    with pytest.raises(ValueError, match="1 mm apart"):
        Needle((0, 0, 0), (0, 0, 0.5))


def test_the_command_scans_and_sends_as_another_patient(pixels_only: Path, tmp_path: Path) -> None:
    needle = ["--needle", "-24.0,52.7,-226.5,-5.4,14.4,-234.4"]
    with PacsSink(tmp_path / "sink") as sink:
        to = f"{sink.ae_title}@127.0.0.1:{sink.port}"
        arguments = ["scan", "--preop", str(pixels_only), *needle, "--out", str(tmp_path / "scan"), "--small"]
        code = main([*arguments, "--streaks", "0", "--patient-id", "OTHER-7", "--send", to])
        assert code == 0
        assert len(sink.received) == 120
        assert {entry["calling_ae"] for entry in sink.received} == {"OARM"}
        assert dcmread(sink.path_of(sink.received[0])).PatientID == "OTHER-7"
    truth = json.loads((tmp_path / "scan" / "truth.json").read_text())
    assert truth["needles"][0]["preop"]["entry"] == [-24.0, 52.7, -226.5]


def test_negative_points_are_glued_to_their_option() -> None:
    assert join_negative(["scan", "--needle", "-1,2,3,4,5,6", "--seed", "3"]) == [
        "scan",
        "--needle=-1,2,3,4,5,6",
        "--seed",
        "3",
    ]
