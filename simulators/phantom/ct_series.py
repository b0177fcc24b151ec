"""Write a volume as a classic CT Image Storage series (PS3.3 A.3), one file per slice, Explicit VR Little Endian."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from simulators.phantom.anatomy import Array


def stable_uid(*parts: object) -> str:
    """A UID under 2.25 (PS3.5 B.2) that depends on nothing but `parts`."""
    digest = hashlib.sha256("|".join(str(part) for part in parts).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:15], 'big')}"


@dataclass(frozen=True)
class Patient:
    """A fictional person."""

    patient_id: str = "PH-0001"
    name: str = "PHANTOM^ONE"
    birth_date: str = "19480317"
    sex: str = "F"
    age: str = "078Y"


@dataclass(frozen=True)
class SeriesHeader:
    """What the headers of a series say beside its pixels."""

    patient: Patient
    study_uid: str
    series_uid: str
    frame_of_reference_uid: str
    accession: str
    study_id: str
    study_date: str
    study_time: str
    study_description: str
    series_description: str
    series_number: int
    manufacturer: str
    model_name: str
    station_name: str
    protocol: str
    body_part: str
    kernel: str
    kvp: float
    tube_current_ma: int
    exposure_time_ms: int
    thickness_mm: float
    slope: float = 1.0
    intercept: float = 0.0
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL")
    rescale_type: str = "HU"
    patient_position: str = "HFS"


def write_ct_series(
    stored: NDArray[np.int16] | NDArray[np.uint16],
    lps_from_ijk: Array,
    header: SeriesHeader,
    folder: Path,
) -> list[Path]:
    """Write `stored` (k,j,i) pixel values; returns the files in order of k.

    `lps_from_ijk` (4,4) must place row, column and slice axes at right angles.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = lps_from_ijk[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    axes = columns / spacing
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-6):
        raise ValueError("the axes of the volume are not at right angles")
    common = _common(header, stored, spacing, axes)
    files = []
    for k, plane in enumerate(stored):
        item = Dataset()
        item.update(common)
        position = lps_from_ijk[:3, 3] + columns[:, 2] * k
        item.SOPInstanceUID = stable_uid(header.series_uid, "instance", k)
        item.InstanceNumber = str(k + 1)
        item.ImagePositionPatient = [_decimal(v) for v in position]
        item.SliceLocation = _decimal(float(position @ axes[:, 2]))
        item.PixelData = np.ascontiguousarray(plane).tobytes()
        item.file_meta = _file_meta(item.SOPInstanceUID)
        path = folder / f"IM{k + 1:05d}.dcm"
        item.save_as(path, enforce_file_format=True)
        files.append(path)
    return files


def _decimal(value: float) -> str:
    """A Decimal String of at most 16 characters."""
    text = f"{value:.6f}"
    return text if len(text) <= 16 else f"{value:.8g}"


def _file_meta(instance_uid: str) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta


def _common(
    header: SeriesHeader, stored: NDArray[np.int16] | NDArray[np.uint16], spacing: Array, axes: Array
) -> Dataset:
    """Everything that is the same in each slice."""
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.ImageType = list(header.image_type)
    data.SOPClassUID = CTImageStorage
    for prefix in ("Study", "Series", "Acquisition", "Content"):
        setattr(data, f"{prefix}Date", header.study_date)
        setattr(data, f"{prefix}Time", header.study_time)
    data.AccessionNumber = header.accession
    data.Modality = "CT"
    data.Manufacturer = header.manufacturer
    data.InstitutionName = "SIMULATED HOSPITAL"
    data.ReferringPhysicianName = ""
    data.StationName = header.station_name
    data.StudyDescription = header.study_description
    data.SeriesDescription = header.series_description
    data.ManufacturerModelName = header.model_name
    data.PatientName = header.patient.name
    data.PatientID = header.patient.patient_id
    data.PatientBirthDate = header.patient.birth_date
    data.PatientSex = header.patient.sex
    data.PatientAge = header.patient.age
    data.BodyPartExamined = header.body_part
    data.SoftwareVersions = "phantom 1"
    data.ProtocolName = header.protocol
    data.StudyInstanceUID = header.study_uid
    data.SeriesInstanceUID = header.series_uid
    data.StudyID = header.study_id
    data.SeriesNumber = str(header.series_number)
    data.AcquisitionNumber = "1"
    data.FrameOfReferenceUID = header.frame_of_reference_uid
    data.PositionReferenceIndicator = ""
    _acquisition(data, header)
    data.PatientPosition = header.patient_position
    data.ImageOrientationPatient = [_decimal(float(v)) for v in (*axes[:, 0], *axes[:, 1])]
    _pixels(data, header, stored, spacing)
    return data


def _acquisition(data: Dataset, header: SeriesHeader) -> None:
    data.KVP = f"{header.kvp:g}"
    data.SliceThickness = _decimal(header.thickness_mm)
    data.XRayTubeCurrent = str(header.tube_current_ma)
    data.ExposureTime = str(header.exposure_time_ms)
    data.Exposure = str(round(header.tube_current_ma * header.exposure_time_ms / 1000))
    data.ConvolutionKernel = header.kernel
    data.GantryDetectorTilt = "0"


def _pixels(
    data: Dataset,
    header: SeriesHeader,
    stored: NDArray[np.int16] | NDArray[np.uint16],
    spacing: Array,
) -> None:
    signed = stored.dtype == np.int16
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.Rows, data.Columns = int(stored.shape[1]), int(stored.shape[2])
    data.PixelSpacing = [_decimal(float(spacing[1])), _decimal(float(spacing[0]))]
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = 1 if signed else 0
    data.WindowCenter, data.WindowWidth = "300", "1500"
    data.RescaleIntercept = f"{header.intercept:g}"
    data.RescaleSlope = f"{header.slope:g}"
    if header.rescale_type:
        data.RescaleType = header.rescale_type
