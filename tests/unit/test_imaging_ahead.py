"""Reading a scan while it arrives changes when it is read, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from service.errors import ImagingError
from service.imaging.ahead import ReadAhead
from service.imaging.series import load_series
from tests.support_dicom import write_series


def _same(first: Path | list[Path], ahead: ReadAhead) -> None:
    files = sorted(first.glob("*.dcm")) if isinstance(first, Path) else first
    told: list[Path] = []
    plain, early = load_series(files), load_series(files, ahead=ahead, each=told.append)
    assert sorted(told) == sorted(plain.files), "each file once"
    np.testing.assert_array_equal(plain.volume.values, early.volume.values)
    assert plain.volume.values.dtype == early.volume.values.dtype
    np.testing.assert_array_equal(plain.volume.lps_from_ijk, early.volume.lps_from_ijk)
    assert (plain.info, plain.identity, plain.files, plain.findings) == (
        early.info, early.identity, early.files, early.findings,
    )  # fmt: skip


def test_what_was_read_ahead_gives_the_same_volume_and_is_not_read_again(tmp_path: Path) -> None:
    files = write_series(tmp_path, 12, seed=3)
    ahead = ReadAhead()
    ahead.add(files[:5])
    ahead.add(files[:5])
    assert [file in ahead for file in files] == [True] * 5 + [False] * 7
    _same(files, ahead)
    ahead.add(files)
    for file in files:
        file.write_bytes(b"")
    assert load_series(files, ahead=ahead).volume.values.shape[0] == 12, "it needs the files no more"


def test_fractional_values_too(tmp_path: Path) -> None:
    files = write_series(tmp_path, 12, seed=4)
    for file in files:
        image = pydicom.dcmread(file)
        image.RescaleSlope = "0.5"
        image.save_as(file)
    ahead = ReadAhead()
    ahead.add(files)
    _same(files, ahead)


def test_a_damaged_file_is_left_for_the_loader_to_say_so(tmp_path: Path) -> None:
    files = write_series(tmp_path, 12, seed=5)
    files[2].write_bytes(files[2].read_bytes()[:-400])
    files[3].write_bytes(b"not DICOM")
    ahead = ReadAhead()
    ahead.add([*files, tmp_path / "gone.dcm"])
    assert [file in ahead for file in files] == [True, True, False, False] + [True] * 8
    with pytest.raises(ImagingError) as alone:
        load_series(files)
    with pytest.raises(ImagingError) as early:
        load_series(files, ahead=ahead)
    assert (alone.value.code, alone.value.message) == (early.value.code, early.value.message)


def test_it_never_holds_more_than_its_room(tmp_path: Path) -> None:
    files = write_series(tmp_path, 12, seed=6)
    one = load_series(files).volume.values[0].nbytes
    ahead = ReadAhead(most_bytes=3 * one)
    ahead.add(files)
    assert 0 < sum(file in ahead for file in files) <= 3
    _same(files, ahead)
