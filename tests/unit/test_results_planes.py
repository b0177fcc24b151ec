"""Segmentations on sources that are not plain stacks: slices of a tilted gantry, frames of one object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from service.errors import ImagingError
from service.geometry.volume import Volume
from service.imaging.dataset import read_file
from service.imaging.masks import read_mask
from service.imaging.series import load_series
from service.results.seg import build_seg
from tests.support_dicom import ct_slice, save, write_series
from tests.unit import test_results_dicom as results
from tests.unit.test_imaging_enhanced import multi_frame

SIZE, COUNT = 48, 20


def tilted_series(folder: Path, degrees: float) -> list[Path]:
    """Slices that lean by this much, stepping along the table."""
    angle = np.radians(degrees)

    def lean(index: int, ds: pydicom.FileDataset) -> None:
        ds.ImageOrientationPatient = [1, 0, 0, 0, float(np.cos(angle)), float(np.sin(angle))]

    return write_series(folder, COUNT, size=SIZE, spacing_mm=1.0, change=lean)


def ball(ct: Volume, centre: np.ndarray, radius_mm: float) -> Volume:
    grid = np.indices(ct.values.shape)[::-1].reshape(3, -1).T
    inside = np.linalg.norm(ct.to_lps(grid) - centre, axis=1) < radius_mm
    return Volume(
        inside.reshape(ct.values.shape).astype(np.uint8), ct.lps_from_ijk, ct.frame_of_reference_uid
    )


def headers(files: list[Path]) -> list[Dataset]:
    return [read_file(file, pixels=False) for file in files]


def points_of(seg: Dataset) -> np.ndarray:
    """LPS of every voxel that the segmentation marks, by its own frames."""
    found = []
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    spacing = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    frames = np.atleast_3d(seg.pixel_array.reshape(-1, seg.Rows, seg.Columns))
    for frame, group in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array([float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient])
        rows, columns = np.nonzero(frame)
        found.append(
            position
            + np.outer(columns * spacing[1], orientation[:3])
            + np.outer(rows * spacing[0], orientation[3:])
        )
    return np.vstack(found)


@pytest.mark.parametrize("degrees", [-18.5, 12.0])
def test_a_mask_of_a_tilted_ct_goes_back_onto_its_slices(tmp_path: Path, degrees: float) -> None:
    files = tilted_series(tmp_path / "ct", degrees)
    ct = load_series(files).volume
    middle = ct.to_lps((np.array([ct.values.shape[::-1]]) - 1) / 2.0)[0]
    mask = ball(ct, middle, 5.0)
    seg = build_seg(mask, headers(files), results.ORIGIN, level="L1")
    (tmp_path / "seg.dcm").write_bytes(results.bytes_of(seg))
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    points = points_of(read)
    # the ball is where it was, on pixels of the CT's own slices
    np.testing.assert_allclose(points.mean(axis=0), middle, atol=0.15)
    assert np.linalg.norm(points - middle, axis=1).max() < 5.0 + 0.5
    assert len(points) == pytest.approx(mask.values.sum(), rel=0.03)
    positions = {tuple(float(v) for v in pydicom.dcmread(f).ImagePositionPatient) for f in files}
    used = {
        tuple(float(v) for v in g.PlanePositionSequence[0].ImagePositionPatient)
        for g in read.PerFrameFunctionalGroupsSequence
    }
    assert used <= positions
    said = results.run("dciodvfy", "-new", str(tmp_path / "seg.dcm")).splitlines()
    assert [line for line in said if line.startswith("Error")] == []


def test_a_mask_beside_the_slices_of_a_tilted_ct_is_refused(tmp_path: Path) -> None:
    files = tilted_series(tmp_path, -18.5)
    ct = load_series(files).volume
    affine = ct.lps_from_ijk.copy()
    affine[:3, 3] += affine[:3, 2] * 0.3
    moved = Volume(np.ones(ct.values.shape, np.uint8), affine, ct.frame_of_reference_uid)
    with pytest.raises(ImagingError) as refused:
        build_seg(moved, headers(files), results.ORIGIN, level="L1")
    assert refused.value.code == "results.mask_grid"


def bony(ct: Volume) -> Volume:
    """The test series is a ramp of few HU; a vertebra's mask has to lie on bone."""
    return Volume(ct.values + 300, ct.lps_from_ijk, ct.frame_of_reference_uid)


def test_a_mask_of_an_enhanced_ct_refers_to_its_frames(tmp_path: Path) -> None:
    slices = [ct_slice(n, size=SIZE) for n in reversed(range(COUNT))]
    (tmp_path / "ct").mkdir()
    for_all = multi_frame(slices)
    for_all.Rows = for_all.Columns = SIZE
    file = save(for_all, tmp_path / "ct" / "one")
    ct = load_series(file).volume
    mask = ball(ct, np.array([1.0, -9.0, 14.0]), 4.0)
    seg = build_seg(mask, headers([file]), results.ORIGIN, level="L1")
    (tmp_path / "seg.dcm").write_bytes(results.bytes_of(seg))
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    points = points_of(read)
    assert len(points) == mask.values.sum()
    np.testing.assert_allclose(
        np.sort(points, axis=0), np.sort(ct.to_lps(np.argwhere(mask.values)[:, ::-1]), axis=0)
    )
    (reference,) = read.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert reference.ReferencedSOPInstanceUID == for_all.SOPInstanceUID
    again = read_mask(tmp_path / "seg.dcm", bony(ct), level="L1")
    np.testing.assert_array_equal(again.values, mask.values)
    said = results.run("dciodvfy", "-new", str(tmp_path / "seg.dcm")).splitlines()
    assert [line for line in said if line.startswith("Error")] == []


def test_a_segmentation_made_on_tilted_slices_is_read_onto_the_straight_grid(tmp_path: Path) -> None:
    files = tilted_series(tmp_path / "ct", -18.5)
    ct = load_series(files).volume
    middle = ct.to_lps((np.array([ct.values.shape[::-1]]) - 1) / 2.0)[0]
    mask = ball(ct, middle, 5.0)
    seg = build_seg(mask, headers(files), results.ORIGIN, level="L1")
    (tmp_path / "seg.dcm").write_bytes(results.bytes_of(seg))
    again = read_mask(tmp_path / "seg.dcm", bony(ct), level="L1")
    both = (again.values & mask.values).sum()
    assert 2 * both / (again.values.sum() + mask.values.sum()) > 0.95
