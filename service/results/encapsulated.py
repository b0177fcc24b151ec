"""PDF and STL wrapped as DICOM objects (PS3.3 A.45.1 Encapsulated PDF, A.85.1 Encapsulated STL)."""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from service.domain.plan import Plan
from service.errors import InputRefusedError
from service.results import codes
from service.results.context import Origin, SourceContext, new_result
from service.results.lossy import SHORT

ENCAPSULATED_PDF = UID("1.2.840.10008.5.1.4.1.1.104.1")
ENCAPSULATED_STL = UID("1.2.840.10008.5.1.4.1.1.104.3")


def encapsulate_pdf(
    pdf: bytes, context: SourceContext, origin: Origin, *, title: str, kind: str = "report-pdf"
) -> Dataset:
    """PDF report as a DICOM object of the patient's study.

    Raises
    ------
    InputRefusedError
        When the bytes are not a PDF.
    """
    if not pdf.startswith(b"%PDF-"):
        raise _refuse("PDF")
    dataset = new_result(context, origin, kind, ENCAPSULATED_PDF, "DOC")
    dataset.SeriesNumber = 9002
    dataset.SeriesDescription = title[:64]
    dataset.ConversionType = "WSD"
    dataset.ConceptNameCodeSequence = Sequence([codes.code_item(codes.PDF_TITLE)])
    # No ReferencedSeriesSequence here: the PDF IOD has no Common Instance Reference module.
    _encapsulate(dataset, pdf, context, title, "application/pdf")
    return dataset


def encapsulate_stl(
    stl: bytes, context: SourceContext, origin: Origin, plan: Plan, *, burned_in_identity: bool = False
) -> Dataset:
    """Binary STL (mm, patient LPS of the planning CT) as a DICOM manufacturing model.

    `burned_in_identity` says whether a name or number is engraved on the model.

    Raises
    ------
    InputRefusedError
        When the bytes are not a binary STL, or the plan is not of this frame of reference.
    """
    if len(stl) < 84 or len(stl) != 84 + 50 * int.from_bytes(stl[80:84], "little"):
        raise _refuse("binary STL")
    if plan.frame_of_reference_uid and plan.frame_of_reference_uid != context.frame_of_reference_uid:
        raise InputRefusedError(
            "The model was planned in another frame of reference than the source CT.",
            next_step="Publish the model with the CT series it was planned on.",
            code="results.frame",
        )
    dataset = new_result(context, origin, "model-stl", ENCAPSULATED_STL, "M3D")
    title = f"Hollow vertebra model {plan.level}"
    dataset.SeriesNumber = 9003
    dataset.SeriesDescription = title
    dataset.FrameOfReferenceUID = context.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.ConceptNameCodeSequence = Sequence([codes.code_item(codes.STL_TITLE)])
    _encapsulate(dataset, stl, context, title, "model/stl")
    dataset.BurnedInAnnotation = "YES" if burned_in_identity else "NO"
    dataset.MeasurementUnitsCodeSequence = Sequence([codes.code_item(codes.MM)])
    dataset.ModelModification = "YES"  # shell, channels and vents are not anatomy
    dataset.ModelMirroring = "NO"
    dataset.ModelUsageCodeSequence = Sequence([codes.code_item(codes.PLANNING_INTENT)])
    # an STL has no attribute for it (no General Image module), a description of at most 64 characters
    dataset.ContentDescription = f"{title}; CT compressed with loss" if context.lossy else title
    dataset.ReferencedSeriesSequence = _referenced_series(context)
    return dataset


def _encapsulate(dataset: Dataset, content: bytes, context: SourceContext, title: str, mime: str) -> None:
    dataset.AcquisitionDateTime = ""
    dataset.BurnedInAnnotation = "YES"
    dataset.DocumentTitle = f"{title} ({SHORT})" if context.lossy else title
    dataset.MIMETypeOfEncapsulatedDocument = mime
    dataset.SourceInstanceSequence = Sequence(
        [_reference(r.sop_class_uid, r.sop_instance_uid) for r in context.instances]
    )
    # An odd length is padded with one byte; the true length says which (PS3.3 C.24.2).
    dataset.EncapsulatedDocumentLength = len(content)
    dataset.EncapsulatedDocument = content + b"\0" * (len(content) % 2)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def _referenced_series(context: SourceContext) -> Sequence:
    by_series: dict[str, list[Dataset]] = {}
    for r in context.instances:
        by_series.setdefault(r.series_instance_uid, []).append(
            _reference(r.sop_class_uid, r.sop_instance_uid)
        )
    items = []
    for series_uid, references in by_series.items():
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        item.ReferencedInstanceSequence = Sequence(references)
        items.append(item)
    return Sequence(items)


def _refuse(what: str) -> InputRefusedError:
    return InputRefusedError(
        f"The document to publish is not a {what}.",
        next_step="Make the document again; its file may be damaged.",
        code="results.document",
    )
