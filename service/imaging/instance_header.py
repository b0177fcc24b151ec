"""The few facts of one stored instance that intake sorts by, read without its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from service.domain.series import SeriesInfo
from service.errors import ImagingError
from service.imaging.dataset import READ_FAILURES, read_file
from service.imaging.headers import series_info

_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "PatientID", "PatientName",
    "PatientBirthDate", "AccessionNumber", "StudyDate",
)  # fmt: skip


@dataclass(frozen=True)
class InstanceIdentity:
    """Whose it is and where it belongs. Missing text is ''; UIDs are always present."""

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    modality: str
    patient_id: str
    patient_name: str
    patient_birth_date: str
    accession_number: str
    study_date: str


@dataclass(frozen=True)
class InstanceHeader(InstanceIdentity):
    info: SeriesInfo
    """Of this one instance's series, for telling an O-arm scan from a planning CT."""


def read_header(path: Path) -> InstanceHeader:
    """Read the header of a Part-10 file.

    Raises
    ------
    ImagingError : not DICOM, cut off inside the header, without the UIDs that identify it, or asking for more memory
        or time than the header of an image can need.
    """
    try:
        dataset = read_file(path, pixels=False)
        info = series_info(dataset, (), 1)
        return InstanceHeader(**vars(_identity(dataset)), info=info)
    except READ_FAILURES as exc:
        raise _unreadable(exc) from exc


def read_identity(path: Path) -> InstanceIdentity:
    """The part of `read_header` that every instance of a known study is sorted by. Raises the same."""
    try:
        return _identity(read_file(path, pixels=False))
    except READ_FAILURES as exc:
        raise _unreadable(exc) from exc


def _unreadable(cause: Exception) -> ImagingError:
    return ImagingError(
        f"An image file cannot be understood ({type(cause).__name__}).",
        next_step="Send the study again; if it repeats, ask the sending system's support.",
        code="imaging.unreadable",
    )


def _identity(dataset: Dataset) -> InstanceIdentity:
    values = {tag: str(dataset.get(tag) or "").strip() for tag in _TAGS}
    missing = [t for t in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID") if not values[t]]
    if missing:
        raise ImagingError(
            f"An image lacks {', '.join(missing)}.",
            next_step="The sending system must supply these; send the study again from the PACS.",
            code="imaging.no_identity",
        )
    # What does not fit the standard's lengths (PS3.5 6.2) would break the tables; it is kept, but set aside.
    if any(len(values[t]) > 64 for t in _TAGS if t.endswith("UID")) or len(values["Modality"]) > 16:
        raise ImagingError(
            "An image has identifiers longer than DICOM allows.",
            next_step="The sending system must correct these; send the study again from the PACS.",
            code="imaging.bad_identity",
        )
    return InstanceIdentity(
        sop_class_uid=values["SOPClassUID"],
        sop_instance_uid=values["SOPInstanceUID"],
        study_uid=values["StudyInstanceUID"],
        series_uid=values["SeriesInstanceUID"],
        modality=values["Modality"],
        patient_id=values["PatientID"][:64],
        patient_name=values["PatientName"][:324],
        patient_birth_date=values["PatientBirthDate"][:8],
        accession_number=values["AccessionNumber"][:16],
        study_date=values["StudyDate"][:8],
    )
