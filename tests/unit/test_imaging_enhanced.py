"""Enhanced CT and X-ray 3D objects read to the same volume as their classic twin, however their frames are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from service.errors import ImagingError
from service.imaging.instance_header import read_header
from service.imaging.series import load_series
from tests.support_dicom import ct_slice, save, write_series

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
XA_3D = "1.2.840.10008.5.1.4.1.1.13.1.1"
COUNT = 12


def item(**values: Any) -> DicomSequence:
    one = Dataset()
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return DicomSequence([one])


def multi_frame(
    slices: Sequence[FileDataset],
    *,
    sop_class: str = ENHANCED_CT,
    stacks: Sequence[str] | None = None,
    frame_types: Sequence[str] | None = None,
    all_per_frame: bool = False,
) -> FileDataset:
    """The slices as one object: what they share in the shared groups unless `all_per_frame`."""
    ds = ct_slice(0)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
                    "RescaleSlope", "RescaleIntercept", "KVP", "XRayTubeCurrent", "ConvolutionKernel"):  # fmt: skip
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    if sop_class == XA_3D:
        ds.Modality = "XA"
    ds.NumberOfFrames = len(slices)
    ds.PixelData = b"".join(s.PixelData for s in slices)
    shared, frames = Dataset(), []
    shared.CTXRayDetailsSequence = item(KVP=110.0)
    for n, one in enumerate(slices):
        frame = Dataset()
        frame.FrameContentSequence = item(
            StackID=stacks[n] if stacks else "1", InStackPositionNumber=n + 1, DimensionIndexValues=[1, n + 1]
        )
        frame.PlanePositionSequence = item(ImagePositionPatient=one.ImagePositionPatient)
        frame.PixelValueTransformationSequence = item(
            RescaleSlope=one.RescaleSlope, RescaleIntercept=one.RescaleIntercept, RescaleType="HU"
        )
        if frame_types:
            frame.CTImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", frame_types[n], "NONE"])
        target = frame if all_per_frame else shared
        target.PixelMeasuresSequence = item(PixelSpacing=one.PixelSpacing, SliceThickness=one.SliceThickness)
        frame.PlaneOrientationSequence = item(ImageOrientationPatient=one.ImageOrientationPatient)
        frames.append(frame)
    if not all_per_frame and not stacks and not frame_types:
        shared.PlaneOrientationSequence = frames[0].PlaneOrientationSequence
        for frame in frames:
            del frame.PlaneOrientationSequence
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    return ds


def same_as_classic(multi: Path, classic: Path) -> None:
    found, wanted = load_series(multi), load_series(classic)
    np.testing.assert_array_equal(found.volume.values, wanted.volume.values)
    np.testing.assert_allclose(found.volume.lps_from_ijk, wanted.volume.lps_from_ijk, atol=1e-9)
    assert found.volume.values.std() > 10


def slices(**options: Any) -> list[FileDataset]:
    return [ct_slice(n, seed=4, **options) for n in range(COUNT)]


@pytest.mark.parametrize("all_per_frame", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_frames_in_any_order(tmp_path: Path, seed: int, all_per_frame: bool) -> None:
    shuffled = [slices()[n] for n in np.random.default_rng(seed).permutation(COUNT)]
    (tmp_path / "multi").mkdir()
    file = save(multi_frame(shuffled, all_per_frame=all_per_frame), tmp_path / "multi" / "one")
    write_series(tmp_path / "classic", COUNT, seed=4)
    same_as_classic(tmp_path / "multi", tmp_path / "classic")
    info = read_header(file).info
    assert (info.kvp, info.slice_thickness_mm, info.pixel_spacing_mm) == (110.0, 1.0, (0.5, 0.5))


def test_each_frame_has_its_own_rescale(tmp_path: Path) -> None:
    def rescale(index: int, ds: FileDataset) -> None:
        # the same Hounsfield values, stored differently in every slice
        hu = np.frombuffer(ds.PixelData, "<i2").astype(int) - 1024
        slope, intercept = (1, -1024 - 10 * index) if index % 2 else (2, -1000)
        ds.PixelData = ((hu // 2 * 2 - intercept) // slope).astype("<i2").tobytes()
        ds.RescaleSlope, ds.RescaleIntercept = str(slope), str(intercept)

    changed = slices()
    for n, ds in enumerate(changed):
        rescale(n, ds)
    (tmp_path / "multi").mkdir()
    save(multi_frame(changed), tmp_path / "multi" / "one")
    write_series(tmp_path / "classic", COUNT, seed=4, change=rescale)
    same_as_classic(tmp_path / "multi", tmp_path / "classic")
    plain = (
        np.stack([np.frombuffer(ds.PixelData, "<i2").reshape(32, 32) for ds in slices()]).astype(int) - 1024
    )
    np.testing.assert_array_equal(load_series(tmp_path / "multi").volume.values, plain // 2 * 2)


def test_two_stacks_that_continue_each_other_are_one_volume(tmp_path: Path) -> None:
    order = [*range(6, COUNT), *range(6)]
    (tmp_path / "multi").mkdir()
    stacks = ["upper"] * 6 + ["lower"] * 6
    save(multi_frame([slices()[n] for n in order], stacks=stacks), tmp_path / "multi" / "one")
    write_series(tmp_path / "classic", COUNT, seed=4)
    same_as_classic(tmp_path / "multi", tmp_path / "classic")


def test_of_stacks_in_two_orientations_the_larger_is_read_and_said(tmp_path: Path) -> None:
    coronal = slices(ImageOrientationPatient=[1, 0, 0, 0, 0, -1])[:11]
    for n, ds in enumerate(coronal):
        ds.ImagePositionPatient = [-10.0, -20.0 + n, 17.0]
    both = [ds for pair in zip(coronal, slices(), strict=False) for ds in pair] + [slices()[-1]]
    stacks = ["c", "a"] * 11 + ["a"]
    (tmp_path / "multi").mkdir()
    save(multi_frame(both, stacks=stacks), tmp_path / "multi" / "one")
    write_series(tmp_path / "classic", COUNT, seed=4)
    same_as_classic(tmp_path / "multi", tmp_path / "classic")
    (finding,) = [f for f in load_series(tmp_path / "multi").findings if f.code == "series.stacks"]
    assert "2 stacks" in finding.sentence and "12 of 23 slices" in finding.sentence


def test_two_phases_at_the_same_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "multi").mkdir()
    save(multi_frame(slices() + slices()), tmp_path / "multi" / "one")
    with pytest.raises(ImagingError) as refused:
        load_series(tmp_path / "multi")
    assert refused.value.code == "imaging.duplicate_position" and "phases" in refused.value.message


def test_localiser_frames_are_set_aside(tmp_path: Path) -> None:
    scout = ct_slice(0, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    (tmp_path / "multi").mkdir()
    types = ["LOCALIZER", *["VOLUME"] * COUNT]
    save(multi_frame([scout, *slices()], frame_types=types), tmp_path / "multi" / "one")
    write_series(tmp_path / "classic", COUNT, seed=4)
    same_as_classic(tmp_path / "multi", tmp_path / "classic")
    assert [f.code for f in load_series(tmp_path / "multi").findings] == ["series.localisers"]


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    (tmp_path / "multi").mkdir()
    kept = [ds for n, ds in enumerate(slices()) if n != 5]
    save(multi_frame(kept), tmp_path / "multi" / "one")
    with pytest.raises(ImagingError) as refused:
        load_series(tmp_path / "multi")
    assert refused.value.code == "imaging.gap"
    assert "between slice 5 (z 9.00 mm) and slice 6 (z 11.00 mm)" in refused.value.message


def test_several_objects_of_one_series(tmp_path: Path) -> None:
    """Makers split long acquisitions: concatenated objects of one series are one volume."""
    (tmp_path / "multi").mkdir()
    for part, chosen in enumerate((slices()[7:], slices()[:7])):
        ds = multi_frame(chosen)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID}.{part}"
        save(ds, tmp_path / "multi" / str(part))
    write_series(tmp_path / "classic", COUNT, seed=4)
    same_as_classic(tmp_path / "multi", tmp_path / "classic")


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compressed_frames(tmp_path: Path, syntax: str) -> None:
    (tmp_path / "multi").mkdir()
    ds = multi_frame(list(reversed(slices())))
    ds.compress(syntax, generate_instance_uid=False)
    save(ds, tmp_path / "multi" / "one")
    write_series(tmp_path / "classic", COUNT, seed=4)
    same_as_classic(tmp_path / "multi", tmp_path / "classic")


def test_x_ray_3d_keeps_its_grey_values(tmp_path: Path) -> None:
    (tmp_path / "multi").mkdir()
    ds = multi_frame(list(reversed(slices())), sop_class=XA_3D)
    for frame in ds.PerFrameFunctionalGroupsSequence:
        frame.PixelValueTransformationSequence[0].RescaleType = "US"
        frame.PixelValueTransformationSequence[0].RescaleIntercept = "-3000"
    save(ds, tmp_path / "multi" / "one")
    write_series(tmp_path / "classic", COUNT, seed=4)
    loaded, classic = load_series(tmp_path / "multi"), load_series(tmp_path / "classic")
    # values below air stay: they are grey values, not Hounsfield units
    np.testing.assert_array_equal(loaded.volume.values, classic.volume.values.astype(int) - 3000 + 1024)
    np.testing.assert_allclose(loaded.volume.lps_from_ijk, classic.volume.lps_from_ijk)
    assert loaded.info.rescale_type == "US" and loaded.info.sop_class_uid == XA_3D


def test_x_ray_3d_without_a_rescale_is_read_as_stored(tmp_path: Path) -> None:
    (tmp_path / "multi").mkdir()
    ds = multi_frame(slices(), sop_class=XA_3D)
    for frame in ds.PerFrameFunctionalGroupsSequence:
        del frame.PixelValueTransformationSequence
    save(ds, tmp_path / "multi" / "one")
    assert load_series(tmp_path / "multi").volume.values[0].min() >= 1024
