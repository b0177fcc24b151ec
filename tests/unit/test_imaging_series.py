"""Reading series from disk: any names, any order, every defect refused in words."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from service.errors import ImagingError, NotFoundError
from service.geometry.series_gate import GatePolicy
from service.imaging.series import load_series, propose_planning_series, scan_directory
from tests.support_dicom import CT_IMAGE, ROOT, ct_slice, save, write_series


def refusal(source: Path, code: str) -> ImagingError:
    with pytest.raises(ImagingError) as raised:
        load_series(source)
    assert raised.value.code == code
    assert raised.value.next_step
    return raised.value


def test_a_series_becomes_a_volume_in_hounsfield_units(tmp_path: Path) -> None:
    write_series(tmp_path, 12, spacing_mm=1.25)
    steps = []
    loaded = load_series(tmp_path, progress=lambda stage, fraction: steps.append(fraction))
    values = loaded.volume.values
    assert values.dtype == np.int16 and values.shape == (12, 32, 32)
    np.testing.assert_array_equal(values[7, 3], 70 + np.arange(32))
    np.testing.assert_allclose(loaded.volume.to_lps([[2, 4, 6]]), [[-9.0, -18.0, 12.5]])
    assert loaded.volume.frame_of_reference_uid == f"{ROOT}.1.9"
    assert steps[-1] == 1.0 and steps == sorted(steps)
    assert loaded.findings == ()


def test_header_facts_and_unknown_ones(tmp_path: Path) -> None:
    write_series(tmp_path, 12, XRayTubeCurrent=None, ConvolutionKernel=["Br38f", "3"], KVP="")
    loaded = load_series(tmp_path)
    info = loaded.info
    assert (info.kvp, info.tube_current_ma, info.lossy, info.contrast) == (None, None, None, None)
    assert info.kernel == ("Br38f", "3")
    assert info.study_date == date(2024, 1, 2)
    assert (info.manufacturer, info.rows, info.images, info.field_of_view_mm) == ("ACME", 32, 12, 16.0)
    assert loaded.identity.patient_id == "TEST-1" and loaded.identity.birth_date == date(1950, 1, 1)
    assert "TEST" not in repr(loaded.identity) and "TEST" not in repr(info)


def test_acquisition_moment(tmp_path: Path) -> None:
    write_series(tmp_path, 12, AcquisitionDate="20240102", AcquisitionTime="101530.25")
    assert load_series(tmp_path).info.acquired_at == datetime(2024, 1, 2, 10, 15, 30)  # noqa: DTZ001


def test_padding_and_values_below_air_become_air(tmp_path: Path) -> None:
    def pad(index: int, ds: FileDataset) -> None:
        pixels = np.frombuffer(ds.PixelData, "<i2").reshape(32, 32).copy()
        pixels[0, :4] = -2000
        pixels[1, :4] = 5000
        pixels[2, :4] = -1500
        ds.PixelData = pixels.tobytes()
        ds.add_new("PixelPaddingValue", "SS", -2000)

    write_series(tmp_path, 12, change=pad)
    values = load_series(tmp_path).volume.values
    assert (values[:, 0, :4] == -1024).all() and (values[:, 2, :4] == -1024).all()
    assert (values[:, 1, :4] == 5000 - 1024).all()


def test_padding_range_inside_the_values_is_honoured(tmp_path: Path) -> None:
    def pad(index: int, ds: FileDataset) -> None:
        ds.add_new("PixelPaddingValue", "SS", 3000)
        ds.add_new("PixelPaddingRangeLimit", "SS", 3010)
        pixels = np.frombuffer(ds.PixelData, "<i2").reshape(32, 32).copy()
        pixels[0, 0], pixels[0, 1], pixels[0, 2] = 3000, 3005, 3011
        ds.PixelData = pixels.tobytes()

    write_series(tmp_path, 12, change=pad)
    assert load_series(tmp_path).volume.values[0, 0, :3].tolist() == [-1024, -1024, 3011 - 1024]


def test_fractional_slope_gives_float_values_and_each_slice_its_own(tmp_path: Path) -> None:
    def rescale(index: int, ds: FileDataset) -> None:
        ds.RescaleSlope = "0.5" if index % 2 else "1"

    write_series(tmp_path, 12, change=rescale)
    values = load_series(tmp_path).volume.values
    assert values.dtype == np.float32
    assert values[1, 0, 2] == (10 + 2 + 1024) * 0.5 - 1024
    assert values[2, 0, 2] == 22


def test_grey_values_that_are_not_hounsfield_are_left_alone(tmp_path: Path) -> None:
    def grey(index: int, ds: FileDataset) -> None:
        ds.RescaleType, ds.RescaleIntercept = "US", "-9000"

    write_series(tmp_path, 12, change=grey)
    loaded = load_series(tmp_path)
    assert loaded.volume.values.min() == 1024 - 9000 and loaded.info.rescale_type == "US"


@pytest.mark.parametrize("syntax", [JPEGLSLossless, JPEG2000Lossless, RLELossless])
def test_compressed_series_give_the_same_values(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    write_series(tmp_path / "plain", 10, seed=4)
    write_series(
        tmp_path / "packed",
        10,
        seed=4,
        change=lambda index, ds: ds.compress(syntax, generate_instance_uid=False),
    )
    plain, packed = load_series(tmp_path / "plain"), load_series(tmp_path / "packed")
    np.testing.assert_array_equal(plain.volume.values, packed.volume.values)
    assert packed.info.transfer_syntax_uids == (str(syntax),)


def test_deflated_series(tmp_path: Path) -> None:
    def deflate(index: int, ds: FileDataset) -> None:
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"

    write_series(tmp_path / "plain", 10, seed=4)
    write_series(tmp_path / "deflated", 10, seed=4, change=deflate)
    np.testing.assert_array_equal(
        load_series(tmp_path / "plain").volume.values, load_series(tmp_path / "deflated").volume.values
    )


def test_lossy_history_is_marked(tmp_path: Path) -> None:
    write_series(
        tmp_path, 10, change=lambda n, ds: setattr(ds, "LossyImageCompression", "01" if n == 4 else "00")
    )
    assert load_series(tmp_path).info.lossy is True


def test_gap_duplicate_and_variable_spacing_are_refused_with_slices(tmp_path: Path) -> None:
    write_series(tmp_path / "gap", 14, skip=[5])
    error = refusal(tmp_path / "gap", "imaging.gap")
    assert "between slice 5 (z 9.00 mm) and slice 7 (z 11.00 mm)" in error.message
    assert error.details["findings"]


def test_truncated_pixels_are_refused_with_the_slice(tmp_path: Path) -> None:
    files = write_series(tmp_path, 12)
    whole = files[6].read_bytes()
    files[6].write_bytes(whole[:-300])
    error = refusal(tmp_path, "imaging.pixels")
    assert "slice 7" in error.message and "cut off" in error.message


def test_a_file_cut_off_in_its_header_spoils_the_series_it_names(tmp_path: Path) -> None:
    files = write_series(tmp_path, 12)
    whole = files[11].read_bytes()
    cut = whole.index(b"\x20\x00\x32\x00")
    files[11].write_bytes(whole[:cut])
    scan = scan_directory(tmp_path)
    assert scan.damaged == (files[11],) and len(scan.series) == 1
    with pytest.raises(ImagingError) as raised:
        load_series(scan.series[0].files, scan.series[0].info.series_uid)
    assert raised.value.code == "imaging.unreadable"


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2, 0.3])
def test_truncation_anywhere_in_the_header_is_refused(tmp_path: Path, share: float) -> None:
    files = write_series(tmp_path, 12)
    whole = files[11].read_bytes()
    files[11].write_bytes(whole[: 132 + int(share * len(whole))])
    with pytest.raises(ImagingError) as raised:
        load_series(tmp_path)
    assert raised.value.code in {"imaging.unreadable", "imaging.no_position", "imaging.pixels"}


def test_truncated_compressed_frame_is_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, 10, seed=1, size=64, change=lambda n, ds: ds.compress(JPEG2000Lossless))
    ds = pydicom.dcmread(files[3])
    whole = ds.PixelData
    ds.PixelData = whole[: len(whole) // 2 & ~1]
    ds["PixelData"].is_undefined_length = True
    ds.save_as(files[3])
    with pytest.raises(ImagingError):
        load_series(tmp_path)


def test_mixed_patients_are_refused_without_saying_who(tmp_path: Path) -> None:
    def other(index: int, ds: FileDataset) -> None:
        if index == 5:
            ds.PatientID, ds.PatientName = "SECRET-7", "SOMEBODY^ELSE"

    write_series(tmp_path, 12, change=other)
    error = refusal(tmp_path, "imaging.mixed_patients")
    assert "patient ID, name" in error.message
    assert "SECRET" not in str(error) and "SOMEBODY" not in str(error)


def test_slices_of_two_frames_of_reference_are_no_volume(tmp_path: Path) -> None:
    def other(index: int, ds: FileDataset) -> None:
        if index > 5:
            ds.FrameOfReferenceUID = f"{ds.StudyInstanceUID}.99"

    write_series(tmp_path, 12, change=other)
    assert "2 frames of reference" in refusal(tmp_path, "imaging.mixed_frames").message


def test_a_frame_of_reference_that_some_slices_do_not_name_is_the_others(tmp_path: Path) -> None:
    def without(index: int, ds: FileDataset) -> None:
        if index > 5:
            ds.FrameOfReferenceUID = ""

    write_series(tmp_path, 12, change=without)
    assert len(load_series(tmp_path).files) == 12


def test_names_written_differently_are_one_patient(tmp_path: Path) -> None:
    def other(index: int, ds: FileDataset) -> None:
        if index % 2:
            ds.PatientName = "test patient"
        if index % 3 == 0:
            ds.PatientBirthDate = ""

    write_series(tmp_path, 12, change=other)
    assert load_series(tmp_path).volume.values.shape[0] == 12


def test_not_ct_no_dicom_nothing_there(tmp_path: Path) -> None:
    mr = tmp_path / "mr"
    write_series(
        mr,
        12,
        change=lambda n, ds: (
            setattr(ds, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
            setattr(ds, "Modality", "MR"),
        ),
    )
    assert "modality MR" in refusal(mr, "imaging.not_ct").message
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text("hello")
    (text / "empty").touch()
    refusal(text, "imaging.no_dicom")
    with pytest.raises(NotFoundError):
        load_series(tmp_path / "absent")


def test_missing_positions_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, 12, ImagePositionPatient=None)
    assert "12 of 12" in refusal(tmp_path, "imaging.no_position").message


def test_localisers_in_the_series_are_set_aside(tmp_path: Path) -> None:
    def localiser(index: int, ds: FileDataset) -> None:
        if index == 0:
            ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    write_series(tmp_path, 12, change=localiser)
    loaded = load_series(tmp_path)
    assert loaded.volume.values.shape[0] == 11
    assert [f.code for f in loaded.findings] == ["series.localisers"]


def test_the_best_series_of_a_study_is_proposed_with_reasons(tmp_path: Path) -> None:
    thick, thin, mpr, scout = (f"{ROOT}.{n}" for n in (21, 22, 23, 24))
    write_series(tmp_path / "a", 12, series=thick, spacing_mm=3.0, SeriesNumber=3)
    write_series(tmp_path / "b", 30, series=thin, spacing_mm=1.0, SeriesNumber=4)
    write_series(
        tmp_path / "c",
        40,
        series=mpr,
        spacing_mm=0.7,
        ImageType=["DERIVED", "SECONDARY", "MPR"],
        SeriesNumber=5,
    )
    write_series(
        tmp_path / "d", 2, series=scout, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesNumber=1
    )
    (tmp_path / "notes.txt").write_text("x")
    scan = scan_directory(tmp_path)
    assert len(scan) == 4 and len(scan.skipped) == 1
    proposal = propose_planning_series(scan.series)
    assert proposal.best is not None and proposal.best.info.series_uid == thin
    assert [c.summary.info.series_uid for c in proposal.candidates if c.usable] == [thin, thick]
    text = " ".join(proposal.reasons)
    assert "Series 4 (30 images) is proposed: axial original CT image with 1 mm slices." in text
    assert "Series 5 (40 images) set aside: it is a reformat" in text
    assert "Series 1 (2 images) set aside: it is a localiser" in text
    assert load_series(tmp_path).info.series_uid == thin
    assert load_series(tmp_path, thick).volume.spacing_mm[2] == 3.0
    with pytest.raises(NotFoundError):
        load_series(tmp_path, "1.2.3")


def enhanced(count: int, sop_class: str = "1.2.840.10008.5.1.4.1.1.2.1") -> FileDataset:
    """The slices of `ct_slice` as one multi-frame object, frames stored from head to foot."""
    slices = [ct_slice(n) for n in reversed(range(count))]
    ds = ct_slice(
        0, ImagePositionPatient=None, ImageOrientationPatient=None, PixelSpacing=None, SliceThickness=None
    )
    for keyword in ("RescaleSlope", "RescaleIntercept", "KVP"):
        delattr(ds, keyword)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.NumberOfFrames = count
    ds.PixelData = b"".join(s.PixelData for s in slices)
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence = DicomSequence([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.5, 0.5]
    shared.PixelMeasuresSequence[0].SliceThickness = 1.0
    shared.PlaneOrientationSequence = DicomSequence([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.CTXRayDetailsSequence = DicomSequence([Dataset()])
    shared.CTXRayDetailsSequence[0].KVP = 110.0
    for one in slices:
        frame = Dataset()
        frame.PlanePositionSequence = DicomSequence([Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = one.ImagePositionPatient
        frame.PixelValueTransformationSequence = DicomSequence([Dataset()])
        frame.PixelValueTransformationSequence[0].RescaleSlope = 1
        frame.PixelValueTransformationSequence[0].RescaleIntercept = -1024
        frame.PixelValueTransformationSequence[0].RescaleType = "HU"
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence = DicomSequence([shared])
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    return ds


@pytest.mark.parametrize("sop_class", ["1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.13.1.1"])
def test_multi_frame_objects_read_like_classic_series(tmp_path: Path, sop_class: str) -> None:
    (tmp_path / "multi").mkdir()
    save(enhanced(12, sop_class), tmp_path / "multi" / "one")
    write_series(tmp_path / "classic", 12)
    multi, classic = load_series(tmp_path / "multi"), load_series(tmp_path / "classic")
    np.testing.assert_array_equal(multi.volume.values, classic.volume.values)
    np.testing.assert_allclose(multi.volume.lps_from_ijk, classic.volume.lps_from_ijk)
    assert (multi.info.images, multi.info.kvp, multi.info.slice_thickness_mm) == (12, 110.0, 1.0)


def test_multi_frame_without_positions_is_refused(tmp_path: Path) -> None:
    ds = enhanced(12)
    del ds.PerFrameFunctionalGroupsSequence
    save(ds, tmp_path / "one")
    refusal(tmp_path, "imaging.no_position")


def test_empty_uids_in_the_data_set_are_taken_from_the_file_meta(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    for n in range(12):
        ds = ct_slice(n)
        ds.SOPInstanceUID = ""
        save(ds, folder / str(n))
    assert scan_directory(folder).series[0].info.sop_class_uid == CT_IMAGE
    assert load_series(folder).volume.values.shape[0] == 12


def test_gate_policy_is_the_callers(tmp_path: Path) -> None:
    write_series(tmp_path, 4)
    refusal(tmp_path, "imaging.too_few")
    assert load_series(tmp_path, policy=GatePolicy(min_slices=4)).volume.values.shape[0] == 4


def test_badly_formed_patient_data_is_not_quoted_into_logs_or_warnings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    files = write_series(tmp_path, 12, patient_id="SECRET-ID")
    for file in files:
        # an ID longer than its type allows, and a birth date that is none
        raw = file.read_bytes().replace(b"LO\x0a\x00SECRET-ID ", b"UI\x0a\x00SECRET-ID ")
        file.write_bytes(raw.replace(b"19500101", b"SECRETDA"))
    loaded = load_series(tmp_path)
    assert loaded.identity.patient_id == "SECRET-ID" and loaded.identity.birth_date is None
    assert "SECRET" not in caplog.text
    assert not [w for w in recwarn if "SECRET" in str(w.message)]
