"""Bytes damaged at random end in a reading or a refusal, never in another error."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.dicom_node.part10 import read_meta
from service.errors import SpineprintError
from service.geometry.volume import Volume
from service.imaging.nifti import read_nifti, write_nifti
from service.imaging.series import load_series
from tests.support_dicom import ct_slice, save, write_series

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

edits = st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), min_size=1, max_size=4)


def damaged(data: bytes, changes: list[tuple[float, bytes]], keep: float) -> bytes:
    raw = bytearray(data)
    for where, what in changes:
        start = int(where * max(0, len(raw) - len(what)))
        raw[start : start + len(what)] = what
    return bytes(raw[: int(keep * len(raw))])


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, 10, size=4)
    return folder


@settings(max_examples=150, deadline=None)
@given(changes=edits, keep=st.one_of(st.just(1.0), st.floats(0, 1)))
def test_dicom(series: Path, changes: list[tuple[float, bytes]], keep: float) -> None:
    files = sorted(series.iterdir())
    with tempfile.TemporaryDirectory() as folder:
        bad = Path(folder) / "bad"
        bad.write_bytes(damaged(files[0].read_bytes(), changes, keep))
        try:
            loaded = load_series([*files[1:], bad])
        except SpineprintError as refusal:
            assert refusal.message and refusal.code != "internal"
        else:
            assert loaded.volume.values.ndim == 3


@settings(max_examples=150, deadline=None)
@given(
    changes=edits, keep=st.one_of(st.just(1.0), st.floats(0, 1)), name=st.sampled_from(["v.nii", "v.nii.gz"])
)
def test_nifti(changes: list[tuple[float, bytes]], keep: float, name: str) -> None:
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write_nifti(Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), path)
        path.write_bytes(damaged(path.read_bytes(), changes, keep))
        try:
            assert read_nifti(path).values.ndim == 3
        except SpineprintError as refusal:
            assert refusal.message


@settings(max_examples=200, deadline=None)
@given(changes=edits, keep=st.floats(0, 1))
def test_file_meta(changes: list[tuple[float, bytes]], keep: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save(ct_slice(0, size=4), Path(folder) / "f")
        path.write_bytes(damaged(path.read_bytes(), changes, keep))
        try:
            meta = read_meta(path)
        except ValueError:
            return
        assert meta.dataset_offset <= path.stat().st_size
