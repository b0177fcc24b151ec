"""What is known about an image series: plain values, no pixels. `None` always means unknown, never wrong.

DICOM attributes as in PS3.3 C.7 and C.8; the modules that read files fill these in, the adapters that judge
a device read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

LOSSY_SYNTAXES = frozenset(
    f"1.2.840.10008.1.2.4.{n}" for n in ("50", "51", "81", "91", "93", "110", "111", "112", "203")
)
"""Transfer syntaxes that may have changed pixel values (PS3.5 section 10; 91 and 203 may also be lossless)."""
LOSSY_METHODS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}
"""Defined terms of Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1)."""
LOSSY_CT = "The planning CT was compressed with loss; edges may be displaced."
LOSSY_SCAN = "The scan was compressed with loss; the edges of needle and bone may be displaced."


@dataclass(frozen=True, repr=False)
class PatientIdentity:
    """Who a series belongs to. Kept apart from everything else; its text form shows nothing."""

    patient_id: str | None = None
    issuer: str | None = None
    name: str | None = None
    birth_date: date | None = None
    sex: str | None = None

    def __repr__(self) -> str:
        return "PatientIdentity(hidden)"

    @property
    def is_empty(self) -> bool:
        return self.patient_id is None and self.name is None

    def contradicts(self, other: PatientIdentity) -> tuple[str, ...]:
        """Attributes known on both sides that differ ("patient ID", "name", "birth date", "issuer").

        Names are compared without case, padding and the differences between `^` and blanks, because systems
        write them differently; an attribute missing on one side contradicts nothing.
        """
        pairs: list[tuple[str, object, object]] = [
            ("patient ID", _plain(self.patient_id), _plain(other.patient_id)),
            ("issuer", _plain(self.issuer), _plain(other.issuer)),
            ("name", _plain(self.name), _plain(other.name)),
            ("birth date", self.birth_date, other.birth_date),
        ]
        return tuple(what for what, mine, theirs in pairs if mine and theirs and mine != theirs)


def _plain(text: str | None) -> str | None:
    if text is None:
        return None
    words = text.replace("^", " ").replace("=", " ").split()
    return " ".join(words).casefold() or None


@dataclass(frozen=True)
class SeriesInfo:
    """One image series without its patient. Lengths in mm, current in mA, tension in kV."""

    series_uid: str
    study_uid: str | None = None
    frame_of_reference_uid: str | None = None
    sop_class_uid: str | None = None
    transfer_syntax_uids: tuple[str, ...] = ()
    accession_number: str | None = None
    study_date: date | None = None
    acquired_at: datetime | None = None
    """Acquisition (else content, else series) date and time as written by the device; no time zone."""
    series_number: int | None = None
    modality: str | None = None
    description: str | None = None
    protocol: str | None = None
    body_part: str | None = None
    image_type: tuple[str, ...] = ()
    manufacturer: str | None = None
    model: str | None = None
    kernel: tuple[str, ...] = ()
    kvp: float | None = None
    tube_current_ma: float | None = None
    exposure_time_ms: float | None = None
    """Exposure time of one image (0018,1150)."""
    acquisition_duration_s: float | None = None
    """Duration of the whole acquisition (0018,9073), written by few devices."""
    patient_position: str | None = None
    slice_thickness_mm: float | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    """(between rows, between columns), DICOM order."""
    rows: int | None = None
    columns: int | None = None
    images: int = 0
    """Slices; frames for multi-frame objects."""
    normal: tuple[float, float, float] | None = None
    """Unit normal of the slices, LPS; of the first image when they differ."""
    field_of_view_mm: float | None = None
    gantry_tilt_deg: float | None = None
    """As the header says; the geometry gate measures it from the positions."""
    rescale_type: str | None = None
    """None or "HU": Hounsfield units by the rules of CT Image Storage. Anything else: grey values."""
    contrast: bool | None = None
    lossy: bool | None = None
    """True: marked lossy in the header or in a lossy transfer syntax; False: the header says not; None: unknown."""
