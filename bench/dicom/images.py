"""The load: synthetic CT slices of 512x512x16 bit with noise, and how to recognise each of them again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
_ROOT = "1.2.826.0.1.3680043.10.9999.77"


@dataclass(frozen=True)
class Sent:
    """One file of the load. `dataset` and `pixels` are SHA-256 of the data set bytes and of the pixel values."""

    path: Path
    uid: str
    dataset: str
    pixels: str
    size: int
    """Bytes of the data set as they go over the wire."""


@dataclass(frozen=True)
class Load:
    """Equal parts, one folder each, so that one sender takes all folders or each of several senders takes one."""

    folders: tuple[Path, ...]
    images: tuple[Sent, ...]

    @property
    def by_uid(self) -> dict[str, Sent]:
        return {image.uid: image for image in self.images}


def write_load(folder: Path, count: int, *, parts: int = 4, size: int = 512, large_size: int = 0) -> Load:
    """`count` slices of one study, each part a series of its own; with `large_size` one in ten is so large."""
    folders, images = [], []
    for part in range(parts):
        here = folder / f"part{part}"
        here.mkdir(parents=True)
        folders.append(here)
        for index in range(count // parts):
            path = here / f"{index:04d}.dcm"
            is_large = large_size and index % 10 == 5
            ct_slice(part, index, large_size if is_large else size).save_as(path, enforce_file_format=True)
            images.append(_sent(path))
    return Load(tuple(folders), tuple(images))


def ct_slice(part: int, index: int, size: int) -> FileDataset:
    rng = np.random.default_rng((part, index))
    series = f"{_ROOT}.{part + 2}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT_IMAGE
    meta.MediaStorageSOPInstanceUID = f"{series}.{index + 1}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = CT_IMAGE, f"{series}.{index + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = f"{_ROOT}.1", series, f"{series}.9"
    ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = (
        "BENCH-1",
        "BENCH^LOAD",
        "19500101",
        "O",
    )
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20240102", "101500", "B1", "1"
    ds.ReferringPhysicianName, ds.PatientPosition = "", "HFS"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = "CT", "ACME", "Bench"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.KVP, ds.XRayTubeCurrent, ds.ConvolutionKernel = "120", "200", "STANDARD"
    ds.SeriesNumber, ds.InstanceNumber = part + 2, index + 1
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-128.0, -128.0, float(index)]
    ds.PixelSpacing, ds.SliceThickness = [0.5, 0.5], 1.0
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept = "1", "-1024"
    ds.PixelData = rng.normal(1064, 40, (size, size)).astype("<i2").tobytes()
    return ds


def as_another_study(load: Load, folder: Path, number: int) -> Load:
    """The same images under other UIDs, so that a store that has the first ones takes these as new (number 0..22)."""
    old, new = f"{_ROOT}.".encode(), f"{_ROOT[:-2]}{number + 54}.".encode()
    folders = tuple(folder / part.name for part in load.folders)
    for part in folders:
        part.mkdir(parents=True)
    images = []
    for image in load.images:
        path = folder / image.path.parent.name / image.path.name
        path.write_bytes(image.path.read_bytes().replace(old, new))
        images.append(_sent(path))
    return Load(folders, tuple(images))


def _sent(path: Path) -> Sent:
    uid, dataset, pixels, size = digests(path)
    return Sent(path, uid, dataset, pixels, size)


def digests(path: Path) -> tuple[str, str, str, int]:
    """UID, digest of the data set bytes, digest of the pixel values, size: read with pydicom, not with our code."""
    with path.open("rb") as stream:
        pydicom.filereader.read_preamble(stream, force=False)
        pydicom.filereader._read_file_meta_info(stream)
        data = stream.read()
    ds = pydicom.dcmread(path)
    pixels = hashlib.sha256(ds.PixelData).hexdigest()
    return str(ds.SOPInstanceUID), hashlib.sha256(data).hexdigest(), pixels, len(data)


def compare(load: Load, stored: Iterable[Path], *, same_bytes: bool) -> list[str]:
    """What is wrong with a store: images missing, or pixels (`same_bytes`: any byte of the data set) changed."""
    wanted, seen, faults = load.by_uid, set(), []
    for path in stored:
        uid, dataset, pixels, _ = digests(path)
        image = wanted.get(uid)
        if image is None:
            faults.append(f"{path.name}: nobody sent this")
        elif pixels != image.pixels or (same_bytes and dataset != image.dataset):
            faults.append(f"{path.name}: other bytes than were sent")
        else:
            seen.add(uid)
    if missing := len(wanted) - len(seen):
        faults.append(f"{missing} of {len(wanted)} images are not there")
    return faults
