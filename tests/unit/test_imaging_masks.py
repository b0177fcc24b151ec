"""Masks from other programs on the CT's grid: the right label, the right place, or a refusal in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.sr.codedict import codes

from service.errors import ImagingError, NotFoundError
from service.geometry.series_gate import GatePolicy
from service.geometry.volume import Volume
from service.imaging.masks import TOTALSEGMENTATOR_LABELS, VERSE_LABELS, read_mask
from service.imaging.nifti import write_nifti
from service.imaging.nrrd import seg_nrrd_bytes
from service.imaging.series import load_series
from tests.support_dicom import write_series


@pytest.fixture
def ct() -> Volume:
    affine = np.diag([0.5, 0.5, 1.0, 1.0])
    affine[:3, 3] = [-10.0, -20.0, 5.0]
    return Volume(np.full((14, 40, 36), 200, np.int16), affine, "1.2.3")


def blob(ct: Volume, value: int = 1) -> Volume:
    """A block that is not symmetric in any axis."""
    values = np.zeros(ct.values.shape, np.int16)
    values[3:9, 8:20, 5:22] = value
    values[3:5, 20:26, 5:9] = value
    return Volume(values, ct.lps_from_ijk)


def on_file(volume: Volume, path: Path) -> Path:
    write_nifti(volume, path)
    return path


def test_single_label_on_the_same_grid_is_copied(ct: Volume, tmp_path: Path) -> None:
    mask = read_mask(on_file(blob(ct, 31), tmp_path / "m.nii.gz"), ct, level="L1")
    assert mask.values.dtype == np.uint8 and mask.frame_of_reference_uid == "1.2.3"
    np.testing.assert_array_equal(mask.values, blob(ct).values)
    np.testing.assert_array_equal(mask.lps_from_ijk, ct.lps_from_ijk)


@pytest.mark.parametrize("orientation", ["LAS", "PIR", "RAI", "SAL"])
def test_other_axis_orders_of_the_same_grid_give_the_same_voxels(
    ct: Volume, tmp_path: Path, orientation: str
) -> None:
    plain = on_file(blob(ct), tmp_path / "plain.nii.gz")
    sitk.WriteImage(
        sitk.DICOMOrient(sitk.ReadImage(str(plain)), orientation), str(tmp_path / "turned.nii.gz")
    )
    mask = read_mask(tmp_path / "turned.nii.gz", ct, level="L1")
    np.testing.assert_array_equal(mask.values, blob(ct).values)


def test_nrrd(ct: Volume, tmp_path: Path) -> None:
    plain = on_file(blob(ct), tmp_path / "plain.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(plain)), str(tmp_path / "m.nrrd"))
    np.testing.assert_array_equal(read_mask(tmp_path / "m.nrrd", ct, level="L1").values, blob(ct).values)


def test_a_segmentation_written_for_3d_slicer_comes_back_the_same(ct: Volume, tmp_path: Path) -> None:
    turned = ct.lps_from_ijk.copy()
    turned[:3, :3] = _about_z(0.2) @ turned[:3, :3] @ np.diag([-1.0, 1.0, 1.0])
    for number, affine in enumerate((ct.lps_from_ijk, turned)):
        scan = Volume(ct.values, affine)
        mask = blob(scan)
        file = tmp_path / f"{number}.seg.nrrd"
        file.write_bytes(seg_nrrd_bytes(mask, "L1 vertebra"))
        assert file.read_bytes() == seg_nrrd_bytes(mask, "L1 vertebra")
        np.testing.assert_array_equal(read_mask(file, scan, level="L1").values, mask.values)
    image = sitk.ReadImage(str(tmp_path / "0.seg.nrrd"))
    assert image.GetMetaData("Segment0_Name") == "L1 vertebra"
    assert image.GetMetaData("Segmentation_MasterRepresentation") == "Binary labelmap"


def _about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def test_a_segment_of_3d_slicer_named_after_another_level_is_refused(ct: Volume, tmp_path: Path) -> None:
    file = tmp_path / "edited.seg.nrrd"
    file.write_bytes(seg_nrrd_bytes(blob(ct), "L2 vertebra"))
    with pytest.raises(ImagingError) as refused:
        read_mask(file, ct, level="L1")
    assert refused.value.code == "imaging.mask_label" and "L2" in refused.value.message
    assert read_mask(file, ct, level="L1", label=1).values.any(), "unless its number is given"


@pytest.mark.parametrize("space", [None, "scanner-xyz", "3D-right-handed", "space dimension: 3"])
def test_an_nrrd_that_does_not_say_where_it_lies_is_refused(
    ct: Volume, tmp_path: Path, space: str | None
) -> None:
    file = nrrd(ct, tmp_path)
    line = {None: b"", "space dimension: 3": b"space dimension: 3\n"}.get(space, f"space: {space}\n".encode())
    raw = file.read_bytes()
    assert b"space: left-posterior-superior\n" in raw
    file.write_bytes(raw.replace(b"space: left-posterior-superior\n", line, 1))
    with pytest.raises(ImagingError, match="does not say where it lies"):
        read_mask(file, ct, level="L1")


def test_an_nrrd_in_ras_lies_where_it_says(ct: Volume, tmp_path: Path) -> None:
    file = nrrd(ct, tmp_path)
    raw = file.read_bytes()
    for old, new in (
        (b"space: left-posterior-superior", b"space: right-anterior-superior"),
        (b"space directions: (0.5,0,0) (0,0.5,0)", b"space directions: (-0.5,0,0) (0,-0.5,0)"),
        (b"space origin: (-10,-20,5)", b"space origin: (10,20,5)"),
    ):
        assert old in raw
        raw = raw.replace(old, new, 1)
    file.write_bytes(raw)
    np.testing.assert_array_equal(read_mask(file, ct, level="L1").values, blob(ct).values)


@pytest.mark.parametrize("sizes", [b"90000 90000 90000", b"900 900 900"])
def test_an_nrrd_that_announces_more_than_it_can_hold_is_refused(
    ct: Volume, tmp_path: Path, sizes: bytes
) -> None:
    file = nrrd(ct, tmp_path)
    file.write_bytes(file.read_bytes().replace(b"sizes: 36 40 14", b"sizes: " + sizes, 1))
    with pytest.raises(ImagingError) as refused:
        read_mask(file, ct, level="L1")
    assert refused.value.code == "imaging.unsafe"


@pytest.mark.parametrize("field", ["data file", "datafile", "Data File", "DATAFILE"])
@pytest.mark.parametrize(
    "named", ["{folder}/other.bin", "other.bin", "LIST\n{folder}/other.bin", "/dev/zero"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_an_nrrd_that_names_another_file_is_refused_and_the_other_is_not_read(
    ct: Volume, tmp_path: Path, field: str, named: str, newline: str
) -> None:
    (tmp_path / "other.bin").write_bytes(bytes([1]) * ct.values.size)
    file = detached(tmp_path / "m.nrrd", f"{field}: {named.format(folder=tmp_path)}", newline)
    with pytest.raises(ImagingError, match="in another file") as refused:
        read_mask(file, ct, level="L1")
    assert refused.value.code == "imaging.mask" and "one .nrrd file" in refused.value.next_step


def test_another_file_cannot_be_named_where_the_header_is_no_longer_looked_at(
    ct: Volume, tmp_path: Path
) -> None:
    (tmp_path / "other.bin").write_bytes(bytes([1]) * ct.values.size)
    last = f"data file: {tmp_path}/other.bin"
    for name, line in (
        ("long.nrrd", "\n".join(["# nothing"] * 450_000) + "\n" + last),
        ("return.nrrd", f"content: mask\r{last}"),
    ):
        with pytest.raises(ImagingError, match="another file") as refused:
            read_mask(detached(tmp_path / name, line, "\n"), ct, level="L1")
        assert refused.value.code == "imaging.mask"


def test_a_header_of_two_files_is_no_mask(ct: Volume, tmp_path: Path) -> None:
    (tmp_path / "m.raw").write_bytes(bytes([1]) * ct.values.size)
    with pytest.raises(ImagingError, match="neither DICOM SEG nor NIfTI nor NRRD"):
        read_mask(detached(tmp_path / "m.nhdr", "data file: m.raw", "\n"), ct, level="L1")


def detached(file: Path, line: str, newline: str) -> Path:
    head = [
        "NRRD0004", "type: unsigned char", "dimension: 3", "space: left-posterior-superior",
        "sizes: 36 40 14", "space directions: (0.5,0,0) (0,0.5,0) (0,0,1)", "encoding: raw",
        "space origin: (-10,-20,5)", *line.split("\n"), "", "",
    ]  # fmt: skip
    file.write_bytes(newline.join(head).encode())
    return file


def nrrd(ct: Volume, folder: Path) -> Path:
    plain = on_file(blob(ct), folder / "plain.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(plain)), str(folder / "m.nrrd"))
    return folder / "m.nrrd"


def test_soft_tissue_is_no_vertebra_and_weak_bone_is_one(ct: Volume, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).normal(45.0, 60.0, ct.values.shape)
    muscle = Volume(noise.astype(np.int16), ct.lps_from_ijk)
    file = on_file(blob(ct), tmp_path / "m.nii.gz")
    with pytest.raises(ImagingError, match="no cortical bone") as refused:
        read_mask(file, muscle, level="L1")
    assert refused.value.code == "imaging.mask_place"
    # Severe osteoporosis: marrow of 60 HU, the cortex one blurred voxel thick.
    weak = np.full(ct.values.shape, 60, np.int16)
    weak[3, 8:20, 5:22] = 220
    read_mask(file, Volume(weak, ct.lps_from_ijk), level="L1")


def test_another_grid_is_interpolated_in_place(ct: Volume, tmp_path: Path) -> None:
    centre, radius = np.array([-1.0, -9.0, 11.5]), 4.0

    def ball(affine: np.ndarray, shape: tuple[int, int, int]) -> Volume:
        grid = Volume(np.zeros(shape, np.uint8), affine)
        index = np.indices(shape)[::-1].reshape(3, -1).T
        distance = np.linalg.norm(grid.to_lps(index) - centre, axis=1)
        return Volume((distance <= radius).reshape(shape).astype(np.uint8), affine)

    fine = np.diag([0.31, 0.31, 0.31, 1.0])
    fine[:3, 3] = [-6.4, -14.3, 6.1]
    mask = read_mask(on_file(ball(fine, (36, 36, 36)), tmp_path / "m.nii.gz"), ct, level="L1")
    expected = ball(ct.lps_from_ijk, ct.values.shape).values
    overlap = 2 * (mask.values * expected).sum() / (mask.values.sum() + expected.sum())
    assert overlap > 0.97
    assert int(mask.values.sum()) == pytest.approx(int(expected.sum()), rel=0.03)


def test_several_labels_need_the_number_and_the_hint_names_it(ct: Volume, tmp_path: Path) -> None:
    labels = blob(ct, 31)
    labels.values[12, 2, 2] = 20
    file = on_file(labels, tmp_path / "m.nii.gz")
    with pytest.raises(ImagingError) as raised:
        read_mask(file, ct, level="L1")
    assert raised.value.code == "imaging.mask_label"
    assert "20, 31" in raised.value.message
    assert "31 if it was made by TotalSegmentator or 20 if it was made by VerSe" in raised.value.next_step
    np.testing.assert_array_equal(read_mask(file, ct, level="L1", label=31).values, blob(ct).values)
    with pytest.raises(ImagingError, match="Label 7 is not in the mask"):
        read_mask(file, ct, level="L1", label=7)


def test_label_tables_agree_with_their_makers() -> None:
    assert [TOTALSEGMENTATOR_LABELS[v] for v in ("S1", "L5", "L1", "T12", "T1", "C7", "C5")] == [
        26,
        27,
        31,
        32,
        43,
        44,
        46,
    ]
    assert [VERSE_LABELS[v] for v in ("C1", "T1", "T12", "L1", "L5")] == [1, 8, 19, 20, 24]


def test_outside_flipped_air_empty_and_fractions_are_refused(ct: Volume, tmp_path: Path) -> None:
    good = blob(ct)
    moved = good.lps_from_ijk.copy()
    moved[0, 3] += 12
    airy = Volume(ct.values.copy(), ct.lps_from_ijk)
    airy.values[:] = -1000
    cases = [
        (Volume(good.values, moved), ct, "imaging.mask_outside", "outside the CT"),
        (good, airy, "imaging.mask_place", "covers air"),
        (Volume(np.zeros_like(good.values), good.lps_from_ijk), ct, "imaging.mask", "empty"),
        (Volume(good.values * np.float32(0.4), good.lps_from_ijk), ct, "imaging.mask", "fractions"),
    ]
    for number, (volume, scan, code, words) in enumerate(cases):
        with pytest.raises(ImagingError, match=words) as raised:
            read_mask(on_file(volume, tmp_path / f"{number}.nii.gz"), scan, level="L1")
        assert raised.value.code == code
    with pytest.raises(NotFoundError):
        read_mask(tmp_path / "absent.nii", ct, level="L1")
    (tmp_path / "text.dcm").write_text("hello")
    with pytest.raises(ImagingError, match="neither DICOM SEG"):
        read_mask(tmp_path / "text.dcm", ct, level="L1")


def seg_file(files: Sequence[Path], masks: Sequence[np.ndarray], names: Sequence[str], path: Path) -> Path:
    """DICOM SEG over the CT files, masks (K, J, I) in slice order, written by highdicom."""
    sources = sorted((pydicom.dcmread(f) for f in files), key=lambda ds: ds.ImagePositionPatient[2])
    segments = [
        hd.seg.SegmentDescription(
            segment_number=n + 1,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Vertebra if hasattr(codes.SCT, "Vertebra") else codes.SCT.Bone,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for n, name in enumerate(names)
    ]
    hd.seg.Segmentation(
        source_images=sources,
        pixel_array=np.stack(masks, axis=-1).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=9,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="T",
        manufacturer_model_name="T",
        software_versions="1",
        device_serial_number="1",
    ).save_as(path)
    return path


def bony(volume: Volume) -> Volume:
    """The test series is a ramp of few HU; a vertebra's mask has to lie on bone."""
    return Volume(volume.values + 300, volume.lps_from_ijk, volume.frame_of_reference_uid)


def test_dicom_seg_by_name_by_number_and_of_another_frame(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 12)
    volume = bony(load_series(tmp_path / "ct").volume)
    one, two = np.zeros((2, 12, 32, 32), np.uint8)
    one[2:6, 4:12, 6:20] = 1
    two[7:9, 10:14, 3:9] = 1
    file = seg_file(files, [one, two], ["vertebrae_L1", "vertebrae_L2"], tmp_path / "seg")
    np.testing.assert_array_equal(read_mask(file, volume, level="L1").values, one)
    np.testing.assert_array_equal(read_mask(file, volume, level="L2").values, two)
    np.testing.assert_array_equal(read_mask(file, volume, level="T12", label=2).values, two)
    with pytest.raises(ImagingError, match="Which of the 2 segments is T12 is not clear"):
        read_mask(file, volume, level="T12")
    with pytest.raises(ImagingError, match="Segment 5 is not"):
        read_mask(file, volume, level="L1", label=5)
    other = Volume(volume.values, volume.lps_from_ijk, "9.9.9")
    with pytest.raises(ImagingError) as raised:
        read_mask(file, other, level="L1")
    assert raised.value.code == "imaging.mask_frame"
    np.testing.assert_array_equal(read_mask(file, other, level="L1", allow_other_frame=True).values, one)


def test_the_only_segment_has_to_be_the_level_asked_for_or_name_none(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 12)
    volume = bony(load_series(tmp_path / "ct").volume)
    one = np.zeros((12, 32, 32), np.uint8)
    one[2:6, 4:12, 6:20] = 1
    file = seg_file(files, [one], ["vertebrae_L3"], tmp_path / "l3")
    with pytest.raises(ImagingError, match="named 'vertebrae_L3', which is L3, but L1") as refused:
        read_mask(file, volume, level="L1")
    assert refused.value.code == "imaging.mask_label"
    np.testing.assert_array_equal(read_mask(file, volume, level="L3").values, one)
    np.testing.assert_array_equal(read_mask(file, volume, level="L1", label=1).values, one)
    plain = seg_file(files, [one], ["Segment 1"], tmp_path / "plain")
    np.testing.assert_array_equal(read_mask(plain, volume, level="L1").values, one)


def test_a_ct_given_as_mask_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path / "ct", 4)
    volume = load_series(tmp_path / "ct", policy=GatePolicy(min_slices=4)).volume
    with pytest.raises(ImagingError, match="no segmentation"):
        read_mask(files[0], volume, level="L1")


@pytest.mark.parametrize("steps", [200, 1000, 300_000])
def test_a_frame_far_away_makes_no_slices_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    files = write_series(tmp_path / "ct", 12)
    volume = bony(load_series(tmp_path / "ct").volume)
    one = np.zeros((12, 32, 32), np.uint8)
    one[2:6, 4:12, 6:20] = 1
    # two segments, so that slices are named twice
    ds = pydicom.dcmread(seg_file(files, [one, one], ["L1", "L2"], tmp_path / "seg"))
    frames = ds.PerFrameFunctionalGroupsSequence
    x, y, z = frames[-2].PlanePositionSequence[0].ImagePositionPatient
    far = float(z) + float(volume.spacing_mm[2]) * steps
    frames[-1].PlanePositionSequence[0].ImagePositionPatient = [x, y, far]
    ds.save_as(tmp_path / "far")

    def built(*_: object, **__: object) -> None:
        raise AssertionError("the slices between were made")

    monkeypatch.setattr(hd.seg.Segmentation, "get_volume", built)
    with pytest.raises(ImagingError, match="lies far away") as refused:
        read_mask(tmp_path / "far", volume, level="L1")
    assert refused.value.code == "imaging.unsafe"
