"""NIfTI in and out, with SimpleITK as the independent reader."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from service.errors import GeometryError, ImagingError
from service.geometry.volume import Volume
from service.imaging.nifti import nifti_bytes, read_nifti, write_nifti


def volume(dtype: str = "int16", rotation: tuple[float, float, float] = (0, 0, 0), flip: int = 1) -> Volume:
    values = (np.random.default_rng(1).random((4, 5, 6)) * 100).astype(dtype)
    affine = np.eye(4)
    axes = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix() * np.array([1, 1, flip])
    affine[:3, :3] = axes * np.array([0.5, 0.7, 1.2])
    affine[:3, 3] = [-12.5, 33.0, -280.25]
    return Volume(values, affine)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64", "int64"])
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_round_trip(tmp_path: Path, dtype: str, name: str) -> None:
    original = volume(dtype, (10, -20, 30))
    write_nifti(original, tmp_path / name)
    again = read_nifti(tmp_path / name)
    assert again.values.dtype == original.values.dtype
    np.testing.assert_array_equal(again.values, original.values)
    np.testing.assert_allclose(again.lps_from_ijk, original.lps_from_ijk, atol=1e-4)


@pytest.mark.parametrize(
    "rotation", [(0, 0, 0), (10, -20, 30), (180, 0, 0), (0, 180, 0), (90, 0, 90), (120, 5, 170)]
)
@pytest.mark.parametrize("flip", [1, -1])
def test_simpleitk_sees_the_same_place(
    tmp_path: Path, rotation: tuple[float, float, float], flip: int
) -> None:
    original = volume("int16", rotation, flip)
    write_nifti(original, tmp_path / "v.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "v.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), original.values)
    for index in ([0, 0, 0], [5, 4, 3], [2, 0, 1]):
        np.testing.assert_allclose(
            image.TransformIndexToPhysicalPoint(index), original.to_lps([index])[0], atol=1e-3
        )


def test_we_read_what_simpleitk_writes(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetSpacing((0.4, 0.6, 2.0))
    image.SetOrigin((7.0, -8.0, 9.0))
    image.SetDirection(Rotation.from_euler("xyz", (5, 200, -40), degrees=True).as_matrix().ravel().tolist())
    sitk.WriteImage(image, str(tmp_path / "v.nii"))
    ours = read_nifti(tmp_path / "v.nii")
    np.testing.assert_array_equal(ours.values, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(
        ours.to_lps([[4, 3, 2]])[0], image.TransformIndexToPhysicalPoint([4, 3, 2]), atol=1e-3
    )
    # the same orientation by way of the quaternion only
    raw = bytearray((tmp_path / "v.nii").read_bytes())
    assert struct.unpack_from("<h", raw, 252)[0] > 0
    struct.pack_into("<h", raw, 254, 0)
    (tmp_path / "q.nii").write_bytes(raw)
    np.testing.assert_allclose(read_nifti(tmp_path / "q.nii").lps_from_ijk, ours.lps_from_ijk, atol=1e-4)


def test_sheared_volumes_keep_their_shear(tmp_path: Path) -> None:
    original = volume()
    sheared = original.lps_from_ijk.copy()
    sheared[:3, 2] = [0, 0.4, 1.2]
    write_nifti(Volume(original.values, sheared), tmp_path / "v.nii.gz")
    np.testing.assert_allclose(read_nifti(tmp_path / "v.nii.gz").lps_from_ijk, sheared, atol=1e-6)


def test_same_volume_same_bytes_whatever_the_name(tmp_path: Path) -> None:
    write_nifti(volume(), tmp_path / "a.nii.gz")
    write_nifti(volume(), tmp_path / "other name.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "other name.nii.gz").read_bytes()


def test_damaged_or_unplaced_files_are_refused(tmp_path: Path) -> None:
    write_nifti(volume(), tmp_path / "v.nii")
    write_nifti(volume(), tmp_path / "v.nii.gz")
    raw = (tmp_path / "v.nii").read_bytes()
    unplaced = bytearray(raw)
    struct.pack_into("<hh", unplaced, 252, 0, 0)
    cases = {
        "cut.nii": (raw[:-10], "cut off"),
        "head.nii": (raw[:100], "not a NIfTI"),
        "empty.nii": (b"", "not a NIfTI"),
        "unplaced.nii": (bytes(unplaced), "where it lies"),
        "cut.nii.gz": ((tmp_path / "v.nii.gz").read_bytes()[:-20], "cut off"),
        "text.nii.gz": (b"hello", "cannot be read"),
    }
    for name, (data, words) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ImagingError, match=words):
            read_nifti(tmp_path / name)
    with pytest.raises(GeometryError):
        write_nifti(Volume(np.zeros((2, 2, 2), np.complex64), np.eye(4)), tmp_path / "c.nii")


def patched(offset: int, form: str, *values: float) -> bytes:
    raw = bytearray(nifti_bytes(volume("uint8"), compressed=False))
    struct.pack_into(form, raw, offset, *values)
    return bytes(raw)


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), -float("inf"), 3e38, 1e9, -352.0, 0.0])
def test_an_impossible_start_of_the_voxels_is_refused_in_words(tmp_path: Path, offset: float) -> None:
    (tmp_path / "v.nii").write_bytes(patched(108, "<f", offset))
    with pytest.raises(ImagingError, match="where its voxels begin") as refused:
        read_nifti(tmp_path / "v.nii")
    assert refused.value.code == "imaging.nifti"


def test_what_lies_behind_the_voxels_is_not_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "bomb.nii.gz"
    original = volume("uint8")
    nothing = bytes(1 << 20)
    with gzip.open(file, "wb", compresslevel=1) as stream:
        stream.write(nifti_bytes(original, compressed=False))
        for _ in range(128):
            stream.write(nothing)
    read, peak = read_and_peak(file)
    np.testing.assert_array_equal(read, original.values)
    assert peak < 4 << 20


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize(
    ("dims", "code"), [((32767, 32767, 32767), "imaging.unsafe"), ((1000, 1000, 1000), "imaging.nifti")]
)
def test_no_memory_is_taken_for_voxels_that_are_only_announced(
    tmp_path: Path, name: str, dims: tuple[int, int, int], code: str
) -> None:
    raw = patched(42, "<3h", *dims)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    tracemalloc.start()
    try:
        with pytest.raises(ImagingError) as refused:
            read_nifti(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused.value.code == code and peak < 4 << 20


def read_and_peak(file: Path) -> tuple[np.ndarray, int]:
    tracemalloc.start()
    try:
        return read_nifti(file).values, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_damaged_checksum_is_still_seen(tmp_path: Path) -> None:
    raw = bytearray(nifti_bytes(volume(), compressed=True))
    raw[-6] ^= 0xFF
    (tmp_path / "v.nii.gz").write_bytes(raw)
    with pytest.raises(ImagingError, match="cannot be read"):
        read_nifti(tmp_path / "v.nii.gz")
