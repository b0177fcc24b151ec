"""Real scans and quirk files: read right, or refused in words."""

from __future__ import annotations

import io
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from service.errors import ImagingError
from service.geometry.series_gate import GatePolicy
from service.geometry.volume import Volume
from service.imaging.instance_header import read_header
from service.imaging.masks import read_mask
from service.imaging.series import LoadedSeries, is_whole, load_series, scan_directory
from service.web.slices import Area, View, grid, picture

pytestmark = pytest.mark.data

DATA = Path(os.environ.get("SPINEPRINT_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
SINGLE = GatePolicy(min_slices=1, max_thickness_mm=7.0)


def data(*parts: str) -> Path:
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real data {'/'.join(parts)} is not here (set SPINEPRINT_DATA)")
    return path


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory):
    done: dict[str, Path] = {}

    def unpack(*parts: str) -> Path:
        key = "-".join(parts)
        if key not in done:
            target = tmp_path_factory.mktemp("data")
            with tarfile.open(data(*parts)) as archive:
                archive.extractall(target, filter="data")
            done[key] = target
        return done[key]

    return unpack


def test_five_syntaxes_of_one_slice_decode_alike() -> None:
    files = sorted(data("dicom-quirks", "syntaxes").iterdir())
    assert len(files) == 5
    volumes = [load_series(f, policy=SINGLE).volume.values for f in files]
    for values in volumes[1:]:
        np.testing.assert_array_equal(values, volumes[0])
    assert volumes[0].shape == (1, 512, 512) and volumes[0].min() == -1024 and volumes[0].max() == 1378


def test_jpeg_2000_with_contradicting_sign_gives_hounsfield_units() -> None:
    loaded = load_series(data("dicom-quirks", "J2K_pixelrep_mismatch.dcm"), policy=SINGLE)
    values = loaded.volume.values
    # air round the head and soft tissue within it: a wrong sign would move one of them by 8192
    assert np.median(values[0, :40, :40]) < -900
    assert -50 < np.median(values[0, 200:312, 200:312]) < 120
    assert loaded.info.gantry_tilt_deg == -22.0


def test_quirk_folder_as_a_whole_is_refused_in_words() -> None:
    with pytest.raises(ImagingError) as raised:
        load_series(data("dicom-quirks"))
    assert raised.value.code == "imaging.no_ct" and "fewer than 10 slices" in raised.value.message


def test_three_slices_with_masks_in_nrrd_and_dicom_seg() -> None:
    folder = data("dicom-quirks", "ct-3slice-seg")
    with pytest.raises(ImagingError, match="3 slice"):
        load_series(folder)
    ct = load_series(folder, policy=GatePolicy(min_slices=3)).volume
    assert ct.values.shape == (3, 512, 512)
    spine = read_mask(folder / "spine_seg.nrrd", ct, level="T10")
    assert 800 < spine.values.sum() < 20_000
    assert ct.values[spine.values > 0].mean() > 150
    with pytest.raises(ImagingError, match="no cortical bone"):
        read_mask(folder / "liver.dcm", ct, level="L1")
    both = read_mask(folder / "liver_spine_seg.nrrd", ct, level="T10", label=2)
    np.testing.assert_array_equal(both.values, spine.values)
    with pytest.raises(ImagingError, match="2 labels"):
        read_mask(folder / "liver_spine_seg.nrrd", ct, level="T10")


def test_compressed_series_without_file_endings_and_its_label_map() -> None:
    folder = data("totalseg-dicom-j2k")
    loaded = load_series(folder)
    assert loaded.volume.values.shape == (20, 512, 512)
    assert loaded.volume.spacing_mm == pytest.approx((0.977, 0.977, 2.0), abs=1e-3)
    assert loaded.info.kernel == ("Br38f", "3") and loaded.identity.is_empty
    with pytest.raises(ImagingError) as raised:
        read_mask(folder / "labels.nii.gz", loaded.volume, level="T12")
    assert "32 if it was made by TotalSegmentator" in raised.value.next_step
    mask = read_mask(folder / "labels.nii.gz", loaded.volume, level="T12", label=32)
    assert 10 < mask.values.sum() * mask.voxel_ml < 70
    assert 100 < loaded.volume.values[mask.values > 0].mean() < 500


def test_thin_thoracic_series_reads_clean(unpacked) -> None:
    loaded = load_series(unpacked("rider-thin-thoracic", "dicom.tar.xz"))
    assert loaded.volume.values.shape == (95, 512, 512) and loaded.findings == ()
    assert loaded.gate.spacing_mm == pytest.approx(0.8)
    assert loaded.volume.values.min() == -1024
    assert loaded.volume.sample(np.array([[-22.0, 24.0, -234.0]]))[0] > 50


def test_chest_series_with_vertebra_labels(unpacked) -> None:
    loaded = load_series(unpacked("lidc-idri-0001", "dicom.tar.xz"))
    assert loaded.volume.values.shape == (133, 512, 512)
    assert [f.code for f in loaded.findings] == ["series.thick"]
    assert loaded.info.contrast in (True, None)
    mask = read_mask(data("lidc-idri-0001", "vertebrae_labels.nii.gz"), loaded.volume, level="T12", label=32)
    assert 100 < loaded.volume.values[mask.values > 0].mean() < 600
    flipped = Volume(loaded.volume.values[:, ::-1], loaded.volume.lps_from_ijk)
    with pytest.raises(ImagingError) as raised:
        read_mask(data("lidc-idri-0001", "vertebrae_labels.nii.gz"), flipped, level="T5", label=39)
    assert raised.value.code == "imaging.mask_place"


def correlation(moving: Volume, fixed: Volume, within: Volume | None = None) -> float:
    """Of the two scans at the points of a coarse LPS grid that lie in both (and in `within`)."""
    ijk = np.indices(tuple(n // 4 for n in fixed.values.shape))[::-1].reshape(3, -1).T * 4
    lps = fixed.to_lps(ijk)
    lps = lps[fixed.contains(lps) & moving.contains(lps) & (within or moving).contains(lps)]
    assert len(lps) > 20_000
    return float(np.corrcoef(moving.sample(lps), fixed.sample(lps))[0, 1])


@pytest.fixture(scope="module")
def phantom(unpacked) -> tuple[LoadedSeries, LoadedSeries]:
    """(straight, tilted) scan of the head phantom."""
    return (
        load_series(unpacked("headphantom-tilt-minus", "straight_1mm_every2nd.tar.xz")),
        load_series(unpacked("headphantom-tilt-minus", "tilted_minus18.5.tar.xz")),
    )


def test_tilted_scan_agrees_with_the_straight_one_at_identity(phantom) -> None:
    straight, tilted = phantom
    assert straight.gate.tilt_deg == pytest.approx(0.0, abs=1e-6)
    assert tilted.gate.tilt_deg == pytest.approx(-18.5, abs=0.01) == tilted.info.gantry_tilt_deg
    assert [f.code for f in straight.findings] == ["series.thick", "series.unscanned"]
    (said,) = [f.sentence for f in tilted.findings if f.code == "series.tilt"]
    assert "tilted by 18.5°" in said and "straight grid" in said
    assert straight.volume.frame_of_reference_uid == tilted.volume.frame_of_reference_uid != ""
    grid = tilted.volume.lps_from_ijk[:3, :3]
    np.testing.assert_allclose(grid.T @ grid, np.diag(np.diag(grid.T @ grid)), atol=1e-6)
    found = correlation(tilted.volume, straight.volume)
    print(f"correlation at the identity {found:.4f}")
    assert found >= 0.9


def test_read_without_its_shear_the_tilted_scan_would_not_agree(phantom) -> None:
    straight, tilted = phantom
    stored = np.stack([pydicom.dcmread(file).pixel_array for file in tilted.files]).astype(np.float32)
    affine = tilted.gate.lps_from_ijk.copy()
    as_stored = Volume(stored, affine.copy())
    sheared = correlation(as_stored, straight.volume)
    axes = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    affine[:3, 2] = np.cross(axes[:, 0], axes[:, 1]) * 2.5
    orthogonal = correlation(Volume(stored, affine), straight.volume)
    straightened = correlation(tilted.volume, straight.volume, as_stored)
    print(f"as stored {sheared:.4f}, straightened {straightened:.4f}, taken as orthogonal {orthogonal:.4f}")
    assert orthogonal < 0.7
    # moving the slices in their planes costs next to nothing against sampling them where they lie
    assert straightened > sheared - 0.002


def test_pages_show_the_tilted_scan_where_the_straight_one_is(phantom) -> None:
    """The same plane cut from both, as the review page does."""
    views = [
        View(name, loaded.volume, None, (0.0, 0.0, 0.0)) for name, loaded in zip("st", phantom, strict=True)
    ]
    middle = phantom[0].volume.to_lps((np.array([phantom[0].volume.values.shape[::-1]]) - 1) / 2.0)[0]
    area = Area(tuple(float(v) for v in middle), 50.0)
    for plane, at in (("sagittal", middle[0]), ("coronal", middle[1])):
        first, second = (
            np.asarray(Image.open(io.BytesIO(picture(view, plane, float(at), area=area))), np.float64)
            for view in views
        )
        grids = [grid(view, plane, area) for view in views]
        both = [slice(0, min(a, b)) for a, b in zip(first.shape, second.shape, strict=True)]
        assert grids[0].mm_per_pixel == pytest.approx(grids[1].mm_per_pixel, rel=0.05)
        assert np.corrcoef(first[tuple(both)].ravel(), second[tuple(both)].ravel())[0, 1] > 0.8


TOO_FEW = ("imaging.too_few", "The series has 1 slice(s) that can be stacked; at least 10 are needed")
NO_DICOM = ("imaging.no_dicom", "is a DICOM image")
PREFIX = "syntaxes/CTImage.dcm_"
QUIRKS: dict[str, tuple[tuple[str, str], str | None]] = {
    "CT_small.dcm": (TOO_FEW, "1.2.840.10008.1.2.1"),
    "J2K_pixelrep_mismatch.dcm": (TOO_FEW, "1.2.840.10008.1.2.4.90"),
    "PROVENANCE.md": (NO_DICOM, None),
    "ct-3slice-seg/01.dcm": (TOO_FEW, "1.2.840.10008.1.2"),
    "ct-3slice-seg/02.dcm": (TOO_FEW, "1.2.840.10008.1.2"),
    "ct-3slice-seg/03.dcm": (TOO_FEW, "1.2.840.10008.1.2"),
    "ct-3slice-seg/liver.dcm": (("imaging.not_ct", "modality SEG, Segmentation Storage"), None),
    "ct-3slice-seg/liver_spine_seg.nrrd": (NO_DICOM, None),
    "ct-3slice-seg/spine_seg.nrrd": (NO_DICOM, None),
    f"{PREFIX}JPEG2000LosslessOnlyTransferSyntax_1.2.840.10008.1.2.4.90.dcm": (
        TOO_FEW,
        "1.2.840.10008.1.2.4.90",
    ),
    f"{PREFIX}JPEGProcess14SV1TransferSyntax_1.2.840.10008.1.2.4.70.dcm": (TOO_FEW, "1.2.840.10008.1.2.4.70"),
    f"{PREFIX}LittleEndianExplicitTransferSyntax_1.2.840.10008.1.2.1.dcm": (TOO_FEW, "1.2.840.10008.1.2.1"),
    f"{PREFIX}LittleEndianImplicitTransferSyntax_1.2.840.10008.1.2.dcm": (TOO_FEW, "1.2.840.10008.1.2"),
    f"{PREFIX}RLELosslessTransferSyntax_1.2.840.10008.1.2.5.dcm": (TOO_FEW, "1.2.840.10008.1.2.5"),
}
"""File -> refusal as a planning CT (all are single slices or no images), and the syntax it is read from when one
slice is enough; None: never."""


def test_the_table_names_every_quirk_file() -> None:
    folder = data("dicom-quirks")
    assert {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()} == set(QUIRKS)


@pytest.mark.parametrize("name", QUIRKS)
def test_every_quirk_file_ends_in_its_reading_or_its_refusal(name: str) -> None:
    (code, words), syntax = QUIRKS[name]
    file = data("dicom-quirks", *name.split("/"))
    with pytest.raises(ImagingError) as refused:
        load_series(file)
    assert refused.value.code == code and words in refused.value.message and refused.value.next_step
    if syntax is None:
        with pytest.raises(ImagingError, match=re.escape(words)):
            load_series(file, policy=SINGLE)
        return
    loaded = load_series(file, policy=SINGLE)
    assert loaded.info.transfer_syntax_uids == (syntax,) and loaded.info.lossy is not True
    low, high = int(loaded.volume.values.min()), int(loaded.volume.values.max())
    assert -1024 <= low < -800 and 500 < high < 4000
    assert is_whole(file) and read_header(file).series_uid == loaded.info.series_uid


def test_every_quirk_series_is_found() -> None:
    scan = scan_directory(data("dicom-quirks"))
    assert not scan.damaged
    assert {s.info.modality for s in scan} == {"CT", "SEG"}
