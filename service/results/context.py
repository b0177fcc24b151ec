"""Whose result this is and where it came from: what every DICOM object that we write has in common."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import PersonName

from service import __version__
from service.errors import ImagingError
from service.results.lossy import LossyHistory
from service.results.uids import stable_uid

MANUFACTURER = "spineprint"
MODEL_NAME = "spineprint"

#: Copied into every result, so that it files under the same patient and study. Type 2 attributes
#: (PS3.3 C.7.1.1, C.7.2.1) are written empty when the source has none.
PATIENT_TYPE_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
PATIENT_OPTIONAL = ("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight")
STUDY_TYPE_2 = ("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber")
STUDY_OPTIONAL = ("StudyDescription",)


@dataclass(frozen=True)
class InstanceReference:
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclass(frozen=True)
class SourceContext:
    """Patient and study of the source series, and the instances that the result refers to.

    `attributes` holds the DICOM attributes of PATIENT_* and STUDY_* by keyword; it carries patient data and must
    not be logged.
    """

    attributes: dict[str, object]
    study_instance_uid: str
    frame_of_reference_uid: str
    instances: tuple[InstanceReference, ...]
    lossy: LossyHistory | None = None
    """Set when an image among them was compressed with loss at any time."""

    @property
    def patient_name(self) -> str:
        return str(self.attributes.get("PatientName") or "")

    @property
    def patient_id(self) -> str:
        return str(self.attributes.get("PatientID") or "")

    @classmethod
    def from_headers(cls, headers: Sequence[Dataset]) -> SourceContext:
        """From the headers of one series (read without pixels).

        Raises
        ------
        ImagingError
            When there is no header, or they are of several patients, studies or frames of reference.
        """
        if not headers:
            raise ImagingError(
                "There are no source images to refer to.",
                next_step="Check that the source series of the case is stored.",
                code="results.no_source",
            )
        first = headers[0]
        for keyword in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
            if len({str(h.get(keyword, "")) for h in headers}) != 1:
                raise ImagingError(
                    f"The source images differ in {keyword}.",
                    next_step="Give the headers of one series only.",
                    code="results.mixed_source",
                )
        wanted = (*PATIENT_TYPE_2, *PATIENT_OPTIONAL, *STUDY_TYPE_2, *STUDY_OPTIONAL)
        attributes: dict[str, object] = {k: _plain(first.get(k)) for k in wanted if first.get(k) is not None}
        references = tuple(
            InstanceReference(str(h.SOPClassUID), str(h.SOPInstanceUID), str(h.SeriesInstanceUID))
            for h in headers
        )
        return cls(
            attributes,
            str(first.StudyInstanceUID),
            str(first.get("FrameOfReferenceUID", "")),
            references,
            LossyHistory.of(headers),
        )

    def write_to(self, dataset: Dataset) -> None:
        """Set the patient and study attributes; type 2 ones also when empty."""
        for keyword in (*PATIENT_TYPE_2, *STUDY_TYPE_2):
            setattr(dataset, keyword, copy.deepcopy(self.attributes.get(keyword, "")))
        for keyword in (*PATIENT_OPTIONAL, *STUDY_OPTIONAL):
            if self.attributes.get(keyword):
                setattr(dataset, keyword, copy.deepcopy(self.attributes[keyword]))
        dataset.StudyInstanceUID = self.study_instance_uid

    def evidence(self) -> list[Dataset]:
        """The referenced instances as small headers, the form in which highdicom takes evidence."""
        found = []
        for reference in self.instances:
            header = Dataset()
            self.write_to(header)
            header.SOPClassUID = reference.sop_class_uid
            header.SOPInstanceUID = reference.sop_instance_uid
            header.SeriesInstanceUID = reference.series_instance_uid
            found.append(header)
        return found


@dataclass(frozen=True)
class Origin:
    """Identity of the result: same origin and same input give the same bytes.

    `case_id` and `revision` seed the UIDs; `created_at` (UTC-aware) is written as creation and content time.
    """

    case_id: str
    revision: str
    created_at: datetime

    def uid(self, kind: str, part: str = "instance") -> str:
        return stable_uid(self.case_id, self.revision, kind, part)

    @property
    def date(self) -> str:
        return self.created_at.astimezone(UTC).strftime("%Y%m%d")

    @property
    def time(self) -> str:
        return self.created_at.astimezone(UTC).strftime("%H%M%S")


def body_part(level: str) -> str:
    """BodyPartExamined defined term (PS3.16 Annex L) of a vertebral level such as 'L1'."""
    return {"C": "CSPINE", "T": "TSPINE", "L": "LSPINE"}.get(level[:1], "SPINE")


def new_result(
    context: SourceContext, origin: Origin, kind: str, sop_class_uid: str, modality: str
) -> Dataset:
    """Empty result with patient, study, series, equipment and SOP common modules filled."""
    dataset = Dataset()
    context.write_to(dataset)
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = origin.uid(kind)
    dataset.SeriesInstanceUID = origin.uid(kind, "series")
    dataset.Modality = modality
    dataset.InstanceNumber = 1
    return finish(dataset, origin)


def finish(dataset: Dataset, origin: Origin) -> Dataset:
    """Set equipment, character set, times and file meta, the same way for every kind of result."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MODEL_NAME
    dataset.SoftwareVersions = __version__
    dataset.DeviceSerialNumber = dataset.get("DeviceSerialNumber") or "1"
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = origin.date, origin.time
    dataset.ContentDate, dataset.ContentTime = origin.date, origin.time
    dataset.SeriesDate, dataset.SeriesTime = origin.date, origin.time
    dataset.TimezoneOffsetFromUTC = "+0000"
    for equipment in dataset.get("ContributingEquipmentSequence") or []:
        if "highdicom" in str(equipment.get("ManufacturerModelName", "")).lower():
            # highdicom stamps its own line with the wall clock; a retry must not differ by it
            equipment.ContributionDateTime = origin.date + origin.time
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset


def _plain(value: object) -> object:
    # A PersonName keeps the bytes and encodings of its file; as text it is written in our character set.
    return str(value) if isinstance(value, PersonName) else copy.deepcopy(value)
