"""Small CT series made with pydicom, and real DICOM programs as peers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ROOT = "1.2.826.0.1.3680043.10.9999"


def ct_slice(
    index: int,
    *,
    series: str = f"{ROOT}.2",
    study: str = f"{ROOT}.1",
    position: Sequence[float] | None = None,
    size: int = 32,
    spacing_mm: float = 1.0,
    patient_id: str = "TEST-1",
    patient_name: str = "TEST^PATIENT",
    seed: int = 0,
    **attributes: Any,
) -> FileDataset:
    """Slice `index` of an axial series: HU = 10 * index + column, noise with `seed` (0 = none)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT_IMAGE
    meta.MediaStorageSOPInstanceUID = f"{series}.{index + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID = CT_IMAGE
    ds.SOPInstanceUID = f"{series}.{index + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.FrameOfReferenceUID = f"{study}.9"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = (
        patient_id,
        patient_name,
        "19500101",
        "F",
    )
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20240102", "101500", "A1", "1"
    ds.ReferringPhysicianName = ""
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", "ACME", "Scanner"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP, ds.XRayTubeCurrent, ds.ConvolutionKernel = "120", "200", "STANDARD"
    ds.SeriesNumber, ds.InstanceNumber = 2, index + 1
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = list(
        position if position is not None else (-10.0, -20.0, 5.0 + index * spacing_mm)
    )
    ds.PixelSpacing, ds.SliceThickness = [0.5, 0.5], spacing_mm
    ds.PatientPosition = "HFS"
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = "1", "-1024"
    hu = 10 * index + np.tile(np.arange(size), (size, 1))
    if seed:
        hu = hu + np.random.default_rng(seed + index).integers(0, 500, (size, size))
    ds.PixelData = (hu + 1024).astype("<i2").tobytes()
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def write_series(
    folder: Path,
    count: int = 12,
    *,
    change: Callable[[int, FileDataset], None] | None = None,
    skip: Sequence[int] = (),
    **options: Any,
) -> list[Path]:
    """Write slices to `folder` under names that say nothing about their order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(count):
        if index in skip:
            continue
        ds = ct_slice(index, **options)
        if change is not None:
            change(index, ds)
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        files.append(save(ds, folder / f"f{(index * 7919) % 1000:03d}-{ds.SeriesInstanceUID[-6:]}"))
    return files


def save(ds: Dataset, path: Path) -> Path:
    ds.save_as(path, enforce_file_format=True)
    return path


def wire_bytes(path: Path) -> bytes:
    """Data set of a Part 10 file as pydicom finds it: everything after the meta group (independent of ours)."""
    with path.open("rb") as stream:
        pydicom.filereader.read_preamble(stream, force=False)
        pydicom.filereader._read_file_meta_info(stream)
        return stream.read()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def need(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def run(
    program: str, *arguments: object, timeout: float = 60, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [need(program), *(str(a) for a in arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


@contextmanager
def running(
    command: Sequence[object], ready: Callable[[], bool], timeout: float = 20
) -> Iterator[subprocess.Popen]:
    """A program that serves until the block ends."""
    process = subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(ready, timeout, "the peer did not come up")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def patience() -> float:
    """How much longer a thing may take now than on a quiet machine: what waits for each processor, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_until(condition: Callable[[], bool], timeout: float = 10, what: str = "nothing happened") -> None:
    """`timeout` is that of a quiet machine, s."""
    start = time.monotonic()
    while time.monotonic() < start + timeout * patience():
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(what)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
