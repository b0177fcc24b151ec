"""Coded concepts used in results. Standard ones are checked against pydicom's dictionary in the tests.

Private ones (scheme 99SPINEPRINT) exist only where the standard has no concept: planned-against-actual methods,
verdicts and cement fill variants. Each object that uses them names the scheme in CodingSchemeIdentificationSequence.
"""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code

from service.errors import InputRefusedError

PRIVATE_SCHEME = "99SPINEPRINT"
PRIVATE_SCHEME_NAME = "spineprint needle verification"
PRIVATE_SCHEME_ORGANISATION = "spineprint project"

REPORT_TITLE = Code("126000", "DCM", "Imaging Measurement Report")
PDF_TITLE = Code("18748-4", "LN", "Diagnostic Imaging Report")
STL_TITLE = Code("85040-4", "LN", "CT 3D CAM model")
PLANNING_INTENT = Code("129013", "DCM", "Planning Intent")
SIMULATION_INTENT = Code("129017", "DCM", "Simulation Intent")

NEEDLE = Code("79068005", "SCT", "Needle, device (physical object)")
PHYSICAL_OBJECT = Code("260787004", "SCT", "Physical object")
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")
VERTEBRA = Code("51282000", "SCT", "Vertebra")
PEDICLE = Code("78972004", "SCT", "Structure of pedicle of vertebra (body structure)")
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")
COMMENT = Code("121106", "DCM", "Comment")
CONCLUSION = Code("121077", "DCM", "Conclusion")

DISTANCE = Code("121206", "DCM", "Distance")
ANGLE = Code("110859", "DCM", "Angle")
DEPTH = Code("131197000", "SCT", "Depth")
HEIGHT = Code("121207", "DCM", "Height")
VOLUME = Code("118565006", "SCT", "Volume (property) (qualifier value)")

MM = Code("mm", "UCUM", "mm")
DEGREE = Code("deg", "UCUM", "Degree")
PERCENT = Code("%", "UCUM", "Percent")
CM3 = Code("cm3", "UCUM", "cubic centimeter")

VERTEBRAE = {
    "T8": Code("11068009", "SCT", "T8 vertebra"),
    "T9": Code("82687006", "SCT", "T9 vertebra"),
    "T10": Code("7610001", "SCT", "T10 vertebra"),
    "T11": Code("12989004", "SCT", "T11 vertebra"),
    "T12": Code("23215003", "SCT", "T12 vertebra"),
    "L1": Code("66794005", "SCT", "L1 vertebra"),
    "L2": Code("14293000", "SCT", "L2 vertebra"),
    "L3": Code("36470004", "SCT", "L3 vertebra"),
    "L4": Code("11994002", "SCT", "L4 vertebra"),
    "L5": Code("49668003", "SCT", "L5 vertebra"),
}


def private(value: str, meaning: str) -> Code:
    """A code of our own scheme; value at most 16 characters (VR SH), meaning at most 64 (LO)."""
    return Code(value, PRIVATE_SCHEME, meaning)


PROCEDURE = private("PVP-CHECK", "Needle check in percutaneous vertebroplasty")
ALGORITHM_FAMILY = private("ISOLATION", "Vertebra isolation from planning CT")
VERDICT = private("VERDICT", "Needle placement verdict")
VERDICTS = {
    "accurate": private("V-ACCURATE", "Within tolerance, surgeon decides"),
    "reposition": private("V-REPOSITION", "Recommend reposition of the needle"),
    "review": private("V-REVIEW", "Review by a clinician needed"),
    "not_measurable": private("V-NOTMEASURABLE", "Not measurable"),
}
BREACH_GRADE = private("BREACH", "Pedicle breach grade (Gertzbein-Robbins)")
BREACH_GRADES = {
    "A": private("BREACH-A", "A: no breach"),
    "B": private("BREACH-B", "B: less than 2 mm"),
    "C": private("BREACH-C", "C: 2 mm to less than 4 mm"),
    "D": private("BREACH-D", "D: 4 mm to less than 6 mm"),
    "E": private("BREACH-E", "E: 6 mm or more"),
}

#: report.json key of a needle -> (concept, unit, method that tells what was measured).
NEEDLE_MEASUREMENTS = {
    "tip_to_target_mm": (DISTANCE, MM, private("M-TIPTARGET", "Actual tip to planned tip")),
    "tip_to_body_centre_mm": (DISTANCE, MM, private("M-TIPCENTRE", "Actual tip to vertebral body centre")),
    "lateral_mm": (DISTANCE, MM, private("M-LATERAL", "Tip deviation across the planned path")),
    "depth_mm": (DEPTH, MM, private("M-DEPTH", "Tip deviation along the planned path, + too deep")),
    "entry_deviation_mm": (DISTANCE, MM, private("M-ENTRY", "Actual entry to planned entry")),
    "sagittal_deg": (ANGLE, DEGREE, private("M-SAG", "Actual sagittal angle, + caudal")),
    "transverse_deg": (ANGLE, DEGREE, private("M-TRANS", "Actual transverse angle, + medial")),
    "sagittal_deviation_deg": (ANGLE, DEGREE, private("M-SAGDEV", "Sagittal angle, actual minus planned")),
    "transverse_deviation_deg": (
        ANGLE,
        DEGREE,
        private("M-TRANSDEV", "Transverse angle, actual minus planned"),
    ),
    "angle_deg": (ANGLE, DEGREE, private("M-AXIS", "Angle between actual and planned axis")),
}
BREACH_DISTANCE = private("M-BREACH", "Needle outside the pedicle cortex")
REGISTRATION_MEASUREMENTS = {
    "surface_rms_mm": (DISTANCE, MM, private("M-REGRMS", "Registration: surface residual, RMS")),
    "agreement_mm": (DISTANCE, MM, private("M-REGAGREE", "Registration: agreement of two starts")),
    "expected_tre_mm": (DISTANCE, MM, private("M-REGTRE", "Registration: expected target error (TRE)")),
}
HEIGHT_MEASUREMENTS = {
    "anterior": private("M-HEIGHTANT", "Anterior vertebral body height"),
    "middle": private("M-HEIGHTMID", "Middle vertebral body height"),
    "posterior": private("M-HEIGHTPOST", "Posterior vertebral body height"),
}
#: The same in the scan after the cement, and what share of the lost height came back.
HEIGHT_AFTER_MEASUREMENTS = {
    "anterior": private("M-HEIGHTANT2", "Anterior body height after cement"),
    "middle": private("M-HEIGHTMID2", "Middle body height after cement"),
    "posterior": private("M-HEIGHTPOST2", "Posterior body height after cement"),
}
RECOVERED = private("RECOVERED", "Regained share of lost height")
RECOVERY_MEASUREMENTS = {
    "anterior": private("M-RECOVERANT", "Anterior height regained"),
    "middle": private("M-RECOVERMID", "Middle height regained"),
    "posterior": private("M-RECOVERPOST", "Posterior height regained"),
}
COBB_MEASUREMENTS = {
    "before": private("M-COBB1", "Cobb angle in the planning CT, + kyphosis"),
    "after": private("M-COBB2", "Cobb angle after cement, + kyphosis"),
}
CEMENT_VOLUME = private("M-CEMENT", "Cement volume from scan, needle removed")
FILL_MEASUREMENTS = {
    "volume_body": private("M-FILLBODY", "Cement fill: volume by body volume"),
    "volume_fillable": private("M-FILLFILLABLE", "Cement fill: volume by fillable interior"),
    "lateral_area": private("M-FILLLATERAL", "Cement fill: area in lateral projection"),
    "hull_body": private("M-FILLHULL", "Cement fill: hull by body volume"),
}
FILLED = private("FILLED", "Filled percentage")


def vertebra(level: str) -> Code:
    """SNOMED CT code of a level. Raises InputRefusedError for a level without one."""
    if level not in VERTEBRAE:
        raise InputRefusedError(
            f"There is no anatomical code for the level {level!r}.",
            next_step=f"Use one of {', '.join(VERTEBRAE)}.",
            code="results.level",
        )
    return VERTEBRAE[level]


def code_item(code: Code) -> Dataset:
    """One item of a code sequence."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def declare_private_scheme(dataset: Dataset) -> None:
    """Name our private scheme (PS3.3 C.12.1.1.1.3); without it a foreign reader cannot tell whose codes these are."""
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_SCHEME
    item.CodingSchemeName = PRIVATE_SCHEME_NAME
    item.CodingSchemeResponsibleOrganization = PRIVATE_SCHEME_ORGANISATION
    dataset.CodingSchemeIdentificationSequence = Sequence([item])
